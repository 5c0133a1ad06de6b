//! Lanes that are added later, and how many there are.

use super::*;
use crate::config::StartFrom;
use crate::lane::Lane;
use crate::model::rights::{LimitKind, LimitName, LimitOwner};

/// Partitions of all topics, but for this one.
fn partitions(lanes: i32, but: Option<(Topic, i32)>) -> Event<'static> {
    let count = |topic| but.filter(|(of, _)| *of == topic).map_or(lanes, |(_, count)| count);
    Event::Partitions(Topic::ALL.iter().map(|topic| (*topic, count(*topic))).collect())
}

/// A worker beside others, whose two lanes were the first and have committed something.
fn beside_two(lanes: i32, settings: WorkerSettings) -> Bench {
    let others = Bench::new(2).started(&[0, 1]);
    let mut bench = Bench::with(lanes, settings);
    bench.journals = others.journals;
    bench
}

/// A lane is assigned and asked for; what follows is returned.
fn assigned(bench: &mut Bench, lanes: &[u32]) -> Vec<String> {
    bench.assign(lanes);
    bench.step_to("reopen");
    bench.tell(Event::Done);
    bench.step_to("fetch committed");
    bench.answer_committed(lanes);
    bench.commands()
}

fn slots() -> LimitName {
    let owner = LimitOwner::Resource("gpt".to_owned());
    LimitName { owner, incarnation: 0, kind: LimitKind::Slots }
}

fn rights(bench: &Bench, lane: u32) -> u32 {
    let mut lanes = bench.worker.lanes();
    let state = lanes.find(|one| one.number() == lane).unwrap().state();
    state.stand(&slots()).map_or(0, |stand| stand.rights)
}

/// Of each batch, in words.
fn facts(bench: &Bench, lane: u32) -> Vec<Vec<String>> {
    let codec = &settings().lane.codec;
    let batches = bench.journals[&lane].iter().map(|batch| {
        let value = batch.slice(batch.records.last().unwrap().value.as_ref().unwrap());
        let record = codec.decode_journal(value).unwrap();
        assert_eq!(record.lanes, 2, "lanes at first, in each record of lane {lane}");
        Lane::facts_of(&record).unwrap().iter().map(|fact| format!("{fact:?}")).collect()
    });
    batches.collect()
}

/// The hole that this closes: the new lane's share came on top of what the first two hold.
#[test]
fn an_added_lane_deals_itself_nothing() {
    let first = Bench::new(2).started(&[0, 1]);
    let held: u32 = (0..2).map(|lane| rights(&first, lane)).sum();
    assert_eq!(held, 1_000_000);
    let bench = beside_two(3, settings()).started(&[2]);
    assert_eq!(rights(&bench, 2), 0);
    let lane = bench.worker.lanes().next().unwrap();
    assert_eq!((lane.state().dealt, lane.state().lanes), (2, 3));
    assert!(
        bench.journals[&2][0].metadata.ends_with(";0;0;2"),
        "{}",
        bench.journals[&2][0].metadata
    );
    facts(&bench, 2);
}

#[test]
fn what_came_for_an_added_lane_before_it_ran_is_read() {
    let mut settings = settings();
    settings.start_from = StartFrom::Latest;
    let mut bench = beside_two(3, settings);
    assert_eq!(assigned(&mut bench, &[2]), ["read journal 2"]);
    bench.read_journal(2);
    bench.expect(&["stop journal 2", "find start 2 Earliest"]);
}

/// Lanes that run learn that there are more, by a fact, and give to them from then on.
#[test]
fn lanes_that_run_hear_of_added_ones() {
    let mut bench = Bench::new(2).started(&[0, 1]);
    bench.tell(partitions(3, None));
    // Its producer knows the topics as they were.
    bench.tell(Event::Tick);
    bench.expect(&["reopen"]);
    bench.tell(Event::Done);
    bench.pass_ms(100);
    bench.transact(&["produce 0 seq 2", "produce 1 seq 2"]);
    for lane in [0, 1] {
        assert_eq!(facts(&bench, lane)[1][1], "LanesCounted { lanes: 3 }", "lane {lane}");
    }
    for lane in bench.worker.lanes() {
        assert_eq!((lane.state().dealt, lane.state().lanes), (2, 3));
    }
    // The same number again is no news, and fewer are not believed: another broker is behind.
    for count in [3, 2] {
        bench.tell(partitions(count, None));
        bench.pass_ms(200);
        bench.expect(&[]);
    }
}

