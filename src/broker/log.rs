//! One partition's log.

mod compaction;
mod producers;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;

use super::batch::{Batch, Header};
pub use compaction::Compaction;
use producers::{Producers, Written};

/// What a batch takes besides its bytes: its place in the log, and the allocation.
const OVERHEAD_BYTES: usize = 160;

/// What a reader is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    Uncommitted,
    /// Nothing from the first open transaction on.
    Committed,
}

impl From<i8> for Isolation {
    fn from(level: i8) -> Self {
        if level == 1 { Isolation::Committed } else { Isolation::Uncommitted }
    }
}

/// A transaction that was aborted: a reader leaves out what its producer wrote from the first offset
/// up to the marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    pub producer_id: i64,
    pub first_offset: i64,
    /// The marker's.
    last_offset: i64,
}

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: i64,
    /// -1 where the client's timestamps hold.
    pub log_append_time_ms: i64,
}

/// What was read: whole batches, the first of which may begin before the offset that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    pub records: Bytes,
    /// Those that overlap the records, for [`Isolation::Committed`] only.
    pub aborted: Option<Vec<Aborted>>,
}

#[derive(Debug)]
struct Kept {
    batch: Batch,
    /// Set by the first compaction that finds a tombstone here, or a marker that ends nothing: from
    /// then on these go.
    delete_from_ms: Option<i64>,
}

/// One replica, so the high watermark is the end.
#[derive(Debug, Default)]
pub struct Log {
    batches: VecDeque<Kept>,
    start_offset: i64,
    end_offset: i64,
    bytes: usize,
    producers: Producers,
    /// By the marker's offset.
    aborted: VecDeque<Aborted>,
    /// `bytes` after the last compaction.
    compacted_bytes: usize,
    /// When the first batch after the last compaction was appended.
    dirty_since_ms: Option<i64>,
}

impl Log {
    pub fn start_offset(&self) -> i64 {
        self.start_offset
    }

    /// The next batch's offset.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }

    /// Up to where transactions have ended.
    pub fn last_stable_offset(&self) -> i64 {
        let open = self.producers.first_open_offset();
        // Where a transaction began may be deleted.
        open.map_or(self.end_offset, |first| first.max(self.start_offset))
    }

    /// Up to where readers may read.
    pub fn visible_end(&self, isolation: Isolation) -> i64 {
        match isolation {
            Isolation::Uncommitted => self.end_offset,
            Isolation::Committed => self.last_stable_offset(),
        }
    }

    /// What it takes of the memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a batch of this size will take.
    pub fn cost(batch_bytes: usize) -> usize {
        batch_bytes + OVERHEAD_BYTES
    }

    /// Whether the producer has written into a transaction that is still open.
    pub fn in_transaction(&self, producer_id: i64, epoch: i16) -> bool {
        self.producers.in_transaction(producer_id, epoch)
    }

    /// Whether a batch may follow what its producer wrote; where it is already here, `Some`.
    ///
    /// # Errors
    /// An epoch that is over, a gap in the sequence, or no transaction in one.
    pub fn check(&self, header: &Header) -> Result<Option<Appended>, ResponseError> {
        let duplicate = self.producers.check(header)?;
        // As Kafka answers it: the batch's own time, whoever set it.
        Ok(duplicate.map(|Written { last_offset, offset_delta, timestamp_ms, .. }| Appended {
            base_offset: last_offset - i64::from(offset_delta),
            log_append_time_ms: timestamp_ms,
        }))
    }

    /// Appends what [`Log::check`] let pass.
    pub fn append(&mut self, now_ms: i64, batch: &Batch, stamp: bool) -> Appended {
        let appended_ms = stamp.then_some(now_ms);
        let batch = batch.placed(self.end_offset, appended_ms);
        self.producers.wrote(batch.header());
        self.push(now_ms, batch);
        Appended {
            base_offset: self.batches.back().map_or(0, |kept| kept.batch.header().base_offset),
            log_append_time_ms: appended_ms.unwrap_or(-1),
        }
    }

    /// Appends a marker that ends a producer's transaction here; a producer of a later epoch has
    /// written already: then nothing.
    pub fn append_marker(&mut self, now_ms: i64, producer_id: i64, epoch: i16, commit: bool) {
        let Ok(open) = self.producers.end_transaction(producer_id, epoch, self.end_offset) else {
            return;
        };
        if let (Some(first_offset), false) = (open, commit) {
            let last_offset = self.end_offset;
            self.aborted.push_back(Aborted { producer_id, first_offset, last_offset });
        }
        let marker = Batch::marker(self.end_offset, now_ms, producer_id, epoch, commit);
        self.push(now_ms, marker);
    }

    fn push(&mut self, now_ms: i64, batch: Batch) {
        self.bytes += Log::cost(batch.size());
        self.end_offset = batch.last_offset() + 1;
        self.dirty_since_ms.get_or_insert(now_ms);
        self.batches.push_back(Kept { batch, delete_from_ms: None });
    }

