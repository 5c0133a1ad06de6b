//! The one place where a lane's state changes: folding a fact.
//!
//! Facts carry results, so this assigns, adds and removes. It must give the same state for the
//! same facts for ever; golden journals check that.

mod headroom;
mod health;
mod pledges;
mod sharing;

use std::cmp::Reverse;
use std::sync::Arc;

use super::TaskKey;
use super::allocator::output_reserved;
use super::backlog::Place;
use super::engine::wait_until;
use super::fact::{
    AttemptEnd, Bid, ControlTopic, Fact, Loss, NewTask, Newcomer, Reservation, ResourceIndex,
    Shown, Then,
};
use super::fleet::Release;
use super::learned::Attempted;
use super::spikes::went;
use super::state::{Fallbacks, LiveTask, Phase, State, Tried};
use crate::model::reason::RefusalReason;
use crate::model::resource::FleetEntry;
use crate::model::system_health::Strategy;
use crate::model::task::{Objective, Priority};
use crate::model::time::Timestamp;

impl State {
    pub fn evolve(&mut self, fact: &Fact) {
        match fact {
            Fact::BatchOpened { at, results_caught_up_at } => {
                self.batch_time = *at;
                self.results_caught_up_at = *results_caught_up_at;
                self.fleet.advance(*at);
                self.tenants.advance(*at);
                self.reserved.advance(*at);
                let before = at.minus_ms(self.policy.recognise_ms);
                self.recent.forget(before, self.policy.recognise_tasks_max as usize);
                self.raise_limits();
                self.open_slots();
                self.ripen();
                self.end_pledges();
            }
            Fact::PolicySet(policy) => {
                if policy.start_within_ms != self.policy.start_within_ms {
                    self.fleet.resize_windows(policy.start_within_ms);
                    self.tenants.resize_windows(policy.start_within_ms);
                    self.reserved.resize_windows(policy.start_within_ms);
                }
                self.policy = (**policy).clone();
                self.fleet.changed();
            }
            Fact::FleetSet { offset, entry } => self.set_fleet(*offset, entry),
            Fact::HealthSet { offset, event } => {
                self.health_position = offset + 1;
                self.health.set(self.lane, event, self.batch_time);
                self.hear_limits(event);
                self.apply_health();
            }
            Fact::ControlSkipped { topic, offset, .. } => match topic {
                ControlTopic::Fleet => {
                    self.fleet_position = offset + 1;
                    self.drop_early(*offset);
                }
                ControlTopic::HealthEvents => self.health_position = offset + 1,
            },
            Fact::Routed {
                key,
                task,
                attempt,
                reservation,
                fallbacks,
                lease_until,
                bid,
                plans,
                ..
            } => {
                self.hear(*bid, task.as_deref());
                self.spikes.routed.add_v1(self.batch_time);
                if let Some(task) = task {
                    let outcome = bid.map(|bid| went(self, task, reservation.resource, bid.rather));
                    let tenant = Some(task.shape.tenant.as_str());
                    self.spikes.arrived_v1(tenant, outcome, self.batch_time);
                    self.admit(*key, Arc::clone(task));
                }
                self.start(*key, *attempt, reservation, fallbacks, *lease_until);
                self.plan(*key, plans);
                self.room_found(reservation);
            }
            Fact::Queued { key, task, blocked_by, until, loss, bid } => {
                self.hear(*bid, Some(task));
                let tenant = Some(task.shape.tenant.as_str());
                self.spikes.arrived_v1(tenant, Some(Strategy::Delay), self.batch_time);
                self.admit(*key, Arc::clone(task));
                self.wait(*key, *blocked_by, *until, *loss);
            }
            Fact::Refused { key, new, reason, .. } => {
                self.count_refused(*key, new.as_ref(), *reason);
                if new.is_none() {
                    self.drop_task(*key);
                } else {
                    self.recent.insert(self.batch_time, *key);
                }
            }
            Fact::Duplicate { .. } | Fact::DeadLettered { .. } => {}
            Fact::AttemptEnded {
                key,
                end,
                tokens,
                requests,
                overrun_tokens,
                usd_micros,
                then,
                until,
                shown,
            } => {
                self.watch(*key, *end, shown.as_ref());
                if let Some(shown) = shown {
                    self.learn(*key, *end, shown);
                }
                let used = Used {
                    tokens: *tokens,
                    requests: *requests,
                    overrun_tokens: *overrun_tokens,
                    usd_micros: *usd_micros,
                };
                self.end_attempt(*key, *end, &used);
                match then {
                    Then::Done => self.drop_task(*key),
                    Then::Again => self.wait(*key, RefusalReason::NoCapacity, *until, Loss::MAX),
                    Then::Next => {
                        self.begin_stage(*key, *usd_micros);
                        self.wait(*key, RefusalReason::NoCapacity, *until, Loss::MAX);
                    }
                    Then::GiveUp => {
                        if let Some(live) = self.tasks.get_mut(key) {
                            live.phase = Phase::GivenUp;
                            self.given_up.insert(*key);
                        }
                    }
                }
            }
            Fact::LeaseExtended { key, lease_until } => self.extend_lease(*key, *lease_until),
            Fact::BreakerTold { resource, status } => self.tell_breaker(*resource, *status),
            Fact::FailoverEnded { resource, .. } => {
                self.failovers.remove(resource);
            }
            Fact::LoadPublished { due, owners, lacks } => self.load_told(*due, owners, lacks),
            Fact::RightsGiven { limit, to_lane, rights } => {
                self.give_rights(limit, *to_lane, *rights);
            }
            Fact::RightsTaken { transfer, how, .. } => self.take_rights(transfer, *how),
            Fact::StrategyChanged { to } => self.spikes.changed(*to, self.batch_time),
            Fact::HeadroomTold { resource, .. } => {
                self.health.headroom.told(*resource, self.batch_time);
            }
            Fact::RightsPledged { limit, pledge } => self.pledge_rights(limit, *pledge),
            Fact::RoomKept { limit, keeping } => self.keep_room(limit, *keeping),
            Fact::AttemptSlow { key, slow } => self.slow_down(*key, *slow),
            Fact::LanesCounted { lanes } => self.count_lanes(*lanes),
        }
    }

