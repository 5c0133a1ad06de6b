//! When snapshots are taken, and what a lane makes of those that it finds.

use super::*;
use crate::lane::snapshot::seal;
use crate::model::snapshot::{MANIFEST_FORMAT, Manifest};

/// A lane that has committed its first batch, and takes snapshots after so many.
fn keeping(local: u64, publish: u64) -> Bench {
    let mut settings = settings();
    settings.snapshot.local_batches = local;
    settings.snapshot.publish_batches = publish;
    Bench::with(4, settings).started(&[0])
}

/// One more batch: that of the task with this offset.
#[track_caller]
fn batch(bench: &mut Bench, offset: i64, then: &[&str]) {
    bench.task(0, offset);
    bench.pass_ms(5);
    bench.transact(&[&format!("produce 0 seq {}", offset + 2)]);
    bench.expect(then);
}

fn stored(bench: &mut Bench, manifest: Option<Manifest>) {
    let run = bench.taken.last().unwrap().run;
    bench.tell(Event::SnapshotStored { lane: 0, run, manifest });
}

fn manifest_of(taken: &Taken) -> Manifest {
    Manifest {
        format: MANIFEST_FORMAT,
        lane: taken.lane,
        seq: taken.seq,
        hash: taken.hash.clone(),
        batch_time_ms: taken.batch_time,
        tasks_offset: taken.tasks_offset,
        state_bytes: 1,
        stored_bytes: 1,
        chunks: 1,
        stored_hash: String::new(),
        kept: true,
        last_kept: None,
        previous: None,
        previous_kept: false,
        drops: Vec::new(),
    }
}

#[test]
fn one_is_taken_when_due_and_stored_once_its_batch_is_committed() {
    let mut bench = keeping(2, 0);
    batch(&mut bench, 0, &["store 0 seq 2"]);
    // One at a time.
    batch(&mut bench, 1, &[]);
    batch(&mut bench, 2, &[]);
    stored(&mut bench, None);
    batch(&mut bench, 3, &["store 0 seq 5"]);
    let seqs: Vec<u64> = bench.taken.iter().map(|taken| taken.seq).collect();
    assert_eq!(seqs, [2, 5]);
    let taken = &bench.taken[1];
    let committed = bench.journals[&0].last().unwrap();
    assert_eq!((&taken.hash, taken.tasks_offset), (&committed.hash, 4));
}

#[test]
fn what_belongs_to_a_batch_that_was_not_committed_is_dropped() {
    let mut bench = keeping(2, 0);
    bench.task(0, 0);
    bench.pass_ms(5);
    bench.step_to("commit");
    bench.tell(Event::Failed(unknown()));
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    // Not committed, and the lane is still ours: the same bytes, and the same snapshot.
    bench.answer_committed(&[0]);
    bench.checks_journal(0);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
    bench.expect(&["store 0 seq 2"]);
    // It is one of this run of the lane: the next one does not wait for it for ever.
    let run = bench.taken[0].run;
    bench.tell(Event::SnapshotStored { lane: 0, run, manifest: None });
    batch(&mut bench, 1, &[]);
    batch(&mut bench, 2, &["store 0 seq 4"]);

    let mut bench = keeping(2, 0);
    bench.task(0, 0);
    bench.pass_ms(5);
    bench.step_to("commit");
    bench.tell(Event::Failed(unknown()));
    bench.step_to("reopen");
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    // Another instance has decided something else: nothing of ours is stored.
    let mut other = Bench::running(&[0]);
    for offset in 0..2 {
        other.task(0, offset);
        other.pass_ms(5);
        other.step_to("commit");
        other.commit();
        other.tell(Event::Done);
        other.commands();
    }
    bench.finds_snapshots = true;
    bench.answer(vec![(0, other.commit_of(0))]);
    let commands = bench.commands();
    assert!(commands.iter().all(|command| !command.starts_with("store")), "{commands:?}");
    assert_eq!(commands[0], "find snapshot 0 up to 3, published 0");
}

