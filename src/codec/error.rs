//! Why bytes cannot be used, with the labels that metrics and dead letters carry.

use std::fmt;

use crate::model::Topic;
use crate::model::invalid::Invalid;

/// How a record names its writer's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriterId {
    /// Confluent framing.
    Registry(u32),
    /// Avro single-object encoding.
    Fingerprint(u64),
}

impl fmt::Display for WriterId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriterId::Registry(id) => write!(formatter, "registry id {id}"),
            WriterId::Fingerprint(fingerprint) => {
                write!(formatter, "fingerprint {fingerprint:016x}")
            }
        }
    }
}

/// Why a record cannot be used. Its text is a dead letter's error message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum DecodeError {
    #[error("the record has no value")]
    NoValue,
    #[error("the value has {bytes} bytes; at most {max} are read")]
    TooLarge { bytes: usize, max: usize },
    #[error(
        "the value is neither Avro (first bytes c3 01, or 00 with a schema id) nor JSON (first byte `{{`, or content-type application/json): it begins with {0}"
    )]
    UnknownFormat(String),
    #[error("the value is cut off inside its Avro header")]
    Header,
    #[error("the Avro schema with fingerprint {0:016x} is not known for this topic")]
    UnknownFingerprint(u64),
    /// The shell asks the schema registry, teaches the codec and tries again.
    #[error("the schema with registry id {0} is not known")]
    UnknownSchemaId(u32),
    #[error("the schema with {schema} cannot be read as this topic's schema: {problem}")]
    IncompatibleSchema { schema: WriterId, problem: String },
    #[error("avro: {}{problem}", In(field))]
    Avro { field: &'static str, problem: String },
    #[error("json: {0}")]
    Json(String),
    #[error("key: {0}")]
    Key(String),
    #[error("{}", Joined(.0))]
    Invalid(Box<[Invalid]>),
}

/// Each violation beyond this is counted only: the message travels in a header.
const VIOLATIONS_SHOWN_MAX: usize = 16;

struct Joined<'a>(&'a [Invalid]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, invalid) in self.0.iter().take(VIOLATIONS_SHOWN_MAX).enumerate() {
            let separator = if number == 0 { "" } else { "; " };
            write!(formatter, "{separator}{invalid}")?;
        }
        match self.0.len().saturating_sub(VIOLATIONS_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(formatter, "; and {more} more"),
        }
    }
}

struct In<'a>(&'a str);

impl fmt::Display for In<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, "{}: ", self.0) }
    }
}

impl DecodeError {
    pub(super) fn invalid(invalid: Invalid) -> Self {
        DecodeError::Invalid(Box::new([invalid]))
    }

    /// The label of this error in metrics; a closed list.
    pub const fn reason(&self) -> &'static str {
        match self {
            DecodeError::NoValue => "no_value",
            DecodeError::TooLarge { .. } => "too_large",
            DecodeError::UnknownFormat(_) => "unknown_format",
            DecodeError::Header => "header",
            DecodeError::UnknownFingerprint(_) => "unknown_fingerprint",
            DecodeError::UnknownSchemaId(_) => "unknown_schema_id",
            DecodeError::IncompatibleSchema { .. } => "incompatible_schema",
            DecodeError::Avro { .. } => "avro",
            DecodeError::Json(_) => "json",
            DecodeError::Key(_) => "key",
            DecodeError::Invalid(_) => "invalid",
        }
    }

    /// Where a record failed: `decode` (the bytes mean nothing) or `validate` (they mean something
    /// that is not allowed).
    pub const fn stage(&self) -> &'static str {
        match self {
            DecodeError::Key(_) | DecodeError::Invalid(_) | DecodeError::TooLarge { .. } => {
                "validate"
            }
            DecodeError::NoValue
            | DecodeError::UnknownFormat(_)
            | DecodeError::Header
            | DecodeError::UnknownFingerprint(_)
            | DecodeError::UnknownSchemaId(_)
            | DecodeError::IncompatibleSchema { .. }
            | DecodeError::Avro { .. }
            | DecodeError::Json(_) => "decode",
        }
    }
}

/// Why a codec cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CodecError {
    #[error(
        "output format `confluent` needs the schema of `{}` registered, and its id is not known; allowed: an id for each topic that is written",
        .0.default_name()
    )]
    NotRegistered(Topic),
    #[error(transparent)]
    Learn(#[from] LearnError),
}

/// Why a writer's schema cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LearnError {
    #[error("schema {id} is no Avro schema: {problem}")]
    Parse { id: u32, problem: String },
    #[error("schema {id} fits no topic: {problem}")]
    Incompatible { id: u32, problem: String },
    #[error("{max} writer schemas are known already; allowed: fewer versions of schemas at once")]
    TooMany { max: usize },
}
