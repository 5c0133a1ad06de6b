//! Bytes that mean nothing, or something that is not allowed: each has a clear error, and none
//! makes the decoder panic or allocate without bound.

use proptest::prelude::*;
use serde_json::json;

use super::round_trip::codec;
use super::samples::{self, decision_example, record, resource_example, task_example};
use crate::codec::{Codec, DecodeError, Header, OutputFormat, RawRecord};
use crate::model::Topic;
use crate::model::health::{HealthScope, HealthStatus};
use crate::model::resource::FleetEntry;
use crate::model::task::{Objective, Stage, Task, Weights};

fn avro() -> Codec {
    codec(OutputFormat::Avro)
}

/// Stage, reason and text of the error of a task's bytes.
fn task_error(value: Option<&[u8]>) -> (&'static str, &'static str, String) {
    let error = avro().decode_task(&record(Topic::Tasks, None, value)).unwrap_err();
    (error.stage(), error.reason(), error.to_string())
}

fn encoded(task: &Task) -> Vec<u8> {
    let mut bytes = Vec::new();
    avro().encode_task(task, &mut bytes);
    bytes
}

#[test]
fn bytes_that_mean_nothing_have_a_reason() {
    let sample = encoded(&task_example());
    let mut other = sample.clone();
    other[2] ^= 1;
    let rows: Vec<(Option<Vec<u8>>, &str, &str)> = vec![
        (None, "no_value", "the record has no value"),
        (
            Some(Vec::new()),
            "unknown_format",
            "the value is neither Avro (first bytes c3 01, or 00 with a schema id) nor JSON (first byte `{`, or content-type application/json): it begins with nothing",
        ),
        (
            Some(b"not a task".to_vec()),
            "unknown_format",
            "the value is neither Avro (first bytes c3 01, or 00 with a schema id) nor JSON (first byte `{`, or content-type application/json): it begins with 6e 6f 74 20 61 20 74 61",
        ),
        (Some(sample[..7].to_vec()), "header", "the value is cut off inside its Avro header"),
        (Some(vec![0, 0, 0]), "header", "the value is cut off inside its Avro header"),
        (
            Some(other),
            "unknown_fingerprint",
            "the Avro schema with fingerprint e082c96e3ba94756 is not known for this topic",
        ),
        (
            Some(vec![0, 0, 0, 3, 132, 1]),
            "unknown_schema_id",
            "the schema with registry id 900 is not known",
        ),
        (
            Some(sample[..sample.len() - 1].to_vec()),
            "avro",
            "avro: payload: a length of 15 bytes where 14 are left",
        ),
        (Some([&sample[..], b"x"].concat()), "avro", "avro: 1 bytes follow the record"),
        (Some(b"{".to_vec()), "json", "json: EOF while parsing an object at line 1 column 1"),
        (
            Some(br#"{"task_id": "t", "input_tokens": 1, "stages": [{"name": 7}]}"#.to_vec()),
            "json",
            "json: stages[0].name: invalid type: integer `7`, expected a string at line 1 column 57",
        ),
        (
            Some(br#"{"task_id": "t"}"#.to_vec()),
            "json",
            "json: missing field `input_tokens` at line 1 column 16",
        ),
        (
            Some(br#"{"task_id": "t", "input_tokens": 1, "deadline_ms": -5}"#.to_vec()),
            "json",
            "json: deadline_ms: invalid value: integer `-5`, expected u64 at line 1 column 53",
        ),
        (
            Some(br#"{"task_id": "t", "input_tokens": 1, "objective": "fast"}"#.to_vec()),
            "json",
            "json: objective: not understood; allowed: cheapest, fastest, best, balanced, or an object of the numbers quality, usd and second",
        ),
    ];
    for (value, reason, text) in rows {
        let expected = ("decode", reason, text.to_owned());
        assert_eq!(task_error(value.as_deref()), expected);
    }
}

#[test]
fn tasks_out_of_bounds_have_a_reason() {
    let task = task_example();
    let weights = Weights { quality: f64::NAN, usd: 1.0, second: 1.0 };
    let stage = Stage {
        name: "s".to_owned(),
        class: "c".to_owned(),
        input_tokens: 1,
        max_output_tokens: 1,
        models: Vec::new(),
    };
    let rows = [
        (
            Task { task_id: String::new(), ..task.clone() },
            "task_id: an empty string is not allowed; a name of at least one byte",
        ),
        (
            Task { deadline_ms: Some(0), ..task.clone() },
            "deadline_ms: 0 is not allowed; at least 1",
        ),
        (
            Task { stages: vec![stage; 10_000], ..task.clone() },
            "stages: 10000 entries is not allowed; at most 16",
        ),
        (
            Task { payload: Some(vec![b' '; (1 << 20) + 1]), ..task.clone() },
            "payload: 1048577 bytes is not allowed; at most 1048576 bytes",
        ),
        (
            Task { features: vec![f32::INFINITY], ..task.clone() },
            "features: inf is not allowed; finite numbers",
        ),
    ];
    for (task, text) in rows {
        let expected = ("validate", "invalid", text.to_owned());
        assert_eq!(task_error(Some(&encoded(&task))), expected);
    }
    let bytes = encoded(&Task { objective: Objective::Weights(weights), ..task.clone() });
    let (stage, reason, text) = task_error(Some(&bytes));
    assert_eq!((stage, reason), ("validate", "invalid"));
    assert!(text.starts_with("objective.quality: NaN is not allowed; "), "{text}");

    let bytes = encoded(&Task { payload: Some(vec![b' '; 10 << 20]), ..task });
    let text = "the value has 10485858 bytes; at most 2097152 are read".to_owned();
    assert_eq!(task_error(Some(&bytes)), ("validate", "too_large", text));
}

/// A long that the model has no negative numbers for: the field is named.
#[test]
fn negative_numbers_are_named() {
    let rows = [
        // `deadline_ms` is the union after `created_at_ms`: null, then -5.
        (&[0_u8, 2, 9][..], "deadline_ms: -5 is not allowed; an integer of at least 0"),
        (&[0, 0, 1][..], "input_tokens: -1 is not allowed; an integer from 0 to 4,294,967,295"),
    ];
    let mut start = encoded(&task_example())[..10].to_vec();
    start.extend([2, b't', 2, b'a', 2, b'c', 0]);
    for (rest, text) in rows {
        let bytes = [&start[..], rest].concat();
        assert_eq!(task_error(Some(&bytes)), ("validate", "invalid", text.to_owned()));
    }
}

/// Counts and lengths that the record cannot hold are errors before anything is allocated.
#[test]
fn counts_beyond_the_record_are_errors() {
    let mut huge = vec![0xff; 9];
    huge.push(1);
    let start = &encoded(&task_example())[..10];
    let (_, reason, text) = task_error(Some(&[start, &huge].concat()));
    assert_eq!(
        (reason, text.as_str()),
        ("avro", "avro: task_id: a length of -9223372036854775808 bytes where 0 are left",)
    );
    let event = avro().decode_load_snapshot(&record(
        Topic::LoadSnapshots,
        None,
        Some(&{
            let mut bytes = Vec::new();
            let codec = avro();
            codec.encode_load_snapshot(&snapshot(), &mut bytes);
            // The count of an empty array, the last but three bytes.
            let at = bytes.len() - 4;
            bytes.splice(at..=at, huge);
            bytes
        }),
    ));
    let problem = "-9223372036854775808 items where 2 bytes are left".to_owned();
    assert_eq!(event, Err(DecodeError::Avro { field: "load", problem }));
}

fn snapshot() -> crate::model::event::LoadSnapshot<'static> {
    crate::model::event::LoadSnapshot {
        lane: 0,
        resource: "r".into(),
        at_ms: crate::model::time::Timestamp::EPOCH,
        health: crate::model::health::HealthStatus::Healthy,
        load: Vec::new(),
        in_flight: 0,
        backlog: 0,
        system: None,
    }
}

#[test]
fn json_is_seen_by_header_or_first_byte() {
    let value = br#" {"task_id": "t-1", "input_tokens": 1, "unknown": [1]}"#;
    let name = |name| Header { name, value: Some(b"Application/JSON; charset=utf-8") };
    let headers = [Header { name: "other", value: None }, name("Content-Type")];
    let with = RawRecord { headers: &headers, ..record(Topic::Tasks, None, Some(value)) };
    assert_eq!(avro().decode_task(&with).unwrap().task_id, "t-1");
    let without = record(Topic::Tasks, None, Some(value));
    assert_eq!(avro().decode_task(&without).unwrap_err().reason(), "unknown_format");
    let without = record(Topic::Tasks, None, Some(&value[1..]));
    assert_eq!(avro().decode_task(&without).unwrap().input_tokens, 1);
}

#[test]
fn the_records_time_is_the_default_of_created_at() {
    let value = br#"{"task_id": "t-1", "input_tokens": 1}"#;
    let at = RawRecord { timestamp_ms: 1_700, ..record(Topic::Tasks, None, Some(value)) };
    let task = avro().decode_task(&at).unwrap();
    assert_eq!(task.created_at_ms.map(|time| time.as_ms()), Some(1_700));
}

#[test]
fn a_payload_stays_what_it_is() {
    let rows: [(&[u8], serde_json::Value); 5] = [
        (br#"{"a":1.0}"#, json!({"payload": {"a": 1.0}})),
        (b"plain text", json!({"payload": "plain text", "payload_encoding": "text"})),
        (b"\xff\x00", json!({"payload": "/wA=", "payload_encoding": "base64"})),
        (b"null", json!({"payload": "null", "payload_encoding": "text"})),
        (b"1e999", json!({"payload": "1e999"})),
    ];
    let codec = codec(OutputFormat::Json);
    for (payload, expected) in rows {
        let mut decision = decision_example();
        decision.payload = Some(payload.into());
        let mut bytes = Vec::new();
        codec.encode_route_decision(&decision, &mut bytes);
        let record = record(Topic::RouteDecisions, None, Some(&bytes));
        assert_eq!(codec.decode_route_decision(&record), Ok(decision));
        let shown = codec.to_json(&record).unwrap();
        let shown: serde_json::Map<_, _> = shown
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| name.starts_with("payload"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        assert_eq!(serde_json::Value::Object(shown), expected);
    }
    // Nested deeper than most parsers go: still a document that they can read.
    let deep = ["[".repeat(10_000), "]".repeat(10_000)].concat();
    let mut decision = decision_example();
    decision.payload = Some(deep.as_bytes().into());
    let mut bytes = Vec::new();
    codec.encode_route_decision(&decision, &mut bytes);
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(value["payload"], json!(deep));
    assert_eq!(value["payload_encoding"], json!("text"));
}

fn fleet_error(key: Option<&str>, value: Option<&[u8]>) -> (&'static str, String) {
    let record = record(Topic::Fleet, key.map(str::as_bytes), value);
    let error = avro().decode_fleet_entry(&record).unwrap_err();
    (error.reason(), error.to_string())
}

#[test]
fn fleet_entries_report_every_violation() {
    let mut resource = resource_example();
    resource.slots = 0;
    resource.usd_per_million_tokens.input = -1.0;
    resource.limits[0].amount = 0;
    let mut bytes = Vec::new();
    assert!(avro().encode_fleet_entry(&FleetEntry::Resource(resource), &mut bytes));
    let (reason, text) = fleet_error(Some("gpt-4o-eu"), Some(&bytes));
    assert_eq!(reason, "invalid");
    let fields: Vec<&str> =
        text.split("; ").filter_map(|part| part.split_once(": ")).map(|(field, _)| field).collect();
    assert_eq!(fields, ["usd_per_million_tokens.input", "slots", "limits.amount"], "{text}");

    let key = "key: `gpt-4o-us` holds the entry of `gpt-4o-eu`".to_owned();
    assert_eq!(fleet_error(Some("gpt-4o-us"), Some(&bytes)), ("key", key));
    let none = "key: none; allowed: a resource's id, or `tenant:` and a tenant's id".to_owned();
    assert_eq!(fleet_error(None, Some(&bytes)), ("key", none));
    let empty = "key: an id of 0 bytes; allowed: a resource's id, or `tenant:` and a tenant's id of 1 to 128 bytes";
    assert_eq!(fleet_error(Some("tenant:"), None), ("key", empty.to_owned()));
    let neither = "resource, tenant: neither is not allowed; exactly one of the two".to_owned();
    assert_eq!(fleet_error(Some("a"), Some(b"{}")), ("invalid", neither));
    let unknown = fleet_error(Some("a"), Some(br#"{"tenant": {"id": "a", "wight": 2}}"#)).1;
    assert!(unknown.starts_with("json: tenant.wight: unknown field `wight`"), "{unknown}");

    let removed = avro().decode_fleet_entry(&record(Topic::Fleet, Some(b"tenant:acme"), None));
    assert_eq!(removed, Ok(FleetEntry::TenantRemoved("acme".to_owned())));
}

/// Every decoder on one value; what comes out does not matter.
fn decode_all(codec: &Codec, value: &[u8]) {
    let on = |topic| record(topic, Some(b"tenant:acme"), Some(value));
    let _task = codec.decode_task(&on(Topic::Tasks));
    let _result = codec.decode_task_result(&on(Topic::TaskResults));
    let _message = codec.decode_lane_inbox(&on(Topic::LaneInbox));
    let _event = codec.decode_health_event(&on(Topic::HealthEvents));
    let _entry = codec.decode_fleet_entry(&on(Topic::Fleet));
    let _decision = codec.decode_route_decision(&on(Topic::RouteDecisions));
    let _allocation = codec.decode_allocation_event(&on(Topic::AllocationEvents));
    let _balance = codec.decode_balance_event(&on(Topic::BalanceEvents));
    let _snapshot = codec.decode_load_snapshot(&on(Topic::LoadSnapshots));
    let _action = codec.decode_operator_action(&on(Topic::OperatorActions));
    let _journal = codec.decode_journal(value);
    for topic in Topic::ALL {
        let _shown = codec.to_json(&on(topic));
    }
}

/// A valid value of any topic, in any format, and where its body starts.
fn valid() -> impl Strategy<Value = Vec<u8>> {
    let format =
        prop::sample::select(vec![OutputFormat::Avro, OutputFormat::Confluent, OutputFormat::Json]);
    let write = |format: OutputFormat, put: &dyn Fn(&Codec, &mut Vec<u8>)| {
        let mut bytes = Vec::new();
        put(&codec(format), &mut bytes);
        bytes
    };
    prop_oneof![
        (format.clone(), samples::task())
            .prop_map(
                move |(format, task)| write(format, &|codec, out| codec.encode_task(&task, out))
            ),
        (format.clone(), samples::task_result())
            .prop_map(move |(format, result)| write(format, &|codec, out| codec
                .encode_task_result(&result, out))),
        (format.clone(), samples::fleet_entry()).prop_map(move |(format, entry)| write(
            format,
            &|codec, out| {
                let _written = codec.encode_fleet_entry(&entry, out);
            }
        )),
        (format.clone(), samples::route_decision())
            .prop_map(move |(format, decision)| write(format, &|codec, out| codec
                .encode_route_decision(&decision, out))),
        (format.clone(), samples::load_snapshot())
            .prop_map(move |(format, snapshot)| write(format, &|codec, out| codec
                .encode_load_snapshot(&snapshot, out))),
        (format, samples::journal())
            .prop_map(move |(format, batch)| write(format, &|codec, out| codec
                .encode_journal(&batch, out))),
    ]
}

/// A codec that also knows a writer whose every record is resolved.
fn with_foreign_writer() -> Codec {
    let codec = avro();
    let schema = crate::codec::schema::of(Topic::Tasks).unwrap().text;
    // One more symbol gives a plan that goes through every type of the schema.
    let foreign = schema.replace("[\"critical\"", "[\"now\", \"critical\"");
    assert_ne!(foreign, schema);
    codec.learn_schema(900, &foreign).unwrap();
    codec
}

thread_local! {
    static FOREIGN: Codec = with_foreign_writer();
    static ALL: [Codec; 1] = [codec(OutputFormat::Confluent)];
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let framed = |head: &[u8]| [head, &value].concat();
        ALL.with(|codecs| {
            decode_all(&codecs[0], &value);
            decode_all(&codecs[0], &framed(b"{"));
            for topic in Topic::ALL {
                if let Some(schema) = crate::codec::schema::of(topic) {
                    let head = [&[0xc3, 1][..], &schema.fingerprint.to_le_bytes()].concat();
                    decode_all(&codecs[0], &framed(&head));
                }
            }
        });
        FOREIGN.with(|codec| decode_all(codec, &framed(&[0, 0, 0, 3, 132])));
    }

    #[test]
    fn no_cut_or_flipped_record_makes_it_panic(value in valid(), flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4)) {
        ALL.with(|codecs| {
            for end in 0..value.len().min(300) {
                decode_all(&codecs[0], &value[..end]);
            }
            let mut flipped = value.clone();
            for (at, bits) in &flips {
                if !flipped.is_empty() {
                    let at = at.index(flipped.len());
                    flipped[at] ^= bits;
                }
            }
            decode_all(&codecs[0], &flipped);
        });
        if value.len() > 10 && value[..2] == [0xc3, 1] {
            let mut foreign = vec![0, 0, 0, 3, 132];
            foreign.extend_from_slice(&value[10..]);
            FOREIGN.with(|codec| decode_all(codec, &foreign));
        }
    }
}

#[test]
fn a_health_event_without_a_value_takes_the_last_one_back() {
    let healthy = |key: &str| {
        avro().decode_health_event(&record(Topic::HealthEvents, Some(key.as_bytes()), None))
    };
    let event = healthy("failure_domain:openai/eu").unwrap();
    assert_eq!(
        (event.scope, event.id.as_str(), event.status),
        (HealthScope::FailureDomain, "openai/eu", HealthStatus::Healthy)
    );
    for key in ["", "openai", "planet:earth", "resource:"] {
        assert_eq!(healthy(key).map_err(|error| error.stage()), Err("validate"), "{key}");
    }
}
