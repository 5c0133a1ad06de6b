//! What lanes see of each other: load snapshots, and rights that change hands.

use std::borrow::Cow;

use super::Renderer;
use crate::lane::prepared::OutputTopic;
use crate::model::Topic;
use crate::model::event::{
    BalanceEvent, BalanceKind, DimensionLoad, InboxBody, InboxMessage, LoadSnapshot,
};
use crate::model::health::HealthStatus;
use crate::model::resource::TENANT_KEY_PREFIX;
use crate::model::rights::{LimitKind, LimitName, RightsTransfer};
use crate::model::task::Priority;
use crate::routing::fact::{Lack, LoadOwner};
use crate::routing::fleet::{Rate, Resource};
use crate::routing::sharing::Pledge;
use crate::routing::state::State;

/// What a lane lacks, by limit.
struct Lacking<'a> {
    state: &'a State,
    owner: LoadOwner,
    lacks: &'a [Lack],
}

impl Renderer<'_> {
    /// Rights go to the receiver's inbox, in this batch's transaction.
    pub(super) fn given(&mut self, state: &State, limit: &LimitName, to_lane: u32, rights: u32) {
        let (codec, at_ms) = (self.codec, state.batch_time);
        let transfer = RightsTransfer { limit: limit.clone(), rights, given_at_ms: at_ms };
        let body = InboxBody::Rights(transfer);
        let message = InboxMessage { from_lane: state.lane, to_lane, body };
        let (topic, key) = (Topic::LaneInbox, to_lane.to_string());
        self.outputs.event(topic, OutputTopic::Known(topic), to_lane, &key, None, |out| {
            codec.encode_lane_inbox(&message, out);
        });
        self.rights(state, BalanceKind::RightsMoved, limit, (rights, to_lane));
    }

    /// Rights that go to another lane as soon as they are not in use.
    pub(super) fn pledged(&mut self, state: &State, limit: &LimitName, pledge: &Pledge) {
        let what = (pledge.rights, pledge.to_lane);
        self.rights(state, BalanceKind::RightsPledged, limit, what);
    }

    fn rights(
        &mut self,
        state: &State,
        kind: BalanceKind,
        limit: &LimitName,
        (rights, to_lane): (u32, u32),
    ) {
        let codec = self.codec;
        let owner = limit.owner.key();
        let counted = limit.kind.counted().name();
        let window = match limit.kind.window_s() {
            0 => String::new(),
            seconds => format!(" in {seconds} s"),
        };
        let event = BalanceEvent {
            kind,
            resource: Cow::Borrowed(&owner),
            lane: state.lane,
            at_ms: state.batch_time,
            tasks: 0,
            detail: Cow::Owned(format!("{rights} rights of {counted}{window} to lane {to_lane}")),
        };
        self.event(state, Topic::BalanceEvents, &owner, None, |out| {
            codec.encode_balance_event(&event, out);
        });
    }

    /// A snapshot of each of these resources and tenants.
    pub(super) fn load(&mut self, state: &State, owners: &[LoadOwner], lacks: &[Lack]) {
        for owner in owners {
            let lacking = Lacking { state, owner: *owner, lacks };
            let name;
            let (resource, health, load, in_flight) = match owner {
                LoadOwner::Resource(index) => {
                    let resource = state.fleet.at(*index);
                    let in_flight = u64::from(resource.slots_in_use);
                    (&*resource.id, resource.health, lacking.of_resource(resource), in_flight)
                }
                LoadOwner::Tenant(index) => {
                    let tenant = state.tenants.at(*index);
                    name = format!("{TENANT_KEY_PREFIX}{}", tenant.spec.id);
                    let rates = tenant.rates.iter().map(|rate| lacking.rate(kind(rate), rate));
                    let budget = tenant.budget.as_ref();
                    let budget = budget.map(|rate| lacking.rate(LimitKind::Budget, rate));
                    (name.as_str(), HealthStatus::Healthy, rates.chain(budget).collect(), 0)
                }
            };
            let snapshot = LoadSnapshot {
                lane: state.lane,
                resource: Cow::Borrowed(resource),
                at_ms: state.batch_time,
                health,
                load,
                in_flight,
                backlog: state.backlog.len() as u64,
                system: None,
            };
            let key = format!("{}/{resource}", state.lane);
            let codec = self.codec;
            self.event(state, Topic::LoadSnapshots, &key, None, |out| {
                codec.encode_load_snapshot(&snapshot, out);
            });
        }
    }
}

fn kind(rate: &Rate) -> LimitKind {
    LimitKind::Rate { dimension: rate.limit.dimension, window_s: rate.limit.window_s }
}

impl Lacking<'_> {
    fn of_resource<'a>(&self, resource: &'a Resource) -> Vec<DimensionLoad<'a>> {
        let slots = DimensionLoad {
            limit: u64::from(resource.slots_limit),
            units: u64::from(resource.slots_units),
            used: u64::from(resource.slots_in_use),
            used_max: u64::from(resource.slots_used_max),
            price: resource.slot_price.usual_task(self.state.batch_time),
            rights: resource.slots_rights,
            incarnation: resource.slots_incarnation,
            pledged: resource.slots_promised.rights(),
            ..self.empty(LimitKind::Slots)
        };
        let rates = resource.rates.iter().map(|rate| self.rate(kind(rate), rate));
        std::iter::once(slots).chain(rates).collect()
    }

    fn rate(&self, kind: LimitKind, rate: &Rate) -> DimensionLoad<'static> {
        DimensionLoad {
            limit: rate.limit.amount,
            units: rate.units,
            used: rate.window.used(),
            used_max: rate.used_max,
            price: rate.price.usual_task(self.state.batch_time),
            rights: rate.rights,
            incarnation: rate.incarnation,
            pledged: rate.promised.rights(),
            ..self.empty(kind)
        }
    }

    /// What there is to say of a limit beside its numbers.
    fn empty(&self, kind: LimitKind) -> DimensionLoad<'static> {
        let lack = self.lacks.iter().find(|lack| (lack.owner, lack.kind) == (self.owner, kind));
        let since = |lack: &Lack| {
            let dry = self.state.sharing.dry.get(&(self.owner, kind));
            let since = match lack.largest {
                0 => dry.map(|dry| dry.since),
                _ => dry.and_then(|dry| dry.large_since),
            };
            since.unwrap_or(self.state.batch_time)
        };
        DimensionLoad {
            dimension: Cow::Borrowed(kind.counted().name()),
            window_s: kind.window_s(),
            limit: 0,
            units: 0,
            used: 0,
            used_max: 0,
            price: 0.0,
            rights: 0,
            incarnation: 0,
            waiting: lack.map_or(0, |lack| lack.waiting),
            largest_waiting: lack.map_or(0, |lack| lack.largest),
            waiting_since_ms: lack.map(since),
            waiting_critical: lack.map_or(0, |lack| lack.critical),
            waiting_interactive: lack.map_or(0, |lack| lack.interactive),
            largest_priority: lack.map_or(Priority::default(), |lack| lack.priority),
            pledged: 0,
        }
    }
}
