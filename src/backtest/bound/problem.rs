//! The scenario as the planner with hindsight sees it: for each task what each resource would be worth
//! to it and would take, and the capacities on a grid of time.

use std::collections::BTreeMap;

use super::{Aim, Insight, QUALITY_ONLY};
use crate::backtest::scenario::Scenario;
use crate::hindsight::problem::{Choice, Problem};

/// Cells of the shortest rate window, and of the time that a task can wait: at least so many, so that
/// starts are told apart within both.
const CELLS_PER_WINDOW: f64 = 6.0;
const CELLS_PER_WAIT: f64 = 3.0;
/// Cells of the time that a task can wait, at most: each is a start to be tried, with every resource.
const CELLS_PER_WAIT_MAX: f64 = 64.0;
/// Stands for the shortest window where there is none.
const WINDOW_MS: u64 = 60_000;
/// Cells of the whole time: each costs some numbers for every resource and pass.
const CELLS_MAX: f64 = 20_000.0;

impl Problem {
    /// The whole scenario.
    pub(super) fn of(scenario: &Scenario, reach_ms: &[u64], aim: Aim, insight: Insight) -> Self {
        let longest_ms = |task: usize| {
            let outcomes = (0..scenario.resources().len())
                .filter_map(|resource| Some(scenario.outcome(task, resource)?.duration_ms));
            outcomes.fold(0.0, f64::max)
        };
        let end_ms = (0..scenario.tasks.len())
            .map(|task| reach_ms[task] as f64 + longest_ms(task))
            .fold(0.0, f64::max);
        let cell_ms = cell_ms(scenario, reach_ms, end_ms) as f64;
        let mut problem = Problem {
            cell_ms,
            // A start or an end exactly on the last edge needs the cell after it.
            cells: (end_ms / cell_ms) as usize + 2,
            slots: scenario.resources().iter().map(|spec| f64::from(spec.slots)).collect(),
            ..Problem::default()
        };
        for (resource, spec) in scenario.resources().iter().enumerate() {
            for limit in &spec.limits {
                problem.add_rate(resource, *limit);
            }
        }
        let quality = match insight {
            Insight::Full => None,
            Insight::ClassMeans => Some(class_means(scenario)),
        };
        for (task, reach_ms) in reach_ms.iter().enumerate() {
            problem.add_task(scenario, task, *reach_ms, aim, quality.as_ref());
        }
        problem
    }

    fn add_task(
        &mut self,
        scenario: &Scenario,
        task: usize,
        reach_ms: u64,
        aim: Aim,
        class_means: Option<&ClassMeans<'_>>,
    ) {
        let timed = &scenario.tasks[task];
        let weights = match aim {
            Aim::Utility => timed.task.objective.weights(),
            Aim::Quality => QUALITY_ONLY,
        };
        let per_ms = weights.second / 1_000.0;
        let begin = self.choices.len();
        for resource in 0..scenario.resources().len() {
            let Some(outcome) = scenario.outcome(task, resource) else { continue };
            if !scenario.could_serve(task, resource) {
                continue;
            }
            let mean = class_means.and_then(|means| means.get(&(resource, &*timed.task.class)));
            let quality = mean.copied().unwrap_or(outcome.quality);
            let cost_usd = scenario.cost_usd(task, resource, outcome.output_tokens);
            let at_once =
                weights.quality * quality - weights.usd * cost_usd - per_ms * outcome.duration_ms;
            let last_ms = timed.deadline_at_ms().map_or(reach_ms as f64, |deadline| {
                (reach_ms as f64).min(deadline as f64 - outcome.duration_ms)
            });
            let used = timed.task.input_tokens.saturating_add(outcome.output_tokens);
            let used = u64::from(used).min(timed.tokens_max());
            for (from_ms, to_ms) in spans(scenario, resource, timed.arrival_ms, last_ms) {
                let value = at_once - per_ms * (from_ms - timed.arrival_ms as f64);
                // Later is worth no more: it could only lose.
                if value > 0.0 {
                    self.choices.push(Choice {
                        resource: resource as u32,
                        value,
                        fall: per_ms * self.cell_ms,
                        from: from_ms / self.cell_ms,
                        to: to_ms / self.cell_ms,
                        duration: outcome.duration_ms / self.cell_ms,
                        tokens: used as f64,
                    });
                }
            }
        }
        self.end_task(begin);
    }
}

/// The grid: the shortest rate window in whole parts, so that most windows are whole cells.
fn cell_ms(scenario: &Scenario, reach_ms: &[u64], end_ms: f64) -> u64 {
    let limits = scenario.resources().iter().flat_map(|spec| &spec.limits);
    let window_ms = limits.map(|limit| u64::from(limit.window_s) * 1_000).min();
    let window_ms = window_ms.unwrap_or(WINDOW_MS);
    let waits_ms: f64 = scenario
        .tasks
        .iter()
        .zip(reach_ms)
        .map(|(timed, reach)| {
            let until = timed.deadline_at_ms().map_or(*reach, |deadline| deadline.min(*reach));
            (until - timed.arrival_ms) as f64
        })
        .sum();
    let wait_ms = (waits_ms / scenario.tasks.len().max(1) as f64).max(1.0);
    let wanted_ms = (window_ms as f64 / CELLS_PER_WINDOW).min(wait_ms / CELLS_PER_WAIT).max(1.0);
    let parts = libm::ceil(window_ms as f64 / wanted_ms) as u64;
    let parts = (parts..=window_ms).find(|parts| window_ms.is_multiple_of(*parts));
    let mut cell_ms = window_ms / parts.unwrap_or(1);
    let is_too_fine =
        |cell_ms: f64| end_ms / cell_ms > CELLS_MAX || wait_ms / cell_ms > CELLS_PER_WAIT_MAX;
    while is_too_fine(cell_ms as f64) {
        cell_ms *= 2;
    }
    cell_ms
}

/// The starts that a resource lets through: from the arrival to the last, without hard outages.
fn spans(scenario: &Scenario, resource: usize, arrival_ms: u64, last_ms: f64) -> Vec<(f64, f64)> {
    let mut spans = vec![(arrival_ms as f64, last_ms)];
    let hard = scenario.outages.iter().filter(|one| one.hard && one.resource == resource);
    for outage in hard {
        // Starts are whole milliseconds.
        let (until, after) = (outage.from_ms as f64 - 1.0, outage.to_ms as f64);
        spans = spans
            .into_iter()
            .flat_map(|(from, to)| [(from, to.min(until)), (from.max(after), to)])
            .filter(|(from, to)| from <= to)
            .collect();
    }
    spans.retain(|(from, to)| from <= to);
    spans
}

/// The mean quality of each resource over the tasks of a class.
type ClassMeans<'a> = BTreeMap<(usize, &'a str), f64>;

fn class_means(scenario: &Scenario) -> ClassMeans<'_> {
    let mut sums: BTreeMap<(usize, &str), (f64, f64)> = BTreeMap::new();
    for (task, timed) in scenario.tasks.iter().enumerate() {
        for resource in 0..scenario.resources().len() {
            if let Some(outcome) = scenario.outcome(task, resource) {
                let (sum, count) = sums.entry((resource, &timed.task.class)).or_default();
                *sum += outcome.quality;
                *count += 1.0;
            }
        }
    }
    sums.into_iter().map(|(key, (sum, count))| (key, sum / count)).collect()
}
