//! How often is explored, against what decisions say of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::model::health::HealthStatus;
use crate::model::policy::Policy;
use crate::model::resource::ResourceSpec;
use crate::model::task::Task;
use crate::model::time::Timestamp;
use crate::routing::engine::{decide_task, decide_waiting};
use crate::routing::fact::{AttemptEnd, Fact, ResourceIndex, Shown, Then};
use crate::routing::fleet::{Broken, Condition};

const TASKS: usize = 20_000;

/// Resources by class and quality, with so many slots.
fn state(explore_share: f64, resources: &[(&str, f64, u32)]) -> State {
    let mut state = State::genesis(0, 1);
    let policy = Policy { explore_share, ..state.policy.clone() };
    state.evolve(&Fact::PolicySet(Box::new(policy)));
    for (number, (class, quality, slots)) in resources.iter().enumerate() {
        let spec = json!({
            "id": format!("r{number}"), "model": "m", "provider": "p", "region": "eu",
            "context_window": 100_000, "max_output_tokens": 4_000, "slots": slots,
            "quality": {*class: quality},
        });
        let spec: ResourceSpec = serde_json::from_value(spec).unwrap();
        state.fleet.set(number as i64, &spec, 2_000);
    }
    state
}

fn task(number: usize, change: &Value) -> Task {
    let mut task = json!({
        "task_id": format!("task-{number}"), "class": "one", "input_tokens": 100,
        "max_output_tokens": 100, "objective": {"quality": 1.0, "usd": 0.0, "second": 0.0},
    });
    for (name, value) in change.as_object().unwrap() {
        task[name] = value.clone();
    }
    serde_json::from_value(task).unwrap()
}

/// Who serves it, and the probability that it does.
fn choice(fact: &Fact) -> (ResourceIndex, f64) {
    let Fact::Routed { reservation, metrics: Some(metrics), .. } = fact else {
        panic!("{fact:?}");
    };
    (reservation.resource, metrics.propensity)
}

/// How often each resource is chosen where all tasks find the same state, and with which probability.
fn choices(state: &State, change: &Value) -> BTreeMap<ResourceIndex, (usize, f64)> {
    let (mut memo, mut found) = (Memo::default(), BTreeMap::new());
    for number in 0..TASKS {
        let task = task(number, change);
        let facts = decide_task(state, &mut memo, &task, number as i64, state.batch_time);
        let (resource, propensity) = choice(&facts[0]);
        let (count, known) = found.entry(resource).or_insert((0, propensity));
        *count += 1;
        assert_eq!(*known, propensity, "r{resource}");
    }
    found
}

/// Whether a count is within five standard deviations of what probabilities make of it.
fn is_likely(count: usize, probabilities: impl Iterator<Item = f64>) -> bool {
    let (mean, variance) = probabilities
        .fold((0.0, 0.0), |(mean, variance), one| (mean + one, variance + one * (1.0 - one)));
    (count as f64 - mean).abs() <= 5.0 * libm::sqrt(variance)
}

const FOUR: [(&str, f64, u32); 4] =
    [("one", 0.6, 9), ("one", 0.9, 9), ("one", 0.8, 9), ("one", 0.3, 9)];

#[test]
fn tasks_go_where_decisions_say_with_that_probability() {
    // Of a share of a half, what the candidates' own chances come to is less.
    for share in [0.01, 0.1, 0.5] {
        let found = choices(&state(share, &FOUR), &json!({}));
        let sum: f64 = found.values().map(|(_, propensity)| propensity).sum();
        assert_eq!(found.len(), FOUR.len(), "{found:?}");
        assert!((sum - 1.0).abs() < 1e-12, "{share}: {found:?}");
        for (count, propensity) in found.values() {
            let same = std::iter::repeat_n(*propensity, TASKS);
            assert!(is_likely(*count, same), "{share}: {found:?}");
        }
        let explored = 1.0 - found[&1].1;
        assert!(explored <= share + 1e-12 && explored > 0.9 * share.min(0.1), "{found:?}");
        let away = TASKS - found[&1].0;
        assert!(is_likely(away, std::iter::repeat_n(explored, TASKS)), "{share}: {found:?}");
        // The farther behind, the less.
        assert!(found[&2].1 > found[&0].1 && found[&0].1 > found[&3].1, "{found:?}");
    }
}

