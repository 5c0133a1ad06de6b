//! What a lane owes: stories of two lanes, and the planner in a closed loop with many that have more to do
//! than there is capacity for.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::{Site, advice, all_step, settings, slots};
use crate::lane::Lane;
use crate::model::event::InboxBody;
use crate::model::policy::Policy;
use crate::model::resource::Dimension;
use crate::model::rights::{Advice, LimitKind, LimitName};
use crate::model::task::Priority;
use crate::routing::balancer::rebalance::Planner;
use crate::routing::fact::Fact;
use crate::routing::rights::RIGHTS;
use crate::routing::sharing::pledged;

/// What is owed to tasks of this priority.
fn owed(limit: &LimitName, to_lane: u32, rights: u32, priority: Priority) -> Advice {
    Advice { owed_to: Some(priority), ..advice(limit, to_lane, rights) }
}

fn ids(decisions: &[Value]) -> Vec<&str> {
    let routed = decisions.iter().filter(|one| one["outcome"] == "routed");
    routed.map(|one| one["task_id"].as_str().unwrap()).collect()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    let kinds = events.iter().map(|event| event["kind"].as_str().unwrap());
    kinds.filter(|kind| kind.starts_with("rights")).collect()
}

/// Two lanes and a limit of two slots; the first lane's is in use, and more tasks wait there.
fn busy_pair(waiting: &[(&str, &str)]) -> Site {
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", json!({"slots": 2}));
    all_step(&mut site);
    site.task(0, "first", json!({}));
    site.step(0);
    for (id, priority) in waiting {
        site.task(0, id, json!({"priority": priority}));
    }
    site.now += 1_000;
    site.step(0);
    site
}

#[test]
fn what_is_owed_is_given_when_it_becomes_free() {
    let mut site = busy_pair(&[("own", "interactive")]);
    let limit = slots("r", 0);
    site.advise(0, owed(&limit, 1, 500_000, Priority::Interactive));
    site.step(0);
    let expected = json!({
        "kind": "rights_pledged", "resource": "r", "lane": 0, "at_ms": site.now, "tasks": 0,
        "detail": "500000 rights of slots to lane 1",
    });
    assert_eq!(site.events, [expected]);
    assert_eq!(site.units(&limit), [1, 1], "it is in use");
    site.now += 200;
    site.step(0);
    assert_eq!(site.loads[0].load[0].pledged, 500_000, "and the lane says so");
    site.succeeded(0, "first", 1, 10);
    site.step(0);
    assert_eq!(ids(&site.decisions), [] as [&str; 0], "its own task does not take it");
    assert_eq!(kinds(&site.events), ["rights_moved"]);
    assert_eq!(site.units(&limit), [0, 1]);
    site.step(1);
    assert_eq!(site.units(&limit), [0, 2]);
}

#[test]
fn a_pledge_ends_by_itself() {
    let mut site = busy_pair(&[("own", "interactive")]);
    let limit = slots("r", 0);
    site.advise(0, owed(&limit, 1, 500_000, Priority::Interactive));
    site.step(0);
    site.now += 10_000;
    site.step(0);
    site.succeeded(0, "first", 1, 10);
    site.now += 100;
    site.step(0);
    assert_eq!((ids(&site.decisions), site.units(&limit)), (vec!["own"], vec![1, 1]));
}

#[test]
fn who_is_more_urgent_comes_first() {
    let limit = slots("r", 0);
    for (waiting, owed_to, expected) in [
        ("critical", Priority::Interactive, vec!["own"]),
        ("critical", Priority::Critical, vec![]),
        ("interactive", Priority::Critical, vec![]),
        ("interactive", Priority::Batch, vec!["own"]),
        ("batch", Priority::Batch, vec![]),
    ] {
        let mut site = busy_pair(&[]);
        site.advise(0, owed(&limit, 1, 500_000, owed_to));
        site.step(0);
        // It comes when the slot is pledged already.
        site.task(0, "own", json!({"priority": waiting}));
        site.succeeded(0, "first", 1, 10);
        site.now += 100;
        site.step(0);
        assert_eq!(ids(&site.decisions), expected, "{waiting} beside {owed_to:?}");
        // One that waits already is counted when the advice comes.
        let mut site = busy_pair(&[("own", waiting)]);
        site.advise(0, owed(&limit, 1, 500_000, owed_to));
        site.step(0);
        site.succeeded(0, "first", 1, 10);
        site.now += 100;
        site.step(0);
        assert_eq!(ids(&site.decisions), expected, "{waiting} before {owed_to:?}");
    }
}

