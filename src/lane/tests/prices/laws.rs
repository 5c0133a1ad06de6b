//! Laws that hold with prices, whatever comes: tasks of all objectives, with and without budgets, and results
//! that teach.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::{model, patient, policy, with};
use crate::lane::tests::{Bench, decided};
use crate::model::policy::Policy;
use crate::routing::price::{Price, STAKES_MAX};
use crate::routing::state::Phase;

#[derive(Debug, Clone)]
struct Arrival {
    class: usize,
    priority: usize,
    objective: usize,
    input_tokens: u32,
    has_deadline: bool,
    /// 0: with a small budget, 1: with a large one, 2: of no known tenant.
    tenant: usize,
}

#[derive(Debug, Clone)]
struct Load {
    tasks: Vec<Arrival>,
    wait_ms: i64,
    /// Of the tasks in flight, the first ones that end: quality and duration.
    ended: Vec<(f64, u32)>,
}

fn load() -> impl Strategy<Value = Load> {
    let objectives = 0..objectives().len();
    let task =
        (0..CLASSES.len(), 0..PRIORITIES.len(), objectives, 1u32..400, any::<bool>(), 0usize..3)
            .prop_map(|(class, priority, objective, input_tokens, has_deadline, tenant)| Arrival {
                class,
                priority,
                objective,
                input_tokens,
                has_deadline,
                tenant,
            });
    let ended = proptest::collection::vec((0.0f64..1.0, 100u32..9_000), 0..20);
    (proptest::collection::vec(task, 0..25), 1i64..8_000, ended)
        .prop_map(|(tasks, wait_ms, ended)| Load { tasks, wait_ms, ended })
}

fn loads() -> impl Strategy<Value = Vec<Load>> {
    proptest::collection::vec(load(), 1..25)
}

const CLASSES: [&str; 3] = ["easy", "fair", "hard"];
const PRIORITIES: [&str; 3] = ["critical", "interactive", "batch"];
const RESOURCES: usize = 4;

/// Those that rank, and weights of one's own: of one that is worth little anything may be too dear.
fn objectives() -> [Value; 6] {
    [
        json!("balanced"),
        json!("best"),
        json!("cheapest"),
        json!("fastest"),
        json!({"quality": 1.0, "usd": 0.0, "second": 0.001}),
        json!({"quality": 0.001, "usd": 0.0, "second": 0.0}),
    ]
}

/// In which order resources are put, and the name of each.
#[derive(Debug, Clone)]
struct Naming {
    order: Vec<usize>,
    names: Vec<&'static str>,
}

impl Naming {
    fn plain() -> Self {
        Naming { order: (0..RESOURCES).collect(), names: vec!["a", "b", "c", "d"] }
    }
}

fn naming() -> impl Strategy<Value = Naming> {
    let Naming { order, names } = Naming::plain();
    (Just(order).prop_shuffle(), Just(names).prop_shuffle())
        .prop_map(|(order, names)| Naming { order, names })
}

/// Without ties under any of the objectives, so that no outcome depends on the order of resources.
fn fleet(bench: &mut Bench, naming: &Naming) {
    let limits = [(2, 3u64, 900u64), (1, 5, 700), (3, 2, 2_000), (2, 4, 600)];
    for number in &naming.order {
        let number = *number;
        let (slots, requests, tokens) = limits[number];
        let quality = |class: usize| 0.95 - 0.1 * number as f64 - 0.07 * (class * number) as f64;
        bench.resource(
            naming.names[number],
            json!({
                "slots": slots, "model": format!("m{number}"),
                "usd_per_million_tokens": {
                    "input": 1.0 + 0.31 * number as f64, "output": 2.0 - 0.17 * number as f64,
                },
                "quality": {"easy": quality(0), "fair": quality(1), "hard": quality(2)},
                "speed": {"time_to_first_token_ms": 100 + 37 * number,
                          "prefill_tokens_per_s": 5_000, "decode_tokens_per_s": 50},
                "limits": [
                    {"dimension": "requests", "amount": requests, "window_s": 5},
                    {"dimension": "tokens", "amount": tokens, "window_s": 5},
                ],
            }),
        );
    }
    // What a task costs is a few ten-thousandths of a dollar: the one is soon full, the other never.
    bench.tenant("poor", json!({"usd_per_hour": 0.004}));
    bench.tenant("rich", json!({"usd_per_hour": 4.0}));
}

