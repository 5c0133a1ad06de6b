//! Tenants and priorities: who gets what where there is not enough for all.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::Bench;
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::routing::state::Phase;

fn policy() -> Policy {
    Policy {
        load_snapshot_ms: 1_000_000_000,
        wait_ms_max: 3_600_000,
        backlog_tasks_max: 1_000_000,
        ..Policy::default()
    }
}

/// Who is routed in the newest batch, and to where.
fn routed(bench: &Bench) -> Vec<(String, String)> {
    let prepared = bench.prepared.last().unwrap();
    let decisions = prepared
        .records
        .iter()
        .filter(|record| record.topic == OutputTopic::Known(Topic::RouteDecisions));
    let text = |value: &Value, path| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    decisions
        .filter_map(|record| {
            let bytes = prepared.slice(record.value.as_ref()?);
            let value: Value = serde_json::from_slice(bytes).ok()?;
            Some((text(&value, "/task_id")?, text(&value, "/primary/0/resource")?))
        })
        .collect()
}

/// Runs for so many rounds of one second in which all that runs succeeds, and counts who was served,
/// by what stands before the first `-` of a task id.
fn run(bench: &mut Bench, rounds: usize) -> BTreeMap<String, usize> {
    let mut served: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..rounds {
        bench.now += 1_000;
        let held = bench.lane.state().tasks.values();
        let running: Vec<String> = held
            .filter(|live| matches!(live.phase, Phase::InFlight { .. }))
            .map(|live| live.task.task_id.to_string())
            .collect();
        for id in running {
            let change = json!({"output_tokens": 100, "duration_ms": 1_000, "quality": 0.5});
            bench.result(&id, 1, "succeeded", change);
        }
        bench.reread();
        let before = bench.prepared.len();
        bench.step();
        if bench.prepared.len() > before {
            for (id, _) in routed(bench) {
                let who = id.split('-').next().unwrap_or_default().to_owned();
                *served.entry(who).or_default() += 1;
            }
        }
    }
    served
}

fn tasks(bench: &mut Bench, who: &str, count: usize, change: &Value) {
    for number in 0..count {
        let mut task = json!({"tenant": who});
        super::merge(&mut task, change.clone());
        bench.task(&format!("{who}-{number}"), task);
    }
}

/// How many of each were served.
fn counts(served: &BTreeMap<String, usize>, who: &[&str]) -> Vec<usize> {
    who.iter().map(|who| served.get(*who).copied().unwrap_or(0)).collect()
}

#[test]
fn tenants_that_wait_are_served_by_their_weights() {
    let mut bench = Bench::new(policy());
    bench.resource("one", json!({"slots": 8}));
    bench.tenant("heavy", json!({"weight": 3.0}));
    for who in ["light", "heavy", "other"] {
        tasks(&mut bench, who, 400, &json!({}));
    }
    bench.step();
    let served = run(&mut bench, 50);
    let [light, heavy, other] = counts(&served, &["light", "heavy", "other"])[..] else { panic!() };
    assert!(light.abs_diff(other) <= 10 && heavy.abs_diff(3 * light) <= 24, "{served:?}");
    assert_eq!(light + heavy + other, 400, "nothing stands idle");
}

#[test]
fn a_task_with_stages_counts_for_its_first_one() {
    let mut bench = Bench::new(policy());
    bench.resource("one", json!({"slots": 4}));
    let stage = json!({"name": "first", "input_tokens": 100, "max_output_tokens": 100});
    let last = json!({"name": "last", "input_tokens": 8_000, "max_output_tokens": 8_000});
    let staged =
        json!({"input_tokens": 8_000, "max_output_tokens": 8_000, "stages": [stage, last]});
    tasks(&mut bench, "staged", 4, &staged);
    tasks(&mut bench, "plain", 4, &json!({}));
    bench.step();
    let mut served: Vec<String> = routed(&bench).into_iter().map(|(id, _)| id).collect();
    served.sort();
    assert_eq!(served, ["plain-0", "plain-1", "staged-0", "staged-1"]);
}

