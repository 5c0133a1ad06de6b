//! The dual function of a problem, and its minimisation over the prices.

use super::problem::{Choice, Problem};
use crate::backtest::{BacktestError, Watch};
use crate::model::resource::Dimension;

/// Evaluations of the dual function.
const PASSES: usize = 250;
/// The first step aims at this share below the best value so far.
const AIM: f64 = 0.05;
/// How much a step is lengthened where it led to a better value, and shortened after some that did not.
const LONGER: f64 = 1.1;
const SHORTER: f64 = 0.7;
const FAILURES_MAX: usize = 6;
/// The weight of the newest subgradient in the mean along which steps go.
const NEWEST: f64 = 0.2;
/// Rounding errors of the sums are far below this share of the bound.
const ROUNDING: f64 = 1e-9;

/// Prices by cell, made from the prices of the rows.
struct Tables {
    /// Of a slot until the beginning of each cell, summed up: one more than there are cells.
    slot_until: Vec<f64>,
    request: Vec<f64>,
    token: Vec<f64>,
    has_slot_price: Vec<bool>,
    has_rate_price: Vec<bool>,
}

/// Where the rows of each constraint begin in the flat list of prices: first a row for the slots of each
/// resource and cell, then each rate's.
struct Layout {
    rate_first: Vec<usize>,
    rows: usize,
    capacity: Vec<f64>,
    /// What a unit of a row is worth at most, about: prices are of this size.
    scale: Vec<f64>,
}

struct Dual<'a> {
    problem: &'a Problem,
    layout: Layout,
    tables: Tables,
}

impl Layout {
    fn new(problem: &Problem) -> Self {
        let cells = problem.cells;
        let (mut gain, mut duration, mut tokens, mut count) = (0.0, 0.0, 0.0, 0.0_f64);
        for task in 0..problem.tasks() {
            if let Some(best) = problem.choices_of(task).first() {
                gain += best.value;
                duration += best.duration;
                tokens += best.tokens;
                count += 1.0;
            }
        }
        let gain = gain / count.max(1.0);
        let per_slot_cell = gain / (duration / count.max(1.0)).max(1e-3);
        let per_token = gain / (tokens / count.max(1.0)).max(1.0);
        let mut capacity = Vec::new();
        let mut scale = Vec::new();
        for slots in &problem.slots {
            capacity.extend(std::iter::repeat_n(*slots, cells));
            scale.extend(std::iter::repeat_n(per_slot_cell, cells));
        }
        let mut rate_first = Vec::new();
        for rate in &problem.rates {
            rate_first.push(capacity.len());
            let rows = cells.div_ceil(rate.stride);
            capacity.extend(std::iter::repeat_n(rate.capacity, rows));
            let unit = match rate.dimension {
                Dimension::Requests => gain,
                Dimension::Tokens => per_token,
            };
            let overlap = rate.length.div_ceil(rate.stride) as f64;
            scale.extend(std::iter::repeat_n(unit / overlap, rows));
        }
        Layout { rate_first, rows: capacity.len(), capacity, scale }
    }
}

impl Problem {
    pub fn choices_of(&self, task: usize) -> &[Choice] {
        &self.choices[self.first[task]..self.first[task + 1]]
    }
}

/// The best that a task can do under the prices.
#[derive(Clone, Copy)]
struct Best {
    net: f64,
    choice: usize,
    start: f64,
    cell: usize,
}

impl<'a> Dual<'a> {
    fn new(problem: &'a Problem) -> Self {
        let (resources, cells) = (problem.slots.len(), problem.cells);
        let tables = Tables {
            slot_until: vec![0.0; resources * (cells + 1)],
            request: vec![0.0; resources * cells],
            token: vec![0.0; resources * cells],
            has_slot_price: vec![false; resources],
            has_rate_price: vec![false; resources],
        };
        Dual { problem, layout: Layout::new(problem), tables }
    }

