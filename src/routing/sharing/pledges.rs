//! Rights that a lane owes: a *pledge* to another lane, and room that is *kept* for a large task of
//! its own.
//!
//! A lane whose tasks wait never has anything left at the end of a batch: what becomes free is taken by its
//! own tasks first. So advice alone moves nothing between busy lanes, and a task that is larger than any
//! lane's part, a limit of fewer units than lanes, or a critical task beside batch work of other lanes would
//! wait for ever. Where the planner says that rights are *owed*, a lane therefore gives what is free, and
//! pledges the rest for a while: until then what becomes free is not there for its own tasks, unless they are
//! more urgent than those that the rights are for, and each batch gives it away.
//!
//! Nothing of it is needed for safety. A pledge is kept or not, the rights are the lane's until it gives them
//! by the rules of [`super`]; it ends by itself, so whatever the planner says costs a lane a few seconds of
//! what becomes free.
//!
//! The rejected alternative, to let the tasks of another lane stand in this lane's own queue, would need a
//! second message for every task, and an answer.

use serde::{Deserialize, Serialize};

use super::super::fact::Fact;
use super::super::fleet::{Kept, Stand};
use super::super::rights::Scale;
use super::super::state::State;
use super::Lacks;
use crate::model::resource::Dimension;
use crate::model::rights::{Advice, LimitKind, LimitName, LimitOwner};
use crate::model::task::Priority;
use crate::model::time::Timestamp;
use crate::planted::{Bug, planted};

/// Rights that another lane shall have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pledge {
    pub to_lane: u32,
    /// Of the tasks there that they are for.
    pub priority: Priority,
    /// What is still to be given.
    pub rights: u32,
    /// What was to be given at first.
    pub whole: u32,
    pub until: Timestamp,
}

/// Room that comes together for a large task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeping {
    pub kept: Kept,
    pub until: Timestamp,
}

/// A pledge stands for so long, milliseconds: in this time a window of a minute frees a sixth of what is in
/// it, and most attempts end. What is still owed then, the planner says again.
const PLEDGE_MS: u64 = 10_000;

/// Pledges of one lane at the same time: as many as pieces of advice that a batch considers.
const PLEDGES_MAX: usize = 256;

/// Pledges of one limit: the planner collects for one lane at a time, and what critical tasks wait for is not
/// worth more messages at a time.
const LIMIT_PLEDGES_MAX: usize = 4;

/// What becomes free bit by bit is given in parts of this size of the whole at least, or there would be a
/// message with each batch.
const PARTS: u32 = 8;

/// Pledges that stand, in the order in which they are given: the most urgent first, then the oldest.
pub fn pledged(state: &State) -> Vec<(LimitName, u32)> {
    let pledges = state.sharing.pledges.iter();
    let one = |(limit, pledges): (&LimitName, &Vec<Pledge>)| {
        let limit = limit.clone();
        pledges.iter().map(move |pledge| (limit.clone(), pledge.to_lane)).collect::<Vec<_>>()
    };
    pledges.flat_map(one).collect()
}

/// What is given of a pledge now. `None` where nothing of it is free, or too little to send.
pub fn decide_pledged(
    state: &State,
    lacks: &Lacks,
    limit: &LimitName,
    to_lane: u32,
) -> Option<Fact> {
    let pledges = state.sharing.pledges.get(limit)?;
    let place = pledges.iter().position(|one| one.to_lane == to_lane)?;
    let (before, pledge) = (pledges.get(..place)?, pledges.get(place)?);
    let stand = state.stand(limit).filter(|stand| stand.in_force)?;
    let asked = Asked { limit, priority: pledge.priority, rights: pledge.rights };
    let rights = gift(state, lacks, stand, owed(before), asked);
    let is_enough = rights == pledge.rights || rights >= pledge.whole / PARTS;
    (rights > 0 && is_enough).then(|| Fact::RightsGiven { limit: limit.clone(), to_lane, rights })
}

