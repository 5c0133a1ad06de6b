//! The stages of a task, and how far it is with them.
//!
//! What a lane knows of a task, [`NewTask`], is always the stage that is to be decided or under way:
//! its class and sizes are the stage's. So whatever asks for a task's sizes need not know of stages. The
//! others stand beside, and the success of one puts the next in its place.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::affinity::session_of;
use super::fact::{NewTask, ResourceIndex};
use super::features::Projected;
use super::shape::{Shape, SharedShape};
use crate::model::task::{Stage, Task};
use crate::model::time::Timestamp;

/// What a lane keeps of one stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageAsk {
    pub class: Box<str>,
    /// Models that may serve it: its own, or the task's where it names none; empty: all.
    pub models: Vec<String>,
    pub input_tokens: u32,
    pub max_output_tokens: u32,
}

/// All stages of a task, first to last.
pub type Stages = Arc<[StageAsk]>;

/// How far a task with stages is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Who is to serve the stages after the present one, as its last decision planned it.
    pub plan: Vec<ResourceIndex>,
    /// Who served the stages before.
    pub served: Vec<ResourceIndex>,
    /// What those cost, millionths of a US dollar.
    pub spent_usd_micros: u64,
}

/// The stages of a task; `None` where it names none.
pub fn stages_of(task: &Task) -> Option<Stages> {
    if task.stages.is_empty() {
        return None;
    }
    let ask = |stage: &Stage| StageAsk {
        class: stage.class.as_str().into(),
        models: match stage.models.is_empty() {
            true => task.requirements.models.clone(),
            false => stage.models.clone(),
        },
        input_tokens: stage.input_tokens,
        max_output_tokens: stage.max_output_tokens,
    };
    Some(task.stages.iter().map(ask).collect())
}

impl StageAsk {
    /// The shape of this stage of a task with the shape `of`.
    pub fn shape(&self, of: &Shape) -> Shape {
        let mut shape = of.clone();
        shape.class = self.class.to_string();
        shape.requirements.models.clone_from(&self.models);
        shape
    }
}

/// The shape of a task's first stage; `None` where it names no stages.
pub fn first_shape(task: &Task) -> Option<Shape> {
    let stages = stages_of(task)?;
    stages.first().map(|first| first.shape(&Shape::of(task)))
}

/// The class, input and largest output of what a task asks for first: its first stage, where it names
/// some.
pub fn first_of(task: &Task) -> (&str, u32, u32) {
    match task.stages.first() {
        Some(first) => (&first.class, first.input_tokens, first.max_output_tokens),
        None => (&task.class, task.input_tokens, task.max_output_tokens),
    }
}

impl NewTask {
    /// What a lane keeps of a task whose first stage has this shape.
    pub fn of(task: &Task, shape: SharedShape, offset: i64, deadline_at: Timestamp) -> Self {
        let (_, input_tokens, max_output_tokens) = first_of(task);
        NewTask {
            task_id: task.task_id.as_str().into(),
            shape,
            offset,
            deadline_at,
            input_tokens,
            max_output_tokens,
            stage: 0,
            stages: stages_of(task),
            session: session_of(task),
            features: Projected::of(task),
        }
    }

    /// The stages behind the present one.
    pub fn later(&self) -> &[StageAsk] {
        let stages = self.stages.as_deref().unwrap_or_default();
        stages.get(self.stage as usize + 1..).unwrap_or_default()
    }

    /// The task as it is when the present stage has succeeded; `None` behind the last one.
    pub fn next_stage(&self) -> Option<NewTask> {
        let next = self.later().first()?;
        Some(NewTask {
            task_id: self.task_id.clone(),
            shape: Arc::new(next.shape(&self.shape)),
            input_tokens: next.input_tokens,
            max_output_tokens: next.max_output_tokens,
            stage: self.stage + 1,
            stages: self.stages.clone(),
            features: self.features.clone(),
            ..*self
        })
    }

    /// How many stages it has.
    pub fn stage_count(&self) -> u32 {
        self.stages.as_deref().map_or(1, |stages| stages.len() as u32)
    }
}
