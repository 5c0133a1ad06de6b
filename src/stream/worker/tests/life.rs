//! How lanes come, go and come back.

use super::*;

#[test]
fn genesis_to_the_first_decision() {
    let mut bench = Bench::new(1);
    bench.pass_ms(100);
    bench.expect(&[]);
    bench.assign(&[0]);
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&["read journal 0"]);
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "find start 0 Earliest"]);
    bench.tell(Event::Start { lane: 0, offsets: [7, 3, 0] });
    bench.expect(&["read controls 0 0"]);
    bench.controls();
    bench.expect(&["runs 0", "read inputs tasks[0]@7 task-results[0]@3 lane-inbox[0]@0"]);
    bench.task(0, 7);
    bench.task(0, 8);
    // The first batch journals the policy, which is due at once.
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 1"]);
    bench.expect(&[]);
    let batch = &bench.journals[&0][0];
    assert_eq!(batch.counts.tasks, 2);
    assert_eq!(batch.offsets, [(Topic::Tasks, 9), (Topic::TaskResults, 3), (Topic::LaneInbox, 0)]);
}

#[test]
fn a_full_batch_does_not_wait_and_the_rest_follows_at_once() {
    let mut bench = Bench::running(&[0]);
    for offset in 0..130 {
        bench.task(0, offset);
    }
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 2"]);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 3"]);
    let tasks: Vec<u64> = bench.journals[&0].iter().map(|batch| batch.counts.tasks).collect();
    assert_eq!(tasks, [0, 100, 30]);
    bench.pass_ms(100);
    bench.expect(&[]);
    bench.task(0, 130);
    bench.pass_ms(4);
    bench.expect(&[]);
    bench.pass_ms(1);
    bench.transact(&["produce 0 seq 4"]);
}

#[test]
fn a_lane_needs_all_three_inputs_and_equal_partitions() {
    let mut bench = Bench::new(2);
    bench.tell(Event::Assigned(vec![(Topic::Tasks, 0), (Topic::TaskResults, 0)]));
    bench.expect(&[]);
    bench.tell(Event::Partitions(vec![(Topic::Tasks, 2), (Topic::TaskResults, 3)]));
    bench.assign(&[0]);
    bench.expect(&[
        "waits: lane 0: lane-inbox has 0 partitions and tasks has 2: they must be equal, see `pointsman topics plan`",
    ]);
}

#[test]
fn a_restart_folds_the_journal_and_reads_on() {
    let mut bench = Bench::running(&[0]);
    bench.task(0, 0);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
    let journals = bench.journals.clone();

    let mut bench = Bench::new(4);
    bench.journals = journals;
    bench.assign(&[0]);
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&["read journal 0"]);
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    bench.tell(Event::End { topic: Topic::Fleet, partition: 0, offset: 1 });
    bench.expect(&[]);
    bench.tell(Event::End { topic: Topic::HealthEvents, partition: 0, offset: 0 });
    bench.expect(&["runs 0", "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0"]);
    // A record that was decided before is skipped.
    bench.task(0, 0);
    bench.task(0, 1);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 3"]);
    assert_eq!(bench.journals[&0][2].counts.tasks, 1);
}

#[test]
fn what_is_committed_must_be_ours_and_in_the_journal() {
    let committed = Bench::running(&[0]);
    let check = |lanes: LaneCommit, journal: bool, wait_ms: u64, expected: &[&str]| {
        let mut bench = Bench::new(4);
        if journal {
            bench.journals = committed.journals.clone();
        }
        bench.assign(&[0]);
        bench.step_to("reopen");
        bench.tell(Event::Done);
        bench.step_to("fetch committed");
        bench.answer(vec![(0, lanes)]);
        bench.read_journal(0);
        bench.pass_ms(wait_ms);
        bench.expect(expected);
    };
    let ours = committed.commit_of(0);

    let mut blanked = ours.clone();
    blanked[0].as_mut().unwrap().metadata.clear();
    check(
        blanked,
        true,
        0,
        &[
            "stopped: lane 0: the committed offset 0 of tasks has the metadata '', which Pointsman did not write: someone has reset the group's offsets",
        ],
    );

    check(
        LaneCommit::default(),
        true,
        0,
        &[
            "read journal 0",
            "stop journal 0",
            "stopped: lane 0: the journal has records and the group no committed offsets: someone has deleted the group or changed its name",
        ],
    );

    // A marker may be on its way, so the end of the journal is waited at.
    check(ours.clone(), false, 9_999, &["read journal 0"]);
    check(
        ours.clone(),
        false,
        10_000,
        &[
            "read journal 0",
            "stop journal 0",
            "stopped: lane 0: the journal ends at seq 0, and seq 1 is committed: records of the journal are missing",
        ],
    );

    let mut moved = ours.clone();
    moved[0].as_mut().unwrap().offset = 5;
    check(
        moved,
        true,
        0,
        &[
            "read journal 0",
            "stop journal 0",
            "stopped: lane 0: the journal has read tasks up to 0, and 5 is committed: someone has reset the group's offsets",
        ],
    );

    let mut other = ours;
    let hash = committed.journals[&0][0].hash.clone();
    for committed in other.iter_mut().flatten() {
        committed.metadata = committed.metadata.replace(&hash, &"0".repeat(32));
    }
    check(
        other,
        true,
        0,
        &[
            "read journal 0",
            "stop journal 0",
            "stopped: lane 0: seq 1 of the journal has another hash than the committed one",
        ],
    );
}

