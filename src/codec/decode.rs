//! Bytes → model: which framing a record has, its value, and the checks of the model.

use crate::model::Topic;
use crate::model::allocation::AllocationEvent;
use crate::model::decision::RouteDecision;
use crate::model::event::{BalanceEvent, InboxBody, InboxMessage, LoadSnapshot, OperatorAction};
use crate::model::health::{BREAKER_SOURCE, HEADROOM_SOURCE, HealthEvent, HealthStatus};
use crate::model::invalid::{Invalid, NAME_BYTES_MAX};
use crate::model::journal::JournalRecord;
use crate::model::resource::{FleetEntry, ResourceSpec, TENANT_KEY_PREFIX, TenantSpec};
use crate::model::result::TaskResult;
use crate::model::task::Task;
use crate::model::time::Timestamp;

use super::binary::Reader;
use super::encode::{SINGLE_OBJECT, fleet_key};
use super::headers::CONTENT_TYPE;
use super::{
    Codec, DecodeError, Header, RawRecord, WriterId, inbox, inputs, json, outputs, schema,
};

/// Bound of an input record's value: twice the largest payload, so that everything else fits
/// beside it, and what decoding allocates stays within a few times of this.
pub const RECORD_BYTES_MAX: usize = 2 << 20;

/// How a value is framed, and its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing<'a> {
    Json(&'a [u8]),
    SingleObject { fingerprint: u64, body: &'a [u8] },
    Confluent { id: u32, body: &'a [u8] },
}

/// The framing of a record's value, by its `content-type` and first bytes.
pub(super) fn framing<'a>(record: &RawRecord<'a>) -> Result<Framing<'a>, DecodeError> {
    let value = record.value.ok_or(DecodeError::NoValue)?;
    match value {
        [b'{', ..] => Ok(Framing::Json(value)),
        _ if says_json(record.headers) => Ok(Framing::Json(value)),
        [first, second, rest @ ..] if [*first, *second] == SINGLE_OBJECT => {
            let (fingerprint, body) = rest.split_first_chunk().ok_or(DecodeError::Header)?;
            Ok(Framing::SingleObject { fingerprint: u64::from_le_bytes(*fingerprint), body })
        }
        [0, rest @ ..] => {
            let (id, body) = rest.split_first_chunk().ok_or(DecodeError::Header)?;
            Ok(Framing::Confluent { id: u32::from_be_bytes(*id), body })
        }
        [] => Err(DecodeError::UnknownFormat("nothing".to_owned())),
        other => {
            let first: Vec<String> =
                other.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            Err(DecodeError::UnknownFormat(first.join(" ")))
        }
    }
}

fn says_json(headers: &[Header<'_>]) -> bool {
    let value = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(CONTENT_TYPE))
        .and_then(|header| header.value);
    // Parameters may follow: `application/json; charset=utf-8`.
    value.is_some_and(|value| {
        let kind = value.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"application/json")
    })
}

