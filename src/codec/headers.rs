//! Headers: CloudEvents on outputs, the trace context that passes through, and what a dead letter
//! says about itself.

use crate::model::Topic;

use super::{Codec, DecodeError, Header, OutputFormat, RawRecord};

/// The version of CloudEvents, on every output.
pub const CE_SPECVERSION: (&str, &[u8]) = ("ce_specversion", b"1.0");
/// The decision's or event's id: `lane-epoch-seq-index`, the same in a replay.
pub const CE_ID: &str = "ce_id";
/// Who wrote it: `pointsman/<group>`.
pub const CE_SOURCE: &str = "ce_source";
pub const CE_TYPE: &str = "ce_type";
pub const CONTENT_TYPE: &str = "content-type";
pub const TRACEPARENT: &str = "traceparent";

pub const CONTENT_TYPE_AVRO: &[u8] = b"application/avro";
pub const CONTENT_TYPE_JSON: &[u8] = b"application/json";

/// `ce_type` of an output topic's records; `None` for dead letters, which are no events of ours,
/// and for snapshots, which are ours alone.
pub const fn ce_type(topic: Topic) -> Option<&'static [u8]> {
    match topic {
        Topic::Tasks => Some(b"pointsman.task.v1"),
        Topic::TaskResults => Some(b"pointsman.task_result.v1"),
        Topic::LaneInbox => Some(b"pointsman.lane_inbox.v1"),
        Topic::HealthEvents => Some(b"pointsman.health_event.v1"),
        Topic::Fleet => Some(b"pointsman.fleet_entry.v1"),
        Topic::RouteDecisions => Some(b"pointsman.route_decision.v1"),
        Topic::AllocationEvents => Some(b"pointsman.allocation_event.v1"),
        Topic::BalanceEvents => Some(b"pointsman.balance_event.v1"),
        Topic::LoadSnapshots => Some(b"pointsman.load_snapshot.v1"),
        Topic::Journal => Some(b"pointsman.journal.v1"),
        Topic::OperatorActions => Some(b"pointsman.operator_action.v1"),
        Topic::Snapshots
        | Topic::TasksDlq
        | Topic::TaskResultsDlq
        | Topic::LaneInboxDlq
        | Topic::HealthEventsDlq
        | Topic::FleetDlq => None,
    }
}

impl Codec {
    /// The `content-type` of what this codec writes to a topic.
    pub fn content_type(&self, topic: Topic) -> &'static [u8] {
        match self.format_of(topic) {
            OutputFormat::Avro | OutputFormat::Confluent => CONTENT_TYPE_AVRO,
            OutputFormat::Json => CONTENT_TYPE_JSON,
        }
    }
}

/// Names of the headers that a dead letter carries besides its record's own ones.
pub const CONNECT_ERRORS_PREFIX: &str = "__connect.errors.";
pub const CONNECT_ERRORS_OFFSET: &str = "__connect.errors.offset";

/// The record's W3C trace context, where it has a valid one. An invalid one is dropped, as the
/// recommendation asks.
pub fn traceparent<'a>(headers: &[Header<'a>]) -> Option<&'a [u8]> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case(TRACEPARENT))?;
    header.value.filter(|value| is_traceparent(value))
}

/// `version-trace_id-parent_id-flags` in lower-case hexadecimal digits; ids are not all zeros.
fn is_traceparent(value: &[u8]) -> bool {
    const LENGTH: usize = 55;
    let hexadecimal =
        |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let id = |part: &[u8]| hexadecimal(part) && part.iter().any(|byte| *byte != b'0');
    let Some((known, more)) = value.split_at_checked(LENGTH) else {
        return false;
    };
    // A later version may append fields; version 00 has none, and version ff is forbidden.
    let length_fits = match &known[..2] {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => more.is_empty() || more.starts_with(b"-"),
    };
    length_fits
        && hexadecimal(&known[..2])
        && known[2] == b'-'
        && id(&known[3..35])
        && known[35] == b'-'
        && id(&known[36..52])
        && known[52] == b'-'
        && hexadecimal(&known[53..])
        && value.len() <= TRACEPARENT_BYTES_MAX
}

/// Bound of a trace context of a later version: it is copied into every output of the task.
const TRACEPARENT_BYTES_MAX: usize = 256;

