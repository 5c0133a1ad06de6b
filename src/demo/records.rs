//! Reading topics: consumers without a group's work, of committed records only.

use std::time::Duration;

use anyhow::Context;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::codec::RawRecord;
use crate::model::Topic;
use crate::stream::client::to_end::is_passing;

/// Reads these partitions from their beginning.
pub fn consumer(client: &ClientConfig, of: &[(&str, i32)]) -> anyhow::Result<BaseConsumer> {
    let mut client = client.clone();
    client
        // The library asks for a name; nothing is ever committed under it.
        .set("group.id", "pointsman-demo-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        // A transaction's records become visible together; waiting for more only adds latency.
        .set("fetch.wait.max.ms", "5")
        .set("fetch.queue.backoff.ms", "5");
    let consumer: BaseConsumer = client.create().context("no consumer can be made")?;
    let mut partitions = TopicPartitionList::new();
    for (topic, partition) in of {
        partitions.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&partitions).context("topics cannot be read")?;
    Ok(consumer)
}

/// The next record, where one comes in time. Errors that the library overcomes by itself count as
/// nothing.
pub fn next(
    consumer: &BaseConsumer,
    wait: Duration,
) -> anyhow::Result<Option<BorrowedMessage<'_>>> {
    match consumer.poll(wait) {
        Some(Ok(message)) => Ok(Some(message)),
        Some(Err(KafkaError::PartitionEOF(_))) | None => Ok(None),
        Some(Err(error)) if is_passing(&error) => Ok(None),
        Some(Err(error)) => Err(error).context("topics cannot be read"),
    }
}

/// The record as the codec takes it. Headers are left out: the demo writes and reads formats that
/// are recognised by their first bytes.
pub fn raw<'a>(topic: Topic, message: &'a BorrowedMessage<'_>) -> RawRecord<'a> {
    RawRecord {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key(),
        value: message.payload(),
        headers: &[],
    }
}
