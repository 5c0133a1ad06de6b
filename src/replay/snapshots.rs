//! The `snapshots` topic of a lane, read in the order in which it was written, and searched from its
//! end: a state to begin with is wanted without reading all the chunks before it.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Cursor, Source};
use crate::lane::snapshot::stored::{self, StoredError};
use crate::model::Topic;
use crate::model::snapshot::{Manifest, SnapshotKey, SnapshotPart};
use crate::model::time::Timestamp;

/// Snapshots of which chunks have come and the manifest has not: one is published at a time, and a
/// predecessor that was cut off may have left some.
const OPEN_MAX: usize = 4;

/// Offsets that a search looks at first, counted back from where it begins: more than one snapshot
/// of a lane with 100,000 tasks takes.
const WINDOW: i64 = 32;

/// A published snapshot.
#[derive(Debug, Clone)]
pub struct Published {
    pub manifest: Manifest,
    /// Where its manifest stands.
    pub offset: i64,
    chunks: BTreeMap<u32, Vec<u8>>,
}

impl Published {
    /// The state's bytes, verified.
    ///
    /// # Errors
    /// Something is missing or damaged.
    pub fn unpack(&self) -> Result<Vec<u8>, StoredError> {
        let stored = stored::join(&self.manifest, self.chunks.clone())?;
        stored::unpack(&self.manifest, &stored)
    }

    /// Whether reading began behind its first chunk.
    fn is_cut(&self) -> bool {
        !self.chunks.contains_key(&0)
    }
}

/// Whether a lane could begin with the stored bytes that `manifest` names, wherever they are kept.
///
/// # Errors
/// Something is missing or damaged.
pub fn verify(manifest: &Manifest, stored: &[u8]) -> Result<(), StoredError> {
    stored::unpack(manifest, stored).map(|_| ())
}

/// Reads a lane's snapshots.
pub struct Snapshots {
    lane: u32,
    cursor: Box<dyn Cursor>,
    open: BTreeMap<u64, BTreeMap<u32, Vec<u8>>>,
    /// Manifests that mean nothing to this release.
    pub unreadable: u64,
    /// Those that a tombstone has taken back since.
    pub removed: BTreeSet<u64>,
}

impl Snapshots {
    /// # Errors
    /// The source cannot be read.
    pub fn open(source: &mut dyn Source, lane: u32, from: i64) -> anyhow::Result<Self> {
        let cursor = source.open(Topic::Snapshots, i32::try_from(lane)?, from)?;
        let (open, removed) = (BTreeMap::new(), BTreeSet::new());
        Ok(Snapshots { lane, cursor, open, unreadable: 0, removed })
    }

