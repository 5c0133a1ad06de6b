//! The `snapshots` topic: chunks and manifests of each lane, published, found and removed.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tracing::debug;

use super::reader::Quiet;
use super::to_end::{Polled, ToEnd};
use crate::clock::Stopwatch;
use crate::model::snapshot::{Dropped, Manifest, SnapshotKey};
use crate::model::time::Timestamp;
use crate::stream::packed::{CHUNK_BYTES, Damaged, Found, Pieces, chunks, keys_of};

/// A broker that does not answer for so long does not count: there are older ways to recover.
const WAIT: Duration = Duration::from_secs(30);

/// Until a shutdown is noticed.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the topic cannot be read or written")]
    Kafka(#[from] KafkaError),
    #[error("{undelivered} records were not delivered")]
    Undelivered { undelivered: u32 },
    #[error("the brokers did not answer within {WAIT:?}")]
    TimedOut,
    #[error("the process is ending")]
    Ending,
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// Whether records that go out come in.
#[derive(Default)]
pub struct Deliveries {
    pub undelivered: AtomicU32,
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka producer");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.undelivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub struct Archive<'a> {
    pub consumer: ClientConfig,
    pub producer: ClientConfig,
    pub topic: String,
    pub ended: &'a AtomicBool,
}

impl Archive<'_> {
    /// Publishes the chunks of a snapshot; its manifest is not part of this.
    ///
    /// # Errors
    /// Not all of them are in the topic for sure; some may be.
    pub fn publish(&self, manifest: &Manifest, stored: &[u8]) -> Result<(), ArchiveError> {
        self.send(manifest.lane, manifest.batch_time_ms, chunks(manifest, stored, CHUNK_BYTES))
    }

    /// Removes snapshots: tombstones for each of their keys.
    ///
    /// # Errors
    /// Some may still be there; the next manifest's successor names them again.
    pub fn remove(&self, lane: u32, at: Timestamp, drops: &[Dropped]) -> Result<(), ArchiveError> {
        self.send(lane, at, keys_of(lane, drops).map(|key| (key, None)))
    }

    fn send<'b>(
        &self,
        lane: u32,
        at: Timestamp,
        records: impl Iterator<Item = (SnapshotKey, Option<&'b [u8]>)>,
    ) -> Result<(), ArchiveError> {
        // It lives for one snapshot: there are minutes between two, and its buffers are large.
        let producer: BaseProducer<Deliveries> =
            self.producer.create_with_context(Deliveries::default())?;
        let partition = i32::try_from(lane).unwrap_or(-1);
        let waited = Stopwatch::start();
        for (key, value) in records {
            let key = key.to_string();
            let mut record: BaseRecord<'_, str, [u8]> = BaseRecord::to(&self.topic)
                .partition(partition)
                .timestamp(at.as_ms())
                .key(key.as_str());
            if let Some(value) = value {
                record = record.payload(value);
            }
            loop {
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                        self.go_on(waited)?;
                        producer.poll(POLL);
                        record = again;
                    }
                    Err((error, _)) => return Err(error.into()),
                }
            }
        }
        while producer.in_flight_count() > 0 {
            self.go_on(waited)?;
            producer.poll(POLL);
        }
        let undelivered = producer.context().undelivered.load(Ordering::Relaxed);
        if undelivered > 0 {
            return Err(ArchiveError::Undelivered { undelivered });
        }
        Ok(())
    }

    fn go_on(&self, waited: Stopwatch) -> Result<(), ArchiveError> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(ArchiveError::Ending);
        }
        if waited.remaining(WAIT).is_zero() {
            return Err(ArchiveError::TimedOut);
        }
        Ok(())
    }

    /// Reads what a lane's partition holds, from a time on or from its beginning.
    ///
    /// # Errors
    /// The topic cannot be read.
    pub fn look(&self, lane: u32, from: Option<Timestamp>) -> Result<Found, ArchiveError> {
        let mut found = Found::default();
        self.read(
            lane,
            |consumer, partition| match from {
                Some(from) => from_time(consumer, partition, from, &self.topic),
                None => Offset::Beginning,
            },
            |offset, key, value| {
                if let Err(error) = found.take(offset, key, value) {
                    debug!(lane, seq = key.seq, %error, "manifest");
                }
                true
            },
        )?;
        Ok(found)
    }

    /// Reads what is stored of a snapshot.
    ///
    /// # Errors
    /// The topic cannot be read, or not all of it is there.
    pub fn fetch(&self, found: &Found, manifest: &Manifest) -> Result<Vec<u8>, ArchiveError> {
        let mut pieces = Pieces::of(manifest)?;
        if let Some(first) = found.first_chunk(manifest.seq) {
            self.read(
                manifest.lane,
                |_, _| Offset::Offset(first),
                |_, key, value| pieces.take(key, value),
            )?;
        }
        Ok(pieces.join()?)
    }

    /// Reads a partition to its end, or until `take` wants no more.
    fn read(
        &self,
        lane: u32,
        begin: impl FnOnce(&BaseConsumer<Quiet>, i32) -> Offset,
        mut take: impl FnMut(i64, SnapshotKey, Option<&[u8]>) -> bool,
    ) -> Result<(), ArchiveError> {
        let consumer: BaseConsumer<Quiet> = self.consumer.create_with_context(Quiet)?;
        let partition = i32::try_from(lane).unwrap_or(-1);
        let first = begin(&consumer, partition);
        let mut to_end = ToEnd::new(&self.topic).with(partition, first, 0);
        to_end.begin(&consumer)?;
        let mut waited = Stopwatch::start();
        loop {
            match to_end.poll(&consumer, POLL) {
                Ok(Polled::Nothing) => self.go_on(waited)?,
                Ok(Polled::End) => return Ok(()),
                // What is passing is tried again until the time is over.
                Err(error) => {
                    debug!(%error, lane, "snapshots");
                    self.go_on(waited)?;
                }
                Ok(Polled::Record(message)) => {
                    waited = Stopwatch::start();
                    self.go_on(waited)?;
                    let Some(key) = message.key().and_then(SnapshotKey::parse) else { continue };
                    if key.lane == lane && !take(message.offset(), key, message.payload()) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// The first offset of this time or later; the beginning where that is not known.
fn from_time(
    consumer: &BaseConsumer<Quiet>,
    partition: i32,
    from: Timestamp,
    topic: &str,
) -> Offset {
    let found = times_of(topic, partition, from)
        .and_then(|times| consumer.offsets_for_times(times, WAIT))
        .inspect_err(|error| debug!(%error, partition, "snapshots are read from their beginning"));
    match found.map(|found| found.elements().first().map(|element| element.offset())) {
        Ok(Some(Offset::Offset(offset))) => Offset::Offset(offset),
        Ok(_) | Err(_) => Offset::Beginning,
    }
}

fn times_of(
    topic: &str,
    partition: i32,
    from: Timestamp,
) -> Result<TopicPartitionList, KafkaError> {
    let mut times = TopicPartitionList::new();
    times.add_partition_offset(topic, partition, Offset::Offset(from.as_ms()))?;
    Ok(times)
}
