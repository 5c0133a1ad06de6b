//! A lane from the outside: records in, bytes out; and that folding the journal gives the lane
//! again.

mod breakers;
mod budgets;
mod chains;
mod failover;
mod fairness;
mod features;
mod flow;
mod headroom;
mod heartbeats;
mod holding_back;
pub(crate) mod laws;
mod learning;
mod lowered;
mod outages;
mod prices;
mod priorities;
mod queueing;
mod rationing;
mod regions;
mod reservations;
mod samples;
mod sharing;
mod shedding;
mod spikes;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::intake::OwnedRecord;
use super::prepared::{OutputTopic, Prepared};
use super::{Lane, LaneSettings};
use crate::codec::{Codec, Header, OutputFormat, RawRecord, RegisteredSchemas};
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::time::Timestamp;

pub(crate) fn settings(policy: Policy) -> LaneSettings {
    let codec = Codec::new(OutputFormat::Json, RegisteredSchemas::default()).unwrap();
    LaneSettings {
        codec: Arc::new(codec),
        policy,
        batch_records_max: 4_096,
        source: "pointsman/test".to_owned(),
        group: "test".to_owned(),
        topic_names: BTreeMap::new(),
        decisions_by_pool: false,
        unjournaled: false,
    }
}

/// What every record of `tasks` carries.
const TRACE: Header<'static> = Header {
    name: "traceparent",
    value: Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
};

/// A lane with the next offset of each topic, and everything that it published.
pub(crate) struct Bench {
    pub lane: Lane,
    next: BTreeMap<Topic, i64>,
    /// Every record that was put, by topic.
    pub records: BTreeMap<Topic, Vec<OwnedRecord>>,
    pub journal: Vec<Vec<u8>>,
    pub prepared: Vec<Prepared>,
    pub now: i64,
    /// Every so many batches the lane's snapshot is kept; 0: none is.
    pub keep_every: u64,
    /// Those that were kept.
    pub kept: Vec<Vec<u8>>,
}

impl Bench {
    pub fn new(policy: Policy) -> Self {
        Bench::with(settings(policy))
    }

    pub fn with(settings: LaneSettings) -> Self {
        let mut lane = Lane::genesis(0, 1, 1, settings);
        lane.start_at(0, 0, 0);
        Bench {
            lane,
            next: BTreeMap::new(),
            records: BTreeMap::new(),
            journal: Vec::new(),
            prepared: Vec::new(),
            now: 1_000_000,
            keep_every: 0,
            kept: Vec::new(),
        }
    }

    fn put(&mut self, topic: Topic, key: Option<&str>, value: Option<&[u8]>, traceparent: bool) {
        let offset = self.next.entry(topic).or_insert(0);
        let headers = [TRACE];
        let record = RawRecord {
            topic,
            partition: 0,
            offset: *offset,
            timestamp_ms: self.now,
            key: key.map(str::as_bytes),
            value,
            headers: if traceparent { &headers } else { &[] },
        };
        *offset += 1;
        self.records.entry(topic).or_default().push(OwnedRecord::of(&record));
        self.lane.offer(&record);
    }

    pub fn resource(&mut self, id: &str, change: Value) {
        let mut spec = json!({
            "id": id, "model": "m", "provider": id, "region": "eu",
            "context_window": 128_000, "max_output_tokens": 16_384, "slots": 2,
            "usd_per_million_tokens": {"input": 1.0, "output": 2.0},
            "quality": {"default": 0.5},
        });
        merge(&mut spec, change);
        let value = json!({"resource": spec}).to_string();
        self.put(Topic::Fleet, Some(id), Some(value.as_bytes()), false);
    }

    pub fn tenant(&mut self, id: &str, change: Value) {
        let mut spec = json!({"id": id});
        merge(&mut spec, change);
        let key = format!("tenant:{id}");
        let value = json!({"tenant": spec}).to_string();
        self.put(Topic::Fleet, Some(&key), Some(value.as_bytes()), false);
    }

    pub fn untenant(&mut self, id: &str) {
        self.put(Topic::Fleet, Some(&format!("tenant:{id}")), None, false);
    }

    pub fn health(&mut self, resource: &str, status: &str) {
        let event = json!({"scope": "resource", "id": resource, "status": status});
        let key = format!("resource:{resource}");
        self.put(Topic::HealthEvents, Some(&key), Some(event.to_string().as_bytes()), false);
    }

    /// What one source says.
    pub fn said(&mut self, resource: &str, status: &str, source: &str) {
        let event =
            json!({"scope": "resource", "id": resource, "status": status, "source": source});
        let key = format!("resource:{resource}#{source}");
        self.put(Topic::HealthEvents, Some(&key), Some(event.to_string().as_bytes()), false);
    }

    pub fn task(&mut self, id: &str, change: Value) {
        let mut task = json!({
            "task_id": id, "input_tokens": 100, "max_output_tokens": 100,
            "payload": {"prompt": id},
        });
        merge(&mut task, change);
        self.raw_task(task.to_string().as_bytes());
    }

    pub fn raw_task(&mut self, value: &[u8]) {
        self.put(Topic::Tasks, None, Some(value), true);
    }

    pub fn result(&mut self, id: &str, attempt: u32, status: &str, change: Value) {
        let mut result = json!({"task_id": id, "attempt": attempt, "status": status});
        merge(&mut result, change);
        self.put(Topic::TaskResults, Some(id), Some(result.to_string().as_bytes()), false);
    }