/// An Avro datum, all of it.
#[inline]
fn whole<T>(
    body: &[u8],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    let mut reader = Reader::new(body);
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

impl Codec {
    /// Decodes a value without checking it.
    #[inline]
    fn parse<T>(
        &self,
        topic: Topic,
        record: &RawRecord<'_>,
        avro: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
        json: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let framing = framing(record)?;
        let bytes = record.value.map_or(0, <[u8]>::len);
        if bytes > RECORD_BYTES_MAX && topic.dlq().is_some() {
            return Err(DecodeError::TooLarge { bytes, max: RECORD_BYTES_MAX });
        }
        let own = schema::of(topic).map(|schema| schema.fingerprint);
        match framing {
            Framing::Json(body) => json(body),
            Framing::SingleObject { fingerprint, body } if Some(fingerprint) == own => {
                whole(body, avro)
            }
            Framing::SingleObject { fingerprint, body } => {
                self.resolve(WriterId::Fingerprint(fingerprint), topic, body, avro)
            }
            Framing::Confluent { id, body } => {
                self.resolve(WriterId::Registry(id), topic, body, avro)
            }
        }
    }

    /// Decodes a datum of another writer's schema.
    fn resolve<T>(
        &self,
        id: WriterId,
        topic: Topic,
        body: &[u8],
        avro: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        match self.writers.get(id)?.resolve(id, topic, body)? {
            None => whole(body, avro),
            Some(resolved) => whole(&resolved, avro),
        }
    }

    /// A task of `tasks`. `created_at_ms` is the record's timestamp where the task says nothing.
    pub fn decode_task(&self, record: &RawRecord<'_>) -> Result<Task, DecodeError> {
        let mut task = self.parse(Topic::Tasks, record, inputs::read_task, json::read_task)?;
        if task.created_at_ms.is_none() && record.timestamp_ms >= 0 {
            task.created_at_ms = Some(Timestamp::from_ms(record.timestamp_ms));
        }
        task.validate().map_err(DecodeError::invalid)?;
        Ok(task)
    }

    pub fn decode_task_result(&self, record: &RawRecord<'_>) -> Result<TaskResult, DecodeError> {
        let result =
            self.parse(Topic::TaskResults, record, inputs::read_task_result, json::read)?;
        result.validate().map_err(DecodeError::invalid)?;
        Ok(result)
    }

    pub fn decode_lane_inbox(&self, record: &RawRecord<'_>) -> Result<InboxMessage, DecodeError> {
        let message = self.parse(Topic::LaneInbox, record, inbox::read_lane_inbox, json::read)?;
        if let InboxBody::Result(result) = &message.body {
            result.validate().map_err(DecodeError::invalid)?;
        }
        Ok(message)
    }

    /// A record of `health-events`. One without a value takes back what its key, `scope:id`, was
    /// said about: it is healthy.
    pub fn decode_health_event(&self, record: &RawRecord<'_>) -> Result<HealthEvent, DecodeError> {
        if record.value.is_none() {
            return healthy_again(record);
        }
        let event =
            self.parse(Topic::HealthEvents, record, inputs::read_health_event, json::read)?;
        event.validate().map_err(DecodeError::invalid)?;
        Ok(event)
    }

    /// A record of `fleet`: its key says what it is about, and no value removes it. Every
    /// violation is in the error. A fleet record in JSON follows the rules of a fleet file:
    /// an unknown key is an error.
    pub fn decode_fleet_entry(&self, record: &RawRecord<'_>) -> Result<FleetEntry, DecodeError> {
        let key = fleet_record_key(record)?;
        if record.value.is_none() {
            return Ok(match key.strip_prefix(TENANT_KEY_PREFIX) {
                Some(tenant) => FleetEntry::TenantRemoved(tenant.to_owned()),
                None => FleetEntry::ResourceRemoved(key.to_owned()),
            });
        }
        let entry = self.parse_fleet_entry(record)?;
        let expected = fleet_key(&entry);
        if expected != key {
            let key = Invalid::new("key", key, "").given;
            return Err(DecodeError::Key(format!("`{key}` holds the entry of `{expected}`")));
        }
        let violations = match &entry {
            FleetEntry::Resource(resource) => resource.validate(),
            FleetEntry::Tenant(tenant) => tenant.validate(),
            FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => Vec::new(),
        };
        if violations.is_empty() { Ok(entry) } else { Err(DecodeError::Invalid(violations.into())) }
    }

    fn parse_fleet_entry(&self, record: &RawRecord<'_>) -> Result<FleetEntry, DecodeError> {
        let halves: (Option<ResourceSpec>, Option<TenantSpec>) =
            self.parse(Topic::Fleet, record, inputs::read_fleet_entry, json::read_fleet_entry)?;
        match halves {
            (Some(resource), None) => Ok(FleetEntry::Resource(resource)),
            (None, Some(tenant)) => Ok(FleetEntry::Tenant(tenant)),
            (None, None) | (Some(_), Some(_)) => Err(DecodeError::invalid(Invalid::new(
                "resource, tenant",
                if halves.0.is_some() { "both" } else { "neither" },
                "exactly one of the two",
            ))),
        }
    }

    pub fn decode_route_decision(
        &self,
        record: &RawRecord<'_>,
    ) -> Result<RouteDecision<'static>, DecodeError> {
        let (avro, json) = (outputs::read_route_decision, json::read_route_decision);
        self.parse(Topic::RouteDecisions, record, avro, json)
    }

    pub fn decode_allocation_event(
        &self,
        record: &RawRecord<'_>,
    ) -> Result<AllocationEvent<'static>, DecodeError> {
        let (avro, json) = (outputs::read_allocation_event, json::read_allocation_event);
        self.parse(Topic::AllocationEvents, record, avro, json)
    }

    pub fn decode_balance_event(
        &self,
        record: &RawRecord<'_>,
    ) -> Result<BalanceEvent<'static>, DecodeError> {
        let (avro, json) = (outputs::read_balance_event, json::read_balance_event);
        self.parse(Topic::BalanceEvents, record, avro, json)
    }

    pub fn decode_load_snapshot(
        &self,
        record: &RawRecord<'_>,
    ) -> Result<LoadSnapshot<'static>, DecodeError> {
        let (avro, json) = (outputs::read_load_snapshot, json::read_load_snapshot);
        self.parse(Topic::LoadSnapshots, record, avro, json)
    }

    pub fn decode_operator_action(
        &self,
        record: &RawRecord<'_>,
    ) -> Result<OperatorAction, DecodeError> {
        self.parse(Topic::OperatorActions, record, outputs::read_operator_action, json::read)
    }

    /// A journal record's value, which is always Avro single-object.
    pub fn decode_journal(&self, value: &[u8]) -> Result<JournalRecord, DecodeError> {
        let record = RawRecord {
            topic: Topic::Journal,
            partition: 0,
            offset: 0,
            timestamp_ms: -1,
            key: None,
            value: Some(value),
            headers: &[],
        };
        self.parse(Topic::Journal, &record, outputs::read_journal, json::read)
    }

    /// What a record of any topic says, for people: not checked against the model's bounds. A
    /// removal is null. A dead letter is shown as what it was meant to be.
    pub fn to_json(&self, record: &RawRecord<'_>) -> Result<serde_json::Value, DecodeError> {
        if record.value.is_none() {
            return Ok(serde_json::Value::Null);
        }
        if record.topic == Topic::Snapshots {
            return shown_snapshot(record);
        }
        if let Framing::Json(body) = framing(record)? {
            return json::shown(body);
        }
        let mut out = Vec::new();
        match record.topic {
            Topic::Tasks | Topic::TasksDlq => {
                let task = self.parse(Topic::Tasks, record, inputs::read_task, json::read_task)?;
                json::put_task(&mut out, &task);
            }
            Topic::TaskResults | Topic::TaskResultsDlq => {
                let read = inputs::read_task_result;
                json::put(&mut out, &self.parse(Topic::TaskResults, record, read, json::read)?);
            }
            Topic::LaneInbox | Topic::LaneInboxDlq => {
                let read = inbox::read_lane_inbox;
                json::put(&mut out, &self.parse(Topic::LaneInbox, record, read, json::read)?);
            }
            Topic::HealthEvents | Topic::HealthEventsDlq => {
                let read = inputs::read_health_event;
                json::put(&mut out, &self.parse(Topic::HealthEvents, record, read, json::read)?);
            }
            Topic::Fleet | Topic::FleetDlq => {
                json::put_fleet_entry(&mut out, &self.parse_fleet_entry(record)?);
            }
            Topic::RouteDecisions => {
                json::put_route_decision(&mut out, &self.decode_route_decision(record)?);
            }
            Topic::AllocationEvents => json::put(&mut out, &self.decode_allocation_event(record)?),
            Topic::BalanceEvents => json::put(&mut out, &self.decode_balance_event(record)?),
            Topic::LoadSnapshots => json::put(&mut out, &self.decode_load_snapshot(record)?),
            Topic::OperatorActions => json::put(&mut out, &self.decode_operator_action(record)?),
            // Shown above.
            Topic::Snapshots => {}
            Topic::Journal => json::put_journal(
                &mut out,
                &self.parse(Topic::Journal, record, outputs::read_journal, json::read)?,
            ),
        }
        json::shown(&out)
    }
}

