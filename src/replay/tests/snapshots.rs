//! Replays that begin with published snapshots, and the state that is compared with them.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::lane::snapshot::seal;
use crate::lane::tests::laws::run_keeping;
use crate::model::snapshot::SnapshotPoint;
use crate::replay::find::find_task;
use crate::replay::snapshots::tests::{published, tombstones};
use crate::replay::snapshots::{Limit, newest};
use crate::replay::start::{earliest, start};

/// Small, so that a snapshot has many chunks.
const CHUNK_BYTES: usize = 200;

/// The topics of a history with the snapshots that its lane kept.
fn topics_with(bench: &Bench) -> Topics {
    let mut topics = topics_of(bench);
    let settings = settings(Policy::default());
    let kept = bench.kept.iter().map(|state| published(&settings, state, CHUNK_BYTES, 1));
    topics.insert(Topic::Snapshots, numbered(kept.flatten()));
    topics
}

fn numbered(records: impl IntoIterator<Item = Record>) -> Vec<Record> {
    (0..).zip(records).map(|(offset, record)| Record { offset, ..record }).collect()
}

/// Deletes the journal's records before this seq.
fn cut(topics: &mut Topics, first_seq: u64) {
    topics.get_mut(&Topic::Journal).unwrap().drain(..first_seq as usize - 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// The running lane, the same one decided again and the same one folded have one state.
    #[test]
    fn every_snapshot_is_the_state_of_its_batch(
        acts in proptest::collection::vec(act(), 20..120),
        keep_every in 1u64..6,
    ) {
        let bench = run_keeping(&acts, 3, keep_every);
        let topics = topics_with(&bench);
        let found = audit(&topics, Range::ALL);
        prop_assert_eq!(&found.first_divergence, &None);
        prop_assert_eq!(found.snapshots_equal as usize, bench.kept.len());
        prop_assert_eq!(&found.snapshots_not_compared, &BTreeMap::new());
        prop_assert_eq!(&found.begun_with, &[]);
        // Of another engine version everything is folded, and compared all the same.
        let mut older = topics.clone();
        for (index, batch) in journal_of(&topics).into_iter().enumerate() {
            plant(&mut older, index, &JournalRecord { engine_version: 9, ..batch });
        }
        let folded = audit(&older, Range::ALL);
        prop_assert_eq!(&folded.first_divergence, &None);
        prop_assert_eq!((folded.batches, folded.snapshots_equal), (0, found.snapshots_equal));
    }

    /// What was deleted is not missed behind the snapshot that stands for it.
    #[test]
    fn a_journal_without_its_beginning_is_played_from_a_snapshot(
        acts in proptest::collection::vec(act(), 30..120),
        share in 0.0..1.0f64,
        keep_every in 2u64..6,
    ) {
        let bench = run_keeping(&acts, 3, keep_every);
        let mut topics = topics_with(&bench);
        let batches = bench.prepared.len() as u64;
        prop_assume!(batches > 2 * keep_every);
        let first_seq = 2 + (share * (batches - keep_every) as f64) as u64;
        let times: Vec<Timestamp> =
            journal_of(&topics).iter().map(|batch| batch.batch_time_ms).collect();
        cut(&mut topics, first_seq);
        // The snapshot that the journal's next record follows, or a later one.
        let begun = (first_seq - 1).div_ceil(keep_every) * keep_every;
        let point = SnapshotPoint { seq: begun, batch_time_ms: times[begun as usize - 1] };
        let settings = settings(Policy::default());
        let found = earliest(&mut opened(&topics), &settings, 0).unwrap();
        prop_assert_eq!(found, Earliest::Snapshot(point));
        let found = audit(&topics, Range::ALL);
        prop_assert_eq!(&found.first_divergence, &None);
        prop_assert_eq!(found.batches, batches - begun);
        prop_assert_eq!(found.begun_with[0].seq, begun);

        // A range behind it is played; one that needs what is deleted is refused.
        let since = point.batch_time_ms.plus_ms(1);
        let found = audit(&topics, Range { since, until: Timestamp::MAX });
        let inside = times.iter().filter(|at| **at >= since).count();
        prop_assert_eq!((&found.first_divergence, found.batches as usize), (&None, inside));
        let range = Range { since: point.batch_time_ms, until: Timestamp::MAX };
        let mut found = Audit::default();
        let refused =
            audit_lane(&mut opened(&topics), &settings, 0, range, &mut found, &mut |_| ());
        let error = refused.unwrap_err().to_string();
        let expected = format!(
            "the journal of lane 0 begins at seq {first_seq}: what was before is deleted; earliest \
             replayable: what follows seq {begun}, of {}",
            point.batch_time_ms
        );
        prop_assert_eq!(error, expected);
    }
}

/// Five batches, a snapshot after each; `t1` fails, waits, and succeeds at last.
fn story() -> Bench {
    let mut bench = Bench::new(Policy::default());
    bench.keep_every = 1;
    bench.resource("one", json!({"slots": 2}));
    bench.resource("two", json!({"slots": 1, "quality": {"default": 0.4}}));
    bench.step();
    for id in 0..4 {
        bench.task(&format!("t{id}"), json!({}));
    }
    bench.step_at(1_000_200);
    bench.result("t1", 1, "failed", json!({}));
    bench.reread();
    bench.step_at(1_000_400);
    bench.result("t2", 1, "succeeded", json!({"output_tokens": 7}));
    bench.reread();
    bench.step_at(1_000_600);
    bench.result("t1", 2, "succeeded", json!({"output_tokens": 7}));
    bench.step_at(1_000_800);
    assert_eq!(bench.kept.len(), 5);
    bench
}

#[test]
fn the_newest_one_that_can_be_verified_serves() {
    let bench = story();
    let topics = topics_with(&bench);
    let settings = settings(Policy::default());
    let begun = |topics: &Topics, limit: Limit| {
        let begun = start(&mut opened(topics), &settings, 0, limit).unwrap();
        (begun.from.seq, begun.passed_over)
    };
    let seq = |seq_max| Limit { seq_max, ..Limit::NONE };
    assert_eq!(begun(&topics, Limit::NONE), (5, vec![]));
    assert_eq!(begun(&topics, seq(3)), (3, vec![]));
    assert_eq!(begun(&topics, seq(0)), (0, vec![]));
    let before = |ms| Limit { before: Timestamp::from_ms(ms), ..Limit::NONE };
    assert_eq!(begun(&topics, before(1_000_400)), (2, vec![]));
    assert_eq!(begun(&topics, before(1_000_401)), (3, vec![]));
    assert_eq!(begun(&topics, before(1_000_000)), (0, vec![]));

    let changed = |change: &dyn Fn(&mut Vec<Vec<Record>>)| {
        let mut snapshots: Vec<Vec<Record>> =
            bench.kept.iter().map(|state| published(&settings, state, CHUNK_BYTES, 1)).collect();
        change(&mut snapshots);
        let mut topics = topics.clone();
        topics.insert(Topic::Snapshots, numbered(snapshots.into_iter().flatten()));
        begun(&topics, Limit::NONE)
    };
    let passed = |seq: u64, why: &str| (4, vec![(seq, why.to_owned())]);
    let damage = |records: &mut Vec<Vec<Record>>| records[4][0].value.as_mut().unwrap()[9] ^= 1;
    assert_eq!(changed(&damage), passed(5, "its hash does not match"));
    let (found, why) = changed(&|records| drop(records[4].remove(1)));
    assert_eq!((found, why[0].0), (4, 5));
    assert!(why[0].1.ends_with("chunks are there"), "{why:?}");
    // Its manifest was never committed.
    assert_eq!(changed(&|records| drop(records[4].pop())), (4, vec![]));
    // Removed, and not compacted yet: there all the same.
    let removed = |records: &mut Vec<Vec<Record>>| records.push(tombstones(&records[3]));
    assert_eq!(changed(&removed), (5, vec![]));
    // Removed and compacted.
    assert_eq!(changed(&|records| drop(records.pop())), (4, vec![]));
    assert_eq!(changed(&|records| records.clear()), (0, vec![]));

    // Of a journal that was made anew.
    let mut other = topics_with(&story());
    let mut batches = journal_of(&other);
    batches[4].prev_hash = "0".repeat(32);
    batches[3].hash = "0".repeat(32);
    for index in [3, 4] {
        plant(&mut other, index, &batches[index]);
    }
    let (found, why) = begun(&other, seq(4));
    assert_eq!((found, why), (3, vec![(4, "it is of another journal".to_owned())]));
}

#[test]
fn a_search_reads_as_far_back_as_it_must() {
    let bench = story();
    let settings = settings(Policy::default());
    let chunks = |chunk_bytes: usize| {
        let kept = bench.kept.iter();
        numbered(kept.flat_map(|state| published(&settings, state, chunk_bytes, 1)))
    };
    for chunk_bytes in [5, 50, 100_000] {
        let mut topics = topics_of(&bench);
        topics.insert(Topic::Snapshots, chunks(chunk_bytes));
        for seq_max in 1..=5 {
            let limit = Limit { seq_max, ..Limit::NONE };
            let (manifest, bytes) =
                newest(&mut opened(&topics), 0, limit).unwrap().unwrap().unwrap();
            assert_eq!(manifest.seq, seq_max);
            assert!(bytes == bench.kept[seq_max as usize - 1], "{seq_max}");
        }
    }
}

#[test]
fn a_snapshot_that_is_not_the_state_is_a_divergence() {
    let mut bench = story();
    let state = &mut bench.kept[3];
    // The last recent id, before the hash.
    let at = state.len() - 17;
    state[at] ^= 1;
    state.truncate(state.len() - 16);
    seal(state);
    let found = audit(&topics_with(&bench), Range::ALL);
    let divergence = found.first_divergence.unwrap();
    assert_eq!((divergence.seq, divergence.what.as_str()), (4, "snapshot, recent ids"));
    assert_eq!((found.snapshots_equal, found.diverged_lanes), (3, 1));
}

#[test]
fn a_story_begins_where_its_task_was_admitted() {
    let bench = story();
    let mut topics = topics_with(&bench);
    let settings = settings(Policy::default());
    let place = |topics: &Topics, id: &str| {
        find_decision(&mut opened(topics), &settings, id).unwrap().map(|place| place.seq)
    };
    let decision = |task_id: &str, attempt: u32| {
        let codec = &settings.codec;
        let records = topics[&Topic::RouteDecisions].iter();
        let mut decided = records.filter_map(|record| {
            let decision = record.with_raw(Topic::RouteDecisions, |raw| {
                codec.decode_route_decision(raw).map(|decision| {
                    let is_it = decision.task_id == task_id && decision.attempt == attempt;
                    is_it.then(|| decision.decision_id.to_string())
                })
            });
            decision.unwrap()
        });
        decided.next_back().unwrap()
    };
    let second = decision("t1", 2);
    assert_eq!(place(&topics, &second), Some(2));
    let search = |topics: &Topics, id: &str, since: i64| {
        let since = Timestamp::from_ms(since);
        let found = find_task(&mut opened(topics), &settings, 0, id, since, &mut || ());
        found.unwrap().map(|place| place.seq)
    };
    assert_eq!(search(&topics, "t1", 0), Some(2));
    // The batch that is found first is a later one, and the state says which was the first.
    assert_eq!(search(&topics, "t1", 1_000_300), Some(2));
    assert_eq!(search(&topics, "t1", 1_002_000), None);
    assert_eq!(search(&topics, "nobody", 0), None);
    let told = |topics: &Topics, id: &str| {
        let mut source = opened(topics);
        let place = find_decision(&mut source, &settings, id).unwrap().unwrap();
        tell(&mut source, &settings, &place, Timestamp::MAX, &mut |_| ()).unwrap().unwrap()
    };
    let whole = told(&topics, &second);
    let kinds: Vec<String> =
        whole.events.iter().map(|event| format!("{} {}", event.seq, event.kind)).collect();
    assert_eq!(whole.begun_with_seq, Some(1));
    assert_eq!(whole.ended, "over");
    let expected = ["2 routed", "3 attempt_ended", "4 routed", "5 attempt_ended"];
    assert_eq!(
        (kinds.as_slice(), whole.verified_batches, whole.batches),
        (&expected.map(String::from)[..], 4, 4)
    );
    // Without what was before the snapshot, and without the published decision.
    cut(&mut topics, 2);
    assert_eq!(told(&topics, &second), whole);
    topics.remove(&Topic::RouteDecisions);
    assert_eq!(told(&topics, &second), whole);
}
