//! The schemas themselves: fingerprints, enums, documentation, defaults.

use apache_avro::Schema;
use serde::Serialize;
use serde_json::Value;

use crate::codec::schema::{self, TopicSchema};
use crate::codec::writers::fingerprint;
use crate::codec::{inputs, outputs};
use crate::model::Topic;
use crate::model::reason::RefusalReason;
use crate::model::rights::Counted;
use crate::model::system_health::{Strategy, SystemStatus};
use crate::model::task::Priority;

fn all() -> Vec<&'static TopicSchema> {
    let topics = Topic::ALL.into_iter().filter_map(schema::of);
    topics.chain([&schema::SNAPSHOT_MANIFEST, &schema::SNAPSHOT_CHUNK]).collect()
}

/// A schema cannot change unnoticed: its fingerprint is in every record that was ever written.
#[test]
fn fingerprints_are_those_of_the_schemas() {
    let found: Vec<String> = all()
        .into_iter()
        .map(|schema| (schema, fingerprint(&Schema::parse_str(schema.text).unwrap())))
        .filter(|(schema, fingerprint)| schema.fingerprint != *fingerprint)
        .map(|(schema, fingerprint)| format!("{}: {fingerprint:#018x}", schema.name))
        .collect();
    assert_eq!(found, Vec::<String>::new(), "schemas whose fingerprint is another one now");
}

/// The specification's own example of a fingerprint.
#[test]
fn fingerprints_are_little_endian() {
    assert_eq!(fingerprint(&Schema::Null), 7_195_948_357_588_979_594);
}

/// Every definition of a named type in the schemas.
fn definitions(value: &Value, found: &mut Vec<Value>) {
    if value.get("name").is_some() && value["type"].is_string() && value.get("doc").is_some() {
        let kind = value["type"].as_str().unwrap_or_default();
        if kind == "record" || kind == "enum" {
            found.push(value.clone());
        }
    }
    let inner: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => fields.values().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    inner.into_iter().for_each(|inner| definitions(inner, found));
}

fn all_definitions() -> Vec<Value> {
    let mut found = Vec::new();
    for schema in all() {
        definitions(&serde_json::from_str(schema.text).unwrap(), &mut found);
    }
    found
}

/// A type that stands in two schemas is the same in both.
#[test]
fn a_name_means_one_type() {
    let definitions = all_definitions();
    for definition in &definitions {
        let mut first =
            definitions.iter().find(|other| other["name"] == definition["name"]).unwrap().clone();
        let mut definition = definition.clone();
        for definition in [&mut first, &mut definition] {
            definition.as_object_mut().unwrap().remove("namespace");
        }
        assert_eq!(definition, first);
    }
}

#[test]
fn every_field_is_documented_and_every_nullable_one_defaults_to_null() {
    for definition in all_definitions() {
        for field in definition["fields"].as_array().into_iter().flatten() {
            let name = format!("{}.{}", definition["name"], field["name"]);
            assert!(field["doc"].as_str().is_some_and(|doc| !doc.is_empty()), "{name}");
            if field["type"].is_array() {
                assert_eq!(field.get("default"), Some(&Value::Null), "{name}");
            }
        }
    }
}

/// Symbols are written by their index: the order of the values here is that of the schema, and the
/// values' discriminants are their indices.
#[test]
fn enums_are_those_of_the_model() {
    fn check<T: Serialize + Copy>(name: &str, values: &[T], index: impl Fn(T) -> i64) {
        let definitions = all_definitions();
        let definition = definitions
            .iter()
            .find(|definition| definition["type"] == "enum" && definition["name"] == name)
            .unwrap();
        assert_eq!(definition["symbols"], serde_json::to_value(values).unwrap(), "{name}");
        let indices: Vec<i64> = values.iter().map(|value| index(*value)).collect();
        assert_eq!(indices, (0_i64..).take(values.len()).collect::<Vec<_>>(), "{name}");
    }
    check("Priority", &Priority::ALL, |value| value as i64);
    check("RefusalReason", &RefusalReason::ALL, |value| value as i64);
    check("ResultStatus", &inputs::RESULT_STATUSES, |value| value as i64);
    check("HealthScope", &inputs::HEALTH_SCOPES, |value| value as i64);
    check("HealthStatus", &inputs::HEALTH_STATUSES, |value| value as i64);
    check("Dimension", &inputs::DIMENSIONS, |value| value as i64);
    check("Counted", &Counted::ALL, |value| value as i64);
    check("Outcome", &outputs::OUTCOMES, |value| value as i64);
    check("AllocationKind", &outputs::ALLOCATION_KINDS, |value| value as i64);
    check("SystemStatus", &SystemStatus::ALL, |value| value as i64);
    check("Strategy", &Strategy::ALL, |value| value as i64);
    check("BalanceKind", &outputs::BALANCE_KINDS, |value| value as i64);
    let objectives = all_definitions();
    let objective = objectives.iter().find(|definition| definition["name"] == "Objective").unwrap();
    assert_eq!(
        objective["symbols"],
        serde_json::to_value(inputs::OBJECTIVES).unwrap(),
        "Objective has weights besides, so it has no discriminants"
    );
}
