//! Facts → outputs. Called with the state as it was before the fact, so that what a fact removes
//! can still be named.

mod headroom;
mod sharing;
mod spikes;

use std::borrow::Cow;
use std::sync::Arc;

use super::outputs::Outputs;
use super::prepared::OutputTopic;
use crate::codec::Codec;
use crate::codec::encode::health_key;
use crate::model::Topic;
use crate::model::allocation::{AllocationEvent, AllocationKind};
use crate::model::decision::{
    ChainLink, ModelChain, Outcome, Refusal, Reserved, RouteDecision, RouteMetrics,
};
use crate::model::event::{BalanceEvent, BalanceKind};
use crate::model::health::{HealthEvent, HealthScope, HealthStatus};
use crate::model::reason::RefusalReason;
use crate::model::task::{Priority, Task};
use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::fact::{
    AttemptEnd, Fact, NewTask, RefusedCandidate, Reservation, ResourceIndex,
};
use crate::routing::health::breaker_source;
use crate::routing::state::{Phase, State};

/// The input that a fact came from, where the outputs need more of it than the state keeps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    pub task: Option<&'a Task>,
    pub traceparent: Option<&'a [u8]>,
}

pub struct Renderer<'a> {
    pub codec: &'a Codec,
    pub decisions_by_pool: bool,
    pub outputs: &'a mut Outputs,
}

/// What a decision says about its task.
struct About<'a> {
    task_id: &'a str,
    tenant: &'a str,
    class: &'a str,
    priority: Priority,
    input_tokens: u32,
    max_output_tokens: u32,
    stage: u32,
    stages: u32,
}

impl<'a> About<'a> {
    fn of_task(task: &'a Task) -> Self {
        let own = (task.class.as_str(), task.input_tokens, task.max_output_tokens);
        let (class, input_tokens, max_output_tokens) = match task.stages.first() {
            Some(first) => (first.class.as_str(), first.input_tokens, first.max_output_tokens),
            None => own,
        };
        About {
            task_id: &task.task_id,
            tenant: &task.tenant,
            class,
            priority: task.priority,
            input_tokens,
            max_output_tokens,
            stage: 0,
            stages: (task.stages.len() as u32).max(1),
        }
    }

    fn of_known(task: &'a NewTask) -> Self {
        About {
            task_id: &task.task_id,
            tenant: &task.shape.tenant,
            class: &task.shape.class,
            priority: task.shape.priority,
            input_tokens: task.input_tokens,
            max_output_tokens: task.max_output_tokens,
            stage: task.stage,
            stages: task.stage_count(),
        }
    }
}

/// From `stage` on: the resource that serves it, then those that are planned for the later ones.
fn chain<'a>(
    state: &'a State,
    stage: u32,
    resource: ResourceIndex,
    plan: Option<&Vec<ResourceIndex>>,
) -> ModelChain<'a> {
    let later = plan.map(Vec::as_slice).unwrap_or_default();
    let mut chain = Vec::with_capacity(1 + later.len());
    for (stage, resource) in (stage..).zip(std::iter::once(&resource).chain(later)) {
        let resource = state.fleet.at(*resource);
        chain.push(ChainLink {
            stage,
            resource: Cow::Borrowed(&resource.id),
            model: Cow::Borrowed(&resource.spec.model),
        });
    }
    chain
}

