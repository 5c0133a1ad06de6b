//! A batch that is decided: immutable bytes, ready to be produced, as often as it takes.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::codec::headers::{CE_ID, TRACEPARENT};
use crate::hindsight::sample::Sample;
use crate::model::Topic;
use crate::model::snapshot::{Manifest, SnapshotKey, SnapshotPoint};
use crate::model::time::Timestamp;

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

/// One record to produce; ranges are into [`Prepared::bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    pub topic: OutputTopic,
    pub partition: i32,
    /// Batch time, milliseconds since the epoch.
    pub timestamp_ms: i64,
    pub key: Option<Range<u32>>,
    pub value: Option<Range<u32>>,
    pub headers: RecordHeaders,
}

/// A record's headers. An event has four that all events of its topic share, and its own two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordHeaders {
    /// `shared` is an index into [`Prepared::shared_headers`].
    Event { shared: u8, id: Range<u32>, traceparent: Option<Range<u32>> },
    /// Of a dead letter: a range into [`Prepared::headers`].
    Own(Range<u32>),
}

/// One lane's part of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    pub lane: u32,
    pub seq: u64,
    pub hash: String,
    /// Committed with each offset: `v1;epoch;seq;hash;snapshot_seq;snapshot_time_ms;lanes`, the last
    /// one being the number of lanes that there were at first.
    pub metadata: String,
    /// The next offset of each lane input, all of them, changed or not.
    pub offsets: Vec<(Topic, i64)>,
    /// The journal record is the last one.
    pub records: Vec<OutputRecord>,
    pub headers: Vec<OutputHeader>,
    pub shared_headers: Vec<Vec<OutputHeader>>,
    pub bytes: Vec<u8>,
    pub counts: BatchCounts,
    /// Of what was decided; no output.
    pub samples: Vec<Sample>,
}

impl Prepared {
    /// The batch time.
    pub fn batch_time(&self) -> Timestamp {
        let last = self.records.last().map_or(0, |record| record.timestamp_ms);
        Timestamp::from_ms(last)
    }

    /// The next offset of a lane input; 0 where the lane has read nothing of it.
    pub fn offset_of(&self, input: Topic) -> i64 {
        let found = self.offsets.iter().find(|(topic, _)| *topic == input);
        found.map_or(0, |(_, offset)| *offset)
    }

    /// Names the newest published snapshot in what is committed, and carries its manifest where it
    /// is new. Neither is part of the chain: replay must not depend on when snapshots were taken.
    pub fn announce(&mut self, newest: SnapshotPoint, manifest: Option<&Manifest>) {
        let mut fields = self.metadata.rsplitn(4, ';');
        let lanes = fields.next().unwrap_or_default();
        let stem = fields.nth(2).unwrap_or_default();
        self.metadata = format!("{stem};{};{};{lanes}", newest.seq, newest.batch_time_ms.as_ms());
        let Some(manifest) = manifest else { return };
        // Numbers, texts and lists: nothing that JSON refuses.
        let Ok(value) = serde_json::to_vec(manifest) else { return };
        let key = SnapshotKey::manifest(manifest.lane, manifest.seq).to_string();
        let mut append = |part: &[u8]| {
            let from = self.bytes.len() as u32;
            self.bytes.extend_from_slice(part);
            from..self.bytes.len() as u32
        };
        let (key, value) = (append(key.as_bytes()), append(&value));
        let record = OutputRecord {
            topic: OutputTopic::Known(Topic::Snapshots),
            partition: i32::try_from(self.lane).unwrap_or(-1),
            timestamp_ms: self.batch_time().as_ms(),
            key: Some(key),
            value: Some(value),
            headers: RecordHeaders::Own(0..0),
        };
        // The journal's record stays the last one.
        self.records.insert(0, record);
    }

    pub fn slice(&self, range: &Range<u32>) -> &[u8] {
        &self.bytes[range.start as usize..range.end as usize]
    }

    /// Names and values of a record's headers.
    pub fn headers_of<'a>(
        &'a self,
        record: &'a OutputRecord,
    ) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone {
        let (listed, id, traceparent) = match &record.headers {
            RecordHeaders::Event { shared, id, traceparent } => {
                (&self.shared_headers[usize::from(*shared)][..], Some(id), traceparent.as_ref())
            }
            RecordHeaders::Own(range) => {
                (&self.headers[range.start as usize..range.end as usize], None, None)
            }
        };
        let own = [(CE_ID, id), (TRACEPARENT, traceparent)];
        let own =
            own.into_iter().filter_map(|(name, range)| Some((name, Some(self.slice(range?)))));
        listed
            .iter()
            .map(|header| (&*header.name, header.value.as_ref().map(|value| self.slice(value))))
            .chain(own)
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
    /// Times that a provider was heard to grant less than is counted.
    pub headroom_told: u64,
    /// Rights that were promised to other lanes.
    pub rights_pledged: u64,
    /// Transfers of rights to other lanes, from them, and those whose limit is no more.
    pub rights_given: u64,
    pub rights_taken: u64,
    pub rights_void: u64,
    /// Advice of which nothing was safe or of use.
    pub advice_ignored: u64,
}
