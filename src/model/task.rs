//! A task: what a producer wants done, and under which conditions.

use serde::{Deserialize, Serialize};

use super::invalid::{Invalid, NAME_BYTES_MAX, check_count, check_name, check_number};
use super::resource::EVERYONE;
use super::time::Timestamp;

/// The order in which tasks are served; a lower value goes first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    Critical,
    #[default]
    Interactive,
    Batch,
}

impl Priority {
    pub const ALL: [Priority; 3] = [Priority::Critical, Priority::Interactive, Priority::Batch];

    pub const fn name(self) -> &'static str {
        match self {
            Priority::Critical => "critical",
            Priority::Interactive => "interactive",
            Priority::Batch => "batch",
        }
    }
}

/// What a task's utility counts: `quality·q − usd·cost − second·latency`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    Cheapest,
    Fastest,
    Best,
    #[default]
    Balanced,
    #[serde(untagged)]
    Weights(Weights),
}

/// Weights of a utility. Each is finite and at least zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Utility of a quality of 1.0.
    pub quality: f64,
    /// Utility lost for each US dollar.
    pub usd: f64,
    /// Utility lost for each second of latency.
    pub second: f64,
}

impl Objective {
    /// The weights that the objective stands for.
    pub const fn weights(self) -> Weights {
        match self {
            Objective::Cheapest => Weights { quality: 0.1, usd: 100.0, second: 0.001 },
            Objective::Fastest => Weights { quality: 0.1, usd: 1.0, second: 0.1 },
            Objective::Best => Weights { quality: 1.0, usd: 0.1, second: 0.0001 },
            Objective::Balanced => Weights { quality: 1.0, usd: 10.0, second: 0.005 },
            Objective::Weights(weights) => weights,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Objective::Cheapest => "cheapest",
            Objective::Fastest => "fastest",
            Objective::Best => "best",
            Objective::Balanced => "balanced",
            Objective::Weights(_) => "weights",
        }
    }
}

/// Hard constraints: a resource that misses one of them is refused with that reason.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirements {
    /// Least predicted quality, in [0, 1].
    pub min_quality: Option<f64>,
    /// Most that the task may cost, in US dollars, with all of `max_output_tokens`.
    pub max_cost_usd: Option<f64>,
    /// Regions in which the data may be processed; empty: all.
    pub regions: Vec<String>,
    /// Modalities that the resource must have; empty: none in particular.
    pub modalities: Vec<String>,
    /// Models that may serve the task; empty: all.
    pub models: Vec<String>,
}

/// One step of a task that is served by a chain of resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    #[serde(default = "default_name")]
    pub class: String,
    pub input_tokens: u32,
    #[serde(default = "default_max_output_tokens")]
    pub max_output_tokens: u32,
    /// Models that may serve this stage, in place of the task's; empty: the task's.
    #[serde(default)]
    pub models: Vec<String>,
}

/// A task as a producer published it. See `schemas/task.avsc` for the wire format.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Unique within the window of recognition (one hour or 1,000,000 tasks of a lane); not empty.
    pub task_id: String,
    #[serde(default = "default_name")]
    pub tenant: String,
    #[serde(default = "default_name")]
    pub class: String,
    #[serde(default)]
    pub priority: Priority,
    /// When the producer made the task; the record's timestamp where it says nothing.
    #[serde(default)]
    pub created_at_ms: Option<Timestamp>,
    /// The answer is worthless this long after `created_at_ms`; at least 1.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    pub input_tokens: u32,
    #[serde(default = "default_max_output_tokens")]
    pub max_output_tokens: u32,
    #[serde(default)]
    pub objective: Objective,
    #[serde(default)]
    pub requirements: Requirements,
    #[serde(default)]
    pub session: Option<String>,
    #[serde(default)]
    pub features: Vec<f32>,
    /// In order; empty: one stage, the task itself. Where there are some, class and sizes are theirs,
    /// and the task's own are not looked at.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// Opaque; passed on with the decision. The text as it came where the task was JSON.
    #[serde(skip)]
    pub payload: Option<Vec<u8>>,
}

fn default_name() -> String {
    "default".to_owned()
}

const fn default_max_output_tokens() -> u32 {
    MAX_OUTPUT_TOKENS_DEFAULT
}

