//! The newest snapshots of this instance's lanes: `<root>/lane-<n>/seq-<seq>`, each a database of
//! its own with the compressed state in chunks and its manifest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use xxhash_rust::xxh3::xxh3_128;

use super::database::{self, DatabaseError, guarded, limited};
use crate::failpoint::{self, Point};
use crate::model::snapshot::{MANIFEST_FORMAT, Manifest};

/// Larger values and larger batches make sled's memory grow.
const CHUNK_BYTES: usize = 64 << 10;
pub(super) const BATCH_KEYS_MAX: usize = 100;

const MANIFEST_KEY: &[u8] = b"manifest";
const LANE: &str = "lane-";
const FINISHED: &str = "seq-";
const UNFINISHED: &str = "writing-";

/// A snapshot of 30 MB takes well below a second where the disk is well.
const READ_WAIT: Duration = Duration::from_secs(10);
const WRITE_WAIT: Duration = Duration::from_secs(30);

/// sled writes more than it is given, and the disk is not ours alone.
const SPACE_FACTOR: u64 = 3;
pub(super) const SPACE_BYTES_MIN: u64 = 16 << 20;

/// Why a snapshot cannot be stored, or not be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{} is open in another process", path.display())]
    Locked { path: PathBuf },
    #[error("{} is damaged: {problem}", path.display())]
    Damaged { path: PathBuf, problem: String },
    #[error("{} cannot be read: {problem}", path.display())]
    Unreadable { path: PathBuf, problem: String },
    #[error("{} cannot be written: {problem}", path.display())]
    Unwritable { path: PathBuf, problem: String },
    #[error("{} has {free} bytes of space left, and {needed} are needed", path.display())]
    Full { path: PathBuf, free: u64, needed: u64 },
    #[error("{} cannot be used", path.display())]
    Directory { path: PathBuf, source: io::Error },
}

#[derive(Debug, Clone)]
pub struct SnapshotStore {
    root: PathBuf,
    cache_bytes: u64,
}

impl SnapshotStore {
    /// The store below `data_directory`; nothing is touched before it is used.
    pub fn new(data_directory: &Path, group: &str, instance: &str, cache_bytes: u64) -> Self {
        let root =
            data_directory.join("snapshots").join(file_name(group)).join(file_name(instance));
        SnapshotStore { root, cache_bytes }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn lane_directory(&self, lane: u32) -> PathBuf {
        self.root.join(format!("{LANE}{lane}"))
    }

    fn path(&self, lane: u32, seq: u64) -> PathBuf {
        // All digits, so that a listing is in order.
        self.lane_directory(lane).join(format!("{FINISHED}{seq:020}"))
    }

    /// The snapshots of a lane, newest first. What was not finished is deleted.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn seqs(&self, lane: u32) -> Result<Vec<u64>, StoreError> {
        for (name, path) in entries(&self.lane_directory(lane))? {
            if name.starts_with(UNFINISHED) {
                debug!(path = %path.display(), "a snapshot that was not finished");
                delete(&path);
            }
        }
        self.list(lane)
    }

