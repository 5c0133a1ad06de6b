//! The bound against the exact optimum of small instances, and against what routers really did.

use serde_json::json;

use super::{Aim, Insight, QUALITY_ONLY, bound};
use crate::backtest::baselines::{self, Baseline};
use crate::backtest::route;
use crate::backtest::scenario::Scenario;
use crate::backtest::site::Run;
use crate::backtest::summary::utility;
use crate::backtest::tests::{Given, resource, settings};
use crate::draw::{Draw, Purpose};
use crate::model::policy::Policy;
use crate::model::resource::Dimension;

/// Tasks of two classes that come close together to two resources with tight limits.
fn instance(number: u64, tasks: usize, span_ms: f64) -> Given {
    // Streams of one purpose apart from those of the scenario itself.
    let mut draw = Draw::new(77, Purpose::Baseline, number);
    let mut given = Given::default();
    let names = ["a", "b"];
    for name in names {
        let requests = json!({"dimension": "requests", "amount": 1 + draw.below(3), "window_s": 2 + draw.below(9)});
        let tokens = json!({"dimension": "tokens", "amount": 300 + draw.below(400), "window_s": 2 + draw.below(9)});
        let limits = match draw.below(4) {
            0 => json!([]),
            1 => json!([requests]),
            2 => json!([tokens]),
            _ => json!([requests, tokens]),
        };
        let quality = json!({"default": draw.between(0.2, 0.9)});
        let change = json!({"slots": 1 + draw.below(2), "limits": limits, "quality": quality});
        given.resources.push(resource(name, change));
    }
    let weights = [
        json!({"quality": 1.0, "usd": 0.0, "second": 0.0}),
        json!({"quality": 1.0, "usd": 300.0, "second": 0.02}),
    ];
    let mut arrivals: Vec<u64> = (0..tasks).map(|_| draw.between(0.0, span_ms) as u64).collect();
    arrivals.sort_unstable();
    for (place, arrival_ms) in arrivals.into_iter().enumerate() {
        let class = ["even", "odd"][place % 2];
        let mut change = json!({"objective": weights[draw.below(2)], "class": class});
        if draw.unit() < 0.3 {
            change["deadline_ms"] = json!(2_000 + draw.below(12_000));
        }
        let mut outcome = |name| {
            let quality = draw.between(0.0, 1.0);
            (name, quality, 10 + draw.below(90) as u32, 500 + draw.below(7_000) as u64)
        };
        let outcomes = names.map(&mut outcome);
        given.task(arrival_ms, change, &outcomes);
    }
    given
}

/// What is placed so far: task, resource, start.
type Schedule = Vec<(usize, usize, u64)>;

fn is_feasible(scenario: &Scenario, schedule: &Schedule, resource: usize) -> bool {
    let spec = &scenario.resources()[resource];
    let starts: Vec<(usize, u64)> = schedule
        .iter()
        .filter(|(_, placed, _)| *placed == resource)
        .map(|(task, _, start)| (*task, *start))
        .collect();
    let end = |task: usize, start: u64| {
        start as f64 + scenario.outcome(task, resource).unwrap().duration_ms
    };
    starts.iter().all(|(_, now)| {
        let busy = starts
            .iter()
            .filter(|(task, start)| start <= now && end(*task, *start) > *now as f64)
            .count();
        let windows = spec.limits.iter().all(|limit| {
            let window_ms = u64::from(limit.window_s) * 1_000;
            let inside =
                starts.iter().filter(|(_, start)| *start <= *now && start + window_ms > *now);
            let used: u64 = inside
                .map(|(task, _)| match limit.dimension {
                    Dimension::Requests => 1,
                    Dimension::Tokens => {
                        100 + u64::from(scenario.outcome(*task, resource).unwrap().output_tokens)
                    }
                })
                .sum();
            used <= limit.amount
        });
        busy <= spec.slots as usize && windows
    })
}

