//! Folding of what breakers and health events do to resources, and to what is under way there.

use super::super::TaskKey;
use super::super::breaker::Position;
use super::super::breakers::Ended;
use super::super::fact::{AttemptEnd, ResourceIndex, Shown};
use super::super::state::{Failover, Phase, State};
use crate::model::health::HealthStatus;

impl State {
    /// Brings the resources' health up to date, and starts or ends failovers with it.
    pub(super) fn apply_health(&mut self) {
        let now = self.batch_time;
        for index in self.health.apply(&mut self.fleet, now) {
            if self.fleet.is_busy(index) {
                let tasks = self.failovers.get(&index).map_or(0, |failover| failover.tasks);
                self.failovers.insert(index, Failover { tasks, reserved_by: now });
            }
        }
        let is_down = |index: ResourceIndex| self.fleet.at(index).health == HealthStatus::Unhealthy;
        self.failovers.retain(|index, _| is_down(*index));
        for index in self.fleet.indices() {
            if is_down(index) {
                self.spikes.down(index, now);
            } else {
                self.spikes.up(index);
            }
        }
    }

    /// What an attempt's end says of its resource's health.
    pub(super) fn watch(&mut self, key: TaskKey, end: AttemptEnd, shown: Option<&Shown>) {
        let Some(live) = self.tasks.get(&key) else { return };
        let Phase::InFlight { resource, .. } = live.phase else { return };
        // Nobody asks any more, and its place will be another's.
        if self.fleet.at(resource).removed {
            return;
        }
        let terms = self.fleet.terms(resource);
        let sizes = shown.and_then(|shown| Some((shown.input_tokens?, shown.output_tokens?)));
        let entry_ms = sizes.map(|(input, output)| terms.latency_ms(input, f64::from(output)));
        let ended = Ended { end, shown, entry_ms };
        if self.health.breakers.ended_v1(resource, self.batch_time, &ended) {
            self.apply_health();
        }
    }

    pub(super) fn tell_breaker(&mut self, resource: ResourceIndex, status: HealthStatus) {
        let busy = self.fleet.is_busy(resource);
        if !self.health.breakers.told_v1(resource, self.batch_time, busy, status) {
            return;
        }
        if matches!(self.health.breakers.position(resource), Position::HalfOpen { .. }) {
            self.learned.forgive(resource);
        }
        self.apply_health();
    }

    /// Lets new work use what health lets through at the time of the batch.
    pub(super) fn open_slots(&mut self) {
        let unsettled: Vec<ResourceIndex> = self.health.unsettled().collect();
        for index in unsettled {
            self.admit_anew(index);
        }
        self.health.settle(self.batch_time);
    }

    /// The lane's part of a resource has changed, or what its health lets through.
    pub(super) fn admit_anew(&mut self, index: ResourceIndex) {
        let admitted = self.health.admits(index, self.fleet.at(index), self.batch_time);
        self.fleet.admit(index, admitted);
    }
}
