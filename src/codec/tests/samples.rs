//! A strategy of each type, and examples of three. Values are within the model's bounds, so that decoding,
//! which checks them, gives them back.

mod examples;
mod health;
mod inbox;
mod system;

use std::borrow::Cow;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::codec::{Header, RawRecord, inputs, outputs};
use crate::model::Topic;
use crate::model::allocation::AllocationEvent;
use crate::model::decision::{
    ChainLink, ModelChain, Refusal, Reserved, RouteDecision, RouteMetrics,
};
use crate::model::event::{BalanceEvent, DimensionLoad, LoadSnapshot, OperatorAction};
use crate::model::journal::{JournalRecord, OffsetRange};
use crate::model::reason::RefusalReason;
use crate::model::resource::{
    Dimension, FleetEntry, Limit, ResourceSpec, Speed, TenantSpec, TokenPrices,
};
use crate::model::result::TaskResult;
use crate::model::task::{Objective, Priority, Requirements, Stage, Task, Weights};
use crate::model::time::Timestamp;

pub use examples::{decision_example, resource_example, task_example};
pub use health::health_event;
pub use inbox::lane_inbox;

/// A record around a value.
pub fn record<'a>(topic: Topic, key: Option<&'a [u8]>, value: Option<&'a [u8]>) -> RawRecord<'a> {
    const NONE: &[Header<'_>] = &[];
    RawRecord { topic, partition: 3, offset: 7, timestamp_ms: -1, key, value, headers: NONE }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 äß😀\"\\\\/:-]{1,20}"
}

fn cow() -> impl Strategy<Value = Cow<'static, str>> {
    name().prop_map(Cow::Owned)
}

fn time() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_ms)
}

fn number() -> impl Strategy<Value = f64> {
    prop::num::f64::POSITIVE | prop::num::f64::ZERO
}

fn share() -> impl Strategy<Value = f64> {
    0.0..=1.0
}

/// What an Avro long holds of an unsigned number.
fn count() -> impl Strategy<Value = u64> {
    0..=i64::MAX as u64
}