/// Runs the loads; `see` gets the bench after each batch, with the tasks of that batch.
fn play(loads: &[Load], naming: &Naming, mut see: impl FnMut(&Bench, &[usize])) -> Bench {
    // Who is explored is drawn from among those that the order of resources puts first.
    let mut bench = Bench::new(Policy { explore_share: 0.0, ..policy() });
    let mut number = 0;
    let (mut ended, objectives) = (0, objectives());
    for (place, load) in loads.iter().enumerate() {
        if place == 0 {
            fleet(&mut bench, naming);
        }
        let in_flight: Vec<(String, u32)> = {
            let live = bench.lane.state().tasks.values();
            let mut all: Vec<_> = live
                .filter(|one| matches!(one.phase, Phase::InFlight { .. }))
                .map(|one| (one.task.task_id.to_string(), one.attempt))
                .collect();
            all.sort();
            all
        };
        for ((id, attempt), (quality, duration_ms)) in in_flight.iter().zip(&load.ended) {
            let shown = json!({
                "input_tokens": 200, "output_tokens": 20 + ended % 70, "quality": quality,
                "duration_ms": duration_ms,
            });
            bench.result(id, *attempt, "succeeded", shown);
            ended += 1;
        }
        let first = number;
        for one in &load.tasks {
            let mut task = json!({
                "class": CLASSES[one.class], "input_tokens": one.input_tokens,
                "priority": PRIORITIES[one.priority], "objective": objectives[one.objective],
            });
            if let Some(tenant) = ["poor", "rich"].get(one.tenant) {
                task["tenant"] = json!(tenant);
            }
            if one.has_deadline {
                task["deadline_ms"] = json!(9_000);
            }
            bench.task(&format!("t{number:04}"), task);
            number += 1;
        }
        bench.reread();
        bench.step();
        let batch: Vec<usize> = (first..number).collect();
        see(&bench, &batch);
        bench.now += load.wait_ms;
    }
    bench
}

/// As `proptest!` runs it, for a property that counts what it has seen in all its cases.
fn check_cases<S: Strategy>(strategy: &S, check: impl Fn(S::Value)) {
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(100) };
    let mut runner = TestRunner::new(config);
    let ran = runner.run(strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}\n{runner}");
    }
}

/// What a resource that was refused for its price asked, and the most that the task would have paid.
fn too_dear(refusal: &Value) -> Option<(f64, f64)> {
    if refusal["rule"] != "priced_out" {
        return None;
    }
    let most = refusal["needed"].as_str().unwrap().strip_prefix("a price of at most ").unwrap();
    Some((refusal["had"].as_str().unwrap().parse().unwrap(), most.parse().unwrap()))
}

#[test]
fn no_feasible_candidate_is_refused_for_capacity_or_for_a_price_that_it_would_pay() {
    let full = Cell::new(0);
    check_cases(&loads(), |loads| {
        play(&loads, &Naming::plain(), |bench, _| {
            let state = bench.lane.state();
            for refused in decided(bench) {
                match refused["reason"].as_str() {
                    Some("no_capacity") => full.set(full.get() + 1),
                    // Seldom: those that are too dear are mostly full as well. The next one has more.
                    Some("priced_out") => {}
                    Some(_) | None => continue,
                }
                let why = refused["refusals"].as_array().unwrap();
                assert!(why.iter().any(|one| one["rule"] == refused["reason"]), "{refused}");
                let mut prices = why.iter().filter_map(too_dear);
                assert!(prices.all(|(asked, most)| asked > most), "{refused}");
                let tokens = refused["input_tokens"].as_u64().unwrap()
                    + refused["max_output_tokens"].as_u64().unwrap();
                // Nothing is freed after a refusal, so there was no more room before.
                for (index, resource) in state.fleet.iter() {
                    let has_room = state.fleet.room(index).fits(tokens);
                    let other_rule = why
                        .iter()
                        .any(|one| one["resource"] == *resource.id && one["rule"] != "no_capacity");
                    assert!(!has_room || other_rule, "{} has room for {refused}", resource.id);
                }
            }
        });
    });
    assert!(full.get() > 100, "{} without capacity", full.get());
}

