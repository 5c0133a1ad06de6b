//! Transactions that do not end as they should, and panics.

use super::*;

/// A running worker with a transaction of lane 0 whose step with this name is out.
fn in_step(lanes: &[u32], step: &str) -> Bench {
    let mut bench = Bench::running(lanes);
    for lane in lanes {
        bench.task(i32::try_from(*lane).unwrap(), 0);
    }
    bench.pass_ms(5);
    bench.step_to(step);
    bench
}

#[test]
fn after_an_abort_the_same_bytes_are_produced_again() {
    for step in ["begin", "produce", "flush", "send offsets", "commit"] {
        let mut bench = in_step(&[0], step);
        bench.tell(Event::Failed(abort()));
        bench.expect(&["abort"]);
        // What comes meanwhile is for the next batch.
        bench.task(0, 1);
        bench.tell(Event::Done);
        bench.expect(&["fetch committed [0]"]);
        bench.answer_committed(&[0]);
        bench.expect(&[]);
        bench.pass_ms(5);
        bench.transact(&["produce 0 seq 2"]);
        if let [first, second] = &bench.produced[..] {
            assert_eq!(first, second);
        }
        bench.pass_ms(5);
        bench.transact(&["produce 0 seq 3"]);
        let tasks: Vec<u64> = bench.journals[&0].iter().map(|batch| batch.counts.tasks).collect();
        assert_eq!(tasks, [0, 1, 1], "{step}");
    }
}

#[test]
fn an_unknown_outcome_is_settled_by_what_is_committed() {
    // It was committed.
    let mut bench = in_step(&[0], "commit");
    bench.commit();
    bench.tell(Event::Failed(unknown()));
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.task(0, 1);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 3"]);

    // It was not.
    let mut bench = in_step(&[0], "commit");
    bench.tell(Event::Failed(unknown()));
    bench.expect(&["reopen"]);
    bench.tell(Event::Failed(unknown()));
    bench.expect(&[]);
    bench.pass_ms(500);
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    let ask = bench.ask;
    bench.tell(Event::CommittedUnknown { ask });
    bench.pass_ms(499);
    bench.expect(&[]);
    bench.pass_ms(1);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.checks_journal(0);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
    assert_eq!(bench.produced[0], bench.produced[1]);

    // Somebody else has gone on.
    let mut other = Bench::running(&[0]);
    other.task(0, 7);
    other.pass_ms(5);
    other.transact(&["produce 0 seq 2"]);
    let mut bench = in_step(&[0], "commit");
    bench.tell(Event::Failed(unknown()));
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.journals = other.journals;
    bench.answer_committed(&[0]);
    bench.expect(&["read inputs", "read journal 0"]);
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    bench.controls();
    bench.expect(&["runs 0", "read inputs tasks[0]@8 task-results[0]@0 lane-inbox[0]@0"]);
}

#[test]
fn committed_offsets_that_a_late_request_has_set_back_are_not_believed() {
    let mut bench = in_step(&[0], "commit");
    let earlier = bench.commit_of(0);
    bench.commit();
    bench.tell(Event::Failed(unknown()));
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer(vec![(0, earlier)]);
    bench.commands();
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "offsets of 0 behind: 1 of 2", "read controls 1 0"]);
    bench.controls();
    bench.expect(&["runs 0", "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0"]);
    bench.task(0, 1);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 3"]);

    // The same, and it is another instance that has written the batch's place in the journal.
    let mut other = Bench::running(&[0]);
    other.task(0, 7);
    other.pass_ms(5);
    other.transact(&["produce 0 seq 2"]);
    let mut bench = in_step(&[0], "commit");
    let earlier = bench.commit_of(0);
    bench.tell(Event::Failed(unknown()));
    bench.tell(Event::Done);
    bench.expect(&["reopen", "fetch committed [0]"]);
    bench.answer(vec![(0, earlier)]);
    bench.commands();
    bench.journals = other.journals;
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "read journal 0"]);
    bench.read_journal(0);
    bench.expect(&["stop journal 0", "offsets of 0 behind: 1 of 2", "read controls 1 0"]);
    bench.controls();
    bench.expect(&["runs 0", "read inputs tasks[0]@8 task-results[0]@0 lane-inbox[0]@0"]);
}