    fn tabulate(&mut self, prices: &[f64]) {
        let cells = self.problem.cells;
        let tables = &mut self.tables;
        tables.has_rate_price.fill(false);
        for resource in 0..self.problem.slots.len() {
            let slot = &prices[resource * cells..(resource + 1) * cells];
            let until = &mut tables.slot_until[resource * (cells + 1)..][..=cells];
            let mut sum = 0.0;
            for (until, price) in until.iter_mut().zip(slot) {
                *until = sum;
                sum += price;
            }
            until[cells] = sum;
            tables.has_slot_price[resource] = sum > 0.0;
        }
        tables.request.fill(0.0);
        tables.token.fill(0.0);
        for (rate, first) in self.problem.rates.iter().zip(&self.layout.rate_first) {
            let table = match rate.dimension {
                Dimension::Requests => &mut tables.request,
                Dimension::Tokens => &mut tables.token,
            };
            let table = &mut table[rate.resource * cells..][..cells];
            let rows = cells.div_ceil(rate.stride);
            for (row, price) in prices[*first..][..rows].iter().enumerate() {
                if *price > 0.0 {
                    tables.has_rate_price[rate.resource] = true;
                    let from = row * rate.stride;
                    for cell in &mut table[from..(from + rate.length).min(cells)] {
                        *cell += price;
                    }
                }
            }
        }
    }

    /// The price of a slot from the beginning of time until `at`.
    fn slot_until(&self, resource: usize, at: f64) -> f64 {
        let until = &self.tables.slot_until[resource * (self.problem.cells + 1)..];
        let cell = (at as usize).min(self.problem.cells - 1);
        until[cell] + (at - cell as f64) * (until[cell + 1] - until[cell])
    }

    /// The best of a task's choices. Between the edges of cells, for the start and for the end, the net
    /// value is linear in the start, so that only edges can be best; at the edge of a rate's cell it
    /// jumps, and both sides count.
    fn best(&self, task: usize) -> Option<Best> {
        let problem = self.problem;
        let mut best: Option<Best> = None;
        let first = problem.first[task];
        for (place, choice) in problem.choices_of(task).iter().enumerate() {
            let so_far = best.map_or(0.0, |best| best.net);
            if choice.value <= so_far {
                break;
            }
            let resource = choice.resource as usize;
            let has_slot_price = self.tables.has_slot_price[resource];
            let mut offer = |start: f64, cell: usize| {
                let worth = choice.value - choice.fall * (start - choice.from);
                let at = resource * problem.cells + cell;
                let mut net =
                    worth - self.tables.request[at] - choice.tokens * self.tables.token[at];
                if net <= best.map_or(0.0, |best| best.net) {
                    return;
                }
                if has_slot_price {
                    net -= self.slot_until(resource, start + choice.duration)
                        - self.slot_until(resource, start);
                }
                if net > best.map_or(0.0, |best| best.net) {
                    best = Some(Best { net, choice: first + place, start, cell });
                }
            };
            let from_cell = choice.from as usize;
            offer(choice.from, from_cell);
            if !has_slot_price && !self.tables.has_rate_price[resource] {
                continue;
            }
            let to_cell = choice.to as usize;
            for cell in from_cell + 1..=to_cell {
                if has_slot_price {
                    offer(cell as f64, cell - 1);
                }
                offer(cell as f64, cell);
            }
            if has_slot_price {
                let ends = (choice.from + choice.duration) as usize + 1
                    ..=(choice.to + choice.duration) as usize;
                for end in ends {
                    let start = (end as f64 - choice.duration).clamp(choice.from, choice.to);
                    offer(start, start as usize);
                }
                offer(choice.to, to_cell);
            }
        }
        best
    }

