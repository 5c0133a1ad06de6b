//! What a round does: fixed by its number and the seed.

use std::time::Duration;

use pointsman::failpoint::Point;
use pointsman::sim::dice::{Dice, stream};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::act::{Act, Number};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Points,
    Random,
    Brokers,
    Rebalance,
}

/// All kinds in turn; those that need three brokers last, so that a few rounds do not start them.
pub const ALL: [Kind; 10] = [
    Kind::Points,
    Kind::Random,
    Kind::Rebalance,
    Kind::Points,
    Kind::Points,
    Kind::Random,
    Kind::Points,
    Kind::Brokers,
    Kind::Rebalance,
    Kind::Brokers,
];

/// The shortest that Kafka allows by default.
pub const SESSION_TIMEOUT_MS: u64 = 6_000;
pub const TRANSACTION_TIMEOUT_MS: u64 = 3_000;

/// Points of one round.
const POINTS_OF_A_ROUND: usize = 4;
/// A point that is not passed within this time is not passed.
const FIRED_WAIT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Says that two rounds are the same.
    pub key: String,
    pub number: u32,
    pub seed: u64,
    pub kind: Kind,
    pub lanes: i32,
    /// Worker threads of each instance.
    pub workers: i32,
    pub acts: Vec<Act>,
}

impl Plan {
    pub fn expected(&self) -> Duration {
        self.acts.iter().map(Act::expected).sum()
    }
}

pub fn plan(number: u32, seed: u64, kinds: &[Kind]) -> Plan {
    let turn = number.saturating_sub(1) as usize;
    let kind = kinds[turn % kinds.len()];
    // The how-manieth of its kind: so that the points come one after the other.
    let of_kind = (0..turn).filter(|turn| kinds[turn % kinds.len()] == kind).count();
    let mut dice = stream(seed, u64::from(number));
    let (lanes, workers, acts) = match kind {
        Kind::Points => (2, 2, points(of_kind, seed, &mut dice)),
        Kind::Random => {
            let lanes = dice.within(1..4) as i32;
            (lanes, lanes, random(&mut dice))
        }
        Kind::Brokers => (2, 2, brokers(&mut dice)),
        Kind::Rebalance => (4, dice.within(1..3) as i32, rebalance(&mut dice)),
    };
    let name = serde_json::to_string(&kind).unwrap_or_default();
    let key = format!("{}-{seed}-{number}", name.trim_matches('"'));
    Plan { key, number, seed, kind, lanes, workers, acts }
}

fn ms(dice: &mut ChaCha8Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(dice.within(from..to))
}

/// When a process passes a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// When a group first runs.
    First,
    /// At work, more or less often.
    Work { passes_max: u64 },
    /// When it starts again.
    Start,
    /// After it stood still for longer than a transaction lasts.
    Stalled,
    /// After it stood still for longer than its session.
    Expelled,
    /// When another instance joins.
    Company,
    /// When it is asked to end.
    End,
}

fn occasion(point: Point) -> Occasion {
    match point {
        Point::FindStartBefore => Occasion::First,
        Point::Assigned
        | Point::FetchCommittedBefore
        | Point::FetchCommittedAfter
        | Point::FindSnapshotBefore
        | Point::SnapshotFound
        | Point::ReadJournalBefore
        | Point::FoldAfter
        | Point::LaneRuns
        | Point::ReopenBefore
        | Point::ReopenAfter => Occasion::Start,
        Point::PollBefore | Point::DecideBefore => Occasion::Work { passes_max: 150 },
        Point::PollAfter
        | Point::DecodeAfter
        | Point::BeginBefore
        | Point::BeginAfter
        | Point::ProduceBefore
        | Point::ProduceMiddle
        | Point::ProduceAfter
        | Point::FlushBefore
        | Point::FlushAfter
        | Point::SendOffsetsBefore
        | Point::SendOffsetsAfter
        | Point::CommitBefore
        | Point::CommitAfter
        | Point::VerdictAfter => Occasion::Work { passes_max: 15 },
        Point::SnapshotTaken | Point::StoreMiddle | Point::StoreAfter => {
            Occasion::Work { passes_max: 4 }
        }
        Point::ChunksBefore
        | Point::ChunksAfter
        | Point::Announced
        | Point::TombstonesBefore
        | Point::TombstonesAfter => Occasion::Work { passes_max: 2 },
        Point::AbortBefore | Point::AbortAfter => Occasion::Stalled,
        Point::RejoinBefore | Point::RejoinAfter => Occasion::Expelled,
        Point::Revoked => Occasion::Company,
        Point::ShutdownBefore | Point::ShutdownAfter => Occasion::End,
    }
}