    /// As [`SnapshotStore::seqs`]; nothing is deleted.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn list(&self, lane: u32) -> Result<Vec<u64>, StoreError> {
        let entries = entries(&self.lane_directory(lane))?.into_iter();
        let mut seqs: Vec<u64> =
            entries.filter_map(|(name, _)| name.strip_prefix(FINISHED)?.parse().ok()).collect();
        seqs.sort_unstable_by(|one, other| other.cmp(one));
        Ok(seqs)
    }

    /// The lanes of which there may be snapshots.
    ///
    /// # Errors
    /// The directory is there and cannot be read.
    pub fn lanes(&self) -> Result<Vec<u32>, StoreError> {
        let entries = entries(&self.root)?.into_iter();
        let mut lanes: Vec<u32> =
            entries.filter_map(|(name, _)| name.strip_prefix(LANE)?.parse().ok()).collect();
        lanes.sort_unstable();
        Ok(lanes)
    }

    /// Keeps a snapshot, and deletes the lane's others.
    ///
    /// # Errors
    /// It could not be written whole; then nothing of it is left.
    pub fn write(&self, manifest: &Manifest, stored: &Arc<Vec<u8>>) -> Result<(), StoreError> {
        let directory = self.lane_directory(manifest.lane);
        let unusable = |source| StoreError::Directory { path: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(unusable)?;
        let needed = stored.len() as u64 * SPACE_FACTOR + SPACE_BYTES_MIN;
        if let Some(free) = free_bytes(&directory)
            && free < needed
        {
            return Err(StoreError::Full { path: directory, free, needed });
        }
        let unfinished = directory.join(format!("{UNFINISHED}{}", manifest.seq));
        delete(&unfinished);
        if let Err(error) = self.write_within(&unfinished, manifest, stored) {
            delete(&unfinished);
            return Err(match error {
                DatabaseError::Locked => StoreError::Locked { path: unfinished },
                DatabaseError::Unusable(problem) | DatabaseError::Hangs(problem) => {
                    StoreError::Unwritable { path: unfinished, problem }
                }
            });
        }
        failpoint::pass(Point::StoreMiddle);
        let finished = self.path(manifest.lane, manifest.seq);
        // The same one again, after a rebalance.
        delete(&finished);
        fs::rename(&unfinished, &finished).map_err(unusable)?;
        // The rename itself has to last.
        fs::File::open(&directory).and_then(|directory| directory.sync_all()).map_err(unusable)?;
        for seq in self.seqs(manifest.lane)? {
            if seq != manifest.seq {
                delete(&self.path(manifest.lane, seq));
            }
        }
        Ok(())
    }

    fn write_within(
        &self,
        path: &Path,
        manifest: &Manifest,
        stored: &Arc<Vec<u8>>,
    ) -> Result<(), DatabaseError> {
        let encoded = serde_json::to_vec(manifest)
            .map_err(|error| DatabaseError::Unusable(error.to_string()))?;
        let (path, cache_bytes) = (path.to_owned(), self.cache_bytes);
        let stored = Arc::clone(stored);
        limited(WRITE_WAIT, move || write_database(&path, cache_bytes, &encoded, &stored))
    }

    /// Writes a database without asking first whether there is room.
    #[cfg(test)]
    pub(super) fn fill(
        &self,
        path: &Path,
        manifest: &Manifest,
        stored: &Arc<Vec<u8>>,
    ) -> Result<(), DatabaseError> {
        self.write_within(path, manifest, stored)
    }

    /// Reads a snapshot back and checks it: the manifest, and the stored bytes that it names.
    ///
    /// # Errors
    /// It is damaged, and deleted by now; or another process has it open, and it stays.
    pub fn read(&self, lane: u32, seq: u64) -> Result<(Manifest, Vec<u8>), StoreError> {
        let path = self.path(lane, seq);
        match self.read_checked(&path, lane, seq) {
            Ok(read) => Ok(read),
            Err(DatabaseError::Locked) => Err(StoreError::Locked { path }),
            Err(DatabaseError::Hangs(problem)) => Err(StoreError::Unreadable { path, problem }),
            Err(DatabaseError::Unusable(problem)) => {
                delete(&path);
                Err(StoreError::Damaged { path, problem })
            }
        }
    }

    /// As [`SnapshotStore::read`]; a damaged one stays too.
    ///
    /// # Errors
    /// It is damaged, or another process has it open.
    pub fn peek(&self, lane: u32, seq: u64) -> Result<(Manifest, Vec<u8>), StoreError> {
        let path = self.path(lane, seq);
        self.read_checked(&path, lane, seq).map_err(|error| match error {
            DatabaseError::Locked => StoreError::Locked { path },
            DatabaseError::Hangs(problem) => StoreError::Unreadable { path, problem },
            DatabaseError::Unusable(problem) => StoreError::Damaged { path, problem },
        })
    }

    fn read_checked(
        &self,
        path: &Path,
        lane: u32,
        seq: u64,
    ) -> Result<(Manifest, Vec<u8>), DatabaseError> {
        let wrong = |problem: &str| DatabaseError::Unusable(problem.to_owned());
        if !path.is_dir() {
            return Err(wrong("it is gone"));
        }
        let (path, cache_bytes) = (path.to_owned(), self.cache_bytes);
        let read = limited(READ_WAIT, move || read_database(&path, cache_bytes))?;
        let Written { manifest, stored } = read.ok_or_else(|| wrong("it has no manifest"))?;
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| DatabaseError::Unusable(format!("its manifest: {error}")))?;
        if manifest.format != MANIFEST_FORMAT {
            return Err(wrong("it was written by another release"));
        }
        if (manifest.lane, manifest.seq) != (lane, seq) {
            return Err(wrong("its manifest is another one's"));
        }
        let hash = format!("{:032x}", xxh3_128(&stored));
        if hash != manifest.stored_hash {
            return Err(DatabaseError::Unusable(format!(
                "{} bytes with another hash than its manifest's, of {}",
                stored.len(),
                manifest.stored_bytes
            )));
        }
        Ok((manifest, stored))
    }

    /// Deletes a snapshot.
    pub fn remove(&self, lane: u32, seq: u64) {
        delete(&self.path(lane, seq));
    }
}

