//! The closed sets of label values.

use rdkafka::types::RDKafkaErrorCode;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchPhase {
    Poll,
    Decode,
    Decide,
    Produce,
    Commit,
}

impl BatchPhase {
    pub const fn name(self) -> &'static str {
        match self {
            BatchPhase::Poll => "poll",
            BatchPhase::Decode => "decode",
            BatchPhase::Decide => "decide",
            BatchPhase::Produce => "produce",
            BatchPhase::Commit => "commit",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    Primary,
    Fallback,
}

impl Rank {
    pub const fn name(self) -> &'static str {
        match self {
            Rank::Primary => "primary",
            Rank::Fallback => "fallback",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionResult {
    Committed,
    Aborted,
    /// Another owner of the lanes, or of the transactional id, was there first.
    Fenced,
    /// The broker did not answer; the committed offsets are the verdict.
    Unknown,
}

impl TransactionResult {
    pub const fn name(self) -> &'static str {
        match self {
            TransactionResult::Committed => "committed",
            TransactionResult::Aborted => "aborted",
            TransactionResult::Fenced => "fenced",
            TransactionResult::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebalanceKind {
    Assigned,
    Revoked,
    /// Taken away without a word: the session had timed out.
    Lost,
}

impl RebalanceKind {
    pub const fn name(self) -> &'static str {
        match self {
            RebalanceKind::Assigned => "assigned",
            RebalanceKind::Revoked => "revoked",
            RebalanceKind::Lost => "lost",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneState {
    /// Folding its journal.
    #[default]
    Restoring,
    Running,
    /// Waiting for a broker, a fleet, or the clock; goes on by itself.
    Paused,
    /// Refuses to go on until somebody resolves it.
    Stopped,
}

impl LaneState {
    pub const ALL: [LaneState; 4] =
        [LaneState::Restoring, LaneState::Running, LaneState::Paused, LaneState::Stopped];

    pub const fn name(self) -> &'static str {
        match self {
            LaneState::Restoring => "restoring",
            LaneState::Running => "running",
            LaneState::Paused => "paused",
            LaneState::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaErrorClass {
    /// No connection, no broker, no leader.
    Transport,
    TimedOut,
    Denied,
    Fenced,
    Other,
}

impl KafkaErrorClass {
    pub const fn name(self) -> &'static str {
        match self {
            KafkaErrorClass::Transport => "transport",
            KafkaErrorClass::TimedOut => "timed_out",
            KafkaErrorClass::Denied => "denied",
            KafkaErrorClass::Fenced => "fenced",
            KafkaErrorClass::Other => "other",
        }
    }

    /// The class of a client error.
    pub fn of(code: RDKafkaErrorCode) -> Self {
        use RDKafkaErrorCode as Code;
        const CLASSES: [(KafkaErrorClass, &[Code]); 4] = [
            (
                KafkaErrorClass::Transport,
                &[
                    Code::BrokerTransportFailure,
                    Code::AllBrokersDown,
                    Code::Resolve,
                    Code::BrokerNotAvailable,
                    Code::LeaderNotAvailable,
                    Code::NetworkException,
                    Code::CoordinatorNotAvailable,
                    Code::CoordinatorLoadInProgress,
                ],
            ),
            (
                KafkaErrorClass::TimedOut,
                &[
                    Code::OperationTimedOut,
                    Code::MessageTimedOut,
                    Code::RequestTimedOut,
                    Code::TimedOutQueue,
                ],
            ),
            (
                KafkaErrorClass::Denied,
                &[
                    Code::Authentication,
                    Code::SaslAuthenticationFailed,
                    Code::TopicAuthorizationFailed,
                    Code::GroupAuthorizationFailed,
                    Code::ClusterAuthorizationFailed,
                    Code::TransactionalIdAuthorizationFailed,
                ],
            ),
            (
                KafkaErrorClass::Fenced,
                &[
                    Code::Fenced,
                    Code::ProducerFenced,
                    Code::FencedInstanceId,
                    Code::InvalidProducerEpoch,
                    Code::IllegalGeneration,
                    Code::UnknownMemberId,
                ],
            ),
        ];
        let found = CLASSES.iter().find(|(_, codes)| codes.contains(&code));
        found.map_or(KafkaErrorClass::Other, |(class, _)| *class)
    }
}
