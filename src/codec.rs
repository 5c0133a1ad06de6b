//! Bytes ↔ model: Avro (single-object or Confluent framing), JSON, and the headers around them.
//!
//! Pure: the schema registry is asked by the shell, which hands over what it learnt. Inputs are
//! untrusted: whatever the bytes, the answer is a value within its bounds or an error with a
//! reason, and what is allocated is bounded by the input's size.

mod binary;
pub mod decode;
pub mod encode;
mod error;
pub mod headers;
mod inbox;
mod inputs;
mod json;
mod outputs;
mod resolve;
pub mod schema;
#[cfg(test)]
mod tests;
mod writers;

use std::collections::BTreeMap;

use crate::model::Topic;

pub use error::{CodecError, DecodeError, LearnError, WriterId};
use writers::Writers;

/// A record as a client hands it over; it borrows from the client's buffers.
#[derive(Debug, Clone, Copy)]
pub struct RawRecord<'a> {
    pub topic: Topic,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch; -1 where the record has none.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
}

#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
}

/// How outputs are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// Avro single-object encoding.
    #[default]
    Avro,
    /// Confluent wire format; needs a schema registry.
    Confluent,
    Json,
}

/// What the schema registry knows, as the shell learnt it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegisteredSchemas {
    /// The registry id of the schema of each topic that is written.
    pub ids: BTreeMap<Topic, u32>,
    /// Schemas of other writers, by registry id; more can be learnt later.
    pub writers: BTreeMap<u32, String>,
}

/// Topics whose records the router writes in the output format. `journal` and `lane-inbox` are
/// internal and always Avro single-object.
pub const REGISTERED_TOPICS: [Topic; 6] = [
    Topic::RouteDecisions,
    Topic::AllocationEvents,
    Topic::BalanceEvents,
    Topic::LoadSnapshots,
    Topic::HealthEvents,
    Topic::OperatorActions,
];

/// Decodes inputs and encodes outputs, with one format for the outputs. Shared by all lanes.
#[derive(Debug)]
pub struct Codec {
    output: OutputFormat,
    ids: BTreeMap<Topic, u32>,
    writers: Writers,
}

impl Codec {
    /// A codec for one output format.
    ///
    /// # Errors
    /// The format is `confluent` and the id of one of [`REGISTERED_TOPICS`] is missing, or a
    /// writer's schema cannot be used.
    pub fn new(output: OutputFormat, registered: RegisteredSchemas) -> Result<Self, CodecError> {
        if output == OutputFormat::Confluent {
            for topic in REGISTERED_TOPICS {
                if !registered.ids.contains_key(&topic) {
                    return Err(CodecError::NotRegistered(topic));
                }
            }
        }
        let codec = Codec { output, ids: registered.ids, writers: Writers::default() };
        for (topic, id) in &codec.ids {
            if let Some(schema) = schema::of(*topic) {
                codec.writers.learn(*id, schema.text)?;
            }
        }
        for (id, text) in &registered.writers {
            codec.writers.learn(*id, text)?;
        }
        Ok(codec)
    }

    /// The format of the outputs.
    pub fn output(&self) -> OutputFormat {
        self.output
    }

    /// Adds a writer's schema, for records that name it by this id or by its fingerprint. At most
    /// 256 are known at once.
    ///
    /// # Errors
    /// The text is no Avro schema, or no topic's records can be read with it.
    pub fn learn_schema(&self, id: u32, text: &str) -> Result<(), LearnError> {
        self.writers.learn(id, text)
    }

    /// Notes that the registry does not have this id, or has something that cannot be used: records
    /// with it are dead letters, and [`Codec::unknown_schema`] does not ask for it again for now.
    pub fn refuse_schema(&self, id: u32, problem: &str) {
        self.writers.refuse(id, problem);
    }

    /// The registry id that must be learnt or refused before this record can be decoded.
    pub fn unknown_schema(&self, record: &RawRecord<'_>) -> Option<u32> {
        match decode::framing(record) {
            Ok(decode::Framing::Confluent { id, .. }) if !self.writers.knows(id) => Some(id),
            Ok(_) | Err(_) => None,
        }
    }

    /// The format of what is written to a topic.
    fn format_of(&self, topic: Topic) -> OutputFormat {
        match topic {
            Topic::Journal | Topic::LaneInbox | Topic::Snapshots => OutputFormat::Avro,
            Topic::Tasks
            | Topic::TaskResults
            | Topic::HealthEvents
            | Topic::Fleet
            | Topic::RouteDecisions
            | Topic::AllocationEvents
            | Topic::BalanceEvents
            | Topic::LoadSnapshots
            | Topic::OperatorActions
            | Topic::TasksDlq
            | Topic::TaskResultsDlq
            | Topic::LaneInboxDlq
            | Topic::HealthEventsDlq
            | Topic::FleetDlq => match self.output {
                // What only tools write need not be registered.
                OutputFormat::Confluent if !self.ids.contains_key(&topic) => OutputFormat::Avro,
                OutputFormat::Avro | OutputFormat::Confluent | OutputFormat::Json => self.output,
            },
        }
    }
}
