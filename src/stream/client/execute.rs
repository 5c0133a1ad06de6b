//! Executes single commands.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, trace, warn};

use super::group::Group;
use super::keeper::Request;
use super::producer::TransactionalProducer;
use super::reader::Reader;
use super::watch::Question;
use super::{ASK, Client, WorkerError, settings};
use crate::clock::Stopwatch;
use crate::failpoint::{self, Point};
use crate::model::Topic;
use crate::stream::worker::event::{Command, Event, Failure};

/// What to do about a lane that is stopped.
const RUNBOOK: &str = "docs/runbooks/lane-stopped.md";
const RECOVER: &str = "`pointsman recover` shows what is wrong and what resolves it";

impl Client<'_> {
    /// Does what the worker asks for, until it asks for nothing more.
    pub(super) fn execute(&mut self) -> Result<(), WorkerError> {
        while let Some(command) = self.worker.next_command() {
            self.execute_one(command)?;
        }
        Ok(())
    }

    fn execute_one(&mut self, command: Command) -> Result<(), WorkerError> {
        match command {
            Command::FetchCommitted { ask, lanes } => {
                failpoint::pass(Point::FetchCommittedBefore);
                let committed = self.group.committed(&lanes, ASK);
                failpoint::pass(Point::FetchCommittedAfter);
                let event = match committed {
                    Ok(lanes) => Event::Committed { ask, lanes },
                    Err(error) => {
                        warn!(%error, ?lanes, "committed offsets are not known yet");
                        Event::CommittedUnknown { ask }
                    }
                };
                self.tell(event);
            }
            Command::FindStart { lane, from } => {
                failpoint::pass(Point::FindStartBefore);
                self.unanswered.find_start(lane, from);
            }
            Command::FindSnapshot { ask, lane, seq_max, published } => {
                failpoint::pass(Point::FindSnapshotBefore);
                self.keeper.ask(Request::Find { ask, lane, seq_max, published });
            }
            Command::StoreSnapshot(taken) => {
                failpoint::pass(Point::SnapshotTaken);
                self.keeper.ask(Request::Store(taken));
            }
            Command::SnapshotAnnounced(manifest) => {
                failpoint::pass(Point::Announced);
                self.keeper.ask(Request::Announced(manifest));
            }
            Command::SnapshotUsed { lane, seq, target, source } => {
                info!(lane, seq, target, ?source, "begins with a snapshot");
            }
            Command::SnapshotRefused { lane, seq, source, error } => {
                warn!(lane, seq, ?source, %error, "the snapshot is not used");
                self.keeper.ask(Request::Refused { lane, seq, source });
            }
            Command::OffsetsBehind { lane, committed, seq } => {
                warn!(
                    lane,
                    committed, seq, "the journal is ahead of the group's offsets: it is right"
                );
            }
            Command::EpochBegun { lane, epoch, offsets } => {
                warn!(lane, epoch, ?offsets, "goes on at offsets that somebody set: a new epoch");
            }
            Command::ReadJournal { lane, from } => {
                failpoint::pass(Point::ReadJournalBefore);
                let mut reader = match self.journals.take() {
                    Some(reader) => reader,
                    None => Reader::new(&settings::journal_reader(self.config), &self.names)?,
                };
                let partition = i32::try_from(lane).unwrap_or(-1);
                let offset = match from {
                    Some(from) => reader.offset_at(Topic::Journal, partition, from, ASK),
                    None => Ok(0),
                };
                let offset = offset.unwrap_or_else(|error| {
                    warn!(lane, %error, "the journal is read from its beginning");
                    0
                });
                reader.add(Topic::Journal, partition, offset)?;
                self.journals = Some(reader);
            }
            Command::StopJournal { lane } => {
                if let Some(reader) = &mut self.journals {
                    reader.remove(Topic::Journal, i32::try_from(lane).unwrap_or(-1))?;
                }
                self.journals = self.journals.take().filter(|reader| !reader.is_idle());
            }
            Command::ReadInputs(inputs) => self.group.read_from(&inputs)?,
            Command::ReadControls { fleet, health_events } => {
                self.controls.add(Topic::Fleet, 0, fleet)?;
                self.controls.add(Topic::HealthEvents, 0, health_events)?;
            }
            Command::Pause { lane } => {
                warn!(lane, "outputs have no leader: the lane rests");
                self.observer.lane_paused(lane, "a partition that it writes to has no leader");
            }
            Command::Resume { lane } => self.observer.lane_runs(lane),
            Command::ReadAgain { lane, offsets } => self.read_again(lane, &offsets)?,
            Command::FindResultsEnd { lane } => {
                self.watch.ask(Question::ResultsEnd { lane });
            }
            Command::LaneRuns { lane } => {
                info!(lane, "runs");
                failpoint::pass(Point::LaneRuns);
                self.observer.restoring(lane, 0);
                self.observer.lane_runs(lane);
            }
            Command::LaneAwaitsFleet { lane } => {
                warn!(lane, "there is no resource in the fleet yet");
                self.observer.lane_paused(lane, "there is no resource in the fleet");
            }
            Command::LanePanicked { lane, culprit } => {
                error!(lane, ?culprit, "the core panicked; the lane is recovered");
            }
            Command::LaneWaits { lane, error } => {
                warn!(lane, %error, "the lane waits");
                self.observer.lane_paused(lane, &error.to_string());
            }
            Command::CountPartitions => self.unanswered.count(),
            Command::LaneStopped { lane, error } => {
                error!(lane, %error, runbook = RUNBOOK, help = RECOVER, "the lane is stopped");
                self.observer.lane_stopped(lane, format!("{error}; {RECOVER}; see {RUNBOOK}"));
            }
            Command::Rejoin => {
                failpoint::pass(Point::RejoinBefore);
                // The worker has parked its lanes; this member is the same one, by its instance id.
                self.group = Group::join(&settings::group(self.config, self.number), &self.names)?;
                failpoint::pass(Point::RejoinAfter);
            }
            Command::Stop(failure) => self.stop = Some(failure.map_or(Ok(()), Err)),
            Command::Begin
            | Command::Produce(_)
            | Command::Flush
            | Command::SendOffsets(_)
            | Command::Commit
            | Command::Abort
            | Command::Reopen => self.step(&command),
        }
        Ok(())
    }

    fn step(&mut self, command: &Command) {
        let step = step_of(command);
        if let Some((_, before, _)) = step {
            failpoint::pass(before);
        }
        let done = self.step_result(command);
        if let Some((_, _, after)) = step {
            failpoint::pass(after);
        }
        if let Err(failure) = &done {
            warn!(worker = self.number, step = step_name(command), %failure, "transaction");
            self.observer.failed(failure);
            if let Failure::PoolMissing(pool) = failure {
                self.pools_missing.insert(Arc::clone(pool));
            }
        }
        self.tell(done.map_or_else(Event::Failed, |()| Event::Done));
        if matches!(command, Command::Commit) {
            failpoint::pass(Point::VerdictAfter);
        }
    }

    fn step_result(&mut self, command: &Command) -> Result<(), Failure> {
        if matches!(command, Command::Reopen) {
            // The predecessor's queue is purged before its successor asks to be let in.
            self.producer = None;
            let timeout = Duration::from_millis(self.config.worker.transaction_timeout_ms);
            let config = settings::producer(self.config, self.number);
            let opened = TransactionalProducer::open(&config, &self.config.topics, timeout)?;
            self.producer = Some(opened);
            return Ok(());
        }
        let Some(producer) = &mut self.producer else {
            return Err(Failure::Unknown("there is no producer".to_owned()));
        };
        let took = Stopwatch::start();
        let done = match command {
            Command::Begin => {
                self.observer.begun();
                producer.begin()
            }
            Command::Produce(batch) => producer.produce(batch),
            Command::Flush => producer.flush(),
            Command::SendOffsets(batches) => match self.group.metadata() {
                Some(metadata) => producer.send_offsets(batches, &metadata),
                None => Err(Failure::Membership("no member of the group".to_owned())),
            },
            Command::Commit => producer.commit(),
            Command::Abort => producer.abort(),
            Command::Reopen
            | Command::FetchCommitted { .. }
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
            | Command::Rejoin
            | Command::ReadAgain { .. }
            | Command::FindResultsEnd { .. }
            | Command::LaneRuns { .. }
            | Command::LaneAwaitsFleet { .. }
            | Command::LaneWaits { .. }
            | Command::CountPartitions
            | Command::LanePanicked { .. }
            | Command::LaneStopped { .. }
            | Command::Stop(_) => Ok(()),
        };
        let took = took.elapsed();
        trace!(step = step_name(command), took_us = took.as_micros(), "transaction");
        self.observer.step(command, took, done.is_ok());
        done
    }

    fn read_again(&mut self, lane: u32, offsets: &[i64]) -> Result<(), WorkerError> {
        let now = self.now();
        let Client { worker, cache, payloads, .. } = self;
        let mut missing = Vec::new();
        for offset in offsets {
            let kept = cache.with(lane, *offset, |record| {
                let record = Some(*record);
                worker.handle(now, Event::Reread { lane, offset: *offset, record });
            });
            if kept.is_none() {
                missing.push(*offset);
            }
        }
        Ok(payloads.want(lane, &missing)?)
    }
}