/// One that is taken over folds its journal, which says both numbers.
#[test]
fn a_lane_is_what_its_journal_says() {
    let mut before = Bench::new(2).started(&[0, 1]);
    before.tell(partitions(3, None));
    before.tell(Event::Tick);
    before.step_to("reopen");
    before.tell(Event::Done);
    before.pass_ms(100);
    before.transact(&["produce 0 seq 2", "produce 1 seq 2"]);
    let taken_over = |lanes: i32| {
        let mut bench = Bench::new(lanes);
        bench.journals = before.journals.clone();
        assert_eq!(assigned(&mut bench, &[0]), ["read journal 0"]);
        bench.read_journal(0);
        bench
    };
    let mut bench = taken_over(4);
    bench.expect(&["stop journal 0", "read controls 1 0"]);
    let lane = bench.worker.lanes().next().unwrap();
    assert_eq!((lane.state().dealt, lane.state().lanes), (2, 3));
    // Fewer partitions than it has known of: they may only be late, but not for ever.
    let mut bench = taken_over(2);
    let fewer = "lane 0: there are 3 lanes, and tasks has 2 partitions: partitions are added, never taken away";
    bench.expect(&["stop journal 0", &format!("waits: {fewer}")]);
    assert_eq!(bench.state(0), Some(LaneState::Paused));
    bench.pass_ms(5_000);
    bench.expect(&["count partitions"]);
    bench.pass_ms(55_000);
    bench.expect(&["count partitions", &format!("stopped: {fewer}")]);
    bench.tell(partitions(3, None));
    bench.expect(&["fetch committed [0]"]);
}

#[test]
fn the_others_say_how_many_there_were() {
    let mut bench = beside_two(3, settings());
    bench.counts_lanes = true;
    let commit = |bench: &Bench, lane: u32, dealt: &str| {
        let mut commit = bench.commit_of(lane);
        for committed in commit.iter_mut().flatten() {
            let stem = committed.metadata.strip_suffix(";2").unwrap();
            committed.metadata = format!("{stem}{dealt}");
        }
        (lane, commit)
    };
    assert_eq!(assigned(&mut bench, &[2]), ["fetch committed [0, 1, 2]"]);
    let unsaid = |bench: &Bench| {
        vec![commit(bench, 0, ""), commit(bench, 1, ""), (2, LaneCommit::default())]
    };
    let error = "lane 2 is new, and no other lane has committed how many lanes there were at first: an earlier release wrote their last batches, and their next ones say it";
    bench.answer(unsaid(&bench));
    bench.expect(&[&format!("waits: {error}")]);
    assert_eq!(bench.state(2), Some(LaneState::Paused));
    bench.pass_ms(4_999);
    bench.expect(&[]);
    bench.pass_ms(1);
    bench.expect(&["fetch committed [0, 1, 2]"]);
    // One of them is enough.
    bench.answer(vec![commit(&bench, 0, ";2"), commit(&bench, 1, ""), (2, LaneCommit::default())]);
    bench.expect(&["read journal 2"]);

    let mut bench = beside_two(3, settings());
    bench.counts_lanes = true;
    assigned(&mut bench, &[2]);
    bench.answer(vec![commit(&bench, 0, ";2"), commit(&bench, 1, ";3")]);
    bench.expect(&["stopped: lanes 0 and 1 have committed that there were 2 and 3 lanes at first: they are of different installations, or partitions were added while the first lanes began"]);

    let mut bench = beside_two(3, settings());
    bench.counts_lanes = true;
    assigned(&mut bench, &[2]);
    for _ in 0..12 {
        bench.answer(unsaid(&bench));
        bench.pass_ms(4_999);
        bench.commands();
        bench.pass_ms(1);
        if bench.now_ms < 60_000 {
            bench.expect(&["fetch committed [0, 1, 2]"]);
        }
    }
    bench.expect(&["fetch committed [0, 1, 2]", &format!("stopped: {error}")]);
}

/// Topics get their partitions one after the other: lanes that have all of theirs go on.
#[test]
fn while_partitions_are_added_the_first_lanes_go_on() {
    let mut bench = beside_two(3, settings());
    bench.tell(partitions(3, Some((Topic::Journal, 2))));
    bench.assign(&[0, 1, 2]);
    let error = "lane 2: journal has 2 partitions and tasks has 3: they must be equal, see `pointsman topics plan`";
    bench.expect(&[&format!("waits: {error}"), "reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0, 1]"]);
    bench.answer_committed(&[0, 1]);
    for lane in [0, 1] {
        bench.read_journal(lane);
    }
    bench.controls();
    bench.commands();
    assert_eq!(bench.state(0), Some(LaneState::Running));
    let lanes: Vec<u32> = bench.worker.lanes().map(|lane| lane.state().lanes).collect();
    assert_eq!(lanes, [2, 2], "a lane that cannot run takes no part");
    bench.pass_ms(5_000);
    assert!(bench.commands().contains(&"count partitions".to_owned()));
    bench.tell(partitions(3, None));
    bench.step_to("fetch committed");
    bench.answer_committed(&[2]);
    bench.read_journal(2);
    bench.tell(Event::Start { lane: 2, offsets: [0, 0, 0] });
    let lane = bench.worker.lanes().last().unwrap();
    assert_eq!((lane.number(), lane.state().dealt, lane.state().lanes), (2, 2, 3));
}

