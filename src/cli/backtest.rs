//! `backtest`: the router over a scenario, offline, next to simple routers and to what was possible.

mod files;
mod table;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressStyle};

use super::Global;
use super::exit::{Exit, coded};
use super::print::Format;
use super::signals;
use crate::backtest::baselines::{self, Baseline};
use crate::backtest::bound::{Aim, Bounds, Insight, bound, wants_quality_only};
use crate::backtest::scenario::Scenario;
use crate::backtest::site::Run;
use crate::backtest::summary::{Report, Summary};
use crate::backtest::{BacktestError, Settings, Watch, route};
use crate::clock::Stopwatch;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Runs the routing core in a closed loop and in simulated time: a stand-in for the providers keeps the \
fleet's limits in sliding windows and answers each attempt after its true duration; results go back \
to the core as in production. The routing.* settings of the configuration hold.

Prints utility, quality, cost and refusals, next to simple routers on the same input, and as a share of \
two upper bounds: what a planner could have earned that knows the future, and one that knows of \
quality only each class's mean.

Exit code 3 where a limit was exceeded.

Examples:
  pointsman backtest --tasks tasks.jsonl --fleet fleet.toml
  pointsman backtest --tasks tasks.jsonl --fleet fleet.toml --outcomes outcomes.jsonl \\
      --outages outages.jsonl --health health.jsonl --decisions decisions.jsonl --json")]
pub struct BacktestArgs {
    /// Tasks, one JSON object a line, with arrival_ms, in the order of arrival
    #[arg(long, env = "POINTSMAN_BACKTEST_TASKS", value_name = "FILE")]
    tasks: PathBuf,
    /// The fleet file: TOML, or JSON where it ends in .json
    #[arg(long, env = "POINTSMAN_BACKTEST_FLEET", value_name = "FILE")]
    fleet: PathBuf,
    /// What resources make of tasks; what is missing is drawn from the fleet's priors and the seed
    #[arg(long, env = "POINTSMAN_BACKTEST_OUTCOMES", value_name = "FILE")]
    outcomes: Option<PathBuf>,
    /// When attempts on a resource fail
    #[arg(long, env = "POINTSMAN_BACKTEST_OUTAGES", value_name = "FILE")]
    outages: Option<PathBuf>,
    /// Health events, with at_ms from the scenario's start
    #[arg(long, env = "POINTSMAN_BACKTEST_HEALTH", value_name = "FILE")]
    health: Option<PathBuf>,
    /// Qualities seen before, to start from
    #[arg(long, env = "POINTSMAN_BACKTEST_HISTORY", value_name = "FILE")]
    history: Option<PathBuf>,
    /// Write every decision to this file, one JSON object a line
    #[arg(long, env = "POINTSMAN_BACKTEST_DECISIONS", value_name = "FILE")]
    decisions: Option<PathBuf>,
    /// The seed of everything that is drawn
    #[arg(long, env = "POINTSMAN_BACKTEST_SEED", value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Lanes that share the fleet: each begins with its part of every limit, and rights move between them
    #[arg(long, env = "POINTSMAN_BACKTEST_LANES", value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=64))]
    lanes: u32,
    /// Share of the tasks that come to the first lane, from 0 to 1 [default: every lane gets as many]
    #[arg(long, env = "POINTSMAN_BACKTEST_SKEW", value_name = "SHARE", value_parser = share)]
    skew: Option<f64>,
    /// Leave the simple routers out
    #[arg(long, env = "POINTSMAN_BACKTEST_NO_BASELINES")]
    no_baselines: bool,
    /// Leave the upper bounds out
    #[arg(long, env = "POINTSMAN_BACKTEST_NO_BOUNDS")]
    no_bounds: bool,
    /// Runs and bounds that are computed at once [default: one for each core]
    #[arg(long, env = "POINTSMAN_BACKTEST_JOBS", value_name = "N")]
    jobs: Option<NonZeroUsize>,
}

fn share(text: &str) -> Result<f64, String> {
    let found = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    found.ok_or_else(|| "a number from 0 to 1 is wanted".to_owned())
}

