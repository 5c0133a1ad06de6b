//! What the tasks of one batch went without: counted while they are decided, because it costs
//! nothing there, and forgotten with the batch.

use std::collections::BTreeMap;

use super::super::fact::{Lack, LoadOwner, ResourceIndex, TenantIndex};
use super::super::fleet::Rate;
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
    /// Of those that wait, critical and interactive.
    urgent: Sum,
    /// The largest task that waits, by each measure.
    largest: Sum,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lacks {
    by_owner: BTreeMap<LoadOwner, Without>,
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
        match taking.priority {
            Priority::Critical | Priority::Interactive => without.urgent.add(taking),
            Priority::Batch => {}
        }
        let largest = &mut without.largest;
        largest.tasks = 1;
        largest.tokens = largest.tokens.max(taking.tokens);
        largest.usd_micros = largest.usd_micros.max(taking.usd_micros);
    }

    /// Units of a limit that critical and interactive tasks wait for.
    pub fn urgent(&self, owner: LoadOwner, kind: LimitKind) -> u64 {
        self.by_owner.get(&owner).map_or(0, |without| without.urgent.of(kind))
    }

    /// The limits that have less free than tasks of the batch want.
    pub fn measure(&self, state: &State) -> Vec<Lack> {
        let mut found = Vec::new();
        for (owner, without) in &self.by_owner {
            let mut compare = |kind: LimitKind, limit: u64, units: u64, free: u64| {
                let waiting = without.all.of(kind);
                let largest = without.largest.of(kind);
                if waiting > free {
                    let is_fragment = largest > units && largest <= limit;
                    let largest = if is_fragment { largest } else { 0 };
                    found.push(Lack { owner: *owner, kind, waiting, largest });
                }
            };
            let mut compare_rate = |kind, rate: &Rate| {
                compare(kind, rate.limit.amount, rate.units, rate.free());
            };
            let kind = |rate: &Rate| LimitKind::Rate {
                dimension: rate.limit.dimension,
                window_s: rate.limit.window_s,
            };
            match owner {
                LoadOwner::Resource(index) => {
                    let resource = state.fleet.at(*index);
                    for rate in &resource.rates {
                        compare_rate(kind(rate), rate);
                    }
                    let (limit, units) = (resource.spec.slots, resource.slots_units);
                    // What the breaker keeps closed is not lacking.
                    let free = units.saturating_sub(resource.slots_in_use);
                    compare(LimitKind::Slots, limit.into(), units.into(), free.into());
                }
                LoadOwner::Tenant(index) => {
                    let tenant = state.tenants.at(*index);
                    for rate in &tenant.rates {
                        compare_rate(kind(rate), rate);
                    }
                    if let Some(budget) = &tenant.budget {
                        compare_rate(LimitKind::Budget, budget);
                    }
                }
            }
        }
        found
    }
}
