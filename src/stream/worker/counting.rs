//! How many lanes there are: now, and at first.
//!
//! Partitions are added topic by topic, and brokers hear of it one after the other. A lane runs where
//! every topic has its partition; the lanes of which that is true are those that share. What limits
//! are dealt among is another number, that of the first lanes, which never changes. A lane that has
//! never committed anything asks the others for it: what they have committed names it.

use super::epoch::Reset;
use super::event::{Command, LaneError};
use super::recovery::FIRST_EPOCH;
use super::{Fold, Phase, Slot, Worker};
use crate::model::Topic;
use crate::model::rights::LANES_MAX;
use crate::stream::clock::Now;
use crate::stream::committed::{self, Dealt, LaneCommit};

/// Topics with one partition for each lane, besides `tasks`. A pool's decision topic may have fewer.
const PER_LANE: [Topic; 7] = [
    Topic::TaskResults,
    Topic::LaneInbox,
    Topic::AllocationEvents,
    Topic::BalanceEvents,
    Topic::LoadSnapshots,
    Topic::Journal,
    Topic::Snapshots,
];

/// Where topics disagree, or others have not said something yet, it is asked again after this long.
const COUNT_AGAIN_MS: u64 = 5_000;

/// A lane that cannot begin is stopped after this long: adding partitions takes seconds.
const WAIT_MS_MAX: u64 = 60_000;

/// Lanes that are asked about together, until one says it. What is committed can only be told while no
/// transaction is about to end, and of all lanes of a large installation there is always one.
const ASKED_TOGETHER: u32 = 8;

/// What lanes have committed, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Firsts {
    /// Lanes below this one were asked about.
    asked: u32,
    commits: Vec<(u32, LaneCommit)>,
}

impl Worker {
    fn count(&self, topic: Topic) -> i32 {
        self.partitions.get(&topic).copied().unwrap_or(0)
    }

    /// The topic with the fewest partitions of all that have one for each lane.
    fn fewest(&self) -> (Topic, i32) {
        let tasks = (Topic::Tasks, self.count(Topic::Tasks));
        let counts = PER_LANE.into_iter().map(|topic| (topic, self.count(topic)));
        counts.fold(tasks, |least, one| if one.1 < least.1 { one } else { least })
    }

    /// Lanes that share now.
    pub(super) fn lanes_now(&self) -> u32 {
        u32::try_from(self.fewest().1).unwrap_or(0).min(LANES_MAX)
    }

    /// A topic that has not as many partitions as `tasks`.
    fn disagreement(&self, lane: u32) -> Option<LaneError> {
        let tasks = self.count(Topic::Tasks);
        PER_LANE.iter().find_map(|topic| {
            let found = self.count(*topic);
            let topic = topic.default_name();
            (found != tasks).then_some(LaneError::Partitions { lane, topic, found, tasks })
        })
    }

    /// Why the lane cannot run with the partitions that there are.
    pub(super) fn wrong_partitions(&self, lane: u32) -> Option<LaneError> {
        let tasks = self.count(Topic::Tasks);
        if lane >= LANES_MAX {
            return Some(LaneError::TooMany { lane, tasks });
        }
        let (topic, found) = self.fewest();
        let is_missing = i64::from(found) <= i64::from(lane);
        let topic = topic.default_name();
        is_missing.then_some(LaneError::Partitions { lane, topic, found, tasks })
    }

    /// Why a lane that knows of so many lanes cannot go on: partitions are gone.
    pub(super) fn fewer_partitions(&self, lane: u32, lanes: u32) -> Option<LaneError> {
        let (topic, found) = self.fewest();
        let topic = topic.default_name();
        (self.lanes_now() < lanes).then_some(LaneError::Fewer { lane, lanes, topic, found })
    }

    /// Partitions were counted.
    pub(super) fn counted(&mut self, now: Now, partitions: Vec<(Topic, i32)>) {
        let before = std::mem::replace(&mut self.partitions, partitions.into_iter().collect());
        if before == self.partitions {
            return;
        }
        // A producer that is open knows the topics as they were.
        let mut counts = self.partitions.iter();
        self.has_grown |=
            counts.any(|(topic, count)| before.get(topic).is_some_and(|before| before < count));
        let lanes = self.lanes_now();
        let mut revived = false;
        for slot in self.slots.values_mut() {
            if let Some(held) = &mut slot.held {
                held.lane.count_lanes(lanes);
            }
            let waits = matches!(slot.phase, Phase::Waiting { .. })
                || matches!(&slot.phase, Phase::Stopped(error) if error.is_about_partitions());
            if waits {
                slot.phase = Phase::Asked { ask: 0, again_us: None, runs: false };
                revived = true;
            }
        }
        if revived {
            self.begin_lanes(now);
        }
    }

    /// Asks how many partitions there are, as long as topics disagree.
    pub(super) fn count_again(&mut self, now: Now) {
        let disagree = self.disagreement(0).is_some()
            || self.slots.values().any(|slot| matches!(slot.phase, Phase::Waiting { .. }));
        if self.slots.is_empty() || !disagree {
            return;
        }
        if now.ms_since(self.counted_us) >= COUNT_AGAIN_MS {
            self.counted_us = now.monotonic_us;
            self.commands.push_back(Command::CountPartitions);
        }
    }

