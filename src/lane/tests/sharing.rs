//! Lanes that share: stories of two, and laws for many under random advice, with clocks that
//! differ, messages that take their time and a fleet that changes under way.

mod added;
mod breakers;
mod laws;
mod pledges;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{merge, settings};
use crate::codec::{Header, RawRecord};
use crate::lane::Lane;
use crate::lane::intake::OwnedRecord;
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::model::Topic;
use crate::model::event::{InboxBody, InboxMessage, LoadSnapshot};
use crate::model::policy::Policy;
use crate::model::rights::{Advice, LimitKind, LimitName, LimitOwner};
use crate::model::time::Timestamp;

/// One lane with its clock, its inputs and its journal.
pub(super) struct Member {
    pub lane: Lane,
    pub clock_ahead_ms: i64,
    pub journal: Vec<Vec<u8>>,
    pub tasks: Vec<OwnedRecord>,
    results: i64,
    /// Its partition of `lane-inbox`, and how much of it was offered.
    pub inbox: Vec<Vec<u8>>,
    pub inbox_read: usize,
    pub fleet_read: usize,
    pub health_read: usize,
}

impl Member {
    fn new(number: u32, dealt: u32, policy: &Policy) -> Self {
        let mut lane = Lane::genesis(number, dealt, 1, settings(policy.clone()));
        lane.start_at(0, 0, 0);
        Member {
            lane,
            clock_ahead_ms: 0,
            journal: Vec::new(),
            tasks: Vec::new(),
            results: 0,
            inbox: Vec::new(),
            inbox_read: 0,
            fleet_read: 0,
            health_read: 0,
        }
    }
}

/// Lanes and what is between them.
pub(super) struct Site {
    pub members: Vec<Member>,
    pub fleet: Vec<(String, Option<String>)>,
    /// What lanes and others said of health.
    pub health: Vec<(String, Vec<u8>)>,
    /// True time, milliseconds.
    pub now: i64,
    /// Everything that the last step published.
    pub loads: Vec<LoadSnapshot<'static>>,
    pub events: Vec<Value>,
    pub decisions: Vec<Value>,
}

impl Site {
    pub fn new(lanes: u32, policy: &Policy) -> Self {
        Site {
            members: (0..lanes).map(|number| Member::new(number, lanes, policy)).collect(),
            fleet: Vec::new(),
            health: Vec::new(),
            now: 1_000_000,
            loads: Vec::new(),
            events: Vec::new(),
            decisions: Vec::new(),
        }
    }

    pub fn resource(&mut self, id: &str, change: Value) {
        let mut spec = json!({
            "id": id, "model": "m", "provider": id, "region": "eu",
            "context_window": 128_000, "max_output_tokens": 16_384, "slots": 2,
            "quality": {"default": 0.5},
        });
        merge(&mut spec, change);
        self.fleet.push((id.to_owned(), Some(json!({"resource": spec}).to_string())));
    }

    pub fn tenant(&mut self, id: &str, change: Value) {
        let mut spec = json!({"id": id});
        merge(&mut spec, change);
        self.fleet.push((format!("tenant:{id}"), Some(json!({"tenant": spec}).to_string())));
    }

    pub fn remove(&mut self, key: &str) {
        self.fleet.push((key.to_owned(), None));
    }

    pub fn task(&mut self, lane: usize, id: &str, change: Value) {
        let mut task = json!({"task_id": id, "input_tokens": 100, "max_output_tokens": 100});
        merge(&mut task, change);
        let member = &mut self.members[lane];
        let value = task.to_string();
        let offset = member.tasks.len() as i64;
        let record = raw(Topic::Tasks, lane, offset, self.now, None, Some(value.as_bytes()));
        member.tasks.push(OwnedRecord::of(&record));
        member.lane.offer(&record);
    }

    pub fn succeeded(&mut self, lane: usize, id: &str, attempt: u32, output_tokens: u32) {
        self.result(lane, id, json!({"attempt": attempt, "output_tokens": output_tokens}));
    }

