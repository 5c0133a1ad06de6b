//! Topics of a cluster as a source: consumers without a group, of committed records only, each of
//! one partition and up to the end that was seen when the source was opened.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::cli::exit::{Exit, coded};
use crate::cli::kafka::{Cluster, Record as Read, Watch, is_passing};
use crate::clock::Stopwatch;
use crate::codec::Codec;
use crate::config::Config;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::replay::Record;
use crate::replay::source::{Cursor, Source};

/// Outputs of a batch become visible after its journal record, one partition after the other.
const VISIBLE_WAIT: Duration = Duration::from_millis(500);

/// Shared by all cursors: what one has learnt, none asks for again.
type Schemas = Rc<RefCell<BTreeMap<u32, String>>>;

pub struct FromKafka {
    client: ClientConfig,
    lanes: u32,
    bounds: BTreeMap<(Topic, i32), Range<i64>>,
    reading: Reading,
    /// For questions: offsets, and single records.
    consumer: BaseConsumer<Watch>,
}

impl FromKafka {
    /// Notes where every partition begins and ends.
    ///
    /// # Errors
    /// The brokers cannot be asked, or the topics are not there.
    pub fn open(
        cluster: &Cluster<'_>,
        config: &Config,
        codec: &Arc<Codec>,
    ) -> anyhow::Result<Self> {
        let partitions = cluster.partitions()?;
        let count = |topic: Topic| partitions.get(config.topics.name(topic)).copied();
        let tasks = count(Topic::Tasks).with_context(|| {
            let name = config.topics.name(Topic::Tasks);
            format!("there is no topic `{name}`; fix: pointsman topics apply")
        });
        let lanes = tasks.map_err(|error| coded(Exit::NotFound, format!("{error:#}")))?;
        let consumer = cluster.reader()?;
        let mut source = FromKafka {
            client: cluster.client(),
            lanes: u32::try_from(lanes)?,
            bounds: BTreeMap::new(),
            reading: Reading {
                timeout: cluster.timeout(),
                codec: Arc::clone(codec),
                config: config.clone(),
                schemas: Schemas::default(),
            },
            consumer,
        };
        source.note(Topic::Journal, count(Topic::Journal))?;
        std::thread::sleep(VISIBLE_WAIT);
        for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::Journal) {
            source.note(topic, count(topic))?;
        }
        Ok(source)
    }

    fn note(&mut self, topic: Topic, partitions: Option<i32>) -> anyhow::Result<()> {
        let name = self.reading.config.topics.name(topic).to_owned();
        for partition in 0..partitions.unwrap_or(0) {
            let (first, end) = self
                .consumer
                .fetch_watermarks(&name, partition, self.reading.timeout)
                .with_context(|| format!("`{name}` cannot be read"))?;
            self.bounds.insert((topic, partition), first..end);
        }
        Ok(())
    }

    pub fn parts(&self) -> impl Iterator<Item = (Topic, i32, Range<i64>)> + '_ {
        self.bounds.iter().map(|((topic, partition), range)| (*topic, *partition, range.clone()))
    }

    /// The schemas of other writers that were asked for while reading, by registry id.
    pub fn schemas(&self) -> BTreeMap<u32, String> {
        self.reading.schemas.borrow().clone()
    }

    fn cursor(&self, topic: Topic, partition: i32, from: i64) -> anyhow::Result<KafkaCursor> {
        let bounds = self.bounds.get(&(topic, partition)).cloned().unwrap_or(0..0);
        let from = from.max(bounds.start);
        let reading = self.reading.clone();
        let mut cursor = KafkaCursor { consumer: None, topic, end: bounds.end, reading };
        if from < bounds.end {
            let name = self.reading.config.topics.name(topic);
            let mut client = self.client.clone();
            client.set("group.id", format!("{}-reader", self.reading.config.kafka.group_id));
            client.set("enable.auto.commit", "false");
            client.set("enable.partition.eof", "true");
            client.set("isolation.level", "read_committed");
            client.set("auto.offset.reset", "error");
            client.set("fetch.wait.max.ms", "100");
            // Several of these are open at once, so each holds little.
            client.set("queued.max.messages.kbytes", "8192");
            let consumer: BaseConsumer<Watch> = {
                use rdkafka::config::FromClientConfigAndContext as _;
                BaseConsumer::from_config_and_context(&client, Watch::default())
                    .context("the Kafka client cannot be made")?
            };
            let mut assignment = TopicPartitionList::new();
            assignment.add_partition_offset(name, partition, Offset::Offset(from))?;
            consumer.assign(&assignment)?;
            cursor.consumer = Some(consumer);
        }
        Ok(cursor)
    }
}