fn payload() -> impl Strategy<Value = Option<Vec<u8>>> {
    option::of(prop_oneof![
        vec(any::<u8>(), 0..40),
        "\\PC{0,20}".prop_map(String::into_bytes),
        select(vec![
            r#"{"messages":[]}"#,
            " [1]",
            "null",
            "\"text\"",
            "1e999",
            "{\"a\":\n1}",
            "[[[[1]]]]",
            "",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ])
}

fn objective() -> impl Strategy<Value = Objective> {
    let weights = (number(), number(), number())
        .prop_map(|(quality, usd, second)| Objective::Weights(Weights { quality, usd, second }));
    prop_oneof![select(&inputs::OBJECTIVES[..]), weights]
}

fn requirements() -> impl Strategy<Value = Requirements> {
    (
        option::of(share()),
        option::of(number()),
        vec(name(), 0..3),
        vec(name(), 0..3),
        vec(name(), 0..3),
    )
        .prop_map(|(min_quality, max_cost_usd, regions, modalities, models)| Requirements {
            min_quality,
            max_cost_usd,
            regions,
            modalities,
            models,
        })
}

fn stage() -> impl Strategy<Value = Stage> {
    (name(), name(), 0_u32..=100_000_000, 0_u32..=100_000_000, vec(name(), 0..3)).prop_map(
        |(name, class, input_tokens, max_output_tokens, models)| Stage {
            name,
            class,
            input_tokens,
            max_output_tokens,
            models,
        },
    )
}

pub fn task() -> impl Strategy<Value = Task> {
    let names = (name(), name(), name(), option::of(name()));
    let numbers = (
        option::of(time()),
        option::of(1..=i64::MAX as u64),
        0_u32..=100_000_000,
        0_u32..=100_000_000,
    );
    let features = vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..5);
    let rest = (objective(), requirements(), features, vec(stage(), 0..4), payload());
    (names, select(&Priority::ALL[..]), numbers, rest).prop_map(
        |(
            (task_id, tenant, class, session),
            priority,
            (created_at_ms, deadline_ms, input_tokens, max_output_tokens),
            (objective, requirements, features, stages, payload),
        )| Task {
            task_id,
            tenant,
            class,
            priority,
            created_at_ms,
            deadline_ms,
            input_tokens,
            max_output_tokens,
            objective,
            requirements,
            session,
            features,
            stages,
            payload,
        },
    )
}

pub fn task_result() -> impl Strategy<Value = TaskResult> {
    let tokens = || option::of(0_u32..=100_000_000);
    let resource = (name(), option::of(any::<u32>()));
    let first =
        (name(), 1..=u32::MAX, any::<u32>(), resource, select(&inputs::RESULT_STATUSES[..]));
    let times = (option::of(number()), option::of(number()), option::of(share()));
    let said = vec(health::rate_limit(), 0..3);
    (first, tokens(), tokens(), times, option::of(count()), option::of(name()), said).prop_map(
        |(
            (task_id, attempt, stage, (resource, lane), status),
            input_tokens,
            output_tokens,
            (time_to_first_token_ms, duration_ms, quality),
            retry_after_ms,
            error,
            rate_limits,
        )| TaskResult {
            task_id,
            attempt,
            stage,
            resource,
            lane,
            status,
            input_tokens,
            output_tokens,
            time_to_first_token_ms,
            duration_ms,
            quality,
            retry_after_ms,
            error,
            rate_limits,
        },
    )
}

fn limit() -> impl Strategy<Value = Limit> {
    (select(&inputs::DIMENSIONS[..]), 1_u64..=1_000_000_000_000, 1_u32..=86_400)
        .prop_map(|(dimension, amount, window_s)| Limit { dimension, amount, window_s })
}

fn resource() -> impl Strategy<Value = ResourceSpec> {
    let names = (name(), name(), name(), name(), name(), name());
    let prices = (number(), number()).prop_map(|(input, output)| TokenPrices { input, output });
    let speed = (number(), 0.001..1e9, 0.001..1e9).prop_map(|(first, prefill, decode)| Speed {
        time_to_first_token_ms: first,
        prefill_tokens_per_s: prefill,
        decode_tokens_per_s: decode,
    });
    let sizes = (1..=u32::MAX, 1..=u32::MAX, 1..=u32::MAX);
    let rest = (
        vec(limit(), 0..4),
        speed,
        btree_map(name(), share(), 0..3),
        vec(name(), 0..3),
        vec(name(), 0..3),
    );
    (names, prices, sizes, rest).prop_map(
        |(
            (id, model, provider, region, failure_domain, pool),
            usd_per_million_tokens,
            (context_window, max_output_tokens, slots),
            (limits, speed, quality, modalities, tenants),
        )| ResourceSpec {
            id,
            model,
            provider,
            region,
            failure_domain,
            pool,
            usd_per_million_tokens,
            context_window,
            max_output_tokens,
            slots,
            limits,
            speed,
            quality,
            modalities,
            tenants,
        },
    )
}

fn tenant() -> impl Strategy<Value = TenantSpec> {
    (
        name(),
        0.001..1e6,
        vec(limit(), 0..3),
        option::of(1..=u32::MAX),
        option::of(0.1..1e9),
        share(),
    )
        .prop_map(|(id, weight, mut limits, burst, usd_per_hour, reserved_share)| {
            // A burst needs a rate that refills it.
            if burst.is_some() {
                limits.push(Limit { dimension: Dimension::Requests, amount: 1, window_s: 1 });
            }
            TenantSpec { id, weight, limits, burst, usd_per_hour, reserved_share }
        })
}

pub fn fleet_entry() -> impl Strategy<Value = FleetEntry> {
    prop_oneof![
        resource().prop_map(FleetEntry::Resource),
        name().prop_map(FleetEntry::ResourceRemoved),
        tenant().prop_map(FleetEntry::Tenant),
        name().prop_map(FleetEntry::TenantRemoved),
    ]
    .prop_filter("an id is no tenant's key", |entry| match entry {
        FleetEntry::Resource(resource) => !resource.id.starts_with("tenant:"),
        FleetEntry::ResourceRemoved(id) => !id.starts_with("tenant:"),
        FleetEntry::Tenant(_) | FleetEntry::TenantRemoved(_) => true,
    })
}

fn reason() -> impl Strategy<Value = RefusalReason> {
    select(&RefusalReason::ALL[..])
}

fn reserved() -> impl Strategy<Value = Reserved> {
    (any::<u32>(), any::<u32>(), count()).prop_map(|(slots, requests, tokens)| Reserved {
        slots,
        requests,
        tokens,
    })
}

fn chain() -> impl Strategy<Value = ModelChain<'static>> {
    let link = (any::<u32>(), cow(), cow()).prop_map(|(stage, resource, model)| ChainLink {
        stage,
        resource,
        model,
    });
    vec(link, 0..3)
}

