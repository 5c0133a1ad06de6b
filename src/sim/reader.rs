//! Reads chosen partitions, as a consumer of committed records does.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest};

use super::network::Fate;
use super::records::{Plain, read};
use super::world::{World, name, topic};
use crate::broker::wire::{Reply, Request};
use crate::codec::{Header, RawRecord};
use crate::model::Topic;
use crate::replay::Record;

/// An answer is waited for so long, microseconds.
const ANSWER_US: u64 = 3_000_000;

const PARTITION_BYTES_MAX: i32 = 1 << 20;

/// What came of one partition.
#[derive(Debug)]
pub enum Found {
    Record(Topic, i32, Plain),
    End(Topic, i32, i64),
    OutOfRange(Topic, i32, i64),
}

impl Plain {
    pub fn into_owned(self, partition: i32) -> Record {
        Record {
            partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.map(Into::into),
            value: self.value.map(Into::into),
            headers: self
                .headers
                .into_iter()
                .map(|(name, value)| (name, value.map(Into::into)))
                .collect(),
        }
    }

    /// Lends the record as the codec takes it.
    pub fn with_raw<T>(
        &self,
        topic: Topic,
        partition: i32,
        take: impl FnOnce(&RawRecord<'_>) -> T,
    ) -> T {
        let headers: Vec<Header<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| Header { name, value: value.as_deref() })
            .collect();
        take(&RawRecord {
            topic,
            partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
        })
    }
}

/// Partitions with their next offsets.
#[derive(Debug, Default)]
pub struct Reader {
    positions: BTreeMap<(Topic, i32), i64>,
    /// Where an end was told last: it is told once.
    ends: BTreeMap<(Topic, i32), i64>,
}

impl Reader {
    pub fn set(&mut self, topic: Topic, partition: i32, offset: i64) {
        self.positions.insert((topic, partition), offset);
        self.ends.remove(&(topic, partition));
    }

    pub fn remove(&mut self, topic: Topic, partition: i32) {
        self.positions.remove(&(topic, partition));
        self.ends.remove(&(topic, partition));
    }

    pub fn clear(&mut self) {
        self.positions.clear();
        self.ends.clear();
    }

    pub fn is_idle(&self) -> bool {
        self.positions.is_empty()
    }

    /// Fetches once, waiting for `wait_ms` where there is nothing.
    pub async fn poll(&mut self, world: &World, client: &str, wait_ms: u64) -> Vec<Found> {
        let mut topics: BTreeMap<Topic, Vec<FetchPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in &self.positions {
            let asked = FetchPartition::default()
                .with_partition(*partition)
                .with_fetch_offset(*offset)
                .with_partition_max_bytes(PARTITION_BYTES_MAX);
            topics.entry(*topic).or_default().push(asked);
        }
        if topics.is_empty() {
            return Vec::new();
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            FetchTopic::default().with_topic(name(topic)).with_partitions(partitions)
        });
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait_ms).unwrap_or(0))
            .with_min_bytes(1)
            .with_max_bytes(8 << 20)
            .with_isolation_level(1)
            .with_topics(topics.collect());
        let request = Request::Fetch(request);
        let Some(Reply::Fetch(response)) =
            world.network.call(client, request, ANSWER_US, Fate::Arrives).await
        else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for answered in &response.responses {
            let Some(of) = topic(&answered.topic) else { continue };
            for data in &answered.partitions {
                let partition = data.partition_index;
                let Some(position) = self.positions.get_mut(&(of, partition)) else { continue };
                if data.error_code == ResponseError::OffsetOutOfRange.code() {
                    found.push(Found::OutOfRange(of, partition, *position));
                    *position = data.log_start_offset.max(*position);
                    continue;
                }
                match read(data, *position) {
                    Ok((records, next)) => {
                        *position = next;
                        found.extend(
                            records.into_iter().map(|record| Found::Record(of, partition, record)),
                        );
                        let end = data.last_stable_offset;
                        if next >= end && self.ends.insert((of, partition), end) != Some(end) {
                            found.push(Found::End(of, partition, next));
                        }
                    }
                    Err(error) => world.violation(format!("{}: {error}", of.default_name())),
                }
            }
        }
        found
    }
}

/// One record, where it is still there.
pub async fn record_at(
    world: &World,
    client: &str,
    topic: Topic,
    partition: i32,
    offset: i64,
) -> Option<Plain> {
    let mut reader = Reader::default();
    reader.set(topic, partition, offset);
    let found = reader.poll(world, client, 0).await;
    found.into_iter().find_map(|found| match found {
        Found::Record(_, _, record) => (record.offset == offset).then_some(record),
        Found::End(..) | Found::OutOfRange(..) => None,
    })
}

/// The offset at a time: -2 the first, -1 the end.
pub async fn offset_at(
    world: &World,
    client: &str,
    topic: Topic,
    partition: i32,
    time: i64,
    committed: bool,
) -> Option<i64> {
    let asked =
        ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(time);
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(i8::from(committed))
        .with_topics(vec![topic]);
    let request = Request::ListOffsets(request);
    let reply = world.network.call(client, request, ANSWER_US, Fate::Arrives).await;
    let Some(Reply::ListOffsets(response)) = reply else { return None };
    let partition = response.topics.first()?.partitions.first()?;
    (partition.error_code == 0).then_some(partition.offset)
}

/// For those who look on: everything that is committed in a partition from an offset on, and the next
/// offset to read.
pub fn read_on(world: &World, of: Topic, partition: i32, from: i64) -> (Vec<Plain>, i64) {
    let mut records = Vec::new();
    let mut next = from;
    loop {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(next)
            .with_partition_max_bytes(8 << 20);
        let topic = FetchTopic::default().with_topic(name(of)).with_partitions(vec![asked]);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_bytes(8 << 20)
            .with_isolation_level(1)
            .with_topics(vec![topic]);
        let Some(Reply::Fetch(response)) = world.network.ask(Request::Fetch(request)) else {
            return (records, next);
        };
        let data = response.responses.first().and_then(|topic| topic.partitions.first());
        let Some(data) = data.filter(|data| data.records.as_ref() != Some(&Bytes::new())) else {
            return (records, next);
        };
        match read(data, next) {
            Ok((_, end)) if end == next => return (records, next),
            Ok((found, end)) => {
                records.extend(found);
                next = end;
                if end >= data.last_stable_offset {
                    return (records, next);
                }
            }
            Err(error) => {
                world.violation(format!("{}: {error}", of.default_name()));
                return (records, next);
            }
        }
    }
}
