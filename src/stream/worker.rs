//! The worker: what happens around a transaction, as a state machine without I/O or clock.
//!
//! It owns lanes, is told [`Event`]s and asks for [`Command`]s. `client` executes those on a real
//! Kafka; a simulator may on a modelled one. A lane passes these phases:
//!
//! assigned → *asked* what is committed → *counting* the first lanes and *starting*, where nothing is, or *finding* a snapshot to
//! begin with → *folding* its journal up to that batch and to its end → *catching up* with the control topics → *running*; or *stopped*, where anything
//! does not fit; it *waits* while partitions are being added. After a transaction whose outcome is not known to be ours, its lanes are *asked*
//! again: what is committed is the verdict, where need be after *checking* the journal's end, and a
//! lane that comes back after a rebalance takes the same way.

mod careful;
mod checking;
mod counting;
mod epoch;
pub mod event;
mod folding;
mod held;
mod recovery;
mod snapshots;
mod transaction;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::codec::RawRecord;
use crate::config::{self, StartFrom};
use crate::lane::prepared::Prepared;
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::stream::clock::Now;
use crate::stream::committed::CommitPoint;
use counting::Firsts;
use epoch::Reset;
use event::{Command, Event, LaneError};
use held::Held;
use snapshots::Began;
use transaction::{Failures, Producer};

/// A lane that was revoked is kept this long: longer than any rebalance, and short enough that a
/// lane that has gone to another instance does not hold memory here.
const PARKED_MS_MAX: u64 = 120_000;

/// A question that could not be answered is asked again after this long.
const ASK_AGAIN_MS: u64 = 500;

/// `task-results` is asked for its end at most this often, for each lane.
const RESULTS_END_MS: u64 = 200;

/// Timers of a lane are looked at this often: a batch for each of them would be mostly overhead.
const TIMER_MS: u64 = 100;

/// Waiting tasks that are read again at a time, for each lane.
const REREADS_MAX: usize = 256;

#[derive(Debug, Clone)]
pub struct WorkerSettings {
    pub lane: LaneSettings,
    pub start_from: StartFrom,
    /// A batch begins this long after its first record, or when it is full.
    pub batch_wait_ms: u64,
    /// Records and bytes that may be queued over all lanes before the client is to stop reading.
    pub queued_records_max: usize,
    pub queued_bytes_max: usize,
    /// How far this machine's wall clock may be ahead of a lane's last owner's.
    pub clock_uncertainty_ms: u64,
    /// The journal must show the committed batch within this time: markers may be on their way.
    pub journal_wait_ms: u64,
    /// A lane whose outputs have no leader rests this long.
    pub leaderless_pause_ms: u64,
    pub snapshot: config::Snapshot,
    /// Offsets that are not ours are accepted, and what follows them has a new epoch.
    pub new_epoch: bool,
}

/// What one lane is doing.
#[derive(Debug)]
enum Phase {
    /// `FetchCommitted` is out, or waits to be sent again.
    Asked {
        ask: u64,
        again_us: Option<u64>,
        runs: bool,
    },
    /// `FetchCommitted` is out for all lanes, or waits to be sent: the lane has never run.
    Counting {
        /// 0: not sent yet.
        ask: u64,
        again_us: Option<u64>,
        /// Since when the others do not say it.
        unsaid_us: Option<u64>,
        reset: Option<Reset>,
    },
    /// A partition of the lane is missing.
    Waiting {
        error: LaneError,
        since_us: u64,
    },
    /// `FindStart` is out: the lane has never run.
    Starting,
    /// `FindSnapshot` is out.
    Finding {
        ask: u64,
        target: CommitPoint,
    },
    Folding(Fold),
    /// The end of the journal is read, whether it has the pending batch.
    Checking(Check),
    /// The control topics are read to their ends.
    CatchingUp {
        fleet: bool,
        health_events: bool,
    },
    Running,
    Stopped(LaneError),
}

