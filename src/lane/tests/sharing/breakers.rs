//! Breakers of several lanes: what each makes of its own, and of what the others say.

use serde_json::{Value, json};

use super::Site;
use crate::model::policy::Policy;

/// `a`, which everybody prefers, and two more.
fn site(lanes: u32) -> Site {
    site_of(lanes, Policy::default())
}

fn site_of(lanes: u32, policy: Policy) -> Site {
    let policy = Policy { load_snapshot_ms: 1_000_000_000, explore_share: 0.0, ..policy };
    let mut site = Site::new(lanes, &policy);
    for (id, quality) in [("a", 0.9), ("b", 0.8), ("c", 0.7)] {
        site.resource(id, json!({"slots": 400, "quality": {"default": quality}}));
    }
    site
}

/// An attempt that was decided: of which lane, of which task, its number, and where.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    lane: usize,
    task: String,
    attempt: u64,
    to: String,
}

fn sent(lane: usize, decision: &Value) -> Option<Sent> {
    Some(Sent {
        lane,
        task: decision["task_id"].as_str()?.to_owned(),
        attempt: decision["attempt"].as_u64()?,
        to: decision["primary"][0]["resource"].as_str()?.to_owned(),
    })
}

/// A batch of every lane, in their order.
fn round(site: &mut Site) -> Vec<Sent> {
    let mut found = Vec::new();
    for lane in 0..site.members.len() {
        site.step(lane);
        found.extend(site.decisions.iter().filter_map(|one| sent(lane, one)));
    }
    found
}

fn end(site: &mut Site, sent: &Sent, status: &str) {
    site.result(sent.lane, &sent.task, json!({"attempt": sent.attempt, "status": status}));
}

/// Five tasks of each of these lanes fail on `a` in the same round.
fn open(site: &mut Site, lanes: &[usize]) {
    for lane in lanes {
        (0..5).for_each(|number| site.task(*lane, &format!("first-{lane}-{number}"), json!({})));
    }
    for one in round(site) {
        assert_eq!(one.to, "a");
        end(site, &one, "failed");
    }
    round(site);
    for lane in lanes {
        assert_eq!(position(site, *lane), "open", "lane {lane}");
    }
}

fn position(site: &Site, lane: usize) -> &'static str {
    site.members[lane].lane.state().health.breakers.position(0).name()
}

fn health(site: &Site) -> Vec<&'static str> {
    site.members.iter().map(|member| member.lane.state().fleet.at(0).health.name()).collect()
}

/// The last word of each breaker about `a`.
fn words(site: &Site) -> Vec<String> {
    let mut last = std::collections::BTreeMap::new();
    for (key, value) in site.health.iter().filter(|(key, _)| key.starts_with("resource:a#")) {
        let event: Value = serde_json::from_slice(value).unwrap();
        last.insert(key.clone(), event["status"].as_str().unwrap().to_owned());
    }
    last.into_values().collect()
}

/// Rounds of half a second with a new task in each of these lanes, all of which succeed in the next
/// round. Returns the most attempts that were on `a` at once, and how many in all, until a lane's
/// breaker has let more than probes through.
fn run(site: &mut Site, rounds: usize, lanes: &[usize]) -> (usize, usize) {
    let (mut at_once, mut all, mut probing) = (0, 0, true);
    for number in 0..rounds {
        site.now += 500;
        let name = format!("{}-{number}", site.now);
        lanes.iter().for_each(|lane| site.task(*lane, &format!("{name}-{lane}"), json!({})));
        let sent = round(site);
        probing &= !(0..site.members.len()).any(|lane| position(site, lane) == "recovering");
        let on_a = sent.iter().filter(|one| one.to == "a").count();
        if probing {
            at_once = at_once.max(on_a);
            all += on_a;
        }
        sent.iter().for_each(|one| end(site, one, "succeeded"));
    }
    (at_once, all)
}

