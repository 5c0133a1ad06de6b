//! A lane: one partition of `tasks` with its state. Pure: it is handed records and times, and
//! returns immutable bytes.
//!
//! `offer` decodes and queues; `prepare` decides a batch in the fixed order control records,
//! inbox, results, timers, tasks, those that wait and the new ones together. So no interleaving needs recording.

pub mod batch;
mod due;
pub mod intake;
pub mod journal;
mod moves;
pub mod outputs;
pub mod prepared;
mod ready;
mod render;
pub mod rerun;
mod sampler;
pub mod snapshot;
mod step;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::codec::headers::traceparent;
use crate::codec::{Codec, DecodeError, RawRecord};
use crate::model::Topic;
use crate::model::event::InboxMessage;
use crate::model::health::HealthEvent;
use crate::model::journal::{JournalRecord, OffsetRange};
use crate::model::policy::Policy;
use crate::model::resource::FleetEntry;
use crate::model::result::TaskResult;
use crate::model::task::Task;
use crate::model::time::Timestamp;
use crate::planted::{Bug, planted};
use crate::routing::TaskKey;
use crate::routing::balancer;
use crate::routing::eligibility::Memo;
use crate::routing::fact::Fact;
use crate::routing::state::{Phase, State};

use batch::{Batch, Closed, Read};
use intake::{Body, Death, Entry, OwnedRecord, Queue};
use journal::ChainHash;
pub use journal::FoldError;
use outputs::{Origin, Room};
use prepared::Prepared;
use ready::{LastRecord, Ready, ReadyTask};
use render::Source;
use sampler::Sampler;

/// What every lane of a process shares.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    pub codec: Arc<Codec>,
    pub policy: Policy,
    /// Records that one batch takes.
    pub batch_records_max: usize,
    /// `ce_source` of the outputs, such as `pointsman/<group>`.
    pub source: String,
    /// The consumer group, named in dead letters.
    pub group: String,
    /// The configured names of the inputs, for dead letters and the journal.
    pub topic_names: BTreeMap<Topic, String>,
    pub decisions_by_pool: bool,
    /// For a benchmark alone, to know what the journal costs: no fact is written down, nothing is
    /// hashed, and no journal record is published. Such a lane cannot be recovered.
    #[doc(hidden)]
    pub unjournaled: bool,
}

impl LaneSettings {
    fn topic_name(&self, topic: Topic) -> &str {
        self.topic_names.get(&topic).map_or(topic.default_name(), String::as_str)
    }
}

/// The next offset to read of each input; `None` where the lane has read nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions {
    pub tasks: Option<i64>,
    pub task_results: Option<i64>,
    pub lane_inbox: Option<i64>,
    pub fleet: i64,
    pub health_events: i64,
}

/// A control record that waits for the next batch.
#[derive(Debug)]
enum Control {
    Fleet(Result<Box<FleetEntry>, Death>),
    Health(Result<HealthEvent, Death>),
}

#[derive(Debug)]
pub struct Lane {
    settings: Arc<LaneSettings>,
    state: State,
    memo: Memo,
    epoch: u32,
    seq: u64,
    hash: ChainHash,
    controls: VecDeque<(OwnedRecord, Control)>,
    /// The next offsets of the control topics to be offered.
    fleet_read: i64,
    health_read: i64,
    inbox: Queue<InboxMessage>,
    /// With the record where the result may have to become a dead letter.
    results: Queue<(TaskResult, Option<Box<OwnedRecord>>)>,
    tasks: Queue<Task>,
    ready: Ready,
    /// What `wants` named last, by offset.
    wanted: BTreeMap<i64, TaskKey>,
    /// As many as the worker condemns before it stops a lane; or those of one journaled batch.
    condemned: BTreeSet<(Topic, i64)>,
    results_caught_up_at: Timestamp,
    /// While a journaled batch is run again: the results that it put into the dead letters.
    buried: Option<BTreeSet<i64>>,
    /// About as much as the last batch took.
    room: Room,
    sampler: Sampler,
    /// The epoch has just begun, and a batch has to say so.
    epoch_begins: bool,
    /// How many lanes there are, as the shell counts them; 0 until it has.
    lanes_told: u32,
}

