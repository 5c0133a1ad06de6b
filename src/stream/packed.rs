//! A snapshot outside its lane: packed with its manifest, cut into chunks, found among a partition's
//! records, put together again and checked; and what a new manifest says of those before it. No I/O:
//! the snapshots' thread does it with a disk and a Kafka, the simulation with modelled ones.

use std::collections::BTreeMap;

use super::worker::event::Taken;
use crate::config;
use crate::lane::snapshot::SnapshotError;
use crate::lane::snapshot::stored::{self, StoredError};
use crate::model::snapshot::{
    Dropped, KeptAt, MANIFEST_FORMAT, Manifest, SnapshotKey, SnapshotPart, SnapshotPoint,
};
use crate::model::time::Timestamp;

/// Far below the usual bound of a record, 1 MB: chunks need no setting of the topic.
pub const CHUNK_BYTES: usize = 512 << 10;

/// Why stored bytes are not the snapshot that their manifest names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot at seq {seq} is damaged: {problem}")]
pub struct Damaged {
    pub seq: u64,
    pub problem: StoredError,
}

fn damaged(manifest: &Manifest) -> impl Fn(StoredError) -> Damaged {
    let seq = manifest.seq;
    move |problem| Damaged { seq, problem }
}

/// Why nothing could be made of what was taken.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Encode(#[from] SnapshotError),
    #[error("it cannot be compressed")]
    Compress(#[from] std::io::Error),
}

/// Encodes and compresses what was taken, to be published in chunks of this size.
///
/// # Errors
/// The state cannot be encoded, or zstd's.
pub fn pack(
    taken: &Taken,
    zstd_level: i32,
    chunk_bytes: usize,
) -> Result<(Manifest, Vec<u8>), PackError> {
    pack_bytes(taken, &taken.frozen.encode()?, zstd_level, chunk_bytes)
}

fn pack_bytes(
    taken: &Taken,
    bytes: &[u8],
    zstd_level: i32,
    chunk_bytes: usize,
) -> Result<(Manifest, Vec<u8>), PackError> {
    let stored = zstd::bulk::compress(bytes, zstd_level)?;
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        lane: taken.lane,
        seq: taken.seq,
        hash: taken.hash.clone(),
        batch_time_ms: taken.batch_time,
        tasks_offset: taken.tasks_offset,
        state_bytes: bytes.len() as u64,
        stored_bytes: stored.len() as u64,
        chunks: stored.chunks(chunk_bytes).len() as u32,
        stored_hash: stored::hash(&stored),
        kept: false,
        last_kept: None,
        previous: None,
        previous_kept: false,
        drops: Vec::new(),
    };
    Ok((manifest, stored))
}

/// The state's bytes of a lane, as far as can be told without restoring it.
///
/// # Errors
/// What is wrong with them.
pub fn unpack(manifest: &Manifest, stored: &[u8]) -> Result<Vec<u8>, Damaged> {
    stored::unpack(manifest, stored).map_err(damaged(manifest))
}

