//! Waiting tasks whose payload is at hand, so that a decision for them can be published at once.
//!
//! Not part of the state: a task that is missing here is read again. Bounded in tasks and bytes;
//! what is nearest to being served is what stays.

use std::collections::{BTreeMap, BTreeSet};

use super::intake::OwnedRecord;
use crate::model::task::Task;
use crate::routing::TaskKey;
use crate::routing::backlog::TRIED_MAX;

/// Waiting tasks that are kept at hand: those that a batch tries.
const READY_TASKS_MAX: usize = TRIED_MAX;
/// Their bytes together.
const READY_BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
pub struct ReadyTask {
    pub task: Task,
    pub traceparent: Option<Box<[u8]>>,
}

/// What is known about the record of a task that was given up.
#[derive(Debug)]
pub enum LastRecord {
    Found(Box<OwnedRecord>),
    Gone,
}

#[derive(Debug, Default)]
pub struct Ready {
    tasks: BTreeMap<TaskKey, ReadyTask>,
    bytes: usize,
    given_up: BTreeMap<TaskKey, LastRecord>,
    /// Waiting tasks whose record is gone.
    gone: BTreeSet<TaskKey>,
}

fn bytes_of(ready: &ReadyTask) -> usize {
    // The names and numbers of a task take about this much beside its payload.
    512 + ready.task.payload.as_ref().map_or(0, Vec::len)
}

impl Ready {
    /// Keeps a task where there is room for it.
    pub fn keep(&mut self, key: TaskKey, mut ready: ReadyTask) {
        // What is needed of them is in the state.
        ready.task.features = Vec::new();
        // An id may come again after it is forgotten: the record before is another task's.
        self.remove(key);
        let bytes = bytes_of(&ready);
        if self.tasks.len() < READY_TASKS_MAX && self.bytes + bytes <= READY_BYTES_MAX {
            self.bytes += bytes;
            self.tasks.insert(key, ready);
        }
    }

    pub fn keep_record(&mut self, key: TaskKey, record: LastRecord) {
        self.remove(key);
        self.given_up.insert(key, record);
    }

    pub fn keep_gone(&mut self, key: TaskKey) {
        self.gone.insert(key);
    }

    /// Whether all is known of the record of a waiting task.
    pub fn has_task(&self, key: TaskKey) -> bool {
        self.tasks.contains_key(&key) || self.gone.contains(&key)
    }

    /// Whether all is known of the record of a task that was given up. That it was at hand while the
    /// task waited is no help: its bytes are needed.
    pub fn has_record(&self, key: TaskKey) -> bool {
        self.given_up.contains_key(&key)
    }

    pub fn remove(&mut self, key: TaskKey) -> Option<ReadyTask> {
        let ready = self.tasks.remove(&key)?;
        self.bytes -= bytes_of(&ready);
        Some(ready)
    }

    pub fn take_given_up(&mut self) -> BTreeMap<TaskKey, LastRecord> {
        std::mem::take(&mut self.given_up)
    }

    pub fn take_gone(&mut self) -> BTreeSet<TaskKey> {
        std::mem::take(&mut self.gone)
    }

    /// Whether something came that a batch can use at once.
    pub fn has_ended(&self) -> bool {
        !self.given_up.is_empty() || !self.gone.is_empty()
    }

    /// Makes room for the front of the backlog: lets go of every other task.
    pub fn keep_only(&mut self, front: &BTreeSet<TaskKey>) {
        self.tasks.retain(|key, _| front.contains(key));
        self.bytes = self.tasks.values().map(bytes_of).sum();
    }

    pub fn is_full(&self) -> bool {
        self.tasks.len() >= READY_TASKS_MAX || self.bytes >= READY_BYTES_MAX
    }
}