#[test]
fn what_a_tenant_loses_brings_it_no_more_than_its_share() {
    let mut bench = Bench::new(policy());
    bench.resource("good", json!({"slots": 4, "quality": {"easy": 0.9, "hard": 0.9}}));
    bench.resource("plain", json!({"slots": 4, "quality": {"easy": 0.9, "hard": 0.1}}));
    // Everything that `b` has loses more.
    tasks(&mut bench, "a", 300, &json!({"class": "easy"}));
    tasks(&mut bench, "b", 300, &json!({"class": "hard"}));
    bench.step();
    let served = run(&mut bench, 40);
    let [a, b] = counts(&served, &["a", "b"])[..] else { panic!() };
    assert!(a.abs_diff(b) <= 40, "{served:?}");
}

#[test]
fn ten_tasks_behind_very_many_of_another() {
    let mut bench = Bench::new(policy());
    bench.resource("one", json!({"slots": 4}));
    // A batch tries 512: more than that changes only how long this test takes.
    tasks(&mut bench, "flood", 10_000, &json!({}));
    while bench.lane.queued() > 0 {
        bench.step();
    }
    assert!(bench.lane.state().backlog.len() > 9_900);
    tasks(&mut bench, "small", 10, &json!({}));
    let served = run(&mut bench, 8);
    assert_eq!(counts(&served, &["small"]), [10], "{served:?}");
}

#[test]
fn a_full_backlog_keeps_nobody_out() {
    let mut bench = Bench::new(Policy { backlog_tasks_max: 100, ..policy() });
    bench.resource("one", json!({"slots": 1}));
    tasks(&mut bench, "flood", 400, &json!({}));
    tasks(&mut bench, "small", 10, &json!({}));
    bench.step();
    // All of them can be served in an hour.
    assert_eq!(bench.lane.state().backlog.len(), 100);
    let waits = bench.lane.state().tasks.values();
    let small = waits.filter(|live| live.task.shape.tenant == "small").count();
    assert_eq!(small, 10);
}

/// Urgent and slow tasks by the second.
type Arrivals = fn(usize) -> [usize; 2];

/// Of 2,000 tasks that a resource serves in 400 s, how many are of the lowest priority, where so many
/// urgent and slow ones come in each second, counted from 0.
fn lowest_served(policy: Policy, arrivals: Arrivals) -> usize {
    let [slow, all] = served_of(policy, json!({"slots": 5}), 400, arrivals);
    assert_eq!(all, 2_000, "nothing stands idle");
    slow
}

/// How many of the lowest priority are served in so many seconds after the first batch, and of both.
fn served_of(policy: Policy, resource: Value, seconds: usize, arrivals: Arrivals) -> [usize; 2] {
    let mut bench = Bench::new(policy);
    bench.resource("one", resource);
    let (mut slow, mut all) = (0, 0);
    for second in 0..=seconds {
        let [urgent, late] = arrivals(second);
        for (who, priority, count) in [("urgent", "critical", urgent), ("slow", "batch", late)] {
            for number in 0..count {
                let task = json!({"tenant": who, "priority": priority});
                bench.task(&format!("{who}-{second}-{number}"), task);
            }
        }
        if second == 0 {
            bench.step();
            continue;
        }
        let served = run(&mut bench, 1);
        slow += counts(&served, &["slow"])[0];
        all += served.values().sum::<usize>();
    }
    [slow, all]
}

/// A window that opens lets two hundred through in a batch: two of them are owed.
#[test]
fn in_a_large_batch_the_lowest_priority_gets_its_hundredth_too() {
    let policy = Policy { wait_ms_max: 20_000, backlog_tasks_max: 10_000, ..policy() };
    let limits = json!([{"dimension": "requests", "amount": 1_000, "window_s": 10}]);
    let resource = json!({"slots": 10_000, "limits": limits});
    // The first window is full before a slow one comes.
    let arrivals = |second| if second < 13 { [200, 0] } else { [200, 20] };
    let [slow, all] = served_of(policy, resource, 129, arrivals);
    assert_eq!(all, 9_800);
    assert!((80..=90).contains(&slow), "{slow}");
}

