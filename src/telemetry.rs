//! Names and units of every metric, what the instance shows of itself, and its logs.
//!
//! One [`Telemetry`] per process, shared by its threads. Every label comes from a closed enum, the
//! fleet, or the lanes that the instance owns; none from a task. Lane and resource never meet in
//! one metric (64 lanes of 200 resources would be 12,800 series): `load-snapshots` has that.

mod exposition;
mod hindsight;
mod histogram;
mod label;
mod load;
pub mod logs;
mod planner;
mod process;
#[cfg(test)]
mod tests;
mod view;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use histogram::Histogram;
pub use label::{BatchPhase, KafkaErrorClass, LaneState, Rank, RebalanceKind, TransactionResult};
pub use load::LoadView;
pub use view::{InputLag, LaneView, Readiness, ResourceView, Share, Usage, View, WindowView};

use crate::clock::Stopwatch;
use crate::lane::prepared::BatchCounts;
use crate::model::Topic;
use crate::model::system_health::SystemHealth;
use crate::model::time::Timestamp;

type Label = (&'static str, &'static str);
type NamedLabel = (&'static str, Cow<'static, str>);

/// Bound of the values of a label that the fleet names; what comes later is `other`.
const NAMES_MAX: usize = 1_000;

pub struct Telemetry {
    registry: Registry,
    view: watch::Sender<View>,
    load: watch::Sender<LoadView>,
    input_records: Family<[Label; 2], Counter>,
    decisions: Family<[Label; 1], Counter>,
    refusals: Family<[Label; 1], Counter>,
    rights: Family<[Label; 1], Counter>,
    dead_letters: Family<[Label; 3], Counter>,
    selections: Family<[NamedLabel; 2], Counter>,
    /// Label sets of `selections` so far.
    selections_known: AtomicU64,
    batch_duration: Family<[Label; 1], Histogram>,
    batch_records: Histogram,
    decide_duration: Histogram,
    task_to_commit: Histogram,
    transactions: Family<[Label; 1], Counter>,
    transaction_begins: Arc<TransactionBegins>,
    rebalances: Family<[Label; 1], Counter>,
    lease_expirations: Counter,
    failovers: Counter,
    headroom_events: Counter,
    facts: Counter,
    fact_bytes: Counter,
    clock_difference: Gauge<f64, AtomicU64>,
    kafka_errors: Family<[Label; 1], Counter>,
    http_requests: Family<[NamedLabel; 2], Counter>,
    planner: planner::PlannerMetrics,
    samples: hindsight::Samples,
}

/// When each worker's open transaction began: milliseconds after `since`, plus 1; 0: none is open.
#[derive(Debug)]
struct TransactionBegins {
    since: Stopwatch,
    workers: Vec<AtomicU64>,
}

impl TransactionBegins {
    fn now(&self) -> u64 {
        self.since.elapsed_ms() + 1
    }

    /// Age of the oldest open transaction, seconds.
    fn oldest_seconds(&self) -> f64 {
        let now = self.now();
        let ages = self.workers.iter().map(|begin| begin.load(Ordering::Relaxed));
        let oldest = ages.filter(|begin| *begin > 0).map(|begin| now.saturating_sub(begin)).max();
        oldest.unwrap_or(0) as f64 / 1e3
    }
}

