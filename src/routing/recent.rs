//! The newest task ids of a lane, so that a repeated one is recognised.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;

use super::TaskKey;
use crate::model::time::Timestamp;

/// Milliseconds, big-endian, and the key.
type Entry = [u8; ENTRY_BYTES];
const ENTRY_BYTES: usize = 24;

fn entry(at: Timestamp, key: TaskKey) -> Entry {
    let mut entry = [0; ENTRY_BYTES];
    let (time, id) = entry.split_at_mut(8);
    time.copy_from_slice(&at.as_ms().to_be_bytes());
    id.copy_from_slice(&key.0);
    entry
}

fn parts(entry: &Entry) -> (Timestamp, TaskKey) {
    let [a, b, c, d, e, f, g, h, key @ ..] = *entry;
    (Timestamp::from_ms(i64::from_be_bytes([a, b, c, d, e, f, g, h])), TaskKey(key))
}

/// Ids of a chunk: 96 KiB, so that the copy of the open one for a snapshot is nothing.
const CHUNK: usize = 4_096;

/// The ids in the order of their arrival, each as it stands in a snapshot. Full chunks are shared
/// with the snapshots that are being written.
#[derive(Debug, Clone, Default)]
pub struct RecentIds {
    full: VecDeque<Arc<Vec<Entry>>>,
    open: Vec<Entry>,
    /// Of the first chunk, so many are forgotten.
    gone: usize,
}

impl RecentIds {
    pub fn len(&self) -> usize {
        self.full.len() * CHUNK + self.open.len() - self.gone
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, place: usize) -> Option<&Entry> {
        let place = place + self.gone;
        let chunk = self.full.get(place / CHUNK).map_or(&self.open, |chunk| &**chunk);
        chunk.get(place % CHUNK)
    }

    fn push_back(&mut self, entry: Entry) {
        self.open.push(entry);
        if self.open.len() == CHUNK {
            let full = std::mem::replace(&mut self.open, Vec::with_capacity(CHUNK));
            self.full.push_back(Arc::new(full));
        }
    }

    fn pop_front(&mut self) {
        self.gone += 1;
        if self.gone == CHUNK && self.full.pop_front().is_some() {
            self.gone = 0;
        }
    }

    fn chunks(&self) -> impl Iterator<Item = &[Entry]> {
        let chunks = self.full.iter().map(|chunk| chunk.as_slice()).chain([self.open.as_slice()]);
        let first = self.gone;
        chunks.enumerate().map(move |(number, chunk)| match number {
            0 => chunk.get(first..).unwrap_or_default(),
            _ => chunk,
        })
    }

    /// The end of a snapshot.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(self.len() * ENTRY_BYTES);
        for chunk in self.chunks() {
            out.extend_from_slice(chunk.as_flattened());
        }
    }
}

impl PartialEq for RecentIds {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.chunks().flatten().eq(other.chunks().flatten())
    }
}

/// The ids, and an index into them. The index is asked and never iterated, so its order is nowhere
/// seen. 4 bytes of index per key rather than a second copy of it: 1,000,000 keys take about 32 MB.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    ids: RecentIds,
    /// Arrival numbers, modulo 2³²; the oldest of the ids has number `first`.
    index: HashTable<u32>,
    first: u32,
}

impl Recent {
    pub fn contains(&self, key: TaskKey) -> bool {
        self.index.find(key.spread(), |number| self.key_of(*number) == Some(key)).is_some()
    }

    fn key_of(&self, number: u32) -> Option<TaskKey> {
        self.ids.get(number.wrapping_sub(self.first) as usize).map(|entry| parts(entry).1)
    }

    /// Adds a key that is not contained.
    pub fn insert(&mut self, at: Timestamp, key: TaskKey) {
        let number = self.first.wrapping_add(self.ids.len() as u32);
        self.ids.push_back(entry(at, key));
        let Recent { ids, index, first } = self;
        let hash_of = |number: &u32| {
            let entry = ids.get(number.wrapping_sub(*first) as usize);
            entry.map_or(0, |entry| parts(entry).1.spread())
        };
        index.insert_unique(key.spread(), number, hash_of);
    }

    /// Forgets what came before `before`, and the oldest beyond `count_max`.
    pub fn forget(&mut self, before: Timestamp, count_max: usize) {
        while let Some((at, key)) = self.ids.get(0).map(parts) {
            if at >= before && self.ids.len() <= count_max {
                break;
            }
            let first = self.first;
            if let Ok(entry) = self.index.find_entry(key.spread(), |number| *number == first) {
                entry.remove();
            }
            self.ids.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As they are now, without the index, which follows from them.
    pub fn ids(&self) -> RecentIds {
        self.ids.clone()
    }

    /// What [`RecentIds::write`] wrote; `None` where it cannot have.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (entries, []) = bytes.as_chunks::<ENTRY_BYTES>() else { return None };
        let index = HashTable::with_capacity(entries.len());
        let mut recent = Recent { index, ..Recent::default() };
        for (at, key) in entries.iter().map(parts) {
            recent.insert(at, key);
        }
        Some(recent)
    }
}

impl PartialEq for Recent {
    fn eq(&self, other: &Self) -> bool {
        self.ids == other.ids
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forgets_by_time_and_by_count() {
        let mut recent = Recent::default();
        for number in 0..100u8 {
            recent.insert(Timestamp::from_ms(i64::from(number)), TaskKey([number; 16]));
        }
        let known = |recent: &Recent| -> Vec<u8> {
            (0..100u8).filter(|number| recent.contains(TaskKey([*number; 16]))).collect()
        };
        assert_eq!(known(&recent).len(), 100);
        recent.forget(Timestamp::from_ms(90), 1_000);
        assert_eq!(known(&recent), (90..100).collect::<Vec<u8>>());
        recent.forget(Timestamp::EPOCH, 3);
        assert_eq!(known(&recent), [97, 98, 99]);
        assert_eq!(recent.len(), 3);
        let mut bytes = Vec::new();
        recent.ids().write(&mut bytes);
        let read = Recent::read(&bytes).unwrap();
        assert_eq!(read, recent);
        assert_eq!(known(&read), [97, 98, 99]);
        assert_eq!(Recent::read(&bytes[1..]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Against a plain list, over several chunks; a copy stays what it was.
        #[test]
        fn as_a_list(
            steps in proptest::collection::vec((1usize..6_000, 0usize..9_000), 1..8),
        ) {
            let (mut recent, mut list) = (Recent::default(), VecDeque::new());
            let mut number = 0i64;
            for (added, count_max) in steps {
                for _ in 0..added {
                    let mut key = [0; 16];
                    key[..8].copy_from_slice(&number.to_be_bytes());
                    recent.insert(Timestamp::from_ms(number), TaskKey(key));
                    list.push_back(entry(Timestamp::from_ms(number), TaskKey(key)));
                    number += 1;
                }
                let copy = recent.ids();
                let mut before = Vec::new();
                copy.write(&mut before);
                recent.forget(Timestamp::EPOCH, count_max);
                list.drain(..list.len().saturating_sub(count_max));
                let mut bytes = Vec::new();
                recent.ids().write(&mut bytes);
                prop_assert!(bytes == list.make_contiguous().as_flattened(), "other ids");
                prop_assert_eq!(recent.len(), list.len());
                prop_assert!(list.iter().all(|entry| recent.contains(parts(entry).1)));
                let mut after = Vec::new();
                copy.write(&mut after);
                prop_assert!(before == after, "the copy changed");
            }
        }
    }
}
