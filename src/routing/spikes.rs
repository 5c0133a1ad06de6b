//! `handleSpikes`: what a lane does about its load, and says that it does.
//!
//! Prices and deliberate waiting answer a spike by themselves, task by task: they spread it, let it
//! overflow, send it to other models, and make it wait. A second engine beside them would only fight
//! them. So the strategies up to *delay* are what is seen to be in force, by the tasks of late: where
//! they went, and where they would have gone with room everywhere and without prices. The one thing
//! that prices do not do is to give up: *shed* refuses what is not going to be served in time, so
//! that its producer knows now rather than when its time is over.
//!
//! A strategy begins as soon as a batch sees it, and what is milder comes back `HOLD_MS` after the
//! last change at the earliest, at a quarter of the share at which it went: so load at a threshold
//! makes a few events a minute. Each change is a fact.
//!
//! `arrived_v1` and `paced_v1` are frozen: journals are folded with them.

mod servable;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TaskKey;
use super::backlog::places_kept;
use super::fact::{Fact, NewTask, ResourceIndex};
use super::state::State;
use super::surge::Surge;
use crate::model::resource::ResourceSpec;
use crate::model::system_health::Strategy;
use crate::model::task::Priority;
use crate::model::time::Timestamp;

use servable::servable;
pub use servable::{Usual, is_full};

/// Of the tasks of late, at which share a strategy is in force, and below which it no longer is.
const SHARE_ON: f64 = 0.2;
const SHARE_OFF: f64 = 0.05;
/// The weight of a new task in these shares.
const SHARE_STEP: f64 = 1.0 / 64.0;
/// Without a new task for so long nothing is known of them.
const QUIET_MS: u64 = 10_000;
/// A strategy is in force at least so long before a milder one.
const HOLD_MS: u64 = 10_000;

/// A model is worse where its believed quality is lower by more than this: twins are never quite alike.
const WORSE: f64 = 0.02;

/// Shedding begins where so many times more wait than can be served in time, leaves so many, and ends below
/// that. Twice as many may wait as seem to have room: small tasks fill what large ones leave, and of 100
/// tasks that come to a trace's bursts 3 to 6 were refused that would have been served.
const SHED_ON: f64 = 2.5;
const SHED_TO: f64 = 2.0;
const SHED_OFF: f64 = 1.6;
/// Tasks that one batch sheds: about 30 KiB of facts.
const SHED_MAX: usize = 1_024;

/// Tenants whose arrivals are watched: producers choose names. 1,000 of 150 bytes.
const TENANTS_MAX: usize = 1_000;
/// Tenants that are named where arrivals surge: for people.
const SURGING_MAX: usize = 8;
/// A tenant that sent nothing for so long makes room for another.
const TENANT_IDLE_MS: u64 = 600_000;

/// Events in a second, over about half a minute.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Pace {
    second: u64,
    count: u32,
    per_s: f64,
}

impl Pace {
    const STEP: f64 = 1.0 / 30.0;
    /// Seconds that are passed over one by one; after as many nothing is left of what was.
    const SECONDS_MAX: u64 = 600;

    /// `paced_v1`: one more.
    pub fn add_v1(&mut self, now: Timestamp) {
        *self = self.at(now);
        self.count = self.count.saturating_add(1);
    }

    fn at(mut self, now: Timestamp) -> Self {
        let second = now.ms_since(Timestamp::EPOCH) / 1_000;
        let over = second.saturating_sub(self.second).min(Pace::SECONDS_MAX);
        for _ in 0..over {
            let count = f64::from(std::mem::take(&mut self.count));
            self.per_s += Pace::STEP * (count - self.per_s);
        }
        self.second = self.second.max(second);
        self
    }

    pub fn per_s(self, now: Timestamp) -> f64 {
        self.at(now).per_s
    }
}

