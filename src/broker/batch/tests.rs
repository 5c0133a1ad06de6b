use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};

use super::{Batch, BatchError, HEADER_BYTES};

/// What a client sends, made by another encoder than ours.
#[derive(Debug, Clone)]
pub struct Sent {
    pub producer_id: i64,
    pub epoch: i16,
    pub sequence: i32,
    pub transactional: bool,
    pub timestamp_ms: i64,
    pub compression: Compression,
}

pub fn plain() -> Sent {
    Sent {
        producer_id: -1,
        epoch: -1,
        sequence: -1,
        transactional: false,
        timestamp_ms: 1_000,
        compression: Compression::None,
    }
}

pub fn idempotent(producer_id: i64, epoch: i16, sequence: i32) -> Sent {
    Sent { producer_id, epoch, sequence, ..plain() }
}

pub fn transactional(producer_id: i64, epoch: i16, sequence: i32) -> Sent {
    Sent { transactional: true, ..idempotent(producer_id, epoch, sequence) }
}

pub type Pair<'a> = (Option<&'a str>, Option<&'a str>);

impl Sent {
    /// Each record is one millisecond later than the one before.
    pub fn bytes(&self, pairs: &[Pair<'_>]) -> Bytes {
        let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let records: Vec<Record> = (0..)
            .zip(pairs)
            .map(|(index, (key, value))| Record {
                transactional: self.transactional,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                timestamp_type: TimestampType::Creation,
                offset: i64::from(index),
                sequence: self.sequence.wrapping_add(index),
                timestamp: self.timestamp_ms + i64::from(index),
                key: key.map(text),
                value: value.map(text),
                headers: [("h".into(), Some(text("1")))].into_iter().collect(),
            })
            .collect();
        let options = RecordEncodeOptions { version: 2, compression: self.compression };
        let mut bytes = BytesMut::new();
        let compress = |from: &mut BytesMut, to: &mut BytesMut, codec: Compression| {
            to.put_slice(&compress(codec, from));
            Ok(())
        };
        RecordBatchEncoder::encode_with_custom_compression(
            &mut bytes,
            &records,
            &options,
            Some(compress),
        )
        .unwrap();
        bytes.freeze()
    }

    pub fn batch(&self, pairs: &[Pair<'_>]) -> Batch {
        let batch = Batch::produced(&self.bytes(pairs)).unwrap();
        batch.check(usize::MAX).unwrap();
        batch
    }
}

fn compress(codec: Compression, plain: &[u8]) -> Vec<u8> {
    match codec {
        Compression::None => plain.to_vec(),
        Compression::Gzip => {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            to.write_all(plain).unwrap();
            to.finish().unwrap()
        }
        Compression::Snappy => snap::raw::Encoder::new().compress_vec(plain).unwrap(),
        Compression::Lz4 => {
            let mut to = lz4_flex::frame::FrameEncoder::new(Vec::new());
            to.write_all(plain).unwrap();
            to.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(plain, 3).unwrap(),
    }
}

/// The batches that were read one after the other.
pub fn split(mut bytes: Bytes) -> Vec<Batch> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let length = i32::from_be_bytes(bytes[8..12].try_into().unwrap());
        found
            .push(Batch::produced(&bytes.split_to(12 + usize::try_from(length).unwrap())).unwrap());
    }
    found
}

/// The records of a batch, by another decoder than ours; its CRC too.
pub fn decode(batch: &Batch) -> Vec<Record> {
    let mut bytes = batch.bytes().clone();
    RecordBatchDecoder::decode(&mut bytes).unwrap().records
}

const TWO: &[Pair<'_>] = &[(Some("a"), Some("1")), (None, None)];

#[test]
fn a_batch_is_kept_as_it_was_sent_but_for_its_place() {
    let sent = idempotent(7, 3, 5);
    let bytes = sent.bytes(TWO);
    let placed = sent.batch(TWO).placed(40, None);
    assert_eq!(placed.bytes()[21..], bytes[21..]);
    let expected: Vec<(i64, i32)> = vec![(40, 0), (41, 0)];
    let found = decode(&placed);
    assert_eq!(
        found.iter().map(|one| (one.offset, one.partition_leader_epoch)).collect::<Vec<_>>(),
        expected
    );
    assert_eq!(placed.last_offset(), 41);
    assert_eq!((placed.header().producer_id, placed.header().last_sequence()), (7, 6));
}

#[test]
fn an_append_time_is_that_of_all_records() {
    let placed = plain().batch(TWO).placed(0, Some(5_000));
    let mut bytes = placed.bytes().clone();
    let info = RecordBatchDecoder::decode_batch_info(&mut bytes).unwrap();
    assert_eq!(info[0].timestamp_type, TimestampType::LogAppend);
    assert_eq!(placed.first_since(5_000, 0), Some((0, 5_000)));
    assert_eq!(placed.first_since(5_001, 0), None);
}

#[test]
fn sequences_begin_again_after_the_largest() {
    let batch = idempotent(1, 0, i32::MAX - 1).batch(&[TWO, TWO].concat());
    assert_eq!(batch.header().last_sequence(), 1);
}

#[test]
fn a_marker_is_what_clients_expect() {
    for commit in [true, false] {
        let marker = Batch::marker(9, 77, 5, 2, commit);
        let expected = Record {
            transactional: true,
            control: true,
            delete_horizon: false,
            partition_leader_epoch: 0,
            producer_id: 5,
            producer_epoch: 2,
            timestamp_type: TimestampType::Creation,
            offset: 9,
            sequence: -1,
            timestamp: 77,
            key: Some(Bytes::from(vec![0, 0, 0, u8::from(commit)])),
            value: Some(Bytes::from_static(&[0; 6])),
            headers: Default::default(),
        };
        assert_eq!(decode(&marker), [expected]);
        assert_eq!(marker.commits(), commit);
    }
}

/// A sent batch with some bytes changed, and its CRC right again.
fn changed(at: usize, to: &[u8]) -> Bytes {
    let mut bytes = plain().bytes(TWO).to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    super::seal(&mut bytes);
    bytes.into()
}

#[test]
fn what_is_no_good_batch_is_refused() {
    let good = plain().bytes(TWO);
    let twice = Bytes::from([&good[..], &good[..]].concat());
    let mut flipped = good.to_vec();
    flipped[70] ^= 1;
    let rows = [
        ("good", good.clone(), None),
        ("empty", Bytes::new(), Some(BatchError::NotOne)),
        ("cut", good.slice(..good.len() - 1), Some(BatchError::NotOne)),
        ("and a beginning", Bytes::from([&good[..], &good[..80]].concat()), None),
        ("two", twice, Some(BatchError::NotOne)),
        ("length", changed(8, &48_i32.to_be_bytes()), Some(BatchError::Corrupt)),
        ("negative", changed(8, &(-1_i32).to_be_bytes()), Some(BatchError::Corrupt)),
        ("magic", changed(16, &[1]), Some(BatchError::Magic)),
        ("crc", flipped.into(), Some(BatchError::Corrupt)),
        ("offset", changed(0, &1_i64.to_be_bytes()), Some(BatchError::Header)),
        ("count", changed(57, &3_i32.to_be_bytes()), Some(BatchError::Header)),
        ("none", changed(57, &0_i32.to_be_bytes()), Some(BatchError::Header)),
        ("control", changed(21, &(1_i16 << 5).to_be_bytes()), Some(BatchError::Control)),
        ("sequence", changed(43, &1_i64.to_be_bytes()), Some(BatchError::Header)),
    ];
    for (name, bytes, expected) in rows {
        let found = Batch::produced(&bytes).and_then(|batch| batch.check(usize::MAX));
        assert_eq!(found.err(), expected, "{name}");
    }
    let batch = Batch::produced(&good).unwrap();
    assert_eq!(batch.check(good.len() - 1), Err(BatchError::TooLarge));
    let more = Batch::produced(&Bytes::from([&good[..], &good[..80]].concat())).unwrap();
    assert_eq!(more, batch);
}

#[test]
fn keys_are_asked_for_in_every_codec() {
    let keyed: &[Pair<'_>] = &[(Some("a"), Some("1")), (Some(""), None)];
    for compression in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let sent = Sent { compression, ..plain() };
        assert_eq!(sent.batch(keyed).check_keys(), Ok(()), "{compression:?}");
        assert_eq!(sent.batch(TWO).check_keys(), Err(BatchError::KeyMissing), "{compression:?}");
        assert_eq!(sent.batch(keyed).first_since(1_001, 0), Some((1, 1_001)), "{compression:?}");
    }
    let more = Batch::produced(&changed(57, &3_i32.to_be_bytes())).unwrap();
    assert_eq!(more.check_keys(), Err(BatchError::KeyMissing));
    let unknown = Batch::produced(&changed(21, &7_i16.to_be_bytes())).unwrap();
    assert_eq!(unknown.check_keys(), Err(BatchError::Records));
    let zipped = Batch::produced(&changed(21, &1_i16.to_be_bytes())).unwrap();
    assert_eq!(zipped.check_keys(), Err(BatchError::Records));
}

#[test]
fn javas_snappy_streams_are_read() {
    let mut stream = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in ["one ", "two"] {
        let block = compress(Compression::Snappy, block.as_bytes());
        stream.put_i32(i32::try_from(block.len()).unwrap());
        stream.extend(block);
    }
    let found = super::compression::decompress(2, stream.clone().into());
    assert_eq!(found.as_deref(), Some(&b"one two"[..]));
    stream.pop();
    assert_eq!(super::compression::decompress(2, stream.into()), None);
}

#[test]
fn what_would_fill_the_memory_is_not_decompressed() {
    let zeros = vec![0; (128 << 20) + 1];
    let small = Bytes::from(zstd::encode_all(&zeros[..], 1).unwrap());
    assert!(small.len() < 1 << 20);
    assert_eq!(super::compression::decompress(4, small), None);
    // The length that a raw snappy block claims.
    let claim = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
    assert_eq!(super::compression::decompress(2, claim), None);
}

#[test]
fn other_records_keep_offsets_sequences_and_flags() {
    let batch = transactional(3, 1, 8).batch(TWO).placed(10, None);
    let payload = batch.payload().unwrap();
    let second = super::records(&payload).flatten().nth(1).unwrap();
    let kept = batch.with_records(1, 1_001, second.bytes);
    let found = decode(&kept);
    let expected: Vec<Record> = decode(&batch).into_iter().skip(1).collect();
    assert_eq!(found, expected);
    assert_eq!(kept.last_offset(), 11);
    assert_eq!(kept.with_records(0, 1_001, &[]).size(), HEADER_BYTES);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever a client sends is answered.
        #[test]
        fn any_bytes_are_looked_at(mut bytes: Vec<u8>, at in 0_usize..120, to: u8, codec in 0_i16..8) {
            let check = |bytes: Vec<u8>| {
                if let Ok(batch) = Batch::produced(&bytes.into()) {
                    let checks = (batch.check(1_000).is_ok(), batch.check_keys().is_ok());
                    std::hint::black_box((checks, batch.first_since(0, 0), batch.commits()));
                }
            };
            let mut sent = plain().bytes(&[TWO, TWO].concat()).to_vec();
            let at = at % sent.len();
            sent[at] = to;
            check(sent);
            drop(super::super::compression::decompress(codec, bytes.clone().into()));
            bytes.splice(..0, plain().bytes(TWO)[..].to_vec());
            check(bytes);
        }
    }
}
