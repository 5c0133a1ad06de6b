//! Rights that follow the load: eight lanes, one resource, all tasks in one lane.

use std::collections::BTreeMap;

use pointsman::model::Topic;
use serde_json::json;
use testbed::{eventually, until};

use crate::world::{LIMIT, World};

const LANES: i32 = 8;
/// Requests in ten seconds, over all lanes: a hundred in each by the first deal.
const REQUESTS: usize = 800;
const WINDOW_MS: i64 = 10_000;
const BUSY: i32 = 3;

fn publish_fleet(world: &World) {
    let resource = json!({
        "id": "gpt-eu", "model": "gpt", "provider": "openai", "region": "eu",
        "context_window": 128_000, "max_output_tokens": 16_384, "slots": 100_000,
        "limits": [{"dimension": "requests", "amount": REQUESTS, "window_s": WINDOW_MS / 1_000}],
        "quality": {"default": 0.7},
    });
    world.publish(Topic::Fleet, 0, "gpt-eu", &json!({"resource": resource}));
    world.flush();
}

/// When each reservation was made, milliseconds, sorted.
fn reserved(world: &World) -> Vec<i64> {
    let events = world.read(Topic::AllocationEvents);
    let made = events.iter().filter(|event| event.value["kind"] == "reserved");
    let mut at: Vec<i64> = made.map(|event| event.value["at_ms"].as_i64().unwrap()).collect();
    at.sort_unstable();
    at
}

/// The rights of requests that each lane said last that it holds.
fn rights(world: &World) -> BTreeMap<i64, u64> {
    let mut rights = BTreeMap::new();
    for snapshot in world.read(Topic::LoadSnapshots) {
        let loads = snapshot.value["load"].as_array().unwrap();
        let requests = loads.iter().find(|load| load["dimension"] == "requests");
        if let Some(requests) = requests {
            let lane = snapshot.value["lane"].as_i64().unwrap();
            rights.insert(lane, requests["rights"].as_u64().unwrap());
        }
    }
    rights
}

#[test]
fn a_busy_lane_gets_what_the_others_do_not_use() {
    let world = World::new(LANES);
    publish_fleet(&world);
    let running = world.run(world.config("a", &[("ROUTING__LOAD_SNAPSHOT_MS", "1000")]));
    until("all lanes run", LIMIT, || running.runs(LANES as usize));
    for id in 0..1_500 {
        let task =
            json!({"task_id": format!("t-{id}"), "input_tokens": 10, "max_output_tokens": 20});
        world.publish(Topic::Tasks, BUSY, "acme", &task);
    }
    world.flush();
    // By the first deal it would have a hundred in twelve seconds: five hundred in this time.
    let at = eventually("700 reservations", LIMIT, || {
        let at = reserved(&world);
        (at.len() >= 700).then_some(at)
    });
    // Sliding windows: the one after as many as are allowed comes a window later.
    for (first, over) in at.iter().zip(at.iter().skip(REQUESTS)) {
        assert!(over - first >= WINDOW_MS, "more than {REQUESTS} from {first} to {over}");
    }
    let held = eventually("every right has arrived", LIMIT, || {
        let held = rights(&world);
        (held.values().sum::<u64>() == 1_000_000).then_some(held)
    });
    assert!(held[&i64::from(BUSY)] >= 900_000, "{held:?}");
    let metrics = running.telemetry.open_metrics();
    let advice = "pointsman_planner_advice_total{dimension=\"requests\"}";
    assert!(metrics.lines().any(|line| line.starts_with(advice)), "{metrics}");
    running.stop().unwrap();
}

#[test]
fn another_instance_plans_when_lane_0_moves_to_it() {
    let world = World::new(LANES);
    publish_fleet(&world);
    let config = |name| world.config(name, &[("ROUTING__LOAD_SNAPSHOT_MS", "1000")]);
    let first = world.run(config("a"));
    until("all lanes run", LIMIT, || first.runs(LANES as usize));
    until("its rights are told", LIMIT, || rights(&world).len() == LANES as usize);
    first.stop().unwrap();
    let second = world.run(config("b"));
    until("all lanes run again", LIMIT, || second.runs(LANES as usize));
    for id in 0..900 {
        let task =
            json!({"task_id": format!("t-{id}"), "input_tokens": 10, "max_output_tokens": 20});
        world.publish(Topic::Tasks, BUSY, "acme", &task);
    }
    world.flush();
    until("the rights have moved", LIMIT, || {
        rights(&world).get(&i64::from(BUSY)).is_some_and(|rights| *rights >= 900_000)
    });
    second.stop().unwrap();
}
