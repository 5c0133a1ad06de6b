//! (I/O) The workers of a process, from the checks before the first one starts to the end of the last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::types::RDKafkaErrorCode;
use tracing::{debug, info, warn};

use super::client::{Client, Parts, WorkerError, settings};
use super::clock_check::{self, ClockCheckError, ClockDifference};
use super::hindsight::{self, Asker};
use super::instance_lock::{self, LockError};
use super::observe::{Observer, WorkerStats};
use super::view;
use super::worker::event::Failure;
use super::worker::{Worker, WorkerSettings};
use crate::clock::Stopwatch;
use crate::codec::{Codec, CodecError, REGISTERED_TOPICS, RegisteredSchemas};
use crate::config::Config;
use crate::lane::LaneSettings;
use crate::model::Topic;
use crate::registry::{Registry, RegistryError};
use crate::telemetry::{KafkaErrorClass, LaneState, Telemetry};

/// Kafka must answer within this time at the start.
const REACH: Duration = Duration::from_secs(10);

/// What may be queued in all lanes of a worker, in batches' worth: one is being decided, one waits.
const BATCHES_QUEUED_MAX: usize = 2;

/// Between two looks at the workers.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why the process cannot run, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot reach Kafka at {brokers} within {REACH:?}")]
    Unreachable { brokers: String, source: KafkaError },
    #[error("Kafka at {brokers} denies access: {reason}")]
    Denied { brokers: String, reason: String },
    #[error("topics are missing: {}; see `pointsman topics plan`", names.join(", "))]
    TopicsMissing { names: Vec<String> },
    #[error(
        "this machine's clock is {difference_ms} ms ahead of the broker's, and worker.clock_difference_ms_max allows {allowed_ms}: no lane is taken"
    )]
    Clock { difference_ms: i64, allowed_ms: u64 },
    #[error(transparent)]
    ClockCheck(#[from] ClockCheckError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the output format cannot be used")]
    Codec(#[from] CodecError),
    #[error("every lane of this instance is stopped: {}", reasons.join("; "))]
    AllStopped { reasons: Vec<String> },
    #[error("worker {worker} ended")]
    Worker { worker: u32, source: WorkerError },
    #[error("worker {worker} panicked; this is a bug")]
    Panicked { worker: u32 },
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// What the caller of the process should make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunErrorKind {
    /// Kafka or the registry cannot be reached.
    Unreachable,
    /// The state refuses: restarting does not help.
    State,
    /// Fenced, or a passing failure: restarting helps.
    Transient,
    /// An ACL forbids it.
    Denied,
    /// The configuration or the topics have to be changed.
    Config,
}

impl RunError {
    pub fn kind(&self) -> RunErrorKind {
        match self {
            RunError::Unreachable { source, .. }
            | RunError::ClockCheck(ClockCheckError::Kafka(source)) => kind_of(source),
            RunError::ClockCheck(ClockCheckError::NoAnswer) | RunError::Registry(_) => {
                RunErrorKind::Unreachable
            }
            RunError::Denied { .. } => RunErrorKind::Denied,
            RunError::TopicsMissing { .. }
            | RunError::ClockCheck(ClockCheckError::NotLogAppendTime { .. })
            | RunError::Codec(_)
            | RunError::Lock(_)
            | RunError::Clock { .. } => RunErrorKind::Config,
            RunError::AllStopped { .. } => RunErrorKind::State,
            RunError::Worker { source, .. } => match source {
                WorkerError::Kafka(error) => {
                    let kind = kind_of(error);
                    // It has been reached before: it will be again.
                    let is_passing = kind == RunErrorKind::Unreachable;
                    if is_passing { RunErrorKind::Transient } else { kind }
                }
                WorkerError::Failure(Failure::Denied(_)) => RunErrorKind::Denied,
                WorkerError::Failure(
                    Failure::Abort(_)
                    | Failure::Undelivered { .. }
                    | Failure::TooLarge { .. }
                    | Failure::Membership(_)
                    | Failure::Unknown(_)
                    | Failure::Fenced(_)
                    | Failure::PoolMissing(_),
                ) => RunErrorKind::Transient,
                WorkerError::Names => RunErrorKind::Config,
                WorkerError::Stray(_) | WorkerError::Thread(_) => RunErrorKind::Transient,
            },
            RunError::Panicked { .. } | RunError::Thread(_) => RunErrorKind::Transient,
        }
    }
}

fn kind_of(error: &KafkaError) -> RunErrorKind {
    if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) {
        return RunErrorKind::Config;
    }
    match error.rdkafka_error_code().map(KafkaErrorClass::of) {
        Some(KafkaErrorClass::Denied) => RunErrorKind::Denied,
        Some(KafkaErrorClass::Transport | KafkaErrorClass::TimedOut) => RunErrorKind::Unreachable,
        Some(KafkaErrorClass::Fenced | KafkaErrorClass::Other) | None => RunErrorKind::Transient,
    }
}