/// A lane's journal is being read.
#[derive(Debug, Default)]
struct Fold {
    /// The committed batch; `None` where there is none.
    target: Option<CommitPoint>,
    /// That batch is folded, and is the one that it should be. What follows it up to the journal's
    /// end is committed just as well.
    reached: bool,
    /// Since when there is nothing more to read.
    ended_us: Option<u64>,
    began: Option<Began>,
    /// It is read from the beginning, after an attempt that was not.
    whole: bool,
    /// A record has been folded.
    any: bool,
    /// The offsets are not ours, and are accepted.
    reset: Option<Reset>,
}

/// What is looked for in a lane's journal: the pending batch, which the committed offsets do not know.
#[derive(Debug)]
struct Check {
    committed: Option<CommitPoint>,
    /// Of the batch that stands in the pending one's place.
    found: Option<CommitPoint>,
}

/// The phase of a lane, for those who watch.
#[derive(Debug, Clone, PartialEq)]
pub enum LaneState {
    Restoring,
    Running,
    /// Without a leader to write to, without a fleet, or while partitions are being added: goes on by
    /// itself.
    Paused,
    Stopped(LaneError),
}

#[derive(Debug)]
struct Slot {
    phase: Phase,
    held: Option<Box<Held>>,
    /// After a panic: this many records are taken one by one, and these are not decided at all.
    careful_records: usize,
    condemned: Vec<(Topic, i64)>,
}

#[derive(Debug)]
struct Parked {
    held: Box<Held>,
    condemned: Vec<(Topic, i64)>,
    since_us: u64,
}

#[derive(Debug)]
pub struct Worker {
    settings: WorkerSettings,
    partitions: BTreeMap<Topic, i32>,
    slots: BTreeMap<u32, Slot>,
    parked: BTreeMap<u32, Parked>,
    producer: Producer,
    failures: Failures,
    /// The batches of the open transaction.
    batches: Vec<Arc<Prepared>>,
    asks: u64,
    firsts: Firsts,
    /// When partitions were counted last because topics disagree.
    counted_us: u64,
    /// Partitions were added since the producer was opened.
    has_grown: bool,
    ending: bool,
    commands: VecDeque<Command>,
}

impl Worker {
    pub fn new(settings: WorkerSettings) -> Self {
        Worker {
            settings,
            partitions: BTreeMap::new(),
            slots: BTreeMap::new(),
            parked: BTreeMap::new(),
            producer: Producer::Closed,
            failures: Failures::default(),
            batches: Vec::new(),
            asks: 0,
            firsts: Firsts::default(),
            counted_us: 0,
            has_grown: false,
            ending: false,
            commands: VecDeque::new(),
        }
    }

    /// What to do next; to be asked until there is nothing left.
    pub fn next_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The state of every lane that is assigned.
    pub fn lane_states(&self) -> Vec<(u32, LaneState)> {
        self.slots.iter().map(|(number, slot)| (*number, slot.state())).collect()
    }

