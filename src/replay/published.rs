//! What a lane published, read beside its journal: each output that is derived again must be there
//! once, with the same bytes.
//!
//! Dead letters have no id of ours and compacted topics lose records: the hash alone vouches for
//! those. Where decisions go by pool, other lanes write to the same partitions.

use super::Record;
use super::compare::Divergence;
use super::source::{Peeked, Source};
use crate::codec::headers::CE_ID;
use crate::lane::LaneSettings;
use crate::lane::prepared::{OutputRecord, OutputTopic, Prepared};
use crate::model::Topic;
use crate::model::journal::JournalRecord;

/// The outputs that are compared one by one.
const COMPARED: [Topic; 3] = [Topic::RouteDecisions, Topic::AllocationEvents, Topic::BalanceEvents];

pub struct Published {
    lane: u32,
    topics: Vec<(Topic, Peeked)>,
    /// Outputs that were found and equal.
    pub equal: u64,
    /// Outputs that are not there any more, because the topic begins later.
    pub deleted: u64,
}

/// `epoch, seq, index` of an output.
type Id = (u32, u64, u32);

impl Published {
    /// To be opened at the first batch that is run again.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn open(
        source: &mut dyn Source,
        settings: &LaneSettings,
        record: &JournalRecord,
    ) -> anyhow::Result<Self> {
        let partition = i32::try_from(record.lane)?;
        let mut topics = Vec::new();
        for topic in COMPARED {
            let by_pool = topic == Topic::RouteDecisions && settings.decisions_by_pool;
            if by_pool || source.bounds(topic, partition)?.is_empty() {
                continue;
            }
            let from = source.offset_at(topic, partition, record.batch_time_ms)?;
            topics.push((topic, Peeked::new(source.open(topic, partition, from)?)));
        }
        Ok(Published { lane: record.lane, topics, equal: 0, deleted: 0 })
    }

    /// Compares the outputs of a batch.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn check(
        &mut self,
        record: &JournalRecord,
        again: &Prepared,
    ) -> anyhow::Result<Option<Divergence>> {
        for output in &again.records {
            let OutputTopic::Known(topic) = &output.topic else { continue };
            let Some((_, cursor)) = self.topics.iter_mut().find(|(known, _)| known == topic) else {
                continue;
            };
            let (id, text) = match id_of(again, output) {
                Some(found) => found,
                None => continue,
            };
            let what = || format!("{} {text}", topic.default_name());
            let differs = |expected: &str, found: &str| {
                Ok(Some(Divergence::new(record, what(), expected, found)))
            };
            match skip_to(cursor, self.lane, id, record)? {
                Place::Here => {}
                Place::Deleted => {
                    self.deleted += 1;
                    continue;
                }
                Place::Extra(extra) => return differs(&extra, "never decided"),
                Place::Missing => return differs("not published", "an output"),
            }
            let Some(published) = cursor.take()? else { continue };
            let value = output.value.as_ref().map(|value| again.slice(value));
            let key = output.key.as_ref().map(|key| again.slice(key));
            if published.value.as_deref() != value || published.key.as_deref() != key {
                let shown =
                    |bytes: Option<&[u8]>| format!("{} bytes", bytes.map_or(0, <[u8]>::len));
                return differs(
                    &shown(published.value.as_deref()),
                    &format!("other {}", shown(value)),
                );
            }
            let headers = published.headers.iter();
            let headers = headers.map(|(name, value)| (name.as_str(), value.as_deref()));
            if !headers.eq(again.headers_of(output)) {
                return differs("headers", "other headers");
            }
            self.equal += 1;
        }
        Ok(None)
    }
}

enum Place {
    Here,
    Deleted,
    Missing,
    Extra(String),
}

/// Moves to the record with this id.
fn skip_to(
    cursor: &mut Peeked,
    lane: u32,
    id: Id,
    record: &JournalRecord,
) -> anyhow::Result<Place> {
    let first = (record.epoch, record.seq, 0);
    loop {
        let Some(next) = cursor.peek()? else { return Ok(Place::Missing) };
        let (of_lane, found) = match text_id(next) {
            Some(text) => match parse_id(text) {
                Some(parsed) => parsed,
                None => return Ok(Place::Extra(text.to_owned())),
            },
            None => return Ok(Place::Extra("a record without an id".to_owned())),
        };
        if of_lane == lane && found == id {
            return Ok(Place::Here);
        }
        if of_lane == lane && found > id {
            // The topic begins with a later batch, or this output never came.
            let is_later = (found.0, found.1) > (id.0, id.1);
            return Ok(if is_later { Place::Deleted } else { Place::Missing });
        }
        // A batch before the first that is compared has the same time.
        if of_lane == lane && found >= first {
            let (epoch, seq, index) = found;
            return Ok(Place::Extra(format!("{lane}-{epoch}-{seq}-{index}")));
        }
        cursor.take()?;
    }
}

fn text_id(record: &Record) -> Option<&str> {
    let (_, value) = record.headers.iter().find(|(name, _)| name == CE_ID)?;
    std::str::from_utf8(value.as_deref()?).ok()
}

/// The lane and the place of `lane-epoch-seq-index`.
pub fn parse_id(text: &str) -> Option<(u32, Id)> {
    let mut parts = text.split('-');
    let lane = parts.next()?.parse().ok()?;
    let id =
        (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some((lane, id))
}

fn id_of<'a>(again: &'a Prepared, output: &'a OutputRecord) -> Option<(Id, &'a str)> {
    let (_, value) = again.headers_of(output).find(|(name, _)| *name == CE_ID)?;
    let text = std::str::from_utf8(value?).ok()?;
    parse_id(text).map(|(_, id)| (id, text))
}
