//! The audit: every batch of a lane run again, and compared with what was journaled and published.

use std::collections::BTreeMap;

use serde::Serialize;

use super::check::SnapshotCheck;
use super::compare::{Divergence, compare};
use super::journal::{Batch, PlayError};
use super::player::{Folded, Played};
use super::published::Published;
use super::snapshots::Limit;
use super::source::Source;
use super::start::{Start, start, start_earliest};
use crate::lane::journal::FoldError;
use crate::lane::prepared::Prepared;
use crate::lane::{Lane, LaneSettings};
use crate::model::journal::JournalRecord;
use crate::model::time::Timestamp;

/// Which part of the journals is looked at, by batch time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub since: Timestamp,
    /// Not included.
    pub until: Timestamp,
}

impl Range {
    pub const ALL: Range = Range { since: Timestamp::EPOCH, until: Timestamp::MAX };

    /// Makes a lane ready so that all of the range is played; without a beginning as much of it as
    /// there still is.
    ///
    /// # Errors
    /// The source cannot be read; the range begins before what can be replayed.
    pub fn start(
        self,
        source: &mut dyn Source,
        settings: &LaneSettings,
        lane: u32,
    ) -> anyhow::Result<Start> {
        if self.since == Timestamp::EPOCH {
            return start_earliest(source, settings, lane);
        }
        start(source, settings, lane, Limit { before: self.since, ..Limit::NONE })
    }
}

/// Where a lane was begun with, other than its first batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Begun {
    pub lane: u32,
    /// Of the snapshot: the batches behind it were played.
    pub seq: u64,
    pub batch_time_ms: i64,
    /// Snapshots that were passed over because they could not be used.
    pub passed_over: Vec<String>,
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
    /// Published snapshots that are the lane's state at their batch, in every byte.
    pub snapshots_equal: u64,
    /// Those that could not be compared, by the reason.
    pub snapshots_not_compared: BTreeMap<String, u64>,
    /// Lanes that were begun with a snapshot.
    pub begun_with: Vec<Begun>,
}

impl Audit {
    pub fn is_identical(&self) -> bool {
        self.first_divergence.is_none()
    }

    /// Adds what was found in other lanes.
    pub fn merge(&mut self, other: Audit) {
        self.decisions += other.decisions;
        self.identical += other.identical;
        self.lanes += other.lanes;
        self.batches += other.batches;
        self.published_equal += other.published_equal;
        self.published_deleted += other.published_deleted;
        self.folded_decisions += other.folded_decisions;
        self.snapshots_equal += other.snapshots_equal;
        self.diverged_lanes += other.diverged_lanes;
        for (reason, count) in other.folded_batches {
            *self.folded_batches.entry(reason).or_default() += count;
        }
        for (reason, count) in other.snapshots_not_compared {
            *self.snapshots_not_compared.entry(reason).or_default() += count;
        }
        self.begun_with.extend(other.begun_with);
        self.begun_with.sort_by_key(|begun| begun.lane);
        if let Some(found) = other.first_divergence {
            self.earlier(found);
        }
    }

    fn diverged(&mut self, found: Divergence) {
        self.diverged_lanes += 1;
        self.earlier(found);
    }

    fn earlier(&mut self, found: Divergence) {
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
    let begun = match range.start(source, settings, lane) {
        Ok(begun) => begun,
        Err(error) => {
            found.diverged(unreadable(lane, None, error)?);
            return Ok(());
        }
    };
    let Start { mut player, mut journal, from, passed_over } = begun;
    if from.seq > 0 || !passed_over.is_empty() {
        let shown = passed_over.iter().map(|(seq, why)| format!("seq {seq}: {why}"));
        found.begun_with.push(Begun {
            lane,
            seq: from.seq,
            batch_time_ms: from.batch_time_ms.as_ms(),
            passed_over: shown.collect(),
        });
    }
    let mut beside = Beside::default();
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
        let record = &batch.record;
        if record.batch_time_ms >= range.until {
            break;
        }
        let runs = record.batch_time_ms >= range.since;
        let played = match player.play(source, &batch, runs) {
            Ok(played) => played,
            Err(error) => match chain_broken(&error) {
                Some(what) => {
                    let shown = format!("{error:#}");
                    found.diverged(Divergence::new(record, what, "an unbroken chain", &shown));
                    break;
                }
                None => {
                    found.diverged(unreadable(lane, last.as_ref(), error)?);
                    break;
                }
            },
        };
        last = Some((record.epoch, record.seq, record.batch_time_ms));
        progress(record);
        let divergence = match &played {
            Played::Folded(Folded::Earlier) => continue,
            Played::Folded(why) => {
                found.folded(why, batch.choices()?.decisions);
                None
            }
            Played::Ran(prepared) => {
                let decisions = batch.choices()?.decisions;
                found.batches += 1;
                found.decisions += decisions;
                let prepared = prepared.as_deref();
                match compare(&settings.codec, &batch, prepared) {
                    Some(divergence) => Some(divergence),
                    None => {
                        let divergence = beside.published(source, settings, &batch, prepared)?;
                        found.identical += if divergence.is_none() { decisions } else { 0 };
                        divergence
                    }
                }
            }
        };
        let divergence = match (divergence, player.lane()) {
            (None, Some(lane)) => beside.snapshot(source, settings, &batch, lane)?,
            (divergence, _) => divergence,
        };
        if let Some(divergence) = divergence {
            found.diverged(divergence);
            break;
        }
    }
    beside.count(found);
    Ok(())
}

/// What is compared beside the journal, from the first batch of the range on.
#[derive(Default)]
struct Beside {
    published: Option<Published>,
    snapshots: Option<SnapshotCheck>,
}

impl Beside {
    fn published(
        &mut self,
        source: &mut dyn Source,
        settings: &LaneSettings,
        batch: &Batch,
        again: Option<&Prepared>,
    ) -> anyhow::Result<Option<Divergence>> {
        let published = match &mut self.published {
            Some(published) => published,
            None => self.published.insert(Published::open(source, settings, &batch.record)?),
        };
        again.map_or(Ok(None), |again| published.check(&batch.record, again))
    }

    fn snapshot(
        &mut self,
        source: &mut dyn Source,
        settings: &LaneSettings,
        batch: &Batch,
        lane: &Lane,
    ) -> anyhow::Result<Option<Divergence>> {
        let snapshots = match &mut self.snapshots {
            Some(snapshots) => snapshots,
            None => self.snapshots.insert(SnapshotCheck::open(source, settings, batch)?),
        };
        snapshots.check(batch, lane)
    }

    fn count(self, found: &mut Audit) {
        if let Some(published) = self.published {
            found.published_equal += published.equal;
            found.published_deleted += published.deleted;
        }
        if let Some(snapshots) = self.snapshots {
            found.snapshots_equal += snapshots.equal;
            let unreadable = snapshots.unreadable();
            for (reason, count) in snapshots.not_compared {
                *found.snapshots_not_compared.entry(reason).or_default() += count;
            }
            if unreadable > 0 {
                let reason = "with a manifest that cannot be read".to_owned();
                *found.snapshots_not_compared.entry(reason).or_default() += unreadable;
            }
        }
    }
}

fn unreadable(
    lane: u32,
    last: Option<&(u32, u64, Timestamp)>,
    error: anyhow::Error,
) -> anyhow::Result<Divergence> {
    match error.downcast_ref::<PlayError>() {
        Some(PlayError::Journal { .. } | PlayError::Fold(_)) => {}
        // Nothing is wrong with what is there.
        Some(PlayError::Begun { .. }) | None => return Err(error),
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