    /// The lanes that are held, to be looked at.
    pub fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.slots.values().filter_map(|slot| slot.held.as_ref()).map(|held| &held.lane)
    }

    /// The next offsets to read of a running lane, in the order of [`Topic::LANE_INPUTS`].
    pub fn positions(&self, lane: u32) -> Option<[i64; 3]> {
        let held = self.slots.get(&lane)?.held.as_ref()?;
        Some(held.input_positions())
    }

    /// Whether the client may hand over more records now.
    pub fn takes_records(&self) -> bool {
        let mut records = 0;
        let mut bytes = 0;
        for held in self.slots.values().filter_map(|slot| slot.held.as_ref()) {
            records += held.queued();
            bytes += held.queued_bytes();
        }
        records < self.settings.queued_records_max && bytes < self.settings.queued_bytes_max
    }

    /// How long the client may wait for records before the next `Tick`, in milliseconds.
    pub fn wait_ms(&self, now: Now) -> u64 {
        if !self.producer.is_idle() {
            return IDLE_WAIT_MS;
        }
        let waits = self.slots.values().filter_map(|slot| match (&slot.phase, &slot.held) {
            (Phase::Running, Some(held)) => held.due_in_ms(&self.settings, now),
            (
                Phase::Asked { .. }
                | Phase::Counting { .. }
                | Phase::Waiting { .. }
                | Phase::Finding { .. }
                | Phase::Starting
                | Phase::Folding(_)
                | Phase::Checking(_)
                | Phase::CatchingUp { .. }
                | Phase::Running
                | Phase::Stopped(_),
                _,
            ) => None,
        });
        waits.min().unwrap_or(IDLE_WAIT_MS).min(IDLE_WAIT_MS)
    }

    /// Takes one event at the time `now`.
    pub fn handle(&mut self, now: Now, event: Event<'_>) {
        match event {
            Event::Record(record) => self.record(now, &record),
            Event::End { topic, partition, offset } => self.end(now, topic, partition, offset),
            Event::Partitions(partitions) => self.counted(now, partitions),
            Event::Assigned(assigned) => self.assigned(now, &assigned),
            Event::Revoked => self.revoked(now),
            Event::Committed { ask, lanes } => self.committed(now, ask, &lanes),
            Event::CommittedUnknown { ask } => self.committed_unknown(now, ask),
            Event::SnapshotFound { ask, lane, found } => {
                self.snapshot_found(now, ask, lane, found);
            }
            Event::SnapshotStored { lane, run, manifest } => {
                self.snapshot_stored(lane, run, manifest);
            }
            Event::Start { lane, offsets } => self.start(now, lane, offsets),
            Event::JournalRecord { lane, value } => self.journal_record(lane, value),
            Event::JournalEnd { lane } => self.journal_end(now, lane),
            Event::Deleted { topic, partition, offset } => self.deleted(topic, partition, offset),
            Event::ResultsEnd { lane, end } => self.results_end(now, lane, end),
            Event::Reread { lane, offset, record } => {
                self.reread(now, lane, offset, record.as_ref());
            }
            Event::Done => self.step_done(now),
            Event::Failed(failure) => self.step_failed(now, failure),
            Event::PoolAppeared(pool) => self.pool_appeared(&pool),
            Event::Tick => self.tick(now),
            Event::Shutdown => {
                self.ending = true;
                self.tick(now);
            }
        }
    }

    fn record(&mut self, now: Now, record: &RawRecord<'_>) {
        if !Topic::CONTROLS.contains(&record.topic) {
            if let Some(number) = lane_of(record.partition) {
                self.offer(now, number, record);
            }
            return;
        }
        let numbers: Vec<u32> = self.slots.keys().copied().collect();
        for number in numbers {
            self.offer(now, number, record);
        }
        self.run_caught_up(now);
    }

    fn offer(&mut self, now: Now, number: u32, record: &RawRecord<'_>) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if slot.takes(record.topic)
            && let Some(held) = &mut slot.held
            && held.offer(now, record).is_err()
        {
            self.panicked(number);
        }
    }

    fn end(&mut self, now: Now, topic: Topic, partition: i32, offset: i64) {
        if Topic::CONTROLS.contains(&topic) {
            for slot in self.slots.values_mut() {
                if let Phase::CatchingUp { fleet, health_events } = &mut slot.phase {
                    *(if topic == Topic::Fleet { fleet } else { health_events }) = true;
                }
            }
            self.run_caught_up(now);
        } else if topic == Topic::TaskResults
            && let Some(number) = lane_of(partition)
            && let Some(slot) = self.slots.get_mut(&number)
            && let Some(held) = &mut slot.held
            && held.results_read_to(now, offset).is_err()
        {
            self.panicked(number);
        }
    }

    fn results_end(&mut self, now: Now, number: u32, end: i64) {
        let held = self.slots.get_mut(&number).and_then(|slot| slot.held.as_mut());
        if held.is_some_and(|held| held.results_end(now, end).is_err()) {
            self.panicked(number);
        }
    }

    fn reread(&mut self, now: Now, number: u32, offset: i64, record: Option<&RawRecord<'_>>) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if let Some(held) = &mut slot.held
            && held.reread(now, offset, record).is_err()
        {
            self.panicked(number);
        }
    }

    fn pool_appeared(&mut self, pool: &str) {
        self.settings.lane.policy.pools_missing.retain(|missing| missing != pool);
        for held in self.slots.values_mut().filter_map(|slot| slot.held.as_mut()) {
            held.lane.set_policy(self.settings.lane.policy.clone());
        }
    }

    fn tick(&mut self, now: Now) {
        self.parked.retain(|_, parked| now.ms_since(parked.since_us) < PARKED_MS_MAX);
        self.ask_again(now);
        self.ask_first(now);
        self.count_again(now);
        self.end_waits(now);
        self.journal_waits(now);
        if !self.ending {
            let mut resumes = false;
            for (number, slot) in &mut self.slots {
                if !matches!(slot.phase, Phase::Running) {
                    continue;
                }
                if let Some(held) = &mut slot.held {
                    let was_paused = held.is_paused();
                    held.tick(now, *number, &mut self.commands);
                    resumes |= was_paused && !held.is_paused();
                }
            }
            if resumes {
                self.read_inputs();
            }
        }
        self.feed_careful(now);
        self.producer_tick(now);
    }

    fn stop_lane(&mut self, number: u32, error: LaneError) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let was_running = matches!(slot.phase, Phase::Running | Phase::Asked { runs: true, .. });
        if matches!(slot.phase, Phase::Folding(_) | Phase::Checking(_)) {
            self.commands.push_back(Command::StopJournal { lane: number });
        }
        slot.held = None;
        slot.phase = Phase::Stopped(error.clone());
        self.commands.push_back(Command::LaneStopped { lane: number, error });
        if was_running {
            self.read_inputs();
        }
    }

    /// Says which inputs are read from where: a lane that rests is left out. The client must not pause
    /// it by itself: where it went on would be librdkafka's to say, and that is one record too late
    /// where an input was read to its end.
    fn read_inputs(&mut self) {
        let mut inputs = Vec::new();
        for (number, slot) in &mut self.slots {
            let runs = matches!(slot.phase, Phase::Running | Phase::Asked { runs: true, .. });
            if let Some(held) = &mut slot.held
                && runs
                && held.reads
                && !held.is_paused()
            {
                held.forget_inputs_read_ahead();
                for (topic, offset) in Topic::LANE_INPUTS.into_iter().zip(held.input_positions()) {
                    inputs.push((topic, *number as i32, offset));
                }
            }
        }
        self.commands.push_back(Command::ReadInputs(inputs));
    }
}

