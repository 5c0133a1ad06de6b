//! Limits and budgets of tenants, and of all of them together.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Bench;
use crate::model::policy::Policy;

const WAIT_MS: u64 = 30_000;

fn bench() -> Bench {
    Bench::new(Policy {
        load_snapshot_ms: 1_000_000_000,
        explore_share: 0.0,
        wait_ms_max: WAIT_MS,
        ..Policy::default()
    })
}

/// Of a million tokens, in and out: 200 tokens cost 0.002 USD at most.
fn dear(quality: f64) -> Value {
    model(quality, 10.0)
}

fn model(quality: f64, usd: f64) -> Value {
    json!({
        "slots": 100, "quality": {"default": quality},
        "usd_per_million_tokens": {"input": usd, "output": usd},
    })
}

fn of(tenant: &str) -> Value {
    json!({"tenant": tenant, "objective": {"quality": 1.0, "usd": 0.0, "second": 0.001}})
}

/// Who was served by what in the newest batch, and at what price; who was not is not in it.
fn served(bench: &Bench) -> Vec<(String, String, f64)> {
    let decisions = super::decided(bench);
    let routed = decisions.iter().filter(|one| one["outcome"] == "routed");
    let text = |one: &Value, path| one.pointer(path).unwrap().as_str().unwrap().to_owned();
    let row = |one: &Value| {
        let price = one["metrics"]["price"].as_f64().unwrap();
        (text(one, "/task_id"), text(one, "/primary/0/resource"), price)
    };
    routed.map(row).collect()
}

#[test]
fn a_tenant_keeps_to_its_limits_burst_and_budget() {
    let limits = json!([{"dimension": "requests", "amount": 2, "window_s": 10}]);
    let rows = [
        ("acme", json!({"limits": limits}), 2),
        ("acme", json!({"limits": limits, "burst": 1}), 1),
        // 100 input tokens and 100 output tokens cost 0.0003 USD.
        ("acme", json!({"usd_per_hour": 0.0005}), 1),
        ("acme", json!({}), 3),
        ("other", json!({"usd_per_hour": 0.0005}), 3),
        ("*", json!({"limits": limits}), 2),
        ("*", json!({"usd_per_hour": 0.0005}), 1),
    ];
    for (tenant, change, served) in rows {
        let mut bench = bench();
        bench.resource("a", json!({"slots": 10}));
        bench.tenant(tenant, change.clone());
        for id in ["t1", "t2", "t3"] {
            bench.task(id, json!({"tenant": "acme"}));
        }
        let routed = bench.step().iter().filter(|line| line.contains("->")).count();
        assert_eq!(routed, served, "{tenant} {change}");
    }
}

/// Each has money of its own, one of them less than all have together.
#[test]
fn what_binds_everyone_binds_tenants_together() {
    let mut bench = bench();
    bench.resource("only", dear(0.9));
    bench.tenant("*", json!({"usd_per_hour": 0.0065}));
    bench.tenant("acme", json!({"usd_per_hour": 0.0025}));
    bench.tenant("zeta", json!({"usd_per_hour": 1.0}));
    for (number, tenant) in ["acme", "acme", "zeta", "none", "zeta"].iter().enumerate() {
        bench.task(&format!("t{number}"), of(tenant));
    }
    bench.step();
    let who: Vec<String> = served(&bench).into_iter().map(|(task, _, _)| task).collect();
    assert_eq!(who.len(), 3, "{who:?}");
    assert!(!(who.contains(&"t0".to_owned()) && who.contains(&"t1".to_owned())), "{who:?}");
    // What was not spent is there again, for whoever waits.
    bench.result(&who[0], 1, "succeeded", json!({"input_tokens": 0, "output_tokens": 0}));
    bench.step_at(bench.now + 1);
    assert_eq!(served(&bench).len(), 1);
    // Without the entry there is nothing in common.
    bench.untenant("*");
    bench.step_at(bench.now + 1);
    bench.task("t9", of("none"));
    bench.step_at(bench.now + 1);
    assert!(served(&bench).iter().any(|(task, _, _)| task == "t9"));
}

