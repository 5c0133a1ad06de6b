//! Avro forms of what Pointsman reads: the order of the calls is the order of the fields in
//! `schemas/*.avsc`.

use std::collections::BTreeMap;

use crate::model::health::{HealthEvent, HealthScope, HealthStatus, LoweredLimit};
use crate::model::resource::{
    Dimension, FleetEntry, Limit, ResourceSpec, Speed, TenantSpec, TokenPrices,
};
use crate::model::result::{RateLimit, ResultStatus, TaskResult};
use crate::model::rights::Counted;
use crate::model::task::{Objective, Priority, Requirements, Stage, Task, Weights};
use crate::model::time::Timestamp;

use super::binary::{
    Reader, put_array, put_bytes, put_double, put_float, put_long, put_option, put_str,
    put_unsigned,
};
use super::error::DecodeError;

/// The enums' values in the order of their symbols in the schemas; a test compares the two.
pub(super) const OBJECTIVES: [Objective; 4] =
    [Objective::Cheapest, Objective::Fastest, Objective::Best, Objective::Balanced];
pub(super) const RESULT_STATUSES: [ResultStatus; 7] = [
    ResultStatus::Started,
    ResultStatus::Heartbeat,
    ResultStatus::Succeeded,
    ResultStatus::Failed,
    ResultStatus::RateLimited,
    ResultStatus::Late,
    ResultStatus::Cancelled,
];
pub(super) const HEALTH_SCOPES: [HealthScope; 4] =
    [HealthScope::Resource, HealthScope::Provider, HealthScope::Region, HealthScope::FailureDomain];
pub(super) const HEALTH_STATUSES: [HealthStatus; 4] =
    [HealthStatus::Healthy, HealthStatus::Degraded, HealthStatus::Unhealthy, HealthStatus::Drain];
pub(super) const DIMENSIONS: [Dimension; 2] = [Dimension::Requests, Dimension::Tokens];

pub(super) fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    put_long(out, time.as_ms());
}

pub(super) fn put_strings(out: &mut Vec<u8>, strings: &[String]) {
    put_array(out, strings.iter(), |out, string| put_str(out, string));
}

pub(super) fn read_time(
    reader: &mut Reader<'_>,
    field: &'static str,
) -> Result<Timestamp, DecodeError> {
    reader.long(field).map(Timestamp::from_ms)
}

pub(super) fn put_task(out: &mut Vec<u8>, task: &Task) {
    put_str(out, &task.task_id);
    put_str(out, &task.tenant);
    put_str(out, &task.class);
    put_long(out, task.priority as i64);
    put_option(out, task.created_at_ms, put_time);
    put_option(out, task.deadline_ms, put_unsigned);
    put_unsigned(out, task.input_tokens);
    put_unsigned(out, task.max_output_tokens);
    let (objective, weights) = match task.objective {
        Objective::Cheapest => (0, None),
        Objective::Fastest => (1, None),
        Objective::Best => (2, None),
        Objective::Balanced => (3, None),
        Objective::Weights(weights) => (3, Some(weights)),
    };
    put_long(out, objective);
    put_option(out, weights, |out, weights| {
        put_double(out, weights.quality);
        put_double(out, weights.usd);
        put_double(out, weights.second);
    });
    put_option(out, task.requirements.min_quality, put_double);
    put_option(out, task.requirements.max_cost_usd, put_double);
    put_strings(out, &task.requirements.regions);
    put_strings(out, &task.requirements.modalities);
    put_strings(out, &task.requirements.models);
    put_option(out, task.session.as_deref(), put_str);
    put_array(out, task.features.iter(), |out, feature| put_float(out, *feature));
    put_array(out, task.stages.iter(), |out, stage| {
        put_str(out, &stage.name);
        put_str(out, &stage.class);
        put_unsigned(out, stage.input_tokens);
        put_unsigned(out, stage.max_output_tokens);
        put_strings(out, &stage.models);
    });
    put_option(out, task.payload.as_deref(), put_bytes);
}