struct KafkaCursor {
    /// `None`: at the end.
    consumer: Option<BaseConsumer<Watch>>,
    topic: Topic,
    end: i64,
    reading: Reading,
}

impl Cursor for KafkaCursor {
    fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let Some(consumer) = &self.consumer else { return Ok(None) };
        let next = self.reading.next(self.topic, consumer)?;
        let next = next.filter(|record| record.offset < self.end);
        if next.is_none() {
            self.consumer = None;
        }
        Ok(next)
    }
}

/// How records are read: what all consumers of a source share.
#[derive(Clone)]
struct Reading {
    timeout: Duration,
    codec: Arc<Codec>,
    config: Config,
    schemas: Schemas,
}

impl Reading {
    /// The next record of a consumer's one partition; `None` at its end.
    fn next(&self, topic: Topic, consumer: &BaseConsumer<Watch>) -> anyhow::Result<Option<Record>> {
        let idle = Stopwatch::start();
        loop {
            let read = match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => Read::of(&message),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) if is_passing(&error) => continue,
                Some(Err(error)) => {
                    let name = topic.default_name();
                    return Err(error).with_context(|| format!("`{name}` cannot be read"));
                }
                None if idle.elapsed() > self.timeout => {
                    bail!("`{}` was not read to its end in time", topic.default_name())
                }
                None => continue,
            };
            if let Some(id) = read.with(topic, |raw| self.codec.unknown_schema(raw))
                && let Some(text) = super::teach(&self.codec, &self.config, id)?
            {
                self.schemas.borrow_mut().insert(id, text);
            }
            return Ok(Some(record_of(read)));
        }
    }
}

fn record_of(read: Read) -> Record {
    Record {
        partition: read.partition,
        offset: read.offset,
        timestamp_ms: read.timestamp_ms,
        key: read.key,
        value: read.value,
        headers: read.headers,
    }
}

impl Source for FromKafka {
    fn lanes(&self) -> u32 {
        self.lanes
    }

    fn bounds(&mut self, topic: Topic, partition: i32) -> anyhow::Result<Range<i64>> {
        Ok(self.bounds.get(&(topic, partition)).cloned().unwrap_or(0..0))
    }

    fn open(&mut self, topic: Topic, partition: i32, from: i64) -> anyhow::Result<Box<dyn Cursor>> {
        Ok(Box::new(self.cursor(topic, partition, from)?))
    }

    fn next_from(
        &mut self,
        topic: Topic,
        partition: i32,
        offset: i64,
    ) -> anyhow::Result<Option<Record>> {
        let bounds = self.bounds(topic, partition)?;
        let offset = offset.max(bounds.start);
        if offset >= bounds.end {
            return Ok(None);
        }
        // One consumer for all questions: a new one would first have to connect.
        let name = self.reading.config.topics.name(topic);
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(name, partition, Offset::Offset(offset))?;
        self.consumer.assign(&assignment)?;
        let next = self.reading.next(topic, &self.consumer)?;
        self.consumer.unassign()?;
        Ok(next.filter(|record| record.offset < bounds.end))
    }

    fn offset_at(&mut self, topic: Topic, partition: i32, at: Timestamp) -> anyhow::Result<i64> {
        let bounds = self.bounds(topic, partition)?;
        let mut asked = TopicPartitionList::new();
        let name = self.reading.config.topics.name(topic);
        asked.add_partition_offset(name, partition, Offset::Offset(at.as_ms()))?;
        let found = self.consumer.offsets_for_times(asked, self.reading.timeout)?;
        let offset = found.elements().first().map(|element| element.offset());
        Ok(match offset {
            Some(Offset::Offset(offset)) => offset.clamp(bounds.start, bounds.end),
            Some(_) | None => bounds.end,
        })
    }
}
