//! The share of the hindsight bound that a lane has reached lately.
//!
//! What each sampled task would have been worth on each resource is what the lane itself believed when
//! the task came, so this is the class-informed bound: the ceiling for a router that knows all arrivals,
//! sizes and durations in advance, but nothing more of single tasks than the lane does. Where not every
//! task is sampled, the limits are taken by the same part: an estimate then, as good as the sample is
//! large. It is an estimate on the cautious side: the bound counts neither what was in the limits before,
//! nor failures, nor tenants' limits, so the true share is higher.
//!
//! Only tasks that are worth more than nothing somewhere count: the objectives that merely rank
//! (`cheapest`, `fastest`) have no scale on which a share could be taken. Nor do tasks of several stages.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Watch;
use super::prices::minimise;
use super::problem::{Choice, Problem};
use super::sample::{Capacity, Key, NewSample, Sample, is_seen};
use crate::model::time::Timestamp;

/// What is looked back at.
pub const WINDOW_MS: u64 = 5 * 60 * 1_000;
/// Fewer tasks than these say nothing.
pub const TASKS_MIN: usize = 64;
/// Choices that are kept: five minutes of what a lane tells, and as much again. About 2 MiB.
const CHOICES_MAX: usize = 81_920;

/// Starts are told apart by a twelfth of the shortest window, within these bounds, milliseconds.
const CELLS_PER_WINDOW: u64 = 12;
const CELL_MS_MIN: u64 = 500;
const CELL_MS_MAX: u64 = 10_000;
/// Stands for the shortest window where there is none, seconds.
const RATE_WINDOW_S: u32 = 60;
/// An answer that takes longer counts as this long, milliseconds: the grid has an end.
const DURATION_MS_MAX: f64 = 600_000.0;

/// The samples of one lane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    tasks: BTreeMap<Key, Task>,
    choices: usize,
    capacities: Vec<Capacity>,
    newest: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
struct Task {
    seen: NewSample,
    /// What it earned, waiting taken off.
    earned: f64,
}

/// How much of what was possible.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// In [0, 1] but for what beliefs have changed between a task's arrival and its start.
    pub share: f64,
    /// Tasks that it rests on.
    pub tasks: usize,
}

/// What is to be solved for a share.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    problem: Problem,
    earned: f64,
}

impl Window {
    pub fn add(&mut self, sample: Sample) {
        match sample {
            Sample::New(seen) => {
                self.newest = self.newest.max(seen.at);
                self.choices += seen.offers.len();
                let earned = seen.utility.unwrap_or(0.0);
                if let Some(before) = self.tasks.insert(seen.key, Task { seen, earned }) {
                    self.choices -= before.seen.offers.len();
                }
                if self.choices > CHOICES_MAX {
                    self.forget();
                }
            }
            Sample::Served { key, at, utility } => {
                if let Some(task) = self.tasks.get_mut(&key) {
                    let waited_s = at.ms_since(task.seen.at) as f64 / 1_000.0;
                    task.earned = utility - task.seen.second * waited_s;
                }
            }
            Sample::Lost { key } => {
                if let Some(task) = self.tasks.get_mut(&key) {
                    task.earned = 0.0;
                }
            }
            Sample::Capacities(capacities) => self.capacities = capacities,
        }
    }

    /// Forgets what is older than the window, and where it is still too much the older half of it.
    fn forget(&mut self) {
        let mut from = self.newest.minus_ms(WINDOW_MS);
        for _ in 0..2 {
            self.tasks.retain(|_, task| task.seen.at >= from);
            self.choices = self.tasks.values().map(|task| task.seen.offers.len()).sum();
            if self.choices <= CHOICES_MAX {
                return;
            }
            from = self.newest.minus_ms(WINDOW_MS / 2);
        }
        // A lane that tells more than it may is not listened to.
        self.tasks.clear();
        self.choices = 0;
    }

