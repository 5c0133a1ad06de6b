//! The dual function of a problem, and its minimisation over the prices.

use super::Watch;
use super::problem::Problem;
use crate::model::resource::Dimension;

/// How far a task's choice is blurred, as shares of what a task gains on average, one after the other.
const BLURS: [f64; 6] = [0.1, 0.03, 0.01, 0.003, 0.001, 0.0003];
/// Evaluations with each blur.
const PASSES: usize = 16;
/// The first step for a blur of 1; it adapts.
const FIRST_STEP: f64 = 0.3;
const LONGER: f64 = 1.05;
const SHORTER: f64 = 0.6;
/// What is worth so many blurs less than the best has no weight worth counting: e^-10.
const BLURS_MAX: f64 = 10.0;
/// Rounding errors of the sums are far below this share of the bound.
const ROUNDING: f64 = 1e-9;

/// Prices by cell, made from the prices of the rows.
struct Tables {
    /// Of a slot until the beginning of each cell, summed up: one more than there are cells.
    slot_until: Vec<f64>,
    request: Vec<f64>,
    token: Vec<f64>,
    has_slot_price: Vec<bool>,
}

/// Where the rows of each constraint begin in the flat list of prices: first a row for the slots of each
/// resource and cell, then each rate's.
struct Layout {
    rate_first: Vec<usize>,
    rows: usize,
    capacity: Vec<f64>,
    /// What a unit of a row is worth at most, about: prices are of this size.
    scale: Vec<f64>,
    /// What a task gains on average without prices.
    gain: f64,
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
        Layout {
            rate_first,
            rows: capacity.len(),
            capacity,
            scale,
            gain: gain.max(f64::MIN_POSITIVE),
        }
    }
}

/// A start that a task may choose, and what it gains there under the prices.
#[derive(Clone, Copy)]
struct Offer {
    net: f64,
    choice: usize,
    start: f64,
    cell: usize,
}

/// What the tasks take together: by row, and on the way there by resource and cell.
struct Used {
    rows: Vec<f64>,
    requests: Vec<f64>,
    tokens: Vec<f64>,
}

/// The dual function at some prices: as it is, and blurred.
#[derive(Clone, Copy)]
struct Value {
    exact: f64,
    blurred: f64,
}

impl<'a> Dual<'a> {
    fn new(problem: &'a Problem) -> Self {
        let (resources, cells) = (problem.slots.len(), problem.cells);
        let tables = Tables {
            slot_until: vec![0.0; resources * (cells + 1)],
            request: vec![0.0; resources * cells],
            token: vec![0.0; resources * cells],
            has_slot_price: vec![false; resources],
        };
        Dual { problem, layout: Layout::new(problem), tables }
    }

