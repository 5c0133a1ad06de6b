//! What a log remembers of its producers: so that a batch that is sent again is there once, none is
//! missing, and readers know which transactions are open. Kafka's `ProducerStateManager`.

use std::collections::{BTreeMap, VecDeque};

use kafka_protocol::ResponseError;

use super::super::batch::Header;

/// As many requests as a client has in flight.
const BATCHES_KEPT: usize = 5;

/// Producers of one log. Kafka forgets those that were silent for a day; here the one that is silent
/// for the longest makes room. What it then sends is taken as of an unknown one.
const PRODUCERS_MAX: usize = 2_000;

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    first_sequence: i32,
    last_sequence: i32,
    pub last_offset: i64,
    pub offset_delta: i32,
    pub timestamp_ms: i64,
}

#[derive(Debug)]
struct Producer {
    epoch: i16,
    /// The last ones of this epoch.
    written: VecDeque<Written>,
    /// Where its transaction begins.
    open_offset: Option<i64>,
    /// The end of the log when it wrote last: who is silent for the longest.
    seen_offset: i64,
}

#[derive(Debug, Default)]
pub struct Producers {
    by_id: BTreeMap<i64, Producer>,
    /// Open transactions: first offset to producer.
    open: BTreeMap<i64, i64>,
}

impl Producers {
    pub fn first_open_offset(&self) -> Option<i64> {
        self.open.keys().next().copied()
    }

    pub fn in_transaction(&self, producer_id: i64, epoch: i16) -> bool {
        let producer = self.by_id.get(&producer_id);
        producer.is_some_and(|known| known.open_offset.is_some() && known.epoch == epoch)
    }

    /// See [`super::Log::check`].
    pub fn check(&self, header: &Header) -> Result<Option<Written>, ResponseError> {
        // Neither idempotent, nor of a producer that is known: any sequence may come. Kafka forgets
        // producers too.
        let Some(known) = self.by_id.get(&header.producer_id) else { return Ok(None) };
        let (first, last) = (header.base_sequence, header.last_sequence());
        let is_same =
            |written: &&Written| written.first_sequence == first && written.last_sequence == last;
        if header.producer_epoch == known.epoch
            && let Some(written) = known.written.iter().find(is_same)
        {
            return Ok(Some(*written));
        }
        if header.producer_epoch < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        let expected = if header.producer_epoch == known.epoch {
            known
                .written
                .back()
                .map_or(0, |written| written.last_sequence.wrapping_add(1) & i32::MAX)
        } else {
            0
        };
        if first != expected {
            return Err(ResponseError::OutOfOrderSequenceNumber);
        }
        if known.open_offset.is_some() && !header.is_transactional() {
            return Err(ResponseError::InvalidTxnState);
        }
        Ok(None)
    }

    /// Remembers a batch that is in the log now.
    pub fn wrote(&mut self, header: &Header) {
        if header.producer_id < 0 {
            return;
        }
        let producer = self.producer(header.producer_id, header.producer_epoch, header.base_offset);
        if producer.written.len() == BATCHES_KEPT {
            producer.written.pop_front();
        }
        producer.written.push_back(Written {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp_ms: header.max_timestamp_ms,
        });
        if header.is_transactional() && producer.open_offset.is_none() {
            producer.open_offset = Some(header.base_offset);
            self.open.insert(header.base_offset, header.producer_id);
        }
    }

    /// The transaction's first offset, where it wrote anything here.
    ///
    /// # Errors
    /// A later epoch is known.
    pub fn end_transaction(
        &mut self,
        producer_id: i64,
        epoch: i16,
        offset: i64,
    ) -> Result<Option<i64>, ResponseError> {
        if self.by_id.get(&producer_id).is_some_and(|known| epoch < known.epoch) {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        let open_offset = self.producer(producer_id, epoch, offset).open_offset.take();
        if let Some(first_offset) = open_offset {
            self.open.remove(&first_offset);
        }
        Ok(open_offset)
    }

    /// The producer at this epoch: a new one begins without batches.
    fn producer(&mut self, producer_id: i64, epoch: i16, offset: i64) -> &mut Producer {
        if self.by_id.len() >= PRODUCERS_MAX && !self.by_id.contains_key(&producer_id) {
            self.forget_one();
        }
        let producer = self.by_id.entry(producer_id).or_insert_with(|| Producer {
            epoch,
            written: VecDeque::new(),
            open_offset: None,
            seen_offset: offset,
        });
        if producer.epoch != epoch {
            producer.epoch = epoch;
            producer.written.clear();
        }
        producer.seen_offset = offset;
        producer
    }

    fn forget_one(&mut self) {
        let closed = self.by_id.iter().filter(|(_, known)| known.open_offset.is_none());
        let silent = closed.min_by_key(|(_, known)| known.seen_offset).map(|(id, _)| *id);
        if let Some(id) = silent {
            self.by_id.remove(&id);
        }
    }
}
