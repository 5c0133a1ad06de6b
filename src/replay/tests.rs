//! Random histories, recorded and audited: nothing may differ; and what was planted must be found.

mod snapshots;

use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::audit::{Audit, Range, audit_lane};
use super::find::{Place, find_decision};
use super::journal::Earliest;
use super::recording::{About, Recording, RecordingError, Writer};
use super::source::Source as _;
use super::story::tell;
use super::what_if::{Change, Changed, Comparison, First, Tally, compare_lane};
use super::{Record, journal};
use crate::codec::OutputFormat;
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::lane::tests::laws::{act, run_in_batches};
use crate::lane::tests::{Bench, settings};
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::model::policy::Policy;
use crate::model::resource::FleetEntry;
use crate::model::time::Timestamp;
use crate::routing::fact::{FACT_LEVEL, FACT_LEVEL_OLDEST, Fact};

/// Topics of a history: what went in, what came out.
type Topics = BTreeMap<Topic, Vec<Record>>;

fn topics_of(bench: &Bench) -> Topics {
    let mut topics = bench.records.clone();
    for batch in &bench.prepared {
        for output in &batch.records {
            let OutputTopic::Known(topic) = &output.topic else { continue };
            let records = topics.entry(*topic).or_default();
            records.push(published(batch, output, records.len() as i64));
        }
    }
    topics
}

fn published(
    batch: &Prepared,
    output: &crate::lane::prepared::OutputRecord,
    offset: i64,
) -> Record {
    let bytes = |range: &std::ops::Range<u32>| batch.slice(range).to_vec();
    let headers = batch.headers_of(output);
    Record {
        partition: 0,
        offset,
        timestamp_ms: output.timestamp_ms,
        key: output.key.as_ref().map(bytes),
        value: output.value.as_ref().map(bytes),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
            .collect(),
    }
}

fn about() -> About {
    About {
        lanes: 1,
        recorded_at_ms: 0,
        group: "test".to_owned(),
        output: OutputFormat::Json,
        decisions_by_pool: false,
        topic_names: BTreeMap::new(),
        schema_ids: BTreeMap::new(),
        writer_schemas: BTreeMap::new(),
    }
}

fn recorded(topics: &Topics) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for topic in Topic::ALL {
        let records = topics.get(&topic).map(Vec::as_slice).unwrap_or_default();
        let first = records.first().map_or(0, |record| record.offset);
        let end = records.last().map_or(0, |record| record.offset + 1);
        writer.part(topic, 0, &(first..end));
        for record in records {
            writer.record(topic, record).unwrap();
        }
    }
    writer.finish(about()).unwrap()
}

fn opened(topics: &Topics) -> Recording<Cursor<Vec<u8>>> {
    Recording::open(Cursor::new(recorded(topics))).unwrap()
}

fn audit(topics: &Topics, range: Range) -> Audit {
    let mut found = Audit::default();
    let settings = settings(Policy::default());
    audit_lane(&mut opened(topics), &settings, 0, range, &mut found, &mut |_| ()).unwrap();
    found
}

/// The batches of a history, as they are journaled.
fn journal_of(topics: &Topics) -> Vec<JournalRecord> {
    let codec = settings(Policy::default()).codec;
    let records = topics.get(&Topic::Journal).into_iter().flatten();
    records.map(|record| codec.decode_journal(record.value.as_ref().unwrap()).unwrap()).collect()
}

/// Changes one batch of the journal and nothing else.
fn plant(topics: &mut Topics, index: usize, batch: &JournalRecord) {
    let mut value = Vec::new();
    settings(Policy::default()).codec.encode_journal(batch, &mut value);
    topics.get_mut(&Topic::Journal).unwrap()[index].value = Some(value);
}

