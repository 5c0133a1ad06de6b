//! Answers as text in which only that differs which must not.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::records::{Compression, RecordBatchDecoder};

/// Long after what scripts say of their records, and before any run.
const NOW_MS: i64 = 1_750_000_000_000;

/// The names of what has another one in each run.
#[derive(Debug, Default)]
pub struct Shown {
    /// What a script named, and as what it is shown.
    names: Vec<(String, String)>,
    /// By kind, in the order in which they were seen.
    seen: Vec<(&'static str, String)>,
}

impl Shown {
    pub fn name(&mut self, name: &str, stem: &str) {
        self.names.push((name.to_owned(), stem.to_owned()));
    }

    pub fn text(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, stem)| text.replace(name, stem))
    }

    /// An answer's `{:?}`.
    pub fn answer(&mut self, debug: &str) -> String {
        let mut text = self.text(debug);
        // What an error message says is for people.
        for dropped in [
            "unknown_tagged_fields",
            "throttle_time_ms",
            "node_endpoints",
            "records",
            "error_message",
            "batch_index_error_message",
        ] {
            text = rewrite(&text, dropped, |_| None);
        }
        // Tagged fields, or those of other versions, that are not there.
        for (field, absent) in [
            ("current_leader", "LeaderIdAndEpoch { leader_id: -1, leader_epoch: -1 }"),
            ("diverging_epoch", "EpochEndOffset { epoch: -1, end_offset: -1 }"),
            ("snapshot_id", "SnapshotId { end_offset: -1, epoch: -1 }"),
            ("ongoing_txn_producer_id", "-1"),
            ("ongoing_txn_producer_epoch", "-1"),
            ("results_by_transaction", "[]"),
        ] {
            text = rewrite(&text, field, |value| (value != absent).then(|| value.to_owned()));
        }
        for field in ["error_code", "partition_error_code"] {
            text = rewrite(&text, field, |code| {
                let code: i16 = code.parse().unwrap();
                Some(match ResponseError::try_from_code(code) {
                    Some(error) => format!("{error:?}"),
                    None if code == 0 => "none".to_owned(),
                    None => format!("unknown {code}"),
                })
            });
        }
        for (field, kind) in
            [("member_id", "member"), ("leader", "member"), ("topic_id", "topic id")]
        {
            text = rewrite(&text, field, |value| {
                let nothing = ["\"\"", "00000000-0000-0000-0000-000000000000"];
                Some(if nothing.contains(&value) {
                    "none".to_owned()
                } else if kind == "member" && !value.starts_with('"') {
                    value.to_owned()
                } else {
                    self.alias(kind, value)
                })
            });
        }
        text = rewrite(&text, "producer_id", |value| {
            Some(if value == "-1" { value.to_owned() } else { self.alias("producer", value) })
        });
        text = rewrite(&text, "log_append_time_ms", |value| {
            let is_scripts = value.parse().is_ok_and(|time_ms: i64| time_ms < NOW_MS);
            Some(if is_scripts { value } else { "now" }.to_owned())
        });
        for field in ["port", "cluster_id"] {
            text = rewrite(&text, field, |_| Some("…".to_owned()));
        }
        text
    }

    /// Record batches, one a line; of compressed ones the header only.
    pub fn batches(&mut self, bytes: &Bytes) -> Vec<String> {
        /// Base offset and length come before what the length counts.
        const BEFORE: usize = 12;
        let mut at = 0;
        let mut lines = Vec::new();
        while let Some(length) = bytes.get(at + 8..at + BEFORE) {
            let end = at + BEFORE + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            // A broker may end with a part of a batch, which clients leave alone.
            if end > bytes.len() {
                break;
            }
            lines.push(self.batch(&bytes.slice(at..end)));
            at = end;
        }
        lines
    }

    fn batch(&mut self, bytes: &Bytes) -> String {
        let info = RecordBatchDecoder::decode_batch_info(&mut bytes.clone()).unwrap().remove(0);
        let base = info.min_offset;
        let last = base + i64::from(i32::from_be_bytes(bytes[23..27].try_into().unwrap()));
        let mut line = format!(
            "batch {base} to {last}, {} records, leader epoch {}, {:?}, {:?} time",
            info.record_count, info.partition_leader_epoch, info.compression, info.timestamp_type
        );
        if info.producer_id != -1 {
            let producer = self.alias("producer", &info.producer_id.to_string());
            line += &format!(
                ", {producer} epoch {} sequence {}",
                info.producer_epoch, info.base_sequence
            );
        }
        line += if info.transactional { ", transactional" } else { "" };
        line += if info.control { ", control" } else { "" };
        if info.compression == Compression::None {
            for record in RecordBatchDecoder::decode(&mut bytes.clone()).unwrap().records {
                let (key, value) = (bytes_text(record.key), bytes_text(record.value));
                line += &format!(" [{} {key} = {value}]", record.offset);
            }
        }
        line
    }

    fn alias(&mut self, kind: &'static str, value: &str) -> String {
        let found = self.seen.iter().any(|(of, seen)| *of == kind && seen == value);
        if !found {
            self.seen.push((kind, value.to_owned()));
        }
        let place = self
            .seen
            .iter()
            .filter(|(of, _)| *of == kind)
            .position(|(_, seen)| seen == value)
            .unwrap_or_default();
        format!("{kind} {}", place + 1)
    }
}

fn bytes_text(bytes: Option<Bytes>) -> String {
    bytes.map_or_else(|| "null".to_owned(), |bytes| bytes.escape_ascii().to_string())
}

/// Every `field: value` of a `{:?}` with another value, or gone where `replace` gives none.
fn rewrite(text: &str, field: &str, mut replace: impl FnMut(&str) -> Option<String>) -> String {
    let pattern = format!("{field}: ");
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(&pattern) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
            out.push_str(&pattern);
            rest = &from[pattern.len()..];
            continue;
        }
        let value = &from[pattern.len()..];
        let (value, after) = value.split_at(value_end(value));
        rest = after;
        match replace(value) {
            Some(value) => out.push_str(&format!("{pattern}{value}")),
            None if out.ends_with(", ") => out.truncate(out.len() - 2),
            None => rest = after.strip_prefix(", ").unwrap_or(after),
        }
    }
    out + rest
}

/// Where the value at the start of `text` ends.
fn value_end(text: &str) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, found) in text.char_indices() {
        match found {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            _ if in_string => {}
            '{' | '[' | '(' => depth += 1,
            ',' | '}' | ']' | ')' if depth == 0 => return text[..at].trim_end().len(),
            '}' | ']' | ')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

#[test]
fn fields_are_rewritten_wherever_they_stand() {
    let text = r#"A { id: 1, my_id: 2, b: [B { id: "x, }", c: {} }, B { c: {}, id: f(3, 4) }] }"#;
    assert_eq!(
        rewrite(text, "id", |value| (value != "1").then(|| "…".to_owned())),
        r#"A { my_id: 2, b: [B { id: …, c: {} }, B { c: {}, id: … }] }"#
    );
    assert_eq!(
        rewrite(text, "c", |_| None),
        r#"A { id: 1, my_id: 2, b: [B { id: "x, }" }, B { id: f(3, 4) }] }"#
    );
}