/// Whether to follow advice, with how much of it: nothing where nothing of it is safe or of use.
pub fn decide_advised(state: &State, lacks: &Lacks, advice: &Advice) -> Vec<Fact> {
    let Advice { limit, to_lane, rights: asked, owed_to } = advice;
    let Some(stand) = state.stand(limit).filter(|stand| stand.in_force) else { return Vec::new() };
    if state.lanes <= 1 || *to_lane >= state.lanes {
        return Vec::new();
    }
    if *to_lane == state.lane {
        let kept = owed_to.and_then(|priority| decide_kept(state, lacks, limit, priority));
        return kept.into_iter().collect();
    }
    // What comes together for a task of this lane is not for others that are no more urgent.
    if let Some(keeping) = state.sharing.keeping.get(limit)
        && owed_to.is_none_or(|priority| priority >= keeping.kept.priority)
    {
        return Vec::new();
    }
    let pledges = state.sharing.pledges.get(limit).map_or(&[][..], Vec::as_slice);
    // What the lane's own critical and interactive tasks wait for it does not give where nothing is owed.
    let priority = owed_to.unwrap_or(Priority::Batch);
    let others = pledges.iter().filter(|one| one.to_lane != *to_lane && one.priority <= priority);
    let others = others.fold(0, |sum: u32, one| sum.saturating_add(one.rights));
    let asked = Asked { limit, priority, rights: *asked };
    let rights = gift(state, lacks, stand, others, asked);
    let given =
        (rights > 0).then(|| Fact::RightsGiven { limit: limit.clone(), to_lane: *to_lane, rights });
    let left = Stand { rights: stand.rights - rights, ..stand };
    let rest = Asked { rights: asked.rights.saturating_sub(rights), ..asked };
    let pledged =
        owed_to.and_then(|_| decide_pledge(state, lacks, left, others, rest, *to_lane, pledges));
    given.into_iter().chain(pledged).collect()
}

/// What another lane is to have, for tasks of this priority.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    limit: &'a LimitName,
    priority: Priority,
    rights: u32,
}

fn owed(pledges: &[Pledge]) -> u32 {
    pledges.iter().fold(0, |sum, one| sum.saturating_add(one.rights))
}

/// Units that own tasks wait for and that are not given to less urgent ones elsewhere.
fn own(state: &State, lacks: &Lacks, asked: Asked<'_>) -> u64 {
    let owner = state.load_owner(&asked.limit.owner);
    owner.map_or(0, |owner| lacks.more_urgent(owner, asked.limit.kind, asked.priority))
}

/// Rights that can be given now, beside those that others shall have before.
fn gift(state: &State, lacks: &Lacks, stand: Stand, others: u32, asked: Asked<'_>) -> u32 {
    let free = stand.units.saturating_sub(stand.used);
    let mut kept = stand.used + own(state, lacks, asked).min(free);
    if planted(Bug::GiveInUse) && asked.limit.kind != LimitKind::Slots {
        kept = 0;
    }
    let scale = Scale { limit: stand.amount };
    scale.gift(stand.rights.saturating_sub(others), kept, asked.rights)
}

/// A pledge of what is not free now. `None` where there is nothing to hope for: no whole unit is left, or the
/// lane's own tasks come first.
fn decide_pledge(
    state: &State,
    lacks: &Lacks,
    stand: Stand,
    others: u32,
    asked: Asked<'_>,
    to_lane: u32,
    standing: &[Pledge],
) -> Option<Fact> {
    let scale = Scale { limit: stand.amount };
    let rights = asked.rights.min(stand.rights.saturating_sub(others));
    if scale.units(rights) == 0 || own(state, lacks, asked) >= scale.units(stand.rights) {
        return None;
    }
    let is_known = standing.iter().any(|one| one.to_lane == to_lane);
    let all: usize = state.sharing.pledges.values().map(Vec::len).sum();
    if !is_known && (standing.len() >= LIMIT_PLEDGES_MAX || all >= PLEDGES_MAX) {
        return None;
    }
    let until = state.batch_time.plus_ms(PLEDGE_MS);
    let pledge = Pledge { to_lane, priority: asked.priority, rights, whole: rights, until };
    Some(Fact::RightsPledged { limit: asked.limit.clone(), pledge })
}

/// Whether to keep room together for the largest task of this priority that waits here: it is this lane for
/// which others give now, and smaller tasks would take it bit by bit.
fn decide_kept(
    state: &State,
    lacks: &Lacks,
    limit: &LimitName,
    priority: Priority,
) -> Option<Fact> {
    let is_large = limit.kind.window_s() > 0
        && !matches!(limit.kind, LimitKind::Rate { dimension: Dimension::Requests, .. });
    if !is_large || !matches!(limit.owner, LimitOwner::Resource(_)) {
        return None;
    }
    let owner = state.load_owner(&limit.owner)?;
    let amount = state.stand(limit)?.amount;
    let size = lacks.largest(owner, limit.kind, priority);
    let is_known = state.sharing.keeping.contains_key(limit);
    let fits = is_known || state.sharing.keeping.len() < PLEDGES_MAX;
    let keeping =
        Keeping { kept: Kept { priority, size }, until: state.batch_time.plus_ms(PLEDGE_MS) };
    (fits && size > 0 && size <= amount).then(|| Fact::RoomKept { limit: limit.clone(), keeping })
}
