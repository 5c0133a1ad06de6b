//! Avro forms of what Pointsman writes: the order of the calls is the order of the fields in
//! `schemas/*.avsc`.

use std::borrow::Cow;

use crate::model::allocation::{AllocationEvent, AllocationKind};
use crate::model::decision::{
    ChainLink, ModelChain, Outcome, Refusal, Reserved, RouteDecision, RouteMetrics,
};
use crate::model::event::{BalanceEvent, BalanceKind, DimensionLoad, LoadSnapshot, OperatorAction};
use crate::model::journal::{JournalRecord, OffsetRange};
use crate::model::reason::RefusalReason;
use crate::model::system_health::{Strategy, SystemHealth, SystemStatus};
use crate::model::task::Priority;

use super::binary::{
    Reader, put_array, put_bytes, put_double, put_long, put_option, put_str, put_unsigned,
};
use super::error::DecodeError;
use super::inputs::{HEALTH_STATUSES, put_time, read_time};

/// The enums' values in the order of their symbols in the schemas; a test compares the two.
pub(super) const OUTCOMES: [Outcome; 2] = [Outcome::Routed, Outcome::Refused];
pub(super) const ALLOCATION_KINDS: [AllocationKind; 6] = [
    AllocationKind::Reserved,
    AllocationKind::Adjusted,
    AllocationKind::Released,
    AllocationKind::Expired,
    AllocationKind::Denied,
    AllocationKind::FailedOver,
];
pub(super) const BALANCE_KINDS: [BalanceKind; 4] = [
    BalanceKind::RightsMoved,
    BalanceKind::StrategyChanged,
    BalanceKind::Failover,
    BalanceKind::RightsPledged,
];

fn put_reason(out: &mut Vec<u8>, reason: RefusalReason) {
    put_long(out, reason as i64);
}

fn read_reason(reader: &mut Reader<'_>, field: &'static str) -> Result<RefusalReason, DecodeError> {
    reader.symbol(field, &RefusalReason::ALL)
}

fn read_cow(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Cow<'static, str>, DecodeError> {
    reader.string(field).map(Cow::Owned)
}

fn put_reserved(out: &mut Vec<u8>, reserved: Reserved) {
    put_unsigned(out, reserved.slots);
    put_unsigned(out, reserved.requests);
    put_unsigned(out, reserved.tokens);
}

fn read_reserved(reader: &mut Reader<'_>, field: &'static str) -> Result<Reserved, DecodeError> {
    Ok(Reserved {
        slots: reader.u32(field)?,
        requests: reader.u32(field)?,
        tokens: reader.u64(field)?,
    })
}

fn put_chain(out: &mut Vec<u8>, chain: &ModelChain<'_>) {
    put_array(out, chain.iter(), |out, link| {
        put_unsigned(out, link.stage);
        put_str(out, &link.resource);
        put_str(out, &link.model);
    });
}

fn read_chain(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<ModelChain<'static>, DecodeError> {
    reader.array(field, |reader, field| {
        Ok(ChainLink {
            stage: reader.u32(field)?,
            resource: read_cow(reader, field)?,
            model: read_cow(reader, field)?,
        })
    })
}

pub(super) fn put_route_decision(out: &mut Vec<u8>, decision: &RouteDecision<'_>) {
    put_str(out, &decision.decision_id);
    put_str(out, &decision.task_id);
    put_unsigned(out, decision.attempt);
    put_unsigned(out, decision.stage);
    put_unsigned(out, decision.lane);
    put_long(out, decision.outcome as i64);
    put_option(out, decision.reason, put_reason);
    put_str(out, &decision.tenant);
    put_str(out, &decision.class);
    put_long(out, decision.priority as i64);
    put_chain(out, &decision.primary);
    put_array(out, decision.fallbacks.iter(), put_chain);
    put_option(out, decision.metrics, |out, metrics| {
        put_double(out, metrics.quality);
        put_double(out, metrics.cost_usd);
        put_double(out, metrics.latency_ms);
        put_double(out, metrics.utility);
        put_double(out, metrics.price);
        put_double(out, metrics.propensity);
    });
    put_time(out, decision.decided_at_ms);
    put_option(out, decision.start_by_at_ms, put_time);
    put_option(out, decision.lease_until_at_ms, put_time);
    put_option(out, decision.reserved, put_reserved);
    put_unsigned(out, decision.input_tokens);
    put_unsigned(out, decision.max_output_tokens);
    put_long(out, decision.health_offset);
    put_array(out, decision.refusals.iter(), |out, refusal| {
        put_str(out, &refusal.resource);
        put_reason(out, refusal.rule);
        put_str(out, &refusal.needed);
        put_str(out, &refusal.had);
    });
    put_option(out, decision.payload.as_deref(), put_bytes);
    out.push(decision.fallbacks_apart.into());
    put_unsigned(out, decision.stages);
}

