//! Record batches as raw bytes (magic 2). They are kept as the client sent them: encoding them again
//! would lose flags, repeated header names and gaps between offsets.
//!
//! Layout: the Kafka protocol guide, "Record Batch". Big-endian.

mod compression;
mod records;
#[cfg(test)]
pub mod tests;

use bytes::{Buf, BufMut, Bytes};
use kafka_protocol::ResponseError;

pub use records::RawRecord;

/// What comes before the records.
pub const HEADER_BYTES: usize = 61;
/// Base offset and length, which the length does not count.
const LENGTH_END: usize = 12;
const LEADER_EPOCH: usize = 12;
const MAGIC: usize = 16;
const CRC: usize = 17;
/// Where begins what the CRC covers.
const ATTRIBUTES: usize = 21;
const MAX_TIMESTAMP: usize = 35;

const COMPRESSION: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// Why a client's batch is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("a partition's records must be exactly one record batch")]
    NotOne,
    #[error("only record batches of version 2 are taken")]
    Magic,
    #[error("the record batch's length or CRC is wrong")]
    Corrupt,
    #[error("the record batch is larger than max.message.bytes allows")]
    TooLarge,
    #[error("the base offset, record count or sequence of the record batch is wrong")]
    Header,
    #[error("clients may not write control records")]
    Control,
    #[error("the record batch's records cannot be decoded")]
    Records,
    #[error("a compacted topic takes no record without a key")]
    KeyMissing,
    #[error("the timestamp is further in the future than message.timestamp.after.max.ms allows")]
    Timestamp,
}

impl BatchError {
    pub fn code(self) -> ResponseError {
        match self {
            BatchError::Corrupt => ResponseError::CorruptMessage,
            BatchError::TooLarge => ResponseError::MessageTooLarge,
            BatchError::Timestamp => ResponseError::InvalidTimestamp,
            BatchError::NotOne
            | BatchError::Magic
            | BatchError::Header
            | BatchError::Control
            | BatchError::Records
            | BatchError::KeyMissing => ResponseError::InvalidRecord,
        }
    }
}

/// A batch's header, without what only its bytes need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub base_offset: i64,
    attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp_ms: i64,
    pub max_timestamp_ms: i64,
    /// -1: none.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let base_offset = bytes.first_chunk::<8>().map(|chunk| i64::from_be_bytes(*chunk))?;
        let mut rest: &[u8] = bytes.first_chunk::<HEADER_BYTES>()?.get(ATTRIBUTES..)?;
        Some(Header {
            base_offset,
            attributes: rest.get_i16(),
            last_offset_delta: rest.get_i32(),
            base_timestamp_ms: rest.get_i64(),
            max_timestamp_ms: rest.get_i64(),
            producer_id: rest.get_i64(),
            producer_epoch: rest.get_i16(),
            base_sequence: rest.get_i32(),
            record_count: rest.get_i32(),
        })
    }

    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Sequences go on with 0 after the largest.
    pub fn last_sequence(&self) -> i32 {
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// All its records have the batch's maximal timestamp.
    pub fn is_stamped(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }
}

/// A record batch whose header could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: Header,
    bytes: Bytes,
}

impl Batch {
    /// What a client produced to one partition.
    ///
    /// # Errors
    /// It is not one batch of version 2.
    pub fn produced(records: &Bytes) -> Result<Self, BatchError> {
        let length = records.get(8..LENGTH_END).ok_or(BatchError::NotOne)?.get_i32();
        let size = usize::try_from(length).map_err(|_| BatchError::Corrupt)? + LENGTH_END;
        if size < HEADER_BYTES {
            return Err(BatchError::Corrupt);
        }
        let (Some(_), Some(rest)) = (records.get(..size), records.get(size..)) else {
            return Err(BatchError::NotOne);
        };
        // As Kafka: the beginning of another one is left out.
        if begins_with_batch(rest) {
            return Err(BatchError::NotOne);
        }
        if records.get(MAGIC) != Some(&2) {
            return Err(BatchError::Magic);
        }
        let header = Header::read(records).ok_or(BatchError::Corrupt)?;
        Ok(Batch { header, bytes: records.slice(..size) })
    }