    pub fn result(&mut self, lane: usize, id: &str, change: Value) {
        let mut result = json!({
            "task_id": id, "attempt": 1, "status": "succeeded",
            "input_tokens": 100, "output_tokens": 100,
        });
        merge(&mut result, change);
        self.answer(lane, &result);
    }

    pub fn answer(&mut self, lane: usize, result: &Value) {
        let member = &mut self.members[lane];
        let value = result.to_string();
        let offset = member.results;
        member.results += 1;
        let topic = Topic::TaskResults;
        member.lane.offer(&raw(topic, lane, offset, self.now, None, Some(value.as_bytes())));
    }

    pub fn advise(&mut self, lane: usize, advice: Advice) {
        let message =
            InboxMessage { from_lane: 0, to_lane: lane as u32, body: InboxBody::Advice(advice) };
        self.send(lane, &message);
    }

    pub fn send(&mut self, lane: usize, message: &InboxMessage) {
        let mut bytes = Vec::new();
        let codec = &self.members[lane].lane.settings.codec;
        codec.encode_lane_inbox(message, &mut bytes);
        self.members[lane].inbox.push(bytes);
    }

    /// Runs a batch that has read at most so many of the messages and fleet records that are there.
    pub fn step_reading(&mut self, lane: usize, messages: usize, entries: usize) -> bool {
        let (now, fleet) = (self.now, &self.fleet);
        let member = &mut self.members[lane];
        for (key, value) in fleet.iter().skip(member.fleet_read).take(entries) {
            let offset = member.fleet_read as i64;
            let value = value.as_deref().map(str::as_bytes);
            member.lane.offer(&raw(Topic::Fleet, 0, offset, now, Some(key), value));
            member.fleet_read += 1;
        }
        for (key, value) in self.health.iter().skip(member.health_read) {
            let offset = member.health_read as i64;
            let topic = Topic::HealthEvents;
            member.lane.offer(&raw(topic, 0, offset, now, Some(key), Some(value)));
            member.health_read += 1;
        }
        let to = (member.inbox_read + messages).min(member.inbox.len());
        for offset in member.inbox_read..to {
            let value = Some(member.inbox[offset].as_slice());
            member.lane.offer(&raw(Topic::LaneInbox, lane, offset as i64, now, None, value));
        }
        member.inbox_read = to;
        for offset in member.lane.wants(1_000) {
            let record = &member.tasks[offset as usize];
            record.with_raw(Topic::Tasks, |raw| member.lane.offer_reread(offset, Some(raw)));
        }
        let at = Timestamp::from_ms(now + member.clock_ahead_ms);
        self.loads.clear();
        self.events.clear();
        self.decisions.clear();
        let Some(prepared) = self.members[lane].lane.prepare(at) else { return false };
        self.publish(lane, &prepared);
        true
    }

    /// Runs a batch that has read everything.
    pub fn step(&mut self, lane: usize) {
        self.step_reading(lane, usize::MAX / 2, usize::MAX / 2);
    }

    fn publish(&mut self, lane: usize, prepared: &Prepared) {
        for record in &prepared.records {
            let value = record.value.as_ref().map(|value| prepared.slice(value));
            let Some(value) = value else { continue };
            let OutputTopic::Known(topic) = record.topic else { continue };
            match topic {
                Topic::Journal => self.members[lane].journal.push(value.to_vec()),
                Topic::LaneInbox => {
                    self.members[record.partition as usize].inbox.push(value.to_vec());
                }
                Topic::LoadSnapshots => {
                    let raw = raw(topic, lane, 0, 0, None, Some(value));
                    let codec = &self.members[lane].lane.settings.codec;
                    self.loads.push(codec.decode_load_snapshot(&raw).unwrap());
                }
                Topic::AllocationEvents | Topic::BalanceEvents => {
                    self.events.push(serde_json::from_slice(value).unwrap());
                }
                Topic::RouteDecisions => {
                    self.decisions.push(serde_json::from_slice(value).unwrap());
                }
                Topic::HealthEvents => {
                    let key = record.key.as_ref().map(|key| prepared.slice(key)).unwrap_or(&[]);
                    let key = String::from_utf8(key.to_vec()).unwrap();
                    self.health.push((key, value.to_vec()));
                }
                Topic::Tasks
                | Topic::TaskResults
                | Topic::Fleet
                | Topic::Snapshots
                | Topic::OperatorActions
                | Topic::TasksDlq
                | Topic::TaskResultsDlq
                | Topic::LaneInboxDlq
                | Topic::HealthEventsDlq
                | Topic::FleetDlq => {}
            }
        }
    }