/// One tenant's arrivals.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Watched {
    surge: Surge,
    last_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spikes {
    pub arrivals: Surge,
    pub routed: Pace,
    pub refused: Pace,
    pub shed: Pace,
    pub strategy: Strategy,
    pub since: Timestamp,
    tenants: BTreeMap<Box<str>, Watched>,
    /// Of the new tasks of late, in [0, 1]: those that went to another resource of the same pool, to one
    /// of another pool, to a cheaper or worse model, and those that wait.
    spread: f64,
    overflow: f64,
    degrade: f64,
    delay: f64,
    arrived_at: Timestamp,
    /// Resources that are down, each since when.
    down: BTreeMap<ResourceIndex, Timestamp>,
}

impl Spikes {
    /// `arrived_v1`: a new task that did as `outcome` says; `None`: it was refused.
    pub fn arrived_v1(&mut self, tenant: Option<&str>, outcome: Option<Strategy>, now: Timestamp) {
        self.arrivals.arrived_v1(now, 1, 1);
        self.arrived_at = now;
        if let Some(tenant) = tenant {
            self.watch(tenant, now);
        }
        for (share, strategy) in [
            (&mut self.spread, Strategy::Spread),
            (&mut self.overflow, Strategy::Overflow),
            (&mut self.degrade, Strategy::Degrade),
            (&mut self.delay, Strategy::Delay),
        ] {
            let hit = if outcome == Some(strategy) { 1.0 } else { 0.0 };
            *share += SHARE_STEP * (hit - *share);
        }
    }

    fn watch(&mut self, tenant: &str, now: Timestamp) {
        let streams = self.tenants.len();
        if let Some(watched) = self.tenants.get_mut(tenant) {
            watched.surge.arrived_v1(now, 1, streams);
            watched.last_at = now;
            return;
        }
        if self.tenants.len() >= TENANTS_MAX {
            let idle = |watched: &Watched| now.ms_since(watched.last_at) >= TENANT_IDLE_MS;
            let gone = self.tenants.iter().find(|(_, watched)| idle(watched));
            let Some(gone) = gone.map(|(id, _)| id.clone()) else { return };
            self.tenants.remove(&gone);
        }
        let mut watched = Watched { last_at: now, ..Watched::default() };
        watched.surge.arrived_v1(now, 1, streams);
        self.tenants.insert(Box::from(tenant), watched);
    }

    pub fn changed(&mut self, strategy: Strategy, now: Timestamp) {
        self.strategy = strategy;
        self.since = now;
    }

    /// Tenants whose own arrivals surge, at most `SURGING_MAX`.
    pub fn surging(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let streams = self.tenants.len();
        self.tenants
            .iter()
            .filter(move |(_, watched)| watched.surge.at(now, streams).is_surge())
            .map(|(id, _)| &**id)
            .take(SURGING_MAX)
    }

    /// A resource is down.
    pub fn down(&mut self, index: ResourceIndex, now: Timestamp) {
        self.down.entry(index).or_insert(now);
    }

    /// A resource is not down, or no more.
    pub fn up(&mut self, index: ResourceIndex) {
        self.down.remove(&index);
    }

    /// Whether a resource is down for a shorter time than tasks may wait.
    fn went_down_lately(&self, state: &State, index: ResourceIndex) -> bool {
        let lately =
            |since: &Timestamp| state.batch_time.ms_since(*since) < state.policy.wait_ms_max;
        self.down.get(&index).is_some_and(lately)
    }

    /// When a milder strategy may be due.
    pub fn due(&self) -> Option<Timestamp> {
        (self.strategy != Strategy::Steady).then(|| self.since.plus_ms(HOLD_MS))
    }
}