pub(super) fn read_route_decision(
    reader: &mut Reader<'_>,
) -> Result<RouteDecision<'static>, DecodeError> {
    Ok(RouteDecision {
        decision_id: read_cow(reader, "decision_id")?,
        task_id: read_cow(reader, "task_id")?,
        attempt: reader.u32("attempt")?,
        stage: reader.u32("stage")?,
        lane: reader.u32("lane")?,
        outcome: reader.symbol("outcome", &OUTCOMES)?,
        reason: reader.option("reason", read_reason)?,
        tenant: read_cow(reader, "tenant")?,
        class: read_cow(reader, "class")?,
        priority: reader.symbol("priority", &Priority::ALL)?,
        primary: read_chain(reader, "primary")?,
        fallbacks: reader.array("fallbacks", read_chain)?,
        metrics: reader.option("metrics", |reader, field| {
            Ok(RouteMetrics {
                quality: reader.double(field)?,
                cost_usd: reader.double(field)?,
                latency_ms: reader.double(field)?,
                utility: reader.double(field)?,
                price: reader.double(field)?,
                propensity: reader.double(field)?,
            })
        })?,
        decided_at_ms: read_time(reader, "decided_at_ms")?,
        start_by_at_ms: reader.option("start_by_at_ms", read_time)?,
        lease_until_at_ms: reader.option("lease_until_at_ms", read_time)?,
        reserved: reader.option("reserved", read_reserved)?,
        input_tokens: reader.u32("input_tokens")?,
        max_output_tokens: reader.u32("max_output_tokens")?,
        health_offset: reader.long("health_offset")?,
        refusals: reader.array("refusals", |reader, field| {
            Ok(Refusal {
                resource: read_cow(reader, field)?,
                rule: read_reason(reader, field)?,
                needed: read_cow(reader, field)?,
                had: read_cow(reader, field)?,
            })
        })?,
        payload: reader
            .option("payload", Reader::bytes)?
            .map(|payload| Cow::Owned(payload.to_vec())),
        fallbacks_apart: reader.bool("fallbacks_apart")?,
        stages: reader.u32("stages")?,
    })
}

pub(super) fn put_allocation_event(out: &mut Vec<u8>, event: &AllocationEvent<'_>) {
    put_long(out, event.kind as i64);
    put_str(out, &event.resource);
    put_str(out, &event.task_id);
    put_unsigned(out, event.attempt);
    put_unsigned(out, event.stage);
    put_unsigned(out, event.lane);
    put_time(out, event.at_ms);
    put_time(out, event.reserved_at_ms);
    put_reserved(out, event.held);
    put_unsigned(out, event.overrun_tokens);
    put_option(out, event.reason, put_reason);
}

pub(super) fn read_allocation_event(
    reader: &mut Reader<'_>,
) -> Result<AllocationEvent<'static>, DecodeError> {
    Ok(AllocationEvent {
        kind: reader.symbol("kind", &ALLOCATION_KINDS)?,
        resource: read_cow(reader, "resource")?,
        task_id: read_cow(reader, "task_id")?,
        attempt: reader.u32("attempt")?,
        stage: reader.u32("stage")?,
        lane: reader.u32("lane")?,
        at_ms: read_time(reader, "at_ms")?,
        reserved_at_ms: read_time(reader, "reserved_at_ms")?,
        held: read_reserved(reader, "held")?,
        overrun_tokens: reader.u64("overrun_tokens")?,
        reason: reader.option("reason", read_reason)?,
    })
}

pub(super) fn put_balance_event(out: &mut Vec<u8>, event: &BalanceEvent<'_>) {
    put_long(out, event.kind as i64);
    put_str(out, &event.resource);
    put_unsigned(out, event.lane);
    put_time(out, event.at_ms);
    put_unsigned(out, event.tasks);
    put_str(out, &event.detail);
}

