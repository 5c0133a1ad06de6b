//! Laws that hold for every history: folding the journal gives the running lane, capacity is
//! conserved, and the same input gives the same bytes.

use proptest::prelude::*;
use serde_json::json;

use super::{Bench, settings};
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::resource::Dimension;
use crate::model::time::Timestamp;
use crate::routing::fact::Fact;
use crate::routing::state::Phase;

#[derive(Debug, Clone)]
pub(crate) enum Act {
    Task {
        id: u8,
        input_tokens: u32,
        priority: u8,
        tenant: bool,
        deadline: bool,
    },
    Result {
        id: u8,
        attempt: u32,
        status: u8,
        tokens: u32,
    },
    Health {
        resource: u8,
        status: u8,
    },
    Limit {
        resource: u8,
        slots: u32,
        tokens: u64,
    },
    Wait {
        ms: i64,
    },
    CaughtUp,
    Bad {
        topic: u8,
    },
    Condemn {
        topic: u8,
    },
    Gone,
    Step,
    /// Without reading again what the lane wants.
    StepBlind,
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (any::<u8>(), 1u32..400, 0u8..3, any::<bool>(), any::<bool>()).prop_map(
            |(id, input_tokens, priority, tenant, deadline)| Act::Task {
                id, input_tokens, priority, tenant, deadline,
            }
        ),
        6 => (any::<u8>(), 0u32..4, 0u8..7, 0u32..600).prop_map(|(id, attempt, status, tokens)| {
            Act::Result { id, attempt, status, tokens }
        }),
        1 => (0u8..3, 0u8..4).prop_map(|(resource, status)| Act::Health { resource, status }),
        1 => (0u8..3, 1u32..5, 100u64..2_000).prop_map(|(resource, slots, tokens)| Act::Limit {
            resource, slots, tokens,
        }),
        3 => (1i64..40_000).prop_map(|ms| Act::Wait { ms }),
        1 => Just(Act::CaughtUp),
        1 => (0u8..4).prop_map(|topic| Act::Bad { topic }),
        1 => (0u8..4).prop_map(|topic| Act::Condemn { topic }),
        1 => Just(Act::Gone),
        6 => Just(Act::Step),
        2 => Just(Act::StepBlind),
    ]
}

const TOPICS: [Topic; 4] = [Topic::Tasks, Topic::TaskResults, Topic::Fleet, Topic::HealthEvents];

fn run(acts: &[Act]) -> Bench {
    run_in_batches(acts, 4_096)
}

/// A history whose batches take at most so many records.
pub(crate) fn run_in_batches(acts: &[Act], batch_records_max: usize) -> Bench {
    run_keeping(acts, batch_records_max, 0)
}

