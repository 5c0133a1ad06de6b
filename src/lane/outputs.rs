//! The outputs of a batch as they are rendered: one arena of bytes, and ranges into it.

use std::borrow::Cow;
use std::ops::Range;

use super::intake::{Death, OwnedRecord};
use super::prepared::{OutputHeader, OutputRecord, OutputTopic, RecordHeaders};
use crate::codec::Codec;
use crate::codec::headers::{
    CE_SOURCE, CE_SPECVERSION, CE_TYPE, CONTENT_TYPE, DeadLetter, ce_type,
};
use crate::model::Topic;
use crate::model::time::Timestamp;

/// What the records of one batch have in common.
#[derive(Debug, Clone)]
pub struct Origin {
    pub lane: u32,
    pub epoch: u32,
    pub seq: u64,
    pub at: Timestamp,
}

/// How much room a batch took, or may take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Room {
    pub bytes: usize,
    pub records: usize,
    pub headers: usize,
    pub facts: usize,
}

impl Room {
    /// A quarter more: batches under one load are much alike.
    pub fn with_reserve(self) -> Self {
        let more = |count: usize| count + count / 4;
        Room {
            bytes: more(self.bytes),
            records: more(self.records),
            headers: more(self.headers),
            facts: more(self.facts),
        }
    }
}

#[derive(Debug)]
pub struct Outputs {
    pub records: Vec<OutputRecord>,
    pub headers: Vec<OutputHeader>,
    pub bytes: Vec<u8>,
    origin: Origin,
    /// `lane-epoch-seq-`, with which every id of the batch begins.
    id_prefix: String,
    /// The headers that all events of a topic share, in the order of `EVENT_TOPICS`.
    pub shared_headers: Vec<Vec<OutputHeader>>,
}

/// Topics whose records are CloudEvents of a lane.
const EVENT_TOPICS: [Topic; 7] = [
    Topic::RouteDecisions,
    Topic::AllocationEvents,
    Topic::BalanceEvents,
    Topic::LoadSnapshots,
    Topic::LaneInbox,
    Topic::Journal,
    Topic::HealthEvents,
];

impl Outputs {
    /// Room is made for about as much as the batch before took: growing copies it all.
    pub fn new(origin: Origin, source: &str, codec: &Codec, room: Room) -> Self {
        let mut bytes = Vec::with_capacity(room.bytes);
        let specversion = append(&mut bytes, CE_SPECVERSION.1);
        let source = append(&mut bytes, source.as_bytes());
        let shared_headers = EVENT_TOPICS
            .iter()
            .map(|topic| {
                let kind = append(&mut bytes, ce_type(*topic).unwrap_or_default());
                let content = append(&mut bytes, codec.content_type(*topic));
                let values = [
                    (CE_SPECVERSION.0, specversion.clone()),
                    (CE_SOURCE, source.clone()),
                    (CE_TYPE, kind),
                    (CONTENT_TYPE, content),
                ];
                let header =
                    |(name, value)| OutputHeader { name: Cow::Borrowed(name), value: Some(value) };
                values.into_iter().map(header).collect()
            })
            .collect();
        Outputs {
            records: Vec::with_capacity(room.records),
            headers: Vec::with_capacity(room.headers),
            bytes,
            id_prefix: format!("{}-{}-{}-", origin.lane, origin.epoch, origin.seq),
            origin,
            shared_headers,
        }
    }

    /// How much room these outputs take.
    pub fn room(&self) -> Room {
        Room {
            bytes: self.bytes.len(),
            records: self.records.len(),
            headers: self.headers.len(),
            facts: 0,
        }
    }

    /// The id of the next output: `lane-epoch-seq-index`.
    pub fn next_id(&self) -> String {
        let mut index = itoa::Buffer::new();
        let index = index.format(self.records.len());
        let mut id = String::with_capacity(self.id_prefix.len() + index.len());
        id.push_str(&self.id_prefix);
        id.push_str(index);
        id
    }

    /// Adds an event; `write` appends its value.
    pub fn event(
        &mut self,
        topic: Topic,
        to: OutputTopic,
        partition: u32,
        key: &str,
        traceparent: Option<&[u8]>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(self.id_prefix.as_bytes());
        let mut index = itoa::Buffer::new();
        self.bytes.extend_from_slice(index.format(self.records.len()).as_bytes());
        let id = start..self.bytes.len() as u32;
        let key = append(&mut self.bytes, key.as_bytes());
        let start = self.bytes.len() as u32;
        write(&mut self.bytes);
        let value = start..self.bytes.len() as u32;
        let traceparent = traceparent.map(|value| append(&mut self.bytes, value));
        let shared = EVENT_TOPICS.iter().position(|known| *known == topic).unwrap_or_default();
        self.records.push(OutputRecord {
            topic: to,
            partition: partition as i32,
            timestamp_ms: self.origin.at.as_ms(),
            key: Some(key),
            value: Some(value),
            headers: RecordHeaders::Event { shared: shared as u8, id, traceparent },
        });
    }

    /// Adds a dead letter: the original key, value and headers, and why it is dead.
    pub fn dead_letter(
        &mut self,
        input: Topic,
        input_name: &str,
        group: &str,
        record: &OwnedRecord,
        death: &Death,
    ) {
        let Some(dlq) = input.dlq() else { return };
        let key = record.key.as_ref().map(|key| append(&mut self.bytes, key));
        let value = record.value.as_ref().map(|value| append(&mut self.bytes, value));
        let first = self.headers.len() as u32;
        for (name, value) in &record.headers {
            let value = value.as_ref().map(|value| append(&mut self.bytes, value));
            self.headers.push(OutputHeader { name: Cow::Owned(name.clone()), value });
        }
        let letter = DeadLetter {
            topic: input_name,
            partition: record.partition,
            offset: record.offset,
            group,
            lane: self.origin.lane,
            stage: death.stage,
            reason: death.reason,
            message: &death.message,
        };
        let Outputs { headers, bytes, .. } = self;
        letter.headers(|name, value| {
            let value = append(bytes, value);
            headers.push(OutputHeader { name: Cow::Borrowed(name), value: Some(value) });
        });
        self.records.push(OutputRecord {
            topic: OutputTopic::Known(dlq),
            partition: self.origin.lane as i32,
            timestamp_ms: self.origin.at.as_ms(),
            key,
            value,
            headers: RecordHeaders::Own(first..self.headers.len() as u32),
        });
    }
}

fn append(bytes: &mut Vec<u8>, value: &[u8]) -> Range<u32> {
    let start = bytes.len() as u32;
    bytes.extend_from_slice(value);
    start..bytes.len() as u32
}
