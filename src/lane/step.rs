//! The order of a batch: control records, inbox, results, timers, tasks.

use crate::model::event::{InboxBody, InboxMessage};
use crate::model::reason::RefusalReason;
use crate::model::result::TaskResult;
use crate::model::task::Task;
use crate::model::time::Timestamp;
use crate::routing::allocator::{ResultVerdict, decide_result};
use crate::routing::balancer::{NewArrival, Turn, distribute_load, tried};
use crate::routing::control::{decide_breakers, decide_fleet, decide_health, decide_policy};
use crate::routing::engine::{decide_ended_wait, decide_task, decide_waiting};
use crate::routing::fact::{ControlTopic, Fact, InputTopic};
use crate::routing::headroom::decide_headroom;
use crate::routing::sharing::{
    are_lacks_asked, decide_advised, decide_lanes, decide_load, decide_pledged, decide_taken,
    pledged,
};
use crate::routing::spikes::{handle_spikes, shed};
use crate::routing::{TaskKey, timers};

use super::batch::Batch;
use super::intake::{Body, Death, Entry, OwnedRecord};
use super::ready::{LastRecord, ReadyTask};
use super::render::Source;
use super::{Control, Lane};

impl Lane {
    pub(super) fn step(&mut self, batch: &mut Batch<'_>) {
        if let Some(fact) = decide_lanes(&self.state, self.lanes_told) {
            batch.apply(&mut self.state, fact, Source::default());
        }
        self.step_breakers(batch);
        self.step_controls(batch);
        let mut left = self.settings.batch_records_max;
        while left > 0 && !batch.is_full() {
            let Some(entry) = self.inbox.pop() else { break };
            left -= 1;
            self.step_inbox(batch, entry);
        }
        self.memo.lacks.begin(batch.has_advice() || are_lacks_asked(&self.state));
        while left > 0 && !batch.is_full() {
            let Some(entry) = self.results.pop() else { break };
            left -= 1;
            self.step_result(batch, entry);
        }
        self.step_timers(batch);
        self.step_given_up(batch);
        self.step_tasks(batch, left);
        self.step_ended_waits(batch);
        self.step_spikes(batch);
        self.step_sharing(batch);
    }

    /// Last, because it depends on what the batch's tasks took and went without. In a full batch
    /// too; bounded by itself.
    fn step_sharing(&mut self, batch: &mut Batch<'_>) {
        for (limit, to_lane) in pledged(&self.state) {
            if let Some(fact) = decide_pledged(&self.state, &self.memo.lacks, &limit, to_lane) {
                batch.apply(&mut self.state, fact, Source::default());
            }
        }
        for advice in batch.take_advice() {
            let facts = decide_advised(&self.state, &self.memo.lacks, &advice);
            if facts.is_empty() {
                batch.advice_ignored();
            }
            for fact in facts {
                batch.apply(&mut self.state, fact, Source::default());
            }
        }
        if let Some(fact) = decide_load(&self.state, &self.memo.lacks) {
            batch.apply(&mut self.state, fact, Source::default());
        }
    }

    fn step_controls(&mut self, batch: &mut Batch<'_>) {
        let policy = decide_policy(&self.state, &self.settings.policy);
        // Something has to be recorded for there to be a batch, and the policy may be recorded twice.
        let again =
            || self.epoch_begins.then(|| Fact::PolicySet(Box::new(self.settings.policy.clone())));
        let policy = policy.or_else(again);
        self.epoch_begins = false;
        if let Some(fact) = policy {
            batch.apply(&mut self.state, fact, Source::default());
        }
        while !batch.is_full() {
            let Some((record, control)) = self.controls.pop_front() else { break };
            let death = |error: crate::model::invalid::Invalid| Death {
                stage: "validate",
                reason: "invalid",
                message: error.to_string(),
            };
            let (topic, fact) = match control {
                Control::Fleet(Ok(entry)) => {
                    let fact = decide_fleet(&self.state, record.offset, *entry);
                    (ControlTopic::Fleet, fact.map_err(death))
                }
                Control::Fleet(Err(death)) => (ControlTopic::Fleet, Err(death)),
                Control::Health(Ok(event)) => {
                    let fact = decide_health(&self.state, record.offset, event);
                    (ControlTopic::HealthEvents, fact.map_err(death))
                }
                Control::Health(Err(death)) => (ControlTopic::HealthEvents, Err(death)),
            };
            let fact = fact.unwrap_or_else(|death| {
                let condemned = death.is_condemned();
                // Every lane reads the control topics; one of them writes the dead letter.
                if self.state.lane == 0 {
                    batch.bury_record(topic.topic(), &record, &death);
                }
                Fact::ControlSkipped { topic, offset: record.offset, condemned }
            });
            batch.apply(&mut self.state, fact, Source::default());
            // What is gone is no longer down, and that is said before another has its place.
            self.step_breakers(batch);
        }
    }

