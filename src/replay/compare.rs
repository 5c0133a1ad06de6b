//! What a batch that was run again differs in from what was journaled.

use serde::Serialize;

use super::journal::Batch;
use crate::codec::Codec;
use crate::lane::Lane;
use crate::lane::prepared::Prepared;
use crate::model::journal::JournalRecord;
use crate::routing::fact::Fact;

/// The first difference of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    pub lane: u32,
    pub epoch: u32,
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub batch_time_ms: i64,
    /// `fact 3`, a field of the journal record, `outputs`, or an output by its topic and id.
    pub what: String,
    /// As it was journaled or published.
    pub expected: String,
    /// As it was decided again.
    pub found: String,
}

/// Bytes of a value that an error text shows: a fact may hold a whole fleet entry.
const SHOWN_BYTES_MAX: usize = 2_048;

impl Divergence {
    pub fn new(
        record: &JournalRecord,
        what: impl Into<String>,
        expected: &str,
        found: &str,
    ) -> Self {
        Divergence {
            lane: record.lane,
            epoch: record.epoch,
            seq: record.seq,
            batch_time_ms: record.batch_time_ms.as_ms(),
            what: what.into(),
            expected: cut(expected),
            found: cut(found),
        }
    }
}

fn cut(text: &str) -> String {
    let end = (0..=text.len().min(SHOWN_BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at));
    let mut shown = text[..end.unwrap_or(0)].to_owned();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// Compares a batch with the same one run again, bit for bit.
pub fn compare(codec: &Codec, batch: &Batch, again: Option<&Prepared>) -> Option<Divergence> {
    let record = &batch.record;
    let Some(again) = again else {
        let facts = format!("{} facts", record.fact_count);
        return Some(Divergence::new(record, "batch", &facts, "nothing is due"));
    };
    let value = again.records.last().and_then(|last| last.value.as_ref());
    let value = value.map(|value| again.slice(value)).unwrap_or_default();
    if value == batch.value {
        return None;
    }
    let decoded = match codec.decode_journal(value) {
        Ok(decoded) => decoded,
        Err(error) => {
            return Some(Divergence::new(record, "journal record", "one", &error.to_string()));
        }
    };
    differ(batch, &decoded).or_else(|| {
        // The same content in other bytes: another writer's encoding.
        (decoded.hash != record.hash)
            .then(|| Divergence::new(record, "outputs", &record.hash, &decoded.hash))
    })
}

fn differ(batch: &Batch, again: &JournalRecord) -> Option<Divergence> {
    let record = &batch.record;
    let shown = |text: &dyn std::fmt::Debug| format!("{text:?}");
    if record.facts != again.facts {
        let facts = batch.facts().unwrap_or_default();
        let again = Lane::facts_of(again).unwrap_or_default();
        let count = facts.len().max(again.len());
        let show = |fact: Option<&Fact>| fact.map_or("none".to_owned(), |fact| shown(fact));
        for number in 0..count {
            let (one, other) = (facts.get(number), again.get(number));
            if one != other {
                let what = format!("fact {number}");
                return Some(Divergence::new(record, what, &show(one), &show(other)));
            }
        }
        return Some(Divergence::new(record, "facts", "other bytes", "the same facts"));
    }
    let fields: [(&str, String, String); 11] = [
        ("lanes", shown(&record.lanes), shown(&again.lanes)),
        ("epoch", shown(&record.epoch), shown(&again.epoch)),
        ("seq", shown(&record.seq), shown(&again.seq)),
        ("prev_hash", record.prev_hash.clone(), again.prev_hash.clone()),
        ("fact_level", shown(&record.fact_level), shown(&again.fact_level)),
        ("batch_time_ms", shown(&record.batch_time_ms), shown(&again.batch_time_ms)),
        ("seed", shown(&record.seed), shown(&again.seed)),
        ("offsets", shown(&record.offsets), shown(&again.offsets)),
        ("reread", shown(&record.reread), shown(&again.reread)),
        ("in_flight", shown(&record.in_flight), shown(&again.in_flight)),
        ("backlog", shown(&record.backlog), shown(&again.backlog)),
    ];
    let other = fields.into_iter().find(|(_, one, other)| one != other);
    other.map(|(what, one, other)| Divergence::new(record, what, &one, &other))
}
