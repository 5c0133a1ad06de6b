//! The audit: every batch of a lane run again, and compared with what was journaled and published.

use std::collections::BTreeMap;

use serde::Serialize;

use super::compare::{Divergence, compare};
use super::player::{Folded, Journal, PlayError, Played, Player};
use super::published::Published;
use super::source::Source;
use crate::lane::LaneSettings;
use crate::lane::journal::FoldError;
use crate::model::journal::JournalRecord;
use crate::model::time::Timestamp;
use crate::routing::fact::Fact;

/// Which part of the journals is looked at, by batch time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub since: Timestamp,
    /// Not included.
    pub until: Timestamp,
}

impl Range {
    pub const ALL: Range = Range { since: Timestamp::EPOCH, until: Timestamp::MAX };
}

/// What was found, over all lanes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Audit {
    /// Decisions that were made again.
    pub decisions: u64,
    /// Those of batches that are equal in every byte.
    pub identical: u64,
    /// The earliest one; what follows it in its lane is not looked at.
    pub first_divergence: Option<Divergence>,
    /// Lanes in which something differs.
    pub diverged_lanes: u64,
    pub lanes: u64,
    pub batches: u64,
    /// Outputs that were found in their topics, equal.
    pub published_equal: u64,
    /// Outputs that their topics do not have any more.
    pub published_deleted: u64,
    /// Batches that were folded and checked against the chain, and not run again, by the reason.
    pub folded_batches: BTreeMap<String, u64>,
    /// Their decisions.
    pub folded_decisions: u64,
}

impl Audit {
    pub fn is_identical(&self) -> bool {
        self.first_divergence.is_none()
    }

    fn diverged(&mut self, found: Divergence) {
        self.diverged_lanes += 1;
        let earlier = |one: &Divergence| one.batch_time_ms <= found.batch_time_ms;
        if !self.first_divergence.as_ref().is_some_and(earlier) {
            self.first_divergence = Some(found);
        }
    }

    fn folded(&mut self, why: &Folded, decisions: u64) {
        let reason = match why {
            // What was not asked for is not reported either.
            Folded::Earlier => return,
            Folded::Engine(version) => format!("engine version {version}"),
            Folded::Deleted { topic, .. } => format!("{} deleted", topic.default_name()),
        };
        *self.folded_batches.entry(reason).or_default() += 1;
        self.folded_decisions += decisions;
    }
}

/// Audits one lane into `found`; `progress` is told the batch time after each batch.
///
/// # Errors
/// The source cannot be read, or a journal is broken: a gap, a chain that does not match.
pub fn audit_lane(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    range: Range,
    found: &mut Audit,
    progress: &mut dyn FnMut(&JournalRecord),
) -> anyhow::Result<()> {
    found.lanes += 1;
    let mut journal = Journal::open(source, lane, settings)?;
    let mut player = Player::new(lane, settings);
    let mut published: Option<Published> = None;
    let mut last = None;
    loop {
        let batch = match journal.next_batch() {
            Ok(Some(batch)) => batch,
            Ok(None) => break,
            Err(error) => {
                // What cannot be read of a journal is a difference, with the place where it is.
                found.diverged(unreadable(lane, last.as_ref(), error)?);
                break;
            }
        };
        last = Some((batch.record.epoch, batch.record.seq, batch.record.batch_time_ms));
        let record = &batch.record;
        if record.batch_time_ms >= range.until {
            break;
        }
        let decisions = batch.facts.iter().filter(|fact| is_decision(fact)).count() as u64;
        let runs = record.batch_time_ms >= range.since;
        let played = match player.play(source, &batch, runs) {
            Ok(played) => played,
            Err(error) => match chain_broken(&error) {
                Some(what) => {
                    let shown = format!("{error:#}");
                    found.diverged(Divergence::new(record, what, "an unbroken chain", &shown));
                    break;
                }
                None => return Err(error),
            },
        };
        progress(record);
        let prepared = match played {
            Played::Folded(why) => {
                found.folded(&why, decisions);
                continue;
            }
            Played::Ran(prepared) => prepared,
        };
        found.batches += 1;
        found.decisions += decisions;
        if let Some(divergence) = compare(&settings.codec, &batch, prepared.as_deref()) {
            found.diverged(divergence);
            break;
        }
        if published.is_none() {
            published = Some(Published::open(source, settings, record)?);
        }
        if let (Some(published), Some(prepared)) = (&mut published, &prepared)
            && let Some(divergence) = published.check(record, prepared)?
        {
            found.diverged(divergence);
            break;
        }
        found.identical += decisions;
    }
    if let Some(published) = published {
        found.published_equal += published.equal;
        found.published_deleted += published.deleted;
    }
    Ok(())
}

fn unreadable(
    lane: u32,
    last: Option<&(u32, u64, Timestamp)>,
    error: anyhow::Error,
) -> anyhow::Result<Divergence> {
    if !error.is::<PlayError>() {
        return Err(error);
    }
    let (epoch, seq, at) = last.copied().unwrap_or((0, 0, Timestamp::EPOCH));
    Ok(Divergence {
        lane,
        epoch,
        seq: seq + 1,
        batch_time_ms: at.as_ms(),
        what: "journal record".to_owned(),
        expected: "one that can be decoded".to_owned(),
        found: format!("{error:#}"),
    })
}

/// Whether a batch does not follow the one before it: that is a finding, not a failure to read.
fn chain_broken(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref::<PlayError>()? {
        PlayError::Fold(FoldError::Gap { .. }) => Some("seq"),
        PlayError::Fold(FoldError::Hash { .. }) => Some("prev_hash"),
        PlayError::Fold(
            FoldError::Decode { .. } | FoldError::Lanes { .. } | FoldError::FactLevel { .. },
        )
        | PlayError::Begun { .. }
        | PlayError::Journal { .. } => None,
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
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished
        | Fact::DeadLettered { .. } => false,
    }
}
