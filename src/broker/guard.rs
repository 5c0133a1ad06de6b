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
