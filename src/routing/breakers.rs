//! The breakers of a lane's resources: which have moved, what they let through, and what the other
//! lanes have to be told.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::breaker::{Breaker, Outcome, Position};
use super::fact::{AttemptEnd, ResourceIndex, Shown};
use crate::model::health::HealthStatus;
use crate::model::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Kept {
    breaker: Breaker,
    /// What the other lanes know.
    told: HealthStatus,
    usual: Usual,
}

impl Default for Kept {
    fn default() -> Self {
        let (breaker, usual) = (Breaker::default(), Usual::default());
        Kept { breaker, told: HealthStatus::Healthy, usual }
    }
}

/// How long the answers of a resource usually take, as a factor of what its fleet entry says of their sizes.
/// It follows slowly, so that what has become slow is seen next to what was.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Usual {
    factor: f64,
    results: u32,
}

/// So many times the usual is slow: of answers whose length is known, few take twice as long.
const SLOW_TIMES: f64 = 4.0;
/// Results before anything is usual.
const USUAL_MIN: u32 = 50;
/// The weight of a new result: it takes hundreds of slow ones in a row until slow is usual.
const USUAL_STEP: f64 = 1.0 / 256.0;
/// A result counts as no further off than this, up or down.
const USUAL_RATIO_MAX: f64 = 3.0;

impl Usual {
    /// One more result, `times` as long as the entry says; whether it was slow.
    fn observe_v1(&mut self, times: f64) -> bool {
        if !(times.is_finite() && times > 0.0) {
            return false;
        }
        self.results = self.results.saturating_add(1);
        if self.results == 1 {
            self.factor = times;
            return false;
        }
        let ratio = times / self.factor;
        let weight = f64::max(USUAL_STEP, 1.0 / f64::from(self.results));
        let counted = ratio.clamp(1.0 / USUAL_RATIO_MAX, USUAL_RATIO_MAX);
        self.factor *= 1.0 + weight * (counted - 1.0);
        self.results > USUAL_MIN && ratio > SLOW_TIMES
    }
}

