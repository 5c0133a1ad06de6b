//! A shape: what decides which resources a task may use, apart from its sizes. Tasks of one shape
//! share one candidate list.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::task::{Objective, Priority, Requirements, Task};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub tenant: String,
    pub class: String,
    pub priority: Priority,
    pub objective: PlainObjective,
    pub requirements: Requirements,
}

/// [`Objective`] without serde's untagged variant, which the journal's encoding cannot carry.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum PlainObjective {
    Cheapest,
    Fastest,
    Best,
    Balanced,
    Weights { quality: f64, usd: f64, second: f64 },
}

impl From<Objective> for PlainObjective {
    fn from(objective: Objective) -> Self {
        match objective {
            Objective::Cheapest => PlainObjective::Cheapest,
            Objective::Fastest => PlainObjective::Fastest,
            Objective::Best => PlainObjective::Best,
            Objective::Balanced => PlainObjective::Balanced,
            Objective::Weights(weights) => PlainObjective::Weights {
                quality: weights.quality,
                usd: weights.usd,
                second: weights.second,
            },
        }
    }
}

impl From<PlainObjective> for Objective {
    fn from(objective: PlainObjective) -> Self {
        match objective {
            PlainObjective::Cheapest => Objective::Cheapest,
            PlainObjective::Fastest => Objective::Fastest,
            PlainObjective::Best => Objective::Best,
            PlainObjective::Balanced => Objective::Balanced,
            PlainObjective::Weights { quality, usd, second } => {
                Objective::Weights(crate::model::task::Weights { quality, usd, second })
            }
        }
    }
}

impl Shape {
    pub fn of(task: &Task) -> Shape {
        Shape {
            tenant: task.tenant.clone(),
            class: task.class.clone(),
            priority: task.priority,
            objective: task.objective.into(),
            requirements: task.requirements.clone(),
        }
    }

    /// Whether `task` has this shape, without making one.
    pub fn fits(&self, task: &Task) -> bool {
        self.priority == task.priority
            && self.class == task.class
            && self.tenant == task.tenant
            && self.objective == task.objective.into()
            && self.requirements == task.requirements
    }

    /// A hash that is equal for a shape and the tasks that fit it. It serves a cache only: nothing
    /// that is recorded depends on it.
    pub fn hash_of(task: &Task) -> u64 {
        hash(&task.tenant, &task.class, task.priority, task.objective.into(), &task.requirements)
    }

    pub fn hash(&self) -> u64 {
        hash(&self.tenant, &self.class, self.priority, self.objective, &self.requirements)
    }
}

fn hash(
    tenant: &str,
    class: &str,
    priority: Priority,
    objective: PlainObjective,
    requirements: &Requirements,
) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    tenant.hash(&mut hasher);
    class.hash(&mut hasher);
    priority.hash(&mut hasher);
    let numbers = match objective {
        PlainObjective::Cheapest => [1, 0, 0],
        PlainObjective::Fastest => [2, 0, 0],
        PlainObjective::Best => [3, 0, 0],
        PlainObjective::Balanced => [4, 0, 0],
        PlainObjective::Weights { quality, usd, second } => {
            [quality.to_bits(), usd.to_bits(), second.to_bits()]
        }
    };
    numbers.hash(&mut hasher);
    requirements.min_quality.map(f64::to_bits).hash(&mut hasher);
    requirements.max_cost_usd.map(f64::to_bits).hash(&mut hasher);
    requirements.regions.hash(&mut hasher);
    requirements.modalities.hash(&mut hasher);
    requirements.models.hash(&mut hasher);
    hasher.finish()
}

/// A shape that many tasks share.
pub type SharedShape = Arc<Shape>;
