//! JSON forms: the names of `formats.md`, which are those of the model's fields.
//!
//! A payload is opaque bytes. Where it is JSON it stands in the document as it is; otherwise
//! `payload_encoding` says how it stands in a string: `text` or `base64`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::model::allocation::AllocationEvent;
use crate::model::decision::{ChainLink, Refusal, RouteDecision};
use crate::model::event::{BalanceEvent, DimensionLoad, LoadSnapshot};
use crate::model::journal::JournalRecord;
use crate::model::resource::{FleetEntry, ResourceSpec, TenantSpec};
use crate::model::task::Task;

use super::error::DecodeError;

/// Reads one document. Unknown fields are ignored where the type says nothing else.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, &error))
}

/// The same error with the path of the field, which serde_json alone does not know. Only what
/// cannot be used is read twice.
#[cold]
fn explain<T: DeserializeOwned>(bytes: &[u8], error: &serde_json::Error) -> DecodeError {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        // A lone `?` is a path that could not be told.
        Err(error) if !matches!(error.path().to_string().as_str(), "." | "?") => {
            DecodeError::Json(format!("{}: {}", error.path(), error.inner()))
        }
        Ok(_) | Err(_) => DecodeError::Json(error.to_string()),
    }
}

#[derive(Deserialize)]
struct PayloadFields<'a> {
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    payload_encoding: Option<PayloadEncoding>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum PayloadEncoding {
    Text,
    Base64,
}

fn read_payload(bytes: &[u8]) -> Result<Option<Vec<u8>>, DecodeError> {
    let json = |error: serde_json::Error| DecodeError::Json(format!("payload: {error}"));
    let fields: PayloadFields<'_> = serde_json::from_slice(bytes).map_err(json)?;
    let Some(payload) = fields.payload else {
        return Ok(None);
    };
    let bytes = match fields.payload_encoding {
        None => payload.get().as_bytes().to_vec(),
        Some(PayloadEncoding::Text) => {
            serde_json::from_str::<String>(payload.get()).map_err(json)?.into_bytes()
        }
        Some(PayloadEncoding::Base64) => {
            let text: Cow<'_, str> = serde_json::from_str(payload.get()).map_err(json)?;
            STANDARD
                .decode(text.as_bytes())
                .map_err(|error| DecodeError::Json(format!("payload: {error}")))?
        }
    };
    Ok(Some(bytes))
}

const OBJECTIVES_ALLOWED: &str = "not understood; allowed: cheapest, fastest, best, balanced, or \
     an object of the numbers quality, usd and second";

pub(super) fn read_task(bytes: &[u8]) -> Result<Task, DecodeError> {
    let mut task: Task = read(bytes).map_err(|error| {
        // serde's text says which of our types did not fit, not what would.
        if matches!(&error, DecodeError::Json(text) if text.starts_with("objective: ")) {
            return DecodeError::Json(format!("objective: {OBJECTIVES_ALLOWED}"));
        }
        error
    })?;
    task.payload = read_payload(bytes)?;
    Ok(task)
}

/// A fleet entry's two halves; exactly one of them should be there.
#[derive(Deserialize)]
struct FleetFields {
    #[serde(default)]
    resource: Option<ResourceSpec>,
    #[serde(default)]
    tenant: Option<TenantSpec>,
}

pub(super) fn read_fleet_entry(
    bytes: &[u8],
) -> Result<(Option<ResourceSpec>, Option<TenantSpec>), DecodeError> {
    read::<FleetFields>(bytes).map(|fields| (fields.resource, fields.tenant))
}

/// Appends a value as one line. Serialising plain data into memory cannot fail.
pub(super) fn put(out: &mut Vec<u8>, value: &impl Serialize) {
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "plain data serialises: {written:?}");
}

/// A payload that is nested deeper goes as text: many JSON parsers refuse a document that is too
/// deep, and a producer must not be able to make a decision unreadable for its workers.
const EMBEDDED_DEPTH_MAX: usize = 64;

/// How deep a valid JSON document is nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A document for people: a field that a JSON value cannot hold (a number out of range, a payload
/// nested too deep) is shown as its text.
pub(super) fn shown(bytes: &[u8]) -> Result<Value, DecodeError> {
    if let Ok(value) = serde_json::from_slice(bytes) {
        return Ok(value);
    }
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = borrowed(bytes)?;
    let shown = fields.into_iter().map(|(name, field)| {
        let value = serde_json::from_str(field.get());
        (name.into_owned(), value.unwrap_or_else(|_| Value::from(field.get())))
    });
    Ok(Value::Object(shown.collect()))
}

