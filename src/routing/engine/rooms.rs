//! What a task may take of resources now.

use super::super::eligibility::Candidates;
use super::super::fact::{ResourceIndex, TenantIndex};
use super::super::fleet::Room;
use super::super::state::State;
use super::survey::Ask;

impl Ask<'_> {
    /// Whose budget has no room for what it costs there.
    pub fn unaffordable(&self, state: &State, resource: ResourceIndex) -> Option<TenantIndex> {
        let Candidates { tenant, shape, .. } = self.candidates;
        let usd_micros = || self.usd_micros(state, resource);
        state.tenants.unaffordable(*tenant, shape.priority, usd_micros)
    }

    /// What the resource has for it now, whatever it costs.
    pub fn capacity(&self, state: &State, resource: ResourceIndex) -> Room {
        let priority = self.candidates.shape.priority;
        state.room(self.candidates.tenant, resource, priority, self.tokens())
    }

    /// What it may take there now: nothing where a budget has no room for it, and not what it holds back.
    pub fn room(&self, state: &State, resource: ResourceIndex) -> Room {
        match self.unaffordable(state, resource) {
            Some(_) => Room::default(),
            None => {
                let room = self.capacity(state, resource);
                self.held_back(state, resource).map_or(room, |held| room.least(held.room))
            }
        }
    }

    /// The same of every resource, for who asks of many.
    pub fn rooms<'s>(&'s self, state: &'s State) -> Rooms<'s> {
        let same = state.rooms(self.candidates.tenant).filter(|_| !self.may_hold_back(state));
        Rooms { ask: self, state, same }
    }
}

/// What a task may take now.
pub(super) struct Rooms<'a> {
    ask: &'a Ask<'a>,
    state: &'a State,
    /// By resource, where it is the same whoever asks: most tasks, so what is asked of each candidate is
    /// only looked up.
    same: Option<&'a [Room]>,
}

impl Rooms<'_> {
    /// As [`Ask::room`].
    #[inline]
    pub fn of(&self, resource: ResourceIndex) -> Room {
        match self.same {
            Some(rooms) => rooms[usize::from(resource)],
            None => self.ask.room(self.state, resource),
        }
    }
}
