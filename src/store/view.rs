//! The newest load snapshot of each lane and resource, as they stand in `load-snapshots`, and how far
//! that topic was read: what an instance can show at once after a start.
//!
//! One small database, written to while it is open. Its last key names the positions, how many
//! entries there are and the sum of their hashes; it is written behind the entries that it counts. Where that
//! does not fit what is there, a write was cut off or the files are damaged: all of it is deleted, and the
//! topic, which is compacted, is read again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::database::{self, DatabaseError, guarded, limited};
use super::snapshots::{
    BATCH_KEYS_MAX, SPACE_BYTES_MIN, StoreError, delete, file_name, free_bytes,
};
use crate::model::time::Timestamp;

/// Raised when an entry or the last key changes its meaning.
const FORMAT: u32 = 1;

/// Larger than what any resource has to say, and what sled takes well.
const VALUE_BYTES_MAX: usize = 64 << 10;

const ENTRY: u8 = b'e';
const META: &[u8] = b"meta";

/// A few hundred entries take milliseconds where the disk is well.
const WAIT: Duration = Duration::from_secs(10);

/// A record of the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub value: Vec<u8>,
}

/// What is there besides the entries.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Meta {
    format: u32,
    topic: String,
    /// The next offset to read, by partition.
    positions: BTreeMap<i32, i64>,
    stored_at: Timestamp,
    count: u64,
    /// Of the hashes of the entries, wrapping: it does not depend on their order.
    sum: u64,
}