#[test]
fn an_input_that_is_deleted_stops_its_lane_only() {
    let mut bench = Bench::running(&[0, 1]);
    bench.tell(Event::Deleted { topic: Topic::Tasks, partition: 1, offset: 4 });
    bench.expect(&[
        "stopped: lane 1: offset 4 of tasks is deleted before it was read",
        "read inputs tasks[0]@0 task-results[0]@0 lane-inbox[0]@0",
    ]);
    bench.task(0, 0);
    bench.task(1, 5);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
}

#[test]
fn a_client_that_has_lost_its_place_is_told_where_to_read() {
    let mut bench = Bench::running(&[0, 1]);
    bench.task(0, 0);
    bench.tell(Event::Deleted { topic: Topic::LaneInbox, partition: 1, offset: -1_001 });
    // What is queued stays: it goes on behind that.
    bench.expect(&[
        "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0 tasks[1]@0 task-results[1]@0 lane-inbox[1]@0",
    ]);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
}

#[test]
fn a_lane_that_comes_back_goes_on() {
    let mut bench = Bench::running(&[0]);
    bench.task(0, 0);
    bench.tell(Event::Revoked);
    bench.pass_ms(5);
    bench.expect(&[]);
    bench.assign(&[0]);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&["read controls 1 0"]);
    bench.controls();
    // What was queued is still there, and counts as read.
    bench.expect(&["runs 0", "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0"]);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
    assert_eq!(bench.journals[&0][1].counts.tasks, 1);
}

#[test]
fn a_lane_that_was_elsewhere_folds_what_it_missed_or_begins_anew() {
    // Another instance goes on from the same beginning.
    let mut elsewhere = Bench::running(&[0]);
    elsewhere.task(0, 0);
    elsewhere.pass_ms(5);
    elsewhere.transact(&["produce 0 seq 2"]);
    let check = |queued: bool, first: &str| {
        let mut bench = Bench::running(&[0]);
        if queued {
            bench.task(0, 0);
        }
        bench.tell(Event::Revoked);
        bench.journals = elsewhere.journals.clone();
        bench.assign(&[0]);
        bench.expect(&["fetch committed [0]"]);
        bench.answer_committed(&[0]);
        bench.expect(&[first]);
        bench.read_journal(0);
        bench.expect(&["stop journal 0", "read controls 1 0"]);
        bench.controls();
        bench.expect(&["runs 0", "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0"]);
    };
    // From the time of the last batch that it knows, with a queue or without.
    check(false, "read journal 0 from 1000005");
    check(true, "read journal 0 from 1000005");
}

#[test]
fn without_a_fleet_only_control_records_are_decided() {
    let mut bench = Bench::new(1);
    bench.assign(&[0]);
    bench.step_to("reopen");
    bench.tell(Event::Done);
    bench.step_to("fetch committed");
    bench.answer_committed(&[0]);
    bench.read_journal(0);
    bench.tell(Event::Start { lane: 0, offsets: [0, 0, 0] });
    bench.commands();
    bench.record(Topic::Fleet, 0, 0, "gpt", &json!({"resource": {"id": "gpt"}}));
    bench.tell(Event::End { topic: Topic::Fleet, partition: 0, offset: 1 });
    bench.tell(Event::End { topic: Topic::HealthEvents, partition: 0, offset: 0 });
    bench.expect(&["awaits a fleet 0"]);
    assert_eq!(bench.state(0), Some(LaneState::Paused));
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 1"]);
    assert_eq!(bench.journals[&0][0].counts.dead_letters.len(), 1);
    let resource = json!({"resource": {
        "id": "gpt", "model": "gpt", "provider": "p", "region": "eu",
        "context_window": 128_000, "max_output_tokens": 16_384, "slots": 1_000,
    }});
    bench.record(Topic::Fleet, 0, 1, "gpt", &resource);
    bench.expect(&["runs 0", "read inputs tasks[0]@0 task-results[0]@0 lane-inbox[0]@0"]);
}

#[test]
fn a_shutdown_ends_what_is_open_and_nothing_else() {
    let mut bench = Bench::running(&[0]);
    bench.task(0, 0);
    bench.tell(Event::Shutdown);
    bench.expect(&["stop None"]);

    let mut bench = Bench::running(&[0]);
    bench.task(0, 0);
    bench.pass_ms(5);
    bench.step_to("flush");
    bench.tell(Event::Shutdown);
    bench.expect(&[]);
    bench.tell(Event::Done);
    bench.expect(&["send offsets"]);
    bench.tell(Event::Failed(abort()));
    bench.expect(&["abort"]);
    bench.tell(Event::Done);
    bench.commands();
    bench.tell(Event::Tick);
    bench.expect(&["stop None"]);

    let mut bench = Bench::new(1);
    bench.tell(Event::Shutdown);
    bench.expect(&["stop None"]);
}
