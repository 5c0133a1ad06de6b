//! (I/O) Executes on a real Kafka what a [`Worker`] asks for, and tells it what happened. It decides
//! nothing: retries inside one call aside, every choice is the worker's.
//!
//! The loop is synchronous, so no transaction is open while it polls, and a rebalance never meets
//! one. Transactional calls block, so each worker has an OS thread of its own.

pub mod archive;
mod assignment;
mod cache;
mod execute;
pub mod group;
mod keeper;
pub mod names;
pub mod payload;
pub mod producer;
pub mod reader;
pub mod settings;
pub mod to_end;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::error::KafkaError;
use tracing::{debug, info};

use crate::clock::{self, Stopwatch};
use crate::codec::{Codec, RawRecord};
use crate::config::Config;
use crate::failpoint::{self, Point};
use crate::model::Topic;
use crate::registry::Registry;
use crate::stream::clock::Now;
use crate::stream::observe::Observer;
use crate::stream::schemas;
use crate::stream::worker::event::{Event, Failure, FoundSnapshot};
use crate::stream::worker::{LaneState, Worker};
use assignment::Unanswered;
use cache::Cache;
use group::{Group, GroupEvent};
use keeper::{Answer, Keeper, Request};
use names::InputNames;
use payload::Payloads;
use producer::TransactionalProducer;
use reader::{Read, Reader, Stray};
use watch::{Question, Watch};

/// Messages that are taken over from librdkafka at a time.
const FETCH_MAX: usize = 2_048;

/// A question to a broker other than a transaction's may take this long.
const ASK: Duration = Duration::from_secs(5);

/// Partitions are counted, queues forwarded and such, this often.
const HOUSEKEEPING_MS: u64 = 50;
/// What each lane holds is shown this often.
const PROGRESS_MS: u64 = 1_000;
/// The lag is asked for, and missing pool topics looked for, this often.
const LAG_MS: u64 = 5_000;

/// Why a worker ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("the Kafka client failed")]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("a topic's name cannot be used")]
    Names,
    #[error(transparent)]
    Stray(#[from] Stray),
    #[error("the thread of the snapshots cannot be started")]
    Thread(#[source] std::io::Error),
}

pub struct Client<'a> {
    config: &'a Config,
    number: u32,
    worker: Worker,
    names: InputNames,
    group: Group,
    controls: Reader,
    /// While a journal is read.
    journals: Option<Reader>,
    unanswered: Unanswered,
    payloads: Payloads,
    cache: Cache,
    watch: Watch,
    keeper: Keeper,
    producer: Option<TransactionalProducer>,
    codec: Arc<Codec>,
    registry: Option<&'a Registry>,
    observer: Observer<'a>,
    clock: Stopwatch,
    /// The wall clock of the brokers, less ours.
    wall_correction_ms: i64,
    housekept_us: u64,
    lag_us: u64,
    progress_us: u64,
    /// Where each lane that is being restored was when that was last shown.
    restoring: BTreeMap<u32, Restoring>,
    /// The time of the newest record that was read of each lane input, milliseconds, by lane.
    newest: BTreeMap<u32, [i64; 3]>,
    pools_missing: BTreeSet<Arc<str>>,
    stop: Option<Result<(), Failure>>,
}

/// A lane that is being restored.
struct Restoring {
    since: Stopwatch,
    seq: u64,
}

/// What a client needs besides the configuration.
pub struct Parts<'a> {
    pub number: u32,
    pub worker: Worker,
    pub codec: Arc<Codec>,
    pub registry: Option<&'a Registry>,
    pub observer: Observer<'a>,
    pub wall_correction_ms: i64,
}

impl<'a> Client<'a> {
    pub fn new(config: &'a Config, parts: Parts<'a>) -> Result<Self, WorkerError> {
        let names = InputNames::new(&config.topics).ok_or(WorkerError::Names)?;
        let cache_bytes =
            config.worker.payload_cache_bytes / u64::from(config.worker.workers.max(1));
        let watch = Watch::start(
            &settings::watcher(config, "read_uncommitted"),
            &settings::watcher(config, "read_committed"),
            &names,
        )?;
        Ok(Client {
            config,
            number: parts.number,
            worker: parts.worker,
            group: Group::join(&settings::group(config, parts.number), &names)?,
            controls: Reader::new(&settings::reader(config), &names)?,
            journals: None,
            unanswered: Unanswered::default(),
            payloads: Payloads::new(settings::reader(config), names.clone()),
            cache: Cache::new(usize::try_from(cache_bytes).unwrap_or(usize::MAX)),
            watch,
            keeper: Keeper::start(config, parts.number).map_err(WorkerError::Thread)?,
            producer: None,
            codec: parts.codec,
            registry: parts.registry,
            observer: parts.observer,
            clock: Stopwatch::start(),
            wall_correction_ms: parts.wall_correction_ms,
            housekept_us: 0,
            lag_us: 0,
            progress_us: 0,
            restoring: BTreeMap::new(),
            newest: BTreeMap::new(),
            pools_missing: BTreeSet::new(),
            stop: None,
            names,
        })
    }