    fn set_fleet(&mut self, offset: i64, entry: &FleetEntry) {
        self.fleet_position = offset + 1;
        self.break_pledges(entry);
        self.set_entry(offset, entry);
        self.share_new(offset, entry);
    }

    fn set_entry(&mut self, offset: i64, entry: &FleetEntry) {
        match entry {
            FleetEntry::Resource(spec) => {
                let is_same = self.fleet.index_of(&spec.id).is_some_and(|index| {
                    let before = &self.fleet.at(index).spec;
                    before.model == spec.model && before.quality == spec.quality
                });
                self.fleet.set(offset, spec, self.policy.start_within_ms);
                // Whoever says something else of it means another one.
                if !is_same && let Some(index) = self.fleet.index_of(&spec.id) {
                    self.learned.forget(index);
                    self.health.breakers.forget(index);
                    self.health.headroom.forget(index);
                    if self.fleet.at(index).slots_in_use == 0 {
                        self.reserved.forget(index);
                    }
                    self.affinity.forget(index);
                }
                self.lower_limits(&spec.id);
                self.apply_health();
            }
            FleetEntry::ResourceRemoved(id) => {
                if let Some(index) = self.fleet.index_of(id) {
                    self.health.breakers.forget(index);
                }
                self.fleet.remove(offset, id);
                self.apply_health();
            }
            FleetEntry::Tenant(spec) => {
                self.tenants.set(offset, spec, self.policy.start_within_ms);
                if let Some(tenant) = self.tenants.index_of(&spec.id) {
                    self.reserved.set(tenant, spec);
                }
                self.fleet.changed();
            }
            FleetEntry::TenantRemoved(id) => {
                if let Some(tenant) = self.tenants.index_of(id) {
                    self.reserved.remove(tenant);
                }
                self.tenants.remove(id);
                self.fleet.changed();
            }
        }
    }

    fn count_refused(&mut self, key: TaskKey, new: Option<&Newcomer>, reason: RefusalReason) {
        if let Some(Newcomer { tenant, .. }) = new {
            self.spikes.arrived_v1(Some(tenant), None, self.batch_time);
        }
        let held = || self.tasks.get(&key).map(|live| live.task.shape.priority);
        let priority = new.map(|new| new.priority).or_else(held);
        if let Some(priority) = priority
            && reason.is_want_of_capacity()
        {
            self.shares.refused(priority, self.batch_time);
        }
        // Whoever cancels was not refused.
        if reason != RefusalReason::Cancelled {
            self.spikes.refused.add_v1(self.batch_time);
        }
        if reason == RefusalReason::Shed {
            self.spikes.shed.add_v1(self.batch_time);
        }
    }

