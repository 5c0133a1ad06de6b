//! Capacity shared between lanes: rights that come and go, and what a lane says of what it lacks.
//!
//! A lane gives rights up in its own batch and writes them to the receiver's inbox in the same
//! transaction, so what lanes hold and what is under way are all rights of a limit, at every
//! offset. Nobody asks and nobody acknowledges: a planner that sees the lanes' load snapshots
//! *advises*, and a lane follows where it is safe for it, by what it knows of itself alone. Advice
//! that is stale, doubled or nonsense costs a detour, never capacity that is not there.
//!
//! What is safe: slots that nobody is in, and of a rate what the use in the window leaves. Then
//! the sum over the lanes of the larger of units and use never grows, and it is at most the limit
//! to begin with.

mod lacks;
mod pledges;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use lacks::{Lacks, Taking};
pub use pledges::{Keeping, Pledge, decide_advised, decide_pledged, pledged};

use super::fact::{Fact, Lack, LoadOwner, Taken};
use super::fleet::Stand;
use super::rights::{LANES_MAX, RIGHTS};
use super::state::State;
use crate::model::resource::{LIMITS_MAX, RESOURCES_MAX};
use crate::model::rights::{LimitKind, LimitName, LimitOwner, RightsTransfer};
use crate::model::time::Timestamp;

/// Rights that came before the lane can use them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Early {
    pub rights: u32,
    /// By this lane's clock.
    pub usable_at: Timestamp,
}

/// What a lane knows of sharing beside its rights, which stand with the limits.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sharing {
    /// Two at most of each limit: the first to become usable, and all others together.
    pub(super) early: BTreeMap<LimitName, Vec<Early>>,
    /// Limits that tasks waited for when that was last published.
    pub dry: BTreeMap<(LoadOwner, LimitKind), Dry>,
    /// Whose rights are not those that were last published.
    pub untold: BTreeSet<LoadOwner>,
    /// When a load snapshot of anything was published last.
    pub told_at: Timestamp,
    /// What other lanes shall have, by limit: the most urgent first, then the oldest.
    pub(super) pledges: BTreeMap<LimitName, Vec<Pledge>>,
    /// What comes together for large tasks of this lane.
    pub(super) keeping: BTreeMap<LimitName, Keeping>,
}

/// A limit that tasks waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dry {
    pub since: Timestamp,
    /// Whether critical tasks waited too, when that was last published.
    pub critical: bool,
    /// Since when a task waited that never fits as it is, as far as that was published.
    pub large_since: Option<Timestamp>,
}

/// Limits of which rights may be kept before they are known: all that a fleet can have. The rights
/// of each are bounded by themselves.
const EARLY_MAX: usize = RESOURCES_MAX * (LIMITS_MAX + 1);

/// Clocks of lanes differ by no more than this, milliseconds: an instance whose clock is off by
/// more than a second takes none. What claims to come from later is used then.
const EARLY_MS_MAX: u64 = 10_000;

/// A lane that lacks something says so at once, but not more often than this, milliseconds.
const PROMPT_MS: u64 = 100;

/// Where tasks wait already: that critical ones do too, or do no more, or one that never fits as it is, is
/// said this much after the last word, milliseconds. Where everybody has some it changes all the time.
const URGENT_MS: u64 = 500;

/// Owners whose rights are published for the first time or have moved, in one batch: 100 KiB or so.
const UNTOLD_MAX: usize = 256;

impl Sharing {
    /// Rights of a limit that the lane holds and cannot use yet.
    pub fn early(&self, limit: &LimitName) -> u64 {
        let early = self.early.get(limit).into_iter().flatten();
        early.map(|early| u64::from(early.rights)).sum()
    }

