//! Resources that are out for a while: who waits for them, who takes their work, and how much of it.

use serde_json::{Value, json};

use super::Bench;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::time::Timestamp;

fn policy() -> Policy {
    Policy {
        load_snapshot_ms: 1_000_000_000,
        explore_share: 0.0,
        attempts_max: 10,
        ..Policy::default()
    }
}

/// With these resources: name, quality, and what else there is to say.
fn bench(resources: &[(&str, f64, Value)]) -> Bench {
    bench_of(policy(), resources)
}

fn bench_of(policy: Policy, resources: &[(&str, f64, Value)]) -> Bench {
    let mut bench = Bench::new(policy);
    for (id, quality, change) in resources {
        let mut spec = json!({"quality": {"default": quality}, "slots": 20});
        super::merge(&mut spec, change.clone());
        bench.resource(id, spec);
    }
    bench
}

/// Where each task went that was decided, or why not, sorted.
fn decided(outputs: &[String]) -> Vec<String> {
    let decided = outputs.iter().filter(|one| one.contains(" -> ") || one.contains(" refused "));
    let mut decided: Vec<String> =
        decided.map(|one| one.split(" [").next().unwrap_or_default().to_owned()).collect();
    decided.sort();
    decided
}

/// How many of these went there.
fn on(outputs: &[String], resource: &str) -> usize {
    decided(outputs).iter().filter(|one| one.ends_with(&format!("-> {resource}"))).count()
}

fn said(outputs: &[String]) -> Vec<&str> {
    outputs.iter().filter(|one| one.contains(" is ")).map(String::as_str).collect()
}

/// Five tasks fail there in a row; they are asked for so that they go nowhere else.
fn open(bench: &mut Bench, resource: &str, change: &Value) -> Vec<String> {
    (0..5).for_each(|number| bench.task(&format!("{resource}-{number}"), change.clone()));
    let outputs = bench.step_at(bench.now + 10);
    assert_eq!(on(&outputs, resource), 5, "{outputs:?}");
    for number in 0..5 {
        bench.result(&format!("{resource}-{number}"), 1, "failed", json!({}));
    }
    let outputs = bench.step_at(bench.now + 10);
    assert!(said(&outputs)[0].starts_with(&format!("{resource} is unhealthy")), "{outputs:?}");
    outputs
}

#[test]
fn what_the_fleet_changes_is_said_to_be_well_again() {
    let rows = [
        ("another quality", json!({"quality": {"default": 0.95}, "slots": 20})),
        ("another model", json!({"model": "n", "quality": {"default": 0.9}, "slots": 20})),
    ];
    for (what, change) in rows {
        let mut bench = bench(&[("a", 0.9, json!({})), ("b", 0.5, json!({}))]);
        open(&mut bench, "a", &json!({}));
        bench.resource("a", change);
        let outputs = bench.step_at(bench.now + 10);
        assert_eq!(said(&outputs), ["a is healthy: breaker of lane 0: closed"], "{what}");
        assert_eq!(bench.folded().state(), bench.lane.state(), "{what}");
    }
}

