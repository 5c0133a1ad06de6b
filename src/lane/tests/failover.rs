//! What goes down leaves nothing behind: every attempt there is decided again, in batches of a bounded
//! size, and a dead letter tells of it.

use serde_json::json;

use super::Bench;
use crate::model::Topic;
use crate::model::policy::Policy;

fn policy() -> Policy {
    Policy { load_snapshot_ms: 1_000_000_000, explore_share: 0.0, ..Policy::default() }
}

fn bench(policy: Policy, slots: u32) -> Bench {
    let mut bench = Bench::new(policy);
    for (id, quality) in [("good", 0.9), ("plain", 0.5)] {
        bench.resource(id, json!({"slots": slots, "quality": {"default": quality}}));
    }
    bench
}

fn starting(outputs: &[String], with: &str) -> usize {
    outputs.iter().filter(|one| one.starts_with(with)).count()
}

#[test]
fn a_dead_letter_tells_of_the_attempts_that_were_failed_over() {
    let mut bench = bench(Policy { attempts_max: 1, ..policy() }, 1);
    bench.task("t1", json!({}));
    assert_eq!(starting(&bench.step(), "t1 #1 -> good "), 1);
    bench.health("good", "unhealthy");
    assert_eq!(
        bench.step_at(1_000_050),
        ["failed_over good t1 #1 0/1/200 over 0 -", "failover good tasks 1"]
    );
    bench.reread();
    assert_eq!(
        starting(&bench.step_at(1_000_100), "t1 #2 -> plain "),
        1,
        "it was no failure of its own"
    );
    bench.result("t1", 2, "failed", json!({}));
    assert_eq!(bench.step_at(1_000_200), ["released plain t1 #2 0/1/200 over 0 -"]);
    bench.reread();
    let outputs = bench.step_at(1_000_300);
    assert_eq!(outputs[0], "t1 #3 refused attempts_spent");
    let prepared = bench.prepared.last().unwrap();
    let letter = prepared
        .records
        .iter()
        .find(|record| record.topic == crate::lane::prepared::OutputTopic::Known(Topic::TasksDlq))
        .unwrap();
    let (name, message) = prepared.headers_of(letter).last().unwrap();
    assert_eq!(
        (name, std::str::from_utf8(message.unwrap()).unwrap()),
        (
            "__connect.errors.exception.message",
            "attempt 1 on good: failed_over; attempt 2 on plain: failed"
        )
    );
}

#[test]
fn more_than_one_batch_can_fail_over_goes_on_in_the_next() {
    const TASKS: usize = 2_500;
    let mut bench = bench(policy(), 3_000);
    for number in 0..TASKS {
        bench.task(&format!("t{number}"), json!({}));
    }
    let mut begun = 0;
    while bench.lane.queued() > 0 {
        begun += starting(&bench.step(), "reserved good ");
    }
    assert_eq!(begun, TASKS);
    bench.health("good", "unhealthy");
    // (failed over, their failover is told to be over, begun again elsewhere)
    let mut batches = Vec::new();
    let mut told = Vec::new();
    for _ in 0..20 {
        bench.now += 10;
        bench.reread();
        let outputs = bench.step();
        if outputs.is_empty() {
            break;
        }
        told.extend(outputs.iter().filter(|one| one.starts_with("failover ")).cloned());
        batches
            .push([starting(&outputs, "failed_over good "), starting(&outputs, "reserved plain ")]);
    }
    let failed_over: Vec<usize> = batches.iter().map(|batch| batch[0]).collect();
    assert_eq!(failed_over[..4], [1_024, 1_024, 452, 0]);
    assert_eq!(told, [format!("failover good tasks {TASKS}")]);
    let again: usize = batches.iter().map(|batch| batch[1]).sum();
    assert_eq!(again, TASKS, "{batches:?}");
    let state = bench.lane.state();
    assert_eq!((state.in_flight as usize, state.fleet.at(0).slots_in_use), (TASKS, 0));
    // What the last step did is in no journal: there was nothing to do.
    bench.task("last", json!({}));
    bench.step();
    assert_eq!(bench.folded().state(), bench.lane.state());
}

#[test]
fn a_failure_domain_goes_down_as_one() {
    let mut bench = Bench::new(policy());
    for (id, region, domain, quality) in
        [("one", "eu", "cell-1", 0.9), ("two", "us", "cell-1", 0.8), ("three", "eu", "cell-2", 0.7)]
    {
        let quality = json!({"default": quality});
        bench.resource(id, json!({"region": region, "failure_domain": domain, "quality": quality}));
    }
    bench.task("t1", json!({}));
    assert_eq!(starting(&bench.step(), "t1 #1 -> one [three] "), 1);
    let say = |bench: &mut Bench, status: &str| {
        let event = json!({"scope": "failure_domain", "id": "cell-1", "status": status});
        let value = event.to_string();
        bench.put(
            Topic::HealthEvents,
            Some("failure_domain:cell-1"),
            Some(value.as_bytes()),
            false,
        );
    };
    say(&mut bench, "unhealthy");
    bench.task("t2", json!({}));
    let bound = json!({"requirements": {"regions": ["us"]}});
    bench.task("t3", bound.clone());
    assert_eq!(
        bench.step_at(1_000_100),
        [
            "failed_over one t1 #1 0/1/200 over 0 -",
            "failover one tasks 1",
            r#"t2 #1 -> three [] {"prompt":"t2"}"#,
            "reserved three t2 #1 1/1/200 over 0 -",
            "t3 #1 refused health",
        ]
    );
    bench.reread();
    assert_eq!(starting(&bench.step_at(1_000_200), "t1 #2 -> three "), 1);
    say(&mut bench, "healthy");
    bench.task("t4", bound);
    assert_eq!(starting(&bench.step_at(1_000_300), "t4 #1 -> two "), 1);
}