fn with_facts(batch: &JournalRecord, facts: &[Fact]) -> JournalRecord {
    let bytes = facts.iter().flat_map(|fact| postcard::to_stdvec(fact).unwrap()).collect();
    JournalRecord { facts: bytes, ..batch.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_history_is_decided_again_bit_for_bit(
        acts in proptest::collection::vec(act(), 1..120),
        batch_records_max in prop_oneof![Just(1usize), Just(3), Just(4_096)],
    ) {
        let bench = run_in_batches(&acts, batch_records_max);
        let topics = topics_of(&bench);
        let found = audit(&topics, Range::ALL);
        prop_assert_eq!(&found.first_divergence, &None);
        prop_assert_eq!(found.batches as usize, bench.prepared.len());
        prop_assert_eq!(found.identical, found.decisions);
        prop_assert_eq!(&found.folded_batches, &BTreeMap::new());
        let compared = [Topic::RouteDecisions, Topic::AllocationEvents, Topic::BalanceEvents];
        let outputs: usize =
            compared.iter().filter_map(|topic| topics.get(topic)).map(Vec::len).sum();
        prop_assert_eq!(found.published_equal as usize, outputs);
    }

    #[test]
    fn a_range_begins_with_the_state_of_what_was_before(
        acts in proptest::collection::vec(act(), 20..120),
        share in 0.0..1.0f64,
    ) {
        let bench = run_in_batches(&acts, 3);
        let topics = topics_of(&bench);
        let journal = journal_of(&topics);
        prop_assume!(!journal.is_empty());
        let since = journal[(share * journal.len() as f64) as usize].batch_time_ms;
        let found = audit(&topics, Range { since, until: Timestamp::MAX });
        let inside = journal.iter().filter(|batch| batch.batch_time_ms >= since).count();
        prop_assert_eq!(&found.first_divergence, &None);
        prop_assert_eq!(found.batches as usize, inside);
    }

}

proptest! {
    // Each one is an audit of its own.
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn one_changed_byte_of_a_fact_is_found(
        acts in proptest::collection::vec(act(), 20..80),
        batch in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let mut topics = topics_of(&run_in_batches(&acts, 4_096));
        let journal = journal_of(&topics);
        prop_assume!(!journal.is_empty());
        let index = batch.index(journal.len());
        let mut changed = journal[index].clone();
        let at = byte.index(changed.facts.len());
        changed.facts[at] ^= 1 << bit;
        plant(&mut topics, index, &changed);
        let found = audit(&topics, Range::ALL);
        // One that names a control record that is not there is not run again, and reported so:
        // compaction may have taken the record.
        if found.folded_batches.is_empty() {
            let seq = found.first_divergence.as_ref().map(|found| found.seq);
            prop_assert_eq!(seq, Some(index as u64 + 1), "{:?}", found);
        }
    }
}

/// Two resources, six tasks, results, over a few batches.
fn lived() -> Topics {
    let mut bench = Bench::new(Policy::default());
    bench.resource("one", serde_json::json!({"slots": 3}));
    bench.resource("two", serde_json::json!({"slots": 1, "quality": {"default": 0.4}}));
    bench.step();
    for id in 0..6 {
        // A second costs so much that nobody waits for what is better.
        let objective = serde_json::json!({"quality": 1.0, "usd": 0.0, "second": 0.3});
        bench.task(&format!("t{id}"), serde_json::json!({"objective": objective}));
    }
    bench.step_at(1_000_200);
    bench.result("t1", 1, "succeeded", serde_json::json!({"output_tokens": 7}));
    bench.reread();
    bench.step_at(1_000_400);
    topics_of(&bench)
}

#[test]
fn a_changed_fact_is_named() {
    let mut topics = lived();
    let batch = journal_of(&topics).remove(1);
    let mut facts = Lane::facts_of(&batch).unwrap();
    let Fact::Routed { lease_until, .. } = &mut facts[1] else { panic!("{facts:?}") };
    let before = *lease_until;
    *lease_until = before.plus_ms(1);
    plant(&mut topics, 1, &with_facts(&batch, &facts));
    let found = audit(&topics, Range::ALL).first_divergence.unwrap();
    assert_eq!((found.lane, found.epoch, found.seq, found.what.as_str()), (0, 1, 2, "fact 1"));
    let shown = |until: Timestamp| format!("lease_until: {until:?}");
    assert!(found.expected.contains(&shown(before.plus_ms(1))), "{}", found.expected);
    assert!(found.found.contains(&shown(before)), "{}", found.found);
}

#[test]
fn another_fleet_is_found_where_it_first_matters() {
    let mut topics = lived();
    let batch = journal_of(&topics).remove(0);
    let mut facts = Lane::facts_of(&batch).unwrap();
    let entry = facts
        .iter_mut()
        .find_map(|fact| if let Fact::FleetSet { entry, .. } = fact { Some(entry) } else { None });
    let FleetEntry::Resource(spec) = &mut **entry.unwrap() else { panic!() };
    spec.slots = 1;
    let changed = with_facts(&batch, &facts);
    plant(&mut topics, 0, &changed);
    let found = audit(&topics, Range::ALL).first_divergence.unwrap();
    assert_eq!((found.seq, found.what.as_str()), (1, "outputs"));
}

#[test]
fn what_was_published_is_compared_too() {
    let check = |change: &dyn Fn(&mut Vec<Record>), expected: (&str, &str, &str)| {
        let mut topics = lived();
        change(topics.get_mut(&Topic::RouteDecisions).unwrap());
        let found = audit(&topics, Range::ALL).first_divergence.unwrap();
        let shown = (found.what.as_str(), found.expected.as_str(), found.found.as_str());
        assert_eq!((found.seq, shown), (2, expected));
    };
    check(
        &|records| records[1].value.as_mut().unwrap().push(b' '),
        ("route-decisions 0-1-2-2", "681 bytes", "other 680 bytes"),
    );
    check(
        &|records| drop(records.remove(1)),
        ("route-decisions 0-1-2-2", "not published", "an output"),
    );
    check(
        &|records| {
            let twice = records[0].clone();
            records.insert(1, twice);
        },
        ("route-decisions 0-1-2-2", "0-1-2-0", "never decided"),
    );
    check(
        &|records| records[0].headers[0].1 = None,
        ("route-decisions 0-1-2-0", "headers", "other headers"),
    );
}

#[test]
fn another_engine_is_folded_and_said() {
    let mut topics = lived();
    for (index, batch) in journal_of(&topics).into_iter().enumerate().take(2) {
        plant(&mut topics, index, &JournalRecord { engine_version: 9, ..batch });
    }
    let found = audit(&topics, Range::ALL);
    // The last batch is run again on the folded state.
    assert_eq!(found.first_divergence, None);
    assert_eq!((found.batches, found.folded_decisions), (1, 4));
    assert_eq!(found.folded_batches, BTreeMap::from([("engine version 9".to_owned(), 2)]));
}

fn what_if(topics: &Topics, change: &Change) -> (Comparison, Vec<Changed>) {
    let mut changed = Vec::new();
    let mut keep = |one: &Changed| changed.push(one.clone());
    let mut tally = Tally::new(&mut keep);
    let (mut source, settings) = (opened(topics), settings(Policy::default()));
    compare_lane(&mut source, &settings, 0, Range::ALL, change, &mut tally, &mut |_| ()).unwrap();
    (tally.finish(), changed)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn a_change_without_consequences_has_none(
        acts in proptest::collection::vec(act(), 20..120),
    ) {
        let topics = topics_of(&run_in_batches(&acts, 3));
        let mut change = Change::default();
        change.set("nobody.slots=7").unwrap();
        let (found, changed) = what_if(&topics, &change);
        prop_assert_eq!(changed, []);
        prop_assert_eq!(found.changed, 0);
        prop_assert_eq!(found.baseline, found.what_if);
        prop_assert_eq!(found.modelled_share, 0.0);
    }
}

#[test]
fn a_change_moves_tasks_and_models_what_comes_back() {
    let mut change = Change::default();
    change.set("one.slots=1").unwrap();
    let (found, changed) = what_if(&lived(), &change);
    let places: Vec<String> = changed
        .iter()
        .map(|one| {
            let place = |first: &Option<First>| {
                let resource = first.as_ref().and_then(|first| first.resource.clone());
                resource.unwrap_or_else(|| "waiting".to_owned())
            };
            format!("{} {} {}", one.task_id, place(&one.baseline), place(&one.what_if))
        })
        .collect();
    // Of six tasks three fit `one` and one fits `two`; with one slot less work is done.
    assert_eq!(places, ["t1 one two", "t2 one waiting", "t3 two waiting", "t4 one waiting"]);
    assert_eq!((found.tasks, found.same, found.changed), (6, 1, 4));
}

#[test]
fn a_setting_that_is_none_says_so() {
    let check = |text: &str, expected: &str| {
        assert_eq!(Change::default().set(text).unwrap_err().to_string(), expected);
    };
    check("slots", "`slots` is no KEY=VALUE; allowed: routing.KEY=VALUE or RESOURCE.KEY=VALUE");
    check("slots=1", "`slots=1` is no KEY=VALUE; allowed: routing.KEY=VALUE or RESOURCE.KEY=VALUE");
    check(
        "routing.attempts_max=many",
        "routing.attempts_max: invalid type: string \"many\", expected u32",
    );
}

#[test]
fn a_story_is_told_and_verified() {
    let topics = lived();
    let settings = settings(Policy::default());
    let mut source = opened(&topics);
    let place = find_decision(&mut source, &settings, "0-1-2-2").unwrap().unwrap();
    let batch_time = Timestamp::from_ms(1_000_200);
    assert_eq!(place, Place { lane: 0, task_id: "t1".to_owned(), seq: 2, batch_time });
    let mut told =
        |place: &Place| tell(&mut source, &settings, place, Timestamp::MAX, &mut |_| ()).unwrap();
    let story = told(&place).unwrap();
    let events: Vec<String> = story
        .events
        .iter()
        .map(|event| {
            let id = event.decision_id.as_deref().unwrap_or("-");
            let considered: Vec<&str> =
                event.considered.iter().map(|one| one.resource.as_str()).collect();
            format!("{} {} {id} {}", event.seq, event.kind, considered.join(","))
        })
        .collect();
    assert_eq!(events, ["2 routed 0-1-2-2 one,two", "3 attempt_ended - "]);
    assert_eq!((story.verified_batches, story.batches, story.ended), (2, 2, "over"));
    let nobody = Place { task_id: "nobody".to_owned(), ..place };
    assert_eq!(told(&nobody), None);
    assert_eq!(find_decision(&mut opened(&topics), &settings, "0-1-9-0").unwrap(), None);
}

#[test]
fn an_unknown_fact_level_is_refused() {
    for level in [0, FACT_LEVEL + 1] {
        let batch = JournalRecord { fact_level: level, ..journal_of(&lived()).remove(0) };
        let error = Lane::facts_of(&batch).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "journal of lane 0 at seq 1 has fact level {level}, and this release reads levels \
                 {FACT_LEVEL_OLDEST} to {FACT_LEVEL}"
            )
        );
    }
}

