//! What bounds the memory: the total of all logs, the topics' own retention, and compaction.

use std::collections::BinaryHeap;

use kafka_protocol::ResponseError;

use super::super::log::{Compaction, Log};
use super::{LogId, Partition, Topics};

/// Kafka's `log.cleaner.backoff.ms`: how often logs are looked at for which too little was appended.
const COMPACTION_INTERVAL_MS: i64 = 15_000;
/// Kafka's `log.retention.check.interval.ms`.
const RETENTION_INTERVAL_MS: i64 = 300_000;

/// Room is made for more than is needed, so that not every batch has to look for the largest log.
const ROOM_SHARE: usize = 16;

/// When to look at all logs again.
#[derive(Debug, Default)]
pub struct Rounds {
    compaction_ms: Option<i64>,
    retention_ms: Option<i64>,
}

/// Whether a round is due. The first is one interval after the first request.
fn is_due(next_ms: &mut Option<i64>, now_ms: i64, interval_ms: i64) -> bool {
    let due = next_ms.is_some_and(|next_ms| next_ms <= now_ms);
    if due || next_ms.is_none() {
        *next_ms = Some(now_ms.saturating_add(interval_ms));
    }
    due
}

impl Topics {
    /// Compacts and evicts. Costs nothing where nothing was written and no round is due.
    pub fn keep_bounds(&mut self, now_ms: i64) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in &touched {
            self.update(*id, |partition| partition.compact(now_ms, Log::is_dirty));
        }
        if is_due(&mut self.rounds.compaction_ms, now_ms, COMPACTION_INTERVAL_MS) {
            let due = |log: &Log, rules: &Compaction| log.is_due(now_ms, rules);
            self.update_all(|partition| partition.compact(now_ms, due));
        }
        if is_due(&mut self.rounds.retention_ms, now_ms, RETENTION_INTERVAL_MS) {
            self.update_all(|partition| partition.retain(now_ms));
        }
        if self.bytes > self.bytes_max {
            self.evict(self.bytes_max);
        }
        touched.append(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        self.changed = touched;
    }

    /// Makes room for a batch.
    ///
    /// # Errors
    /// `KafkaStorageError`: what is kept may not go.
    pub fn make_room(&mut self, batch_bytes: usize) -> Result<(), ResponseError> {
        let allowed = self.bytes_max.checked_sub(Log::cost(batch_bytes));
        let allowed = allowed.ok_or(ResponseError::KafkaStorageError)?;
        if self.bytes > allowed {
            self.evict(allowed);
        }
        if self.bytes > allowed { Err(ResponseError::KafkaStorageError) } else { Ok(()) }
    }

    /// Lets the records before this offset go, -1 for all that are there. Returns where the log begins.
    ///
    /// # Errors
    /// No such partition, an offset behind its end, or a topic whose records only compaction may delete.
    pub fn delete_before(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<i64, ResponseError> {
        let id = self.id(topic, partition).ok_or(ResponseError::UnknownTopicOrPartition)?;
        // Who waits for an offset that is gone must hear of it.
        self.touched.push(id);
        let deleted = self.update(id, |partition| {
            if !partition.config.deletes {
                return Err(ResponseError::PolicyViolation);
            }
            partition.log.delete_before(offset)
        });
        deleted.unwrap_or(Err(ResponseError::UnknownTopicOrPartition))
    }

    /// Lets the oldest of the largest logs go until there is room, and some more.
    fn evict(&mut self, allowed: usize) {
        let wanted = allowed - allowed / ROOM_SHARE;
        let deleting = self.partitions.iter().filter(|(_, partition)| partition.config.deletes);
        let mut largest: BinaryHeap<(usize, LogId)> =
            deleting.map(|(id, partition)| (partition.log.bytes(), *id)).collect();
        while self.bytes > wanted
            && let Some((_, id)) = largest.pop()
        {
            let evicted = self.update(id, |partition| {
                let may_go = partition.log.oldest().is_some();
                if may_go {
                    partition.log.evict_oldest();
                }
                may_go.then(|| partition.log.bytes())
            });
            // Who waits for an offset that is gone must hear of it.
            self.touched.push(id);
            largest.extend(evicted.flatten().map(|bytes| (bytes, id)));
        }
    }

    fn update_all(&mut self, mut each: impl FnMut(&mut Partition)) {
        for (id, partition) in &mut self.partitions {
            each(partition);
            if partition.recount(&mut self.bytes) {
                self.touched.push(*id);
            }
        }
    }

    /// Changes a log, and the total by it.
    pub(super) fn update<T>(
        &mut self,
        id: LogId,
        change: impl FnOnce(&mut Partition) -> T,
    ) -> Option<T> {
        let partition = self.partitions.get_mut(&id)?;
        let found = change(partition);
        partition.recount(&mut self.bytes);
        Some(found)
    }
}

impl Partition {
    /// Corrects the total by what the log has become; whether it has changed.
    fn recount(&mut self, total: &mut usize) -> bool {
        let bytes = self.log.bytes();
        let changed = bytes != self.counted_bytes;
        *total = *total - self.counted_bytes + bytes;
        self.counted_bytes = bytes;
        changed
    }

    fn compact(&mut self, now_ms: i64, when: impl FnOnce(&Log, &Compaction) -> bool) {
        if let Some(rules) = &self.config.compaction
            && when(&self.log, rules)
        {
            self.log.compact(now_ms, rules);
        }
    }

    /// The topic's own bounds, batch by batch.
    fn retain(&mut self, now_ms: i64) {
        while let Some((newest_ms, bytes)) = self.log.oldest() {
            let after = self.log.bytes() - bytes;
            let is_old = self
                .config
                .retention_ms
                .is_some_and(|bound| now_ms.saturating_sub(newest_ms) > bound);
            // Kafka keeps at least as much as the bound says.
            let is_spare = self.config.retention_bytes.is_some_and(|bound| after >= bound);
            if !is_old && !is_spare {
                break;
            }
            self.log.evict_oldest();
        }
    }
}
