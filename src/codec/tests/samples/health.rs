//! What is said of health, and of a provider's headroom.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::{count, name, share, time};
use crate::codec::inputs;
use crate::model::health::{HealthEvent, HealthScope, HealthStatus, LoweredLimit};
use crate::model::result::RateLimit;
use crate::model::rights::Counted;

pub fn rate_limit() -> impl Strategy<Value = RateLimit> {
    let dimension = select(&inputs::DIMENSIONS[..]);
    let window_s = option::of(1_u32..=86_400);
    (dimension, window_s, option::of(count()), count(), option::of(count())).prop_map(
        |(dimension, window_s, limit, remaining, reset_ms)| RateLimit {
            dimension,
            window_s,
            limit,
            remaining,
            reset_ms,
        },
    )
}

fn lowered() -> impl Strategy<Value = Vec<LoweredLimit>> {
    let counted = select(vec![Counted::Requests, Counted::Tokens]);
    let one = (counted, 1_u32..=86_400, 1..=1_u64 << 40, time()).prop_map(
        |(dimension, window_s, limit, until_at_ms)| LoweredLimit {
            dimension,
            window_s,
            limit,
            until_at_ms,
        },
    );
    vec(one, 1..4)
}

pub fn health_event() -> impl Strategy<Value = HealthEvent> {
    (
        select(&inputs::HEALTH_SCOPES[..]),
        name(),
        select(&inputs::HEALTH_STATUSES[..]),
        share(),
        name(),
        option::of(time()),
        name(),
        option::of(lowered()),
    )
        .prop_map(|(scope, id, status, severity, reason, at_ms, source, lowered)| {
            let event = HealthEvent {
                scope,
                id,
                status,
                severity,
                reason,
                at_ms,
                source,
                limits: Vec::new(),
            };
            let Some(limits) = lowered else { return event };
            let (scope, status) = (HealthScope::Resource, HealthStatus::Degraded);
            HealthEvent { scope, status, limits, ..event }
        })
}