#[test]
fn an_answer_to_an_old_question_is_not_heard() {
    let mut bench = in_step(&[0], "commit");
    bench.tell(Event::Failed(abort()));
    bench.tell(Event::Done);
    bench.expect(&["abort", "fetch committed [0]"]);
    let commit = bench.commit_of(0);
    let ask = bench.ask - 1;
    bench.tell(Event::Committed { ask, lanes: vec![(0, commit)] });
    bench.pass_ms(5);
    bench.expect(&[]);
}

#[test]
fn a_lost_membership_is_taken_up_again_and_the_batch_survives() {
    let mut bench = in_step(&[0], "send offsets");
    bench.tell(Event::Failed(Failure::Membership("generation".to_owned())));
    bench.expect(&["abort"]);
    bench.tell(Event::Done);
    bench.expect(&["rejoin"]);
    bench.pass_ms(100);
    bench.expect(&[]);
    bench.assign(&[0]);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&["read controls 1 0"]);
    bench.controls();
    bench.expect(&["runs 0", "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0"]);
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 2"]);
    assert_eq!(bench.produced[0], bench.produced[1]);
}

#[test]
fn a_twin_is_fought_twice_and_then_left_alone() {
    let mut bench = in_step(&[0], "commit");
    let fenced = || Failure::Fenced("epoch".to_owned());
    for _ in 0..2 {
        bench.tell(Event::Failed(fenced()));
        bench.expect(&["reopen"]);
        bench.tell(Event::Done);
        bench.expect(&["fetch committed [0]"]);
        bench.answer_committed(&[0]);
        bench.checks_journal(0);
        bench.pass_ms(50);
        bench.step_to("commit");
    }
    bench.tell(Event::Failed(fenced()));
    bench.expect(&[r#"stop Some(Fenced("epoch"))"#]);
    bench.pass_ms(100);
    bench.expect(&[]);
}

#[test]
fn failures_in_a_row_are_spaced_out() {
    let mut bench = in_step(&[0], "flush");
    for wait_ms in [0, 50, 100, 200] {
        bench.tell(Event::Failed(abort()));
        bench.tell(Event::Done);
        bench.expect(&["abort", "fetch committed [0]"]);
        bench.answer_committed(&[0]);
        if wait_ms > 0 {
            bench.pass_ms(wait_ms - 1);
            bench.expect(&[]);
        }
        bench.pass_ms(1);
        bench.step_to("flush");
    }
}

#[test]
fn one_lane_of_two_goes_on_while_the_other_recovers() {
    let mut bench = in_step(&[0, 1], "commit");
    bench.tell(Event::Failed(abort()));
    bench.tell(Event::Done);
    bench.expect(&["abort", "fetch committed [0, 1]"]);
    let mut foreign = bench.commit_of(1);
    foreign[1].as_mut().unwrap().metadata = "someone".to_owned();
    let ours = bench.commit_of(0);
    bench.answer(vec![(0, ours), (1, foreign)]);
    bench.expect(&[
        "stopped: lane 1: the committed offset 0 of task-results has the metadata 'someone', which Pointsman did not write: someone has reset the group's offsets",
        "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0",
    ]);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
}

#[test]
fn a_lane_without_leader_rests_after_two_timeouts() {
    let mut bench = in_step(&[0, 1], "flush");
    let undelivered = || Failure::Undelivered { lanes: vec![1], reason: "timed out".to_owned() };
    bench.tell(Event::Failed(undelivered()));
    bench.tell(Event::Done);
    bench.expect(&["abort", "fetch committed [0, 1]"]);
    bench.answer_committed(&[0, 1]);
    bench.pass_ms(5);
    bench.step_to("flush");
    bench.tell(Event::Failed(undelivered()));
    bench.tell(Event::Done);
    bench.expect(&[
        "pause 1",
        "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0",
        "abort",
        "fetch committed [0, 1]",
    ]);
    bench.answer_committed(&[0, 1]);
    assert_eq!(bench.state(1), Some(LaneState::Paused));
    bench.pass_ms(50);
    bench.transact(&["produce 0 seq 2"]);
    bench.pass_ms(3_950);
    // From where it was: what it had not decided may have been given up by the client.
    bench.expect(&[
        "resume 1",
        "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0 tasks[1]@1 task-results[1]@0 lane-inbox[1]@0",
        "begin",
    ]);
    bench.tell(Event::Done);
    bench.expect(&["produce 1 seq 2"]);
}

/// Each abort comes after the broker's own: the producer is fenced, and the lanes are recovered.
#[test]
fn a_lane_without_leader_rests_though_no_abort_succeeds() {
    let mut bench = in_step(&[0, 1], "flush");
    let undelivered = || Failure::Undelivered { lanes: vec![1], reason: "timed out".to_owned() };
    let fenced = || Failure::Fenced("the broker has ended the transaction".to_owned());
    bench.tell(Event::Failed(undelivered()));
    bench.expect(&["abort"]);
    bench.tell(Event::Failed(fenced()));
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0, 1]"]);
    bench.answer_committed(&[0, 1]);
    bench.commands();
    for lane in [0, 1] {
        bench.read_journal(lane);
    }
    bench.commands();
    bench.controls();
    bench.expect(&[
        "runs 0",
        "runs 1",
        "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0 tasks[1]@1 task-results[1]@0 lane-inbox[1]@0",
    ]);
    bench.pass_ms(5);
    bench.step_to("flush");
    bench.tell(Event::Failed(undelivered()));
    bench.expect(&["pause 1", "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0", "abort"]);
    bench.tell(Event::Failed(fenced()));
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0, 1]"]);
    bench.answer_committed(&[0, 1]);
    bench.commands();
    for lane in [0, 1] {
        bench.read_journal(lane);
    }
    bench.commands();
    bench.controls();
    bench.expect(&[
        "runs 0",
        "pause 1",
        "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0",
    ]);
    assert_eq!(bench.state(1), Some(LaneState::Paused));
    bench.pass_ms(50);
    bench.transact(&["produce 0 seq 2"]);
}

