//! Whether a batch is committed whose transaction nobody saw end, where the committed offsets say that
//! it is not.
//!
//! They alone are no proof: before transactions had epochs of their own (KIP-890), a request of the
//! transaction before may arrive late, inside this one, and write the earlier offsets again. Then
//! the journal has the batch, and to produce it again would be to decide it twice.

use super::event::{Command, LaneError};
use super::{Check, Phase, Worker};
use crate::stream::clock::Now;
use crate::stream::committed::CommitPoint;

impl Worker {
    /// Reads the journal from the last batch that is known to be committed.
    pub(super) fn check(&mut self, number: u32, committed: Option<CommitPoint>, runs: bool) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Some(held) = &slot.held else { return };
        let from = committed.is_some().then_some(held.committed_at);
        slot.phase = Phase::Checking(Check { committed, found: None });
        self.commands.push_back(Command::ReadJournal { lane: number, from });
        if runs {
            self.read_inputs();
        }
    }

    pub(super) fn check_record(&mut self, number: u32, value: &[u8]) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let (Phase::Checking(check), Some(held)) = (&mut slot.phase, &slot.held) else { return };
        let record = match self.settings.lane.codec.decode_journal(value) {
            Ok(record) => record,
            Err(error) => {
                let lane = number;
                let problem = error.to_string();
                let error = crate::lane::FoldError::Decode { lane, problem };
                return self.stop_lane(number, LaneError::from(error));
            }
        };
        if held.pending.as_ref().is_some_and(|pending| pending.seq == record.seq) {
            check.found = Some(CommitPoint {
                epoch: record.epoch,
                seq: record.seq,
                hash: record.hash,
                ..CommitPoint::default()
            });
        }
    }

    /// The journal was read to its end.
    pub(super) fn checked(&mut self, now: Now, number: u32) {
        let lanes_now = self.lanes_now();
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let (Phase::Checking(check), Some(held)) = (&mut slot.phase, &mut slot.held) else {
            return;
        };
        self.commands.push_back(Command::StopJournal { lane: number });
        let Some(found) = check.found.take() else {
            held.is_sure();
            let is_other = held.is_untold() && held.lane.state().dealt != lanes_now;
            return if is_other { self.recover(number, None) } else { self.catch_up(now, number) };
        };
        let committed = check.committed.take();
        let ours = held.pending.as_ref().map(|pending| CommitPoint::of(pending));
        if !ours.is_some_and(|ours| ours.is_same_batch(&found)) {
            // Another instance has gone on.
            slot.held = None;
            return self.recover(number, committed);
        }
        let behind = committed.map_or(0, |committed| committed.seq);
        let seq = found.seq;
        self.commands.push_back(Command::OffsetsBehind { lane: number, committed: behind, seq });
        self.commands.extend(held.settled(now));
        self.catch_up(now, number);
    }
}
