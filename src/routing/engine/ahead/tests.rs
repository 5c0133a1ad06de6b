//! The layered graph against all of its paths, one by one.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::resource::ResourceSpec;
use crate::model::task::Task;
use crate::routing::fact::Fact;

const REGIONS: [&str; 3] = ["eu", "us", "asia"];

#[derive(Debug, Clone)]
struct Instance {
    /// Quality, region, price, first token, failure domain.
    resources: Vec<(f64, usize, f64, f64, usize)>,
    /// Input and output.
    stages: Vec<(u32, u32)>,
    transfer_ms: f64,
    transfer_usd: f64,
    deadline_ms: Option<u64>,
    ceiling_usd: Option<f64>,
    /// Tasks that came before, so that limits have prices.
    before: usize,
}

fn instance() -> impl Strategy<Value = Instance> {
    let resource = (0.1f64..1.0, 0usize..3, 0.1f64..20.0, 50.0f64..3_000.0, 0usize..4);
    let stage = (1u32..4_000, 1u32..1_000);
    (
        proptest::collection::vec(resource, 1..6),
        proptest::collection::vec(stage, 2..5),
        0.0f64..3_000.0,
        0.0f64..100.0,
        proptest::option::of(500u64..40_000),
        proptest::option::of(0.0001f64..0.1),
        0usize..12,
    )
        .prop_map(
            |(resources, stages, transfer_ms, transfer_usd, deadline_ms, ceiling_usd, before)| {
                Instance {
                    resources,
                    stages,
                    transfer_ms,
                    transfer_usd,
                    deadline_ms,
                    ceiling_usd,
                    before,
                }
            },
        )
}

impl Instance {
    fn state(&self) -> State {
        let mut state = State::genesis(0, 1);
        let policy = crate::model::policy::Policy {
            transfer_ms: self.transfer_ms,
            transfer_usd_per_million_tokens: self.transfer_usd,
            ..state.policy.clone()
        };
        state.evolve(&Fact::PolicySet(Box::new(policy)));
        for (number, resource) in self.resources.iter().enumerate() {
            let (quality, region, usd, first_ms, domain) = resource;
            let spec = json!({
                "id": format!("r{number}"), "model": "m", "provider": "p",
                "failure_domain": format!("d{domain}"),
                "region": REGIONS[*region], "context_window": 100_000, "max_output_tokens": 4_000,
                "slots": 2, "usd_per_million_tokens": {"input": usd, "output": usd * 3.0},
                "speed": {"time_to_first_token_ms": first_ms, "prefill_tokens_per_s": 8_000,
                    "decode_tokens_per_s": 90},
                "quality": {"default": quality},
            });
            let spec: ResourceSpec = serde_json::from_value(spec).unwrap();
            state.fleet.set(number as i64, &spec, 2_000);
        }
        for number in 0..self.before {
            let before = json!({
                "task_id": format!("before {number}"), "input_tokens": 2_000,
                "max_output_tokens": 500, "objective": {"quality": 1.0, "usd": 10.0, "second": 0.01},
            });
            let task: Task = serde_json::from_value(before).unwrap();
            let at = state.batch_time;
            for fact in
                super::super::decide_task(&state, &mut Memo::default(), &task, number as i64, at)
            {
                state.evolve(&fact);
            }
        }
        state
    }

    fn task(&self) -> Task {
        let stages: Vec<_> = self
            .stages
            .iter()
            .map(|(input, output)| {
                json!({"name": "s", "input_tokens": input, "max_output_tokens": output})
            })
            .collect();
        let mut task = json!({
            "task_id": "t", "input_tokens": 1, "stages": stages,
            "objective": {"quality": 1.0, "usd": 10.0, "second": 0.01},
            "requirements": {"max_cost_usd": self.ceiling_usd},
        });
        if let Some(ms) = self.deadline_ms {
            task["deadline_ms"] = json!(ms);
        }
        serde_json::from_value(task).unwrap()
    }