impl Telemetry {
    /// Telemetry of a process with this many workers.
    pub fn new(workers: u32) -> Self {
        let (view, _) = watch::channel(View::new(workers));
        let begins = TransactionBegins {
            since: Stopwatch::start(),
            workers: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        };
        let mut telemetry = Telemetry {
            registry: Registry::default(),
            view,
            load: watch::Sender::new(LoadView::default()),
            input_records: Family::default(),
            decisions: Family::default(),
            refusals: Family::default(),
            rights: Family::default(),
            dead_letters: Family::default(),
            selections: Family::default(),
            selections_known: AtomicU64::new(0),
            batch_duration: Family::new_with_constructor(|| Histogram::new(&PHASE_SECONDS)),
            batch_records: Histogram::new(&RECORDS),
            decide_duration: Histogram::new(&DECIDE_SECONDS),
            task_to_commit: Histogram::new(&TASK_SECONDS),
            transactions: Family::default(),
            transaction_begins: Arc::new(begins),
            rebalances: Family::default(),
            lease_expirations: Counter::default(),
            failovers: Counter::default(),
            headroom_events: Counter::default(),
            facts: Counter::default(),
            fact_bytes: Counter::default(),
            clock_difference: Gauge::default(),
            kafka_errors: Family::default(),
            http_requests: Family::default(),
            planner: planner::PlannerMetrics::new(),
            samples: hindsight::Samples::default(),
        };
        telemetry.register();
        telemetry
    }

