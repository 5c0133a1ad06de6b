//! Topics and clients of one measurement.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use pointsman::clock::Stopwatch;
use pointsman::codec::Codec;
use pointsman::codec::encode::fleet_key;
use pointsman::config::Config;
use pointsman::model::Topic;
use pointsman::model::resource::FleetEntry;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::material::{self, TaskNumber};

/// The broker shares two cores with everything else: what takes longer than this is broken.
const WAIT: Duration = Duration::from_secs(60);

pub type Publisher = ThreadedProducer<DefaultProducerContext>;

/// Topics, a consumer group and settings of their own for one run of one side.
#[derive(Debug, Clone)]
pub struct Run {
    pub brokers: String,
    pub lanes: u32,
    /// The environment that configures the process under test.
    pub environment: BTreeMap<String, String>,
    names: BTreeMap<Topic, String>,
    /// Those that this run made, and removes.
    made: Vec<String>,
}

/// Topics that runs share: written once, read by each.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    pub names: BTreeMap<Topic, String>,
}

fn admin(brokers: &str) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new().set("bootstrap.servers", brokers).create()?)
}

fn block_on<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().build()?.block_on(future))
}

pub fn make_topic(brokers: &str, topic: Topic, name: &str, lanes: u32) -> anyhow::Result<()> {
    let is_single = matches!(
        topic,
        Topic::Fleet
            | Topic::HealthEvents
            | Topic::OperatorActions
            | Topic::FleetDlq
            | Topic::HealthEventsDlq
    );
    let partitions = if is_single { 1 } else { i32::try_from(lanes)? };
    let mut new = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    if topic == Topic::OperatorActions {
        new = new.set("message.timestamp.type", "LogAppendTime");
    }
    if matches!(topic, Topic::Fleet | Topic::HealthEvents | Topic::Snapshots) {
        new = new.set("cleanup.policy", "compact");
    }
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    let made = block_on(admin(brokers)?.create_topics([&new], &options))??;
    for result in made {
        result.map_err(|(name, code)| anyhow::anyhow!("topic {name} was not made: {code}"))?;
    }
    Ok(())
}

pub fn remove_topics(brokers: &str, names: &[String]) -> anyhow::Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    block_on(admin(brokers)?.delete_topics(&names, &options))??;
    Ok(())
}

impl Run {
    /// Makes the topics that are not shared.
    pub fn prepare(
        brokers: &str,
        name: &str,
        lanes: u32,
        shared: &Shared,
        settings: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut names = BTreeMap::new();
        let mut made = Vec::new();
        let mut environment = BTreeMap::new();
        for topic in Topic::ALL {
            let known = shared.names.get(&topic);
            let of_run = || format!("{name}.{}", topic.default_name());
            let topic_name = known.cloned().unwrap_or_else(of_run);
            if known.is_none() {
                make_topic(brokers, topic, &topic_name, lanes)?;
                made.push(topic_name.clone());
            }
            let key = topic.default_name().replace(['-', '.'], "_").to_uppercase();
            environment.insert(format!("POINTSMAN__TOPICS__{key}"), topic_name.clone());
            names.insert(topic, topic_name);
        }
        let directory = std::env::temp_dir().join("pointsman-load").join(name);
        let own = [
            ("KAFKA__BROKERS", brokers.to_owned()),
            ("KAFKA__GROUP_ID", name.to_owned()),
            ("KAFKA__INSTANCE_ID", "load".to_owned()),
            ("KAFKA__DATA_DIRECTORY", directory.to_string_lossy().into_owned()),
            ("HTTP__ADDRESS", "127.0.0.1:0".to_owned()),
            ("LOG__FILTER", "warn".to_owned()),
        ];
        for (key, value) in own.iter().chain(settings) {
            environment.insert(format!("POINTSMAN__{key}"), value.clone());
        }
        let run = Run { brokers: brokers.to_owned(), lanes, environment, names, made };
        run.config()?;
        Ok(run)
    }

    /// As the process under test reads it.
    pub fn config(&self) -> anyhow::Result<Config> {
        Config::load(None, self.environment.clone().into_iter())
            .map_err(|errors| anyhow::anyhow!("{errors}"))
    }

    pub fn name(&self, topic: Topic) -> &str {
        self.names.get(&topic).map_or(topic.default_name(), String::as_str)
    }

    pub fn group(&self) -> &str {
        self.environment.get("POINTSMAN__KAFKA__GROUP_ID").map_or("", String::as_str)
    }

    pub fn remove(self) -> anyhow::Result<()> {
        if let Some(directory) = self.environment.get("POINTSMAN__KAFKA__DATA_DIRECTORY")
            && let Err(error) = std::fs::remove_dir_all(directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("{directory} cannot be removed"));
        }
        remove_topics(&self.brokers, &self.made)
    }
}

/// An ordinary producer; `linger_ms` is how long it waits to fill a request.
pub fn publisher(brokers: &str, linger_ms: u32) -> anyhow::Result<Publisher> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", linger_ms.to_string())
        .set("compression.type", "lz4")
        .set("delivery.report.only.error", "true")
        .set("queue.buffering.max.messages", "1000000")
        .create()?)
}

