//! A backtest from the outside: files in, runs and bounds out.

mod features;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::baselines::{self, Baseline};
use super::bound::{Aim, Bounds, Insight, bound};
use super::parse::{Files, Lines, scenario};
use super::scenario::Scenario;
use super::site::{End, Run, Verdict};
use super::summary::Summary;
use super::{BacktestError, Settings, route};
use crate::model::policy::Policy;
use crate::model::resource::{FleetFile, ResourceSpec};

/// A resource of the tests, with changes.
pub fn resource(id: &str, change: Value) -> ResourceSpec {
    let mut spec = json!({
        "id": id, "model": "m", "provider": id, "region": "eu",
        "context_window": 100_000, "max_output_tokens": 10_000, "slots": 1,
        "usd_per_million_tokens": {"input": 1.0, "output": 2.0},
        "quality": {"default": 0.5},
    });
    if let (Some(spec), Value::Object(change)) = (spec.as_object_mut(), change) {
        spec.extend(change);
    }
    serde_json::from_value(spec).unwrap()
}

/// A fleet and the files of a scenario, as lines.
#[derive(Default)]
pub struct Given {
    pub resources: Vec<ResourceSpec>,
    pub tasks: Vec<Value>,
    pub outcomes: Vec<Value>,
    pub outages: Vec<Value>,
    pub health: Vec<Value>,
    pub history: Vec<Value>,
}

impl Given {
    /// A task with an outcome `(resource, quality, output tokens, duration)` for each resource.
    pub fn task(&mut self, arrival_ms: u64, change: Value, outcomes: &[(&str, f64, u32, u64)]) {
        let id = format!("t{}", self.tasks.len());
        let mut task = json!({
            "task_id": id, "arrival_ms": arrival_ms, "input_tokens": 100,
            "max_output_tokens": 100, "objective": {"quality": 1.0, "usd": 0.0, "second": 0.0},
        });
        if let (Some(task), Value::Object(change)) = (task.as_object_mut(), change) {
            task.extend(change);
        }
        self.tasks.push(task);
        let outcomes: serde_json::Map<String, Value> = outcomes
            .iter()
            .map(|(resource, quality, tokens, ms)| {
                let outcome =
                    json!({"quality": quality, "output_tokens": tokens, "duration_ms": ms});
                ((*resource).to_owned(), outcome)
            })
            .collect();
        self.outcomes.push(json!({"task_id": id, "outcomes": outcomes}));
    }

    pub fn scenario(&self) -> Result<Scenario, Vec<String>> {
        let text = |rows: &[Value]| -> String {
            let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
            lines.join("\n")
        };
        let texts = [&self.tasks, &self.outcomes, &self.outages, &self.health, &self.history]
            .map(|rows| text(rows));
        let lines = |name, text| Lines { name, text };
        let files = Files {
            tasks: lines("tasks", &texts[0]),
            fleet: FleetFile { resources: self.resources.clone(), tenants: Vec::new() },
            outcomes: Some(lines("outcomes", &texts[1])),
            outages: Some(lines("outages", &texts[2])),
            health: Some(lines("health", &texts[3])),
            history: Some(lines("history", &texts[4])),
        };
        scenario(&files, 1).map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }
}

pub fn settings() -> Settings {
    Settings { policy: Policy::default(), seed: 1, lanes: 1, skew: None }
}

/// One line for each decision, and the end of each task.
fn story(scenario: &Scenario, run: &Run) -> Vec<String> {
    let id = |task: usize| &scenario.tasks[task].task.task_id;
    let decisions = run.decisions.iter().map(|one| match one.verdict {
        Verdict::Routed { resource, attempt } => {
            let resource = &scenario.resources()[resource].id;
            format!("{} {} #{attempt} -> {resource}", one.decided_ms, id(one.task))
        }
        Verdict::Refused(reason) => {
            format!("{} {} refused {}", one.decided_ms, id(one.task), reason.name())
        }
    });
    let ends = run.fates.iter().enumerate().map(|(task, fate)| match fate.end {
        End::Answered { quality, finished_ms, .. } => {
            format!("{} answered {quality} at {finished_ms}", id(task))
        }
        End::Refused(reason) => format!("{} refused {}", id(task), reason.name()),
        End::Open => format!("{} open", id(task)),
    });
    decisions.chain(ends).collect()
}

