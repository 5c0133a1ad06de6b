//! The bundled fleet, compressed like the trace.

use crate::model::resource::{Dimension, FleetFile};

const BUNDLED: &str = include_str!("../../data/demo_fleet.toml");

/// The speed that the amounts in the bundled fleet are meant for: the hour in 29 seconds.
pub const SPEED_DEFAULT: f64 = 120.0;

/// More than the largest task of the trace reserves: it must fit at any speed.
const TASK_TOKENS_MAX: u64 = 16_384;

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("the bundled fleet cannot be read: {0}")]
    Read(#[from] toml::de::Error),
    #[error("the bundled fleet is not valid: {0}")]
    Invalid(String),
}

/// The bundled fleet for a demo at `speed` seconds of trace in one second.
///
/// Models answer `speed` times faster, so their speeds are multiplied; windows stay 10 s of real
/// time, so `speed / SPEED_DEFAULT` times as much arrives in one and the amounts are scaled by that.
/// Slots stay: as many attempts as before overlap.
pub fn bundled(speed: f64) -> Result<FleetFile, FleetError> {
    let mut fleet: FleetFile = toml::from_str(BUNDLED)?;
    let scale = |amount: u64| ((amount as f64 * speed / SPEED_DEFAULT).round() as u64).max(1);
    for resource in &mut fleet.resources {
        resource.speed.time_to_first_token_ms /= speed;
        resource.speed.prefill_tokens_per_s *= speed;
        resource.speed.decode_tokens_per_s *= speed;
        for limit in &mut resource.limits {
            let least = match limit.dimension {
                Dimension::Requests => 1,
                Dimension::Tokens => TASK_TOKENS_MAX,
            };
            limit.amount = scale(limit.amount).max(least);
        }
    }
    for limit in fleet.tenants.iter_mut().flat_map(|tenant| &mut tenant.limits) {
        limit.amount = scale(limit.amount);
    }
    let invalid = fleet.resources.iter().flat_map(|resource| resource.validate());
    let invalid = invalid.chain(fleet.tenants.iter().flat_map(|tenant| tenant.validate()));
    match invalid.map(|invalid| invalid.to_string()).next() {
        Some(invalid) => Err(FleetError::Invalid(invalid)),
        None => Ok(fleet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_is_varied_and_its_windows_are_short() {
        let fleet = bundled(SPEED_DEFAULT).unwrap();
        assert!((12..=20).contains(&fleet.resources.len()));
        assert!((3..=5).contains(&fleet.tenants.len()));
        let mut providers: Vec<_> = fleet.resources.iter().map(|one| &one.provider).collect();
        providers.sort_unstable();
        providers.dedup();
        assert_eq!(providers.len(), 9);
        let limits = || fleet.resources.iter().flat_map(|one| &one.limits);
        assert!(limits().all(|limit| limit.window_s == 10));
        assert_eq!(limits().count(), 2 * fleet.resources.len());
        assert!(fleet.tenants.iter().any(|one| one.burst.is_some()));
    }

    #[test]
    fn speed_scales_durations_and_amounts() {
        let usual = bundled(SPEED_DEFAULT).unwrap();
        let half = bundled(SPEED_DEFAULT / 2.0).unwrap();
        let of = |fleet: &FleetFile| {
            let one = &fleet.resources[0];
            (one.speed.decode_tokens_per_s, one.limits[0].amount, one.limits[1].amount, one.slots)
        };
        assert_eq!(of(&usual), (8_640.0, 350, 670_000, 48));
        assert_eq!(of(&half), (4_320.0, 175, 335_000, 48));
        assert_eq!(of(&bundled(0.01).unwrap()), (0.72, 1, TASK_TOKENS_MAX, 48));
    }
}