/// All points in an order of the seed's; each round takes the next ones.
fn points(round: usize, seed: u64, dice: &mut ChaCha8Rng) -> Vec<Act> {
    let mut all = Point::ALL.to_vec();
    let mut order = stream(seed, u64::MAX);
    for last in (1..all.len()).rev() {
        all.swap(last, order.within(0..last as u64 + 1) as usize);
    }
    let from = round * POINTS_OF_A_ROUND;
    let mut chosen: Vec<Point> =
        (from..from + POINTS_OF_A_ROUND).map(|at| all[at % all.len()]).collect();
    // What happens only once has to come first.
    chosen.sort_by_key(|point| occasion(*point) != Occasion::First);
    let mut acts = Vec::new();
    for point in chosen {
        at_point(point, dice, &mut acts);
    }
    acts
}

/// Arms a stop between the steps of a transaction.
fn stop_in_transaction(dice: &mut ChaCha8Rng) -> String {
    let points = [
        Point::BeginAfter,
        Point::ProduceMiddle,
        Point::FlushBefore,
        Point::SendOffsetsBefore,
        Point::SendOffsetsAfter,
        Point::CommitBefore,
    ];
    let point = points[dice.within(0..points.len() as u64) as usize];
    format!("{}@{}=stop", point.name(), dice.within(1..10))
}

fn at_point(point: Point, dice: &mut ChaCha8Rng, acts: &mut Vec<Act>) {
    let kill = |pass: u64| format!("{}@{pass}=kill", point.name());
    let is_new = acts.is_empty();
    let start = |acts: &mut Vec<Act>, armed: String| {
        acts.push(if is_new { Act::Join(0, armed) } else { Act::Crash(0, armed) });
    };
    let fired = Act::AwaitFired(0, FIRED_WAIT);
    match occasion(point) {
        Occasion::First => {
            start(acts, kill(1));
            acts.push(fired);
        }
        Occasion::Work { passes_max } => {
            start(acts, kill(dice.within(1..passes_max + 1)));
            acts.push(fired);
        }
        Occasion::Start => {
            start(acts, String::new());
            acts.push(Act::Wait(ms(dice, 2_500, 4_000)));
            acts.push(Act::Crash(0, kill(dice.within(1..3))));
            acts.push(fired);
        }
        Occasion::Stalled | Occasion::Expelled => {
            let stop = stop_in_transaction(dice);
            start(acts, format!("{stop},{}", kill(1)));
            acts.push(Act::AwaitFrozen(0, FIRED_WAIT));
            let still_ms = if occasion(point) == Occasion::Stalled {
                TRANSACTION_TIMEOUT_MS + 1_500
            } else {
                SESSION_TIMEOUT_MS + 1_500
            };
            acts.push(Act::Wait(Duration::from_millis(still_ms)));
            acts.push(Act::Thaw(0));
            acts.push(fired);
        }
        Occasion::Company => {
            start(acts, kill(1));
            acts.push(Act::Wait(ms(dice, 2_500, 4_000)));
            acts.push(Act::Join(1, String::new()));
            acts.push(fired);
            acts.push(Act::Wait(ms(dice, 500, 1_500)));
            acts.push(Act::Leave(1));
        }
        Occasion::End => {
            start(acts, kill(dice.within(1..3)));
            acts.push(Act::Wait(ms(dice, 2_500, 4_000)));
            acts.push(Act::Restart(0));
            acts.push(fired);
        }
    }
}