    /// What a new task wanted moves the stake, and the price of the slots that it wanted.
    fn hear(&mut self, bid: Option<Bid>, task: Option<&NewTask>) {
        let Some(Bid { wanted, busy_ms, gain, .. }) = bid else { return };
        let gain = gain.map(f64::from);
        if let Some(gain) = gain {
            self.stake.add(gain);
        }
        if let Some(task) = task {
            // The answer takes its time too.
            let begins_by = task.deadline_at.minus_ms(u64::from(busy_ms));
            let left_ms = wait_until(self, begins_by).ms_since(self.batch_time);
            let second = Objective::from(task.shape.objective).weights().second;
            self.stake.waits(left_ms as f64, gain, second);
        }
        self.fleet.want_slot(wanted, busy_ms, self.stake, self.batch_time);
    }

    fn admit(&mut self, key: TaskKey, task: Arc<NewTask>) {
        self.recent.insert(self.batch_time, key);
        let progress = task.stages.is_some().then(Box::default);
        let live = LiveTask {
            task,
            progress,
            attempt: 0,
            failures: 0,
            fallbacks: Fallbacks::NONE,
            tried: None,
            phase: Phase::GivenUp,
        };
        self.tasks.insert(key, live);
    }

    fn start(
        &mut self,
        key: TaskKey,
        attempt: u32,
        reservation: &Reservation,
        fallbacks: &[ResourceIndex],
        lease_until: Timestamp,
    ) {
        self.leave_backlog(key);
        let Some(live) = self.tasks.get_mut(&key) else { return };
        live.attempt = attempt;
        live.fallbacks = Fallbacks::of(fallbacks);
        live.phase = Phase::InFlight {
            resource: reservation.resource,
            reserved_at: self.batch_time,
            lease_until,
            tokens: reservation.tokens,
            usd_micros: reservation.usd_micros,
            slow: 0.0,
        };
        self.leases.insert((lease_until, key));
        self.in_flight += 1;
        let priority = live.task.shape.priority;
        self.fleet.reserve(reservation, priority, self.batch_time, self.stake);
        let tenant = self.tenants.index_of(&live.task.shape.tenant);
        self.tenants.debit(tenant, self.batch_time, reservation, self.stake);
        if let Some(tenant) = tenant {
            let resource = self.fleet.at(reservation.resource);
            let start_within_ms = self.policy.start_within_ms;
            self.reserved.debit(tenant, resource, reservation, self.batch_time, start_within_ms);
        }
        let tokens = reservation.tokens_expected as f64;
        self.shares.charge_v1(priority, &live.task.shape.tenant, tokens, self.batch_time);
        let now = self.batch_time;
        let goes_without =
            Priority::ALL.map(|one| self.backlog.waits(one) || self.shares.was_refused(one, now));
        let waits = |one: Priority| goes_without[one as usize];
        self.shares.owe_v1(priority, tokens, self.policy.priority_share_min, waits);
    }

    fn end_attempt(&mut self, key: TaskKey, end: AttemptEnd, used: &Used) {
        let Some(live) = self.tasks.get_mut(&key) else { return };
        let (resource, reserved_at, lease_until, tokens, usd_micros) = match live.phase {
            Phase::InFlight { resource, reserved_at, lease_until, tokens, usd_micros, slow } => {
                self.learned.slow_ended_v1(resource, f64::from(slow));
                (resource, reserved_at, lease_until, tokens, usd_micros)
            }
            Phase::Waiting { .. } | Phase::GivenUp => return,
        };
        self.leases.remove(&(lease_until, key));
        self.in_flight -= 1;
        let release = Release {
            reserved_at,
            now: self.batch_time,
            requests_back: u64::from(1 - used.requests.min(1)),
            tokens_back: tokens - used.tokens.min(tokens),
            overrun_tokens: used.overrun_tokens,
        };
        self.fleet.release(resource, &release);
        let tenant = self.tenants.index_of(&live.task.shape.tenant);
        let back = usd_micros.saturating_sub(used.usd_micros);
        self.tenants.release(tenant, &release, back);
        if let Some(tenant) = tenant {
            self.reserved.release(tenant, resource, &release);
        }
        live.failures += u32::from(end.is_failure());
        if end == AttemptEnd::Succeeded {
            self.affinity.served(live.task.session, resource);
        } else {
            live.tried.get_or_insert_default().push(Tried { resource, end });
        }
        if end == AttemptEnd::FailedOver
            && let Some(failover) = self.failovers.get_mut(&resource)
        {
            failover.tasks += 1;
        }
    }