/// The first lanes begin with one number, so they wait until all topics are there.
#[test]
fn the_first_lanes_wait_for_all_topics() {
    let mut bench = Bench::new(2);
    bench.tell(partitions(2, Some((Topic::LaneInbox, 1))));
    let error = |lane| {
        format!(
            "waits: lane {lane}: lane-inbox has 1 partitions and tasks has 2: they must be equal, see `pointsman topics plan`"
        )
    };
    bench.assign(&[0, 1]);
    bench.expect(&[&error(1), "reopen"]);
    bench.tell(Event::Done);
    bench.expect(&["fetch committed [0]"]);
    bench.answer_committed(&[0]);
    bench.expect(&[&error(0)]);
    bench.tell(partitions(2, None));
    bench.expect(&["fetch committed [0, 1]"]);
    bench.answer_committed(&[0, 1]);
    bench.commands();
    for lane in [0, 1] {
        bench.read_journal(lane);
        bench.tell(Event::Start { lane, offsets: [0, 0, 0] });
    }
    let dealt: Vec<u32> = bench.worker.lanes().map(|lane| lane.state().dealt).collect();
    assert_eq!(dealt, [2, 2]);
}

#[test]
fn there_can_be_only_so_many() {
    let mut bench = Bench::new(1_025);
    bench.assign(&[1_024]);
    bench.expect(&["stopped: lane 1024: tasks has 1025 partitions; allowed: up to 1024"]);
}

/// Partitions are added before a lane has committed anything, whatever it has decided: it begins anew,
/// as those do that were added.
#[test]
fn a_lane_that_never_committed_counts_anew() {
    for decides in [false, true] {
        let mut bench = Bench::new(2);
        assert_eq!(assigned(&mut bench, &[1]), ["read journal 1"]);
        bench.read_journal(1);
        bench.tell(Event::Start { lane: 1, offsets: [0, 0, 0] });
        if decides {
            bench.controls();
            bench.pass_ms(5);
            bench.step_to("commit");
            bench.tell(Event::Failed(abort()));
            bench.step_to("abort");
        }
        bench.commands();
        assert_eq!(bench.worker.lanes().next().unwrap().state().dealt, 2);
        bench.tell(Event::Revoked);
        bench.tell(Event::Done);
        bench.tell(partitions(3, None));
        bench.assign(&[1]);
        bench.step_to("fetch committed");
        bench.answer_committed(&[1]);
        assert_eq!(bench.worker.lanes().next().unwrap().state().dealt, 3, "decides: {decides}");
    }
}

/// Of many lanes a few are asked about at a time: the first that says it is enough.
#[test]
fn the_others_are_asked_a_few_at_a_time() {
    let mut bench = Bench::new(20);
    bench.counts_lanes = true;
    assert_eq!(assigned(&mut bench, &[18, 19]), ["fetch committed [0, 1, 2, 3, 4, 5, 6, 7]"]);
    let nothing =
        |from: u32, to: u32| (from..to).map(|lane| (lane, LaneCommit::default())).collect();
    bench.answer(nothing(0, 8));
    bench.expect(&["fetch committed [8, 9, 10, 11, 12, 13, 14, 15]"]);
    // Nobody can say it now: it begins anew.
    let ask = bench.ask;
    bench.tell(Event::CommittedUnknown { ask });
    bench.pass_ms(500);
    bench.expect(&["fetch committed [0, 1, 2, 3, 4, 5, 6, 7]"]);
    bench.answer(nothing(0, 8));
    bench.commands();
    bench.answer(nothing(8, 16));
    bench.expect(&["fetch committed [16, 17, 18, 19]"]);
    bench.answer(nothing(16, 20));
    bench.expect(&["read journal 18", "read journal 19"]);
    let dealt: Vec<u32> = bench.worker.lanes().map(|lane| lane.state().dealt).collect();
    assert_eq!(dealt, [20, 20]);
}
