//! What a worker reports about one attempt.

use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, NAME_BYTES_MAX, check_name, check_number};
use super::resource::{Dimension, WINDOW_S_MAX};
use super::task::{TASK_ID_BYTES_MAX, TOKENS_MAX};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResultStatus {
    Started,
    Heartbeat,
    Succeeded,
    Failed,
    RateLimited,
    /// The worker got the decision after `start_by_at_ms` and did not call the model.
    Late,
    Cancelled,
}

impl ResultStatus {
    pub const fn name(self) -> &'static str {
        match self {
            ResultStatus::Started => "started",
            ResultStatus::Heartbeat => "heartbeat",
            ResultStatus::Succeeded => "succeeded",
            ResultStatus::Failed => "failed",
            ResultStatus::RateLimited => "rate_limited",
            ResultStatus::Late => "late",
            ResultStatus::Cancelled => "cancelled",
        }
    }
}

/// What the provider's answer said of one of its rate limits, as headers of the kind
/// `x-ratelimit-remaining-requests` do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    pub dimension: Dimension,
    /// Seconds of the window that it counts in, where the worker knows them. Without, it is the
    /// fleet's limit of that dimension with the shortest window, of at most a minute.
    #[serde(default)]
    pub window_s: Option<u32>,
    /// What the provider grants in a window.
    #[serde(default)]
    pub limit: Option<u64>,
    /// What the provider says is left of it.
    pub remaining: u64,
    /// Milliseconds from the answer until all of it is there again.
    #[serde(default)]
    pub reset_ms: Option<u64>,
}

/// One record of `task-results`, published to the partition that the decision names as `lane`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    pub task_id: String,
    /// From 1; 0 where a producer cancels whatever attempt there is.
    #[serde(default)]
    pub attempt: u32,
    #[serde(default)]
    pub stage: u32,
    #[serde(default)]
    pub resource: String,
    /// The `lane` of the decision, where the worker passes it on: a result that came to the wrong
    /// partition is then forwarded.
    #[serde(default)]
    pub lane: Option<u32>,
    pub status: ResultStatus,
    #[serde(default)]
    pub input_tokens: Option<u32>,
    #[serde(default)]
    pub output_tokens: Option<u32>,
    #[serde(default)]
    pub time_to_first_token_ms: Option<f64>,
    #[serde(default)]
    pub duration_ms: Option<f64>,
    /// In [0, 1].
    #[serde(default)]
    pub quality: Option<f64>,
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
    #[serde(default)]
    pub error: Option<String>,
    /// What the provider's answer said of its rate limits; at most 8.
    #[serde(default)]
    pub rate_limits: Vec<RateLimit>,
}

/// Bound of a worker's error text: it is carried in history and dead letters.
pub const ERROR_BYTES_MAX: usize = 4_096;
/// Bound of what one answer says of rate limits: as many as a resource may have.
pub const RATE_LIMITS_MAX: usize = 8;

impl TaskResult {
    pub fn validate(&self) -> Result<(), Invalid> {
        check_name("task_id", &self.task_id, TASK_ID_BYTES_MAX)?;
        if self.attempt == 0 && self.status != ResultStatus::Cancelled {
            return Err(Invalid::new("attempt", 0, "at least 1, or 0 with status `cancelled`"));
        }
        if self.resource.len() > NAME_BYTES_MAX {
            let given = format!("{} bytes", self.resource.len());
            return Err(Invalid::new("resource", given, "at most 128 bytes"));
        }
        for (field, tokens) in
            [("input_tokens", self.input_tokens), ("output_tokens", self.output_tokens)]
        {
            if tokens.is_some_and(|tokens| tokens > TOKENS_MAX) {
                let allowed = format!("at most {TOKENS_MAX}");
                return Err(Invalid::new(field, tokens.unwrap_or_default(), &allowed));
            }
        }
        for (field, ms) in [
            ("time_to_first_token_ms", self.time_to_first_token_ms),
            ("duration_ms", self.duration_ms),
        ] {
            if let Some(ms) = ms {
                check_number(field, ms, 0.0, f64::MAX)?;
            }
        }
        if let Some(quality) = self.quality {
            check_number("quality", quality, 0.0, 1.0)?;
        }
        if self.error.as_ref().is_some_and(|error| error.len() > ERROR_BYTES_MAX) {
            return Err(Invalid::new("error", "a longer text", "at most 4,096 bytes"));
        }
        if self.rate_limits.len() > RATE_LIMITS_MAX {
            let given = format!("{} entries", self.rate_limits.len());
            return Err(Invalid::new("rate_limits", given, "at most 8"));
        }
        for said in &self.rate_limits {
            if said.window_s.is_some_and(|window_s| window_s == 0 || window_s > WINDOW_S_MAX) {
                let given = said.window_s.unwrap_or_default();
                return Err(Invalid::new("rate_limits.window_s", given, "1 to 86,400"));
            }
        }
        Ok(())
    }
}
