//! (I/O) The planner of rights, where lane 0 runs: told what the instance's view of `load-snapshots`
//! shows, and its advice sent to the inboxes of those who should give. It runs on the view's thread; no
//! lane waits for it, and none depends on it: without it every lane keeps the rights that it has.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tracing::{debug, info, warn};

use super::client::archive::Deliveries;
use super::client::settings;
use crate::clock::{Stopwatch, wall_now};
use crate::codec::Codec;
use crate::config::Config;
use crate::model::Topic;
use crate::model::event::{InboxBody, InboxMessage, LoadSnapshot};
use crate::routing::balancer::rebalance::{ADVICE_MAX, Advised, Planner};
use crate::telemetry::Telemetry;

/// The lane whose owner plans for all.
const PLANNING_LANE: u32 = 0;

/// Rounds are this far apart at least, so that there are 2,560 pieces of advice a second at most. It
/// is what a lane needs for a few transactions.
const ROUND_EVERY: Duration = Duration::from_millis(200);

/// What is to be planned, and who sends it. One of each instance; asleep where lane 0 is elsewhere,
/// or is the only one.
pub struct Advisor<'a> {
    config: &'a Config,
    codec: &'a Codec,
    telemetry: &'a Telemetry,
    lanes: u32,
    awake: Option<Awake>,
    last_round: Stopwatch,
    /// Whether the last attempt failed: said once.
    is_failing: bool,
}

struct Awake {
    planner: Planner,
    producer: Option<BaseProducer<Deliveries>>,
    undelivered: u32,
}

impl<'a> Advisor<'a> {
    pub fn new(config: &'a Config, codec: &'a Codec, telemetry: &'a Telemetry) -> Self {
        Advisor {
            config,
            codec,
            telemetry,
            lanes: 0,
            awake: None,
            last_round: Stopwatch::start(),
            is_failing: false,
        }
    }

    /// There are so many lanes: partitions of `load-snapshots`.
    pub fn lanes(&mut self, lanes: u32) {
        if self.lanes != lanes {
            self.lanes = lanes;
            self.awake = None;
        }
    }

    /// A load snapshot is new, or gone.
    pub fn told(&mut self, key: &[u8], snapshot: Option<&LoadSnapshot<'_>>) {
        let Some(Awake { planner, .. }) = &mut self.awake else { return };
        match snapshot {
            Some(snapshot) => planner.told(snapshot),
            None => {
                let key = std::str::from_utf8(key).ok().and_then(|key| key.split_once('/'));
                if let Some((lane, owner)) = key
                    && let Ok(lane) = lane.parse()
                {
                    planner.untold(lane, owner);
                }
            }
        }
    }

    /// Plans, where this instance should and it is time.
    pub fn go_on(&mut self) {
        if self.last_round.elapsed() < ROUND_EVERY {
            return;
        }
        self.last_round = Stopwatch::start();
        let plans = self.lanes > 1 && self.telemetry.runs(PLANNING_LANE);
        if !plans {
            if self.awake.take().is_some() {
                info!(
                    "the planner of rights stops: lane {PLANNING_LANE} does not run here any more"
                );
            }
            return;
        }
        let Some(awake) = &mut self.awake else { return self.wake() };
        if let Some(producer) = &awake.producer {
            producer.poll(Duration::ZERO);
            let undelivered = producer.context().undelivered.load(Ordering::Relaxed);
            let lost = undelivered.saturating_sub(awake.undelivered);
            awake.undelivered = undelivered;
            if lost > 0 {
                self.telemetry.advice_failed(u64::from(lost));
                warn!(lost, "advice on rights was not delivered; it will be given again");
            }
            // Brokers that do not answer are not given more to do.
            if usize::try_from(producer.in_flight_count()).unwrap_or(0) > ADVICE_MAX {
                return;
            }
        }
        if !awake.planner.is_due() {
            return;
        }
        let took = Stopwatch::start();
        let advised = awake.planner.rebalance(wall_now());
        self.telemetry.planned(took.elapsed());
        if !advised.is_empty() {
            match self.send(&advised) {
                Ok(()) => self.is_failing = false,
                Err(error) => {
                    self.telemetry.advice_failed(advised.len() as u64);
                    // A new one next time.
                    if let Some(awake) = &mut self.awake {
                        (awake.producer, awake.undelivered) = (None, 0);
                    }
                    if !std::mem::replace(&mut self.is_failing, true) {
                        warn!(%error, "advice on rights cannot be sent for now; lanes keep what they have");
                    }
                }
            }
        }
    }

    /// Goes on from the view as it is: the store's, or as far as it was read since.
    fn wake(&mut self) {
        let mut planner = Planner::new(self.lanes, self.config.routing.load_snapshot_ms);
        let view = self.telemetry.load();
        for snapshot in view.load.values() {
            planner.told(snapshot);
        }
        info!(lanes = self.lanes, known = view.load.len(), "the planner of rights runs here");
        self.awake = Some(Awake { planner, producer: None, undelivered: 0 });
    }

    fn send(&mut self, advised: &[Advised]) -> Result<(), KafkaError> {
        let Some(awake) = &mut self.awake else { return Ok(()) };
        let producer = match &mut awake.producer {
            Some(producer) => producer,
            none => none.insert(
                settings::advice_producer(self.config).create_with_context(Deliveries::default())?,
            ),
        };
        let topic = self.config.topics.name(Topic::LaneInbox);
        let mut value = Vec::new();
        for Advised { lane, advice } in advised {
            value.clear();
            let body = InboxBody::Advice(advice.clone());
            let message = InboxMessage { from_lane: PLANNING_LANE, to_lane: *lane, body };
            self.codec.encode_lane_inbox(&message, &mut value);
            let key = lane.to_string();
            let record = BaseRecord::to(topic)
                .partition(i32::try_from(*lane).unwrap_or(-1))
                .timestamp(wall_now().as_ms())
                .key(&key)
                .payload(&value);
            match producer.send(record) {
                Ok(()) => {}
                // What does not fit will be advised again: nothing here may wait.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.telemetry.advice_failed(1);
                    continue;
                }
                Err((error, _)) => return Err(error),
            }
            self.telemetry.advised(advice);
            debug!(
                from = lane,
                to = advice.to_lane,
                rights = advice.rights,
                limit = ?advice.limit,
                "advised"
            );
        }
        producer.poll(Duration::ZERO);
        Ok(())
    }
}
