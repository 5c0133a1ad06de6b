//! What prices, waiting and the order of a batch bring about.

mod laws;

use serde_json::{Value, json};

use super::{Bench, decided};
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::model::policy::Policy;

pub(super) fn policy() -> Policy {
    Policy { load_snapshot_ms: 1_000_000_000, wait_ms_max: 30_000, ..Policy::default() }
}

/// `requests` per 10 seconds, and a quality per class.
pub(super) fn model(requests: u64, quality: Value) -> Value {
    json!({
        "slots": 100, "quality": quality,
        "limits": [{"dimension": "requests", "amount": requests, "window_s": 10}],
    })
}

/// Weights under which a second of waiting costs so much.
fn patient(second: f64) -> Value {
    json!({"objective": {"quality": 1.0, "usd": 0.0, "second": second}})
}

pub(super) fn with(mut one: Value, other: Value) -> Value {
    super::merge(&mut one, other);
    one
}

/// Who serves what, in the order of the decisions of the newest batch.
pub(super) fn served(bench: &Bench) -> Vec<String> {
    let all = decided(bench);
    all.iter()
        .map(|one| {
            let text = |path| one.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
            format!("{} {}{}", text("/task_id"), text("/primary/0/resource"), text("/reason"))
                .trim_end_matches('-')
                .to_owned()
        })
        .collect()
}

fn two_models(bench: &mut Bench, requests: u64) {
    bench.resource("good", model(requests, json!({"easy": 0.9, "hard": 0.9})));
    bench.resource("plain", model(1_000, json!({"easy": 0.85, "hard": 0.4})));
}

#[test]
fn who_loses_most_comes_first_within_a_batch() {
    let mut bench = Bench::new(policy());
    two_models(&mut bench, 1);
    // Waiting costs more than quality brings.
    for (id, class) in [("t1", "easy"), ("t2", "hard"), ("t3", "easy")] {
        bench.task(id, with(json!({"class": class}), patient(1.0)));
    }
    bench.step();
    assert_eq!(served(&bench), ["t2 good", "t1 plain", "t3 plain"]);
}

#[test]
fn priority_comes_before_loss() {
    let mut bench = Bench::new(policy());
    two_models(&mut bench, 1);
    for (id, class, priority) in [("t1", "hard", "batch"), ("t2", "easy", "critical")] {
        let task = json!({"class": class, "priority": priority});
        bench.task(id, with(task, patient(1.0)));
    }
    bench.step();
    assert_eq!(served(&bench), ["t2 good", "t1 plain"]);
}

#[test]
fn a_task_waits_for_what_is_better_as_its_objective_and_deadline_say() {
    // (what, latency weight, deadline, served at once, served once the window is over)
    let check = |what: &str, second: f64, deadline_ms: Option<u64>, later: &[&str]| {
        let mut bench = Bench::new(policy());
        two_models(&mut bench, 1);
        bench.task("t1", with(json!({"class": "hard"}), patient(second)));
        bench.step();
        assert_eq!(served(&bench), ["t1 good"], "{what}");
        let mut task = with(json!({"class": "hard"}), patient(second));
        if let Some(deadline_ms) = deadline_ms {
            task["deadline_ms"] = json!(deadline_ms);
        }
        bench.now += 100;
        bench.task("t2", task);
        let mut found = Vec::new();
        // The window is 10 s and 2 s in which the first may still start.
        for _ in 0..130 {
            bench.step();
            found.extend(served(&bench));
            bench.now += 100;
            if bench.lane.state().backlog.is_empty() {
                break;
            }
        }
        let at_s = (bench.now - 1_000_100) / 1_000;
        let found: Vec<String> = found.iter().map(|one| format!("{one} after {at_s} s")).collect();
        assert_eq!(found, later, "{what}");
    };
    check("patient", 0.001, None, &["t2 good after 12 s"]);
    check("a second is dear", 0.1, None, &["t2 plain after 0 s"]);
    check("no time to wait", 0.001, Some(9_000), &["t2 plain after 0 s"]);
    check("time enough", 0.001, Some(60_000), &["t2 good after 12 s"]);
}

