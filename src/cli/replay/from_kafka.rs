//! Topics of a cluster as a source: consumers without a group, of committed records only, each of
//! one partition and up to the end that was seen when the source was opened.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::cli::exit::{Exit, coded};
use crate::cli::kafka::{Cluster, Record as Read, Watch, is_passing};
use crate::clock::Stopwatch;
use crate::codec::{Codec, RawRecord};
use crate::config::Config;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::replay::Record;
use crate::replay::source::{Cursor, Go, Source};

/// Outputs of a batch become visible after its journal record, one partition after the other.
const VISIBLE_WAIT: Duration = Duration::from_millis(500);

/// Shared by all cursors: what one has learnt, none asks for again.
type Schemas = Arc<Mutex<BTreeMap<u32, String>>>;

pub struct FromKafka {
    client: ClientConfig,
    lanes: u32,
    /// Partitions of each topic.
    counts: BTreeMap<Topic, i32>,
    /// Where partitions begin and end, once that is noted.
    bounds: BTreeMap<(Topic, i32), Range<i64>>,
    reading: Reading,
    /// For questions: offsets, and single records.
    consumer: BaseConsumer<Watch>,
}

impl FromKafka {
    /// Topics that are read to the ends that they have when they are first looked at.
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
        Ok(FromKafka {
            client: cluster.client(),
            lanes: u32::try_from(lanes)?,
            counts: Topic::ALL
                .into_iter()
                .filter_map(|topic| Some((topic, count(topic)?)))
                .collect(),
            bounds: BTreeMap::new(),
            reading: Reading {
                timeout: cluster.timeout(),
                codec: Arc::clone(codec),
                config: config.clone(),
                schemas: Schemas::default(),
            },
            consumer,
        })
    }

    /// Notes where every partition ends, the journal's first: so that all that its records name is
    /// there too.
    ///
    /// # Errors
    /// The brokers cannot be asked.
    pub fn note_all(&mut self) -> anyhow::Result<()> {
        let mut note = |topic: Topic| {
            let count = self.counts.get(&topic).copied().unwrap_or(0);
            (0..count).try_for_each(|partition| self.bounds(topic, partition).map(drop))
        };
        note(Topic::Journal)?;
        std::thread::sleep(VISIBLE_WAIT);
        Topic::ALL.into_iter().try_for_each(note)
    }

    /// Partitions that are noted.
    pub fn parts(&self) -> impl Iterator<Item = (Topic, i32, Range<i64>)> + '_ {
        self.bounds.iter().map(|((topic, partition), range)| (*topic, *partition, range.clone()))
    }

    /// The schemas of other writers that were asked for while reading, by registry id.
    pub fn schemas(&self) -> BTreeMap<u32, String> {
        self.reading.schemas.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn consumer(&self) -> anyhow::Result<BaseConsumer<Watch>> {
        let mut client = self.client.clone();
        client.set("group.id", format!("{}-reader", self.reading.config.kafka.group_id));
        client.set("enable.auto.commit", "false");
        client.set("enable.partition.eof", "true");
        client.set("isolation.level", "read_committed");
        client.set("auto.offset.reset", "error");
        client.set("fetch.wait.max.ms", "100");
        // Several of these are open at once, so each holds little.
        client.set("queued.max.messages.kbytes", "8192");
        use rdkafka::config::FromClientConfigAndContext as _;
        BaseConsumer::from_config_and_context(&client, Watch::default())
            .context("the Kafka client cannot be made")
    }

    fn cursor(
        &self,
        topic: Topic,
        partition: i32,
        from: i64,
        bounds: &Range<i64>,
    ) -> anyhow::Result<KafkaCursor> {
        let from = from.max(bounds.start);
        let reading = self.reading.clone();
        let place = Place { topic, partition, next: from, end: bounds.end };
        let mut cursor = KafkaCursor { consumer: None, place, reading, given_back: None };
        if from < bounds.end {
            let consumer = self.consumer()?;
            self.reading.assign(&consumer, place)?;
            cursor.consumer = Some(consumer);
        }
        Ok(cursor)
    }
}

/// Where a partition is read.
#[derive(Debug, Clone, Copy)]
struct Place {
    topic: Topic,
    partition: i32,
    /// The offset that is read next.
    next: i64,
    /// As it was noted: there are records before it, or ends of transactions.
    end: i64,
}

struct KafkaCursor {
    /// `None`: at the end.
    consumer: Option<BaseConsumer<Watch>>,
    place: Place,
    reading: Reading,
    /// It was lent, and is still the next one.
    given_back: Option<Record>,
}