impl Lane {
    /// A lane that has never run, of an installation that began with `dealt` lanes: see
    /// [`State::genesis`]. Its journal's first record, where there is one, knows better.
    pub fn genesis(lane: u32, dealt: u32, epoch: u32, settings: LaneSettings) -> Self {
        Lane {
            settings: Arc::new(settings),
            state: State::genesis(lane, dealt),
            memo: Memo::default(),
            epoch,
            seq: 0,
            hash: ChainHash::default(),
            controls: VecDeque::new(),
            fleet_read: 0,
            health_read: 0,
            inbox: Queue::default(),
            results: Queue::default(),
            tasks: Queue::default(),
            ready: Ready::default(),
            wanted: BTreeMap::new(),
            condemned: BTreeSet::new(),
            results_caught_up_at: Timestamp::EPOCH,
            buried: None,
            room: Room::default(),
            sampler: Sampler::default(),
            epoch_begins: false,
            lanes_told: 0,
        }
    }

    pub fn number(&self) -> u32 {
        self.state.lane
    }

    /// The number of the last batch that was prepared or folded; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The hash of that batch, 32 hexadecimal digits.
    pub fn hash(&self) -> String {
        self.hash.to_hex()
    }

    /// What the lane knows, for views and tests.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Applies one journal record (a record's value) during recovery. The positions follow it.
    ///
    /// # Errors
    /// It does not follow the one before, or cannot be decoded: the lane must stop.
    pub fn fold(&mut self, record: &[u8]) -> Result<(), FoldError> {
        let lane = self.state.lane;
        let decoded = self.settings.codec.decode_journal(record);
        let record =
            decoded.map_err(|error| FoldError::Decode { lane, problem: error.to_string() })?;
        self.fold_record(&record)
    }

    /// As [`Lane::fold`], of a record that is decoded already.
    ///
    /// # Errors
    /// As [`Lane::fold`].
    pub fn fold_record(&mut self, record: &JournalRecord) -> Result<(), FoldError> {
        let Lane { state, memo, seq, hash, .. } = self;
        self.hash = journal::fold(state, memo, *seq, *hash, record)?;
        self.seq = record.seq;
        self.epoch = record.epoch;
        for range in &record.offsets {
            let at = |topic| self.settings.topic_name(topic) == range.topic;
            if at(Topic::Tasks) {
                self.tasks.start_at(range.to);
            } else if at(Topic::TaskResults) {
                self.results.start_at(range.to);
            } else if at(Topic::LaneInbox) {
                self.inbox.start_at(range.to);
            }
        }
        self.fleet_read = self.state.fleet_position;
        self.health_read = self.state.health_position;
        self.results_caught_up_at = self.state.results_caught_up_at;
        Ok(())
    }

    /// Where to read on: what is queued here already counts as read.
    pub fn positions(&self) -> Positions {
        Positions {
            tasks: self.tasks.read,
            task_results: self.results.read,
            lane_inbox: self.inbox.read,
            fleet: self.fleet_read,
            health_events: self.health_read,
        }
    }

    /// Sets where reading starts, for the inputs of a lane that has no positions yet.
    pub fn start_at(&mut self, tasks: i64, task_results: i64, lane_inbox: i64) {
        self.tasks.start_at(tasks);
        self.results.start_at(task_results);
        self.inbox.start_at(lane_inbox);
    }

    /// Decodes a record of a lane input or a control topic and queues it for the next batch.
    /// Records below `positions` are skipped. A record that cannot be used becomes a dead letter
    /// of the same batch. For a lane input, a skipped offset (a transaction's marker, compaction)
    /// needs no call. Where the codec does not know the record's schema yet, the shell teaches it
    /// before it offers.
    pub fn offer(&mut self, record: &RawRecord<'_>) {
        let codec = Arc::clone(&self.settings.codec);
        match record.topic {
            Topic::Tasks => {
                if !self.tasks.knows(record.offset) {
                    let body = self.body(record, codec.decode_task(record));
                    self.tasks.push(Entry::new(record, traceparent(record.headers), body));
                }
            }
            Topic::TaskResults => {
                if !self.results.knows(record.offset) {
                    let body = match self.body(record, codec.decode_task_result(record)) {
                        Body::Good(result) => {
                            let spare = match &self.buried {
                                Some(buried) => buried.contains(&record.offset),
                                None => !self.expects(&result),
                            };
                            let kept = spare.then(|| Box::new(OwnedRecord::of(record)));
                            Body::Good((result, kept))
                        }
                        Body::Dead(dead) => Body::Dead(dead),
                    };
                    self.results.push(Entry::new(record, traceparent(record.headers), body));
                }
            }
            Topic::LaneInbox => {
                if !self.inbox.knows(record.offset) {
                    let body = self.body(record, codec.decode_lane_inbox(record));
                    self.inbox.push(Entry::new(record, traceparent(record.headers), body));
                }
            }
            Topic::Fleet => {
                if record.offset >= self.fleet_read {
                    self.fleet_read = record.offset + 1;
                    let entry = self.control(record, codec.decode_fleet_entry(record));
                    self.controls
                        .push_back((OwnedRecord::of(record), Control::Fleet(entry.map(Box::new))));
                }
            }
            Topic::HealthEvents => {
                if record.offset >= self.health_read {
                    self.health_read = record.offset + 1;
                    if planted(Bug::SkipControl) && self.state.lane == 1 && record.offset == 2 {
                        return;
                    }
                    let event = self.control(record, codec.decode_health_event(record));
                    self.controls.push_back((OwnedRecord::of(record), Control::Health(event)));
                }
            }
            Topic::RouteDecisions
            | Topic::AllocationEvents
            | Topic::BalanceEvents
            | Topic::LoadSnapshots
            | Topic::Journal
            | Topic::Snapshots
            | Topic::OperatorActions
            | Topic::TasksDlq
            | Topic::TaskResultsDlq
            | Topic::LaneInboxDlq
            | Topic::HealthEventsDlq
            | Topic::FleetDlq => {}
        }
    }

