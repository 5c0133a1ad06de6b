//! Publishing: the fleet and the health events, and the tasks at the trace's pace.

use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::ledger::Ledger;
use super::tasks::DemoTask;
use super::topics::DemoTopics;
use crate::clock::Stopwatch;
use crate::codec::Codec;
use crate::model::Topic;
use crate::model::health::{HealthEvent, HealthScope, HealthStatus};
use crate::model::resource::{FleetEntry, FleetFile, TENANT_KEY_PREFIX};
use crate::model::time::Timestamp;

/// How long the brokers may take to acknowledge.
const FLUSH_WAIT: Duration = Duration::from_secs(30);
/// The longest nap between two tasks, so that a stop is noticed.
const NAP: Duration = Duration::from_millis(20);

/// A producer whose records keep their order and are not doubled by its own retries.
pub fn producer(client: &ClientConfig) -> anyhow::Result<BaseProducer> {
    let mut client = client.clone();
    client.set("enable.idempotence", "true").set("linger.ms", "2");
    client.create().context("no producer can be made")
}

/// Hands a record over; waits where the producer's queue is full, which bounds its memory.
pub fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: Option<i32>,
    key: &[u8],
    value: &[u8],
) -> anyhow::Result<()> {
    let mut record = BaseRecord::to(topic).key(key).payload(value);
    if let Some(partition) = partition {
        record = record.partition(partition);
    }
    let began = Stopwatch::start();
    while let Err((error, refused)) = producer.send(record) {
        let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        if !is_full || began.elapsed() > FLUSH_WAIT {
            return Err(error).with_context(|| format!("no record can be sent to {topic}"));
        }
        producer.poll(Duration::from_millis(10));
        record = refused;
    }
    Ok(())
}

/// Publishes the whole fleet.
pub fn publish_fleet(
    client: &ClientConfig,
    topics: &DemoTopics,
    codec: &Codec,
    fleet: &FleetFile,
) -> anyhow::Result<()> {
    let producer = producer(client)?;
    let resources = fleet
        .resources
        .iter()
        .map(|resource| (resource.id.clone(), FleetEntry::Resource(resource.clone())));
    let tenants = fleet.tenants.iter().map(|tenant| {
        (format!("{TENANT_KEY_PREFIX}{}", tenant.id), FleetEntry::Tenant(tenant.clone()))
    });
    let mut value = Vec::new();
    for (key, entry) in resources.chain(tenants) {
        value.clear();
        if codec.encode_fleet_entry(&entry, &mut value) {
            send(&producer, topics.name(Topic::Fleet), None, key.as_bytes(), &value)?;
        }
    }
    producer.flush(FLUSH_WAIT).context("the fleet cannot be published")
}

/// Publishes the health of a resource.
pub fn publish_health(
    client: &ClientConfig,
    topics: &DemoTopics,
    codec: &Codec,
    resource: &str,
    status: HealthStatus,
    at: Timestamp,
) -> anyhow::Result<()> {
    let event = HealthEvent {
        scope: HealthScope::Resource,
        id: resource.to_owned(),
        status,
        severity: if status == HealthStatus::Healthy { 0.0 } else { 1.0 },
        reason: "scripted outage of the demo".to_owned(),
        at_ms: Some(at),
        source: String::new(),
        limits: Vec::new(),
    };
    let producer = producer(client)?;
    let key = format!("{}:{}", event.scope.name(), event.id);
    let mut value = Vec::new();
    codec.encode_health_event(&event, &mut value);
    send(&producer, topics.name(Topic::HealthEvents), None, key.as_bytes(), &value)?;
    producer.flush(FLUSH_WAIT).context("the health event cannot be published")
}

/// Publishes the tasks, each at its time after `began`.
pub fn publish_tasks(
    producer: &BaseProducer,
    topics: &DemoTopics,
    codec: &Codec,
    tasks: &[DemoTask],
    ledger: &Ledger,
    began: Stopwatch,
) -> anyhow::Result<()> {
    let mut value = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        let due = Duration::from_micros(task.after_us);
        loop {
            if ledger.stopping() {
                return Ok(());
            }
            let left = due.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            producer.poll(Duration::ZERO);
            std::thread::sleep(left.min(NAP));
        }
        value.clear();
        codec.encode_task(&task.task, &mut value);
        ledger.published(index, began.elapsed_us());
        let key = task.task.session.as_ref().unwrap_or(&task.task.task_id);
        send(producer, topics.name(Topic::Tasks), None, key.as_bytes(), &value)?;
    }
    producer.flush(FLUSH_WAIT).context("the last tasks cannot be published")
}