    /// What there is to solve; `None` where too little is known.
    pub fn question(&mut self) -> Option<Question> {
        self.forget();
        let level = self.tasks.values().map(|task| task.seen.level).max()?;
        let serves = |resource: u16| {
            let capacity = self.capacities.get(usize::from(resource));
            capacity.is_some_and(|one| one.slots > 0 && one.rates.iter().all(|rate| rate.2 > 0))
        };
        let counts = |task: &&Task| {
            is_seen(task.seen.key, level)
                && task.seen.offers.iter().any(|one| one.utility > 0.0 && serves(one.resource))
        };
        let mut tasks: Vec<&Task> = self.tasks.values().filter(counts).collect();
        if tasks.len() < TASKS_MIN {
            return None;
        }
        tasks.sort_by_key(|task| task.seen.at);
        let begin = tasks.first()?.seen.at;
        let mut problem = self.grid(begin, &tasks);
        let sampled = 1.0 / libm::exp2(f64::from(level));
        for capacity in &self.capacities {
            problem.slots.push(f64::from(capacity.slots) * sampled);
        }
        for (resource, capacity) in self.capacities.iter().enumerate() {
            for (dimension, window_s, units) in &capacity.rates {
                if *units > 0 {
                    let amount = *units as f64 * sampled;
                    problem.add_capacity(resource, *dimension, *window_s, amount);
                }
            }
        }
        for task in &tasks {
            let first = problem.choices.len();
            let seen = &task.seen;
            let at_cell = |at: Timestamp| at.ms_since(begin) as f64 / problem.cell_ms;
            let (from, to) = (at_cell(seen.at), at_cell(seen.until.max(seen.at)));
            let fall = seen.second * problem.cell_ms / 1_000.0;
            let cell_ms = problem.cell_ms;
            let offers = seen.offers.iter().filter(|one| one.utility > 0.0 && serves(one.resource));
            problem.choices.extend(offers.map(|offer| Choice {
                resource: u32::from(offer.resource),
                value: offer.utility,
                fall,
                from,
                to,
                duration: offer.duration_ms.clamp(0.0, DURATION_MS_MAX) / cell_ms,
                tokens: seen.tokens,
            }));
            problem.end_task(first);
        }
        let earned = tasks.iter().map(|task| task.earned).sum();
        Some(Question { problem, earned })
    }

    /// An empty problem on a grid that all tasks fit on.
    fn grid(&self, begin: Timestamp, tasks: &[&Task]) -> Problem {
        let windows = self.capacities.iter().flat_map(|capacity| &capacity.rates);
        let window_s = windows.map(|(_, window_s, _)| *window_s).min().unwrap_or(RATE_WINDOW_S);
        let cell_ms = u64::from(window_s) * 1_000 / CELLS_PER_WINDOW;
        let cell_ms = cell_ms.clamp(CELL_MS_MIN, CELL_MS_MAX) as f64;
        let ends = tasks.iter().map(|task| {
            let durations = task.seen.offers.iter().map(|offer| offer.duration_ms);
            let longest_ms = durations.fold(0.0, f64::max).min(DURATION_MS_MAX);
            task.seen.until.max(task.seen.at).ms_since(begin) as f64 + longest_ms
        });
        let end_ms = ends.fold(0.0, f64::max);
        Problem { cell_ms, cells: (end_ms / cell_ms) as usize + 2, ..Problem::default() }
    }
}

