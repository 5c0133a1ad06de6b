//! Holding back: before a limit is full, a task that can wait leaves free what higher priorities took of it
//! lately. The present is the forecast: who came in the last seconds will come again. Where a burst uses
//! a limit up, the ones that can wait have waited, and the ones that cannot find room.
//!
//! This is a threshold policy with trunk reservation (Key, 1990), whose reserve follows the load.

use super::super::fact::ResourceIndex;
use super::super::fleet::{Claim, Room};
use super::super::shares::OWED_TOKENS_MAX;
use super::super::state::State;
use super::survey::Ask;
use crate::model::resource::Dimension;

/// A task no longer holds back so long before its time ends, milliseconds: it is asked ten times until then.
const LAST_MS: f64 = 1_000.0;

/// What a task leaves to others on a resource.
pub(super) struct HeldBack {
    /// What is left for the task itself.
    pub room: Room,
    /// What has to be free besides what it takes.
    pub claim: Claim,
}

impl Ask<'_> {
    /// `None` where it leaves nothing: it cannot wait, or is owed its turn, or nobody above it came lately.
    pub fn held_back(&self, state: &State, resource: ResourceIndex) -> Option<HeldBack> {
        if !self.may_hold_back(state) {
            return None;
        }
        let priority = self.candidates.shape.priority;
        let (mut held, mut is_any) = (HeldBack { room: Room::ALL, claim: Claim::default() }, false);
        for rate in &state.fleet.at(resource).rates {
            let back = rate.held_back(priority, state.batch_time);
            is_any |= back > 0;
            let HeldBack { room, claim } = &mut held;
            match rate.limit.dimension {
                Dimension::Requests => {
                    room.requests =
                        room.requests.min(rate.free_for(priority, 1).saturating_sub(back));
                    claim.tasks = claim.tasks.max(u32::try_from(back).unwrap_or(u32::MAX));
                }
                Dimension::Tokens => {
                    let free = rate.free_for(priority, self.tokens());
                    room.tokens = room.tokens.min(free.saturating_sub(back));
                    claim.tokens = claim.tokens.max(back);
                }
            }
        }
        (is_any && !self.must_go(state, resource)).then_some(held)
    }

    /// Whether it may leave something anywhere: it can wait, and somebody above it came.
    pub fn may_hold_back(&self, state: &State) -> bool {
        let can_wait = self.wait_ms.is_some_and(|ms| ms > LAST_MS);
        // Where places to wait are short, it may have to give its own to another.
        let places = state.policy.backlog_tasks_max as usize;
        can_wait
            && state.backlog.len() < places / 2
            && state.shares.has_served_above(self.candidates.shape.priority)
    }

    /// Whether its deadline lets it wait no longer, or its priority is owed as much as it takes.
    fn must_go(&self, state: &State, resource: ResourceIndex) -> bool {
        let upper_ms = || self.latency(state, resource).upper_ms;
        if self.left_ms.is_some_and(|left_ms| left_ms - upper_ms() <= LAST_MS) {
            return true;
        }
        let tokens = f64::from(self.input_tokens) + self.output_expected;
        let needed = if tokens < OWED_TOKENS_MAX { tokens } else { OWED_TOKENS_MAX };
        state.shares.owed(self.candidates.shape.priority) >= needed
    }
}
