//! Exit codes: stable, so that scripts and service managers may rely on them.

use std::process::ExitCode;

use rdkafka::error::KafkaError;

use crate::config::ConfigErrors;
use crate::registry::RegistryError;
use crate::telemetry::KafkaErrorClass;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    /// A plan, an audit, a check: something is not as it should be.
    Difference = 3,
    NotFound = 4,
    /// The user said no, or could not be asked.
    Refused = 5,
    /// Kafka, or the schema registry, cannot be reached.
    Unreachable = 69,
    /// The state refuses to start. Restarting does not help.
    StateRefused = 70,
    /// Fenced, or a passing failure: restarting helps.
    Transient = 75,
    Denied = 77,
    /// Restarting does not help.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error whose exit code does not follow from its cause.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Coded {
    pub exit: Exit,
    pub message: String,
}

/// An error with an exit code of its own.
pub fn coded(exit: Exit, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Coded { exit, message: message.into() })
}

/// The exit code of an error: the first cause that says one.
pub fn of(error: &anyhow::Error) -> Exit {
    for cause in error.chain() {
        if let Some(coded) = cause.downcast_ref::<Coded>() {
            return coded.exit;
        }
        if cause.is::<ConfigErrors>() {
            return Exit::Config;
        }
        if let Some(registry) = cause.downcast_ref::<RegistryError>() {
            return of_registry(registry);
        }
        if let Some(kafka) = cause.downcast_ref::<KafkaError>() {
            return of_kafka(kafka);
        }
    }
    Exit::Failed
}

fn of_registry(error: &RegistryError) -> Exit {
    match error {
        RegistryError::Unreachable { .. } => Exit::Unreachable,
        RegistryError::Unauthorized { .. } => Exit::Denied,
        RegistryError::Url { .. } => Exit::Config,
        RegistryError::Refused { .. }
        | RegistryError::Answer { .. }
        | RegistryError::NotAvro { .. } => Exit::Failed,
    }
}

fn of_kafka(error: &KafkaError) -> Exit {
    if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) {
        return Exit::Config;
    }
    let Some(code) = error.rdkafka_error_code() else { return Exit::Failed };
    match KafkaErrorClass::of(code) {
        KafkaErrorClass::Transport | KafkaErrorClass::TimedOut => Exit::Unreachable,
        KafkaErrorClass::Denied => Exit::Denied,
        KafkaErrorClass::Fenced => Exit::Transient,
        KafkaErrorClass::Other => Exit::Failed,
    }
}

/// Whether the reader of our output went away, as `head` does: no failure of ours.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|error| error.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
}