    /// Reads again what the lane wants.
    pub fn reread(&mut self) {
        for offset in self.lane.wants(1_000) {
            let lane = &mut self.lane;
            let record = &self.records[&Topic::Tasks][offset as usize];
            record.with_raw(Topic::Tasks, |raw| lane.offer_reread(offset, Some(raw)));
        }
    }

    /// What the lane wants is gone.
    pub fn reread_gone(&mut self) {
        for offset in self.lane.wants(1) {
            self.lane.offer_reread(offset, None);
        }
    }

    /// The next record of this topic will have made the core panic.
    pub fn condemn(&mut self, topic: Topic) {
        let offset = self.next.get(&topic).copied().unwrap_or(0);
        self.lane.condemn(topic, offset);
    }

    /// A record that is none.
    pub fn bad(&mut self, topic: Topic) {
        self.put(topic, Some("bad"), Some(b"{"), false);
    }

    /// Runs a batch and returns its outputs but the journal, as `topic: {…}` without the fields
    /// that are the same in every test.
    pub fn step(&mut self) -> Vec<String> {
        let Some(prepared) = self.lane.prepare(Timestamp::from_ms(self.now)) else {
            return Vec::new();
        };
        let mut shown = Vec::new();
        for record in &prepared.records {
            let value = record.value.as_ref().map(|value| prepared.slice(value));
            match &record.topic {
                OutputTopic::Known(Topic::Journal) => {
                    self.journal.push(value.unwrap().to_vec());
                }
                OutputTopic::Known(topic) => shown.push(show(*topic, value)),
                OutputTopic::Pool(pool) => shown.push(format!("pool {pool}")),
            }
        }
        if self.keep_every > 0 && prepared.seq % self.keep_every == 0 {
            self.kept.push(self.lane.snapshot().unwrap());
        }
        self.prepared.push(prepared);
        shown
    }

    pub fn step_at(&mut self, now: i64) -> Vec<String> {
        self.now = now;
        self.step()
    }

    /// A second lane, from the journal alone.
    pub fn folded(&self) -> Lane {
        let policy = self.lane.settings.policy.clone();
        let mut lane = Lane::genesis(0, 1, 1, settings(policy));
        lane.start_at(0, 0, 0);
        for record in &self.journal {
            lane.fold(record).unwrap();
        }
        lane
    }
}

/// The decisions of the newest batch.
fn decided(bench: &Bench) -> Vec<Value> {
    let Some(prepared) = bench.prepared.last() else { return Vec::new() };
    let decisions = prepared
        .records
        .iter()
        .filter(|record| record.topic == OutputTopic::Known(Topic::RouteDecisions));
    let value = |range| serde_json::from_slice(prepared.slice(range)).unwrap();
    decisions.map(|record| value(record.value.as_ref().unwrap())).collect()
}

fn merge(into: &mut Value, change: Value) {
    if let (Some(into), Value::Object(change)) = (into.as_object_mut(), change) {
        into.extend(change);
    }
}

fn merged(mut into: Value, change: Value) -> Value {
    merge(&mut into, change);
    into
}

/// One line for an output: what a reader of these tests wants to see of it.
fn show(topic: Topic, value: Option<&[u8]>) -> String {
    let Some(dlq) = value else { return format!("{} -", topic.default_name()) };
    let Ok(value) = serde_json::from_slice::<Value>(dlq) else {
        return format!("{} {}", topic.default_name(), String::from_utf8_lossy(dlq));
    };
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |path: &str| value.pointer(path).and_then(Value::as_i64).unwrap_or(-1);
    match topic {
        Topic::RouteDecisions if text("/outcome") == "routed" => {
            let fallbacks: Vec<&str> = value["fallbacks"]
                .as_array()
                .unwrap()
                .iter()
                .map(|chain| chain[0]["resource"].as_str().unwrap())
                .collect();
            format!(
                "{} #{} -> {} [{}] {}",
                text("/task_id"),
                number("/attempt"),
                text("/primary/0/resource"),
                fallbacks.join(" "),
                value["payload"],
            )
        }
        Topic::RouteDecisions => {
            format!("{} #{} refused {}", text("/task_id"), number("/attempt"), text("/reason"))
        }
        Topic::AllocationEvents => format!(
            "{} {} {} #{} {}/{}/{} over {} {}",
            text("/kind"),
            text("/resource"),
            text("/task_id"),
            number("/attempt"),
            number("/held/slots"),
            number("/held/requests"),
            number("/held/tokens"),
            number("/overrun_tokens"),
            text("/reason"),
        ),
        Topic::BalanceEvents => {
            format!("{} {} tasks {}", text("/kind"), text("/resource"), number("/tasks"))
        }
        Topic::LoadSnapshots => format!("load {}", text("/resource")),
        Topic::HealthEvents => {
            format!("{} is {}: {}", text("/id"), text("/status"), text("/reason"))
        }
        Topic::Tasks
        | Topic::TaskResults
        | Topic::LaneInbox
        | Topic::Fleet
        | Topic::Journal
        | Topic::Snapshots
        | Topic::OperatorActions
        | Topic::TasksDlq
        | Topic::TaskResultsDlq
        | Topic::LaneInboxDlq
        | Topic::HealthEventsDlq
        | Topic::FleetDlq => format!("{} {value}", topic.default_name()),
    }
}
