//! Health: what anyone says about a resource, a provider, a region or a failure domain.

use serde::{Deserialize, Serialize};

use super::task::{Invalid, NAME_BYTES_MAX, check_name, check_number};
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

/// One record of `health-events`, keyed `scope:id`, with `#source` where there is one; the last one
/// of a key holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthEvent {
    pub scope: HealthScope,
    pub id: String,
    pub status: HealthStatus,
    /// How bad it is, in [0, 1]; lowers the weight of what is degraded.
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
        Ok(())
    }
}
