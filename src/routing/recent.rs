//! The newest task ids of a lane, so that a repeated one is recognised.

use std::collections::VecDeque;

use hashbrown::HashTable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::TaskKey;
use crate::model::time::Timestamp;

/// A ring of keys in the order of their arrival, and an index into it. The index is asked and
/// never iterated, so its order is nowhere seen. 4 bytes of index per key rather than a second
/// copy of it: 1,000,000 keys take about 32 MB.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    ring: VecDeque<(Timestamp, TaskKey)>,
    /// Arrival numbers, modulo 2³²; the front of the ring has number `first`.
    index: HashTable<u32>,
    first: u32,
}

impl Recent {
    pub fn contains(&self, key: TaskKey) -> bool {
        self.index.find(key.spread(), |number| self.key_of(*number) == Some(key)).is_some()
    }

    fn key_of(&self, number: u32) -> Option<TaskKey> {
        self.ring.get(number.wrapping_sub(self.first) as usize).map(|(_, key)| *key)
    }

    /// Adds a key that is not contained.
    pub fn insert(&mut self, at: Timestamp, key: TaskKey) {
        let number = self.first.wrapping_add(self.ring.len() as u32);
        self.ring.push_back((at, key));
        let Recent { ring, index, first } = self;
        let hash_of = |number: &u32| {
            ring.get(number.wrapping_sub(*first) as usize).map_or(0, |(_, key)| key.spread())
        };
        index.insert_unique(key.spread(), number, hash_of);
    }

    /// Forgets what came before `before`, and the oldest beyond `count_max`.
    pub fn forget(&mut self, before: Timestamp, count_max: usize) {
        while let Some((at, key)) = self.ring.front().copied() {
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

/// The ring alone: the index follows from it.
impl Serialize for Recent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ring.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Recent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut recent = Recent::default();
        for (at, key) in VecDeque::<(Timestamp, TaskKey)>::deserialize(deserializer)? {
            recent.insert(at, key);
        }
        Ok(recent)
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
    }
}
