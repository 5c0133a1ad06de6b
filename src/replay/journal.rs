//! A lane's journal as it is read: batch by batch, with the facts where they are asked for.

use std::cell::OnceCell;

use super::Record;
use super::source::{Peeked, Source};
use crate::lane::journal::{FoldError, facts_of};
use crate::lane::rerun::is_choice;
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::model::snapshot::SnapshotPoint;
use crate::routing::fact::Fact;

/// A journal record as it is read.
#[derive(Debug)]
pub struct Batch {
    pub value: Vec<u8>,
    pub record: JournalRecord,
    /// Where it stands.
    pub offset: i64,
    facts: OnceCell<Vec<Fact>>,
    choices: OnceCell<Choices>,
}

/// What is read off the facts of a batch that is run again.
#[derive(Debug)]
pub struct Choices {
    /// What the world chose at the time.
    pub facts: Vec<Fact>,
    pub decisions: u64,
}

impl Batch {
    /// Of a record of the journal.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub fn read(settings: &LaneSettings, lane: u32, entry: Record) -> Result<Self, PlayError> {
        let offset = entry.offset;
        let value = entry.value.unwrap_or_default();
        let decoded = settings.codec.decode_journal(&value);
        let record = decoded.map_err(|source| PlayError::Journal { lane, offset, source })?;
        let (facts, choices) = (OnceCell::new(), OnceCell::new());
        Ok(Batch { value, record, offset, facts, choices })
    }

    /// Its facts, which are decoded when they are first asked for: to be folded they need not be.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn facts(&self) -> Result<&[Fact], PlayError> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let decoded = Lane::facts_of(&self.record)?;
        Ok(self.facts.get_or_init(|| decoded))
    }

    /// As [`Batch::facts`], but for the few that are not decided again: decoded one by one, most are
    /// forgotten at once, which costs half as much as to keep them all.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn choices(&self) -> Result<&Choices, PlayError> {
        if let Some(choices) = self.choices.get() {
            return Ok(choices);
        }
        let mut choices = Choices { facts: Vec::new(), decisions: 0 };
        for fact in facts_of(&self.record)? {
            let fact = fact?;
            choices.decisions += u64::from(is_decision(&fact));
            if is_choice(&fact) {
                choices.facts.push(fact);
            }
        }
        Ok(self.choices.get_or_init(|| choices))
    }
}

/// Whether a fact is a decision about a task.
pub fn is_decision(fact: &Fact) -> bool {
    match fact {
        Fact::Routed { .. } | Fact::Refused { .. } => true,
        Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
        | Fact::Queued { .. }
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
        | Fact::DeadLettered { .. } => false,
    }
}

/// The earliest that a lane can be played from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earliest {
    /// The journal has its first batch, or none yet.
    FirstBatch,
    /// What was before is deleted.
    Snapshot(SnapshotPoint),
    /// The beginning is deleted, and no snapshot serves in its place.
    Nowhere {
        /// The first batch that the journal has.
        seq: u64,
    },
}

/// Why a lane cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error("{}", begun(*lane, *seq, *earliest))]
    Begun { lane: u32, seq: u64, earliest: Earliest },
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error("the journal of lane {lane} has a record that cannot be decoded, at offset {offset}")]
    Journal { lane: u32, offset: i64, source: crate::codec::DecodeError },
}

fn begun(lane: u32, seq: u64, earliest: Earliest) -> String {
    let deleted =
        format!("the journal of lane {lane} begins at seq {seq}: what was before is deleted");
    match earliest {
        Earliest::Snapshot(point) => format!(
            "{deleted}; earliest replayable: what follows seq {}, of {}",
            point.seq, point.batch_time_ms
        ),
        Earliest::FirstBatch | Earliest::Nowhere { .. } => {
            format!("{deleted}, and no published snapshot of this lane serves in its place")
        }
    }
}

/// Reads a lane's journal.
pub struct Journal {
    cursor: Peeked,
    next: Option<Batch>,
    lane: u32,
    settings: LaneSettings,
}

impl Journal {
    /// From its beginning.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn open(
        source: &mut dyn Source,
        lane: u32,
        settings: &LaneSettings,
    ) -> anyhow::Result<Self> {
        let first = source.bounds(Topic::Journal, i32::try_from(lane)?)?.start;
        Self::open_at(source, lane, settings, first)
    }

    /// From this offset on.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn open_at(
        source: &mut dyn Source,
        lane: u32,
        settings: &LaneSettings,
        offset: i64,
    ) -> anyhow::Result<Self> {
        let cursor = source.open(Topic::Journal, i32::try_from(lane)?, offset)?;
        let cursor = Peeked::new(cursor);
        Ok(Journal { cursor, next: None, lane, settings: settings.clone() })
    }

    /// The next batch of the lane.
    ///
    /// # Errors
    /// The source cannot be read, or what it holds cannot be decoded.
    pub fn next_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let Some(entry) = self.cursor.take()? else { return Ok(None) };
        Ok(Some(Batch::read(&self.settings, self.lane, entry)?))
    }

    /// The next batch, which stays the next one.
    ///
    /// # Errors
    /// As [`Journal::next_batch`].
    pub fn peek(&mut self) -> anyhow::Result<Option<&Batch>> {
        if self.next.is_none() {
            self.next = self.next_batch()?;
        }
        Ok(self.next.as_ref())
    }

    /// Reads past the batches up to this one; returns that one's hash where it was there.
    ///
    /// # Errors
    /// As [`Journal::next_batch`].
    pub fn skip_through(&mut self, seq: u64) -> anyhow::Result<Option<String>> {
        let mut hash = None;
        while let Some(next) = self.peek()? {
            if next.record.seq > seq {
                break;
            }
            if let Some(batch) = self.next.take()
                && batch.record.seq == seq
            {
                hash = Some(batch.record.hash);
            }
        }
        Ok(hash)
    }
}
