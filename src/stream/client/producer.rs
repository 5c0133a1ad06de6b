//! The transactional producer: executes the steps of a transaction, and says of a failure what is
//! to be done about it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{
    DeliveryResult, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer,
};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use tracing::debug;

use crate::clock::Stopwatch;
use crate::config::TopicNames;
use crate::failpoint::{self, Point};
use crate::lane::prepared::{OutputRecord, OutputTopic, Prepared};
use crate::model::Topic;
use crate::stream::ffi::{self, CallError, Output, OutputTopicHandle};
use crate::stream::worker::event::Failure;
use crate::telemetry::KafkaErrorClass;

/// Pools whose topic is kept at hand; more of them are a misuse of pools.
const POOLS_MAX: usize = 1_000;

/// A full queue is tried again after this long: a few hundred records are gone by then.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);

/// Headers of an event with a trace context: room for a record's headers is made once.
const HEADERS_USUAL: usize = 6;

/// Records that were not delivered, by lane; told by the producer's own thread.
#[derive(Debug, Default)]
pub struct Undelivered {
    errors: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
}

impl ClientContext for Undelivered {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka producer");
    }
}

impl ProducerContext<NoCustomPartitioner> for Undelivered {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, lane: usize) {
        if let Err((error, _)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            self.errors.lock().unwrap_or_else(PoisonError::into_inner).push((lane, code));
        }
    }
}

/// A topic to produce to.
struct Out {
    handle: OutputTopicHandle<Undelivered>,
    partitions: i32,
}

pub struct TransactionalProducer {
    known: BTreeMap<Topic, Out>,
    pools: BTreeMap<Arc<str>, Out>,
    producer: Arc<ThreadedProducer<Undelivered>>,
    names: TopicNames,
    timeout: Duration,
}

impl TransactionalProducer {
    /// Opens a producer and fences its predecessors.
    pub fn open(
        config: &ClientConfig,
        names: &TopicNames,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let producer: ThreadedProducer<Undelivered> =
            config.create_with_context(Undelivered::default()).map_err(|error| classify(&error))?;
        producer.init_transactions(timeout).map_err(|error| classify(&error))?;
        Ok(TransactionalProducer {
            known: BTreeMap::new(),
            pools: BTreeMap::new(),
            producer: Arc::new(producer),
            names: names.clone(),
            timeout,
        })
    }

    pub fn begin(&self) -> Result<(), Failure> {
        self.errors().clear();
        self.producer.begin_transaction().map_err(|error| classify(&error))
    }

    pub fn produce(&mut self, batch: &Prepared) -> Result<(), Failure> {
        for (index, record) in batch.records.iter().enumerate() {
            if index == batch.records.len() / 2 {
                failpoint::pass(Point::ProduceMiddle);
            }
            self.look_up(&record.topic)?;
            let out = match &record.topic {
                OutputTopic::Known(topic) => self.known.get(topic),
                OutputTopic::Pool(pool) => self.pools.get(pool),
            };
            if let Some(out) = out {
                self.produce_one(out, batch, record)?;
            }
        }
        Ok(())
    }

    fn produce_one(
        &self,
        out: &Out,
        batch: &Prepared,
        record: &OutputRecord,
    ) -> Result<(), Failure> {
        let partition = match &record.topic {
            OutputTopic::Known(_) => record.partition,
            OutputTopic::Pool(_) => record.partition % out.partitions.max(1),
        };
        let headers = batch.headers_of(record);
        // The clock is asked only where the queue is full: three times a task it shows in a profile.
        let mut full_since = None;
        loop {
            let output = Output {
                partition,
                timestamp_ms: record.timestamp_ms,
                key: record.key.as_ref().map(|range| batch.slice(range)),
                value: record.value.as_ref().map(|range| batch.slice(range)),
                headers: headers.clone(),
                headers_count: HEADERS_USUAL,
                opaque: batch.lane as usize,
            };
            match out.handle.produce(output) {
                Ok(()) => return Ok(()),
                Err(error) if error.code == RDKafkaErrorCode::QueueFull => {
                    let full_since = *full_since.get_or_insert_with(Stopwatch::start);
                    if full_since.remaining(self.timeout).is_zero() {
                        let reason = "the producer's queue stays full".to_owned();
                        return Err(Failure::Undelivered { lanes: vec![batch.lane], reason });
                    }
                    // Everything queued goes out first, without waiting for more to join.
                    ffi::flush(&self.producer, QUEUE_FULL_WAIT);
                }
                Err(error) if error.code == RDKafkaErrorCode::MessageSizeTooLarge => {
                    let reason = error.reason;
                    return Err(Failure::TooLarge { lanes: vec![batch.lane], reason });
                }
                Err(error) => return Err(failure(&error)),
            }
        }
    }

