//! Tasks of several stages: the success of one is the decision of the next.

use serde_json::{Value, json};

use super::{Bench, settings};
use crate::lane::Lane;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::time::Timestamp;

fn policy() -> Policy {
    Policy { load_snapshot_ms: 1_000_000_000, explore_share: 0.0, ..Policy::default() }
}

/// Two regions with two resources each; `review` is the stage that only some can serve.
fn bench() -> Bench {
    let mut bench = Bench::new(policy());
    let resource = |bench: &mut Bench, id: &str, region: &str, draft: f64, review: f64| {
        let quality = json!({"draft": draft, "review": review});
        bench.resource(id, json!({"region": region, "slots": 1, "quality": quality}));
    };
    resource(&mut bench, "eu-1", "eu", 0.9, 0.6);
    resource(&mut bench, "eu-2", "eu", 0.8, 0.9);
    resource(&mut bench, "us-1", "us", 0.7, 0.8);
    bench
}

fn stages() -> Value {
    json!({"stages": [
        {"name": "one", "class": "draft", "input_tokens": 100, "max_output_tokens": 50},
        {"name": "two", "class": "review", "input_tokens": 300, "max_output_tokens": 20},
    ]})
}

/// Decisions of the last batch: what a worker needs of them.
fn decisions(bench: &Bench) -> Vec<String> {
    let prepared = bench.prepared.last().unwrap();
    let mut shown = Vec::new();
    for record in &prepared.records {
        let known = crate::lane::prepared::OutputTopic::Known(Topic::RouteDecisions);
        if record.topic != known {
            continue;
        }
        let value: Value =
            serde_json::from_slice(prepared.slice(record.value.as_ref().unwrap())).unwrap();
        let chain = |links: &Value| {
            let link =
                |link: &Value| format!("{}:{}", link["stage"], link["resource"].as_str().unwrap());
            links.as_array().unwrap().iter().map(link).collect::<Vec<_>>().join(" ")
        };
        let others: Vec<String> =
            value["fallbacks"].as_array().unwrap().iter().map(chain).collect();
        shown.push(format!(
            "{} stage {} of {} #{} {} {} [{}] apart {} in {} out {}",
            value["task_id"].as_str().unwrap(),
            value["stage"],
            value["stages"],
            value["attempt"],
            value["class"].as_str().unwrap(),
            if value["outcome"] == "routed" {
                chain(&value["primary"])
            } else {
                value["reason"].as_str().unwrap().to_owned()
            },
            others.join(" | "),
            value["fallbacks_apart"],
            value["input_tokens"],
            value["max_output_tokens"],
        ));
    }
    shown
}

fn result(bench: &mut Bench, stage: u32, attempt: u32, status: &str) -> Vec<String> {
    bench.result("t1", attempt, status, json!({"stage": stage, "output_tokens": 5}));
    let now = bench.now + 100;
    let shown = bench.step_at(now);
    bench.reread();
    shown
}

fn later(bench: &mut Bench) -> Vec<String> {
    let (now, before) = (bench.now + 100, bench.prepared.len());
    bench.step_at(now);
    if bench.prepared.len() == before { Vec::new() } else { decisions(bench) }
}

const FIRST: &str =
    "t1 stage 0 of 2 #1 draft 0:eu-1 1:eu-2 [0:us-1 1:us-1] apart true in 100 out 50";
const SECOND: &str = "t1 stage 1 of 2 #1 review 1:eu-2 [1:us-1 | 1:eu-1] apart true in 300 out 20";