    /// The messages that have not been read, by receiver.
    pub fn under_way(&self) -> impl Iterator<Item = (usize, InboxMessage)> + '_ {
        self.members.iter().enumerate().flat_map(|(lane, member)| {
            member.inbox[member.inbox_read..].iter().map(move |bytes| {
                let raw = raw(Topic::LaneInbox, lane, 0, 0, None, Some(bytes));
                (lane, member.lane.settings.codec.decode_lane_inbox(&raw).unwrap())
            })
        })
    }

    fn units(&self, name: &LimitName) -> Vec<u64> {
        let units =
            |member: &Member| member.lane.state().stand(name).map_or(0, |stand| stand.units);
        self.members.iter().map(units).collect()
    }
}

fn raw<'a>(
    topic: Topic,
    partition: usize,
    offset: i64,
    timestamp_ms: i64,
    key: Option<&'a str>,
    value: Option<&'a [u8]>,
) -> RawRecord<'a> {
    const NONE: &[Header<'_>] = &[];
    let (partition, key) = (partition as i32, key.map(str::as_bytes));
    RawRecord { topic, partition, offset, timestamp_ms, key, value, headers: NONE }
}

fn slots(id: &str, incarnation: i64) -> LimitName {
    let owner = LimitOwner::Resource(id.to_owned());
    LimitName { owner, incarnation, kind: LimitKind::Slots }
}

/// What is free.
fn advice(limit: &LimitName, to_lane: u32, rights: u32) -> Advice {
    Advice { limit: limit.clone(), to_lane, rights, owed_to: None }
}

fn all_step(site: &mut Site) {
    (0..site.members.len()).for_each(|lane| site.step(lane));
}

#[test]
fn a_slot_moves_to_the_lane_that_wants_it() {
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", json!({"slots": 2}));
    all_step(&mut site);
    assert_eq!(site.units(&slots("r", 0)), [1, 1]);
    assert_eq!(site.loads.len(), 1, "rights that were dealt are told");
    for id in ["a", "b"] {
        site.task(1, id, json!({}));
    }
    site.now += 1_000;
    site.step(1);
    // One is served, one waits; the lane says so at once.
    let load = &site.loads[0];
    assert_eq!((load.lane, &*load.resource, load.load[0].waiting), (1, "r", 1));
    assert_eq!(load.load[0].largest_waiting, 0, "it fits, once the slot is free");
    assert_eq!(load.load[0].waiting_since_ms, Some(Timestamp::from_ms(site.now)));
    assert_eq!((&*load.load[0].dimension, load.load[0].incarnation), ("slots", 0));
    site.advise(0, advice(&slots("r", 0), 1, 500_000));
    site.now += 10;
    site.step(0);
    assert_eq!(site.units(&slots("r", 0)), [0, 1]);
    let moved = json!({
        "kind": "rights_moved", "resource": "r", "lane": 0, "at_ms": site.now, "tasks": 0,
        "detail": "500000 rights of slots to lane 1",
    });
    assert_eq!(site.events, [moved]);
    site.step(1);
    assert_eq!(site.units(&slots("r", 0)), [0, 2]);
    assert_eq!(site.decisions.len(), 1, "what waited is served in the batch that brought the slot");
}

