//! One transaction: a batch of each lane that has something, from `Begin` to the verdict.

use std::sync::Arc;

use super::event::{Command, Failure, LaneError};
use super::held::Panicked;
use super::{Phase, Worker};
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::stream::clock::Now;

/// A producer that could not be opened is tried again after this long.
const OPEN_AGAIN_MS: u64 = 500;

/// Transactions that fail one after the other wait this long, doubled each time, up to the second.
const HOLD_OFF_MS: u64 = 50;
const HOLD_OFF_MS_MAX: u64 = 5_000;

/// A twin takes the transactional id back each time; this often without a commit is no accident.
const FENCES_MAX: u32 = 3;

#[derive(Debug)]
pub(super) enum Producer {
    /// Before the first assignment.
    Closed,
    /// `Reopen` is out.
    Opening(After),
    OpenAgain {
        at_us: u64,
        after: After,
    },
    Idle,
    Step(Step),
    /// `Abort` is out.
    Aborting(After),
    /// `Stop` is said.
    Ended,
}

/// What follows once the producer is ready again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// What is committed is the verdict.
    Verdict,
    /// The group first.
    Rejoin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Begin,
    /// The batch with this index.
    Produce(usize),
    Flush,
    SendOffsets,
    Commit,
}

/// Failures since the last commit.
#[derive(Debug, Default)]
pub(super) struct Failures {
    in_a_row: u32,
    fences: u32,
    hold_off_until_us: u64,
}

impl Producer {
    pub fn is_idle(&self) -> bool {
        matches!(self, Producer::Idle)
    }
}

impl Worker {
    pub(super) fn producer_tick(&mut self, now: Now) {
        match self.producer {
            Producer::OpenAgain { at_us, after } if !self.ending => {
                if now.monotonic_us >= at_us {
                    self.open(after);
                }
            }
            Producer::Idle if !self.ending && std::mem::take(&mut self.has_grown) => {
                self.open(After::Verdict);
            }
            Producer::Idle if !self.ending => self.begin(now),
            Producer::Closed | Producer::Idle | Producer::OpenAgain { .. } => {
                if self.ending {
                    self.end_with(None);
                }
            }
            Producer::Opening(_) | Producer::Step(_) | Producer::Aborting(_) | Producer::Ended => {}
        }
    }

    /// A new producer. Whatever the one before had begun is committed, or never will be.
    pub(super) fn open(&mut self, after: After) {
        for batch in &self.batches {
            let slot = self.slots.get_mut(&batch.lane).and_then(|slot| slot.held.as_mut());
            let parked = self.parked.get_mut(&batch.lane).map(|parked| &mut parked.held);
            if let Some(held) = slot.or(parked) {
                held.doubt();
            }
        }
        self.has_grown = false;
        self.producer = Producer::Opening(after);
        self.commands.push_back(Command::Reopen);
    }

    fn end_with(&mut self, failure: Option<Failure>) {
        self.producer = Producer::Ended;
        self.commands.push_back(Command::Stop(failure));
    }

    fn begin(&mut self, now: Now) {
        if now.monotonic_us < self.failures.hold_off_until_us {
            return;
        }
        let settings = &self.settings;
        let is_due = self.slots.values().any(|slot| {
            matches!(slot.phase, Phase::Running)
                && slot.held.as_ref().is_some_and(|held| held.due_in_ms(settings, now) == Some(0))
        });
        if !is_due {
            return;
        }
        let mut panicked = Vec::new();
        for (number, slot) in &mut self.slots {
            if !matches!(slot.phase, Phase::Running) {
                continue;
            }
            match slot.held.as_mut().map(|held| held.prepare(settings, now)) {
                Some(Ok(Some(batch))) => self.batches.push(batch),
                Some(Ok(None)) | None => {}
                Some(Err(Panicked)) => panicked.push(*number),
            }
        }
        for number in panicked {
            self.panicked(number);
        }
        if !self.batches.is_empty() {
            self.step(Step::Begin);
        }
    }

    fn step(&mut self, step: Step) {
        self.producer = Producer::Step(step);
        let command = match step {
            Step::Begin => Command::Begin,
            Step::Produce(index) => match self.batches.get(index) {
                Some(batch) => Command::Produce(Arc::clone(batch)),
                None => return self.step(Step::Flush),
            },
            Step::Flush => Command::Flush,
            Step::SendOffsets => Command::SendOffsets(self.batches.clone()),
            Step::Commit => Command::Commit,
        };
        self.commands.push_back(command);
    }

    pub(super) fn step_done(&mut self, now: Now) {
        match self.producer {
            Producer::Step(Step::Begin) => self.step(Step::Produce(0)),
            Producer::Step(Step::Produce(index)) => self.step(Step::Produce(index + 1)),
            Producer::Step(Step::Flush) => self.step(Step::SendOffsets),
            Producer::Step(Step::SendOffsets) => self.step(Step::Commit),
            Producer::Step(Step::Commit) => {
                self.producer = Producer::Idle;
                self.failures = Failures::default();
                self.settle(now);
                self.ask_unsent();
            }
            Producer::Opening(after) | Producer::Aborting(after) => {
                self.producer = Producer::Idle;
                match after {
                    After::Verdict => self.ask_verdict(),
                    After::Rejoin => {
                        self.batches.clear();
                        self.revoked(now);
                        self.commands.push_back(Command::Rejoin);
                    }
                }
                self.ask_unsent();
            }
            Producer::Closed | Producer::OpenAgain { .. } | Producer::Idle | Producer::Ended => {}
        }
    }