    /// Whole batches from the one with this offset on, together at most `bytes_max`; the first also
    /// where it alone is larger, if `one_at_least`.
    ///
    /// # Errors
    /// `OffsetOutOfRange`.
    pub fn read(
        &self,
        offset: i64,
        isolation: Isolation,
        bytes_max: usize,
        one_at_least: bool,
    ) -> Result<Read, ResponseError> {
        let mut size = 0;
        let found: Vec<&Batch> = self
            .visible_from(offset, isolation)?
            .enumerate()
            .take_while(|(index, batch)| {
                size += batch.size();
                size <= bytes_max || (*index == 0 && one_at_least)
            })
            .map(|(_, batch)| batch)
            .collect();
        let end = found.last().map_or(offset, |last| last.last_offset() + 1);
        let aborted = match isolation {
            Isolation::Uncommitted => None,
            Isolation::Committed => Some(self.aborted_between(offset, end)),
        };
        let records = match found.as_slice() {
            [] => Bytes::new(),
            [one] => one.bytes().clone(),
            many => {
                let mut all = BytesMut::with_capacity(many.iter().map(|one| one.size()).sum());
                many.iter().for_each(|one| all.extend_from_slice(one.bytes()));
                all.freeze()
            }
        };
        Ok(Read { records, aborted })
    }

    /// How many bytes can be read from here; it stops counting at `enough`.
    ///
    /// # Errors
    /// `OffsetOutOfRange`.
    pub fn readable(
        &self,
        offset: i64,
        isolation: Isolation,
        enough: usize,
    ) -> Result<usize, ResponseError> {
        let mut size = 0;
        for batch in self.visible_from(offset, isolation)? {
            size += batch.size();
            if size >= enough {
                break;
            }
        }
        Ok(size)
    }

    fn visible_from(
        &self,
        offset: i64,
        isolation: Isolation,
    ) -> Result<impl Iterator<Item = &Batch>, ResponseError> {
        if offset < self.start_offset || offset > self.end_offset {
            return Err(ResponseError::OffsetOutOfRange);
        }
        let end = self.visible_end(isolation);
        let first = self.batches.partition_point(|kept| kept.batch.last_offset() < offset);
        let batches = self.batches.range(first..).map(|kept| &kept.batch);
        Ok(batches.take_while(move |batch| batch.header().base_offset < end))
    }

    fn aborted_between(&self, from: i64, end: i64) -> Vec<Aborted> {
        let first = self.aborted.partition_point(|aborted| aborted.last_offset < from);
        let later = self.aborted.range(first..);
        later.filter(|aborted| aborted.first_offset < end).copied().collect()
    }

    /// The first record that is not older than this time: its offset and timestamp.
    pub fn first_since(&self, timestamp_ms: i64) -> Option<(i64, i64)> {
        let from = self.start_offset;
        self.batches.iter().find_map(|kept| kept.batch.first_since(timestamp_ms, from))
    }

    /// The first record with the greatest timestamp.
    pub fn newest(&self) -> Option<(i64, i64)> {
        let newest_ms = self.batches.iter().map(|kept| kept.batch.header().max_timestamp_ms).max();
        newest_ms.and_then(|newest_ms| self.first_since(newest_ms))
    }

    /// The greatest timestamp of the oldest batch, and what it takes; `None` where it may not go:
    /// there is none, or a transaction in it is open.
    pub fn oldest(&self) -> Option<(i64, usize)> {
        let batch = &self.batches.front()?.batch;
        (batch.last_offset() < self.last_stable_offset())
            .then(|| (batch.header().max_timestamp_ms, Log::cost(batch.size())))
    }

    /// Lets the records before this offset go, -1 for all. Batches go as a whole: of one that begins earlier
    /// readers leave out what is gone. Returns where the log begins now.
    ///
    /// # Errors
    /// `OffsetOutOfRange`: the log does not reach there.
    pub fn delete_before(&mut self, offset: i64) -> Result<i64, ResponseError> {
        let offset = if offset == -1 { self.end_offset } else { offset };
        if !(0..=self.end_offset).contains(&offset) {
            return Err(ResponseError::OffsetOutOfRange);
        }
        while self.batches.front().is_some_and(|first| first.batch.last_offset() < offset) {
            self.evict_oldest();
        }
        self.start_offset = self.start_offset.max(offset);
        Ok(self.start_offset)
    }

    /// Lets the oldest batch go.
    pub fn evict_oldest(&mut self) {
        let Some(Kept { batch, .. }) = self.batches.pop_front() else { return };
        self.bytes -= Log::cost(batch.size());
        self.start_offset = batch.last_offset() + 1;
        while self.aborted.front().is_some_and(|first| first.last_offset < self.start_offset) {
            self.aborted.pop_front();
        }
    }
}
