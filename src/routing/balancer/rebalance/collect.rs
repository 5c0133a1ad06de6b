//! Collecting fragments: a task that fits the limit but not the units of its lane needs rights from
//! several lanes. Where two lanes collect at the same time both may end with half of what they need,
//! so it is one lane's turn; and a turn ends, so that a task that nobody can help does not keep the
//! others from theirs.

use std::cmp::Reverse;

use super::asked::Collecting;
use super::shares::{Round, Stand};
use crate::model::task::Priority;
use crate::model::time::Timestamp;

/// A turn lasts a window and a quarter at most, and at least and at most so long, milliseconds: where lanes
/// began to be busy at the same time, all comes back at the same time, a window later.
const TURN_MS: (u64, u64) = (10_000, 120_000);

/// A lane that keeps room together for a large task does so for ten seconds; it is told again after so long,
/// milliseconds.
const KEEP_AGAIN_MS: u64 = 5_000;

/// A lane whose turn it was keeps what it got for so long while tasks wait there, milliseconds. It is ten
/// times the way of rights from lane to lane, so where units go round they work nine tenths of the time.
const KEEP_MS: u64 = 5_000;

/// Lanes that are asked at the same time: a collection that needs more of them takes several rounds.
const GIVERS_MAX: usize = 16;

impl Round<'_> {
    pub fn collect(&mut self) {
        let Some(receiver) = self.whose_turn() else { return };
        self.keep_together(receiver);
        let lacks = |round: &Self| {
            let stand = &round.stands[receiver];
            round.needs(stand).saturating_sub(stand.units)
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

    /// Units with which the largest task that waits in a lane finds room beside what is in use there; 0: no
    /// task does.
    fn needs(&self, stand: &Stand) -> u64 {
        match stand.largest {
            0 => 0,
            // Where units go round, the one that comes is free.
            1 => 1,
            largest => largest.saturating_add(stand.used).min(self.limit.scale.limit),
        }
    }

    /// Smaller tasks of the lane would take what comes, bit by bit.
    fn keep_together(&mut self, receiver: usize) {
        let (now, stand) = (self.now, self.stands[receiver]);
        let Some(collecting) = &mut self.memory.collecting else { return };
        let is_kept = collecting.kept_at.is_some_and(|at| now.ms_since(at) < KEEP_AGAIN_MS);
        if stand.largest > 1 && self.limit.window_s > 0 && !is_kept {
            collecting.kept_at = Some(now);
            self.keep(receiver);
        }
    }

    /// The place of the lane for which rights are collected now.
    fn whose_turn(&mut self) -> Option<usize> {
        let now = self.now;
        let window_ms = u64::from(self.limit.window_s) * 1_000;
        let (least_ms, most_ms) = TURN_MS;
        let turn_ms = (window_ms + window_ms / 4).clamp(least_ms, most_ms);
        if let Some(Collecting { lane, since, size, .. }) = self.memory.collecting {
            let place = self.stands.iter().position(|stand| stand.lane == lane);
            // Until it has them: what is only advised may not come.
            let lacks = |place: &usize| {
                let stand = &self.stands[*place];
                self.needs(stand) > stand.units_told
            };
            let is_on = place.filter(lacks).filter(|_| now.ms_since(since) < turn_ms);
            if is_on.is_some() {
                return is_on;
            }
            self.memory.collecting = None;
            self.memory.collected.insert(lane, now);
            // What comes together is of use to nobody until it has. So large tasks have half of the time in
            // which something becomes free: where a turn took long it did not, or the turn was for nothing.
            if size > 1 {
                let took_ms = now.ms_since(since);
                let pause_ms = if took_ms < turn_ms { took_ms.min(window_ms / 4) } else { took_ms };
                self.memory.collect_at = now.plus_ms(pause_ms);
                return None;
            }
        }
        let needs = |place: &usize| {
            let stand = &self.stands[*place];
            let is_pause = stand.largest > 1
                && now < self.memory.collect_at
                && stand.priority != Priority::Critical;
            self.needs(stand) > stand.units && !is_pause
        };
        let rank = |place: &usize| {
            let stand = &self.stands[*place];
            let last = self.memory.collected.get(&stand.lane).copied();
            let is_critical = stand.priority == Priority::Critical;
            (!is_critical, stand.since.max(last.unwrap_or(Timestamp::EPOCH)), stand.lane)
        };
        let next = (0..self.stands.len()).filter(needs).min_by_key(rank)?;
        let Stand { lane, largest: size, .. } = self.stands[next];
        self.memory.collecting = Some(Collecting { lane, since: now, size, kept_at: None });
        Some(next)
    }

    /// From lanes that use what they have: those with the most owe it, each its share.
    fn collect_from_busy(&mut self, receiver: usize, lacking: u64) {
        let priority = self.stands[receiver].priority;
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
            left -= self.owe(giver, receiver, part, priority);
        }
    }
}