#[test]
fn what_is_too_dear_is_not_waited_for_where_something_else_will_do() {
    for (tenant, usd) in [("acme", 0.001), ("*", 0.001), ("acme", 1.0)] {
        let mut bench = bench();
        bench.resource("dear", dear(0.9));
        bench.resource("free", model(0.8, 0.0));
        bench.tenant(tenant, json!({"usd_per_hour": usd}));
        bench.task("t1", of("acme"));
        bench.step();
        let resource = if usd < 0.002 { "free" } else { "dear" };
        assert_eq!(served(&bench), [("t1".to_owned(), resource.to_owned(), 0.0)], "{tenant} {usd}");
    }
}

#[test]
fn who_goes_without_hears_what_the_limit_was() {
    let limits = json!([{"dimension": "tokens", "amount": 100, "window_s": 10}]);
    let rows = [
        (
            "acme",
            json!({"usd_per_hour": 0.001}),
            "budget",
            "0.002000 USD of the hour of tenant acme",
            "0.001000 USD",
        ),
        (
            "*",
            json!({"usd_per_hour": 0.001}),
            "budget",
            "0.002000 USD of the hour of tenant *",
            "0.001000 USD",
        ),
        (
            "acme",
            json!({"limits": limits}),
            "tenant_limit",
            "200 tokens in 10 s of tenant acme",
            "100",
        ),
    ];
    for (tenant, change, rule, needed, had) in rows {
        let mut bench = bench();
        bench.resource("only", dear(0.9));
        bench.tenant(tenant, change);
        bench.task("t1", of("acme"));
        bench.step();
        bench.step_at(bench.now + WAIT_MS as i64);
        bench.reread();
        bench.step_at(bench.now + 1);
        let refused = super::decided(&bench);
        let candidates = json!([{"resource": "only", "rule": rule, "needed": needed, "had": had}]);
        assert_eq!(refused[0]["refusals"], candidates, "{}", refused[0]);
    }
}

/// For an hour a task comes every so often, and ends with the output that is expected.
fn hour(bench: &mut Bench, every_ms: i64) -> BTreeMap<String, u32> {
    let mut by_resource = BTreeMap::new();
    for number in 0..3_600_000 / every_ms {
        let id = format!("t{every_ms}-{number}");
        bench.task(&id, of("acme"));
        bench.step_at(bench.now + every_ms);
        for (id, resource, _) in served(bench) {
            *by_resource.entry(resource).or_default() += 1;
            let used = json!({"input_tokens": 100, "output_tokens": 25});
            bench.result(&id, 1, "succeeded", used);
        }
    }
    by_resource
}

#[test]
fn a_budget_costs_nothing_until_more_is_expected_to_be_spent() {
    let mut bench = bench();
    bench.tenant("acme", json!({"usd_per_hour": 1.0}));
    bench.resource("good", dear(0.9));
    bench.resource("plain", model(0.8, 0.0));
    let all = |by: BTreeMap<String, u32>| {
        let of = |id: &str| by.get(id).copied().unwrap_or_default();
        [of("good"), of("plain")]
    };
    // A quarter of the output is expected, 0.00125 USD in all: 80 % of the budget, and 128 % at most.
    assert_eq!(all(hour(&mut bench, 5_600)), [642, 0]);
    // Four times as much: most go where it costs nothing, before the budget is spent.
    let [good, plain] = all(hour(&mut bench, 1_400));
    assert!((500..900).contains(&good) && good + plain == 2_571, "{good} {plain}");
    // What is over is forgotten.
    bench.now += 3_600_000;
    assert_eq!(all(hour(&mut bench, 5_600)), [642, 0]);
}

#[test]
fn a_budgets_price_rises_with_each_task() {
    let mut bench = bench();
    bench.tenant("acme", json!({"usd_per_hour": 0.01}));
    bench.resource("good", dear(0.9));
    bench.resource("plain", model(0.8, 0.0));
    let mut paid = Vec::new();
    for number in 0..4 {
        bench.task(&format!("t{number}"), of("acme"));
        bench.step();
        paid.extend(served(&bench).into_iter().map(|(_, _, price)| price));
    }
    assert_eq!((paid.len(), paid[0]), (4, 0.0));
    assert!(paid.windows(2).all(|pair| pair[0] < pair[1]), "{paid:?}");
}

#[test]
fn no_task_is_of_everyone() {
    let mut bench = bench();
    bench.resource("only", dear(0.9));
    bench.task("t1", of("*"));
    bench.step();
    let dead = bench.prepared[0].counts.dead_letters.iter();
    assert_eq!(dead.map(|(_, _, reason)| *reason).collect::<Vec<_>>(), ["invalid"]);
}
