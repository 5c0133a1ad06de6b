//! The backlog: tasks that wait for capacity, in the order in which they are served.
//!
//! A line for each priority and tenant, each by what its tasks stand to lose. Which tenant is next is
//! not the backlog's to say: whoever asks brings what each was given ([`super::shares`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

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
/// Of the front, for each lower priority that waits, so that what it is owed finds a task: 1 %.
const LOWER_MIN: usize = 4;

/// A task's place in the line of its tenant: by priority, then by what it stands to lose, then by the
/// time until which it can wait, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub priority: Priority,
    pub loss: Reverse<Loss>,
    pub until: Timestamp,
    pub turn: u64,
    pub key: TaskKey,
}

type Line = BTreeSet<Place>;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Backlog {
    /// By priority, the highest first, and tenant; no line is empty.
    lines: [BTreeMap<Box<str>, Line>; Priority::ALL.len()],
    by_until: BTreeSet<(Timestamp, TaskKey)>,
    turn: u64,
}

/// What tenants were given, and what one more task adds to that: each by the tenant's weight, and at
/// least 0.
pub struct Given<SoFar, ByTask> {
    pub so_far: SoFar,
    pub by_task: ByTask,
}

impl Backlog {
    /// Adds a task and returns its turn.
    pub fn insert(
        &mut self,
        priority: Priority,
        tenant: &str,
        loss: Loss,
        until: Timestamp,
        key: TaskKey,
    ) -> u64 {
        self.turn += 1;
        let loss = Reverse(loss);
        let place = Place { priority, loss, until, turn: self.turn, key };
        let lines = &mut self.lines[priority as usize];
        match lines.get_mut(tenant) {
            Some(line) => line.insert(place),
            None => lines.entry(Box::from(tenant)).or_default().insert(place),
        };
        self.by_until.insert((until, key));
        self.turn
    }

    pub fn remove(&mut self, tenant: &str, place: &Place) {
        let lines = &mut self.lines[place.priority as usize];
        if let Some(line) = lines.get_mut(tenant) {
            line.remove(place);
            if line.is_empty() {
                lines.remove(tenant);
            }
        }
        self.by_until.remove(&(place.until, place.key));
    }

    /// Whether tasks of this priority wait.
    pub fn waits(&self, priority: Priority) -> bool {
        !self.lines[priority as usize].is_empty()
    }

    /// Tasks of this priority that wait.
    pub fn count(&self, priority: Priority) -> usize {
        self.lines[priority as usize].values().map(BTreeSet::len).sum()
    }

    /// The task that gives way in a full backlog to one of `tenant`, whose place would be `newcomer`:
    /// of the lowest priority the last one of whoever has most waiting by its weight, so that nobody
    /// keeps others out. `None` where that is the newcomer.
    pub fn gives_way(
        &self,
        newcomer: (Priority, Reverse<Loss>, Timestamp),
        tenant: &str,
        weight: impl Fn(&str) -> f64,
    ) -> Option<&Place> {
        let lowest = self.lines.iter().rev().find(|lines| !lines.is_empty())?;
        let by_weight = |id: &str, tasks: usize| tasks as f64 / weight(id);
        let mut longest: Option<(f64, &Line)> = None;
        for (id, line) in lowest {
            let length = by_weight(id, line.len());
            if longest.is_none_or(|(most, _)| length > most) {
                longest = Some((length, line));
            }
        }
        let (length, line) = longest?;
        let last = line.last()?;
        if newcomer.0 < last.priority {
            return Some(last);
        }
        if newcomer.0 > last.priority {
            return None;
        }
        let own = lowest.get(tenant);
        let own_length = by_weight(tenant, own.map_or(0, BTreeSet::len) + 1);
        if length > own_length {
            return Some(last);
        }
        let last = own?.last()?;
        (newcomer < (last.priority, last.loss, last.until)).then_some(last)
    }

    /// Up to `count` tasks that would be served last, none of a higher priority than `highest`: each
    /// time the last one of whoever has most waiting by its weight.
    pub fn last_served(
        &self,
        highest: Priority,
        count: usize,
        weight: impl Fn(&str) -> f64,
    ) -> Vec<TaskKey> {
        let mut found = Vec::new();
        for priority in Priority::ALL.into_iter().rev().filter(|one| *one >= highest) {
            let mut ends: Vec<_> = self.lines[priority as usize]
                .iter()
                .map(|(id, line)| (line.len(), weight(id), line.iter().rev()))
                .collect();
            let length = |left: usize, weight: f64| (left as f64 / weight).to_bits();
            let mut longest: BinaryHeap<(u64, Reverse<usize>)> = ends
                .iter()
                .enumerate()
                .map(|(at, (left, weight, _))| (length(*left, *weight), Reverse(at)))
                .collect();
            while found.len() < count {
                let Some((_, Reverse(at))) = longest.pop() else { break };
                let (left, weight, line) = &mut ends[at];
                let Some(place) = line.next() else { continue };
                found.push(place.key);
                *left -= 1;
                longest.push((length(*left, *weight), Reverse(at)));
            }
        }
        found
    }

    /// The task whose time ends first.
    pub fn first_until(&self) -> Option<(Timestamp, TaskKey)> {
        self.by_until.first().copied()
    }

    /// The tasks that a batch tries, at most [`TRIED_MAX`]: the front in the order of service, then
    /// those whose time ends first.
    pub fn tried<SoFar, ByTask>(&self, given: &Given<SoFar, ByTask>) -> Vec<TaskKey>
    where
        SoFar: Fn(Priority, &str) -> f64,
        ByTask: Fn(&str, TaskKey) -> f64,
    {
        let mut tried = Vec::new();
        for priority in Priority::ALL {
            let lower = Priority::ALL.into_iter().filter(|one| *one > priority);
            let kept = lower.filter(|one| self.waits(*one)).count() * LOWER_MIN;
            let most = FRONT_MAX.saturating_sub(tried.len() + kept);
            front(&self.lines[priority as usize], priority, most, given, &mut tried);
        }
        if self.len() > tried.len() {
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
        self.by_until.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_until.is_empty()
    }
}

/// The first `most` of one priority's lines, each tenant when it is its turn.
fn front<SoFar, ByTask>(
    lines: &BTreeMap<Box<str>, Line>,
    priority: Priority,
    most: usize,
    given: &Given<SoFar, ByTask>,
    tried: &mut Vec<TaskKey>,
) where
    SoFar: Fn(Priority, &str) -> f64,
    ByTask: Fn(&str, TaskKey) -> f64,
{
    if lines.len() == 1 {
        tried.extend(lines.values().flatten().take(most).map(|place| place.key));
        return;
    }
    let mut heads: Vec<(&str, std::collections::btree_set::Iter<'_, Place>)> =
        lines.iter().map(|(id, line)| (&**id, line.iter())).collect();
    // The bits of numbers that are not negative are in the order of the numbers.
    let mut next: BinaryHeap<Reverse<(u64, usize)>> = heads
        .iter()
        .enumerate()
        .map(|(at, (id, _))| Reverse(((given.so_far)(priority, id).to_bits(), at)))
        .collect();
    for _ in 0..most {
        // A line that has come to its end leaves the heap and takes no place.
        let place = loop {
            let Some(Reverse((bits, at))) = next.pop() else { return };
            let (id, line) = &mut heads[at];
            if let Some(place) = line.next() {
                let so_far = f64::from_bits(bits) + (given.by_task)(id, place.key);
                next.push(Reverse((so_far.to_bits(), at)));
                break place;
            }
        };
        tried.push(place.key);
    }
}
