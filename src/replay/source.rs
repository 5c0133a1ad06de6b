//! Where recorded topics are read from: a broker, or a file.

use std::ops::Range;

use super::Record;
use crate::codec::RawRecord;
use crate::model::Topic;
use crate::model::time::Timestamp;

/// Topics as they were when the source was opened: what comes later is not read.
pub trait Source {
    /// Partitions of `tasks`.
    fn lanes(&self) -> u32;

    /// The offsets that are there: the first one, and the one after the last. Empty where the topic
    /// or the partition is not there.
    ///
    /// # Errors
    /// It cannot be read.
    fn bounds(&mut self, topic: Topic, partition: i32) -> anyhow::Result<Range<i64>>;

    /// Records in order, from this offset or the next one that is there.
    ///
    /// # Errors
    /// It cannot be read.
    fn open(&mut self, topic: Topic, partition: i32, from: i64) -> anyhow::Result<Box<dyn Cursor>>;

    /// The first record from this offset on. Cheaper than a cursor, where one is all.
    ///
    /// # Errors
    /// It cannot be read.
    fn next_from(
        &mut self,
        topic: Topic,
        partition: i32,
        offset: i64,
    ) -> anyhow::Result<Option<Record>>;

    /// The record at this offset; `None` where none is there.
    ///
    /// # Errors
    /// It cannot be read.
    fn at(&mut self, topic: Topic, partition: i32, offset: i64) -> anyhow::Result<Option<Record>> {
        let next = self.next_from(topic, partition, offset)?;
        Ok(next.filter(|record| record.offset == offset))
    }

    /// The first offset of a record that is not older; the end where all are.
    ///
    /// # Errors
    /// It cannot be read.
    fn offset_at(&mut self, topic: Topic, partition: i32, at: Timestamp) -> anyhow::Result<i64>;

    /// The same topics once more, for another thread.
    ///
    /// # Errors
    /// It cannot be opened.
    fn duplicate(&self) -> anyhow::Result<Box<dyn Source + Send>>;
}

/// What becomes of a record that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// It is taken; the next one, please.
    On,
    /// It is taken, and that is enough.
    Enough,
    /// It stays the next one.
    Back,
}

pub trait Cursor {
    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// It cannot be read.
    fn next(&mut self) -> anyhow::Result<Option<Record>>;

    /// Lends records, one after the other, until that is enough; `false` where the end came first.
    /// Nothing is copied where the source has the bytes at hand.
    ///
    /// # Errors
    /// It cannot be read; or what `each` says.
    fn lend(
        &mut self,
        each: &mut dyn FnMut(&RawRecord<'_>) -> anyhow::Result<Go>,
    ) -> anyhow::Result<bool>;
}

/// A cursor that can be looked into without taking.
pub struct Peeked {
    cursor: Box<dyn Cursor>,
    next: Option<Record>,
    ended: bool,
}

impl Peeked {
    pub fn new(cursor: Box<dyn Cursor>) -> Self {
        Peeked { cursor, next: None, ended: false }
    }

    /// The next record, which stays the next one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn peek(&mut self) -> anyhow::Result<Option<&Record>> {
        if self.next.is_none() && !self.ended {
            self.next = self.cursor.next()?;
            self.ended = self.next.is_none();
        }
        Ok(self.next.as_ref())
    }

    /// The next record where its offset is below `to`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn take_below(&mut self, to: i64) -> anyhow::Result<Option<Record>> {
        match self.peek()? {
            Some(record) if record.offset < to => Ok(self.next.take()),
            Some(_) | None => Ok(None),
        }
    }

    /// The next record.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn take(&mut self) -> anyhow::Result<Option<Record>> {
        self.take_below(i64::MAX)
    }
}
