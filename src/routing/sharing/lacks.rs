//! What the tasks of one batch went without: counted while they are decided, in batches that ask for it,
//! and forgotten with the batch.

use std::collections::BTreeMap;

use super::super::admission::Tenant;
use super::super::fact::{Lack, LoadOwner, ResourceIndex, TenantIndex};
use super::super::fleet::{Promised, Rate, Resource};
use super::super::state::State;
use crate::model::resource::Dimension;
use crate::model::rights::LimitKind;
use crate::model::task::Priority;

/// What a task takes of its resource and its tenant.
#[derive(Debug, Clone, Copy)]
pub struct Taking {
    pub priority: Priority,
    pub tokens: u64,
    pub usd_micros: u64,
}

impl Taking {
    /// How much it takes of a limit.
    fn of(&self, kind: LimitKind) -> u64 {
        match kind {
            LimitKind::Slots | LimitKind::Rate { dimension: Dimension::Requests, .. } => 1,
            LimitKind::Rate { dimension: Dimension::Tokens, .. } => self.tokens,
            LimitKind::Budget => self.usd_micros,
        }
    }
}

/// The tasks that go without one limit, in its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Without {
    all: u64,
    /// Those that wait, by priority.
    waiting: [u64; 3],
    /// The largest task that waits, by priority.
    largest: [u64; 3],
}

impl Without {
    fn waits(&mut self, priority: Priority, amount: u64) {
        self.all = self.all.saturating_add(amount);
        let place = priority as usize;
        self.waiting[place] = self.waiting[place].saturating_add(amount);
        self.largest[place] = self.largest[place].max(amount);
    }

    /// The most urgent task that takes more than so much and not more than the limit, and how much
    /// it takes; (0, any) where there is none.
    fn larger_than(&self, units: u64, limit: u64) -> (u64, Priority) {
        let larger = Priority::ALL.into_iter().zip(self.largest).find_map(|(priority, largest)| {
            (largest > units && largest <= limit).then_some((largest, priority))
        });
        larger.unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lacks {
    are_asked: bool,
    /// One for each of the owner's limits, which stay the same in a batch.
    by_owner: BTreeMap<LoadOwner, Vec<(LimitKind, Without)>>,
}

/// How a limit stands, for the comparison with what is wanted of it.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    kind: LimitKind,
    limit: u64,
    units: u64,
    used: u64,
    promised: &'a Promised,
}

impl<'a> Seen<'a> {
    fn rate(kind: LimitKind, rate: &'a Rate) -> Self {
        Seen {
            kind,
            limit: rate.limit.amount,
            units: rate.units,
            used: rate.window.used(),
            promised: &rate.promised,
        }
    }

    fn has_room(&self, taking: Taking) -> bool {
        let needed = taking.of(self.kind);
        self.promised.free(taking.priority, needed, self.used) >= needed
    }

    fn fits_ever(&self, taking: Taking) -> bool {
        taking.of(self.kind) <= self.units
    }

    fn measure(&self, owner: LoadOwner, without: &Without) -> Option<Lack> {
        // For any task. What the breaker keeps closed is not lacking.
        let free = self.promised.free(Priority::Batch, 0, self.used);
        if without.all <= free {
            return None;
        }
        let kept = self.promised.kept().filter(|kept| {
            let largest = without.largest[kept.priority as usize];
            largest >= kept.size && largest > self.units.saturating_sub(self.used)
        });
        let (largest, priority) = match kept {
            Some(kept) => (kept.size, kept.priority),
            None => without.larger_than(self.units, self.limit),
        };
        let (kind, waiting) = (self.kind, without.all);
        let [critical, interactive, _] = without.waiting;
        Some(Lack { owner, kind, waiting, critical, interactive, largest, priority })
    }
}

fn of_resource(resource: &Resource) -> impl Iterator<Item = Seen<'_>> + Clone {
    let slots = Seen {
        kind: LimitKind::Slots,
        limit: resource.slots_limit.into(),
        units: resource.slots_units.into(),
        used: resource.slots_in_use.into(),
        promised: &resource.slots_promised,
    };
    let rates = resource.rates.iter().map(|rate| Seen::rate(rate.kind(), rate));
    std::iter::once(slots).chain(rates)
}

fn of_tenant(tenant: &Tenant) -> impl Iterator<Item = Seen<'_>> + Clone {
    let rates = tenant.rates.iter().map(|rate| Seen::rate(rate.kind(), rate));
    rates.chain(tenant.budget.as_ref().map(|budget| Seen::rate(LimitKind::Budget, budget)))
}