#[test]
fn lanes_that_open_together_all_come_back() {
    for lanes in [1, 2, 4] {
        let mut site = site(lanes as u32);
        let all: Vec<usize> = (0..lanes).collect();
        open(&mut site, &all);
        let (at_once, probes) = run(&mut site, 20, &all);
        // One of each lane at a time, and three of each.
        assert!(at_once <= lanes && probes <= 3 * lanes, "{lanes}: {at_once}, {probes}");
        run(&mut site, 80, &all);
        assert_eq!(health(&site), vec!["healthy"; lanes], "{lanes} lanes");
        assert_eq!(words(&site), vec!["healthy"; lanes], "{lanes} lanes");
        site.task(0, "last", json!({}));
        site.now += 500;
        assert_eq!(round(&mut site)[0].to, "a");
    }
}

#[test]
fn a_lane_with_no_work_does_not_keep_it_down() {
    // The one that opened has nothing to probe with, and the other never opened.
    let mut site = site(2);
    open(&mut site, &[1]);
    run(&mut site, 8, &[0]);
    assert_eq!((position(&site, 1), health(&site)[0]), ("half-open", "unhealthy"));
    let due = site.members[1].lane.next_timer().map(|due| due.as_ms() - 1_000_000);
    assert_eq!(due, Some(12_000), "it wakes to say that it does not know");
    run(&mut site, 20, &[0]);
    assert_eq!((position(&site, 1), health(&site)[0]), ("recovering", "degraded"));
    run(&mut site, 60, &[0]);
    assert_eq!((health(&site), words(&site)), (vec!["healthy"; 2], vec!["healthy".to_owned()]));
}

#[test]
fn what_never_failed_here_grows_back_as_slowly_as_where_it_did() {
    let mut site = site(2);
    open(&mut site, &[1]);
    run(&mut site, 8, &[1]);
    assert_eq!((position(&site, 1), health(&site)[0]), ("recovering", "degraded"));
    // Of the 200 slots of the lane that only heard of it, about a tenth, and all of them in the end.
    let began_at = site.now;
    let mut taken = Vec::new();
    for after_ms in [500, 15_000, 29_999, 31_000] {
        site.now = began_at + after_ms;
        round(&mut site);
        taken.push(site.members[0].lane.state().fleet.at(0).slots_free());
    }
    assert!((20..=30).contains(&taken[0]), "{taken:?}");
    assert!((100..=125).contains(&taken[1]) && (190..=200).contains(&taken[2]), "{taken:?}");
    assert_eq!(taken[3], 200);
}

#[test]
fn what_other_lanes_breakers_say_counts_as_much_as_ones_own_where_most_are_down() {
    // Too short to wait for the one that is well.
    let mut site = site_of(2, Policy { wait_ms_max: 20, ..Policy::default() });
    open(&mut site, &[0]);
    // Lane 1 finds out that `b` is down: in lane 0 each has one from itself and one from the other.
    (0..5).for_each(|number| site.task(1, &format!("b{number}"), json!({})));
    for one in round(&mut site).iter().filter(|one| one.lane == 1) {
        assert_eq!(one.to, "b");
        end(&mut site, one, "failed");
    }
    round(&mut site);
    let many = |site: &mut Site, name: &str| -> [usize; 3] {
        (0..300).for_each(|number| site.task(0, &format!("{name}{number}"), json!({})));
        site.now += 10;
        let sent = round(site);
        let on = |id: &str| {
            let here = sent.iter().filter(|one| one.lane == 0 && one.task.starts_with(name));
            here.filter(|one| one.to == id).count()
        };
        ["a", "b", "c"].map(on)
    };
    let [a, b, c] = many(&mut site, "x");
    // A few wait for the next slots of the one that is well.
    assert!(a + b >= 90 && c == 200, "{:?}", [a, b, c]);
    // What someone else says is never ignored.
    for id in ["a", "b"] {
        let event = json!({"scope": "resource", "id": id, "status": "drain"}).to_string();
        site.health.push((format!("resource:{id}"), event.into_bytes()));
    }
    let [a, b, _] = many(&mut site, "y");
    assert_eq!((a, b), (0, 0));
}