    /// When something has to be done even without input, that much after the last batch or later.
    pub fn next(&self, load_snapshot_ms: u64, published_at: Timestamp) -> Option<Timestamp> {
        let untold = (!self.untold.is_empty()).then(|| self.told_at.plus_ms(PROMPT_MS));
        let dry = (!self.dry.is_empty()).then(|| published_at.plus_ms(load_snapshot_ms));
        let early = self.early.values().filter_map(|early| early.first());
        let early = early.map(|early| early.usable_at).min();
        // What leaves a window is given as soon as it has, and in the end own tasks may take it.
        let owes = !(self.pledges.is_empty() && self.keeping.is_empty());
        let owed = owes.then_some(self.told_at);
        [untold, dry, early, owed].into_iter().flatten().min()
    }
}

impl State {
    /// How the lane stands with a limit that is known here under that very name.
    pub fn stand(&self, limit: &LimitName) -> Option<Stand> {
        self.stand_by_any_name(limit).filter(|stand| stand.incarnation == limit.incarnation)
    }

    /// The same, whatever record of the fleet the lane knows it by.
    fn stand_by_any_name(&self, limit: &LimitName) -> Option<Stand> {
        match &limit.owner {
            LimitOwner::Resource(id) => self.fleet.stand(id, limit.kind),
            LimitOwner::Tenant(id) => self.tenants.stand(id, limit.kind),
        }
    }

    /// Whether the lane was added later, and so may read of a limit by a later record of the fleet than
    /// the others: the earlier one may be compacted away.
    const fn is_added(&self) -> bool {
        self.lane >= self.dealt
    }

    /// Whether that is so of this limit. The lane has never had a right of it.
    pub(super) fn knows_later(&self, limit: &LimitName) -> bool {
        let is_later = |stand: Stand| {
            let ours = LimitName { incarnation: stand.incarnation, ..limit.clone() };
            stand.incarnation > limit.incarnation
                && stand.rights == 0
                && self.sharing.early(&ours) == 0
        };
        self.is_added() && self.stand_by_any_name(limit).is_some_and(is_later)
    }

    /// Whether the lane may still read of a limit that came into being before what it has read.
    pub(super) fn may_know_later(&self, limit: &LimitName) -> bool {
        self.is_added() && self.stand_by_any_name(limit).is_none()
    }

    /// The owner's place in the tables.
    pub(super) fn load_owner(&self, owner: &LimitOwner) -> Option<LoadOwner> {
        match owner {
            LimitOwner::Resource(id) => self.fleet.index_of(id).map(LoadOwner::Resource),
            LimitOwner::Tenant(id) => self.tenants.index_of(id).map(LoadOwner::Tenant),
        }
    }
}

/// Rights that came from another lane.
pub fn decide_taken(state: &State, from_lane: u32, transfer: &RightsTransfer) -> Fact {
    let RightsTransfer { limit, rights, given_at_ms } = transfer;
    let early = state.sharing.early(limit);
    let with = |held: u32| u64::from(held) + early + u64::from(*rights);
    let how = match state.stand(limit) {
        // The sender may have been added, and this lane not have heard of it: what it gave is given.
        _ if *rights == 0 || from_lane == state.lane || from_lane >= LANES_MAX => Taken::Void,
        // More than all there are: nobody has given them.
        Some(stand) if with(stand.rights) > u64::from(RIGHTS) => Taken::Void,
        Some(_) if early == 0 && *given_at_ms <= state.batch_time => Taken::Held,
        Some(_) => Taken::Kept,
        // The sender has read further in the fleet.
        None if limit.incarnation >= state.fleet_position || state.may_know_later(limit) => {
            let known = state.sharing.early.contains_key(limit);
            let fits = known || state.sharing.early.len() < EARLY_MAX;
            if fits && with(0) <= u64::from(RIGHTS) { Taken::Kept } else { Taken::Void }
        }
        None if state.knows_later(limit) && with(0) <= u64::from(RIGHTS) => {
            if *given_at_ms <= state.batch_time { Taken::Held } else { Taken::Kept }
        }
        None => Taken::Void,
    };
    let latest = state.batch_time.plus_ms(EARLY_MS_MAX);
    let transfer = RightsTransfer { given_at_ms: latest.min(*given_at_ms), ..transfer.clone() };
    Fact::RightsTaken { from_lane, transfer, how }
}