pub(super) fn read_task(reader: &mut Reader<'_>) -> Result<Task, DecodeError> {
    let task_id = reader.string("task_id")?;
    let tenant = reader.string("tenant")?;
    let class = reader.string("class")?;
    let priority = reader.symbol("priority", &Priority::ALL)?;
    let created_at_ms = reader.option("created_at_ms", read_time)?;
    let deadline_ms = reader.option("deadline_ms", Reader::u64)?;
    let input_tokens = reader.u32("input_tokens")?;
    let max_output_tokens = reader.u32("max_output_tokens")?;
    let named = reader.symbol("objective", &OBJECTIVES)?;
    let weights = reader.option("objective_weights", |reader, field| {
        Ok(Weights {
            quality: reader.double(field)?,
            usd: reader.double(field)?,
            second: reader.double(field)?,
        })
    })?;
    let requirements = Requirements {
        min_quality: reader.option("requirements.min_quality", Reader::double)?,
        max_cost_usd: reader.option("requirements.max_cost_usd", Reader::double)?,
        regions: reader.array("requirements.regions", Reader::string)?,
        modalities: reader.array("requirements.modalities", Reader::string)?,
        models: reader.array("requirements.models", Reader::string)?,
    };
    let session = reader.option("session", Reader::string)?;
    let features = reader.array("features", Reader::float)?;
    let stages = reader.array("stages", |reader, _| {
        Ok(Stage {
            name: reader.string("stages.name")?,
            class: reader.string("stages.class")?,
            input_tokens: reader.u32("stages.input_tokens")?,
            max_output_tokens: reader.u32("stages.max_output_tokens")?,
            models: reader.array("stages.models", Reader::string)?,
        })
    })?;
    let payload = reader.option("payload", Reader::bytes)?.map(<[u8]>::to_vec);
    Ok(Task {
        task_id,
        tenant,
        class,
        priority,
        created_at_ms,
        deadline_ms,
        input_tokens,
        max_output_tokens,
        objective: weights.map_or(named, Objective::Weights),
        requirements,
        session,
        features,
        stages,
        payload,
    })
}

pub(super) fn put_task_result(out: &mut Vec<u8>, result: &TaskResult) {
    put_str(out, &result.task_id);
    put_unsigned(out, result.attempt);
    put_unsigned(out, result.stage);
    put_str(out, &result.resource);
    put_option(out, result.lane, put_unsigned);
    put_long(out, result.status as i64);
    put_option(out, result.input_tokens, put_unsigned);
    put_option(out, result.output_tokens, put_unsigned);
    put_option(out, result.time_to_first_token_ms, put_double);
    put_option(out, result.duration_ms, put_double);
    put_option(out, result.quality, put_double);
    put_option(out, result.retry_after_ms, put_unsigned);
    put_option(out, result.error.as_deref(), put_str);
    put_array(out, result.rate_limits.iter(), |out, said| {
        put_long(out, said.dimension as i64);
        put_option(out, said.window_s, put_unsigned);
        put_option(out, said.limit, put_unsigned);
        put_unsigned(out, said.remaining);
        put_option(out, said.reset_ms, put_unsigned);
    });
}

pub(super) fn read_task_result(reader: &mut Reader<'_>) -> Result<TaskResult, DecodeError> {
    Ok(TaskResult {
        task_id: reader.string("task_id")?,
        attempt: reader.u32("attempt")?,
        stage: reader.u32("stage")?,
        resource: reader.string("resource")?,
        lane: reader.option("lane", Reader::u32)?,
        status: reader.symbol("status", &RESULT_STATUSES)?,
        input_tokens: reader.option("input_tokens", Reader::u32)?,
        output_tokens: reader.option("output_tokens", Reader::u32)?,
        time_to_first_token_ms: reader.option("time_to_first_token_ms", Reader::double)?,
        duration_ms: reader.option("duration_ms", Reader::double)?,
        quality: reader.option("quality", Reader::double)?,
        retry_after_ms: reader.option("retry_after_ms", Reader::u64)?,
        error: reader.option("error", Reader::string)?,
        rate_limits: reader.array("rate_limits", |reader, _| {
            Ok(RateLimit {
                dimension: reader.symbol("rate_limits.dimension", &DIMENSIONS)?,
                window_s: reader.option("rate_limits.window_s", Reader::u32)?,
                limit: reader.option("rate_limits.limit", Reader::u64)?,
                remaining: reader.u64("rate_limits.remaining")?,
                reset_ms: reader.option("rate_limits.reset_ms", Reader::u64)?,
            })
        })?,
    })
}

pub(super) fn put_health_event(out: &mut Vec<u8>, event: &HealthEvent) {
    put_long(out, event.scope as i64);
    put_str(out, &event.id);
    put_long(out, event.status as i64);
    put_double(out, event.severity);
    put_str(out, &event.reason);
    put_option(out, event.at_ms, put_time);
    put_str(out, &event.source);
    put_array(out, event.limits.iter(), |out, lowered| {
        put_long(out, lowered.dimension as i64);
        put_unsigned(out, lowered.window_s);
        put_unsigned(out, lowered.limit);
        put_time(out, lowered.until_at_ms);
    });
}

pub(super) fn read_health_event(reader: &mut Reader<'_>) -> Result<HealthEvent, DecodeError> {
    Ok(HealthEvent {
        scope: reader.symbol("scope", &HEALTH_SCOPES)?,
        id: reader.string("id")?,
        status: reader.symbol("status", &HEALTH_STATUSES)?,
        severity: reader.double("severity")?,
        reason: reader.string("reason")?,
        at_ms: reader.option("at_ms", read_time)?,
        source: reader.string("source")?,
        limits: reader.array("limits", |reader, _| {
            Ok(LoweredLimit {
                dimension: reader.symbol("limits.dimension", &Counted::ALL)?,
                window_s: reader.u32("limits.window_s")?,
                limit: reader.u64("limits.limit")?,
                until_at_ms: read_time(reader, "limits.until_at_ms")?,
            })
        })?,
    })
}