/// The records that hold a snapshot, besides its manifest.
pub fn chunks<'a>(
    manifest: &Manifest,
    stored: &'a [u8],
    chunk_bytes: usize,
) -> impl Iterator<Item = (SnapshotKey, Option<&'a [u8]>)> + use<'a> {
    let Manifest { lane, seq, .. } = *manifest;
    let numbered = (0..).zip(stored.chunks(chunk_bytes));
    numbered.map(move |(number, chunk)| (SnapshotKey::chunk(lane, seq, number), Some(chunk)))
}

/// The keys of the records that hold these snapshots, in the order in which they are removed: a
/// removal that is cut off leaves chunks without a manifest, not a manifest without its chunks.
pub fn keys_of(lane: u32, drops: &[Dropped]) -> impl Iterator<Item = SnapshotKey> {
    drops.iter().flat_map(move |dropped| {
        let chunks =
            (0..dropped.chunks).map(move |chunk| SnapshotKey::chunk(lane, dropped.seq, chunk));
        std::iter::once(SnapshotKey::manifest(lane, dropped.seq)).chain(chunks)
    })
}

/// What a lane's partition of the topic holds, as far as it was read.
#[derive(Debug, Default)]
pub struct Found {
    /// By seq.
    pub manifests: BTreeMap<u64, Manifest>,
    first_chunks: BTreeMap<u64, i64>,
    /// Seqs of which there are chunks, and how many.
    chunks: BTreeMap<u64, u32>,
}

impl Found {
    /// Takes the partition's next record.
    ///
    /// # Errors
    /// A manifest cannot be read; what follows can be taken all the same.
    pub fn take(
        &mut self,
        offset: i64,
        key: SnapshotKey,
        value: Option<&[u8]>,
    ) -> serde_json::Result<()> {
        match (key.part, value) {
            (SnapshotPart::Manifest, Some(value)) => {
                self.manifests.insert(key.seq, serde_json::from_slice(value)?);
            }
            (SnapshotPart::Manifest, None) => {
                self.manifests.remove(&key.seq);
            }
            (SnapshotPart::Chunk(number), Some(_)) => {
                self.first_chunks.entry(key.seq).or_insert(offset);
                let chunks = self.chunks.entry(key.seq).or_insert(0);
                *chunks = (*chunks).max(number + 1);
            }
            (SnapshotPart::Chunk(_), None) => {
                self.chunks.remove(&key.seq);
                self.first_chunks.remove(&key.seq);
            }
        }
        Ok(())
    }

    /// Where the first chunk of a snapshot stands.
    pub fn first_chunk(&self, seq: u64) -> Option<i64> {
        self.first_chunks.get(&seq).copied()
    }

    /// Chunks whose manifest was never committed: their lane was lost in between.
    pub fn orphans(&self) -> Vec<Dropped> {
        let without = self.chunks.iter().filter(|(seq, _)| !self.manifests.contains_key(seq));
        without.map(|(seq, chunks)| Dropped { seq: *seq, chunks: *chunks }).collect()
    }
}

/// The chunks of one snapshot, on their way together.
#[derive(Debug)]
pub struct Pieces<'a> {
    manifest: &'a Manifest,
    chunks: BTreeMap<u32, Vec<u8>>,
    bytes: u64,
}

impl<'a> Pieces<'a> {
    /// # Errors
    /// Where the manifest asks for what no snapshot has.
    pub fn of(manifest: &'a Manifest) -> Result<Self, Damaged> {
        stored::check_manifest(manifest).map_err(damaged(manifest))?;
        Ok(Pieces { manifest, chunks: BTreeMap::new(), bytes: 0 })
    }

    /// Takes the partition's next record; whether more are needed.
    pub fn take(&mut self, key: SnapshotKey, value: Option<&[u8]>) -> bool {
        if let (true, SnapshotPart::Chunk(number), Some(value)) =
            (key.seq == self.manifest.seq, key.part, value)
            && number < self.manifest.chunks
        {
            self.bytes += value.len() as u64;
            self.chunks.insert(number, value.to_vec());
        }
        self.chunks.len() < self.manifest.chunks as usize
            && self.bytes <= self.manifest.stored_bytes
    }

    /// What is stored.
    ///
    /// # Errors
    /// Where chunks are missing.
    pub fn join(self) -> Result<Vec<u8>, Damaged> {
        stored::join(self.manifest, self.chunks).map_err(damaged(self.manifest))
    }
}

/// From when on the topic is to be looked through for a snapshot, one after the other until one is
/// found: `None` is its beginning. `local` is what was found on this instance's disk.
pub fn looks(local: Option<u64>, seq_max: u64, published: SnapshotPoint) -> Vec<Option<Timestamp>> {
    if published.seq > seq_max {
        // Someone has gone back behind it: all that is there has to be looked through.
        return vec![None];
    }
    if published.seq == 0 || local.is_some_and(|local| local >= published.seq) {
        return Vec::new();
    }
    vec![Some(published.batch_time_ms), None]
}

/// The newest committed manifest of each lane that has published in this assignment.
#[derive(Debug, Default)]
pub struct Published(BTreeMap<u32, Option<Manifest>>);

impl Published {
    /// Whether the topic need not be looked through before the lane publishes. A lane that was
    /// recovered may have a newer manifest than the one that was seen here.
    pub fn knows(&self, lane: u32, newest: SnapshotPoint) -> bool {
        let known = self.0.get(&lane);
        known.is_some_and(|known| known.as_ref().map_or(0, |known| known.seq) == newest.seq)
    }

