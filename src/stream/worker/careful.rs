//! After a panic: record by record, so that the culprit is found and the others are decided.

use std::collections::VecDeque;

use super::event::Command;
use super::held::Panicked;
use super::{Phase, Slot, Worker};
use crate::codec::{Header, RawRecord};
use crate::model::Topic;
use crate::stream::clock::Now;

/// Culprits of a lane that are remembered. More of them at once is a defect of the core in
/// general, and the lane is better stopped.
const CONDEMNED_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Careful {
    /// Records that are still to be taken one by one.
    pub left: usize,
    /// Read, and not offered yet; the client stops reading when it grows, as with any queue.
    pub waiting: VecDeque<OwnedRecord>,
    /// The record that was offered last, until its batch is committed.
    pub suspect: Option<(Topic, i64)>,
}

impl Careful {
    pub fn bytes(&self) -> usize {
        self.waiting.iter().map(OwnedRecord::bytes).sum()
    }
}

/// A record that outlives the client's buffers.
#[derive(Debug)]
pub(super) struct OwnedRecord {
    pub topic: Topic,
    pub offset: i64,
    partition: i32,
    timestamp_ms: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    pub fn of(record: &RawRecord<'_>) -> Self {
        let headers = record.headers.iter();
        OwnedRecord {
            topic: record.topic,
            offset: record.offset,
            partition: record.partition,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: headers
                .map(|header| (header.name.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }

    pub fn with_raw<T>(&self, run: impl FnOnce(&RawRecord<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| Header { name, value: value.as_deref() })
            .collect();
        run(&RawRecord {
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
        })
    }

    fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + length(value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }
}

impl Worker {
    /// The core panicked in this lane: its state is dropped and recovered from what is committed.
    pub(super) fn panicked(&mut self, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Some(held) = slot.held.take() else { return };
        let was_running = matches!(slot.phase, Phase::Running | Phase::Asked { runs: true, .. });
        let culprit = held.careful.as_ref().and_then(|careful| careful.suspect);
        let is_new = culprit.is_some_and(|culprit| !slot.condemned.contains(&culprit));
        self.commands.push_back(Command::LanePanicked { lane: number, culprit });
        // One by one, and still without a record to blame; or it is to blame and changes nothing.
        if held.careful.is_some() && !is_new || slot.condemned.len() >= CONDEMNED_MAX {
            let seq = held.committed.as_ref().map_or(0, |committed| committed.seq) + 1;
            return self.stop_lane(number, super::LaneError::Panics { lane: number, seq });
        }
        slot.condemned.extend(culprit);
        slot.careful_records = held.records_at_risk();
        slot.phase = Phase::Stopped(super::LaneError::Panics { lane: number, seq: 0 });
        self.ask(vec![(number, false)]);
        if was_running {
            self.read_inputs();
        }
    }

    pub(super) fn feed_careful(&mut self, now: Now) {
        let mut panicked = Vec::new();
        for (number, slot) in &mut self.slots {
            if matches!(slot.phase, Phase::Running)
                && let Some(held) = &mut slot.held
                && held.feed_careful(now) == Err(Panicked)
            {
                panicked.push(*number);
            }
        }
        for number in panicked {
            self.panicked(number);
        }
    }
}

impl Slot {
    /// What was learnt from a panic, for the lane that takes the place of the discarded one.
    pub(super) fn condemn(&mut self) -> Option<Careful> {
        let held = self.held.as_mut()?;
        for (topic, offset) in &self.condemned {
            held.lane.condemn(*topic, *offset);
        }
        let left = std::mem::take(&mut self.careful_records);
        (left > 0).then(|| Careful { left, ..Careful::default() })
    }
}