    fn step_inbox(&mut self, batch: &mut Batch<'_>, entry: Entry<InboxMessage>) {
        batch.input(entry.digest);
        match entry.body {
            Body::Good(message) => {
                let traceparent = entry.traceparent.as_deref();
                match &message.body {
                    InboxBody::Result(result) => {
                        self.hear_headroom(batch, result, entry.timestamp);
                        let source = Source { task: None, traceparent };
                        self.settle(batch, (result, entry.timestamp), source, None);
                    }
                    InboxBody::Rights(transfer) => {
                        let fact = decide_taken(&self.state, message.from_lane, transfer);
                        batch.apply(&mut self.state, fact, Source::default());
                    }
                    // Followed when it is known what the lane's own tasks go without.
                    InboxBody::Advice(advice) => batch.advised(advice.clone()),
                }
            }
            Body::Dead(dead) => {
                batch.bury(&mut self.state, InputTopic::LaneInbox, &dead.0, &dead.1);
            }
        }
    }

    fn step_result(
        &mut self,
        batch: &mut Batch<'_>,
        entry: Entry<(TaskResult, Option<Box<OwnedRecord>>)>,
    ) {
        batch.input(entry.digest);
        batch.result_seen();
        match entry.body {
            Body::Good((result, record)) => {
                let traceparent = entry.traceparent.as_deref();
                self.hear_headroom(batch, &result, entry.timestamp);
                let source = Source { task: None, traceparent };
                self.settle(batch, (&result, entry.timestamp), source, record.as_deref());
            }
            Body::Dead(dead) => {
                batch.bury(&mut self.state, InputTopic::TaskResults, &dead.0, &dead.1);
            }
        }
    }

    /// Before the result ends its attempt, which counts in what the provider has left.
    fn hear_headroom(&mut self, batch: &mut Batch<'_>, result: &TaskResult, said_at: Timestamp) {
        if let Some(fact) = decide_headroom(&self.state, result, said_at) {
            batch.apply(&mut self.state, fact, Source::default());
        }
    }

    fn settle(
        &mut self,
        batch: &mut Batch<'_>,
        (result, said_at): (&TaskResult, Timestamp),
        source: Source<'_>,
        record: Option<&OwnedRecord>,
    ) {
        let death = match decide_result(&self.state, result, said_at) {
            ResultVerdict::Facts(facts) => {
                for fact in facts {
                    batch.apply(&mut self.state, fact, source);
                }
                return;
            }
            ResultVerdict::Stale => return,
            ResultVerdict::Forward { to_lane } => {
                batch.forward(&InboxMessage {
                    from_lane: self.state.lane,
                    to_lane,
                    body: InboxBody::Result(result.clone()),
                });
                return;
            }
            ResultVerdict::UnknownTask => Death {
                stage: "core",
                reason: "unknown_task",
                message: format!("no task `{}` is known in this lane", result.task_id),
            },
            ResultVerdict::ResourceMismatch { expected } => Death {
                stage: "core",
                reason: "resource_mismatch",
                message: format!(
                    "resource: {} is not allowed; attempt {} of this task has {expected}",
                    result.resource, result.attempt
                ),
            },
        };
        // A result that came through the inbox has no record of its own; its lane is a mistake of
        // the sender, who has the record.
        if let Some(record) = record {
            batch.bury(&mut self.state, InputTopic::TaskResults, record, &death);
        }
    }

    /// Before everything else those that time moves, after the results those that they have moved.
    fn step_breakers(&mut self, batch: &mut Batch<'_>) {
        for fact in decide_breakers(&self.state) {
            batch.apply(&mut self.state, fact, Source::default());
        }
    }

    fn step_timers(&mut self, batch: &mut Batch<'_>) {
        let mut serve = |lane: &mut Lane, key, decide: Decide| {
            if !batch.is_full()
                && let Some(fact) = decide(&lane.state, key)
            {
                batch.apply(&mut lane.state, fact, Source::default());
            }
        };
        for key in timers::expired_leases(&self.state) {
            serve(self, key, timers::decide_expired);
        }
        for key in timers::failing_over(&self.state) {
            serve(self, key, timers::decide_failover);
        }
        for fact in timers::failovers_ended(&self.state) {
            batch.apply(&mut self.state, fact, Source::default());
        }
        self.step_breakers(batch);
    }

