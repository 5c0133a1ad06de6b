//! Tenants: their limits and budgets over all lanes, and their bursts in this one.
//!
//! A task is bound by its own tenant, where the fleet names it, and by [`EVERYONE`], where the fleet names
//! that: both are debited for it, and both have to have room.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use serde::{Deserialize, Serialize};

use super::fact::{Reservation, TenantIndex};
use super::fleet::{Deal, Kept, Rate, Release, Stand, renew};
use super::price::Stake;
use super::sharing::Taking;
use crate::model::reason::RefusalReason;
use crate::model::resource::{Dimension, EVERYONE, Limit, TenantSpec};
use crate::model::rights::{BUDGET_WINDOW_S, LimitKind};
use crate::model::task::Priority;
use crate::model::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    pub spec: TenantSpec,
    pub removed: bool,
    pub rates: Vec<Rate>,
    /// Millionths of a US dollar per hour.
    /// Kept like a limit of tokens, in money instead.
    pub budget: Option<Rate>,
    /// The theoretical arrival time of governor's rate algorithm, nanoseconds since the epoch.
    pub burst_arrival_ns: Option<u64>,
    /// Limits that were taken out, the longest gone first, and the budget where it was.
    pub dormant: Vec<Rate>,
    pub dormant_budget: Option<Rate>,
}

impl Tenant {
    fn rates(&self) -> impl Iterator<Item = &Rate> {
        self.rates.iter().chain(&self.budget)
    }

    fn rates_mut(&mut self) -> impl Iterator<Item = &mut Rate> {
        self.rates.iter_mut().chain(&mut self.budget)
    }

    /// With those that were taken out and may come back.
    fn all_mut(&mut self) -> impl Iterator<Item = &mut Rate> {
        let Tenant { rates, budget, dormant, dormant_budget, .. } = self;
        rates.iter_mut().chain(budget).chain(dormant).chain(dormant_budget)
    }

    /// Whether any of its limits was in use since its last load snapshot.
    pub fn used(&self) -> bool {
        self.rates().any(|rate| rate.used_max > 0)
    }

    /// How the lane stands with one of its limits; `None` where it never had it.
    pub fn stand(&self, kind: LimitKind) -> Option<Stand> {
        let in_force = !self.removed;
        let (there, gone) = if kind == LimitKind::Budget {
            (self.budget.as_ref(), self.dormant_budget.as_ref())
        } else {
            let of = |rate: &&Rate| rate.is(kind);
            (self.rates.iter().find(of), self.dormant.iter().find(of))
        };
        let there = there.map(|rate| Stand { in_force, ..rate.stand() });
        there.or_else(|| Some(Stand { in_force: false, ..gone?.stand() }))
    }