impl Question {
    /// `None`: `watch` said to stop.
    pub fn answer(&self, watch: Watch<'_>) -> Option<Share> {
        let bound = minimise(&self.problem, watch)?;
        let tasks = self.problem.tasks();
        Some(Share { share: if bound > 0.0 { self.earned / bound } else { 1.0 }, tasks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hindsight::sample::Offer;
    use crate::model::resource::Dimension;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(1_000_000).plus_ms(ms)
    }

    /// Two resources: 1.0 on the first, 0.4 on the second; a task takes a second.
    fn task(key: Key, ms: u64, utility: Option<f64>) -> Sample {
        let offer = |resource, utility| Offer { resource, utility, duration_ms: 1_000.0 };
        Sample::New(NewSample {
            key,
            level: 0,
            at: at(ms),
            until: at(ms),
            second: 0.0,
            tokens: 100.0,
            offers: vec![offer(0, 1.0), offer(1, 0.4)],
            utility,
        })
    }

    fn capacities(requests: u64) -> Sample {
        let rated =
            |units| Capacity { slots: 1_000, rates: vec![(Dimension::Requests, 60, units)] };
        Sample::Capacities(vec![rated(requests), rated(1_000_000)])
    }

    fn share(window: &mut Window) -> Option<Share> {
        window.question()?.answer(&|_| true)
    }

    #[test]
    fn rows() {
        // 120 tasks within a second; the first resource takes 60 of them.
        let check = |what: &str, earned: fn(u64) -> Option<f64>, expected: f64| {
            let mut window = Window::default();
            window.add(capacities(60));
            (0..120).for_each(|number| window.add(task(number, number, earned(number))));
            let found = share(&mut window).map(|one| one.share).unwrap_or(f64::NAN);
            assert!((found - expected).abs() < 0.02, "{what}: {found}");
        };
        check("perfect", |number| Some(if number < 60 { 1.0 } else { 0.4 }), 1.0);
        check("all to the second", |_| Some(0.4), 120.0 * 0.4 / 84.0);
        check("none", |_| None, 0.0);
    }

    #[test]
    fn waiting_costs_what_it_costs_and_what_is_lost_earns_nothing() {
        let mut window = Window::default();
        window.add(capacities(1_000));
        for number in 0..100 {
            let mut sample = task(number, number, None);
            if let Sample::New(seen) = &mut sample {
                (seen.second, seen.until) = (0.1, at(60_000));
            }
            window.add(sample);
            window.add(Sample::Served { key: number, at: at(number + 5_000), utility: 1.0 });
        }
        let found = share(&mut window).map(|one| one.share).unwrap_or(f64::NAN);
        assert!((found - 0.5).abs() < 0.01, "{found}");
        (0..50).for_each(|key| window.add(Sample::Lost { key }));
        let found = share(&mut window).map(|one| one.share).unwrap_or(f64::NAN);
        assert!((found - 0.25).abs() < 0.01, "{found}");
    }

    #[test]
    fn of_a_sample_the_limits_are_taken_by_the_same_part() {
        let mut window = Window::default();
        window.add(capacities(240));
        for key in 0..480_u64 {
            if is_seen(key, 2) {
                let mut sample = task(key, key, Some(if key < 240 { 1.0 } else { 0.4 }));
                if let Sample::New(seen) = &mut sample {
                    seen.level = 2;
                }
                window.add(sample);
            }
        }
        let Some(found) = share(&mut window) else { panic!("no share") };
        assert_eq!(found.tasks, 120);
        assert!((found.share - 1.0).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn too_little_is_no_share_and_what_is_old_is_forgotten() {
        let mut window = Window::default();
        window.add(capacities(1_000));
        (0..63).for_each(|number| window.add(task(number, number, Some(1.0))));
        assert_eq!(share(&mut window), None);
        window.add(task(63, 63, Some(1.0)));
        assert_eq!(share(&mut window).map(|one| one.tasks), Some(64));
        window.add(task(64, WINDOW_MS + 1_000, Some(1.0)));
        assert_eq!(share(&mut window), None);
        assert_eq!(window.tasks.len(), 1);
    }

    #[test]
    fn samples_without_end_take_no_more_memory() {
        let mut window = Window::default();
        for number in 0..2 * CHOICES_MAX as u64 {
            window.add(task(number, number / 1_000, None));
            assert!(window.choices <= CHOICES_MAX + 2);
        }
    }

    #[test]
    fn whoever_is_told_to_stop_says_nothing() {
        let mut window = Window::default();
        window.add(capacities(60));
        (0..100).for_each(|number| window.add(task(number, number, Some(1.0))));
        let question = window.question();
        assert!(question.is_some_and(|question| question.answer(&|_| false).is_none()));
    }
}
