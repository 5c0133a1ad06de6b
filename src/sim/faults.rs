//! What goes wrong, when, and how often each has happened at each step of the commit path.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use kafka_protocol::ResponseError;
use rand_chacha::ChaCha8Rng;

use super::dice::Dice;
use super::disk::{Damage, Disk};

/// A step of the commit path: one kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// `InitProducerId`.
    Open,
    /// `AddPartitionsToTxn`.
    AddPartitions,
    Produce,
    /// `AddOffsetsToTxn`.
    AddOffsets,
    /// `TxnOffsetCommit`.
    SendOffsets,
    /// `EndTxn`.
    End,
    /// What the producer of snapshots sends: no transaction waits for it.
    Publish,
}

impl Step {
    pub const ALL: [Step; 7] = [
        Step::Open,
        Step::AddPartitions,
        Step::Produce,
        Step::AddOffsets,
        Step::SendOffsets,
        Step::End,
        Step::Publish,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Step::Open => "open",
            Step::AddPartitions => "add_partitions",
            Step::Produce => "produce",
            Step::AddOffsets => "add_offsets",
            Step::SendOffsets => "send_offsets",
            Step::End => "end",
            Step::Publish => "publish",
        }
    }

    /// What a broker may answer for reasons of its own.
    const fn errors(self) -> &'static [ResponseError] {
        use ResponseError::*;
        match self {
            Step::Open => &[
                CoordinatorNotAvailable,
                NotCoordinator,
                CoordinatorLoadInProgress,
                ConcurrentTransactions,
                ProducerFenced,
                TransactionalIdAuthorizationFailed,
            ],
            Step::AddPartitions => &[
                CoordinatorNotAvailable,
                NotCoordinator,
                CoordinatorLoadInProgress,
                ConcurrentTransactions,
                InvalidProducerEpoch,
                ProducerFenced,
                InvalidTxnState,
                InvalidProducerIdMapping,
                UnknownTopicOrPartition,
            ],
            Step::Produce => &[
                NotLeaderOrFollower,
                RequestTimedOut,
                NotEnoughReplicas,
                NotEnoughReplicasAfterAppend,
                KafkaStorageError,
                InvalidProducerEpoch,
                OutOfOrderSequenceNumber,
            ],
            Step::AddOffsets | Step::End => &[
                CoordinatorNotAvailable,
                NotCoordinator,
                CoordinatorLoadInProgress,
                ConcurrentTransactions,
                InvalidProducerEpoch,
                ProducerFenced,
                InvalidTxnState,
            ],
            Step::SendOffsets => &[
                CoordinatorNotAvailable,
                NotCoordinator,
                CoordinatorLoadInProgress,
                IllegalGeneration,
                UnknownMemberId,
                FencedInstanceId,
                InvalidProducerEpoch,
                UnknownTopicOrPartition,
            ],
            Step::Publish => &[
                NotLeaderOrFollower,
                RequestTimedOut,
                NotEnoughReplicasAfterAppend,
                OutOfOrderSequenceNumber,
                KafkaStorageError,
            ],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    RequestLost,
    ResponseLost,
    /// Beyond the transaction's time-out, sometimes.
    Delayed,
    /// The request arrives when its sender has given it up, and sent it again or gone on.
    Overtaken,
    CrashBefore,
    CrashAfter,
    /// The process stands still, longer than its session sometimes, and goes on as a zombie.
    Paused,
    /// An error is answered, and the request took no effect.
    Refused,
    /// An error is answered, and the request did take effect.
    SeemsRefused,
    /// The broker answers nobody for some seconds.
    Outage,
}

impl Fault {
    pub const ALL: [Fault; 10] = [
        Fault::RequestLost,
        Fault::ResponseLost,
        Fault::Delayed,
        Fault::Overtaken,
        Fault::CrashBefore,
        Fault::CrashAfter,
        Fault::Paused,
        Fault::Refused,
        Fault::SeemsRefused,
        Fault::Outage,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Fault::RequestLost => "request_lost",
            Fault::ResponseLost => "response_lost",
            Fault::Delayed => "delayed",
            Fault::Overtaken => "overtaken",
            Fault::CrashBefore => "crash_before",
            Fault::CrashAfter => "crash_after",
            Fault::Paused => "paused",
            Fault::Refused => "refused",
            Fault::SeemsRefused => "seems_refused",
            Fault::Outage => "outage",
        }
    }
}

/// A process that was killed is started again after so long, microseconds.
pub const RESTART_US: Range<u64> = 50_000..9_000_000;
/// A paused one goes on after so long: sessions last 6 s.
pub const PAUSE_US: Range<u64> = 500_000..12_000_000;
/// A late answer comes after so long: transactions last 2 s.
pub const DELAY_US: Range<u64> = 50_000..4_000_000;

/// A request that is overtaken arrives after so long: its sender waits for 2 s.
pub const OVERTAKEN_US: Range<u64> = 500_000..4_000_000;
/// An outage lasts so long.
pub const OUTAGE_US: Range<u64> = 300_000..5_000_000;

/// One request of the commit path in so many meets a fault.
const ONE_IN: u64 = 12;

#[derive(Debug)]
pub struct Faults {
    dice: ChaCha8Rng,
    pub active: bool,
    pub coverage: Coverage,
}

impl Faults {
    pub fn new(dice: ChaCha8Rng) -> Self {
        Faults { dice, active: true, coverage: Coverage::default() }
    }

    /// What happens to the next request of this step.
    pub fn next(&mut self, step: Step) -> Option<Fault> {
        if !self.active || !self.dice.chance(1, ONE_IN) {
            return None;
        }
        // An outage hits everyone, and so comes half as often as any other fault.
        let drawn = self.dice.within(1..2 * Fault::ALL.len() as u64) - 1;
        let fault = Fault::ALL[(drawn / 2) as usize];
        *self.coverage.0.entry((fault, step)).or_insert(0) += 1;
        Some(fault)
    }

    pub fn within(&mut self, range: Range<u64>) -> u64 {
        self.dice.within(range)
    }

    /// The error that a step's request is answered with.
    pub fn error(&mut self, step: Step) -> ResponseError {
        let errors = step.errors();
        errors[self.dice.within(0..errors.len() as u64) as usize]
    }

    /// A process crashes: what that does to its disk.
    pub fn damage(&mut self, disk: &mut Disk) -> Vec<Damage> {
        if self.active { disk.suffer(&mut self.dice) } else { Vec::new() }
    }
}

/// How often each fault met each step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Coverage(pub BTreeMap<(Fault, Step), u64>);

impl Coverage {
    pub fn faults(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn add(&mut self, other: &Coverage) {
        for (cell, count) in &other.0 {
            *self.0.entry(*cell).or_insert(0) += count;
        }
    }

    /// Cells of the table that nothing hit.
    pub fn missing(&self) -> Vec<(Fault, Step)> {
        let all = Fault::ALL.iter().flat_map(|fault| Step::ALL.iter().map(|step| (*fault, *step)));
        all.filter(|cell| !self.0.contains_key(cell)).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:14}", "")?;
        for step in Step::ALL {
            write!(formatter, "{:>16}", step.name())?;
        }
        for fault in Fault::ALL {
            write!(formatter, "\n{:14}", fault.name())?;
            for step in Step::ALL {
                write!(formatter, "{:>16}", self.0.get(&(fault, step)).unwrap_or(&0))?;
            }
        }
        Ok(())
    }
}
