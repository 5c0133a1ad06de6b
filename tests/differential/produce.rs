//! What becomes of what is produced.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use rdkafka::Offset;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use crate::ask::{self, READ_UNCOMMITTED};
use crate::client::{self, Client};
use crate::raw::{Batch, CREATED_MS};
use crate::script::Script;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

#[test]
fn every_compression_and_odd_records_come_back_as_they_were_sent() {
    Script::run("compressions", |script| {
        let topic = script.topic("tasks", 1, &[]);
        for codec in CODECS {
            let settings = [("compression.type", codec), ("linger.ms", "1000")];
            let client = Client::producer(script, &settings);
            let header = |key, value| Header { key, value };
            let headers = OwnedHeaders::new()
                .insert(header("again", Some("1")))
                .insert(header("again", Some("2")))
                .insert(header("null", None::<&str>))
                .insert(header("empty", Some("")));
            let record = || BaseRecord::<str, str>::to(&topic).partition(0).timestamp(CREATED_MS);
            // Long enough that every codec makes it shorter: else it is sent as it is.
            let long = format!("{codec} ").repeat(50);
            for record in [
                record().key("long").payload(&long).headers(headers),
                record().payload("no key"),
                record().key("no value"),
                record(),
                record().key("").payload(""),
            ] {
                client.producer.send(record).map_err(|(error, _)| error).unwrap();
            }
            for report in client.reports() {
                script.say(format!("{codec}: {report}"));
            }
        }
        for line in client::read(script, "read_committed", &topic, 1, Offset::Beginning) {
            script.say(line);
        }
        script.fetch("the batches", &ask::fetch(&topic, 0, 0, READ_UNCOMMITTED));
        script.fetch("from inside a batch", &ask::fetch(&topic, 0, 22, READ_UNCOMMITTED));
    });
}

#[test]
fn the_broker_stamps_records_where_the_topic_says_so() {
    Script::run("log_append_time", |script| {
        for kind in ["CreateTime", "LogAppendTime"] {
            let topic = script.topic(kind, 1, &[("message.timestamp.type", kind)]);
            let batch = Batch::of(&["a=1", "b=2"]);
            script.produce("produced", &ask::produce(&topic, 0, batch.bytes()));
            script.fetch("fetched", &ask::fetch(&topic, 0, 0, READ_UNCOMMITTED));
            let earlier = ask::list_offsets(&topic, 0, CREATED_MS + 1, READ_UNCOMMITTED);
            let found = script.answer(7, &earlier);
            let found = &found.topics[0].partitions[0];
            let stamp = if found.timestamp > CREATED_MS + 1_000_000 { "now" } else { "then" };
            script.say(format!("created by then: offset {} of {stamp}", found.offset));
        }
        // Of the client's own clock, too far ahead of the broker's.
        let topic = script.topic("ahead", 1, &[]);
        let batch = Batch::of(&["a=1", "b=2"]).created_ms(4_000_000_000_000);
        script.produce("from the future", &ask::produce(&topic, 0, batch.bytes()));
    });
}

#[test]
fn what_is_too_large_is_refused() {
    Script::run("too_large", |script| {
        let topic = script.topic("tasks", 1, &[("max.message.bytes", "1000")]);
        let client = Client::producer(script, &[("message.max.bytes", "2000000")]);
        for length in [500, 2_000, 1_500_000] {
            let value = "x".repeat(length);
            let record = BaseRecord::<str, str>::to(&topic).partition(0).payload(&value);
            client.producer.send(record).map_err(|(error, _)| error).unwrap();
            script.say(format!("{length}: {:?}", client.reports()));
        }
        let large = format!("k={}", "x".repeat(2_000));
        script.produce("raw", &ask::produce(&topic, 0, Batch::of(&[&large]).bytes()));
        let just = |bytes: usize| {
            let overhead = Batch::of(&["k="]).bytes().len();
            // A value longer than 63 bytes needs a byte more for its length and its record's.
            Batch::of(&[&format!("k={}", "x".repeat(bytes - overhead - 2))]).bytes()
        };
        assert_eq!([just(1_000).len(), just(1_001).len()], [1_000, 1_001]);
        script.produce("1000 bytes", &ask::produce(&topic, 0, just(1_000)));
        script.produce("1001 bytes", &ask::produce(&topic, 0, just(1_001)));
    });
}