    fn control<T>(
        &self,
        record: &RawRecord<'_>,
        decoded: Result<T, DecodeError>,
    ) -> Result<T, Death> {
        match self.body(record, decoded) {
            Body::Good(value) => Ok(value),
            Body::Dead(dead) => Err(dead.1),
        }
    }

    fn body<T>(&self, record: &RawRecord<'_>, decoded: Result<T, DecodeError>) -> Body<T> {
        let death = if self.condemned.contains(&(record.topic, record.offset)) {
            Death::condemned()
        } else {
            match decoded {
                Ok(value) => return Body::Good(value),
                Err(error) => Death {
                    stage: error.stage(),
                    reason: error.reason(),
                    message: error.to_string(),
                },
            }
        };
        Body::Dead(Box::new((OwnedRecord::of(record), death)))
    }

    /// Whether a result belongs to a task that the lane knows, so that its bytes are not needed
    /// for a dead letter.
    fn expects(&self, result: &TaskResult) -> bool {
        let key = TaskKey::of(&result.task_id);
        match self.state.tasks.get(&key) {
            Some(live) => match live.phase {
                Phase::InFlight { resource, .. } => {
                    result.resource.is_empty()
                        || *result.resource == *self.state.fleet.at(resource).id
                }
                Phase::Waiting { .. } | Phase::GivenUp => true,
            },
            None => self.state.recent.contains(key),
        }
    }

    /// A record of `tasks` that was read again because [`Lane::wants`] named it; `None`: it is
    /// gone.
    pub fn offer_reread(&mut self, offset: i64, record: Option<&RawRecord<'_>>) {
        let Some(key) = self.wanted.remove(&offset) else { return };
        let phase = self.state.tasks.get(&key).map(|live| live.phase);
        if !matches!(phase, Some(Phase::Waiting { .. } | Phase::GivenUp)) {
            return;
        }
        if self.state.given_up.contains(&key) {
            let last = match record {
                Some(record) => LastRecord::Found(Box::new(OwnedRecord::of(record))),
                None => LastRecord::Gone,
            };
            self.ready.keep_record(key, last);
            return;
        }
        let task = record.and_then(|record| {
            let task = self.settings.codec.decode_task(record).ok()?;
            (TaskKey::of(&task.task_id) == key).then_some((record, task))
        });
        match task {
            Some((record, task)) => {
                let entry: Entry<()> =
                    Entry::new(record, traceparent(record.headers), Body::Good(()));
                let ready = ReadyTask { task, traceparent: entry.traceparent };
                self.ready.keep(key, ready);
            }
            // Another record stands there now, or none: the task's is gone.
            None => self.ready.keep_gone(key),
        }
    }

    /// From now on this record is dead-lettered unread: it made the core panic.
    pub fn condemn(&mut self, topic: Topic, offset: i64) {
        self.condemned.insert((topic, offset));
    }

    /// All results that existed at `at` have been offered.
    pub fn results_caught_up(&mut self, at: Timestamp) {
        self.results_caught_up_at = self.results_caught_up_at.max(at);
    }

