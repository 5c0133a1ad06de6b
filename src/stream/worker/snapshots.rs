//! When a lane's snapshot is taken, and what becomes of it.
//!
//! The state is frozen right after a batch is decided and belongs to that batch: it goes on its way
//! only once that is committed. What stores and publishes them is elsewhere and takes its time; one
//! at a time for each lane. A published one counts from the transaction that carries its manifest.

use super::event::{Command, SnapshotError, Taken};
use super::held::{Held, guarded};
use super::{Fold, Phase, Worker};
use crate::config;
use crate::lane::prepared::Prepared;
use crate::lane::{FoldError, Lane};
use crate::model::Topic;
use crate::model::snapshot::{Manifest, SnapshotPoint};
use crate::model::time::Timestamp;
use crate::stream::clock::Now;
use crate::stream::worker::event::{FoundSnapshot, SnapshotSource};

/// What has been decided since a snapshot.
#[derive(Debug, Clone, Copy, Default)]
struct Since {
    batches: u64,
    /// Of facts.
    bytes: u64,
}

impl Since {
    fn add(&mut self, bytes: u64) {
        self.batches += 1;
        self.bytes += bytes;
    }

    fn reached(self, batches: u64, bytes: u64) -> bool {
        batches > 0 && (self.batches >= batches || self.bytes >= bytes)
    }
}

/// What a lane's holder knows of its snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Tells answers of this run from those of a former one.
    pub run: u64,
    since_local: Since,
    since_published: Since,
    local_us: Option<u64>,
    /// Of the pending batch.
    taken: Option<Taken>,
    /// One is being stored: the next one waits.
    is_storing: bool,
    /// It is to be published too.
    is_publishing: bool,
    /// The last one could not be published: the next one is not due before its full distance.
    was_not_published: bool,
    /// Published, and to be named in the next batch.
    to_announce: Option<Manifest>,
    /// Named in the pending batch.
    announced: Option<Manifest>,
    /// The newest whose manifest is committed, and what `tasks` had been decided up to then.
    published: SnapshotPoint,
    published_tasks: Option<i64>,
}

impl Snapshots {
    /// The lane was found in this state, so many batches after what it was restored from.
    pub fn restored(&mut self, published: SnapshotPoint) {
        if self.published.seq != published.seq {
            self.published = published;
            self.published_tasks = None;
        }
    }

    pub fn folded(&mut self, bytes: usize) {
        self.since_local.add(bytes as u64);
        self.since_published.add(bytes as u64);
    }

    /// A new run: what the former one had on its way is nobody's.
    pub fn begin_run(&mut self, run: u64) {
        self.run = run;
        self.is_storing = false;
        self.to_announce = None;
    }

    pub fn stored(&mut self, run: u64, manifest: Option<Manifest>) {
        if run == self.run && self.is_storing {
            self.is_storing = false;
            self.was_not_published = self.is_publishing && manifest.is_none();
            self.to_announce = manifest;
        }
    }

    /// A batch was decided: takes a snapshot where one is due, and lets the batch announce the one
    /// that was published since.
    pub fn prepared(
        &mut self,
        settings: &config::Snapshot,
        now: Now,
        lane: &Lane,
        batch: &mut Prepared,
    ) {
        self.since_local.add(batch.counts.fact_bytes);
        self.since_published.add(batch.counts.fact_bytes);
        self.announced = self.to_announce.take();
        let point = self.announced.as_ref().map_or(self.published, Manifest::point);
        batch.announce(point, self.announced.as_ref());
        let tasks_offset = batch.offset_of(Topic::Tasks);
        let at = batch.batch_time();
        let publish = !self.is_storing && self.announced.is_none() && {
            let tasks = self.published_tasks.get_or_insert(tasks_offset);
            let since = self.since_published;
            let is_kept = !self.was_not_published
                && self.published.seq > 0
                && settings.publish_batches > 0
                && (at.ms_since(self.published.batch_time_ms) >= settings.keep_interval_ms
                    || tasks_offset.abs_diff(*tasks) >= settings.keep_decisions);
            is_kept || since.reached(settings.publish_batches, settings.publish_journal_bytes)
        };
        let rested =
            self.local_us.is_none_or(|at_us| now.ms_since(at_us) >= settings.local_interval_ms_min);
        let local = !self.is_storing
            && settings.local_batches > 0
            && (publish
                || rested
                    && self
                        .since_local
                        .reached(settings.local_batches, settings.local_journal_bytes));
        if !publish && !local {
            return;
        }
        self.taken = match lane.freeze() {
            Ok(frozen) => Some(Taken {
                lane: batch.lane,
                run: self.run,
                seq: batch.seq,
                hash: batch.hash.clone(),
                batch_time: at,
                tasks_offset,
                local,
                publish,
                published: point,
                frozen,
            }),
            // It would be the same the next time: the lane goes on without.
            Err(error) => {
                debug_assert!(false, "{error}");
                None
            }
        };
    }

    /// The pending batch is committed.
    pub fn settled(&mut self, now: Now, batch: &Prepared, commands: &mut Vec<Command>) {
        if let Some(manifest) = self.announced.take() {
            self.published = manifest.point();
            self.published_tasks = Some(manifest.tasks_offset);
            self.since_published.batches = batch.seq.saturating_sub(manifest.seq);
            self.since_published.bytes = 0;
            commands.push(Command::SnapshotAnnounced(manifest));
        }
        if let Some(mut taken) = self.taken.take() {
            // The lane may have run anew since it was taken.
            taken.run = self.run;
            self.since_local = Since::default();
            self.local_us = Some(now.monotonic_us);
            if taken.publish {
                self.since_published = Since::default();
            }
            self.is_storing = true;
            self.is_publishing = taken.publish;
            commands.push(Command::StoreSnapshot(taken));
        }
    }
}

