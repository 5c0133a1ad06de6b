//! How a lane comes to run: from what is committed, by its journal, to the ends of the control topics.

use super::event::{Command, LaneError};
use super::held::Held;
use super::transaction::{After, Producer};
use super::{ASK_AGAIN_MS, Fold, Parked, Phase, Slot, Worker};
use crate::model::Topic;
use crate::planted::{Bug, planted};
use crate::stream::clock::Now;
use crate::stream::committed::{self, CommitPoint, LaneCommit};

/// The epoch of a lane that has never run.
pub(super) const FIRST_EPOCH: u32 = 1;

/// What the committed offsets say about a lane that is held.
enum Verdict {
    /// The pending batch is committed.
    Committed,
    /// Nothing has happened since: what is held holds, and a pending batch is produced again.
    Unchanged,
    /// Another instance has gone on, and what is held is a true beginning of that.
    Behind,
    Other,
}

impl Worker {
    pub(super) fn assigned(&mut self, now: Now, assigned: &[(Topic, i32)]) {
        self.revoked(now);
        let numbers: Vec<u32> = assigned
            .iter()
            .filter(|(topic, _)| *topic == Topic::Tasks)
            .filter(|(_, partition)| {
                Topic::LANE_INPUTS.iter().all(|topic| assigned.contains(&(*topic, *partition)))
            })
            .filter_map(|(_, partition)| u32::try_from(*partition).ok())
            .collect();
        for number in &numbers {
            let phase = Phase::Asked { ask: 0, again_us: None, runs: false };
            let slot = match self.parked.remove(number) {
                Some(parked) => {
                    let mut slot = Slot::new(phase, Some(parked.held));
                    slot.condemned = parked.condemned;
                    slot
                }
                None => Slot::new(phase, None),
            };
            self.slots.insert(*number, slot);
        }
        self.begin_lanes(now);
    }

    /// Asks what is committed of the lanes that are new here.
    pub(super) fn begin_lanes(&mut self, now: Now) {
        for (number, _) in self.asked_lanes(|ask, _| ask == 0) {
            match self.wrong_partitions(number) {
                Some(error @ LaneError::TooMany { .. }) => self.stop_lane(number, error),
                Some(error) => self.wait_lane(now, number, error),
                None => {}
            }
        }
        if self.asked_lanes(|_, _| true).is_empty() {
            return;
        }
        match self.producer {
            Producer::Closed => self.open(After::Verdict),
            Producer::Idle => self.ask_unsent(),
            // Asked when the producer is ready again.
            Producer::Opening(_)
            | Producer::OpenAgain { .. }
            | Producer::Step(_)
            | Producer::Aborting(_)
            | Producer::Ended => {}
        }
    }

    /// Parks what is held: the lanes may come back in a moment, or never.
    pub(super) fn revoked(&mut self, now: Now) {
        for (number, slot) in std::mem::take(&mut self.slots) {
            match slot.phase {
                Phase::Folding(_) => {
                    self.commands.push_back(Command::StopJournal { lane: number });
                    continue;
                }
                Phase::Checking(_) => {
                    self.commands.push_back(Command::StopJournal { lane: number });
                }
                Phase::Asked { .. }
                | Phase::Counting { .. }
                | Phase::Waiting { .. }
                | Phase::Finding { .. }
                | Phase::Starting
                | Phase::CatchingUp { .. }
                | Phase::Running
                | Phase::Stopped(_) => {}
            }
            if let Some(held) = slot.held {
                let condemned = slot.condemned;
                let parked = Parked { held, condemned, since_us: now.monotonic_us };
                self.parked.insert(number, parked);
            }
        }
    }

    /// Asks what is committed of these lanes; `runs` where a lane goes on queueing meanwhile.
    pub(super) fn ask(&mut self, lanes: Vec<(u32, bool)>) {
        if lanes.is_empty() {
            return;
        }
        self.asks += 1;
        let mut asked = Vec::new();
        for (number, runs) in lanes {
            if let Some(slot) = self.slots.get_mut(&number) {
                slot.phase = Phase::Asked { ask: self.asks, again_us: None, runs };
                asked.push(number);
            }
        }
        if !asked.is_empty() {
            self.commands.push_back(Command::FetchCommitted { ask: self.asks, lanes: asked });
        }
    }

