//! What was advised lately of one limit, and what has become of it. Without this, advice would be
//! repeated until it shows in a load snapshot, and given twice.

use std::collections::BTreeMap;

use super::shares::Part;
use crate::model::task::Priority;
use crate::model::time::Timestamp;
use crate::routing::rights::RIGHTS;

/// Advice that shows no effect within this time, milliseconds, had none: its way is one transaction of
/// the giver's, and what the giver says of it comes with that or 0.1 s later.
const PATIENCE_MS: u64 = 2_000;

/// What is owed comes as it becomes free, and a pledge ends after ten seconds.
const OWED_PATIENCE_MS: u64 = 12_000;

/// Rights that were given arrive within this time, or their receiver is not there, milliseconds.
const ARRIVAL_MS: u64 = 5_000;

/// A lane that let advice pass is asked again when it has said something new; where it says nothing,
/// after this time and then after twice as long each time. One that is dead finds a handful of stale
/// advice in its inbox when it comes back.
const AGAIN_MS: u64 = 10_000;
const AGAIN_MS_MAX: u64 = 600_000;

/// One piece of advice that is not settled.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    from: u32,
    to: u32,
    whole: u32,
    /// Rights that the giver has not been seen to give, and those that have not been seen to arrive.
    to_give: u32,
    to_arrive: u32,
    /// Where it is owed: the priority of the tasks that it is for.
    owed_to: Option<Priority>,
    at: Timestamp,
}

impl Asked {
    pub fn new(
        (from, to): (u32, u32),
        rights: u32,
        owed_to: Option<Priority>,
        at: Timestamp,
    ) -> Self {
        Asked { from, to, whole: rights, to_give: rights, to_arrive: rights, owed_to, at }
    }

    fn is_critical(&self) -> bool {
        self.owed_to == Some(Priority::Critical)
    }

    /// Whether nothing more will come of it, by what its giver says last.
    fn is_over(&self, giver: Option<&Part>, age_ms: u64) -> bool {
        if self.owed_to.is_none() {
            return age_ms >= PATIENCE_MS;
        }
        let owes = |part: &Part| part.pledged > 0 || part.at <= self.at;
        let gives = age_ms < PATIENCE_MS || giver.is_some_and(owes);
        // It gave to another lane what it had.
        let has = giver.is_none_or(|part| part.rights > 0);
        age_ms >= OWED_PATIENCE_MS || !gives || !has
    }
}

/// A lane that let advice pass.
#[derive(Debug, Clone, Copy)]
struct Passed {
    /// What it had said by then.
    told_at: Timestamp,
    again_at: Timestamp,
    again_ms: u64,
}

/// A collection of fragments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collecting {
    pub lane: u32,
    pub since: Timestamp,
    /// Units of the task that they are for.
    pub size: u64,
    /// When the lane was last asked to keep what comes together.
    pub kept_at: Option<Timestamp>,
}

/// Rights that a lane was advised to give and has not, and those that should come to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    pub to_give: u32,
    pub to_come: u32,
    /// Of what is to be given, for critical tasks.
    pub to_give_critical: u32,
    /// Of what should come, what is owed to critical tasks, and what is free already.
    pub to_come_critical: u32,
    pub to_come_free: u32,
}

#[derive(Debug, Default)]
pub struct Memory {
    asked: Vec<Asked>,
    passed: BTreeMap<u32, Passed>,
    /// The rights of each lane when that was last looked at.
    rights: BTreeMap<u32, u32>,
    pub collecting: Option<Collecting>,
    /// When rights were last collected for a lane, or that was last tried.
    pub collected: BTreeMap<u32, Timestamp>,
    /// When each lane last got rights for its price from lanes with a price.
    pub priced: BTreeMap<u32, Timestamp>,
    /// When rights last moved from one waiting lane to another.
    pub evened_at: Option<Timestamp>,
    /// When each lane was last asked for slots that stood idle there.
    pub idle: BTreeMap<u32, Timestamp>,
    /// When room is collected again for a large task.
    pub collect_at: Timestamp,
    /// Since when each lane says that critical tasks wait there.
    pub critical: BTreeMap<u32, Timestamp>,
}

