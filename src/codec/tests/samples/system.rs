//! How a lane fares.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{count, name, number, time};
use crate::model::system_health::{Strategy as SpikeStrategy, SystemHealth, SystemStatus};

pub fn system_health() -> impl Strategy<Value = SystemHealth> {
    let what = (select(&SystemStatus::ALL[..]), select(&SpikeStrategy::ALL[..]), time());
    let rates = (number(), number(), number(), number(), number(), number());
    let rest = (any::<bool>(), rates, vec(name(), 0..3));
    (what, any::<[u32; 5]>(), (count(), count(), count()), rest).prop_map(
        |(what, resources, backlog, (surge, rates, tenants_surging))| SystemHealth {
            status: what.0,
            strategy: what.1,
            strategy_since_ms: what.2,
            healthy: resources[0],
            degraded: resources[1],
            unhealthy: resources[2],
            draining: resources[3],
            full: resources[4],
            backlog_critical: backlog.0,
            backlog_interactive: backlog.1,
            backlog_batch: backlog.2,
            surge,
            arrivals_per_s: rates.0,
            arrivals_per_s_usual: rates.1,
            arrivals_per_s_expected: rates.2,
            routed_per_s: rates.3,
            refused_per_s: rates.4,
            shed_per_s: rates.5,
            tenants_surging,
        },
    )
}