/// How long to wait for records where nothing is due.
const IDLE_WAIT_MS: u64 = 10;

fn lane_of(partition: i32) -> Option<u32> {
    u32::try_from(partition).ok()
}

impl Slot {
    fn new(phase: Phase, held: Option<Box<Held>>) -> Self {
        Slot { phase, held, careful_records: 0, condemned: Vec::new() }
    }

    /// Whether records of this topic are meant for the lane in its phase. A lane of which it is
    /// asked what is committed may turn out to be right, so it goes on queueing.
    fn takes(&self, topic: Topic) -> bool {
        match self.phase {
            Phase::Running | Phase::Asked { runs: true, .. } => true,
            Phase::CatchingUp { .. } => Topic::CONTROLS.contains(&topic),
            Phase::Asked { runs: false, .. }
            | Phase::Counting { .. }
            | Phase::Waiting { .. }
            | Phase::Finding { .. }
            | Phase::Starting
            | Phase::Folding(_)
            | Phase::Checking(_)
            | Phase::Stopped(_) => false,
        }
    }

    fn state(&self) -> LaneState {
        match &self.phase {
            Phase::Waiting { .. } | Phase::Counting { unsaid_us: Some(_), .. } => LaneState::Paused,
            Phase::Asked { .. }
            | Phase::Counting { .. }
            | Phase::Finding { .. }
            | Phase::Starting
            | Phase::Folding(_)
            | Phase::Checking(_)
            | Phase::CatchingUp { .. } => LaneState::Restoring,
            Phase::Running
                if self.held.as_ref().is_some_and(|held| held.is_paused() || !held.reads) =>
            {
                LaneState::Paused
            }
            Phase::Running => LaneState::Running,
            Phase::Stopped(error) => LaneState::Stopped(error.clone()),
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Held").field("committed", &self.committed).finish_non_exhaustive()
    }
}
