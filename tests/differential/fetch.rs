//! What readers are given: ends, levels, bounds and errors.

use std::time::Duration;

use kafka_protocol::messages::FetchRequest;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::BaseRecord;
use rdkafka::{Offset, TopicPartitionList};
use testbed::eventually;

use crate::ask::{self, READ_COMMITTED, READ_UNCOMMITTED};
use crate::client::{self, Client};
use crate::raw::{Batch, CREATED_MS};
use crate::script::{LIMIT, Script};

/// A topic of one partition with one batch of two records, and one of three.
fn filled(script: &mut Script) -> String {
    let topic = script.topic("tasks", 1, &[]);
    let first = Batch::of(&["a=1", "b=2"]);
    let second = Batch::of(&["c=3", "d=4", "e=5"]).created_ms(CREATED_MS + 1_000);
    for batch in [first, second] {
        let answer = script.answer(8, &ask::produce(&topic, 0, batch.bytes()));
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }
    topic
}

#[test]
fn offsets_out_of_range_are_errors() {
    Script::run("out_of_range", |script| {
        let topic = filled(script);
        for offset in [0, 1, 2, 4, 5, 6, 1_000, -1] {
            let request = ask::fetch(&topic, 0, offset, READ_UNCOMMITTED);
            script.fetch(&format!("from {offset}"), &request);
        }
        script.fetch("committed from 6", &ask::fetch(&topic, 0, 6, READ_COMMITTED));
        script.fetch("no partition", &ask::fetch(&topic, 1, 0, READ_UNCOMMITTED));
        let missing = script.name("missing");
        script.fetch("no topic", &ask::fetch(&missing, 0, 0, READ_UNCOMMITTED));
        for (what, reset) in [("error", "error"), ("earliest", "earliest"), ("latest", "latest")] {
            let group = script.name("reader");
            let settings = [("auto.offset.reset", reset)];
            let consumer: BaseConsumer = client::consumer(script, &group, &settings);
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, 0, Offset::Offset(1_000)).unwrap();
            consumer.assign(&list).unwrap();
            let event = eventually("an event", LIMIT, || {
                consumer.poll(Duration::from_millis(100)).map(|event| match event {
                    Ok(message) => client::shown(&message),
                    Err(error) => client::code(&error),
                })
            });
            script.say(format!("reset to {what}: {event}"));
        }
    });
}

#[test]
fn leader_epochs_are_compared() {
    Script::run("leader_epochs", |script| {
        let topic = filled(script);
        for epoch in [-1, 0, 7] {
            let mut request = ask::fetch(&topic, 0, 0, READ_UNCOMMITTED);
            request.topics[0].partitions[0].current_leader_epoch = epoch;
            script.fetch(&format!("fetch in {epoch}"), &request);
            let mut request = ask::list_offsets(&topic, 0, -1, READ_UNCOMMITTED);
            request.topics[0].partitions[0].current_leader_epoch = epoch;
            script.ask(&format!("the end in {epoch}"), 7, &request);
        }
    });
}

#[test]
fn an_answer_has_at_least_one_batch_and_no_more_than_asked() {
    Script::run("fetch_bounds", |script| {
        let topic = filled(script);
        for bytes in [1, 80, 1 << 20] {
            let mut request = ask::fetch(&topic, 0, 0, READ_UNCOMMITTED);
            request.topics[0].partitions[0].partition_max_bytes = bytes;
            script.fetch(&format!("{bytes} bytes of a partition"), &request);
        }
        let other = script.topic("others", 1, &[]);
        let batch = Batch::of(&["x=1"]).bytes();
        script.produce("others", &ask::produce(&other, 0, batch));
        for bytes in [1, 1 << 20] {
            let mut request: FetchRequest = ask::fetch(&topic, 0, 0, READ_UNCOMMITTED);
            request.topics.extend(ask::fetch(&other, 0, 0, READ_UNCOMMITTED).topics);
            request.max_bytes = bytes;
            script.fetch(&format!("{bytes} bytes of two"), &request);
        }
        // Waits at the end: in vain, and for a record.
        let request = ask::fetch(&topic, 0, 5, READ_UNCOMMITTED);
        script.fetch("in vain", &request.clone().with_min_bytes(1).with_max_wait_ms(100));
        let mut waiting = script.connect();
        waiting.send(11, &request.with_min_bytes(1).with_max_wait_ms(50_000));
        script.produce("meanwhile", &ask::produce(&topic, 0, Batch::of(&["f=6"]).bytes()));
        script.receive::<FetchRequest>(&mut waiting, "woken", 11);
        // More than there will be: an error does not wait.
        let mut request = ask::fetch(&topic, 0, 0, READ_UNCOMMITTED);
        request.topics.extend(ask::fetch(&other, 7, 0, READ_UNCOMMITTED).topics);
        script.fetch("one is wrong", &request.with_min_bytes(1 << 20).with_max_wait_ms(50_000));
        for version in [4, 7, 11, 12] {
            let mut request = ask::fetch(&topic, 0, 0, READ_COMMITTED);
            if version < 7 {
                request.session_epoch = -1;
            }
            script.ask(&format!("version {version}"), version, &request);
        }
    });
}