/// As [`run_in_batches`], with a snapshot every so many batches.
pub(crate) fn run_keeping(acts: &[Act], batch_records_max: usize, keep_every: u64) -> Bench {
    let policy = Policy {
        backlog_tasks_max: 8,
        wait_ms_max: 20_000,
        recognise_ms: 60_000,
        recognise_tasks_max: 64,
        lease_ms_min: 5_000,
        ..Policy::default()
    };
    let mut bench = Bench::with(LaneSettings { batch_records_max, ..settings(policy) });
    bench.keep_every = keep_every;
    let limit = |bench: &mut Bench, resource: u8, slots: u32, tokens: u64| {
        let limits = json!([
            {"dimension": "tokens", "amount": tokens, "window_s": 10},
            {"dimension": "requests", "amount": 5, "window_s": 3},
        ]);
        let region = if resource == 2 { "us" } else { "eu" };
        let change = json!({"slots": slots, "limits": limits, "region": region});
        bench.resource(&format!("r{resource}"), change);
    };
    for resource in 0..3 {
        limit(&mut bench, resource, 2, 1_000);
    }
    let limits = json!([{"dimension": "requests", "amount": 9, "window_s": 10}]);
    bench.tenant("acme", json!({"limits": limits, "burst": 3, "usd_per_hour": 0.01}));
    for act in acts {
        match act {
            Act::Task { id, input_tokens, priority, tenant, deadline } => {
                let priority = ["critical", "interactive", "batch"][usize::from(*priority)];
                let mut task = json!({
                    "input_tokens": input_tokens,
                    "priority": priority,
                    "tenant": if *tenant { "acme" } else { "default" },
                });
                if *deadline {
                    task["deadline_ms"] = json!(15_000);
                }
                if id % 2 == 0 {
                    task["session"] = json!(format!("s{}", id % 8));
                }
                if id % 3 == 0 {
                    let stage = json!({"name": "s", "input_tokens": 50, "max_output_tokens": 60});
                    task["stages"] = json!([stage, stage]);
                }
                if id % 5 < 2 {
                    task["features"] = json!([f64::from(*id) / 256.0, 0.5, -1.0]);
                }
                bench.task(&format!("t{id}"), task);
            }
            Act::Result { id, attempt, status, tokens } => {
                let status = [
                    "started",
                    "heartbeat",
                    "succeeded",
                    "failed",
                    "rate_limited",
                    "late",
                    "cancelled",
                ][usize::from(*status)];
                let stage = if id % 3 == 0 { tokens % 2 } else { 0 };
                let quality = f64::from(tokens % 100) / 100.0;
                let change = json!({"output_tokens": tokens, "stage": stage, "quality": quality});
                bench.result(&format!("t{id}"), *attempt, status, change);
            }
            Act::Health { resource, status } => {
                let status = ["healthy", "degraded", "unhealthy", "drain"][usize::from(*status)];
                bench.health(&format!("r{resource}"), status);
            }
            Act::Limit { resource, slots, tokens } => limit(&mut bench, *resource, *slots, *tokens),
            Act::Wait { ms } => bench.now += ms,
            Act::CaughtUp => bench.lane.results_caught_up(Timestamp::from_ms(bench.now)),
            Act::Bad { topic } => bench.bad(TOPICS[usize::from(*topic)]),
            Act::Condemn { topic } => bench.condemn(TOPICS[usize::from(*topic)]),
            Act::Gone => bench.reread_gone(),
            Act::StepBlind => {
                bench.step();
                conserved(&bench);
            }
            Act::Step => {
                bench.reread();
                bench.step();
                conserved(&bench);
            }
        }
    }
    bench.step();
    bench
}

/// What is in use is what the tasks in flight hold.
fn conserved(bench: &Bench) {
    let state = bench.lane.state();
    let mut slots = vec![0; state.fleet.len()];
    for live in state.tasks.values() {
        if let Phase::InFlight { resource, .. } = live.phase {
            slots[usize::from(resource)] += 1;
        }
    }
    for (index, resource) in state.fleet.iter() {
        assert_eq!(resource.slots_in_use, slots[usize::from(index)], "{}", resource.id);
        assert!(resource.slots_in_use <= 4);
    }
    assert_eq!(state.in_flight, slots.iter().map(|slots| u64::from(*slots)).sum::<u64>());
    assert_eq!(state.leases.len() as u64, state.in_flight);
    let waiting = state.tasks.values().filter(|live| matches!(live.phase, Phase::Waiting { .. }));
    assert_eq!(waiting.count(), state.backlog.len());
    for (_, resource) in state.fleet.iter() {
        for rate in &resource.rates {
            if rate.limit.dimension == Dimension::Requests {
                assert!(rate.window.used() <= rate.units, "{}: {rate:?}", resource.id);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn folding_the_journal_gives_the_lane(acts in proptest::collection::vec(act(), 1..120)) {
        let bench = run(&acts);
        let folded = bench.folded();
        prop_assert_eq!(folded.hash(), bench.lane.hash());
        // The opening of an empty batch moves the running lane on in time alone, so both get one.
        let opened = Fact::BatchOpened {
            at: bench.lane.state().batch_time,
            results_caught_up_at: bench.lane.state().results_caught_up_at,
        };
        let bytes = folded.snapshot().unwrap();
        let restored = Lane::restore(0, &bytes, settings(Policy::default())).unwrap();
        prop_assert!(restored.state() == folded.state(), "a snapshot gives another state");
        prop_assert_eq!(restored.positions(), folded.positions());
        let (mut state, mut live) = (folded.state().clone(), bench.lane.state().clone());
        state.evolve(&opened);
        live.evolve(&opened);
        // Compared as text, because a mismatch would print megabytes.
        prop_assert!(format!("{state:?}") == format!("{live:?}"), "the states differ");
    }

    #[test]
    fn the_same_input_gives_the_same_bytes(acts in proptest::collection::vec(act(), 1..60)) {
        let (first, second) = (run(&acts), run(&acts));
        prop_assert_eq!(first.prepared, second.prepared);
    }
}
