//! The backlog: tasks that wait for capacity, in the order in which they are served.
//!
//! A line for each priority and tenant, each by what its tasks stand to lose. Which tenant is next is
//! not the backlog's to say: whoever asks brings what each was given ([`super::shares`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use serde::{Deserialize, Serialize};

use super::TaskKey;
use super::fact::Loss;
use crate::model::policy::Policy;
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

/// Places of each priority below critical that are not taken from it, so that what it is owed finds a
/// task; 16 are as many as a burst of batches serves before more have come.
const KEPT_MAX: u32 = 16;
/// This part of the backlog at most: a small one is for those who come first.
const KEPT_PART: u32 = 64;

/// So many are kept under this policy.
pub fn places_kept(policy: &Policy) -> usize {
    let is_owed = policy.priority_share_min > 0.0;
    if is_owed { (policy.backlog_tasks_max / KEPT_PART).min(KEPT_MAX) as usize } else { 0 }
}

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

    /// Whether more than `kept` of this priority wait, so that one may go.
    fn has_more(&self, priority: Priority, kept: usize) -> bool {
        match priority {
            Priority::Critical => self.waits(priority),
            Priority::Interactive | Priority::Batch => self.count(priority) > kept,
        }
    }

    /// The task that gives way in a full backlog to one of `tenant`, whose place would be `newcomer`:
    /// of the lowest priority the last one of whoever has most waiting by its weight, so that nobody
    /// keeps others out. `None` where that is the newcomer. Each priority below critical keeps `kept`
    /// places, and takes them from a higher one.
    pub fn gives_way(
        &self,
        newcomer: (Priority, Reverse<Loss>, Timestamp),
        tenant: &str,
        weight: impl Fn(&str) -> f64,
        kept: usize,
    ) -> Option<&Place> {
        let has_kept = newcomer.0 > Priority::Critical && self.count(newcomer.0) < kept;
        let mut from_lowest = Priority::ALL.into_iter().rev();
        let lowest = from_lowest.find(|priority| {
            let competes = *priority == newcomer.0 && !has_kept && self.waits(*priority);
            competes || self.has_more(*priority, kept)
        })?;
        let lowest = &self.lines[lowest as usize];
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
        if newcomer.0 < last.priority || has_kept {
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
    /// time the last one of whoever has most waiting by its weight. Each priority keeps `kept`.
    pub fn last_served(
        &self,
        highest: Priority,
        count: usize,
        weight: impl Fn(&str) -> f64,
        kept: usize,
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
            let most = found.len() + self.count(priority).saturating_sub(kept);
            while found.len() < count.min(most) {
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

    /// Tasks whose time ends first, at most `most` of them.
    pub fn ending(&self, most: usize) -> impl Iterator<Item = TaskKey> {
        self.by_until.iter().take(most).map(|(_, key)| *key)
    }

    /// Until when the last of those that wait may wait.
    pub fn last_until(&self) -> Option<Timestamp> {
        self.by_until.last().map(|(until, _)| *until)
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
            tried.extend(self.ending(ENDING_MAX).filter(|key| !front.contains(key)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> TaskKey {
        TaskKey::of(&format!("t{number}"))
    }

    /// So many of each priority, the highest first, all of one tenant and with nothing to lose. The
    /// keys count from 0.
    fn backlog(counts: [usize; 3]) -> Backlog {
        let mut backlog = Backlog::default();
        let priorities = Priority::ALL.into_iter().zip(counts);
        let all = priorities.flat_map(|(priority, count)| std::iter::repeat_n(priority, count));
        for (number, priority) in all.enumerate() {
            backlog.insert(priority, "one", Loss(0), Timestamp::MAX, key(number));
        }
        backlog
    }

    #[test]
    fn each_lower_priority_keeps_places_and_takes_them_from_a_higher_one() {
        use Priority::{Batch, Critical, Interactive};
        // (what, waiting by priority, kept, the newcomer, and its tenant, who gives way)
        let rows = [
            ("the lowest", [2, 2, 3], 2, Critical, "one", Some(6)),
            ("… but for those that are kept", [2, 3, 2], 2, Critical, "one", Some(4)),
            ("none but those", [2, 2, 2], 2, Critical, "one", None),
            ("… of others", [2, 2, 2], 2, Critical, "two", Some(1)),
            ("its own places are full", [5, 5, 2], 2, Batch, "one", None),
            ("… with another's tasks", [5, 5, 2], 2, Batch, "two", Some(11)),
            ("it has places", [5, 5, 1], 2, Batch, "one", Some(9)),
            ("its own places are full", [5, 2, 0], 2, Interactive, "one", None),
            ("… that critical tasks have", [5, 1, 0], 2, Interactive, "one", Some(4)),
            ("nothing is kept", [5, 1, 0], 0, Batch, "one", None),
            ("nothing is kept", [5, 0, 1], 0, Interactive, "one", Some(5)),
        ];
        for (what, counts, kept, priority, tenant, expected) in rows {
            let backlog = backlog(counts);
            let newcomer = (priority, Reverse(Loss(0)), Timestamp::MAX);
            let found = backlog.gives_way(newcomer, tenant, |_| 1.0, kept);
            assert_eq!(found.map(|place| place.key), expected.map(key), "{what}");
        }
    }

    #[test]
    fn the_last_few_of_each_priority_stay() {
        // (waiting by priority, kept, how many at most, found)
        let rows: [([usize; 3], usize, usize, &[usize]); 4] = [
            ([1, 3, 4], 2, 9, &[7, 6, 3]),
            ([1, 3, 4], 2, 1, &[7]),
            ([1, 3, 4], 0, 9, &[7, 6, 5, 4, 3, 2, 1]),
            ([9, 1, 2], 2, 9, &[]),
        ];
        for (counts, kept, most, expected) in rows {
            let found = backlog(counts).last_served(Priority::Interactive, most, |_| 1.0, kept);
            let expected: Vec<TaskKey> = expected.iter().map(|number| key(*number)).collect();
            assert_eq!(found, expected, "{counts:?}");
        }
    }
}