impl Memory {
    /// Compares what lanes say now with what was advised.
    pub fn settle(&mut self, parts: &[Part], now: Timestamp) {
        for part in parts {
            let before = self.rights.insert(part.lane, part.rights).unwrap_or(part.rights);
            if before == part.rights {
                continue;
            }
            let mut given = before.saturating_sub(part.rights);
            // As the giver does: the most urgent first.
            self.asked.sort_by_key(|asked| !asked.is_critical());
            for asked in self.asked.iter_mut().filter(|asked| asked.from == part.lane) {
                let part = given.min(asked.to_give);
                asked.to_give -= part;
                given -= part;
            }
            let mut arrived = part.rights.saturating_sub(before);
            for asked in self.asked.iter_mut().filter(|asked| asked.to == part.lane) {
                let part = arrived.min(asked.to_arrive);
                asked.to_arrive -= part;
                arrived -= part;
            }
            if part.rights < before {
                self.passed.remove(&part.lane);
            }
        }
        let Memory { asked, passed, .. } = self;
        asked.retain(|asked| {
            let age_ms = now.ms_since(asked.at);
            let giver = parts.iter().find(|part| part.lane == asked.from);
            let arrival_ms = asked.owed_to.map_or(ARRIVAL_MS, |_| ARRIVAL_MS + OWED_PATIENCE_MS);
            // The receiver is seen first where the giver is read later.
            if asked.to_arrive == 0 || age_ms >= arrival_ms {
                return false;
            }
            if asked.to_give == 0 || !asked.is_over(giver, age_ms) {
                return true;
            }
            // It gave some of it, or has nothing left: that is not to let it pass.
            let has_nothing = giver.is_some_and(|part| part.rights == 0);
            if asked.owed_to.is_some() && (asked.to_give < asked.whole || has_nothing) {
                return false;
            }
            let told_at = giver.map(|part| part.at);
            let again_ms = passed.get(&asked.from).map_or(AGAIN_MS, |last| 2 * last.again_ms);
            let again_ms = again_ms.min(AGAIN_MS_MAX);
            let told_at = told_at.unwrap_or(now);
            let again_at = now.plus_ms(again_ms);
            passed.insert(asked.from, Passed { told_at, again_at, again_ms });
            false
        });
    }

    /// What was advised and is not seen yet, by lane.
    pub fn open(&self) -> BTreeMap<u32, Open> {
        let mut open: BTreeMap<u32, Open> = BTreeMap::new();
        for asked in &self.asked {
            let from = open.entry(asked.from).or_default();
            from.to_give = from.to_give.saturating_add(asked.to_give);
            if asked.is_critical() {
                from.to_give_critical = from.to_give_critical.saturating_add(asked.to_give);
            }
            let to = open.entry(asked.to).or_default();
            to.to_come = to.to_come.saturating_add(asked.to_arrive);
            let part = match asked.owed_to {
                Some(Priority::Critical) => &mut to.to_come_critical,
                Some(Priority::Interactive | Priority::Batch) => continue,
                None => &mut to.to_come_free,
            };
            *part = part.saturating_add(asked.to_arrive);
        }
        open
    }

    /// Whether it is of use to ask this lane.
    pub fn may_ask(&self, part: &Part, now: Timestamp) -> bool {
        self.passed
            .get(&part.lane)
            .is_none_or(|passed| part.at > passed.told_at || now >= passed.again_at)
    }

    /// Remembers what is asked, and returns what is to be said: a lane has one pledge to another one, so a new
    /// one has in it what is left of the last.
    pub fn ask(&mut self, mut asked: Asked) -> u32 {
        let is_same = |one: &Asked| {
            let is_owed = one.owed_to.is_some() && asked.owed_to.is_some();
            is_owed && (one.from, one.to) == (asked.from, asked.to)
        };
        let before: Vec<Asked> = self.asked.iter().copied().filter(is_same).collect();
        self.asked.retain(|one| !is_same(one));
        for one in before {
            asked.to_give = asked.to_give.saturating_add(one.to_give).min(RIGHTS);
            asked.to_arrive = asked.to_arrive.saturating_add(one.to_arrive).min(RIGHTS);
        }
        asked.whole = asked.to_give;
        self.asked.push(asked);
        asked.to_give
    }

    pub fn is_open(&self) -> bool {
        !self.asked.is_empty() || self.collecting.is_some() || !self.critical.is_empty()
    }
}
