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

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use lacks::{Lacks, Taking};

use super::fact::{Fact, Lack, LoadOwner, Taken};
use super::fleet::Stand;
use super::rights::{RIGHTS, Scale};
use super::state::State;
use crate::model::resource::{LIMITS_MAX, RESOURCES_MAX};
use crate::model::rights::{Advice, LimitKind, LimitName, LimitOwner, RightsTransfer};
use crate::model::time::Timestamp;
use crate::planted::{Bug, planted};

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
    /// Limits that tasks waited for when that was last published, and since when they do.
    pub dry: BTreeMap<(LoadOwner, LimitKind), Timestamp>,
    /// Whose rights are not those that were last published.
    pub untold: BTreeSet<LoadOwner>,
    /// When a load snapshot of anything was published last.
    pub told_at: Timestamp,
}

/// Limits of which rights may be kept before they are known: all that a fleet can have. The rights
/// of each are bounded by themselves.
const EARLY_MAX: usize = RESOURCES_MAX * (LIMITS_MAX + 1);

/// Clocks of lanes differ by no more than this, milliseconds: an instance whose clock is off by
/// more than a second takes none. What claims to come from later is used then.
const EARLY_MS_MAX: u64 = 10_000;

/// A lane that lacks something says so at once, but not more often than this, milliseconds.
const PROMPT_MS: u64 = 100;

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
        [untold, dry, early].into_iter().flatten().min()
    }
}

impl State {
    /// How the lane stands with a limit that is known here under that very name.
    pub fn stand(&self, limit: &LimitName) -> Option<Stand> {
        let stand = match &limit.owner {
            LimitOwner::Resource(id) => self.fleet.stand(id, limit.kind),
            LimitOwner::Tenant(id) => self.tenants.stand(id, limit.kind),
        };
        stand.filter(|stand| stand.incarnation == limit.incarnation)
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
        _ if *rights == 0 || from_lane == state.lane || from_lane >= state.lanes => Taken::Void,
        // More than all there are: nobody has given them.
        Some(stand) if with(stand.rights) > u64::from(RIGHTS) => Taken::Void,
        Some(_) if early == 0 && *given_at_ms <= state.batch_time => Taken::Held,
        Some(_) => Taken::Kept,
        // The sender has read further in the fleet.
        None if limit.incarnation >= state.fleet_position => {
            let known = state.sharing.early.contains_key(limit);
            let fits = known || state.sharing.early.len() < EARLY_MAX;
            if fits && with(0) <= u64::from(RIGHTS) { Taken::Kept } else { Taken::Void }
        }
        None => Taken::Void,
    };
    let latest = state.batch_time.plus_ms(EARLY_MS_MAX);
    let transfer = RightsTransfer { given_at_ms: latest.min(*given_at_ms), ..transfer.clone() };
    Fact::RightsTaken { from_lane, transfer, how }
}

/// Whether to follow advice, with how much of it. `None` where nothing of it is safe or of use.
///
/// What the lane's own critical and interactive tasks wait for it does not give.
pub fn decide_given(state: &State, lacks: &Lacks, advice: &Advice) -> Option<Fact> {
    let Advice { limit, to_lane, rights: asked } = advice;
    if *to_lane == state.lane || *to_lane >= state.lanes {
        return None;
    }
    let stand = state.stand(limit).filter(|stand| stand.in_force)?;
    let free = stand.units.saturating_sub(stand.used);
    let own = state.load_owner(&limit.owner).map_or(0, |owner| lacks.urgent(owner, limit.kind));
    let mut kept = stand.used + own.min(free);
    if planted(Bug::GiveInUse) && limit.kind != LimitKind::Slots {
        kept = 0;
    }
    let scale = Scale { limit: stand.amount, lanes: state.lanes };
    let rights = scale.gift(stand.rights, kept, *asked);
    (rights > 0).then(|| Fact::RightsGiven { limit: limit.clone(), to_lane: *to_lane, rights })
}

/// What is published of the lane's load: all that was used, from time to time; and where lanes
/// share, what it lacks all of a sudden and rights that have moved, at once.
pub fn decide_load(state: &State, lacks: &Lacks) -> Option<Fact> {
    let (now, sharing) = (state.batch_time, &state.sharing);
    let next_due = state.load_published_at.plus_ms(state.policy.load_snapshot_ms);
    let due = next_due <= now && (state.fleet.used() || !sharing.dry.is_empty());
    let shares = state.lanes > 1;
    let may_be_prompt = shares && sharing.told_at.plus_ms(PROMPT_MS) <= now;
    if !due && !may_be_prompt {
        return None;
    }
    let mut found = if shares { lacks.measure(state) } else { Vec::new() };
    let mut owners: BTreeSet<LoadOwner> = BTreeSet::new();
    if due {
        let used = state.fleet.iter().filter(|(_, resource)| resource.used());
        owners.extend(used.map(|(index, _)| LoadOwner::Resource(index)));
        let used = state.tenants.iter().filter(|(_, tenant)| tenant.used());
        owners.extend(used.map(|(index, _)| LoadOwner::Tenant(index)));
        owners.extend(sharing.dry.keys().map(|(owner, _)| *owner));
    }
    let is_new = |lack: &&Lack| due || !sharing.dry.contains_key(&(lack.owner, lack.kind));
    owners.extend(found.iter().filter(is_new).map(|lack| lack.owner));
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