/// Names and paths of what is in a directory; nothing where there is none.
fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StoreError::Directory { path: directory.to_owned(), source }),
    };
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    Ok(entries.flatten().filter_map(named).collect())
}

fn write_database(
    path: &Path,
    cache_bytes: u64,
    manifest: &[u8],
    stored: &[u8],
) -> Result<(), DatabaseError> {
    let database = database::open(path, cache_bytes)?;
    let written = guarded(|| {
        let mut numbered = (0_u32..).zip(stored.chunks(CHUNK_BYTES)).peekable();
        while numbered.peek().is_some() {
            let mut batch = sled::Batch::default();
            for (number, chunk) in numbered.by_ref().take(BATCH_KEYS_MAX) {
                batch.insert(&number.to_be_bytes(), chunk);
            }
            database.apply_batch(batch)?;
        }
        database.flush()?;
        database.insert(MANIFEST_KEY, manifest)?;
        database.flush()?;
        Ok(())
    });
    written.and(database::close(database))
}

/// What a database holds.
struct Written {
    /// JSON.
    manifest: Vec<u8>,
    /// The chunks, together.
    stored: Vec<u8>,
}

/// `None` where there is no manifest.
fn read_database(path: &Path, cache_bytes: u64) -> Result<Option<Written>, DatabaseError> {
    let database = database::open(path, cache_bytes)?;
    let read = guarded(|| {
        let Some(manifest) = database.get(MANIFEST_KEY)? else { return Ok(None) };
        let mut stored = Vec::new();
        for number in 0_u32.. {
            match database.get(number.to_be_bytes())? {
                Some(chunk) => stored.extend_from_slice(&chunk),
                None => break,
            }
        }
        Ok(Some(Written { manifest: manifest.to_vec(), stored }))
    });
    let closed = database::close(database);
    let read = read?;
    closed?;
    Ok(read)
}

/// A group's or an instance's name may hold what a file's may not; the hash keeps two apart that
/// differ in nothing else.
pub(super) fn file_name(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(64)
        .collect();
    format!("{plain}-{:08x}", xxh3_128(name.as_bytes()) as u32)
}

pub(super) fn free_bytes(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

pub(super) fn delete(path: &Path) {
    let deleted = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return,
    };
    if let Err(error) = deleted {
        warn!(path = %path.display(), %error, "cannot be deleted");
    }
}
