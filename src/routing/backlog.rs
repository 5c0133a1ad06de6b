//! The backlog: tasks that wait for capacity, in the order in which they are served.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::TaskKey;
use crate::model::task::Priority;
use crate::model::time::Timestamp;

/// A task's place: by priority, then by the time until which it can wait, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub priority: Priority,
    pub until: Timestamp,
    pub turn: u64,
    pub key: TaskKey,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Backlog {
    places: BTreeSet<Place>,
    by_until: BTreeSet<(Timestamp, TaskKey)>,
    turn: u64,
}

impl Backlog {
    /// Adds a task and returns its turn.
    pub fn insert(&mut self, priority: Priority, until: Timestamp, key: TaskKey) -> u64 {
        self.turn += 1;
        self.places.insert(Place { priority, until, turn: self.turn, key });
        self.by_until.insert((until, key));
        self.turn
    }

    pub fn remove(&mut self, place: &Place) {
        self.places.remove(place);
        self.by_until.remove(&(place.until, place.key));
    }

    /// In the order of service.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.places.iter()
    }

    /// The task that is served last.
    pub fn last(&self) -> Option<&Place> {
        self.places.last()
    }

    /// The task whose time ends first.
    pub fn first_until(&self) -> Option<(Timestamp, TaskKey)> {
        self.by_until.first().copied()
    }

    /// Tasks whose time has ended at `now`.
    pub fn ended(&self, now: Timestamp) -> impl Iterator<Item = TaskKey> {
        self.by_until.iter().take_while(move |(until, _)| *until <= now).map(|(_, key)| *key)
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
