//! A lane in the worker's hands, with what the worker knows about it.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::careful::{Careful, OwnedRecord};
use super::event::Command;
use super::snapshots::Snapshots;
use super::{REREADS_MAX, RESULTS_END_MS, TIMER_MS, WorkerSettings};
use crate::codec::RawRecord;
use crate::lane::Lane;
use crate::lane::prepared::Prepared;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::stream::clock::{LaneClock, Now};
use crate::stream::committed::{CommitPoint, LaneCommit};

/// Waiting tasks are looked for this often.
const WANTED_MS: u64 = 20;

/// The core panicked; the lane's state is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked;

pub(super) struct Held {
    pub lane: Lane,
    pub clock: LaneClock,
    /// The last batch that is known to be committed.
    pub committed: Option<CommitPoint>,
    /// Its time.
    pub committed_at: Timestamp,
    /// Offsets that are not ours and were accepted; until the first batch is committed.
    pub reset: Option<LaneCommit>,
    pub snapshots: Snapshots,
    /// The batch after that, where it is decided and not known to be committed.
    pub pending: Option<Arc<Prepared>>,
    /// Its transaction was left without being ended, so that it may be committed.
    unsure: bool,
    pub careful: Option<Careful>,
    /// Whether its inputs are read: not before a fleet exists.
    pub reads: bool,
    /// Since when there is something to decide.
    queued_since_us: Option<u64>,
    timer_us: u64,
    wanted_us: u64,
    /// Records that were offered since the last batch was prepared, and in that batch.
    offered: usize,
    in_batch: usize,
    results: Results,
    /// Waiting tasks that are being read again.
    rereading: BTreeSet<i64>,
    /// Delivery timeouts in a row.
    timeouts: u32,
    paused_until_us: Option<u64>,
}

/// How far `task-results` is read, for the leases that wait for it.
#[derive(Debug, Default)]
struct Results {
    read_to: i64,
    asked: Option<(Timestamp, u64)>,
    end: Option<(i64, Timestamp)>,
}

/// Runs the core. A panic in it is a bug, and one record must not stop all the others.
pub(super) fn guarded<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Panicked)
}

impl Held {
    pub fn new(lane: Lane, committed: Option<CommitPoint>, now: Now) -> Self {
        let clock = LaneClock::acquire(lane.batch_time(), now, 0);
        Held {
            committed_at: lane.batch_time(),
            lane,
            clock,
            committed,
            reset: None,
            snapshots: Snapshots::default(),
            pending: None,
            unsure: false,
            careful: None,
            reads: false,
            queued_since_us: None,
            timer_us: 0,
            wanted_us: 0,
            offered: 0,
            in_batch: 0,
            results: Results::default(),
            rereading: BTreeSet::new(),
            timeouts: 0,
            paused_until_us: None,
        }
    }

    /// The lane begins to run, or to run again: its clock is set anew, and what was asked for a
    /// former run is forgotten. Not that its outputs have no leader: an abort that the broker's own
    /// came before makes the lane run again each time.
    pub fn acquire(&mut self, settings: &WorkerSettings, now: Now, run: u64) {
        self.snapshots.begin_run(run);
        // Nothing was promised before the first batch: its clock may be right at once.
        let uncertainty_ms = if self.lane.seq() == 0 { 0 } else { settings.clock_uncertainty_ms };
        self.clock = LaneClock::acquire(self.lane.batch_time(), now, uncertainty_ms);
        self.reads = false;
        self.results = Results::default();
        self.rereading.clear();
        if self.queued() > 0 || self.pending.is_some() {
            self.queued_since_us = Some(now.monotonic_us);
        }
    }

    pub fn offer(&mut self, now: Now, record: &RawRecord<'_>) -> Result<(), Panicked> {
        if record.topic == Topic::TaskResults {
            self.results.read_to = self.results.read_to.max(record.offset + 1);
        }
        if let Some(careful) = &mut self.careful {
            careful.waiting.push_back(OwnedRecord::of(record));
            self.queued_since_us.get_or_insert(now.monotonic_us);
            return Ok(());
        }
        self.offer_now(now, record)?;
        if record.topic == Topic::TaskResults {
            self.tell_results(now)?;
        }
        Ok(())
    }

    fn offer_now(&mut self, now: Now, record: &RawRecord<'_>) -> Result<(), Panicked> {
        let lane = &mut self.lane;
        let queued = guarded(|| {
            #[cfg(test)]
            super::tests::fault::offered(record);
            lane.offer(record);
            lane.queued()
        })?;
        if queued > 0 {
            self.offered += 1;
            self.queued_since_us.get_or_insert(now.monotonic_us);
        }
        Ok(())
    }

