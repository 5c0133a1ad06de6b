//! One request of the commit path, sent until its answer is good or bad or its time is over, as a real
//! client does.

use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;

use super::faults::Step;
use super::instance::Instance;
use crate::broker::wire::{Reply, Request};
use crate::stream::worker::event::Failure;

/// A step is tried again for so long, microseconds: as the transaction's time-out and a second.
const STEP_US: u64 = 3_000_000;

/// An answer is waited for so long: as long as the transaction lasts, as the real client does. A request
/// that comes later than that meets a new epoch.
const ANSWER_US: u64 = 2_000_000;

/// Between two tries.
const BACKOFF_US: u64 = 5_000;

/// Why a step is not done.
pub enum StepError {
    /// No good answer came in time.
    Late,
    Failed(Failure),
}

impl StepError {
    /// As a step whose transaction can still be aborted.
    pub fn or_abort(self, step: Step) -> Failure {
        match self {
            StepError::Late => Failure::Abort(format!("{}: no answer in time", step.name())),
            StepError::Failed(failure) => failure,
        }
    }
}

/// What an answer's error code asks for.
enum Verdict {
    Done,
    Again,
    Failed(Failure),
}

fn verdict(code: i16) -> Verdict {
    use ResponseError as Error;
    const AGAIN: [Error; 9] = [
        Error::CoordinatorLoadInProgress,
        Error::CoordinatorNotAvailable,
        Error::NotCoordinator,
        Error::ConcurrentTransactions,
        Error::RequestTimedOut,
        Error::NotLeaderOrFollower,
        Error::NotEnoughReplicas,
        Error::NotEnoughReplicasAfterAppend,
        Error::KafkaStorageError,
    ];
    const MEMBERSHIP: [Error; 3] =
        [Error::IllegalGeneration, Error::UnknownMemberId, Error::FencedInstanceId];
    const LOST: [Error; 3] =
        [Error::InvalidTxnState, Error::InvalidProducerIdMapping, Error::OutOfOrderSequenceNumber];
    const DENIED: [Error; 1] = [Error::TransactionalIdAuthorizationFailed];
    // It is there already: the answer to an earlier try got lost.
    if code == Error::DuplicateSequenceNumber.code() {
        return Verdict::Done;
    }
    let Some(error) = code.err() else { return Verdict::Done };
    let reason = format!("{error:?}");
    if AGAIN.contains(&error) {
        return Verdict::Again;
    }
    Verdict::Failed(if error == Error::ProducerFenced {
        Failure::Fenced(reason)
    } else if MEMBERSHIP.contains(&error) {
        Failure::Membership(reason)
    } else if LOST.contains(&error) {
        Failure::Unknown(reason)
    } else if DENIED.contains(&error) {
        Failure::Denied(reason)
    } else {
        // INVALID_PRODUCER_EPOCH too: a coordinator bumps the epoch after a time-out.
        Failure::Abort(reason)
    })
}

/// Sends a request until its answer is good, is bad, or the step's time is over. A fault is met by one
/// of the tries.
pub async fn step(
    instance: &Instance,
    step: Step,
    request: Request,
    mut codes: impl FnMut(&Reply) -> Vec<i16>,
) -> Result<(), StepError> {
    let timeline = &instance.world.network.timeline;
    let deadline_us = timeline.now_us() + STEP_US;
    let fault = instance.world.faults.borrow_mut().next(step);
    let mut fault = fault.map(|fault| (fault, step));
    loop {
        let reply = instance.send(request.clone(), ANSWER_US, fault.take()).await;
        if let Some(reply) = reply {
            let mut again = false;
            for code in codes(&reply) {
                match verdict(code) {
                    Verdict::Done => {}
                    Verdict::Again => again = true,
                    Verdict::Failed(failure) => return Err(StepError::Failed(failure)),
                }
            }
            if !again {
                return Ok(());
            }
        }
        if timeline.now_us() >= deadline_us {
            return Err(StepError::Late);
        }
        timeline.sleep(BACKOFF_US).await;
    }
}