    /// The transaction is committed.
    fn settle(&mut self, now: Now) {
        for batch in std::mem::take(&mut self.batches) {
            let number = batch.lane;
            if let Some(slot) = self.slots.get_mut(&number) {
                if let Some(held) = &mut slot.held {
                    self.commands.extend(held.settled(now));
                    let at = held.lane.positions();
                    let controls =
                        [(Topic::Fleet, at.fleet), (Topic::HealthEvents, at.health_events)];
                    slot.condemned.retain(|(topic, offset)| {
                        let mut read = batch.offsets.iter().chain(&controls);
                        read.any(|(of, next)| of == topic && offset >= next)
                    });
                }
            } else if let Some(parked) = self.parked.get_mut(&number) {
                // Its snapshot, if any, is of use all the same.
                self.commands.extend(parked.held.settled(now));
            }
        }
    }

    /// The lanes of the transaction whose outcome is open.
    fn ask_verdict(&mut self) {
        let lanes = std::mem::take(&mut self.batches);
        let runs = |number: &u32| {
            let slot = self.slots.get(number);
            slot.is_some_and(|slot| matches!(slot.phase, Phase::Running))
        };
        let lanes: Vec<u32> = lanes.iter().map(|batch| batch.lane).filter(runs).collect();
        self.ask(lanes.into_iter().map(|number| (number, true)).collect());
    }

    pub(super) fn step_failed(&mut self, now: Now, failure: Failure) {
        match self.producer {
            Producer::Step(_) => self.transaction_failed(now, failure),
            // A transaction that cannot be aborted ends with its producer.
            Producer::Aborting(after) => self.open(after),
            Producer::Opening(after) => match failure {
                Failure::Fenced(_) | Failure::Denied(_) => self.end_with(Some(failure)),
                Failure::Abort(_)
                | Failure::Undelivered { .. }
                | Failure::TooLarge { .. }
                | Failure::Membership(_)
                | Failure::Unknown(_)
                | Failure::PoolMissing(_) => {
                    let at_us = now.monotonic_us + OPEN_AGAIN_MS * 1_000;
                    self.producer = Producer::OpenAgain { at_us, after };
                }
            },
            Producer::Closed | Producer::OpenAgain { .. } | Producer::Idle | Producer::Ended => {}
        }
    }

    fn transaction_failed(&mut self, now: Now, failure: Failure) {
        self.failures.in_a_row += 1;
        // The first failure is followed at once: most of them are over then.
        if self.failures.in_a_row > 1 {
            let doublings = (self.failures.in_a_row - 2).min(16);
            let wait_ms = (HOLD_OFF_MS << doublings).min(HOLD_OFF_MS_MAX);
            self.failures.hold_off_until_us = now.monotonic_us + wait_ms * 1_000;
        }
        match failure {
            Failure::Abort(_) => self.abort(After::Verdict),
            Failure::Undelivered { lanes, .. } => {
                self.rest_leaderless(now, &lanes);
                self.abort(After::Verdict);
            }
            Failure::TooLarge { lanes, .. } => {
                for number in lanes {
                    self.stop_lane(number, LaneError::TooLarge { lane: number });
                }
                self.abort(After::Verdict);
            }
            Failure::PoolMissing(pool) => {
                self.pool_missing(&pool);
                self.abort(After::Verdict);
            }
            Failure::Membership(_) => self.abort(After::Rejoin),
            Failure::Unknown(_) => self.open(After::Verdict),
            Failure::Fenced(_) => {
                self.failures.fences += 1;
                if self.failures.fences >= FENCES_MAX {
                    return self.end_with(Some(failure));
                }
                self.open(After::Verdict);
            }
            Failure::Denied(_) => self.end_with(Some(failure)),
        }
    }

    fn abort(&mut self, after: After) {
        self.producer = Producer::Aborting(after);
        self.commands.push_back(Command::Abort);
    }

    /// A partition without a leader must not stall the lanes that have one.
    fn rest_leaderless(&mut self, now: Now, lanes: &[u32]) {
        let mut rests = false;
        for number in lanes {
            let held = self.slots.get_mut(number).and_then(|slot| slot.held.as_mut());
            if let Some(held) = held
                && held.timed_out(&self.settings, now)
            {
                self.commands.push_back(Command::Pause { lane: *number });
                rests = true;
            }
        }
        if rests {
            self.read_inputs();
        }
    }

    /// The same bytes would fail again: the lanes decide anew, knowing that the topic is missing.
    fn pool_missing(&mut self, pool: &Arc<str>) {
        let missing = &mut self.settings.lane.policy.pools_missing;
        if !missing.iter().any(|known| known.as_str() == &**pool) {
            missing.push(pool.to_string());
        }
        for batch in &self.batches {
            let topic = OutputTopic::Pool(Arc::clone(pool));
            if batch.records.iter().any(|record| record.topic == topic)
                && let Some(slot) = self.slots.get_mut(&batch.lane)
            {
                slot.held = None;
            }
        }
    }
}