    /// Runs until `shutdown` is set and the open transaction is ended, or until it cannot go on.
    ///
    /// # Errors
    /// What kept it from going on.
    pub fn run(mut self, shutdown: &AtomicBool) -> Result<(), WorkerError> {
        let mut told = false;
        loop {
            self.execute()?;
            if let Some(stop) = self.stop.take() {
                failpoint::pass(Point::ShutdownAfter);
                return Ok(stop?);
            }
            if shutdown.load(Ordering::Relaxed) && !told {
                told = true;
                failpoint::pass(Point::ShutdownBefore);
                self.tell(Event::Shutdown);
                continue;
            }
            self.serve_group()?;
            self.ask_unanswered();
            self.execute()?;
            self.read_inputs();
            self.read_beside()?;
            self.answer_questions();
            self.housekeep();
            failpoint::pass(Point::DecideBefore);
            let decide = Stopwatch::start();
            self.tell(Event::Tick);
            self.observer.decided(decide.elapsed());
        }
    }

    fn now(&self) -> Now {
        read_clocks(&self.clock, self.wall_correction_ms)
    }

    fn tell(&mut self, event: Event<'_>) {
        let now = self.now();
        self.worker.handle(now, event);
    }

    /// Rebalances happen here and nowhere else.
    fn serve_group(&mut self) -> Result<(), WorkerError> {
        for event in self.group.poll()? {
            match event {
                GroupEvent::Assigned(assigned) => {
                    failpoint::pass(Point::Assigned);
                    self.payloads.retain(&lanes_of(&assigned))?;
                    self.unanswered.assigned(assigned);
                }
                GroupEvent::Revoked { lost } => {
                    info!(worker = self.number, lost, "revoked");
                    failpoint::pass(Point::Revoked);
                    self.unanswered.revoked();
                    let lanes: Vec<u32> =
                        self.worker.lane_states().iter().map(|(lane, _)| *lane).collect();
                    self.observer.revoked(lost, &lanes);
                    self.payloads.retain(&[])?;
                    self.tell(Event::Revoked);
                }
            }
        }
        Ok(())
    }

    fn read_inputs(&mut self) {
        let mut poll = Stopwatch::start();
        if !self.worker.takes_records() {
            // A transaction is on its way, or a lane rests: what is fetched ahead stays in librdkafka.
            std::thread::sleep(Duration::from_millis(1));
            return;
        }
        let now = self.now();
        let is_restoring = self.journals.is_some();
        let wait_ms = if is_restoring { 0 } else { self.worker.wait_ms(now) };
        let wall_correction_ms = self.wall_correction_ms;
        let Client { worker, cache, codec, registry, group, clock, observer, newest, .. } = self;
        failpoint::pass(Point::PollBefore);
        let batch = group.fetch(Duration::from_millis(wait_ms), FETCH_MAX);
        let poll_took = poll.lap();
        if batch.len() == 0 {
            return;
        }
        failpoint::pass(Point::PollAfter);
        let now = read_clocks(clock, wall_correction_ms);
        group.hand_over(&batch, |read| {
            if let Read::Record(record) = &read {
                if let Some(registry) = registry {
                    schemas::learn(registry, codec, record);
                }
                if let Some(newest) = newest_of(newest, record) {
                    *newest = record.timestamp_ms;
                }
                if record.topic == Topic::Tasks
                    && let Ok(lane) = u32::try_from(record.partition)
                {
                    cache.keep(lane, record);
                }
            }
            worker.handle(now, event_of(read));
        });
        failpoint::pass(Point::DecodeAfter);
        observer.polled(poll_took, poll.elapsed());
    }

    /// Control topics, journals and single records.
    fn read_beside(&mut self) -> Result<(), WorkerError> {
        let now = self.now();
        let Client { worker, codec, registry, controls, journals, payloads, .. } = self;
        controls.read(Duration::ZERO, FETCH_MAX, |read| {
            if let (Read::Record(record), Some(registry)) = (&read, *registry) {
                schemas::learn(registry, codec, record);
            }
            // A control topic is compacted: where its beginning is gone, the reader goes on at the
            // earliest record there is.
            if !matches!(read, Read::OutOfRange { .. }) {
                worker.handle(now, event_of(read));
            }
        })?;
        if let Some(reader) = journals {
            // While a lane is restored there is little else to do.
            reader.read(Duration::from_millis(5), FETCH_MAX, |read| {
                if let Some(event) = journal_event(&read) {
                    worker.handle(now, event);
                    failpoint::pass(Point::FoldAfter);
                }
            })?;
        }
        payloads.poll(|lane, offset, record| {
            let record = record.copied();
            worker.handle(now, Event::Reread { lane, offset, record });
        })?;
        Ok(())
    }