/// Bound of an error text in a header; brokers count headers into the record's size.
const ERROR_BYTES_MAX: usize = 2_048;

/// What a dead letter is about. Kafka Connect's tools read the same names.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// The input topic's name as it is configured.
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// The consumer group.
    pub group: &'a str,
    /// The lane, in the place of a Connect task.
    pub lane: u32,
    /// `decode`, `validate` or `core`.
    pub stage: &'a str,
    /// A stable label, such as `unknown_format`.
    pub reason: &'a str,
    pub message: &'a str,
}

impl<'a> DeadLetter<'a> {
    /// What a record that cannot be decoded becomes; `message` is the error's text.
    pub fn of(
        record: &RawRecord<'_>,
        topic: &'a str,
        group: &'a str,
        lane: u32,
        error: &DecodeError,
        message: &'a str,
    ) -> Self {
        DeadLetter {
            topic,
            partition: record.partition,
            offset: record.offset,
            group,
            lane,
            stage: error.stage(),
            reason: error.reason(),
            message,
        }
    }

    /// Calls `put` with the name and the value of each header, after the record's own ones.
    pub fn headers(&self, mut put: impl FnMut(&'static str, &[u8])) {
        put("__connect.errors.topic", self.topic.as_bytes());
        put("__connect.errors.partition", self.partition.to_string().as_bytes());
        put(CONNECT_ERRORS_OFFSET, self.offset.to_string().as_bytes());
        put("__connect.errors.connector.name", self.group.as_bytes());
        put("__connect.errors.task.id", self.lane.to_string().as_bytes());
        put("__connect.errors.stage", self.stage.as_bytes());
        put("__connect.errors.class.name", b"pointsman");
        put("__connect.errors.exception.class.name", self.reason.as_bytes());
        put("__connect.errors.exception.message", cut(self.message).as_bytes());
    }
}

/// The beginning of a text that fits a header.
fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(ERROR_BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::DecodeError;

    #[test]
    fn only_valid_trace_contexts_pass() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let rows = [
            (good.to_owned(), true),
            (good.replace("00-4", "ff-4"), false),
            (good.replace("00-4", "01-4"), true),
            (format!("{}-more", good.replace("00-4", "01-4")), true),
            (format!("{}more", good.replace("00-4", "01-4")), false),
            (format!("{good}-more"), false),
            (good.to_uppercase(), false),
            (good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)), false),
            (good.replace("00f067aa0ba902b7", &"0".repeat(16)), false),
            (good.replace('-', "_"), false),
            (good[..54].to_owned(), false),
            (format!("{}-{}", good.replace("00-4", "01-4"), "x".repeat(300)), false),
            (String::new(), false),
        ];
        for (value, expected) in rows {
            let headers = [
                Header { name: "other", value: None },
                Header { name: "Traceparent", value: Some(value.as_bytes()) },
            ];
            let found = traceparent(&headers);
            assert_eq!(found, expected.then_some(value.as_bytes()), "{value}");
        }
        assert_eq!(traceparent(&[Header { name: "traceparent", value: None }]), None);
    }

    #[test]
    fn dead_letters_carry_connects_headers() {
        let record = RawRecord {
            topic: Topic::Tasks,
            partition: 3,
            offset: 7,
            timestamp_ms: -1,
            key: None,
            value: None,
            headers: &[],
        };
        let error = DecodeError::NoValue;
        let message = error.to_string();
        let letter = DeadLetter::of(&record, "tasks", "pointsman", 3, &error, &message);
        let mut found = Vec::new();
        letter.headers(|name, value| {
            found.push(format!("{name}={}", String::from_utf8_lossy(value)));
        });
        let expected = [
            "__connect.errors.topic=tasks",
            "__connect.errors.partition=3",
            "__connect.errors.offset=7",
            "__connect.errors.connector.name=pointsman",
            "__connect.errors.task.id=3",
            "__connect.errors.stage=decode",
            "__connect.errors.class.name=pointsman",
            "__connect.errors.exception.class.name=no_value",
            "__connect.errors.exception.message=the record has no value",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let message = "ä".repeat(2_000);
        assert_eq!(cut(&message), "ä".repeat(1_024));
        assert_eq!(cut("short"), "short");
    }
}