    /// The next one whose manifest is there, whole or not.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn next_published(&mut self) -> anyhow::Result<Option<Published>> {
        while let Some(record) = self.cursor.next()? {
            let key = record.key.as_deref().and_then(SnapshotKey::parse);
            let Some(key) = key.filter(|key| key.lane == self.lane) else { continue };
            match (key.part, record.value) {
                (SnapshotPart::Chunk(number), Some(value)) => {
                    self.open.entry(key.seq).or_default().insert(number, value);
                    if self.open.len() > OPEN_MAX {
                        self.open.pop_first();
                    }
                }
                (SnapshotPart::Chunk(_), None) => {
                    self.open.remove(&key.seq);
                }
                (SnapshotPart::Manifest, None) => {
                    self.removed.insert(key.seq);
                }
                (SnapshotPart::Manifest, Some(value)) => {
                    self.removed.remove(&key.seq);
                    let chunks = self.open.remove(&key.seq).unwrap_or_default();
                    match serde_json::from_slice(&value) {
                        Ok(manifest) => {
                            let offset = record.offset;
                            return Ok(Some(Published { manifest, offset, chunks }));
                        }
                        Err(_) => self.unreadable += 1,
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Which snapshots serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub seq_max: u64,
    /// Their batches are earlier than this.
    pub before: Timestamp,
}

impl Limit {
    pub const NONE: Limit = Limit { seq_max: u64::MAX, before: Timestamp::MAX };

    fn allows(self, manifest: &Manifest) -> bool {
        manifest.seq <= self.seq_max && manifest.batch_time_ms < self.before
    }
}

/// A snapshot with its bytes; or one that had to be passed over, and why.
pub type Verified = Result<(Manifest, Vec<u8>), (u64, StoredError)>;

/// The newest snapshot within the limit; `None` where there is none.
///
/// # Errors
/// The source cannot be read.
pub fn newest(
    source: &mut dyn Source,
    lane: u32,
    limit: Limit,
) -> anyhow::Result<Option<Verified>> {
    let partition = i32::try_from(lane)?;
    let bounds = source.bounds(Topic::Snapshots, partition)?;
    if bounds.is_empty() || limit.seq_max == 0 {
        return Ok(None);
    }
    // A chunk has the time of its snapshot's batch.
    let end = if limit.before == Timestamp::MAX {
        bounds.end
    } else {
        source.offset_at(Topic::Snapshots, partition, limit.before)?
    };
    let mut back = WINDOW;
    loop {
        let from = end.saturating_sub(back).max(bounds.start);
        let mut snapshots = Snapshots::open(source, lane, from)?;
        let mut found: Option<Published> = None;
        while let Some(next) = snapshots.next_published()? {
            // Behind the end may be manifests whose chunks are before it.
            let is_behind = next.offset >= end && next.manifest.batch_time_ms >= limit.before;
            let is_newer = found.as_ref().is_none_or(|one| one.manifest.seq < next.manifest.seq);
            if limit.allows(&next.manifest) && is_newer {
                found = Some(next);
            }
            if is_behind {
                break;
            }
        }
        match found {
            Some(found) if from == bounds.start || !found.is_cut() => {
                let seq = found.manifest.seq;
                let verified = found.unpack().map(|bytes| (found.manifest, bytes));
                return Ok(Some(verified.map_err(|error| (seq, error))));
            }
            None if from == bounds.start => return Ok(None),
            Some(_) | None => back = back.saturating_mul(4),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use xxhash_rust::xxh3::xxh3_128;

    use super::*;
    use crate::lane::{Lane, LaneSettings};
    use crate::model::snapshot::MANIFEST_FORMAT;
    use crate::replay::Record;

    /// The records of a published snapshot with this state: its chunks, and its manifest in the
    /// batch that came `later_ms` after it.
    pub fn published(
        settings: &LaneSettings,
        state: &[u8],
        chunk_bytes: usize,
        later_ms: i64,
    ) -> Vec<Record> {
        let lane = Lane::restore(0, state, settings.clone()).unwrap();
        let stored = zstd::bulk::compress(state, 1).unwrap();
        let chunks: Vec<&[u8]> = stored.chunks(chunk_bytes).collect();
        let at = lane.batch_time();
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            lane: lane.number(),
            seq: lane.seq(),
            hash: lane.hash(),
            batch_time_ms: at,
            tasks_offset: 0,
            state_bytes: state.len() as u64,
            stored_bytes: stored.len() as u64,
            chunks: chunks.len() as u32,
            stored_hash: format!("{:032x}", xxh3_128(&stored)),
            kept: false,
            last_kept: None,
            previous: None,
            previous_kept: false,
            drops: Vec::new(),
        };
        let record = |key: SnapshotKey, at_ms: i64, value: Vec<u8>| Record {
            partition: lane.number() as i32,
            offset: 0,
            timestamp_ms: at_ms,
            key: Some(key.to_string().into_bytes()),
            value: Some(value),
            headers: Vec::new(),
        };
        let (number, seq) = (lane.number(), lane.seq());
        let mut records: Vec<Record> = (0..)
            .zip(chunks)
            .map(|(chunk, bytes)| {
                record(SnapshotKey::chunk(number, seq, chunk), at.as_ms(), bytes.to_vec())
            })
            .collect();
        let value = serde_json::to_vec(&manifest).unwrap();
        records.push(record(SnapshotKey::manifest(number, seq), at.as_ms() + later_ms, value));
        records
    }

    /// Removes a snapshot: tombstones as its successor's owner writes them.
    pub fn tombstones(records: &[Record]) -> Vec<Record> {
        records.iter().map(|record| Record { value: None, ..record.clone() }).collect()
    }
}