    fn look_up(&mut self, topic: &OutputTopic) -> Result<(), Failure> {
        match topic {
            OutputTopic::Known(topic) => {
                if !self.known.contains_key(topic) {
                    let name = self.names.name(*topic).to_owned();
                    let out = self.find(&name, false)?;
                    self.known.insert(*topic, out);
                }
            }
            OutputTopic::Pool(pool) => {
                if !self.pools.contains_key(pool) {
                    let name = self.names.decisions_of(pool);
                    let out = self.find(&name, true)?;
                    if out.partitions == 0 {
                        return Err(Failure::PoolMissing(Arc::clone(pool)));
                    }
                    if self.pools.len() >= POOLS_MAX {
                        self.pools.clear();
                    }
                    self.pools.insert(Arc::clone(pool), out);
                }
            }
        }
        Ok(())
    }

    fn find(&self, name: &str, count: bool) -> Result<Out, Failure> {
        let handle = OutputTopicHandle::new(&self.producer, name)
            .ok_or_else(|| Failure::Abort(format!("'{name}' cannot be a topic's name")))?;
        let mut partitions = 0;
        if count {
            let metadata = self
                .producer
                .client()
                .fetch_metadata(Some(name), self.timeout)
                .map_err(|error| classify(&error))?;
            let topic = metadata.topics().iter().find(|topic| topic.name() == name);
            let found = topic.map_or(0, |topic| topic.partitions().len());
            partitions = i32::try_from(found).unwrap_or(i32::MAX);
        }
        Ok(Out { handle, partitions })
    }

    pub fn flush(&self) -> Result<(), Failure> {
        let flushed = ffi::flush(&self.producer, self.timeout + Duration::from_secs(1));
        let errors = self.errors();
        let Some((_, code)) = errors.first() else {
            if flushed {
                return Ok(());
            }
            return Err(Failure::Abort("records are still not delivered".to_owned()));
        };
        let timed_out = |code: &RDKafkaErrorCode| {
            matches!(code, RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::RequestTimedOut)
        };
        let lanes: std::collections::BTreeSet<usize> =
            errors.iter().filter(|(_, code)| timed_out(code)).map(|(lane, _)| *lane).collect();
        let too_large = |code: &RDKafkaErrorCode| *code == RDKafkaErrorCode::MessageSizeTooLarge;
        let oversized: std::collections::BTreeSet<usize> =
            errors.iter().filter(|(_, code)| too_large(code)).map(|(lane, _)| *lane).collect();
        if !oversized.is_empty() {
            let lanes = oversized.into_iter().filter_map(|lane| u32::try_from(lane).ok());
            return Err(Failure::TooLarge { lanes: lanes.collect(), reason: code.to_string() });
        }
        if lanes.is_empty() {
            return Err(by_code(*code, code.to_string(), true)
                .unwrap_or_else(|| Failure::Abort(format!("a record was refused: {code}"))));
        }
        let lanes = lanes.into_iter().filter_map(|lane| u32::try_from(lane).ok()).collect();
        Err(Failure::Undelivered { lanes, reason: code.to_string() })
    }

    pub fn send_offsets(
        &self,
        batches: &[Arc<Prepared>],
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Failure> {
        let mut list = TopicPartitionList::with_capacity(batches.len() * 3);
        for batch in batches {
            let partition = i32::try_from(batch.lane).unwrap_or(-1);
            for (topic, offset) in &batch.offsets {
                let name = self.names.name(*topic);
                let invalid = |error: KafkaError| Failure::Abort(error.to_string());
                let mut element = list.add_partition(name, partition);
                element.set_offset(Offset::Offset(*offset)).map_err(invalid)?;
                element.set_metadata(batch.metadata.as_str());
            }
        }
        let waited = Stopwatch::start();
        loop {
            let left = waited.remaining(self.timeout);
            match self.producer.send_offsets_to_transaction(&list, group, left) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {}
                Err(error) => return Err(classify(&error)),
            }
        }
    }