impl Renderer<'_> {
    pub fn render(&mut self, state: &State, fact: &Fact, source: Source<'_>) {
        match fact {
            Fact::Routed {
                key,
                task,
                attempt,
                reservation,
                fallbacks,
                lease_until,
                metrics,
                plans,
                ..
            } => {
                let known = task.as_deref().or_else(|| Some(&*state.tasks.get(key)?.task));
                let Some(known) = known else { return };
                let routed = Routed {
                    about: About::of_known(known),
                    attempt: *attempt,
                    reservation,
                    fallbacks,
                    lease_until: *lease_until,
                    metrics: *metrics,
                    plans,
                };
                self.routed(state, &routed, source);
            }
            Fact::Refused { key, new, reason, candidates } => {
                self.refused(state, *key, new.is_none(), *reason, candidates, source);
            }
            Fact::Duplicate { .. } => {
                if let Some(task) = source.task {
                    let reason = Some(RefusalReason::Duplicate);
                    self.denied(state, &task.task_id, (0, 0), reason, source.traceparent);
                }
            }
            Fact::AttemptEnded { key, end, tokens, requests, overrun_tokens, .. } => {
                let held = Reserved { slots: 0, requests: *requests, tokens: *tokens };
                self.ended(state, *key, *end, held, *overrun_tokens, source);
            }
            Fact::FailoverEnded { resource, tasks } => {
                let resource = state.fleet.at(*resource);
                let event = BalanceEvent {
                    kind: BalanceKind::Failover,
                    resource: Cow::Borrowed(&resource.id),
                    lane: state.lane,
                    at_ms: state.batch_time,
                    tasks: *tasks,
                    detail: Cow::Borrowed(resource.health.name()),
                };
                let codec = self.codec;
                self.event(state, Topic::BalanceEvents, &resource.id, None, |out| {
                    codec.encode_balance_event(&event, out);
                });
            }
            Fact::BreakerTold { resource, status } => self.breaker(state, *resource, *status),
            Fact::StrategyChanged { to } => self.strategy(state, *to),
            Fact::HeadroomTold { resource, limits } => self.headroom(state, *resource, limits),
            Fact::LoadPublished { due, owners, lacks } => {
                self.load(state, owners, lacks);
                if *due {
                    self.system(state);
                }
            }
            Fact::RightsGiven { limit, to_lane, rights } => {
                self.given(state, limit, *to_lane, *rights);
            }
            Fact::RightsPledged { limit, pledge } => self.pledged(state, limit, pledge),
            Fact::Queued { .. }
            | Fact::BatchOpened { .. }
            | Fact::PolicySet(_)
            | Fact::FleetSet { .. }
            | Fact::HealthSet { .. }
            | Fact::ControlSkipped { .. }
            | Fact::LeaseExtended { .. }
            | Fact::AttemptSlow { .. }
            | Fact::RightsTaken { .. }
            | Fact::RoomKept { .. }
            | Fact::LanesCounted { .. }
            | Fact::DeadLettered { .. } => {}
        }
    }

    /// Every lane reads the health events, so all of them agree in the end.
    fn breaker(&mut self, state: &State, resource: ResourceIndex, status: HealthStatus) {
        let (now, busy) = (state.batch_time, state.fleet.is_busy(resource));
        let position = state.health.breakers.position_at(resource, now, busy).name();
        let event = HealthEvent {
            scope: HealthScope::Resource,
            id: state.fleet.at(resource).id.to_string(),
            status,
            severity: match status {
                HealthStatus::Healthy | HealthStatus::Drain => 0.0,
                // For people: other lanes let work grow back with the time since they heard it.
                HealthStatus::Degraded => 0.5,
                HealthStatus::Unhealthy => 1.0,
            },
            reason: format!("breaker of lane {}: {position}", state.lane),
            at_ms: Some(state.batch_time),
            source: breaker_source(state.lane),
            limits: Vec::new(),
        };
        self.health(&event);
    }

    fn health(&mut self, event: &HealthEvent) {
        let (codec, topic) = (self.codec, Topic::HealthEvents);
        self.outputs.event(topic, OutputTopic::Known(topic), 0, &health_key(event), None, |out| {
            codec.encode_health_event(event, out);
        });
    }

    fn event(
        &mut self,
        state: &State,
        topic: Topic,
        key: &str,
        traceparent: Option<&[u8]>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.outputs.event(topic, OutputTopic::Known(topic), state.lane, key, traceparent, write);
    }

    fn routed(&mut self, state: &State, routed: &Routed<'_>, source: Source<'_>) {
        let Routed { about, attempt, reservation, fallbacks, lease_until, metrics, plans } = routed;
        let resource = state.fleet.at(reservation.resource);
        let reserved = Reserved { slots: 1, requests: 1, tokens: reservation.tokens };
        let decision_id = self.outputs.next_id();
        let others = fallbacks.iter().enumerate();
        let links = |first: ResourceIndex, place: usize| {
            let later = plans.get(place).into_iter().flatten().copied();
            let domain = |resource: ResourceIndex| state.fleet.terms(resource).domain;
            std::iter::once(first).chain(later).map(domain)
        };
        let is_apart = |fallback: ResourceIndex, place: usize| {
            let mut of_primary = links(reservation.resource, 0);
            of_primary.all(|domain| links(fallback, place).all(|one| one != domain))
        };
        let decision = RouteDecision {
            attempt: *attempt,
            outcome: Outcome::Routed,
            primary: chain(state, about.stage, reservation.resource, plans.first()),
            fallbacks: others
                .clone()
                .map(|(at, one)| chain(state, about.stage, *one, plans.get(at + 1)))
                .collect(),
            fallbacks_apart: others.clone().all(|(place, one)| is_apart(*one, place + 1)),
            metrics: *metrics,
            start_by_at_ms: Some(state.batch_time.plus_ms(state.policy.start_within_ms)),
            lease_until_at_ms: Some(*lease_until),
            reserved: Some(reserved),
            max_output_tokens: output_of(reservation.tokens, about.input_tokens),
            payload: source.task.and_then(|task| task.payload.as_deref()).map(Cow::Borrowed),
            ..decision(state, &decision_id, about)
        };
        let to = if self.decisions_by_pool {
            OutputTopic::Pool(Arc::from(resource.spec.pool.as_str()))
        } else {
            OutputTopic::Known(Topic::RouteDecisions)
        };
        self.decision(to, &decision, source);
        let event = AllocationEvent {
            kind: AllocationKind::Reserved,
            resource: Cow::Borrowed(&resource.id),
            task_id: Cow::Borrowed(about.task_id),
            attempt: *attempt,
            stage: about.stage,
            lane: state.lane,
            at_ms: state.batch_time,
            reserved_at_ms: state.batch_time,
            held: reserved,
            overrun_tokens: 0,
            reason: None,
        };
        let codec = self.codec;
        self.event(state, Topic::AllocationEvents, &resource.id, source.traceparent, |out| {
            codec.encode_allocation_event(&event, out);
        });
    }

    fn decision(&mut self, to: OutputTopic, decision: &RouteDecision<'_>, source: Source<'_>) {
        let codec = self.codec;
        self.outputs.event(
            Topic::RouteDecisions,
            to,
            decision.lane,
            &decision.task_id,
            source.traceparent,
            |out| codec.encode_route_decision(decision, out),
        );
    }

    fn refused(
        &mut self,
        state: &State,
        key: TaskKey,
        known: bool,
        reason: RefusalReason,
        candidates: &[RefusedCandidate],
        source: Source<'_>,
    ) {
        let live = if known { state.tasks.get(&key) } else { None };
        let about = match (live, source.task) {
            (Some(live), _) => About::of_known(&live.task),
            (None, Some(task)) => About::of_task(task),
            (None, None) => return,
        };
        let attempt = live.map_or(1, |live| live.attempt + 1);
        let refusals = candidates.iter().map(|candidate| Refusal {
            resource: Cow::Borrowed(&*state.fleet.at(candidate.resource).id),
            rule: candidate.rule,
            needed: Cow::Borrowed(&candidate.needed),
            had: Cow::Borrowed(&candidate.had),
        });
        let decision_id = self.outputs.next_id();
        let decision = RouteDecision {
            attempt,
            reason: Some(reason),
            refusals: refusals.collect(),
            ..decision(state, &decision_id, &about)
        };
        // A refusal belongs to no pool; where decisions go by pool, it goes to the default one.
        let to = if self.decisions_by_pool {
            OutputTopic::Pool(Arc::from("default"))
        } else {
            OutputTopic::Known(Topic::RouteDecisions)
        };
        self.decision(to, &decision, source);
        match reason {
            RefusalReason::NoCapacity
            | RefusalReason::PricedOut
            | RefusalReason::TenantLimit
            | RefusalReason::Budget
            | RefusalReason::BacklogFull
            | RefusalReason::Shed => {
                let attempt = (about.stage, attempt);
                self.denied(state, about.task_id, attempt, Some(reason), source.traceparent);
            }
            RefusalReason::NoCapableResource
            | RefusalReason::Model
            | RefusalReason::Modality
            | RefusalReason::ContextWindow
            | RefusalReason::Region
            | RefusalReason::Tenant
            | RefusalReason::Quality
            | RefusalReason::Health
            | RefusalReason::Cost
            | RefusalReason::Deadline
            | RefusalReason::AttemptsSpent
            | RefusalReason::TaskExpired
            | RefusalReason::Cancelled
            | RefusalReason::Duplicate
            | RefusalReason::NotSupported
            | RefusalReason::PoolTopicMissing => {}
        }
    }

    /// No capacity changed hands; the event has no resource.
    fn denied(
        &mut self,
        state: &State,
        task_id: &str,
        (stage, attempt): (u32, u32),
        reason: Option<RefusalReason>,
        traceparent: Option<&[u8]>,
    ) {
        let event = AllocationEvent {
            kind: AllocationKind::Denied,
            resource: Cow::Borrowed(""),
            task_id: Cow::Borrowed(task_id),
            attempt,
            stage,
            lane: state.lane,
            at_ms: state.batch_time,
            reserved_at_ms: state.batch_time,
            held: Reserved::default(),
            overrun_tokens: 0,
            reason,
        };
        let codec = self.codec;
        self.event(state, Topic::AllocationEvents, "", traceparent, |out| {
            codec.encode_allocation_event(&event, out);
        });
    }

    fn ended(
        &mut self,
        state: &State,
        key: TaskKey,
        end: AttemptEnd,
        held: Reserved,
        overrun_tokens: u64,
        source: Source<'_>,
    ) {
        let Some(live) = state.tasks.get(&key) else { return };
        let (resource, reserved_at) = match live.phase {
            Phase::InFlight { resource, reserved_at, .. } => (resource, reserved_at),
            Phase::Waiting { .. } | Phase::GivenUp => return,
        };
        let resource = state.fleet.at(resource);
        let event = AllocationEvent {
            kind: end.allocation(),
            resource: Cow::Borrowed(&resource.id),
            task_id: Cow::Borrowed(&live.task.task_id),
            attempt: live.attempt,
            stage: live.task.stage,
            lane: state.lane,
            at_ms: state.batch_time,
            reserved_at_ms: reserved_at,
            held,
            overrun_tokens,
            reason: None,
        };
        let codec = self.codec;
        self.event(state, Topic::AllocationEvents, &resource.id, source.traceparent, |out| {
            codec.encode_allocation_event(&event, out);
        });
    }
}