    fn register(&mut self) {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(process::Process));
        let own = registry.sub_registry_with_prefix("pointsman");
        let build: Family<[Label; 1], Gauge> = Family::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        own.register("build_info", "Always 1; the labels say what runs", build);
        own.register("input_records", "Records taken from the inputs", self.input_records.clone());
        own.register("decisions", "Decisions about tasks", self.decisions.clone());
        own.register("refusals", "Refused tasks by reason", self.refusals.clone());
        own.register("rights_messages", "Messages about rights by outcome", self.rights.clone());
        own.register("dead_letters", "Records that could not be used", self.dead_letters.clone());
        own.register("selections", "Resources chosen by decisions", self.selections.clone());
        own.register(
            "batch_duration_seconds",
            "Time that a batch spent in each phase",
            self.batch_duration.clone(),
        );
        own.register("batch_records", "Records of a batch", self.batch_records.clone());
        own.register(
            "decide_duration_seconds",
            "Deciding, rendering and journaling one record: a transaction's time by its records",
            self.decide_duration.clone(),
        );
        own.register(
            "task_to_commit_seconds",
            "From a task's record timestamp to the commit of its first decision",
            self.task_to_commit.clone(),
        );
        own.register("transactions", "Transactions by how they ended", self.transactions.clone());
        own.register("rebalances", "Changes of the lanes owned", self.rebalances.clone());
        own.register(
            "lease_expirations",
            "Attempts whose lease ended without a result",
            self.lease_expirations.clone(),
        );
        own.register(
            "failovers",
            "Attempts decided again because their resource failed",
            self.failovers.clone(),
        );
        own.register(
            "headroom_events",
            "Times that a provider was heard to grant less than is counted",
            self.headroom_events.clone(),
        );
        own.register("facts", "Facts recorded in the journal", self.facts.clone());
        own.register("fact_bytes", "Bytes of the facts in the journal", self.fact_bytes.clone());
        own.register(
            "clock_difference_seconds",
            "This host's clock minus the broker's",
            self.clock_difference.clone(),
        );
        own.register("kafka_errors", "Errors of the Kafka client", self.kafka_errors.clone());
        own.register("http_requests", "Requests to this address", self.http_requests.clone());
        self.planner.register(own);
        own.register_collector(Box::new(view::ViewCollector {
            view: self.view.subscribe(),
            begins: Arc::clone(&self.transaction_begins),
        }));
        self.registry = registry;
    }

    /// The metrics in OpenMetrics' text format.
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail, and no collector returns an error of its own.
        if prometheus_client::encoding::text::encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }

    /// The metrics in Prometheus' older text format, for those who do not ask for OpenMetrics.
    pub fn prometheus_text(&self) -> String {
        exposition::classic(&self.open_metrics())
    }

    /// What the instance shows of itself, as of now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// One lane's batch was committed, `after_decision` later than its batch time.
    pub fn batch_committed(&self, counts: &BatchCounts, after_decision: Duration) {
        let accepted = counts.tasks.saturating_sub(counts.duplicates);
        self.count_input(Topic::Tasks, "accepted", accepted);
        self.count_input(Topic::Tasks, "duplicate", counts.duplicates);
        self.count_input(Topic::TaskResults, "accepted", counts.results);
        for (topic, stage, reason) in &counts.dead_letters {
            self.count_input(*topic, "dead_lettered", 1);
            let labels = [("topic", topic.default_name()), ("stage", *stage), ("reason", *reason)];
            self.dead_letters.get_or_create(&labels).inc();
        }
        let mut refused = 0;
        for (reason, count) in &counts.refused {
            refused += count;
            self.refusals.get_or_create(&[("reason", reason.name())]).inc_by(*count);
        }
        for (outcome, count) in
            [("routed", counts.routed), ("waiting", counts.queued), ("refused", refused)]
        {
            if count > 0 {
                self.decisions.get_or_create(&[("outcome", outcome)]).inc_by(count);
            }
        }
        for (resource, first, later) in &counts.selections {
            self.selections(resource, Rank::Primary, *first);
            self.selections(resource, Rank::Fallback, *later);
        }
        for (outcome, count) in [
            ("pledged", counts.rights_pledged),
            ("given", counts.rights_given),
            ("taken", counts.rights_taken),
            ("void", counts.rights_void),
            ("ignored", counts.advice_ignored),
        ] {
            if count > 0 {
                self.rights.get_or_create(&[("outcome", outcome)]).inc_by(count);
            }
        }
        self.failovers.inc_by(counts.failed_over);
        self.lease_expirations.inc_by(counts.leases_expired);
        self.headroom_events.inc_by(counts.headroom_told);
        self.facts.inc_by(counts.facts);
        self.fact_bytes.inc_by(counts.fact_bytes);
        let dead = counts.dead_letters.len() as u64;
        self.batch_records.observe((counts.tasks + counts.results + dead) as f64);
        let after = after_decision.as_secs_f64();
        self.task_to_commit
            .observe_all(counts.wait_ms.iter().map(|ms| f64::from(*ms) / 1e3 + after));
    }

    fn count_input(&self, topic: Topic, outcome: &'static str, count: u64) {
        if count > 0 {
            let labels = [("topic", topic.default_name()), ("outcome", outcome)];
            self.input_records.get_or_create(&labels).inc_by(count);
        }
    }

    /// The batches of a transaction took this long to decide, for so many tasks and results.
    pub fn decided(&self, took: Duration, tasks: u64, results: u64) {
        let each = took.as_secs_f64() / (tasks + results).max(1) as f64;
        self.decide_duration.observe_many(each, tasks);
    }

    /// A batch spent this long in a phase.
    pub fn batch_phase(&self, phase: BatchPhase, took: Duration) {
        self.batch_duration.get_or_create(&[("phase", phase.name())]).observe(took.as_secs_f64());
    }

    /// Decisions named this resource so many times.
    fn selections(&self, resource: &str, rank: Rank, count: u64) {
        if count == 0 {
            return;
        }
        let mut labels =
            [("resource", Cow::Owned(resource.to_owned())), ("rank", rank.name().into())];
        if self.selections.get(&labels).is_none() {
            // Two ranks of each name.
            let known = self.selections_known.fetch_add(1, Ordering::Relaxed);
            if known >= 2 * NAMES_MAX as u64 {
                labels[0].1 = "other".into();
            }
        }
        self.selections.get_or_create(&labels).inc_by(count);
    }

    /// A worker (from 0) opened a transaction.
    pub fn transaction_begun(&self, worker: u32) {
        if let Some(begin) = self.transaction_begins.workers.get(worker as usize) {
            begin.store(self.transaction_begins.now(), Ordering::Relaxed);
        }
    }

    /// A worker's transaction ended, or its outcome is not known.
    pub fn transaction_ended(&self, worker: u32, result: TransactionResult) {
        if let Some(begin) = self.transaction_begins.workers.get(worker as usize) {
            begin.store(0, Ordering::Relaxed);
        }
        self.transactions.get_or_create(&[("result", result.name())]).inc();
    }

    pub fn kafka_error(&self, class: KafkaErrorClass) {
        self.kafka_errors.get_or_create(&[("class", class.name())]).inc();
    }

    /// This host's clock minus the broker's, as measured.
    pub fn clock_difference_ms(&self, difference_ms: i64) {
        self.clock_difference.set(difference_ms as f64 / 1e3);
    }

    /// A request was answered; the route is its pattern, never the path that was asked for.
    pub fn http_request(&self, route: &str, status: u16) {
        let labels =
            [("route", Cow::Owned(route.to_owned())), ("status", status.to_string().into())];
        self.http_requests.get_or_create(&labels).inc();
    }

    /// A worker's lanes after an assignment; those that are new to it begin to be restored.
    pub fn assigned(&self, worker: u32, lanes: &[u32]) {
        self.rebalances.get_or_create(&[("kind", RebalanceKind::Assigned.name())]).inc();
        self.view.send_modify(|view| view.assign(worker, lanes));
    }

    /// A worker gave lanes up, or lost them.
    pub fn revoked(&self, kind: RebalanceKind, lanes: &[u32]) {
        self.rebalances.get_or_create(&[("kind", kind.name())]).inc();
        self.view.send_modify(|view| view.lanes.retain(|lane, _| !lanes.contains(lane)));
    }

    /// A lane changed its state; the reason is for people: why it is paused or stopped.
    pub fn lane_state(&self, lane: u32, state: LaneState, reason: Option<String>) {
        self.change(lane, |view| {
            view.state = state;
            view.reason = reason;
        });
    }

    /// Journal records that a lane being restored has yet to fold.
    pub fn lane_restore_remaining(&self, lane: u32, records: u64) {
        self.change(lane, |view| view.restore_remaining_records = records);
    }

    /// Records of an input between the lane's next offset and the log-stable offset, and the age
    /// of the oldest of them.
    pub fn lane_lag(&self, lane: u32, input: Topic, records: u64, seconds: f64) {
        let lag = InputLag { records, seconds };
        self.change(lane, |view| {
            view.lag.insert(input.default_name(), lag);
        });
    }

    /// Where a lane is after a batch.
    pub fn lane_progress(
        &self,
        lane: u32,
        seq: u64,
        batch_time: Timestamp,
        in_flight: u64,
        backlog: u64,
    ) {
        self.change(lane, |view| {
            view.seq = seq;
            view.batch_time_ms = batch_time.as_ms();
            view.in_flight = in_flight;
            view.backlog = backlog;
        });
    }

    /// How a lane fares as a whole.
    pub fn lane_system(&self, lane: u32, system: SystemHealth) {
        self.change(lane, |view| view.system = Some(system));
    }

    /// What a lane holds and uses of each resource.
    pub fn lane_resources(&self, lane: u32, resources: Arc<[ResourceView]>) {
        self.change(lane, |view| view.resources = resources);
    }

    /// The process is shutting down: it is no longer ready.
    pub fn stopping(&self) {
        self.view.send_modify(|view| view.stopping = true);
    }

    /// What is known of every lane's load has changed.
    pub fn load_changed(&self, change: impl FnOnce(&mut LoadView)) {
        self.load.send_modify(change);
    }

    /// What is known of every lane's load.
    pub fn load(&self) -> LoadView {
        self.load.borrow().clone()
    }

    fn change(&self, lane: u32, change: impl FnOnce(&mut LaneView)) {
        // A late report about a lane that was given up must not bring it back.
        self.view.send_if_modified(|view| view.lanes.get_mut(&lane).map(change).is_some());
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// A batch takes milliseconds; a commit that waits for a broker takes seconds.
const PHASE_SECONDS: [f64; 14] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// From a microsecond to ten milliseconds.
const DECIDE_SECONDS: [f64; 14] =
    [5e-7, 1e-6, 2e-6, 3e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2];

/// Around the objective (1 s), 1 ms to 60 s.
const TASK_SECONDS: [f64; 15] =
    [1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

const RECORDS: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0];