fn step_name(command: &Command) -> &'static str {
    step_of(command).map_or("none", |(name, ..)| name)
}

/// The name of a transaction's step, and the points before and after it.
fn step_of(command: &Command) -> Option<(&'static str, Point, Point)> {
    match command {
        Command::Begin => Some(("begin", Point::BeginBefore, Point::BeginAfter)),
        Command::Produce(_) => Some(("produce", Point::ProduceBefore, Point::ProduceAfter)),
        Command::Flush => Some(("flush", Point::FlushBefore, Point::FlushAfter)),
        Command::SendOffsets(_) => {
            Some(("send offsets", Point::SendOffsetsBefore, Point::SendOffsetsAfter))
        }
        Command::Commit => Some(("commit", Point::CommitBefore, Point::CommitAfter)),
        Command::Abort => Some(("abort", Point::AbortBefore, Point::AbortAfter)),
        Command::Reopen => Some(("open", Point::ReopenBefore, Point::ReopenAfter)),
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
        | Command::Rejoin
        | Command::ReadAgain { .. }
        | Command::FindResultsEnd { .. }
        | Command::LaneRuns { .. }
        | Command::LaneAwaitsFleet { .. }
        | Command::LaneWaits { .. }
        | Command::CountPartitions
        | Command::LanePanicked { .. }
        | Command::LaneStopped { .. }
        | Command::Stop(_) => None,
    }
}