#[test]
fn a_published_one_counts_from_the_batch_that_carries_its_manifest() {
    let mut bench = keeping(0, 2);
    batch(&mut bench, 0, &["publish 0 seq 2"]);
    batch(&mut bench, 1, &[]);
    let hash = bench.journals[&0].last().unwrap().hash.clone();
    assert_eq!(bench.journals[&0].last().unwrap().metadata, format!("v1;1;3;{hash};0;0;4"));
    let manifest = manifest_of(bench.taken.last().unwrap());
    stored(&mut bench, Some(manifest.clone()));
    batch(&mut bench, 2, &["announced 0 seq 2"]);
    let carrier = bench.journals[&0].last().unwrap();
    let at = manifest.batch_time_ms.as_ms();
    assert_eq!(carrier.metadata, format!("v1;1;4;{};2;{at};4", carrier.hash));
    let record = &carrier.records[0];
    assert_eq!(record.topic, crate::lane::prepared::OutputTopic::Known(Topic::Snapshots));
    assert_eq!(carrier.slice(record.key.as_ref().unwrap()), b"0/2/manifest");
    let value: Manifest =
        serde_json::from_slice(carrier.slice(record.value.as_ref().unwrap())).unwrap();
    assert_eq!(value, manifest);
    assert_eq!(carrier.headers_of(record).count(), 0);
    // It is named from then on, and announced once.
    batch(&mut bench, 3, &["publish 0 seq 5"]);
    let next = bench.journals[&0].last().unwrap();
    assert_eq!(next.metadata, format!("v1;1;5;{};2;{at};4", next.hash));
    // An answer of a former run is nobody's.
    let manifest = manifest_of(bench.taken.last().unwrap());
    bench.tell(Event::SnapshotStored { lane: 0, run: 0, manifest: Some(manifest) });
    batch(&mut bench, 4, &[]);
}

/// Three batches, the snapshot of the second, and what a worker does that finds them committed.
fn restarted() -> (Bench, Vec<u8>, i64) {
    let mut before = keeping(2, 0);
    batch(&mut before, 0, &["store 0 seq 2"]);
    batch(&mut before, 1, &[]);
    let bytes = before.taken[0].frozen.encode().unwrap();
    let at = before.taken[0].batch_time.as_ms();
    let mut bench = Bench::new(4);
    bench.finds_snapshots = true;
    bench.journals = before.journals.clone();
    bench.assign(&[0]);
    bench.step_to("reopen");
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&["find snapshot 0 up to 3, published 0"]);
    assert_eq!(bench.worker.restoring(), [(0, 0, 3)]);
    (bench, bytes, at)
}

#[track_caller]
fn goes_on(bench: &mut Bench) {
    bench.tell(Event::End { topic: Topic::Fleet, partition: 0, offset: 1 });
    bench.tell(Event::End { topic: Topic::HealthEvents, partition: 0, offset: 0 });
    bench.expect(&["runs 0", "read inputs tasks[0]@2 task-results[0]@0 lane-inbox[0]@0"]);
    batch(bench, 2, &[]);
}

#[test]
fn a_restart_begins_with_a_snapshot_and_folds_what_follows() {
    let (mut bench, bytes, at) = restarted();
    bench.answer_snapshot(0, Some((2, &bytes)));
    bench.expect(&["begins 0 at 2 of 3 Local", &format!("read journal 0 from {at}")]);
    assert_eq!(bench.worker.restoring(), [(0, 2, 3)]);
    // The record at that time is the snapshot's own.
    bench.read_journal_after(0, 1);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    goes_on(&mut bench);
}

#[test]
fn a_snapshot_of_the_committed_batch_needs_nothing_of_the_journal() {
    let (mut bench, bytes, _) = restarted();
    bench.answer_snapshot(0, Some((2, &bytes)));
    bench.commands();
    bench.read_journal(0);
    bench.commands();
    let mut lane = bench.worker.lanes();
    let lane = lane.next().unwrap();
    let (bytes, at) = (lane.snapshot().unwrap(), lane.batch_time().as_ms());
    let (mut bench, _, _) = restarted();
    bench.answer_snapshot(0, Some((3, &bytes)));
    bench.expect(&["begins 0 at 3 of 3 Local", &format!("read journal 0 from {at}")]);
    bench.read_journal_after(0, 2);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    goes_on(&mut bench);
}

