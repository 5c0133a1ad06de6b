//! Who is rationed: a task that may pay for no candidate with room.

use serde_json::{Value, json};

use super::prices::{model, policy, served, with};
use super::{Bench, decided};
use crate::model::policy::Policy;

/// `good` is free of charge; `plain` is there so that something is at stake.
fn bench() -> Bench {
    let mut bench = Bench::new(Policy { explore_share: 0.0, ..policy() });
    let quality = json!({"easy": 0.9, "hard": 0.9});
    bench.resource("good", with(model(100, quality), charging(0.0)));
    bench.resource("plain", model(1, json!({"hard": 0.1})));
    bench
}

fn charging(usd: f64) -> Value {
    json!({"slots": 1_000, "usd_per_million_tokens": {"input": usd, "output": usd}})
}

/// Tasks that take 98 of the 100 requests of `good`: the next one costs more than a stake.
fn crowd(bench: &mut Bench, name: &str) {
    for number in 0..98 {
        let objective = json!({"quality": 1.0, "usd": 0.0, "second": 0.2});
        let task = json!({"class": "hard", "objective": objective});
        bench.task(&format!("{name}{number}"), task);
    }
}

/// An answer is worth little to it, and a dollar much.
fn poor() -> Value {
    json!({"class": "easy", "objective": {"quality": 0.01, "usd": 1_000.0, "second": 0.0}})
}

/// The answer to `poor`, and to it alone.
fn of_poor(bench: &Bench) -> Vec<String> {
    served(bench).into_iter().filter(|one| one.starts_with("poor")).collect()
}

#[test]
fn only_who_may_pay_for_no_candidate_with_room_is_rationed() {
    // (what, what another candidate charges, what becomes of the task at once and later)
    let check = |what: &str, usd: Option<f64>, expected: [&[&str]; 2]| {
        let mut bench = bench();
        crowd(&mut bench, "a");
        bench.step();
        if let Some(usd) = usd {
            bench.resource("other", with(model(100, json!({"easy": 0.8})), charging(usd)));
        }
        bench.task("poor", poor());
        let before = bench.prepared.len();
        bench.step();
        assert_eq!(bench.prepared.len(), before + 1, "{what}");
        let at_once = of_poor(&bench);
        // Its time is over, and the price is what it was.
        bench.now += 30_001;
        crowd(&mut bench, "b");
        bench.step();
        assert_eq!([at_once, of_poor(&bench)], expected, "{what}");
    };
    check("the only one costs too much", None, [&[], &["poor -priced_out"]]);
    check("another asks nothing", Some(0.0), [&["poor other"], &[]]);
    // It charges 0.125 dollars, at a weight of 1,000: far below the other's utility less its price.
    check("a worse one asks nothing", Some(1_000.0), [&["poor other"], &[]]);
}

/// What is priced out is the chain: its later stage costs more than all of it is worth.
#[test]
fn a_chain_that_is_priced_out_says_at_which_price() {
    let mut bench = bench();
    crowd(&mut bench, "a");
    bench.step();
    let stage = |input_tokens: u32| json!({"name": "s", "class": "easy", "input_tokens": input_tokens, "max_output_tokens": 10});
    let objective = json!({"quality": 5.0, "usd": 0.0, "second": 1.0});
    bench.task("poor", json!({"stages": [stage(10), stage(100_000)], "objective": objective}));
    bench.step();
    assert_eq!(of_poor(&bench), Vec::<String>::new());
    bench.now += 30_001;
    crowd(&mut bench, "b");
    bench.step();
    let refused = decided(&bench).into_iter().find(|one| one["task_id"] == "poor").unwrap();
    let refusals = refused["refusals"].as_array().unwrap();
    let shown: Vec<String> =
        refusals.iter().map(|one| format!("{} {}", one["resource"], one["rule"])).collect();
    assert_eq!(refused["reason"], "priced_out", "{refused}");
    assert_eq!(shown, ["\"good\" \"priced_out\"", "\"plain\" \"no_capable_resource\""]);
}

#[test]
fn a_plan_that_costs_more_than_the_task_may_pay_is_not_kept() {
    // (whether others came between the two stages, who serves the second)
    for (crowded, expected) in [(false, "poor good"), (true, "poor other")] {
        let mut bench = bench();
        bench.resource("first", model(100, json!({"draft": 0.9})));
        bench.resource("other", with(model(100, json!({"easy": 0.8})), charging(1_000.0)));
        let stage = |class: &str| json!({"name": class, "class": class, "input_tokens": 100, "max_output_tokens": 100});
        bench.task("poor", with(poor(), json!({"stages": [stage("draft"), stage("easy")]})));
        bench.step();
        assert_eq!(decided(&bench)[0]["primary"][1]["resource"], "good");
        if crowded {
            crowd(&mut bench, "a");
            bench.step();
        }
        bench.result("poor", 1, "succeeded", json!({"stage": 0}));
        bench.step();
        bench.reread();
        bench.step();
        assert_eq!(of_poor(&bench), [expected]);
    }
}

/// Its price will not be lower because there is room again.
#[test]
fn nobody_waits_for_what_costs_more_than_the_task_may_pay() {
    let mut bench = bench();
    bench.resource("other", with(model(100, json!({"easy": 0.8})), charging(1_000.0)));
    crowd(&mut bench, "a");
    bench.step();
    // What is left, at any price.
    let asks = json!({"class": "hard", "objective": "best", "requirements": {"min_quality": 0.5}});
    bench.task("b0", asks.clone());
    bench.task("b1", asks);
    bench.step();
    assert_eq!(bench.lane.state().fleet.room(0).requests, 0);
    // A wait costs it nothing, and `other` is far worse than `good` at its price.
    bench.task("poor", poor());
    bench.step();
    assert_eq!(of_poor(&bench), ["poor other"]);
}
