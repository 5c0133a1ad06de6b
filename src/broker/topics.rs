//! Topics: their partitions and settings.

mod bounds;
mod config;
mod create;
mod describe;
mod metadata;
mod names;
#[cfg(test)]
pub mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use uuid::Uuid;

use super::Settings;
use super::batch::Batch;
use super::log::{Appended, Log};
use bounds::Rounds;
pub use config::TopicConfig;

/// Names a log; it is never used again, also where a topic of the same name follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogId(u64);

#[derive(Debug)]
struct Topic {
    id: Uuid,
    config: Arc<TopicConfig>,
    partitions: Vec<LogId>,
}

#[derive(Debug)]
struct Partition {
    log: Log,
    config: Arc<TopicConfig>,
    /// What the total of all logs has of this one.
    counted_bytes: usize,
}

#[derive(Debug)]
pub struct Topics {
    topics: BTreeMap<String, Topic>,
    partitions: BTreeMap<LogId, Partition>,
    /// All logs together.
    bytes: usize,
    /// Logs that were lent to be changed since [`Topics::keep_bounds`].
    touched: Vec<LogId>,
    /// Those of before.
    changed: Vec<LogId>,
    rounds: Rounds,
    topics_created: u64,
    logs_created: u64,
    bytes_max: usize,
    batch_bytes_max: usize,
    partitions_max: usize,
}

impl Topics {
    pub fn new(settings: &Settings) -> Self {
        Topics {
            topics: BTreeMap::new(),
            partitions: BTreeMap::new(),
            bytes: 0,
            touched: Vec::new(),
            changed: Vec::new(),
            rounds: Rounds::default(),
            topics_created: 0,
            logs_created: 0,
            bytes_max: settings.log_bytes_max,
            batch_bytes_max: settings.batch_bytes_max,
            partitions_max: settings.partitions_max,
        }
    }

    pub fn id(&self, topic: &str, partition: i32) -> Option<LogId> {
        let topic = self.topics.get(topic)?;
        topic.partitions.get(usize::try_from(partition).ok()?).copied()
    }

    pub fn log(&self, topic: &str, partition: i32) -> Option<&Log> {
        self.by_id(self.id(topic, partition)?)
    }

    pub fn by_id(&self, id: LogId) -> Option<&Log> {
        self.partitions.get(&id).map(|partition| &partition.log)
    }

    /// To change it: who waits for it is asked again.
    pub fn log_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Log> {
        let id = self.id(topic, partition)?;
        self.touched.push(id);
        self.partitions.get_mut(&id).map(|partition| &mut partition.log)
    }

    /// The logs that may have changed before the last [`Topics::keep_bounds`], sorted. A log that is
    /// gone is among them.
    pub fn changed(&self) -> &[LogId] {
        &self.changed
    }

    /// What the topic asks of a batch.
    pub fn config(&self, topic: &str) -> Option<&TopicConfig> {
        self.topics.get(topic).map(|topic| &*topic.config)
    }

    /// One batch may not be larger, whatever the topic says.
    pub fn batch_bytes_max(&self) -> usize {
        self.batch_bytes_max
    }

    /// Appends a batch that [`Log::check`] let pass.
    ///
    /// # Errors
    /// `KafkaStorageError`: there is no room, and nothing may go.
    pub fn append(
        &mut self,
        now_ms: i64,
        id: LogId,
        batch: &Batch,
    ) -> Result<Appended, ResponseError> {
        self.make_room(batch.size())?;
        self.touched.push(id);
        self.update(id, |partition| partition.log.append(now_ms, batch, partition.config.stamps))
            .ok_or(ResponseError::UnknownTopicOrPartition)
    }
}
