//! The outputs of a batch as they are rendered: one arena of bytes, and ranges into it.

use std::borrow::Cow;
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
    /// `lane-epoch-seq-`: what the ids of all outputs begin with.
    id_prefix: String,
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

/// What the outputs of a batch came to. A batch is much like the one before it: made large enough at
/// once, its vectors are not copied again and again while they grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputSizes {
    pub records: usize,
    pub headers: usize,
    pub bytes: usize,
}

impl Outputs {
    pub fn new(origin: Origin, source: &str, codec: &Codec, expected: OutputSizes) -> Self {
        let mut bytes = Vec::with_capacity(expected.bytes.max(1 << 12));
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
        let Origin { lane, epoch, seq, .. } = origin;
        Outputs {
            records: Vec::with_capacity(expected.records),
            headers: Vec::with_capacity(expected.headers),
            bytes,
            origin,
            id_prefix: format!("{lane}-{epoch}-{seq}-"),
            specversion,
            source,
            types,
        }
    }

    /// The id of the next output: `lane-epoch-seq-index`.
    pub fn next_id(&self) -> String {
        let mut id = String::with_capacity(self.id_prefix.len() + DIGITS_MAX);
        id.push_str(&self.id_prefix);
        with_digits(self.records.len(), |digits| id.push_str(digits));
        id
    }

    /// What it came to.
    pub fn sizes(&self) -> OutputSizes {
        OutputSizes {
            records: self.records.len(),
            headers: self.headers.len(),
            bytes: self.bytes.len(),
        }
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
        let bytes = &mut self.bytes;
        with_digits(self.records.len(), |digits| bytes.extend_from_slice(digits.as_bytes()));
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

/// Digits of the largest `usize`.
const DIGITS_MAX: usize = 20;

/// Hands over the decimal digits of a number. Two ids are written for each decision: the formatting
/// machinery took a tenth of a batch's rendering.
fn with_digits(mut number: usize, take: impl FnOnce(&str)) {
    let mut digits = [b'0'; DIGITS_MAX];
    let mut at = DIGITS_MAX;
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    take(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_display() {
        for number in [0, 1, 9, 10, 11, 99, 100, 4_095, 1_000_000, usize::MAX] {
            let mut found = String::new();
            with_digits(number, |digits| found.push_str(digits));
            assert_eq!(found, number.to_string());
        }
    }
}