/// What a task that names no `max_output_tokens` reserves.
pub const MAX_OUTPUT_TOKENS_DEFAULT: u32 = 1024;

/// Bounds of a task. A larger one is dead-lettered, so that no single record can exhaust memory.
pub const TASK_ID_BYTES_MAX: usize = 256;
/// Bound of a task's tokens, input and output each: far above any context window of 2026.
pub const TOKENS_MAX: u32 = 100_000_000;
/// Bound of the feature vector; common embeddings have 384 to 3,072 numbers.
pub const FEATURES_MAX: usize = 4_096;
/// Bound of the stages of a chain.
pub const STAGES_MAX: usize = 16;
/// Bound of each list in the requirements.
pub const REQUIREMENTS_MAX: usize = 64;
/// Bound of a payload (Kafka's own default limit of a record is 1 MiB).
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

impl Task {
    /// Checks every bound; the first violation is the error.
    pub fn validate(&self) -> Result<(), Invalid> {
        check_name("task_id", &self.task_id, TASK_ID_BYTES_MAX)?;
        check_name("tenant", &self.tenant, NAME_BYTES_MAX)?;
        if self.tenant == EVERYONE {
            let allowed = "the name of one tenant: `*` stands for all of them, in the fleet";
            return Err(Invalid::new("tenant", &self.tenant, allowed));
        }
        check_name("class", &self.class, NAME_BYTES_MAX)?;
        if let Some(session) = &self.session {
            check_name("session", session, NAME_BYTES_MAX)?;
        }
        if self.deadline_ms == Some(0) {
            return Err(Invalid::new("deadline_ms", 0, "at least 1"));
        }
        check_tokens("input_tokens", self.input_tokens)?;
        check_tokens("max_output_tokens", self.max_output_tokens)?;
        if let Objective::Weights(weights) = self.objective {
            check_number("objective.quality", weights.quality, 0.0, f64::MAX)?;
            check_number("objective.usd", weights.usd, 0.0, f64::MAX)?;
            check_number("objective.second", weights.second, 0.0, f64::MAX)?;
        }
        self.requirements.validate()?;
        check_count("features", self.features.len(), FEATURES_MAX)?;
        if let Some(feature) = self.features.iter().find(|feature| !feature.is_finite()) {
            return Err(Invalid::new("features", feature, "finite numbers"));
        }
        check_count("stages", self.stages.len(), STAGES_MAX)?;
        for stage in &self.stages {
            check_name("stages.name", &stage.name, NAME_BYTES_MAX)?;
            check_name("stages.class", &stage.class, NAME_BYTES_MAX)?;
            check_tokens("stages.input_tokens", stage.input_tokens)?;
            check_tokens("stages.max_output_tokens", stage.max_output_tokens)?;
            check_count("stages.models", stage.models.len(), REQUIREMENTS_MAX)?;
            for name in &stage.models {
                check_name("stages.models", name, NAME_BYTES_MAX)?;
            }
        }
        match &self.payload {
            Some(payload) if payload.len() > PAYLOAD_BYTES_MAX => Err(Invalid::new(
                "payload",
                format!("{} bytes", payload.len()),
                &format!("at most {PAYLOAD_BYTES_MAX} bytes"),
            )),
            Some(_) | None => Ok(()),
        }
    }
}

fn check_tokens(field: &str, tokens: u32) -> Result<(), Invalid> {
    if tokens <= TOKENS_MAX {
        return Ok(());
    }
    Err(Invalid::new(field, tokens, &format!("at most {TOKENS_MAX}")))
}

impl Requirements {
    fn validate(&self) -> Result<(), Invalid> {
        if let Some(quality) = self.min_quality {
            check_number("requirements.min_quality", quality, 0.0, 1.0)?;
        }
        if let Some(cost) = self.max_cost_usd {
            check_number("requirements.max_cost_usd", cost, 0.0, f64::MAX)?;
        }
        let lists = [
            ("requirements.regions", &self.regions),
            ("requirements.modalities", &self.modalities),
            ("requirements.models", &self.models),
        ];
        for (field, names) in lists {
            check_count(field, names.len(), REQUIREMENTS_MAX)?;
            for name in names {
                check_name(field, name, NAME_BYTES_MAX)?;
            }
        }
        Ok(())
    }
}