    /// The dual function, and what its maximisers take of each row.
    fn pass(&mut self, prices: &[f64], used: &mut [f64], by_cell: &mut [Vec<f64>; 2]) -> f64 {
        self.tabulate(prices);
        used.fill(0.0);
        for table in by_cell.iter_mut() {
            table.fill(0.0);
        }
        let cells = self.problem.cells;
        let mut sum: f64 =
            prices.iter().zip(&self.layout.capacity).map(|(price, amount)| price * amount).sum();
        for task in 0..self.problem.tasks() {
            let Some(best) = self.best(task) else { continue };
            sum += best.net;
            let choice = &self.problem.choices[best.choice];
            let at = choice.resource as usize * cells;
            by_cell[0][at + best.cell] += 1.0;
            by_cell[1][at + best.cell] += choice.tokens;
            let end = best.start + choice.duration;
            let last = (end as usize).min(cells - 1);
            for cell in best.start as usize..=last {
                let overlap = end.min((cell + 1) as f64) - best.start.max(cell as f64);
                used[at + cell] += overlap.max(0.0);
            }
        }
        for (rate, first) in self.problem.rates.iter().zip(&self.layout.rate_first) {
            let table = match rate.dimension {
                Dimension::Requests => &by_cell[0],
                Dimension::Tokens => &by_cell[1],
            };
            let table = &table[rate.resource * cells..][..cells];
            for row in 0..cells.div_ceil(rate.stride) {
                let from = row * rate.stride;
                used[first + row] = table[from..(from + rate.length).min(cells)].iter().sum();
            }
        }
        sum
    }
}

/// The least value of the dual function that was found, by the volume algorithm (Barahona and Anbil,
/// "The volume algorithm", Mathematical Programming 2000): steps start at the best prices so far and go
/// along the mean of the subgradients, because a single one zigzags wherever many tasks are alike.
///
/// # Errors
/// `watch` said to stop.
pub fn minimise(problem: &Problem, watch: Watch<'_>) -> Result<f64, BacktestError> {
    let mut dual = Dual::new(problem);
    let rows = dual.layout.rows;
    let table = problem.slots.len() * problem.cells;
    let mut by_cell = [vec![0.0; table], vec![0.0; table]];
    let (mut used, mut mean) = (vec![0.0; rows], vec![0.0; rows]);
    let mut best_prices = vec![0.0; rows];
    let mut prices = best_prices.clone();
    let mut best = dual.pass(&best_prices, &mut mean, &mut by_cell);
    let (mut length, mut failures) = (1.0, 0);
    let mut told = 0;
    for done in 1..=PASSES {
        // Progress is told in tasks: a bound counts as much as a run.
        let news = problem.tasks() * done / PASSES - told;
        told += news;
        if !watch(news as u64) {
            return Err(BacktestError::Stopped);
        }
        let Layout { capacity, scale, .. } = &dual.layout;
        let norm: f64 = (0..rows)
            .filter(|row| best_prices[*row] > 0.0 || mean[*row] > capacity[*row])
            .map(|row| {
                let excess = mean[row] / capacity[row] - 1.0;
                scale[row] * capacity[row] * excess * excess
            })
            .sum();
        if norm <= 0.0 {
            // Nothing is short: without prices the value is the optimum.
            continue;
        }
        let step = length * AIM * best / norm;
        for row in 0..rows {
            let excess = mean[row] / capacity[row] - 1.0;
            prices[row] = (best_prices[row] + step * scale[row] * excess).max(0.0);
        }
        let value = dual.pass(&prices, &mut used, &mut by_cell);
        for (mean, used) in mean.iter_mut().zip(&used) {
            *mean += NEWEST * (used - *mean);
        }
        if std::env::var("BT").is_ok() { eprintln!("{done} {value:.4} {best:.4} {length:.5}"); }
        if value < best {
            best = value;
            best_prices.copy_from_slice(&prices);
            (length, failures) = (length * LONGER, 0);
        } else {
            failures += 1;
            if failures == FAILURES_MAX {
                (length, failures) = (length * SHORTER, 0);
            }
        }
    }
    Ok(best * (1.0 + ROUNDING))
}
