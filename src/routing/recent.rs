//! The newest task ids of a lane, so that a repeated one is recognised.

use std::collections::VecDeque;

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

/// A ring of keys in the order of their arrival, and an index into it. The index is asked and
/// never iterated, so its order is nowhere seen. 4 bytes of index per key rather than a second
/// copy of it: 1,000,000 keys take about 32 MB.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    /// Each as it stands in a snapshot, so that taking one copies them as they are.
    ring: VecDeque<Entry>,
    /// Arrival numbers, modulo 2³²; the front of the ring has number `first`.
    index: HashTable<u32>,
    first: u32,
}

impl Recent {
    pub fn contains(&self, key: TaskKey) -> bool {
        self.index.find(key.spread(), |number| self.key_of(*number) == Some(key)).is_some()
    }

    fn key_of(&self, number: u32) -> Option<TaskKey> {
        self.ring.get(number.wrapping_sub(self.first) as usize).map(|entry| parts(entry).1)
    }

    /// Adds a key that is not contained.
    pub fn insert(&mut self, at: Timestamp, key: TaskKey) {
        let number = self.first.wrapping_add(self.ring.len() as u32);
        self.ring.push_back(entry(at, key));
        let Recent { ring, index, first } = self;
        let hash_of = |number: &u32| {
            let entry = ring.get(number.wrapping_sub(*first) as usize);
            entry.map_or(0, |entry| parts(entry).1.spread())
        };
        index.insert_unique(key.spread(), number, hash_of);
    }

    /// Forgets what came before `before`, and the oldest beyond `count_max`.
    pub fn forget(&mut self, before: Timestamp, count_max: usize) {
        while let Some((at, key)) = self.ring.front().map(parts) {
            if at >= before && self.ring.len() <= count_max {
                break;
            }
            let first = self.first;
            if let Ok(entry) = self.index.find_entry(key.spread(), |number| *number == first) {
                entry.remove();
            }
            self.ring.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    pub fn len(&self) -> usize {
        self.ring.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

/// For snapshots: the ring alone, the index follows from it.
impl Recent {
    pub fn write(&self, out: &mut Vec<u8>) {
        let (front, back) = self.ring.as_slices();
        out.reserve(self.ring.len() * ENTRY_BYTES);
        out.extend_from_slice(front.as_flattened());
        out.extend_from_slice(back.as_flattened());
    }

    /// What [`Recent::write`] wrote; `None` where it cannot have.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (entries, []) = bytes.as_chunks::<ENTRY_BYTES>() else { return None };
        let mut recent = Recent {
            ring: VecDeque::with_capacity(entries.len()),
            index: HashTable::with_capacity(entries.len()),
            first: 0,
        };
        for (at, key) in entries.iter().map(parts) {
            recent.insert(at, key);
        }
        Some(recent)
    }
}

impl PartialEq for Recent {
    fn eq(&self, other: &Self) -> bool {
        self.ring == other.ring
    }
}

#[cfg(test)]
mod tests {
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
        recent.write(&mut bytes);
        let read = Recent::read(&bytes).unwrap();
        assert_eq!(read, recent);
        assert_eq!(known(&read), [97, 98, 99]);
        assert_eq!(Recent::read(&bytes[1..]), None);
    }
}
