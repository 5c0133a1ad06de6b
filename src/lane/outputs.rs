//! The outputs of a batch as they are rendered: one arena of bytes, and ranges into it.

use std::borrow::Cow;
use std::io::Write;
use std::ops::Range;

use super::intake::{Death, OwnedRecord};
use super::prepared::{OutputHeader, OutputRecord, OutputTopic};
use crate::codec::Codec;
use crate::codec::headers::{
    CE_ID, CE_SOURCE, CE_SPECVERSION, CE_TYPE, CONTENT_TYPE, DeadLetter, TRACEPARENT, ce_type,
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

#[derive(Debug)]
pub struct Outputs {
    pub records: Vec<OutputRecord>,
    pub headers: Vec<OutputHeader>,
    pub bytes: Vec<u8>,
    origin: Origin,
    /// Values that every output shares, written once.
    specversion: Range<u32>,
    source: Range<u32>,
    types: Vec<(Topic, Range<u32>, Range<u32>)>,
}

/// Topics whose records are CloudEvents of a lane.
const EVENT_TOPICS: [Topic; 6] = [
    Topic::RouteDecisions,
    Topic::AllocationEvents,
    Topic::BalanceEvents,
    Topic::LoadSnapshots,
    Topic::LaneInbox,
    Topic::Journal,
];

impl Outputs {
    pub fn new(origin: Origin, source: &str, codec: &Codec) -> Self {
        let mut bytes = Vec::with_capacity(1 << 16);
        let specversion = append(&mut bytes, CE_SPECVERSION.1);
        let source = append(&mut bytes, source.as_bytes());
        let types = EVENT_TOPICS
            .iter()
            .filter_map(|topic| {
                let kind = append(&mut bytes, ce_type(*topic)?);
                let content = append(&mut bytes, codec.content_type(*topic));
                Some((*topic, kind, content))
            })
            .collect();
        Outputs {
            records: Vec::new(),
            headers: Vec::new(),
            bytes,
            origin,
            specversion,
            source,
            types,
        }
    }

    /// The id of the next output: `lane-epoch-seq-index`.
    pub fn next_id(&self) -> String {
        let Origin { lane, epoch, seq, .. } = self.origin;
        format!("{lane}-{epoch}-{seq}-{}", self.records.len())
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
        let Origin { lane, epoch, seq, .. } = self.origin;
        // Writing to a vector cannot fail.
        let written = write!(self.bytes, "{lane}-{epoch}-{seq}-{}", self.records.len());
        debug_assert!(written.is_ok());
        let id = start..self.bytes.len() as u32;
        let key = append(&mut self.bytes, key.as_bytes());
        let start = self.bytes.len() as u32;
        write(&mut self.bytes);
        let value = start..self.bytes.len() as u32;
        let traceparent = traceparent.map(|value| append(&mut self.bytes, value));
        let first = self.headers.len() as u32;
        let mut header = |name: &'static str, value: Range<u32>| {
            self.headers.push(OutputHeader { name: Cow::Borrowed(name), value: Some(value) });
        };
        header(CE_SPECVERSION.0, self.specversion.clone());
        header(CE_ID, id);
        header(CE_SOURCE, self.source.clone());
        if let Some((_, kind, content)) = self.types.iter().find(|(known, ..)| *known == topic) {
            header(CE_TYPE, kind.clone());
            header(CONTENT_TYPE, content.clone());
        }
        if let Some(traceparent) = traceparent {
            header(TRACEPARENT, traceparent);
        }
        self.records.push(OutputRecord {
            topic: to,
            partition: partition as i32,
            timestamp_ms: self.origin.at.as_ms(),
            key: Some(key),
            value: Some(value),
            headers: first..self.headers.len() as u32,
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
            headers: first..self.headers.len() as u32,
        });
    }
}

fn append(bytes: &mut Vec<u8>, value: &[u8]) -> Range<u32> {
    let start = bytes.len() as u32;
    bytes.extend_from_slice(value);
    start..bytes.len() as u32
}