#[test]
fn the_lowest_priority_gets_its_hundredth_and_no_more() {
    let full = Policy { backlog_tasks_max: 200, ..policy() };
    let tiny = Policy { backlog_tasks_max: 10, ..policy() };
    let shedding = Policy { wait_ms_max: 20_000, backlog_tasks_max: 10_000, ..policy() };
    let all_at_first = |second: usize| if second == 0 { [2_500, 100] } else { [0, 0] };
    let steadily = |_| [20, 5];
    let in_bursts = |second: usize| if second.is_multiple_of(20) { [20, 8] } else { [20, 0] };
    // (what, policy, urgent and slow tasks by the second)
    let rows: [(&str, Policy, Arrivals); 5] = [
        ("room to wait for all", policy(), all_at_first),
        ("a full backlog", full, steadily),
        ("one too small to keep places", tiny, steadily),
        ("shedding", shedding.clone(), steadily),
        ("shedding, and the slow ones come in bursts", shedding, in_bursts),
    ];
    for (what, policy, arrivals) in rows {
        for (share, least, most) in [(0.0, 0, 0), (0.01, 18, 20)] {
            let policy = Policy { priority_share_min: share, ..policy.clone() };
            let slow = lowest_served(policy, arrivals);
            assert!((least..=most).contains(&slow), "{what}, {share}: {slow}");
        }
    }
    let twice = Policy { priority_share_min: 0.02, ..policy() };
    assert!((37..=40).contains(&lowest_served(twice, all_at_first)));
}

#[test]
fn a_reserved_share_stays_free_for_its_tenant() {
    // (what, change of the resource, tasks of others, tasks of the tenant, served of each)
    let check = |what: &str, change: Value, others: usize, own: usize, expected: [usize; 2]| {
        let mut bench = Bench::new(policy());
        bench.tenant("acme", json!({"reserved_share": 0.25}));
        bench.resource("one", change);
        tasks(&mut bench, "others", others, &json!({}));
        bench.step();
        let before = routed(&bench).len();
        tasks(&mut bench, "acme", own, &json!({}));
        bench.now += 10;
        bench.reread();
        bench.step();
        let acme = routed(&bench).iter().filter(|(id, _)| id.starts_with("acme")).count();
        assert_eq!([before, acme], expected, "{what}");
    };
    let requests = json!([{"dimension": "requests", "amount": 20, "window_s": 60}]);
    let tokens = json!([{"dimension": "tokens", "amount": 4_000, "window_s": 60}]);
    check("slots", json!({"slots": 8}), 20, 5, [6, 2]);
    check("requests", json!({"slots": 100, "limits": requests}), 30, 9, [15, 5]);
    check("tokens", json!({"slots": 100, "limits": tokens}), 30, 9, [15, 5]);
    check("less than a whole unit", json!({"slots": 3}), 20, 5, [3, 0]);
    check("beyond its share as the others", json!({"slots": 8}), 0, 20, [0, 8]);
    check("not where it may not go", json!({"slots": 8, "tenants": ["others"]}), 20, 0, [8, 0]);
}

#[test]
fn what_a_tenant_holds_of_its_share_is_not_kept_twice() {
    let mut bench = Bench::new(policy());
    bench.tenant("acme", json!({"reserved_share": 0.5}));
    bench.resource("one", json!({"slots": 4}));
    tasks(&mut bench, "acme", 2, &json!({}));
    bench.step();
    tasks(&mut bench, "others", 9, &json!({}));
    bench.now += 10;
    bench.step();
    assert_eq!(routed(&bench).len(), 2, "the rest is for all");
    // What comes back to the share is kept again.
    bench.now += 10;
    bench.result("acme-0", 1, "succeeded", json!({}));
    bench.reread();
    bench.step();
    assert_eq!(bench.prepared.last().unwrap().counts.routed, 0);
    bench.now += 10;
    bench.result("others-0", 1, "succeeded", json!({}));
    bench.reread();
    bench.step();
    assert_eq!(bench.prepared.last().unwrap().counts.routed, 1);
}

