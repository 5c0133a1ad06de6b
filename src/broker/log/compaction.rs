//! Compaction, as Kafka's log cleaner does it: of every key the latest value stays, and what aborted
//! transactions wrote goes. Offsets stay, so there are gaps.
//!
//! A reader sees the same as of Kafka, with two differences. Kafka compacts what is not in the active
//! segment, here it is all but the last batch: there are no segments. And where Kafka keeps an empty
//! batch as the last of an active producer, here it goes: the log remembers its producers apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::batch::{self, Batch};
use super::{Aborted, Kept, Log};

/// Less than this is not worth a compaction for its bytes alone.
const DIRTY_BYTES_MIN: usize = 16 << 10;
/// A compaction reads everything, so it costs at most ten times what was appended since the last.
const DIRTY_RATIO_MIN: f64 = 0.1;

/// A topic's settings for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Compaction {
    /// The share of bytes appended since the last one, [0, 1].
    pub dirty_ratio: f64,
    /// How long tombstones stay after the first compaction that sees them.
    pub delete_retention_ms: i64,
    pub lag_ms_min: i64,
    pub lag_ms_max: i64,
}

impl Log {
    /// Whether enough was appended.
    pub fn is_dirty(&self, rules: &Compaction) -> bool {
        let dirty = self.bytes.saturating_sub(self.compacted_bytes);
        dirty >= DIRTY_BYTES_MIN && self.has_share(dirty, rules.dirty_ratio.max(DIRTY_RATIO_MIN))
    }

    /// Whether it is time for what little was appended.
    pub fn is_due(&self, now_ms: i64, rules: &Compaction) -> bool {
        let dirty = self.bytes.saturating_sub(self.compacted_bytes);
        let waited_ms = self.dirty_since_ms.map(|since_ms| now_ms - since_ms);
        (dirty > 0 && self.has_share(dirty, rules.dirty_ratio))
            || waited_ms.is_some_and(|waited_ms| waited_ms > rules.lag_ms_max)
    }

    fn has_share(&self, dirty: usize, ratio: f64) -> bool {
        dirty as f64 >= ratio * self.bytes as f64
    }

    /// Compacts everything below the last stable offset, the last batch and the minimal lag.
    pub fn compact(&mut self, now_ms: i64, rules: &Compaction) {
        let end = self.compactable_end(now_ms, rules);
        let count = self.batches.partition_point(|kept| kept.batch.last_offset() < end);
        let after = self.batches.split_off(count);
        let latest = self.latest_offsets();
        let mut transactions = Transactions::new(&self.aborted);
        let mut kept = VecDeque::new();
        for mut one in std::mem::take(&mut self.batches) {
            let gone = transactions.is_gone(&one.batch);
            let is_last = one.batch.last_offset() + 1 == end;
            if one.filter(now_ms, rules, gone, is_last, &latest) {
                kept.push_back(one);
            }
        }
        kept.extend(after);
        self.batches = kept;
        // What they wrote is gone; the marker of one may be later.
        self.aborted.retain(|aborted| aborted.last_offset >= end);
        self.bytes = self.batches.iter().map(|kept| Log::cost(kept.batch.size())).sum();
        self.compacted_bytes = self.bytes;
        self.dirty_since_ms = None;
    }

    fn compactable_end(&self, now_ms: i64, rules: &Compaction) -> i64 {
        let active = self.batches.back().map_or(0, |kept| kept.batch.header().base_offset);
        let end = active.min(self.last_stable_offset());
        if rules.lag_ms_min == 0 {
            return end;
        }
        let headers = self.batches.iter().map(|kept| kept.batch.header());
        let young_ms = now_ms.saturating_sub(rules.lag_ms_min);
        let young = headers.into_iter().find(|header| header.max_timestamp_ms > young_ms);
        young.map_or(end, |header| end.min(header.base_offset))
    }