#[test]
fn the_success_of_a_stage_is_the_decision_of_the_next() {
    let mut bench = bench();
    bench.task("t1", stages());
    bench.step();
    assert_eq!(decisions(&bench), [FIRST]);
    // The stage is over, the task is not.
    assert_eq!(result(&mut bench, 0, 1, "succeeded"), ["released eu-1 t1 #1 0/1/105 over 0 -"]);
    assert_eq!(bench.lane.state().backlog.len(), 1);
    assert_eq!(later(&mut bench), [SECOND]);
    // An answer of the first stage that comes again is of the past.
    assert_eq!(result(&mut bench, 0, 1, "failed"), Vec::<String>::new());
    assert_eq!(result(&mut bench, 1, 1, "succeeded"), ["released eu-2 t1 #1 0/1/305 over 0 -"]);
    let state = bench.lane.state();
    assert_eq!((state.tasks.len(), state.in_flight, state.backlog.len()), (0, 0, 0));
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn a_lane_that_comes_back_between_two_stages_goes_on_alike() {
    for at in 0..3 {
        let mut bench = bench();
        let again = |bench: &mut Bench, now: i32| {
            if now != at {
                return;
            }
            let bytes = bench.lane.snapshot().unwrap();
            let restored = Lane::restore(0, &bytes, settings(policy())).unwrap();
            assert_eq!(restored.state(), bench.lane.state());
            bench.lane = restored;
            bench.reread();
        };
        bench.task("t1", stages());
        bench.step();
        again(&mut bench, 0);
        result(&mut bench, 0, 1, "succeeded");
        again(&mut bench, 1);
        assert_eq!(later(&mut bench), [SECOND], "restored at {at}");
        again(&mut bench, 2);
        result(&mut bench, 1, 1, "succeeded");
        assert_eq!(bench.lane.state().tasks.len(), 0);
        assert_eq!(bench.folded().state(), bench.lane.state());
    }
}

#[test]
fn a_stage_that_fails_goes_to_its_own_fallbacks() {
    let mut bench = bench();
    bench.task("t1", stages());
    bench.step();
    result(&mut bench, 0, 1, "succeeded");
    assert_eq!(later(&mut bench), [SECOND]);
    bench.health("eu-2", "unhealthy");
    let now = bench.now + 100;
    assert_eq!(
        bench.step_at(now),
        ["failed_over eu-2 t1 #1 0/1/320 over 0 -", "failover eu-2 tasks 1"]
    );
    bench.reread();
    assert_eq!(
        later(&mut bench),
        ["t1 stage 1 of 2 #2 review 1:us-1 [1:eu-1] apart true in 300 out 20"]
    );
    result(&mut bench, 1, 2, "failed");
    assert_eq!(later(&mut bench), ["t1 stage 1 of 2 #3 review 1:eu-1 [] apart true in 300 out 20"]);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn a_stage_without_room_waits_and_keeps_its_deadline() {
    let mut bench = bench();
    for id in ["eu-1", "us-1"] {
        bench.health(id, "drain");
    }
    let mut task = stages();
    task["deadline_ms"] = json!(60_000);
    bench.task("t1", task);
    bench.step();
    assert_eq!(
        decisions(&bench),
        ["t1 stage 0 of 2 #1 draft 0:eu-2 1:eu-2 [] apart true in 100 out 50"]
    );
    let review = json!({"class": "review", "priority": "critical"});
    bench.task("t2", review);
    result(&mut bench, 0, 1, "succeeded");
    // Its only resource went to the critical task.
    assert_eq!(decisions(&bench).len(), 1);
    assert_eq!(later(&mut bench), Vec::<String>::new());
    assert_eq!(bench.lane.state().backlog.len(), 1);
    bench.now = 1_060_000;
    bench.step();
    assert_eq!(
        decisions(&bench),
        ["t1 stage 1 of 2 #1 review deadline [] apart true in 300 out 20"]
    );
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn deadline_and_ceiling_are_the_chains() {
    let mut rows = Vec::new();
    // Each stage alone would fit, both together do not.
    for (change, reason) in [
        (json!({"deadline_ms": 2_000}), "deadline"),
        (json!({"requirements": {"max_cost_usd": 0.0004}}), "cost"),
    ] {
        for count in 1..=2 {
            let mut bench = bench();
            let mut task = stages();
            task["stages"].as_array_mut().unwrap().truncate(count);
            for stage in task["stages"].as_array_mut().unwrap() {
                stage["input_tokens"] = json!(200);
                stage["max_output_tokens"] = json!(50);
            }
            super::merge(&mut task, change.clone());
            bench.task("t1", task);
            bench.step();
            let shown = decisions(&bench).remove(0);
            rows.push((reason, count, shown.contains(&format!(" {reason} "))));
        }
    }
    assert_eq!(
        rows,
        [("deadline", 1, false), ("deadline", 2, true), ("cost", 1, false), ("cost", 2, true)]
    );
}

#[test]
fn what_nobody_can_end_is_not_begun() {
    let mut bench = bench();
    let mut task = stages();
    task["stages"][1]["class"] = json!("nobody's");
    bench.task("t1", task);
    let mut pinned = stages();
    pinned["stages"][1]["models"] = json!(["another"]);
    bench.task("t2", pinned);
    bench.step();
    let mut shown = decisions(&bench);
    shown.sort();
    assert_eq!(
        shown,
        [
            "t1 stage 0 of 2 #1 draft no_capable_resource [] apart true in 100 out 50",
            "t2 stage 0 of 2 #1 draft model [] apart true in 100 out 50",
        ]
    );
}

#[test]
fn a_chain_stays_in_its_region_where_moving_costs_more_than_it_brings() {
    for (transfer_ms, chain) in [(0.0, "0:eu-1 1:us-1"), (60_000.0, "0:eu-1 1:eu-1")] {
        let mut bench = Bench::new(Policy { transfer_ms, ..policy() });
        let quality = json!({"draft": 0.9, "review": 0.7});
        bench.resource("eu-1", json!({"region": "eu", "quality": quality}));
        let quality = json!({"draft": 0.5, "review": 0.8});
        bench.resource("us-1", json!({"region": "us", "quality": quality}));
        bench.task("t1", stages());
        bench.step();
        let shown = decisions(&bench).remove(0);
        assert!(shown.contains(chain), "{transfer_ms} ms: {shown}");
    }
}

#[test]
fn fallbacks_of_one_failure_domain_say_so() {
    let mut bench = Bench::new(policy());
    for id in ["a", "b"] {
        bench.resource(id, json!({"failure_domain": "one"}));
    }
    bench.task("t1", json!({}));
    bench.step();
    assert_eq!(
        decisions(&bench),
        ["t1 stage 0 of 1 #1 default 0:a [0:b] apart false in 100 out 100"]
    );
}

/// `d1` fails with whatever else is in it, so no link of a fallback may be there.
#[test]
fn fallbacks_lead_around_all_failure_domains_of_the_primary() {
    // (what, resources of each stage by failure domain and quality, the decision's chains)
    let check =
        |what: &str, drafts: &[(&str, &str, f64)], reviews: &[(&str, &str, f64)], expected| {
            let mut bench = Bench::new(policy());
            for (class, resources) in [("draft", drafts), ("review", reviews)] {
                for (id, domain, quality) in resources {
                    let change = json!({"failure_domain": domain, "quality": {class: quality}});
                    bench.resource(id, change);
                }
            }
            bench.task("t1", stages());
            bench.step();
            let shown = decisions(&bench).remove(0);
            let chains = &shown["t1 stage 0 of 2 #1 draft ".len()..];
            assert_eq!(chains, format!("{expected} in 100 out 50"), "{what}");
        };
    let drafts = [("a", "d1", 0.9), ("b", "d2", 0.8)];
    check(
        "the second best of its region leads around",
        &drafts,
        &[("r1", "d1", 0.9), ("r2", "d2", 0.8)],
        "0:a 1:r1 [0:b 1:r2] apart true",
    );
    check("no way around", &drafts, &[("r1", "d1", 0.9)], "0:a 1:r1 [0:b 1:r1] apart false");
    check(
        "only the later links meet",
        &drafts,
        &[("r3", "d3", 0.9)],
        "0:a 1:r3 [0:b 1:r3] apart false",
    );
    check(
        "the primary's later links count",
        &[("a", "d1", 0.9), ("b", "d2", 0.8), ("c", "d3", 0.5)],
        &[("r1", "d2", 0.9), ("r2", "d1", 0.8), ("r3", "d3", 0.5)],
        "0:a 1:r1 [0:c 1:r3] apart true",
    );
    check(
        "around the first link where that is all there is",
        &drafts,
        &[("r1", "d2", 0.9), ("r2", "d1", 0.8)],
        "0:a 1:r1 [0:b 1:r1] apart false",
    );
    check(
        "one failure domain",
        &[("a", "d1", 0.9), ("b", "d1", 0.8)],
        &[("r1", "d1", 0.9)],
        "0:a 1:r1 [0:b 1:r1] apart false",
    );
}

#[test]
fn a_plan_is_kept_unless_another_is_better_by_a_tenth_of_a_stake() {
    for (tenths, served) in [(0.99, "1:planned"), (1.01, "1:other")] {
        let mut bench = Bench::new(policy());
        let resource = |bench: &mut Bench, id: &str, class: &str, quality: f64| {
            bench.resource(id, json!({"quality": {class: quality}}));
        };
        resource(&mut bench, "a", "draft", 0.9);
        resource(&mut bench, "b", "draft", 0.5);
        resource(&mut bench, "planned", "review", 0.8);
        resource(&mut bench, "other", "review", 0.7);
        let mut task = stages();
        task["objective"] = json!({"quality": 1.0, "usd": 0.0, "second": 0.0});
        bench.task("t1", task);
        bench.step();
        assert!(decisions(&bench)[0].contains("draft 0:a 1:planned ["));
        result(&mut bench, 0, 1, "succeeded");
        let state = bench.lane.state();
        let index = state.fleet.index_of("planned").unwrap();
        // Nobody has reviewed yet: both succeed as often as is believed of anyone.
        let success = state.learned.capable(None, index, 0.8).success;
        let better = tenths * 0.1 * state.stake.get();
        assert!(better > 0.01, "{better}");
        resource(&mut bench, "other", "review", 0.8 + better / success);
        let shown = later(&mut bench);
        assert!(shown[0].contains(&format!(" review {served} [")), "{tenths}: {shown:?}");
    }
}

#[test]
fn a_session_goes_where_it_was_unless_that_costs_more() {
    let mut bench = Bench::new(policy());
    let price = json!({"input": 10.0, "output": 2.0});
    bench.resource("a", json!({"quality": {"default": 0.51}, "usd_per_million_tokens": price}));
    bench.resource("b", json!({"quality": {"default": 0.5}, "usd_per_million_tokens": price}));
    let task = |session: &str| json!({"session": session, "input_tokens": 10_000});
    let routed_to = |bench: &mut Bench, id: &str, change: Value| {
        bench.task(id, change);
        let now = bench.now + 100;
        bench.step_at(now);
        let shown = decisions(bench).remove(0);
        shown.split("0:").nth(1).unwrap()[..1].to_owned()
    };
    bench.health("a", "drain");
    assert_eq!(routed_to(&mut bench, "t1", task("s")), "b");
    bench.result("t1", 1, "succeeded", json!({}));
    bench.health("a", "healthy");
    // 0.1 USD of input, a quarter of it at hand.
    assert_eq!(routed_to(&mut bench, "t2", task("s")), "b");
    assert_eq!(routed_to(&mut bench, "t3", task("another")), "a");
    let objective = json!({"quality": 1000.0, "usd": 10.0, "second": 0.0});
    let mut dear = task("s");
    dear["objective"] = objective;
    assert_eq!(routed_to(&mut bench, "t4", dear), "a");
    let bytes = bench.lane.snapshot().unwrap();
    let restored = Lane::restore(0, &bytes, settings(policy())).unwrap();
    assert_eq!(restored.state(), bench.lane.state());
    assert_eq!(bench.folded().state(), bench.lane.state());
    assert_eq!(bench.lane.batch_time(), Timestamp::from_ms(bench.now));
}