/// A manifest is JSON; a chunk is only counted.
fn shown_snapshot(record: &RawRecord<'_>) -> Result<serde_json::Value, DecodeError> {
    let value = record.value.unwrap_or_default();
    if record.key.is_some_and(|key| key.ends_with(b"/manifest")) {
        return json::shown(value);
    }
    json::shown(format!("{{\"bytes\":{}}}", value.len()).as_bytes())
}

fn healthy_again(record: &RawRecord<'_>) -> Result<HealthEvent, DecodeError> {
    let key = record.key.and_then(|key| std::str::from_utf8(key).ok()).unwrap_or_default();
    let mut scopes = inputs::HEALTH_SCOPES.iter();
    let named = scopes.find_map(|scope| {
        let id = key.strip_prefix(scope.name())?.strip_prefix(':')?;
        // An id may have the sign in it, so only a lane's name parts.
        let said = id.rsplit_once('#').filter(|(_, source)| {
            source.starts_with(BREAKER_SOURCE) || source.starts_with(HEADROOM_SOURCE)
        });
        let (id, source) = said.unwrap_or((id, ""));
        Some((*scope, id.to_owned(), source.to_owned()))
    });
    let Some((scope, id, source)) = named else {
        return Err(DecodeError::Key(format!("`{key}` is not allowed; allowed: scope:id")));
    };
    let event = HealthEvent {
        scope,
        id,
        source,
        status: HealthStatus::Healthy,
        severity: 0.0,
        reason: String::new(),
        at_ms: None,
        limits: Vec::new(),
    };
    event.validate().map_err(DecodeError::invalid)?;
    Ok(event)
}

fn fleet_record_key<'a>(record: &RawRecord<'a>) -> Result<&'a str, DecodeError> {
    const ALLOWED: &str = "a resource's id, or `tenant:` and a tenant's id";
    let key = record.key.ok_or_else(|| DecodeError::Key(format!("none; allowed: {ALLOWED}")))?;
    let key = std::str::from_utf8(key)
        .map_err(|_| DecodeError::Key(format!("not UTF-8; allowed: {ALLOWED}")))?;
    let id = key.strip_prefix(TENANT_KEY_PREFIX).unwrap_or(key);
    if id.is_empty() || id.len() > NAME_BYTES_MAX {
        let given = id.len();
        return Err(DecodeError::Key(format!(
            "an id of {given} bytes; allowed: {ALLOWED} of 1 to {NAME_BYTES_MAX} bytes"
        )));
    }
    Ok(key)
}
