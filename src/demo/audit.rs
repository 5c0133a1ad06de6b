//! The independent audit: what the router wrote, held against what it promised.
//!
//! It shares no code with the core: neither routing nor lanes, only the plain data that both sides
//! read off the topics. It counts every task's decisions, and replays every allocation event
//! against the fleet's limits: slots at every instant, requests and tokens in every sliding
//! window, over all lanes together.
//!
//! Times are batch times in milliseconds, and events of several lanes may carry the same one. Their
//! order is then unknown, so the audit gives the benefit of the doubt: what a lane gave back at a
//! millisecond was free for reservations of that millisecond.
//!
//! A reservation counts in the windows that contain its own time, with the value that it has at the
//! end of the window: corrected down by the result, or whole until then. As values only shrink, the
//! windows that end at a reservation are the fullest ones, and to look at those is to look at all.

mod capacity;
mod decisions;
pub mod history;
pub mod read;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::model::resource::{FleetFile, ResourceSpec};
use history::{AllocationSeen, AttemptKey, DeadLetterSeen, DecisionSeen, TaskSeen};

/// Findings that are kept in words; the counters count all of them.
pub const FINDINGS_MAX: usize = 50;

/// One thing that should not be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A task record with neither a decision nor a dead letter.
    Lost { task: Option<Arc<str>>, partition: i32, offset: i64 },
    /// More than one decision of one attempt.
    Duplicated { attempt: AttemptKey, decisions: usize },
    /// Slots at an instant, or an amount in a window that ends at `at_ms`, above its limit.
    Oversubscribed {
        resource: Arc<str>,
        dimension: &'static str,
        /// 0 for slots.
        window_s: u32,
        at_ms: i64,
        used: u64,
        limit: u64,
    },
    /// A routed decision without a reservation of the same resource.
    Unreserved { attempt: AttemptKey, resource: Option<Arc<str>> },
    /// A reservation without a routed decision of the same resource.
    Undecided { attempt: AttemptKey, resource: Arc<str> },
    /// A slot that is still held at the end.
    Unreleased { attempt: AttemptKey, resource: Arc<str> },
    /// Records that contradict each other.
    Inconsistent { attempt: AttemptKey, detail: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Lost { task: Some(task), partition, offset } => {
                write!(formatter, "lost: task {task} (partition {partition}, offset {offset})")
            }
            Finding::Lost { task: None, partition, offset } => write!(
                formatter,
                "lost: undecodable task record (partition {partition}, offset {offset})"
            ),
            Finding::Duplicated { attempt, decisions } => {
                write!(formatter, "duplicated: {attempt} was decided {decisions} times")
            }
            Finding::Oversubscribed { resource, dimension, window_s: 0, at_ms, used, limit } => {
                write!(
                    formatter,
                    "oversubscribed: {resource} had {used} of {limit} {dimension} in use at {at_ms}"
                )
            }
            Finding::Oversubscribed { resource, dimension, window_s, at_ms, used, limit } => {
                write!(
                    formatter,
                    "oversubscribed: {resource} had {used} of {limit} {dimension} reserved in the \
                 {window_s} s that end at {at_ms}"
                )
            }
            Finding::Unreserved { attempt, resource: Some(resource) } => write!(
                formatter,
                "unreserved: {attempt} was routed to {resource} without a reservation"
            ),
            Finding::Unreserved { attempt, resource: None } => {
                write!(formatter, "unreserved: {attempt} was routed to nothing")
            }
            Finding::Undecided { attempt, resource } => write!(
                formatter,
                "undecided: {attempt} reserved {resource} without a decision that routes it there"
            ),
            Finding::Unreleased { attempt, resource } => {
                write!(formatter, "unreleased: {attempt} still holds a slot of {resource}")
            }
            Finding::Inconsistent { attempt, detail } => {
                write!(formatter, "inconsistent: {attempt}: {detail}")
            }
        }
    }
}

/// The fullest that one limit of a resource has been.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peak {
    /// `slots`, `requests` or `tokens`.
    pub dimension: &'static str,
    /// 0 for slots.
    pub window_s: u32,
    pub limit: u64,
    pub used_max: u64,
}

impl Peak {
    /// The fullest as a share of the limit.
    pub fn share(&self) -> f64 {
        if self.limit == 0 { 0.0 } else { self.used_max as f64 / self.limit as f64 }
    }
}

/// What the audit found. All counters of things that should not be are zero after a clean run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuditReport {
    /// Task records.
    pub tasks: u64,
    /// Distinct tasks with at least one decision.
    pub decided: u64,
    /// Decisions, repeated attempts included.
    pub decisions: u64,
    /// Tasks whose last decision refuses them, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Tasks whose last decision routes them, by resource.
    pub by_resource: BTreeMap<String, u64>,
    pub dead_lettered: u64,
    /// Attempts that were taken from a resource that went down.
    pub failed_over: u64,
    /// Attempts whose lease ended.
    pub expired: u64,
    /// Tokens used beyond reservations.
    pub overrun_tokens: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub oversubscribed: u64,
    pub unreserved: u64,
    pub undecided: u64,
    pub unreleased: u64,
    pub inconsistent: u64,
    /// By resource, in the order of its limits, slots first.
    pub peaks: BTreeMap<String, Vec<Peak>>,
    /// At most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
}

impl AuditReport {
    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        self.found() == 0
    }

    /// The number of findings, kept or not.
    pub fn found(&self) -> u64 {
        self.lost
            + self.duplicated
            + self.oversubscribed
            + self.unreserved
            + self.undecided
            + self.unreleased
            + self.inconsistent
    }

    fn find(&mut self, finding: Finding) {
        let counter = match &finding {
            Finding::Lost { .. } => &mut self.lost,
            Finding::Duplicated { .. } => &mut self.duplicated,
            Finding::Oversubscribed { .. } => &mut self.oversubscribed,
            Finding::Unreserved { .. } => &mut self.unreserved,
            Finding::Undecided { .. } => &mut self.undecided,
            Finding::Unreleased { .. } => &mut self.unreleased,
            Finding::Inconsistent { .. } => &mut self.inconsistent,
        };
        *counter += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

/// Audits a whole history. The order of `allocations` matters only inside a lane.
pub fn audit(
    fleet: &FleetFile,
    tasks: &[TaskSeen],
    decisions: &[DecisionSeen],
    allocations: &[AllocationSeen],
    dead_letters: &[DeadLetterSeen],
) -> AuditReport {
    let mut report = AuditReport {
        tasks: tasks.len() as u64,
        decisions: decisions.len() as u64,
        dead_lettered: dead_letters.len() as u64,
        ..AuditReport::default()
    };
    decisions::check_tasks(tasks, decisions, dead_letters, &mut report);
    decisions::check_reservations(decisions, allocations, &mut report);
    decisions::check_order(decisions, allocations, &mut report);
    capacity::check(fleet, allocations, &mut report);
    report
}

/// The limits of one resource alone, and its allocations: what was above them when a reservation was
/// made at one of these times, milliseconds.
pub fn above_limits(
    spec: &ResourceSpec,
    allocations: &[AllocationSeen],
    at: &dyn Fn(i64) -> bool,
) -> Vec<Finding> {
    capacity::above(spec, allocations, at)
}