/// The best schedule by trying all orders and resources, each task as early as it can be: an optimal
/// schedule in the order of its starts loses nothing when every start moves to the earliest time that
/// those before it leave.
fn optimum(scenario: &Scenario, policy: &Policy, aim: Aim, insight: Insight) -> f64 {
    let mut best = 0.0;
    let mut left: Vec<usize> = (0..scenario.tasks.len()).collect();
    let planner = Planner { scenario, policy, aim, insight };
    search(&planner, &mut left, &mut Vec::new(), 0.0, &mut best);
    best
}

/// Who plans, for what, and knows what.
struct Planner<'a> {
    scenario: &'a Scenario,
    policy: &'a Policy,
    aim: Aim,
    insight: Insight,
}

impl Planner<'_> {
    /// What it takes the quality of a task on a resource to be.
    fn quality(&self, task: usize, resource: usize) -> f64 {
        let outcome = |task| self.scenario.outcome(task, resource).unwrap().quality;
        match self.insight {
            Insight::Full => outcome(task),
            Insight::ClassMeans => {
                let class = |task: usize| &self.scenario.tasks[task].task.class;
                let all = 0..self.scenario.tasks.len();
                let alike: Vec<usize> = all.filter(|one| class(*one) == class(task)).collect();
                alike.iter().map(|one| outcome(*one)).sum::<f64>() / alike.len() as f64
            }
        }
    }

    fn worth(&self, task: usize, resource: usize, start: u64) -> f64 {
        let timed = &self.scenario.tasks[task];
        let outcome = self.scenario.outcome(task, resource).unwrap();
        let weights = match self.aim {
            Aim::Utility => timed.task.objective.weights(),
            Aim::Quality => QUALITY_ONLY,
        };
        let latency_s = (start - timed.arrival_ms) as f64 / 1e3 + outcome.duration_ms / 1e3;
        let cost_usd = self.scenario.cost_usd(task, resource, outcome.output_tokens);
        weights.quality * self.quality(task, resource)
            - weights.usd * cost_usd
            - weights.second * latency_s
    }
}

fn search(
    planner: &Planner<'_>,
    left: &mut Vec<usize>,
    schedule: &mut Schedule,
    value: f64,
    best: &mut f64,
) {
    let Planner { scenario, policy, .. } = planner;
    *best = best.max(value);
    for place in 0..left.len() {
        let task = left.remove(place);
        for resource in 0..scenario.resources().len() {
            let timed = &scenario.tasks[task];
            let outcome = scenario.outcome(task, resource).unwrap();
            let mut times = vec![timed.arrival_ms];
            for (other, placed, start) in schedule.iter().filter(|one| one.1 == resource) {
                times.push(start + scenario.outcome(*other, *placed).unwrap().duration_ms as u64);
                let limits = &scenario.resources()[resource].limits;
                times.extend(limits.iter().map(|one| start + u64::from(one.window_s) * 1_000));
            }
            times.retain(|start| {
                let until = timed.arrival_ms + policy.wait_ms_max;
                let done = start + outcome.duration_ms as u64;
                *start >= timed.arrival_ms
                    && *start <= until
                    && timed.deadline_at_ms().is_none_or(|deadline| done <= deadline)
            });
            times.sort_unstable();
            let earliest = times.into_iter().find(|start| {
                schedule.push((task, resource, *start));
                let feasible = is_feasible(scenario, schedule, resource);
                schedule.pop();
                feasible
            });
            if let Some(start) = earliest {
                let worth = planner.worth(task, resource, start);
                schedule.push((task, resource, start));
                search(planner, left, schedule, value + worth, best);
                schedule.pop();
            }
        }
        left.insert(place, task);
    }
}

/// Of utility, for a planner that knows everything.
fn bound_of(scenario: &Scenario, policy: &Policy, runs: &[&Run]) -> f64 {
    bound(scenario, policy, runs, Aim::Utility, Insight::Full, &|_| true).unwrap()
}

