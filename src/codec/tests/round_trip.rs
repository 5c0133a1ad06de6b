//! What is written is read back, in every format; and `apache-avro`, which reads by the schema,
//! sees the same names and values as serde does.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::samples::{self, record};
use crate::codec::encode::{fleet_key, health_key};
use crate::codec::{Codec, OutputFormat, RawRecord, RegisteredSchemas, schema};
use crate::model::Topic;
use crate::model::health::HealthEvent;
use crate::model::resource::FleetEntry;
use crate::model::task::{Objective, Task};

pub fn codec(output: OutputFormat) -> Codec {
    let topics = Topic::ALL.into_iter().filter(|topic| schema::of(*topic).is_some());
    let ids = topics.zip(41_u32..).collect();
    Codec::new(output, RegisteredSchemas { ids, writers: BTreeMap::new() }).unwrap()
}

fn codecs() -> [Codec; 3] {
    [OutputFormat::Avro, OutputFormat::Confluent, OutputFormat::Json].map(codec)
}

thread_local! {
    static CODECS: [Codec; 3] = codecs();
}

/// Writes and reads `value` in every format.
fn check<T: PartialEq + std::fmt::Debug>(
    topic: Topic,
    value: &T,
    encode: impl Fn(&Codec, &T, &mut Vec<u8>),
    decode: impl Fn(&Codec, &RawRecord<'_>) -> Result<T, crate::codec::DecodeError>,
) -> Result<(), TestCaseError> {
    CODECS.with(|codecs| {
        for codec in codecs {
            // Encoding appends.
            let mut bytes = b"before".to_vec();
            encode(codec, value, &mut bytes);
            let read = decode(codec, &record(topic, None, Some(&bytes[6..])));
            prop_assert_eq!(read.as_ref(), Ok(value), "{:?}", codec.output());
            let shown = codec.to_json(&record(topic, None, Some(&bytes[6..])));
            prop_assert!(shown.as_ref().is_ok_and(Value::is_object), "{:?}", shown);
        }
        Ok(())
    })
}

/// What `apache-avro` makes of our bytes by the schema: names and values as JSON. It also writes the
/// same bytes again.
fn seen_by_avro(topic: Topic, encode: impl Fn(&Codec, &mut Vec<u8>)) -> Value {
    let mut bytes = Vec::new();
    CODECS.with(|codecs| encode(&codecs[0], &mut bytes));
    let schema = Schema::parse_str(schema::of(topic).unwrap().text).unwrap();
    let datum = &bytes[10..];
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let mut rest = datum;
    let value = reader.read_value(&mut rest).unwrap();
    assert!(rest.is_empty());
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let written = writer.write_value_to_vec(value.clone()).unwrap();
    // A map of apache-avro's has no order: the fleet's bytes are compared by their number.
    if topic == Topic::Fleet {
        assert_eq!(written.len(), datum.len());
    } else {
        assert_eq!(written, datum);
    }
    Value::try_from(value).unwrap()
}

fn bytes_as_json(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, |bytes| json!(bytes))
}