fn route_it(given: &Given) -> Vec<String> {
    let scenario = given.scenario().unwrap();
    let run = route(&scenario, &settings(), &|_| true).unwrap();
    assert_eq!(run.oversubscribed, 0);
    story(&scenario, &run)
}

fn two_resources() -> Given {
    Given {
        resources: vec![
            resource("good", json!({"quality": {"default": 0.9}})),
            resource("plain", json!({"quality": {"default": 0.6}})),
        ],
        ..Given::default()
    }
}

#[test]
fn the_core_routes_waits_and_refuses_in_simulated_time() {
    let mut given = two_resources();
    for arrival_ms in [0, 5, 5, 100] {
        let answers = [("good", 0.8, 50, 1_000), ("plain", 0.7, 50, 90_000)];
        given.task(arrival_ms, json!({}), &answers);
    }
    given.task(200, json!({"deadline_ms": 10}), &[]);
    assert_eq!(
        route_it(&given),
        [
            "0 t0 #1 -> good",
            "200 t4 refused deadline",
            "1000 t1 #1 -> good",
            "2000 t2 #1 -> good",
            "3000 t3 #1 -> good",
            "t0 answered 0.8 at 1000",
            "t1 answered 0.8 at 2000",
            "t2 answered 0.8 at 3000",
            "t3 answered 0.8 at 4000",
            "t4 refused deadline",
        ]
    );
}

#[test]
fn outages_fail_attempts_and_health_events_fail_over() {
    let mut given = two_resources();
    let answers = [("good", 0.8, 50, 5_000), ("plain", 0.7, 50, 1_000)];
    given.task(0, json!({}), &answers);
    given.task(6_000, json!({}), &answers);
    given.task(20_000, json!({}), &answers);
    given.outages.push(json!({"resource": "good", "from_ms": 6_000, "to_ms": 10_000}));
    let health = |status: &str, at_ms: u64| json!({"scope": "resource", "id": "good", "status": status, "at_ms": at_ms});
    given.health.extend([health("unhealthy", 21_000), health("healthy", 22_000)]);
    assert_eq!(
        route_it(&given),
        [
            "0 t0 #1 -> good",
            "6000 t1 #1 -> good",
            "11100 t1 #2 -> plain",
            "20000 t2 #1 -> good",
            "21100 t2 #2 -> plain",
            "t0 answered 0.8 at 5000",
            "t1 answered 0.7 at 12100",
            "t2 answered 0.7 at 22100",
        ]
    );
}

#[test]
fn summaries_count_what_came_in_time() {
    let mut given = two_resources();
    let balanced = json!({"quality": 1.0, "usd": 100.0, "second": 0.01});
    given.task(0, json!({"objective": balanced}), &[("good", 0.8, 50, 1_000)]);
    let hurried = json!({"objective": balanced, "deadline_ms": 20_000});
    given.task(1_000, hurried, &[("good", 0.8, 50, 30_000)]);
    given.task(40_000, json!({"requirements": {"models": ["x"]}}), &[]);
    let scenario = given.scenario().unwrap();
    let run = route(&scenario, &settings(), &|_| true).unwrap();
    let summary = Summary::of(&scenario, &run, &Bounds::default());
    assert_eq!((summary.routed, summary.late, summary.refused_all()), (2, 1, 1));
    assert_eq!(summary.quality, 0.8);
    // 100 input tokens and 50 of output cost 0.0002 USD, twice.
    assert!((summary.cost_usd - 0.0004).abs() < 1e-12);
    assert!((summary.utility - (0.8 - 2.0 * 0.02 - 0.01)).abs() < 1e-12, "{}", summary.utility);
    assert_eq!(summary.mean_wait_ms, 0.0);
    assert_eq!(summary.refused.into_iter().collect::<Vec<_>>(), [("model".to_owned(), 1)]);
}

