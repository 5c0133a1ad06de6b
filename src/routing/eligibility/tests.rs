//! A list that is kept is the one that would be made now.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::resource::ResourceSpec;
use crate::routing::fact::{AttemptEnd, Shown};
use crate::routing::fleet::Condition;
use crate::routing::learned::Attempted;

const RESOURCES: u16 = 5;
const CLASSES: [&str; 3] = ["easy", "hard", "other"];

fn state() -> State {
    let mut state = State::genesis(0, 1);
    for number in 0..RESOURCES {
        let part = f64::from(number) / 10.0;
        let spec = json!({
            "id": format!("r{number}"), "model": "m", "provider": "p", "region": "eu",
            "context_window": 100_000, "max_output_tokens": 4_000, "slots": 4,
            "pool": if number == 3 { "missing" } else { "default" },
            "quality": {"easy": 0.9 - part, "hard": 0.5 + part},
        });
        let spec: ResourceSpec = serde_json::from_value(spec).unwrap();
        state.fleet.set(i64::from(number), &spec, 2_000);
    }
    state.policy.pools_missing.push("missing".to_owned());
    state
}

/// Of each class, and with a quality that some resources do not have.
fn shapes() -> Vec<SharedShape> {
    let shape = |class: &&str, least: Option<f64>| {
        let mut task = json!({
            "task_id": "t", "class": class, "input_tokens": 1, "max_output_tokens": 1,
        });
        if let Some(least) = least {
            task["requirements"] = json!({"min_quality": least});
        }
        let task: Task = serde_json::from_value(task).unwrap();
        Arc::new(Shape::of(&task))
    };
    let least = [None, Some(0.3), Some(0.7)];
    CLASSES.iter().flat_map(|class| least.map(|least| shape(class, least))).collect()
}

#[derive(Debug, Clone)]
enum Act {
    /// So many results.
    Results {
        class: usize,
        resource: u16,
        quality: Option<f64>,
        times: u32,
    },
    Slow {
        resource: u16,
        now: f64,
    },
    SlowEnded {
        resource: u16,
        slow: f64,
    },
    Forgive {
        resource: u16,
    },
    Health {
        resource: u16,
        condition: Condition,
    },
    /// Tasks of one shape come.
    Asked {
        shape: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let resource = || 0..RESOURCES;
    let condition = prop_oneof![
        Just(Condition { health: HealthStatus::Healthy, severity: 0.0, broken: Broken::No }),
        Just(Condition { health: HealthStatus::Degraded, severity: 0.4, broken: Broken::No }),
        Just(Condition { health: HealthStatus::Unhealthy, severity: 1.0, broken: Broken::No }),
        Just(Condition { health: HealthStatus::Unhealthy, severity: 0.0, broken: Broken::Stopped }),
    ];
    prop_oneof![
        6 => (0..CLASSES.len(), resource(), proptest::option::weighted(0.8, 0.0..=1.0), 1u32..40)
            .prop_map(|(class, resource, quality, times)| {
                Act::Results { class, resource, quality, times }
            }),
        1 => (resource(), 0.0..=2.0).prop_map(|(resource, now)| Act::Slow { resource, now }),
        1 => (resource(), 0.0..=2.0).prop_map(|(resource, slow)| Act::SlowEnded { resource, slow }),
        1 => resource().prop_map(|resource| Act::Forgive { resource }),
        1 => (resource(), condition)
            .prop_map(|(resource, condition)| Act::Health { resource, condition }),
        9 => (0..3 * CLASSES.len()).prop_map(|shape| Act::Asked { shape }),
    ]
}

fn results(state: &mut State, class: &str, resource: u16, quality: Option<f64>) {
    let attempted = Attempted {
        class,
        resource,
        input_tokens: 100,
        max_output_tokens: 100,
        output_reserved: 100,
        quality_prior: state.fleet.at(resource).spec.quality_prior(class).unwrap_or_default(),
        features: None,
    };
    let shown = Shown {
        input_tokens: Some(100),
        output_tokens: Some(50),
        duration_ms: Some(1_000.0 + 100.0 * f64::from(resource)),
        queued_ms: Some(20.0),
        quality,
        ..Shown::default()
    };
    let end = if quality.is_some() { AttemptEnd::Succeeded } else { AttemptEnd::Failed };
    state.learned.observe_v1(attempted, state.fleet.terms(resource), end, &shown);
}

proptest! {
    #[test]
    fn a_kept_list_is_what_a_new_one_would_be(acts in proptest::collection::vec(act(), 1..80)) {
        let (mut state, shapes) = (state(), shapes());
        let mut memo = Memo::default();
        for act in acts {
            match act {
                Act::Results { class, resource, quality, times } => {
                    for _ in 0..times {
                        results(&mut state, CLASSES[class], resource, quality);
                    }
                }
                Act::Slow { resource, now } => state.learned.slow_v1(resource, 0.0, now),
                Act::SlowEnded { resource, slow } => state.learned.slow_ended_v1(resource, slow),
                Act::Forgive { resource } => state.learned.forgive(resource),
                Act::Health { resource, condition } => state.fleet.set_health(resource, condition),
                Act::Asked { shape } => {
                    let kept = memo.candidates_of(&state, &shapes[shape]);
                    let new = Memo::default().candidates_of(&state, &shapes[shape]);
                    prop_assert_eq!(kept, new);
                }
            }
        }
    }
}
