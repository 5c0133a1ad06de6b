//! Records of writers that have another schema: older, newer, or their own.

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;

use super::round_trip::codec;
use super::samples::{record, task_example};
use crate::codec::writers::fingerprint;
use crate::codec::{
    Codec, DecodeError, LearnError, OutputFormat, RawRecord, RegisteredSchemas, WriterId, schema,
};
use crate::model::Topic;
use crate::model::result::{ResultStatus, TaskResult};
use crate::model::task::{Objective, Priority, Requirements, Task, Weights};

const ID: u32 = 900;

fn confluent(schema: &str, value: Value) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let mut bytes = vec![0];
    bytes.extend(ID.to_be_bytes());
    bytes.extend(writer.write_value_to_vec(value).unwrap());
    bytes
}

fn fields(fields: &[(&str, Value)]) -> Value {
    Value::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn some(value: Value) -> Value {
    Value::Union(1, Box::new(value))
}

fn plain(task_id: &str, input_tokens: u32) -> Task {
    Task {
        task_id: task_id.to_owned(),
        tenant: "default".to_owned(),
        class: "default".to_owned(),
        priority: Priority::Interactive,
        created_at_ms: None,
        deadline_ms: None,
        input_tokens,
        max_output_tokens: 1_024,
        objective: Objective::Balanced,
        requirements: Requirements::default(),
        session: None,
        features: Vec::new(),
        stages: Vec::new(),
        payload: None,
    }
}

fn check(schema: &str, value: Value, expected: &Task) {
    let codec = codec(OutputFormat::Avro);
    codec.learn_schema(ID, schema).unwrap();
    let bytes = confluent(schema, value);
    let read = codec.decode_task(&record(Topic::Tasks, None, Some(&bytes)));
    assert_eq!(read.as_ref(), Ok(expected));
    // The same datum in single-object encoding.
    let fingerprint = fingerprint(&Schema::parse_str(schema).unwrap());
    let single = [&[0xc3, 1][..], &fingerprint.to_le_bytes(), &bytes[5..]].concat();
    let read = codec.decode_task(&record(Topic::Tasks, None, Some(&single)));
    assert_eq!(read.as_ref(), Ok(expected));
}

#[test]
fn a_writer_of_few_fields_gets_the_defaults() {
    check(
        r#"{"type": "record", "name": "Task", "namespace": "com.example", "fields": [
            {"name": "task_id", "type": "string"}, {"name": "input_tokens", "type": "int"}]}"#,
        fields(&[("task_id", text("t-1")), ("input_tokens", Value::Int(374))]),
        &plain("t-1", 374),
    );
}

/// The defaults of the schema are those of JSON: a field that is left out means the same.
#[test]
fn defaults_are_those_of_json() {
    let codec = codec(OutputFormat::Avro);
    let json = br#"{"task_id": "t-1", "input_tokens": 374}"#;
    let read = codec.decode_task(&record(Topic::Tasks, None, Some(json)));
    assert_eq!(read, Ok(plain("t-1", 374)));
}

