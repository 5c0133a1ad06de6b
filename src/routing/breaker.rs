//! A breaker for each resource: what results say about its health. The frozen kernel `breaker_v1`.
//!
//! Closed, it watches: too many failures in a row or among the last outcomes open it. Open, nothing
//! new goes there, for a time that doubles with each opening. Half-open, single attempts of real
//! traffic go there as probes, one after another. Some good ones close it, and from then its share of
//! the work grows back slowly, so that a resource that has just come back is not drowned. (Nygard,
//! Release It!, 2007; the slow start is Envoy's.)
//!
//! Where no work comes to probe with, nobody would ever know more, and all others keep away from what this
//! one says is down. So a half-open one without an attempt for `PROBE_WAIT_MS` recovers as well; it has not
//! forgotten why it opened, so a single failure opens it again.
//!
//! An attempt that is lost, because its lease ended and nobody ever said more, may be a worker's accident.
//! So many in a row with nothing heard of any other are as good as failures: whatever hangs answers nothing.
//!
//! Answers that are slow are answers, so they open nothing: where most of the last ones took several times what
//! the resource usually takes, it begins again with a small share of its work, because too much of it is
//! the likely cause. (Resilience4j has a slow-call rate beside its failure rate, and opens; work that is under way
//! would be moved then, and begin anew elsewhere.)
//!
//! A rate limit is no failure: the provider says itself how long it wants to be left alone.

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// Outcomes that are looked at, and how many there must be before their share says anything.
const OUTCOMES: u32 = 20;
const OUTCOMES_MIN: u32 = 8;
/// Half of them failed: open. A resource that fails less often is degraded by its capability score.
const FAILED_MIN: u32 = 10;
/// So many in a row are no chance, whatever came before.
const IN_A_ROW: u32 = 5;
/// Of the last [`OUTCOMES`], all of which there must be: more than of failures, because who is slow still serves.
const SLOW_MIN: u32 = 16;

/// Open for so long at first, and at most.
const OPEN_MS: u64 = 2_000;
const OPEN_MS_MAX: u64 = 300_000;
/// Openings whose time still doubles.
const DOUBLINGS: u32 = 8;
/// A provider may ask to be left alone for so long.
const RETRY_AFTER_MS_MAX: u64 = 300_000;
/// Where it does not say for how long.
const RETRY_AFTER_MS: u64 = 1_000;

/// Good probes that close it.
const PROBES: u32 = 3;
/// Half-open and without an attempt for so long, a lane has nothing to probe with: long next to the time
/// between two tasks of a lane that has work for it, short next to the outage that it adds to.
const PROBE_WAIT_MS: u64 = 10_000;
/// From the closing to the full share of work.
pub const RECOVERY_MS: u64 = 30_000;
/// The share right after the closing.
const RECOVERY_SHARE: f64 = 0.1;

/// The share of its work that what recovers since then gets at `now`, in [`RECOVERY_SHARE`, 1].
pub fn recovered(since: Timestamp, now: Timestamp) -> f64 {
    let passed = now.ms_since(since) as f64 / RECOVERY_MS as f64;
    f64::min(RECOVERY_SHARE + (1.0 - RECOVERY_SHARE) * passed, 1.0)
}