#[test]
fn a_changed_limit_breaks_its_pledges() {
    let mut site = busy_pair(&[("own", "interactive")]);
    let limit = slots("r", 0);
    site.advise(0, owed(&limit, 1, 500_000, Priority::Interactive));
    site.step(0);
    site.resource("r", json!({"slots": 4}));
    site.now += 100;
    site.step(0);
    assert_eq!((ids(&site.decisions), site.units(&limit)), (vec!["own"], vec![2, 1]));
}

#[test]
fn a_pledge_is_in_the_journal_and_in_snapshots() {
    let mut site = busy_pair(&[("own", "interactive")]);
    let limit = slots("r", 0);
    let check = |site: &Site| {
        let live = &site.members[0].lane;
        let mut folded = Lane::genesis(0, 2, 1, settings(Policy::default()));
        folded.start_at(0, 0, 0);
        site.members[0].journal.iter().for_each(|record| folded.fold(record).unwrap());
        let bytes = folded.snapshot().unwrap();
        let restored = Lane::restore(0, &bytes, settings(Policy::default())).unwrap();
        assert!(restored.state() == folded.state(), "a snapshot gives another state");
        let opened = Fact::BatchOpened {
            at: live.state().batch_time,
            results_caught_up_at: live.state().results_caught_up_at,
        };
        let (mut state, mut live) = (folded.state().clone(), live.state().clone());
        state.evolve(&opened);
        live.evolve(&opened);
        assert!(state == live, "folding gives another state");
    };
    site.advise(0, owed(&limit, 1, 500_000, Priority::Interactive));
    site.step(0);
    check(&site);
    // Batches in which nothing happens but that time passes.
    for _ in 0..12 {
        site.now += 1_000;
        site.step(0);
        check(&site);
    }
}

#[test]
fn one_lane_owes_nothing() {
    let mut site = Site::new(1, &Policy::default());
    site.resource("r", json!({"slots": 1}));
    site.step(0);
    for to_lane in [0, 1] {
        site.advise(0, owed(&slots("r", 0), to_lane, 500_000, Priority::Critical));
    }
    for id in ["a", "b"] {
        site.task(0, id, json!({}));
    }
    site.step(0);
    assert_eq!((ids(&site.decisions), kinds(&site.events)), (vec!["a"], vec![]));
    assert_eq!(pledged(site.members[0].lane.state()), []);
}

/// A task that came to a lane.
#[derive(Debug, Clone)]
struct Came {
    at: i64,
    lane: usize,
    tokens: u64,
    served_at: Option<i64>,
}

/// Lanes with the planner, workers that take what is said to take, and a second opinion of every limit.
struct Loop {
    site: Site,
    planner: Planner,
    limit: LimitName,
    amount: u64,
    /// Milliseconds that a task takes.
    work_ms: i64,
    tasks: BTreeMap<String, Came>,
    /// (when it is done, lane, task)
    working: VecDeque<(i64, usize, String)>,
    advised: u64,
    moved: u64,
}

const TICK_MS: i64 = 100;
/// From the planner to a lane, ticks of which it takes one.
const ROUND_TICKS: i64 = 2;
const SMALL: u64 = 200;

impl Loop {
    fn new(lanes: u32, limit: (LimitKind, u64), work_ms: i64) -> Self {
        // Nothing is shed: in an hour all of it could be served.
        let policy = Policy { wait_ms_max: 3_600_000, ..Policy::default() };
        let mut site = Site::new(lanes, &policy);
        let (kind, amount) = limit;
        let spec = match kind {
            LimitKind::Slots => json!({"slots": amount}),
            LimitKind::Rate { dimension, window_s } => json!({
                "slots": 1_000,
                "limits": [{"dimension": dimension, "amount": amount, "window_s": window_s}],
            }),
            LimitKind::Budget => unreachable!("resources have no budgets"),
        };
        site.resource("r", spec);
        all_step(&mut site);
        Loop {
            site,
            planner: Planner::new(lanes, policy.load_snapshot_ms),
            limit: LimitName { kind, ..slots("r", 0) },
            amount,
            work_ms,
            tasks: BTreeMap::new(),
            working: VecDeque::new(),
            advised: 0,
            moved: 0,
        }
    }

    fn come(&mut self, lane: usize, tokens: u64, priority: &'static str) -> String {
        let id = format!("t-{}", self.tasks.len());
        let task = json!({
            "input_tokens": tokens - 100, "max_output_tokens": 100, "priority": priority,
        });
        self.site.task(lane, &id, task);
        let came = Came { at: self.site.now, lane, tokens, served_at: None };
        self.tasks.insert(id.clone(), came);
        id
    }

