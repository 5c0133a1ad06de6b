//! Folding of lowered limits: see [`super::super::headroom`].

use super::super::fact::LoadOwner;
use super::super::state::State;
use crate::model::health::HealthEvent;

impl State {
    pub(super) fn hear_limits(&mut self, event: &HealthEvent) {
        if self.health.headroom.set(event, self.batch_time) {
            self.lower_limits(&event.id);
        }
    }

    /// What has ended at the time of the batch.
    pub(super) fn raise_limits(&mut self) {
        for id in self.health.headroom.end(self.batch_time) {
            self.lower_limits(&id);
        }
    }

    /// Brings a resource's limits up to date with what is said of them.
    pub(super) fn lower_limits(&mut self, id: &str) {
        let Some(index) = self.fleet.index_of(id) else { return };
        let headroom = &self.health.headroom;
        self.fleet.lower(index, |kind| Some(headroom.lowest(id, kind)?.0));
        self.admit_anew(index);
        if self.lanes > 1 {
            self.sharing.untold.insert(LoadOwner::Resource(index));
        }
    }
}
