//! The real core in a closed loop, in simulated time: records go into lanes as a client would hand
//! them over, what they publish goes to the site and to one another, and what the site's workers report
//! goes back in.
//!
//! One lane holds all rights; several begin with their parts, and rights move between them as in
//! production: by messages, on the advice of the planner. Nothing is written to a journal, and nothing
//! crashes here: `simulate` does that.

mod member;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use self::member::Member;
use super::scenario::Scenario;
use super::site::{Run, Site};
use super::{BacktestError, Settings, Watch};
use crate::codec::encode::{fleet_key, health_key};
use crate::codec::{Codec, OutputFormat, RawRecord, RegisteredSchemas};
use crate::draw::{Draw, Purpose};
use crate::lane::LaneSettings;
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::model::Topic;
use crate::model::allocation::AllocationKind;
use crate::model::decision::Outcome;
use crate::model::event::{InboxBody, InboxMessage};
use crate::model::reason::RefusalReason;
use crate::model::resource::FleetEntry;
use crate::model::time::Timestamp;
use crate::routing::balancer::rebalance::{Advised, Planner};

/// From one lane to another, or to the planner and back: a transaction's time.
const MESSAGE_MS: u64 = 20;
/// The planner's rounds, as in production.
const ROUND_MS: u64 = 200;
/// Where the scenario begins on the lanes' clocks: any time that is not the epoch.
const BASE_MS: i64 = 1_000_000_000_000;
/// Records of one batch, as in production.
const BATCH_RECORDS_MAX: usize = 4_096;
/// Waiting tasks that are read again at once.
const REREADS_MAX: usize = 1_024;
/// Beside the longest wait: nothing comes in and nothing is decided for so long only where something
/// is wrong. A worker with an attempt under way sends a heartbeat more often.
const IDLE_MS_MAX: u64 = 600_000;

/// Something on its way to a lane.
#[derive(Debug)]
struct Message {
    due_ms: u64,
    to_lane: usize,
    value: Vec<u8>,
}

struct Loop<'a> {
    scenario: &'a Scenario,
    codec: Arc<Codec>,
    members: Vec<Member>,
    /// The lane of each task.
    lane_of: Vec<u32>,
    /// In the order in which it is due.
    messages: VecDeque<Message>,
    planner: Planner,
    round_ms: u64,
    moved: u64,
    advice: u64,
    site: Site<'a>,
    tasks_offered: usize,
    health_offered: usize,
    value: Vec<u8>,
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_ms(BASE_MS).plus_ms(ms)
}

/// Where each task goes.
fn lanes_of(scenario: &Scenario, settings: &Settings) -> Vec<u32> {
    let Settings { lanes, skew, seed, .. } = *settings;
    let others = lanes.saturating_sub(1) as usize;
    let lane = |place: usize| {
        let mut draw = Draw::new(seed, Purpose::Lane, place as u64);
        match skew {
            _ if others == 0 => 0,
            Some(first) if draw.unit() < first => 0,
            Some(_) => 1 + draw.below(others) as u32,
            None => draw.below(others + 1) as u32,
        }
    };
    (0..scenario.tasks.len()).map(lane).collect()
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
    let lanes = settings.lanes.max(1);
    let mut routing = Loop {
        scenario,
        codec,
        members: (0..lanes)
            .map(|number| Member::new(number, lanes, lane_settings.clone()))
            .collect(),
        lane_of: lanes_of(scenario, settings),
        messages: VecDeque::new(),
        planner: Planner::new(lanes, settings.policy.load_snapshot_ms),
        round_ms: 0,
        moved: 0,
        advice: 0,
        site: Site::new(scenario, settings.seed, true),
        tasks_offered: 0,
        health_offered: 0,
        value: Vec::new(),
    };
    routing.offer_fleet();
    routing.run(settings.policy.wait_ms_max.saturating_add(IDLE_MS_MAX), watch)?;
    Ok(Run { messages: routing.moved, advice: routing.advice, ..routing.site.finish() })
}

