//! Health: what anyone says about a resource, a provider, a region or a failure domain.

use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, NAME_BYTES_MAX, check_name, check_number};
use super::resource::LIMITS_MAX;
use super::rights::Counted;
use super::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthScope {
    Resource,
    Provider,
    Region,
    FailureDomain,
}

impl HealthScope {
    pub const fn name(self) -> &'static str {
        match self {
            HealthScope::Resource => "resource",
            HealthScope::Provider => "provider",
            HealthScope::Region => "region",
            HealthScope::FailureDomain => "failure_domain",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    Healthy,
    Degraded,
    Unhealthy,
    /// Takes no new work and finishes what it has.
    Drain,
}

impl HealthStatus {
    pub const fn name(self) -> &'static str {
        match self {
            HealthStatus::Healthy => "healthy",
            HealthStatus::Degraded => "degraded",
            HealthStatus::Unhealthy => "unhealthy",
            HealthStatus::Drain => "drain",
        }
    }
}

/// How the source of a lane's breakers begins; the lane's number follows.
pub const BREAKER_SOURCE: &str = "breaker-";
/// How the source begins of what a lane heard of a provider's headroom; the lane's number follows.
pub const HEADROOM_SOURCE: &str = "headroom-";

/// A limit of a resource of which less may be used for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoweredLimit {
    /// Slots, requests or tokens.
    pub dimension: Counted,
    /// Seconds; 0 for slots.
    #[serde(default)]
    pub window_s: u32,
    /// What all lanes together may have in use, at least 1. More than the fleet's amount has no
    /// effect.
    pub limit: u64,
    /// When the limit is whole again; an hour after the event at the latest.
    pub until_at_ms: Timestamp,
}

/// The limits that a resource can have, slots among them.
pub const LOWERED_MAX: usize = LIMITS_MAX + 1;

/// One record of `health-events`, keyed `scope:id`, with `#source` where there is one; the last one
/// of a key holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthEvent {
    pub scope: HealthScope,
    pub id: String,
    pub status: HealthStatus,
    /// How bad it is, in [0, 1]; lowers the weight of what is degraded, and how much of it new work may use.
    #[serde(default)]
    pub severity: f64,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub at_ms: Option<Timestamp>,
    /// Who says so, where it is not an operator; `breaker-LANE` is a lane of the router. What one
    /// source says, another does not take back.
    #[serde(default)]
    pub source: String,
    /// Of a resource that is degraded: limits of which less may be used for a while. Such an event
    /// says nothing else.
    #[serde(default)]
    pub limits: Vec<LoweredLimit>,
}

impl HealthEvent {
    pub fn validate(&self) -> Result<(), Invalid> {
        check_name("id", &self.id, NAME_BYTES_MAX)?;
        check_number("severity", self.severity, 0.0, 1.0)?;
        if self.reason.len() > 1_024 {
            let given = format!("{} bytes", self.reason.len());
            return Err(Invalid::new("reason", given, "at most 1,024 bytes"));
        }
        if self.source.len() > NAME_BYTES_MAX {
            let given = format!("{} bytes", self.source.len());
            return Err(Invalid::new("source", given, "at most 128 bytes"));
        }
        self.validate_limits()
    }

    fn validate_limits(&self) -> Result<(), Invalid> {
        if self.limits.is_empty() {
            return Ok(());
        }
        if self.limits.len() > LOWERED_MAX {
            let given = format!("{} limits", self.limits.len());
            return Err(Invalid::new("limits", given, &format!("at most {LOWERED_MAX}")));
        }
        if self.scope != HealthScope::Resource || self.status != HealthStatus::Degraded {
            let given = format!("with scope {} and {}", self.scope.name(), self.status.name());
            return Err(Invalid::new("limits", given, "with scope resource and degraded"));
        }
        for lowered in &self.limits {
            let is_window = match lowered.dimension {
                Counted::Slots => lowered.window_s == 0,
                Counted::Requests | Counted::Tokens => lowered.window_s > 0,
                Counted::Usd => false,
            };
            if !is_window {
                let given = format!("{} in {} s", lowered.dimension.name(), lowered.window_s);
                let allowed = "slots in 0 s, requests or tokens in at least 1 s";
                return Err(Invalid::new("limits", given, allowed));
            }
            if lowered.limit == 0 {
                return Err(Invalid::new("limits.limit", 0, "at least 1"));
            }
        }
        Ok(())
    }
}