/// Queues a record; waits while the queue is full.
pub fn publish(
    publisher: &Publisher,
    topic: &str,
    partition: u32,
    key: &str,
    value: &[u8],
) -> anyhow::Result<()> {
    let waited = Stopwatch::start();
    let partition = i32::try_from(partition)?;
    let mut record = BaseRecord::to(topic).partition(partition).key(key).payload(value);
    loop {
        match publisher.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                if waited.elapsed() > WAIT {
                    bail!("the producer's queue for {topic} stays full");
                }
                record = again;
                std::thread::sleep(Duration::from_millis(1));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

pub fn flush(publisher: &Publisher) -> anyhow::Result<()> {
    publisher.flush(WAIT).context("records are still not delivered")
}

pub fn publish_fleet(
    brokers: &str,
    topic: &str,
    codec: &Codec,
    fleet: &[FleetEntry],
) -> anyhow::Result<()> {
    let publisher = publisher(brokers, 5)?;
    let mut value = Vec::new();
    for entry in fleet {
        value.clear();
        if !codec.encode_fleet_entry(entry, &mut value) {
            bail!("a removal is no fleet");
        }
        publish(&publisher, topic, 0, &fleet_key(entry), &value)?;
    }
    flush(&publisher)
}

/// Publishes the tasks from `first` up to `end`, by their numbers over all lanes.
pub fn publish_tasks(
    brokers: &str,
    topic: &str,
    codec: &Codec,
    lanes: u32,
    numbers: std::ops::Range<u32>,
) -> anyhow::Result<()> {
    let publisher = publisher(brokers, 20)?;
    let mut value = Vec::new();
    for index in numbers {
        let which = TaskNumber::dealt(index, lanes);
        let task = material::task(which)?;
        value.clear();
        codec.encode_task(&task, &mut value);
        publish(&publisher, topic, which.lane, &task.tenant, &value)?;
    }
    flush(&publisher)
}

/// Where a group stands, as it is committed.
pub struct Watcher {
    consumer: BaseConsumer,
    list: TopicPartitionList,
    tasks: String,
}

/// The next offset of each lane: as no input has gaps, the number of records that are decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub tasks: Vec<u32>,
    pub results: Vec<u32>,
}

impl Progress {
    pub fn tasks_sum(&self) -> u32 {
        self.tasks.iter().sum()
    }

    pub fn results_sum(&self) -> u32 {
        self.results.iter().sum()
    }
}

impl Watcher {
    pub fn new(run: &Run) -> anyhow::Result<Self> {
        let consumer = ClientConfig::new()
            .set("bootstrap.servers", &run.brokers)
            .set("group.id", run.group())
            .set("enable.auto.commit", "false")
            // Or the question would wait for every transaction under way.
            .set("isolation.level", "read_uncommitted")
            .create()?;
        let mut list = TopicPartitionList::new();
        let tasks = run.name(Topic::Tasks).to_owned();
        for lane in 0..i32::try_from(run.lanes)? {
            list.add_partition(&tasks, lane);
            list.add_partition(run.name(Topic::TaskResults), lane);
        }
        Ok(Watcher { consumer, list, tasks })
    }

    pub fn progress(&self) -> anyhow::Result<Progress> {
        let lanes = self.list.count() / 2;
        let mut progress = Progress { tasks: vec![0; lanes], results: vec![0; lanes] };
        let found = match self.consumer.committed_offsets(self.list.clone(), WAIT) {
            Ok(found) => found,
            // The group does not exist yet, or its coordinator is being found.
            Err(_) => return Ok(progress),
        };
        for element in found.elements() {
            let of = if element.topic() == self.tasks {
                &mut progress.tasks
            } else {
                &mut progress.results
            };
            if let Offset::Offset(offset) = element.offset()
                && let Some(place) =
                    usize::try_from(element.partition()).ok().and_then(|lane| of.get_mut(lane))
            {
                *place = u32::try_from(offset)?;
            }
        }
        Ok(progress)
    }
}

/// A read-committed consumer of all partitions of a topic, from their beginnings.
pub fn reader(brokers: &str, topic: &str, lanes: u32) -> anyhow::Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "load-reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.queue.backoff.ms", "5")
        .create()?;
    let mut list = TopicPartitionList::new();
    for lane in 0..i32::try_from(lanes)? {
        list.add_partition_offset(topic, lane, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

/// Hands over everything that is committed in a topic now.
pub fn read_all(
    run: &Run,
    topic: Topic,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let consumer = reader(&run.brokers, run.name(topic), run.lanes)?;
    let mut ended = 0;
    while ended < run.lanes {
        match consumer.poll(WAIT) {
            Some(Ok(message)) => take(&message)?,
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error.into()),
            None => bail!("{} cannot be read to its end", run.name(topic)),
        }
    }
    Ok(())
}

/// Bytes of key, value and headers.
pub fn bytes_of(message: &BorrowedMessage<'_>) -> u64 {
    use rdkafka::message::Headers;
    let headers = message.headers().map_or(0, |headers| {
        headers.iter().map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len)).sum()
    });
    let key = message.key().map_or(0, <[u8]>::len);
    (headers + key + message.payload_len()) as u64
}