impl Worker {
    /// Looks for what the lane can begin with, not above `seq_max`.
    pub(super) fn find_snapshot(&mut self, number: u32, seq_max: u64) {
        self.asks += 1;
        let ask = self.asks;
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Phase::Finding { ask: asked, target } = &mut slot.phase else { return };
        *asked = ask;
        let published = target.snapshot;
        self.commands.push_back(Command::FindSnapshot { ask, lane: number, seq_max, published });
    }

    pub(super) fn snapshot_found(
        &mut self,
        now: Now,
        answered: u64,
        number: u32,
        found: Option<FoundSnapshot<'_>>,
    ) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Phase::Finding { ask, target } = &slot.phase else { return };
        if *ask != answered {
            return;
        }
        let target = target.clone();
        let Some(found) = found else {
            // Its journal says how many lanes there were at first.
            let (epoch, dealt) = (target.epoch, target.dealt.unwrap_or(1));
            let fold = Fold { target: Some(target), ..Fold::default() };
            return self.fold_whole(now, number, epoch, dealt, fold);
        };
        let settings = self.settings.lane.clone();
        let seq = found.seq;
        let restored = match guarded(|| Lane::restore(number, found.bytes, settings)) {
            Ok(Ok(lane)) if lane.seq() <= target.seq => Ok(lane),
            Ok(Ok(lane)) => Err(SnapshotError::Beyond { seq: lane.seq(), committed: target.seq }),
            Ok(Err(error)) => Err(SnapshotError::Unusable(error)),
            Err(_) => Err(SnapshotError::Panics),
        };
        match restored {
            Ok(lane) if lane.seq() == target.seq && lane.hash() != target.hash => {
                self.refuse_snapshot(number, seq, found.source, SnapshotError::OtherChain);
            }
            Ok(lane) => {
                let began = Began { seq, source: found.source, at: lane.batch_time() };
                let mut held = Box::new(Held::new(lane, None, now));
                held.snapshots.restored(target.snapshot);
                self.commands.push_back(Command::SnapshotUsed {
                    lane: number,
                    seq,
                    target: target.seq,
                    source: found.source,
                });
                self.fold_from(number, held, target, began);
            }
            Err(error) => self.refuse_snapshot(number, seq, found.source, error),
        }
    }

    /// The lane cannot begin with this one: with an older one, then.
    pub(super) fn refuse_snapshot(
        &mut self,
        number: u32,
        seq: u64,
        source: SnapshotSource,
        error: SnapshotError,
    ) {
        self.commands.push_back(Command::SnapshotRefused { lane: number, seq, source, error });
        // Each question is about fewer than the one before, so this ends.
        self.find_snapshot(number, seq.saturating_sub(1));
    }

    /// What a record of the journal shows about the snapshot that the lane began with; whether the
    /// lane takes another way now.
    pub(super) fn doubts_snapshot(&mut self, number: u32, error: &FoldError) -> bool {
        let Some(slot) = self.slots.get_mut(&number) else { return false };
        let Phase::Folding(Fold { target: Some(target), began: Some(began), .. }) = &mut slot.phase
        else {
            return false;
        };
        let target = target.clone();
        let (seq, source) = (began.seq, began.source);
        match error {
            // It is of another journal, such as that of a topic that was made anew.
            FoldError::Hash { seq: at, .. } if *at == seq + 1 => {
                self.commands.push_back(Command::StopJournal { lane: number });
                slot.held = None;
                slot.phase = Phase::Finding { ask: 0, target };
                self.refuse_snapshot(number, seq, source, SnapshotError::OtherChain);
                true
            }
            FoldError::Gap { .. }
            | FoldError::Hash { .. }
            | FoldError::Decode { .. }
            | FoldError::Lanes { .. }
            | FoldError::FactLevel { .. } => false,
        }
    }

    pub(super) fn snapshot_stored(&mut self, number: u32, run: u64, manifest: Option<Manifest>) {
        if let Some(slot) = self.slots.get_mut(&number)
            && let Some(held) = &mut slot.held
        {
            held.snapshots.stored(run, manifest);
        }
    }

    /// Lanes that are being restored: where they are, and where they will be.
    pub fn restoring(&self) -> Vec<(u32, u64, u64)> {
        let folding = self.slots.iter().filter_map(|(number, slot)| match &slot.phase {
            Phase::Folding(Fold { target: Some(target), .. }) => {
                let seq = slot.held.as_ref().map_or(0, |held| held.lane.seq());
                Some((*number, seq, target.seq))
            }
            Phase::Finding { target, .. } => Some((*number, 0, target.seq)),
            Phase::Asked { .. }
            | Phase::Counting { .. }
            | Phase::Waiting { .. }
            | Phase::Starting
            | Phase::Folding(_)
            | Phase::Checking(_)
            | Phase::CatchingUp { .. }
            | Phase::Running
            | Phase::Stopped(_) => None,
        });
        folding.collect()
    }
}

/// The snapshot that a lane began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Began {
    pub seq: u64,
    pub source: SnapshotSource,
    pub at: Timestamp,
}