    fn tick(&mut self) {
        self.site.now += TICK_MS;
        let now = self.site.now;
        while self.working.front().is_some_and(|(due, ..)| *due <= now) {
            let (_, lane, id) = self.working.pop_front().unwrap();
            let input_tokens = self.tasks[&id].tokens - 100;
            let result = json!({
                "task_id": id, "attempt": 1, "status": "succeeded",
                "input_tokens": input_tokens, "output_tokens": 100,
            });
            self.site.answer(lane, &result);
        }
        for lane in 0..self.site.members.len() {
            self.site.step(lane);
            self.moved += kinds(&self.site.events).len() as u64;
            for id in ids(&self.site.decisions) {
                self.tasks.get_mut(id).unwrap().served_at = Some(now);
                self.working.push_back((now + self.work_ms, lane, id.to_owned()));
            }
            let planner = &mut self.planner;
            self.site.loads.iter().for_each(|load| planner.told(load));
        }
        if now / TICK_MS % ROUND_TICKS == 0 {
            for advised in self.planner.rebalance(crate::model::time::Timestamp::from_ms(now)) {
                self.advised += 1;
                self.site.advise(advised.lane as usize, advised.advice);
            }
        }
        self.check();
    }

    /// All rights are there, and nobody takes what is not.
    fn check(&self) {
        let held = self.site.members.iter().map(|member| {
            let state = member.lane.state();
            let stand = state.stand(&self.limit).unwrap();
            u64::from(stand.rights) + state.sharing.early(&self.limit)
        });
        let under_way = self.site.under_way().filter_map(|(_, message)| match message.body {
            InboxBody::Rights(transfer) if transfer.limit == self.limit => {
                Some(u64::from(transfer.rights))
            }
            InboxBody::Rights(_) | InboxBody::Advice(_) | InboxBody::Result(_) => None,
        });
        assert_eq!(held.sum::<u64>() + under_way.sum::<u64>(), u64::from(RIGHTS));
        assert!(self.used() <= self.amount, "{} of {}", self.used(), self.amount);
    }

    /// What counts against the limit now.
    fn used(&self) -> u64 {
        let window_ms = i64::from(self.limit.kind.window_s()) * 1_000;
        if window_ms == 0 {
            return self.working.len() as u64;
        }
        let since = self.site.now - window_ms;
        let served = self.tasks.values().filter(|came| came.served_at.is_some_and(|at| at > since));
        served.map(|came| came.tokens).sum()
    }

    /// Runs for so long; `feed` says what comes, tick by tick.
    fn run(&mut self, ms: i64, feed: &dyn Fn(&mut Loop, i64)) {
        for tick in 0..ms / TICK_MS {
            feed(self, tick);
            self.tick();
        }
    }

    fn waited_ms(&self, id: &str) -> Option<i64> {
        let came = &self.tasks[id];
        Some(came.served_at? - came.at)
    }
}

fn tokens(window_s: u32) -> LimitKind {
    LimitKind::Rate { dimension: Dimension::Tokens, window_s }
}

/// Ten times what there is, of small tasks, in each of these lanes: one in half a second.
fn overload(priority: &'static str, lanes: std::ops::Range<usize>) -> impl Fn(&mut Loop, i64) {
    move |all: &mut Loop, tick| {
        if tick % 5 == 0 {
            lanes.clone().for_each(|lane| {
                all.come(lane, SMALL, priority);
            });
        }
    }
}

/// Fills the limit slowly, as it is filled all the time where lanes have been busy for long: what becomes free
/// does so all the time, and not all at once after a window.
fn fill(all: &mut Loop, priority: &'static str) {
    let lanes = all.site.members.len() as i64;
    let share = (all.amount as i64 / lanes).max(1);
    let window_ticks = i64::from(all.limit.kind.window_s().max(1)) * 1_000 / TICK_MS;
    let every = (window_ticks * SMALL as i64 / share).max(1);
    all.run(90_000, &|all: &mut Loop, tick: i64| {
        for lane in (0..lanes).filter(|lane| (tick + lane * every / lanes) % every == 0) {
            all.come(lane as usize, SMALL, priority);
        }
    });
}

#[test]
fn fragments_come_together_while_every_lane_is_overloaded() {
    let mut all = Loop::new(8, (tokens(60), 20_000), 500);
    let feed = overload("interactive", 0..8);
    fill(&mut all, "interactive");
    println!("in use: {}", all.used());
    assert!(all.used() > 17_000, "{}", all.used());
    // In a lane with small tasks too, and its part is 2,500.
    let mut large = Vec::new();
    for lane in [7, 2, 5] {
        large.push(all.come(lane, 4_000, "interactive"));
        all.run(1_000, &feed);
    }
    let before = all.used();
    all.run(115_000, &feed);
    let waited: Vec<i64> = large.iter().map(|id| all.waited_ms(id).unwrap_or(i64::MAX)).collect();
    println!("large tasks waited {waited:?} ms; {} pieces of advice", all.advised);
    assert!(waited[0] < 30_000 && waited[1] < 75_000 && waited[2] < 110_000, "{waited:?}");
    assert!(waited[0] < waited[1] && waited[1] < waited[2], "the oldest first: {waited:?}");
    assert!(before > 16_000 && all.used() > 15_000, "{before}, {}", all.used());
}

