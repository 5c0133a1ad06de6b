//! The backlog: tasks that wait for capacity, in the order in which they are served.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::TaskKey;
use super::fact::Loss;
use crate::model::task::Priority;
use crate::model::time::Timestamp;

/// Waiting tasks that one batch tries: those at the front …
const FRONT_MAX: usize = 384;
/// … and those whose time ends first, so that none gives up without having been tried.
const ENDING_MAX: usize = 128;
/// Together.
pub const TRIED_MAX: usize = FRONT_MAX + ENDING_MAX;

/// A task's place: by priority, then by what it stands to lose, then by the time until which it can
/// wait, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub priority: Priority,
    pub loss: Reverse<Loss>,
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
    pub fn insert(
        &mut self,
        priority: Priority,
        loss: Loss,
        until: Timestamp,
        key: TaskKey,
    ) -> u64 {
        self.turn += 1;
        let loss = Reverse(loss);
        self.places.insert(Place { priority, loss, until, turn: self.turn, key });
        self.by_until.insert((until, key));
        self.turn
    }

    pub fn remove(&mut self, place: &Place) {
        self.places.remove(place);
        self.by_until.remove(&(place.until, place.key));
    }

    /// The task that is served last.
    pub fn last(&self) -> Option<&Place> {
        self.places.last()
    }

    /// The task whose time ends first.
    pub fn first_until(&self) -> Option<(Timestamp, TaskKey)> {
        self.by_until.first().copied()
    }

    /// The tasks that a batch tries, at most [`TRIED_MAX`]: the front in the order of service, then
    /// those whose time ends first.
    pub fn tried(&self) -> Vec<TaskKey> {
        let mut tried: Vec<TaskKey> =
            self.places.iter().take(FRONT_MAX).map(|place| place.key).collect();
        if self.places.len() > FRONT_MAX {
            let front: BTreeSet<TaskKey> = tried.iter().copied().collect();
            let ending = self.by_until.iter().take(ENDING_MAX).map(|(_, key)| *key);
            tried.extend(ending.filter(|key| !front.contains(key)));
        }
        tried
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