#[test]
fn what_is_not_there_cannot_be_written() {
    Script::run("unknown_topics", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let missing = script.name("missing");
        let batch = || Batch::of(&["a=1"]).bytes();
        script.produce("no topic", &ask::produce(&missing, 0, batch()));
        script.produce("no partition", &ask::produce(&topic, 1, batch()));
        script.produce("a negative partition", &ask::produce(&topic, -1, batch()));
        let mut both = ask::produce(&topic, 0, batch());
        both.topic_data[0]
            .partition_data
            .extend(ask::produce("", 3, batch()).topic_data.remove(0).partition_data);
        script.produce("one of two partitions", &both);
        let client = Client::producer(script, &[("message.timeout.ms", "5000")]);
        for (topic, partition) in [(&missing, 0), (&topic, 1)] {
            let record = BaseRecord::<str, str>::to(topic).partition(partition).payload("x");
            let sent = client.producer.send(record).map_err(|(error, _)| error);
            script.say(format!("sent: {}", client::outcome(sent)));
            script.say(format!("reported: {:?}", client.reports()));
        }
    });
}

#[test]
fn damaged_batches_are_refused() {
    Script::run("damaged_batches", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let good = Batch::of(&["a=1", "b=2"]).bytes();
        let changed = |at: usize, byte: u8| {
            let mut bytes = BytesMut::from(&good[..]);
            bytes[at] = byte;
            bytes.freeze()
        };
        // Inside what the checksum covers; it is made right again.
        let resealed = |at: usize, byte: u8| {
            let mut bytes = BytesMut::from(&changed(at, byte)[..]);
            let sum = crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&sum.to_be_bytes());
            bytes.freeze()
        };
        let last = good.len() - 1;
        let rows: [(&str, Bytes); 9] = [
            ("as it should be", good.clone()),
            ("a base offset", changed(7, 9)),
            ("a leader epoch", changed(15, 9)),
            ("another last byte", changed(last, 1)),
            ("a wrong checksum", changed(18, 77)),
            ("a control batch", resealed(22, 0b10_0000)),
            ("a wrong last offset", resealed(26, 5)),
            ("a wrong count", resealed(60, 7)),
            ("two batches", [&good[..], &good[..]].concat().into()),
        ];
        for (what, bytes) in rows {
            script.produce(what, &ask::produce(&topic, 0, bytes));
        }
        script.produce("no batch", &ask::produce(&topic, 0, Bytes::new()));
        let wrong_acks: ProduceRequest = ask::produce(&topic, 0, good.clone()).with_acks(2);
        script.produce("acks=2", &wrong_acks);
        script.produce("acks=1", &ask::produce(&topic, 0, good.clone()).with_acks(1));
        let mut silent = script.connect();
        silent.send(8, &ask::produce(&topic, 0, good.clone()).with_acks(0));
        // What is answered next is the answer to what was asked next.
        script.ask_on(&mut silent, "acks=0, then", 8, &ask::produce(&topic, 0, good.clone()));
        script.fetch("what was taken", &ask::fetch(&topic, 0, 0, READ_UNCOMMITTED));
    });
}

/// The polynomial of record batches, bit by bit: scripts have little to sum.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 }
        })
    })
}

#[test]
fn a_compacted_topic_takes_no_record_without_a_key() {
    Script::run("keyless_in_compacted", |script| {
        let topic = script.topic("fleet", 1, &[("cleanup.policy", "compact")]);
        let batch = Batch::of(&["a=1", "=2", "c=3", "=4"]);
        script.produce("two of four", &ask::produce(&topic, 0, batch.bytes()));
        let client = Client::producer(script, &[]);
        for key in [None, Some("a")] {
            let mut record = BaseRecord::<str, str>::to(&topic).partition(0).payload("x");
            record.key = key;
            client.producer.send(record).map_err(|(error, _)| error).unwrap();
            script.say(format!("{key:?}: {:?}", client.reports()));
        }
    });
}

