//! What lanes make of a provider's word on its headroom.

use serde_json::{Value, json};

use super::sharing::Site;
use super::{Bench, settings};
use crate::lane::Lane;
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::rights::{Advice, Counted, LimitKind, LimitName, LimitOwner};

fn policy() -> Policy {
    // Waiting tasks stay, so that the histories are about the limits alone.
    Policy {
        load_snapshot_ms: 1_000_000_000,
        attempts_max: 10,
        wait_ms_max: 3_600_000,
        ..Policy::default()
    }
}

fn limits() -> Value {
    json!([
        {"dimension": "requests", "amount": 100, "window_s": 60},
        {"dimension": "tokens", "amount": 100_000, "window_s": 60},
    ])
}

/// Twenty tasks of 200 tokens are under way on `a`.
fn busy(change: Value) -> Bench {
    busy_of(policy(), change)
}

fn busy_of(policy: Policy, change: Value) -> Bench {
    let mut bench = Bench::new(policy);
    bench.resource("a", change);
    for number in 0..20 {
        bench.task(&format!("t{number}"), json!({}));
    }
    bench.step();
    assert_eq!(bench.lane.state().in_flight, 20);
    bench
}

/// The reasons of the health events among these outputs.
fn told(outputs: &[String]) -> Vec<String> {
    let reason = "a is degraded: the provider grants less, as lane 0 hears: ";
    outputs.iter().filter_map(|output| Some(output.strip_prefix(reason)?.to_owned())).collect()
}

/// The lane reads what it has said.
fn read_back(bench: &mut Bench) {
    let said: Vec<(Vec<u8>, Vec<u8>)> = bench.prepared.last().map_or_else(Vec::new, |prepared| {
        let health = prepared.records.iter();
        let health =
            health.filter(|record| record.topic == OutputTopic::Known(Topic::HealthEvents));
        let bytes = |range: &Option<_>| prepared.slice(range.as_ref().unwrap()).to_vec();
        health.map(|record| (bytes(&record.key), bytes(&record.value))).collect()
    });
    assert!(!said.is_empty(), "nothing was said");
    for (key, value) in said {
        let key = String::from_utf8(key).unwrap();
        bench.put(Topic::HealthEvents, Some(&key), Some(&value), false);
    }
}

fn in_force(lane: &Lane) -> Vec<u64> {
    let (_, resource) = lane.state().fleet.iter().next().unwrap();
    let rates = resource.rates.iter().map(|rate| rate.limit.amount);
    std::iter::once(u64::from(resource.slots_limit)).chain(rates).collect()
}

#[test]
fn only_what_is_clearly_less_than_counted_is_told() {
    let check = |status: &str, said: Value, expected: &[&str]| {
        let mut bench = busy(json!({"slots": 100, "limits": limits()}));
        bench.result("t0", 1, status, json!({"rate_limits": said, "retry_after_ms": 5_000}));
        assert_eq!(told(&bench.step_at(1_000_100)), expected, "{status} {said}");
        assert_eq!(in_force(&bench.lane), [100, 100, 100_000], "nothing moves before it is read");
        assert_eq!(bench.folded().state(), bench.lane.state());
    };
    let requests = |remaining: u64| json!([{"dimension": "requests", "remaining": remaining}]);
    check("succeeded", json!([]), &[]);
    // 80 are free as the lane counts; an eighth of its 100 is no matter.
    check("succeeded", requests(80), &[]);
    check("succeeded", requests(500), &[]);
    check("succeeded", requests(68), &[]);
    check("succeeded", requests(67), &["87 of 100 requests in 60 s"]);
    check("succeeded", requests(40), &["60 of 100 requests in 60 s"]);
    // No more than half at a time.
    check("succeeded", requests(0), &["50 of 100 requests in 60 s"]);
    for status in ["started", "heartbeat", "failed", "cancelled"] {
        check(status, requests(40), &["60 of 100 requests in 60 s"]);
    }
    let tokens = json!([{"dimension": "tokens", "window_s": 60, "remaining": 70_000}]);
    check("succeeded", tokens, &["74000 of 100000 tokens in 60 s"]);
    // The provider's own limit, where its window is known to be the same.
    let limit = |window_s: Option<u32>, limit: u64| json!([{"dimension": "requests", "window_s": window_s, "limit": limit, "remaining": 79}]);
    check("succeeded", limit(None, 60), &["60 of 100 requests in 60 s"]);
    check("succeeded", limit(Some(60), 99), &["99 of 100 requests in 60 s"]);
    check("succeeded", limit(Some(60), 100), &[]);
    check("succeeded", limit(Some(60), 5_000), &[]);
    check("succeeded", limit(Some(3_600), 60), &[]);
    // A refusal that names no limit is about any of them; one that does, about that.
    let all = "75 of 100 requests in 60 s, 75000 of 100000 tokens in 60 s";
    check("rate_limited", json!([]), &[all]);
    check("rate_limited", requests(40), &["60 of 100 requests in 60 s"]);
    check("rate_limited", requests(80), &[all]);
    check("late", json!([]), &[]);
}

