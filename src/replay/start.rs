//! Where playing a lane begins: with the newest published snapshot that serves, or with the first
//! batch. A snapshot that cannot be verified, or that the journal does not go on from, gives way to an
//! older one.

use super::journal::{Batch, Earliest, Journal, PlayError};

use super::player::Player;
use super::snapshots::{Limit, Snapshots, newest};
use super::source::Source;
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::snapshot::{Manifest, SnapshotPoint};

/// A lane that is ready to be played, and the journal from its next batch on.
pub struct Start {
    pub player: Player,
    pub journal: Journal,
    /// The snapshot that it begins with; seq 0: the first batch.
    pub from: SnapshotPoint,
    /// Snapshots that could not be used, by their seqs, with the reasons.
    pub passed_over: Vec<(u64, String)>,
}

/// Begins so that the state within the limit is played through.
///
/// # Errors
/// The source cannot be read; what is asked for is deleted ([`PlayError::Begun`]).
pub fn start(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
    limit: Limit,
) -> anyhow::Result<Start> {
    let mut passed_over = Vec::new();
    let mut left = limit;
    while let Some(found) = newest(source, lane, left)? {
        let (seq, why) = match found {
            Err((seq, error)) => (seq, error.to_string()),
            Ok((manifest, bytes)) => match begin(source, settings, &manifest, &bytes)? {
                Ok((player, journal)) => {
                    let from = manifest.point();
                    return Ok(Start { player, journal, from, passed_over });
                }
                Err(why) => (manifest.seq, why),
            },
        };
        passed_over.push((seq, why));
        left.seq_max = seq.saturating_sub(1);
    }
    let mut journal = Journal::open(source, lane, settings)?;
    let first = journal.peek()?.map_or(1, |batch| batch.record.seq);
    if first != 1 {
        let earliest = earliest(source, settings, lane)?;
        return Err(PlayError::Begun { lane, seq: first, earliest }.into());
    }
    let (player, from) = (Player::new(lane, settings), SnapshotPoint::default());
    Ok(Start { player, journal, from, passed_over })
}

/// Begins as early as can be.
///
/// # Errors
/// The source cannot be read; there is nothing to begin with.
pub fn start_earliest(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
) -> anyhow::Result<Start> {
    match earliest(source, settings, lane)? {
        Earliest::FirstBatch => start(source, settings, lane, Limit { seq_max: 0, ..Limit::NONE }),
        Earliest::Snapshot(point) => {
            start(source, settings, lane, Limit { seq_max: point.seq, ..Limit::NONE })
        }
        Earliest::Nowhere { seq } => {
            let earliest = Earliest::Nowhere { seq };
            Err(PlayError::Begun { lane, seq, earliest }.into())
        }
    }
}

/// Where a lane could begin at the earliest.
///
/// # Errors
/// The source cannot be read.
pub fn earliest(
    source: &mut dyn Source,
    settings: &LaneSettings,
    lane: u32,
) -> anyhow::Result<Earliest> {
    let partition = i32::try_from(lane)?;
    let first = source.bounds(Topic::Journal, partition)?.start;
    let Some(first) = source.next_from(Topic::Journal, partition, first)? else {
        return Ok(Earliest::FirstBatch);
    };
    let seq = Batch::read(settings, lane, first)?.record.seq;
    if seq == 1 {
        return Ok(Earliest::FirstBatch);
    }
    let first = source.bounds(Topic::Snapshots, partition)?.start;
    let mut snapshots = Snapshots::open(source, lane, first)?;
    while let Some(found) = snapshots.next_published()? {
        if found.manifest.seq + 1 < seq {
            continue;
        }
        if let Ok(bytes) = found.unpack()
            && begin(source, settings, &found.manifest, &bytes)?.is_ok()
        {
            return Ok(Earliest::Snapshot(found.manifest.point()));
        }
    }
    Ok(Earliest::Nowhere { seq })
}

/// The lane of a snapshot, and the journal behind it; or why that does not go together.
fn begin(
    source: &mut dyn Source,
    settings: &LaneSettings,
    manifest: &Manifest,
    bytes: &[u8],
) -> anyhow::Result<Result<(Player, Journal), String>> {
    let Manifest { lane: number, seq, .. } = *manifest;
    let lane = match Lane::restore(number, bytes, settings.clone()) {
        Ok(lane) => lane,
        Err(error) => return Ok(Err(error.to_string())),
    };
    // Times only say where to look first.
    let partition = i32::try_from(number)?;
    let at = source.offset_at(Topic::Journal, partition, manifest.batch_time_ms)?;
    let mut journal = Journal::open_at(source, number, settings, at)?;
    let mut hash = journal.skip_through(seq)?;
    let is_late = |next: Option<&Batch>| next.is_some_and(|next| next.record.seq > seq + 1);
    if hash.is_none() && is_late(journal.peek()?) {
        journal = Journal::open(source, number, settings)?;
        hash = journal.skip_through(seq)?;
    }
    if hash.as_ref().is_some_and(|hash| *hash != lane.hash()) {
        return Ok(Err("it is of another journal".to_owned()));
    }
    match journal.peek()? {
        Some(next) if next.record.seq != seq + 1 => {
            Ok(Err(format!("the journal goes on with seq {}", next.record.seq)))
        }
        Some(next) if next.record.prev_hash != lane.hash() => {
            Ok(Err("it is of another journal".to_owned()))
        }
        None if hash.is_none() => Ok(Err("the journal ends before it".to_owned())),
        Some(_) | None => Ok(Ok((Player::resumed(lane, settings), journal))),
    }
}
