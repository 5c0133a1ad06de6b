//! Features through the whole loop: files, codec, lane, results, and the decisions that follow them.

use serde_json::json;

use super::{Given, resource, settings};
use crate::backtest::route;
use crate::backtest::site::{End, Verdict};

const TASKS: usize = 3_000;
const LENGTH: usize = 24;

/// Numbers in [-1, 1) that look like chance.
fn dice(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    }
}

/// One resource is good for tasks whose first feature is above zero and one for the others, by
/// `slope`; the other features and a part of every quality are chance.
fn scenario(slope: f64, with_features: bool) -> (Given, Vec<f64>) {
    let mut given = Given {
        resources: ["one", "other"].map(|id| resource(id, json!({"slots": 50}))).to_vec(),
        ..Given::default()
    };
    let (mut die, mut firsts) = (dice(1), Vec::new());
    for number in 0..TASKS {
        let mut features: Vec<f64> = (0..LENGTH).map(|_| die()).collect();
        // In most embeddings nothing that matters is as clear.
        features[0] *= 2.0;
        let off = slope * features[0] / 2.0;
        let (one, other) = (0.5 + off + 0.2 * die(), 0.5 - off + 0.2 * die());
        firsts.push(features[0]);
        let change = if with_features { json!({"features": features}) } else { json!({}) };
        let answers =
            [("one", one.clamp(0.0, 1.0), 50, 200), ("other", other.clamp(0.0, 1.0), 50, 200)];
        given.task(number as u64 * 40, change, &answers);
    }
    (given, firsts)
}

/// The mean quality of the last half of the tasks, and where each of all tasks went.
fn routed(given: &Given) -> (f64, Vec<usize>) {
    let scenario = given.scenario().unwrap();
    let run = route(&scenario, &settings(), &|_| true).unwrap();
    let quality = |end: &End| match end {
        End::Answered { quality, .. } => *quality,
        End::Refused(_) | End::Open => 0.0,
    };
    let late = &run.fates[TASKS / 2..];
    let mean = late.iter().map(|fate| quality(&fate.end)).sum::<f64>() / late.len() as f64;
    let mut places = vec![usize::MAX; TASKS];
    for decision in &run.decisions {
        if let Verdict::Routed { resource, .. } = decision.verdict {
            places[decision.task] = resource;
        }
    }
    (mean, places)
}

#[test]
fn decisions_follow_features_that_say_something() {
    let (given, firsts) = scenario(0.4, true);
    let (with, places) = routed(&given);
    let (without, _) = routed(&scenario(0.4, false).0);
    // The best that there is: half the slope more than chance.
    assert!(without < 0.53, "{without}");
    assert!(with > 0.66, "{with} with features, {without} without");
    let late = firsts.iter().zip(&places).skip(TASKS / 2).filter(|(first, _)| first.abs() > 0.5);
    let (all, right) = late.fold((0, 0), |(all, right), (first, place)| {
        (all + 1, right + u32::from((*place == 0) == (*first > 0.0)))
    });
    assert!(f64::from(right) > 0.95 * f64::from(all), "{right} of {all}");
}

#[test]
fn features_that_say_nothing_change_nothing() {
    let (with, without) = (routed(&scenario(0.0, true).0), routed(&scenario(0.0, false).0));
    let same = with.1.iter().zip(&without.1).filter(|(one, other)| one == other).count();
    assert!(same * 100 > TASKS * 99, "{same} of {TASKS} went the same way");
    assert!((with.0 - without.0).abs() < 0.01, "{} and {}", with.0, without.0);
}