    /// The lane cannot begin yet.
    pub(super) fn wait_lane(&mut self, now: Now, number: u32, error: LaneError) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.held = None;
        slot.phase = Phase::Waiting { error: error.clone(), since_us: now.monotonic_us };
        self.commands.push_back(Command::LaneWaits { lane: number, error });
    }

    /// Stops the lanes that have waited for too long.
    pub(super) fn end_waits(&mut self, now: Now) {
        let over = |since_us: u64| now.ms_since(since_us) >= WAIT_MS_MAX;
        let ended = self.slots.iter().filter_map(|(number, slot)| {
            if let Phase::Waiting { error, since_us } = &slot.phase {
                return over(*since_us).then(|| (*number, error.clone()));
            }
            let Phase::Counting { unsaid_us: Some(since_us), .. } = &slot.phase else {
                return None;
            };
            over(*since_us).then_some((*number, LaneError::Unsaid { lane: *number }))
        });
        for (number, error) in ended.collect::<Vec<_>>() {
            self.stop_lane(number, error);
        }
    }

    /// The lane has no batch of its own: what the others have committed says how many lanes there
    /// were at first.
    pub(super) fn count_first(&mut self, number: u32, reset: Option<Reset>) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        slot.held = None;
        slot.phase = Phase::Counting { ask: 0, again_us: None, unsaid_us: None, reset };
    }

    /// Asks for all lanes that wait to hear of the first ones, at once.
    pub(super) fn ask_first(&mut self, now: Now) {
        let is_due = |slot: &Slot| {
            let Phase::Counting { ask, again_us, .. } = slot.phase else { return false };
            ask == 0 || again_us.is_some_and(|at| at <= now.monotonic_us)
        };
        if self.slots.values().any(is_due) {
            self.firsts = Firsts::default();
            self.ask_next_firsts();
        }
    }

    /// Asks about the next lanes; whoever waits hears of it.
    fn ask_next_firsts(&mut self) {
        self.asks += 1;
        let asks = self.asks;
        for slot in self.slots.values_mut() {
            if let Phase::Counting { ask, again_us, .. } = &mut slot.phase {
                (*ask, *again_us) = (asks, None);
            }
        }
        let from = self.firsts.asked;
        self.firsts.asked = self.lanes_of_tasks().min(from + ASKED_TOGETHER);
        let lanes = (from..self.firsts.asked).collect();
        self.commands.push_back(Command::FetchCommitted { ask: asks, lanes });
    }

    fn lanes_of_tasks(&self) -> u32 {
        u32::try_from(self.count(Topic::Tasks)).unwrap_or(0).min(LANES_MAX)
    }

    /// What some more lanes have committed.
    pub(super) fn first_counted(&mut self, now: Now, answered: u64, commits: &[(u32, LaneCommit)]) {
        let asked = self.slots.iter().filter(
            |(_, slot)| matches!(slot.phase, Phase::Counting { ask, .. } if ask == answered),
        );
        let asked: Vec<u32> = asked.map(|(number, _)| *number).collect();
        if asked.is_empty() {
            return;
        }
        self.firsts.commits.extend_from_slice(commits);
        let dealt = committed::dealt(&self.firsts.commits);
        let is_open = matches!(dealt, Ok(Dealt::Nothing | Dealt::Unsaid));
        if is_open && self.firsts.asked < self.lanes_of_tasks() {
            return self.ask_next_firsts();
        }
        self.firsts = Firsts::default();
        for number in asked {
            match &dealt {
                Ok(dealt) => self.first_known(now, number, *dealt),
                Err(error) => self.stop_lane(number, error.clone().into()),
            }
        }
    }

    fn first_known(&mut self, now: Now, number: u32, dealt: Dealt) {
        let all = self.lanes_now();
        let disagreement = self.disagreement(number);
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Phase::Counting { again_us, unsaid_us, reset, .. } = &mut slot.phase else { return };
        let reset = reset.clone();
        let dealt = match (dealt, disagreement) {
            (Dealt::Among(dealt), _) => dealt,
            // The first lanes begin with a number that all topics agree on.
            (Dealt::Nothing, Some(error)) => return self.wait_lane(now, number, error),
            (Dealt::Nothing, None) => all,
            // What was reset cannot say it; the lane's journal does, where there is one.
            (Dealt::Unsaid, _) if reset.is_some() => all,
            (Dealt::Unsaid, _) => {
                *again_us = Some(now.monotonic_us + COUNT_AGAIN_MS * 1_000);
                if unsaid_us.is_none() {
                    *unsaid_us = Some(now.monotonic_us);
                    let error = LaneError::Unsaid { lane: number };
                    self.commands.push_back(Command::LaneWaits { lane: number, error });
                }
                return;
            }
        };
        if let Some(error) = self.fewer_partitions(number, dealt) {
            return self.wait_lane(now, number, error);
        }
        self.fold_whole(now, number, FIRST_EPOCH, dealt, Fold { reset, ..Fold::default() });
    }
}
