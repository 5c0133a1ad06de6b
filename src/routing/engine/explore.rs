//! Exploration: a small share of the tasks goes where it may be better than is believed.
//!
//! What is believed of a resource rests on the results that it had, so one that is believed to be bad
//! would never get the results that show the contrary. Each other candidate with room is chosen with
//! a probability that falls with the square of its gap to the best, in standard deviations of what is
//! believed of it (inverse gap weighting: Abe and Long 1999; Foster and Rakhlin, *Beyond UCB*, 2020).
//! So what is known well is hardly tried: exploration falls to almost nothing by itself as results come in, and
//! does not end, because beliefs forget. All of them together get at most `explore_share` of the tasks.
//!
//! The die is the task's own id with the stage and the attempt that are decided: a decision that is made again
//! comes out the same, and those of one task are independent of each other. Unlike Thompson sampling,
//! every probability is known exactly; it is in the decision, for evaluation off-policy.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::super::TaskKey;
use super::super::eligibility::Memo;
use super::super::state::{LiveTask, State};
use super::survey::{Ask, Offer};
use crate::model::task::{Objective, Priority};

/// So that the die is independent of whatever else is drawn from a task's id.
const SALT: u64 = 0x6578_706c_6f72_6531;

/// Of one decision: a task that explores at one stage is no more likely to explore at the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Die {
    key: TaskKey,
    stage: u32,
    attempt: u32,
}

impl Die {
    /// Of a new task.
    pub fn first(key: TaskKey) -> Self {
        Die { key, stage: 0, attempt: 1 }
    }

    /// Of the next attempt of a task that the lane holds.
    pub fn next(key: TaskKey, live: &LiveTask) -> Self {
        Die { key, stage: live.task.stage, attempt: live.attempt + 1 }
    }

    /// In [0, 1).
    fn cast(self) -> f64 {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.key.0);
        bytes[16..20].copy_from_slice(&self.stage.to_le_bytes());
        bytes[20..].copy_from_slice(&self.attempt.to_le_bytes());
        // 53 bits: what a double holds.
        (xxh3_64_with_seed(&bytes, SALT) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The offer that is taken where `best` is the best with room, and the probability that it is.
pub(super) fn explore<'a>(
    state: &State,
    memo: &mut Memo,
    ask: &Ask<'a>,
    die: Die,
    best: Offer<'a>,
) -> (Offer<'a>, f64) {
    let share = state.policy.explore_share;
    let shape = &ask.candidates.shape;
    if share <= 0.0 || shape.priority == Priority::Critical || memo.scored.len() < 2 {
        return (best, 1.0);
    }
    // Who had an attempt has lost time already.
    if !ask.tried.is_empty() {
        return (best, 1.0);
    }
    let worth = Objective::from(shape.objective).weights().quality;
    let count = memo.scored.len() as f64;
    // The scored ones are some of the list, in its order.
    let mut list = ask.candidates.list.iter();
    memo.chances.clear();
    let mut all = 0.0;
    for (score, resource) in &memo.scored {
        let Some(candidate) = list.find(|one| one.resource == *resource) else { break };
        let spread = worth * candidate.deviation;
        let gap = best.score - score;
        // One that is better has no room, or costs more than the task may pay.
        if candidate.resource == best.candidate.resource || gap < 0.0 || spread <= 0.0 {
            continue;
        }
        let gap = gap / spread;
        let chance = 1.0 / (count * (1.0 + gap * gap));
        all += chance;
        memo.chances.push((chance, *score, candidate.resource));
    }
    // Who has no room leaves its chance to the best.
    let scale = if all > share { share / all } else { 1.0 };
    let mut left = die.cast();
    if left < all * scale {
        // The names of resources decide nothing.
        memo.chances.sort_by(|(_, one, _), (_, other, _)| other.total_cmp(one));
    }
    let mut taken = 0.0;
    let rooms = ask.rooms(state);
    for (chance, score, resource) in &memo.chances {
        let room = rooms.of(*resource);
        if !room.fits(ask.tokens()) {
            continue;
        }
        let chance = chance * scale;
        taken += chance;
        if left < chance
            && let Some(candidate) =
                ask.candidates.list.iter().find(|one| one.resource == *resource)
        {
            let price = ask.price(state, *resource);
            let offer = Offer { candidate, score: *score, price, slots: room.slots };
            return (offer, chance);
        }
        left -= chance;
    }
    (best, 1.0 - taken)
}

#[cfg(test)]
mod tests;
