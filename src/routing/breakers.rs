//! The breakers of a lane's resources: which have moved, what they let through, and what the other
//! lanes have to be told.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::breaker::{Breaker, Outcome, Position};
use super::fact::{AttemptEnd, ResourceIndex, Shown};
use crate::model::health::HealthStatus;
use crate::model::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    breaker: Breaker,
    /// What the other lanes know.
    told: HealthStatus,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { breaker: Breaker::default(), told: HealthStatus::Healthy }
    }
}

/// What the others have to know. Probing is this lane's own business: they wait until it is over.
fn status(position: Position) -> HealthStatus {
    match position {
        Position::Closed => HealthStatus::Healthy,
        Position::Open { .. } | Position::HalfOpen { .. } => HealthStatus::Unhealthy,
        Position::Recovering { .. } => HealthStatus::Degraded,
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Breakers {
    /// Those that have seen an outcome; a resource's place in the fleet bounds them.
    all: BTreeMap<ResourceIndex, Kept>,
    /// Those that do not let everything through, or did not a moment ago.
    unsettled: BTreeSet<ResourceIndex>,
}

impl Breakers {
    pub fn position(&self, resource: ResourceIndex) -> Position {
        self.all.get(&resource).map_or(Position::Closed, |kept| kept.breaker.position())
    }

    /// Where time alone moves it.
    pub fn position_at(&self, resource: ResourceIndex, now: Timestamp) -> Position {
        self.all.get(&resource).map_or(Position::Closed, |kept| kept.breaker.position_at(now))
    }

    /// Slots of `units` that new work may hold at `now`.
    pub fn slots(&self, resource: ResourceIndex, units: u32, now: Timestamp) -> u32 {
        let Some(Kept { breaker, .. }) = self.all.get(&resource) else { return units };
        if breaker.probes(now, 0) {
            // One probe at a time: what is still in flight from before counts as one.
            return 1;
        }
        let share = breaker.share(now);
        if share <= 0.0 { 0 } else { ((f64::from(units) * share) as u32).max(1).min(units) }
    }

    /// Those whose slots have to be looked at with every batch.
    pub fn unsettled(&self) -> impl Iterator<Item = ResourceIndex> {
        self.unsettled.iter().copied()
    }

    /// Those that time moves, and those of which the other lanes do not know it yet.
    pub fn untold(&self, now: Timestamp) -> impl Iterator<Item = (ResourceIndex, HealthStatus)> {
        self.unsettled.iter().filter_map(move |resource| {
            let Kept { breaker, told } = self.all.get(resource)?;
            let position = breaker.position_at(now);
            let status = status(position);
            (position != breaker.position() || status != *told).then_some((*resource, status))
        })
    }

    /// Moves it as far as time does, which is what the others are told; whether it moved.
    pub fn told_v1(
        &mut self,
        resource: ResourceIndex,
        now: Timestamp,
        status: HealthStatus,
    ) -> bool {
        let Some(kept) = self.all.get_mut(&resource) else { return false };
        kept.told = status;
        kept.breaker.advance_v1(now)
    }

    /// When time alone will let something through again.
    pub fn due(&self) -> Option<Timestamp> {
        let due = self.unsettled.iter().filter_map(|resource| {
            let Kept { breaker, .. } = self.all.get(resource)?;
            let limited = breaker.limited_until();
            breaker.due().or((limited > Timestamp::EPOCH).then_some(limited))
        });
        due.min()
    }

    /// Forgets to look at those that let everything through again.
    pub fn settle(&mut self, now: Timestamp) {
        let all = &self.all;
        self.unsettled.retain(|resource| {
            all.get(resource).is_some_and(|Kept { breaker, told }| {
                breaker.position() != Position::Closed
                    || *told != HealthStatus::Healthy
                    || breaker.limited_until() > now
            })
        });
    }

    /// Learns from an attempt that ended; whether what the breaker lets through has changed.
    pub fn observe_v1(
        &mut self,
        resource: ResourceIndex,
        now: Timestamp,
        end: AttemptEnd,
        shown: &Shown,
    ) -> bool {
        let outcome = match end {
            AttemptEnd::Succeeded => Outcome::Good,
            AttemptEnd::Failed => Outcome::Failed,
            AttemptEnd::RateLimited => {
                Outcome::RateLimited { retry_after_ms: shown.retry_after_ms }
            }
            // A worker's doing, or the producer's, or ours.
            AttemptEnd::Late
            | AttemptEnd::Cancelled
            | AttemptEnd::LeaseExpired
            | AttemptEnd::FailedOver => return false,
        };
        let kept = self.all.entry(resource).or_default();
        let moved = kept.breaker.observe_v1(now, outcome);
        let limited = matches!(outcome, Outcome::RateLimited { .. });
        if moved || limited {
            self.unsettled.insert(resource);
        }
        moved || limited
    }

    /// Another resource has this index now.
    pub fn forget(&mut self, resource: ResourceIndex) {
        self.all.remove(&resource);
        self.unsettled.remove(&resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_FAILED: [AttemptEnd; 5] = [AttemptEnd::Failed; 5];

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(1_000_000 + ms)
    }

    fn look(breakers: &Breakers, now: Timestamp) -> String {
        let untold: Vec<String> = breakers
            .untold(now)
            .map(|(resource, status)| format!("{resource}:{}", status.name()))
            .collect();
        format!(
            "{} {} slots, untold [{}], due {:?}",
            breakers.position(3).name(),
            breakers.slots(3, 20, now),
            untold.join(" "),
            breakers.due().map(|due| due.ms_since(at(0)))
        )
    }

    #[test]
    fn others_are_told_of_the_opening_the_return_and_the_end() {
        let mut breakers = Breakers::default();
        let shown = Shown::default();
        assert_eq!(look(&breakers, at(0)), "closed 20 slots, untold [], due None");
        for end in FIVE_FAILED {
            breakers.observe_v1(3, at(0), end, &shown);
        }
        assert_eq!(look(&breakers, at(0)), "open 0 slots, untold [3:unhealthy], due Some(2000)");
        assert!(!breakers.told_v1(3, at(0), HealthStatus::Unhealthy));
        assert_eq!(look(&breakers, at(1_999)), "open 0 slots, untold [], due Some(2000)");
        assert_eq!(
            look(&breakers, at(2_000)),
            "open 0 slots, untold [3:unhealthy], due Some(2000)"
        );
        assert!(breakers.told_v1(3, at(2_000), HealthStatus::Unhealthy));
        assert_eq!(look(&breakers, at(2_000)), "half-open 1 slots, untold [], due None");
        for _ in 0..3 {
            breakers.observe_v1(3, at(2_100), AttemptEnd::Succeeded, &shown);
        }
        let expected = "recovering 2 slots, untold [3:degraded], due Some(32100)";
        assert_eq!(look(&breakers, at(2_100)), expected);
        breakers.told_v1(3, at(2_100), HealthStatus::Degraded);
        let expected = "recovering 20 slots, untold [3:healthy], due Some(32100)";
        assert_eq!(look(&breakers, at(32_100)), expected);
        breakers.settle(at(32_100));
        assert_eq!(breakers.unsettled().count(), 1);
        breakers.told_v1(3, at(32_100), HealthStatus::Healthy);
        assert_eq!(look(&breakers, at(32_100)), "closed 20 slots, untold [], due None");
        breakers.settle(at(32_100));
        assert_eq!(breakers.unsettled().count(), 0);
    }

    #[test]
    fn a_rate_limit_is_kept_to_and_nobody_is_told() {
        let mut breakers = Breakers::default();
        let shown = Shown { retry_after_ms: Some(7_000), ..Shown::default() };
        breakers.observe_v1(3, at(0), AttemptEnd::RateLimited, &shown);
        assert_eq!(look(&breakers, at(0)), "closed 0 slots, untold [], due Some(7000)");
        breakers.settle(at(7_000));
        assert_eq!(look(&breakers, at(7_000)), "closed 20 slots, untold [], due None");
    }

    #[test]
    fn what_is_not_the_resources_doing_moves_nothing() {
        let mut breakers = Breakers::default();
        for end in [
            AttemptEnd::Late,
            AttemptEnd::Cancelled,
            AttemptEnd::LeaseExpired,
            AttemptEnd::FailedOver,
        ] {
            for _ in 0..20 {
                assert!(!breakers.observe_v1(3, at(0), end, &Shown::default()));
            }
        }
        assert_eq!(breakers, Breakers::default());
    }
}