pub(super) fn read_balance_event(
    reader: &mut Reader<'_>,
) -> Result<BalanceEvent<'static>, DecodeError> {
    Ok(BalanceEvent {
        kind: reader.symbol("kind", &BALANCE_KINDS)?,
        resource: read_cow(reader, "resource")?,
        lane: reader.u32("lane")?,
        at_ms: read_time(reader, "at_ms")?,
        tasks: reader.u64("tasks")?,
        detail: read_cow(reader, "detail")?,
    })
}

pub(super) fn put_load_snapshot(out: &mut Vec<u8>, snapshot: &LoadSnapshot<'_>) {
    put_unsigned(out, snapshot.lane);
    put_str(out, &snapshot.resource);
    put_time(out, snapshot.at_ms);
    put_long(out, snapshot.health as i64);
    put_array(out, snapshot.load.iter(), |out, load| {
        put_str(out, &load.dimension);
        put_unsigned(out, load.window_s);
        put_unsigned(out, load.limit);
        put_unsigned(out, load.units);
        put_unsigned(out, load.used);
        put_unsigned(out, load.used_max);
        put_double(out, load.price);
        put_unsigned(out, load.rights);
        put_long(out, load.incarnation);
        put_unsigned(out, load.waiting);
        put_unsigned(out, load.largest_waiting);
        put_option(out, load.waiting_since_ms, put_time);
        put_unsigned(out, load.waiting_critical);
        put_unsigned(out, load.waiting_interactive);
        put_long(out, load.largest_priority as i64);
        put_unsigned(out, load.pledged);
    });
    put_unsigned(out, snapshot.in_flight);
    put_unsigned(out, snapshot.backlog);
    put_option(out, snapshot.system.as_ref(), put_system_health);
}

fn put_system_health(out: &mut Vec<u8>, system: &SystemHealth) {
    put_long(out, system.status as i64);
    put_long(out, system.strategy as i64);
    put_time(out, system.strategy_since_ms);
    for count in [system.healthy, system.degraded, system.unhealthy, system.draining, system.full] {
        put_unsigned(out, count);
    }
    put_unsigned(out, system.backlog_critical);
    put_unsigned(out, system.backlog_interactive);
    put_unsigned(out, system.backlog_batch);
    out.push(u8::from(system.surge));
    for rate in [
        system.arrivals_per_s,
        system.arrivals_per_s_usual,
        system.arrivals_per_s_expected,
        system.routed_per_s,
        system.refused_per_s,
        system.shed_per_s,
    ] {
        put_double(out, rate);
    }
    put_array(out, system.tenants_surging.iter(), |out, tenant| put_str(out, tenant));
}

fn read_system_health(
    reader: &mut Reader<'_>,
    _field: &'static str,
) -> Result<SystemHealth, DecodeError> {
    Ok(SystemHealth {
        status: reader.symbol("system.status", &SystemStatus::ALL)?,
        strategy: reader.symbol("system.strategy", &Strategy::ALL)?,
        strategy_since_ms: read_time(reader, "system.strategy_since_ms")?,
        healthy: reader.u32("system.healthy")?,
        degraded: reader.u32("system.degraded")?,
        unhealthy: reader.u32("system.unhealthy")?,
        draining: reader.u32("system.draining")?,
        full: reader.u32("system.full")?,
        backlog_critical: reader.u64("system.backlog_critical")?,
        backlog_interactive: reader.u64("system.backlog_interactive")?,
        backlog_batch: reader.u64("system.backlog_batch")?,
        surge: reader.bool("system.surge")?,
        arrivals_per_s: reader.double("system.arrivals_per_s")?,
        arrivals_per_s_usual: reader.double("system.arrivals_per_s_usual")?,
        arrivals_per_s_expected: reader.double("system.arrivals_per_s_expected")?,
        routed_per_s: reader.double("system.routed_per_s")?,
        refused_per_s: reader.double("system.refused_per_s")?,
        shed_per_s: reader.double("system.shed_per_s")?,
        tenants_surging: reader.array("system.tenants_surging", Reader::string)?,
    })
}

