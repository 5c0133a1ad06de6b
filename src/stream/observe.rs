//! What a worker tells the metrics, and its own sums of where the time goes.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::worker::event::{Command, Failure};
use crate::clock;
use crate::lane::Lane;
use crate::lane::prepared::Prepared;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::telemetry::{
    BatchPhase, KafkaErrorClass, LaneState, RebalanceKind, ResourceView, Telemetry,
    TransactionResult, Usage, WindowView,
};

/// Where a worker's time went, since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerStats {
    /// Waiting for records, and taking them over from librdkafka.
    pub poll_us: u64,
    /// Records → the lanes' queues.
    pub decode_us: u64,
    /// Batches: deciding, rendering, journal. With all else of a tick, which is little.
    pub decide_us: u64,
    pub produce_us: u64,
    pub flush_us: u64,
    pub send_offsets_us: u64,
    pub commit_us: u64,
    pub transactions: u64,
    pub tasks: u64,
    pub results: u64,
}

pub struct Observer<'a> {
    telemetry: &'a Telemetry,
    stats: Arc<Mutex<WorkerStats>>,
    worker: u32,
    batches: Vec<Arc<Prepared>>,
    /// What the batches of the open transaction took to decide.
    deciding: Cell<Duration>,
}

fn us(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

impl<'a> Observer<'a> {
    pub fn new(telemetry: &'a Telemetry, worker: u32, stats: Arc<Mutex<WorkerStats>>) -> Self {
        let deciding = Cell::new(Duration::ZERO);
        Observer { telemetry, stats, worker, batches: Vec::new(), deciding }
    }

    fn add(&self, add: impl FnOnce(&mut WorkerStats)) {
        add(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Records came; an empty poll is only waiting.
    pub fn polled(&self, poll: Duration, decode: Duration) {
        self.telemetry.batch_phase(BatchPhase::Poll, poll);
        self.telemetry.batch_phase(BatchPhase::Decode, decode);
        self.add(|stats| {
            stats.poll_us += us(poll);
            stats.decode_us += us(decode);
        });
    }

    pub fn decided(&self, took: Duration) {
        self.add(|stats| stats.decide_us += us(took));
        self.deciding.set(took);
        // A tick that decided nothing takes microseconds, and would hide those that did.
        if took >= Duration::from_micros(50) {
            self.telemetry.batch_phase(BatchPhase::Decide, took);
        }
    }

    pub fn begun(&mut self) {
        self.batches.clear();
        self.telemetry.transaction_begun(self.worker);
    }

    /// A step of a transaction took this long.
    pub fn step(&mut self, command: &Command, took: Duration, is_done: bool) {
        match command {
            Command::Produce(_) => {
                self.telemetry.batch_phase(BatchPhase::Produce, took);
                self.add(|stats| stats.produce_us += us(took));
            }
            Command::Flush => {
                self.telemetry.batch_phase(BatchPhase::Produce, took);
                self.add(|stats| stats.flush_us += us(took));
            }
            Command::SendOffsets(batches) => {
                self.batches.clone_from(batches);
                self.telemetry.batch_phase(BatchPhase::Commit, took);
                self.add(|stats| stats.send_offsets_us += us(took));
            }
            Command::Commit => {
                self.telemetry.batch_phase(BatchPhase::Commit, took);
                self.add(|stats| stats.commit_us += us(took));
                if is_done {
                    self.committed();
                }
            }
            Command::Abort if is_done => {
                self.telemetry.transaction_ended(self.worker, TransactionResult::Aborted);
            }
            Command::FetchCommitted { .. }
            | Command::FindStart { .. }
            | Command::FindSnapshot { .. }
            | Command::StoreSnapshot(_)
            | Command::SnapshotAnnounced(_)
            | Command::SnapshotUsed { .. }
            | Command::SnapshotRefused { .. }
            | Command::OffsetsBehind { .. }
            | Command::EpochBegun { .. }
            | Command::ReadJournal { .. }
            | Command::StopJournal { .. }
            | Command::ReadInputs(_)
            | Command::ReadControls { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::Begin
            | Command::Abort
            | Command::Reopen
            | Command::Rejoin
            | Command::ReadAgain { .. }
            | Command::FindResultsEnd { .. }
            | Command::LaneRuns { .. }
            | Command::LaneAwaitsFleet { .. }
            | Command::LaneWaits { .. }
            | Command::CountPartitions
            | Command::LanePanicked { .. }
            | Command::LaneStopped { .. }
            | Command::Stop(_) => {}
        }
    }

    fn committed(&mut self) {
        self.telemetry.transaction_ended(self.worker, TransactionResult::Committed);
        let now = clock::wall_now();
        let sum = |count: fn(&Prepared) -> u64| self.batches.iter().map(|batch| count(batch)).sum();
        let (tasks, results) = (sum(|batch| batch.counts.tasks), sum(|batch| batch.counts.results));
        self.telemetry.decided(self.deciding.get(), tasks, results);
        for batch in std::mem::take(&mut self.batches) {
            let at = batch.records.last().map_or(now.as_ms(), |record| record.timestamp_ms);
            let after = now.ms_since(Timestamp::from_ms(at));
            self.telemetry.batch_committed(&batch.counts, Duration::from_millis(after));
            self.telemetry.sampled(batch.lane, &batch.samples);
            self.add(|stats| {
                stats.tasks += batch.counts.tasks;
                stats.results += batch.counts.results;
            });
        }
        self.add(|stats| stats.transactions += 1);
    }

    pub fn failed(&self, failure: &Failure) {
        let (class, ended) = match failure {
            Failure::Abort(_) | Failure::PoolMissing(_) => (KafkaErrorClass::Other, None),
            Failure::Undelivered { .. } => (KafkaErrorClass::TimedOut, None),
            Failure::TooLarge { .. } => (KafkaErrorClass::Other, None),
            Failure::Membership(_) => (KafkaErrorClass::Fenced, None),
            Failure::Unknown(_) => (KafkaErrorClass::TimedOut, Some(TransactionResult::Unknown)),
            Failure::Fenced(_) => (KafkaErrorClass::Fenced, Some(TransactionResult::Fenced)),
            Failure::Denied(_) => (KafkaErrorClass::Denied, None),
        };
        self.telemetry.kafka_error(class);
        if let Some(ended) = ended {
            self.telemetry.transaction_ended(self.worker, ended);
        }
    }

    pub fn assigned(&self, lanes: &[u32]) {
        self.telemetry.assigned(self.worker, lanes);
    }

    pub fn revoked(&self, lost: bool, lanes: &[u32]) {
        let kind = if lost { RebalanceKind::Lost } else { RebalanceKind::Revoked };
        self.telemetry.revoked(kind, lanes);
    }

    /// So many batches of its journal are still to be folded.
    pub fn restoring(&self, lane: u32, behind: u64) {
        self.telemetry.lane_restore_remaining(lane, behind);
    }

    pub fn lane_runs(&self, lane: u32) {
        self.telemetry.lane_state(lane, LaneState::Running, None);
    }

    pub fn lane_paused(&self, lane: u32, reason: &str) {
        self.telemetry.lane_state(lane, LaneState::Paused, Some(reason.to_owned()));
    }

    pub fn lane_stopped(&self, lane: u32, reason: String) {
        self.telemetry.lane_state(lane, LaneState::Stopped, Some(reason));
    }

    /// How many records of an input are still to be read, and the time of the last one that was.
    pub fn lag(&self, lane: u32, input: Topic, records: i64, newest_ms: Option<i64>) {
        let records = u64::try_from(records).unwrap_or(0);
        let behind_ms = match newest_ms {
            Some(newest_ms) if records > 0 && newest_ms > 0 => {
                clock::wall_now().ms_since(Timestamp::from_ms(newest_ms))
            }
            Some(_) | None => 0,
        };
        self.telemetry.lane_lag(lane, input, records, behind_ms as f64 / 1e3);
    }

    /// What a lane holds and uses.
    pub fn progress(&self, lane: &Lane) {
        let state = lane.state();
        let backlog = state.backlog.len() as u64;
        self.telemetry.lane_progress(
            lane.number(),
            lane.seq(),
            lane.batch_time(),
            state.in_flight,
            backlog,
        );
        self.telemetry.lane_system(lane.number(), lane.system_health());
        let resources = state.fleet.iter().map(|(_, resource)| {
            let windows = resource.rates.iter().map(|rate| WindowView {
                dimension: rate.limit.dimension.name(),
                window_s: rate.limit.window_s,
                usage: Usage {
                    limit: rate.limit.amount,
                    granted: rate.units,
                    reserved: rate.window.used(),
                },
            });
            ResourceView {
                id: Arc::clone(&resource.id),
                health: resource.health.name(),
                slots: Usage {
                    limit: u64::from(resource.slots_limit),
                    granted: u64::from(resource.slots_units),
                    reserved: u64::from(resource.slots_in_use),
                },
                windows: windows.collect(),
            }
        });
        self.telemetry.lane_resources(lane.number(), resources.collect());
    }
}
