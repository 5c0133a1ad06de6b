//! Within a tenant a higher priority is not refused where a lower one is served in the same batch.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::Bench;
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::routing::state::Phase;

const CLASSES: [&str; 2] = ["easy", "hard"];
const PRIORITIES: [&str; 3] = ["critical", "interactive", "batch"];
const SIZES: [u32; 3] = [50, 200, 600];

/// New tasks by class, priority and size, the time until the next batch, and how many attempts end.
type Load = (Vec<(u8, u8, u8)>, i64, usize);

fn load() -> impl Strategy<Value = Load> {
    let task = (0u8..2, 0u8..3, 0u8..3);
    (proptest::collection::vec(task, 0..25), 1i64..3_000, 0usize..6)
}

fn bench() -> Bench {
    let mut bench = Bench::new(Policy {
        load_snapshot_ms: 1_000_000_000,
        // Most that come are more than can wait, and many give up.
        backlog_tasks_max: 8,
        // Too short to hold back: who does lets others go before, too.
        wait_ms_max: 1_000,
        // What is owed goes before.
        priority_share_min: 0.0,
        ..Policy::default()
    });
    for (id, slots, requests, tokens, quality) in
        [("a", 2, 3, 900, 0.9), ("b", 1, 5, 700, 0.8), ("c", 3, 4, 2_000, 0.6)]
    {
        let limits = json!([
            {"dimension": "requests", "amount": requests, "window_s": 5},
            {"dimension": "tokens", "amount": tokens, "window_s": 5},
        ]);
        let quality = json!({"easy": quality, "hard": quality * quality});
        bench.resource(
            id,
            json!({"model": id, "slots": slots, "limits": limits, "quality": quality}),
        );
    }
    bench
}

/// What the newest batch decided of each task: `None` where it was routed.
fn decided(bench: &Bench) -> Vec<(String, Option<String>)> {
    let Some(prepared) = bench.prepared.last() else { return Vec::new() };
    let decisions = prepared
        .records
        .iter()
        .filter(|record| record.topic == OutputTopic::Known(Topic::RouteDecisions));
    decisions
        .map(|record| {
            let bytes = prepared.slice(record.value.as_ref().unwrap());
            let value: Value = serde_json::from_slice(bytes).unwrap();
            let id = value["task_id"].as_str().unwrap().to_owned();
            (id, value["reason"].as_str().map(str::to_owned))
        })
        .collect()
}

/// Refusals by reason.
type Refused = BTreeMap<String, usize>;

fn check(loads: &[Load], refused: &mut Refused) -> Result<(), TestCaseError> {
    let mut bench = bench();
    let mut tasks: BTreeMap<String, (u8, u8, u8)> = BTreeMap::new();
    for (arrivals, wait_ms, ended) in loads {
        let live = bench.lane.state().tasks.values();
        let in_flight = live.filter(|one| matches!(one.phase, Phase::InFlight { .. }));
        let mut in_flight: Vec<String> =
            in_flight.map(|one| one.task.task_id.to_string()).collect();
        in_flight.sort();
        for id in in_flight.iter().take(*ended) {
            bench.result(id, 1, "succeeded", json!({"output_tokens": 20}));
        }
        let first = tasks.len();
        for one in arrivals {
            let (class, priority, size) = *one;
            let id = format!("t{:04}", tasks.len());
            // Waiting mostly costs more than it can bring, and no price is too high: who waits of its own
            // choice lets others go before.
            let objective = "fastest";
            bench.task(&id, json!({
                "class": CLASSES[usize::from(class)], "priority": PRIORITIES[usize::from(priority)],
                "input_tokens": SIZES[usize::from(size)], "objective": objective,
            }));
            tasks.insert(id, *one);
        }
        bench.reread();
        let before = bench.prepared.len();
        bench.step();
        if bench.prepared.len() == before {
            bench.now += wait_ms;
            continue;
        }
        let decided = decided(&bench);
        let routed = decided.iter().filter(|(_, reason)| reason.is_none());
        let lowest = routed.filter_map(|(id, _)| tasks.get(id)).copied().collect::<Vec<_>>();
        for (id, reason) in &decided {
            let Some(reason) = reason else { continue };
            *refused.entry(reason.clone()).or_default() += 1;
            // Who waited already may have done so of its own choice, and is the one that gives way.
            let has_waited = id.as_str() < format!("t{first:04}").as_str();
            if has_waited && reason == "backlog_full" {
                continue;
            }
            let (class, priority, size) = tasks[id];
            // Of its class and at least as large: it could have had what that one got.
            let before =
                |other: &&(u8, u8, u8)| other.0 == class && other.2 >= size && other.1 > priority;
            prop_assert!(
                !lowest.iter().any(|other| before(&other)),
                "{id} {:?} refused as {reason}, and served: {lowest:?}; in all: {:?}",
                tasks[id],
                decided.iter().map(|(id, reason)| (id, tasks[id], reason)).collect::<Vec<_>>(),
            );
        }
        bench.now += wait_ms;
    }
    Ok(())
}

#[test]
fn a_higher_priority_is_not_refused_where_a_lower_one_is_served() {
    let refused = RefCell::new(Refused::new());
    let mut runner = TestRunner::new(Config::with_cases(100));
    let loads = proptest::collection::vec(load(), 1..25);
    let found = runner.run(&loads, |loads| check(&loads, &mut refused.borrow_mut()));
    found.unwrap_or_else(|error| panic!("{error}"));
    // There was something to see.
    let refused = refused.borrow();
    for reason in ["backlog_full", "no_capacity"] {
        assert!(refused.get(reason).is_some_and(|count| *count > 100), "{refused:?}");
    }
}
