//! The commit path under faults that no real broker can be asked for: every request of a transaction is
//! lost, answered with every error that it can have, or cut off, before and after it took effect. The
//! client is the real one; the broker is the modelled one. After each case the independent audit reads
//! everything back.

mod cases;
mod site;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::{Case, cases};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiKey;
use pointsman::broker::front::Fault;
use pointsman::model::Topic;
use serde_json::Value;
use testbed::until;

use site::LIMIT;

/// Most of a case is waiting: for a time-out of the client, or for a session to end.
const AT_ONCE: usize = 6;

#[test]
fn whatever_happens_to_a_request_of_a_transaction_nothing_is_lost_or_doubled() {
    let cases = cases();
    assert!(cases.len() >= 200, "{} cases", cases.len());
    let next = AtomicUsize::new(0);
    let failed: Mutex<Vec<String>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(wrong) = run(case) {
                        failed.lock().unwrap().push(format!("{case}: {wrong}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases.len(), failed.join("\n"));
}

fn run(case: &Case) -> Result<(), String> {
    let mut site = site::Site::start()?;
    let rule = site.inject(case);
    site.run_router();
    site.publish_tasks(0..site::TASKS / 2);
    site.work_until(site::TASKS / 2)?;
    site.publish_tasks(site::TASKS / 2..site::TASKS);
    site.work_until(site::TASKS)?;
    if site.hits(rule) == 0 {
        return Err("the fault was never met".to_owned());
    }
    site.audit()
}

#[test]
fn a_lane_whose_outputs_have_no_leader_rests_and_misses_nothing() {
    let mut site = site::Site::start().unwrap();
    site.run_router();
    site.publish_tasks(0..5);
    site.work_until(5).unwrap();
    let nobody = Fault::Error(ResponseError::NotLeaderOrFollower);
    site.trouble(ApiKey::Produce, Topic::Journal, u32::MAX, nobody);
    site.publish_tasks(5..6);
    site.await_rest();
    site.publish_tasks(6..site::TASKS);
    site.heal();
    site.work_until(site::TASKS).unwrap();
    assert_eq!(site.given_up, [""; 0]);
    site.audit().unwrap();
}

/// Brokers that do not answer an instance when it gets its lanes are no reason for it to end.
#[test]
fn questions_of_an_assignment_are_asked_again() {
    for (api, topic) in [(ApiKey::Metadata, Topic::Journal), (ApiKey::ListOffsets, Topic::Tasks)] {
        let mut site = site::Site::start().unwrap();
        let rule = site.lose_of_member(api, topic, 2);
        site.run_router();
        site.publish_tasks(0..site::TASKS);
        until("the fault", LIMIT, || site.hits(rule) == 2);
        site.work_until(site::TASKS).unwrap();
        assert_eq!(site.given_up, [""; 0], "{api:?}");
        site.audit().unwrap();
    }
}

/// What a verb is asked, the topic that it is not told all of, and whether its answer has all the same.
type Row<'a> = (&'a [&'a str], Topic, fn(&[Value]) -> bool);

fn replayed(found: &[Value]) -> bool {
    let (found, tasks) = (&found[0], serde_json::json!(site::TASKS));
    let decisions = [&found["decisions"], &found["identical"], &found["first_divergence"]];
    decisions == [&tasks, &tasks, &Value::Null]
}

/// A leader that was just elected says for a while that its partitions end before what they hold.
#[test]
fn what_a_new_leader_does_not_know_of_yet_is_read_all_the_same() {
    let mut site = site::Site::start().unwrap();
    site.run_router();
    site.publish_tasks(0..site::TASKS);
    site.work_until(site::TASKS).unwrap();
    site.stop_router();
    let replay: &[&str] = &["replay", "audit", "--json"];
    let rows: [Row<'_>; 6] = [
        (replay, Topic::Tasks, replayed),
        (replay, Topic::Journal, replayed),
        (replay, Topic::RouteDecisions, replayed),
        (&["tap", "tasks", "--from-beginning", "--no-follow"], Topic::Tasks, |found| {
            found.len() == site::TASKS
        }),
        (&["fleet", "show", "--json"], Topic::Fleet, |found| {
            found[0]["resource"][0]["id"] == "one"
        }),
        (&["recover", "--json"], Topic::Journal, |found| found[0]["lanes"][0]["verdict"] == "runs"),
    ];
    for (arguments, topic, is_whole) in rows {
        let rule = site.trouble(ApiKey::Fetch, topic, 1, Fault::Behind);
        let found = site.verb(arguments);
        assert!(site.hits(rule) > 0, "{arguments:?}, {topic:?}");
        assert!(is_whole(&found), "{arguments:?}, {topic:?}: {found:?}");
        site.heal();
    }
    site.audit().unwrap();
}