/// How an attempt ended, as far as its resource's breaker asks.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    pub end: AttemptEnd,
    /// `None` where no result said that it ended.
    pub shown: Option<&'a Shown>,
    /// What the fleet entry says of its time, for the sizes that it had, milliseconds.
    pub entry_ms: Option<f64>,
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

    /// Where time alone moves it. `busy`: attempts are under way there.
    pub fn position_at(&self, resource: ResourceIndex, now: Timestamp, busy: bool) -> Position {
        let kept = self.all.get(&resource);
        kept.map_or(Position::Closed, |kept| kept.breaker.position_at(now, busy))
    }

    /// What new work may use of it at `now`: of its slots, and the share of them and of its rates, in
    /// [0, 1]. An open one keeps nobody away here: those do who choose among resources.
    pub fn admits(&self, resource: ResourceIndex, units: u32, now: Timestamp) -> (u32, f64) {
        let Some(Kept { breaker, .. }) = self.all.get(&resource) else { return (units, 1.0) };
        if now < breaker.limited_until() {
            return (0, 0.0);
        }
        match breaker.position() {
            Position::Closed | Position::Open { .. } => (units, 1.0),
            // One probe at a time: what is still in flight from before counts as one.
            Position::HalfOpen { .. } => (1, 1.0),
            Position::Recovering { .. } => {
                let share = breaker.share(now);
                (part(units, share), share)
            }
        }
    }

    /// Whether an attempt was lost there, and nothing was heard since.
    pub fn is_silent(&self, resource: ResourceIndex) -> bool {
        self.all.get(&resource).is_some_and(|kept| kept.breaker.is_silent())
    }

    /// Those whose slots have to be looked at with every batch.
    pub fn unsettled(&self) -> impl Iterator<Item = ResourceIndex> {
        self.unsettled.iter().copied()
    }

    /// Those that time moves, and those of which the other lanes do not know it yet.
    /// `busy`: whether attempts are under way.
    pub fn untold(
        &self,
        now: Timestamp,
        busy: impl Fn(ResourceIndex) -> bool,
    ) -> impl Iterator<Item = (ResourceIndex, HealthStatus)> {
        self.unsettled.iter().filter_map(move |resource| {
            let Kept { breaker, told, .. } = self.all.get(resource)?;
            let position = breaker.position_at(now, busy(*resource));
            let status = status(position);
            (position != breaker.position() || status != *told).then_some((*resource, status))
        })
    }

    /// Moves it as far as time does, which is what the others are told; whether it moved.
    pub fn told_v1(
        &mut self,
        resource: ResourceIndex,
        now: Timestamp,
        busy: bool,
        status: HealthStatus,
    ) -> bool {
        let Some(kept) = self.all.get_mut(&resource) else { return false };
        kept.told = status;
        kept.breaker.advance_v1(now, busy)
    }

    /// When time alone will let something through again. `busy`: whether attempts are under way.
    pub fn due(&self, busy: impl Fn(ResourceIndex) -> bool) -> Option<Timestamp> {
        let due = self.unsettled.iter().filter_map(|resource| {
            let Kept { breaker, .. } = self.all.get(resource)?;
            let limited = breaker.limited_until();
            breaker.due(busy(*resource)).or((limited > Timestamp::EPOCH).then_some(limited))
        });
        due.min()
    }

    /// Forgets to look at those that let everything through again.
    pub fn settle(&mut self, now: Timestamp) {
        let all = &self.all;
        self.unsettled.retain(|resource| {
            all.get(resource).is_some_and(|Kept { breaker, told, .. }| {
                breaker.position() != Position::Closed
                    || *told != HealthStatus::Healthy
                    || breaker.limited_until() > now
            })
        });
    }

    /// Learns from an attempt that ended; whether what the breaker lets through has changed.
    pub fn ended_v1(&mut self, resource: ResourceIndex, now: Timestamp, ended: &Ended<'_>) -> bool {
        let retry_after_ms = ended.shown.and_then(|shown| shown.retry_after_ms);
        let outcome = match ended.end {
            AttemptEnd::Succeeded => Outcome::Good,
            AttemptEnd::Failed => Outcome::Failed,
            AttemptEnd::RateLimited => Outcome::RateLimited { retry_after_ms },
            AttemptEnd::LeaseExpired => Outcome::Lost,
            // A worker's doing, or the producer's, or ours.
            AttemptEnd::Late | AttemptEnd::Cancelled | AttemptEnd::FailedOver => {
                if let Some(kept) = self.all.get_mut(&resource) {
                    kept.breaker.ended_v1(now);
                    if ended.end == AttemptEnd::Late {
                        kept.breaker.heard_v1();
                    }
                }
                return false;
            }
        };
        let kept = self.all.entry(resource).or_default();
        let duration_ms = ended.shown.and_then(|shown| shown.duration_ms);
        let outcome = match (outcome, duration_ms, ended.entry_ms) {
            (Outcome::Good, Some(duration_ms), Some(entry_ms))
                if kept.usual.observe_v1(duration_ms / entry_ms) =>
            {
                Outcome::Slow
            }
            (outcome, _, _) => outcome,
        };
        let moved = kept.breaker.observe_v1(now, outcome);
        kept.breaker.ended_v1(now);
        let limited = matches!(outcome, Outcome::RateLimited { .. });
        if moved || limited {
            self.unsettled.insert(resource);
        }
        moved || limited
    }

    /// Something was heard of an attempt that is under way there.
    pub fn heard_v1(&mut self, resource: ResourceIndex) {
        if let Some(kept) = self.all.get_mut(&resource) {
            kept.breaker.heard_v1();
        }
    }

    /// Another resource has this index now, or it is gone. Where the others were told that it is down,
    /// they have to be told that it no longer is.
    pub fn forget(&mut self, resource: ResourceIndex) {
        let Some(kept) = self.all.get_mut(&resource) else { return };
        if kept.told == HealthStatus::Healthy {
            self.all.remove(&resource);
            self.unsettled.remove(&resource);
        } else {
            *kept = Kept { told: kept.told, ..Kept::default() };
            self.unsettled.insert(resource);
        }
    }
}

