//! Dead letters as they are read, and which of them were sent again.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cli::kafka::{Cluster, Record};
use crate::cli::tool_codec;
use crate::codec::headers::CONNECT_ERRORS_PREFIX;
use crate::config::Config;
use crate::model::Topic;
use crate::replay::audit::Range;

/// The header that names the redrive, on every record that was sent again.
pub const REPLAY_ID: &str = "replay-id";

/// Which letters are looked at.
pub struct Wanted {
    pub topics: Vec<Topic>,
    pub reason: Option<String>,
    pub range: Range,
}

pub struct Letter {
    pub topic: Topic,
    pub topic_name: String,
    pub stage: String,
    pub reason: String,
    pub message: String,
    pub record: Record,
}

impl Letter {
    fn of(topic: Topic, record: Record) -> Self {
        let header = |name: &str| {
            let name = format!("{CONNECT_ERRORS_PREFIX}{name}");
            let found = record.headers.iter().rev().find(|(known, _)| *known == name);
            let value = found.and_then(|(_, value)| value.as_deref()).unwrap_or_default();
            String::from_utf8_lossy(value).into_owned()
        };
        Letter {
            topic,
            topic_name: record.topic.clone(),
            stage: header("stage"),
            reason: header("exception.class.name"),
            message: header("exception.message"),
            record,
        }
    }

    pub fn place(&self) -> String {
        format!("{}:{}:{}", self.topic_name, self.record.partition, self.record.offset)
    }

    /// The input that the record is of.
    pub fn input(&self) -> Option<Topic> {
        Topic::ALL.into_iter().find(|topic| topic.dlq() == Some(self.topic))
    }

    /// The record's own headers, as they came.
    pub fn original_headers(&self) -> impl Iterator<Item = &(String, Option<Vec<u8>>)> {
        let is_own = |name: &str| !name.starts_with(CONNECT_ERRORS_PREFIX);
        self.record.headers.iter().filter(move |(name, _)| is_own(name))
    }

    /// How often it was sent again before.
    pub fn redrives(&self) -> usize {
        self.record.headers.iter().filter(|(name, _)| name == REPLAY_ID).count()
    }
}

/// Every wanted letter, each partition in order.
///
/// # Errors
/// A topic cannot be read.
pub fn read(
    cluster: &Cluster<'_>,
    config: &Config,
    wanted: &Wanted,
    each: &mut dyn FnMut(Letter) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let partitions = cluster.partitions()?;
    for topic in &wanted.topics {
        let name = config.topics.name(*topic);
        let Some(count) = partitions.get(name) else { continue };
        cluster.read_all(name, *count, |record| {
            let at = record.timestamp_ms;
            if at < wanted.range.since.as_ms() || at >= wanted.range.until.as_ms() {
                return Ok(());
            }
            let letter = Letter::of(*topic, record);
            if wanted.reason.as_ref().is_none_or(|reason| *reason == letter.reason) {
                each(letter)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What a redrive notes in `operator-actions`, in the same transaction that sends the records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub replay_id: String,
    /// The topic of dead letters.
    pub topic: String,
    /// Partition and offset of each letter.
    pub letters: Vec<(i32, i64)>,
}

/// Letters that were sent again.
#[derive(Debug, Default)]
pub struct Redriven {
    places: BTreeSet<(String, i32, i64)>,
    /// Marks older than this may be deleted, milliseconds since the epoch.
    pub known_since_ms: i64,
}

impl Redriven {
    pub fn contains(&self, letter: &Letter) -> bool {
        let Record { partition, offset, .. } = letter.record;
        self.places.contains(&(letter.topic_name.clone(), partition, offset))
    }

    /// Whether a mark of this letter would still be there.
    pub fn covers(&self, letter: &Letter) -> bool {
        letter.record.timestamp_ms >= self.known_since_ms
    }
}

pub const REDRIVE: &str = "redrive";

/// Reads the marks of all redrives.
///
/// # Errors
/// `operator-actions` cannot be read.
pub fn redriven(cluster: &Cluster<'_>, config: &Config) -> anyhow::Result<Redriven> {
    let name = config.topics.name(Topic::OperatorActions);
    let mut done = Redriven { places: BTreeSet::new(), known_since_ms: i64::MIN };
    let Some(count) = cluster.partitions()?.get(name).copied() else { return Ok(done) };
    let codec = tool_codec(config)?;
    let mut first = true;
    cluster.read_all(name, count, |record| {
        if std::mem::take(&mut first) && record.offset > 0 {
            done.known_since_ms = record.timestamp_ms;
        }
        let Ok(action) =
            record.with(Topic::OperatorActions, |raw| codec.decode_operator_action(raw))
        else {
            return Ok(());
        };
        if action.kind == REDRIVE
            && let Ok(mark) = serde_json::from_str::<Mark>(&action.detail)
        {
            let places = mark.letters.iter();
            done.places.extend(
                places.map(|(partition, offset)| (mark.topic.clone(), *partition, *offset)),
            );
        }
        Ok(())
    })?;
    Ok(done)
}
