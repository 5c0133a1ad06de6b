//! The outage in the script of the demo: the busiest resource breaks, is reported, and recovers.

/// What happens, to the resource with this place in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Attempts on the resource begin to fail and to hang.
    Breaks(usize),
    /// Someone notices: the health event `unhealthy`.
    Reported(usize),
    /// Attempts work again, and the health event `healthy` says so.
    Recovers(usize),
}

/// Between the outage and its report, in real time: long enough that work hangs on the resource.
const REPORTED_AFTER_US: u64 = 500_000;
/// An outage without work under way shows nothing: it waits for so many attempts on one resource …
const IN_FLIGHT_MIN: i64 = 8;
/// … but not longer than this, in a demo that is too small for them.
const POSTPONED_US_MAX: u64 = 3_000_000;

#[derive(Debug)]
enum Phase {
    Ahead,
    Broken { resource: usize, since_us: u64 },
    Reported { resource: usize },
    Over,
}

/// From the 40 % point to the 70 % point of the tasks.
#[derive(Debug)]
pub struct Outage {
    breaks_us: u64,
    recovers_us: u64,
    phase: Phase,
}

impl Outage {
    /// `after_us` are the times of the tasks.
    pub fn new(after_us: &[u64]) -> Self {
        let at = |share: f64| {
            after_us.get((after_us.len() as f64 * share) as usize).copied().unwrap_or_default()
        };
        Outage { breaks_us: at(0.4), recovers_us: at(0.7), phase: Phase::Ahead }
    }

    /// The next step, where it is due. `in_flight` are the attempts under way on each resource.
    pub fn due(&mut self, at_us: u64, in_flight: &[i64]) -> Option<Step> {
        match self.phase {
            Phase::Ahead => {
                let busiest = (0..in_flight.len()).max_by_key(|place| in_flight[*place])?;
                let is_idle = in_flight[busiest] < IN_FLIGHT_MIN;
                let is_early = at_us < self.breaks_us;
                if is_early || (is_idle && at_us < self.breaks_us + POSTPONED_US_MAX) {
                    return None;
                }
                self.phase = Phase::Broken { resource: busiest, since_us: at_us };
                Some(Step::Breaks(busiest))
            }
            Phase::Broken { resource, since_us } if at_us >= since_us + REPORTED_AFTER_US => {
                self.phase = Phase::Reported { resource };
                Some(Step::Reported(resource))
            }
            Phase::Reported { resource } if at_us >= self.recovers_us => {
                self.phase = Phase::Over;
                Some(Step::Recovers(resource))
            }
            Phase::Broken { .. } | Phase::Reported { .. } | Phase::Over => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_resource_breaks_is_reported_and_recovers() {
        let after_us: Vec<u64> = (0..100).map(|index| index * 100_000).collect();
        let mut outage = Outage::new(&after_us);
        let steps = [
            (3_999_999, [9, 30, 2], None),
            // Nothing much is under way: it waits.
            (4_000_000, [7, 7, 2], None),
            (4_100_000, [1, 2, 8], Some(Step::Breaks(2))),
            (4_599_999, [9, 0, 0], None),
            (4_600_000, [9, 0, 0], Some(Step::Reported(2))),
            (6_999_999, [9, 0, 0], None),
            (7_000_000, [9, 0, 0], Some(Step::Recovers(2))),
            (u64::MAX, [9, 0, 0], None),
        ];
        for (at_us, in_flight, expected) in steps {
            assert_eq!(outage.due(at_us, &in_flight), expected, "at {at_us}");
        }
    }

    #[test]
    fn a_demo_that_is_too_small_has_an_outage_too() {
        let mut outage = Outage::new(&[0, 10]);
        assert_eq!(outage.due(2_999_999, &[0, 1]), None);
        assert_eq!(outage.due(3_000_010, &[0, 1]), Some(Step::Breaks(1)));
        assert_eq!(outage.due(3_500_010, &[]), Some(Step::Reported(1)));
        assert_eq!(outage.due(3_500_010, &[]), Some(Step::Recovers(1)));
    }
}