    /// Tasks that are given up and whose records have been read again, and waiting ones whose
    /// records are gone.
    fn step_given_up(&mut self, batch: &mut Batch<'_>) {
        for (key, last) in self.ready.take_given_up() {
            let Some(live) = self.state.tasks.get(&key) else { continue };
            let offset = live.task.offset;
            let history: Vec<String> = live
                .tried()
                .iter()
                .enumerate()
                .map(|(number, tried)| {
                    let resource = &self.state.fleet.at(tried.resource).id;
                    // Stages count from 1 for people; those before have succeeded.
                    let stage = match &live.task.stages {
                        Some(stages) => {
                            format!("stage {} of {}, ", live.task.stage + 1, stages.len())
                        }
                        None => String::new(),
                    };
                    format!("{stage}attempt {} on {resource}: {}", number + 1, tried.end.name())
                })
                .collect();
            let (reason, record) = match last {
                LastRecord::Found(record) => (RefusalReason::AttemptsSpent, *record),
                LastRecord::Gone => (RefusalReason::TaskExpired, self.remains(offset)),
            };
            let message = history.join("; ");
            self.give_up(batch, key, reason, &record, message);
        }
        for key in self.ready.take_gone() {
            let Some(live) = self.state.tasks.get(&key) else { continue };
            let offset = live.task.offset;
            let message = format!(
                "the task's record at offset {offset} was deleted before the task was served; \
                 allowed: a retention of `tasks` longer than a task lives"
            );
            let record = self.remains(offset);
            self.give_up(batch, key, RefusalReason::TaskExpired, &record, message);
        }
    }

    fn give_up(
        &mut self,
        batch: &mut Batch<'_>,
        key: TaskKey,
        reason: RefusalReason,
        record: &OwnedRecord,
        message: String,
    ) {
        batch.reread(record.offset);
        let fact = Fact::Refused { key, new: None, reason, candidates: Vec::new() };
        batch.apply(&mut self.state, fact, Source::default());
        let death = Death { stage: "core", reason: reason.name(), message };
        batch.bury(&mut self.state, InputTopic::Tasks, record, &death);
    }