    /// Offers the next record of a lane that goes record by record, once the one before is settled.
    pub fn feed_careful(&mut self, now: Now) -> Result<(), Panicked> {
        let Some(careful) = &mut self.careful else { return Ok(()) };
        if careful.suspect.is_some() || self.pending.is_some() {
            return Ok(());
        }
        if careful.left == 0 {
            let waiting = std::mem::take(&mut careful.waiting);
            self.careful = None;
            for record in &waiting {
                record.with_raw(|raw| self.offer_now(now, raw))?;
            }
            return self.tell_results(now);
        }
        while let Some(careful) = &mut self.careful
            && let Some(record) = careful.waiting.pop_front()
        {
            careful.suspect = Some((record.topic, record.offset));
            record.with_raw(|raw| self.offer_now(now, raw))?;
            if self.lane.queued() > 0 {
                if let Some(careful) = &mut self.careful {
                    careful.left -= 1;
                }
                break;
            }
            // It was known already: nothing can be blamed on it.
            self.settle_careful();
        }
        Ok(())
    }

    /// Decides the next batch, or returns the one that still has to be committed.
    pub fn prepare(
        &mut self,
        settings: &WorkerSettings,
        now: Now,
    ) -> Result<Option<Arc<Prepared>>, Panicked> {
        if self.is_paused() {
            return Ok(None);
        }
        if let Some(pending) = &self.pending {
            return Ok(Some(Arc::clone(pending)));
        }
        if self.queued_since_us.is_none() && self.due_in_ms(settings, now) != Some(0) {
            return Ok(None);
        }
        let time = self.clock.read(now);
        self.timer_us = now.monotonic_us;
        let lane = &mut self.lane;
        let prepared = guarded(|| {
            #[cfg(test)]
            super::tests::fault::prepares(lane);
            lane.prepare(time)
        })?;
        self.in_batch = std::mem::take(&mut self.offered);
        match prepared {
            Some(mut prepared) => {
                let (snapshots, lane) = (&mut self.snapshots, &self.lane);
                guarded(|| snapshots.prepared(&settings.snapshot, now, lane, &mut prepared))?;
                let prepared = Arc::new(prepared);
                self.pending = Some(Arc::clone(&prepared));
                Ok(Some(prepared))
            }
            None => {
                self.settle_careful();
                self.queued_since_us = None;
                Ok(None)
            }
        }
    }

    /// Nobody has seen how the transaction of the pending batch ended.
    pub fn doubt(&mut self) {
        self.unsure = self.pending.is_some();
    }

    /// Whether no batch of the lane was ever committed; the first one may be pending.
    pub fn is_untold(&self) -> bool {
        self.committed.is_none() && self.reset.is_none() && self.lane.seq() <= 1
    }

    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// The pending batch is not committed, and nothing that is on its way can change that.
    pub fn is_sure(&mut self) {
        self.unsure = false;
    }

    /// The pending batch is committed.
    pub fn settled(&mut self, now: Now) -> Vec<Command> {
        let mut commands = Vec::new();
        if let Some(batch) = self.pending.take() {
            self.committed = Some(CommitPoint::of(&batch));
            self.committed_at = batch.batch_time();
            self.unsure = false;
            self.reset = None;
            self.snapshots.settled(now, &batch, &mut commands);
        }
        self.in_batch = 0;
        self.timeouts = 0;
        self.settle_careful();
        // What is left did not fit: it is due at once.
        self.queued_since_us = (self.queued() > 0).then_some(now.monotonic_us);
        commands
    }

    /// Whether the state is just what the last committed batch left: a true beginning of whatever
    /// another instance has made of it. Looking for something to decide moves it on in time.
    pub fn is_at_committed(&self) -> bool {
        self.committed.is_some()
            && self.pending.is_none()
            && self.careful.is_none()
            && self.lane.batch_time() == self.committed_at
    }

    fn settle_careful(&mut self) {
        if let Some(careful) = &mut self.careful {
            careful.suspect = None;
        }
    }

    /// Records that have to go one by one after a panic: all that the lane had taken since its last
    /// committed batch.
    pub fn records_at_risk(&self) -> usize {
        let careful = self.careful.as_ref();
        let left = careful.map_or(0, |careful| careful.left + careful.waiting.len());
        self.offered + self.in_batch + left + 1
    }

    /// In how many milliseconds a batch is due; `None` while nothing makes one.
    pub fn due_in_ms(&self, settings: &WorkerSettings, now: Now) -> Option<u64> {
        if self.is_paused() {
            return None;
        }
        if self.pending.is_some() || self.careful.is_some() && self.queued() > 0 {
            return Some(0);
        }
        let by_queue = self.queued_since_us.map(|since_us| {
            if self.lane.queued() >= settings.lane.batch_records_max {
                return 0;
            }
            settings.batch_wait_ms.saturating_sub(now.ms_since(since_us))
        });
        let by_timer = self.lane.next_timer().map(|at| {
            let mut clock = self.clock;
            let until_ms = at.ms_since(clock.read(now));
            until_ms.max(TIMER_MS.saturating_sub(now.ms_since(self.timer_us)))
        });
        match (by_queue, by_timer) {
            (Some(queue), Some(timer)) => Some(queue.min(timer)),
            (queue, timer) => queue.or(timer),
        }
    }