    /// Asks for the lanes that were assigned while the producer was not ready.
    pub(super) fn ask_unsent(&mut self) {
        let unsent = self.asked_lanes(|ask, _| ask == 0);
        self.ask(unsent);
    }

    pub(super) fn ask_again(&mut self, now: Now) {
        let due = self.asked_lanes(|_, again_us| again_us.is_some_and(|at| at <= now.monotonic_us));
        self.ask(due);
    }

    fn asked_lanes(&self, wanted: impl Fn(u64, Option<u64>) -> bool) -> Vec<(u32, bool)> {
        let asked = self.slots.iter().filter_map(|(number, slot)| match slot.phase {
            Phase::Asked { ask, again_us, runs } if wanted(ask, again_us) => Some((*number, runs)),
            Phase::Asked { .. }
            | Phase::Counting { .. }
            | Phase::Waiting { .. }
            | Phase::Finding { .. }
            | Phase::Starting
            | Phase::Folding(_)
            | Phase::Checking(_)
            | Phase::CatchingUp { .. }
            | Phase::Running
            | Phase::Stopped(_) => None,
        });
        asked.collect()
    }

    pub(super) fn committed_unknown(&mut self, now: Now, answered: u64) {
        for slot in self.slots.values_mut() {
            if let Phase::Asked { ask, again_us, .. } | Phase::Counting { ask, again_us, .. } =
                &mut slot.phase
                && *ask == answered
            {
                *again_us = Some(now.monotonic_us + ASK_AGAIN_MS * 1_000);
            }
        }
    }

    pub(super) fn committed(&mut self, now: Now, answered: u64, lanes: &[(u32, LaneCommit)]) {
        self.first_counted(now, answered, lanes);
        for (number, commit) in lanes {
            let Some(slot) = self.slots.get_mut(number) else { continue };
            let Phase::Asked { ask, runs, .. } = slot.phase else { continue };
            if ask != answered {
                continue;
            }
            match committed::read(*number, commit) {
                Ok(point) => self.resolve(now, *number, point, runs),
                Err(_) if self.settings.new_epoch => self.accept_reset(now, *number, commit, runs),
                Err(error) => self.stop_lane(*number, error.into()),
            }
        }
        self.ask_first(now);
    }

    fn resolve(&mut self, now: Now, number: u32, point: Option<CommitPoint>, runs: bool) {
        let lanes_now = self.lanes_now();
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Some(held) = &mut slot.held else { return self.recover(number, point) };
        // Partitions were added before anything of it was told to anyone: others may have begun since.
        let is_other = held.is_untold() && held.lane.state().dealt != lanes_now;
        if point.is_none() && is_other && !runs && !held.is_unsure() {
            return self.recover(number, None);
        }
        if planted(Bug::KeepLostLane) && !runs {
            return self.catch_up(now, number);
        }
        match verdict(held, point.as_ref()) {
            Verdict::Unchanged if held.is_unsure() => self.check(number, point, runs),
            Verdict::Unchanged if runs => slot.phase = Phase::Running,
            Verdict::Committed if runs => {
                self.commands.extend(held.settled(now));
                slot.phase = Phase::Running;
            }
            Verdict::Committed => {
                self.commands.extend(held.settled(now));
                self.catch_up(now, number);
            }
            Verdict::Unchanged => self.catch_up(now, number),
            Verdict::Behind => {
                // Not a state of our own making was missed, but batches of another instance.
                held.lane.clear_queue();
                let from = Some(held.committed_at);
                slot.phase = Phase::Folding(Fold { target: point, ..Fold::default() });
                self.commands.push_back(Command::ReadJournal { lane: number, from });
                if runs {
                    self.read_inputs();
                }
            }
            Verdict::Other => {
                slot.held = None;
                self.recover(number, point);
                if runs {
                    self.read_inputs();
                }
            }
        }
    }