pub(super) fn read_load_snapshot(
    reader: &mut Reader<'_>,
) -> Result<LoadSnapshot<'static>, DecodeError> {
    Ok(LoadSnapshot {
        lane: reader.u32("lane")?,
        resource: read_cow(reader, "resource")?,
        at_ms: read_time(reader, "at_ms")?,
        health: reader.symbol("health", &HEALTH_STATUSES)?,
        load: reader.array("load", |reader, _| {
            Ok(DimensionLoad {
                dimension: read_cow(reader, "load.dimension")?,
                window_s: reader.u32("load.window_s")?,
                limit: reader.u64("load.limit")?,
                units: reader.u64("load.units")?,
                used: reader.u64("load.used")?,
                used_max: reader.u64("load.used_max")?,
                price: reader.double("load.price")?,
                rights: reader.u32("load.rights")?,
                incarnation: reader.long("load.incarnation")?,
                waiting: reader.u64("load.waiting")?,
                largest_waiting: reader.u64("load.largest_waiting")?,
                waiting_since_ms: reader.option("load.waiting_since_ms", read_time)?,
                waiting_critical: reader.u64("load.waiting_critical")?,
                waiting_interactive: reader.u64("load.waiting_interactive")?,
                largest_priority: reader.symbol("load.largest_priority", &Priority::ALL)?,
                pledged: reader.u32("load.pledged")?,
            })
        })?,
        in_flight: reader.u64("in_flight")?,
        backlog: reader.u64("backlog")?,
        system: reader.option("system", read_system_health)?,
    })
}

pub(super) fn put_journal(out: &mut Vec<u8>, record: &JournalRecord) {
    put_unsigned(out, record.lane);
    put_unsigned(out, record.lanes);
    put_unsigned(out, record.epoch);
    put_unsigned(out, record.seq);
    put_str(out, &record.prev_hash);
    put_unsigned(out, record.engine_version);
    put_unsigned(out, record.fact_level);
    put_time(out, record.batch_time_ms);
    // All 64 bits count: the schema says that this is their two's complement.
    put_long(out, record.seed as i64);
    put_array(out, record.offsets.iter(), |out, range| {
        put_str(out, &range.topic);
        put_long(out, range.from);
        put_long(out, range.to);
    });
    put_array(out, record.reread.iter(), |out, offset| put_long(out, *offset));
    put_time(out, record.results_caught_up_at_ms);
    put_unsigned(out, record.fact_count);
    put_bytes(out, &record.facts);
    put_unsigned(out, record.in_flight);
    put_unsigned(out, record.backlog);
    put_str(out, &record.hash);
}

pub(super) fn read_journal(reader: &mut Reader<'_>) -> Result<JournalRecord, DecodeError> {
    Ok(JournalRecord {
        lane: reader.u32("lane")?,
        lanes: reader.u32("lanes")?,
        epoch: reader.u32("epoch")?,
        seq: reader.u64("seq")?,
        prev_hash: reader.string("prev_hash")?,
        engine_version: reader.u32("engine_version")?,
        fact_level: reader.u32("fact_level")?,
        batch_time_ms: read_time(reader, "batch_time_ms")?,
        seed: reader.long("seed")? as u64,
        offsets: reader.array("offsets", |reader, _| {
            Ok(OffsetRange {
                topic: reader.string("offsets.topic")?,
                from: reader.long("offsets.from")?,
                to: reader.long("offsets.to")?,
            })
        })?,
        reread: reader.array("reread", Reader::long)?,
        results_caught_up_at_ms: read_time(reader, "results_caught_up_at_ms")?,
        fact_count: reader.u32("fact_count")?,
        facts: reader.bytes("facts")?.to_vec(),
        in_flight: reader.u64("in_flight")?,
        backlog: reader.u64("backlog")?,
        hash: reader.string("hash")?,
    })
}

pub(super) fn put_operator_action(out: &mut Vec<u8>, action: &OperatorAction) {
    put_str(out, &action.action_id);
    put_str(out, &action.kind);
    put_str(out, &action.actor);
    put_str(out, &action.reason);
    put_time(out, action.at_ms);
    put_str(out, &action.detail);
}

pub(super) fn read_operator_action(reader: &mut Reader<'_>) -> Result<OperatorAction, DecodeError> {
    Ok(OperatorAction {
        action_id: reader.string("action_id")?,
        kind: reader.string("kind")?,
        actor: reader.string("actor")?,
        reason: reader.string("reason")?,
        at_ms: read_time(reader, "at_ms")?,
        detail: reader.string("detail")?,
    })
}
