//! A route decision as workers read it. See `schemas/route_decision.avsc`.
//!
//! Fields borrow from the task, the fleet and the facts, so that rendering a decision copies
//! nothing but the bytes of the record itself.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::reason::RefusalReason;
use super::task::Priority;
use super::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Routed,
    Refused,
}

/// One stage of a chain and the resource that serves it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChainLink<'a> {
    pub stage: u32,
    #[serde(borrow)]
    pub resource: Cow<'a, str>,
    #[serde(borrow)]
    pub model: Cow<'a, str>,
}

/// The resources that serve a task's stages, in order.
pub type ModelChain<'a> = Vec<ChainLink<'a>>;

/// What the decision expects of its primary, and what it paid for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RouteMetrics {
    /// Predicted, in [0, 1].
    pub quality: f64,
    /// Expected, in US dollars.
    pub cost_usd: f64,
    /// Predicted, from decision to last token.
    pub latency_ms: f64,
    pub utility: f64,
    /// Shadow price paid, in utility.
    pub price: f64,
    /// The probability with which this resource was chosen: below 1 where exploration might have
    /// chosen another one, or did.
    pub propensity: f64,
}

/// What was reserved before the decision was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reserved {
    pub slots: u32,
    pub requests: u32,
    /// Input tokens plus the largest output that the worker may ask for.
    pub tokens: u64,
}

/// Why one candidate was refused: the rule, what it needed, what the candidate had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal<'a> {
    #[serde(borrow)]
    pub resource: Cow<'a, str>,
    pub rule: RefusalReason,
    #[serde(borrow)]
    pub needed: Cow<'a, str>,
    #[serde(borrow)]
    pub had: Cow<'a, str>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteDecision<'a> {
    /// `lane-epoch-seq-index`.
    #[serde(borrow)]
    pub decision_id: Cow<'a, str>,
    #[serde(borrow)]
    pub task_id: Cow<'a, str>,
    /// Of this stage, from 1.
    pub attempt: u32,
    /// The stage that is decided, from 0; class and sizes are this one's.
    pub stage: u32,
    /// The partition to which the results of this attempt go.
    pub lane: u32,
    pub outcome: Outcome,
    /// Why the task was refused.
    pub reason: Option<RefusalReason>,
    #[serde(borrow)]
    pub tenant: Cow<'a, str>,
    #[serde(borrow)]
    pub class: Cow<'a, str>,
    pub priority: Priority,
    /// From this stage to the last: the first is reserved, the others are planned.
    pub primary: ModelChain<'a>,
    /// The next best chains for this stage and those after it; see `fallbacks_apart`.
    pub fallbacks: Vec<ModelChain<'a>>,
    pub metrics: Option<RouteMetrics>,
    pub decided_at_ms: Timestamp,
    /// Call the model before this time or report `late`.
    pub start_by_at_ms: Option<Timestamp>,
    /// Report a result or a heartbeat before this time, or the task is decided again.
    pub lease_until_at_ms: Option<Timestamp>,
    pub reserved: Option<Reserved>,
    pub input_tokens: u32,
    /// The output that was reserved; pass it on to the model.
    pub max_output_tokens: u32,
    /// The position in `health-events` up to which this decision knows; -1: nothing yet.
    pub health_offset: i64,
    /// Where refused: each candidate with its reason, at most [`REFUSALS_MAX`].
    #[serde(borrow)]
    pub refusals: Vec<Refusal<'a>>,
    #[serde(skip)]
    pub payload: Option<Cow<'a, [u8]>>,
    /// No link of a fallback shares a failure domain with any link of the primary. Where it says
    /// otherwise, the fleet has no such chain that could serve.
    #[serde(default = "yes")]
    pub fallbacks_apart: bool,
    /// How many stages the task has.
    #[serde(default = "one")]
    pub stages: u32,
}

const fn yes() -> bool {
    true
}

const fn one() -> u32 {
    1
}

/// Bound of the refusals that travel with a decision; `explain` derives all of them.
pub const REFUSALS_MAX: usize = 16;