fn check_optima(what: &str, aim: Aim, insight: Insight) {
    // Short waits, so that the optimum has to leave something out.
    let policy = Policy { wait_ms_max: 4_000, ..Policy::default() };
    let (mut optima, mut bounds, mut worst, mut tight) = (0.0, 0.0, 1.0_f64, 0);
    for number in 0..200 {
        let given = instance(number, 4 + (number % 2) as usize, 3_000.0);
        let scenario = given.scenario().unwrap();
        let optimum = optimum(&scenario, &policy, aim, insight);
        let bound = bound(&scenario, &policy, &[], aim, insight, &|_| true).unwrap();
        assert!(bound >= optimum, "{what}, {number}: bound {bound}, optimum {optimum}");
        let planner = Planner { scenario: &scenario, policy: &policy, aim, insight };
        let best =
            |task| (0..2).map(|one| planner.quality(task, one)).fold(f64::NEG_INFINITY, f64::max);
        let free: f64 = (0..scenario.tasks.len()).map(best).sum();
        assert!(bound <= free * (1.0 + 1e-6), "{what}, {number}: {bound}, without limits {free}");
        optima += optimum;
        bounds += bound;
        worst = worst.min(optimum / bound);
        tight += i32::from(optimum / bound > 0.999);
    }
    let share = optima / bounds;
    println!("{what}: optimum / bound: {share:.4} of all, {worst:.4} the worst, {tight} exact");
    assert!(share > 0.9, "{what}: {share}");
}

#[test]
fn no_bound_is_below_the_optimum_of_200_small_instances() {
    check_optima("utility, everything known", Aim::Utility, Insight::Full);
    check_optima("utility, class means known", Aim::Utility, Insight::ClassMeans);
    check_optima("quality, everything known", Aim::Quality, Insight::Full);
    check_optima("quality, class means known", Aim::Quality, Insight::ClassMeans);
}

#[test]
fn no_router_is_above_the_bound() {
    let settings = settings();
    for number in 0..30 {
        let mut given = instance(1_000 + number, 60, 60_000.0);
        if number % 3 == 1 {
            given.outages.push(json!({"resource": "a", "from_ms": 5_000, "to_ms": 30_000}));
            given
                .outages
                .push(json!({"resource": "b", "from_ms": 20_000, "to_ms": 50_000, "hard": false}));
        }
        if number % 3 == 2 {
            for (status, at_ms) in [("unhealthy", 10_000), ("healthy", 25_000)] {
                given.health.push(
                    json!({"scope": "resource", "id": "a", "status": status, "at_ms": at_ms}),
                );
            }
        }
        let scenario = given.scenario().unwrap();
        let mut runs = vec![route(&scenario, &settings, &|_| true).unwrap()];
        for baseline in Baseline::ALL {
            runs.push(baselines::run(baseline, &scenario, &settings, &|_| true).unwrap());
        }
        let bound = bound_of(&scenario, &settings.policy, &runs.iter().collect::<Vec<_>>());
        for (place, run) in runs.iter().enumerate() {
            assert_eq!((run.oversubscribed, run.overrun_tokens), (0, 0));
            let reached: f64 = run
                .fates
                .iter()
                .enumerate()
                .map(|(task, fate)| {
                    let weights = scenario.tasks[task].task.objective.weights();
                    utility(&scenario, task, fate, weights)
                })
                .sum();
            assert!(reached <= bound, "instance {number}, router {place}: {reached} above {bound}");
        }
        // What the routers did was within what the analysis says they can do.
        let alone = super::reach_ms(&scenario, &settings.policy, &[]);
        let all: Vec<&Run> = runs.iter().collect();
        assert_eq!(super::reach_ms(&scenario, &settings.policy, &all), alone, "{number}");
    }
}

#[test]
fn only_as_much_as_there_is_is_sold() {
    // 30 tasks at once, one slot, 12 s to the deadline: 12 of a second each, and an answer more for the
    // grain of the grid, 3 s.
    let mut given = Given { resources: vec![resource("a", json!({}))], ..Given::default() };
    for _ in 0..30 {
        given.task(0, json!({"deadline_ms": 12_000}), &[("a", 0.5, 10, 1_000)]);
    }
    let scenario = given.scenario().unwrap();
    let bound = bound_of(&scenario, &Policy::default(), &[]);
    assert!((6.0..7.6).contains(&bound), "{bound}");
}
