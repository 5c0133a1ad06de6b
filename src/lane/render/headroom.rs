//! What a lane says of a provider that grants less than is counted.

use super::Renderer;
use crate::model::health::{HealthEvent, HealthScope, HealthStatus, LoweredLimit};
use crate::routing::fact::ResourceIndex;
use crate::routing::headroom::{headroom_source, telling_text};
use crate::routing::state::State;

impl Renderer<'_> {
    /// Every lane reads it, this one too, and lowers the limits then.
    pub(super) fn headroom(
        &mut self,
        state: &State,
        resource: ResourceIndex,
        limits: &[LoweredLimit],
    ) {
        let resource = state.fleet.at(resource);
        let told = telling_text(resource, limits);
        self.health(&HealthEvent {
            scope: HealthScope::Resource,
            id: resource.id.to_string(),
            status: HealthStatus::Degraded,
            // Its answers are as good as before.
            severity: 0.0,
            reason: format!("the provider grants less, as lane {} hears: {told}", state.lane),
            at_ms: Some(state.batch_time),
            source: headroom_source(state.lane),
            limits: limits.to_vec(),
        });
    }
}