#[test]
fn a_recording_gives_back_what_it_was_given() {
    let topics = lived();
    let mut recording = opened(&topics);
    for topic in Topic::ALL {
        let records = topics.get(&topic).cloned().unwrap_or_default();
        assert_eq!(recording.bounds(topic, 0).unwrap(), 0..records.len() as i64);
        for from in 0..=records.len() {
            let mut cursor = recording.open(topic, 0, from as i64).unwrap();
            for record in &records[from..] {
                assert_eq!(cursor.next().unwrap().as_ref(), Some(record));
            }
            assert_eq!(cursor.next().unwrap(), None);
            let at = recording.at(topic, 0, from as i64).unwrap();
            assert_eq!(at.as_ref(), records.get(from));
        }
    }
    let at = |ms| recording_time(&topics, ms);
    assert_eq!(at(0), 0);
    assert_eq!(at(1_000_001), 1);
    assert_eq!(at(2_000_000), 3);
    assert_eq!(recording.about(), &about());
}

fn recording_time(topics: &Topics, ms: i64) -> i64 {
    opened(topics).offset_at(Topic::Journal, 0, Timestamp::from_ms(ms)).unwrap()
}

#[test]
fn a_recording_that_is_none_says_so() {
    let bytes = recorded(&lived());
    let error = |bytes: &[u8]| match Recording::open(Cursor::new(bytes.to_vec())) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    };
    let none = RecordingError::NotOne.to_string();
    assert_eq!(error(b""), none);
    assert_eq!(error(b"PMREC002............................"), none);
    assert_eq!(error(&bytes[..bytes.len() - 1]), RecordingError::Cut.to_string());
    assert_eq!(error(&bytes[..9]), RecordingError::Cut.to_string());
    let mut flipped = bytes.clone();
    flipped[20] ^= 1;
    let mut recording = Recording::open(Cursor::new(flipped)).unwrap();
    let read = recording.open(Topic::Tasks, 0, 0).unwrap().next();
    assert_eq!(read.unwrap_err().to_string(), "it is damaged: a block of tasks/0");
}

#[test]
fn a_journal_that_lost_its_beginning_is_refused() {
    let mut topics = lived();
    topics.get_mut(&Topic::Journal).unwrap().remove(0);
    let mut found = Audit::default();
    let settings: LaneSettings = settings(Policy::default());
    let error = audit_lane(&mut opened(&topics), &settings, 0, Range::ALL, &mut found, &mut |_| ())
        .unwrap_err();
    assert!(matches!(
        error.downcast_ref::<journal::PlayError>(),
        Some(journal::PlayError::Begun { lane: 0, seq: 2, earliest: Earliest::Nowhere { seq: 2 } })
    ));
}