#[test]
fn a_journal_that_is_ahead_of_the_offsets_is_right() {
    for snapshot in [false, true] {
        let (mut bench, bytes, _) = restarted();
        // As if a request of the batch before had come late, or the last offsets were lost.
        let last = bench.journals.get_mut(&0).unwrap().pop().unwrap();
        let commit = bench.commit_of(0);
        bench.tell(Event::Revoked);
        bench.assign(&[0]);
        bench.expect(&["fetch committed [0]"]);
        bench.answer(vec![(0, commit)]);
        bench.expect(&["find snapshot 0 up to 2, published 0"]);
        bench.answer_snapshot(0, snapshot.then_some((2, &bytes)));
        bench.commands();
        bench.journals.get_mut(&0).unwrap().push(last);
        bench.read_journal(0);
        bench.expect(&["stop journal 0", "offsets of 0 behind: 2 of 3", "read controls 1 0"]);
        goes_on(&mut bench);
    }
}

#[test]
fn reading_that_began_too_late_begins_again() {
    let (mut bench, bytes, at) = restarted();
    bench.answer_snapshot(0, Some((2, &bytes)));
    bench.expect(&["begins 0 at 2 of 3 Local", &format!("read journal 0 from {at}")]);
    // A later batch, as if the one in between had an earlier time.
    let mut longer = keeping(0, 0);
    for offset in 0..3 {
        batch(&mut longer, offset, &[]);
    }
    let last = longer.journals[&0].last().unwrap();
    let value = last.slice(last.records.last().unwrap().value.as_ref().unwrap());
    bench.tell(Event::JournalRecord { lane: 0, value });
    bench.expect(&["stop journal 0", "read journal 0"]);
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
}

#[test]
fn a_snapshot_that_cannot_be_used_gives_way_to_an_older_one_and_then_to_the_journal() {
    let (mut bench, bytes, _) = restarted();
    let mut damaged = bytes.clone();
    damaged[40] ^= 1;
    bench.answer_snapshot(0, Some((3, &damaged)));
    bench.expect(&[
        "refused 0 seq 3: the snapshot is damaged: its hash does not match",
        "find snapshot 0 up to 2, published 0",
    ]);
    let mut newer = bytes[..bytes.len() - 16].to_vec();
    newer[5] = 9;
    seal(&mut newer);
    bench.answer_snapshot(0, Some((2, &newer)));
    bench.expect(&[
        "refused 0 seq 2: the snapshot has format 9 and fact level 0; this release reads format 5 and fact levels up to 4",
        "find snapshot 0 up to 1, published 0",
    ]);
    bench.answer_snapshot(0, None);
    bench.expect(&["read journal 0"]);
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    goes_on(&mut bench);
}

#[test]
fn a_snapshot_of_another_journal_is_not_gone_on_with() {
    // Of a topic that was made anew: the same seq, and other batches.
    let mut other = keeping(2, 0);
    other.pass_ms(7);
    batch(&mut other, 0, &["store 0 seq 2"]);
    let bytes = other.taken[0].frozen.encode().unwrap();
    let (mut bench, _, _) = restarted();
    bench.answer_snapshot(0, Some((2, &bytes)));
    bench.commands();
    bench.read_journal(0);
    bench.expect(&[
        "stop journal 0",
        "refused 0 seq 2: it does not belong to this journal: a hash differs",
        "find snapshot 0 up to 1, published 0",
    ]);
    bench.answer_snapshot(0, None);
    bench.expect(&["read journal 0"]);
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    goes_on(&mut bench);
}