    /// Of every key that was not aborted, where it was written last.
    fn latest_offsets(&self) -> BTreeMap<Vec<u8>, i64> {
        let mut latest = BTreeMap::new();
        let mut transactions = Transactions::new(&self.aborted);
        for Kept { batch, .. } in &self.batches {
            if transactions.is_gone(batch) || batch.header().is_control() {
                continue;
            }
            let Some(payload) = batch.payload() else { continue };
            for record in batch::records(&payload).flatten() {
                let offset = batch.header().base_offset + i64::from(record.offset_delta);
                match record.key.map(|key| (key, latest.get_mut(key))) {
                    Some((_, Some(known))) => *known = offset,
                    Some((key, None)) => drop(latest.insert(key.to_vec(), offset)),
                    None => {}
                }
            }
        }
        latest
    }
}

impl Kept {
    /// Takes out what goes; `false`: the batch goes as a whole. The last one of a compaction stays
    /// empty, so that readers come to its end.
    fn filter(
        &mut self,
        now_ms: i64,
        rules: &Compaction,
        is_gone: bool,
        is_last: bool,
        latest: &BTreeMap<Vec<u8>, i64>,
    ) -> bool {
        let header = *self.batch.header();
        let expired = self.delete_from_ms.is_some_and(|from_ms| from_ms <= now_ms);
        if header.is_control() && is_gone && !expired {
            self.delete_from_ms.get_or_insert(now_ms.saturating_add(rules.delete_retention_ms));
            return true;
        }
        if header.is_control() && !is_gone {
            return true;
        }
        let mut filtered = Filtered::default();
        if !is_gone {
            // What cannot be read was checked when it came, so it was appended to no such topic.
            let Some(payload) = self.batch.payload() else { return true };
            for record in batch::records(&payload).flatten() {
                let offset = header.base_offset + i64::from(record.offset_delta);
                let known = record.key.and_then(|key| latest.get(key));
                if known.is_some_and(|latest| offset >= *latest) && (record.has_value || !expired) {
                    filtered.count += 1;
                    filtered.has_tombstone |= !record.has_value;
                    let at_ms = record.timestamp_ms(&header);
                    filtered.newest_ms = filtered.newest_ms.max(Some(at_ms));
                    filtered.records.extend_from_slice(record.bytes);
                }
            }
        }
        if filtered.has_tombstone {
            self.delete_from_ms.get_or_insert(now_ms.saturating_add(rules.delete_retention_ms));
        }
        if filtered.count < header.record_count {
            let newest_ms = filtered.newest_ms.unwrap_or(header.max_timestamp_ms);
            self.batch = self.batch.with_records(filtered.count, newest_ms, &filtered.records);
        }
        filtered.count > 0 || is_last
    }
}

#[derive(Default)]
struct Filtered {
    records: Vec<u8>,
    count: i32,
    newest_ms: Option<i64>,
    has_tombstone: bool,
}

/// Which transactions are open where the compaction has come to.
struct Transactions {
    /// By first offset.
    aborted: VecDeque<Aborted>,
    /// Producers, and whether anything of the transaction is there still.
    aborting: BTreeMap<i64, bool>,
    committing: BTreeSet<i64>,
}

impl Transactions {
    fn new(aborted: &VecDeque<Aborted>) -> Self {
        let mut aborted: Vec<Aborted> = aborted.iter().copied().collect();
        aborted.sort_by_key(|aborted| aborted.first_offset);
        Transactions {
            aborted: aborted.into(),
            aborting: BTreeMap::new(),
            committing: BTreeSet::new(),
        }
    }

    /// Goes on to the next batch: whether it was aborted or, a marker, ends nothing that is there.
    fn is_gone(&mut self, batch: &Batch) -> bool {
        let header = batch.header();
        let begun = |aborted: &Aborted| aborted.first_offset <= header.last_offset();
        // `pop_front_if` is newer than the oldest Rust that this builds with.
        while self.aborted.front().is_some_and(begun)
            && let Some(aborted) = self.aborted.pop_front()
        {
            self.aborting.entry(aborted.producer_id).or_insert(false);
        }
        let id = header.producer_id;
        if header.is_control() {
            return if batch.commits() {
                !self.committing.remove(&id)
            } else {
                !self.aborting.remove(&id).unwrap_or(false)
            };
        }
        if !header.is_transactional() {
            return false;
        }
        match self.aborting.get_mut(&id) {
            Some(seen) => {
                *seen = true;
                true
            }
            None => {
                self.committing.insert(id);
                false
            }
        }
    }
}