    /// Keeps who is to serve the later stages.
    fn plan(&mut self, key: TaskKey, plans: &[Vec<ResourceIndex>]) {
        if let Some(live) = self.tasks.get_mut(&key)
            && let Some(progress) = &mut live.progress
        {
            progress.plan = plans.first().cloned().unwrap_or_default();
        }
    }

    /// Puts the next stage in the place of the one that has succeeded.
    fn begin_stage(&mut self, key: TaskKey, usd_micros: u64) {
        let Some(live) = self.tasks.get_mut(&key) else { return };
        let (Phase::InFlight { resource, .. }, Some(next)) = (live.phase, live.task.next_stage())
        else {
            return;
        };
        live.task = Arc::new(next);
        live.attempt = 0;
        live.failures = 0;
        live.fallbacks = Fallbacks::NONE;
        live.tried = None;
        let progress = live.progress.get_or_insert_default();
        progress.served.push(resource);
        progress.spent_usd_micros += usd_micros;
    }

    fn learn(&mut self, key: TaskKey, end: AttemptEnd, shown: &Shown) {
        let Some(live) = self.tasks.get(&key) else { return };
        let Phase::InFlight { resource, tokens, .. } = live.phase else { return };
        let class = &live.task.shape.class;
        let attempted = Attempted {
            class,
            resource,
            quality_prior: self.fleet.at(resource).spec.quality_prior(class).unwrap_or_default(),
            input_tokens: live.task.input_tokens,
            max_output_tokens: live.task.max_output_tokens,
            output_reserved: output_reserved(live, tokens),
            features: live.task.features.as_deref(),
        };
        self.health.headroom.ended_v1(resource, end, self.batch_time);
        self.learned.observe_v1(attempted, self.fleet.terms(resource), end, shown);
    }

    /// What an attempt under way has shown moves its resource's speed before it ends.
    fn slow_down(&mut self, key: TaskKey, slower: f32) {
        if let Some(live) = self.tasks.get_mut(&key)
            && let Phase::InFlight { resource, slow, .. } = &mut live.phase
        {
            let before = f64::from(std::mem::replace(slow, slower));
            self.health.breakers.heard_v1(*resource);
            self.learned.slow_v1(*resource, before, f64::from(slower));
        }
    }

    fn wait(&mut self, key: TaskKey, blocked_by: RefusalReason, until: Timestamp, loss: Loss) {
        if let Some(live) = self.tasks.get_mut(&key) {
            let shape = &live.task.shape;
            let turn = self.backlog.insert(shape.priority, &shape.tenant, loss, until, key);
            live.phase = Phase::Waiting { until, turn, blocked_by, loss };
        }
    }

    fn leave_backlog(&mut self, key: TaskKey) {
        if let Some(live) = self.tasks.get(&key)
            && let Phase::Waiting { until, turn, loss, .. } = live.phase
        {
            let (shape, loss) = (&live.task.shape, Reverse(loss));
            let place = Place { priority: shape.priority, loss, until, turn, key };
            self.backlog.remove(&shape.tenant, &place);
        }
    }

    /// Removes a task that is not in flight.
    fn drop_task(&mut self, key: TaskKey) {
        self.leave_backlog(key);
        self.given_up.remove(&key);
        self.tasks.swap_remove(&key);
    }

    fn extend_lease(&mut self, key: TaskKey, until: Timestamp) {
        if let Some(live) = self.tasks.get_mut(&key)
            && let Phase::InFlight { resource, lease_until, .. } = &mut live.phase
        {
            self.health.breakers.heard_v1(*resource);
            self.leases.remove(&(*lease_until, key));
            *lease_until = until;
            self.leases.insert((until, key));
        }
    }
}

/// What an attempt used of its reservation, and beyond it.
struct Used {
    tokens: u64,
    requests: u32,
    overrun_tokens: u64,
    usd_micros: u64,
}