    /// Every path within deadline and ceiling, with its worth, by the definition.
    fn paths(&self, state: &State) -> Vec<(Vec<usize>, f64)> {
        let count = self.resources.len();
        let mut found = Vec::new();
        for number in 0..count.pow(self.stages.len() as u32) {
            let mut left = number;
            let (mut worth, mut cost, mut upper) = (0.0, 0.0, 0.0);
            let mut path: Vec<usize> = Vec::new();
            for (input, output) in &self.stages {
                let one = left % count;
                left /= count;
                let index = one as ResourceIndex;
                let (quality, region, usd, ..) = self.resources[one];
                let expected = state.learned.output_expected(None, *output);
                let latency = state.latency(index, *input, expected);
                let (input, output) = (f64::from(*input), f64::from(*output));
                let usd_expected = usd / 1e6 * (input + 3.0 * expected);
                let believed = quality * state.learned.capable(None, index, quality).success;
                worth += believed - 10.0 * usd_expected - 0.01 * latency.expected_ms / 1e3;
                worth -= state.fleet.toll(index).of(input + expected, latency.expected_ms);
                cost += usd / 1e6 * (input + 3.0 * output);
                upper += latency.upper_ms;
                if let Some(before) = path.last()
                    && self.resources[*before].1 != region
                {
                    let moved = self.transfer_usd / 1e6 * input;
                    worth -= 10.0 * moved + 0.01 * self.transfer_ms / 1e3;
                    cost += moved;
                    upper += self.transfer_ms;
                }
                path.push(one);
            }
            let fits = self.ceiling_usd.is_none_or(|ceiling| cost <= ceiling)
                && self.deadline_ms.is_none_or(|ms| upper <= ms as f64);
            if fits {
                found.push((path, worth));
            }
        }
        found
    }

    fn best_of_all(&self, state: &State) -> Option<f64> {
        self.paths(state).into_iter().map(|(_, worth)| worth).reduce(f64::max)
    }

    /// The failure domains of a path.
    fn domains(&self, path: &[usize]) -> Vec<usize> {
        path.iter().map(|one| self.resources[*one].4).collect()
    }

    /// The paths of a decision, the primary's first; `None` where it routes nothing.
    fn decided(&self, state: &State) -> Option<Vec<Vec<usize>>> {
        let (task, mut memo) = (self.task(), Memo::default());
        let facts = super::super::decide_task(state, &mut memo, &task, 7, state.batch_time);
        let Some(Fact::Routed { reservation, fallbacks, plans, .. }) = facts.into_iter().next()
        else {
            return None;
        };
        let firsts = std::iter::once(reservation.resource).chain(fallbacks);
        let path = |(first, plan): (ResourceIndex, Vec<ResourceIndex>)| {
            std::iter::once(first).chain(plan).map(|one| one as usize).collect()
        };
        Some(firsts.zip(plans).map(path).collect())
    }

