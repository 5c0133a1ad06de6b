//! What compaction and searches by time need of the codecs: to decompress.

use std::io::Read;

use bytes::{Buf, Bytes};

/// A batch's records, decompressed. Kafka has no bound; this one keeps a small batch of a client's
/// from filling the memory.
const DECOMPRESSED_BYTES_MAX: u64 = 128 << 20;

/// What Java's snappy streams begin with, before two versions of 4 bytes each.
const XERIAL: &[u8] = b"\x82SNAPPY\0";

/// `None` for a codec that Kafka does not have, what cannot be decompressed, and what is too large.
pub fn decompress(codec: i16, records: Bytes) -> Option<Bytes> {
    match codec {
        0 => Some(records),
        1 => all(flate2::read::MultiGzDecoder::new(records.reader())),
        2 => snappy(&records),
        3 => all(lz4_flex::frame::FrameDecoder::new(records.reader())),
        4 => all(zstd::Decoder::new(records.reader()).ok()?),
        _ => None,
    }
}

fn all(reader: impl Read) -> Option<Bytes> {
    let mut found = Vec::new();
    reader.take(DECOMPRESSED_BYTES_MAX + 1).read_to_end(&mut found).ok()?;
    bounded(found)
}

fn bounded(found: Vec<u8>) -> Option<Bytes> {
    (found.len() as u64 <= DECOMPRESSED_BYTES_MAX).then(|| found.into())
}

/// One raw block, as librdkafka writes it, or Java's stream of blocks.
fn snappy(records: &[u8]) -> Option<Bytes> {
    let Some(mut rest) = records.strip_prefix(XERIAL) else {
        return block(records).map(Bytes::from);
    };
    rest = rest.get(8..)?;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = usize::try_from(rest.try_get_i32().ok()?).ok()?;
        let (compressed, after) = rest.split_at_checked(length)?;
        rest = after;
        found.append(&mut block(compressed)?);
        if found.len() as u64 > DECOMPRESSED_BYTES_MAX {
            return None;
        }
    }
    bounded(found)
}

fn block(compressed: &[u8]) -> Option<Vec<u8>> {
    let length = snap::raw::decompress_len(compressed).ok()?;
    if length as u64 > DECOMPRESSED_BYTES_MAX {
        return None;
    }
    snap::raw::Decoder::new().decompress_vec(compressed).ok()
}
