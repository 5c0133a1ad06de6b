//! Rounds of faults on a real Kafka: the router is killed at every point of its way, brokers are killed
//! and paused, instances come and go, while tasks are published and answered. Each round ends with the
//! demo's independent audit and with a replay of every decision. `ops/chaos` runs it.

mod act;
mod cluster;
mod configuration;
mod instance;
mod outcome;
mod plan;
mod recovery;
mod round;
mod shared;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use pointsman::clock::Stopwatch;
use signal_hook::consts::{SIGINT, SIGTERM};

use cluster::Clusters;
use outcome::{State, Verdict};
use plan::Kind;

/// Rounds of faults, each with an audit at its end. What was found is kept in target/chaos: a round that
/// ended clean is not run again.
#[derive(Debug, Parser)]
#[command(name = "ops/chaos")]
struct Arguments {
    /// So many rounds
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The number of the first one
    #[arg(long, value_name = "R", default_value_t = 1)]
    from: u32,
    /// What a round does follows from this and from its number
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value = "all")]
    kind: Wanted,
    /// `kafka`: an Apache Kafka of its own; `model`: the modelled one; or HOST:PORT
    #[arg(long, value_name = "WHERE", default_value = "kafka")]
    on: String,
    /// Begin anew: the rounds that are kept count no more
    #[arg(long)]
    fresh: bool,
    /// Keep topics and logs of clean rounds too
    #[arg(long)]
    keep: bool,
    /// For restart-time and takeover-time: so many tasks in flight
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    in_flight: u32,
    /// For restart-time and takeover-time: so many batches after the last snapshot
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    tail: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Killed at each of its named points
    Points,
    /// Killed at any time
    Random,
    /// Brokers of three killed and paused
    Brokers,
    /// Instances that join, leave, die and stand still
    Rebalance,
    /// All of these in turn
    All,
    /// Measure: kill -9 to the first new decision of the same instance
    RestartTime,
    /// Measure: kill -9 to the first new decision of another instance
    TakeoverTime,
    /// Measure: how full a limit is that eight lanes share, on 1, 2 and 4 instances
    SharedLimit,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ops/chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where everything of these rounds is kept.
fn directory() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"));
    target.join("chaos")
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    let directory = directory();
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("{} cannot be made", directory.display()))?;
    instance::keep_program(&directory)?;
    let mut clusters = Clusters::new(&arguments.on);
    let kinds = match arguments.kind {
        Wanted::Points => vec![Kind::Points],
        Wanted::Random => vec![Kind::Random],
        Wanted::Brokers => vec![Kind::Brokers],
        Wanted::Rebalance => vec![Kind::Rebalance],
        Wanted::All => plan::ALL.iter().copied().filter(|kind| clusters.can(*kind)).collect(),
        Wanted::RestartTime | Wanted::TakeoverTime => {
            let measured = recovery::measure(
                clusters.one()?,
                &directory,
                recovery::Sizes { in_flight: arguments.in_flight, tail: arguments.tail },
                arguments.kind == Wanted::TakeoverTime,
                &interrupted,
            )?;
            println!("{}", serde_json::to_string(&measured)?);
            return Ok(true);
        }
        Wanted::SharedLimit => {
            let mut clean = true;
            for instances in [1, 2, 4] {
                let measured =
                    shared::measure(clusters.one()?, &directory, instances, &interrupted)?;
                clean &= measured.findings.is_empty();
                println!("{}", serde_json::to_string(&measured)?);
            }
            return Ok(clean);
        }
    };
    let mut state = State::open(&directory.join("rounds.jsonl"), arguments.fresh)?;
    let took = Stopwatch::start();
    let mut run = Vec::new();
    for number in (arguments.from..).take(arguments.rounds as usize) {
        let plan = plan::plan(number, arguments.seed, &kinds);
        if let Some(known) = state.clean(&plan.key) {
            println!("{} (known)", known.line());
            run.push(known.clone());
            continue;
        }
        let outcome = round::run(&plan, &mut clusters, &directory, arguments.keep, &interrupted)?;
        println!("{}", outcome.line());
        for finding in &outcome.findings {
            println!("    {finding}");
        }
        state.keep(&outcome)?;
        run.push(outcome);
        if interrupted.load(Ordering::Relaxed) {
            anyhow::bail!("interrupted after {} rounds", run.len());
        }
    }
    println!("{}", outcome::summary(&run));
    println!("{:.0} s", took.elapsed().as_secs_f64());
    Ok(run.iter().all(|outcome| outcome.verdict == Verdict::Clean))
}