#[test]
fn what_is_in_use_or_wanted_here_is_not_given() {
    let mut site = Site::new(2, &Policy::default());
    let limits = json!([{"dimension": "tokens", "amount": 1_000, "window_s": 10}]);
    site.resource("r", json!({"slots": 8, "limits": limits}));
    all_step(&mut site);
    let tokens = LimitName {
        kind: LimitKind::of(crate::model::rights::Counted::Tokens, 10),
        ..slots("r", 0)
    };
    site.task(0, "a", json!({"input_tokens": 300}));
    site.step(0);
    let advise = |site: &mut Site, limit: &LimitName, to_lane, rights| {
        site.advise(0, advice(limit, to_lane, rights));
        site.step(0);
        site.events.clear();
    };
    advise(&mut site, &tokens, 1, 500_000);
    assert_eq!(site.units(&tokens)[0], 400, "400 are in the window");
    advise(&mut site, &slots("r", 0), 1, 500_000);
    assert_eq!(site.units(&slots("r", 0))[0], 1, "one slot is taken");
    for (to_lane, limit) in
        [(0, slots("r", 0)), (2, slots("r", 0)), (1, slots("r", 7)), (1, slots("q", 0))]
    {
        advise(&mut site, &limit, to_lane, u32::MAX);
        assert_eq!(site.units(&slots("r", 0))[0], 1, "{limit:?} to lane {to_lane}");
    }
    site.step(1);
    assert_eq!(site.units(&tokens), [400, 600]);
    assert_eq!(site.units(&slots("r", 0)), [1, 7]);
}

#[test]
fn rights_are_used_when_the_clock_shows_their_time() {
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", json!({"slots": 2}));
    site.members[0].clock_ahead_ms = 500;
    all_step(&mut site);
    site.advise(0, advice(&slots("r", 0), 1, 500_000));
    site.step(0);
    site.now += 200;
    site.step(1);
    assert_eq!(site.units(&slots("r", 0)), [0, 1]);
    assert_eq!(site.members[1].lane.state().sharing.early(&slots("r", 0)), 500_000);
    let due = site.members[1].lane.next_timer();
    assert_eq!(due, Some(Timestamp::from_ms(1_000_500)), "the lane wakes for them");
    site.now += 300;
    site.task(1, "a", json!({}));
    site.step(1);
    assert_eq!(site.units(&slots("r", 0)), [0, 2]);
}

#[test]
fn a_limit_that_comes_back_goes_on_with_its_rights() {
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", json!({"slots": 2}));
    all_step(&mut site);
    site.advise(0, advice(&slots("r", 0), 1, 500_000));
    all_step(&mut site);
    for id in ["a", "b"] {
        site.task(1, id, json!({}));
    }
    site.step(1);
    assert_eq!(site.decisions.len(), 2);
    site.remove("r");
    site.resource("s", json!({}));
    site.resource("r", json!({"slots": 2}));
    site.now += 60_000;
    all_step(&mut site);
    assert_eq!(site.units(&slots("r", 0)), [0, 2], "the other lane's work is still there");
    site.task(0, "c", json!({}));
    site.step(0);
    let to: Vec<&Value> = site.decisions.iter().map(|one| &one["primary"][0]["resource"]).collect();
    assert_eq!(to, [&json!("s")]);
}

#[test]
fn rights_of_a_limit_that_is_not_known_yet_are_kept() {
    let mut site = Site::new(2, &Policy::default());
    site.resource("q", json!({}));
    all_step(&mut site);
    site.resource("r", json!({"slots": 2}));
    site.step(0);
    site.advise(0, advice(&slots("r", 1), 1, 500_000));
    site.step(0);
    site.step_reading(1, 1, 0);
    assert_eq!(site.members[1].lane.state().sharing.early(&slots("r", 1)), 500_000);
    let bytes = site.members[1].lane.snapshot().unwrap();
    let restored = Lane::restore(1, &bytes, settings(Policy::default())).unwrap();
    assert_eq!(restored.state(), site.members[1].lane.state());
    site.step(1);
    site.now += 1;
    site.task(1, "a", json!({}));
    site.step(1);
    assert_eq!(site.units(&slots("r", 1)), [0, 2]);
}