pub fn route_decision() -> impl Strategy<Value = RouteDecision<'static>> {
    let ids = (cow(), cow(), any::<u32>(), any::<u32>(), any::<u32>());
    let what = (
        select(&outputs::OUTCOMES[..]),
        option::of(reason()),
        cow(),
        cow(),
        select(&Priority::ALL[..]),
    );
    let metrics = (number(), number(), number(), number(), number()).prop_map(
        |(quality, cost_usd, latency_ms, utility, price)| RouteMetrics {
            propensity: quality,
            quality,
            cost_usd,
            latency_ms,
            utility: -utility,
            price,
        },
    );
    let refusal = (cow(), reason(), cow(), cow())
        .prop_map(|(resource, rule, needed, had)| Refusal { resource, rule, needed, had });
    let chains = (chain(), vec(chain(), 0..3), option::of(metrics), vec(refusal, 0..3));
    let times = (time(), option::of(time()), option::of(time()));
    let rest = (option::of(reserved()), any::<u32>(), any::<u32>(), any::<i64>(), payload());
    (ids, what, chains, times, rest).prop_map(
        |(
            (decision_id, task_id, attempt, stage, lane),
            (outcome, reason, tenant, class, priority),
            (primary, fallbacks, metrics, refusals),
            (decided_at_ms, start_by_at_ms, lease_until_at_ms),
            (reserved, input_tokens, max_output_tokens, health_offset, payload),
        )| RouteDecision {
            decision_id,
            task_id,
            attempt,
            stage,
            lane,
            outcome,
            reason,
            tenant,
            class,
            priority,
            primary,
            fallbacks,
            metrics,
            decided_at_ms,
            start_by_at_ms,
            lease_until_at_ms,
            reserved,
            input_tokens,
            max_output_tokens,
            health_offset,
            refusals,
            payload: payload.map(Cow::Owned),
            fallbacks_apart: attempt % 2 == 0,
            stages: attempt,
        },
    )
}

pub fn allocation_event() -> impl Strategy<Value = AllocationEvent<'static>> {
    let ids = (select(&outputs::ALLOCATION_KINDS[..]), cow(), cow());
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), time(), time());
    (ids, numbers, reserved(), count(), option::of(reason())).prop_map(
        |(
            (kind, resource, task_id),
            (attempt, stage, lane, at_ms, reserved_at_ms),
            held,
            overrun_tokens,
            reason,
        )| AllocationEvent {
            kind,
            resource,
            task_id,
            attempt,
            stage,
            lane,
            at_ms,
            reserved_at_ms,
            held,
            overrun_tokens,
            reason,
        },
    )
}

pub fn balance_event() -> impl Strategy<Value = BalanceEvent<'static>> {
    (select(&outputs::BALANCE_KINDS[..]), cow(), any::<u32>(), time(), count(), cow()).prop_map(
        |(kind, resource, lane, at_ms, tasks, detail)| BalanceEvent {
            kind,
            resource,
            lane,
            at_ms,
            tasks,
            detail,
        },
    )
}

pub fn load_snapshot() -> impl Strategy<Value = LoadSnapshot<'static>> {
    let held = (any::<u32>(), any::<i64>(), count(), count(), option::of(time()));
    let urgent = (count(), count(), select(&Priority::ALL[..]), any::<u32>());
    let more = (held, urgent);
    let load = (cow(), any::<u32>(), count(), count(), count(), count(), number(), more).prop_map(
        |(dimension, window_s, limit, units, used, used_max, price, (held, urgent))| {
            DimensionLoad {
                dimension,
                window_s,
                limit,
                units,
                used,
                used_max,
                price,
                rights: held.0,
                incarnation: held.1,
                waiting: held.2,
                largest_waiting: held.3,
                waiting_since_ms: held.4,
                waiting_critical: urgent.0,
                waiting_interactive: urgent.1,
                largest_priority: urgent.2,
                pledged: urgent.3,
            }
        },
    );
    let health = select(&inputs::HEALTH_STATUSES[..]);
    let system = option::of(system::system_health());
    (any::<u32>(), cow(), time(), health, vec(load, 0..4), count(), count(), system).prop_map(
        |(lane, resource, at_ms, health, load, in_flight, backlog, system)| LoadSnapshot {
            lane,
            resource,
            at_ms,
            health,
            load,
            in_flight,
            backlog,
            system,
        },
    )
}

pub fn operator_action() -> impl Strategy<Value = OperatorAction> {
    (name(), name(), name(), name(), time(), name()).prop_map(
        |(action_id, kind, actor, reason, at_ms, detail)| OperatorAction {
            action_id,
            kind,
            actor,
            reason,
            at_ms,
            detail,
        },
    )
}

pub fn journal() -> impl Strategy<Value = JournalRecord> {
    let header = (any::<u32>(), any::<u32>(), any::<u32>(), count(), name());
    let versions = (any::<u32>(), any::<u32>(), time(), any::<u64>());
    let offsets = (name(), any::<i64>(), any::<i64>()).prop_map(|(topic, from, to)| OffsetRange {
        topic,
        from,
        to,
    });
    let inputs = (vec(offsets, 0..3), vec(any::<i64>(), 0..3), time());
    let facts = (any::<u32>(), vec(any::<u8>(), 0..50), count(), count(), name());
    (header, versions, inputs, facts).prop_map(
        |(
            (lane, lanes, epoch, seq, prev_hash),
            (engine_version, fact_level, batch_time_ms, seed),
            (offsets, reread, results_caught_up_at_ms),
            (fact_count, facts, in_flight, backlog, hash),
        )| JournalRecord {
            lane,
            lanes,
            epoch,
            seq,
            prev_hash,
            engine_version,
            fact_level,
            batch_time_ms,
            seed,
            offsets,
            reread,
            results_caught_up_at_ms,
            fact_count,
            facts,
            in_flight,
            backlog,
            hash,
        },
    )
}
