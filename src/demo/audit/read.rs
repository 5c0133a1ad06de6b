//! Reads a run's topics to their ends, for the audit: a consumer of its own, of committed records.

use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset};

use super::history::{AllocationSeen, DeadLetterSeen, DecisionSeen, Names, TaskSeen};
use crate::clock::Stopwatch;
use crate::codec::Codec;
use crate::demo::records::{consumer, raw};
use crate::demo::topics::DemoTopics;
use crate::model::Topic;
use crate::model::resource::{FleetEntry, FleetFile};
use crate::stream::client::to_end::ToEnd;

/// What the audit reads.
const TOPICS: [Topic; 5] =
    [Topic::Fleet, Topic::Tasks, Topic::RouteDecisions, Topic::AllocationEvents, Topic::TasksDlq];

/// A transaction that was open when its router was killed holds the ends back until the broker
/// aborts it: five seconds after it began, looked after every ten seconds by default.
const STABLE_WAIT: Duration = Duration::from_secs(30);
/// How long nothing may come before an end is reached.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const METADATA_WAIT: Duration = Duration::from_secs(10);

/// Everything that the audit takes.
#[derive(Debug, Default)]
pub struct History {
    pub fleet: FleetFile,
    pub tasks: Vec<TaskSeen>,
    pub decisions: Vec<DecisionSeen>,
    pub allocations: Vec<AllocationSeen>,
    pub dead_letters: Vec<DeadLetterSeen>,
}

/// Reads all of it. The router must have ended.
pub fn read(client: &ClientConfig, topics: &DemoTopics, codec: &Codec) -> anyhow::Result<History> {
    let of: Vec<(&str, i32)> = TOPICS
        .iter()
        .flat_map(|topic| {
            let name = topics.name(*topic);
            (0..topics.partitions(*topic)).map(move |partition| (name, partition))
        })
        .collect();
    await_stable(client, &of)?;
    let consumer = consumer(client, &[])?;
    let mut history = History::default();
    let mut names = Names::default();
    for topic in TOPICS {
        let name = topics.name(topic);
        let mut to_end = ToEnd::new(name);
        for partition in 0..topics.partitions(topic) {
            to_end = to_end.with(partition, Offset::Beginning, 0);
        }
        to_end.begin(&consumer)?;
        while let Some(message) = to_end
            .next(&consumer, SILENCE_MAX)
            .with_context(|| format!("{name} cannot be read to its end"))?
        {
            history.add(topic, &message, &mut names, codec)?;
        }
    }
    Ok(history)
}

/// Waits until no transaction is open in any of the partitions: until then a reader of committed
/// records would take the last stable offset for the end.
fn await_stable(client: &ClientConfig, of: &[(&str, i32)]) -> anyhow::Result<()> {
    let watcher = |isolation: &str| -> anyhow::Result<BaseConsumer> {
        let mut client = client.clone();
        client.set("group.id", "pointsman-demo-reader").set("isolation.level", isolation);
        client.create().context("no consumer can be made")
    };
    let (committed, all) = (watcher("read_committed")?, watcher("read_uncommitted")?);
    let began = Stopwatch::start();
    for (topic, partition) in of {
        loop {
            let end = |consumer: &BaseConsumer| {
                let offsets = consumer.fetch_watermarks(topic, *partition, METADATA_WAIT);
                offsets.map(|(_, high)| high).with_context(|| format!("no end of {topic}"))
            };
            let high = end(&all)?;
            if end(&committed)? >= high {
                break;
            }
            if began.elapsed() > STABLE_WAIT {
                bail!("a transaction on {topic} partition {partition} stays open");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

impl History {
    fn add(
        &mut self,
        topic: Topic,
        message: &BorrowedMessage<'_>,
        names: &mut Names,
        codec: &Codec,
    ) -> anyhow::Result<()> {
        let record = raw(topic, message);
        let place = || format!("{} {}:{}", message.topic(), record.partition, record.offset);
        if topic == Topic::Tasks {
            let task = codec.decode_task(&record).ok();
            self.tasks.push(names.task(record.partition, record.offset, task.as_ref()));
        } else if topic == Topic::RouteDecisions {
            let decision = codec.decode_route_decision(&record).with_context(place)?;
            self.decisions.push(names.decision(&decision));
        } else if topic == Topic::AllocationEvents {
            let event = codec.decode_allocation_event(&record).with_context(place)?;
            self.allocations.push(names.allocation(&event));
        } else if topic == Topic::Fleet {
            let entry = codec.decode_fleet_entry(&record).with_context(place)?;
            self.fleet_entry(entry);
        } else {
            self.dead_letters.push(dead_letter(message).with_context(place)?);
        }
        Ok(())
    }

    /// The last entry of an id holds.
    fn fleet_entry(&mut self, entry: FleetEntry) {
        match entry {
            FleetEntry::Resource(resource) => {
                self.fleet.resources.retain(|one| one.id != resource.id);
                self.fleet.resources.push(resource);
            }
            FleetEntry::ResourceRemoved(id) => self.fleet.resources.retain(|one| one.id != id),
            FleetEntry::Tenant(tenant) => {
                self.fleet.tenants.retain(|one| one.id != tenant.id);
                self.fleet.tenants.push(tenant);
            }
            FleetEntry::TenantRemoved(id) => self.fleet.tenants.retain(|one| one.id != id),
        }
    }
}

/// The place of the record that became this dead letter, as Kafka Connect's headers name it.
fn dead_letter(message: &BorrowedMessage<'_>) -> anyhow::Result<DeadLetterSeen> {
    let headers = message.headers().context("a dead letter without headers")?;
    let number = |name: &str| -> anyhow::Result<i64> {
        let header = headers.iter().find(|header| header.key == name);
        let value = header.and_then(|header| header.value).unwrap_or_default();
        let text = std::str::from_utf8(value)?;
        text.parse().with_context(|| format!("header {name} is `{text}`, no number"))
    };
    let partition = i32::try_from(number("__connect.errors.partition")?)?;
    Ok(DeadLetterSeen { partition, offset: number("__connect.errors.offset")? })
}
