//! What can wait leaves free what higher priorities took lately, before a limit is full.

use serde_json::{Value, json};

use super::Bench;
use crate::model::policy::Policy;

fn bench(wait_ms_max: u64, priority_share_min: f64, window_s: u32) -> Bench {
    let mut bench = Bench::new(Policy {
        load_snapshot_ms: 1_000_000_000,
        explore_share: 0.0,
        wait_ms_max,
        priority_share_min,
        ..Policy::default()
    });
    let limits = json!([{"dimension": "requests", "amount": 20, "window_s": window_s}]);
    bench.resource("one", json!({"slots": 100, "limits": limits}));
    bench
}

fn tasks(bench: &mut Bench, count: usize, name: &str, change: &Value) {
    for number in 0..count {
        bench.task(&format!("{name}-{number}"), change.clone());
    }
}

/// Ids of the tasks that the next batch routes; nothing is refused.
fn routed(bench: &mut Bench) -> Vec<String> {
    let batches = bench.prepared.len();
    bench.step();
    if bench.prepared.len() == batches {
        return Vec::new();
    }
    let decisions = super::decided(bench);
    assert!(decisions.iter().all(|one| one["outcome"] == "routed"), "{decisions:?}");
    decisions.iter().map(|one| one["task_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_task_leaves_what_higher_priorities_took() {
    // (who took eight of twenty, who comes then, routed at once, routed as those eight count for 1/e)
    let rows = [
        ("critical", "critical", 12, 0),
        ("critical", "interactive", 8, 3),
        ("critical", "batch", 8, 3),
        ("interactive", "interactive", 12, 0),
        ("interactive", "batch", 8, 3),
        ("batch", "batch", 12, 0),
        ("batch", "critical", 12, 0),
    ];
    for (first, then, at_once, later) in rows {
        let mut bench = bench(60_000, 0.01, 60);
        tasks(&mut bench, 8, "first", &json!({"priority": first}));
        assert_eq!(routed(&mut bench).len(), 8, "{first}");
        tasks(&mut bench, 16, "then", &json!({"priority": then}));
        assert_eq!(routed(&mut bench).len(), at_once, "{first} {then}");
        bench.now += 10_000;
        assert_eq!(routed(&mut bench).len(), later, "{first} {then}");
    }
}

#[test]
fn a_task_goes_before_its_time_is_over() {
    // (how long it may wait, its deadline, the second in which it goes); an answer takes 1.7 s at most.
    let rows = [
        (4_000, Value::Null, 3),
        (60_000, json!(2_000), 0),
        (60_000, json!(4_500), 2),
        (60_000, json!(6_500), 4),
    ];
    for (wait_ms_max, deadline_ms, expected) in rows {
        let mut bench = bench(wait_ms_max, 0.01, 10);
        tasks(&mut bench, 14, "urgent", &json!({"priority": "critical"}));
        routed(&mut bench);
        bench.task("it", json!({"priority": "batch", "deadline_ms": deadline_ms}));
        let went = (0..5).find(|second| {
            let is_routed = routed(&mut bench).contains(&"it".to_owned());
            bench.now += 1_000;
            bench.task(&format!("later-{second}"), json!({"priority": "critical"}));
            is_routed
        });
        assert_eq!(went, Some(expected), "{wait_ms_max} {deadline_ms}");
    }
}

#[test]
fn who_had_an_attempt_does_not_hold_back() {
    let mut bench = bench(60_000, 0.01, 60);
    bench.task("it", json!({"priority": "batch"}));
    assert_eq!(routed(&mut bench), ["it"]);
    tasks(&mut bench, 14, "urgent", &json!({"priority": "critical"}));
    assert_eq!(routed(&mut bench).len(), 14);
    bench.task("other", json!({"priority": "batch"}));
    bench.result("it", 1, "failed", json!({"resource": "one"}));
    assert_eq!(routed(&mut bench), [""; 0]);
    bench.reread();
    bench.now += 100;
    assert_eq!(routed(&mut bench), ["it"]);
}

#[test]
fn what_is_owed_its_turn_does_not_hold_back() {
    for (priority_share_min, expected) in [(0.01, 3), (0.5, 4)] {
        let mut bench = bench(60_000, priority_share_min, 60);
        tasks(&mut bench, 14, "urgent", &json!({"priority": "critical"}));
        bench.task("it", json!({"priority": "batch"}));
        assert_eq!(routed(&mut bench).len(), 14);
        tasks(&mut bench, 3, "more", &json!({"priority": "critical"}));
        assert_eq!(routed(&mut bench).len(), expected, "{priority_share_min}");
    }
}
