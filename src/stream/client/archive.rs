//! The `snapshots` topic: chunks and manifests of each lane, published, found and removed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tracing::debug;

use super::reader::Quiet;
use crate::clock::Stopwatch;
use crate::lane::snapshot::stored::{self, StoredError};
use crate::model::snapshot::{Dropped, Manifest, SnapshotKey, SnapshotPart};
use crate::model::time::Timestamp;

/// Far below the usual bound of a record, 1 MB: chunks need no setting of the topic.
const CHUNK_BYTES: usize = 512 << 10;

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
    #[error("the snapshot at seq {seq} is damaged")]
    Damaged { seq: u64, source: StoredError },
}

/// What a partition holds, as far as it was read.
#[derive(Debug, Default)]
pub struct Found {
    /// By seq, with where its first chunk stands.
    pub manifests: BTreeMap<u64, Manifest>,
    first_chunks: BTreeMap<u64, i64>,
    /// Seqs of which there are chunks, and how many.
    chunks: BTreeMap<u64, u32>,
}

impl Found {
    /// Chunks whose manifest was never committed: their lane was lost in between.
    pub fn orphans(&self) -> Vec<Dropped> {
        let without = self.chunks.iter().filter(|(seq, _)| !self.manifests.contains_key(seq));
        without.map(|(seq, chunks)| Dropped { seq: *seq, chunks: *chunks }).collect()
    }
}

/// Whether records that go out come in.
#[derive(Default)]
struct Deliveries {
    undelivered: AtomicU32,
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
    pub fn publish(&self, manifest: &Manifest, stored: &[u8]) -> Result<u32, ArchiveError> {
        let chunks: Vec<(u32, &[u8])> = (0..).zip(stored.chunks(CHUNK_BYTES)).collect();
        let records = chunks.iter().map(|(number, chunk)| {
            (SnapshotKey::chunk(manifest.lane, manifest.seq, *number), Some(*chunk))
        });
        self.send(manifest.lane, manifest.batch_time_ms, records)?;
        Ok(chunks.len() as u32)
    }

    /// Removes snapshots: tombstones for each of their keys.
    ///
    /// # Errors
    /// Some may still be there; the next manifest's successor names them again.
    pub fn remove(&self, lane: u32, at: Timestamp, drops: &[Dropped]) -> Result<(), ArchiveError> {
        let keys = drops.iter().flat_map(|dropped| {
            let chunks =
                (0..dropped.chunks).map(|chunk| SnapshotKey::chunk(lane, dropped.seq, chunk));
            chunks.chain([SnapshotKey::manifest(lane, dropped.seq)])
        });
        self.send(lane, at, keys.map(|key| (key, None)))
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
            |consumer, list, partition| from_time(consumer, list, partition, from, &self.topic),
            |offset, key, value| {
                match (key.part, value) {
                    (SnapshotPart::Manifest, Some(value)) => {
                        match serde_json::from_slice::<Manifest>(value) {
                            Ok(manifest) => {
                                found.manifests.insert(key.seq, manifest);
                            }
                            Err(error) => debug!(lane, seq = key.seq, %error, "manifest"),
                        }
                    }
                    (SnapshotPart::Manifest, None) => {
                        found.manifests.remove(&key.seq);
                    }
                    (SnapshotPart::Chunk(number), Some(_)) => {
                        found.first_chunks.entry(key.seq).or_insert(offset);
                        let chunks = found.chunks.entry(key.seq).or_insert(0);
                        *chunks = (*chunks).max(number + 1);
                    }
                    (SnapshotPart::Chunk(_), None) => {
                        found.chunks.remove(&key.seq);
                        found.first_chunks.remove(&key.seq);
                    }
                }
                true
            },
        )?;
        Ok(found)
    }

    /// Reads a snapshot's chunks, and checks them against its manifest.
    ///
    /// # Errors
    /// The topic cannot be read, or what is in it is not the snapshot.
    pub fn fetch(&self, found: &Found, manifest: &Manifest) -> Result<Vec<u8>, ArchiveError> {
        let seq = manifest.seq;
        let damaged = |source| ArchiveError::Damaged { seq, source };
        stored::check_manifest(manifest).map_err(damaged)?;
        let first = found.first_chunks.get(&seq).copied();
        let first = first.ok_or(damaged(StoredError::Nothing))?;
        let mut chunks: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut bytes = 0;
        self.read(
            manifest.lane,
            |_, list, partition| {
                list.add_partition_offset(&self.topic, partition, Offset::Offset(first))?;
                Ok(())
            },
            |_, key, value| {
                if let (true, SnapshotPart::Chunk(number), Some(value)) =
                    (key.seq == seq, key.part, value)
                    && number < manifest.chunks
                {
                    bytes += value.len() as u64;
                    chunks.insert(number, value.to_vec());
                }
                chunks.len() < manifest.chunks as usize && bytes <= manifest.stored_bytes
            },
        )?;
        stored::join(manifest, chunks).map_err(damaged)
    }

    /// Reads a partition to its end, or until `take` wants no more.
    fn read(
        &self,
        lane: u32,
        begin: impl FnOnce(&BaseConsumer<Quiet>, &mut TopicPartitionList, i32) -> Result<(), KafkaError>,
        mut take: impl FnMut(i64, SnapshotKey, Option<&[u8]>) -> bool,
    ) -> Result<(), ArchiveError> {
        let consumer: BaseConsumer<Quiet> = self.consumer.create_with_context(Quiet)?;
        let partition = i32::try_from(lane).unwrap_or(-1);
        let mut list = TopicPartitionList::new();
        begin(&consumer, &mut list, partition)?;
        consumer.assign(&list)?;
        let mut waited = Stopwatch::start();
        loop {
            match consumer.poll(POLL) {
                None => self.go_on(waited)?,
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                // What is passing is tried again until the time is over.
                Some(Err(error)) => {
                    debug!(%error, lane, "snapshots");
                    self.go_on(waited)?;
                }
                Some(Ok(message)) => {
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
    list: &mut TopicPartitionList,
    partition: i32,
    from: Option<Timestamp>,
    topic: &str,
) -> Result<(), KafkaError> {
    let mut start = Offset::Beginning;
    if let Some(from) = from {
        let mut times = TopicPartitionList::new();
        times.add_partition_offset(topic, partition, Offset::Offset(from.as_ms()))?;
        match consumer.offsets_for_times(times, WAIT) {
            Ok(found) => {
                if let Some(Offset::Offset(offset)) =
                    found.elements().first().map(|element| element.offset())
                {
                    start = Offset::Offset(offset);
                }
            }
            Err(error) => debug!(%error, partition, "snapshots are read from their beginning"),
        }
    }
    list.add_partition_offset(topic, partition, start)?;
    Ok(())
}