fn random(dice: &mut ChaCha8Rng) -> Vec<Act> {
    let mut acts = vec![Act::Join(0, String::new()), Act::Wait(ms(dice, 500, 3_000))];
    for _ in 0..6 {
        acts.push(Act::Crash(0, String::new()));
        // Sometimes before it has come to run.
        acts.push(Act::Wait(ms(dice, 0, 3_500)));
    }
    acts
}

/// One node at a time is away; meanwhile the router may be killed too.
fn brokers(dice: &mut ChaCha8Rng) -> Vec<Act> {
    let mut acts = vec![Act::Join(0, String::new())];
    if dice.chance(1, 2) {
        acts.push(Act::Join(1, String::new()));
    }
    acts.push(Act::Wait(ms(dice, 2_500, 4_000)));
    for _ in 0..3 {
        let node = dice.within(1..4) as u32;
        let kills = dice.chance(1, 2);
        acts.push(if kills { Act::KillNode(node) } else { Act::PauseNode(node) });
        acts.push(Act::Wait(ms(dice, 200, 6_000)));
        if dice.chance(1, 3) {
            acts.push(Act::Crash(0, String::new()));
            acts.push(Act::Wait(ms(dice, 0, 3_000)));
        }
        acts.push(if kills { Act::StartNode(node) } else { Act::ResumeNode(node) });
        acts.push(Act::Wait(ms(dice, 0, 3_000)));
    }
    acts
}

/// At most four at a time, of which at least one is well.
fn rebalance(dice: &mut ChaCha8Rng) -> Vec<Act> {
    const TOGETHER_MAX: usize = 4;
    let mut acts = vec![Act::Join(0, String::new()), Act::Join(1, String::new())];
    let mut there: Vec<Number> = vec![0, 1];
    let mut next: Number = 2;
    for _ in 0..5 {
        acts.push(Act::Wait(ms(dice, 500, 3_500)));
        let one = there[dice.within(0..there.len() as u64) as usize];
        match dice.within(0..6) {
            0 | 1 if there.len() < TOGETHER_MAX => {
                acts.push(Act::Join(next, String::new()));
                there.push(next);
                next += 1;
            }
            0 | 1 => acts.push(Act::Crash(one, String::new())),
            2 if there.len() > 1 => {
                let kills = dice.chance(1, 2);
                acts.push(if kills { Act::Lose(one) } else { Act::Leave(one) });
                there.retain(|other| *other != one);
            }
            // A zombie in the middle of a transaction, while the others have its lanes.
            3 if there.len() > 1 => {
                acts.push(Act::Crash(one, stop_in_transaction(dice)));
                acts.push(Act::AwaitFrozen(one, FIRED_WAIT));
                let still = ms(dice, SESSION_TIMEOUT_MS + 500, SESSION_TIMEOUT_MS + 4_000);
                acts.push(Act::Wait(still));
                acts.push(Act::Thaw(one));
            }
            // A zombie: its session is over, and it does not know.
            4 if there.len() > 1 => {
                acts.push(Act::Freeze(one));
                let still = ms(dice, SESSION_TIMEOUT_MS + 500, SESSION_TIMEOUT_MS + 4_000);
                acts.push(Act::Wait(still));
                acts.push(Act::Thaw(one));
            }
            // Shorter than the session, longer than a transaction.
            _ => {
                acts.push(Act::Freeze(one));
                acts.push(Act::Wait(ms(dice, 1_000, SESSION_TIMEOUT_MS - 1_000)));
                acts.push(Act::Thaw(one));
            }
        }
    }
    acts
}
