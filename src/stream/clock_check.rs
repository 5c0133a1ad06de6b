//! (I/O) Compares this machine's clock with the brokers', before any lane is taken.
//!
//! Batch times rest on the wall clock. An instance that is an hour ahead would take a lane an hour
//! ahead, and no other could ever follow it. `operator-actions` has log-append time: the broker
//! says when it wrote the record, and that lies between the two moments at which this machine
//! sent it and heard of it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, Timestamp};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tracing::debug;

use super::client::settings;
use crate::clock::{Stopwatch, wall_now};
use crate::config::Config;
use crate::model::Topic;

/// The first one includes the connection; the quickest of all is the most exact.
const PROBES: usize = 3;

const WAIT: Duration = Duration::from_secs(10);

/// This machine's clock, seen from the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    /// This machine's clock less the broker's.
    pub difference_ms: i64,
    /// The true difference is within this of it.
    pub uncertainty_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ClockCheckError {
    #[error("the clock could not be compared with the broker's")]
    Kafka(#[from] KafkaError),
    #[error("the clock could not be compared with the broker's: no answer within {WAIT:?}")]
    NoAnswer,
    #[error(
        "topic {topic} must have message.timestamp.type=LogAppendTime, see `pointsman topics plan`"
    )]
    NotLogAppendTime { topic: String },
}

#[derive(Debug, Default)]
struct Answers {
    last: Mutex<Option<Result<Timestamp, KafkaError>>>,
}

impl ClientContext for Answers {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "clock check");
    }
}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let answer = match result {
            Ok(message) => Ok(message.timestamp()),
            Err((error, _)) => Err(error.clone()),
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

/// Publishes a few records to `operator-actions` and compares their times.
///
/// # Errors
/// The brokers cannot be reached or refuse the records, or the topic keeps the producer's time.
pub fn measure(config: &Config) -> Result<ClockDifference, ClockCheckError> {
    let producer: BaseProducer<Answers> =
        settings::clock_producer(config).create_with_context(Answers::default())?;
    let mut best: Option<ClockDifference> = None;
    for _ in 0..PROBES {
        let probe = probe(config, &producer)?;
        if best.is_none_or(|best| probe.uncertainty_ms < best.uncertainty_ms) {
            best = Some(probe);
        }
    }
    best.ok_or(ClockCheckError::NoAnswer)
}

fn probe(
    config: &Config,
    producer: &BaseProducer<Answers>,
) -> Result<ClockDifference, ClockCheckError> {
    let topic = config.topics.name(Topic::OperatorActions);
    let sent = wall_now();
    let action_id = format!("clock:{}", config.kafka.instance_id);
    let action = serde_json::json!({
        "action_id": action_id,
        "action": "clock_check",
        "instance": config.kafka.instance_id,
        "at_ms": sent.as_ms(),
    });
    let action = action.to_string();
    // A time in the past: where it comes back, the topic keeps the producer's.
    let record = BaseRecord::to(topic).key(&action_id).payload(&action).timestamp(1);
    let waited = Stopwatch::start();
    producer.send(record).map_err(|(error, _)| error)?;
    loop {
        producer.poll(Duration::from_millis(5));
        let answer = producer.context().last.lock().unwrap_or_else(PoisonError::into_inner).take();
        match answer {
            None if waited.remaining(WAIT).is_zero() => return Err(ClockCheckError::NoAnswer),
            None => {}
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(Timestamp::LogAppendTime(at_ms))) => {
                return Ok(difference(sent.as_ms(), wall_now().as_ms(), at_ms));
            }
            Some(Ok(Timestamp::CreateTime(_) | Timestamp::NotAvailable)) => {
                return Err(ClockCheckError::NotLogAppendTime { topic: topic.to_owned() });
            }
        }
    }
}

fn difference(sent_ms: i64, heard_ms: i64, broker_ms: i64) -> ClockDifference {
    let round_trip_ms = heard_ms.saturating_sub(sent_ms).max(0);
    let middle_ms = sent_ms + round_trip_ms / 2;
    ClockDifference {
        difference_ms: middle_ms - broker_ms,
        // Both clocks are read in whole milliseconds.
        uncertainty_ms: (round_trip_ms / 2).unsigned_abs() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_wrote_between_sending_and_hearing() {
        let check = |sent, heard, broker, difference_ms, uncertainty_ms| {
            let expected = ClockDifference { difference_ms, uncertainty_ms };
            assert_eq!(difference(sent, heard, broker), expected);
        };
        check(1_000, 1_004, 1_002, 0, 3);
        check(5_000, 5_010, 1_005, 4_000, 6);
        check(1_000, 1_000, 3_500, -2_500, 1);
        // The wall clock went back meanwhile.
        check(1_000, 900, 1_000, 0, 1);
    }
}
