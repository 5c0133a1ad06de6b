//! A whole region is drained or lost: its work moves, except what must not leave it.

use serde_json::{Value, json};

use super::Bench;
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::model::policy::Policy;

/// Two resources in one region, which everybody prefers, and one in another.
fn bench() -> Bench {
    bench_of(Policy::default())
}

fn bench_of(policy: Policy) -> Bench {
    let mut bench = Bench::new(Policy { load_snapshot_ms: 1_000_000_000, ..policy });
    for (id, region, quality) in [("eu-1", "eu", 0.9), ("eu-2", "eu", 0.8), ("us-1", "us", 0.7)] {
        let quality = json!({"default": quality});
        bench.resource(id, json!({"region": region, "quality": quality, "slots": 10}));
    }
    bench
}

fn region(bench: &mut Bench, status: &str) {
    let event = json!({"scope": "region", "id": "eu", "status": status}).to_string();
    bench.put(Topic::HealthEvents, Some("region:eu"), Some(event.as_bytes()), false);
}

fn only_eu() -> Value {
    json!({"requirements": {"regions": ["eu"]}})
}

/// What became of the tasks in these outputs: where they were sent, or why not.
fn decided(outputs: &[String]) -> Vec<String> {
    let decided = outputs.iter().filter(|one| one.contains(" -> ") || one.contains(" refused "));
    let mut decided: Vec<String> =
        decided.map(|one| one.split(" [").next().unwrap_or_default().to_owned()).collect();
    decided.sort();
    decided
}

/// The refused candidates of a task, each with its rule and what it needed and had.
fn refusals(bench: &Bench, task: &str) -> Vec<String> {
    let prepared = bench.prepared.last().unwrap();
    let decisions = prepared.records.iter().filter_map(|record| {
        if record.topic != OutputTopic::Known(Topic::RouteDecisions) {
            return None;
        }
        serde_json::from_slice::<Value>(prepared.slice(record.value.as_ref()?)).ok()
    });
    let decision = decisions.into_iter().find(|one| one["task_id"] == task).unwrap();
    let refusals = decision["refusals"].as_array().unwrap().iter();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    refusals
        .map(|one| {
            let [resource, rule, needed, had] =
                ["resource", "rule", "needed", "had"].map(|field| text(one, field));
            format!("{resource}: {rule}, needed {needed}, had {had}")
        })
        .collect()
}

#[test]
fn what_is_drained_finishes_and_the_rest_goes_elsewhere_if_it_may() {
    let mut bench = bench();
    bench.task("before", json!({}));
    assert_eq!(decided(&bench.step()), ["before #1 -> eu-1"]);
    region(&mut bench, "drain");
    bench.task("free", json!({}));
    bench.task("bound", only_eu());
    let outputs = bench.step_at(1_000_100);
    assert_eq!(decided(&outputs), ["bound #1 refused health", "free #1 -> us-1"]);
    let eu = |id: &str| format!("{id}: health, needed healthy or degraded, had drain");
    let us = "us-1: region, needed eu, had us".to_owned();
    assert_eq!(refusals(&bench, "bound"), [eu("eu-1"), eu("eu-2"), us]);
    assert_eq!(bench.lane.state().in_flight, 2, "what was there finishes");
    bench.result("before", 1, "succeeded", json!({}));
    bench.step_at(1_000_200);
    assert_eq!(bench.lane.state().fleet.at(0).slots_in_use, 0);
    region(&mut bench, "healthy");
    bench.task("after", only_eu());
    assert_eq!(decided(&bench.step_at(1_000_300)), ["after #1 -> eu-1"]);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn what_was_under_way_in_a_lost_region_moves_at_once_if_it_may() {
    let mut bench = bench();
    bench.task("free", json!({}));
    bench.task("bound", only_eu());
    assert_eq!(decided(&bench.step()), ["bound #1 -> eu-1", "free #1 -> eu-1"]);
    region(&mut bench, "unhealthy");
    let outputs = bench.step_at(1_000_100);
    let failed_over = outputs.iter().filter(|one| one.starts_with("failed_over eu-1 ")).count();
    assert_eq!(failed_over, 2, "{outputs:?}");
    assert!(outputs.contains(&"failover eu-1 tasks 2".to_owned()), "{outputs:?}");
    bench.reread();
    let outputs = [outputs, bench.step_at(1_000_200)].concat();
    let moved: Vec<String> = decided(&outputs);
    assert!(moved.contains(&"free #2 -> us-1".to_owned()), "{moved:?}");
    // Never elsewhere: it is refused, or waits for its region.
    assert!(!moved.iter().any(|one| one.starts_with("bound #2 -> us")), "{moved:?}");
    assert_eq!(moved, ["bound #2 refused health", "free #2 -> us-1"]);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

/// The first stage is under way when its region is drained: the next one goes where the way there costs
/// more, and a deadline counts the way.
#[test]
fn later_stages_leave_a_drained_region_and_the_way_counts() {
    let mut bench = bench_of(Policy { transfer_ms: 60_000.0, ..Policy::default() });
    let stages = json!([
        {"name": "draft", "input_tokens": 100, "max_output_tokens": 100},
        {"name": "review", "input_tokens": 100, "max_output_tokens": 100},
    ]);
    bench.task("chain", json!({"stages": stages}));
    bench.task("bound", json!({"stages": stages, "requirements": {"regions": ["eu"]}}));
    // The way takes longer than there is time.
    bench.task("short", json!({"stages": stages, "deadline_ms": 30_000}));
    let begun = decided(&bench.step());
    assert_eq!(begun, ["bound #1 -> eu-1", "chain #1 -> eu-1", "short #1 -> eu-1"]);
    region(&mut bench, "drain");
    for task in ["chain", "bound", "short"] {
        bench.result(task, 1, "succeeded", json!({}));
    }
    bench.reread();
    let outputs = bench.step_at(1_000_100);
    bench.reread();
    let outputs = [outputs, bench.step_at(1_000_200)].concat();
    let expected = ["bound #1 refused health", "chain #1 -> us-1", "short #1 refused deadline"];
    assert_eq!(decided(&outputs), expected);
}