#[test]
fn offsets_are_listed_by_time_and_level() {
    Script::run("list_offsets", |script| {
        let topic = filled(script);
        let empty = script.topic("empty", 1, &[]);
        let open = script.name("open");
        let producer = script.ask("init", 4, &ask::init(&open, 60_000));
        let producer = (producer.producer_id.0, producer.producer_epoch);
        script.ask("add", 0, &ask::add_partitions(&open, producer, &topic, &[0]));
        let batch =
            Batch::of(&["f=6"]).by(producer, 0).transactional().created_ms(CREATED_MS + 2_000);
        script.produce("open", &ask::produce_in(&open, &topic, 0, batch.bytes()));
        for isolation in [READ_UNCOMMITTED, READ_COMMITTED] {
            for time_ms in [
                -1,
                -2,
                -3,
                0,
                CREATED_MS,
                CREATED_MS + 1,
                CREATED_MS + 2,
                CREATED_MS + 1_001,
                CREATED_MS + 1_003,
                CREATED_MS + 2_000,
                CREATED_MS + 2_001,
            ] {
                for name in [&topic, &empty] {
                    let request = ask::list_offsets(name, 0, time_ms, isolation);
                    script.ask(&format!("{name} at {time_ms}, level {isolation}"), 7, &request);
                }
            }
        }
        let missing = script.name("missing");
        script.ask("no topic", 7, &ask::list_offsets(&missing, 0, -1, READ_UNCOMMITTED));
        script.ask("no partition", 7, &ask::list_offsets(&topic, 1, -1, READ_UNCOMMITTED));
        script.ask("another time", 7, &ask::list_offsets(&topic, 0, -77, READ_UNCOMMITTED));
        let mut doubled = ask::list_offsets(&topic, 0, -1, READ_UNCOMMITTED);
        let again = doubled.topics[0].partitions[0].clone();
        doubled.topics[0].partitions.push(again);
        script.ask("twice", 7, &doubled);
        script.ask("commit", 1, &ask::end(&open, producer, true));
        script.until_end(&topic, 0, READ_COMMITTED, 7);
        for version in [1, 2, 4, 5, 7] {
            // The first version has no level.
            let level = if version == 1 { READ_UNCOMMITTED } else { READ_COMMITTED };
            let request = ask::list_offsets(&topic, 0, CREATED_MS + 1_999, level);
            script.ask(&format!("version {version}"), version, &request);
        }
    });
}

#[test]
fn a_client_finds_the_ends_and_times_of_partitions() {
    Script::run("watermarks", |script| {
        let topic = filled(script);
        let group = script.name("reader");
        let consumer = client::consumer(script, &group, &[]);
        let ends = consumer.fetch_watermarks(&topic, 0, LIMIT);
        script.say(format!("watermarks: {ends:?}"));
        for time_ms in [0, CREATED_MS + 1, CREATED_MS + 1_002, CREATED_MS + 5_000] {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, 0, Offset::Offset(time_ms)).unwrap();
            let found = consumer.offsets_for_times(list, LIMIT).unwrap();
            script.say(format!("{time_ms}: {:?}", found.elements()[0].offset()));
        }
        let client = Client::producer(script, &[]);
        client
            .producer
            .send(BaseRecord::<str, str>::to(&topic).partition(0).payload("x"))
            .map_err(|(error, _)| error)
            .unwrap();
        script.say(format!("{:?}", client.reports()));
        let tail = client::read(script, "read_committed", &topic, 1, Offset::OffsetTail(2));
        script.say(format!("the last two: {tail:?}"));
    });
}