pub fn run(global: &Global, arguments: &BacktestArgs) -> anyhow::Result<Exit> {
    let printer = global.printer();
    let config = global.config()?;
    let began = Stopwatch::start();
    let settings = Settings {
        policy: config.routing.clone(),
        seed: arguments.seed,
        lanes: arguments.lanes,
        skew: arguments.skew,
    };
    let scenario = files::read(arguments)?;
    let mut notes = scenario.notes.clone();
    notes.extend(baselines::note(&scenario).filter(|_| !arguments.no_baselines));
    for note in &notes {
        printer.note(note);
    }
    let stop = signals::stop_on_signals()?;
    let outcome = compute(&scenario, &settings, arguments, &stop);
    let (core, baselines, bounds) = outcome.map_err(|error| {
        if error == BacktestError::Stopped {
            return coded(Exit::Failed, "stopped before the end; nothing is written");
        }
        anyhow::Error::new(error)
    })?;
    if let Some(path) = &arguments.decisions {
        files::write_decisions(path, &scenario, &core)?;
    }
    let summary = |run| Summary::of(&scenario, run, &bounds);
    let report = Report {
        core: summary(&core),
        baselines: baselines
            .iter()
            .map(|(baseline, run)| (baseline.name().to_owned(), summary(run)))
            .collect::<IndexMap<_, _>>(),
        notes,
        seed: arguments.seed,
        elapsed_s: began.elapsed().as_secs_f64(),
    };
    table::print(&report, printer.format != Format::Table)?;
    let is_within = report.core.oversubscribed == 0;
    Ok(if is_within { Exit::Ok } else { Exit::Difference })
}

type Computed = (Run, Vec<(Baseline, Run)>, Bounds);

fn compute(
    scenario: &Scenario,
    settings: &Settings,
    arguments: &BacktestArgs,
    stop: &AtomicBool,
) -> Result<Computed, BacktestError> {
    let baselines: &[Baseline] = if arguments.no_baselines { &[] } else { &Baseline::ALL };
    let mut wanted = Vec::new();
    if !arguments.no_bounds {
        let insights = [Insight::Full, Insight::ClassMeans];
        wanted.extend(insights.map(|insight| (Aim::Utility, insight)));
        if !wants_quality_only(scenario) {
            wanted.extend(insights.map(|insight| (Aim::Quality, insight)));
        }
    }
    let parts = 1 + baselines.len() + wanted.len();
    let bar = ProgressBar::new((parts * scenario.tasks.len()) as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent} % {eta}") {
        bar.set_style(style);
    }
    let watch = |settled: u64| {
        bar.inc(settled);
        !stop.load(Ordering::Relaxed)
    };
    let watch: Watch<'_> = &watch;
    let jobs = arguments.jobs.or_else(|| std::thread::available_parallelism().ok());
    let jobs = jobs.map_or(1, NonZeroUsize::get);

    let mut runs = in_parallel(jobs, 1 + baselines.len(), |number| match number.checked_sub(1) {
        None => route(scenario, settings, watch),
        Some(place) => baselines::run(baselines[place], scenario, settings, watch),
    })?;
    let core = runs.remove(0);
    let all: Vec<&Run> = std::iter::once(&core).chain(&runs).collect();
    let found = in_parallel(jobs, wanted.len(), |number| {
        let (aim, insight) = wanted[number];
        bound(scenario, &settings.policy, &all, aim, insight, watch)
    })?;
    bar.finish_and_clear();
    let mut bounds = Bounds::default();
    for ((aim, insight), found) in wanted.into_iter().zip(found) {
        bounds.set(aim, insight, found);
    }
    if wants_quality_only(scenario) {
        bounds.quality_from_utility();
    }
    Ok((core, baselines.iter().copied().zip(runs).collect(), bounds))
}

/// Does `count` independent things, in order of their numbers, on so many threads.
fn in_parallel<Done: Send>(
    jobs: usize,
    count: usize,
    work: impl Fn(usize) -> Result<Done, BacktestError> + Sync,
) -> Result<Vec<Done>, BacktestError> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(count) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let result = work(number);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
