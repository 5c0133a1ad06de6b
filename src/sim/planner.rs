//! The planner of rights in a modelled process: does what `stream/advisor` does, through the modelled
//! client.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::instance::Instance;
use super::producer::IdempotentProducer;
use super::reader::{Found, Reader};
use super::records::Plain;
use crate::model::Topic;
use crate::model::event::{InboxBody, InboxMessage};
use crate::model::time::Timestamp;
use crate::routing::balancer::rebalance::{Advised, Planner};

/// The lane whose owner plans for all.
pub const PLANNING_LANE: u32 = 0;

/// Rounds are this far apart, microseconds.
const ROUND_US: u64 = 200_000;

/// A process that does not plan looks this often whether it should, microseconds.
const ASLEEP_US: u64 = 1_000_000;

/// Plans while `plans` says so, until the process ends.
pub async fn plan(instance: Rc<Instance>, plans: Rc<Cell<bool>>, load_snapshot_ms: u64) {
    let mut awake: Option<Awake> = None;
    loop {
        let is_planning = instance.world.lanes() > 1 && plans.get();
        instance.sleep(if is_planning { ROUND_US } else { ASLEEP_US }).await;
        if !is_planning {
            awake = None;
            continue;
        }
        // With more lanes it begins anew, from what is in the topic.
        let awake = match &mut awake {
            Some(awake) if awake.lanes == instance.world.lanes() => awake,
            other => other.insert(Awake::new(&instance, load_snapshot_ms)),
        };
        awake.round(&instance).await;
    }
}

struct Awake {
    lanes: u32,
    planner: Planner,
    reader: Reader,
    producers: BTreeMap<i32, IdempotentProducer>,
}

impl Awake {
    fn new(instance: &Instance, load_snapshot_ms: u64) -> Self {
        let mut reader = Reader::default();
        for partition in 0..instance.world.partitions(Topic::LoadSnapshots) {
            reader.set(Topic::LoadSnapshots, partition, 0);
        }
        let lanes = instance.world.lanes();
        let planner = Planner::new(lanes, load_snapshot_ms);
        Awake { lanes, planner, reader, producers: BTreeMap::new() }
    }

    async fn round(&mut self, instance: &Instance) {
        let world = &instance.world;
        for found in self.reader.poll(world, &instance.name, 0).await {
            let Found::Record(topic, partition, record) = found else { continue };
            record.with_raw(topic, partition, |raw| match world.codec.decode_load_snapshot(raw) {
                Ok(snapshot) => self.planner.told(&snapshot),
                Err(error) => world.violation(format!("a load snapshot cannot be read: {error}")),
            });
        }
        let now = Timestamp::from_ms(instance.now().wall_ms);
        for advised in self.planner.rebalance(now) {
            self.send(instance, &advised).await;
        }
    }

    async fn send(&mut self, instance: &Instance, advised: &Advised) {
        let Advised { lane, advice } = advised;
        let body = InboxBody::Advice(advice.clone());
        let message = InboxMessage { from_lane: PLANNING_LANE, to_lane: *lane, body };
        let mut value = Vec::new();
        instance.world.codec.encode_lane_inbox(&message, &mut value);
        let record = Plain {
            offset: 0,
            timestamp_ms: instance.now().wall_ms,
            key: Some(lane.to_string().into_bytes().into()),
            value: Some(value.into()),
            headers: Vec::new(),
        };
        let partition = i32::try_from(*lane).unwrap_or(-1);
        let producer = match self.producers.remove(&partition) {
            Some(producer) => Ok(producer),
            None => IdempotentProducer::open(instance).await,
        };
        // What is not sent will be advised again; a producer that failed begins anew.
        let Ok(mut producer) = producer else { return };
        if producer.send(instance, Topic::LaneInbox, partition, record).await.is_ok() {
            self.producers.insert(partition, producer);
        }
    }
}