/// A removal has no value: nothing is written for it.
pub(super) fn put_fleet_entry(out: &mut Vec<u8>, entry: &FleetEntry) {
    match entry {
        FleetEntry::Resource(resource) => {
            put_option(out, Some(resource), put_resource);
            put_option(out, None, put_tenant);
        }
        FleetEntry::Tenant(tenant) => {
            put_option(out, None, put_resource);
            put_option(out, Some(tenant), put_tenant);
        }
        FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => {}
    }
}

pub(super) fn read_fleet_entry(
    reader: &mut Reader<'_>,
) -> Result<(Option<ResourceSpec>, Option<TenantSpec>), DecodeError> {
    let resource = reader.option("resource", |reader, _| read_resource(reader))?;
    let tenant = reader.option("tenant", |reader, _| read_tenant(reader))?;
    Ok((resource, tenant))
}

fn put_limits(out: &mut Vec<u8>, limits: &[Limit]) {
    put_array(out, limits.iter(), |out, limit| {
        put_long(out, limit.dimension as i64);
        put_unsigned(out, limit.amount);
        put_unsigned(out, limit.window_s);
    });
}

fn read_limit(reader: &mut Reader<'_>, _: &'static str) -> Result<Limit, DecodeError> {
    Ok(Limit {
        dimension: reader.symbol("limits.dimension", &DIMENSIONS)?,
        amount: reader.u64("limits.amount")?,
        window_s: reader.u32("limits.window_s")?,
    })
}

fn put_resource(out: &mut Vec<u8>, resource: &ResourceSpec) {
    put_str(out, &resource.id);
    put_str(out, &resource.model);
    put_str(out, &resource.provider);
    put_str(out, &resource.region);
    put_str(out, &resource.failure_domain);
    put_str(out, &resource.pool);
    put_double(out, resource.usd_per_million_tokens.input);
    put_double(out, resource.usd_per_million_tokens.output);
    put_unsigned(out, resource.context_window);
    put_unsigned(out, resource.max_output_tokens);
    put_unsigned(out, resource.slots);
    put_limits(out, &resource.limits);
    put_double(out, resource.speed.time_to_first_token_ms);
    put_double(out, resource.speed.prefill_tokens_per_s);
    put_double(out, resource.speed.decode_tokens_per_s);
    put_array(out, resource.quality.iter(), |out, (class, quality)| {
        put_str(out, class);
        put_double(out, *quality);
    });
    put_strings(out, &resource.modalities);
    put_strings(out, &resource.tenants);
}

fn read_resource(reader: &mut Reader<'_>) -> Result<ResourceSpec, DecodeError> {
    Ok(ResourceSpec {
        id: reader.string("id")?,
        model: reader.string("model")?,
        provider: reader.string("provider")?,
        region: reader.string("region")?,
        failure_domain: reader.string("failure_domain")?,
        pool: reader.string("pool")?,
        usd_per_million_tokens: TokenPrices {
            input: reader.double("usd_per_million_tokens.input")?,
            output: reader.double("usd_per_million_tokens.output")?,
        },
        context_window: reader.u32("context_window")?,
        max_output_tokens: reader.u32("max_output_tokens")?,
        slots: reader.u32("slots")?,
        limits: reader.array("limits", read_limit)?,
        speed: Speed {
            time_to_first_token_ms: reader.double("speed.time_to_first_token_ms")?,
            prefill_tokens_per_s: reader.double("speed.prefill_tokens_per_s")?,
            decode_tokens_per_s: reader.double("speed.decode_tokens_per_s")?,
        },
        quality: {
            let mut quality = BTreeMap::new();
            reader.items("quality", |reader, _| {
                let class = reader.string("quality")?;
                quality.insert(class, reader.double("quality")?);
                Ok(())
            })?;
            quality
        },
        modalities: reader.array("modalities", Reader::string)?,
        tenants: reader.array("tenants", Reader::string)?,
    })
}

fn put_tenant(out: &mut Vec<u8>, tenant: &TenantSpec) {
    put_str(out, &tenant.id);
    put_double(out, tenant.weight);
    put_limits(out, &tenant.limits);
    put_option(out, tenant.burst, put_unsigned);
    put_option(out, tenant.usd_per_hour, put_double);
    put_double(out, tenant.reserved_share);
}

fn read_tenant(reader: &mut Reader<'_>) -> Result<TenantSpec, DecodeError> {
    Ok(TenantSpec {
        id: reader.string("id")?,
        weight: reader.double("weight")?,
        limits: reader.array("limits", read_limit)?,
        burst: reader.option("burst", Reader::u32)?,
        usd_per_hour: reader.option("usd_per_hour", Reader::double)?,
        reserved_share: reader.double("reserved_share")?,
    })
}
