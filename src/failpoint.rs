//! Named points around every step of a commit and of a recovery, at which a build for tests kills
//! or stops its own process: what a power cut or a long pause does there, on a real Kafka.
//!
//! Without the feature `failpoints` a point is an empty function. With it, `POINTSMAN_FAILPOINTS`
//! says which points act, and at which of their passes: `flush-after@3=kill,commit-before=stop`.
//! `kill` is SIGKILL and `stop` is SIGSTOP, each to the whole process. (The crate `fail` can return,
//! panic and sleep, none of which is a crash; and its points are texts, of which nobody can say whether
//! all have been tried.)

macro_rules! points {
    ($($point:ident $name:literal,)*) => {
        /// A point, in the order in which a process passes them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point { $($point),* }

        impl Point {
            pub const ALL: &'static [Point] = &[$(Point::$point),*];

            pub const fn name(self) -> &'static str {
                match self { $(Point::$point => $name),* }
            }

            /// The point of this name.
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|point| point.name() == name)
            }
        }
    };
}

points! {
    // A lane comes to run.
    Assigned "assigned",
    FetchCommittedBefore "fetch-committed-before",
    FetchCommittedAfter "fetch-committed-after",
    FindStartBefore "find-start-before",
    FindSnapshotBefore "find-snapshot-before",
    SnapshotFound "snapshot-found",
    ReadJournalBefore "read-journal-before",
    FoldAfter "fold-after",
    LaneRuns "lane-runs",
    // A batch.
    PollBefore "poll-before",
    PollAfter "poll-after",
    DecodeAfter "decode-after",
    DecideBefore "decide-before",
    BeginBefore "begin-before",
    BeginAfter "begin-after",
    ProduceBefore "produce-before",
    ProduceMiddle "produce-middle",
    ProduceAfter "produce-after",
    FlushBefore "flush-before",
    FlushAfter "flush-after",
    SendOffsetsBefore "send-offsets-before",
    SendOffsetsAfter "send-offsets-after",
    CommitBefore "commit-before",
    CommitAfter "commit-after",
    VerdictAfter "verdict-after",
    // A transaction fails.
    AbortBefore "abort-before",
    AbortAfter "abort-after",
    ReopenBefore "reopen-before",
    ReopenAfter "reopen-after",
    RejoinBefore "rejoin-before",
    RejoinAfter "rejoin-after",
    Revoked "revoked",
    // A snapshot.
    SnapshotTaken "snapshot-taken",
    StoreMiddle "store-middle",
    StoreAfter "store-after",
    ChunksBefore "chunks-before",
    ChunksAfter "chunks-after",
    Announced "announced",
    TombstonesBefore "tombstones-before",
    TombstonesAfter "tombstones-after",
    // The end.
    ShutdownBefore "shutdown-before",
    ShutdownAfter "shutdown-after",
}

/// The process passes this point.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn pass(_: Point) {}

#[cfg(feature = "failpoints")]
pub use armed::{VARIABLE, arm, pass};

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    pub const VARIABLE: &str = "POINTSMAN_FAILPOINTS";

    static ARMED: OnceLock<Vec<Armed>> = OnceLock::new();

    #[derive(Debug)]
    struct Armed {
        point: Point,
        /// At this pass it acts; from 1.
        at: u64,
        passes: AtomicU64,
        action: Action,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Stop,
    }

    /// Takes over what the environment says.
    ///
    /// # Errors
    /// It cannot be understood: what was wrong, and what is allowed.
    pub fn arm() -> Result<(), String> {
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let armed = parse(&text).map_err(|error| format!("{VARIABLE}: {error}"))?;
        ARMED.set(armed).map_err(|_| format!("{VARIABLE}: read a second time"))
    }

    fn parse(text: &str) -> Result<Vec<Armed>, String> {
        text.split(',').filter(|part| !part.is_empty()).map(parse_one).collect()
    }

    fn parse_one(text: &str) -> Result<Armed, String> {
        let allowed = || format!("'{text}' is not POINT[@PASS]=kill or POINT[@PASS]=stop");
        let (place, action) = text.split_once('=').ok_or_else(allowed)?;
        let action = match action {
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            _ => return Err(allowed()),
        };
        let (name, at) = place.split_once('@').unwrap_or((place, "1"));
        let at = at.parse().ok().filter(|at| *at > 0).ok_or_else(allowed)?;
        let point = Point::named(name).ok_or_else(|| format!("there is no point '{name}'"))?;
        Ok(Armed { point, at, passes: AtomicU64::new(0), action })
    }

    /// The process passes this point; where it is armed, it may be the last thing that it does.
    pub fn pass(point: Point) {
        for armed in ARMED.get().into_iter().flatten().filter(|armed| armed.point == point) {
            if armed.passes.fetch_add(1, Ordering::Relaxed) + 1 == armed.at {
                act(armed);
            }
        }
    }

    fn act(armed: &Armed) {
        let signal = match armed.action {
            Action::Kill => Signal::KILL,
            Action::Stop => Signal::STOP,
        };
        // The last line of the log says what happened; `ops/chaos` reads it.
        eprintln!("fail point {} at pass {}: {:?}", armed.point.name(), armed.at, armed.action);
        if let Err(error) = kill_process(getpid(), signal) {
            eprintln!("fail point {}: no signal can be sent: {error}", armed.point.name());
        }
        // A process that killed itself goes no further, however late the signal is.
        if armed.action == Action::Kill {
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn check(text: &str, expected: Result<&[(Point, u64, Action)], &str>) {
            let parsed = parse(text).map(|armed| {
                armed.iter().map(|one| (one.point, one.at, one.action)).collect::<Vec<_>>()
            });
            assert_eq!(parsed.as_deref().map_err(String::as_str), expected, "{text}");
        }

        #[test]
        fn what_may_be_armed() {
            check("", Ok(&[]));
            check(
                "flush-after@3=kill,commit-before=stop",
                Ok(&[(Point::FlushAfter, 3, Action::Kill), (Point::CommitBefore, 1, Action::Stop)]),
            );
            check("flush=kill", Err("there is no point 'flush'"));
            for text in ["flush-after", "flush-after=panic", "flush-after@0=kill"] {
                let expected = format!("'{text}' is not POINT[@PASS]=kill or POINT[@PASS]=stop");
                check(text, Err(&expected));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Point;

    #[test]
    fn names_are_distinct_and_lead_back() {
        for point in Point::ALL {
            assert_eq!(Point::named(point.name()), Some(*point));
        }
        assert_eq!(Point::named("nowhere"), None);
    }
}