/// What a task did that was routed there and would rather have gone elsewhere.
pub fn went(state: &State, task: &NewTask, to: ResourceIndex, rather: ResourceIndex) -> Strategy {
    let spec = |index| -> &ResourceSpec { &state.fleet.at(index).spec };
    let class = state.learned.class(&task.shape.class);
    let quality = |index| {
        let prior = spec(index).quality_prior(&task.shape.class).unwrap_or_default();
        state.learned.capable(class, index, prior).quality.mean
    };
    let cost = |index| {
        let terms = state.fleet.terms(index);
        terms.cost_usd(task.input_tokens, f64::from(task.max_output_tokens))
    };
    let is_less = || quality(to) < quality(rather) - WORSE || cost(to) < cost(rather);
    if to == rather {
        Strategy::Steady
    } else if spec(to).model != spec(rather).model && is_less() {
        Strategy::Degrade
    } else if spec(to).pool != spec(rather).pool {
        Strategy::Overflow
    } else {
        Strategy::Spread
    }
}

/// The strategy that fits what is seen now.
fn fitting(state: &State) -> Strategy {
    let (spikes, now) = (&state.spikes, state.batch_time);
    let waiting = state.backlog.len() as f64;
    let shed = if spikes.strategy == Strategy::Shed { SHED_OFF } else { SHED_ON };
    // Where there is room, what waits does so of its own choice.
    let is_full = || spikes.strategy == Strategy::Shed || is_full(state);
    if waiting > 0.0 && is_full() && waiting > shed * servable(state) {
        return Strategy::Shed;
    }
    let is_quiet = now.ms_since(spikes.arrived_at) >= QUIET_MS;
    let in_force = |strategy: Strategy, share: f64| {
        let least = if spikes.strategy >= strategy { SHARE_OFF } else { SHARE_ON };
        !is_quiet && share >= least
    };
    if in_force(Strategy::Delay, spikes.delay) {
        Strategy::Delay
    } else if in_force(Strategy::Degrade, spikes.degrade) {
        Strategy::Degrade
    } else if in_force(Strategy::Overflow, spikes.overflow) {
        Strategy::Overflow
    } else if in_force(Strategy::Spread, spikes.spread) || spikes.arrivals.at(now, 1).is_surge() {
        Strategy::Spread
    } else {
        Strategy::Steady
    }
}

/// `handleSpikes`: another strategy, where it is time for one. To be asked once the batch's tasks are
/// decided.
pub fn handle_spikes(state: &State) -> Option<Fact> {
    let Spikes { strategy, since, .. } = &state.spikes;
    let to = fitting(state);
    let may = to > *strategy || state.batch_time >= since.plus_ms(HOLD_MS);
    (to != *strategy && may).then_some(Fact::StrategyChanged { to })
}

/// Waiting tasks that are shed now: those that would be served last, none that is critical, and not the
/// last few of a priority.
pub fn shed(state: &State) -> Vec<TaskKey> {
    if state.spikes.strategy != Strategy::Shed || !is_full(state) {
        return Vec::new();
    }
    let excess = state.backlog.len().saturating_sub((SHED_TO * servable(state)) as usize);
    let weight = |tenant: &str| state.tenants.weight(tenant);
    let kept = places_kept(&state.policy);
    state.backlog.last_served(Priority::Interactive, excess.min(SHED_MAX), weight, kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(1_000_000).plus_ms(ms)
    }

    #[test]
    fn a_pace_follows_within_half_a_minute_and_fades() {
        let mut pace = Pace::default();
        for number in 0..3_000 {
            pace.add_v1(at(number * 100));
        }
        let steady = pace.per_s(at(300_000));
        assert!((steady - 10.0).abs() < 0.1, "{steady}");
        assert!(pace.per_s(at(330_000)) < 4.0);
        assert!(pace.per_s(at(1 << 40)) < 1e-6);
    }

    #[test]
    fn names_without_end_are_not_all_watched() {
        let mut spikes = Spikes::default();
        for number in 0..2 * TENANTS_MAX {
            spikes.arrived_v1(Some(&format!("t{number}")), None, at(0));
        }
        assert_eq!(spikes.tenants.len(), TENANTS_MAX);
        spikes.arrived_v1(Some("new"), None, at(TENANT_IDLE_MS));
        assert_eq!(spikes.tenants.len(), TENANTS_MAX);
        assert!(spikes.tenants.contains_key("new"));
    }
}
