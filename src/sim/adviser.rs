//! The worst planner there could be: it advises anything at any time. Whatever it says, no limit may be
//! exceeded and no right lost.

use std::rc::Rc;

use rand_chacha::ChaCha8Rng;

use super::dice::Dice;
use super::workload::fleet;
use super::world::World;
use crate::model::Topic;
use crate::model::event::{InboxBody, InboxMessage};
use crate::model::resource::ResourceSpec;
use crate::model::rights::{Advice, LimitKind, LimitName, LimitOwner};
use crate::model::task::Priority;

/// Microseconds between two pieces of advice, at most.
const PAUSE_US: u64 = 150_000;

/// Advises until the faults are over.
pub async fn advise(world: Rc<World>, mut dice: ChaCha8Rng) {
    let limits = limits();
    if world.dealt + world.lanes_added < 2 || limits.is_empty() {
        return;
    }
    let timeline = Rc::clone(&world.network.timeline);
    while world.faults.borrow().active {
        timeline.sleep(dice.within(1_000..PAUSE_US)).await;
        let mut limit = limits[dice.within(0..limits.len() as u64) as usize].clone();
        if dice.chance(1, 20) {
            limit.incarnation += 1;
        }
        let lanes = u64::from(world.lanes());
        let (lane, to_lane) = (dice.within(0..lanes) as u32, dice.within(0..lanes + 1) as u32);
        let rights = match dice.within(0..4) {
            0 => u32::MAX,
            1 => 1_000_000,
            _ => dice.within(1..500_000) as u32,
        };
        let owed_to = match dice.within(0..6) {
            0 => Some(Priority::Critical),
            1 => Some(Priority::Interactive),
            2 => Some(Priority::Batch),
            _ => None,
        };
        let body = InboxBody::Advice(Advice { limit, to_lane, rights, owed_to });
        let mut bytes = Vec::new();
        let message = InboxMessage { from_lane: 0, to_lane: lane, body };
        world.codec.encode_lane_inbox(&message, &mut bytes);
        let again = if dice.chance(1, 10) { 2 } else { 1 };
        let records = vec![(Some(lane.to_string()), bytes); again];
        world.publish(Topic::LaneInbox, i32::try_from(lane).unwrap_or(0), &records);
    }
}

/// Every limit of the fleet, which is published in this order from offset 0 on.
fn limits() -> Vec<LimitName> {
    let mut found = Vec::new();
    for (incarnation, resource) in (0i64..).zip(fleet()) {
        let Ok(spec) = serde_json::from_value::<ResourceSpec>(resource) else { continue };
        let rates = spec
            .limits
            .iter()
            .map(|limit| LimitKind::Rate { dimension: limit.dimension, window_s: limit.window_s });
        let owner = LimitOwner::Resource(spec.id.clone());
        let name = |kind| LimitName { owner: owner.clone(), incarnation, kind };
        found.extend(std::iter::once(LimitKind::Slots).chain(rates).map(name));
    }
    found
}