struct Routed<'a> {
    about: About<'a>,
    attempt: u32,
    reservation: &'a Reservation,
    fallbacks: &'a [ResourceIndex],
    lease_until: Timestamp,
    metrics: Option<RouteMetrics>,
    plans: &'a [Vec<ResourceIndex>],
}

/// What is left of a reservation for the answer.
fn output_of(tokens: u64, input_tokens: u32) -> u32 {
    u32::try_from(tokens.saturating_sub(u64::from(input_tokens))).unwrap_or(u32::MAX)
}

/// A refusal without a reason yet: what every decision says.
fn decision<'a>(state: &State, decision_id: &'a str, about: &About<'a>) -> RouteDecision<'a> {
    RouteDecision {
        decision_id: Cow::Borrowed(decision_id),
        task_id: Cow::Borrowed(about.task_id),
        attempt: 1,
        stage: about.stage,
        lane: state.lane,
        outcome: Outcome::Refused,
        reason: None,
        tenant: Cow::Borrowed(about.tenant),
        class: Cow::Borrowed(about.class),
        priority: about.priority,
        primary: Vec::new(),
        fallbacks: Vec::new(),
        metrics: None,
        decided_at_ms: state.batch_time,
        start_by_at_ms: None,
        lease_until_at_ms: None,
        reserved: None,
        input_tokens: about.input_tokens,
        max_output_tokens: about.max_output_tokens,
        health_offset: state.health_position - 1,
        refusals: Vec::new(),
        payload: None,
        fallbacks_apart: true,
        stages: about.stages,
    }
}