#[test]
fn who_waits_takes_the_next_best_before_it_gives_up() {
    let mut bench = Bench::new(policy());
    two_models(&mut bench, 1);
    let task = |class: &str| with(json!({"class": class, "priority": "batch"}), patient(0.001));
    bench.task("t1", task("hard"));
    bench.step();
    bench.now += 100;
    bench.task("t2", task("hard"));
    assert_eq!(bench.step().len(), 0);
    // Others come first whenever the good one has room.
    for number in 0..40 {
        bench.now += 1_000;
        let mut other = task("hard");
        other["priority"] = json!("critical");
        bench.task(&format!("o{number}"), other);
        bench.step();
        if served(&bench).iter().any(|one| one.starts_with("t2")) {
            assert!(served(&bench).contains(&"t2 plain".to_owned()));
            return;
        }
    }
    panic!("t2 was never served");
}

#[test]
fn what_has_no_payload_at_hand_is_not_refused_while_it_could_be_served() {
    let mut bench = Bench::new(policy());
    bench.resource("only", model(1, json!({"default": 0.9})));
    bench.task("t1", json!({}));
    bench.step();
    bench.task("t2", json!({}));
    bench.step();
    // Forgets the payloads, as a restart does.
    bench.lane.clear_queue();
    // After the window and after its own time.
    bench.now += 40_000;
    assert_eq!(bench.step().len(), 0);
    bench.reread();
    bench.step();
    assert_eq!(served(&bench), ["t2 only"]);
}

#[test]
fn rationing_is_said_with_its_price() {
    let mut bench = Bench::new(policy());
    let slots = json!({"slots": 1_000});
    bench.resource("good", with(model(100, json!({"easy": 0.9, "hard": 0.9})), slots));
    bench.resource("plain", model(1, json!({"easy": 0.1, "hard": 0.1})));
    // Waiting would cost them more than it brings: prices move with the window alone.
    for number in 0..90 {
        bench.task(&format!("t{number}"), patient(100.0));
        bench.task(&format!("u{number}"), with(json!({"class": "hard"}), patient(100.0)));
    }
    bench.step();
    // A quality that is worth little to this one.
    let poor = json!({"objective": {"quality": 0.01, "usd": 0.0, "second": 0.0}, "class": "easy",
        "requirements": {"min_quality": 0.5}});
    bench.task("poor", poor);
    bench.step();
    bench.now += 30_001;
    for number in 0..90 {
        bench.task(&format!("v{number}"), with(json!({"class": "hard"}), patient(100.0)));
    }
    bench.step();
    let refused = decided(&bench).into_iter().find(|one| one["task_id"] == "poor").unwrap();
    assert_eq!(refused["reason"], "priced_out", "{refused}");
    let why = refused["refusals"].as_array().unwrap();
    assert!(why.iter().any(|one| one["rule"] == "priced_out"), "{refused}");
}

#[test]
fn prices_are_paid_and_published() {
    let mut bench = Bench::new(Policy { load_snapshot_ms: 100, ..policy() });
    two_models(&mut bench, 10);
    for number in 0..6 {
        bench.task(&format!("t{number}"), with(json!({"class": "hard"}), patient(0.001)));
    }
    bench.step();
    let paid: Vec<f64> =
        decided(&bench).iter().map(|one| one["metrics"]["price"].as_f64().unwrap()).collect();
    assert_eq!(paid[0], 0.0);
    assert!(paid.windows(2).skip(1).all(|pair| pair[0] < pair[1]), "{paid:?}");
    bench.now += 200;
    bench.step();
    let prepared = bench.prepared.last().unwrap();
    let load = OutputTopic::Known(Topic::LoadSnapshots);
    let snapshot = prepared.records.iter().find(|record| record.topic == load).unwrap();
    let shown: Value =
        serde_json::from_slice(prepared.slice(snapshot.value.as_ref().unwrap())).unwrap();
    let requests = &shown["load"][1];
    assert_eq!(requests["dimension"], "requests");
    assert!(requests["price"].as_f64().unwrap() > 0.0, "{shown}");
}
