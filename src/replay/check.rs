//! The full state of a lane that is played, compared with the snapshots that it published.

use std::collections::BTreeMap;

use super::compare::Divergence;
use super::journal::Batch;
use super::snapshots::{Published, Snapshots};
use super::source::Source;
use crate::lane::snapshot::SnapshotError;
use crate::lane::snapshot::stored::StoredError;
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;

/// The snapshots of a range, beside its batches.
pub struct SnapshotCheck {
    snapshots: Snapshots,
    next: Option<Published>,
    settings: LaneSettings,
    /// Snapshots that are the lane's state, in every byte.
    pub equal: u64,
    /// Those that could not be compared, by the reason.
    pub not_compared: BTreeMap<String, u64>,
}

impl SnapshotCheck {
    /// To be opened at the first batch whose state is to be compared.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn open(
        source: &mut dyn Source,
        settings: &LaneSettings,
        first: &Batch,
    ) -> anyhow::Result<Self> {
        let lane = first.record.lane;
        let partition = i32::try_from(lane)?;
        let from = source.offset_at(Topic::Snapshots, partition, first.record.batch_time_ms)?;
        let snapshots = Snapshots::open(source, lane, from)?;
        let (settings, not_compared) = (settings.clone(), BTreeMap::new());
        Ok(SnapshotCheck { snapshots, next: None, settings, equal: 0, not_compared })
    }

    /// Compares the state after a batch with the snapshot that was taken there, if one was.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn check(&mut self, batch: &Batch, lane: &Lane) -> anyhow::Result<Option<Divergence>> {
        let seq = batch.record.seq;
        loop {
            if self.next.is_none() {
                self.next = self.snapshots.next_published()?;
            }
            // It may be of a batch that was not played, or be the same one again.
            match self.next.take_if(|next| next.manifest.seq <= seq) {
                None => return Ok(None),
                Some(found) if found.manifest.seq == seq => {
                    if let Some(divergence) = self.compare(batch, lane, &found) {
                        return Ok(Some(divergence));
                    }
                }
                Some(_) => {}
            }
        }
    }

    fn compare(&mut self, batch: &Batch, lane: &Lane, found: &Published) -> Option<Divergence> {
        // A topic that outlived its journal has snapshots of another history.
        if found.manifest.hash != lane.hash() {
            self.passed_over("of another journal");
            return None;
        }
        let bytes = match found.unpack() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.passed_over(why(&error));
                return None;
            }
        };
        let ours = match lane.snapshot() {
            Ok(ours) => ours,
            Err(error) => {
                let error = error.to_string();
                return Some(Divergence::new(&batch.record, "snapshot", "a state", &error));
            }
        };
        if ours == bytes {
            self.equal += 1;
            return None;
        }
        let number = lane.number();
        match Lane::restore(number, &bytes, self.settings.clone()) {
            Err(error) => {
                let error = error.to_string();
                Some(Divergence::new(&batch.record, "snapshot", &error, "a state that can be read"))
            }
            Ok(theirs) => match lane.differs_from(&theirs) {
                Some((part, ours, theirs)) => {
                    let what = format!("snapshot, {part}");
                    Some(Divergence::new(&batch.record, what, &theirs, &ours))
                }
                // Other bytes for the same state: another release wrote them.
                None => {
                    self.equal += 1;
                    None
                }
            },
        }
    }

    fn passed_over(&mut self, reason: &str) {
        *self.not_compared.entry(reason.to_owned()).or_default() += 1;
    }

    /// How many manifests meant nothing.
    pub fn unreadable(&self) -> u64 {
        self.snapshots.unreadable
    }
}

fn why(error: &StoredError) -> &'static str {
    match error {
        StoredError::Format { .. } | StoredError::Unusable(SnapshotError::Newer { .. }) => {
            "of another release"
        }
        StoredError::Nothing | StoredError::Chunks { .. } => "incomplete",
        StoredError::Claims { .. }
        | StoredError::Hash
        | StoredError::Compressed { .. }
        | StoredError::Other { .. }
        | StoredError::Unusable(
            SnapshotError::Damaged(_) | SnapshotError::Unencodable(_) | SnapshotError::Other { .. },
        ) => "damaged",
    }
}