fn without<'a, 'b>(
    by_owner: &'a mut BTreeMap<LoadOwner, Vec<(LimitKind, Without)>>,
    owner: LoadOwner,
    limits: impl Iterator<Item = Seen<'b>>,
) -> &'a mut Vec<(LimitKind, Without)> {
    let begin = || limits.map(|seen| (seen.kind, Without::default())).collect();
    by_owner.entry(owner).or_insert_with(begin)
}

impl Lacks {
    /// A batch begins, in which they may be asked for or not.
    pub fn begin(&mut self, are_asked: bool) {
        self.are_asked = are_asked;
        self.by_owner.clear();
    }

    /// Whether anybody counts.
    pub fn are_asked(&self) -> bool {
        self.are_asked
    }

    /// A task waits for room on a resource.
    pub fn resource_waits(&mut self, state: &State, index: ResourceIndex, taking: Taking) {
        self.waits(LoadOwner::Resource(index), of_resource(state.fleet.at(index)), taking);
    }

    /// A task waits for its tenant's limits.
    pub fn tenant_waits(&mut self, state: &State, index: TenantIndex, taking: Taking) {
        self.waits(LoadOwner::Tenant(index), of_tenant(state.tenants.at(index)), taking);
    }

    /// A task is served elsewhere, because this lane's part of a better resource never fits it.
    pub fn went_without(&mut self, state: &State, index: ResourceIndex, taking: Taking) {
        let limits = of_resource(state.fleet.at(index));
        let all = without(&mut self.by_owner, LoadOwner::Resource(index), limits.clone());
        for (seen, (kind, without)) in limits.zip(all) {
            if !seen.fits_ever(taking) {
                without.all = without.all.saturating_add(taking.of(*kind));
            }
        }
    }

    /// It lacks the limits that have no room for it, and no other: where requests are short, tokens
    /// are not, however many tasks wait. Where each has room, all of them together are held back for
    /// others (tenants' reserved shares), and more of any would help.
    fn waits<'a>(
        &mut self,
        owner: LoadOwner,
        limits: impl Iterator<Item = Seen<'a>> + Clone,
        taking: Taking,
    ) {
        let all = without(&mut self.by_owner, owner, limits.clone());
        let mut is_held_back = true;
        for (seen, (kind, without)) in limits.zip(all.iter_mut()) {
            if !seen.has_room(taking) {
                is_held_back = false;
                without.waits(taking.priority, taking.of(*kind));
            }
        }
        if is_held_back {
            for (kind, without) in all {
                without.waits(taking.priority, taking.of(*kind));
            }
        }
    }

    fn of(&self, owner: LoadOwner, kind: LimitKind) -> Option<&Without> {
        let (_, without) = self.by_owner.get(&owner)?.iter().find(|(known, _)| *known == kind)?;
        Some(without)
    }

    /// Units of a limit that tasks wait for which are more urgent than this.
    pub fn more_urgent(&self, owner: LoadOwner, kind: LimitKind, than: Priority) -> u64 {
        let Some(without) = self.of(owner, kind) else { return 0 };
        let more = without.waiting.iter().take(than as usize);
        more.copied().fold(0, u64::saturating_add)
    }

    /// The largest task of a priority that waits for a limit; 0: none does.
    pub fn largest(&self, owner: LoadOwner, kind: LimitKind, priority: Priority) -> u64 {
        self.of(owner, kind).map_or(0, |without| without.largest[priority as usize])
    }

    /// The limits that have less free than tasks of the batch want, in their order.
    pub fn measure(&self, state: &State) -> Vec<Lack> {
        let mut lacks = Vec::new();
        for (owner, all) in &self.by_owner {
            let mut add = |limits: &mut dyn Iterator<Item = Seen<'_>>| {
                let pairs = limits.zip(all);
                lacks
                    .extend(pairs.filter_map(|(seen, (_, without))| seen.measure(*owner, without)));
            };
            match owner {
                LoadOwner::Resource(index) => add(&mut of_resource(state.fleet.at(*index))),
                LoadOwner::Tenant(index) => add(&mut of_tenant(state.tenants.at(*index))),
            }
        }
        lacks.sort_unstable_by_key(|lack| (lack.owner, lack.kind));
        lacks
    }
}
