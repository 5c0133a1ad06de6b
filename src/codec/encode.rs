//! Model → bytes, appended to a buffer of the caller's.

use crate::model::Topic;
use crate::model::allocation::AllocationEvent;
use crate::model::decision::RouteDecision;
use crate::model::event::{BalanceEvent, InboxMessage, LoadSnapshot, OperatorAction};
use crate::model::health::HealthEvent;
use crate::model::journal::JournalRecord;
use crate::model::resource::{FleetEntry, TENANT_KEY_PREFIX};
use crate::model::result::TaskResult;
use crate::model::task::Task;

use super::{Codec, OutputFormat, inbox, inputs, json, outputs, schema};

/// The first bytes of Avro single-object encoding.
pub(super) const SINGLE_OBJECT: [u8; 2] = [0xc3, 0x01];

impl Codec {
    /// Appends a record's value in the topic's format.
    #[inline]
    fn encode<T: ?Sized>(
        &self,
        topic: Topic,
        value: &T,
        out: &mut Vec<u8>,
        avro: impl FnOnce(&mut Vec<u8>, &T),
        json: impl FnOnce(&mut Vec<u8>, &T),
    ) {
        let format = self.format_of(topic);
        match (format, schema::of(topic), self.ids.get(&topic)) {
            (OutputFormat::Json, _, _) => return json(out, value),
            (OutputFormat::Confluent, _, Some(id)) => {
                out.push(0);
                out.extend_from_slice(&id.to_be_bytes());
            }
            (OutputFormat::Avro | OutputFormat::Confluent, schema, _) => {
                out.extend_from_slice(&SINGLE_OBJECT);
                let fingerprint = schema.map_or(0, |schema| schema.fingerprint);
                out.extend_from_slice(&fingerprint.to_le_bytes());
            }
        }
        avro(out, value);
    }

    pub fn encode_route_decision(&self, decision: &RouteDecision<'_>, out: &mut Vec<u8>) {
        let (avro, json) = (outputs::put_route_decision, json::put_route_decision);
        self.encode(Topic::RouteDecisions, decision, out, avro, json);
    }

    pub fn encode_allocation_event(&self, event: &AllocationEvent<'_>, out: &mut Vec<u8>) {
        let avro = outputs::put_allocation_event;
        self.encode(Topic::AllocationEvents, event, out, avro, json::put);
    }

    pub fn encode_balance_event(&self, event: &BalanceEvent<'_>, out: &mut Vec<u8>) {
        let avro = outputs::put_balance_event;
        self.encode(Topic::BalanceEvents, event, out, avro, json::put);
    }

    pub fn encode_load_snapshot(&self, snapshot: &LoadSnapshot<'_>, out: &mut Vec<u8>) {
        let avro = outputs::put_load_snapshot;
        self.encode(Topic::LoadSnapshots, snapshot, out, avro, json::put);
    }

    /// Always Avro single-object: recovery must not depend on a registry or a setting.
    pub fn encode_journal(&self, record: &JournalRecord, out: &mut Vec<u8>) {
        self.encode(Topic::Journal, record, out, outputs::put_journal, json::put);
    }

    /// Always Avro single-object, as the journal.
    pub fn encode_lane_inbox(&self, message: &InboxMessage, out: &mut Vec<u8>) {
        self.encode(Topic::LaneInbox, message, out, inbox::put_lane_inbox, json::put);
    }

    pub fn encode_task(&self, task: &Task, out: &mut Vec<u8>) {
        self.encode(Topic::Tasks, task, out, inputs::put_task, json::put_task);
    }

    pub fn encode_task_result(&self, result: &TaskResult, out: &mut Vec<u8>) {
        self.encode(Topic::TaskResults, result, out, inputs::put_task_result, json::put);
    }

    /// The key is [`health_key`].
    pub fn encode_health_event(&self, event: &HealthEvent, out: &mut Vec<u8>) {
        self.encode(Topic::HealthEvents, event, out, inputs::put_health_event, json::put);
    }

    pub fn encode_operator_action(&self, action: &OperatorAction, out: &mut Vec<u8>) {
        let avro = outputs::put_operator_action;
        self.encode(Topic::OperatorActions, action, out, avro, json::put);
    }

    /// Appends the value of a fleet record, whose key is [`fleet_key`]. `false`, and nothing
    /// appended: the entry is a removal, which is a record without a value.
    #[must_use]
    pub fn encode_fleet_entry(&self, entry: &FleetEntry, out: &mut Vec<u8>) -> bool {
        match entry {
            FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => false,
            FleetEntry::Resource(_) | FleetEntry::Tenant(_) => {
                let (avro, json) = (inputs::put_fleet_entry, json::put_fleet_entry);
                self.encode(Topic::Fleet, entry, out, avro, json);
                true
            }
        }
    }
}

/// The key of a fleet record.
pub fn fleet_key(entry: &FleetEntry) -> String {
    match entry {
        FleetEntry::Resource(resource) => resource.id.clone(),
        FleetEntry::ResourceRemoved(id) => id.clone(),
        FleetEntry::Tenant(tenant) => format!("{TENANT_KEY_PREFIX}{}", tenant.id),
        FleetEntry::TenantRemoved(id) => format!("{TENANT_KEY_PREFIX}{id}"),
    }
}

/// The key of a health event's record.
pub fn health_key(event: &HealthEvent) -> String {
    let HealthEvent { scope, id, source, .. } = event;
    let scope = scope.name();
    if source.is_empty() { format!("{scope}:{id}") } else { format!("{scope}:{id}#{source}") }
}
