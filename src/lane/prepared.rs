//! A batch that is decided: immutable bytes, ready to be produced, as often as it takes.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::model::Topic;

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputTopic {
    Known(Topic),
    /// The decision topic of this pool. Its partition count may be smaller than the number of
    /// lanes: the client takes the partition modulo that count.
    Pool(Arc<str>),
}

/// One header: its name, and where in the batch's bytes the value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputHeader {
    pub name: Cow<'static, str>,
    pub value: Option<Range<u32>>,
}

/// One record to produce; ranges are into [`Prepared::bytes`], header ranges into
/// [`Prepared::headers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    pub topic: OutputTopic,
    pub partition: i32,
    /// Batch time, milliseconds since the epoch.
    pub timestamp_ms: i64,
    pub key: Option<Range<u32>>,
    pub value: Option<Range<u32>>,
    pub headers: Range<u32>,
}

/// One lane's part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    pub lane: u32,
    pub seq: u64,
    pub hash: String,
    /// Committed with each offset: `v1;epoch;seq;hash;snapshot_seq;snapshot_time_ms`.
    pub metadata: String,
    /// The next offset of each lane input, all of them, changed or not.
    pub offsets: Vec<(Topic, i64)>,
    /// The journal record is the last one.
    pub records: Vec<OutputRecord>,
    pub headers: Vec<OutputHeader>,
    pub bytes: Vec<u8>,
    pub counts: BatchCounts,
}

impl Prepared {
    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    pub fn headers_of(&self, record: &OutputRecord) -> &[OutputHeader] {
        &self.headers[record.headers.start as usize..record.headers.end as usize]
    }
}

/// What happened in a batch, for metrics and logs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchCounts {
    pub tasks: u64,
    pub results: u64,
    pub routed: u64,
    pub queued: u64,
    pub duplicates: u64,
    pub failed_over: u64,
    pub leases_expired: u64,
    /// By `RefusalReason` as an index into `RefusalReason::ALL`.
    pub refused: Vec<(crate::model::reason::RefusalReason, u64)>,
    /// By input topic, stage (`decode`, `validate`, `core`) and reason.
    pub dead_letters: Vec<(Topic, &'static str, &'static str)>,
    /// Resources that were chosen: for a task's first attempt, and for later ones.
    pub selections: Vec<(Arc<str>, u64, u64)>,
    pub facts: u64,
    pub fact_bytes: u64,
    /// Time of each task's record to the batch time, milliseconds.
    pub wait_ms: Vec<u32>,
}
