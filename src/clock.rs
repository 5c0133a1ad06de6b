//! The one place where time enters the process. Everything else takes a [`Timestamp`], so that it
//! can be replayed; only the shell may call this.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::model::time::Timestamp;

/// The wall clock, in whole milliseconds. It may jump either way when the machine's clock is set.
pub fn wall_now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is a machine without a clock: the epoch is as good as any other answer.
    let ms = since_epoch.map_or(0, |duration| i64::try_from(duration.as_millis()).unwrap_or(0));
    Timestamp::from_ms(ms)
}

/// Milliseconds since the first call in this process; never goes back.
pub fn monotonic_ms() -> u64 {
    static START: OnceLock<Stopwatch> = OnceLock::new();
    START.get_or_init(Stopwatch::start).elapsed_ms()
}

/// How long the calling thread has been at work on a core.
pub fn thread_cpu() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

/// Measures how long something takes, by the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopwatch {
    started: Instant,
}

impl Stopwatch {
    pub fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        let started = Instant::now();
        Stopwatch { started }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
        self.started.elapsed()
    }

    /// Whole milliseconds since the start.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whole microseconds since the start.
    pub fn elapsed_us(&self) -> u64 {
        u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// What is left of `limit`; zero when it is used up.
    pub fn remaining(&self, limit: Duration) -> Duration {
        limit.saturating_sub(self.elapsed())
    }

    /// Time since the start, and starts anew: for phases that follow one another.
    pub fn lap(&mut self) -> Duration {
        let now = Stopwatch::start();
        let elapsed = now.started.duration_since(self.started);
        *self = now;
        elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_is_in_milliseconds_since_the_epoch() {
        let year_2025 = Timestamp::from_ms(1_735_689_600_000);
        let year_2200 = Timestamp::from_ms(7_258_118_400_000);
        let now = wall_now();
        assert!(year_2025 < now && now < year_2200, "{now:?}");
    }

    #[test]
    fn laps_add_up_and_a_spent_limit_is_zero() {
        let whole = Stopwatch::start();
        let mut phases = whole;
        let sum = phases.lap() + phases.lap();
        assert!(sum <= whole.elapsed());
        assert_eq!(whole.remaining(Duration::ZERO), Duration::ZERO);
        assert!(monotonic_ms() <= monotonic_ms());
    }
}
