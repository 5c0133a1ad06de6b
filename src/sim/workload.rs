//! The clients of the contract: producers of tasks, the fleet with its health, and workers that answer
//! decisions, late, wrongly, twice, to the wrong partition or not at all.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::dice::Dice;
use super::reader::{Found, Reader};
use super::world::{Partitions, World};
use crate::model::Topic;
use crate::model::decision::Outcome;

/// Resources with limits that a burst of tasks meets.
pub const RESOURCES: usize = 4;

/// Tasks come for so long, microseconds.
const ARRIVALS_US: u64 = 12_000_000;

/// A resource is well for so long, and then slow or failing for so long.
const WELL_US: Range<u64> = 2_000_000..12_000_000;
const ILL_US: Range<u64> = 500_000..5_000_000;

/// An attempt takes so long on a resource that is well, and on a slow one: longer than a lease.
const ATTEMPT_US: Range<u64> = 20_000..1_500_000;
const SLOW_ATTEMPT_US: Range<u64> = 1_000_000..14_000_000;

/// A slow attempt says that it is alive this often.
const HEARTBEAT_US: u64 = 1_500_000;

/// A resource has less for so long.
const LOWERED_US: Range<u64> = 500_000..9_000_000;

/// No task takes more.
const TOKENS_MAX: u64 = 600;

