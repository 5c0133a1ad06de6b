//! What a fleet file changes about the published fleet. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::codec::encode::fleet_key;
use crate::model::resource::{FleetEntry, FleetFile};

/// One field of a changed entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Field {
    pub field: String,
    pub from: Value,
    pub to: Value,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Added {
        key: String,
    },
    Changed {
        key: String,
        fields: Vec<Field>,
    },
    Removed {
        key: String,
    },
    /// Published, not in the file, and not to be removed.
    Kept {
        key: String,
    },
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Changes {
    pub changes: Vec<Change>,
    pub unchanged: usize,
    /// What is to be published.
    #[serde(skip)]
    pub entries: Vec<FleetEntry>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// What has to be published so that the fleet is as wanted; with `prune`, nothing else stays.
pub fn diff(published: &FleetFile, wanted: &FleetFile, prune: bool) -> Changes {
    let old = by_key(published);
    let new = by_key(wanted);
    let mut changes = Changes::default();
    for (key, entry) in &new {
        let key = key.clone();
        match old.get(&key) {
            None => changes.changes.push(Change::Added { key }),
            Some(before) if before == entry => {
                changes.unchanged += 1;
                continue;
            }
            Some(before) => {
                let fields = fields(&value_of(before), &value_of(entry));
                changes.changes.push(Change::Changed { key, fields });
            }
        }
        changes.entries.push(entry.clone());
    }
    for (key, entry) in old.into_iter().filter(|(key, _)| !new.contains_key(key)) {
        if prune {
            changes.entries.push(removal(entry));
            changes.changes.push(Change::Removed { key });
        } else {
            changes.changes.push(Change::Kept { key });
        }
    }
    changes
}

fn by_key(fleet: &FleetFile) -> BTreeMap<String, FleetEntry> {
    let resources = fleet.resources.iter().cloned().map(FleetEntry::Resource);
    let tenants = fleet.tenants.iter().cloned().map(FleetEntry::Tenant);
    resources.chain(tenants).map(|entry| (fleet_key(&entry), entry)).collect()
}

fn removal(entry: FleetEntry) -> FleetEntry {
    match entry {
        FleetEntry::Resource(spec) => FleetEntry::ResourceRemoved(spec.id),
        FleetEntry::Tenant(spec) => FleetEntry::TenantRemoved(spec.id),
        removed @ (FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_)) => removed,
    }
}

fn value_of(entry: &FleetEntry) -> Value {
    let value = match entry {
        FleetEntry::Resource(spec) => serde_json::to_value(spec),
        FleetEntry::Tenant(spec) => serde_json::to_value(spec),
        FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => Ok(Value::Null),
    };
    // Plain data serialises.
    value.unwrap_or(Value::Null)
}

fn fields(from: &Value, to: &Value) -> Vec<Field> {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Vec::new() };
    to.iter()
        .filter_map(|(field, to)| {
            let from = from.get(field).cloned().unwrap_or(Value::Null);
            (from != *to).then(|| Field { field: field.clone(), from, to: to.clone() })
        })
        .collect()
}