#[test]
fn a_large_task_is_served_where_its_own_lane_has_nothing_else() {
    let mut all = Loop::new(8, (tokens(60), 20_000), 500);
    let feed = overload("interactive", 0..7);
    fill(&mut all, "interactive");
    all.run(5_000, &feed);
    let large = all.come(7, 4_000, "interactive");
    all.run(30_000, &feed);
    println!("it waited {:?} ms", all.waited_ms(&large));
    assert!(all.waited_ms(&large).is_some_and(|waited| waited < 25_000));
}

/// All began to be busy in the same moment: nothing becomes free for most of a minute.
#[test]
fn fragments_come_together_when_all_comes_back_at_once() {
    let mut all = Loop::new(8, (tokens(60), 20_000), 500);
    let feed = overload("interactive", 0..8);
    all.run(80_000, &feed);
    let large = all.come(7, 4_000, "interactive");
    all.run(75_000, &feed);
    println!("it waited {:?} ms", all.waited_ms(&large));
    assert!(all.waited_ms(&large).is_some_and(|waited| waited < 70_000));
}

#[test]
fn one_slot_goes_round_all_lanes() {
    let mut all = Loop::new(8, (LimitKind::Slots, 1), 500);
    let feed = overload("interactive", 0..8);
    all.run(60_000, &feed);
    for round in 0..3 {
        let from = all.site.now;
        all.run(70_000, &feed);
        let mut served = [0; 8];
        for came in all.tasks.values().filter(|came| came.served_at.is_some_and(|at| at > from)) {
            served[came.lane] += 1;
        }
        println!("round {round}: {served:?}");
        assert!(served.iter().all(|served| *served > 0), "{served:?}");
        // Half a second each, and the way from lane to lane.
        assert!(served.iter().sum::<u64>() >= 100, "{served:?}");
    }
}

/// A critical task in one lane, every few seconds, while the others have batch work for ten times what there is.
fn critical_waits(limit: (LimitKind, u64), work_ms: i64) -> Vec<i64> {
    let mut all = Loop::new(8, limit, work_ms);
    let feed = overload("batch", 0..8);
    fill(&mut all, "batch");
    all.run(5_000, &feed);
    let mut critical = Vec::new();
    for _ in 0..10 {
        critical.push(all.come(7, SMALL, "critical"));
        critical.push(all.come(7, SMALL, "critical"));
        all.run(5_000, &feed);
    }
    critical.iter().map(|id| all.waited_ms(id).unwrap_or(i64::MAX)).collect()
}

#[test]
fn a_critical_task_does_not_wait_for_batch_work_of_other_lanes() {
    for (what, limit, work_ms) in [
        ("slots", (LimitKind::Slots, 8), 2_000),
        ("fewer slots than lanes", (LimitKind::Slots, 4), 1_000),
        ("tokens in a minute", (tokens(60), 20_000), 500),
        ("tokens in ten seconds", (tokens(10), 8_000), 500),
    ] {
        let waited = critical_waits(limit, work_ms);
        println!("{what}: {waited:?}");
        assert!(waited.iter().all(|waited| *waited <= 3_500), "{what}: {waited:?}");
        let mean = waited.iter().sum::<i64>() / waited.len() as i64;
        assert!(mean <= 2_000, "{what}: {mean} ms on average of {waited:?}");
    }
}

#[test]
fn a_steady_load_moves_nothing() {
    // Three quarters of what there is, of every priority, in each lane alike.
    let mut all = Loop::new(8, (tokens(10), 16_000), 500);
    let feed = |all: &mut Loop, tick: i64| {
        for lane in 0..8 {
            if tick % 13 == lane {
                let priority = ["critical", "interactive", "batch"][(tick / 13 % 3) as usize];
                all.come(lane as usize, SMALL, priority);
            }
        }
    };
    all.run(60_000, &feed);
    assert_eq!((all.advised, all.moved), (0, 0));
    // And where all are overloaded alike.
    let mut all = Loop::new(8, (tokens(10), 16_000), 500);
    let feed = |all: &mut Loop, tick: i64| overload("interactive", 0..8)(all, tick % 2 * 5);
    all.run(60_000, &feed);
    let (advised, moved) = (all.advised, all.moved);
    all.run(60_000, &feed);
    assert_eq!((all.advised - advised, all.moved - moved), (0, 0));
}
