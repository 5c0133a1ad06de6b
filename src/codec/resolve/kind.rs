//! What a schema is on the wire, and a field's default in its encoding.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::schema::{
    DecimalSchema, EnumSchema, InnerDecimalSchema, RecordSchema, ResolvedSchema, UuidSchema,
};
use serde_json::Value;

use crate::codec::binary::{put_array, put_double, put_float, put_long, put_str, put_unsigned};

/// What a schema is on the wire.
pub(super) enum Kind<'s> {
    Null,
    Boolean,
    Int,
    Long,
    /// A long whose unit is not ours.
    FinerTime,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    Enum(&'s EnumSchema),
    Array(&'s Schema),
    Map(&'s Schema),
    Union(&'s [Schema]),
    Record(&'s RecordSchema),
}

impl Kind<'_> {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "boolean",
            Kind::Int => "int",
            Kind::Long => "long",
            Kind::FinerTime => "time in micro- or nanoseconds",
            Kind::Float => "float",
            Kind::Double => "double",
            Kind::Bytes => "bytes",
            Kind::String => "string",
            Kind::Fixed(_) => "fixed",
            Kind::Enum(_) => "enum",
            Kind::Array(_) => "array",
            Kind::Map(_) => "map",
            Kind::Union(_) => "union",
            Kind::Record(_) => "record",
        }
    }

    /// The fewest bytes that a value takes are none: a count of such items could be any number.
    pub(super) fn may_be_empty(&self) -> bool {
        match self {
            Kind::Null | Kind::Fixed(0) => true,
            // A record of records of nothing: not worth the search.
            Kind::Record(record) => record.fields.iter().all(|field| {
                matches!(&field.schema, Schema::Null | Schema::Record(_) | Schema::Ref { .. })
                    || matches!(&field.schema, Schema::Fixed(fixed) if fixed.size == 0)
            }),
            Kind::Boolean
            | Kind::Int
            | Kind::Long
            | Kind::FinerTime
            | Kind::Float
            | Kind::Double
            | Kind::Bytes
            | Kind::String
            | Kind::Fixed(_)
            | Kind::Enum(_)
            | Kind::Array(_)
            | Kind::Map(_)
            | Kind::Union(_) => false,
        }
    }
}

pub(super) fn kind<'s>(schema: &'s Schema, names: &ResolvedSchema<'s>) -> Result<Kind<'s>, String> {
    Ok(match schema {
        Schema::Null => Kind::Null,
        Schema::Boolean => Kind::Boolean,
        Schema::Int | Schema::Date | Schema::TimeMillis => Kind::Int,
        Schema::Long | Schema::TimestampMillis | Schema::LocalTimestampMillis => Kind::Long,
        Schema::TimeMicros
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Kind::FinerTime,
        Schema::Float => Kind::Float,
        Schema::Double => Kind::Double,
        Schema::Bytes
        | Schema::BigDecimal
        | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Bytes, .. })
        | Schema::Uuid(UuidSchema::Bytes) => Kind::Bytes,
        Schema::String | Schema::Uuid(UuidSchema::String) => Kind::String,
        Schema::Fixed(fixed)
        | Schema::Decimal(DecimalSchema { inner: InnerDecimalSchema::Fixed(fixed), .. })
        | Schema::Uuid(UuidSchema::Fixed(fixed))
        | Schema::Duration(fixed) => Kind::Fixed(fixed.size),
        Schema::Enum(schema) => Kind::Enum(schema),
        Schema::Array(array) => Kind::Array(&array.items),
        Schema::Map(map) => Kind::Map(&map.types),
        Schema::Union(union) => Kind::Union(union.variants()),
        Schema::Record(record) => Kind::Record(record),
        Schema::Ref { name } => match names.get_names().get(name) {
            Some(Schema::Ref { .. }) | None => return Err(format!("`{name}` is not defined")),
            Some(schema) => return kind(schema, names),
        },
    })
}

/// A field's default in the encoding of its schema.
pub(super) fn put_default(
    out: &mut Vec<u8>,
    default: &Value,
    schema: &Schema,
    names: &ResolvedSchema<'_>,
) -> Result<(), String> {
    let wrong = || format!("default {default} does not fit the schema");
    match kind(schema, names)? {
        Kind::Null => {}
        Kind::Boolean => out.push(default.as_bool().ok_or_else(wrong)?.into()),
        Kind::Int | Kind::Long | Kind::FinerTime => {
            put_long(out, default.as_i64().ok_or_else(wrong)?);
        }
        Kind::Float => put_float(out, default.as_f64().ok_or_else(wrong)? as f32),
        Kind::Double => put_double(out, default.as_f64().ok_or_else(wrong)?),
        Kind::Bytes | Kind::String => put_str(out, default.as_str().ok_or_else(wrong)?),
        Kind::Fixed(_) => return Err(wrong()),
        Kind::Enum(schema) => {
            let symbol = default.as_str().ok_or_else(wrong)?;
            let index = schema.symbols.iter().position(|own| own == symbol).ok_or_else(wrong)?;
            put_unsigned(out, index as u64);
        }
        Kind::Array(items) => {
            let mut result = Ok(());
            put_array(out, default.as_array().ok_or_else(wrong)?.iter(), |out, item| {
                if result.is_ok() {
                    result = put_default(out, item, items, names);
                }
            });
            result?;
        }
        Kind::Map(values) => {
            let mut result = Ok(());
            let entries = default.as_object().ok_or_else(wrong)?;
            put_array(out, entries.iter(), |out, (key, value)| {
                put_str(out, key);
                if result.is_ok() {
                    result = put_default(out, value, values, names);
                }
            });
            result?;
        }
        Kind::Union(branches) => {
            // A union's default is one of its first branch.
            out.push(0);
            put_default(out, default, branches.first().ok_or_else(wrong)?, names)?;
        }
        Kind::Record(record) => {
            let given: BTreeMap<&str, &Value> = default
                .as_object()
                .ok_or_else(wrong)?
                .iter()
                .map(|(name, value)| (name.as_str(), value))
                .collect();
            for field in &record.fields {
                let value = given.get(field.name.as_str()).copied().or(field.default.as_ref());
                put_default(out, value.ok_or_else(wrong)?, &field.schema, names)?;
            }
        }
    }
    Ok(())
}