#[test]
fn a_lane_whose_output_no_topic_takes_stops_and_the_others_go_on() {
    let mut bench = in_step(&[0, 1], "flush");
    bench.tell(Event::Failed(Failure::TooLarge { lanes: vec![1], reason: "too large".to_owned() }));
    bench.tell(Event::Done);
    bench.expect(&[
        "stopped: lane 1: an output is larger than its topic takes (max.message.bytes), see \
         `pointsman topics plan`",
        "read inputs tasks[0]@1 task-results[0]@0 lane-inbox[0]@0",
        "abort",
        "fetch committed [0]",
    ]);
    bench.answer_committed(&[0]);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
}

#[test]
fn a_missing_pool_topic_is_decided_about_anew() {
    let mut bench = in_step(&[0], "produce");
    bench.tell(Event::Failed(Failure::PoolMissing("elsewhere".into())));
    bench.tell(Event::Done);
    // The batch has nothing for that pool: its bytes are as good as before.
    bench.expect(&["abort", "fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
}

#[test]
fn a_panic_condemns_its_record_and_no_other() {
    let mut bench = Bench::running(&[0]);
    // Once among the others, and once when it comes alone.
    fault::panic_when_offered(Topic::Tasks, 1, 2);
    let recover = |bench: &mut Bench, from: i64| {
        bench.answer_committed(&[0]);
        bench.expect(&["read journal 0"]);
        bench.read_journal(0);
        bench.expect(&["stop journal 0", "read controls 1 0"]);
        bench.controls();
        let inputs = format!("read inputs tasks[0]@{from} task-results[0]@0 lane-inbox[0]@0");
        bench.expect(&["runs 0", &inputs]);
        for offset in from..4 {
            bench.task(0, offset);
        }
    };
    for offset in 0..3 {
        bench.task(0, offset);
    }
    bench.expect(&["panicked 0 None", "fetch committed [0]", "read inputs"]);
    recover(&mut bench, 0);
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 2"]);
    bench.tell(Event::Tick);
    bench.expect(&["panicked 0 Some((Tasks, 1))", "fetch committed [0]", "read inputs"]);
    recover(&mut bench, 1);
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 3"]);
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 4"]);
    bench.tell(Event::Tick);
    bench.transact(&["produce 0 seq 5"]);
    let batches = &bench.journals[&0][1..];
    let tasks: Vec<(u64, usize)> =
        batches.iter().map(|batch| (batch.counts.tasks, batch.counts.dead_letters.len())).collect();
    assert_eq!(tasks.len(), 4);
    assert_eq!(tasks.iter().map(|(_, dead)| dead).sum::<usize>(), 1, "{tasks:?}");
    assert_eq!(batches[1].counts.dead_letters.len(), 1, "{tasks:?}");
}

#[test]
fn a_panic_without_a_record_to_blame_stops_the_lane() {
    let mut bench = Bench::running(&[0, 1]);
    fault::panic_when_preparing(4);
    bench.task(0, 0);
    bench.pass_ms(5);
    bench.expect(&[
        "panicked 0 None",
        "fetch committed [0]",
        "read inputs tasks[1]@0 task-results[1]@0 lane-inbox[1]@0",
    ]);
    bench.answer_committed(&[0]);
    bench.read_journal(0);
    bench.controls();
    bench.commands();
    // Alone, the first record is blamed; when it changes nothing, the lane stops.
    bench.task(0, 0);
    bench.tell(Event::Tick);
    bench.expect(&[
        "panicked 0 Some((Tasks, 0))",
        "fetch committed [0]",
        "read inputs tasks[1]@0 task-results[1]@0 lane-inbox[1]@0",
    ]);
    bench.answer_committed(&[0]);
    bench.read_journal(0);
    bench.controls();
    bench.commands();
    bench.task(0, 0);
    bench.tell(Event::Tick);
    bench.expect(&[
        "panicked 0 Some((Tasks, 0))",
        "stopped: lane 0: the core panics at seq 2 without any input to blame",
        "read inputs tasks[1]@0 task-results[1]@0 lane-inbox[1]@0",
    ]);
    assert_eq!(bench.state(1), Some(LaneState::Running));
}

#[test]
fn leases_learn_how_far_results_are_read() {
    let mut bench = Bench::running(&[0]);
    bench.task(0, 0);
    bench.pass_ms(5);
    bench.transact(&["produce 0 seq 2"]);
    // Its lease ends after 30 s at the earliest, and the grace of 1 s.
    let mut asked = false;
    for _ in 0..400 {
        bench.pass_ms(100);
        let commands = bench.commands();
        if commands.iter().any(|command| command == "find results end 0") {
            asked = true;
            break;
        }
        assert_eq!(commands, Vec::<String>::new());
    }
    assert!(asked, "nobody asked for the end of the results");
    bench.tell(Event::ResultsEnd { lane: 0, end: 3 });
    bench.pass_ms(100);
    bench.expect(&[]);
    bench.tell(Event::End { topic: Topic::TaskResults, partition: 0, offset: 3 });
    bench.pass_ms(100);
    bench.step_to("commit");
    assert_eq!(bench.produced.last().unwrap().counts.leases_expired, 1);
}