#[test]
fn summaries_tell_priorities_apart() {
    let mut given = two_resources();
    let late = json!({"priority": "critical", "deadline_ms": 20_000});
    given.task(0, late, &[("good", 0.8, 50, 30_000)]);
    given.task(40_000, json!({"priority": "batch"}), &[("good", 0.7, 50, 1_000)]);
    given.task(50_000, json!({"priority": "batch", "requirements": {"models": ["x"]}}), &[]);
    let scenario = given.scenario().unwrap();
    let run = route(&scenario, &settings(), &|_| true).unwrap();
    let summary = Summary::of(&scenario, &run, &Bounds::default());
    let found = summary.by_priority.iter().map(|(priority, of)| {
        (priority.name(), of.tasks, of.routed, of.refused.clone(), of.late, of.quality)
    });
    let rows = [
        ("critical", 1, 1, BTreeMap::new(), 1, 0.0),
        ("batch", 2, 1, BTreeMap::from([("model".to_owned(), 1)]), 0, 0.7),
    ];
    assert_eq!(found.collect::<Vec<_>>(), rows);
    let sum: f64 = summary.by_priority.values().map(|of| of.utility).sum();
    assert!((sum - summary.utility).abs() < 1e-12, "{sum}");
}

#[test]
fn baselines_keep_the_limits_and_wait_too() {
    let mut given = two_resources();
    given.resources[0].limits =
        serde_json::from_value(json!([{"dimension": "requests", "amount": 2, "window_s": 10}]))
            .unwrap();
    for arrival_ms in [0, 0, 10, 20, 5_000] {
        let answers = [("good", 0.8, 50, 2_000), ("plain", 0.7, 50, 7_000)];
        given.task(arrival_ms, json!({}), &answers);
    }
    given.task(5_500, json!({"deadline_ms": 500}), &[]);
    let scenario = given.scenario().unwrap();
    for baseline in Baseline::ALL {
        let run = baselines::run(baseline, &scenario, &settings(), &|_| true).unwrap();
        assert_eq!(run.oversubscribed, 0, "{}", baseline.name());
        let summary = Summary::of(&scenario, &run, &Bounds::default());
        assert_eq!((summary.routed, summary.refused_all()), (5, 1), "{}", baseline.name());
    }
    let run = baselines::run(Baseline::BestQualityFirst, &scenario, &settings(), &|_| true);
    assert_eq!(
        story(&scenario, &run.unwrap())[..6],
        [
            "0 t0 #1 -> good",
            "0 t1 #1 -> plain",
            "2000 t2 #1 -> good",
            "6000 t5 refused deadline",
            "7000 t3 #1 -> plain",
            "10000 t4 #1 -> good",
        ]
    );
}

#[test]
fn what_is_missing_is_drawn_from_the_seed() {
    let mut given = two_resources();
    given.task(0, json!({}), &[("good", 0.25, 10, 700)]);
    given.resources[1].quality.clear();
    let one = given.scenario().unwrap();
    assert_eq!(one, given.scenario().unwrap());
    let known = one.outcome(0, 0).unwrap();
    assert_eq!((known.quality, known.output_tokens, known.duration_ms), (0.25, 10, 700.0));
    assert_eq!(one.outcome(0, 1), None, "no quality for the class");
    given.outcomes.clear();
    given.resources[1].quality.insert("default".to_owned(), 0.6);
    let drawn = given.scenario().unwrap();
    let drawn = drawn.outcome(0, 1).unwrap();
    assert!((0.45..=0.75).contains(&drawn.quality), "{drawn:?}");
    assert!((4..=55).contains(&drawn.output_tokens), "{drawn:?}");
}

#[test]
fn a_history_moves_the_priors() {
    let mut given = two_resources();
    given.task(0, json!({}), &[]);
    given.history.extend([
        json!({"class": "code", "features": [], "quality": {"good": 0.3, "gone": 1.0}}),
        json!({"class": "code", "quality": {"good": 0.5}}),
    ]);
    let scenario = given.scenario().unwrap();
    let prior = |class: &str| scenario.resources()[0].quality_prior(class).unwrap();
    assert!((prior("code") - (0.9 * 2.0 + 0.8) / 4.0).abs() < 1e-12);
    assert_eq!(prior("chat"), 0.9);
    assert_eq!(
        scenario.notes,
        ["history: 1 qualities of resources that are not in the fleet were passed over"]
    );
}

