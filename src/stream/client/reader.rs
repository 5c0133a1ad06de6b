//! A consumer of partitions that it is told, beside the group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tracing::debug;

use super::names::InputNames;
use crate::codec::RawRecord;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::stream::ffi::{BatchQueue, Fetched, FetchedKind};

/// What comes out of a reader.
pub enum Read<'a> {
    Record(RawRecord<'a>),
    End {
        topic: Topic,
        partition: i32,
        offset: i64,
    },
    /// The offset is not, or no longer, in the log.
    OutOfRange {
        topic: Topic,
        partition: i32,
        offset: i64,
    },
}

/// librdkafka tells the rest of the process what happens to it by its log.
#[derive(Debug)]
pub struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Quiet {}

pub struct Reader {
    queue: BatchQueue<Quiet>,
    consumer: Arc<BaseConsumer<Quiet>>,
    names: InputNames,
    /// What is read, and where reading began.
    partitions: BTreeMap<(Topic, i32), i64>,
}

impl Reader {
    pub fn new(config: &ClientConfig, names: &InputNames) -> KafkaResult<Self> {
        let consumer: BaseConsumer<Quiet> = config.create_with_context(Quiet)?;
        let consumer = Arc::new(consumer);
        let queue = BatchQueue::new(&consumer);
        Ok(Reader { queue, consumer, names: names.clone(), partitions: BTreeMap::new() })
    }

    /// Reads this partition too, from `offset`.
    pub fn add(&mut self, topic: Topic, partition: i32, offset: i64) -> KafkaResult<()> {
        self.remove(topic, partition)?;
        let list = self.list(topic, partition, offset)?;
        // Before the partition is read: what comes earlier would be in the wrong queue.
        self.partitions.insert((topic, partition), offset);
        self.forward();
        self.consumer.incremental_assign(&list)?;
        Ok(())
    }

    /// The first offset whose record is of this time or later.
    pub fn offset_at(
        &self,
        topic: Topic,
        partition: i32,
        time: Timestamp,
        wait: Duration,
    ) -> KafkaResult<i64> {
        let list = self.list(topic, partition, time.as_ms())?;
        let found = self.consumer.offsets_for_times(list, wait)?;
        let elements = found.elements();
        match elements.first().map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            Some(_) | None => Ok(0),
        }
    }

    pub fn remove(&mut self, topic: Topic, partition: i32) -> KafkaResult<()> {
        if let Some(offset) = self.partitions.remove(&(topic, partition)) {
            let list = self.list(topic, partition, offset)?;
            self.consumer.incremental_unassign(&list)?;
        }
        Ok(())
    }

    pub fn is_idle(&self) -> bool {
        self.partitions.is_empty()
    }

    fn list(&self, topic: Topic, partition: i32, offset: i64) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        if let Some(name) = self.names.name(topic).and_then(|name| name.to_str().ok()) {
            list.add_partition_offset(name, partition, Offset::Offset(offset))?;
        }
        Ok(list)
    }

    fn forward(&self) {
        for (topic, partition) in self.partitions.keys() {
            if let Some(name) = self.names.name(*topic) {
                self.queue.forward(name, *partition);
            }
        }
    }

    /// Hands over what has come within `wait`, at most `records_max`.
    pub fn read(
        &self,
        wait: Duration,
        records_max: usize,
        mut take: impl FnMut(Read<'_>),
    ) -> Result<(), Stray> {
        if self.is_idle() {
            return Ok(());
        }
        // Errors and the like; messages come by the other queue.
        match self.consumer.poll(Duration::ZERO) {
            Some(Ok(message)) => return Err(Stray::of(&message)),
            Some(Err(error)) => debug!(%error, "reader"),
            None => {}
        }
        let batch = self.queue.fetch(wait, records_max);
        batch.each(|fetched| {
            if let Some(read) = understand(&self.names, &fetched) {
                take(read);
            }
        });
        if batch.len() == 0 {
            self.forward();
        }
        Ok(())
    }
}

/// A message came by the queue of rebalances and errors. Its partition's order is lost, so whoever
/// reads must not go on.
#[derive(Debug, thiserror::Error)]
#[error("{topic}, partition {partition}: offset {offset} came by the wrong queue")]
pub struct Stray {
    topic: String,
    partition: i32,
    offset: i64,
}

impl Stray {
    pub fn of(message: &BorrowedMessage<'_>) -> Self {
        Stray {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
        }
    }
}

/// What was fetched, in the words of the contract; `None` for what only the log is told.
pub fn understand<'a>(names: &InputNames, fetched: &Fetched<'a>) -> Option<Read<'a>> {
    let topic = names.topic(fetched.topic)?;
    let (partition, offset) = (fetched.partition, fetched.offset);
    match fetched.kind {
        FetchedKind::Message { timestamp_ms, key, value, headers } => {
            Some(Read::Record(RawRecord {
                topic,
                partition,
                offset,
                timestamp_ms,
                key,
                value,
                headers,
            }))
        }
        FetchedKind::End => Some(Read::End { topic, partition, offset }),
        FetchedKind::OutOfRange => Some(Read::OutOfRange { topic, partition, offset }),
        FetchedKind::Error(error) => {
            debug!(topic = topic.default_name(), partition, %error, "fetch");
            None
        }
    }
}