    fn rate_mut(&mut self, kind: LimitKind) -> Option<&mut Rate> {
        if kind == LimitKind::Budget {
            self.budget.as_mut().or(self.dormant_budget.as_mut())
        } else {
            self.rates.iter_mut().chain(&mut self.dormant).find(|rate| rate.is(kind))
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tenants {
    lane: u32,
    /// Lanes that there were at first.
    dealt: u32,
    tenants: Vec<Tenant>,
    by_id: BTreeMap<String, TenantIndex>,
    /// Whose limits bind every task, while the fleet has it.
    everyone: Option<TenantIndex>,
}

/// What keeps a task from being admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lacking {
    pub tenant: TenantIndex,
    pub rule: RefusalReason,
    /// What the rule needed, and what there was.
    pub needed: String,
    pub had: String,
}

/// Tenants that a fleet may name: indices are `u16`.
pub const TENANTS_MAX: usize = 50_000;

impl Tenants {
    pub fn new(lane: u32, dealt: u32) -> Self {
        Tenants { lane, dealt, tenants: Vec::new(), by_id: BTreeMap::new(), everyone: None }
    }

    pub fn index_of(&self, id: &str) -> Option<TenantIndex> {
        let index = *self.by_id.get(id)?;
        (!self.tenants[usize::from(index)].removed).then_some(index)
    }

    /// The tenant's weight inside a priority; 1 for one that the fleet does not name.
    pub fn weight(&self, id: &str) -> f64 {
        self.index_of(id).map_or(1.0, |index| self.tenants[usize::from(index)].spec.weight)
    }

    pub fn len(&self) -> usize {
        self.tenants.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Adds or changes a tenant by the fleet's record at this offset; limits that remain keep their
    /// debits, and lanes their rights: see [`renew`].
    pub fn set(&mut self, offset: i64, spec: &TenantSpec, start_within_ms: u64) {
        let index = match self.by_id.get(&spec.id) {
            Some(index) => usize::from(*index),
            None => {
                self.by_id.insert(spec.id.clone(), self.tenants.len() as TenantIndex);
                self.tenants.push(Tenant {
                    spec: spec.clone(),
                    removed: false,
                    rates: Vec::new(),
                    budget: None,
                    burst_arrival_ns: None,
                    dormant: Vec::new(),
                    dormant_budget: None,
                });
                self.tenants.len() - 1
            }
        };
        let deal = Deal { lane: self.lane, dealt: self.dealt, offset, start_within_ms };
        let tenant = &mut self.tenants[index];
        renew(&mut tenant.rates, &mut tenant.dormant, &spec.limits, deal);
        let before = tenant.budget.take().or(tenant.dormant_budget.take());
        match spec.usd_per_hour {
            Some(usd) => {
                let amount = (usd * 1e6) as u64;
                let limit =
                    Limit { dimension: Dimension::Tokens, amount, window_s: BUDGET_WINDOW_S };
                let mut budget = before.unwrap_or_else(|| Rate::new(limit, deal));
                budget.resize(amount);
                tenant.budget = Some(budget);
            }
            None => tenant.dormant_budget = before,
        }
        tenant.spec = spec.clone();
        tenant.removed = false;
        if spec.id == EVERYONE {
            self.everyone = Some(index as TenantIndex);
        }
    }

    /// How the lane stands with a limit of a tenant.
    pub fn stand(&self, id: &str, kind: LimitKind) -> Option<Stand> {
        self.tenants[usize::from(*self.by_id.get(id)?)].stand(kind)
    }

    /// From now on the lane holds so many rights of a limit.
    pub fn hold(&mut self, id: &str, kind: LimitKind, rights: u32) {
        if let Some(index) = self.by_id.get(id)
            && let Some(rate) = self.tenants[usize::from(*index)].rate_mut(kind)
        {
            rate.hold(rights);
        }
    }

    /// From now on the lane knows a limit by the record of the fleet by which the others know it.
    pub fn rename(&mut self, id: &str, kind: LimitKind, incarnation: i64) {
        if let Some(index) = self.by_id.get(id)
            && let Some(rate) = self.tenants[usize::from(*index)].rate_mut(kind)
        {
            rate.incarnation = incarnation;
        }
    }

    /// From now on so much of a limit is promised: see [`super::fleet::Promised`].
    pub fn promise(&mut self, id: &str, kind: LimitKind, rights: [u32; 3], kept: Option<Kept>) {
        if let Some(index) = self.by_id.get(id)
            && let Some(rate) = self.tenants[usize::from(*index)].rate_mut(kind)
        {
            rate.promise(rights, kept);
        }
    }

    /// The tenant at an index that a fact or a live task carries.
    pub fn at(&self, index: TenantIndex) -> &Tenant {
        &self.tenants[usize::from(index)]
    }

    /// Every tenant, removed ones included, in the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = (TenantIndex, &Tenant)> {
        self.tenants.iter().enumerate().map(|(index, tenant)| (index as TenantIndex, tenant))
    }

    /// The highest uses of one tenant start again from what is in use now.
    pub fn reset_peaks(&mut self, index: TenantIndex) {
        for rate in self.tenants[usize::from(index)].rates_mut() {
            rate.used_max = rate.window.used();
        }
    }

    pub fn remove(&mut self, id: &str) {
        if let Some(index) = self.by_id.get(id) {
            self.tenants[usize::from(*index)].removed = true;
            self.everyone = self.everyone.filter(|everyone| everyone != index);
        }
    }

    /// Whether any budget binds the tenant.
    pub fn has_budget(&self, own: Option<TenantIndex>) -> bool {
        self.budgets(own).next().is_some()
    }

    /// Who is debited for a task of a tenant.
    fn bound(&self, own: Option<TenantIndex>) -> impl Iterator<Item = TenantIndex> + use<> {
        own.into_iter().chain(self.everyone)
    }

    fn budgets(&self, own: Option<TenantIndex>) -> impl Iterator<Item = (TenantIndex, &Rate)> {
        self.bound(own)
            .filter_map(|index| Some((index, self.tenants[usize::from(index)].budget.as_ref()?)))
    }

    pub fn advance(&mut self, now: Timestamp) {
        for tenant in &mut self.tenants {
            for rate in tenant.all_mut() {
                rate.window.advance(now);
            }
        }
    }

    pub fn resize_windows(&mut self, start_within_ms: u64) {
        for tenant in &mut self.tenants {
            for rate in tenant.all_mut() {
                rate.window = rate.window.resized(rate.limit.window_s, start_within_ms);
            }
        }
    }

    /// What a millionth of a US dollar of the budgets that bind the tenant costs now, in utility.
    pub fn usd_micro_price(&self, own: Option<TenantIndex>, now: Timestamp) -> f64 {
        self.budgets(own).map(|(_, budget)| budget.price.per_unit(now)).sum()
    }

    /// Whose budget has no room for it; the amount, millionths of a US dollar, is asked for only where
    /// there is a budget.
    pub fn unaffordable(
        &self,
        own: Option<TenantIndex>,
        priority: Priority,
        usd_micros: impl Fn() -> u64,
    ) -> Option<TenantIndex> {
        let mut budgets = self.budgets(own);
        let found = budgets.find(|(_, budget)| {
            let needed = usd_micros();
            budget.free_for(priority, needed) < needed
        });
        found.map(|(index, _)| index)
    }

    /// Whether the tenant may have this now: the new arrival time of its burst.
    ///
    /// # Errors
    /// What it lacks: a limit, a budget or a burst.
    pub fn admit(
        &self,
        own: Option<TenantIndex>,
        now: Timestamp,
        taking: &Taking,
    ) -> Result<Option<u64>, Lacking> {
        for index in self.bound(own) {
            let tenant = &self.tenants[usize::from(index)];
            let id = &tenant.spec.id;
            for rate in &tenant.rates {
                let Limit { dimension, window_s, .. } = rate.limit;
                let needed = match dimension {
                    Dimension::Requests => 1,
                    Dimension::Tokens => taking.tokens,
                };
                let free = rate.free_for(taking.priority, needed);
                if free < needed {
                    let name = dimension.name();
                    return Err(Lacking {
                        tenant: index,
                        rule: RefusalReason::TenantLimit,
                        needed: format!("{needed} {name} in {window_s} s of tenant {id}"),
                        had: format!("{free}"),
                    });
                }
            }
            let Some(budget) = &tenant.budget else { continue };
            let free = budget.free_for(taking.priority, taking.usd_micros);
            if free < taking.usd_micros {
                let usd = |micros: u64| format!("{:.6} USD", micros as f64 / 1e6);
                return Err(Lacking {
                    tenant: index,
                    rule: RefusalReason::Budget,
                    needed: format!("{} of the hour of tenant {id}", usd(taking.usd_micros)),
                    had: usd(free),
                });
            }
        }
        let Some(index) = own else { return Ok(None) };
        let tenant = &self.tenants[usize::from(index)];
        burst(tenant, now).map_err(|NotYet| Lacking {
            tenant: index,
            rule: RefusalReason::TenantLimit,
            needed: format!("1 request in the burst of tenant {}", tenant.spec.id),
            had: "0".to_owned(),
        })
    }

    pub fn debit(
        &mut self,
        own: Option<TenantIndex>,
        now: Timestamp,
        reservation: &Reservation,
        stake: Stake,
    ) {
        for index in self.bound(own) {
            let tenant = &mut self.tenants[usize::from(index)];
            for rate in &mut tenant.rates {
                match rate.limit.dimension {
                    Dimension::Requests => rate.debit(now, 1),
                    Dimension::Tokens => rate.debit(now, reservation.tokens),
                }
            }
            if let Some(budget) = &mut tenant.budget {
                budget.debit(now, reservation.usd_micros);
                budget.charge(now, reservation.usd_micros_expected as f64, stake);
            }
        }
        if let Some(index) = own
            && reservation.burst_arrival_ns.is_some()
        {
            self.tenants[usize::from(index)].burst_arrival_ns = reservation.burst_arrival_ns;
        }
    }

    /// Corrects the debits as the resource's are corrected.
    pub fn release(&mut self, own: Option<TenantIndex>, release: &Release, usd_micros_back: u64) {
        for index in self.bound(own) {
            let tenant = &mut self.tenants[usize::from(index)];
            for rate in &mut tenant.rates {
                release.apply(rate);
            }
            if let Some(budget) = &mut tenant.budget {
                budget.window.credit(release.reserved_at, usd_micros_back);
            }
        }
    }
}

/// The burst's next request is not due yet.
struct NotYet;

/// The tenant's burst by governor's GCRA, on a scratch copy of its arrival time.
fn burst(tenant: &Tenant, now: Timestamp) -> Result<Option<u64>, NotYet> {
    let Some(quota) = quota(&tenant.spec) else { return Ok(None) };
    let clock = Cell::new(Duration::ZERO);
    let store = ArrivalTime(Cell::new(tenant.burst_arrival_ns.map(Nanos::new)));
    let limiter =
        RateLimiter::<(), _, _, NoOpMiddleware<Duration>>::new(quota, &store, BatchClock(&clock));
    clock.set(Duration::from_millis(now.ms_since(Timestamp::EPOCH)));
    match limiter.check_key(&()) {
        Ok(()) => Ok(store.0.get().map(Nanos::as_u64)),
        Err(_) => Err(NotYet),
    }
}

/// `burst` requests at once, refilled at the rate of the first limit of requests.
fn quota(spec: &TenantSpec) -> Option<Quota> {
    let burst = NonZeroU32::new(spec.burst?)?;
    let rate = spec.limits.iter().find(|limit| limit.dimension == Dimension::Requests)?;
    let nanos = u64::from(rate.window_s) * 1_000_000_000 / rate.amount.max(1);
    Quota::with_period(Duration::from_nanos(nanos.max(1))).map(|quota| quota.allow_burst(burst))
}

/// One tenant's arrival time as governor's state.
struct ArrivalTime(Cell<Option<Nanos>>);

impl StateStore for &ArrivalTime {
    type Key = ();

    fn measure_and_replace<T, F, E>(&self, _key: &(), f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = f(self.0.get())?;
        self.0.set(Some(next));
        Ok(outcome)
    }
}

/// The time since the epoch, as the batch has it.
struct BatchClock<'a>(&'a Cell<Duration>);

impl Clock for BatchClock<'_> {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.get()
    }
}
