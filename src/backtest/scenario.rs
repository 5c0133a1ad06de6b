//! What a backtest runs on: the fleet, the tasks with their arrivals, and what each resource would
//! make of each task.

use std::collections::BTreeMap;

use crate::draw::{Draw, Purpose};
use crate::model::health::HealthEvent;
use crate::model::resource::{Dimension, FleetFile, ResourceSpec};
use crate::model::task::{Requirements, Task};

/// A task and when it comes, milliseconds from the scenario's start.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedTask {
    pub arrival_ms: u64,
    pub task: Task,
}

impl TimedTask {
    /// When an answer becomes worthless.
    pub fn deadline_at_ms(&self) -> Option<u64> {
        Some(self.arrival_ms.saturating_add(self.task.deadline_ms?))
    }

    /// What a router reserves: the input and the largest output that may be asked for.
    pub fn tokens_max(&self) -> u64 {
        u64::from(self.task.input_tokens) + u64::from(self.task.max_output_tokens)
    }
}

/// What a resource makes of a task, when nothing is in the way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// In [0, 1].
    pub quality: f64,
    pub output_tokens: u32,
    pub duration_ms: f64,
    pub time_to_first_token_ms: f64,
}

/// A time in which attempts that start on a resource fail: all of them, or a seeded half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    pub resource: usize,
    /// The first millisecond, and the first one after it.
    pub from_ms: u64,
    pub to_ms: u64,
    pub hard: bool,
}

/// Known outcomes of one task, by the place of the resource; what is missing is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct KnownOutcome {
    pub quality: Option<f64>,
    pub output_tokens: Option<u32>,
    pub duration_ms: Option<f64>,
    pub time_to_first_token_ms: Option<f64>,
}

/// Tasks of one backtest: as many as a lane recognises by their ids.
pub const TASKS_MAX: usize = 1_000_000;
/// Tasks times resources: 40 bytes each, so under a gigabyte.
pub const OUTCOMES_MAX: usize = 20_000_000;

#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub fleet: FleetFile,
    /// In the order of arrival.
    pub tasks: Vec<TimedTask>,
    pub outages: Vec<Outage>,
    /// With the time at which each becomes known, in that order.
    pub health: Vec<(u64, HealthEvent)>,
    /// What was passed over in the files.
    pub notes: Vec<String>,
    /// By task, then resource; `None` where the resource does not serve the class.
    outcomes: Vec<Option<Outcome>>,
    by_task_id: BTreeMap<String, usize>,
    by_resource_id: BTreeMap<String, usize>,
}

impl Scenario {
    /// `known` names outcomes by task and resource; the others are drawn from the fleet's priors.
    pub fn new(
        fleet: FleetFile,
        tasks: Vec<TimedTask>,
        known: &BTreeMap<(usize, usize), KnownOutcome>,
        seed: u64,
    ) -> Self {
        let resources = fleet.resources.len();
        let mut outcomes = Vec::with_capacity(tasks.len() * resources);
        for (number, timed) in tasks.iter().enumerate() {
            let length = Draw::new(seed, Purpose::Length, number as u64).unit();
            for (place, spec) in fleet.resources.iter().enumerate() {
                let known = known.get(&(number, place)).copied().unwrap_or_default();
                let index = (number * resources + place) as u64;
                let mut draw = Draw::new(seed, Purpose::Outcome, index);
                outcomes.push(outcome(&mut draw, length, &timed.task, spec, known));
            }
        }
        let by_task_id =
            tasks.iter().enumerate().map(|(at, one)| (one.task.task_id.clone(), at)).collect();
        let by_resource_id =
            fleet.resources.iter().enumerate().map(|(at, one)| (one.id.clone(), at)).collect();
        Scenario {
            fleet,
            tasks,
            outages: Vec::new(),
            health: Vec::new(),
            notes: Vec::new(),
            outcomes,
            by_task_id,
            by_resource_id,
        }
    }

    pub fn resources(&self) -> &[ResourceSpec] {
        &self.fleet.resources
    }

    pub fn task_of(&self, task_id: &str) -> Option<usize> {
        self.by_task_id.get(task_id).copied()
    }

    pub fn resource_of(&self, id: &str) -> Option<usize> {
        self.by_resource_id.get(id).copied()
    }

    /// What a resource makes of a task; `None` where it does not serve the class.
    pub fn outcome(&self, task: usize, resource: usize) -> Option<&Outcome> {
        self.outcomes[task * self.fleet.resources.len() + resource].as_ref()
    }

    /// US dollars of an answer.
    pub fn cost_usd(&self, task: usize, resource: usize, output_tokens: u32) -> f64 {
        let prices = self.fleet.resources[resource].usd_per_million_tokens;
        let input = f64::from(self.tasks[task].task.input_tokens);
        (prices.input * input + prices.output * f64::from(output_tokens)) / 1e6
    }

