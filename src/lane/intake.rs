//! What a lane was offered and has not decided: decoded records in the order of their offsets.

use std::collections::VecDeque;

use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{Header, RawRecord};
use crate::model::Topic;
use crate::model::time::Timestamp;

/// A record with the bytes it came with, for a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedRecord {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    pub fn of(record: &RawRecord<'_>) -> Self {
        OwnedRecord {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .iter()
                .map(|header| (header.name.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }

    /// Lends the record as one of this topic.
    pub fn with_raw<T>(&self, topic: Topic, run: impl FnOnce(&RawRecord<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| Header { name, value: value.as_deref() })
            .collect();
        run(&RawRecord {
            topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
        })
    }

    /// Bytes of its parts together.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers = self.headers.iter().map(|(name, value)| name.len() + length(value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }
}

/// Why a record is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// `decode`, `validate` or `core`.
    pub stage: &'static str,
    /// A stable label.
    pub reason: &'static str,
    pub message: String,
}

impl Death {
    /// Of a record on which the core panicked.
    pub fn condemned() -> Self {
        Death {
            stage: "core",
            reason: PANIC,
            message: "the core failed on this record; please report it".to_owned(),
        }
    }

    pub fn is_condemned(&self) -> bool {
        self.reason == PANIC
    }
}

const PANIC: &str = "panic";

/// A decoded record, or one that cannot be used.
#[derive(Debug, Clone)]
pub enum Body<T> {
    Good(T),
    Dead(Box<(OwnedRecord, Death)>),
}

#[derive(Debug, Clone)]
pub struct Entry<T> {
    pub offset: i64,
    pub timestamp: Timestamp,
    pub traceparent: Option<Box<[u8]>>,
    /// Of the value's bytes; part of the journal's hash.
    pub digest: u64,
    pub bytes: usize,
    pub body: Body<T>,
}

impl<T> Entry<T> {
    pub fn new(record: &RawRecord<'_>, traceparent: Option<&[u8]>, body: Body<T>) -> Self {
        let bytes = record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len);
        Entry {
            offset: record.offset,
            timestamp: Timestamp::from_ms(record.timestamp_ms.max(0)),
            traceparent: traceparent.map(Box::from),
            digest: record.value.map_or(0, xxh3_64),
            bytes,
            body,
        }
    }
}

/// The queue of one input, and how far it was read and decided.
#[derive(Debug)]
pub struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    bytes: usize,
    /// The next offset to be offered; `None` before the first.
    pub read: Option<i64>,
    /// The next offset to be decided.
    pub decided: Option<i64>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { entries: VecDeque::new(), bytes: 0, read: None, decided: None }
    }
}

impl<T> Queue<T> {
    /// Whether the offset was offered before.
    pub fn knows(&self, offset: i64) -> bool {
        self.read.is_some_and(|read| offset < read)
    }

    pub fn push(&mut self, entry: Entry<T>) {
        self.bytes += entry.bytes;
        self.read = Some(entry.offset + 1);
        self.entries.push_back(entry);
    }

    pub fn pop(&mut self) -> Option<Entry<T>> {
        let entry = self.entries.pop_front()?;
        self.bytes -= entry.bytes;
        self.decided = Some(entry.offset + 1);
        Some(entry)
    }

    pub fn start_at(&mut self, offset: i64) {
        self.entries.clear();
        self.bytes = 0;
        self.read = Some(offset);
        self.decided = Some(offset);
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