#[test]
fn one_short_refusal_says_nothing_and_many_do() {
    // What the other attempts end with, before or between.
    let check = |ends: &[&str], expected: &[&str]| {
        let mut bench = busy(json!({"slots": 40}));
        for (number, end) in ends.iter().enumerate() {
            bench.result(&format!("t{number}"), 1, end, json!({}));
        }
        assert_eq!(told(&bench.step_at(1_000_100)), expected, "{ends:?}");
        assert_eq!(bench.folded().state(), bench.lane.state());
    };
    let refused = "rate_limited";
    check(&[refused], &[]);
    check(&[refused, refused], &[]);
    check(&[refused, refused, refused], &["30 of 40 slots"]);
    check(&[refused, "succeeded", "failed", refused, "succeeded", refused], &["30 of 40 slots"]);
    // Three in more than thirty: so many are lost to chance.
    let mut bench = busy(json!({"slots": 40}));
    let mut now = 1_000_000;
    let mut outputs = Vec::new();
    for number in 0..60 {
        now += 500;
        bench.now = now;
        let end = if number % 15 == 0 { refused } else { "succeeded" };
        bench.result(&format!("t{number}"), 1, end, json!({}));
        bench.task(&format!("t{}", number + 20), json!({}));
        outputs.extend(told(&bench.step_at(now)));
        bench.reread();
    }
    assert_eq!(outputs, [""; 0]);
}

#[test]
fn without_rates_a_refusal_is_about_slots_and_long_windows_have_to_be_named() {
    let mut bench = busy(json!({"slots": 40}));
    bench.result("t0", 1, "rate_limited", json!({"retry_after_ms": 5_000}));
    assert_eq!(told(&bench.step_at(1_000_100)), ["30 of 40 slots"]);
    let hour = json!([{"dimension": "requests", "amount": 100, "window_s": 3_600}]);
    let said = |window_s: Option<u32>| {
        let mut bench = busy(json!({"slots": 40, "limits": hour}));
        let said = json!([{"dimension": "requests", "window_s": window_s, "remaining": 40}]);
        bench.result("t0", 1, "succeeded", json!({"rate_limits": said}));
        told(&bench.step_at(1_000_100))
    };
    assert_eq!(said(None), [""; 0]);
    assert_eq!(said(Some(3_600)), ["60 of 100 requests in 3600 s"]);
}

#[test]
fn a_word_that_came_late_says_nothing() {
    let mut bench = busy(json!({"slots": 100, "limits": limits()}));
    bench.result("t0", 1, "rate_limited", json!({"retry_after_ms": 60_000}));
    assert_eq!(told(&bench.step_at(1_005_001)), [""; 0]);
    assert_eq!(bench.lane.state().in_flight, 19, "its attempt is over all the same");
}

#[test]
fn it_holds_for_a_while_and_is_explained() {
    let short = Policy { wait_ms_max: 3_000, ..policy() };
    let mut bench = busy_of(short, json!({"slots": 100, "limits": limits()}));
    let said = json!([{"dimension": "requests", "remaining": 10, "reset_ms": 20_000}]);
    bench.result("t0", 1, "succeeded", json!({"rate_limits": said}));
    assert_eq!(told(&bench.step_at(1_000_100)), ["50 of 100 requests in 60 s"]);
    // It is said once, however many results say the same.
    bench.result("t1", 1, "succeeded", json!({"rate_limits": said}));
    assert_eq!(told(&bench.step_at(1_000_150)), [""; 0]);
    // The telling was in the batch before.
    bench.prepared.pop();
    read_back(&mut bench);
    bench.result("t2", 1, "succeeded", json!({"rate_limits": said}));
    bench.step_at(1_000_200);
    assert_eq!(in_force(&bench.lane), [100, 50, 100_000]);
    // What is in use stays; the rest of the lower limit is there for others.
    for number in 0..40 {
        bench.task(&format!("u{number}"), json!({}));
    }
    let outputs = bench.step_at(1_000_300);
    assert_eq!(outputs.iter().filter(|output| output.contains(" -> a")).count(), 30);
    // Those that wait in vain are refused with the reason.
    bench.step_at(1_003_400);
    let refused = last_refusal(&bench, "u39");
    let lowered = "lowered: 50 of 100 requests in 60 s until 1020100";
    assert!(refused.contains("0 requests") && refused.ends_with(lowered), "{refused}");
    // Of what was reserved before the limit was lowered nothing is told: it knew no better.
    bench.now = 1_006_000;
    for number in 3..6 {
        bench.result(&format!("t{number}"), 1, "rate_limited", json!({}));
    }
    assert_eq!(told(&bench.step()), [""; 0]);
    let lowered = crate::routing::headroom::lowered_text(bench.lane.state(), 0);
    assert_eq!(lowered.as_deref(), Some("50 of 100 requests in 60 s until 1020100"));
    // Of what was reserved after: the provider still grants less.
    bench.now = 1_009_100;
    bench.result("u0", 1, "rate_limited", json!({}));
    let told_more = told(&bench.step_at(1_009_100));
    assert_eq!(told_more, ["38 of 100 requests in 60 s, 75000 of 100000 tokens in 60 s"]);
    // Nobody reads that here; the first word ends by itself.
    bench.reread();
    bench.task("w", json!({}));
    bench.step_at(1_020_099);
    assert_eq!(in_force(&bench.lane), [100, 50, 100_000]);
    bench.reread();
    bench.task("x", json!({}));
    bench.step_at(1_020_100);
    assert_eq!(in_force(&bench.lane), [100, 100, 100_000]);
    let folded = bench.folded();
    assert_eq!(folded.state(), bench.lane.state());
    let snapshot = folded.snapshot().unwrap();
    let restored = Lane::restore(0, &snapshot, settings(policy())).unwrap();
    assert_eq!(restored.state(), bench.lane.state());
}