#[test]
fn who_finds_only_what_is_kept_takes_the_next_best() {
    let mut bench = Bench::new(policy());
    bench.tenant("acme", json!({"reserved_share": 0.5}));
    bench.resource("good", json!({"slots": 2, "quality": {"default": 0.9}}));
    bench.resource("plain", json!({"slots": 2, "quality": {"default": 0.5}}));
    tasks(&mut bench, "others", 3, &json!({"objective": "fastest"}));
    bench.step();
    let places: Vec<String> = routed(&bench).into_iter().map(|(_, place)| place).collect();
    assert_eq!(places.len(), 2, "{places:?}");
    assert!(places.contains(&"good".to_owned()) && places.contains(&"plain".to_owned()));
}

fn arrivals() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
    proptest::collection::vec((0u8..3, 0u8..3, 0u8..2), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Same tenant, class and sizes, in one batch, with nothing owed: never the lower without the
    /// higher.
    #[test]
    fn within_a_tenant_no_lower_priority_goes_before(arrivals in arrivals(), slots in 1u32..12) {
        let policy = Policy { priority_share_min: 0.0, explore_share: 0.0, ..policy() };
        let mut bench = Bench::new(policy);
        // Waiting costs more than it can bring: who waits of its own choice lets others go before.
        let objective = json!({"quality": 1.0, "usd": 0.0, "second": 100.0});
        bench.resource("good", json!({"slots": slots, "quality": {"c0": 0.9, "c1": 0.7}}));
        bench.resource("plain", json!({"slots": 2, "quality": {"c0": 0.3, "c1": 0.6}}));
        let priorities = ["critical", "interactive", "batch"];
        for (number, (tenant, priority, class)) in arrivals.iter().enumerate() {
            let id = format!("t{tenant}-{priority}-c{class}-{number}");
            let priority = priorities[usize::from(*priority)];
            let (tenant, class) = (format!("t{tenant}"), format!("c{class}"));
            let task = json!({
                "tenant": tenant, "priority": priority, "class": class, "objective": objective,
            });
            bench.task(&id, task);
        }
        bench.step();
        let routed: Vec<String> = routed(&bench).into_iter().map(|(id, _)| id).collect();
        let parts = |id: &str| -> Vec<String> { id.split('-').map(str::to_owned).collect() };
        for live in bench.lane.state().tasks.values() {
            let waits = live.attempt == 0;
            let own = parts(&live.task.task_id);
            for id in routed.iter().filter(|_| waits) {
                let other = parts(id);
                let same = own[0] == other[0] && own[2] == other[2];
                prop_assert!(!same || other[1] <= own[1], "{id} before {}", live.task.task_id);
            }
        }
    }

    /// Tenants that all have work get what their weights say, whatever their tasks are like.
    #[test]
    fn no_tenant_starves_another(
        weights in proptest::collection::vec(1u32..5, 2..5),
        sizes in proptest::collection::vec(50u32..2_000, 4),
    ) {
        let mut bench = Bench::new(policy());
        bench.resource("one", json!({"slots": 6}));
        for (number, weight) in weights.iter().enumerate() {
            let who = format!("t{number}");
            bench.tenant(&who, json!({"weight": weight}));
            let size = json!({"input_tokens": sizes[number % 4], "max_output_tokens": 100});
            tasks(&mut bench, &who, 300, &size);
        }
        bench.step();
        let served = run(&mut bench, 40);
        let given: Vec<f64> = weights.iter().enumerate().map(|(number, weight)| {
            let count = served.get(&format!("t{number}")).copied().unwrap_or(0);
            count as f64 * f64::from(sizes[number % 4] + 100) / f64::from(*weight)
        }).collect();
        let all: f64 = given.iter().sum();
        let mean = all / given.len() as f64;
        // A round and a task, and what the first came to.
        for one in &given {
            prop_assert!((one - mean).abs() <= 0.3 * mean + 6.0 * 2_100.0, "{given:?} of {served:?}");
        }
    }
}
