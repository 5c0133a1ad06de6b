//! Reads of a client's bytes that claim no more than there is.
//!
//! The decoders of `kafka-protocol` reserve memory for as many elements as an array's length says,
//! before they look at the first one: 4 bytes of a frame could ask for 200 GB, and a refused
//! allocation ends the process. They read by the trait `Buf`, so a buffer of ours sees each length.
//! In the compact encoding a number that exceeds the bytes behind it can only be a lie. In the older
//! one a length looks like any 32-bit number, a time-out for example: such numbers are cut down to
//! one more than the bytes that are left. Every element takes a byte at least, so an array that was cut
//! down fails for want of bytes, and where all goes well only plain numbers were cut down:
//! then what is read a second time, as it is, is known to be sound.

use std::ops::Range;

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::protocol::buf::ByteBuf;

/// A frame, guarded.
#[derive(Debug)]
pub struct Guarded {
    bytes: Bytes,
    cut_down: bool,
}

impl Guarded {
    pub fn new(bytes: Bytes) -> Self {
        Guarded { bytes, cut_down: false }
    }

    /// Whether a number was not handed out as it is.
    pub fn has_cut_down(&self) -> bool {
        self.cut_down
    }

    /// The number that begins here, where a compact one does.
    fn compact(&self) -> usize {
        let mut number = 0_u32;
        for (place, byte) in (0_u32..5).zip(self.bytes.iter()) {
            number |= u32::from(byte & 0x7f) << (place * 7);
            if *byte < 0x80 {
                break;
            }
        }
        number as usize
    }
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    /// A part of a compact number, or a boolean. A compact length is one more than what it counts,
    /// and takes a byte itself; of a longer number its later bytes are a smaller one.
    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let (requested, available) = (self.compact(), self.bytes.len());
        if requested > available {
            return Err(TryGetError { requested, available });
        }
        self.bytes.try_get_u8()
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        let number = self.bytes.try_get_i32()?;
        let most = i32::try_from(self.bytes.len() + 1).unwrap_or(i32::MAX);
        self.cut_down |= number > most;
        Ok(number.min(most))
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: Range<usize>) -> Bytes {
        self.bytes.peek_bytes(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.bytes.get_bytes(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::wire::{WireError, decode};

    /// The body of a request of this API and version, behind a header without a client id.
    fn frame(api: u8, version: u8, flexible: bool, body: &[u8]) -> Bytes {
        let mut frame = vec![0, api, 0, version, 0, 0, 0, 1, 0xff, 0xff];
        frame.extend(flexible.then_some(0));
        frame.extend(body);
        frame.into()
    }

    #[test]
    fn lengths_that_exceed_the_frame_are_refused() {
        let rows: &[(&str, Bytes)] = &[
            ("array", frame(3, 1, false, b"\x7f\xff\xff\xff")),
            ("array, of what could fit", frame(3, 1, false, b"\0\0\0\x02\0")),
            ("array inside an array", frame(2, 1, false, b"\0\0\0\0\0\0\0\x01\0\x01t\x7f\0\0\0")),
            ("compact array", frame(3, 9, true, b"\xff\xff\xff\xff\x0f")),
            ("compact array behind a boolean", frame(3, 9, true, b"\x01\x81\xff\xff\xff\xff\x0f")),
            ("compact string", frame(22, 2, true, b"\xff\xff\xff\xff\x0f")),
            ("bytes", frame(14, 0, false, b"\0\x01g\0\0\0\x01\0\x01m\0\0\0\x01\0\x01m\x7f\0\0\0")),
            ("tagged field", frame(3, 9, true, b"\x01\0\0\0\x01\x00\xff\xff\xff\xff\x0f")),
            ("tags of the header", frame(3, 9, false, b"\xff\xff\xff\xff\x0f")),
        ];
        for (name, frame) in rows {
            let error = decode(frame.clone()).expect_err(name);
            assert!(matches!(error, WireError::Malformed { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn numbers_that_only_look_like_lengths_are_read_as_they_are() {
        use crate::broker::wire::Request;
        // A time-out of 2 billion milliseconds; replica -1, partition 300, epoch -1.
        let call = decode(frame(22, 0, false, b"\xff\xff\x7f\xff\xff\xff")).unwrap();
        let Request::InitProducerId(request) = call.request else { panic!("{call:?}") };
        assert_eq!((request.transactional_id, request.transaction_timeout_ms), (None, i32::MAX));
        let body = b"\xff\xff\xff\xff\0\0\0\x01\0\x01t\0\0\0\x01\0\0\x01\x2c\xff\xff\xff\xff\xff\xff\xff\xfe";
        let call = decode(frame(2, 1, false, body)).unwrap();
        let Request::ListOffsets(request) = call.request else { panic!("{call:?}") };
        let partition = &request.topics[0].partitions[0];
        assert_eq!((request.replica_id.0, partition.partition_index), (-1, 300));
        assert_eq!(partition.timestamp, -2);
    }
}