    pub fn commit(&self) -> Result<(), Failure> {
        let waited = Stopwatch::start();
        loop {
            let left = waited.remaining(self.timeout + Duration::from_secs(1));
            match ffi::commit_transaction(&self.producer, left) {
                Ok(()) => return Ok(()),
                // The same call goes on where the one before timed out.
                Err(error) if error.is_retriable && !left.is_zero() => {}
                Err(error) if error.requires_abort => return Err(failure(&error)),
                Err(error) => {
                    let by_code = by_code(error.code, error.reason.clone(), error.is_fatal);
                    return Err(by_code.unwrap_or(Failure::Unknown(error.to_string())));
                }
            }
        }
    }

    pub fn abort(&self) -> Result<(), Failure> {
        self.producer.abort_transaction(self.timeout).map_err(|error| classify(&error))
    }

    fn errors(&self) -> std::sync::MutexGuard<'_, Vec<(usize, RDKafkaErrorCode)>> {
        self.producer.client().context().errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn classify(error: &KafkaError) -> Failure {
    if let KafkaError::Transaction(error) = error {
        return failure(&CallError {
            code: error.code(),
            reason: error.string(),
            is_fatal: error.is_fatal(),
            is_retriable: error.is_retriable(),
            requires_abort: error.txn_requires_abort(),
        });
    }
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    by_code(code, error.to_string(), false).unwrap_or(Failure::Abort(error.to_string()))
}

fn failure(error: &CallError) -> Failure {
    by_code(error.code, error.reason.clone(), error.is_fatal).unwrap_or_else(|| {
        if error.is_fatal {
            Failure::Unknown(error.to_string())
        } else {
            Failure::Abort(error.to_string())
        }
    })
}

/// Failures that the code alone decides.
fn by_code(code: RDKafkaErrorCode, reason: String, is_fatal: bool) -> Option<Failure> {
    const MEMBERSHIP: [RDKafkaErrorCode; 3] = [
        RDKafkaErrorCode::IllegalGeneration,
        RDKafkaErrorCode::UnknownMemberId,
        RDKafkaErrorCode::FencedInstanceId,
    ];
    const FENCED: [RDKafkaErrorCode; 3] = [
        RDKafkaErrorCode::Fenced,
        RDKafkaErrorCode::ProducerFenced,
        RDKafkaErrorCode::InvalidProducerEpoch,
    ];
    if MEMBERSHIP.contains(&code) {
        return Some(Failure::Membership(reason));
    }
    if is_fatal && FENCED.contains(&code) {
        return Some(Failure::Fenced(reason));
    }
    (KafkaErrorClass::of(code) == KafkaErrorClass::Denied).then_some(Failure::Denied(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: RDKafkaErrorCode, is_fatal: bool, expected: Failure) {
        let error = CallError {
            code,
            reason: "why".to_owned(),
            is_fatal,
            is_retriable: false,
            requires_abort: !is_fatal,
        };
        assert_eq!(failure(&error), expected, "{code:?}");
    }

    #[test]
    fn what_a_code_asks_for() {
        let why = || "why".to_owned();
        check(RDKafkaErrorCode::IllegalGeneration, false, Failure::Membership(why()));
        check(RDKafkaErrorCode::UnknownMemberId, false, Failure::Membership(why()));
        check(RDKafkaErrorCode::FencedInstanceId, true, Failure::Membership(why()));
        check(RDKafkaErrorCode::Fenced, true, Failure::Fenced(why()));
        check(RDKafkaErrorCode::TopicAuthorizationFailed, false, Failure::Denied(why()));
        // After a time-out the coordinator bumps the epoch: the same producer may go on.
        let bumped = failure(&CallError {
            code: RDKafkaErrorCode::InvalidProducerEpoch,
            reason: why(),
            is_fatal: false,
            is_retriable: false,
            requires_abort: true,
        });
        assert!(matches!(bumped, Failure::Abort(_)), "{bumped:?}");
    }
}