#[test]
fn a_lane_that_is_revoked_while_it_is_looked_for_forgets_the_answer() {
    let (mut bench, bytes, _) = restarted();
    bench.tell(Event::Revoked);
    bench.answer_snapshot(0, Some((2, &bytes)));
    bench.expect(&[]);
    assert_eq!(bench.state(0), None);
    bench.assign(&[0]);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&["find snapshot 0 up to 3, published 0"]);
}

#[test]
fn a_lane_that_comes_back_with_a_queue_folds_only_what_it_missed() {
    let mut bench = keeping(0, 0);
    batch(&mut bench, 0, &[]);
    let at = bench.journals[&0].last().unwrap().batch_time().as_ms();
    // Read here, decided elsewhere.
    bench.task(0, 1);
    bench.tell(Event::Revoked);
    let mut other = Bench::new(4);
    other.journals = bench.journals.clone();
    other.assign(&[0]);
    other.step_to("reopen");
    other.tell(Event::Done);
    other.step_to("fetch committed");
    other.answer_committed(&[0]);
    other.commands();
    other.read_journal(0);
    other.commands();
    other.tell(Event::End { topic: Topic::Fleet, partition: 0, offset: 1 });
    other.tell(Event::End { topic: Topic::HealthEvents, partition: 0, offset: 0 });
    other.commands();
    other.pass_ms(50);
    for offset in [1, 2] {
        batch(&mut other, offset, &[]);
    }
    bench.journals = other.journals.clone();
    bench.finds_snapshots = true;
    bench.assign(&[0]);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&[&format!("read journal 0 from {at}")]);
    bench.read_journal_after(0, 1);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    bench.tell(Event::End { topic: Topic::Fleet, partition: 0, offset: 1 });
    bench.tell(Event::End { topic: Topic::HealthEvents, partition: 0, offset: 0 });
    bench.expect(&["runs 0", "read inputs tasks[0]@3 task-results[0]@0 lane-inbox[0]@0"]);
    let states: Vec<_> = [&bench, &other]
        .into_iter()
        .map(|bench| bench.worker.lanes().next().unwrap().hash())
        .collect();
    assert_eq!(states[0], states[1]);
}

#[test]
fn offsets_that_somebody_set_are_accepted_on_request_with_a_new_epoch() {
    let mut before = keeping(0, 0);
    for offset in 0..3 {
        batch(&mut before, offset, &[]);
    }
    let mut reset = before.commit_of(0);
    reset[0] = Some(CommittedOffset { offset: 1, metadata: String::new() });

    let mut settings = settings();
    settings.new_epoch = true;
    let mut bench = Bench::with(4, settings);
    bench.journals = before.journals.clone();
    bench.assign(&[0]);
    bench.step_to("reopen");
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer(vec![(0, reset.clone())]);
    bench.expect(&["read journal 0"]);
    bench.read_journal(0);
    bench.expect(&[]);
    // All of the journal, whatever is still on its way.
    bench.pass_ms(10_000);
    bench.expect(&["stop journal 0", "epoch 2 of 0 at [1, 0, 0]", "read controls 1 0"]);
    bench.tell(Event::End { topic: Topic::Fleet, partition: 0, offset: 1 });
    bench.tell(Event::End { topic: Topic::HealthEvents, partition: 0, offset: 0 });
    bench.expect(&["runs 0", "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0"]);
    // It says so at once, without any input; and until that is committed it is asked again.
    bench.pass_ms(200);
    bench.step_to("commit");
    bench.tell(Event::Failed(unknown()));
    bench.step_to("reopen");
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer(vec![(0, reset)]);
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 5"]);
    let batch = bench.journals[&0].last().unwrap();
    assert!(batch.metadata.starts_with("v1;2;5;"), "{}", batch.metadata);
    assert_eq!(batch.offsets[0], (Topic::Tasks, 1));
    // What it had decided is recognised, what is new is decided.
    bench.task(0, 2);
    bench.task(0, 3);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 6"]);
    let counts = &bench.journals[&0].last().unwrap().counts;
    assert_eq!((counts.duplicates, counts.routed), (1, 1));
}
