//! Figures of one router over a scenario, next to what was possible.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::Serialize;

use super::bound::Bounds;
use super::scenario::Scenario;
use super::site::{End, Fate, Run};
use crate::model::task::{Priority, Weights};

/// One router's figures. A share is `None` where its bound was not asked for, or is zero.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub tasks: u64,
    /// Tasks that were answered, late answers included; the others were refused.
    pub routed: u64,
    /// By reason.
    pub refused: BTreeMap<String, u64>,
    /// Answers after the deadline: they cost money and are worth nothing.
    pub late: u64,
    /// Sum over the tasks.
    pub quality: f64,
    pub cost_usd: f64,
    /// Sum of `quality·q − usd·cost − second·latency` under the tasks' objectives, latency from
    /// arrival to answer.
    pub utility: f64,
    /// From arrival to the first start, over the tasks that were answered.
    pub mean_wait_ms: f64,
    /// Of the utility: what perfect foresight could have earned at most.
    pub bound: Option<f64>,
    /// The same for a planner that knows of quality only each class's mean.
    pub bound_class_informed: Option<f64>,
    pub share: Option<f64>,
    pub share_class_informed: Option<f64>,
    /// Of the quality, leaving cost and latency aside.
    pub quality_bound: Option<f64>,
    pub quality_bound_class_informed: Option<f64>,
    pub quality_share: Option<f64>,
    pub quality_share_class_informed: Option<f64>,
    pub attempts: u64,
    pub failed_attempts: u64,
    /// Starts that the stand-in provider refused because they went over a limit.
    pub oversubscribed: u64,
    pub overrun_tokens: u64,
    /// Rights that moved between lanes, and pieces of the planner's advice; 0 with one lane.
    pub messages: u64,
    pub advice: u64,
    /// Of the priorities that tasks have, the highest first.
    pub by_priority: BTreeMap<Priority, Figures>,
}

/// What became of some of the tasks: as in [`Summary`].
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Figures {
    pub tasks: u64,
    pub routed: u64,
    pub refused: BTreeMap<String, u64>,
    pub late: u64,
    pub quality: f64,
    pub cost_usd: f64,
    pub utility: f64,
    pub mean_wait_ms: f64,
}

/// All figures of a backtest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub core: Summary,
    pub baselines: IndexMap<String, Summary>,
    /// For people: what was passed over, and what makes the comparison unequal.
    pub notes: Vec<String>,
    pub seed: u64,
    pub elapsed_s: f64,
}

/// What a task was worth to its producer, under weights.
pub fn utility(scenario: &Scenario, task: usize, fate: &Fate, weights: Weights) -> f64 {
    let spent = weights.usd * fate.cost_usd;
    match in_time(scenario, task, fate) {
        Some((quality, finished_ms)) => {
            let latency_s = (finished_ms - scenario.tasks[task].arrival_ms as f64) / 1_000.0;
            weights.quality * quality - spent - weights.second * latency_s
        }
        None => -spent,
    }
}

/// Quality and time of an answer that came in time.
fn in_time(scenario: &Scenario, task: usize, fate: &Fate) -> Option<(f64, f64)> {
    match fate.end {
        End::Answered { quality, finished_ms, .. } => {
            let deadline_ms = scenario.tasks[task].deadline_at_ms();
            let is_late = deadline_ms.is_some_and(|deadline| finished_ms > deadline as f64);
            (!is_late).then_some((quality, finished_ms))
        }
        End::Refused(_) | End::Open => None,
    }
}

impl Figures {
    fn of<'a>(scenario: &Scenario, fates: impl Iterator<Item = (usize, &'a Fate)>) -> Self {
        let (mut found, mut waited_ms) = (Figures::default(), 0.0);
        for (task, fate) in fates {
            let timed = &scenario.tasks[task];
            found.tasks += 1;
            found.cost_usd += fate.cost_usd;
            found.utility += utility(scenario, task, fate, timed.task.objective.weights());
            let mut refuse =
                |reason: &str| *found.refused.entry(reason.to_owned()).or_insert(0) += 1;
            match fate.end {
                End::Answered { .. } => {
                    found.routed += 1;
                    let first_ms = fate.first_start_ms.unwrap_or(timed.arrival_ms);
                    waited_ms += first_ms.saturating_sub(timed.arrival_ms) as f64;
                    match in_time(scenario, task, fate) {
                        Some((earned, _)) => found.quality += earned,
                        None => found.late += 1,
                    }
                }
                End::Refused(reason) => refuse(reason.name()),
                End::Open => refuse("open"),
            }
        }
        if found.routed > 0 {
            found.mean_wait_ms = waited_ms / found.routed as f64;
        }
        found
    }

    pub fn refused_all(&self) -> u64 {
        self.refused.values().sum()
    }
}

impl Summary {
    pub fn of(scenario: &Scenario, run: &Run, bounds: &Bounds) -> Self {
        let fates = || run.fates.iter().enumerate();
        let all = Figures::of(scenario, fates());
        let by_priority = Priority::ALL.into_iter().filter_map(|priority| {
            let has = |task: usize| scenario.tasks[task].task.priority == priority;
            let of = Figures::of(scenario, fates().filter(|(task, _)| has(*task)));
            (of.tasks > 0).then_some((priority, of))
        });
        let share = |reached: f64, bound: Option<f64>| {
            bound.filter(|bound| *bound > 0.0).map(|bound| reached / bound)
        };
        Summary {
            tasks: all.tasks,
            routed: all.routed,
            late: all.late,
            quality: all.quality,
            cost_usd: all.cost_usd,
            utility: all.utility,
            mean_wait_ms: all.mean_wait_ms,
            bound: bounds.utility,
            bound_class_informed: bounds.utility_class_informed,
            share: share(all.utility, bounds.utility),
            share_class_informed: share(all.utility, bounds.utility_class_informed),
            quality_bound: bounds.quality,
            quality_bound_class_informed: bounds.quality_class_informed,
            quality_share: share(all.quality, bounds.quality),
            quality_share_class_informed: share(all.quality, bounds.quality_class_informed),
            attempts: run.attempts,
            failed_attempts: run.failed_attempts,
            oversubscribed: run.oversubscribed,
            overrun_tokens: run.overrun_tokens,
            messages: run.messages,
            advice: run.advice,
            by_priority: by_priority.collect(),
            refused: all.refused,
        }
    }

    pub fn refused_all(&self) -> u64 {
        self.refused.values().sum()
    }
}
