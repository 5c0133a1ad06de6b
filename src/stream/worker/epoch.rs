//! Offsets that Kafka's own tools have set: refused, unless the process was started to accept them.
//!
//! The lane keeps its state, all of which is in its journal, and goes on at the offsets that it
//! finds; its outputs carry a new epoch, so that no id of theirs repeats one of before.

use super::event::{Command, LaneError};
use super::{Fold, Phase, Worker};
use crate::stream::clock::Now;
use crate::stream::committed::{self, LaneCommit};

/// What was found in place of a committed batch.
#[derive(Debug, Clone, Default)]
pub(super) struct Reset {
    commit: LaneCommit,
    /// The batch that those inputs name which nobody has touched.
    seq: Option<u64>,
}

impl Worker {
    pub(super) fn accept_reset(&mut self, now: Now, number: u32, commit: &LaneCommit, runs: bool) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if let Some(held) = &slot.held
            && held.reset.as_ref() == Some(commit)
        {
            // Its first batch is still to be committed.
            if runs {
                slot.phase = Phase::Running;
            } else {
                self.catch_up(now, number);
            }
            return;
        }
        let named = commit.iter().flatten();
        let seq =
            named.filter_map(|found| committed::parse(&found.metadata)).map(|of| of.seq).max();
        let reset = Some(Reset { commit: commit.clone(), seq });
        self.count_first(number, reset);
        if runs {
            self.read_inputs();
        }
    }

    /// The whole journal is folded.
    pub(super) fn begin_epoch(&mut self, now: Now, number: u32) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Phase::Folding(Fold { reset: Some(reset), .. }) = &slot.phase else { return };
        let reset = reset.clone();
        let Some(held) = &mut slot.held else { return };
        let found = held.lane.seq();
        if let Some(expected) = reset.seq.filter(|expected| *expected > found) {
            let error = LaneError::JournalEnds { lane: number, found, expected };
            return self.stop_lane(number, error);
        }
        let at = held.lane.positions();
        let journaled = [at.tasks, at.task_results, at.lane_inbox].map(|at| at.unwrap_or(0));
        let mut offsets = journaled;
        for (offset, committed) in offsets.iter_mut().zip(&reset.commit) {
            if let Some(committed) = committed {
                *offset = committed.offset;
            }
        }
        let epoch = held.lane.epoch().saturating_add(1);
        held.lane.begin_epoch(epoch, offsets);
        held.committed_at = held.lane.batch_time();
        held.reset = Some(reset.commit);
        self.commands.push_back(Command::StopJournal { lane: number });
        self.commands.push_back(Command::EpochBegun { lane: number, epoch, offsets });
        self.catch_up(now, number);
    }
}
