//! What the audit knows of the records it read: little enough that a million of them fit in memory.

use indexmap::IndexSet;
use std::fmt;
use std::sync::Arc;

use crate::model::allocation::{AllocationEvent, AllocationKind};
use crate::model::decision::{Outcome, Reserved, RouteDecision};
use crate::model::reason::RefusalReason;
use crate::model::task::Task;

/// What is decided exactly once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    pub task: Arc<str>,
    pub stage: u32,
    pub attempt: u32,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "attempt {} of task {}", self.attempt, self.task)?;
        if self.stage > 0 { write!(formatter, " stage {}", self.stage) } else { Ok(()) }
    }
}

/// A record of `tasks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSeen {
    pub partition: i32,
    pub offset: i64,
    /// `None` where the record cannot be decoded: then only a dead letter can account for it.
    pub task: Option<Arc<str>>,
    /// How many stages it has.
    pub stages: u32,
}

/// A record of `route-decisions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionSeen {
    pub attempt: AttemptKey,
    pub outcome: Outcome,
    pub reason: Option<RefusalReason>,
    /// The resource that serves the decided stage.
    pub resource: Option<Arc<str>>,
}

/// A record of `allocation-events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationSeen {
    pub kind: AllocationKind,
    pub resource: Arc<str>,
    pub attempt: AttemptKey,
    pub lane: u32,
    pub at_ms: i64,
    pub reserved_at_ms: i64,
    pub held: Reserved,
    pub overrun_tokens: u64,
}

/// A record of `tasks.dlq`, by the task record that it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterSeen {
    pub partition: i32,
    pub offset: i64,
}

/// Keeps each name once: a task's id occurs in four topics, a resource's in thousands of records.
#[derive(Debug, Default)]
pub struct Names(IndexSet<Arc<str>>);

impl Names {
    pub fn keep(&mut self, name: &str) -> Arc<str> {
        if let Some(kept) = self.0.get(name) {
            return Arc::clone(kept);
        }
        let kept: Arc<str> = Arc::from(name);
        self.0.insert(Arc::clone(&kept));
        kept
    }

    /// A record of `tasks`, where it can be decoded.
    pub fn task(&mut self, partition: i32, offset: i64, task: Option<&Task>) -> TaskSeen {
        TaskSeen {
            partition,
            offset,
            task: task.map(|task| self.keep(&task.task_id)),
            stages: task.map_or(1, |task| task.stages.len().max(1) as u32),
        }
    }

    pub fn decision(&mut self, decision: &RouteDecision<'_>) -> DecisionSeen {
        let decided = decision.primary.iter().find(|link| link.stage == decision.stage);
        DecisionSeen {
            attempt: AttemptKey {
                task: self.keep(&decision.task_id),
                stage: decision.stage,
                attempt: decision.attempt,
            },
            outcome: decision.outcome,
            reason: decision.reason,
            resource: decided.map(|link| self.keep(&link.resource)),
        }
    }

    pub fn allocation(&mut self, event: &AllocationEvent<'_>) -> AllocationSeen {
        AllocationSeen {
            kind: event.kind,
            resource: self.keep(&event.resource),
            attempt: AttemptKey {
                task: self.keep(&event.task_id),
                stage: event.stage,
                attempt: event.attempt,
            },
            lane: event.lane,
            at_ms: event.at_ms.as_ms(),
            reserved_at_ms: event.reserved_at_ms.as_ms(),
            held: event.held,
            overrun_tokens: event.overrun_tokens,
        }
    }
}
