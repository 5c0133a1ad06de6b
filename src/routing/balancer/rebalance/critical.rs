//! What critical tasks wait for comes from lanes that use the same limit for tasks that are not: in its own
//! lane a critical task is served before all others, and it should not matter in which one it is.

use std::cmp::Reverse;

use super::shares::Round;
use crate::model::task::Priority;

/// Critical tasks that wait for less are served by what becomes free in their own lane, milliseconds. Where
/// every lane has some, nothing moves for them.
const PATIENCE_MS: u64 = 300;

/// Lanes that are asked at the same time.
const GIVERS_MAX: usize = 16;

/// Nobody knows where something becomes free first: a slot does when an attempt ends, tokens leave a window by
/// whole tasks. So so many times as much is asked for as is needed; the lane's other tasks have use for the rest,
/// of a limit that was short there.
const SLOTS_ASKED: u64 = 2;
const RATES_ASKED: u64 = 4;

impl Round<'_> {
    pub fn serve_critical(&mut self) {
        let now = self.now;
        let waits =
            |lane: u32| self.stands.iter().any(|stand| stand.lane == lane && stand.critical > 0);
        self.memory.critical.retain(|lane, _| waits(*lane));
        let mut receivers = Vec::new();
        for (place, stand) in self.stands.iter().enumerate().filter(|(_, one)| one.critical > 0) {
            let since = *self.memory.critical.entry(stand.lane).or_insert(now);
            if now.ms_since(since) >= PATIENCE_MS {
                receivers.push((since, stand.lane, place));
            }
        }
        receivers.sort_unstable();
        for (_, _, receiver) in receivers {
            self.serve_critical_of(receiver);
        }
    }

    fn serve_critical_of(&mut self, receiver: usize) {
        let stand = self.stands[receiver];
        let limit = self.limit.scale.limit;
        let mut lacks = stand.critical.min(limit).saturating_sub(stand.critical_finds);
        for giver in self.givers().into_iter().take(GIVERS_MAX) {
            let units = self.stands[giver].spare().min(lacks);
            if giver != receiver && units > 0 {
                lacks -= self.give(giver, receiver, units);
            }
        }
        if lacks == 0 {
            return;
        }
        let has = |round: &Self, place: usize| {
            let stand = &round.stands[place];
            stand.units_told.saturating_sub(stand.owes_critical)
        };
        let mut busy: Vec<usize> = (0..self.stands.len())
            .filter(|place| {
                let stand = &self.stands[*place];
                let may = stand.may_owe && stand.critical == 0 && *place != receiver;
                may && has(self, *place) > 0
            })
            .collect();
        busy.sort_by_key(|place| (Reverse(has(self, *place)), self.stands[*place].lane));
        busy.truncate(GIVERS_MAX);
        let held: u128 = busy.iter().map(|place| u128::from(has(self, *place))).sum();
        let times = if self.limit.window_s == 0 { SLOTS_ASKED } else { RATES_ASKED };
        let asked = lacks.saturating_mul(times).saturating_sub(stand.critical_owed);
        let mut left = asked;
        for giver in busy {
            let part = (u128::from(asked) * u128::from(has(self, giver))).div_ceil(held.max(1));
            let part = u64::try_from(part).unwrap_or(asked).min(left);
            left -= self.owe(giver, receiver, part, Priority::Critical);
        }
    }
}
