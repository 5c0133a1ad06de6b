//! `simulate`: the whole system from a seed.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::Global;
use super::exit::Exit;
use super::print::Format;
use super::signals;
use crate::clock::Stopwatch;
#[cfg(feature = "planted-bugs")]
use crate::planted::Bug;
use crate::sim::auditor::Violation;
use crate::sim::faults::Coverage;
use crate::sim::{Beginnings, Outcome, SimulationSettings, run as simulate};

/// Violations that are printed; all are counted.
const SHOWN_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Runs the real worker and lanes over a modelled Kafka, in virtual time: processes crash, stand still, come \
and go, requests and answers get lost or are errors, disks are damaged, clocks differ. Then everything \
must come to its end. An independent audit says what should not be, and every output is decided \
again. A seed repeats its run exactly.

Exit code 3 where anything was found, or a fault is missing that must be met.

Examples:
  pointsman simulate --seed 7
  pointsman simulate --seeds 1..2000 --json")]
pub struct SimulateArgs {
    /// One seed
    #[arg(long, env = "POINTSMAN_SIMULATE_SEED", value_name = "SEED", conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Seeds from A to B, both included
    #[arg(long, env = "POINTSMAN_SIMULATE_SEEDS", value_name = "A..B", value_parser = range, default_value = "1..100")]
    seeds: (u64, u64),
    /// Tasks of each seed
    #[arg(long, env = "POINTSMAN_SIMULATE_TASKS", value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    tasks: u64,
    /// Lanes of each seed
    #[arg(long, env = "POINTSMAN_SIMULATE_LANES", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    lanes: u32,
    /// Lanes that are added to each seed under way
    #[arg(long, env = "POINTSMAN_SIMULATE_ADD_LANES", value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    add_lanes: u32,
    /// Processes of the router
    #[arg(long, env = "POINTSMAN_SIMULATE_INSTANCES", value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    instances: u32,
    /// Seeds that run at once [default: one for each core]
    #[arg(long, env = "POINTSMAN_SIMULATE_JOBS", value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Fail where a fault never met a step of the commit path
    #[arg(long, env = "POINTSMAN_SIMULATE_REQUIRE_COVERAGE")]
    require_coverage: bool,
    /// Plant this bug, for the simulation to find
    #[cfg(feature = "planted-bugs")]
    #[arg(long, env = "POINTSMAN_SIMULATE_PLANTED", value_name = "NAME", value_parser = bug)]
    planted: Option<Bug>,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let parsed = text.split_once("..").and_then(|(from, to)| {
        let to = to.strip_prefix('=').unwrap_or(to);
        Some((from.parse().ok()?, to.parse().ok()?))
    });
    parsed
        .filter(|(from, to): &(u64, u64)| from <= to)
        .ok_or_else(|| "two seeds such as 1..2000, the first not above the second".to_owned())
}

#[cfg(feature = "planted-bugs")]
fn bug(text: &str) -> Result<Bug, String> {
    let names = Bug::ALL.map(Bug::name).join(", ");
    let found = Bug::ALL.into_iter().find(|bug| bug.name() == text);
    found.ok_or_else(|| format!("one of {names}"))
}

/// All seeds together.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    steps: u64,
    requests: u64,
    replayed: u64,
    violations: Vec<Violation>,
    coverage: Coverage,
    beginnings: Beginnings,
    /// Time that cores were at work.
    cpu: Duration,
}

impl Total {
    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.requests += outcome.requests;
        self.replayed += outcome.replayed;
        self.violations.extend(outcome.violations);
        self.coverage.add(&outcome.coverage);
        self.beginnings.add(outcome.beginnings);
    }

    fn seeds_per_core_minute(&self) -> f64 {
        self.seeds as f64 * 60.0 / self.cpu.as_secs_f64().max(1e-9)
    }

    /// What should have happened and did not.
    fn missing(&self) -> Vec<String> {
        let cells = self.coverage.missing().into_iter();
        let cells = cells.map(|(fault, step)| format!("{} at {}", fault.name(), step.name()));
        let counts = self.beginnings.counts().into_iter();
        let counts = counts.filter(|(_, count)| *count == 0).map(|(name, _)| name.to_owned());
        cells.chain(counts).collect()
    }
}

pub fn run(global: &Global, arguments: &SimulateArgs) -> anyhow::Result<Exit> {
    #[cfg(feature = "planted-bugs")]
    if let Some(bug) = arguments.planted {
        crate::planted::plant(bug);
    }
    let printer = global.printer();
    let settings = SimulationSettings {
        tasks: arguments.tasks,
        lanes: arguments.lanes,
        lanes_added: arguments.add_lanes,
        instances: arguments.instances,
    };
    let (first, last) = arguments.seed.map_or(arguments.seeds, |seed| (seed, seed));
    let stop = signals::stop_on_signals()?;
    let bar = ProgressBar::new(last - first + 1);
    let jobs = arguments.jobs.or_else(|| std::thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, NonZeroUsize::get);
    let began = Stopwatch::start();
    let (next, total) = (AtomicU64::new(first), Mutex::new(Total::default()));
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last {
                        break;
                    }
                    match simulate(seed, &settings) {
                        Ok(outcome) => {
                            total.lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
                        }
                        Err(error) => {
                            bar.println(format!("seed {seed}: {error}"));
                            failed.store(true, Ordering::Relaxed);
                        }
                    }
                    bar.inc(1);
                }
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                total.cpu += crate::clock::thread_cpu();
            });
        }
    });
    bar.finish_and_clear();
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.violations.sort_by_key(|violation| violation.seed);
    let elapsed_s = began.elapsed().as_secs_f64();
    let missing = if arguments.require_coverage { total.missing() } else { Vec::new() };
    let mut out = std::io::stdout().lock();
    if printer.format != Format::Table {
        let line = json!({
            "seeds": total.seeds, "steps": total.steps, "elapsed_s": elapsed_s,
            "violations": total.violations, "missing": missing,
            "seeds_per_core_minute": total.seeds_per_core_minute().round(),
        });
        writeln!(out, "{line}")?;
    } else {
        print(&mut out, &total, elapsed_s)?;
        for missing in &missing {
            writeln!(out, "never met: {missing}")?;
        }
    }
    if failed.load(Ordering::Relaxed) {
        return Ok(Exit::Failed);
    }
    let is_clean = total.violations.is_empty() && missing.is_empty();
    Ok(if is_clean { Exit::Ok } else { Exit::Difference })
}

fn print(out: &mut impl Write, total: &Total, elapsed_s: f64) -> std::io::Result<()> {
    for violation in total.violations.iter().take(SHOWN_MAX) {
        let Violation { seed, invariant, detail } = violation;
        writeln!(out, "seed {seed}: {invariant}: {detail}")?;
    }
    writeln!(
        out,
        "{} seeds, {} steps, {} requests, {} faults, {} decisions made again, {} violations in \
         {elapsed_s:.1} s ({:.0} seeds a minute on each core)",
        total.seeds,
        total.steps,
        total.requests,
        total.coverage.faults(),
        total.replayed,
        total.violations.len(),
        total.seeds_per_core_minute(),
    )?;
    let counts = total.beginnings.counts().map(|(name, count)| format!("{count} {name}"));
    let ahead = format!("{} ahead of the offsets", total.beginnings.behind);
    writeln!(out, "{}, {ahead}\n\n{}", counts.join(", "), total.coverage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_with_both_ends() {
        assert_eq!(range("1..2000"), Ok((1, 2_000)));
        assert_eq!(range("5..=5"), Ok((5, 5)));
        for wrong in ["7", "2..1", "a..b", ""] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