/// The lane has been told how many lanes there are now. Fewer than it knows of are not believed:
/// brokers hear of new partitions one after the other.
pub fn decide_lanes(state: &State, told: u32) -> Option<Fact> {
    (told > state.lanes).then_some(Fact::LanesCounted { lanes: told })
}

/// Whether all that was used may be due to be told.
fn is_due(state: &State) -> bool {
    state.load_published_at.plus_ms(state.policy.load_snapshot_ms) <= state.batch_time
}

/// Whether what the lane lacks may be said at once.
fn may_be_prompt(state: &State) -> bool {
    state.lanes > 1 && state.sharing.told_at.plus_ms(PROMPT_MS) <= state.batch_time
}

/// Whether what the batch's tasks go without may be asked for at its end: in most batches it is not, and
/// not counted. (Advice asks for it too.)
pub fn are_lacks_asked(state: &State) -> bool {
    let may_be_told = is_due(state) || may_be_prompt(state);
    state.lanes > 1 && (may_be_told || !state.sharing.pledges.is_empty())
}

/// What is published of the lane's load: all that was used, from time to time; and where lanes
/// share, what it lacks all of a sudden and rights that have moved, at once.
pub fn decide_load(state: &State, lacks: &Lacks) -> Option<Fact> {
    let (now, sharing) = (state.batch_time, &state.sharing);
    let due = is_due(state) && (state.fleet.used() || !sharing.dry.is_empty());
    if !due && !may_be_prompt(state) {
        return None;
    }
    let mut found = lacks.measure(state);
    let mut owners: BTreeSet<LoadOwner> = BTreeSet::new();
    if due {
        let used = state.fleet.iter().filter(|(_, resource)| resource.used());
        owners.extend(used.map(|(index, _)| LoadOwner::Resource(index)));
        let used = state.tenants.iter().filter(|(_, tenant)| tenant.used());
        owners.extend(used.map(|(index, _)| LoadOwner::Tenant(index)));
        owners.extend(sharing.dry.keys().map(|(owner, _)| *owner));
    }
    let may_be_urgent = sharing.told_at.plus_ms(URGENT_MS) <= now;
    let is_new = |lack: &&Lack| match sharing.dry.get(&(lack.owner, lack.kind)) {
        Some(dry) => {
            let is_large = lack.largest > 0 && dry.large_since.is_none();
            due || (may_be_urgent && (is_large || dry.critical != (lack.critical > 0)))
        }
        None => true,
    };
    owners.extend(found.iter().filter(is_new).map(|lack| lack.owner));
    if may_be_urgent {
        let lacks = |name| found.iter().any(|lack| (lack.owner, lack.kind) == name);
        let over = sharing.dry.iter().filter(|(name, dry)| dry.critical && !lacks(**name));
        owners.extend(over.map(|((owner, _), _)| *owner));
    }
    owners.extend(sharing.untold.iter().take(UNTOLD_MAX).copied());
    found.retain(|lack| owners.contains(&lack.owner));
    let is_any = due || !owners.is_empty();
    is_any.then(|| Fact::LoadPublished { due, owners: owners.into_iter().collect(), lacks: found })
}

/// The limits of an owner, by their kinds, as they are published.
pub fn kinds_of(state: &State, owner: LoadOwner) -> Vec<LimitKind> {
    let kind = |rate: &super::fleet::Rate| LimitKind::Rate {
        dimension: rate.limit.dimension,
        window_s: rate.limit.window_s,
    };
    match owner {
        LoadOwner::Resource(index) => {
            let rates = state.fleet.at(index).rates.iter().map(kind);
            std::iter::once(LimitKind::Slots).chain(rates).collect()
        }
        LoadOwner::Tenant(index) => {
            let tenant = state.tenants.at(index);
            let budget = tenant.budget.as_ref().map(|_| LimitKind::Budget);
            tenant.rates.iter().map(kind).chain(budget).collect()
        }
    }
}