    fn tabulate(&mut self, prices: &[f64]) {
        let cells = self.problem.cells;
        let tables = &mut self.tables;
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

    /// The starts that can be best for a task, and those that are nearly; the net value of the best,
    /// at least 0. Between the edges of cells, for the start and for the end, the net value is linear in
    /// the start, so that only edges can be best; at the edge of a rate's cell it jumps, and both sides
    /// count.
    fn offers(&self, task: usize, margin: f64, offers: &mut Vec<Offer>) -> f64 {
        let problem = self.problem;
        offers.clear();
        let mut best = 0.0_f64;
        let first = problem.first[task];
        for (place, choice) in problem.choices_of(task).iter().enumerate() {
            if choice.value <= best - margin || choice.value <= 0.0 {
                break;
            }
            let resource = choice.resource as usize;
            let has_slot_price = self.tables.has_slot_price[resource];
            let mut offer = |start: f64, cell: usize| {
                let worth = choice.value - choice.fall * (start - choice.from);
                let at = resource * problem.cells + cell;
                let mut net =
                    worth - self.tables.request[at] - choice.tokens * self.tables.token[at];
                if net <= best - margin {
                    return;
                }
                if has_slot_price {
                    net -= self.slot_until(resource, start + choice.duration)
                        - self.slot_until(resource, start);
                }
                if net > best - margin {
                    best = best.max(net);
                    offers.push(Offer { net, choice: first + place, start, cell });
                }
            };
            let from_cell = choice.from as usize;
            offer(choice.from, from_cell);
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

    /// The dual function, and what the tasks take of each row where each spreads over what is nearly
    /// best for it: the gradient of the blurred function.
    fn pass(
        &mut self,
        prices: &[f64],
        blur: f64,
        used: &mut Used,
        offers: &mut Vec<Offer>,
    ) -> Value {
        self.tabulate(prices);
        for table in [&mut used.rows, &mut used.requests, &mut used.tokens] {
            table.fill(0.0);
        }
        let cells = self.problem.cells;
        let sold: f64 =
            prices.iter().zip(&self.layout.capacity).map(|(price, amount)| price * amount).sum();
        let mut value = Value { exact: sold, blurred: sold };
        for task in 0..self.problem.tasks() {
            let best = self.offers(task, blur * BLURS_MAX, offers);
            value.exact += best;
            let mut weights = libm::exp(-best / blur);
            for offer in offers.iter_mut() {
                // From here on the weight, which is all that is needed.
                offer.net = libm::exp((offer.net - best) / blur);
                weights += offer.net;
            }
            value.blurred += best + blur * libm::log(weights);
            for offer in offers.iter() {
                let weight = offer.net / weights;
                let choice = &self.problem.choices[offer.choice];
                let at = choice.resource as usize * cells;
                used.requests[at + offer.cell] += weight;
                used.tokens[at + offer.cell] += weight * choice.tokens;
                let end = offer.start + choice.duration;
                for cell in offer.start as usize..=(end as usize).min(cells - 1) {
                    let overlap = end.min((cell + 1) as f64) - offer.start.max(cell as f64);
                    used.rows[at + cell] += weight * overlap.max(0.0);
                }
            }
        }
        for (rate, first) in self.problem.rates.iter().zip(&self.layout.rate_first) {
            let table = match rate.dimension {
                Dimension::Requests => &used.requests,
                Dimension::Tokens => &used.tokens,
            };
            let table = &table[rate.resource * cells..][..cells];
            for row in 0..cells.div_ceil(rate.stride) {
                let from = row * rate.stride;
                used.rows[first + row] = table[from..(from + rate.length).min(cells)].iter().sum();
            }
        }
        value
    }
}

/// The least value of the dual function that was found.
///
/// The function itself has a kink wherever tasks are alike, and steps along its subgradients zigzag. So
/// it is blurred, which makes it smooth, and the blur made smaller and smaller (Nesterov, "Smooth
/// minimization of non-smooth functions", Mathematical Programming 2005); the steps are accelerated, and
/// start anew where they overshoot (O'Donoghue and Candès, "Adaptive restart for accelerated gradient
/// schemes", 2015). Every point is evaluated without the blur as well, and only that counts.
/// `None`: `watch` said to stop.
pub fn minimise(problem: &Problem, watch: Watch<'_>) -> Option<f64> {
    let mut dual = Dual::new(problem);
    let rows = dual.layout.rows;
    let table = problem.slots.len() * problem.cells;
    let mut used =
        Used { rows: vec![0.0; rows], requests: vec![0.0; table], tokens: vec![0.0; table] };
    let mut offers = Vec::new();
    let mut best_prices = vec![0.0; rows];
    let mut best = f64::INFINITY;
    let mut step = FIRST_STEP;
    let (mut done, mut told) = (0, 0);
    for blur in BLURS {
        let mut prices = best_prices.clone();
        let mut ahead = prices.clone();
        let (mut momentum, mut before) = (1.0_f64, f64::INFINITY);
        for _ in 0..PASSES {
            // Progress is told in tasks: a bound counts as much as a run.
            done += 1;
            let news = problem.tasks() * done / (BLURS.len() * PASSES) - told;
            told += news;
            if !watch(news as u64) {
                return None;
            }
            let value = dual.pass(&ahead, blur * dual.layout.gain, &mut used, &mut offers);
            if value.exact < best {
                best = value.exact;
                best_prices.copy_from_slice(&ahead);
            }
            if value.blurred > before {
                momentum = 1.0;
                step *= SHORTER;
            } else {
                step *= LONGER;
            }
            before = value.blurred;
            let next_momentum = (1.0 + (1.0 + 4.0 * momentum * momentum).sqrt()) / 2.0;
            let carried = (momentum - 1.0) / next_momentum;
            momentum = next_momentum;
            for row in 0..rows {
                let excess = used.rows[row] / dual.layout.capacity[row] - 1.0;
                let next = (ahead[row] + step * blur * dual.layout.scale[row] * excess).max(0.0);
                ahead[row] = (next + carried * (next - prices[row])).max(0.0);
                prices[row] = next;
            }
        }
    }
    Some(best * (1.0 + ROUNDING))
}
