//! Scripted events and the exact commands that follow; a command that nobody expected fails too.

mod failures;
pub(super) mod fault;
mod lanes;
mod life;
mod snapshots;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::event::{Command, Event, Failure, FoundSnapshot, SnapshotSource, Taken};
use super::{LaneState, Worker, WorkerSettings};
use crate::codec::{Codec, OutputFormat, RawRecord, RegisteredSchemas};
use crate::config::{Snapshot, StartFrom};
use crate::lane::LaneSettings;
use crate::lane::prepared::Prepared;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::stream::clock::Now;
use crate::stream::committed::{CommittedOffset, LaneCommit};

/// A worker, and what a broker would hold.
pub(super) struct Bench {
    pub worker: Worker,
    now_ms: u64,
    /// What the worker has asked for and nobody has looked at.
    asked: VecDeque<Command>,
    /// The number of the last question about committed offsets.
    ask: u64,
    /// Whether questions about snapshots are shown; otherwise there is none.
    pub finds_snapshots: bool,
    /// Questions about what all lanes have committed are answered by the test.
    pub counts_lanes: bool,
    /// Of the last question about snapshots.
    finding: u64,
    /// Snapshots that were to be stored.
    pub taken: Vec<Taken>,
    /// What was produced and not committed.
    open: Vec<Arc<Prepared>>,
    pub produced: Vec<Arc<Prepared>>,
    /// Committed batches by lane.
    pub journals: BTreeMap<u32, Vec<Arc<Prepared>>>,
}

pub(super) fn settings() -> WorkerSettings {
    let codec = Codec::new(OutputFormat::Json, RegisteredSchemas::default()).unwrap();
    WorkerSettings {
        lane: LaneSettings {
            codec: Arc::new(codec),
            // Nothing happens by itself in these tests.
            policy: Policy { load_snapshot_ms: 1_000_000_000, ..Policy::default() },
            batch_records_max: 100,
            source: "pointsman/test".to_owned(),
            group: "test".to_owned(),
            topic_names: BTreeMap::new(),
            decisions_by_pool: false,
            unjournaled: false,
        },
        start_from: StartFrom::Earliest,
        batch_wait_ms: 5,
        queued_records_max: 200,
        queued_bytes_max: 1 << 20,
        clock_uncertainty_ms: 10,
        journal_wait_ms: 10_000,
        leaderless_pause_ms: 4_000,
        // None by themselves.
        snapshot: Snapshot {
            local_batches: 0,
            local_journal_bytes: 1 << 30,
            local_interval_ms_min: 0,
            publish_batches: 0,
            publish_journal_bytes: 1 << 30,
            keep_interval_ms: 3_600_000,
            keep_decisions: 1_000_000,
            cache_bytes: 1 << 20,
            zstd_level: 1,
        },
        new_epoch: false,
    }
}

impl Bench {
    /// A worker that knows the partitions of a broker with this many lanes.
    pub fn new(lanes: i32) -> Self {
        Bench::with(lanes, settings())
    }

    pub fn with(lanes: i32, settings: WorkerSettings) -> Self {
        let mut bench = Bench {
            worker: Worker::new(settings),
            finds_snapshots: false,
            counts_lanes: false,
            now_ms: 0,
            asked: VecDeque::new(),
            ask: 0,
            finding: 0,
            taken: Vec::new(),
            open: Vec::new(),
            produced: Vec::new(),
            journals: BTreeMap::new(),
        };
        bench.tell(Event::Partitions(Topic::ALL.iter().map(|topic| (*topic, lanes)).collect()));
        bench.expect(&[]);
        bench
    }

    pub fn now(&self) -> Now {
        Now { wall_ms: 1_000_000 + self.now_ms as i64, monotonic_us: self.now_ms * 1_000 }
    }

    pub fn pass_ms(&mut self, ms: u64) {
        self.now_ms += ms;
        self.tell(Event::Tick);
    }