/// The fleet as it is at first and at last, which is the most that it ever is; the auditor wants it too.
pub fn fleet() -> Vec<serde_json::Value> {
    (0..RESOURCES)
        .map(|number| {
            json!({
                "id": format!("r{number}"), "model": "m", "provider": format!("p{}", number / 2),
                "region": if number % 2 == 0 { "eu" } else { "us" },
                "context_window": 4_000, "max_output_tokens": 400,
                "slots": 6 + number,
                // All want the first, which has the least.
                "quality": {"default": if number == 0 { 0.8 } else { 0.5 }},
                "limits": [
                    {"dimension": "requests", "amount": if number == 0 { 14 } else { 40 }, "window_s": 3},
                    {"dimension": "tokens", "amount": if number == 0 { 4_000 } else { 12_000 }, "window_s": 5},
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

/// The fleet is changed while tasks come: a resource gets less of some or all that it has, or is taken
/// out, and after a while it is as before.
pub async fn rescale(world: Rc<World>, mut dice: ChaCha8Rng) {
    let timeline = Rc::clone(&world.network.timeline);
    for _ in 0..dice.within(0..3) {
        timeline.sleep(dice.within(0..ARRIVALS_US / 2)).await;
        let fleet = fleet();
        let Some(whole) = fleet.get(dice.within(0..RESOURCES as u64) as usize) else { return };
        let id = whole["id"].as_str().map(str::to_owned);
        let record = |resource: &serde_json::Value| {
            Some(json!({"resource": resource}).to_string().into_bytes())
        };
        let less = (!dice.chance(1, 4)).then(|| {
            // Not always everything: what is scarcest hides a fault in the others.
            let (divisor, which) = (dice.within(2..5), dice.within(1..8));
            fraction(whole, divisor, which)
        });
        world.publish_any(Topic::Fleet, 0, &[(id.clone(), less.as_ref().and_then(record))]);
        timeline.sleep(dice.within(LOWERED_US)).await;
        world.publish_any(Topic::Fleet, 0, &[(id, record(whole))]);
    }
}

/// Lanes are added within this time, microseconds: while tasks still come.
const ADDED_US: Range<u64> = 2_000_000..9_000_000;
/// `tasks` gets its partitions so long after the other topics.
const TASKS_LATER_US: u64 = 1_500_000;

/// Adds lanes as `topics apply` does: `tasks` is the last topic to get its partitions.
pub async fn add_lanes(world: Rc<World>, mut dice: ChaCha8Rng) {
    if world.lanes_added == 0 {
        return;
    }
    let timeline = Rc::clone(&world.network.timeline);
    timeline.sleep(dice.within(ADDED_US)).await;
    let lanes = world.dealt + world.lanes_added;
    let alone = [Topic::Tasks, Topic::Fleet, Topic::HealthEvents, Topic::OperatorActions];
    let others = Topic::ALL.into_iter().filter(|topic| !alone.contains(topic));
    let others: Vec<Topic> = others.collect();
    world.add_partitions(&others, lanes);
    world.partitions.set(Partitions { others: lanes, ..world.partitions.get() });
    timeline.sleep(dice.within(0..TASKS_LATER_US)).await;
    world.add_partitions(&[Topic::Tasks], lanes);
    world.partitions.set(Partitions { tasks: lanes, others: lanes });
}

/// A resource with a part of what it has, of which the largest task still fits: of its slots (bit 0 of
/// `which`), requests (bit 1) and tokens (bit 2).
fn fraction(whole: &serde_json::Value, divisor: u64, which: u64) -> serde_json::Value {
    let mut less = whole.clone();
    for (bit, path, least) in
        [(0, "/slots", 1), (1, "/limits/0/amount", 1), (2, "/limits/1/amount", TOKENS_MAX)]
    {
        if which & (1 << bit) != 0
            && let Some(amount) = less.pointer_mut(path)
        {
            *amount = json!((amount.as_u64().unwrap_or_default() / divisor).max(least));
        }
    }
    less
}

/// Publishes tasks in bursts, some of them twice and some that nobody can read, and says now and then
/// that a resource is down, and up again.
pub async fn produce(world: Rc<World>, tasks: u64, mut dice: ChaCha8Rng) {
    let timeline = Rc::clone(&world.network.timeline);
    let mut number = 0;
    while number < tasks {
        let burst = dice.within(1..12).min(tasks - number);
        let partition = i32::try_from(dice.within(0..u64::from(world.lanes()))).unwrap_or(0);
        let mut records: Vec<_> = (number..number + burst)
            .map(|id| (None, task(id, &mut dice).to_string().into_bytes()))
            .collect();
        if dice.chance(1, 25) {
            records.push((None, b"{\"task_id\": \"unreadable\"".to_vec()));
        }
        if dice.chance(1, 25)
            && let Some(again) = records.first().cloned()
        {
            records.push(again);
        }
        world.publish(Topic::Tasks, partition, &records);
        number += burst;
        if dice.chance(1, 15) {
            let resource = format!("r{}", dice.within(0..RESOURCES as u64));
            let status = ["healthy", "degraded", "unhealthy", "drain"][dice.within(0..4) as usize];
            publish_health(&world, &resource, status);
        }
        if dice.chance(1, 60) {
            let key = Some("resource:unreadable".to_owned());
            world.publish(Topic::HealthEvents, 0, &[(key, b"unreadable".to_vec())]);
        }
        timeline.sleep(dice.within(0..2 * ARRIVALS_US * burst / tasks)).await;
    }
    for resource in 0..RESOURCES {
        publish_health(&world, &format!("r{resource}"), "healthy");
    }
    world.published.set(true);
}

fn task(id: u64, dice: &mut ChaCha8Rng) -> serde_json::Value {
    let priority = ["critical", "interactive", "batch"][dice.within(0..3) as usize];
    let mut task = json!({
        "task_id": format!("t{id}"), "priority": priority,
        "input_tokens": dice.within(10..400), "max_output_tokens": dice.within(10..200),
    });
    if dice.chance(1, 5) {
        task["deadline_ms"] = json!(dice.within(2_000..30_000));
    }
    if dice.chance(1, 6) {
        let stage = |dice: &mut ChaCha8Rng| {
            json!({
                "name": "stage", "input_tokens": dice.within(10..300),
                "max_output_tokens": dice.within(10..150),
            })
        };
        let stages: Vec<_> = (0..dice.within(2..4)).map(|_| stage(dice)).collect();
        task["stages"] = json!(stages);
    }
    task
}

fn publish_health(world: &World, resource: &str, status: &str) {
    let event = json!({"scope": "resource", "id": resource, "status": status, "severity": 0.5});
    let key = Some(format!("resource:{resource}"));
    world.publish(Topic::HealthEvents, 0, &[(key, event.to_string().into_bytes())]);
}

/// How a resource answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Well,
    Slow,
    Failing,
}

type Conditions = Rc<RefCell<[Condition; RESOURCES]>>;

/// Lets a resource be slow or failing now and then, without a word in `health-events`.
async fn fall_ill(world: Rc<World>, resource: usize, conditions: Conditions, mut dice: ChaCha8Rng) {
    let timeline = Rc::clone(&world.network.timeline);
    while world.faults.borrow().active {
        timeline.sleep(dice.within(WELL_US)).await;
        let slow = dice.chance(1, 2);
        conditions.borrow_mut()[resource] = if slow { Condition::Slow } else { Condition::Failing };
        timeline.sleep(dice.within(ILL_US)).await;
        conditions.borrow_mut()[resource] = Condition::Well;
    }
}

/// Answers decisions.
pub async fn work(world: Rc<World>, mut dice: ChaCha8Rng) {
    let conditions: Conditions = Rc::new(RefCell::new([Condition::Well; RESOURCES]));
    for resource in 0..RESOURCES {
        let own = super::dice::stream(dice.within(0..u64::MAX), 0);
        let conditions = Rc::clone(&conditions);
        world.network.timeline.spawn(fall_ill(Rc::clone(&world), resource, conditions, own));
    }
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
                    let decided = decision.primary.iter().find(|link| link.stage == decision.stage);
                    let resource = decided.map(|link| link.resource.to_string());
                    let resource = resource.unwrap_or_default();
                    let number = resource.strip_prefix('r').and_then(|number| number.parse().ok());
                    let condition =
                        number.and_then(|number: usize| conditions.borrow().get(number).copied());
                    let attempt = Attempt {
                        task: decision.task_id.to_string(),
                        number: decision.attempt,
                        stage: decision.stage,
                        lane: decision.lane,
                        resource,
                        condition: condition.unwrap_or(Condition::Well),
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
    stage: u32,
    lane: u32,
    resource: String,
    condition: Condition,
}

impl Attempt {
    fn report(&self, world: &World, lane: u32, status: &str, tokens: u64) {
        let result = json!({
            "task_id": self.task, "attempt": self.number, "stage": self.stage, "lane": self.lane,
            "resource": self.resource, "status": status, "output_tokens": tokens,
        });
        let partition = i32::try_from(lane).unwrap_or(0);
        let key = Some(self.task.clone());
        world.publish(Topic::TaskResults, partition, &[(key, result.to_string().into_bytes())]);
    }
}

async fn answer(world: Rc<World>, attempt: Attempt, dice: Rc<RefCell<ChaCha8Rng>>) {
    let (mut us, drawn, tokens) = {
        let mut dice = dice.borrow_mut();
        let took = match attempt.condition {
            Condition::Well | Condition::Failing => ATTEMPT_US,
            Condition::Slow => SLOW_ATTEMPT_US,
        };
        (dice.within(took), dice.within(0..100), dice.within(0..250))
    };
    let speaks = drawn % 2 == 0;
    while us > HEARTBEAT_US {
        if speaks {
            attempt.report(&world, attempt.lane, "heartbeat", 0);
        }
        world.network.timeline.sleep(HEARTBEAT_US).await;
        us -= HEARTBEAT_US;
    }
    world.network.timeline.sleep(us).await;
    let status = match (attempt.condition, drawn) {
        (_, 0..=2) => return,
        (Condition::Failing, _) => "failed",
        (_, 3..=9) => "failed",
        (_, 10..=13) => "rate_limited",
        (_, 14..=15) => "late",
        (_, _) => "succeeded",
    };
    // A few go astray: the lane that gets them sends them on.
    let lane = if drawn >= 98 { (attempt.lane + 1) % world.lanes() } else { attempt.lane };
    attempt.report(&world, lane, status, tokens);
    if (96..98).contains(&drawn) {
        attempt.report(&world, lane, status, tokens);
    }
}
