//! What is promised of a limit, and therefore not there for every task of the lane: rights that go
//! to other lanes once they are not in use, and room that comes together for a large task.

use serde::{Deserialize, Serialize};

use super::super::fact::ResourceIndex;
use super::super::rights::Scale;
use super::{Fleet, Room};
use crate::model::rights::LimitKind;
use crate::model::task::Priority;

/// Room that comes together for a task of this lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub priority: Priority,
    /// Units that it takes: tasks that take as much find the room.
    pub size: u64,
}

/// For each task of the lane, what is promised to tasks that are at least as urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Promised {
    /// Rights that others shall have for their critical tasks, for interactive ones, for batch.
    rights: [u32; 3],
    /// Units that the lane's critical tasks may fill, its interactive ones, its batch.
    open: [u64; 3],
    kept: Option<Kept>,
}

impl Promised {
    /// What is promised from now on, of so many rights.
    pub fn set(&mut self, rights: [u32; 3], kept: Option<Kept>, scale: Scale, held: u32) {
        (self.rights, self.kept) = (rights, kept);
        self.count(scale, held);
    }

    /// The lane holds so many rights.
    pub fn count(&mut self, scale: Scale, held: u32) {
        let mut left = held;
        for (open, promised) in self.open.iter_mut().zip(self.rights) {
            left = left.saturating_sub(promised);
            *open = scale.units(left);
        }
    }

    pub fn is_any(&self) -> bool {
        self.rights != [0; 3] || self.kept.is_some()
    }

    /// Rights that others shall have, all together.
    pub fn rights(&self) -> u32 {
        self.rights.iter().fold(0, |sum, rights| sum.saturating_add(*rights))
    }

    /// Units of which tasks of a priority may use what is free.
    pub fn open(&self, priority: Priority) -> u64 {
        let [critical, interactive, batch] = self.open;
        match priority {
            Priority::Critical => critical,
            Priority::Interactive => interactive,
            Priority::Batch => batch,
        }
    }

    /// What is free for a task that takes so much, where so much is in use.
    pub fn free(&self, priority: Priority, amount: u64, used: u64) -> u64 {
        let free = self.open(priority).saturating_sub(used);
        match self.kept {
            Some(kept) if amount < kept.size && priority >= kept.priority => {
                free.saturating_sub(kept.size)
            }
            Some(_) | None => free,
        }
    }

    /// Whether a large task of this lane has room coming together.
    pub fn kept(&self) -> Option<Kept> {
        self.kept
    }
}

impl Fleet {
    /// By resource, what is free for any task; `None` where something is promised of any.
    pub fn rooms(&self) -> Option<&[Room]> {
        (!self.promises).then_some(&self.rooms)
    }

    /// What is free for a task of so many tokens.
    pub fn room_for(&self, index: ResourceIndex, priority: Priority, tokens: u64) -> Room {
        if self.promises && self.at(index).promises() {
            return self.at(index).room_for(priority, tokens);
        }
        self.room(index)
    }

    /// From now on so much of a limit is promised: see [`Promised`].
    pub fn promise(&mut self, id: &str, kind: LimitKind, rights: [u32; 3], kept: Option<Kept>) {
        let Some(index) = self.index_of(id) else { return };
        let resource = &mut self.resources[usize::from(index)];
        resource.promise(kind, rights, kept);
        self.rooms[usize::from(index)] = resource.room();
    }

    /// Whether anything is promised of any limit.
    pub fn promises(&mut self, promises: bool) {
        self.promises = promises;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let scale = Scale { limit: 100 };
        let check = |rights: [u32; 3], used: u64, amount: u64, expected: [u64; 3]| {
            let kept = (amount > 0).then_some(Kept { priority: Priority::Interactive, size: 20 });
            let mut promised = Promised::default();
            promised.set(rights, kept, scale, 500_000);
            let free = Priority::ALL.map(|priority| promised.free(priority, amount, used));
            assert_eq!(free, expected, "{rights:?} {used} {amount}");
        };
        check([0; 3], 10, 0, [40, 40, 40]);
        check([100_000, 0, 0], 10, 0, [30, 30, 30]);
        check([0, 100_000, 200_000], 10, 0, [40, 30, 10]);
        // More than is held, and less than is in use.
        check([0, 0, 900_000], 10, 0, [40, 40, 0]);
        check([0, 400_000, 0], 30, 0, [20, 0, 0]);
        // Who is more urgent does not wait for a large task that is less so, and large ones find the room.
        check([0; 3], 10, 5, [40, 20, 20]);
        check([0; 3], 10, 20, [40, 40, 40]);
        check([0; 3], 45, 5, [5, 0, 0]);
    }
}
