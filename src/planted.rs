//! Bugs that are planted on purpose, one at a time, to see that the simulation finds them: a test of the
//! tests. Only with the feature `planted-bugs`, which nothing but `ops/planted` builds; without it
//! every question below is a constant `false`.

/// One mistake, where it would be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Offsets are sent without the member's generation, so that no zombie is refused.
    SkipFence = 1,
    /// A lane that was taken away and comes back goes on with the state that it had.
    KeepLostLane,
    /// Offsets are committed beside the transaction.
    CommitOutside,
    /// Leases end by the clock alone, whether or not the results are read.
    EndLeasesEarly,
    /// One lane leaves a control record out.
    SkipControl,
    /// The core reads a clock that is not journaled.
    ReadClock,
    /// Rights are given and kept.
    GiveKeeping,
    /// Rights that come are added twice.
    TakeTwice,
    /// Rights of a rate are given that the use in the window still needs.
    GiveInUse,
    /// A limit that was lowered stays as it was.
    KeepLimit,
}

/// Whether this bug is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn planted(_: Bug) -> bool {
    false
}

/// What the planted clock shows: another time whenever it is read.
#[cfg(not(feature = "planted-bugs"))]
pub const fn clock_ms() -> u64 {
    0
}

#[cfg(feature = "planted-bugs")]
pub use on::{clock_ms, plant, planted};

#[cfg(feature = "planted-bugs")]
mod on {
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    use super::Bug;

    static PLANTED: AtomicU8 = AtomicU8::new(0);
    static CLOCK_MS: AtomicU64 = AtomicU64::new(0);

    pub fn planted(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }

    /// From now on this bug is there, in the whole process, and no other.
    pub fn plant(bug: Bug) {
        PLANTED.store(bug as u8, Ordering::Relaxed);
    }

    pub fn clock_ms() -> u64 {
        CLOCK_MS.fetch_add(1, Ordering::Relaxed) % 5
    }

    impl Bug {
        pub const ALL: [Bug; 10] = [
            Bug::SkipFence,
            Bug::KeepLostLane,
            Bug::CommitOutside,
            Bug::EndLeasesEarly,
            Bug::SkipControl,
            Bug::ReadClock,
            Bug::GiveKeeping,
            Bug::TakeTwice,
            Bug::GiveInUse,
            Bug::KeepLimit,
        ];

        pub const fn name(self) -> &'static str {
            match self {
                Bug::SkipFence => "skip-fence",
                Bug::KeepLostLane => "keep-lost-lane",
                Bug::CommitOutside => "commit-outside",
                Bug::EndLeasesEarly => "end-leases-early",
                Bug::SkipControl => "skip-control",
                Bug::ReadClock => "read-clock",
                Bug::GiveKeeping => "give-keeping",
                Bug::TakeTwice => "take-twice",
                Bug::GiveInUse => "give-in-use",
                Bug::KeepLimit => "keep-limit",
            }
        }
    }
}
