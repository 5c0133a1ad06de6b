use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

use super::super::batch::tests::{Sent, idempotent, plain, transactional};
use super::super::topics::tests::{name, topics};
use super::super::wire::{self, Reply};
use super::*;

const ONE: &[(Option<&str>, Option<&str>)] = &[(Some("a"), Some("1"))];

fn request(acks: i16, topic: &str, partition: i32, records: Option<Bytes>) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(records);
    let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_topic_data(vec![data])
}

/// Error code, base offset, time of the append, start of the log.
fn ask(topics: &mut Topics, request: ProduceRequest) -> (i16, i64, i64, i64) {
    let response = produce(topics, &Transactions::default(), 5_000, request).unwrap();
    // Kafka serves no version below 3, though it tells so.
    for version in 3..=9 {
        wire::encode(&Reply::from(response.clone()), version, 1).unwrap();
    }
    let partition = &response.responses[0].partition_responses[0];
    assert_eq!(partition.error_code == 0, partition.base_offset >= 0);
    let time_ms = partition.log_append_time_ms;
    (partition.error_code, partition.base_offset, time_ms, partition.log_start_offset)
}

#[test]
fn batches_are_appended_or_refused() {
    let stamped = [("message.timestamp.type", "LogAppendTime")];
    let mut topics = topics(&[
        ("a", 2, &[]),
        ("stamped", 1, &stamped),
        ("table", 1, &[("cleanup.policy", "compact")]),
        ("narrow", 1, &[("max.message.bytes", "80")]),
    ]);
    let one = || Some(plain().bytes(ONE));
    let keyless = Some(plain().bytes(&[(None, Some("1"))]));
    let ahead = Some(Sent { timestamp_ms: 3_605_001, ..plain() }.bytes(ONE));
    let mut flipped = plain().bytes(ONE).to_vec();
    flipped[62] ^= 1;
    let rows = [
        ("the first", "a", 0, one(), (0, 0, -1, 0)),
        ("the next", "a", 0, one(), (0, 1, -1, 0)),
        ("other partition", "a", 1, one(), (0, 0, -1, 0)),
        ("stamped", "stamped", 0, one(), (0, 0, 5_000, 0)),
        ("stamped, ahead", "stamped", 0, ahead.clone(), (0, 1, 5_000, 0)),
        ("ahead", "a", 0, ahead, (32, -1, -1, 0)),
        ("a table", "table", 0, one(), (0, 0, -1, 0)),
        ("a table, no key", "table", 0, keyless, (87, -1, -1, 0)),
        (
            "too large",
            "narrow",
            0,
            Some(plain().bytes(&[(None, Some("12345678901234567890"))])),
            (10, -1, -1, -1),
        ),
        ("no such topic", "b", 0, one(), (3, -1, -1, -1)),
        ("no such partition", "a", 2, one(), (3, -1, -1, -1)),
        ("partition -1", "a", -1, one(), (3, -1, -1, -1)),
        ("null", "a", 0, None, (87, -1, -1, -1)),
        ("nothing", "a", 0, Some(Bytes::new()), (87, -1, -1, -1)),
        ("flipped", "a", 0, Some(flipped.into()), (2, -1, -1, -1)),
        ("idempotent", "a", 0, Some(idempotent(1, 0, 0).bytes(ONE)), (0, 2, -1, 0)),
        ("again", "a", 0, Some(idempotent(1, 0, 0).bytes(ONE)), (0, 2, 1_000, 0)),
        ("a gap", "a", 0, Some(idempotent(1, 0, 2).bytes(ONE)), (45, -1, -1, 0)),
        ("no transactional id", "a", 0, Some(transactional(1, 0, 1).bytes(ONE)), (53, -1, -1, -1)),
    ];
    for (about, topic, partition, records, expected) in rows {
        let found = ask(&mut topics, request(-1, topic, partition, records));
        assert_eq!(found, expected, "{about}");
    }
    assert_eq!(ask(&mut topics, request(1, "a", 0, one())), (0, 3, -1, 0));
    assert_eq!(ask(&mut topics, request(2, "a", 0, one())), (21, -1, -1, -1));
    assert_eq!(produce(&mut topics, &Transactions::default(), 0, request(0, "a", 0, one())), None);
    assert_eq!(topics.log("a", 0).unwrap().end_offset(), 5);
}

#[test]
fn a_transactions_later_batches_need_no_coordinator() {
    let mut topics = topics(&[("a", 1, &[])]);
    let id = topics.id("a", 0).unwrap();
    topics.append(0, id, &transactional(1, 0, 0).batch(ONE)).unwrap();
    let next = request(-1, "a", 0, Some(transactional(1, 0, 1).bytes(ONE)));
    let next =
        next.with_transactional_id(Some(kafka_protocol::messages::TransactionalId("t".into())));
    assert_eq!(ask(&mut topics, next), (0, 1, -1, 0));
}

#[test]
fn refusals_say_why() {
    let mut topics = topics(&[("table", 1, &[("cleanup.policy", "compact")])]);
    let keyless = Some(plain().bytes(&[(None, Some("1"))]));
    let request = request(-1, "table", 0, keyless);
    let response = produce(&mut topics, &Transactions::default(), 0, request).unwrap();
    let text = response.responses[0].partition_responses[0].error_message.as_deref();
    assert_eq!(text, Some("a compacted topic takes no record without a key"));
}