    /// Whether an attempt fails because of when and where it starts.
    pub fn fails(
        &self,
        seed: u64,
        task: usize,
        attempt: u32,
        resource: usize,
        now_ms: u64,
    ) -> bool {
        self.outages.iter().any(|outage| {
            let inside =
                outage.resource == resource && (outage.from_ms..outage.to_ms).contains(&now_ms);
            // More attempts than a task can have, so that no two share a stream.
            let index = task as u64 * 1_024 + u64::from(attempt);
            inside && (outage.hard || Draw::new(seed, Purpose::Outage, index).unit() < 0.5)
        })
    }

    /// Whether a resource could ever serve a task, leaving quality, health and load aside. That is
    /// what every router has to obey, so bounds and baselines do too.
    pub fn could_serve(&self, task: usize, resource: usize) -> bool {
        let timed = &self.tasks[task];
        let spec = &self.fleet.resources[resource];
        let task = &timed.task;
        let Requirements { max_cost_usd, regions, modalities, models, .. } = &task.requirements;
        let prices = spec.usd_per_million_tokens;
        let cost_max_usd = (prices.input * f64::from(task.input_tokens)
            + prices.output * f64::from(task.max_output_tokens))
            / 1e6;
        let tokens = timed.tokens_max();
        let window_takes = spec
            .limits
            .iter()
            .all(|limit| limit.dimension != Dimension::Tokens || tokens <= limit.amount);
        spec.quality_prior(&task.class).is_some()
            && tokens <= u64::from(spec.context_window)
            && task.max_output_tokens <= spec.max_output_tokens
            && window_takes
            && (models.is_empty() || models.contains(&spec.model))
            && (regions.is_empty() || regions.contains(&spec.region))
            && modalities.iter().all(|name| spec.modalities.contains(name))
            && (spec.tenants.is_empty() || spec.tenants.contains(&task.tenant))
            // A hair of slack: the same sum in another order of operations may differ in its last bit.
            && max_cost_usd.is_none_or(|ceiling| cost_max_usd <= ceiling * (1.0 + 1e-12))
    }
}

/// The outcome of one pair: what is known of it, and the rest drawn around the priors.
fn outcome(
    draw: &mut Draw,
    length: f64,
    task: &Task,
    spec: &ResourceSpec,
    known: KnownOutcome,
) -> Option<Outcome> {
    // Every stream is drawn from alike, whatever is known.
    let bell = (draw.unit() + draw.unit() + draw.unit()) / 3.0 - 0.5;
    let verbosity = draw.between(0.8, 1.2);
    let noise = draw.between(0.8, 1.2);
    let quality = match (known.quality, spec.quality_prior(&task.class)) {
        (Some(quality), _) => quality,
        // A bell around the prior, no wider than 0.15 to each side.
        (None, Some(prior)) => (prior + 0.3 * bell).clamp(0.0, 1.0),
        (None, None) => return None,
    };
    let drawn_tokens = || {
        // A quarter of what was asked for on average, and never more than that.
        let share = (0.05 + 0.4 * length) * verbosity;
        libm::ceil(f64::from(task.max_output_tokens) * share) as u32
    };
    let output_tokens = known.output_tokens.unwrap_or_else(drawn_tokens);
    let speed = spec.speed;
    let first_token_ms = noise
        * (speed.time_to_first_token_ms
            + f64::from(task.input_tokens) * 1_000.0 / speed.prefill_tokens_per_s);
    let duration_ms = known.duration_ms.unwrap_or(
        first_token_ms + noise * f64::from(output_tokens) * 1_000.0 / speed.decode_tokens_per_s,
    );
    let time_to_first_token_ms = known.time_to_first_token_ms.unwrap_or(first_token_ms);
    Some(Outcome {
        quality,
        output_tokens,
        duration_ms,
        time_to_first_token_ms: time_to_first_token_ms.min(duration_ms),
    })
}

/// One row of a history: what some resources made of one task of a class.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub class: String,
    /// By the place of the resource.
    pub quality: Vec<(usize, f64)>,
}

/// How many observations a prior of the fleet file is worth when a history is read.
const PRIOR_WEIGHT: f64 = 2.0;

/// Takes a history into the priors: the mean of the prior, counted `PRIOR_WEIGHT` times, and of the
/// observations. A resource that does not serve a class is not made to by a history.
pub fn warm_start(fleet: &mut FleetFile, history: &[Observation]) {
    let mut sums: BTreeMap<(usize, &str), (f64, f64)> = BTreeMap::new();
    for row in history {
        for (resource, quality) in &row.quality {
            let (sum, count) = sums.entry((*resource, &row.class)).or_default();
            *sum += quality;
            *count += 1.0;
        }
    }
    for ((resource, class), (sum, count)) in sums {
        let Some(spec) = fleet.resources.get_mut(resource) else { continue };
        let Some(prior) = spec.quality_prior(class) else { continue };
        let mean = (prior * PRIOR_WEIGHT + sum) / (PRIOR_WEIGHT + count);
        spec.quality.insert(class.to_owned(), mean);
    }
}