    pub fn tell(&mut self, event: Event<'_>) {
        let now = self.now();
        self.worker.handle(now, event);
        while let Some(command) = self.worker.next_command() {
            // What all lanes have committed, for one that has not.
            if let Command::FetchCommitted { ask, lanes } = &command
                && !self.counts_lanes
                && self.worker.slots.values().any(
                    |slot| matches!(slot.phase, super::Phase::Counting { ask: asked, .. } if asked == *ask),
                )
            {
                let lanes = lanes.iter().map(|lane| (*lane, self.commit_of(*lane))).collect();
                self.worker.handle(now, Event::Committed { ask: *ask, lanes });
                continue;
            }
            if let Command::FindSnapshot { ask, lane, .. } = &command {
                self.finding = *ask;
                if !self.finds_snapshots {
                    let (ask, lane) = (*ask, *lane);
                    self.worker.handle(now, Event::SnapshotFound { ask, lane, found: None });
                    continue;
                }
            }
            self.asked.push_back(command);
        }
    }

    /// The commands since the last time, as text.
    pub fn commands(&mut self) -> Vec<String> {
        let mut shown = Vec::new();
        while let Some(command) = self.asked.pop_front() {
            if let Command::FetchCommitted { ask, .. } = &command {
                self.ask = *ask;
            }
            if let Command::StoreSnapshot(taken) = &command {
                self.taken.push(taken.clone());
            }
            if let Command::Produce(batch) = &command {
                self.open.push(Arc::clone(batch));
                self.produced.push(Arc::clone(batch));
            }
            if matches!(command, Command::Abort | Command::Reopen) {
                self.open.clear();
            }
            shown.push(show(&command));
        }
        shown
    }

    #[track_caller]
    pub fn expect(&mut self, expected: &[&str]) {
        let commands = self.commands();
        assert_eq!(commands, expected, "at {} ms", self.now_ms);
    }

    pub fn assign(&mut self, lanes: &[u32]) {
        let inputs = lanes.iter().flat_map(|lane| {
            Topic::LANE_INPUTS.map(|topic| (topic, i32::try_from(*lane).unwrap()))
        });
        self.tell(Event::Assigned(inputs.collect()));
    }

    /// Answers the last question with what is committed here.
    pub fn answer_committed(&mut self, lanes: &[u32]) {
        let commits = lanes.iter().map(|lane| (*lane, self.commit_of(*lane))).collect();
        self.answer(commits);
    }

    pub fn answer(&mut self, lanes: Vec<(u32, LaneCommit)>) {
        let ask = self.ask;
        self.tell(Event::Committed { ask, lanes });
    }

    pub fn commit_of(&self, lane: u32) -> LaneCommit {
        match self.journals.get(&lane).and_then(|journal| journal.last()) {
            Some(batch) => offsets_of(batch),
            None => LaneCommit::default(),
        }
    }

    /// Hands over a lane's journal from the beginning, to its end.
    pub fn read_journal(&mut self, lane: u32) {
        self.read_journal_after(lane, 0);
    }

    /// The same without its first batches.
    pub fn read_journal_after(&mut self, lane: u32, left_out: usize) {
        let batches = self.journals.get(&lane).cloned().unwrap_or_default();
        for batch in batches.into_iter().skip(left_out) {
            let record = batch.records.last().unwrap();
            let value = batch.slice(record.value.as_ref().unwrap());
            self.tell(Event::JournalRecord { lane, value });
        }
        self.tell(Event::JournalEnd { lane });
    }

    /// The journal of a lane that runs is read to its end, which has not the pending batch.
    #[track_caller]
    pub fn checks_journal(&mut self, lane: u32) {
        let asked = self.commands();
        let read = asked.iter().any(|one| one.starts_with(&format!("read journal {lane}")));
        assert!(read, "{asked:?}");
        self.read_journal(lane);
        self.expect(&[&format!("stop journal {lane}"), "read controls 1 0"]);
        self.controls();
        let expected = ["runs 0", "read inputs tasks[0]@"];
        let found = self.commands();
        let starts = |(one, expected): (&String, &&str)| one.starts_with(*expected);
        assert!(found.len() == 2 && found.iter().zip(&expected).all(starts), "{found:?}");
    }

