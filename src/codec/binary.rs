//! Avro's binary encoding, by hand: variable-length integers, strings, blocks.
//!
//! A serde-driven writer costs more than a microsecond for a route decision, a third of what a
//! task may cost at all; this costs a tenth of that and needs no copy of each type with signed
//! integers (Avro has no unsigned ones). What it must not do is drift from `schemas/*.avsc`: tests
//! compare every type with what `apache-avro` reads and writes by the schema.

use crate::model::invalid::Invalid;

use super::error::DecodeError;

/// Appends a zigzag variable-length integer.
#[inline]
pub(super) fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends an unsigned number; what a long cannot hold is written as the largest long.
#[inline]
pub(super) fn put_unsigned(out: &mut Vec<u8>, value: impl Into<u64>) {
    put_long(out, i64::try_from(value.into()).unwrap_or(i64::MAX));
}

#[inline]
pub(super) fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_unsigned(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[inline]
pub(super) fn put_str(out: &mut Vec<u8>, value: &str) {
    put_bytes(out, value.as_bytes());
}

#[inline]
pub(super) fn put_double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub(super) fn put_float(out: &mut Vec<u8>, value: f32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A union of null and one type.
#[inline]
pub(super) fn put_option<T>(
    out: &mut Vec<u8>,
    value: Option<T>,
    put: impl FnOnce(&mut Vec<u8>, T),
) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(2);
            put(out, value);
        }
    }
}

/// An array, or the entries of a map, as one block.
#[inline]
pub(super) fn put_array<T>(
    out: &mut Vec<u8>,
    items: impl ExactSizeIterator<Item = T>,
    mut put: impl FnMut(&mut Vec<u8>, T),
) {
    if items.len() > 0 {
        put_unsigned(out, items.len() as u64);
        for item in items {
            put(out, item);
        }
    }
    out.push(0);
}

/// What is left of an Avro datum. No method panics or allocates more than the input can fill.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Nothing may follow a datum.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let problem = format!("{} bytes follow the record", self.rest.len());
        Err(DecodeError::Avro { field: "", problem })
    }

    #[inline]
    pub(super) fn long(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        // Most numbers of a record are lengths, branches and symbols below 64.
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(i64::from(byte >> 1) ^ -i64::from(byte & 1));
        }
        self.long_of_many(field)
    }

    fn long_of_many(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        let mut value = 0_u64;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte holds the 64th bit only.
            if at == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.broken(field, "an integer is cut off or longer than 64 bits"))
    }

    /// A long that a `u32` must hold.
    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let long = self.long(field)?;
        u32::try_from(long).map_err(|_| {
            DecodeError::invalid(Invalid::new(field, long, "an integer from 0 to 4,294,967,295"))
        })
    }

    /// A long that must not be negative.
    #[inline]
    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let long = self.long(field)?;
        u64::try_from(long).map_err(|_| {
            DecodeError::invalid(Invalid::new(field, long, "an integer of at least 0"))
        })
    }

    #[inline]
    pub(super) fn bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.long(field)?;
        match usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length)) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => {
                let left = self.rest.len();
                let problem = format!("a length of {length} bytes where {left} are left");
                Err(DecodeError::Avro { field, problem })
            }
        }
    }

    #[inline]
    pub(super) fn str(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes(field)?;
        std::str::from_utf8(bytes).map_err(|_| self.broken(field, "a string is not UTF-8"))
    }

    #[inline]
    pub(super) fn string(&mut self, field: &'static str) -> Result<String, DecodeError> {
        self.str(field).map(str::to_owned)
    }

    /// The next bytes, however many a type takes.
    #[inline]
    pub(super) fn take(
        &mut self,
        field: &'static str,
        length: usize,
    ) -> Result<&'a [u8], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_at_checked(length) else {
            return Err(self.broken(field, "a value is cut off"));
        };
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn bool(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.take(field, 1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.broken(field, "a boolean is neither 0 nor 1")),
        }
    }

    fn fixed<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((bytes, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.broken(field, "a floating-point number is cut off"));
        };
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    pub(super) fn double(&mut self, field: &'static str) -> Result<f64, DecodeError> {
        self.fixed(field).map(f64::from_le_bytes)
    }

    #[inline]
    pub(super) fn float(&mut self, field: &'static str) -> Result<f32, DecodeError> {
        self.fixed(field).map(f32::from_le_bytes)
    }

    /// A union of null and one type.
    #[inline]
    pub(super) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self, &'static str) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.long(field)? {
            0 => Ok(None),
            1 => read(self, field).map(Some),
            branch => {
                let problem = format!("branch {branch} of a union of two");
                Err(DecodeError::Avro { field, problem })
            }
        }
    }

    /// An enum, given its values in the order of the schema's symbols.
    #[inline]
    pub(super) fn symbol<T: Copy>(
        &mut self,
        field: &'static str,
        symbols: &[T],
    ) -> Result<T, DecodeError> {
        let index = self.long(field)?;
        let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
        symbol.copied().ok_or_else(|| {
            let problem = format!("symbol {index} of an enum of {}", symbols.len());
            DecodeError::Avro { field, problem }
        })
    }

    /// The number of items in the next block of an array or a map; 0 ends it.
    fn block(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        let count = self.long(field)?;
        if count < 0 {
            // A negative count is followed by the block's size, for readers that skip.
            self.long(field)?;
        }
        // Every item of every schema here takes a byte or more, so this bounds what is reserved.
        match usize::try_from(count.unsigned_abs()) {
            Ok(count) if count <= self.rest.len() => Ok(count),
            Ok(_) | Err(_) => {
                let left = self.rest.len();
                let problem = format!("{count} items where {left} bytes are left");
                Err(DecodeError::Avro { field, problem })
            }
        }
    }

    /// Calls `read` for each item of an array or each entry of a map.
    #[inline]
    pub(super) fn items(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Self, usize) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        loop {
            let count = self.block(field)?;
            if count == 0 {
                return Ok(());
            }
            for left in (0..count).rev() {
                read(self, left)?;
            }
        }
    }

    #[inline]
    pub(super) fn array<T>(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Self, &'static str) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let mut items = Vec::new();
        self.items(field, |reader, left| {
            if items.len() == items.capacity() {
                // What a record may hold is known only after it is checked: grow with what is
                // there, not with what the count claims.
                items.reserve((left + 1).min(1_024));
            }
            items.push(read(reader, field)?);
            Ok(())
        })?;
        Ok(items)
    }

    #[cold]
    fn broken(&self, field: &'static str, problem: &str) -> DecodeError {
        let problem = format!("{problem}, {} bytes before the end", self.rest.len());
        DecodeError::Avro { field, problem }
    }
}
