//! A connection that sends exactly what it is told, for what no client can be made to send.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record,
    RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

/// Longer than any wait of a script's requests (joins, long fetches).
const PATIENCE: Duration = Duration::from_secs(60);

/// When the first record of a batch was created, where a script says nothing else.
pub const CREATED_MS: i64 = 1_700_000_000_000;

#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    pub fn connect(bootstrap: &str) -> Self {
        let stream = TcpStream::connect(bootstrap).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Raw { stream }
    }

    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request);
        self.receive::<R>(version)
    }

    /// Sends without waiting for the answer: [`Raw::receive`] takes it.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) {
        let mut frame = BytesMut::from(&[0; 4][..]);
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(StrBytes::from_static_str("script")))
            .encode(&mut frame, R::header_version(version))
            .unwrap();
        request.encode(&mut frame, version).unwrap();
        let length = u32::try_from(frame.len() - 4).unwrap();
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).unwrap();
    }

    /// # Panics
    /// Where the broker closes the connection, or nothing comes.
    pub fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).unwrap();
        let mut frame = Bytes::from(frame);
        ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty(), "{} bytes follow the response", frame.len());
        response
    }
}

/// A record batch as a producer writes it.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `key=value`, `=value` without a key, `key` alone for a tombstone.
    records: Vec<String>,
    producer_id: i64,
    producer_epoch: i16,
    sequence: i32,
    transactional: bool,
    created_ms: i64,
}

impl Batch {
    pub fn of(records: &[&str]) -> Self {
        Batch {
            records: records.iter().map(|record| (*record).to_owned()).collect(),
            producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            sequence: NO_SEQUENCE,
            transactional: false,
            created_ms: CREATED_MS,
        }
    }

    pub fn by(mut self, producer: (i64, i16), sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch) = producer;
        self.sequence = sequence;
        self
    }

    pub fn transactional(mut self) -> Self {
        self.transactional = true;
        self
    }

    /// The first record was created then, each further one a millisecond later.
    pub fn created_ms(mut self, created_ms: i64) -> Self {
        self.created_ms = created_ms;
        self
    }

    pub fn bytes(&self) -> Bytes {
        let records: Vec<Record> = self
            .records
            .iter()
            .zip(0_i32..)
            .map(|(record, index)| {
                let (key, value) = match record.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (record.as_str(), None),
                };
                let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
                Record {
                    transactional: self.transactional,
                    control: false,
                    delete_horizon: false,
                    partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
                    producer_id: self.producer_id,
                    producer_epoch: self.producer_epoch,
                    timestamp_type: TimestampType::Creation,
                    offset: i64::from(index),
                    sequence: self.sequence.wrapping_add(index),
                    timestamp: self.created_ms + i64::from(index),
                    key: (!key.is_empty()).then(|| bytes(key)),
                    value: value.map(bytes),
                    headers: Default::default(),
                }
            })
            .collect();
        let mut out = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
        out.freeze()
    }
}