/// What the resource had when this task was refused.
fn last_refusal(bench: &Bench, task: &str) -> String {
    let decisions = bench.prepared.iter().rev().flat_map(|prepared| {
        prepared.records.iter().filter_map(|record| {
            if record.topic != OutputTopic::Known(Topic::RouteDecisions) {
                return None;
            }
            let value = prepared.slice(record.value.as_ref()?);
            serde_json::from_slice::<Value>(value).ok()
        })
    });
    let mut refusals =
        decisions.filter(|one| one["outcome"] == "refused" && one["task_id"] == task);
    let refusal = refusals.next().unwrap();
    refusal["refusals"][0]["had"].as_str().unwrap().to_owned()
}

#[test]
fn a_word_on_one_limit_keeps_what_was_said_of_another() {
    let mut bench = busy(json!({"slots": 100, "limits": limits()}));
    let said = json!([{"dimension": "requests", "remaining": 10, "reset_ms": 60_000}]);
    bench.result("t0", 1, "succeeded", json!({"rate_limits": said}));
    assert_eq!(told(&bench.step_at(1_000_100)), ["50 of 100 requests in 60 s"]);
    read_back(&mut bench);
    bench.task("u", json!({}));
    bench.step_at(1_000_200);
    bench.now = 1_006_000;
    let said = json!([{"dimension": "tokens", "remaining": 50_000, "reset_ms": 5_000}]);
    bench.result("u", 1, "succeeded", json!({"rate_limits": said}));
    let both = "54200 of 100000 tokens in 60 s, 50 of 100 requests in 60 s";
    assert_eq!(told(&bench.step()), [both]);
    read_back(&mut bench);
    bench.step_at(1_006_100);
    assert_eq!(in_force(&bench.lane), [100, 50, 54_200]);
    // Each ends in its own time.
    bench.task("x", json!({}));
    bench.step_at(1_011_000);
    assert_eq!(in_force(&bench.lane), [100, 50, 100_000]);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn a_source_takes_back_what_it_said_and_the_fleet_may_change_meanwhile() {
    let mut bench = busy(json!({"slots": 100, "limits": limits()}));
    let say = |bench: &mut Bench, source: &str, requests: Option<u64>| {
        let mut event = json!({
            "scope": "resource", "id": "a", "status": "healthy", "source": source,
        });
        if let Some(limit) = requests {
            event["status"] = json!("degraded");
            let until = 9_000_000_000_000_i64;
            event["limits"] = json!([
                {"dimension": "requests", "window_s": 60, "limit": limit, "until_at_ms": until},
            ]);
        }
        let key = format!("resource:a#{source}");
        bench.put(Topic::HealthEvents, Some(&key), Some(event.to_string().as_bytes()), false);
    };
    say(&mut bench, "one", Some(70));
    say(&mut bench, "two", Some(40));
    bench.step_at(1_000_100);
    assert_eq!(in_force(&bench.lane)[1], 40, "the least that anyone says");
    assert_eq!(bench.lane.state().fleet.at(0).health.name(), "healthy", "it is as good as before");
    // Fewer than 70, more than 40.
    let fewer = json!([{"dimension": "requests", "amount": 60, "window_s": 60}]);
    bench.resource("a", json!({"slots": 100, "limits": fewer}));
    bench.step_at(1_000_200);
    assert_eq!(in_force(&bench.lane)[1], 40);
    say(&mut bench, "two", None);
    bench.step_at(1_000_300);
    assert_eq!(in_force(&bench.lane)[1], 60);
    bench.resource("a", json!({"slots": 100, "limits": limits()}));
    bench.step_at(1_000_400);
    assert_eq!(in_force(&bench.lane)[1], 70);
    // An hour is the longest that anyone may lower a limit.
    bench.task("late", json!({}));
    bench.step_at(1_000_100 + 3_600_000);
    assert_eq!(in_force(&bench.lane)[1], 100);
    assert_eq!(bench.folded().state(), bench.lane.state());
}

fn requests_of_r() -> LimitName {
    let owner = LimitOwner::Resource("r".to_owned());
    LimitName { owner, incarnation: 0, kind: LimitKind::of(Counted::Requests, 60) }
}

fn units(site: &Site) -> Vec<u64> {
    let of = |lane: &Lane| lane.state().stand(&requests_of_r()).unwrap().units;
    site.members.iter().map(|member| of(&member.lane)).collect()
}

fn all_step(site: &mut Site) -> usize {
    (0..site.members.len())
        .map(|lane| {
            site.step(lane);
            site.decisions.iter().filter(|one| one["outcome"] == "routed").count()
        })
        .sum()
}

/// Four lanes hold a quarter each of 100 requests a minute; one of them hears that 5 are left while
/// it counts 15 for itself alone.
#[test]
fn all_lanes_agree_on_a_lower_limit_and_on_its_end() {
    let mut site = Site::new(4, &policy());
    site.resource(
        "r",
        json!({"slots": 100, "limits": [
            {"dimension": "requests", "amount": 100, "window_s": 60},
        ]}),
    );
    // One lane's clock is ahead, one's behind.
    site.members[1].clock_ahead_ms = 800;
    site.members[3].clock_ahead_ms = -800;
    all_step(&mut site);
    assert_eq!(units(&site), [25; 4]);
    for lane in 0..4 {
        // The last lane uses more than the others.
        for number in 0..if lane == 3 { 20 } else { 10 } {
            site.task(lane, &format!("t{lane}-{number}"), json!({}));
        }
    }
    site.now += 1_000;
    assert_eq!(all_step(&mut site), 50);
    let said = json!([{"dimension": "requests", "remaining": 5, "reset_ms": 30_000}]);
    site.result(2, "t2-0", json!({"rate_limits": said}));
    site.now += 100;
    site.step(2);
    assert_eq!(site.health.len(), 1);
    assert_eq!(site.health[0].0, "resource:r#headroom-2");
    let event: Value = serde_json::from_slice(&site.health[0].1).unwrap();
    let until = site.now + 30_000;
    let expected = json!({
        "scope": "resource", "id": "r", "status": "degraded", "severity": 0.0,
        "reason": "the provider grants less, as lane 2 hears: 50 of 100 requests in 60 s",
        "at_ms": site.now, "source": "headroom-2",
        "limits": [{"dimension": "requests", "window_s": 60, "limit": 50, "until_at_ms": until}],
    });
    assert_eq!(event, expected);
    assert_eq!(units(&site), [25; 4], "the one that heard it waits for the event as well");
    for lane in 0..4 {
        for number in 0..5 {
            site.task(lane, &format!("u{lane}-{number}"), json!({}));
        }
    }
    site.now += 100;
    // Two more fit in each lane but the last, which has more in use than its part is now.
    assert_eq!(all_step(&mut site), 6);
    assert_eq!(units(&site), [12; 4]);
    assert_eq!(site.health.len(), 1, "nobody has more to say");
    // What is given now is counted by the lower limit: half a unit that is worth nothing here, and
    // nothing of what is in use.
    for lane in [0, 3] {
        let to_lane = (lane as u32 + 1) % 4;
        site.advise(
            lane,
            Advice { limit: requests_of_r(), to_lane, rights: 1_000_000, owed_to: None },
        );
    }
    site.now += 100;
    assert_eq!(all_step(&mut site), 1);
    assert_eq!(units(&site), [12, 13, 12, 12]);
    let held = |site: &Site| -> u32 {
        let rights = |lane: &Lane| lane.state().stand(&requests_of_r()).unwrap().rights;
        site.members.iter().map(|member| rights(&member.lane)).sum()
    };
    let under_way = site.under_way().count();
    assert_eq!((held(&site), under_way), (1_000_000, 0));
    // It ends for each lane when its own clock shows the time, and then what waits is served.
    site.now = until + 801;
    let served = all_step(&mut site);
    assert_eq!(units(&site), [24, 26, 25, 25]);
    assert_eq!(served, 13);
    for (number, member) in site.members.iter().enumerate() {
        let mut folded = Lane::genesis(number as u32, 4, 1, settings(policy()));
        folded.start_at(0, 0, 0);
        member.journal.iter().for_each(|record| folded.fold(record).unwrap());
        assert_eq!(folded.state(), member.lane.state(), "lane {number}");
    }
}
