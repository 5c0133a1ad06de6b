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
    /// Quality, region, price, first token.
    resources: Vec<(f64, usize, f64, f64)>,
    /// Input and output.
    stages: Vec<(u32, u32)>,
    transfer_ms: f64,
    transfer_usd: f64,
    deadline_ms: Option<u64>,
    ceiling_usd: Option<f64>,
}

fn instance() -> impl Strategy<Value = Instance> {
    let resource = (0.1f64..1.0, 0usize..3, 0.1f64..20.0, 50.0f64..3_000.0);
    let stage = (1u32..4_000, 1u32..1_000);
    (
        proptest::collection::vec(resource, 1..6),
        proptest::collection::vec(stage, 2..5),
        0.0f64..3_000.0,
        0.0f64..100.0,
        proptest::option::of(500u64..40_000),
        proptest::option::of(0.0001f64..0.1),
    )
        .prop_map(
            |(resources, stages, transfer_ms, transfer_usd, deadline_ms, ceiling_usd)| Instance {
                resources,
                stages,
                transfer_ms,
                transfer_usd,
                deadline_ms,
                ceiling_usd,
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
        for (number, (quality, region, usd, first_ms)) in self.resources.iter().enumerate() {
            let spec = json!({
                "id": format!("r{number}"), "model": "m", "provider": format!("p{number}"),
                "region": REGIONS[*region], "context_window": 100_000, "max_output_tokens": 4_000,
                "slots": 2, "usd_per_million_tokens": {"input": usd, "output": usd * 3.0},
                "speed": {"time_to_first_token_ms": first_ms, "prefill_tokens_per_s": 8_000,
                    "decode_tokens_per_s": 90},
                "quality": {"default": quality},
            });
            let spec: ResourceSpec = serde_json::from_value(spec).unwrap();
            state.fleet.set(number as i64, &spec, 2_000);
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

    /// Worth of the best path among all, by the definition.
    fn best_of_all(&self, state: &State) -> Option<f64> {
        let count = self.resources.len();
        let mut best: Option<f64> = None;
        for number in 0..count.pow(self.stages.len() as u32) {
            let mut left = number;
            let (mut worth, mut cost, mut upper) = (0.0, 0.0, 0.0);
            let mut before: Option<usize> = None;
            for (input, output) in &self.stages {
                let one = left % count;
                left /= count;
                let index = one as ResourceIndex;
                let (quality, region, usd, _) = self.resources[one];
                let expected = state.learned.output_expected(None, *output);
                let latency = state.latency(index, *input, expected);
                let (input, output) = (f64::from(*input), f64::from(*output));
                let usd_expected = usd / 1e6 * (input + 3.0 * expected);
                let believed = quality * state.learned.capable(None, index, quality).success;
                worth += believed - 10.0 * usd_expected - 0.01 * latency.expected_ms / 1e3;
                cost += usd / 1e6 * (input + 3.0 * output);
                upper += latency.upper_ms;
                if let Some(before) = before
                    && self.resources[before].1 != region
                {
                    let moved = self.transfer_usd / 1e6 * input;
                    worth -= 10.0 * moved + 0.01 * self.transfer_ms / 1e3;
                    cost += moved;
                    upper += self.transfer_ms;
                }
                before = Some(one);
            }
            let fits = self.ceiling_usd.is_none_or(|ceiling| cost <= ceiling)
                && self.deadline_ms.is_none_or(|ms| upper <= ms as f64);
            if fits && best.is_none_or(|best| worth > best) {
                best = Some(worth);
            }
        }
        best
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