#[test]
fn sequences_find_duplicates_and_gaps() {
    Script::run("sequences", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let request: InitProducerIdRequest = ask::init_idempotent();
        let id = script.ask("init", 4, &request).producer_id.0;
        let records = |count: usize, epoch: i16, sequence: i32| {
            let records = &["a=1", "b=2", "c=3"][..count];
            ask::produce(&topic, 0, Batch::of(records).by((id, epoch), sequence).bytes())
        };
        for (what, count, epoch, sequence) in [
            ("the first", 3, 0, 0),
            ("the first again", 3, 0, 0),
            ("part of it", 2, 0, 1),
            ("the next", 1, 0, 3),
            ("a gap", 1, 0, 5),
            ("the next again", 1, 0, 3),
            ("after the gap", 2, 0, 4),
            ("a fourth", 1, 0, 6),
            ("a fifth", 1, 0, 7),
            ("a sixth", 1, 0, 8),
            ("the second, still known", 1, 0, 3),
            ("the first, forgotten", 3, 0, 0),
            ("a new epoch inside", 1, 1, 9),
            ("a new epoch", 2, 1, 0),
            ("a new epoch again", 2, 1, 0),
            ("the old epoch", 1, 0, 9),
            ("an older duplicate", 1, 0, 8),
        ] {
            script.produce(what, &records(count, epoch, sequence));
        }
        // After the largest comes zero.
        let other = script.ask("init", 4, &ask::init_idempotent()).producer_id.0;
        for (what, count, sequence) in [
            ("a stranger in the middle", 1, i32::MAX - 1),
            ("the largest", 1, i32::MAX),
            ("zero", 2, 0),
            ("one is done", 1, 1),
            ("two", 1, 2),
        ] {
            let batch = Batch::of(&["d=4", "e=5"][..count]).by((other, 0), sequence);
            script.produce(what, &ask::produce(&topic, 0, batch.bytes()));
        }
        // A batch across the largest.
        let third = script.ask("init", 4, &ask::init_idempotent()).producer_id.0;
        for (what, sequence) in [
            ("before it", i32::MAX - 1),
            ("across", i32::MAX),
            ("after", 1),
            ("across again", i32::MAX),
        ] {
            let count = if what == "before it" { 1 } else { 2 };
            let batch = Batch::of(&["f=6", "g=7"][..count]).by((third, 0), sequence);
            script.produce(what, &ask::produce(&topic, 0, batch.bytes()));
        }
        script.fetch("all of it", &ask::fetch(&topic, 0, 0, READ_UNCOMMITTED));
    });
}

#[test]
fn an_idempotent_client_writes_in_order() {
    Script::run("idempotent_client", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let client = Client::producer(script, &[("enable.idempotence", "true")]);
        for number in 0..20 {
            let (key, value) = (format!("k{}", number % 3), number.to_string());
            let record = BaseRecord::to(&topic).partition(number % 2).key(&key).payload(&value);
            client.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        let mut reports = client.reports();
        reports.sort();
        script.say(reports.join("; "));
        for line in client::read(script, "read_uncommitted", &topic, 2, Offset::Beginning) {
            script.say(line);
        }
    });
}

#[test]
fn older_clients_are_answered_as_they_understand() {
    Script::run("produce_versions", |script| {
        let topic = script.topic("fleet", 1, &[("cleanup.policy", "compact")]);
        let good = ask::produce(&topic, 0, Batch::of(&["a=1"]).bytes());
        let keyless = ask::produce(&topic, 0, Batch::of(&["a=1", "=2"]).bytes());
        for version in 3..=9 {
            script.ask(&format!("version {version}"), version, &good);
            script.ask(&format!("keyless, version {version}"), version, &keyless);
        }
        let id = script.name("router");
        for version in 0..=4 {
            let answer = script.ask(&format!("init {version}"), version, &ask::init(&id, 60_000));
            let producer = (answer.producer_id.0, answer.producer_epoch);
            let group = script.name("group");
            script.ask("add", 0, &ask::add_offsets(&id, producer, &group));
            let version = version.min(3);
            let commit = ask::commit_in(&id, producer, &group, (&topic, 0, 1, "m"));
            script.ask(&format!("offsets {version}"), version, &commit);
            let version = version.min(1);
            let end = ask::end(&id, producer, true);
            script.ask(&format!("end {version}"), version, &end);
        }
    });
}
