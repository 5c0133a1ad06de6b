//! The outage in the script of the demo: one resource breaks, is reported, and recovers.

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Attempts on the resource begin to fail and to hang.
    Breaks,
    /// Someone notices: the health event `unhealthy`.
    Reported,
    /// Attempts work again, and the health event `healthy` says so.
    Recovers,
}

/// Between the outage and its report, in real time: long enough that work hangs on the resource.
const REPORTED_AFTER_US: u64 = 500_000;

/// The steps that are still to come, with their times in microseconds after the first task.
#[derive(Debug)]
pub struct Outage {
    steps: Vec<(u64, Step)>,
}

impl Outage {
    /// From the 40 % point to the 70 % point of the tasks; `after_us` are their times.
    pub fn new(after_us: &[u64]) -> Self {
        let at = |share: f64| {
            after_us.get((after_us.len() as f64 * share) as usize).copied().unwrap_or_default()
        };
        let breaks = at(0.4);
        let reported = breaks + REPORTED_AFTER_US;
        let recovers = at(0.7).max(reported);
        let steps =
            vec![(breaks, Step::Breaks), (reported, Step::Reported), (recovers, Step::Recovers)];
        Outage { steps }
    }

    /// The next step, where it is due.
    pub fn due(&mut self, at_us: u64) -> Option<Step> {
        let (time_us, step) = *self.steps.first()?;
        if time_us > at_us {
            return None;
        }
        self.steps.remove(0);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_once_and_in_order() {
        let after_us: Vec<u64> = (0..100).map(|index| index * 100_000).collect();
        let mut outage = Outage::new(&after_us);
        assert_eq!(outage.due(3_999_999), None);
        assert_eq!(outage.due(4_000_000), Some(Step::Breaks));
        assert_eq!(outage.due(4_100_000), None);
        assert_eq!(outage.due(9_000_000), Some(Step::Reported));
        assert_eq!(outage.due(9_000_000), Some(Step::Recovers));
        assert_eq!(outage.due(u64::MAX), None);
        // A demo that is shorter than the report takes still has all three.
        let mut short = Outage::new(&[0, 10]);
        let steps: Vec<_> = std::iter::from_fn(|| short.due(u64::MAX)).collect();
        assert_eq!(steps, [Step::Breaks, Step::Reported, Step::Recovers]);
    }
}