    /// Whether a lease waits for `results_caught_up` with a later time than it knows.
    pub fn awaits_results(&self, now: Timestamp) -> bool {
        let grace_ms = self.state.policy.lease_grace_ms;
        self.state.leases.first().is_some_and(|(until, _)| {
            let ended = until.plus_ms(grace_ms);
            ended <= now && ended > self.results_caught_up_at
        })
    }

    /// The policy changed (a pool topic appeared): journaled with the next batch.
    pub fn set_policy(&mut self, policy: Policy) {
        Arc::make_mut(&mut self.settings).policy = policy;
    }

    /// Whether the control records read so far contain a resource.
    pub fn has_fleet(&self) -> bool {
        let offered = self.controls.iter().any(|(_, control)| match control {
            Control::Fleet(Ok(entry)) => matches!(**entry, FleetEntry::Resource(_)),
            Control::Fleet(Err(_)) | Control::Health(_) => false,
        });
        self.state.has_fleet() || offered
    }

    /// Records that are queued for the next batch.
    pub fn queued(&self) -> usize {
        self.controls.len() + self.inbox.len() + self.results.len() + self.tasks.len()
    }

    /// Bytes of what is queued.
    pub fn queued_bytes(&self) -> usize {
        self.inbox.bytes() + self.results.bytes() + self.tasks.bytes()
    }

    /// Decides a batch: at most `batch_records_max` records and 512 KiB of facts; the rest stays
    /// queued. `None` where nothing is due. The state has moved on when this returns: the batch
    /// must be committed, or the lane discarded.
    pub fn prepare(&mut self, now: Timestamp) -> Option<Prepared> {
        let at = now.max(self.state.batch_time);
        let from = self.decided();
        let settings = Arc::clone(&self.settings);
        let origin = Origin { lane: self.state.lane, epoch: self.epoch, seq: self.seq + 1, at };
        self.sampler.begin(&self.state, at);
        let sampler = std::mem::take(&mut self.sampler);
        let mut batch = Batch::new(&settings, origin, self.room, sampler);
        let opened = Fact::BatchOpened { at, results_caught_up_at: self.caught_up_at() };
        batch.apply(&mut self.state, opened, Source::default());
        self.step(&mut batch);
        if batch.is_empty() {
            // The state only moved on in time, which the next batch's opening repeats.
            self.sampler = batch.sampler;
            return None;
        }
        let read = self.read_since(&from);
        let Closed { prepared, hash, room, sampler } = batch.close(&self.state, self.hash, read);
        self.seq += 1;
        self.hash = hash;
        (self.room, self.sampler) = (room, sampler);
        Some(prepared)
    }

    fn decided(&self) -> [(Topic, Option<i64>); 3] {
        [
            (Topic::Tasks, self.tasks.decided),
            (Topic::TaskResults, self.results.decided),
            (Topic::LaneInbox, self.inbox.decided),
        ]
    }

    fn read_since(&self, from: &[(Topic, Option<i64>); 3]) -> Read {
        let mut read = Read { offsets: Vec::new(), next_offsets: Vec::new() };
        for ((topic, from), (_, to)) in from.iter().zip(self.decided()) {
            let Some(to) = to else { continue };
            let from = from.unwrap_or(to);
            let name = self.settings.topic_name(*topic).to_owned();
            read.offsets.push(OffsetRange { topic: name, from, to });
            read.next_offsets.push((*topic, to));
        }
        read
    }

    /// Offsets in `tasks` of waiting tasks that should be read again now, best first, at most
    /// `max`. What an earlier call named and has not come is no longer expected.
    pub fn wants(&mut self, max: usize) -> Vec<i64> {
        let front = balancer::tried(&self.state);
        if self.ready.is_full() {
            self.ready.keep_only(&front.iter().copied().collect());
        }
        let given_up = self.state.given_up.iter().filter(|key| !self.ready.has_record(**key));
        let waiting = front.iter().filter(|key| !self.ready.has_task(**key));
        let missing = given_up
            .chain(waiting)
            .filter_map(|key| Some((self.state.tasks.get(key)?.task.offset, *key)));
        let missing: Vec<(i64, TaskKey)> = missing.take(max).collect();
        self.wanted = missing.iter().copied().collect();
        missing.into_iter().map(|(offset, _)| offset).collect()
    }

    /// The time of the last batch: batch times never go back.
    pub fn batch_time(&self) -> Timestamp {
        self.state.batch_time
    }
}

#[cfg(test)]
pub(crate) mod tests;
