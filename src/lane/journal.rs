//! The journal record of a batch, its hash, and folding it again.

use std::sync::Arc;

use serde::Deserialize;
use xxhash_rust::xxh3::Xxh3;

use crate::model::journal::JournalRecord;
use crate::routing::eligibility::Memo;
use crate::routing::fact::{FACT_LEVEL, FACT_LEVEL_OLDEST, Fact};
use crate::routing::rights::LANES_MAX;
use crate::routing::state::State;

/// A 128-bit hash that chains batches. It finds faults and divergence, not forgery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainHash(pub [u8; 16]);

impl ChainHash {
    /// 32 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.0))
    }

    pub fn of_hex(text: &str) -> Option<Self> {
        let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(text, 16).ok()?;
        (text.len() == 32 && lower).then_some(ChainHash(number.to_be_bytes()))
    }

    /// The first half, as the seed of the next batch.
    pub fn seed(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// `H(prev_hash ‖ header ‖ inputs ‖ facts ‖ outputs)`.
pub fn chain(
    previous: ChainHash,
    header: &JournalRecord,
    inputs: &[u8],
    facts: &[u8],
    outputs: &[u8],
) -> ChainHash {
    let mut hash = Xxh3::new();
    hash.update(&previous.0);
    for number in [
        u64::from(header.lane),
        u64::from(header.lanes),
        u64::from(header.epoch),
        header.seq,
        u64::from(header.engine_version),
        u64::from(header.fact_level),
        header.batch_time_ms.as_ms() as u64,
        header.seed,
        header.results_caught_up_at_ms.as_ms() as u64,
        u64::from(header.fact_count),
    ] {
        hash.update(&number.to_be_bytes());
    }
    for range in &header.offsets {
        hash.update(range.topic.as_bytes());
        hash.update(&range.from.to_be_bytes());
        hash.update(&range.to.to_be_bytes());
    }
    for part in [inputs, facts, outputs] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    ChainHash(hash.digest128().to_be_bytes())
}

/// Why a journal record could not be folded: the lane must stop.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FoldError {
    #[error("a journal record of lane {lane} cannot be decoded: {problem}")]
    Decode { lane: u32, problem: String },
    #[error("journal of lane {lane}: seq {found} follows seq {last}, records are missing")]
    Gap { lane: u32, last: u64, found: u64 },
    #[error("journal of lane {lane} at seq {seq}: the hash of the record before does not match")]
    Hash { lane: u32, seq: u64 },
    #[error(
        "journal of lane {lane} at seq {seq} says that there were {found} lanes at first, and the \
         records before it say {dealt}; allowed: 1 to {LANES_MAX}, and always the same"
    )]
    Lanes { lane: u32, seq: u64, found: u32, dealt: u32 },
    #[error(
        "journal of lane {lane} at seq {seq} has fact level {found}, and this release reads levels \
         {FACT_LEVEL_OLDEST} to {FACT_LEVEL}"
    )]
    FactLevel { lane: u32, seq: u64, found: u32 },
}

/// Checks a record against its place in the chain, and applies its facts.
pub fn fold(
    state: &mut State,
    memo: &mut Memo,
    seq: u64,
    hash: ChainHash,
    record: &JournalRecord,
) -> Result<ChainHash, FoldError> {
    let JournalRecord { seq: found_seq, lanes: found, .. } = *record;
    let (lane, dealt) = (state.lane, state.dealt);
    if record.lane != lane {
        let problem = format!("it is of lane {}", record.lane);
        return Err(FoldError::Decode { lane, problem });
    }
    if found != dealt {
        // Whoever begins to read it may not have known.
        let is_first = seq == 0 && found_seq == 1 && (1..=LANES_MAX).contains(&found);
        if !is_first {
            return Err(FoldError::Lanes { lane, seq: found_seq, found, dealt });
        }
        *state = State::genesis(lane, found);
    }
    if record.seq != seq + 1 {
        return Err(FoldError::Gap { lane, last: seq, found: record.seq });
    }
    if ChainHash::of_hex(&record.prev_hash) != Some(hash) {
        return Err(FoldError::Hash { lane, seq: record.seq });
    }
    for fact in facts_of(record)? {
        let mut fact = fact?;
        share_shape(&mut fact, state, memo);
        state.evolve(&fact);
    }
    let problem = || format!("hash `{}`", record.hash);
    ChainHash::of_hex(&record.hash)
        .ok_or_else(|| FoldError::Decode { lane: record.lane, problem: problem() })
}

/// The facts of a record, in order, whatever the level that it was written at.
///
/// # Errors
/// The level is none that this release reads.
pub fn facts_of(
    record: &JournalRecord,
) -> Result<impl Iterator<Item = Result<Fact, FoldError>> + '_, FoldError> {
    let JournalRecord { lane, seq, fact_level, .. } = *record;
    if !(FACT_LEVEL_OLDEST..=FACT_LEVEL).contains(&fact_level) {
        return Err(FoldError::FactLevel { lane, seq, found: fact_level });
    }
    let mut facts = postcard::Deserializer::from_bytes(&record.facts);
    Ok((0..record.fact_count).map(move |_| {
        // All levels are read alike as long as there is one. With a second, the facts of the one
        // before are decoded in its form here and turned into those of today.
        Fact::deserialize(&mut facts)
            .map_err(|error| FoldError::Decode { lane, problem: error.to_string() })
    }))
}

/// Tasks of one shape share it in memory, as they do when they are decided.
fn share_shape(fact: &mut Fact, state: &State, memo: &mut Memo) {
    let task = match fact {
        Fact::Routed { task: Some(task), .. } | Fact::Queued { task, .. } => task,
        Fact::Routed { task: None, .. }
        | Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
        | Fact::Refused { .. }
        | Fact::Duplicate { .. }
        | Fact::AttemptEnded { .. }
        | Fact::LeaseExtended { .. }
        | Fact::AttemptSlow { .. }
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished { .. }
        | Fact::RightsGiven { .. }
        | Fact::RightsTaken { .. }
        | Fact::RightsPledged { .. }
        | Fact::RoomKept { .. }
        | Fact::LanesCounted { .. }
        | Fact::StrategyChanged { .. }
        | Fact::HeadroomTold { .. }
        | Fact::DeadLettered { .. } => return,
    };
    // A fact that was just decoded is not shared yet.
    if let Some(task) = Arc::get_mut(task) {
        task.shape = memo.candidates_of(state, &task.shape).shape.clone();
    }
}