    /// Asks for what the lane is waiting for.
    pub fn tick(&mut self, now: Now, number: u32, commands: &mut VecDeque<Command>) {
        if let Some(until_us) = self.paused_until_us
            && now.monotonic_us >= until_us
        {
            self.paused_until_us = None;
            commands.push_back(Command::Resume { lane: number });
        }
        let time = self.clock.read(now);
        if self.results.asked.is_none_or(|(_, asked_us)| now.ms_since(asked_us) >= RESULTS_END_MS)
            && self.results.end.is_none()
            && self.lane.awaits_results(time)
        {
            self.results.asked = Some((time, now.monotonic_us));
            commands.push_back(Command::FindResultsEnd { lane: number });
        }
        // The backlog is looked through for this, so not at every tick of a busy loop.
        if self.rereading.is_empty() && now.ms_since(self.wanted_us) >= WANTED_MS {
            self.wanted_us = now.monotonic_us;
            let offsets = self.lane.wants(REREADS_MAX);
            if !offsets.is_empty() {
                self.rereading.extend(&offsets);
                commands.push_back(Command::ReadAgain { lane: number, offsets });
            }
        }
    }

    pub fn results_end(&mut self, now: Now, end: i64) -> Result<(), Panicked> {
        if let Some((asked, _)) = self.results.asked {
            self.results.end = Some((end, asked));
        }
        self.tell_results(now)
    }

    pub fn results_read_to(&mut self, now: Now, offset: i64) -> Result<(), Panicked> {
        self.results.read_to = self.results.read_to.max(offset);
        self.tell_results(now)
    }

    fn tell_results(&mut self, now: Now) -> Result<(), Panicked> {
        // A record that waits to be taken one by one has not been offered yet.
        let held_back = self.careful.as_ref().is_some_and(|careful| !careful.waiting.is_empty());
        if let Some((end, asked)) = self.results.end
            && self.results.read_to >= end
            && !held_back
        {
            self.results.end = None;
            let lane = &mut self.lane;
            guarded(|| lane.results_caught_up(asked))?;
            self.queued_since_us.get_or_insert(now.monotonic_us);
        }
        Ok(())
    }

    pub fn reread(
        &mut self,
        now: Now,
        offset: i64,
        record: Option<&RawRecord<'_>>,
    ) -> Result<(), Panicked> {
        // Only what this lane asked for, in this run.
        if !self.rereading.remove(&offset) {
            return Ok(());
        }
        let lane = &mut self.lane;
        guarded(|| lane.offer_reread(offset, record))?;
        self.queued_since_us.get_or_insert(now.monotonic_us);
        Ok(())
    }

    /// A delivery timed out; whether the lane now rests.
    pub fn timed_out(&mut self, settings: &WorkerSettings, now: Now) -> bool {
        self.timeouts += 1;
        // The first one may be an election that is over by now.
        if self.timeouts < 2 {
            return false;
        }
        self.paused_until_us = Some(now.monotonic_us + settings.leaderless_pause_ms * 1_000);
        true
    }

    /// Whether the lane knows a resource, or is about to: control records that are to be taken one
    /// by one after a panic are told only once it runs.
    pub fn knows_fleet(&self) -> bool {
        let waits =
            |careful: &Careful| careful.waiting.iter().any(|record| record.topic == Topic::Fleet);
        self.lane.has_fleet() || self.careful.as_ref().is_some_and(waits)
    }

    pub fn is_paused(&self) -> bool {
        self.paused_until_us.is_some()
    }

    pub fn queued(&self) -> usize {
        self.lane.queued() + self.careful.as_ref().map_or(0, |careful| careful.waiting.len())
    }

    pub fn queued_bytes(&self) -> usize {
        let waiting = self.careful.as_ref().map_or(0, Careful::bytes);
        self.lane.queued_bytes() + waiting
    }

    /// Where to read on, in the order of [`Topic::LANE_INPUTS`].
    pub fn input_positions(&self) -> [i64; 3] {
        let positions = self.lane.positions();
        [positions.tasks, positions.task_results, positions.lane_inbox]
            .map(|position| position.unwrap_or(0))
    }

    /// The inputs are about to be read again from [`Held::input_positions`].
    pub fn forget_inputs_read_ahead(&mut self) {
        if let Some(careful) = &mut self.careful {
            careful.waiting.retain(|record| Topic::CONTROLS.contains(&record.topic));
        }
    }

    /// The control topics are about to be read again from the lane's positions.
    pub fn forget_controls_read_ahead(&mut self) {
        if let Some(careful) = &mut self.careful {
            careful.waiting.retain(|record| !Topic::CONTROLS.contains(&record.topic));
        }
    }
}
