//! The tasks that a lane holds, by key. Their order follows from history alone, and a snapshot shares
//! them with the lane: taking one touches no task.

use std::sync::Arc;

use hashbrown::HashTable;

use super::TaskKey;
use super::state::LiveTask;

/// Tasks of a chunk: 6 KiB. What a snapshot holds is copied by the chunk where the lane goes on to
/// change it, so a change costs microseconds then; a lane of 100,000 tasks shares 1,600 chunks.
const CHUNK: usize = 64;

pub type Held = (TaskKey, LiveTask);

/// The tasks alone. All chunks but the last are full.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TaskList {
    chunks: Vec<Arc<Vec<Held>>>,
    len: usize,
}

impl TaskList {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// In the order of insertion, but that the last one took the place of each that went.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    fn get(&self, place: u32) -> Option<&Held> {
        let place = place as usize;
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)
    }

    fn is_at(&self, place: u32, key: TaskKey) -> bool {
        self.get(place).is_some_and(|(found, _)| *found == key)
    }

    fn get_mut(&mut self, place: u32) -> Option<&mut Held> {
        let place = place as usize;
        Arc::make_mut(self.chunks.get_mut(place / CHUNK)?).get_mut(place % CHUNK)
    }

    fn push(&mut self, held: Held) {
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
        }
        if let Some(last) = self.chunks.last_mut() {
            let last = Arc::make_mut(last);
            // A copy has room for what it holds.
            last.reserve_exact(CHUNK - last.len());
            last.push(held);
            self.len += 1;
        }
    }

    fn pop(&mut self) -> Option<Held> {
        let last = Arc::make_mut(self.chunks.last_mut()?);
        let held = last.pop();
        if last.is_empty() {
            self.chunks.pop();
        }
        self.len -= usize::from(held.is_some());
        held
    }
}

/// Live tasks, and an index into them. The index is asked and never iterated, so its order is nowhere
/// seen.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    list: TaskList,
    /// Places in the list.
    index: HashTable<u32>,
}

impl Tasks {
    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn place(&self, key: TaskKey) -> Option<u32> {
        self.index.find(key.spread(), |place| self.list.is_at(*place, key)).copied()
    }

    pub fn contains_key(&self, key: &TaskKey) -> bool {
        self.place(*key).is_some()
    }

    pub fn get(&self, key: &TaskKey) -> Option<&LiveTask> {
        self.list.get(self.place(*key)?).map(|(_, live)| live)
    }

    pub fn get_mut(&mut self, key: &TaskKey) -> Option<&mut LiveTask> {
        let place = self.place(*key)?;
        self.list.get_mut(place).map(|(_, live)| live)
    }

    /// Adds a task, or puts it in the place of the one with its key.
    pub fn insert(&mut self, key: TaskKey, live: LiveTask) {
        if let Some(before) = self.get_mut(&key) {
            *before = live;
            return;
        }
        // Tasks take 100 bytes at least: memory ends long before numbers do.
        let place = self.list.len() as u32;
        self.list.push((key, live));
        let Tasks { list, index } = self;
        let hash_of = |place: &u32| list.get(*place).map_or(0, |(key, _)| key.spread());
        index.insert_unique(key.spread(), place, hash_of);
    }

    /// Takes a task out; the last one takes its place.
    pub fn swap_remove(&mut self, key: &TaskKey) -> Option<LiveTask> {
        let Tasks { list, index } = self;
        let found = index.find_entry(key.spread(), |place| list.is_at(*place, *key)).ok()?;
        let (place, _) = found.remove();
        let (last_key, last) = list.pop()?;
        let last_place = list.len() as u32;
        if last_place == place {
            return Some(last);
        }
        if let Some(moved) = index.find_mut(last_key.spread(), |one| *one == last_place) {
            *moved = place;
        }
        let held = list.get_mut(place)?;
        Some(std::mem::replace(held, (last_key, last)).1)
    }

    /// As [`TaskList::iter`].
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.list.iter()
    }

    pub fn values(&self) -> impl Iterator<Item = &LiveTask> {
        self.iter().map(|(_, live)| live)
    }

    /// As they are now, without the index, which follows from them.
    pub fn list(&self) -> TaskList {
        self.list.clone()
    }
}

impl PartialEq for Tasks {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use proptest::prelude::*;

    use super::*;
    use crate::model::task::Task;
    use crate::model::time::Timestamp;
    use crate::routing::fact::NewTask;
    use crate::routing::shape::Shape;
    use crate::routing::state::{Fallbacks, Phase};

    fn live(task_id: &str, attempt: u32) -> LiveTask {
        let task: Task = serde_json::from_value(serde_json::json!({
            "task_id": task_id, "tenant": "a", "class": "c", "input_tokens": 1, "max_output_tokens": 1,
        }))
        .unwrap();
        let task = NewTask::of(&task, Arc::new(Shape::of(&task)), 0, Timestamp::MAX);
        LiveTask {
            task: Arc::new(task),
            attempt,
            failures: 0,
            fallbacks: Fallbacks::NONE,
            tried: None,
            phase: Phase::GivenUp,
            progress: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against `indexmap`, over several chunks; a copy stays what it was.
        #[test]
        fn as_an_index_map(
            steps in proptest::collection::vec((0u8..4, 0u32..400, any::<u32>()), 1..1_500),
        ) {
            let (mut tasks, mut map) = (Tasks::default(), IndexMap::new());
            let mut copy = (tasks.list(), Vec::new());
            for (step, id, attempt) in steps {
                let key = TaskKey::of(&format!("t{id}"));
                match step {
                    0 | 1 => {
                        tasks.insert(key, live(&format!("t{id}"), attempt));
                        map.insert(key, live(&format!("t{id}"), attempt));
                    }
                    2 => prop_assert_eq!(tasks.swap_remove(&key), map.swap_remove(&key)),
                    _ => {
                        if let Some(live) = tasks.get_mut(&key) {
                            live.attempt = attempt;
                        }
                        if let Some(live) = map.get_mut(&key) {
                            live.attempt = attempt;
                        }
                    }
                }
                prop_assert_eq!(tasks.get(&key), map.get(&key));
                prop_assert_eq!(tasks.contains_key(&key), map.contains_key(&key));
                if attempt % 64 == 0 {
                    let held = map.iter().map(|(key, live)| (*key, live.clone())).collect();
                    copy = (tasks.list(), held);
                }
            }
            prop_assert_eq!(tasks.len(), map.len());
            prop_assert!(tasks.values().eq(map.values()), "another order");
            prop_assert!(map.keys().all(|key| tasks.contains_key(key)), "not found");
            prop_assert!(copy.0.iter().eq(&copy.1), "the copy changed");
            prop_assert_eq!(copy.0.len(), copy.1.len());
        }
    }
}