    /// What the partition holds. The chunks that nobody can use are returned, and the manifest whose
    /// drops are to be removed once more: whoever committed it may not have got so far.
    pub fn looked(&mut self, lane: u32, found: Found) -> (Vec<Dropped>, Option<&Manifest>) {
        let orphans = found.orphans();
        let newest = found.manifests.into_values().next_back();
        self.0.insert(lane, newest);
        (orphans, self.0.get(&lane).and_then(Option::as_ref))
    }

    pub fn committed(&mut self, manifest: Manifest) {
        self.0.insert(manifest.lane, Some(manifest));
    }

    /// Others may have published in the meantime.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// Lets a new manifest say which others stay, and which are to be removed.
    pub fn succeed(
        &self,
        manifest: &mut Manifest,
        mut orphans: Vec<Dropped>,
        settings: &config::Snapshot,
    ) {
        let newest = self.0.get(&manifest.lane).and_then(Option::as_ref);
        succeed(manifest, newest, settings);
        // A later seq may be published again, by whoever owns the lane when these are removed at last.
        orphans.retain(|orphan| orphan.seq < manifest.seq);
        manifest.drops.extend(orphans);
    }
}

fn succeed(manifest: &mut Manifest, newest: Option<&Manifest>, settings: &config::Snapshot) {
    let last_kept = newest.and_then(|newest| newest.last_kept);
    manifest.kept = last_kept.is_none_or(|last| {
        manifest.batch_time_ms.ms_since(last.batch_time_ms) >= settings.keep_interval_ms
            || manifest.tasks_offset.abs_diff(last.tasks_offset) >= settings.keep_decisions
    });
    manifest.last_kept = if manifest.kept {
        let Manifest { seq, batch_time_ms, tasks_offset, .. } = *manifest;
        Some(KeptAt { seq, batch_time_ms, tasks_offset })
    } else {
        last_kept
    };
    if let Some(newest) = newest {
        manifest.previous = Some(Dropped { seq: newest.seq, chunks: newest.chunks });
        manifest.previous_kept = newest.kept;
        if let Some(before) = &newest.previous
            && !newest.previous_kept
            && before.seq != manifest.seq
        {
            manifest.drops.push(before.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64, ms: i64, tasks_offset: i64) -> Manifest {
        Manifest {
            format: MANIFEST_FORMAT,
            lane: 0,
            seq,
            hash: String::new(),
            batch_time_ms: Timestamp::from_ms(ms),
            tasks_offset,
            state_bytes: 0,
            stored_bytes: 0,
            chunks: 2,
            stored_hash: String::new(),
            kept: false,
            last_kept: None,
            previous: None,
            previous_kept: false,
            drops: Vec::new(),
        }
    }

    #[test]
    fn two_stay_and_one_for_each_interval() {
        let settings = crate::config::Config::load(None, std::iter::empty()).unwrap().snapshot;
        let hour = 3_600_000;
        let mut newest: Option<Manifest> = None;
        let mut there: Vec<u64> = Vec::new();
        let mut check = |manifest: Manifest, expected: &[u64]| {
            let mut manifest = manifest;
            succeed(&mut manifest, newest.as_ref(), &settings);
            there.push(manifest.seq);
            there.retain(|seq| manifest.drops.iter().all(|dropped| dropped.seq != *seq));
            assert_eq!(there, expected, "after {}", manifest.seq);
            newest = Some(manifest);
        };
        check(at(10, 0, 0), &[10]);
        check(at(20, 1_000, 100), &[10, 20]);
        check(at(30, 2_000, 200), &[10, 20, 30]);
        check(at(40, 3_000, 300), &[10, 30, 40]);
        check(at(50, hour, 400), &[10, 40, 50]);
        check(at(60, hour + 1, 500), &[10, 50, 60]);
        check(at(70, hour + 2, 600), &[10, 50, 60, 70]);
        check(at(80, hour + 3, 1_000_401), &[10, 50, 70, 80]);
        check(at(90, hour + 4, 1_000_402), &[10, 50, 80, 90]);
        check(at(100, hour + 5, 1_000_403), &[10, 50, 80, 90, 100]);
        check(at(110, hour + 6, 1_000_404), &[10, 50, 80, 100, 110]);
    }

    #[test]
    fn what_may_be_published_again_is_not_removed() {
        let settings = crate::config::Config::load(None, std::iter::empty()).unwrap().snapshot;
        let mut manifest = at(20, 0, 0);
        let orphans = [10, 20, 30].map(|seq| Dropped { seq, chunks: 1 });
        Published::default().succeed(&mut manifest, orphans.to_vec(), &settings);
        assert_eq!(manifest.drops, [Dropped { seq: 10, chunks: 1 }]);
    }

    fn taken() -> Taken {
        let settings = crate::lane::tests::settings(crate::model::policy::Policy::default());
        Taken {
            lane: 1,
            run: 0,
            seq: 7,
            hash: String::new(),
            batch_time: Timestamp::from_ms(5),
            tasks_offset: 0,
            local: true,
            publish: true,
            published: SnapshotPoint::default(),
            frozen: crate::lane::Lane::genesis(1, 2, 1, settings).freeze().unwrap(),
        }
    }

    #[test]
    fn chunks_come_together_in_any_order_and_only_all_of_them() {
        // Nothing that zstd could make smaller: three chunks.
        let mut dice = 1_u64;
        let bytes = std::iter::repeat_with(|| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 56) as u8
        });
        let bytes: Vec<u8> = bytes.take(2 * CHUNK_BYTES + 1).collect();
        let (manifest, stored) = pack_bytes(&taken(), &bytes, 1, CHUNK_BYTES).unwrap();
        assert_eq!(manifest.chunks, 3);
        let records: Vec<_> = chunks(&manifest, &stored, CHUNK_BYTES).collect();
        let mut pieces = Pieces::of(&manifest).unwrap();
        let more: Vec<bool> =
            records.iter().rev().map(|(key, value)| pieces.take(*key, *value)).collect();
        assert_eq!(more, [true, true, false]);
        assert_eq!(pieces.join().unwrap(), stored);
        let mut pieces = Pieces::of(&manifest).unwrap();
        assert!(pieces.take(records[1].0, records[1].1));
        let problem = StoredError::Chunks { found: 1, expected: 3 };
        assert_eq!(pieces.join(), Err(Damaged { seq: 7, problem }));
    }

    #[test]
    fn a_partition_is_what_its_tombstones_leave() {
        let json = serde_json::to_vec(&at(10, 0, 0)).unwrap();
        let mut found = Found::default();
        for (offset, (key, value)) in (0..).zip([
            (SnapshotKey::chunk(0, 10, 0), Some(&b"a"[..])),
            (SnapshotKey::chunk(0, 10, 1), Some(b"b")),
            (SnapshotKey::manifest(0, 10), Some(&json)),
            (SnapshotKey::chunk(0, 20, 0), Some(b"c")),
            (SnapshotKey::chunk(0, 30, 1), Some(b"d")),
            (SnapshotKey::chunk(0, 20, 0), None),
        ]) {
            found.take(offset, key, value).unwrap();
        }
        assert_eq!(found.orphans(), [Dropped { seq: 30, chunks: 2 }]);
        assert_eq!((found.first_chunk(10), found.first_chunk(20)), (Some(0), None));
        let mut published = Published::default();
        let newest = SnapshotPoint { seq: 10, ..SnapshotPoint::default() };
        assert!(!published.knows(0, newest));
        let (orphans, again) = published.looked(0, found);
        assert_eq!(again.map(|manifest| manifest.seq), Some(10));
        assert!(published.knows(0, newest));
        assert!(!published.knows(0, SnapshotPoint { seq: 11, ..newest }));
        let settings = crate::config::Config::load(None, std::iter::empty()).unwrap().snapshot;
        let mut next = at(30, 1, 1);
        published.succeed(&mut next, orphans, &settings);
        assert_eq!(next.drops, []);
        assert_eq!(next.previous, Some(Dropped { seq: 10, chunks: 2 }));
    }

    #[test]
    fn the_topic_is_read_only_where_the_disk_has_less() {
        let at_seq = |seq| SnapshotPoint { seq, batch_time_ms: Timestamp::from_ms(9) };
        let then_all = vec![Some(Timestamp::from_ms(9)), None];
        for (local, published, expected) in [
            (None, 0, vec![]),
            (Some(5), 0, vec![]),
            (Some(5), 5, vec![]),
            (Some(4), 5, then_all.clone()),
            (None, 5, then_all),
            (Some(9), 11, vec![None]),
        ] {
            assert_eq!(looks(local, 10, at_seq(published)), expected, "{local:?} {published}");
        }
    }
}