/// Runs the workers until `shutdown` is set.
///
/// # Errors
/// Something before the start is not as it must be, or a worker could not go on; then the others
/// are stopped too, and nothing is restarted.
pub fn run(config: &Config, telemetry: &Telemetry, shutdown: &AtomicBool) -> Result<(), RunError> {
    run_observed(config, telemetry, shutdown, &Stats::new(config.worker.workers))
}

/// Where the time of each worker goes.
#[derive(Debug, Clone)]
pub struct Stats {
    workers: Vec<Arc<Mutex<WorkerStats>>>,
}

impl Stats {
    pub fn new(workers: u32) -> Self {
        Stats { workers: (0..workers).map(|_| Arc::default()).collect() }
    }

    pub fn of_each_worker(&self) -> Vec<WorkerStats> {
        let read =
            |stats: &Arc<Mutex<WorkerStats>>| *stats.lock().unwrap_or_else(PoisonError::into_inner);
        self.workers.iter().map(read).collect()
    }
}

/// As [`run`], for those who want to know where the time goes.
///
/// # Errors
/// As [`run`].
pub fn run_observed(
    config: &Config,
    telemetry: &Telemetry,
    shutdown: &AtomicBool,
    stats: &Stats,
) -> Result<(), RunError> {
    let _lock = instance_lock::take(&config.kafka.data_directory, &config.kafka.instance_id)?;
    reach(config)?;
    let registry = config.output.schema_registry.as_ref().map(Registry::new).transpose()?;
    let registered = match &registry {
        Some(registry) => {
            let topics = REGISTERED_TOPICS.map(|topic| (topic, config.topics.name(topic)));
            registry.register_topics(topics)?
        }
        None => RegisteredSchemas::default(),
    };
    let codec = Arc::new(Codec::new(config.output.format, registered)?);
    let difference = compare_clocks(config, telemetry)?;

    // One worker that ends must end the others too.
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (viewed, stopped) = (Arc::clone(&codec), &stop);
        let view = std::thread::Builder::new()
            .name("load-view".to_owned())
            .spawn_scoped(scope, move || view::run(config, &viewed, telemetry, stopped));
        let (mut asker, asked) = Asker::new();
        let solver = std::thread::Builder::new()
            .name("hindsight".to_owned())
            .spawn_scoped(scope, move || hindsight::solve(&asked, telemetry, stopped));
        let mut threads = Vec::new();
        for (number, stats) in (0..config.worker.workers).zip(&stats.workers) {
            let parts = Parts {
                number,
                worker: Worker::new(worker_settings(config, &codec, difference)),
                codec: Arc::clone(&codec),
                registry: registry.as_ref(),
                observer: Observer::new(telemetry, number, Arc::clone(stats)),
                wall_correction_ms: -difference.difference_ms,
            };
            let stop = &stop;
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn_scoped(scope, move || Client::new(config, parts)?.run(stop));
            match thread {
                Ok(thread) => threads.push(Some(thread)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(RunError::Thread(error));
                }
            }
        }
        let ended = watch_workers(&mut threads, telemetry, shutdown, &mut asker);
        stop.store(true, Ordering::Relaxed);
        drop(asker);
        // Nothing rests on it.
        match view.map(ScopedJoinHandle::join) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!("the thread of the load snapshots panicked; this is a bug"),
            Err(error) => warn!(%error, "load snapshots are not shown"),
        }
        match solver.map(ScopedJoinHandle::join) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => warn!("the thread of the hindsight share panicked; this is a bug"),
            Err(error) => warn!(%error, "the hindsight share is not shown"),
        }
        let mut result = ended;
        for (thread, worker) in threads.into_iter().zip(0..) {
            if let Some(thread) = thread {
                let ended = join(thread, worker);
                result = result.and(ended);
            }
        }
        result
    })
}

type WorkerThread<'scope> = ScopedJoinHandle<'scope, Result<(), WorkerError>>;

