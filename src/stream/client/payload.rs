//! Reads single records of `tasks` again, for tasks that waited.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaResult;

use super::WorkerError;
use super::names::InputNames;
use super::reader::{Read, Reader};
use crate::codec::RawRecord;
use crate::model::Topic;

/// Records between two that are wanted are read through up to this many; a jump costs a round trip.
const READ_THROUGH_MAX: i64 = 2_000;

const RECORDS_MAX: usize = 512;

pub struct Payloads {
    config: ClientConfig,
    names: InputNames,
    /// Opened when a record is first needed.
    reader: Option<Reader>,
    wanted: BTreeMap<u32, BTreeSet<i64>>,
}

impl Payloads {
    pub fn new(config: ClientConfig, names: InputNames) -> Self {
        Payloads { config, names, reader: None, wanted: BTreeMap::new() }
    }

    pub fn want(&mut self, lane: u32, offsets: &[i64]) -> KafkaResult<()> {
        if offsets.is_empty() {
            return Ok(());
        }
        let is_read = self.wanted.get(&lane).is_some_and(|wanted| !wanted.is_empty());
        self.wanted.entry(lane).or_default().extend(offsets);
        if is_read { Ok(()) } else { self.jump(lane) }
    }

    /// These lanes are gone, and what was wanted for them.
    pub fn retain(&mut self, lanes: &[u32]) -> KafkaResult<()> {
        let gone: Vec<u32> =
            self.wanted.keys().copied().filter(|lane| !lanes.contains(lane)).collect();
        for lane in gone {
            self.wanted.remove(&lane);
            if let Some(reader) = &mut self.reader {
                reader.remove(Topic::Tasks, i32::try_from(lane).unwrap_or(-1))?;
            }
        }
        Ok(())
    }

    /// Reads on from the first record that is wanted, or not at all.
    fn jump(&mut self, lane: u32) -> KafkaResult<()> {
        let partition = i32::try_from(lane).unwrap_or(-1);
        let first = self.wanted.get(&lane).and_then(|wanted| wanted.first().copied());
        if let (None, Some(reader)) = (first, &mut self.reader) {
            self.wanted.remove(&lane);
            return reader.remove(Topic::Tasks, partition);
        }
        let Some(first) = first else { return Ok(()) };
        if self.reader.is_none() {
            self.reader = Some(Reader::new(&self.config, &self.names)?);
        }
        match &mut self.reader {
            Some(reader) => reader.add(Topic::Tasks, partition, first),
            None => Ok(()),
        }
    }

    /// Hands over what was found, and what is gone, since the last time.
    pub fn poll(
        &mut self,
        mut take: impl FnMut(u32, i64, Option<&RawRecord<'_>>),
    ) -> Result<(), WorkerError> {
        let Some(reader) = &self.reader else { return Ok(()) };
        let wanted = &mut self.wanted;
        let mut jumps = BTreeSet::new();
        reader.read(Duration::ZERO, RECORDS_MAX, |read| {
            let (partition, next) = match &read {
                Read::Record(record) => (record.partition, record.offset),
                Read::End { partition, .. } => (*partition, i64::MAX),
                // The reader goes on at the earliest offset there is.
                Read::OutOfRange { .. } => return,
            };
            let Ok(lane) = u32::try_from(partition) else { return };
            let Some(offsets) = wanted.get_mut(&lane) else { return };
            // Passed without being seen: deleted, compacted, or never committed.
            while let Some(offset) = offsets.first().copied().filter(|offset| *offset < next) {
                offsets.remove(&offset);
                take(lane, offset, None);
            }
            if let Read::Record(record) = &read
                && offsets.remove(&record.offset)
            {
                take(lane, record.offset, Some(record));
            }
            if offsets.first().is_none_or(|first| first.saturating_sub(next) > READ_THROUGH_MAX) {
                jumps.insert(lane);
            }
        })?;
        for lane in jumps {
            self.jump(lane)?;
        }
        Ok(())
    }
}
