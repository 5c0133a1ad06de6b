//! Slots that stand idle at the moment, in lanes where no task waits, for lanes whose tasks have waited for a
//! while.
//!
//! A lane keeps what it used at most of late, so that what it gave away is not wanted back. Where lanes have one
//! or two slots each, that is all that there is: a lane with a task now and then would hold its slot idle for most of the time, and
//! the lane with the long queue would never see it. What a window holds changes slowly, so rates do not need this.

use std::cmp::Reverse;

use super::shares::{Round, Stand};

/// Tasks that wait for less are served by what the others' usual use leaves, milliseconds.
const PATIENCE_MS: u64 = 1_000;

/// A lane is asked no more often, milliseconds: its own next task may have to wait until a slot is back.
const AGAIN_MS: u64 = 5_000;

impl Round<'_> {
    pub fn take_idle(&mut self) {
        let now = self.now;
        let mut receivers: Vec<usize> =
            (0..self.stands.len()).filter(|place| self.wants_idle(&self.stands[*place])).collect();
        receivers.retain(|place| now.ms_since(self.stands[*place].since) >= PATIENCE_MS);
        receivers.sort_by_key(|place| (self.stands[*place].since, self.stands[*place].lane));
        for receiver in receivers {
            let stand = &self.stands[receiver];
            let mut lacks = stand.wants - stand.units;
            for giver in self.idle_lanes() {
                let from = self.stands[giver];
                let last = self.memory.idle.get(&from.lane);
                if lacks == 0 || last.is_some_and(|at| now.ms_since(*at) < AGAIN_MS) {
                    continue;
                }
                // Half of it: something may come there too.
                lacks -= self.give(giver, receiver, from.idle().div_ceil(2).min(lacks));
                self.memory.idle.insert(from.lane, now);
            }
        }
    }

    /// Whether time alone may move something.
    pub fn awaits_idle(&self) -> bool {
        self.stands.iter().any(|stand| self.wants_idle(stand)) && !self.idle_lanes().is_empty()
    }

    fn wants_idle(&self, stand: &Stand) -> bool {
        self.limit.window_s == 0 && stand.is_waiting && stand.units < stand.wants
    }

    /// Those with most first.
    fn idle_lanes(&self) -> Vec<usize> {
        let is_idle = |place: &usize| {
            let stand = &self.stands[*place];
            !stand.is_left_alone && !stand.is_waiting && stand.idle() > 0
        };
        let mut lanes: Vec<usize> = (0..self.stands.len()).filter(is_idle).collect();
        lanes.sort_by_key(|place| (Reverse(self.stands[*place].idle()), self.stands[*place].lane));
        lanes
    }
}

impl Stand {
    /// Units that nobody uses now.
    fn idle(&self) -> u64 {
        self.units.saturating_sub(self.used)
    }
}