/// Everything that resolution does at once: other order, unknown fields, `int` for `long`, `float`
/// and `long` for `double`, no null where we allow one, bytes for string, fewer and more symbols.
#[test]
fn a_writer_with_its_own_schema_is_understood() {
    check(
        r#"{"type": "record", "name": "Task", "fields": [
            {"name": "payload", "type": "string"},
            {"name": "trace", "type": {"type": "array", "items":
                {"type": "record", "name": "Span", "fields": [
                    {"name": "id", "type": {"type": "fixed", "name": "SpanId", "size": 2}},
                    {"name": "tags", "type": {"type": "map", "values": ["null", "string"]}}]}}},
            {"name": "objective_weights", "type": {"type": "record", "name": "W", "fields": [
                {"name": "second", "type": "float"},
                {"name": "usd", "type": "long"},
                {"name": "quality", "type": "int"}]}},
            {"name": "input_tokens", "type": "int"},
            {"name": "priority", "type": {"type": "enum", "name": "P",
                "symbols": ["whenever", "batch", "critical"]}},
            {"name": "deadline_ms", "type": ["long", "null"]},
            {"name": "session", "type": ["string", "null"]},
            {"name": "tenant", "type": ["null", "bytes"]},
            {"name": "created_at_ms", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "features", "type": {"type": "array", "items": "int"}},
            {"name": "task_id", "type": "string"}]}"#,
        fields(&[
            ("payload", text("[1]")),
            (
                "trace",
                Value::Array(vec![fields(&[
                    ("id", Value::Fixed(2, vec![1, 2])),
                    ("tags", Value::Map([("a".to_owned(), some(text("b")))].into_iter().collect())),
                ])]),
            ),
            (
                "objective_weights",
                fields(&[
                    ("second", Value::Float(0.5)),
                    ("usd", Value::Long(10)),
                    ("quality", Value::Int(1)),
                ]),
            ),
            ("input_tokens", Value::Int(374)),
            ("priority", Value::Enum(0, "whenever".to_owned())),
            ("deadline_ms", Value::Union(0, Box::new(Value::Long(81_440)))),
            ("session", Value::Union(1, Box::new(Value::Null))),
            ("tenant", some(Value::Bytes(b"acme".to_vec()))),
            ("created_at_ms", Value::TimestampMillis(1_700_158_623_979)),
            ("features", Value::Array(vec![Value::Int(1), Value::Int(-2)])),
            ("task_id", text("t-1")),
        ]),
        &Task {
            tenant: "acme".to_owned(),
            priority: Priority::Interactive,
            created_at_ms: task_example().created_at_ms,
            deadline_ms: Some(81_440),
            objective: Objective::Weights(Weights { quality: 1.0, usd: 10.0, second: 0.5 }),
            features: vec![1.0, -2.0],
            payload: Some(b"[1]".to_vec()),
            ..plain("t-1", 374)
        },
    );
}

/// A null that the topic's schema has no place for is an error of that record only.
#[test]
fn a_null_without_a_place_is_an_error() {
    let codec = codec(OutputFormat::Avro);
    let schema = r#"{"type": "record", "name": "Task", "fields": [
        {"name": "task_id", "type": ["null", "string"]}, {"name": "input_tokens", "type": "int"}]}"#;
    codec.learn_schema(ID, schema).unwrap();
    let read = |task_id: Value| {
        let value = fields(&[("task_id", task_id), ("input_tokens", Value::Int(1))]);
        codec.decode_task(&record(Topic::Tasks, None, Some(&confluent(schema, value))))
    };
    assert_eq!(read(some(text("t-1"))), Ok(plain("t-1", 1)));
    let error = read(Value::Union(0, Box::new(Value::Null))).unwrap_err();
    assert_eq!((error.stage(), error.reason()), ("decode", "avro"));
    assert_eq!(error.to_string(), "avro: null where string is read");
}

#[test]
fn a_result_in_another_schema_is_understood() {
    let schema = r#"{"type": "record", "name": "TaskResult", "fields": [
        {"name": "status", "type": {"type": "enum", "name": "S", "symbols": ["failed", "succeeded"]}},
        {"name": "attempt", "type": "int"},
        {"name": "task_id", "type": "string"}]}"#;
    let codec = codec(OutputFormat::Avro);
    codec.learn_schema(ID, schema).unwrap();
    let value = fields(&[
        ("status", Value::Enum(1, "succeeded".to_owned())),
        ("attempt", Value::Int(2)),
        ("task_id", text("t-1")),
    ]);
    let bytes = confluent(schema, value);
    let expected = TaskResult {
        task_id: "t-1".to_owned(),
        attempt: 2,
        stage: 0,
        resource: String::new(),
        lane: None,
        status: ResultStatus::Succeeded,
        input_tokens: None,
        output_tokens: None,
        time_to_first_token_ms: None,
        duration_ms: None,
        quality: None,
        retry_after_ms: None,
        error: None,
        rate_limits: Vec::new(),
    };
    assert_eq!(
        codec.decode_task_result(&record(Topic::TaskResults, None, Some(&bytes))),
        Ok(expected)
    );
    // The same id on another topic: no task is made of a result.
    let error = codec.decode_task(&record(Topic::Tasks, None, Some(&bytes))).unwrap_err();
    assert_eq!(
        error,
        DecodeError::IncompatibleSchema {
            schema: WriterId::Registry(ID),
            problem: "record `TaskResult` where `pointsman.v1.Task` is read".to_owned()
        }
    );
}

