//! A lane's journal is read and folded: up to the committed batch, which must be there, and on to its end.

use super::epoch::Reset;
use super::event::{Command, LaneError};
use super::held::{Held, guarded};
use super::snapshots::Began;
use super::{Fold, Phase, Worker};
use crate::config::StartFrom;
use crate::lane::{FoldError, Lane};
use crate::model::Topic;
use crate::stream::clock::Now;
use crate::stream::committed::CommitPoint;

impl Worker {
    /// Of an installation that began with `dealt` lanes, where the journal does not say otherwise.
    pub(super) fn fold_whole(&mut self, now: Now, number: u32, epoch: u32, dealt: u32, fold: Fold) {
        let lane = Lane::genesis(number, dealt, epoch, self.settings.lane.clone());
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let mut held = Box::new(Held::new(lane, None, now));
        if let Some(target) = &fold.target {
            held.snapshots.restored(target.snapshot);
        }
        slot.held = Some(held);
        slot.phase = Phase::Folding(fold);
        self.commands.push_back(Command::ReadJournal { lane: number, from: None });
    }

    /// Goes on from a snapshot.
    pub(super) fn fold_from(
        &mut self,
        number: u32,
        held: Box<Held>,
        target: CommitPoint,
        began: Began,
    ) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let reached = held.lane.seq() == target.seq;
        if reached && let Some(error) = check_folded(number, &held, &target) {
            return self.stop_lane(number, error);
        }
        slot.held = Some(held);
        let from = Some(began.at);
        let fold = Fold { target: Some(target), reached, began: Some(began), ..Fold::default() };
        slot.phase = Phase::Folding(fold);
        self.commands.push_back(Command::ReadJournal { lane: number, from });
    }

    /// The lane has read its journal, which goes up to the committed batch or beyond: a record of a
    /// journal is committed together with its offsets, so where it shows more than they do, they are
    /// the ones that are wrong. A request that arrived late may have written them again, or the
    /// brokers have lost the last ones.
    fn folded(&mut self, now: Now, number: u32, mut target: CommitPoint) {
        let Some(held) = self.slots.get_mut(&number).and_then(|slot| slot.held.as_mut()) else {
            return;
        };
        let lane = &mut held.lane;
        if lane.seq() > target.seq {
            let (committed, seq) = (target.seq, lane.seq());
            self.commands.push_back(Command::OffsetsBehind { lane: number, committed, seq });
            let at = lane.positions();
            let at = [at.tasks, at.task_results, at.lane_inbox];
            for (offset, at) in target.offsets.iter_mut().zip(at) {
                *offset = at.unwrap_or(*offset);
            }
            target = CommitPoint { epoch: lane.epoch(), seq, hash: lane.hash(), ..target };
        }
        let [tasks, task_results, lane_inbox] = target.offsets;
        lane.start_at(tasks, task_results, lane_inbox);
        held.committed_at = lane.batch_time();
        held.snapshots.restored(target.snapshot);
        held.committed = Some(target);
        self.catch_up(now, number);
    }

    pub(super) fn journal_record(&mut self, number: u32, value: &[u8]) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if matches!(slot.phase, Phase::Checking(_)) {
            return self.check_record(number, value);
        }
        let Phase::Folding(fold) = &mut slot.phase else { return };
        let Some(held) = &mut slot.held else { return };
        fold.ended_us = None;
        if fold.target.is_none() && fold.reset.is_none() {
            if !self.settings.new_epoch {
                return self.stop_lane(number, LaneError::JournalWithoutOffsets { lane: number });
            }
            fold.reset = Some(Reset::default());
        }
        let lane = &mut held.lane;
        match guarded(|| lane.fold(value)) {
            Ok(Ok(())) => {
                held.snapshots.folded(value.len());
                fold.any = true;
            }
            // The lane knows the beginning of its journal.
            Ok(Err(FoldError::Gap { last, found, .. })) if found <= last => {}
            // Reading began too late: times are only where to look first.
            Ok(Err(FoldError::Gap { .. })) if !fold.any && !fold.whole => {
                fold.whole = true;
                self.commands.push_back(Command::StopJournal { lane: number });
                self.commands.push_back(Command::ReadJournal { lane: number, from: None });
                return;
            }
            Ok(Err(error)) => {
                if !self.doubts_snapshot(number, &error) {
                    self.stop_lane(number, error.into());
                }
                return;
            }
            Err(_) => {
                let seq = held.lane.seq() + 1;
                return self.stop_lane(number, LaneError::Panics { lane: number, seq });
            }
        }
        if let Some(target) = &fold.target
            && !fold.reached
            && held.lane.seq() >= target.seq
        {
            fold.reached = true;
            if let Some(error) = check_folded(number, held, target) {
                self.stop_lane(number, error);
            }
        }
    }

    pub(super) fn journal_end(&mut self, now: Now, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if matches!(slot.phase, Phase::Checking(_)) {
            return self.checked(now, number);
        }
        let Phase::Folding(fold) = &mut slot.phase else { return };
        if let Some(target) = fold.target.take_if(|_| fold.reached) {
            slot.phase = Phase::Starting;
            self.commands.push_back(Command::StopJournal { lane: number });
            return self.folded(now, number, target);
        }
        if fold.target.is_some() || fold.reset.is_some() {
            fold.ended_us.get_or_insert(now.monotonic_us);
            return;
        }
        slot.phase = Phase::Starting;
        // What came into the partition of a lane that was added came for it.
        let is_added = slot.held.as_ref().is_some_and(|held| held.lane.is_added());
        let from = if is_added { StartFrom::Earliest } else { self.settings.start_from };
        self.commands.push_back(Command::StopJournal { lane: number });
        self.commands.push_back(Command::FindStart { lane: number, from });
    }

    /// The committed batch is not in the journal. A marker may be on its way, but not for ever.
    pub(super) fn journal_waits(&mut self, now: Now) {
        let mut missing = Vec::new();
        let mut reset = Vec::new();
        for (number, slot) in &self.slots {
            let Phase::Folding(Fold { target, ended_us: Some(ended_us), .. }) = &slot.phase else {
                continue;
            };
            if now.ms_since(*ended_us) < self.settings.journal_wait_ms {
                continue;
            }
            let found = slot.held.as_ref().map_or(0, |held| held.lane.seq());
            match target {
                Some(target) => {
                    let expected = target.seq;
                    let error = LaneError::JournalEnds { lane: *number, found, expected };
                    missing.push((*number, error));
                }
                None => reset.push(*number),
            }
        }
        for (number, error) in missing {
            self.stop_lane(number, error);
        }
        for number in reset {
            self.begin_epoch(now, number);
        }
    }
}

fn check_folded(lane: u32, held: &Held, target: &CommitPoint) -> Option<LaneError> {
    if held.lane.seq() != target.seq || held.lane.hash() != target.hash {
        return Some(LaneError::Hash { lane, seq: target.seq });
    }
    let positions = held.lane.positions();
    let positions = [positions.tasks, positions.task_results, positions.lane_inbox];
    let names = Topic::LANE_INPUTS.map(Topic::default_name);
    positions.iter().zip(target.offsets).zip(names).find_map(|((journal, committed), topic)| {
        let journal = (*journal)?;
        (journal != committed).then_some(LaneError::Position { lane, topic, journal, committed })
    })
}
