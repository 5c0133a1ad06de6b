//! The records inside a batch, not copied.

use bytes::Buf;

use super::Header;

/// One record, with what compaction and searches look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// The whole record, its length included.
    pub bytes: &'a [u8],
    pub offset_delta: i32,
    timestamp_delta_ms: i64,
    pub key: Option<&'a [u8]>,
    /// `false`: a tombstone.
    pub has_value: bool,
}

impl RawRecord<'_> {
    pub fn timestamp_ms(&self, header: &Header) -> i64 {
        if header.is_stamped() {
            return header.max_timestamp_ms;
        }
        header.base_timestamp_ms.saturating_add(self.timestamp_delta_ms)
    }
}

/// `None` ends the records where they cannot be read.
pub fn read(payload: &[u8]) -> impl Iterator<Item = Option<RawRecord<'_>>> {
    let mut rest = Some(payload);
    std::iter::from_fn(move || {
        let payload = rest.filter(|payload| !payload.is_empty())?;
        let found = record(payload);
        rest = found.map(|(_, after)| after);
        Some(found.map(|(record, _)| record))
    })
}

fn record(payload: &[u8]) -> Option<(RawRecord<'_>, &[u8])> {
    let mut inside = payload;
    let length = usize::try_from(varint(&mut inside)?).ok()?;
    let (mut inside, after) = inside.split_at_checked(length)?;
    let bytes = payload.get(..payload.len() - after.len())?;
    // Attributes: unused.
    inside.try_get_i8().ok()?;
    let timestamp_delta_ms = varint(&mut inside)?;
    let offset_delta = i32::try_from(varint(&mut inside)?).ok()?;
    let key = field(&mut inside)?;
    let has_value = field(&mut inside)?.is_some();
    Some((RawRecord { bytes, offset_delta, timestamp_delta_ms, key, has_value }, after))
}

/// A key or a value; `Some(None)` for null.
fn field<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = varint(rest)?;
    if length < 0 {
        return Some(None);
    }
    let (field, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(Some(field))
}

/// A zigzag-coded number of at most 64 bits.
fn varint(rest: &mut &[u8]) -> Option<i64> {
    let mut coded = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = rest.try_get_u8().ok()?;
        coded |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((coded >> 1).cast_signed() ^ -(coded & 1).cast_signed());
        }
    }
    None
}
