//! What the planner with hindsight knows: for each task what each resource would be worth to it and
//! would take, and the capacities, on a grid of time.

use crate::model::resource::{Dimension, Limit};

/// One way to serve a task: a resource, and starts in [from, to]. Times are in cells of the grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    pub resource: u32,
    /// The value of a start at `from`; a later one is worth `fall` less for each cell.
    pub value: f64,
    pub fall: f64,
    pub from: f64,
    pub to: f64,
    pub duration: f64,
    pub tokens: f64,
}

/// A rate limit as rows of the programme: in every `length` cells, beginning at multiples of `stride`,
/// no more than `capacity`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateRows {
    pub resource: usize,
    pub dimension: Dimension,
    pub length: usize,
    pub stride: usize,
    pub capacity: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    pub cell_ms: f64,
    pub cells: usize,
    /// The choices of all tasks, each task's in order of falling value.
    pub choices: Vec<Choice>,
    /// Where each task's choices begin; one more than there are tasks.
    pub first: Vec<usize>,
    /// Concurrent requests of each resource.
    pub slots: Vec<f64>,
    pub rates: Vec<RateRows>,
}

/// Rows of one limit overlap so many times: more of them come closer to a sliding window.
const OVERLAP: usize = 2;

impl Default for Problem {
    fn default() -> Self {
        Problem {
            cell_ms: 1.0,
            cells: 0,
            choices: Vec::new(),
            first: vec![0],
            slots: Vec::new(),
            rates: Vec::new(),
        }
    }
}

impl Problem {
    pub fn add_rate(&mut self, resource: usize, limit: Limit) {
        self.add_capacity(resource, limit.dimension, limit.window_s, limit.amount as f64);
    }

    /// As [`Problem::add_rate`]; parts of a unit count.
    pub fn add_capacity(
        &mut self,
        resource: usize,
        dimension: Dimension,
        window_s: u32,
        amount: f64,
    ) {
        let window = f64::from(window_s) * 1_000.0 / self.cell_ms;
        let (length, times) = row_of(window);
        self.rates.push(RateRows {
            resource,
            dimension,
            length,
            stride: (length / OVERLAP).max(1),
            capacity: amount * times,
        });
    }

    /// The choices from `begin` on are those of one task.
    pub fn end_task(&mut self, begin: usize) {
        self.choices[begin..].sort_by(|one, other| other.value.total_cmp(&one.value));
        self.first.push(self.choices.len());
    }

    pub fn tasks(&self) -> usize {
        self.first.len() - 1
    }

    pub fn choices_of(&self, task: usize) -> &[Choice] {
        &self.choices[self.first[task]..self.first[task + 1]]
    }
}

/// How many cells a row of a limit spans whose window is `window` cells, and how many times the limit's
/// amount fits into them at most: any span is covered by so many windows as begin in it. Of the first
/// few possible rows, the one that allows least.
fn row_of(window: f64) -> (usize, f64) {
    let mut best = (1, libm::ceil(1.0 / window));
    for times in 1..=8_u32 {
        let times = f64::from(times);
        let length = libm::floor(times * window);
        if length >= 1.0 && times / length < best.1 / best.0 as f64 {
            best = (length as usize, times);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_allow_no_less_than_their_window() {
        // (window in cells, length, times)
        for (window, length, times) in
            [(6.0, 6, 1.0), (0.25, 1, 4.0), (1.5, 3, 2.0), (2.4, 12, 5.0), (0.3, 2, 7.0)]
        {
            let found = row_of(window);
            assert_eq!(found, (length, times), "{window}");
            assert!(times * window >= length as f64 - 1e-9);
        }
    }
}