#[test]
fn prices_stay_in_their_range() {
    let priced = Cell::new([0; 3]);
    check_cases(&loads(), |loads| {
        let mut stake_max = 0.0_f64;
        play(&loads, &Naming::plain(), |bench, _| {
            let state = bench.lane.state();
            let now = state.batch_time;
            stake_max = stake_max.max(state.stake.get());
            // The 24 tasks of a batch lower the mean stake by a third at most: (63 / 64)^24.
            let most = 1.5 * STAKES_MAX * stake_max;
            let check = |kind: usize, of: &str, price: Price| {
                let paid = price.usual_task(now);
                assert!((0.0..=most).contains(&paid), "{of}: {paid} of {most}");
                let mut seen = priced.get();
                seen[kind] += u32::from(paid > 0.0);
                priced.set(seen);
            };
            for (_, resource) in state.fleet.iter() {
                resource.rates.iter().for_each(|rate| check(0, &resource.id, rate.price));
                check(1, &resource.id, resource.slot_price);
            }
            for (_, tenant) in state.tenants.iter() {
                tenant.budget.iter().for_each(|budget| check(2, &tenant.spec.id, budget.price));
            }
        });
    });
    let priced = priced.get();
    assert!(priced.iter().all(|times| *times > 100), "windows, slots, budgets: {priced:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// So many tasks of a hundred take of a limit twice, and one comes between to which little is worth much.
    #[test]
    fn who_is_priced_out_was_asked_for_more_than_it_would_pay(
        tasks in 75u32..100, quality in 0.0f64..0.02,
    ) {
        let mut bench = Bench::new(policy());
        for (id, requests, quality) in [("good", 100, 0.9), ("plain", 1_000, 0.4)] {
            let change = model(requests, json!({"hard": quality}));
            bench.resource(id, with(change, json!({"slots": 1_000})));
        }
        let come = |bench: &mut Bench, name: &str| {
            for number in 0..tasks {
                // Waiting would cost them more than it brings.
                bench.task(&format!("{name}{number}"), with(json!({"class": "hard"}), patient(100.0)));
            }
            bench.step();
        };
        come(&mut bench, "first");
        let objective = json!({"quality": quality, "usd": 0.0, "second": 0.0});
        let requirements = json!({"min_quality": 0.88});
        let poor = json!({"class": "hard", "objective": objective, "requirements": requirements});
        bench.task("poor", poor);
        bench.step();
        prop_assert_eq!(decided(&bench).len(), 0);
        bench.now += 30_001;
        come(&mut bench, "then");
        let refused = decided(&bench).into_iter().find(|one| one["task_id"] == "poor").unwrap();
        prop_assert_eq!(&refused["reason"], "priced_out");
        let prices: Vec<(f64, f64)> =
            refused["refusals"].as_array().unwrap().iter().filter_map(too_dear).collect();
        prop_assert_eq!(prices.len(), 1);
        let (asked, most) = prices[0];
        let stake = bench.lane.state().stake.get();
        prop_assert!(asked > most && most >= quality * 0.8 && most > 0.5 * stake, "{:?}", prices);
        prop_assert!(asked <= 1.5 * STAKES_MAX * stake, "{:?}", prices);
    }

    #[test]
    fn the_names_and_the_order_of_resources_change_nothing(
        loads in proptest::collection::vec(load(), 1..12),
        other in naming(),
    ) {
        let outcomes = |naming: &Naming| {
            let mut found = Vec::new();
            play(&loads, naming, |bench, _| {
                for one in decided(bench) {
                    let model = one.pointer("/primary/0/model").cloned();
                    found.push((one["task_id"].clone(), model, one["reason"].clone()));
                }
            });
            found
        };
        prop_assert_eq!(outcomes(&Naming::plain()), outcomes(&other));
    }
}