fn task_as_avro(task: &Task) -> Value {
    let mut expected = serde_json::to_value(task).unwrap();
    expected["payload"] = bytes_as_json(task.payload.as_deref());
    expected["objective_weights"] = Value::Null;
    if let Objective::Weights(weights) = task.objective {
        expected["objective"] = json!("balanced");
        expected["objective_weights"] = serde_json::to_value(weights).unwrap();
    }
    expected
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn task(task in samples::task()) {
        check(Topic::Tasks, &task, Codec::encode_task, Codec::decode_task)?;
        let seen = seen_by_avro(Topic::Tasks, |codec, out| codec.encode_task(&task, out));
        prop_assert_eq!(seen, task_as_avro(&task));
    }

    #[test]
    fn task_result(result in samples::task_result()) {
        check(Topic::TaskResults, &result, Codec::encode_task_result, Codec::decode_task_result)?;
        let seen =
            seen_by_avro(Topic::TaskResults, |codec, out| codec.encode_task_result(&result, out));
        prop_assert_eq!(seen, serde_json::to_value(&result).unwrap());
    }

    #[test]
    fn lane_inbox(message in samples::lane_inbox()) {
        check(Topic::LaneInbox, &message, Codec::encode_lane_inbox, Codec::decode_lane_inbox)?;
        let seen =
            seen_by_avro(Topic::LaneInbox, |codec, out| codec.encode_lane_inbox(&message, out));
        prop_assert_eq!(seen, serde_json::to_value(&message).unwrap());
    }

    #[test]
    fn health_event(event in samples::health_event()) {
        check(Topic::HealthEvents, &event, Codec::encode_health_event, Codec::decode_health_event)?;
        let seen =
            seen_by_avro(Topic::HealthEvents, |codec, out| codec.encode_health_event(&event, out));
        prop_assert_eq!(seen, serde_json::to_value(&event).unwrap());
        let HealthEvent { scope, id, source, .. } = &event;
        let scope = format!("{}:{id}", scope.name());
        let whole = if source.is_empty() { scope } else { format!("{scope}#{source}") };
        prop_assert_eq!(health_key(&event), whole);
    }

    #[test]
    fn fleet_entry(entry in samples::fleet_entry()) {
        let key = fleet_key(&entry);
        for codec in codecs() {
            let mut bytes = Vec::new();
            let has_value = codec.encode_fleet_entry(&entry, &mut bytes);
            prop_assert_eq!(has_value, !bytes.is_empty());
            let value = has_value.then_some(bytes.as_slice());
            let read = codec.decode_fleet_entry(&record(Topic::Fleet, Some(key.as_bytes()), value));
            prop_assert_eq!(read, Ok(entry.clone()));
        }
        let expected = match &entry {
            FleetEntry::Resource(resource) => json!({"resource": resource, "tenant": null}),
            FleetEntry::Tenant(tenant) => json!({"resource": null, "tenant": tenant}),
            FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => return Ok(()),
        };
        let seen = seen_by_avro(Topic::Fleet, |codec, out| {
            assert!(codec.encode_fleet_entry(&entry, out));
        });
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn route_decision(decision in samples::route_decision()) {
        let topic = Topic::RouteDecisions;
        check(topic, &decision, Codec::encode_route_decision, Codec::decode_route_decision)?;
        let seen = seen_by_avro(topic, |codec, out| codec.encode_route_decision(&decision, out));
        let mut expected = serde_json::to_value(&decision).unwrap();
        expected["payload"] = bytes_as_json(decision.payload.as_deref());
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn allocation_event(event in samples::allocation_event()) {
        let topic = Topic::AllocationEvents;
        check(topic, &event, Codec::encode_allocation_event, Codec::decode_allocation_event)?;
        let seen = seen_by_avro(topic, |codec, out| codec.encode_allocation_event(&event, out));
        prop_assert_eq!(seen, serde_json::to_value(&event).unwrap());
    }

    #[test]
    fn balance_event(event in samples::balance_event()) {
        let topic = Topic::BalanceEvents;
        check(topic, &event, Codec::encode_balance_event, Codec::decode_balance_event)?;
        let seen = seen_by_avro(topic, |codec, out| codec.encode_balance_event(&event, out));
        prop_assert_eq!(seen, serde_json::to_value(&event).unwrap());
    }

    #[test]
    fn load_snapshot(snapshot in samples::load_snapshot()) {
        let topic = Topic::LoadSnapshots;
        check(topic, &snapshot, Codec::encode_load_snapshot, Codec::decode_load_snapshot)?;
        let seen = seen_by_avro(topic, |codec, out| codec.encode_load_snapshot(&snapshot, out));
        prop_assert_eq!(seen, serde_json::to_value(&snapshot).unwrap());
    }

    #[test]
    fn operator_action(action in samples::operator_action()) {
        let topic = Topic::OperatorActions;
        check(topic, &action, Codec::encode_operator_action, Codec::decode_operator_action)?;
        let seen = seen_by_avro(topic, |codec, out| codec.encode_operator_action(&action, out));
        prop_assert_eq!(seen, serde_json::to_value(&action).unwrap());
    }

    #[test]
    fn journal(batch in samples::journal()) {
        let decode = |codec: &Codec, record: &RawRecord<'_>| {
            codec.decode_journal(record.value.unwrap_or_default())
        };
        check(Topic::Journal, &batch, Codec::encode_journal, decode)?;
        let seen = seen_by_avro(Topic::Journal, |codec, out| codec.encode_journal(&batch, out));
        let mut expected = serde_json::to_value(&batch).unwrap();
        expected["seed"] = json!(batch.seed as i64);
        prop_assert_eq!(seen, expected);
    }
}
