//! One record of `journal`: everything that recovery, audit and replay need to know of a batch.
//! See `schemas/journal.avsc` and `docs/internals/journal.md`.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// What was consumed of one input partition: the offsets in `[from, to)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    pub topic: String,
    pub from: i64,
    pub to: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalRecord {
    pub lane: u32,
    /// Partitions of `tasks` when the lane was made; the first deal of rights rests on it.
    /// Lanes that there were at first: the same in all records of a journal.
    pub lanes: u32,
    pub epoch: u32,
    /// From 1, gapless.
    pub seq: u64,
    /// Hash of the record before, 32 lower-case hexadecimal digits; zeros for seq 1.
    pub prev_hash: String,
    pub engine_version: u32,
    pub fact_level: u32,
    pub batch_time_ms: Timestamp,
    pub seed: u64,
    pub offsets: Vec<OffsetRange>,
    /// Tasks of earlier batches that were read again for a decision: their offsets in `tasks`.
    pub reread: Vec<i64>,
    /// Records of a batch read from the results topic up to this time; leases end by it.
    pub results_caught_up_at_ms: Timestamp,
    pub fact_count: u32,
    /// Facts in postcard's encoding, in order; see `routing::fact`. They carry control records by
    /// value, because those topics are compacted.
    pub facts: Vec<u8>,
    /// Totals after the batch.
    pub in_flight: u64,
    pub backlog: u64,
    /// `H(prev_hash ‖ header ‖ inputs ‖ facts ‖ outputs)`.
    pub hash: String,
}
