//! The real core in a closed loop, in simulated time: records go into a lane as a client would hand
//! them over, what it publishes goes to the site, and what the site's workers report goes back in.
//!
//! One lane holds all rights. Nothing is written to a journal, and nothing crashes here: `simulate`
//! does that.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::scenario::Scenario;
use super::site::{Run, Site};
use super::{BacktestError, Settings, Watch};
use crate::codec::encode::{fleet_key, health_key};
use crate::codec::{Codec, OutputFormat, RawRecord, RegisteredSchemas};
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::allocation::AllocationKind;
use crate::model::decision::Outcome;
use crate::model::reason::RefusalReason;
use crate::model::resource::FleetEntry;
use crate::model::time::Timestamp;

/// Batches are at least so far apart, as transactions are.
const BATCH_MS: u64 = 20;
/// Where the scenario begins on the lane's clock: any time that is not the epoch.
const BASE_MS: i64 = 1_000_000_000_000;
/// Records of one batch, as in production.
const BATCH_RECORDS_MAX: usize = 4_096;
/// Waiting tasks that are read again at once.
const REREADS_MAX: usize = 1_024;
/// Beside the longest wait: nothing comes in and nothing is decided for so long only where something
/// is wrong. A worker with an attempt under way sends a heartbeat more often.
const IDLE_MS_MAX: u64 = 600_000;

/// Nothing goes there in a backtest: what is handed over can be used. (A task whose attempts are spent
/// goes to the tasks' own.)
const UNUSABLE: [Topic; 4] =
    [Topic::TaskResultsDlq, Topic::LaneInboxDlq, Topic::HealthEventsDlq, Topic::FleetDlq];

struct Loop<'a> {
    scenario: &'a Scenario,
    codec: Arc<Codec>,
    lane: Lane,
    site: Site<'a>,
    /// The next offset of each topic.
    next: BTreeMap<Topic, i64>,
    tasks_offered: usize,
    health_offered: usize,
    value: Vec<u8>,
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(BASE_MS).plus_ms(ms)
}

/// Routes the whole scenario.
///
/// # Errors
/// `watch` said to stop; or the core published what cannot be read, or left tasks undecided, both of
/// which would be faults of the core.
pub fn run(
    scenario: &Scenario,
    settings: &Settings,
    watch: Watch<'_>,
) -> Result<Run, BacktestError> {
    let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default())
        .map_err(|error| BacktestError::Core(error.to_string()))?;
    let codec = Arc::new(codec);
    let lane_settings = LaneSettings {
        unjournaled: false,
        codec: Arc::clone(&codec),
        policy: settings.policy.clone(),
        batch_records_max: BATCH_RECORDS_MAX,
        source: "pointsman/backtest".to_owned(),
        group: "backtest".to_owned(),
        topic_names: BTreeMap::new(),
        decisions_by_pool: false,
    };
    let mut lane = Lane::genesis(0, 1, 1, lane_settings);
    lane.start_at(0, 0, 0);
    let mut routing = Loop {
        scenario,
        codec,
        lane,
        site: Site::new(scenario, settings.seed, true),
        next: BTreeMap::new(),
        tasks_offered: 0,
        health_offered: 0,
        value: Vec::new(),
    };
    routing.offer_fleet();
    routing.run(watch)?;
    Ok(routing.site.finish())
}

