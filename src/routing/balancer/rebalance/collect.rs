//! Collecting fragments: a task that fits the limit but not the units of its lane needs rights from
//! several lanes. Where two lanes collect at the same time both may end with half of what they need,
//! so it is one lane's turn; and a turn ends, so that a task that nobody can help does not keep the
//! others from theirs.

use std::cmp::Reverse;

use super::asked::Collecting;
use super::shares::Round;
use crate::model::time::Timestamp;

/// A turn lasts so long at most, milliseconds: a window of a minute gives back a sixth of what lanes use.
const TURN_MS: u64 = 10_000;

/// A lane whose turn it was keeps what it got for so long while tasks wait there, milliseconds. It is ten
/// times the way of rights from lane to lane, so where units go round they work nine tenths of the time.
const KEEP_MS: u64 = 5_000;

/// Lanes that are asked at the same time: a collection that needs more of them takes several rounds.
const GIVERS_MAX: usize = 16;

impl Round<'_> {
    pub fn collect(&mut self) {
        let Some(receiver) = self.whose_turn() else { return };
        let lacks = |round: &Self| {
            let stand = &round.stands[receiver];
            stand.largest.saturating_sub(stand.units)
        };
        // What nobody uses costs nobody anything.
        for giver in self.givers().into_iter().take(GIVERS_MAX) {
            let units = self.stands[giver].spare().min(lacks(self));
            if giver != receiver && units > 0 {
                self.give(giver, receiver, units);
            }
        }
        let lacking = lacks(self);
        if lacking > 0 {
            self.collect_from_busy(receiver, lacking);
        }
        self.stands[receiver].is_left_alone = true;
    }

    /// The place of the lane for which rights are collected now.
    fn whose_turn(&mut self) -> Option<usize> {
        let now = self.now;
        let needs = |place: &usize| {
            let stand = &self.stands[*place];
            stand.largest > stand.units
        };
        if let Some(Collecting { lane, since }) = self.memory.collecting {
            let place = self.stands.iter().position(|stand| stand.lane == lane);
            // Until it has them: what is only advised may not come.
            let lacks = |place: &usize| {
                let stand = &self.stands[*place];
                stand.largest > stand.units_told
            };
            let is_on = place.filter(lacks).filter(|_| now.ms_since(since) < TURN_MS);
            if is_on.is_some() {
                return is_on;
            }
            self.memory.collecting = None;
            self.memory.collected.insert(lane, now);
        }
        let rank = |place: &usize| {
            let stand = &self.stands[*place];
            let last = self.memory.collected.get(&stand.lane).copied();
            (stand.since.max(last.unwrap_or(Timestamp::EPOCH)), stand.lane)
        };
        let next = (0..self.stands.len()).filter(needs).min_by_key(rank)?;
        self.memory.collecting = Some(Collecting { lane: self.stands[next].lane, since: now });
        Some(next)
    }

    /// From lanes that use what they have, and may have some left between two tasks: those with the
    /// most, each its share.
    fn collect_from_busy(&mut self, receiver: usize, lacking: u64) {
        let keeps = |lane: u32| {
            let collected = self.memory.collected.get(&lane);
            collected.is_some_and(|at| self.now.ms_since(*at) < KEEP_MS)
        };
        let mut busy: Vec<usize> = (0..self.stands.len())
            .filter(|place| {
                let stand = &self.stands[*place];
                let is_free = !stand.is_left_alone && *place != receiver && stand.units > 0;
                is_free && !(stand.is_waiting && keeps(stand.lane))
            })
            .collect();
        busy.sort_by_key(|place| (Reverse(self.stands[*place].units), self.stands[*place].lane));
        busy.truncate(GIVERS_MAX);
        let held: u128 = busy.iter().map(|place| u128::from(self.stands[*place].units)).sum();
        let mut left = lacking;
        for giver in busy {
            let units = u128::from(self.stands[giver].units);
            // As a share of all that is asked; rounded up, and the last ones need not give.
            let part = (u128::from(lacking) * units).div_ceil(held.max(1));
            let part = u64::try_from(part).unwrap_or(lacking).min(left);
            left -= self.give(giver, receiver, part);
        }
    }
}