    /// Answers the last question about snapshots; with what one was taken of, or with nothing.
    pub fn answer_snapshot(&mut self, lane: u32, found: Option<(u64, &[u8])>) {
        let ask = self.finding;
        let source = SnapshotSource::Local;
        let found = found.map(|(seq, bytes)| FoundSnapshot { seq, source, bytes });
        self.tell(Event::SnapshotFound { ask, lane, found });
    }

    pub fn record(&mut self, topic: Topic, partition: i32, offset: i64, key: &str, value: &Value) {
        let value = value.to_string();
        let timestamp_ms = self.now().wall_ms;
        self.tell(Event::Record(RawRecord {
            topic,
            partition,
            offset,
            timestamp_ms,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            headers: &[],
        }));
    }

    pub fn task(&mut self, lane: i32, offset: i64) {
        let task = json!({"task_id": format!("t-{lane}-{offset}"), "input_tokens": 10});
        self.record(Topic::Tasks, lane, offset, "acme", &task);
    }

    /// The control topics: one resource, no health.
    pub fn controls(&mut self) {
        let resource = json!({"resource": {
            "id": "gpt", "model": "gpt", "provider": "p", "region": "eu",
            "context_window": 128_000, "max_output_tokens": 16_384, "slots": 1_000,
            "quality": {"default": 0.5},
        }});
        self.record(Topic::Fleet, 0, 0, "gpt", &resource);
        self.tell(Event::End { topic: Topic::Fleet, partition: 0, offset: 1 });
        self.tell(Event::End { topic: Topic::HealthEvents, partition: 0, offset: 0 });
    }

    /// Does every step of a transaction, expects nothing else, and keeps what was committed.
    #[track_caller]
    pub fn transact(&mut self, produces: &[&str]) {
        let mut expected = vec!["begin".to_owned()];
        for produce in produces {
            self.expect_one(&expected.pop().unwrap());
            self.tell(Event::Done);
            expected.push((*produce).to_owned());
        }
        self.expect_one(&expected.pop().unwrap());
        for step in ["flush", "send offsets", "commit"] {
            self.tell(Event::Done);
            self.expect(&[step]);
        }
        self.commit();
        self.tell(Event::Done);
    }

    #[track_caller]
    fn expect_one(&mut self, expected: &str) {
        self.expect(&[expected]);
    }

    /// What is open becomes committed, whether or not the worker hears of it.
    pub fn commit(&mut self) {
        for batch in std::mem::take(&mut self.open) {
            self.journals.entry(batch.lane).or_default().push(batch);
        }
    }

    /// Steps a transaction up to the one with this name, which is then out.
    #[track_caller]
    pub fn step_to(&mut self, name: &str) {
        for _ in 0..20 {
            let commands = self.commands();
            let last = commands.last().unwrap_or_else(|| panic!("nothing on the way to {name}"));
            if last.starts_with(name) {
                return;
            }
            self.tell(Event::Done);
        }
        panic!("{name} is never reached");
    }

    /// Lanes that have just committed their first batch, the fleet.
    pub fn running(lanes: &[u32]) -> Self {
        Bench::new(4).started(lanes)
    }

    /// Runs these lanes, which have never run, up to their first batch.
    pub fn started(self, lanes: &[u32]) -> Self {
        let mut bench = self;
        bench.assign(lanes);
        bench.step_to("reopen");
        bench.tell(Event::Done);
        bench.step_to("fetch committed");
        bench.answer_committed(lanes);
        for lane in lanes {
            bench.read_journal(*lane);
            bench.tell(Event::Start { lane: *lane, offsets: [0, 0, 0] });
        }
        bench.controls();
        bench.commands();
        bench.pass_ms(5);
        bench.step_to("commit");
        bench.commit();
        bench.tell(Event::Done);
        bench.expect(&[]);
        for (lane, state) in bench.worker.lane_states() {
            assert_eq!(state, LaneState::Running, "lane {lane}");
        }
        bench.produced.clear();
        bench
    }