impl Loop<'_> {
    fn run(&mut self, watch: Watch<'_>) -> Result<(), BacktestError> {
        let idle_ms_max = self.lane.state().policy.wait_ms_max.saturating_add(IDLE_MS_MAX);
        let (mut now, mut batch_after, mut busy_ms) = (0, 0, 0);
        while self.site.open() > 0 {
            let input = self.next_input_ms();
            let batch = if self.lane.queued() > 0 {
                Some(batch_after.max(now))
            } else {
                let timer = self.lane.next_timer();
                timer.map(|due| due.ms_since(at(0)).max(batch_after).max(now))
            };
            let open = self.site.open();
            let Some(next) = [input, batch].into_iter().flatten().min() else {
                return Err(BacktestError::Unsettled { open });
            };
            now = next;
            if input.is_none_or(|input| input > now) && now > busy_ms + idle_ms_max {
                return Err(BacktestError::Unsettled { open });
            }
            // What comes in the same millisecond is part of the batch.
            if input == Some(now) {
                self.offer(now);
                busy_ms = now;
                continue;
            }
            self.batch(now)?;
            if self.site.open() < open {
                busy_ms = now;
            }
            batch_after = now + BATCH_MS;
            if !watch((open - self.site.open()) as u64) {
                return Err(BacktestError::Stopped);
            }
        }
        Ok(())
    }

    fn next_input_ms(&self) -> Option<u64> {
        let task = self.scenario.tasks.get(self.tasks_offered).map(|timed| timed.arrival_ms);
        let health = self.scenario.health.get(self.health_offered).map(|(at_ms, _)| *at_ms);
        [task, health, self.site.next_event_ms()].into_iter().flatten().min()
    }

    fn put(&mut self, topic: Topic, key: Option<&str>, now: u64) {
        let offset = self.next.entry(topic).or_insert(0);
        let record = RawRecord {
            topic,
            partition: 0,
            offset: *offset,
            timestamp_ms: at(now).as_ms(),
            key: key.map(str::as_bytes),
            value: Some(&self.value),
            headers: &[],
        };
        *offset += 1;
        self.lane.offer(&record);
    }

    fn offer_fleet(&mut self) {
        let scenario = self.scenario;
        let resources = scenario.fleet.resources.iter().cloned().map(FleetEntry::Resource);
        let tenants = scenario.fleet.tenants.iter().cloned().map(FleetEntry::Tenant);
        for entry in tenants.chain(resources) {
            self.value.clear();
            if self.codec.encode_fleet_entry(&entry, &mut self.value) {
                self.put(Topic::Fleet, Some(&fleet_key(&entry)), 0);
            }
        }
    }

    /// Hands over everything that has come until now.
    fn offer(&mut self, now: u64) {
        let scenario = self.scenario;
        while let Some((_, event)) =
            scenario.health.get(self.health_offered).filter(|(at_ms, _)| *at_ms <= now)
        {
            self.health_offered += 1;
            self.value.clear();
            // The scenario's times count from its start.
            let mut event = event.clone();
            for lowered in &mut event.limits {
                lowered.until_at_ms = at(lowered.until_at_ms.as_ms().max(0) as u64);
            }
            self.codec.encode_health_event(&event, &mut self.value);
            self.put(Topic::HealthEvents, Some(&health_key(&event)), now);
        }
        for (_, result) in self.site.reports(now) {
            self.value.clear();
            self.codec.encode_task_result(&result, &mut self.value);
            self.put(Topic::TaskResults, Some(&result.task_id), now);
        }
        while let Some(timed) =
            scenario.tasks.get(self.tasks_offered).filter(|timed| timed.arrival_ms <= now)
        {
            self.tasks_offered += 1;
            self.value.clear();
            self.codec.encode_task(&timed.task, &mut self.value);
            // The record's timestamp is when the task was made.
            self.put(Topic::Tasks, None, timed.arrival_ms);
        }
    }

    fn batch(&mut self, now: u64) -> Result<(), BacktestError> {
        self.lane.results_caught_up(at(now));
        let prepared = self.lane.prepare(at(now));
        if let Some(prepared) = prepared {
            self.publish(now, &prepared)?;
        }
        let state = self.lane.state();
        if !state.backlog.is_empty() || !state.given_up.is_empty() {
            self.reread();
        }
        Ok(())
    }

    /// The offset of a task is its place in the scenario.
    fn reread(&mut self) {
        for offset in self.lane.wants(REREADS_MAX) {
            let timed = usize::try_from(offset).ok().and_then(|at| self.scenario.tasks.get(at));
            let Some(timed) = timed else { continue };
            self.value.clear();
            self.codec.encode_task(&timed.task, &mut self.value);
            let record = RawRecord {
                topic: Topic::Tasks,
                partition: 0,
                offset,
                timestamp_ms: at(timed.arrival_ms).as_ms(),
                key: None,
                value: Some(&self.value),
                headers: &[],
            };
            self.lane.offer_reread(offset, Some(&record));
        }
    }

    /// What a consumer of the outputs does with them, in their order.
    fn publish(&mut self, now: u64, prepared: &Prepared) -> Result<(), BacktestError> {
        for record in &prepared.records {
            let (OutputTopic::Known(topic), Some(value)) = (&record.topic, &record.value) else {
                continue;
            };
            let raw = RawRecord {
                topic: *topic,
                partition: record.partition,
                offset: 0,
                timestamp_ms: record.timestamp_ms,
                key: None,
                value: Some(prepared.slice(value)),
                headers: &[],
            };
            if *topic == Topic::RouteDecisions {
                self.decision(now, &raw)?;
            } else if *topic == Topic::AllocationEvents {
                self.allocation(&raw)?;
            } else if UNUSABLE.contains(topic) {
                let topic = topic.default_name();
                return Err(BacktestError::Core(format!("the core sent a record to {topic}")));
            }
        }
        Ok(())
    }

    fn decision(&mut self, now: u64, raw: &RawRecord<'_>) -> Result<(), BacktestError> {
        let unreadable = |what: &str| BacktestError::Core(format!("a route decision: {what}"));
        let decision = self.codec.decode_route_decision(raw);
        let decision = decision.map_err(|error| unreadable(&error.to_string()))?;
        let task = self.scenario.task_of(&decision.task_id);
        let task = task.ok_or_else(|| unreadable("names an unknown task"))?;
        match decision.outcome {
            Outcome::Refused => {
                let reason = decision.reason.unwrap_or(RefusalReason::NoCapacity);
                self.site.refuse(now, task, reason);
            }
            Outcome::Routed => {
                let link = decision.primary.first();
                let resource = link.and_then(|link| self.scenario.resource_of(&link.resource));
                let resource = resource.ok_or_else(|| unreadable("names no resource"))?;
                let reserved = decision.reserved.unwrap_or_default();
                self.site.start(now, task, decision.attempt, resource, reserved.tokens);
            }
        }
        Ok(())
    }

    fn allocation(&mut self, raw: &RawRecord<'_>) -> Result<(), BacktestError> {
        let event = self.codec.decode_allocation_event(raw);
        let event =
            event.map_err(|error| BacktestError::Core(format!("an allocation event: {error}")))?;
        match event.kind {
            AllocationKind::Expired | AllocationKind::FailedOver => {
                if let Some(task) = self.scenario.task_of(&event.task_id) {
                    self.site.break_off(task, event.attempt);
                }
            }
            AllocationKind::Reserved
            | AllocationKind::Adjusted
            | AllocationKind::Released
            | AllocationKind::Denied => {}
        }
        Ok(())
    }
}