    /// Makes the lane anew: from a snapshot where there is one, else from its whole journal.
    pub(super) fn recover(&mut self, number: u32, point: Option<CommitPoint>) {
        let Some(target) = point else { return self.count_first(number, None) };
        let seq_max = target.seq;
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.phase = Phase::Finding { ask: 0, target };
        }
        self.find_snapshot(number, seq_max);
    }

    pub(super) fn start(&mut self, now: Now, number: u32, offsets: [i64; 3]) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if let (Phase::Starting, Some(held)) = (&slot.phase, &mut slot.held) {
            let [tasks, task_results, lane_inbox] = offsets;
            held.lane.start_at(tasks, task_results, lane_inbox);
            self.catch_up(now, number);
        }
    }

    /// The lane is at its committed batch; what is left are the control topics.
    pub(super) fn catch_up(&mut self, now: Now, number: u32) {
        let held = self.slots.get(&number).and_then(|slot| slot.held.as_ref());
        let lanes = held.map_or(0, |held| held.lane.state().lanes);
        if let Some(error) = self.fewer_partitions(number, lanes) {
            return self.wait_lane(now, number, error);
        }
        let lanes = self.lanes_now();
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.phase = Phase::CatchingUp { fleet: false, health_events: false };
        let careful = slot.condemn();
        if let Some(held) = &mut slot.held {
            // A batch that waits to be produced again is decided already; the next one will know.
            held.lane.set_policy(self.settings.lane.policy.clone());
            held.lane.count_lanes(lanes);
            if careful.is_some() {
                held.careful = careful;
            }
        }
        self.read_controls();
    }

    fn read_controls(&mut self) {
        let mut from: Option<(i64, i64)> = None;
        for slot in self.slots.values_mut() {
            if !slot.takes(Topic::Fleet) {
                continue;
            }
            if let Phase::CatchingUp { fleet, health_events } = &mut slot.phase {
                (*fleet, *health_events) = (false, false);
            }
            if let Some(held) = &mut slot.held {
                held.forget_controls_read_ahead();
                let at = held.lane.positions();
                let (fleet, health_events) = from.unwrap_or((at.fleet, at.health_events));
                from = Some((fleet.min(at.fleet), health_events.min(at.health_events)));
            }
        }
        if let Some((fleet, health_events)) = from {
            // Several lanes in a row need one reading.
            if matches!(self.commands.back(), Some(Command::ReadControls { .. })) {
                self.commands.pop_back();
            }
            self.commands.push_back(Command::ReadControls { fleet, health_events });
        }
    }

    /// Lanes that have read the control topics to their ends run. Their inputs are read once they
    /// know a resource; a control record that cannot be used must not wait for that.
    pub(super) fn run_caught_up(&mut self, now: Now) {
        let mut any = false;
        for (number, slot) in &mut self.slots {
            let lane = *number;
            let Some(held) = &mut slot.held else { continue };
            let is_new =
                matches!(slot.phase, Phase::CatchingUp { fleet: true, health_events: true });
            if is_new {
                self.asks += 1;
                held.acquire(&self.settings, now, self.asks);
                slot.phase = Phase::Running;
            }
            if matches!(slot.phase, Phase::Running) && !held.reads {
                if held.knows_fleet() {
                    held.reads = true;
                    self.commands.push_back(if held.is_paused() {
                        Command::Pause { lane }
                    } else {
                        Command::LaneRuns { lane }
                    });
                    any = true;
                } else if is_new {
                    self.commands.push_back(Command::LaneAwaitsFleet { lane });
                }
            }
        }
        if any {
            self.read_inputs();
        }
    }

    pub(super) fn deleted(&mut self, topic: Topic, partition: i32, offset: i64) {
        // Not a place in the log: the client has lost its own, as librdkafka does where a leader changes
        // while a rebalance waits (what it then takes for its place is past the end). Where the log
        // itself is shorter, the place that it is given here is named the next time.
        if offset < 0 {
            return self.read_inputs();
        }
        if let Ok(lane) = u32::try_from(partition) {
            let topic = topic.default_name();
            self.stop_lane(lane, LaneError::Deleted { lane, topic, offset });
        }
    }
}

fn verdict(held: &Held, point: Option<&CommitPoint>) -> Verdict {
    let unchanged = match (&held.committed, point) {
        (None, None) => true,
        (Some(ours), Some(point)) => ours.is_same_batch(point),
        (None, Some(_)) | (Some(_), None) => false,
    };
    if unchanged {
        return Verdict::Unchanged;
    }
    match (&held.pending, point) {
        (Some(batch), Some(point)) if CommitPoint::of(batch).is_same_batch(point) => {
            Verdict::Committed
        }
        (None, Some(point)) if point.seq > held.lane.seq() && held.is_at_committed() => {
            Verdict::Behind
        }
        (Some(_) | None, Some(_) | None) => Verdict::Other,
    }
}
