//! What lanes tell of their tasks, and the share of the hindsight bound that comes of it.

use serde_json::{Value, json};

use super::Bench;
use crate::hindsight::sample::{Offer, Sample};
use crate::hindsight::window::{Share, Window};
use crate::model::policy::Policy;

/// Until what was taken is there again: a window, and the time in which what it was taken for may start.
const WINDOW_MS: i64 = 12_000;

/// Two models of which one is good for all; it takes so many requests in ten seconds.
fn bench(requests: u64) -> Bench {
    let policy = Policy {
        load_snapshot_ms: 1_000_000_000,
        explore_share: 0.0,
        attempts_max: 1,
        ..Policy::default()
    };
    let mut bench = Bench::new(policy);
    let limits = |amount: u64| json!([{"dimension": "requests", "amount": amount, "window_s": 10}]);
    let quality = json!({"easy": 0.9, "hard": 0.9});
    bench.resource(
        "good",
        json!({"slots": 100_000, "quality": quality, "limits": limits(requests)}),
    );
    let quality = json!({"easy": 0.8, "hard": 0.2});
    bench
        .resource("plain", json!({"slots": 100_000, "quality": quality, "limits": limits(10_000)}));
    // The capacities are told once a minute.
    bench.step();
    bench.now += 60_000;
    bench
}

/// 64 tasks of a class at once, of which quality alone counts.
fn come(bench: &mut Bench, class: &str, change: &Value) {
    for number in 0..64 {
        let mut task = json!({
            "class": class, "objective": {"quality": 1.0, "usd": 0.0, "second": 0.0},
        });
        super::merge(&mut task, change.clone());
        bench.task(&format!("{class}{number}"), task);
    }
    bench.step();
}

fn share(bench: &Bench) -> Option<Share> {
    let mut window = Window::default();
    let samples = bench.prepared.iter().flat_map(|prepared| &prepared.samples);
    samples.for_each(|sample| window.add(sample.clone()));
    window.question()?.answer(&|_| true)
}

fn check(what: &str, bench: &Bench, tasks: usize, expected: f64) {
    let found = share(bench).unwrap();
    assert_eq!(found.tasks, tasks, "{what}");
    assert!((found.share - expected).abs() < 0.03, "{what}: {found:?}, not {expected}");
}

#[test]
fn rows() {
    // Nobody can wait.
    let urgent = json!({"deadline_ms": 4_000});
    let both = |requests: u64| {
        let mut bench = bench(requests);
        come(&mut bench, "easy", &urgent);
        bench.now += 100;
        come(&mut bench, "hard", &urgent);
        bench
    };
    check("room for all", &both(1_000), 128, 1.0);
    // The good one is full when those come that need it: 64 · (0.9 + 0.2) of 64 · (0.8 + 0.9).
    check("the wrong ones were first", &both(64), 128, 1.1 / 1.7);

    let mut patient = bench(64);
    for class in ["easy", "hard"] {
        come(&mut patient, class, &json!({"class": "hard"}));
        patient.now += 100;
    }
    check("half of them wait", &patient, 128, 0.5);
    patient.now += WINDOW_MS;
    patient.step();
    check("and are served later", &patient, 128, 1.0);

    let mut failed = bench(1_000);
    come(&mut failed, "easy", &json!({}));
    come(&mut failed, "hard", &json!({}));
    for number in 0..64 {
        failed.result(&format!("easy{number}"), 1, "failed", json!({}));
    }
    failed.step();
    check("half of them have failed for good", &failed, 128, 0.5);

    let mut few = bench(1_000);
    few.task("one", json!({}));
    few.step();
    assert_eq!(share(&few), None, "one task says nothing");
}

#[test]
fn a_busy_lane_tells_of_a_part_that_stands_for_all() {
    let mut bench = bench(100_000);
    for number in 0..12_000 {
        bench.task(&format!("t{number}"), json!({"class": "easy"}));
    }
    while bench.lane.queued() > 0 {
        bench.step();
    }
    let told: Vec<&Sample> = bench.prepared.iter().flat_map(|prepared| &prepared.samples).collect();
    let news: Vec<(u8, &Vec<Offer>)> = told
        .iter()
        .filter_map(|sample| match sample {
            Sample::New(seen) => Some((seen.level, &seen.offers)),
            Sample::Served { .. } | Sample::Lost { .. } | Sample::Capacities(_) => None,
        })
        .collect();
    // All of the first 4,096, every second one of as many pairs, every fourth one from then on.
    let of_level = |level: u8| news.iter().filter(|(one, _)| *one == level).count();
    assert!(of_level(0) == 4_096 && of_level(1) > 1_500 && of_level(2) > 100, "{}", news.len());
    assert!(news.iter().all(|(_, offers)| offers.len() == 2));
    // A quarter of the limits is enough for a quarter of the tasks.
    let found = share(&bench).unwrap();
    assert!((2_700..3_300).contains(&found.tasks), "{found:?}");
    assert!((found.share - 1.0).abs() < 0.03, "{found:?}");
}