impl Cursor for KafkaCursor {
    fn next(&mut self) -> anyhow::Result<Option<Record>> {
        if let Some(given_back) = self.given_back.take() {
            return Ok(Some(given_back));
        }
        let Some(consumer) = &self.consumer else { return Ok(None) };
        let next = self.reading.next(self.place, consumer)?;
        match &next {
            Some(record) => self.place.next = record.offset + 1,
            None => self.consumer = None,
        }
        Ok(next)
    }

    fn lend(
        &mut self,
        each: &mut dyn FnMut(&RawRecord<'_>) -> anyhow::Result<Go>,
    ) -> anyhow::Result<bool> {
        while let Some(next) = self.next()? {
            match next.with_raw(self.place.topic, |raw| each(raw))? {
                Go::On => {}
                Go::Enough => return Ok(true),
                Go::Back => {
                    self.given_back = Some(next);
                    return Ok(true);
                }
            }
        }
        Ok(false)
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
    fn assign(&self, consumer: &BaseConsumer<Watch>, place: Place) -> anyhow::Result<()> {
        let name = self.config.topics.name(place.topic);
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(name, place.partition, Offset::Offset(place.next))?;
        Ok(consumer.assign(&assignment)?)
    }

    /// Whether the partition's leader knows of everything that was noted. Where it does not answer, nobody
    /// knows yet: it is asked again until the time is over.
    fn knows_all(&self, consumer: &BaseConsumer<Watch>, place: Place) -> bool {
        let name = self.config.topics.name(place.topic);
        let found = consumer.fetch_watermarks(name, place.partition, self.timeout);
        found.is_ok_and(|(_, end)| end >= place.end)
    }

    /// The next record of a place in a consumer's one partition; `None` at the place's end.
    ///
    /// A leader that was just elected does not know yet what is committed, and tells who fetches that the
    /// partition ends earlier than it does (who asks for the end is told to come back: KIP-207). So the
    /// end of what is read counts only once the leader has said that it knows all that was noted.
    fn next(&self, place: Place, consumer: &BaseConsumer<Watch>) -> anyhow::Result<Option<Record>> {
        let topic = place.topic;
        let idle = Stopwatch::start();
        let mut knows_all = place.next >= place.end;
        loop {
            let read = match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => Read::of(&message),
                Some(Err(KafkaError::PartitionEOF(_))) if knows_all => return Ok(None),
                Some(Err(KafkaError::PartitionEOF(_))) | None if idle.elapsed() > self.timeout => {
                    bail!("`{}` was not read to its end in time", topic.default_name())
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    knows_all = self.knows_all(consumer, place);
                    self.assign(consumer, place)?;
                    continue;
                }
                Some(Err(error)) if is_passing(&error) => continue,
                Some(Err(error)) => {
                    let name = topic.default_name();
                    return Err(error).with_context(|| format!("`{name}` cannot be read"));
                }
                None => continue,
            };
            if let Some(id) = read.with(topic, |raw| self.codec.unknown_schema(raw))
                && let Some(text) = super::teach(&self.codec, &self.config, id)?
            {
                self.schemas.lock().unwrap_or_else(PoisonError::into_inner).insert(id, text);
            }
            let record = record_of(read);
            return Ok((record.offset < place.end).then_some(record));
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
        if let Some(known) = self.bounds.get(&(topic, partition)) {
            return Ok(known.clone());
        }
        if self.counts.get(&topic).is_none_or(|count| partition >= *count) {
            return Ok(0..0);
        }
        let name = self.reading.config.topics.name(topic);
        let (first, end) = self
            .consumer
            .fetch_watermarks(name, partition, self.reading.timeout)
            .with_context(|| format!("`{name}` cannot be read"))?;
        self.bounds.insert((topic, partition), first..end);
        Ok(first..end)
    }

    fn open(&mut self, topic: Topic, partition: i32, from: i64) -> anyhow::Result<Box<dyn Cursor>> {
        let bounds = self.bounds(topic, partition)?;
        Ok(Box::new(self.cursor(topic, partition, from, &bounds)?))
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
        let place = Place { topic, partition, next: offset, end: bounds.end };
        self.reading.assign(&self.consumer, place)?;
        let next = self.reading.next(place, &self.consumer)?;
        self.consumer.unassign()?;
        Ok(next)
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

    fn duplicate(&self) -> anyhow::Result<Box<dyn Source + Send>> {
        Ok(Box::new(FromKafka {
            client: self.client.clone(),
            lanes: self.lanes,
            counts: self.counts.clone(),
            bounds: self.bounds.clone(),
            reading: self.reading.clone(),
            consumer: self.consumer()?,
        }))
    }
}
