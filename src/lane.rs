//! A lane: one partition of `tasks` with its state. Pure: it is handed records and times, and
//! returns immutable bytes.

pub mod prepared;

use std::sync::Arc;

use crate::codec::{Codec, RawRecord};
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::time::Timestamp;
use prepared::Prepared;

/// What every lane of a process shares.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    pub codec: Arc<Codec>,
    pub policy: Policy,
    /// Records that one batch takes.
    pub batch_records_max: usize,
    /// `ce_source` of the outputs, such as `pointsman/<group>`.
    pub source: String,
    pub decisions_by_pool: bool,
}

/// The next offset to read of each input; `None` where the lane has read nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    pub tasks: Option<i64>,
    pub task_results: Option<i64>,
    pub lane_inbox: Option<i64>,
    pub fleet: i64,
    pub health_events: i64,
}

/// Why a journal record could not be folded: the lane must stop.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FoldError {
    #[error("journal record cannot be decoded: {0}")]
    Decode(String),
    #[error("journal of lane {lane}: seq {found} follows {expected_after}, a record is missing")]
    Gap { lane: u32, expected_after: u64, found: u64 },
    #[error("journal of lane {lane} at seq {seq}: the hash of the record before does not match")]
    Hash { lane: u32, seq: u64 },
    #[error("journal of lane {lane} was made for {journaled} lanes, and `tasks` has {actual}")]
    Lanes { lane: u32, journaled: u32, actual: u32 },
    #[error(
        "journal of lane {lane} at seq {seq} is of fact level {found}, newest known is {known}"
    )]
    FactLevel { lane: u32, seq: u64, found: u32, known: u32 },
}

pub struct Lane {}

impl Lane {
    /// A lane that has never run, of a `tasks` topic with `lanes` partitions.
    pub fn genesis(lane: u32, lanes: u32, epoch: u32, settings: LaneSettings) -> Self {
        let _ = (lane, lanes, epoch, settings);
        unimplemented!()
    }

    pub fn number(&self) -> u32 {
        unimplemented!()
    }

    /// The number of the last batch that was prepared or folded; 0 before the first.
    pub fn seq(&self) -> u64 {
        unimplemented!()
    }

    /// The hash of that batch, 32 hexadecimal digits.
    pub fn hash(&self) -> String {
        unimplemented!()
    }

    /// Applies one journal record (a record's value) during recovery.
    pub fn fold(&mut self, record: &[u8]) -> Result<(), FoldError> {
        let _ = record;
        unimplemented!()
    }

    /// Where to read on: what is queued here already counts as read.
    pub fn positions(&self) -> Positions {
        unimplemented!()
    }

    /// Sets where reading starts, for the inputs of a lane that has no positions yet.
    pub fn start_at(&mut self, tasks: i64, task_results: i64, lane_inbox: i64) {
        let _ = (tasks, task_results, lane_inbox);
        unimplemented!()
    }

    /// Decodes a record of a lane input or a control topic and queues it for the next batch.
    /// Records below `positions` are skipped. A record that cannot be used becomes a dead letter
    /// of the same batch. For a lane input, a skipped offset (transaction markers, compaction) needs no call.
    pub fn offer(&mut self, record: &RawRecord<'_>) {
        let _ = record;
        unimplemented!()
    }

    /// A record of `tasks` that was read again because [`Lane::wants`] named it; `None`: it is gone.
    pub fn offer_reread(&mut self, offset: i64, record: Option<&RawRecord<'_>>) {
        let _ = (offset, record);
        unimplemented!()
    }

    /// From now on this record is dead-lettered unread: it made the core panic.
    pub fn condemn(&mut self, topic: Topic, offset: i64) {
        let _ = (topic, offset);
        unimplemented!()
    }

    /// All results that existed at `at` have been offered.
    pub fn results_caught_up(&mut self, at: Timestamp) {
        let _ = at;
        unimplemented!()
    }

    /// Whether a lease waits for `results_caught_up` with a later time than it knows.
    pub fn awaits_results(&self, now: Timestamp) -> bool {
        let _ = now;
        unimplemented!()
    }

    /// The policy changed (a pool topic appeared): journaled with the next batch.
    pub fn set_policy(&mut self, policy: Policy) {
        let _ = policy;
        unimplemented!()
    }

    /// Whether the control records read so far contain a resource.
    pub fn has_fleet(&self) -> bool {
        unimplemented!()
    }

    /// Records that are queued for the next batch.
    pub fn queued(&self) -> usize {
        unimplemented!()
    }

    /// Bytes of what is queued.
    pub fn queued_bytes(&self) -> usize {
        unimplemented!()
    }

    /// Decides a batch: at most `batch_records_max` records and 512 KiB of facts; the rest stays
    /// queued. `None` where nothing is due. The state has moved on when this returns: the batch
    /// must be committed, or the lane discarded.
    pub fn prepare(&mut self, now: Timestamp) -> Option<Prepared> {
        let _ = now;
        unimplemented!()
    }

    /// Offsets in `tasks` of waiting tasks that should be read again now, best first, at most `max`.
    pub fn wants(&self, now: Timestamp, max: usize) -> Vec<i64> {
        let _ = (now, max);
        unimplemented!()
    }

    /// When `prepare` has something to do even without input.
    pub fn next_timer(&self) -> Option<Timestamp> {
        unimplemented!()
    }

    /// The time of the last batch: batch times never go back.
    pub fn batch_time(&self) -> Timestamp {
        unimplemented!()
    }
}
