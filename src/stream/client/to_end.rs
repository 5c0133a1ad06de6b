//! Reads partitions of one topic up to their ends, for those who may not stop too early.
//!
//! A leader that was just elected does not know yet what is committed, and tells who fetches that a
//! partition ends earlier than it does; who asks for the end is told to come back (KIP-207). So an end that
//! was met while fetching counts only once the leader has answered that question, and what came after is
//! fetched from where it was left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::clock::Stopwatch;

/// The client asks again by itself for as long; who polls may want to stop meanwhile.
const ASK: Duration = Duration::from_secs(1);

const POLL: Duration = Duration::from_millis(100);

/// What a poll brought.
pub enum Polled<'a> {
    Record(BorrowedMessage<'a>),
    Nothing,
    /// All partitions were read to the ends that they had; there is nothing more.
    End,
}

/// Where a partition is read.
struct Place {
    /// What is read next.
    next: Offset,
    /// It is known to go on up to here at least.
    end_min: i64,
}

/// How far the partitions of a topic are read, by a consumer that tells when it meets an end
/// (`enable.partition.eof`).
pub struct ToEnd {
    topic: String,
    places: BTreeMap<i32, Place>,
    /// Partitions whose end was not met since they were assigned.
    open: BTreeSet<i32>,
    /// The leaders know where their partitions end.
    is_confirmed: bool,
}

impl ToEnd {
    pub fn new(topic: &str) -> Self {
        ToEnd {
            topic: topic.to_owned(),
            places: BTreeMap::new(),
            open: BTreeSet::new(),
            is_confirmed: false,
        }
    }

    /// Reads this partition too, from an offset on; it is known to go on up to `end_min` at least.
    #[must_use]
    pub fn with(mut self, partition: i32, next: Offset, end_min: i64) -> Self {
        self.places.insert(partition, Place { next, end_min });
        self
    }

    /// Lets the consumer read these partitions, and no others.
    ///
    /// # Errors
    /// As the client's.
    pub fn begin<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
    ) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, place) in &self.places {
            list.add_partition_offset(&self.topic, *partition, place.next)?;
        }
        consumer.assign(&list)?;
        self.open = self.places.keys().copied().collect();
        Ok(())
    }

    /// The next record, or what there is instead of one within `wait`, and within a second more where
    /// leaders are asked for their ends.
    ///
    /// # Errors
    /// As the client's; polled again, it goes on.
    pub fn poll<'c, C: ConsumerContext>(
        &mut self,
        consumer: &'c BaseConsumer<C>,
        wait: Duration,
    ) -> Result<Polled<'c>, KafkaError> {
        if self.open.is_empty() {
            if self.is_confirmed {
                return Ok(Polled::End);
            }
            // Answers may be at hand at once that are of no use yet.
            self.confirm(consumer).inspect_err(|_| std::thread::sleep(wait))?;
            self.begin(consumer)?;
            self.is_confirmed = true;
        }
        match consumer.poll(wait) {
            Some(Ok(message)) => {
                if let Some(place) = self.places.get_mut(&message.partition()) {
                    place.next = Offset::Offset(message.offset() + 1);
                }
                Ok(Polled::Record(message))
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.open.remove(&partition);
                Ok(Polled::Nothing)
            }
            Some(Err(error)) => Err(error),
            None => Ok(Polled::Nothing),
        }
    }

    /// The next record; `None`: there is nothing more.
    ///
    /// # Errors
    /// What the client does not overcome by itself; or the last of what it could, where no record came
    /// within `timeout`.
    pub fn next<'c, C: ConsumerContext>(
        &mut self,
        consumer: &'c BaseConsumer<C>,
        timeout: Duration,
    ) -> Result<Option<BorrowedMessage<'c>>, KafkaError> {
        let idle = Stopwatch::start();
        let mut last = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
        loop {
            match self.poll(consumer, POLL) {
                Ok(Polled::Record(message)) => return Ok(Some(message)),
                Ok(Polled::End) => return Ok(None),
                Ok(Polled::Nothing) => {}
                Err(error) if is_passing(&error) => last = error,
                Err(error) => return Err(error),
            }
            if idle.elapsed() > timeout {
                return Err(last);
            }
        }
    }

    /// Whether the leaders know where their partitions end.
    fn confirm<C: ConsumerContext>(&self, consumer: &BaseConsumer<C>) -> Result<(), KafkaError> {
        for (partition, place) in &self.places {
            let (_, end) = consumer.fetch_watermarks(&self.topic, *partition, ASK)?;
            if end < place.end_min {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OffsetNotAvailable));
            }
        }
        Ok(())
    }
}

/// Whether the client goes on by itself after this error, or does so when it is asked again.
pub fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::OffsetNotAvailable
        )
    )
}
