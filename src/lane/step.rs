//! The order of a batch: control records, inbox, results, timers, waiting tasks, tasks.

use crate::model::event::InboxMessage;
use crate::model::reason::RefusalReason;
use crate::model::result::TaskResult;
use crate::routing::allocator::{ResultVerdict, decide_result};
use crate::routing::control::{decide_breakers, decide_fleet, decide_health, decide_policy};
use crate::routing::engine::{decide_task, decide_waiting};
use crate::routing::fact::{ControlTopic, Fact, InputTopic};
use crate::routing::{TaskKey, timers};

use super::batch::Batch;
use super::intake::{Body, Death, Entry, OwnedRecord};
use super::ready::{LastRecord, ReadyTask};
use super::render::Source;
use super::{Control, Lane, WAITING_TRIED_MAX};

impl Lane {
    pub(super) fn step(&mut self, batch: &mut Batch<'_>) {
        self.step_controls(batch);
        let mut left = self.settings.batch_records_max;
        while left > 0 && !batch.is_full() {
            let Some(entry) = self.inbox.pop() else { break };
            left -= 1;
            self.step_inbox(batch, entry);
        }
        while left > 0 && !batch.is_full() {
            let Some(entry) = self.results.pop() else { break };
            left -= 1;
            self.step_result(batch, entry);
        }
        self.step_timers(batch);
        self.step_given_up(batch);
        self.step_waiting(batch);
        // No task is decided before a fleet exists.
        while left > 0 && !batch.is_full() && self.state.has_fleet() {
            let Some(entry) = self.tasks.pop() else { break };
            left -= 1;
            self.step_task(batch, entry);
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
            let death = |error: crate::model::task::Invalid| Death {
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
        }
    }

    fn step_inbox(&mut self, batch: &mut Batch<'_>, entry: Entry<InboxMessage>) {
        batch.input(entry.digest);
        match entry.body {
            Body::Good(message) => {
                let traceparent = entry.traceparent.as_deref();
                self.settle(batch, &message.result, traceparent, None);
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
                self.settle(batch, &result, traceparent, record.as_deref());
            }
            Body::Dead(dead) => {
                batch.bury(&mut self.state, InputTopic::TaskResults, &dead.0, &dead.1);
            }
        }
    }

    fn settle(
        &mut self,
        batch: &mut Batch<'_>,
        result: &TaskResult,
        traceparent: Option<&[u8]>,
        record: Option<&OwnedRecord>,
    ) {
        let death = match decide_result(&self.state, result) {
            ResultVerdict::Facts(facts) => {
                let source = Source { task: None, traceparent };
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
                    result: result.clone(),
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
        for key in timers::ended_waits(&self.state) {
            if batch.is_full() {
                break;
            }
            if let Some(fact) = timers::decide_ended_wait(&self.state, key) {
                batch.apply(&mut self.state, fact, Source::default());
                self.ready.remove(key);
            }
        }
        for fact in decide_breakers(&self.state) {
            batch.apply(&mut self.state, fact, Source::default());
        }
        let policy = &self.state.policy;
        let due = self.state.load_published_at.plus_ms(policy.load_snapshot_ms);
        if self.state.fleet.used() && due <= self.state.batch_time {
            batch.apply(&mut self.state, Fact::LoadPublished, Source::default());
        }
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
                    format!("attempt {} on {resource}: {}", number + 1, tried.end.name())
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
        let fact = Fact::Refused { key, known: true, reason, candidates: Vec::new() };
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

    fn step_waiting(&mut self, batch: &mut Batch<'_>) {
        let places = self.state.backlog.iter().take(WAITING_TRIED_MAX);
        let keys: Vec<TaskKey> = places.map(|place| place.key).collect();
        for key in keys {
            if batch.is_full() {
                break;
            }
            if self.ready.get(key).is_none() {
                continue;
            }
            let Some(fact) = decide_waiting(&self.state, &mut self.memo, key) else { continue };
            let Some(ReadyTask { task, traceparent }) = self.ready.remove(key) else { continue };
            if let Some(live) = self.state.tasks.get(&key) {
                batch.reread(live.task.offset);
            }
            let source = Source { task: Some(&task), traceparent: traceparent.as_deref() };
            batch.apply(&mut self.state, fact, source);
        }
    }

    fn step_task(&mut self, batch: &mut Batch<'_>, entry: Entry<crate::model::task::Task>) {
        batch.input(entry.digest);
        batch.task_seen(entry.timestamp);
        let task = match entry.body {
            Body::Good(task) => task,
            Body::Dead(dead) => {
                batch.bury(&mut self.state, InputTopic::Tasks, &dead.0, &dead.1);
                return;
            }
        };
        let created_at = task.created_at_ms.unwrap_or(entry.timestamp);
        let facts = decide_task(&self.state, &mut self.memo, &task, entry.offset, created_at);
        let mut waits = None;
        for fact in facts {
            if let Fact::Queued { key, .. } = &fact {
                waits = Some(*key);
            }
            // A task that gives way in the backlog is not this one.
            let own = !matches!(fact, Fact::Refused { known: true, .. });
            let source = Source {
                task: own.then_some(&task),
                traceparent: entry.traceparent.as_deref().filter(|_| own),
            };
            batch.apply(&mut self.state, fact, source);
        }
        if let Some(key) = waits {
            self.ready.keep(key, ReadyTask { task, traceparent: entry.traceparent });
        }
    }
}

type Decide = fn(&crate::routing::state::State, TaskKey) -> Option<Fact>;
