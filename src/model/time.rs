//! Points in time as data: the core has no clock, so a time is always an argument.

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The Unix epoch, the time of a lane that has not yet run a batch.
    pub const EPOCH: Timestamp = Timestamp(0);
    /// Later than every time that occurs.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    pub const fn from_ms(ms: i64) -> Self {
        Timestamp(ms)
    }

    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// This time plus `ms` milliseconds, saturating at the ends of the range.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        let ms = if ms > i64::MAX as u64 { i64::MAX } else { ms as i64 };
        Timestamp(self.0.saturating_add(ms))
    }

    /// This time minus `ms` milliseconds, saturating.
    #[must_use]
    pub const fn minus_ms(self, ms: u64) -> Self {
        let ms = if ms > i64::MAX as u64 { i64::MAX } else { ms as i64 };
        Timestamp(self.0.saturating_sub(ms))
    }

    /// Milliseconds from `earlier` to this time; zero where `earlier` is not earlier.
    pub const fn ms_since(self, earlier: Timestamp) -> u64 {
        let difference = self.0.saturating_sub(earlier.0);
        if difference < 0 { 0 } else { difference as u64 }
    }
}
