//! What is otherwise: a fleet in place of the recorded one, another policy, single settings.

use serde_json::Value;

use crate::model::policy::Policy;
use crate::model::resource::{FleetEntry, FleetFile, ResourceSpec};
use crate::routing::fact::Fact;
use crate::routing::state::State;

#[derive(Debug, Clone, Default)]
pub struct Change {
    fleet: Option<FleetFile>,
    policy: Option<Policy>,
    /// Of the policy: key and value.
    routing: Vec<(String, Value)>,
    /// Of resources: id, key and value.
    resources: Vec<(String, String, Value)>,
}

/// A setting that cannot be changed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("`{0}` is no KEY=VALUE; allowed: routing.KEY=VALUE or RESOURCE.KEY=VALUE")]
    Form(String),
    #[error("routing.{key}: {problem}")]
    Routing { key: String, problem: String },
    #[error("{resource}.{key}: {problem}")]
    Resource { resource: String, key: String, problem: String },
}

impl Change {
    pub fn set_fleet(&mut self, fleet: FleetFile) {
        self.fleet = Some(fleet);
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = Some(policy);
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.fleet.is_none()
            && self.policy.is_none()
            && self.routing.is_empty()
            && self.resources.is_empty()
    }

    /// `routing.KEY=VALUE`, or `RESOURCE.KEY=VALUE` with a key of the fleet file; the value is JSON,
    /// or a text.
    ///
    /// # Errors
    /// It has another form, or the policy has no such key.
    pub fn set(&mut self, text: &str) -> Result<(), ChangeError> {
        let form = || ChangeError::Form(text.to_owned());
        let (path, value) = text.split_once('=').ok_or_else(form)?;
        // Ids of resources may have points in them, keys have none.
        let (owner, key) = path.rsplit_once('.').ok_or_else(form)?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        if owner == "routing" {
            self.routing.push((key.to_owned(), value));
            return self.policy(&Policy::default()).map(drop);
        }
        self.resources.push((owner.to_owned(), key.to_owned(), value));
        Ok(())
    }

    /// The policy in place of the recorded one. Pools that were missing stay so.
    pub fn policy(&self, recorded: &Policy) -> Result<Policy, ChangeError> {
        let mut policy = self.policy.clone().unwrap_or_else(|| recorded.clone());
        policy.pools_missing = recorded.pools_missing.clone();
        for (key, value) in &self.routing {
            let error = |problem: String| ChangeError::Routing { key: key.clone(), problem };
            policy = with_key(&policy, key, value).map_err(error)?;
        }
        Ok(policy)
    }

    /// What the lane is told first: the fleet that is in force at once.
    pub fn first(&self, state: &State) -> Result<Vec<Fact>, ChangeError> {
        let offset = state.fleet_position - 1;
        let told = |entry| Fact::FleetSet { offset: offset.max(0), entry: Box::new(entry) };
        let known = state.fleet.iter().filter(|(_, resource)| !resource.removed);
        let mut facts = Vec::new();
        match &self.fleet {
            Some(fleet) => {
                for (_, resource) in known {
                    if !fleet.resources.iter().any(|spec| *spec.id == *resource.id) {
                        let id = resource.id.to_string();
                        facts.push(told(FleetEntry::ResourceRemoved(id)));
                    }
                }
                for spec in &fleet.resources {
                    facts.push(told(FleetEntry::Resource(self.resource(spec)?)));
                }
                for spec in &fleet.tenants {
                    facts.push(told(FleetEntry::Tenant(spec.clone())));
                }
            }
            None => {
                for (_, resource) in known {
                    let changed = self.resource(&resource.spec)?;
                    if changed != resource.spec {
                        facts.push(told(FleetEntry::Resource(changed)));
                    }
                }
            }
        }
        Ok(facts)
    }

    /// A recorded control record as it is under the change; `None` where it does not happen.
    pub fn control(&self, fact: &Fact) -> Result<Option<Fact>, ChangeError> {
        match fact {
            Fact::FleetSet { offset, entry } => match (&self.fleet, &**entry) {
                (Some(_), _) => Ok(None),
                (None, FleetEntry::Resource(spec)) => {
                    let entry = Box::new(FleetEntry::Resource(self.resource(spec)?));
                    Ok(Some(Fact::FleetSet { offset: *offset, entry }))
                }
                (
                    None,
                    FleetEntry::ResourceRemoved(_)
                    | FleetEntry::Tenant(_)
                    | FleetEntry::TenantRemoved(_),
                ) => Ok(Some(fact.clone())),
            },
            Fact::HealthSet { .. } => Ok(Some(fact.clone())),
            Fact::BatchOpened { .. }
            | Fact::PolicySet(_)
            | Fact::ControlSkipped { .. }
            | Fact::Routed { .. }
            | Fact::Queued { .. }
            | Fact::Refused { .. }
            | Fact::Duplicate { .. }
            | Fact::AttemptEnded { .. }
            | Fact::LeaseExtended { .. }
            | Fact::AttemptSlow { .. }
            | Fact::BreakerTold { .. }
            | Fact::FailoverEnded { .. }
            | Fact::LoadPublished { .. }
            | Fact::RightsGiven { .. }
            | Fact::RightsTaken { .. }
            | Fact::RightsPledged { .. }
            | Fact::RoomKept { .. }
            | Fact::LanesCounted { .. }
            | Fact::StrategyChanged { .. }
            | Fact::HeadroomTold { .. }
            | Fact::DeadLettered { .. } => Ok(None),
        }
    }

    fn resource(&self, recorded: &ResourceSpec) -> Result<ResourceSpec, ChangeError> {
        let mut spec = recorded.clone();
        for (resource, key, value) in self.resources.iter().filter(|(id, ..)| *id == recorded.id) {
            let error = |problem: String| {
                let (resource, key) = (resource.clone(), key.clone());
                ChangeError::Resource { resource, key, problem }
            };
            spec = with_key(&spec, key, value).map_err(error)?;
        }
        Ok(spec)
    }
}

/// A value with one of its fields replaced.
fn with_key<T: serde::Serialize + serde::de::DeserializeOwned>(
    value: &T,
    key: &str,
    to: &Value,
) -> Result<T, String> {
    let mut json = serde_json::to_value(value).map_err(|error| error.to_string())?;
    match json.get_mut(key) {
        Some(field) => *field = to.clone(),
        None => {
            let keys: Vec<&str> =
                json.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
            return Err(format!("unknown; allowed: {}", keys.join(", ")));
        }
    }
    serde_json::from_value(json).map_err(|error| error.to_string())
}