impl Meta {
    fn new(topic: &str) -> Self {
        Meta { format: FORMAT, topic: topic.to_owned(), ..Meta::default() }
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    fn take_away(&mut self, key: &[u8], value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(hash(key, value));
    }
}

fn hash(key: &[u8], value: &[u8]) -> u64 {
    xxh3_64(&[key, value].concat())
}

/// The database, open.
pub struct LoadStore {
    database: sled::Db,
    path: PathBuf,
    meta: Meta,
}

/// What was found at the start.
pub struct Opened {
    pub store: LoadStore,
    /// By the keys of the records.
    pub entries: BTreeMap<Vec<u8>, Kept>,
    /// The next offset to read, by partition.
    pub positions: BTreeMap<i32, i64>,
    /// When that was written.
    pub stored_at: Timestamp,
    /// Why what was there was deleted.
    pub begun_anew: Option<String>,
}

type Read = (sled::Db, Meta, BTreeMap<Vec<u8>, Kept>);

impl LoadStore {
    /// Opens the view of this topic below `data_directory`; where it is not there or damaged, an
    /// empty one.
    ///
    /// # Errors
    /// Another process has it open, or there can be none: the view is then in memory alone.
    pub fn open(
        data_directory: &Path,
        group: &str,
        instance: &str,
        topic: &str,
        cache_bytes: u64,
    ) -> Result<Opened, StoreError> {
        let root = data_directory.join("load-view").join(file_name(group));
        let path = root.join(file_name(instance));
        std::fs::create_dir_all(&root)
            .map_err(|source| StoreError::Directory { path: root.clone(), source })?;
        let is_new = !path.exists();
        match read(&path, topic, cache_bytes) {
            Ok(found) => Ok(opened(path, found, None)),
            Err(DatabaseError::Locked) => Err(StoreError::Locked { path }),
            Err(DatabaseError::Hangs(problem)) => Err(StoreError::Unreadable { path, problem }),
            Err(DatabaseError::Unusable(problem)) => {
                delete(&path);
                let begun_anew = (!is_new).then_some(problem);
                match read(&path, topic, cache_bytes) {
                    Ok(found) => Ok(opened(path, found, begun_anew)),
                    Err(DatabaseError::Locked) => Err(StoreError::Locked { path }),
                    Err(DatabaseError::Hangs(problem) | DatabaseError::Unusable(problem)) => {
                        Err(StoreError::Unwritable { path, problem })
                    }
                }
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what has changed (`None`: the entry is gone) and how far the topic was read by now.
    ///
    /// # Errors
    /// It could not be written; the store is not to be used any more, and begins anew at the next
    /// start where part of it was.
    pub fn apply(
        &mut self,
        changes: BTreeMap<Vec<u8>, Option<Kept>>,
        positions: BTreeMap<i32, i64>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // On a full disk sled's writes never return.
        if let Some(free) = free_bytes(&self.path)
            && free < SPACE_BYTES_MIN
        {
            let path = self.path.clone();
            return Err(StoreError::Full { path, free, needed: SPACE_BYTES_MIN });
        }
        let database = self.database.clone();
        let meta = Meta { positions, stored_at: now, ..self.meta.clone() };
        let written = limited(WAIT, move || write(&database, meta, changes));
        self.meta = written.map_err(|error| match error {
            DatabaseError::Locked => StoreError::Locked { path: self.path.clone() },
            DatabaseError::Unusable(problem) | DatabaseError::Hangs(problem) => {
                StoreError::Unwritable { path: self.path.clone(), problem }
            }
        })?;
        Ok(())
    }

    /// Closes it.
    ///
    /// # Errors
    /// What that writes may fail like anything else.
    pub fn close(self) -> Result<(), StoreError> {
        let LoadStore { database, path, .. } = self;
        limited(WAIT, move || database::close(database))
            .map_err(|error| StoreError::Unwritable { path, problem: error.to_string() })
    }
}

fn opened(path: PathBuf, (database, meta, entries): Read, begun_anew: Option<String>) -> Opened {
    let (positions, stored_at) = (meta.positions.clone(), meta.stored_at);
    let store = LoadStore { database, path, meta };
    Opened { store, entries, positions, stored_at, begun_anew }
}

fn read(path: &Path, topic: &str, cache_bytes: u64) -> Result<Read, DatabaseError> {
    let (path, topic) = (path.to_owned(), topic.to_owned());
    limited(WAIT, move || {
        let database = database::open(&path, cache_bytes)?;
        match read_all(&database, &topic) {
            Ok((meta, entries)) => Ok((database, meta, entries)),
            Err(error) => {
                // It is deleted next: whether it closes well does not matter.
                database::close(database).ok();
                Err(error)
            }
        }
    })
}

fn read_all(
    database: &sled::Db,
    topic: &str,
) -> Result<(Meta, BTreeMap<Vec<u8>, Kept>), DatabaseError> {
    let unusable = |problem: &str| DatabaseError::Unusable(problem.to_owned());
    let (last, found) = guarded(|| {
        let last = database.get(META)?;
        let mut found = Vec::new();
        for entry in database.scan_prefix([ENTRY]) {
            let (key, value) = entry?;
            found.push((key.to_vec(), value.to_vec()));
        }
        Ok((last, found))
    })?;
    let Some(last) = last else {
        if found.is_empty() {
            return Ok((Meta::new(topic), BTreeMap::new()));
        }
        return Err(unusable("it was not finished"));
    };
    let meta: Meta = postcard::from_bytes(&last).map_err(|_| unusable("its last key"))?;
    if meta.format != FORMAT || meta.topic != topic {
        return Err(unusable("it is of another release or topic"));
    }
    let mut entries = BTreeMap::new();
    let mut counted = Meta::new(topic);
    for (key, value) in found {
        counted.add(&key, &value);
        let kept = postcard::from_bytes(&value).map_err(|_| unusable("an entry"))?;
        entries.insert(key.get(1..).unwrap_or_default().to_vec(), kept);
    }
    if (counted.count, counted.sum) != (meta.count, meta.sum) {
        return Err(DatabaseError::Unusable(format!(
            "it has {} entries, and not the {} that it counts",
            counted.count, meta.count
        )));
    }
    Ok((meta, entries))
}

fn write(
    database: &sled::Db,
    mut meta: Meta,
    changes: BTreeMap<Vec<u8>, Option<Kept>>,
) -> Result<Meta, DatabaseError> {
    let unencodable = |error: postcard::Error| DatabaseError::Unusable(error.to_string());
    let changes: Vec<(Vec<u8>, Option<Kept>)> = changes.into_iter().collect();
    for part in changes.chunks(BATCH_KEYS_MAX) {
        let mut batch = sled::Batch::default();
        for (key, kept) in part {
            let key = [&[ENTRY], key.as_slice()].concat();
            let before = guarded(|| database.get(&key))?;
            if let Some(before) = before {
                meta.take_away(&key, &before);
            }
            let value = kept.as_ref().map(postcard::to_stdvec).transpose().map_err(unencodable)?;
            match value.filter(|value| value.len() <= VALUE_BYTES_MAX) {
                Some(value) => {
                    meta.add(&key, &value);
                    batch.insert(key, value);
                }
                None => batch.remove(key),
            }
        }
        guarded(|| database.apply_batch(batch))?;
    }
    let last = postcard::to_stdvec(&meta).map_err(unencodable)?;
    guarded(|| {
        database.flush()?;
        database.insert(META, last)?;
        database.flush()?;
        Ok(())
    })?;
    Ok(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(offset: i64, value: &str) -> Kept {
        Kept { partition: 0, offset, timestamp_ms: offset * 10, value: value.as_bytes().to_vec() }
    }

    fn open(root: &Path) -> Opened {
        LoadStore::open(root, "group", "one", "load-snapshots", 1 << 20).unwrap()
    }

    type Shown = (BTreeMap<Vec<u8>, Kept>, BTreeMap<i32, i64>, bool);

    /// What is there, and whether something was deleted for it; closed again.
    fn found(root: &Path) -> Shown {
        let Opened { store, entries, positions, begun_anew, .. } = open(root);
        store.close().unwrap();
        (entries, positions, begun_anew.is_some())
    }

    fn filled(root: &Path) -> BTreeMap<Vec<u8>, Kept> {
        let mut store = open(root).store;
        let changes = first().into_iter().map(|(key, kept)| (key, Some(kept)));
        store.apply(changes.collect(), BTreeMap::from([(0, 250)]), Timestamp::EPOCH).unwrap();
        let mut entries = first();
        entries.remove(b"0/r3".as_slice());
        entries.insert(b"0/r7".to_vec(), kept(300, "after"));
        let changes = BTreeMap::from([
            (b"0/r3".to_vec(), None),
            (b"0/r7".to_vec(), Some(kept(300, "after"))),
            (b"0/never".to_vec(), None),
        ]);
        store.apply(changes, positions(), Timestamp::from_ms(7)).unwrap();
        store.close().unwrap();
        assert_eq!(open(root).stored_at, Timestamp::from_ms(7));
        entries
    }

    fn first() -> BTreeMap<Vec<u8>, Kept> {
        let number = |number| (format!("0/r{number}").into_bytes(), kept(number, "before"));
        (0..250).map(number).collect()
    }

    /// After [`filled`].
    fn positions() -> BTreeMap<i32, i64> {
        BTreeMap::from([(0, 301), (1, 5)])
    }

    fn database(root: &Path) -> PathBuf {
        root.join("load-view").join(file_name("group")).join(file_name("one"))
    }

    #[test]
    fn what_was_written_is_there_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let entries = filled(root.path());
        assert_eq!(found(root.path()), (entries.clone(), positions(), false));
        assert_eq!(found(root.path()), (entries, positions(), false));
    }

    #[test]
    fn another_process_keeps_what_it_has_open() {
        let root = tempfile::tempdir().unwrap();
        let first = open(root.path());
        let second = LoadStore::open(root.path(), "group", "one", "load-snapshots", 1 << 20);
        assert!(matches!(second, Err(StoreError::Locked { .. })));
        first.store.close().unwrap();
    }

    #[test]
    fn what_is_not_whole_is_deleted() {
        let nothing: Shown = (BTreeMap::new(), BTreeMap::new(), true);
        let check = |what: &str, damage: &dyn Fn(&Path), expected: &Shown| {
            let root = tempfile::tempdir().unwrap();
            filled(root.path());
            damage(&database(root.path()));
            assert_eq!(found(root.path()), *expected, "{what}");
            let entries = filled(root.path());
            assert_eq!(found(root.path()), (entries, positions(), false), "{what}, filled again");
        };
        let with = |change: fn(&sled::Db)| {
            move |path: &Path| {
                let database = database::open(path, 1 << 20).unwrap();
                change(&database);
                database.flush().unwrap();
            }
        };
        check(
            "a lost entry",
            &with(|database| drop(database.remove([b"e".as_slice(), b"0/r9"].concat()))),
            &nothing,
        );
        check(
            "another value",
            &with(|database| {
                let value = postcard::to_stdvec(&kept(9, "other")).unwrap();
                database.insert([b"e".as_slice(), b"0/r9"].concat(), value).unwrap();
            }),
            &nothing,
        );
        check("no last key", &with(|database| drop(database.remove(META))), &nothing);
        let gone: Shown = (BTreeMap::new(), BTreeMap::new(), false);
        check("a deleted directory", &|path| std::fs::remove_dir_all(path).unwrap(), &gone);
        check(
            "a file in its place",
            &|path| {
                std::fs::remove_dir_all(path).unwrap();
                std::fs::write(path, "none").unwrap();
            },
            &nothing,
        );
        let root = tempfile::tempdir().unwrap();
        filled(root.path());
        let other = LoadStore::open(root.path(), "group", "one", "renamed", 1 << 20).unwrap();
        assert_eq!((other.entries.len(), other.begun_anew.is_some()), (0, true));
    }

    /// Whatever the damage: what was written last, or before that, or nothing.
    fn check_damage(what: &str, change: impl Fn(&mut Vec<u8>)) {
        let root = tempfile::tempdir().unwrap();
        let entries = filled(root.path());
        let file = database(root.path()).join("db");
        let mut bytes = std::fs::read(&file).unwrap();
        change(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        let (found, at, _) = found(root.path());
        let allowed = [
            (entries, positions()),
            (first(), BTreeMap::from([(0, 250)])),
            (BTreeMap::new(), BTreeMap::new()),
        ];
        assert!(allowed.contains(&(found, at)), "{what}");
    }

    #[test]
    fn a_flipped_bit_never_makes_another_view() {
        for part in 0..8 {
            check_damage(&format!("a bit flipped at {part}/8"), |bytes| {
                let at = bytes.len() * part / 8 + 100;
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 4;
                }
            });
        }
    }

    /// Where sled hangs, it hangs for the whole process: so each in one of its own.
    #[test]
    fn a_truncated_file_never_makes_another_view() {
        for part in ["0", "1", "3", "9"] {
            crate::store::tests::alone("store::view::tests::truncated", part);
        }
    }

    #[test]
    #[ignore = "part of another one"]
    fn truncated() {
        let Some(part) = crate::store::tests::part() else { return };
        check_damage("truncated", |bytes| bytes.truncate(bytes.len() * part as usize / 10));
    }
}
