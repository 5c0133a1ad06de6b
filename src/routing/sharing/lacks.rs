//! What the tasks of one batch went without: counted while they are decided, because it costs
//! nothing there, and forgotten with the batch.

use std::collections::BTreeMap;

use super::super::fact::{Lack, LoadOwner, ResourceIndex, TenantIndex};
use super::super::fleet::{Promised, Rate};
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

/// Several tasks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    tasks: u64,
    tokens: u64,
    usd_micros: u64,
}

impl Sum {
    fn add(&mut self, taking: Taking) {
        self.tasks += 1;
        self.tokens = self.tokens.saturating_add(taking.tokens);
        self.usd_micros = self.usd_micros.saturating_add(taking.usd_micros);
    }

    /// The larger one by each measure.
    fn rise(&mut self, taking: Taking) {
        self.tasks = 1;
        self.tokens = self.tokens.max(taking.tokens);
        self.usd_micros = self.usd_micros.max(taking.usd_micros);
    }

    fn of(&self, kind: LimitKind) -> u64 {
        match kind {
            LimitKind::Slots | LimitKind::Rate { dimension: Dimension::Requests, .. } => self.tasks,
            LimitKind::Rate { dimension: Dimension::Tokens, .. } => self.tokens,
            LimitKind::Budget => self.usd_micros,
        }
    }
}

/// The tasks that go without one owner's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Without {
    all: Sum,
    /// Those that wait, by priority.
    waiting: [Sum; 3],
    /// The largest task that waits, by each measure and by priority.
    largest: [Sum; 3],
}

impl Without {
    /// The most urgent task that takes more than so much and not more than the limit, and how much
    /// it takes; (0, any) where there is none.
    fn larger_than(&self, kind: LimitKind, units: u64, limit: u64) -> (u64, Priority) {
        let larger = Priority::ALL.into_iter().zip(self.largest).find_map(|(priority, largest)| {
            let largest = largest.of(kind);
            (largest > units && largest <= limit).then_some((largest, priority))
        });
        larger.unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lacks {
    by_owner: BTreeMap<LoadOwner, Without>,
}

/// How a limit stands, for the comparison with what is wanted of it.
struct Seen<'a> {
    kind: LimitKind,
    limit: u64,
    units: u64,
    used: u64,
    /// For any task.
    free: u64,
    promised: &'a Promised,
}

impl<'a> Seen<'a> {
    fn rate(kind: LimitKind, rate: &'a Rate) -> Self {
        Seen {
            kind,
            limit: rate.limit.amount,
            units: rate.units,
            used: rate.window.used(),
            free: rate.free(),
            promised: &rate.promised,
        }
    }
}

impl Lacks {
    pub fn forget(&mut self) {
        self.by_owner.clear();
    }

    /// A task waits for room on a resource.
    pub fn resource_waits(&mut self, index: ResourceIndex, taking: Taking) {
        self.waits(LoadOwner::Resource(index), taking);
    }

    /// A task waits for its tenant's limits.
    pub fn tenant_waits(&mut self, index: TenantIndex, taking: Taking) {
        self.waits(LoadOwner::Tenant(index), taking);
    }

    /// A task is served elsewhere, because this lane's part of a better resource never fits it.
    pub fn went_without(&mut self, index: ResourceIndex, taking: Taking) {
        self.by_owner.entry(LoadOwner::Resource(index)).or_default().all.add(taking);
    }

    fn waits(&mut self, owner: LoadOwner, taking: Taking) {
        let without = self.by_owner.entry(owner).or_default();
        without.all.add(taking);
        let place = taking.priority as usize;
        without.waiting[place].add(taking);
        without.largest[place].rise(taking);
    }

    /// Units of a limit that critical and interactive tasks wait for.
    pub fn urgent(&self, owner: LoadOwner, kind: LimitKind) -> u64 {
        self.more_urgent(owner, kind, Priority::Batch)
    }

    /// Units of a limit that tasks wait for which are more urgent than this.
    pub fn more_urgent(&self, owner: LoadOwner, kind: LimitKind, than: Priority) -> u64 {
        let Some(without) = self.by_owner.get(&owner) else { return 0 };
        let more = without.waiting.iter().take(than as usize);
        more.map(|waiting| waiting.of(kind)).fold(0, u64::saturating_add)
    }

    /// The largest task of a priority that waits for a limit; 0: none does.
    pub fn largest(&self, owner: LoadOwner, kind: LimitKind, priority: Priority) -> u64 {
        let without = self.by_owner.get(&owner);
        without.map_or(0, |without| without.largest[priority as usize].of(kind))
    }

    /// The limits that have less free than tasks of the batch want.
    pub fn measure(&self, state: &State) -> Vec<Lack> {
        let mut found = Vec::new();
        for (owner, without) in &self.by_owner {
            let mut compare = |seen: Seen<'_>| {
                let kind = seen.kind;
                let waiting = without.all.of(kind);
                if waiting <= seen.free {
                    return;
                }
                let kept = seen.promised.kept().filter(|kept| {
                    let largest = without.largest[kept.priority as usize].of(kind);
                    let free = seen.units.saturating_sub(seen.used);
                    largest >= kept.size && largest > free
                });
                let (largest, priority) = match kept {
                    Some(kept) => (kept.size, kept.priority),
                    None => without.larger_than(kind, seen.units, seen.limit),
                };
                let [critical, interactive, _] = without.waiting.map(|sum| sum.of(kind));
                let owner = *owner;
                let lack = Lack { owner, kind, waiting, critical, interactive, largest, priority };
                found.push(lack);
            };
            let kind = |rate: &Rate| LimitKind::Rate {
                dimension: rate.limit.dimension,
                window_s: rate.limit.window_s,
            };
            match owner {
                LoadOwner::Resource(index) => {
                    let resource = state.fleet.at(*index);
                    for rate in &resource.rates {
                        compare(Seen::rate(kind(rate), rate));
                    }
                    let promised = &resource.slots_promised;
                    let used = u64::from(resource.slots_in_use);
                    compare(Seen {
                        kind: LimitKind::Slots,
                        limit: resource.spec.slots.into(),
                        units: resource.slots_units.into(),
                        used,
                        // What the breaker keeps closed is not lacking.
                        free: promised.open(Priority::Batch).saturating_sub(used),
                        promised,
                    });
                }
                LoadOwner::Tenant(index) => {
                    let tenant = state.tenants.at(*index);
                    for rate in &tenant.rates {
                        compare(Seen::rate(kind(rate), rate));
                    }
                    if let Some(budget) = &tenant.budget {
                        compare(Seen::rate(LimitKind::Budget, budget));
                    }
                }
            }
        }
        found
    }
}
