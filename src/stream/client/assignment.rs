//! What has to be asked before a lane that was assigned can be told to the worker, or can start. A
//! broker that does not answer now is no reason to end: the others of its cluster may take over.

use std::collections::BTreeMap;

use rdkafka::error::KafkaError;
use tracing::{info, warn};

use super::{ASK, Client, Request, lanes_of};
use crate::config::StartFrom;
use crate::model::Topic;
use crate::stream::worker::event::Event;

/// A question that was not answered is asked again after this long.
const ASK_AGAIN_MS: u64 = 500;

/// Questions of an assignment that are still open; a revocation answers them all.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    /// What was assigned, until the numbers of partitions are known.
    assigned: Option<Vec<(Topic, i32)>>,
    /// Lanes that have never run, until their inputs' bounds are known.
    starts: BTreeMap<u32, StartFrom>,
    /// Partitions are to be counted again.
    counts: bool,
    /// Not before then, by the client's clock.
    again_us: u64,
}

impl Unanswered {
    pub fn assigned(&mut self, assigned: Vec<(Topic, i32)>) {
        *self = Unanswered { assigned: Some(assigned), ..Unanswered::default() };
    }

    pub fn revoked(&mut self) {
        *self = Unanswered::default();
    }

    pub fn count(&mut self) {
        self.counts = true;
    }

    pub fn find_start(&mut self, lane: u32, from: StartFrom) {
        self.starts.insert(lane, from);
    }
}

impl Client<'_> {
    /// Asks what is open.
    pub(super) fn ask_unanswered(&mut self) {
        let now = self.now();
        if now.monotonic_us < self.unanswered.again_us {
            return;
        }
        let asked = self.tell_assigned().and_then(|()| self.tell_partitions());
        let asked = asked.and_then(|()| self.find_starts());
        if let Err(error) = asked {
            warn!(worker = self.number, %error, "the assignment waits for an answer");
            self.unanswered.again_us = self.now().monotonic_us + ASK_AGAIN_MS * 1_000;
        }
    }

    fn tell_assigned(&mut self) -> Result<(), KafkaError> {
        let Some(assigned) = &self.unanswered.assigned else { return Ok(()) };
        let lanes = lanes_of(assigned);
        self.count_partitions()?;
        let Some(assigned) = self.unanswered.assigned.take() else { return Ok(()) };
        info!(worker = self.number, ?lanes, "assigned");
        self.observer.assigned(&lanes);
        self.cache.retain(&lanes);
        self.keeper.ask(Request::Assigned);
        self.newest = lanes.iter().map(|lane| (*lane, [0; 3])).collect();
        self.tell(Event::Assigned(assigned));
        Ok(())
    }

    fn tell_partitions(&mut self) -> Result<(), KafkaError> {
        if self.unanswered.counts {
            self.count_partitions()?;
        }
        Ok(())
    }

    fn count_partitions(&mut self) -> Result<(), KafkaError> {
        let mut partitions = Vec::new();
        for topic in Topic::ALL {
            if topic == Topic::RouteDecisions && self.config.topics.decisions_by_pool() {
                continue;
            }
            let count = self.group.partitions(self.config.topics.name(topic), ASK)?;
            partitions.push((topic, count));
        }
        self.unanswered.counts = false;
        self.tell(Event::Partitions(partitions));
        Ok(())
    }

    fn find_starts(&mut self) -> Result<(), KafkaError> {
        while let Some((lane, from)) = self.unanswered.starts.first_key_value() {
            let (lane, from) = (*lane, *from);
            let mut offsets = [0; 3];
            for (offset, topic) in offsets.iter_mut().zip(Topic::LANE_INPUTS) {
                let (first, end) = self.group.bounds(topic, lane, ASK)?;
                // Other lanes may have sent something before this one first ran.
                let is_earliest = from == StartFrom::Earliest || topic == Topic::LaneInbox;
                *offset = if is_earliest { first } else { end };
            }
            self.unanswered.starts.remove(&lane);
            self.tell(Event::Start { lane, offsets });
        }
        Ok(())
    }
}
