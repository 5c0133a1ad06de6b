//! What features do to a lane's decisions, its journal and its snapshots.

use serde_json::{Value, json};

use super::{Bench, settings};
use crate::lane::Lane;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::routing::TaskKey;
use crate::routing::explain::{Asked, Considered, explain};

fn policy() -> Policy {
    Policy { explore_share: 0.0, load_snapshot_ms: 1_000_000_000, ..Policy::default() }
}

/// Numbers in [-1, 1) that look like chance.
fn dice(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    }
}

/// The decisions of the last batch.
fn decisions(bench: &Bench) -> Vec<Value> {
    let last = bench.prepared.last().unwrap();
    let decisions = last.records.iter().filter_map(|record| match &record.topic {
        crate::lane::prepared::OutputTopic::Known(Topic::RouteDecisions) => record.value.as_ref(),
        crate::lane::prepared::OutputTopic::Known(_)
        | crate::lane::prepared::OutputTopic::Pool(_) => None,
    });
    decisions.map(|value| serde_json::from_slice(last.slice(value)).unwrap()).collect()
}

/// A lane that has seen so many tasks, half of them served by each of two resources: one is good
/// where the first feature is above zero, the other where it is below.
fn taught(tasks: usize) -> Bench {
    let mut bench = Bench::new(policy());
    for id in ["above", "below"] {
        bench.resource(id, json!({"model": id, "slots": 1_000}));
    }
    let mut die = dice(4);
    for number in 0..tasks {
        let (first, other) = (die(), die());
        let (id, model) = (format!("t{number}"), if number % 2 == 0 { "above" } else { "below" });
        let requirements = json!({"models": [model]});
        bench.task(&id, json!({"features": [first, other], "requirements": requirements}));
        bench.step();
        let sign = if model == "above" { 1.0 } else { -1.0 };
        let shown = json!({
            "input_tokens": 100, "output_tokens": 50, "duration_ms": 500,
            "quality": 0.5 + sign * 0.4 * first + 0.1 * die(),
        });
        bench.result(&id, 1, "succeeded", shown);
        bench.now += 100;
        bench.step();
    }
    bench
}

/// What a task of these features is told of, where it goes, and what it is explained with.
fn asked(bench: &mut Bench, id: &str, change: Value) -> (Value, Vec<Considered>) {
    let before = bench.lane.state().clone();
    bench.task(id, change);
    bench.step();
    let decision = decisions(bench).swap_remove(0);
    let live = bench.lane.state().tasks.get(&TaskKey::of(id));
    let considered = live.map(|live| explain(&before, &Asked::of(&live.task, None)));
    (decision, considered.unwrap_or_default())
}

#[test]
fn what_a_decision_predicts_follows_the_features_and_is_explained() {
    let mut bench = taught(600);
    // (what, features, resource, predicted quality there: from, to; what features brought there)
    let rows = [
        ("above", json!([0.9, 0.0]), "above", (0.7, 0.9), (0.2, 0.4)),
        ("below", json!([-0.9, 0.0]), "below", (0.7, 0.9), (0.2, 0.4)),
        ("of another length", json!([0.9]), "-", (0.45, 0.55), (0.0, 0.0)),
        ("none", json!([]), "-", (0.45, 0.55), (0.0, 0.0)),
    ];
    for (what, features, to, (least, most), (brought_least, brought_most)) in rows {
        let (decision, considered) = asked(&mut bench, what, json!({"features": features}));
        let resource = decision["primary"][0]["resource"].as_str().unwrap();
        assert!(to == "-" || resource == to, "{what}: {resource}");
        let quality = decision["metrics"]["quality"].as_f64().unwrap();
        assert!((least..=most).contains(&quality), "{what}: {quality}");
        let first = &considered[0];
        let terms = first.terms.unwrap();
        assert_eq!(
            (first.resource.as_str(), terms.quality_predicted),
            (resource, quality),
            "{what}"
        );
        assert!((brought_least..=brought_most).contains(&terms.features), "{what}: {terms:?}");
        let utility = terms.quality - terms.cost - terms.latency - terms.price;
        assert!((utility - terms.utility).abs() < 1e-12, "{what}: {terms:?}");
        // The objective counts quality once.
        assert!((terms.quality - quality).abs() < 1e-9, "{what}: {terms:?}");
    }
}

#[test]
fn a_quality_that_a_task_asks_for_is_its_own() {
    let mut bench = taught(600);
    let hard = |features: Value| json!({"features": features, "requirements": {"min_quality": 0.4, "models": ["above"]}});
    let (decision, _) = asked(&mut bench, "good", hard(json!([0.5, 0.0])));
    assert_eq!(decision["outcome"], "routed", "{decision}");
    let (decision, _) = asked(&mut bench, "bad", hard(json!([-0.9, 0.0])));
    assert_eq!(decision["reason"], "quality", "{decision}");
    let why = decision["refusals"].as_array().unwrap();
    let had = why.iter().find(|one| one["rule"] == "quality").unwrap()["had"].as_str().unwrap();
    assert!(had.ends_with(" with these features"), "{decision}");
}

#[test]
fn a_lane_comes_back_with_what_features_have_taught() {
    let mut bench = taught(300);
    assert!(bench.lane.state().learned.heeds_features());
    bench.task("open", json!({"features": [0.1, 0.2]}));
    bench.step();
    let folded = bench.folded();
    assert_eq!(folded.hash(), bench.lane.hash());
    assert!(folded.state() == bench.lane.state(), "the folded state differs");
    let bytes = bench.lane.snapshot().unwrap();
    let restored = Lane::restore(0, &bytes, settings(policy())).unwrap();
    assert!(restored.state() == bench.lane.state(), "the restored state differs");
}

#[test]
fn a_fact_holds_few_numbers_however_many_came() {
    let mut bench = Bench::new(policy());
    bench.resource("one", json!({"slots": 100}));
    let mut bytes = Vec::new();
    for (id, features) in [("a", vec![]), ("b", vec![0.5; 16]), ("c", vec![0.5; 4_096])] {
        bench.task(id, json!({"features": features}));
        bench.step();
        let live = bench.lane.state().tasks.get(&TaskKey::of(id)).unwrap();
        bytes.push(postcard::to_allocvec(&live.task).unwrap().len());
    }
    // A length of one byte or two, and 16 numbers of four bytes.
    assert_eq!((bytes[1] - bytes[0], bytes[2] - bytes[0]), (65, 66));
}
