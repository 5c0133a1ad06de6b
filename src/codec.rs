//! Bytes ↔ model: Avro (single-object or Confluent framing), JSON, and the headers around them.
//!
//! Pure: the schema registry is asked by the shell, which hands over what it learnt.

use crate::model::Topic;

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

/// Decodes inputs and encodes outputs, with one format for the outputs.
#[derive(Debug)]
pub struct Codec {
    pub output: OutputFormat,
}
