//! The clients of the contract: producers of tasks, the fleet with its health, and workers that answer
//! decisions, late, wrongly or not at all.

use std::cell::RefCell;
use std::rc::Rc;

use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::dice::Dice;
use super::reader::{Found, Reader};
use super::world::World;
use crate::model::Topic;
use crate::model::decision::Outcome;

/// Resources with limits that a burst of tasks meets.
pub const RESOURCES: usize = 4;

/// Tasks come for so long, microseconds.
const ARRIVALS_US: u64 = 12_000_000;

/// The fleet, as the auditor wants it too.
pub fn fleet() -> Vec<serde_json::Value> {
    (0..RESOURCES)
        .map(|number| {
            json!({
                "id": format!("r{number}"), "model": "m", "provider": format!("p{}", number / 2),
                "region": "eu", "context_window": 4_000, "max_output_tokens": 400,
                "slots": 6 + number, "quality": {"default": 0.5},
                "limits": [
                    {"dimension": "requests", "amount": 40, "window_s": 3},
                    {"dimension": "tokens", "amount": 12_000, "window_s": 5},
                ],
            })
        })
        .collect()
}

pub fn publish_fleet(world: &World) {
    let records: Vec<_> = fleet()
        .into_iter()
        .map(|resource| {
            let id = resource["id"].as_str().map(str::to_owned);
            (id, json!({"resource": resource}).to_string().into_bytes())
        })
        .collect();
    world.publish(Topic::Fleet, 0, &records);
}

/// Publishes tasks in bursts, and says now and then that a resource is down, and up again.
pub async fn produce(world: Rc<World>, tasks: u64, mut dice: ChaCha8Rng) {
    let timeline = Rc::clone(&world.network.timeline);
    let mut number = 0;
    while number < tasks {
        let burst = dice.within(1..12).min(tasks - number);
        let partition = i32::try_from(dice.within(0..u64::from(world.lanes))).unwrap_or(0);
        let records: Vec<_> = (number..number + burst)
            .map(|id| {
                let priority = ["critical", "interactive", "batch"][dice.within(0..3) as usize];
                let mut task = json!({
                    "task_id": format!("t{id}"), "priority": priority,
                    "input_tokens": dice.within(10..400), "max_output_tokens": dice.within(10..200),
                });
                if dice.chance(1, 5) {
                    task["deadline_ms"] = json!(dice.within(2_000..30_000));
                }
                (None, task.to_string().into_bytes())
            })
            .collect();
        world.publish(Topic::Tasks, partition, &records);
        number += burst;
        if dice.chance(1, 15) {
            let resource = format!("r{}", dice.within(0..RESOURCES as u64));
            let status = ["healthy", "degraded", "unhealthy", "drain"][dice.within(0..4) as usize];
            publish_health(&world, &resource, status);
        }
        timeline.sleep(dice.within(0..2 * ARRIVALS_US * burst / tasks)).await;
    }
    for resource in 0..RESOURCES {
        publish_health(&world, &format!("r{resource}"), "healthy");
    }
    world.published.set(true);
}

fn publish_health(world: &World, resource: &str, status: &str) {
    let event = json!({"scope": "resource", "id": resource, "status": status, "severity": 0.5});
    let key = Some(format!("resource:{resource}"));
    world.publish(Topic::HealthEvents, 0, &[(key, event.to_string().into_bytes())]);
}

/// Answers decisions.
pub async fn work(world: Rc<World>, dice: ChaCha8Rng) {
    let dice = Rc::new(RefCell::new(dice));
    let mut reader = Reader::default();
    for partition in 0..world.partitions(Topic::RouteDecisions) {
        reader.set(Topic::RouteDecisions, partition, 0);
    }
    loop {
        for found in reader.poll(&world, "worker", 500).await {
            let Found::Record(topic, partition, record) = found else { continue };
            record.with_raw(topic, partition, |raw| match world.codec.decode_route_decision(raw) {
                Ok(decision) if decision.outcome == Outcome::Routed => {
                    let resource = decision.primary.first().map(|link| link.resource.to_string());
                    let attempt = Attempt {
                        task: decision.task_id.to_string(),
                        number: decision.attempt,
                        lane: decision.lane,
                        resource: resource.unwrap_or_default(),
                    };
                    let answering = answer(Rc::clone(&world), attempt, Rc::clone(&dice));
                    world.network.timeline.spawn(answering);
                }
                Ok(_) => {}
                Err(error) => world.violation(format!("a decision cannot be read: {error}")),
            });
        }
    }
}

struct Attempt {
    task: String,
    number: u32,
    lane: u32,
    resource: String,
}

async fn answer(world: Rc<World>, attempt: Attempt, dice: Rc<RefCell<ChaCha8Rng>>) {
    let (us, drawn, tokens) = {
        let mut dice = dice.borrow_mut();
        (dice.within(20_000..1_500_000), dice.within(0..100), dice.within(0..250))
    };
    world.network.timeline.sleep(us).await;
    let status = match drawn {
        0..=2 => return,
        3..=9 => "failed",
        10..=13 => "rate_limited",
        14..=15 => "late",
        _ => "succeeded",
    };
    let result = json!({
        "task_id": attempt.task, "attempt": attempt.number, "lane": attempt.lane,
        "resource": attempt.resource, "status": status, "output_tokens": tokens,
    });
    let partition = i32::try_from(attempt.lane).unwrap_or(0);
    let key = Some(attempt.task);
    world.publish(Topic::TaskResults, partition, &[(key, result.to_string().into_bytes())]);
}
