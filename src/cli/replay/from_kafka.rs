//! Topics of a cluster as a source: consumers without a group, of committed records only, each of
//! one partition and up to the end that was seen when the source was opened.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::cli::exit::{Exit, coded};
use crate::cli::kafka::{Cluster, Record as Read, Watch};
use crate::codec::{Codec, RawRecord};
use crate::config::Config;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::replay::Record;
use crate::replay::source::{Cursor, Go, Source};
use crate::stream::client::to_end::ToEnd;

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
        let mut place = reading.place(topic, partition, from..bounds.end);
        let consumer = (from < bounds.end).then(|| self.consumer()).transpose()?;
        if let Some(consumer) = &consumer {
            place.to_end.begin(consumer)?;
        }
        Ok(KafkaCursor { consumer, place, reading, given_back: None })
    }
}

/// Where a partition is read.
struct Place {
    topic: Topic,
    to_end: ToEnd,
    /// Records from here on came after the end was noted.
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
        let next = self.reading.next(&mut self.place, consumer)?;
        if next.is_none() {
            self.consumer = None;
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
    fn place(&self, topic: Topic, partition: i32, range: Range<i64>) -> Place {
        let to_end = ToEnd::new(self.config.topics.name(topic));
        let to_end = to_end.with(partition, Offset::Offset(range.start), range.end);
        Place { topic, to_end, end: range.end }
    }

    /// The next record of a place in a consumer's one partition; `None` at the place's end.
    fn next(
        &self,
        place: &mut Place,
        consumer: &BaseConsumer<Watch>,
    ) -> anyhow::Result<Option<Record>> {
        let topic = place.topic;
        let found = place.to_end.next(consumer, self.timeout);
        let found = found
            .with_context(|| format!("`{}` cannot be read to its end", topic.default_name()))?;
        let Some(message) = found else { return Ok(None) };
        let read = Read::of(&message);
        if let Some(id) = read.with(topic, |raw| self.codec.unknown_schema(raw))
            && let Some(text) = super::teach(&self.codec, &self.config, id)?
        {
            self.schemas.lock().unwrap_or_else(PoisonError::into_inner).insert(id, text);
        }
        let record = record_of(read);
        Ok((record.offset < place.end).then_some(record))
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
        let mut place = self.reading.place(topic, partition, offset..bounds.end);
        place.to_end.begin(&self.consumer)?;
        let next = self.reading.next(&mut place, &self.consumer)?;
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