#[test]
fn who_has_no_room_leaves_its_chance_to_the_best() {
    let with = choices(&state(0.1, &FOUR), &json!({}));
    let mut full = FOUR;
    full[2].2 = 0;
    let without = choices(&state(0.1, &full), &json!({}));
    let chances = |found: &BTreeMap<ResourceIndex, (usize, f64)>| -> Vec<(ResourceIndex, f64)> {
        found.iter().map(|(one, (_, chance))| (*one, *chance)).collect()
    };
    let ((with, without), best) = ((chances(&with), chances(&without)), with[&1].1 + with[&2].1);
    assert_eq!(without.iter().map(|(one, _)| *one).collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!((without[0], without[2]), (with[0], with[3]));
    assert!((without[1].1 - best).abs() < 1e-12, "{without:?}");
}

#[test]
fn nothing_is_explored_for_critical_tasks_or_without_a_share() {
    let all_to_the_best = BTreeMap::from([(1, (TASKS, 1.0))]);
    let critical = json!({"priority": "critical"});
    assert_eq!(choices(&state(0.5, &FOUR), &critical), all_to_the_best);
    assert_eq!(choices(&state(0.0, &FOUR), &json!({})), all_to_the_best);
}

/// An attempt that teaches nothing.
fn ended(key: TaskKey, end: AttemptEnd, then: Then) -> Fact {
    Fact::AttemptEnded {
        key,
        end,
        tokens: 0,
        requests: 1,
        overrun_tokens: 0,
        usd_micros: 0,
        then,
        until: Timestamp::from_ms(1_000_000),
        shown: None,
    }
}

#[test]
fn what_is_known_well_is_hardly_explored() {
    let mut state = state(0.01, &[("one", 0.8, 9), ("one", 0.5, 9)]);
    let before = choices(&state, &json!({}))[&0].1;
    let mut memo = Memo::default();
    for number in 0..4_000 {
        let task = task(TASKS + number, &json!({}));
        let mut facts = decide_task(&state, &mut memo, &task, 0, state.batch_time);
        let Some(Fact::Routed { key, reservation, bid, .. }) = facts.first_mut() else {
            panic!("{facts:?}");
        };
        // Without prices.
        *bid = None;
        // As many results of each, and all are what was believed.
        reservation.resource = (number % 2) as ResourceIndex;
        let quality = [0.8, 0.5][number % 2];
        let mut end = ended(*key, AttemptEnd::Succeeded, Then::Done);
        if let Fact::AttemptEnded { shown, .. } = &mut end {
            *shown = Some(Shown { quality: Some(quality), ..Shown::default() });
        }
        state.evolve(&facts[0]);
        state.evolve(&end);
    }
    let after = choices(&state, &json!({}))[&0].1;
    assert!((before - 0.99).abs() < 1e-12, "{before}");
    assert!(after < 1.0 && 1.0 - after < 0.001, "{after}");
}

#[test]
fn who_had_an_attempt_explores_nothing() {
    let mut state = state(0.5, &FOUR);
    let mut memo = Memo::default();
    // Without fallbacks, which would be taken before anything else.
    let policy = Policy { fallbacks_max: 0, ..state.policy.clone() };
    state.evolve(&Fact::PolicySet(Box::new(policy)));
    for number in 0..400 {
        let task = task(number, &json!({}));
        let mut facts = decide_task(&state, &mut memo, &task, 0, state.batch_time);
        let Some(Fact::Routed { key, reservation, bid, .. }) = facts.first_mut() else {
            panic!("{facts:?}");
        };
        let key = *key;
        // Without prices.
        *bid = None;
        reservation.resource = 3;
        state.evolve(&facts[0]);
        // Nobody failed, so nothing is learned of anyone.
        state.evolve(&ended(key, AttemptEnd::Late, Then::Again));
        let again = decide_waiting(&state, &mut memo, key).unwrap();
        assert_eq!(choice(&again), (1, 1.0), "task {number}");
        state.evolve(&again);
        state.evolve(&ended(key, AttemptEnd::Cancelled, Then::Done));
    }
}

/// What serves the second stage by plan is gone before it is decided, so it is chosen anew.
#[test]
fn the_stages_of_a_task_explore_independently() {
    let resources = [
        ("one", 0.9, 100_000),
        ("one", 0.85, 100_000),
        ("two", 0.9, 100_000),
        ("two", 0.8, 100_000),
        ("two", 0.75, 100_000),
    ];
    let mut state = state(0.4, &resources);
    let stage = |class: &str| json!({"name": class, "class": class, "input_tokens": 100, "max_output_tokens": 100});
    let change = json!({"stages": [stage("one"), stage("two")]});
    let (mut memo, mut firsts) = (Memo::default(), Vec::new());
    for number in 0..TASKS {
        let task = task(number, &change);
        let facts = decide_task(&state, &mut memo, &task, 0, state.batch_time);
        let Fact::Routed { key, .. } = &facts[0] else { panic!("{facts:?}") };
        state.evolve(&facts[0]);
        state.evolve(&ended(*key, AttemptEnd::Succeeded, Then::Next));
        firsts.push((*key, choice(&facts[0])));
    }
    state.fleet.set_health(
        2,
        Condition { health: HealthStatus::Unhealthy, severity: 1.0, broken: Broken::No },
    );
    let mut both = [[0_usize; 2]; 2];
    let mut chances = Vec::new();
    for (key, (first, of_first)) in firsts {
        let fact = decide_waiting(&state, &mut memo, key).unwrap();
        let (second, of_second) = choice(&fact);
        both[usize::from(first == 1)][usize::from(second == 4)] += 1;
        // Of two candidates, what the one leaves is the other's.
        let chance = |explored: bool, chance: f64| if explored { chance } else { 1.0 - chance };
        chances.push((chance(first == 1, of_first), chance(second == 4, of_second)));
        state.evolve(&fact);
        state.evolve(&ended(key, AttemptEnd::Cancelled, Then::Done));
    }
    let [[_, second], [first, joint]] = both;
    assert!(chances.iter().all(|(one, other)| *one > 0.1 && *other > 0.1));
    assert!(is_likely(first + joint, chances.iter().map(|(one, _)| *one)), "{both:?}");
    assert!(is_likely(second + joint, chances.iter().map(|(_, one)| *one)), "{both:?}");
    assert!(is_likely(joint, chances.iter().map(|(one, other)| one * other)), "{both:?}");
}

#[test]
fn the_die_is_fair_at_every_stage_and_attempt() {
    for (stage, attempt) in [(0, 1), (1, 1), (0, 2)] {
        let mut counts = [0_u32; 10];
        for number in 0..100_000 {
            let key = TaskKey::of(&format!("task-{number}"));
            let die = Die { key, stage, attempt }.cast();
            // Whatever the first one showed: a tenth of the tasks whose first die is low.
            let first = Die::first(key).cast();
            if (stage, attempt) == (0, 1) || first < 0.1 {
                counts[(die * 10.0) as usize] += 1;
            }
        }
        let all: u32 = counts.iter().sum();
        let range = f64::from(all) * 0.1;
        let off = |count: &u32| (f64::from(*count) - range).abs();
        assert!(counts.iter().all(|count| off(count) < 5.0 * libm::sqrt(range)), "{counts:?}");
    }
}
