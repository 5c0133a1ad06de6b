//! Tenants: their limits and budgets over all lanes, and their bursts in this one.

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
use super::fleet::{Rate, Release};
use crate::model::reason::RefusalReason;
use crate::model::resource::{Dimension, Limit, TenantSpec};
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
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tenants {
    lane: u32,
    lanes: u32,
    tenants: Vec<Tenant>,
    by_id: BTreeMap<String, TenantIndex>,
}

/// Tenants that a fleet may name: indices are `u16`.
pub const TENANTS_MAX: usize = 50_000;

const HOUR_S: u32 = 3_600;

impl Tenants {
    pub fn new(lane: u32, lanes: u32) -> Self {
        Tenants { lane, lanes, tenants: Vec::new(), by_id: BTreeMap::new() }
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

    /// Adds or changes a tenant; windows of limits that remain keep their debits.
    pub fn set(&mut self, spec: &TenantSpec, start_within_ms: u64) {
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
                });
                self.tenants.len() - 1
            }
        };
        let (lane, lanes) = (self.lane, self.lanes);
        let tenant = &mut self.tenants[index];
        let mut before = std::mem::take(&mut tenant.rates);
        let budget_before = tenant.budget.take();
        let mut keep = |limit: Limit| {
            let same = |rate: &Rate| {
                rate.limit.dimension == limit.dimension && rate.limit.window_s == limit.window_s
            };
            let mut rate = Rate::new(limit, lane, lanes, start_within_ms);
            if let Some(at) = before.iter().position(same) {
                let before = before.swap_remove(at);
                (rate.window, rate.price) = (before.window, before.price);
            }
            rate
        };
        tenant.rates = spec.limits.iter().map(|limit| keep(*limit)).collect();
        tenant.budget = spec.usd_per_hour.map(|usd| {
            let amount = (usd * 1e6) as u64;
            let limit = Limit { dimension: Dimension::Tokens, amount, window_s: HOUR_S };
            let mut rate = Rate::new(limit, lane, lanes, start_within_ms);
            if let Some(before) = budget_before {
                (rate.window, rate.price) = (before.window, before.price);
            }
            rate
        });
        tenant.spec = spec.clone();
        tenant.removed = false;
    }

    pub fn remove(&mut self, id: &str) {
        if let Some(index) = self.by_id.get(id) {
            self.tenants[usize::from(*index)].removed = true;
        }
    }

    pub fn advance(&mut self, now: Timestamp) {
        for tenant in &mut self.tenants {
            for rate in tenant.rates.iter_mut().chain(&mut tenant.budget) {
                rate.window.advance(now);
            }
        }
    }

    pub fn resize_windows(&mut self, start_within_ms: u64) {
        for tenant in &mut self.tenants {
            for rate in tenant.rates.iter_mut().chain(&mut tenant.budget) {
                rate.window = rate.window.resized(rate.limit.window_s, start_within_ms);
            }
        }
    }

    /// What a millionth of a US dollar of the tenant's budget costs now, in utility.
    pub fn usd_micro_price(&self, index: TenantIndex, now: Timestamp) -> f64 {
        let budget = self.tenants[usize::from(index)].budget.as_ref();
        budget.map_or(0.0, |budget| budget.price.per_unit(now))
    }

    /// Whether the tenant may have this now: the new arrival time of its burst, or what it lacks.
    pub fn admit(
        &self,
        index: TenantIndex,
        now: Timestamp,
        tokens: u64,
        usd_micros: u64,
    ) -> Result<Option<u64>, RefusalReason> {
        let tenant = &self.tenants[usize::from(index)];
        for rate in &tenant.rates {
            let needed = match rate.limit.dimension {
                Dimension::Requests => 1,
                Dimension::Tokens => tokens,
            };
            if rate.free() < needed {
                return Err(RefusalReason::TenantLimit);
            }
        }
        if tenant.budget.as_ref().is_some_and(|budget| budget.free() < usd_micros) {
            return Err(RefusalReason::Budget);
        }
        burst(tenant, now)
    }

    pub fn debit(
        &mut self,
        index: TenantIndex,
        now: Timestamp,
        reservation: &Reservation,
        stake: f64,
    ) {
        let tenant = &mut self.tenants[usize::from(index)];
        for rate in &mut tenant.rates {
            match rate.limit.dimension {
                Dimension::Requests => rate.debit(now, 1),
                Dimension::Tokens => rate.debit(now, reservation.tokens),
            }
        }
        if let Some(budget) = &mut tenant.budget {
            budget.debit(now, reservation.usd_micros);
            budget.charge(now, reservation.usd_micros as f64, stake);
        }
        if reservation.burst_arrival_ns.is_some() {
            tenant.burst_arrival_ns = reservation.burst_arrival_ns;
        }
    }

    /// Corrects the tenant's debits as the resource's are corrected.
    pub fn release(&mut self, index: TenantIndex, release: &Release, usd_micros_back: u64) {
        let tenant = &mut self.tenants[usize::from(index)];
        for rate in &mut tenant.rates {
            release.apply(rate);
        }
        if let Some(budget) = &mut tenant.budget {
            budget.window.credit(release.reserved_at, usd_micros_back);
        }
    }
}

/// The tenant's burst by governor's GCRA, on a scratch copy of its arrival time.
fn burst(tenant: &Tenant, now: Timestamp) -> Result<Option<u64>, RefusalReason> {
    let Some(quota) = quota(&tenant.spec) else { return Ok(None) };
    let clock = Cell::new(Duration::ZERO);
    let store = ArrivalTime(Cell::new(tenant.burst_arrival_ns.map(Nanos::new)));
    let limiter =
        RateLimiter::<(), _, _, NoOpMiddleware<Duration>>::new(quota, &store, BatchClock(&clock));
    clock.set(Duration::from_millis(now.ms_since(Timestamp::EPOCH)));
    match limiter.check_key(&()) {
        Ok(()) => Ok(store.0.get().map(Nanos::as_u64)),
        Err(_) => Err(RefusalReason::TenantLimit),
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
