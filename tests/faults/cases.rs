//! What can happen to the requests of a transaction.

use std::fmt;

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::ApiKey;
use pointsman::broker::front::Fault;

/// One request of one kind meets one fault.
#[derive(Debug, Clone)]
pub struct Case {
    pub api: ApiKey,
    /// Requests of that kind that pass before.
    pub skip: u32,
    pub fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {:?} after {}", self.api, self.fault, self.skip)
    }
}

/// Errors that a broker may answer: those that are to be tried again, those that end the
/// transaction, and those that end the producer.
const ERRORS: &[(ApiKey, &[Error])] = &[
    (
        ApiKey::InitProducerId,
        &[
            Error::CoordinatorLoadInProgress,
            Error::CoordinatorNotAvailable,
            Error::NotCoordinator,
            Error::ConcurrentTransactions,
            Error::InvalidProducerEpoch,
            Error::ProducerFenced,
            Error::TransactionalIdAuthorizationFailed,
            Error::ClusterAuthorizationFailed,
        ],
    ),
    (
        ApiKey::AddPartitionsToTxn,
        &[
            Error::CoordinatorLoadInProgress,
            Error::CoordinatorNotAvailable,
            Error::NotCoordinator,
            Error::ConcurrentTransactions,
            Error::UnknownTopicOrPartition,
            Error::InvalidProducerEpoch,
            Error::ProducerFenced,
            Error::InvalidProducerIdMapping,
            Error::InvalidTxnState,
            Error::TopicAuthorizationFailed,
            Error::TransactionalIdAuthorizationFailed,
        ],
    ),
    (
        ApiKey::Produce,
        &[
            Error::NotLeaderOrFollower,
            Error::NotEnoughReplicas,
            Error::NotEnoughReplicasAfterAppend,
            Error::RequestTimedOut,
            Error::KafkaStorageError,
            Error::OutOfOrderSequenceNumber,
            Error::UnknownProducerId,
            Error::InvalidProducerEpoch,
            Error::InvalidTxnState,
            Error::TopicAuthorizationFailed,
        ],
    ),
    (
        ApiKey::AddOffsetsToTxn,
        &[
            Error::CoordinatorLoadInProgress,
            Error::CoordinatorNotAvailable,
            Error::NotCoordinator,
            Error::ConcurrentTransactions,
            Error::InvalidProducerEpoch,
            Error::ProducerFenced,
            Error::InvalidProducerIdMapping,
            Error::InvalidTxnState,
            Error::GroupAuthorizationFailed,
            Error::TransactionalIdAuthorizationFailed,
        ],
    ),
    (
        ApiKey::TxnOffsetCommit,
        &[
            Error::CoordinatorLoadInProgress,
            Error::CoordinatorNotAvailable,
            Error::NotCoordinator,
            Error::RequestTimedOut,
            Error::UnknownTopicOrPartition,
            Error::IllegalGeneration,
            Error::UnknownMemberId,
            Error::FencedInstanceId,
            Error::InvalidProducerEpoch,
            Error::ProducerFenced,
            Error::GroupAuthorizationFailed,
            Error::TransactionalIdAuthorizationFailed,
        ],
    ),
    (
        ApiKey::EndTxn,
        &[
            Error::CoordinatorLoadInProgress,
            Error::CoordinatorNotAvailable,
            Error::NotCoordinator,
            Error::ConcurrentTransactions,
            Error::InvalidProducerEpoch,
            Error::ProducerFenced,
            Error::InvalidProducerIdMapping,
            Error::InvalidTxnState,
            Error::TransactionalIdAuthorizationFailed,
        ],
    ),
];

/// Errors that a broker may answer although it has done what it was asked for.
const AFTERWARDS: &[(ApiKey, &[Error])] = &[
    (
        ApiKey::Produce,
        &[Error::NotEnoughReplicasAfterAppend, Error::RequestTimedOut, Error::NotLeaderOrFollower],
    ),
    (ApiKey::TxnOffsetCommit, &[Error::RequestTimedOut, Error::NotCoordinator]),
    (
        ApiKey::EndTxn,
        &[Error::NotCoordinator, Error::CoordinatorNotAvailable, Error::ConcurrentTransactions],
    ),
];

/// Every fault at the first transaction, at the second and at one in between.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (api, errors) in ERRORS {
        let after = AFTERWARDS.iter().filter(|(of, _)| of == api).flat_map(|(_, errors)| *errors);
        let faults: Vec<Fault> =
            [Fault::DropRequest, Fault::DropResponse, Fault::CloseBefore, Fault::CloseAfter]
                .into_iter()
                .chain(errors.iter().map(|error| Fault::Error(*error)))
                .chain(after.map(|error| Fault::ErrorAfter(*error)))
                .collect();
        // There is one InitProducerId, unless something went wrong before.
        let skips: &[u32] = if *api == ApiKey::InitProducerId { &[0] } else { &[0, 1, 3] };
        for skip in skips {
            cases.extend(faults.iter().map(|fault| Case { api: *api, skip: *skip, fault: *fault }));
        }
    }
    cases
}
