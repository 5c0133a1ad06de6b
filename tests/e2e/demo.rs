//! `demo`, as the README shows it, at a size that a test can wait for.

use std::process::Stdio;

use serde_json::{Value, json};
use testbed::Broker;

use crate::site::pointsman;

/// What must be nought after every demo.
const FAULTS: [&str; 8] = [
    "lost",
    "duplicated",
    "oversubscribed",
    "unreserved",
    "undecided",
    "unreleased",
    "inconsistent",
    "unfinished",
];

/// The summary of a demo that ended well.
fn demo(arguments: &[&str]) -> Value {
    let brokers = Broker::shared().bootstrap();
    let demo = ["demo", "--json", "--tasks", "600", "--brokers", brokers];
    let ran = pointsman(&[&demo, arguments].concat(), Stdio::null());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert_eq!(ran.out.lines().count(), 1, "{}", ran.out);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    for fault in FAULTS {
        assert_eq!(summary[fault], json!(0), "{fault}: {}", ran.out);
    }
    let all = ["tasks", "decided", "dead_lettered", "seed", "broker"].map(|name| &summary[name]);
    assert_eq!(all, [&json!(600), &json!(600), &json!(0), &json!(1), &json!(brokers)]);
    let total = |name: &str| -> u64 {
        summary[name].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
    };
    assert_eq!(total("refused") + total("by_resource"), 600, "{}", ran.out);
    summary
}

#[test]
fn every_task_is_decided_once_and_no_limit_is_passed() {
    let summary = demo(&[]);
    assert_eq!(summary["kills"], json!(0));
    for name in ["routing_us", "end_to_end_ms"] {
        let quantile = |quantile: &str| summary[name][quantile].as_f64().unwrap();
        let [p50, p95, p99] = ["p50", "p95", "p99"].map(quantile);
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{name}: {summary}");
    }
    assert!(summary["cost_usd"].as_f64().unwrap() > 0.0, "{summary}");
}

#[test]
fn a_router_that_is_killed_under_way_loses_and_doubles_nothing() {
    let summary = demo(&["--kill-after", "1"]);
    assert_eq!(summary["kills"], json!(1));
}