/// Appends a document with the payload as its last field.
fn put_with_payload(out: &mut Vec<u8>, value: &impl Serialize, payload: Option<&[u8]>) {
    put(out, value);
    // The document is an object with fields: reopen it.
    out.pop();
    out.extend_from_slice(b",\"payload\":");
    let Some(payload) = payload else {
        out.extend_from_slice(b"null}");
        return;
    };
    // A raw value loses white space at its ends: such a payload goes as text, to stay what it is.
    let raw: Result<&RawValue, _> = serde_json::from_slice(payload);
    match (raw, std::str::from_utf8(payload)) {
        (Ok(raw), _)
            if raw.get().len() == payload.len()
                && raw.get() != "null"
                && depth(payload) <= EMBEDDED_DEPTH_MAX =>
        {
            out.extend_from_slice(payload);
        }
        (Ok(_) | Err(_), Ok(text)) => {
            put(out, &text);
            out.extend_from_slice(b",\"payload_encoding\":\"text\"");
        }
        (Ok(_) | Err(_), Err(_)) => {
            put(out, &STANDARD.encode(payload));
            out.extend_from_slice(b",\"payload_encoding\":\"base64\"");
        }
    }
    out.push(b'}');
}

pub(super) fn put_task(out: &mut Vec<u8>, task: &Task) {
    put_with_payload(out, task, task.payload.as_deref());
}

pub(super) fn put_route_decision(out: &mut Vec<u8>, decision: &RouteDecision<'_>) {
    put_with_payload(out, decision, decision.payload.as_deref());
}

/// A removal has no value: nothing is written for it.
pub(super) fn put_fleet_entry(out: &mut Vec<u8>, entry: &FleetEntry) {
    match entry {
        FleetEntry::Resource(_) | FleetEntry::Tenant(_) => put(out, entry),
        FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => {}
    }
}

fn own(text: Cow<'_, str>) -> Cow<'static, str> {
    Cow::Owned(text.into_owned())
}

fn own_link(link: ChainLink<'_>) -> ChainLink<'static> {
    ChainLink { stage: link.stage, resource: own(link.resource), model: own(link.model) }
}

fn borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(bytes).map_err(|error| DecodeError::Json(error.to_string()))
}

pub(super) fn read_route_decision(bytes: &[u8]) -> Result<RouteDecision<'static>, DecodeError> {
    let decision: RouteDecision<'_> = borrowed(bytes)?;
    let own_chain = |chain: Vec<ChainLink<'_>>| chain.into_iter().map(own_link).collect();
    Ok(RouteDecision {
        decision_id: own(decision.decision_id),
        task_id: own(decision.task_id),
        attempt: decision.attempt,
        stage: decision.stage,
        lane: decision.lane,
        outcome: decision.outcome,
        reason: decision.reason,
        tenant: own(decision.tenant),
        class: own(decision.class),
        priority: decision.priority,
        primary: own_chain(decision.primary),
        fallbacks: decision.fallbacks.into_iter().map(own_chain).collect(),
        metrics: decision.metrics,
        decided_at_ms: decision.decided_at_ms,
        start_by_at_ms: decision.start_by_at_ms,
        lease_until_at_ms: decision.lease_until_at_ms,
        reserved: decision.reserved,
        input_tokens: decision.input_tokens,
        max_output_tokens: decision.max_output_tokens,
        health_offset: decision.health_offset,
        refusals: decision
            .refusals
            .into_iter()
            .map(|refusal| Refusal {
                resource: own(refusal.resource),
                rule: refusal.rule,
                needed: own(refusal.needed),
                had: own(refusal.had),
            })
            .collect(),
        payload: read_payload(bytes)?.map(Cow::Owned),
        fallbacks_apart: decision.fallbacks_apart,
        stages: decision.stages,
    })
}

pub(super) fn read_allocation_event(bytes: &[u8]) -> Result<AllocationEvent<'static>, DecodeError> {
    let event: AllocationEvent<'_> = borrowed(bytes)?;
    Ok(AllocationEvent { resource: own(event.resource), task_id: own(event.task_id), ..event })
}

pub(super) fn read_balance_event(bytes: &[u8]) -> Result<BalanceEvent<'static>, DecodeError> {
    let event: BalanceEvent<'_> = borrowed(bytes)?;
    Ok(BalanceEvent { resource: own(event.resource), detail: own(event.detail), ..event })
}

pub(super) fn read_load_snapshot(bytes: &[u8]) -> Result<LoadSnapshot<'static>, DecodeError> {
    let snapshot: LoadSnapshot<'_> = borrowed(bytes)?;
    let own_load =
        |load: DimensionLoad<'_>| DimensionLoad { dimension: own(load.dimension), ..load };
    Ok(LoadSnapshot {
        lane: snapshot.lane,
        resource: own(snapshot.resource),
        at_ms: snapshot.at_ms,
        health: snapshot.health,
        load: snapshot.load.into_iter().map(own_load).collect(),
        in_flight: snapshot.in_flight,
        backlog: snapshot.backlog,
        system: snapshot.system,
    })
}

/// A journal record for people: facts are bytes, shown as base64.
pub(super) fn put_journal(out: &mut Vec<u8>, record: &JournalRecord) {
    let start = out.len();
    put(out, record);
    let shown: Result<Value, _> = serde_json::from_slice(&out[start..]);
    let Ok(mut shown) = shown else { return };
    shown["facts"] = STANDARD.encode(&record.facts).into();
    out.truncate(start);
    put(out, &shown);
}