/// How an attempt ended, as far as it says something about the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// Good, and much slower than usual there.
    Slow,
    Failed,
    /// Its lease has ended.
    Lost,
    /// With what the provider asked for, where it did.
    RateLimited {
        retry_after_ms: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Position {
    #[default]
    Closed,
    /// Nothing goes there before this time.
    Open { until: Timestamp },
    /// One attempt at a time goes there; so many were good. The last one ended then, or it began.
    HalfOpen { good: u32, since: Timestamp },
    /// Its share of the work grows since this time.
    Recovering { since: Timestamp },
}

impl Position {
    pub const fn name(self) -> &'static str {
        match self {
            Position::Closed => "closed",
            Position::Open { .. } => "open",
            Position::HalfOpen { .. } => "half-open",
            Position::Recovering { .. } => "recovering",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Breaker {
    position: Position,
    /// The last outcomes, newest in the lowest bit; a failure is a 1.
    outcomes: u32,
    /// Of the same; one that was slow is a 1.
    slow: u32,
    seen: u32,
    /// Lost in a row, with nothing heard in between.
    lost: u32,
    /// Openings without a full recovery in between.
    openings: u32,
    /// The provider wants to be left alone until then.
    limited_until: Timestamp,
}

impl Breaker {
    pub fn position(&self) -> Position {
        self.position
    }

    /// Until when the provider wants to be left alone.
    pub fn limited_until(&self) -> Timestamp {
        self.limited_until
    }

    /// The share of its slots and rates that new work may use at `now`, in [0, 1]; 0: nothing goes
    /// there. Half-open it is 0 as well: probes are let through by [`Breaker::probes`].
    pub fn share(&self, now: Timestamp) -> f64 {
        if now < self.limited_until {
            return 0.0;
        }
        match self.position {
            Position::Closed => 1.0,
            Position::Open { .. } | Position::HalfOpen { .. } => 0.0,
            Position::Recovering { since } => recovered(since, now),
        }
    }

    /// Whether a probe may go there: one at a time.
    pub fn probes(&self, now: Timestamp, in_flight: u32) -> bool {
        matches!(self.position, Position::HalfOpen { .. })
            && in_flight == 0
            && now >= self.limited_until
    }

    /// When time alone will move it. `busy`: attempts are under way there.
    pub fn due(&self, busy: bool) -> Option<Timestamp> {
        match self.position {
            Position::Open { until } => Some(until),
            Position::HalfOpen { since, .. } => {
                (!busy).then(|| since.max(self.limited_until).plus_ms(PROBE_WAIT_MS))
            }
            Position::Recovering { since } => Some(since.plus_ms(RECOVERY_MS)),
            Position::Closed => None,
        }
    }

    /// Where time alone moves it. `busy`: attempts are under way there.
    pub fn position_at(&self, now: Timestamp, busy: bool) -> Position {
        if self.due(busy).is_none_or(|due| now < due) {
            return self.position;
        }
        match self.position {
            Position::Open { .. } => Position::HalfOpen { good: 0, since: now },
            Position::HalfOpen { .. } => Position::Recovering { since: now },
            Position::Recovering { .. } | Position::Closed => Position::Closed,
        }
    }

    /// Lets time pass; whether it moved.
    pub fn advance_v1(&mut self, now: Timestamp, busy: bool) -> bool {
        let after = self.position_at(now, busy);
        if after == self.position {
            return false;
        }
        self.position = after;
        if after == Position::Closed {
            (self.outcomes, self.slow, self.seen, self.openings) = (0, 0, 0, 0);
        }
        true
    }

    /// An attempt there has ended, in whichever way.
    pub fn ended_v1(&mut self, now: Timestamp) {
        if let Position::HalfOpen { since, .. } = &mut self.position {
            *since = now;
        }
    }

    /// Something was heard of an attempt that is under way.
    pub fn heard_v1(&mut self) {
        self.lost = 0;
    }

    /// Whether an attempt was lost, and nothing was heard since.
    pub fn is_silent(&self) -> bool {
        self.lost > 0
    }

    /// One more outcome; whether it moved.
    pub fn observe_v1(&mut self, now: Timestamp, outcome: Outcome) -> bool {
        let lost = std::mem::take(&mut self.lost);
        let (failed, slow) = match outcome {
            Outcome::Good => (false, false),
            Outcome::Slow => (false, true),
            Outcome::Failed => (true, false),
            Outcome::Lost => return self.lose(now, lost + 1),
            Outcome::RateLimited { retry_after_ms } => {
                let ms = retry_after_ms.unwrap_or(RETRY_AFTER_MS).min(RETRY_AFTER_MS_MAX);
                self.limited_until = self.limited_until.max(now.plus_ms(ms));
                return false;
            }
        };
        match self.position {
            Position::Closed | Position::Recovering { .. } => {
                let next =
                    |outcomes: u32, one| (outcomes << 1 | u32::from(one)) & ((1 << OUTCOMES) - 1);
                self.outcomes = next(self.outcomes, failed);
                self.slow = next(self.slow, slow);
                self.seen = (self.seen + 1).min(OUTCOMES);
                if failed && self.is_bad() {
                    self.open(now);
                    return true;
                }
                if slow && self.seen == OUTCOMES && self.slow.count_ones() >= SLOW_MIN {
                    self.slow = 0;
                    self.position = Position::Recovering { since: now };
                    return true;
                }
                false
            }
            // Of attempts that began before it opened.
            Position::Open { .. } => false,
            Position::HalfOpen { good, .. } => {
                if failed {
                    self.open(now);
                    return true;
                }
                if good + 1 < PROBES {
                    self.position = Position::HalfOpen { good: good + 1, since: now };
                    return false;
                }
                (self.outcomes, self.slow, self.seen) = (0, 0, 0);
                self.position = Position::Recovering { since: now };
                true
            }
        }
    }

    fn lose(&mut self, now: Timestamp, lost: u32) -> bool {
        let opens = match self.position {
            Position::Closed | Position::Recovering { .. } => lost >= IN_A_ROW,
            // Of attempts that began before it opened.
            Position::Open { .. } => return false,
            Position::HalfOpen { .. } => true,
        };
        if opens {
            self.open(now);
        } else {
            self.lost = lost;
        }
        opens
    }

    fn is_bad(&self) -> bool {
        let in_a_row = (self.outcomes & ((1 << IN_A_ROW) - 1)).count_ones() == IN_A_ROW;
        let share = self.outcomes.count_ones() * OUTCOMES >= FAILED_MIN * self.seen;
        in_a_row || self.seen >= OUTCOMES_MIN && share
    }

    fn open(&mut self, now: Timestamp) {
        let ms = (OPEN_MS << self.openings.min(DOUBLINGS)).min(OPEN_MS_MAX);
        self.openings = self.openings.saturating_add(1);
        self.position = Position::Open { until: now.plus_ms(ms) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` good, `s` slow, `-` failed, `x` lost, `l` limited for 5 s, `e` ended otherwise, `h` heard of; a
    /// number: so many milliseconds pass, with a `b` while an attempt is under way.
    fn run(script: &str) -> (Breaker, Timestamp) {
        let (mut breaker, mut now) = (Breaker::default(), Timestamp::from_ms(1_000_000));
        for act in script.split(' ') {
            if let Ok(ms) = act.trim_end_matches('b').parse::<u64>() {
                now = now.plus_ms(ms);
                breaker.advance_v1(now, act.ends_with('b'));
                continue;
            }
            for outcome in act.chars() {
                match outcome {
                    'e' => breaker.ended_v1(now),
                    'h' => breaker.heard_v1(),
                    _ => {}
                }
                if matches!(outcome, 'e' | 'h') {
                    continue;
                }
                breaker.observe_v1(
                    now,
                    match outcome {
                        '+' => Outcome::Good,
                        's' => Outcome::Slow,
                        '-' => Outcome::Failed,
                        'x' => Outcome::Lost,
                        _ => Outcome::RateLimited { retry_after_ms: Some(5_000) },
                    },
                );
            }
        }
        (breaker, now)
    }

    #[test]
    fn outcomes_move_it() {
        let rows = [
            ("", "closed 1.00"),
            ("----", "closed 1.00"),
            ("-----", "open 0.00"),
            ("+-+-+-+", "closed 1.00"),
            ("+-+-+-+-", "open 0.00"),
            ("++++++++++-+-+-+-+-+", "closed 1.00"),
            ("----- 1999", "open 0.00"),
            ("----- 2000", "half-open 0.00"),
            ("----- 2000 ++", "half-open 0.00"),
            ("----- 2000 +++", "recovering 0.10"),
            ("----- 2000 +++ 15000", "recovering 0.55"),
            ("----- 2000 +++ 30000", "closed 1.00"),
            // The second time it stays open for longer, until it has fully recovered once.
            ("----- 2000 - 2000", "open 0.00"),
            ("----- 2000 - 4000", "half-open 0.00"),
            ("----- 2000 +++ 30000 ----- 2000", "half-open 0.00"),
            // What comes back late says nothing.
            ("----- +++++", "open 0.00"),
            // Nothing comes to probe with: it begins again, and one failure is enough.
            ("----- 2000 9999", "half-open 0.00"),
            ("----- 2000 10000", "recovering 0.10"),
            ("----- 2000 10000 -", "open 0.00"),
            ("----- 2000 10000 +-", "recovering 0.10"),
            ("----- 2000 10000 30000", "closed 1.00"),
            ("----- 2000 10000 30000 ----", "closed 1.00"),
            ("----- 2000 60000b", "half-open 0.00"),
            ("----- 2000 60000b e 9999", "half-open 0.00"),
            ("----- 2000 60000b + 10000", "recovering 0.10"),
            ("----- 2000 l 14999", "half-open 0.00"),
            ("----- 2000 l 15000", "recovering 0.10"),
            // Whatever hangs says nothing.
            ("xxxx", "closed 1.00"),
            ("xxxxx", "open 0.00"),
            ("xxxxhx", "closed 1.00"),
            ("xxxx+x", "closed 1.00"),
            ("xxxxlx 5000", "closed 1.00"),
            ("----- 2000 x", "open 0.00"),
            // Most of twenty are slow: a small share again, and once more if it does not help.
            ("ssssssssssssssss+++", "closed 1.00"),
            ("ssssssssssssssss++++", "closed 1.00"),
            ("++++ssssssssssssssss", "recovering 0.10"),
            ("+++++sssssssssssssss", "closed 1.00"),
            ("ssssssssssssssss++-s", "recovering 0.10"),
            ("++++ssssssssssssssss 30000", "closed 1.00"),
            ("++++ssssssssssssssss 15000 sssssssssssssss", "recovering 0.55"),
            ("++++ssssssssssssssss 15000 ssssssssssssssss", "recovering 0.10"),
            ("----- 2000 sss", "recovering 0.10"),
            ("l", "closed 0.00"),
            ("l 4999", "closed 0.00"),
            ("l 5000", "closed 1.00"),
            ("llllllllll 5000", "closed 1.00"),
        ];
        for (script, expected) in rows {
            let (breaker, now) = run(script);
            let found = format!("{} {:.2}", breaker.position().name(), breaker.share(now));
            assert_eq!(found, expected, "after `{script}`");
        }
    }

    #[test]
    fn probes_go_one_at_a_time() {
        let (breaker, now) = run("----- 2000");
        assert!(breaker.probes(now, 0));
        assert!(!breaker.probes(now, 1));
        let (breaker, now) = run("-----");
        assert!(!breaker.probes(now, 0));
    }

    #[test]
    fn an_opening_is_bounded() {
        let script = "----- ".to_owned() + &"400000 - ".repeat(40);
        let (breaker, now) = run(script.trim_end());
        let Position::Open { until } = breaker.position() else { panic!("{breaker:?}") };
        assert_eq!(until.ms_since(now), OPEN_MS_MAX);
    }
}