    /// What is left of a record that is gone: where it was.
    fn remains(&self, offset: i64) -> OwnedRecord {
        OwnedRecord {
            partition: self.state.lane as i32,
            offset,
            timestamp_ms: -1,
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    /// The tasks that wait and the new ones, together in the order of what they stand to lose.
    fn step_tasks(&mut self, batch: &mut Batch<'_>, mut left: usize) {
        let mut waiting = tried(&self.state);
        loop {
            let arrivals = self.take_tasks(batch, &mut left);
            let turns = self.turns(&waiting, &arrivals);
            waiting.clear();
            let more = !arrivals.is_empty();
            let mut arrivals: Vec<Option<Arrival>> = arrivals.into_iter().map(Some).collect();
            for turn in turns {
                match turn {
                    Turn::Waiting(key) => self.step_waiting(batch, key),
                    Turn::New(place) => {
                        if let Some(arrival) = arrivals.get_mut(place).and_then(Option::take) {
                            self.step_task(batch, arrival);
                        }
                    }
                }
            }
            if !more || left == 0 || batch.is_full() {
                return;
            }
        }
    }

    /// New tasks that are assigned together: what is taken here is decided, full batch or not, so
    /// it is bounded in facts and outputs. Those that cannot be used are buried at once.
    fn take_tasks(&mut self, batch: &mut Batch<'_>, left: &mut usize) -> Vec<Arrival> {
        let mut taken = Vec::new();
        let (mut fact_bytes, mut payload_bytes) = (0, 0);
        // No task is decided before a fleet exists.
        while *left > 0
            && !batch.is_full()
            && fact_bytes < TOGETHER_FACT_BYTES
            && payload_bytes < TOGETHER_PAYLOAD_BYTES
            && self.state.has_fleet()
        {
            let Some(entry) = self.tasks.pop() else { break };
            *left -= 1;
            batch.input(entry.digest);
            batch.task_seen(entry.timestamp);
            match entry.body {
                Body::Good(task) => {
                    let payload = task.payload.as_ref().map_or(0, Vec::len);
                    // A fact has less of a task than its record, and some numbers beside.
                    fact_bytes += FACT_NUMBERS_BYTES + entry.bytes.saturating_sub(payload);
                    fact_bytes += if task.features.is_empty() { 0 } else { FACT_FEATURES_BYTES };
                    payload_bytes += payload;
                    let created_at = task.created_at_ms.unwrap_or(entry.timestamp);
                    let (offset, traceparent) = (entry.offset, entry.traceparent);
                    taken.push(Arrival { task, offset, created_at, traceparent });
                }
                Body::Dead(dead) => {
                    batch.bury(&mut self.state, InputTopic::Tasks, &dead.0, &dead.1);
                }
            }
        }
        taken
    }

    fn turns(&mut self, waiting: &[TaskKey], arrivals: &[Arrival]) -> Vec<Turn> {
        let arrivals: Vec<NewArrival<'_>> = arrivals
            .iter()
            .map(|one| NewArrival { task: &one.task, created_at: one.created_at })
            .collect();
        distribute_load(&self.state, &mut self.memo, waiting, &arrivals)
    }

    fn step_waiting(&mut self, batch: &mut Batch<'_>, key: TaskKey) {
        // Asked even where its record is not at hand: what it waits for is not there for others.
        let fact = decide_waiting(&self.state, &mut self.memo, key);
        let Some(fact) = fact.filter(|_| !batch.is_full()) else { return };
        let Some(ReadyTask { task, traceparent }) = self.ready.remove(key) else { return };
        if let Some(live) = self.state.tasks.get(&key) {
            batch.reread(live.task.offset);
        }
        let source = Source { task: Some(&task), traceparent: traceparent.as_deref() };
        batch.apply(&mut self.state, fact, source);
    }

    /// After the tasks were tried once more, and in a full batch too: a lane under load would
    /// otherwise never get to it. Bounded by itself.
    fn step_ended_waits(&mut self, batch: &mut Batch<'_>) {
        for key in timers::ended_waits(&self.state) {
            if let Some(fact) = decide_ended_wait(&self.state, &mut self.memo, key) {
                batch.apply(&mut self.state, fact, Source::default());
                self.ready.remove(key);
            }
        }
    }

    /// After all tasks were tried: what is in force is what became of them. Bounded by itself.
    fn step_spikes(&mut self, batch: &mut Batch<'_>) {
        if let Some(fact) = handle_spikes(&self.state) {
            batch.apply(&mut self.state, fact, Source::default());
        }
        for key in shed(&self.state) {
            let reason = RefusalReason::Shed;
            let fact = Fact::Refused { key, new: None, reason, candidates: Vec::new() };
            batch.apply(&mut self.state, fact, Source::default());
            self.ready.remove(key);
        }
    }

    fn step_task(&mut self, batch: &mut Batch<'_>, arrival: Arrival) {
        let Arrival { task, offset, created_at, traceparent } = arrival;
        let facts = decide_task(&self.state, &mut self.memo, &task, offset, created_at);
        let mut waits = None;
        for fact in facts {
            if let Fact::Queued { key, .. } = &fact {
                waits = Some(*key);
            }
            // A task that gives way in the backlog is not this one.
            let own = !matches!(fact, Fact::Refused { new: None, .. });
            let source = Source {
                task: own.then_some(&task),
                traceparent: traceparent.as_deref().filter(|_| own),
            };
            batch.apply(&mut self.state, fact, source);
        }
        if let Some(key) = waits {
            self.ready.keep(key, ReadyTask { task, traceparent });
        }
    }
}

/// A new task that can be used.
struct Arrival {
    task: Task,
    offset: i64,
    created_at: Timestamp,
    traceparent: Option<Box<[u8]>>,
}

/// Bounds of what is assigned together: with a batch that is full but for one byte the journal's
/// record is still smaller than 1 MiB, and the outputs smaller than 12 MiB.
const TOGETHER_FACT_BYTES: usize = 256 << 10;
const TOGETHER_PAYLOAD_BYTES: usize = 2 << 20;
/// Keys, offsets, times and the reservation in a task's facts.
const FACT_NUMBERS_BYTES: usize = 160;
/// What a fact keeps of features, which may be more than a record of one or two of them has.
const FACT_FEATURES_BYTES: usize = 80;

type Decide = fn(&crate::routing::state::State, TaskKey) -> Option<Fact>;