/// A share of so many slots: at least one.
pub(super) fn part(units: u32, share: f64) -> u32 {
    ((f64::from(units) * share) as u32).max(1).min(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_FAILED: [AttemptEnd; 5] = [AttemptEnd::Failed; 5];

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(1_000_000 + ms)
    }

    fn ended(end: AttemptEnd) -> Ended<'static> {
        Ended { end, shown: None, entry_ms: None }
    }

    fn look(breakers: &Breakers, now: Timestamp) -> String {
        let untold: Vec<String> = breakers
            .untold(now, |_| false)
            .map(|(resource, status)| format!("{resource}:{}", status.name()))
            .collect();
        format!(
            "{} {} slots, untold [{}], due {:?}",
            breakers.position(3).name(),
            breakers.admits(3, 20, now).0,
            untold.join(" "),
            breakers.due(|_| false).map(|due| due.ms_since(at(0)))
        )
    }

    #[test]
    fn others_are_told_of_the_opening_the_return_and_the_end() {
        let mut breakers = Breakers::default();
        assert_eq!(look(&breakers, at(0)), "closed 20 slots, untold [], due None");
        for end in FIVE_FAILED {
            breakers.ended_v1(3, at(0), &ended(end));
        }
        assert_eq!(look(&breakers, at(0)), "open 20 slots, untold [3:unhealthy], due Some(2000)");
        assert!(!breakers.told_v1(3, at(0), false, HealthStatus::Unhealthy));
        assert_eq!(look(&breakers, at(1_999)), "open 20 slots, untold [], due Some(2000)");
        assert_eq!(
            look(&breakers, at(2_000)),
            "open 20 slots, untold [3:unhealthy], due Some(2000)"
        );
        assert!(breakers.told_v1(3, at(2_000), false, HealthStatus::Unhealthy));
        assert_eq!(look(&breakers, at(2_000)), "half-open 1 slots, untold [], due Some(12000)");
        for _ in 0..3 {
            breakers.ended_v1(3, at(2_100), &ended(AttemptEnd::Succeeded));
        }
        let expected = "recovering 2 slots, untold [3:degraded], due Some(32100)";
        assert_eq!(look(&breakers, at(2_100)), expected);
        breakers.told_v1(3, at(2_100), false, HealthStatus::Degraded);
        let expected = "recovering 20 slots, untold [3:healthy], due Some(32100)";
        assert_eq!(look(&breakers, at(32_100)), expected);
        breakers.settle(at(32_100));
        assert_eq!(breakers.unsettled().count(), 1);
        breakers.told_v1(3, at(32_100), false, HealthStatus::Healthy);
        assert_eq!(look(&breakers, at(32_100)), "closed 20 slots, untold [], due None");
        breakers.settle(at(32_100));
        assert_eq!(breakers.unsettled().count(), 0);
    }

    #[test]
    fn a_rate_limit_is_kept_to_and_nobody_is_told() {
        let mut breakers = Breakers::default();
        let shown = Shown { retry_after_ms: Some(7_000), ..Shown::default() };
        let limited = Ended { shown: Some(&shown), ..ended(AttemptEnd::RateLimited) };
        breakers.ended_v1(3, at(0), &limited);
        assert_eq!(look(&breakers, at(0)), "closed 0 slots, untold [], due Some(7000)");
        breakers.settle(at(7_000));
        assert_eq!(look(&breakers, at(7_000)), "closed 20 slots, untold [], due None");
    }

    #[test]
    fn what_is_not_the_resources_doing_moves_nothing() {
        let mut breakers = Breakers::default();
        for end in [AttemptEnd::Late, AttemptEnd::Cancelled, AttemptEnd::FailedOver] {
            for _ in 0..20 {
                assert!(!breakers.ended_v1(3, at(0), &ended(end)));
            }
        }
        assert_eq!(breakers, Breakers::default());
    }

    #[test]
    fn what_was_told_of_a_resource_is_taken_back_when_it_is_another_one() {
        let mut breakers = Breakers::default();
        breakers.forget(3);
        for end in FIVE_FAILED {
            breakers.ended_v1(3, at(0), &ended(end));
        }
        breakers.told_v1(3, at(0), false, HealthStatus::Unhealthy);
        breakers.forget(3);
        assert_eq!(look(&breakers, at(0)), "closed 20 slots, untold [3:healthy], due None");
        breakers.told_v1(3, at(0), false, HealthStatus::Healthy);
        breakers.settle(at(0));
        assert_eq!(look(&breakers, at(0)), "closed 20 slots, untold [], due None");
        breakers.forget(3);
        assert_eq!(breakers, Breakers::default());
    }

    #[test]
    fn slow_is_what_takes_several_times_the_usual() {
        /// How long each takes, in times of the entry, and how many of them.
        type Run = (f64, u32);
        // (what, the results, how many were slow)
        let rows: [(&str, &[Run], u32); 6] = [
            ("as the entry says", &[(1.0, 200)], 0),
            ("much slower than the entry, always", &[(9.0, 200)], 0),
            ("three times as slow at once", &[(1.0, 200), (3.0, 20)], 0),
            ("five times as slow at once", &[(1.0, 200), (5.0, 20)], 20),
            ("before anything is usual", &[(1.0, 40), (5.0, 10)], 0),
            ("nonsense", &[(1.0, 200), (f64::NAN, 20), (-1.0, 20), (0.0, 20)], 0),
        ];
        for (what, runs, expected) in rows {
            let mut usual = Usual::default();
            let mut slow = 0;
            for (times, count) in runs {
                slow += (0..*count).filter(|_| usual.observe_v1(*times)).count() as u32;
            }
            assert_eq!(slow, expected, "{what}");
        }
        // What stays slow is usual in the end.
        let mut usual = Usual::default();
        (0..1_000).for_each(|_| _ = usual.observe_v1(1.0));
        let slow = (0..2_000).filter(|_| usual.observe_v1(8.0)).count();
        assert!((50..300).contains(&slow), "{slow}");
    }
}