impl Loop<'_> {
    fn run(&mut self, idle_ms_max: u64, watch: Watch<'_>) -> Result<(), BacktestError> {
        let (mut now, mut busy_ms) = (0, 0);
        while self.site.open() > 0 {
            let open = self.site.open();
            let input = self.next_input_ms();
            let batches = self.members.iter().enumerate();
            let batch = batches
                .filter_map(|(number, member)| Some((member.next_batch_ms(now)?, number)))
                .min();
            let round = self.planner.is_due().then_some(self.round_ms.max(now));
            let batch_ms = batch.map(|(due, _)| due);
            let Some(next) = [input, batch_ms, round].into_iter().flatten().min() else {
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
            if round == Some(now) {
                self.advise(now);
                continue;
            }
            if let Some((_, number)) = batch {
                self.batch(now, number)?;
            }
            if self.site.open() < open {
                busy_ms = now;
            }
            if !watch((open - self.site.open()) as u64) {
                return Err(BacktestError::Stopped);
            }
        }
        Ok(())
    }

    fn next_input_ms(&self) -> Option<u64> {
        let task = self.scenario.tasks.get(self.tasks_offered).map(|timed| timed.arrival_ms);
        let health = self.scenario.health.get(self.health_offered).map(|(at_ms, _)| *at_ms);
        let message = self.messages.front().map(|message| message.due_ms);
        [task, health, message, self.site.next_event_ms()].into_iter().flatten().min()
    }

    fn offer_fleet(&mut self) {
        let scenario = self.scenario;
        let resources = scenario.fleet.resources.iter().cloned().map(FleetEntry::Resource);
        let tenants = scenario.fleet.tenants.iter().cloned().map(FleetEntry::Tenant);
        for entry in tenants.chain(resources) {
            self.value.clear();
            if self.codec.encode_fleet_entry(&entry, &mut self.value) {
                self.tell_all(Topic::Fleet, fleet_key(&entry).as_bytes(), 0);
            }
        }
    }

    /// What every lane reads.
    fn tell_all(&mut self, topic: Topic, key: &[u8], now: u64) {
        for member in &mut self.members {
            member.put(topic, Some(key), &self.value, now);
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
            self.tell_all(Topic::HealthEvents, health_key(&event).as_bytes(), now);
        }
        while self.messages.front().is_some_and(|message| message.due_ms <= now)
            && let Some(message) = self.messages.pop_front()
        {
            let member = &mut self.members[message.to_lane];
            member.put(Topic::LaneInbox, None, &message.value, now);
        }
        for (place, result) in self.site.reports(now) {
            self.value.clear();
            self.codec.encode_task_result(&result, &mut self.value);
            let member = &mut self.members[self.lane_of[place] as usize];
            let key = result.task_id.as_bytes();
            member.put(Topic::TaskResults, Some(key), &self.value, now);
        }
        while let Some(timed) =
            scenario.tasks.get(self.tasks_offered).filter(|timed| timed.arrival_ms <= now)
        {
            let place = self.tasks_offered;
            self.tasks_offered += 1;
            self.value.clear();
            self.codec.encode_task(&timed.task, &mut self.value);
            let member = &mut self.members[self.lane_of[place] as usize];
            member.put_task(place, &self.value, timed.arrival_ms);
        }
    }

    fn batch(&mut self, now: u64, number: usize) -> Result<(), BacktestError> {
        if let Some(prepared) = self.members[number].batch(now) {
            self.publish(now, &prepared)?;
        }
        let member = &mut self.members[number];
        for (offset, place) in member.wants(REREADS_MAX) {
            let Some(timed) = self.scenario.tasks.get(place) else { continue };
            self.value.clear();
            self.codec.encode_task(&timed.task, &mut self.value);
            member.put_again(offset, &self.value, timed.arrival_ms);
        }
        Ok(())
    }

    fn advise(&mut self, now: u64) {
        self.round_ms = now + ROUND_MS;
        for Advised { lane, advice } in self.planner.rebalance(at(now)) {
            self.advice += 1;
            let body = InboxBody::Advice(advice);
            let message = InboxMessage { from_lane: 0, to_lane: lane, body };
            let mut value = Vec::new();
            self.codec.encode_lane_inbox(&message, &mut value);
            self.send(now, lane as usize, value);
        }
    }

    fn send(&mut self, now: u64, to_lane: usize, value: Vec<u8>) {
        self.messages.push_back(Message { due_ms: now + MESSAGE_MS, to_lane, value });
    }

    /// What a consumer of the outputs does with them, in their order.
    fn publish(&mut self, now: u64, prepared: &Prepared) -> Result<(), BacktestError> {
        for record in &prepared.records {
            let (OutputTopic::Known(topic), Some(value)) = (&record.topic, &record.value) else {
                continue;
            };
            let value = prepared.slice(value);
            let key = record.key.as_ref().map(|key| prepared.slice(key));
            let raw = RawRecord {
                topic: *topic,
                partition: record.partition,
                offset: 0,
                timestamp_ms: record.timestamp_ms,
                key,
                value: Some(value),
                headers: &[],
            };
            match topic {
                Topic::RouteDecisions => self.decision(now, &raw)?,
                Topic::AllocationEvents => self.allocation(&raw)?,
                Topic::LoadSnapshots if self.members.len() > 1 => self.load(&raw)?,
                Topic::LaneInbox => {
                    let to_lane = usize::try_from(record.partition).unwrap_or(usize::MAX);
                    if to_lane >= self.members.len() {
                        let lane = record.partition;
                        let text = format!("the core sent a record to lane {lane}");
                        return Err(BacktestError::Core(text));
                    }
                    self.moved += 1;
                    self.send(now, to_lane, value.to_vec());
                }
                Topic::HealthEvents => {
                    for member in &mut self.members {
                        member.put(Topic::HealthEvents, key, value, now);
                    }
                }
                // What is handed over can be used. (A task whose attempts are spent goes to the tasks' own.)
                Topic::TaskResultsDlq
                | Topic::LaneInboxDlq
                | Topic::HealthEventsDlq
                | Topic::FleetDlq => {
                    let topic = topic.default_name();
                    return Err(BacktestError::Core(format!("the core sent a record to {topic}")));
                }
                Topic::Tasks
                | Topic::TaskResults
                | Topic::Fleet
                | Topic::BalanceEvents
                | Topic::LoadSnapshots
                | Topic::Journal
                | Topic::Snapshots
                | Topic::OperatorActions
                | Topic::TasksDlq => {}
            }
        }
        Ok(())
    }

    fn load(&mut self, raw: &RawRecord<'_>) -> Result<(), BacktestError> {
        let load = self.codec.decode_load_snapshot(raw);
        let load =
            load.map_err(|error| BacktestError::Core(format!("a load snapshot: {error}")))?;
        self.planner.told(&load);
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