    pub fn state(&self, lane: u32) -> Option<LaneState> {
        let states = self.worker.lane_states();
        states.into_iter().find(|(number, _)| *number == lane).map(|(_, state)| state)
    }
}

pub(super) fn offsets_of(batch: &Prepared) -> LaneCommit {
    Topic::LANE_INPUTS.map(|topic| {
        let offset = batch.offsets.iter().find(|(of, _)| *of == topic).unwrap().1;
        Some(CommittedOffset { offset, metadata: batch.metadata.clone() })
    })
}

pub(super) fn abort() -> Failure {
    Failure::Abort("why".to_owned())
}

pub(super) fn unknown() -> Failure {
    Failure::Unknown("why".to_owned())
}

fn show(command: &Command) -> String {
    match command {
        Command::FetchCommitted { lanes, .. } => format!("fetch committed {lanes:?}"),
        Command::FindStart { lane, from } => format!("find start {lane} {from:?}"),
        Command::FindSnapshot { lane, seq_max, published, .. } => {
            format!("find snapshot {lane} up to {seq_max}, published {}", published.seq)
        }
        Command::StoreSnapshot(taken) => {
            let what = match (taken.local, taken.publish) {
                (true, true) => "store and publish",
                (true, false) => "store",
                (false, true) => "publish",
                (false, false) => "nothing of",
            };
            format!("{what} {} seq {}", taken.lane, taken.seq)
        }
        Command::SnapshotAnnounced(manifest) => {
            format!("announced {} seq {}", manifest.lane, manifest.seq)
        }
        Command::SnapshotUsed { lane, seq, target, source } => {
            format!("begins {lane} at {seq} of {target} {source:?}")
        }
        Command::SnapshotRefused { lane, seq, error, .. } => {
            format!("refused {lane} seq {seq}: {error}")
        }
        Command::OffsetsBehind { lane, committed, seq } => {
            format!("offsets of {lane} behind: {committed} of {seq}")
        }
        Command::EpochBegun { lane, epoch, offsets } => {
            format!("epoch {epoch} of {lane} at {offsets:?}")
        }
        Command::ReadJournal { lane, from: None } => format!("read journal {lane}"),
        Command::ReadJournal { lane, from: Some(from) } => {
            format!("read journal {lane} from {}", from.as_ms())
        }
        Command::StopJournal { lane } => format!("stop journal {lane}"),
        Command::ReadInputs(inputs) => {
            let mut shown = "read inputs".to_owned();
            for (topic, partition, offset) in inputs {
                shown.push_str(&format!(" {}[{partition}]@{offset}", topic.default_name()));
            }
            shown
        }
        Command::ReadControls { fleet, health_events } => {
            format!("read controls {fleet} {health_events}")
        }
        Command::Pause { lane } => format!("pause {lane}"),
        Command::Resume { lane } => format!("resume {lane}"),
        Command::Begin => "begin".to_owned(),
        Command::Produce(batch) => format!("produce {} seq {}", batch.lane, batch.seq),
        Command::Flush => "flush".to_owned(),
        Command::SendOffsets(_) => "send offsets".to_owned(),
        Command::Commit => "commit".to_owned(),
        Command::Abort => "abort".to_owned(),
        Command::Reopen => "reopen".to_owned(),
        Command::Rejoin => "rejoin".to_owned(),
        Command::ReadAgain { lane, offsets } => format!("read again {lane} {offsets:?}"),
        Command::FindResultsEnd { lane } => format!("find results end {lane}"),
        Command::LaneRuns { lane } => format!("runs {lane}"),
        Command::LaneAwaitsFleet { lane } => format!("awaits a fleet {lane}"),
        Command::CountPartitions => "count partitions".to_owned(),
        Command::LaneWaits { error, .. } => format!("waits: {error}"),
        Command::LanePanicked { lane, culprit } => format!("panicked {lane} {culprit:?}"),
        Command::LaneStopped { error, .. } => format!("stopped: {error}"),
        Command::Stop(failure) => format!("stop {failure:?}"),
    }
}