    /// As the engine finds it, and whether it kept every way that matters: where a stage keeps as many as it
    /// may, a little worth can be lost.
    fn best_found(&self, state: &State) -> (Option<f64>, bool) {
        let (task, mut memo) = (self.task(), Memo::default());
        let opening = super::super::Opening::of(state, &mut memo, &task);
        let ahead = opening.ahead(state, &mut memo, &task).unwrap();
        let at = state.batch_time;
        let ask = super::super::ask_of_new(state, &opening, Some(&ahead), &task, at);
        let found = super::super::Survey::of(state, &mut memo, &ask);
        let keeps_all = ahead.layers.iter().all(|layer| layer.len() < LABELS_MAX);
        (found.first().map(|first| first.score), keeps_all)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_best_path_of_all_is_found(instance in instance()) {
        let state = instance.state();
        let (all, (found, keeps_all)) =
            (instance.best_of_all(&state), instance.best_found(&state));
        match (all, found) {
            (Some(all), Some(found)) => {
                prop_assert!(found < all + 1e-9, "{all} is the best, {found} was found");
                prop_assert!(!keeps_all || found > all - 1e-9, "{all} is the best, {found} was found");
            }
            (all, found) => prop_assert!(!keeps_all && found.is_none() || all == found),
        }
    }

    #[test]
    fn the_order_of_the_resources_changes_nothing(instance in instance()) {
        let mut turned = instance.clone();
        turned.resources.reverse();
        let ((one, keeps_all), (other, other_keeps_all)) =
            (instance.best_found(&instance.state()), turned.best_found(&turned.state()));
        prop_assume!(keeps_all && other_keeps_all);
        match (one, other) {
            (Some(one), Some(other)) => prop_assert!((one - other).abs() < 1e-12),
            (one, other) => prop_assert_eq!(one, other),
        }
    }

    /// As far as one sum bounds the paths: where both do, a way that keeps to both may be lost.
    #[test]
    fn fallbacks_are_the_best_chains_that_are_apart(mut instance in instance()) {
        if instance.deadline_ms.is_some() {
            instance.ceiling_usd = None;
        }
        // Else most would wait for a slot.
        instance.before %= 3;
        let state = instance.state();
        let Some(decided) = instance.decided(&state) else { return Ok(()) };
        let paths = instance.paths(&state);
        let worth_of = |path: &[usize]| paths.iter().find(|(one, _)| one == path).unwrap().1;
        let (primary, fallbacks) = decided.split_first().unwrap();
        let of_primary = instance.domains(primary);
        let is_apart = |path: &[usize]| {
            instance.domains(path).iter().all(|domain| !of_primary.contains(domain))
        };
        let best = paths
            .iter()
            .filter(|(path, _)| is_apart(path))
            .map(|(_, worth)| *worth)
            .reduce(f64::max);
        match best {
            Some(best) => {
                prop_assert!(!fallbacks.is_empty(), "one is worth {best}");
                prop_assert!(fallbacks.iter().all(|one| is_apart(one)), "{decided:?}");
                let worth = worth_of(&fallbacks[0]);
                let is_exact = instance.deadline_ms.is_none() && instance.ceiling_usd.is_none();
                prop_assert!(worth < best + 1e-9 && (!is_exact || worth > best - 1e-9));
            }
            None => prop_assert!(!fallbacks.iter().any(|one| is_apart(one)), "{decided:?}"),
        }
        // Who has another failure domain comes first all the same.
        let first_domain = |path: &[usize]| instance.resources[path[0]].4;
        let other = paths.iter().any(|(path, _)| first_domain(path) != of_primary[0]);
        for fallback in fallbacks {
            prop_assert!(fallback[0] != primary[0]);
            prop_assert!(!other || first_domain(fallback) != of_primary[0], "{decided:?}");
        }
    }

    /// A list of one stage is the task itself.
    #[test]
    fn one_stage_is_decided_as_none(instance in instance(), at in 0u64..100_000) {
        let mut state = instance.state();
        state.batch_time = crate::model::time::Timestamp::from_ms(at as i64);
        let staged = Instance { stages: instance.stages[..1].to_vec(), ..instance.clone() }.task();
        let (input, output) = instance.stages[0];
        let plain = Task {
            stages: Vec::new(), input_tokens: input, max_output_tokens: output, ..staged.clone()
        };
        let decide = |task: &Task| {
            let facts =
                super::super::decide_task(&state, &mut Memo::default(), task, 7, state.batch_time);
            // A task that is new to the lane comes with its facts, and they differ in their lists.
            let shown = facts.into_iter().map(|fact| {
                if let Fact::Routed { reservation, fallbacks, lease_until, bid, metrics, .. } = fact {
                    format!("{reservation:?} {fallbacks:?} {lease_until:?} {bid:?} {metrics:?}")
                } else if let Fact::Queued { blocked_by, until, loss, bid, .. } = fact {
                    format!("{blocked_by:?} {until:?} {loss:?} {bid:?}")
                } else if let Fact::Refused { reason, .. } = fact {
                    reason.name().to_owned()
                } else {
                    format!("{fact:?}")
                }
            });
            shown.collect::<Vec<_>>()
        };
        prop_assert_eq!(decide(&plain), decide(&staged));
    }
}

/// Else the oracle would agree with prices that nobody counts.
#[test]
fn tasks_that_came_before_leave_prices() {
    let resource = |quality| (quality, 0, 1.0, 100.0, 0);
    let instance = Instance {
        resources: vec![resource(0.9), resource(0.5)],
        stages: vec![(100, 100); 2],
        transfer_ms: 0.0,
        transfer_usd: 0.0,
        deadline_ms: None,
        ceiling_usd: None,
        before: 4,
    };
    let state = instance.state();
    assert!(state.fleet.toll(0).of(200.0, 1_000.0) > 0.01);
}
