//! One lane of the closed loop, with its partition of each topic.

use std::collections::BTreeMap;

use super::at;
use crate::codec::RawRecord;
use crate::lane::prepared::Prepared;
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;

/// Batches of a lane are at least so far apart, as transactions are.
const BATCH_MS: u64 = 20;

#[derive(Debug)]
pub struct Member {
    lane: Lane,
    /// The scenario's place of each task of the partition, by offset.
    tasks: Vec<usize>,
    /// The next offset of each topic.
    next: BTreeMap<Topic, i64>,
    /// No batch before this time.
    batch_after: u64,
}

impl Member {
    pub fn new(number: u32, lanes: u32, settings: LaneSettings) -> Self {
        let mut lane = Lane::genesis(number, lanes, 1, settings);
        lane.start_at(0, 0, 0);
        Member { lane, tasks: Vec::new(), next: BTreeMap::new(), batch_after: 0 }
    }

    /// Hands over a record that came at this time.
    pub fn put(&mut self, topic: Topic, key: Option<&[u8]>, value: &[u8], now: u64) {
        let offset = self.next.entry(topic).or_insert(0);
        let is_shared = matches!(topic, Topic::Fleet | Topic::HealthEvents);
        let record = RawRecord {
            topic,
            partition: if is_shared { 0 } else { self.lane.number() as i32 },
            offset: *offset,
            timestamp_ms: at(now).as_ms(),
            key,
            value: Some(value),
            headers: &[],
        };
        *offset += 1;
        self.lane.offer(&record);
    }

    /// Hands over the task at this place of the scenario.
    pub fn put_task(&mut self, place: usize, value: &[u8], arrival_ms: u64) {
        self.tasks.push(place);
        // The record's timestamp is when the task was made.
        self.put(Topic::Tasks, None, value, arrival_ms);
    }

    /// When the next batch is; `None` where there is nothing to do.
    pub fn next_batch_ms(&self, now: u64) -> Option<u64> {
        if self.lane.queued() > 0 {
            return Some(self.batch_after.max(now));
        }
        let timer = self.lane.next_timer();
        timer.map(|due| due.ms_since(at(0)).max(self.batch_after).max(now))
    }

    pub fn batch(&mut self, now: u64) -> Option<Prepared> {
        self.batch_after = now + BATCH_MS;
        self.lane.results_caught_up(at(now));
        self.lane.prepare(at(now))
    }

    /// Offsets of the waiting tasks that have to be read again before the next batch, and their places in the
    /// scenario.
    pub fn wants(&mut self, count_max: usize) -> Vec<(i64, usize)> {
        let state = self.lane.state();
        if state.backlog.is_empty() && state.given_up.is_empty() {
            return Vec::new();
        }
        let offsets = self.lane.wants(count_max);
        let place = |offset: i64| usize::try_from(offset).ok().and_then(|at| self.tasks.get(at));
        offsets.into_iter().filter_map(|offset| Some((offset, *place(offset)?))).collect()
    }

    pub fn put_again(&mut self, offset: i64, value: &[u8], arrival_ms: u64) {
        let record = RawRecord {
            topic: Topic::Tasks,
            partition: self.lane.number() as i32,
            offset,
            timestamp_ms: at(arrival_ms).as_ms(),
            key: None,
            value: Some(value),
            headers: &[],
        };
        self.lane.offer_reread(offset, Some(&record));
    }
}
