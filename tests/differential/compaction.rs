//! What compaction leaves: the last record of each key, where it was.

use rdkafka::Offset;
use testbed::eventually;

use crate::ask::{self, READ_COMMITTED, READ_UNCOMMITTED};
use crate::client;
use crate::raw::Batch;
use crate::script::{LIMIT, Script};

/// As soon and as thoroughly as Kafka can.
const AT_ONCE: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("segment.ms", "100"),
    ("min.cleanable.dirty.ratio", "0.001"),
    ("min.compaction.lag.ms", "0"),
    ("max.compaction.lag.ms", "100"),
    ("message.timestamp.after.max.ms", "9000000000000"),
];

/// Later than the markers of any run.
const FILLERS_MS: i64 = 4_000_000_000_000;

/// Neither the end nor what was written to wait belongs to the transcript.
fn without_fillers(found: Vec<String>) -> Vec<String> {
    found.into_iter().filter(|record| !record.contains("'filler'")).collect()
}

/// Writes on, so that what was written before is no longer in the active segment, until readers find
/// `left` records; then the transcript has them.
fn until_compacted(script: &mut Script, topic: &str, left: usize) {
    let mut created_ms = FILLERS_MS;
    let found = eventually("compaction", LIMIT, || {
        // A segment ends by the age of its records.
        created_ms += 1_000;
        let filler = Batch::of(&["filler=x"]).created_ms(created_ms);
        script.answer(8, &ask::produce(topic, 0, filler.bytes()));
        let found = client::read(script, "read_committed", topic, 1, Offset::Beginning);
        let found = without_fillers(found);
        (found.len() == left).then_some(found)
    });
    for record in found {
        script.say(record);
    }
}

#[test]
fn the_last_record_of_each_key_stays() {
    Script::run("compaction", |script| {
        let topic = script.topic("fleet", 1, AT_ONCE);
        for records in [
            &["a=1", "b=1", "a=2"][..],
            &["c=1"],
            &["b=2", "a=3", "d=1"],
            &["d"],
            &["e=1", "e=2", "e"],
            &["c=2"],
        ] {
            let batch = Batch::of(records);
            script.produce("produce", &ask::produce(&topic, 0, batch.bytes()));
        }
        until_compacted(script, &topic, 5);
        // Into a hole: what follows it.
        let tail = client::read(script, "read_committed", &topic, 1, Offset::Offset(4));
        script.say(format!("{:?}", without_fillers(tail)));
        let earliest = ask::list_offsets(&topic, 0, -2, READ_UNCOMMITTED);
        script.ask("the beginning", 7, &earliest);
        let request = ask::fetch(&topic, 0, 0, READ_UNCOMMITTED);
        let answer = script.answer(12, &request);
        let partition = &answer.responses[0].partitions[0];
        script.say(format!("log start {}", partition.log_start_offset));
    });
}

#[test]
fn aborted_records_are_compacted_away_and_count_for_no_key() {
    Script::run("compaction_of_transactions", |script| {
        let topic = script.topic("fleet", 1, AT_ONCE);
        let id = script.name("router");
        let answer = script.ask("init", 4, &ask::init(&id, 60_000));
        let producer = (answer.producer_id.0, answer.producer_epoch);
        let (mut sequence, mut end) = (0, 0);
        for (records, commit) in
            [(&["a=1", "b=1"][..], true), (&["a=aborted"], false), (&["b=2"], true)]
        {
            script.ask("add", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
            let batch = Batch::of(records).by(producer, sequence).transactional();
            script.produce("produce", &ask::produce_in(&id, &topic, 0, batch.bytes()));
            script.ask("end", 1, &ask::end(&id, producer, commit));
            sequence += i32::try_from(records.len()).unwrap();
            end += i64::try_from(records.len()).unwrap() + 1;
            script.until_end(&topic, 0, READ_COMMITTED, end);
        }
        until_compacted(script, &topic, 2);
        let found = client::read(script, "read_uncommitted", &topic, 1, Offset::Beginning);
        script.say(format!("read_uncommitted: {:?}", without_fillers(found)));
    });
}