/// The shell asks for an id once, and is told when it need not ask.
#[test]
fn unknown_ids_are_asked_for_and_refused_ones_are_not() {
    let codec = codec(OutputFormat::Avro);
    let bytes = [&[0][..], &ID.to_be_bytes(), b"..."].concat();
    let record: RawRecord<'_> = record(Topic::Tasks, None, Some(&bytes));
    assert_eq!(codec.unknown_schema(&record), Some(ID));
    assert_eq!(codec.decode_task(&record), Err(DecodeError::UnknownSchemaId(ID)));
    codec.refuse_schema(ID, "the registry has no such id");
    assert_eq!(codec.unknown_schema(&record), None);
    let problem = "the registry has no such id".to_owned();
    assert_eq!(
        codec.decode_task(&record),
        Err(DecodeError::IncompatibleSchema { schema: WriterId::Registry(ID), problem })
    );
}

fn refused(schema: &str) -> String {
    let error: LearnError = codec(OutputFormat::Avro).learn_schema(ID, schema).unwrap_err();
    error.to_string()
}

#[test]
fn schemas_that_fit_nothing_are_refused_with_the_reason() {
    let task = |fields: &str| {
        let text =
            refused(&format!(r#"{{"type": "record", "name": "Task", "fields": [{fields}]}}"#));
        let (_, after) = text.split_once("tasks: ").unwrap();
        after.split(';').next().unwrap().to_owned()
    };
    let id = r#"{"name": "task_id", "type": "string"}"#;
    let rows = [
        (id.to_owned(), "input_tokens: missing, and has no default"),
        (
            r#"{"name": "task_id", "type": "int"}, {"name": "input_tokens", "type": "int"}"#
                .to_owned(),
            "task_id: int where string is read",
        ),
        (
            format!(r#"{id}, {{"name": "input_tokens", "type": "double"}}"#),
            "input_tokens: double where long is read",
        ),
        (
            format!(
                r#"{id}, {{"name": "input_tokens", "type": "int"}}, {{"name": "created_at_ms",
                "type": {{"type": "long", "logicalType": "timestamp-micros"}}}}"#
            ),
            "created_at_ms: time in micro- or nanoseconds where long is read",
        ),
        (
            format!(
                r#"{id}, {{"name": "input_tokens", "type": "int"}},
                {{"name": "next", "type": ["null", "Task"]}}"#
            ),
            "next: `Task` contains itself",
        ),
        (
            format!(
                r#"{id}, {{"name": "input_tokens", "type": "int"}},
                {{"name": "nothing", "type": {{"type": "array", "items": "null"}}}}"#
            ),
            "nothing: an array whose items may take no bytes",
        ),
    ];
    for (fields, expected) in rows {
        assert_eq!(task(&fields), expected);
    }
    assert!(refused("{").starts_with("schema 900 is no Avro schema: "));
}

/// The bound of what is known, and that a known id can be learnt again.
#[test]
fn writers_are_bounded() {
    let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default()).unwrap();
    let text = schema::of(Topic::OperatorActions).unwrap().text;
    for id in 0..256 {
        codec.learn_schema(id, text).unwrap();
    }
    codec.learn_schema(255, text).unwrap();
    assert_eq!(codec.learn_schema(256, text), Err(LearnError::TooMany { max: 256 }));
}
