//! What the router really writes: records for the baseline to write in their stead, of the same
//! sizes and as compressible, taken from a short run.

use std::path::Path;

use anyhow::{Context, bail};
use pointsman::codec::{Codec, RawRecord};
use pointsman::model::Topic;
use pointsman::model::allocation::AllocationKind;
use pointsman::model::decision::Outcome;
use rdkafka::message::{BorrowedMessage, Message};
use serde::{Deserialize, Serialize};

use crate::kafka::{Run, bytes_of, read_all};

/// Samples of each kind. Together they exceed the window of lz4, so that repeating them does not
/// compress better than the real records.
const SAMPLES_MAX: usize = 1_024;

/// Journal bytes that are kept to be written again.
const JOURNAL_BYTES_MAX: usize = 4 << 20;

/// The router cuts a batch's facts at 512 KiB.
const FACTS_MAX: f64 = 520_000.0;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub key: String,
    pub value: Vec<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Samples {
    pub decisions: Vec<Sample>,
    pub reserved: Vec<Sample>,
    pub released: Vec<Sample>,
    /// One for each resource.
    pub loads: Vec<Sample>,
    journal: Vec<u8>,
    /// Of a journal record: what does not depend on its input, and per task or result.
    journal_base: f64,
    journal_per_input: f64,
}

impl Samples {
    /// From what a run of the router has written, with a result for each of `tasks` tasks.
    pub fn take(run: &Run, codec: &Codec, tasks: u32) -> anyhow::Result<Self> {
        let mut samples = Samples::default();
        read_all(run, Topic::RouteDecisions, |message| {
            keep(&mut samples.decisions, message);
            Ok(())
        })?;
        read_all(run, Topic::AllocationEvents, |message| {
            let event = codec.decode_allocation_event(&raw(Topic::AllocationEvents, message))?;
            match event.kind {
                AllocationKind::Reserved => keep(&mut samples.reserved, message),
                AllocationKind::Released => keep(&mut samples.released, message),
                AllocationKind::Adjusted
                | AllocationKind::Expired
                | AllocationKind::Denied
                | AllocationKind::FailedOver => {
                    bail!("unexpected in a run without failures: {}", event.kind.name())
                }
            }
            Ok(())
        })?;
        read_all(run, Topic::LoadSnapshots, |message| {
            let key = key_of(message);
            let resource = key.split_once('/').map_or(&*key, |(_, resource)| resource);
            let known = |sample: &Sample| sample.key.ends_with(resource);
            if !samples.loads.iter().any(known) {
                keep(&mut samples.loads, message);
            }
            Ok(())
        })?;
        let (mut facts, mut other, mut records) = (0, 0, 0_u32);
        read_all(run, Topic::Journal, |message| {
            let value = message.payload().unwrap_or_default();
            let record = codec.decode_journal(value)?;
            facts += record.facts.len();
            other += value.len() - record.facts.len();
            records += 1;
            if samples.journal.len() < JOURNAL_BYTES_MAX && record.facts.len() > 4_096 {
                samples.journal.extend_from_slice(&record.facts);
            }
            Ok(())
        })?;
        samples.journal_base = other as f64 / f64::from(records.max(1));
        samples.journal_per_input = facts as f64 / f64::from(tasks.max(1)) / 2.0;
        let kinds = [&samples.decisions, &samples.reserved, &samples.released];
        if kinds.iter().any(|kind| kind.is_empty()) || samples.journal.is_empty() {
            bail!("the run wrote no sample of every kind of record");
        }
        Ok(samples)
    }

    /// A journal record's value for so many tasks and results, taken from `at` on, which moves.
    pub fn put_journal(&self, inputs: u64, at: &mut usize, out: &mut Vec<u8>) {
        let facts = (self.journal_per_input * inputs as f64).min(FACTS_MAX);
        let mut left = (self.journal_base + facts) as usize;
        while left > 0 {
            let start = *at % self.journal.len();
            let taken = left.min(self.journal.len() - start);
            out.extend_from_slice(&self.journal[start..start + taken]);
            *at = start + taken;
            left -= taken;
        }
    }

    /// Journal bytes of one task and its result.
    pub fn journal_per_task(&self) -> f64 {
        self.journal_per_input * 2.0
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, postcard::to_stdvec(self)?)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(postcard::from_bytes(&bytes)?)
    }
}

fn key_of(message: &BorrowedMessage<'_>) -> String {
    String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned()
}

fn keep(samples: &mut Vec<Sample>, message: &BorrowedMessage<'_>) {
    if samples.len() < SAMPLES_MAX {
        let value = message.payload().unwrap_or_default().to_vec();
        samples.push(Sample { key: key_of(message), value });
    }
}

fn raw<'a>(topic: Topic, message: &'a BorrowedMessage<'_>) -> RawRecord<'a> {
    RawRecord {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key(),
        value: message.payload(),
        headers: &[],
    }
}

/// What a run wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    pub decisions: u64,
    /// Decisions that say so.
    pub routed: u64,
    /// Records and bytes of decisions, allocation events and journal.
    pub records: u64,
    pub bytes: u64,
}

/// Reads what a run wrote, as anybody could. A baseline's decisions are copies of real ones.
pub fn written(run: &Run, codec: &Codec) -> anyhow::Result<Written> {
    let mut written = Written::default();
    for topic in [Topic::RouteDecisions, Topic::AllocationEvents, Topic::Journal] {
        read_all(run, topic, |message| {
            written.records += 1;
            written.bytes += bytes_of(message);
            if topic == Topic::RouteDecisions {
                let decision = codec.decode_route_decision(&raw(topic, message))?;
                written.decisions += 1;
                written.routed += u64::from(decision.outcome == Outcome::Routed);
            }
            Ok(())
        })?;
    }
    Ok(written)
}
