//! The modelled logs as those who look on see them: everything that is committed, read once. A source for
//! replay, too.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::reader::read_on;
use super::world::World;
use crate::codec::RawRecord;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::replay::Record;
use crate::replay::source::{Cursor, Go, Source};

/// A partition, as far as it was read.
#[derive(Debug, Default, Clone)]
struct Part {
    records: Arc<Vec<Record>>,
    next: i64,
}

#[derive(Debug, Clone)]
pub struct Logs {
    lanes: u32,
    parts: BTreeMap<(Topic, i32), Part>,
}

impl Logs {
    pub fn new(lanes: u32) -> Self {
        Logs { lanes, parts: BTreeMap::new() }
    }

    /// Reads what has come since. Of a compacted topic, what was read before stays.
    pub fn read(&mut self, world: &World, topic: Topic, partition: i32) {
        let part = self.parts.entry((topic, partition)).or_default();
        let (found, next) = read_on(world, topic, partition, part.next);
        part.next = next;
        if !found.is_empty() {
            let found = found.into_iter().map(|record| record.into_owned(partition));
            Arc::make_mut(&mut part.records).extend(found);
        }
    }

    /// Reads everything, and control topics anew: what compaction has taken from them is not there.
    pub fn read_all(&mut self, world: &World) {
        for topic in Topic::CONTROLS {
            self.parts.remove(&(topic, 0));
        }
        for topic in Topic::ALL {
            for partition in 0..world.partitions(topic) {
                self.read(world, topic, partition);
            }
        }
    }

    pub fn of(&self, topic: Topic, partition: i32) -> &[Record] {
        self.parts.get(&(topic, partition)).map_or(&[], |part| &part.records)
    }

    /// The next offset after what was read.
    pub fn end(&self, topic: Topic, partition: i32) -> i64 {
        self.parts.get(&(topic, partition)).map_or(0, |part| part.next)
    }

    /// All records of a topic with their partitions.
    pub fn all(&self, topic: Topic) -> impl Iterator<Item = &Record> {
        let parts = self.parts.range((topic, 0)..=(topic, i32::MAX));
        parts.flat_map(|(_, part)| part.records.iter())
    }

    fn place(&self, topic: Topic, partition: i32, from: i64) -> (Arc<Vec<Record>>, usize) {
        let part = self.parts.get(&(topic, partition)).cloned().unwrap_or_default();
        let at = part.records.partition_point(|record| record.offset < from);
        (part.records, at)
    }
}

impl Source for Logs {
    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn bounds(&mut self, topic: Topic, partition: i32) -> anyhow::Result<Range<i64>> {
        Ok(0..self.end(topic, partition))
    }

    fn open(&mut self, topic: Topic, partition: i32, from: i64) -> anyhow::Result<Box<dyn Cursor>> {
        let (records, at) = self.place(topic, partition, from);
        Ok(Box::new(Place { topic, records, at }))
    }

    fn next_from(
        &mut self,
        topic: Topic,
        partition: i32,
        offset: i64,
    ) -> anyhow::Result<Option<Record>> {
        let (records, at) = self.place(topic, partition, offset);
        Ok(records.get(at).cloned())
    }

    fn offset_at(&mut self, topic: Topic, partition: i32, at: Timestamp) -> anyhow::Result<i64> {
        let found =
            self.of(topic, partition).iter().find(|record| record.timestamp_ms >= at.as_ms());
        Ok(found.map_or(self.end(topic, partition), |record| record.offset))
    }

    fn duplicate(&self) -> anyhow::Result<Box<dyn Source + Send>> {
        Ok(Box::new(self.clone()))
    }
}

struct Place {
    topic: Topic,
    records: Arc<Vec<Record>>,
    at: usize,
}

impl Cursor for Place {
    fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let next = self.records.get(self.at).cloned();
        self.at += usize::from(next.is_some());
        Ok(next)
    }

    fn lend(
        &mut self,
        each: &mut dyn FnMut(&RawRecord<'_>) -> anyhow::Result<Go>,
    ) -> anyhow::Result<bool> {
        while let Some(record) = self.records.get(self.at) {
            let go = record.with_raw(self.topic, |raw| each(raw))?;
            self.at += usize::from(go != Go::Back);
            if go != Go::On {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