    fn answer_questions(&mut self) {
        while let Some(answer) = self.keeper.next_answer() {
            match answer {
                Answer::Found { ask, lane, found } => {
                    failpoint::pass(Point::SnapshotFound);
                    let found = found.as_ref().map(|found| FoundSnapshot {
                        seq: found.seq,
                        source: found.source,
                        bytes: &found.bytes,
                    });
                    self.tell(Event::SnapshotFound { ask, lane, found });
                }
                Answer::Stored { lane, run, manifest } => {
                    self.tell(Event::SnapshotStored { lane, run, manifest });
                }
            }
        }
        while let Some(answer) = self.watch.next_answer() {
            match (answer.question, answer.end) {
                (Question::ResultsEnd { lane }, Some(end)) => {
                    self.tell(Event::ResultsEnd { lane, end });
                }
                (Question::StableEnd { topic, lane }, Some(end)) => {
                    let index = Topic::LANE_INPUTS.iter().position(|input| *input == topic);
                    let positions = self.worker.positions(lane);
                    if let (Some(index), Some(positions)) = (index, positions) {
                        let newest = self.newest.get(&lane).map(|newest| newest[index]);
                        self.observer.lag(lane, topic, end - positions[index], newest);
                    }
                }
                (Question::ResultsEnd { .. } | Question::StableEnd { .. }, None) => {}
            }
        }
    }

    fn housekeep(&mut self) {
        let now = self.now();
        if now.ms_since(self.housekept_us) >= HOUSEKEEPING_MS {
            self.housekept_us = now.monotonic_us;
            self.group.forward();
        }
        if now.ms_since(self.progress_us) >= PROGRESS_MS {
            self.progress_us = now.monotonic_us;
            for lane in self.worker.lanes() {
                self.observer.progress(lane);
            }
            self.show_restoring();
        }
        if now.ms_since(self.lag_us) >= LAG_MS {
            self.lag_us = now.monotonic_us;
            for (lane, state) in self.worker.lane_states() {
                if state == LaneState::Running {
                    for topic in Topic::LANE_INPUTS {
                        self.watch.ask(Question::StableEnd { topic, lane });
                    }
                }
            }
            self.look_for_pools();
        }
    }

    /// How far the lanes are that are being restored.
    fn show_restoring(&mut self) {
        let lanes = self.worker.restoring();
        self.restoring.retain(|lane, _| lanes.iter().any(|(restoring, ..)| restoring == lane));
        for (lane, seq, target) in lanes {
            let behind = target.saturating_sub(seq);
            self.observer.restoring(lane, behind);
            let began = self
                .restoring
                .entry(lane)
                .or_insert_with(|| Restoring { since: Stopwatch::start(), seq });
            // Where a snapshot is what it begins with, that is no progress of the journal's.
            if began.seq == 0 && seq > 0 {
                *began = Restoring { since: Stopwatch::start(), seq };
            }
            let (folded, took) = (seq - began.seq.min(seq), began.since.elapsed().as_secs_f64());
            let eta_s = (folded > 0).then(|| (took * behind as f64 / folded as f64).ceil() as u64);
            info!(lane, seq, target, behind, eta_s, "restoring");
        }
    }

    fn look_for_pools(&mut self) {
        let found: Vec<Arc<str>> = self
            .pools_missing
            .iter()
            .filter(|pool| {
                let name = self.config.topics.decisions_of(pool);
                self.group.partitions(&name, ASK).is_ok_and(|count| count > 0)
            })
            .cloned()
            .collect();
        for pool in found {
            self.pools_missing.remove(&pool);
            info!(%pool, "the pool's decision topic exists now");
            self.tell(Event::PoolAppeared(pool));
        }
    }
}

fn read_clocks(clock: &Stopwatch, wall_correction_ms: i64) -> Now {
    Now {
        wall_ms: clock::wall_now().as_ms().saturating_add(wall_correction_ms),
        monotonic_us: clock.elapsed_us(),
    }
}

fn event_of(read: Read<'_>) -> Event<'_> {
    match read {
        Read::Record(record) => Event::Record(record),
        Read::End { topic, partition, offset } => Event::End { topic, partition, offset },
        Read::OutOfRange { topic, partition, offset } => {
            Event::Deleted { topic, partition, offset }
        }
    }
}

fn journal_event<'a>(read: &Read<'a>) -> Option<Event<'a>> {
    match read {
        Read::Record(record) => {
            let lane = u32::try_from(record.partition).ok()?;
            Some(Event::JournalRecord { lane, value: record.value.unwrap_or_default() })
        }
        Read::End { partition, .. } => {
            Some(Event::JournalEnd { lane: u32::try_from(*partition).ok()? })
        }
        // The beginning of the journal is deleted: the first record that is left does not follow.
        Read::OutOfRange { topic, partition, offset } => {
            debug!(topic = topic.default_name(), partition, offset, "begins later");
            None
        }
    }
}

fn newest_of<'n>(
    newest: &'n mut BTreeMap<u32, [i64; 3]>,
    record: &RawRecord<'_>,
) -> Option<&'n mut i64> {
    let index = Topic::LANE_INPUTS.iter().position(|topic| *topic == record.topic)?;
    newest.get_mut(&u32::try_from(record.partition).ok()?)?.get_mut(index)
}

fn lanes_of(assigned: &[(Topic, i32)]) -> Vec<u32> {
    let tasks = assigned.iter().filter(|(topic, _)| *topic == Topic::Tasks);
    tasks.filter_map(|(_, partition)| u32::try_from(*partition).ok()).collect()
}