    /// Checks what a broker checks of every client's batch, in Kafka's order.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self, bytes_max: usize) -> Result<(), BatchError> {
        let header = &self.header;
        if header.base_offset != 0 {
            return Err(BatchError::Header);
        }
        if self.bytes.len() > bytes_max {
            return Err(BatchError::TooLarge);
        }
        let (Some(crc), Some(covered)) =
            (self.bytes.get(CRC..ATTRIBUTES), self.bytes.get(ATTRIBUTES..))
        else {
            return Err(BatchError::Corrupt);
        };
        if crc != crc32c::crc32c(covered).to_be_bytes() {
            return Err(BatchError::Corrupt);
        }
        if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
            return Err(BatchError::Header);
        }
        if header.is_control() {
            return Err(BatchError::Control);
        }
        if header.producer_id >= 0 && header.base_sequence < 0 {
            return Err(BatchError::Header);
        }
        Ok(())
    }

    /// Whether every record can be read and has a key.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_keys(&self) -> Result<(), BatchError> {
        let payload = self.payload().ok_or(BatchError::Records)?;
        let mut count = 0;
        for record in records::read(&payload) {
            record.ok_or(BatchError::Records)?.key.ok_or(BatchError::KeyMissing)?;
            count += 1;
        }
        if count == self.header.record_count { Ok(()) } else { Err(BatchError::Records) }
    }

    /// Which records this is true of, counted from 0.
    pub fn records_where(&self, is_so: impl Fn(&RawRecord) -> bool) -> Vec<i32> {
        let payload = self.payload().unwrap_or_default();
        let records = (0..).zip(records::read(&payload).flatten());
        records.filter(|(_, record)| is_so(record)).map(|(index, _)| index).collect()
    }

    /// As it is kept: in memory of its own, at its offset, and stamped with the time of the append
    /// where one is given.
    pub fn placed(&self, base_offset: i64, appended_ms: Option<i64>) -> Self {
        let mut header = Header { base_offset, ..self.header };
        let mut bytes = self.bytes.to_vec();
        put(&mut bytes, 0, base_offset.to_be_bytes());
        put(&mut bytes, LEADER_EPOCH, 0_i32.to_be_bytes());
        if let Some(appended_ms) = appended_ms {
            header.attributes |= LOG_APPEND_TIME;
            header.max_timestamp_ms = appended_ms;
            put(&mut bytes, ATTRIBUTES, header.attributes.to_be_bytes());
            put(&mut bytes, MAX_TIMESTAMP, appended_ms.to_be_bytes());
            seal(&mut bytes);
        }
        Batch { header, bytes: bytes.into() }
    }

    /// The control batch that ends a producer's transaction.
    pub fn marker(
        base_offset: i64,
        now_ms: i64,
        producer_id: i64,
        epoch: i16,
        commit: bool,
    ) -> Self {
        let header = Header {
            base_offset,
            attributes: TRANSACTIONAL | CONTROL,
            last_offset_delta: 0,
            base_timestamp_ms: now_ms,
            max_timestamp_ms: now_ms,
            producer_id,
            producer_epoch: epoch,
            base_sequence: -1,
            record_count: 1,
        };
        // Length 16 (a varint), attributes, timestamp and offset deltas, then the key of 4 bytes
        // (version, type), the value of 6 (version, coordinator epoch), and no headers.
        let record = [32, 0, 0, 0, 8, 0, 0, 0, u8::from(commit), 12, 0, 0, 0, 0, 0, 0, 0];
        Batch::build(header, &record)
    }

    /// This batch with other records, uncompressed: its offsets and sequences stay.
    pub fn with_records(&self, record_count: i32, max_timestamp_ms: i64, records: &[u8]) -> Self {
        let attributes = self.header.attributes & !COMPRESSION;
        Batch::build(Header { attributes, max_timestamp_ms, record_count, ..self.header }, records)
    }

    fn build(header: Header, records: &[u8]) -> Self {
        let size = HEADER_BYTES + records.len();
        let mut bytes = Vec::with_capacity(size);
        bytes.put_i64(header.base_offset);
        // What is written here was smaller than a batch before.
        bytes.put_i32(i32::try_from(size - LENGTH_END).unwrap_or(i32::MAX));
        bytes.put_i32(0);
        bytes.put_i8(2);
        bytes.put_u32(0);
        bytes.put_i16(header.attributes);
        bytes.put_i32(header.last_offset_delta);
        bytes.put_i64(header.base_timestamp_ms);
        bytes.put_i64(header.max_timestamp_ms);
        bytes.put_i64(header.producer_id);
        bytes.put_i16(header.producer_epoch);
        bytes.put_i32(header.base_sequence);
        bytes.put_i32(header.record_count);
        bytes.put_slice(records);
        seal(&mut bytes);
        Batch { header, bytes: bytes.into() }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    pub fn last_offset(&self) -> i64 {
        self.header.last_offset()
    }

    /// Whether a control batch says commit; `false` for abort and for what is no marker.
    pub fn commits(&self) -> bool {
        let payload = self.bytes.get(HEADER_BYTES..).unwrap_or_default();
        let record = records::read(payload).next().flatten();
        record.and_then(|record| record.key) == Some(&[0, 0, 0, 1])
    }

    /// The records, decompressed; `None` where that fails or they would be too large.
    pub fn payload(&self) -> Option<Bytes> {
        let records = self.bytes.slice(HEADER_BYTES..);
        compression::decompress(self.header.attributes & COMPRESSION, records)
    }

    /// The first record, from this offset on, that is not older than this time: its offset and timestamp.
    pub fn first_since(&self, timestamp_ms: i64, from: i64) -> Option<(i64, i64)> {
        let header = &self.header;
        if header.max_timestamp_ms < timestamp_ms || header.record_count == 0 {
            return None;
        }
        let payload = self.payload()?;
        records::read(&payload).flatten().find_map(|record| {
            let at_ms = record.timestamp_ms(header);
            let offset = header.base_offset + i64::from(record.offset_delta);
            (at_ms >= timestamp_ms && offset >= from).then_some((offset, at_ms))
        })
    }
}

/// The records of a decompressed payload; `None` ends them where they cannot be read.
pub fn records(payload: &[u8]) -> impl Iterator<Item = Option<RawRecord<'_>>> {
    records::read(payload)
}

fn begins_with_batch(bytes: &[u8]) -> bool {
    let length = bytes.get(8..LENGTH_END).map(|mut length| length.get_i32());
    let length = length.and_then(|length| usize::try_from(length).ok());
    length.is_some_and(|length| bytes.len() - LENGTH_END >= length)
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..at + N) {
        place.copy_from_slice(&value);
    }
}

fn seal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(bytes.get(ATTRIBUTES..).unwrap_or_default());
    put(bytes, CRC, crc.to_be_bytes());
}