#[test]
fn what_is_removed_is_said_to_be_well_before_another_has_its_place() {
    let mut bench = bench(&[("a", 0.9, json!({})), ("b", 0.5, json!({}))]);
    open(&mut bench, "a", &json!({}));
    bench.put(Topic::Fleet, Some("a"), None, false);
    bench.resource("x", json!({"quality": {"default": 0.9}}));
    let outputs = bench.step_at(bench.now + 10);
    assert_eq!(said(&outputs), ["a is healthy: breaker of lane 0: closed"]);
    assert_eq!(bench.lane.state().fleet.index_of("x"), Some(0), "it has the place");
    bench.task("t", json!({}));
    assert_eq!(decided(&bench.step_at(bench.now + 10)), ["t #1 -> x"]);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn what_fails_on_a_resource_that_is_gone_opens_nothing() {
    let mut bench = bench(&[("a", 0.9, json!({})), ("b", 0.5, json!({}))]);
    (0..5).for_each(|number| bench.task(&format!("t{number}"), json!({})));
    bench.step();
    bench.put(Topic::Fleet, Some("a"), None, false);
    bench.step_at(bench.now + 10);
    (0..5).for_each(|number| bench.result(&format!("t{number}"), 1, "failed", json!({})));
    bench.resource("x", json!({}));
    let outputs = bench.step_at(bench.now + 10);
    assert_eq!(said(&outputs), Vec::<&str>::new());
}

#[test]
fn a_breaker_is_waited_for() {
    let mut bench = bench(&[("a", 0.9, json!({}))]);
    let opened_at = bench.now + 20;
    let mut outputs = open(&mut bench, "a", &json!({"deadline_ms": 60_000}));
    for number in 0..20 {
        bench.reread();
        bench.task(&format!("t{number}"), json!({"deadline_ms": 60_000}));
        outputs.extend(bench.step_at(opened_at + 50 * (number + 1)));
    }
    assert_eq!(decided(&outputs), Vec::<String>::new(), "all wait");
    let due = bench.lane.next_timer().unwrap();
    assert!(due <= Timestamp::from_ms(opened_at + 2_000), "the lane wakes for the probe");
    // One of them is the probe; what has failed before has waited longest.
    bench.reread();
    let probe = decided(&bench.step_at(opened_at + 2_000));
    assert_eq!(probe, ["a-0 #2 -> a"]);
    let mut served = probe;
    let mut after_ms = 2_000;
    while after_ms < 20_000 {
        after_ms += 500;
        for one in served.drain(..) {
            let (id, attempt) = one.split_once(" #").unwrap();
            let attempt = attempt[..1].parse().unwrap();
            bench.result(id, attempt, "succeeded", json!({}));
        }
        bench.reread();
        served = decided(&bench.step_at(opened_at + after_ms));
        assert!(served.iter().all(|one| one.ends_with("-> a")), "{served:?}");
    }
    assert_eq!(bench.lane.state().tasks.len(), 0, "all were served");
    bench.task("last", json!({}));
    assert_eq!(decided(&bench.step_at(bench.now + 10)), ["last #1 -> a"]);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn whoever_waited_long_enough_for_a_breaker_is_told_that_it_was_the_health() {
    let mut bench = Bench::new(Policy { wait_ms_max: 1_500, ..policy() });
    bench.resource("a", json!({"slots": 20}));
    bench.resource("b", json!({"slots": 20, "model": "n"}));
    let bound = json!({"requirements": {"models": ["m"]}});
    open(&mut bench, "a", &bound);
    bench.task("bound", bound);
    bench.task("free", json!({}));
    assert_eq!(decided(&bench.step_at(bench.now + 10)), ["free #1 -> b"]);
    let queued = bench.lane.state().tasks.get(&crate::routing::TaskKey::of("bound")).unwrap();
    let blocked_by = match queued.phase {
        crate::routing::state::Phase::Waiting { blocked_by, .. } => blocked_by.name(),
        crate::routing::state::Phase::InFlight { .. } | crate::routing::state::Phase::GivenUp => "",
    };
    assert_eq!(blocked_by, "health");
    let outputs = bench.step_at(bench.now + 1_500);
    assert!(decided(&outputs).contains(&"bound #1 refused health".to_owned()), "{outputs:?}");
    // Too late for the answer even if it came back now.
    bench.task("late", json!({"requirements": {"models": ["m"]}, "deadline_ms": 1}));
    assert_eq!(decided(&bench.step_at(bench.now + 10)), ["late #1 refused health"]);
}

#[test]
fn what_someone_says_is_not_waited_for() {
    for status in ["unhealthy", "drain"] {
        let mut bench = bench(&[("a", 0.9, json!({}))]);
        open(&mut bench, "a", &json!({}));
        bench.health("a", status);
        bench.task("t", json!({}));
        let outputs = bench.step_at(bench.now + 10);
        assert!(decided(&outputs).contains(&"t #1 refused health".to_owned()), "{outputs:?}");
    }
}

#[test]
fn the_later_stages_of_a_chain_do_not_need_what_is_out_now() {
    let only = |class: &str| json!({"quality": {class: 0.9}});
    let mut bench = bench(&[("v", 0.0, only("vision")), ("b", 0.0, only("text"))]);
    open(&mut bench, "v", &json!({"class": "vision"}));
    let stages = json!([
        {"name": "draft", "class": "text", "input_tokens": 100, "max_output_tokens": 100},
        {"name": "look", "class": "vision", "input_tokens": 100, "max_output_tokens": 100},
    ]);
    bench.task("chain", json!({"stages": stages}));
    assert_eq!(decided(&bench.step_at(bench.now + 10)), ["chain #1 -> b"]);
}

#[test]
fn what_a_task_may_use_decides_whether_most_of_it_is_down() {
    let eu = || json!({"region": "eu"});
    let us = || json!({"region": "us"});
    // Too short to wait for those that are well.
    let policy = Policy { wait_ms_max: 20, ..policy() };
    let resources = [
        ("eu-1", 0.9, eu()),
        ("eu-2", 0.8, eu()),
        ("eu-3", 0.7, eu()),
        ("us-1", 0.6, us()),
        ("us-2", 0.6, us()),
        ("us-3", 0.6, us()),
    ];
    let mut bench = bench_of(policy, &resources);
    let only_eu = json!({"requirements": {"regions": ["eu"]}});
    open(&mut bench, "eu-1", &only_eu);
    open(&mut bench, "eu-2", &only_eu);
    for number in 0..30 {
        bench.task(&format!("free{number}"), json!({}));
    }
    let outputs = bench.step_at(bench.now + 10);
    assert_eq!((on(&outputs, "eu-1"), on(&outputs, "eu-2")), (0, 0), "most of the fleet is well");
    for number in 0..60 {
        bench.task(&format!("bound{number}"), only_eu.clone());
    }
    let outputs = bench.step_at(bench.now + 10);
    assert!(on(&outputs, "eu-1") >= 10, "{:?}", decided(&outputs));
    // What was sent there all the same is not taken away again.
    let sent = bench.lane.state().fleet.at(0).slots_in_use;
    bench.health("us-1", "degraded");
    let outputs = bench.step_at(bench.now + 10);
    let moved = outputs.iter().filter(|one| one.starts_with("failed_over eu")).count();
    assert_eq!((moved, bench.lane.state().fleet.at(0).slots_in_use), (0, sent));
    // Until someone says more than a breaker does.
    bench.health("eu-1", "unhealthy");
    let outputs = bench.step_at(bench.now + 10);
    let moved = outputs.iter().filter(|one| one.starts_with("failed_over eu-1")).count();
    assert_eq!((moved, bench.lane.state().fleet.at(0).slots_in_use), (sent as usize, 0));
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn what_goes_knowingly_to_what_is_down_is_not_moved_with_the_rest() {
    let mut bench = bench_of(
        Policy { wait_ms_max: 20, ..policy() },
        &[
            ("a", 0.9, json!({"slots": 4_000})),
            ("b", 0.8, json!({"slots": 4_000, "model": "n"})),
            ("c", 0.7, json!({"slots": 10})),
        ],
    );
    open(&mut bench, "b", &json!({"requirements": {"models": ["n"]}}));
    (0..3_000).for_each(|number| bench.task(&format!("t{number}"), json!({})));
    assert_eq!(on(&bench.step_at(bench.now + 10), "a"), 3_000);
    (0..5).for_each(|number| bench.result(&format!("t{number}"), 1, "failed", json!({})));
    // It takes three batches to move as many, and meanwhile tasks come that most is down for.
    let mut came = 0;
    for batch in 0..4 {
        (0..20 * batch).for_each(|number| bench.task(&format!("u{batch}-{number}"), json!({})));
        came += on(&bench.step_at(bench.now + 10), "a");
    }
    assert!(came >= 20, "{came}");
    assert_eq!(bench.lane.state().fleet.at(0).slots_in_use as usize, came);
    assert_eq!(bench.lane.state().failovers.len(), 0);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn where_nothing_is_left_probes_find_out() {
    let mut bench = bench(&[("a", 0.9, json!({})), ("b", 0.5, json!({}))]);
    open(&mut bench, "a", &json!({"requirements": {"min_quality": 0.8}}));
    open(&mut bench, "b", &json!({}));
    (0..5).for_each(|number| bench.task(&format!("t{number}"), json!({})));
    assert_eq!(decided(&bench.step_at(bench.now + 10)), Vec::<String>::new());
}

#[test]
fn the_work_of_what_went_down_is_spread_over_those_that_are_left() {
    let slots = json!({"slots": 60});
    let mut bench = bench(&[
        ("a", 0.95, json!({"slots": 100})),
        ("b", 0.80, slots.clone()),
        ("c", 0.799, slots.clone()),
        ("d", 0.798, slots.clone()),
        ("e", 0.2, slots),
    ]);
    for number in 0..100 {
        bench.task(&format!("t{number}"), json!({"objective": "balanced"}));
        bench.step_at(bench.now + 20);
    }
    assert_eq!(bench.lane.state().fleet.at(0).slots_in_use, 100);
    bench.health("a", "unhealthy");
    bench.step_at(bench.now + 8_000);
    for _ in 0..5 {
        bench.reread();
        bench.step_at(bench.now + 10);
    }
    let taken: Vec<u32> =
        (1..5).map(|index| bench.lane.state().fleet.at(index).slots_in_use).collect();
    assert_eq!(taken.iter().sum::<u32>(), 100, "{taken:?}");
    assert!(taken[..3].iter().all(|one| *one <= 50) && taken[3] == 0, "{taken:?}");
}

#[test]
fn what_is_degraded_gets_less_work_of_every_kind() {
    // (what, the resource, tasks of 100 tokens and 100 of output that it takes at once)
    let tokens = |amount: u32| json!([{"dimension": "tokens", "amount": amount, "window_s": 60}]);
    let requests = json!([{"dimension": "requests", "amount": 10, "window_s": 60}]);
    let rows = [
        ("slots", 0.5, json!({"slots": 20}), 10),
        ("requests", 0.6, json!({"slots": 100, "limits": requests}), 4),
        ("tokens", 0.5, json!({"slots": 100, "limits": tokens(4_000)}), 10),
        // Never less than one, however bad it is.
        ("all of its slots", 1.0, json!({"slots": 20}), 1),
        ("all of its tokens", 1.0, json!({"slots": 20, "limits": tokens(4_000)}), 1),
        ("not at all", 0.0, json!({"slots": 20}), 20),
    ];
    for (what, severity, change, expected) in rows {
        let mut bench = bench(&[("a", 0.9, change)]);
        bench.step();
        let event = json!({
            "scope": "provider", "id": "a", "status": "degraded", "severity": severity,
        });
        bench.put(
            Topic::HealthEvents,
            Some("provider:a"),
            Some(event.to_string().as_bytes()),
            false,
        );
        (0..40).for_each(|number| bench.task(&format!("t{number}"), json!({})));
        let outputs = bench.step_at(bench.now + 10);
        assert_eq!(on(&outputs, "a"), expected, "{what}");
        let well = json!({"scope": "provider", "id": "a", "status": "healthy"});
        bench.put(
            Topic::HealthEvents,
            Some("provider:a"),
            Some(well.to_string().as_bytes()),
            false,
        );
        let outputs = bench.step_at(bench.now + 10);
        let free = bench.lane.state().fleet.room(0);
        assert!(on(&outputs, "a") > 0 || expected == 20, "{what}: {free:?}");
        assert_eq!(bench.folded().state(), bench.lane.state(), "{what}");
    }
}

#[test]
fn a_recovering_one_gets_a_part_of_its_rates_too() {
    let requests = json!([{"dimension": "requests", "amount": 100, "window_s": 60}]);
    let mut bench = bench(&[("a", 0.9, json!({"slots": 1_000, "limits": requests}))]);
    open(&mut bench, "a", &json!({}));
    bench.reread();
    let mut outputs = bench.step_at(bench.now + 2_000);
    for _ in 0..3 {
        let probe = decided(&outputs);
        assert_eq!(probe.len(), 1, "{probe:?}");
        bench.result(probe[0].split(' ').next().unwrap(), 2, "succeeded", json!({}));
        outputs = bench.step_at(bench.now + 10);
    }
    // Five failed, and a minute is not over: of its 100 requests a tenth is 10, and 8 are in use.
    (0..40).for_each(|number| bench.task(&format!("t{number}"), json!({})));
    bench.step_at(bench.now + 10);
    assert_eq!(bench.lane.state().fleet.at(0).rates[0].window.used(), 10);
}

/// The leases of all attempts end, after all results have been read.
fn expire(bench: &mut Bench) -> Vec<String> {
    let now = bench.now + 3_700_000;
    bench.lane.results_caught_up(Timestamp::from_ms(now));
    bench.step_at(now)
}

#[test]
fn a_resource_of_which_nothing_is_heard_is_left_alone() {
    // (what, a result of another attempt that comes between the fourth lost one and the fifth, whether
    // the breaker opens)
    let rows = [
        ("nothing", None, true),
        ("a worker has begun", Some("started"), false),
        ("a worker works", Some("heartbeat"), false),
        ("one has succeeded", Some("succeeded"), false),
        ("one has come too late", Some("late"), false),
    ];
    for (what, sign, opens) in rows {
        let mut bench = bench(&[("a", 0.9, json!({})), ("b", 0.5, json!({}))]);
        (0..4).for_each(|number| bench.task(&format!("t{number}"), json!({})));
        assert_eq!(on(&bench.step(), "a"), 4, "{what}");
        assert_eq!(said(&expire(&mut bench)), Vec::<&str>::new(), "{what}: four are an accident");
        ["heard", "lost"].iter().for_each(|id| bench.task(id, json!({})));
        assert_eq!(on(&bench.step_at(bench.now + 10), "a"), 2, "{what}");
        if let Some(sign) = sign {
            bench.result("heard", 1, sign, json!({}));
            bench.step_at(bench.now + 10);
        }
        let expected: &[&str] =
            if opens { &["a is unhealthy: breaker of lane 0: open"] } else { &[] };
        assert_eq!(said(&expire(&mut bench)), expected, "{what}");
        assert_eq!(bench.folded().state(), bench.lane.state(), "{what}");
    }
}
