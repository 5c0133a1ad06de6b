//! Record batches as a client makes and reads them.

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, Record, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

/// One record, to be produced or as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// Who produces, and where in its sequence a batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    pub producer_id: i64,
    pub epoch: i16,
    pub sequence: i32,
    pub transactional: bool,
}

impl Origin {
    /// A producer that is not idempotent.
    pub const PLAIN: Origin =
        Origin { producer_id: -1, epoch: -1, sequence: -1, transactional: false };
}

/// A batch of at least one record.
///
/// # Errors
/// Where the records cannot be encoded.
pub fn batch(records: &[Plain], origin: Origin) -> Result<Bytes, String> {
    let records: Vec<Record> = records
        .iter()
        .zip(0i32..)
        .map(|(record, index)| Record {
            transactional: origin.transactional,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
            producer_id: origin.producer_id,
            producer_epoch: origin.epoch,
            timestamp_type: TimestampType::Creation,
            offset: i64::from(index),
            // -1 for a producer that is not idempotent: the encoder wants it counted on.
            sequence: origin.sequence + index,
            timestamp: record.timestamp_ms,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record
                .headers
                .iter()
                .map(|(name, value)| (StrBytes::from_string(name.clone()), value.clone()))
                .collect::<IndexMap<_, _>>(),
        })
        .collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &records, &options)
        .map_err(|error| error.to_string())?;
    Ok(bytes.freeze())
}

/// The records of a fetched partition from `from` on, without what was aborted where the broker told
/// what was, and the next offset to fetch.
///
/// # Errors
/// Where the batches cannot be decoded.
pub fn read(partition: &PartitionData, from: i64) -> Result<(Vec<Plain>, i64), String> {
    let mut records = Vec::new();
    let mut next = from;
    let Some(bytes) = partition.records.clone().filter(|bytes| !bytes.is_empty()) else {
        return Ok((records, next));
    };
    let mut aborted: Vec<(i64, i64)> = partition
        .aborted_transactions
        .iter()
        .flatten()
        .map(|aborted| (aborted.first_offset, aborted.producer_id.0))
        .collect();
    aborted.sort_unstable();
    let mut aborted = aborted.into_iter().peekable();
    let mut hidden: Vec<i64> = Vec::new();
    let mut bytes = bytes;
    let sets = RecordBatchDecoder::decode_all(&mut bytes).map_err(|error| error.to_string())?;
    for set in sets {
        for record in set.records {
            while let Some((first, producer)) = aborted.peek().copied()
                && first <= record.offset
            {
                hidden.push(producer);
                aborted.next();
            }
            next = next.max(record.offset + 1);
            if record.control {
                // A marker ends whatever of its producer was hidden.
                hidden.retain(|producer| *producer != record.producer_id);
            } else if record.offset >= from
                && !(record.transactional && hidden.contains(&record.producer_id))
            {
                records.push(Plain {
                    offset: record.offset,
                    timestamp_ms: record.timestamp,
                    key: record.key,
                    value: record.value,
                    headers: record
                        .headers
                        .into_iter()
                        .map(|(name, value)| (name.to_string(), value))
                        .collect(),
                });
            }
        }
    }
    Ok((records, next))
}
