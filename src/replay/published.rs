//! What a lane published, read beside its journal: each output that is derived again must be there
//! once, with the same bytes.
//!
//! Dead letters have no id of ours and compacted topics lose records: the hash alone vouches for
//! those. Where decisions go by pool, other lanes write to the same partitions.

use super::compare::Divergence;
use super::source::{Cursor, Go, Source};
use crate::codec::headers::CE_ID;
use crate::codec::{Header, RawRecord};
use crate::lane::LaneSettings;
use crate::lane::prepared::{OutputRecord, OutputTopic, Prepared};
use crate::model::Topic;
use crate::model::journal::JournalRecord;

/// The outputs that are compared one by one.
const COMPARED: [Topic; 3] = [Topic::RouteDecisions, Topic::AllocationEvents, Topic::BalanceEvents];

pub struct Published {
    lane: u32,
    topics: Vec<(Topic, Box<dyn Cursor>)>,
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
            topics.push((topic, source.open(topic, partition, from)?));
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
        let lane = self.lane;
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
            let mut found = Err(Place::Missing);
            cursor.lend(&mut |published| {
                match place_of(published, (lane, id, text), record) {
                    Seen::Passed => return Ok(Go::On),
                    Seen::Here => found = Ok(is_same(published, again, output)),
                    Seen::Not(place) => {
                        found = Err(place);
                        return Ok(Go::Back);
                    }
                }
                Ok(Go::Enough)
            })?;
            match found {
                Ok(Same::Yes) => self.equal += 1,
                Ok(Same::Value { published, again }) => {
                    return differs(&published, &format!("other {again}"));
                }
                Ok(Same::Headers) => return differs("headers", "other headers"),
                Err(Place::Deleted) => self.deleted += 1,
                Err(Place::Extra(extra)) => return differs(&extra, "never decided"),
                Err(Place::Missing) => return differs("not published", "an output"),
            }
        }
        Ok(None)
    }
}

/// Whether a published record is the output.
enum Same {
    Yes,
    /// Their sizes.
    Value {
        published: String,
        again: String,
    },
    Headers,
}

fn is_same(published: &RawRecord<'_>, again: &Prepared, output: &OutputRecord) -> Same {
    let value = output.value.as_ref().map(|value| again.slice(value));
    let key = output.key.as_ref().map(|key| again.slice(key));
    if published.value != value || published.key != key {
        let shown = |bytes: Option<&[u8]>| format!("{} bytes", bytes.map_or(0, <[u8]>::len));
        return Same::Value { published: shown(published.value), again: shown(value) };
    }
    let headers = published.headers.iter().map(|header| (header.name, header.value));
    if headers.eq(again.headers_of(output)) { Same::Yes } else { Same::Headers }
}

/// Where an output is that is not where it should be.
enum Place {
    Deleted,
    Missing,
    /// Something else is there.
    Extra(String),
}

/// What a published record is, where one is looked for.
enum Seen {
    Here,
    Passed,
    Not(Place),
}

fn place_of(
    published: &RawRecord<'_>,
    (lane, id, id_text): (u32, Id, &str),
    record: &JournalRecord,
) -> Seen {
    let Some(text) = text_id(published.headers) else {
        return Seen::Not(Place::Extra("a record without an id".to_owned()));
    };
    if text == id_text {
        return Seen::Here;
    }
    let Some((of_lane, found)) = parse_id(text) else {
        return Seen::Not(Place::Extra(text.to_owned()));
    };
    if of_lane != lane {
        return Seen::Passed;
    }
    if found == id {
        return Seen::Here;
    }
    if found > id {
        // The topic begins with a later batch, or this output never came.
        let is_later = (found.0, found.1) > (id.0, id.1);
        return Seen::Not(if is_later { Place::Deleted } else { Place::Missing });
    }
    // A batch before the first that is compared has the same time.
    if found < (record.epoch, record.seq, 0) {
        return Seen::Passed;
    }
    let (epoch, seq, index) = found;
    Seen::Not(Place::Extra(format!("{lane}-{epoch}-{seq}-{index}")))
}

fn text_id<'a>(headers: &[Header<'a>]) -> Option<&'a str> {
    let header = headers.iter().find(|header| header.name == CE_ID)?;
    std::str::from_utf8(header.value?).ok()
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