#[test]
fn everything_wrong_is_said_with_its_line() {
    let mut given = two_resources();
    given.task(10, json!({}), &[]);
    given.task(5, json!({}), &[("good", 1.5, 10, 10)]);
    given.task(20, json!({"task_id": "t0"}), &[]);
    given.task(20, json!({"arrival_ms": -1}), &[]);
    given.task(30, json!({"arrival_ms": "x"}), &[]);
    given.task(30, json!({"input_tokens": null}), &[]);
    given.outages.extend([
        json!({"resource": "none", "from_ms": 0, "to_ms": 1}),
        json!({"resource": "good", "from_ms": 2, "to_ms": 2}),
    ]);
    given.health.push(json!({"scope": "resource", "id": "good", "status": "healthy"}));
    given.history.push(json!({"class": "x", "quality": {"good": 2}}));
    let problems = given.scenario().unwrap_err();
    let expected = [
        "tasks:2: arrival_ms: 5 comes after 10; tasks are in the order of arrival",
        "tasks:3: task_id: `t0` is used twice",
        "tasks:4: arrival_ms: -1 is not allowed; 0 to 2592000000",
        "tasks:5: arrival_ms: invalid type: string \"x\", expected f64",
    ];
    assert_eq!(problems[..4], expected);
    assert!(problems[4].starts_with("tasks:6: "), "{problems:?}");
    assert_eq!(
        problems[5..],
        [
            "outages:1: resource: `none` is not in the fleet",
            "outages:2: to_ms: 2 is not allowed; more than from_ms, 2",
            "health:1: at_ms: missing; milliseconds from the scenario's start",
            "history:1: quality.good: 2 is not allowed; a number in [0, 1]",
        ]
    );
    let problems = Given { resources: given.resources, ..Given::default() }.scenario();
    assert_eq!(problems.unwrap_err(), ["tasks:1: no task; at least one is needed"]);
}

/// More slots than any lane begins with are where the tasks come.
#[test]
fn lanes_share_what_one_lane_has() {
    let mut given = two_resources();
    given.resources.truncate(1);
    given.resources[0].slots = 8;
    for place in 0..400 {
        given.task(place * 250, json!({}), &[("good", 0.8, 50, 1_800)]);
    }
    let scenario = given.scenario().unwrap();
    let check = |lanes: u32, skew: Option<f64>, wait_ms_max: f64, moves: bool| {
        let settings = Settings { lanes, skew, ..settings() };
        let run = route(&scenario, &settings, &|_| true).unwrap();
        let summary = Summary::of(&scenario, &run, &Bounds::default());
        assert_eq!((summary.oversubscribed, summary.routed), (0, 400), "{lanes} lanes");
        assert!(summary.mean_wait_ms <= wait_ms_max, "{lanes} lanes: {}", summary.mean_wait_ms);
        assert_eq!((run.messages > 0, run.advice > 0), (moves, moves), "{lanes} lanes");
        assert_eq!(route(&scenario, &settings, &|_| true).unwrap(), run, "{lanes} lanes");
    };
    check(1, None, 0.0, false);
    check(1, Some(0.5), 0.0, false);
    // All tasks in a lane that begins with two slots of eight.
    check(4, Some(1.0), 500.0, true);
    // As many slots as lanes, nine tenths of them wanted: each has to go to and fro.
    check(8, Some(0.8), 8_000.0, true);
}

#[test]
fn it_can_be_stopped() {
    let mut given = two_resources();
    given.task(0, json!({}), &[]);
    let scenario = given.scenario().unwrap();
    let stopped = Err(BacktestError::Stopped);
    assert_eq!(route(&scenario, &settings(), &|_| false), stopped);
    let run = baselines::run(Baseline::Random, &scenario, &settings(), &|_| false);
    assert_eq!(run, stopped);
    let policy = Policy::default();
    let bounded = bound(&scenario, &policy, &[], Aim::Utility, Insight::Full, &|_| false);
    assert_eq!(bounded, Err(BacktestError::Stopped));
}