#[test]
fn a_task_larger_than_the_lanes_part_waits_and_says_how_large() {
    let mut site = Site::new(4, &Policy::default());
    let limits = json!([{"dimension": "tokens", "amount": 4_000, "window_s": 10}]);
    site.resource("r", json!({"slots": 8, "limits": limits}));
    all_step(&mut site);
    site.now += 1_000;
    site.task(2, "large", json!({"input_tokens": 3_000, "max_output_tokens": 500}));
    site.step(2);
    assert_eq!(site.decisions, [] as [Value; 0], "it waits");
    let tokens = &site.loads[0].load[1];
    assert_eq!((tokens.waiting, tokens.largest_waiting), (3_500, 3_500));
    let limit = LimitName {
        incarnation: tokens.incarnation,
        kind: LimitKind::of(crate::model::rights::Counted::Tokens, 10),
        ..slots("r", 0)
    };
    for lane in [0, 1, 3] {
        site.advise(lane, advice(&limit, 2, 250_000));
    }
    all_step(&mut site);
    site.now += 200;
    site.step(2);
    assert_eq!(site.units(&limit), [0, 0, 4_000, 0]);
    let routed = |site: &Site| site.members[2].lane.state().in_flight;
    assert_eq!(routed(&site), 1);
    site.task(2, "too large", json!({"input_tokens": 4_000, "max_output_tokens": 500}));
    site.step(2);
    assert_eq!(site.decisions[0]["reason"], "no_capacity", "no lane could ever serve it");
}

#[test]
fn a_tenants_limits_move_too() {
    let mut site = Site::new(2, &Policy::default());
    let limits = json!([{"dimension": "requests", "amount": 2, "window_s": 60}]);
    site.resource("r", json!({"slots": 8}));
    site.tenant("acme", json!({"limits": limits, "usd_per_hour": 1.0}));
    all_step(&mut site);
    let name =
        |kind| LimitName { owner: LimitOwner::Tenant("acme".to_owned()), incarnation: 1, kind };
    let requests = name(LimitKind::of(crate::model::rights::Counted::Requests, 60));
    for id in ["a", "b"] {
        site.task(1, id, json!({"tenant": "acme"}));
    }
    site.now += 1_000;
    site.step(1);
    let load = site.loads.iter().find(|load| load.resource == "tenant:acme").unwrap();
    assert_eq!((load.load[0].waiting, load.load[0].units), (1, 1));
    for limit in [&requests, &name(LimitKind::Budget)] {
        site.advise(0, advice(limit, 1, 500_000));
    }
    site.step(0);
    site.step(1);
    assert_eq!(site.units(&requests), [0, 2]);
    assert_eq!(site.units(&name(LimitKind::Budget)), [0, 1_000_000]);
    assert_eq!(site.members[1].lane.state().in_flight, 2);
}

#[test]
fn one_lane_says_nothing_and_gives_nothing() {
    let mut site = Site::new(1, &Policy { load_snapshot_ms: 1_000_000_000, ..Policy::default() });
    site.resource("r", json!({"slots": 1}));
    site.step(0);
    for id in ["a", "b", "c"] {
        site.task(0, id, json!({}));
    }
    site.advise(0, advice(&slots("r", 0), 1, 500_000));
    let mut facts = BTreeMap::new();
    for _ in 0..5 {
        site.now += 1_000;
        site.step(0);
        for load in &site.loads {
            *facts.entry(load.resource.to_string()).or_insert(0) += 1;
        }
    }
    assert_eq!(site.units(&slots("r", 0)), [1]);
    assert_eq!(facts, BTreeMap::new());
    assert_eq!(site.members[0].inbox.len(), 1, "only what was put there");
    assert_eq!(site.members[0].lane.state().sharing, crate::routing::sharing::Sharing::default());
}