/// Returns when the process is to end, or a worker has.
fn watch_workers(
    threads: &mut [Option<WorkerThread<'_>>],
    telemetry: &Telemetry,
    shutdown: &AtomicBool,
    asker: &mut Asker,
) -> Result<(), RunError> {
    loop {
        if shutdown.load(Ordering::Relaxed) {
            return Ok(());
        }
        for (thread, worker) in threads.iter_mut().zip(0..) {
            if let Some(ended) = thread.take_if(|thread| thread.is_finished()) {
                return join(ended, worker);
            }
        }
        if let Some(reasons) = all_stopped(telemetry) {
            return Err(RunError::AllStopped { reasons });
        }
        asker.go_on(telemetry);
        std::thread::sleep(LOOK_EVERY);
    }
}

fn join(thread: WorkerThread<'_>, worker: u32) -> Result<(), RunError> {
    match thread.join() {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(RunError::Worker { worker, source }),
        Err(_) => Err(RunError::Panicked { worker }),
    }
}

/// Why each lane is stopped, where there are lanes and all of them are: the process serves nobody.
fn all_stopped(telemetry: &Telemetry) -> Option<Vec<String>> {
    let lanes = telemetry.view().lanes;
    let is_stopped =
        !lanes.is_empty() && lanes.values().all(|lane| lane.state == LaneState::Stopped);
    is_stopped.then(|| lanes.values().filter_map(|lane| lane.reason.clone()).collect())
}

fn worker_settings(
    config: &Config,
    codec: &Arc<Codec>,
    difference: ClockDifference,
) -> WorkerSettings {
    let batch_records_max = config.worker.batch_records_max as usize;
    let topic_names: BTreeMap<Topic, String> =
        Topic::ALL.iter().map(|topic| (*topic, config.topics.name(*topic).to_owned())).collect();
    WorkerSettings {
        lane: LaneSettings {
            codec: Arc::clone(codec),
            policy: config.routing.clone(),
            batch_records_max,
            source: format!("pointsman/{}", config.kafka.group_id),
            group: config.kafka.group_id.clone(),
            topic_names,
            decisions_by_pool: config.topics.decisions_by_pool(),
            unjournaled: config.worker.unjournaled,
        },
        start_from: config.worker.start_from,
        batch_wait_ms: config.worker.batch_wait_ms,
        queued_records_max: batch_records_max * BATCHES_QUEUED_MAX,
        queued_bytes_max: usize::try_from(config.worker.batch_bytes_max).unwrap_or(usize::MAX)
            * BATCHES_QUEUED_MAX,
        clock_uncertainty_ms: difference.uncertainty_ms.min(config.worker.clock_difference_ms_max),
        // A predecessor's transaction is ended by its timeout at the latest, and marked soon after.
        journal_wait_ms: config.worker.transaction_timeout_ms * 2 + 10_000,
        leaderless_pause_ms: config.worker.transaction_timeout_ms,
        snapshot: config.snapshot.clone(),
        new_epoch: config.worker.new_epoch,
    }
}

/// Keeps why the brokers refuse the credentials: the request itself only times out.
#[derive(Debug, Default)]
struct Refusals {
    first: Mutex<Option<String>>,
}

impl ClientContext for Refusals {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client");
        let class = error.rdkafka_error_code().map(KafkaErrorClass::of);
        if class == Some(KafkaErrorClass::Denied) {
            let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
            // Behind it stands how long the attempt took.
            let reason = reason.split(" (after ").next().unwrap_or(reason);
            first.get_or_insert_with(|| reason.to_owned());
        }
    }
}

impl ConsumerContext for Refusals {}

/// What it means that the brokers do not answer.
fn no_answer(config: &Config, consumer: &BaseConsumer<Refusals>, source: KafkaError) -> RunError {
    // What happened is queued as events; each poll takes one.
    const EVENTS_MAX: usize = 32;
    for _ in 0..EVENTS_MAX {
        // What the poll itself returns only repeats that there is no connection.
        drop(consumer.poll(Duration::from_millis(5)));
    }
    let brokers = config.kafka.brokers.clone();
    let first = &consumer.context().first;
    match first.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(reason) => RunError::Denied { brokers, reason },
        None => RunError::Unreachable { brokers, source },
    }
}

/// Kafka answers, and every topic is there.
fn reach(config: &Config) -> Result<(), RunError> {
    let unmade = |source| RunError::Unreachable { brokers: config.kafka.brokers.clone(), source };
    let consumer: BaseConsumer<Refusals> =
        settings::reader(config).create_with_context(Refusals::default()).map_err(unmade)?;
    let waited = Stopwatch::start();
    let mut missing = BTreeSet::new();
    let mut denied = BTreeSet::new();
    for topic in Topic::ALL {
        if topic == Topic::RouteDecisions && config.topics.decisions_by_pool() {
            continue;
        }
        let name = config.topics.name(topic);
        let left = waited.remaining(REACH).max(Duration::from_secs(1));
        let metadata = consumer
            .fetch_metadata(Some(name), left)
            .map_err(|error| no_answer(config, &consumer, error))?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        let error = found.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
        if error == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
            denied.insert(name);
        } else if found.is_none_or(|found| found.partitions().is_empty()) {
            missing.insert(name.to_owned());
        }
    }
    if !denied.is_empty() {
        // Whether they exist is not told to those who may not know.
        let names: Vec<&str> = denied.into_iter().collect();
        let reason = format!("no Describe on topics {}", names.join(", "));
        return Err(RunError::Denied { brokers: config.kafka.brokers.clone(), reason });
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(RunError::TopicsMissing { names: missing.into_iter().collect() })
}

fn compare_clocks(config: &Config, telemetry: &Telemetry) -> Result<ClockDifference, RunError> {
    let measured = clock_check::measure(config)?;
    telemetry.clock_difference_ms(measured.difference_ms);
    let allowed_ms = config.worker.clock_difference_ms_max;
    if measured.difference_ms.unsigned_abs() > allowed_ms {
        warn!(?measured, allowed_ms, "clock");
        return Err(RunError::Clock { difference_ms: measured.difference_ms, allowed_ms });
    }
    info!(
        difference_ms = measured.difference_ms,
        uncertainty_ms = measured.uncertainty_ms,
        "clock compared with the broker's"
    );
    Ok(measured)
}
