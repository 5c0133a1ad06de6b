//! Pairs real prompts with real arrivals and backtests the router on them, at several loads.
//!
//! ```text
//! cargo bench --bench backtest -- [--out DIRECTORY] [--loads 60,100,150] [--flat] [--calm] [--alone]
//!     [--priorities mixed] [--write-only]
//! ```
//!
//! Prompts: RouterBench rows (11 models, a score and a cost each; no licence file with their source, so
//! they are read where they lie and never copied). Arrivals and token counts: one hour of Azure's trace
//! of a code-completion service. The prompts are looked for in `POINTSMAN_DATA`, or `../shared/data`;
//! without them there is nothing to do, and that is no failure.
//!
//! What is fixed here, so that every version of the router is measured alike:
//!
//! - Pairing: the n-th arrival gets the n-th prompt of a seeded shuffle of all prompts, over and over.
//! - A task's class is the prompt's evaluation set; its objective is quality alone; no deadlines, so that
//!   a task waits at most `routing.wait_ms_max`. With `--priorities mixed` a tenth is critical and six tenths
//!   are interactive, both with a deadline of 20 s; the others are batch.
//! - Priors: the class means over the paired tasks; with `--flat`, 0.5 for all.
//! - The preferred set: the four models with the highest mean score. A load of 100 % means that the trace
//!   brings as much in its hour as the four can take in an hour; each can take a quarter. One is limited
//!   by tokens, one by requests, one by slots, one by requests and tokens alike. Each other model takes a
//!   quarter of the trace at any load; with `--alone` there are none, so that a load above 100 % is more than
//!   can be served.
//! - Incidents: the best model is down for 5 minutes, and the second loses half of its attempts for 5 minutes.
#![expect(clippy::unwrap_used, reason = "a bench that cannot run must say where")]

mod scenario;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use serde_json::Value;

use scenario::{Pairing, Priorities, Trace};

#[derive(Debug, Parser)]
#[command(about = "Backtests the router on real prompts and arrivals")]
struct Arguments {
    /// Where the scenarios are written; made where it is missing. Without it they are removed at the end.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Per cent of what the preferred models can take.
    #[arg(long, value_delimiter = ',', default_value = "60,100,150")]
    loads: Vec<u32>,
    /// Priors of 0.5 instead of class means: what learning costs.
    #[arg(long)]
    flat: bool,
    /// Without incidents.
    #[arg(long)]
    calm: bool,
    /// Without the models that are not preferred.
    #[arg(long)]
    alone: bool,
    /// Which priorities tasks have.
    #[arg(long, value_enum, default_value = "one")]
    priorities: Priorities,
    /// `routing.start_within_ms` of the router: the stand-in's workers start at once.
    #[arg(long, default_value_t = 2_000)]
    start_within_ms: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the scenarios and do not run them.
    #[arg(long, requires = "out")]
    write_only: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let data = std::env::var_os("POINTSMAN_DATA").map_or("../shared/data".into(), PathBuf::from);
    let (prompts, arrivals) =
        (data.join("routerbench_train.csv"), Path::new("data/azure_llm_code_2023.csv"));
    if !prompts.exists() {
        println!("skipped: {} is not there (POINTSMAN_DATA says where to look)", prompts.display());
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let out = arguments.out.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(out).unwrap();
    let pairing = Pairing::new(&prompts, Trace::read(arrivals), arguments.seed);
    pairing.write_common(out, !arguments.calm, arguments.priorities);
    for load in &arguments.loads {
        let path = out.join(fleet_name(*load, &arguments));
        pairing.write_fleet(&path, *load, arguments.flat, !arguments.alone);
    }
    println!(
        "{} tasks, {} prompts, classes: {}; preferred: {}",
        pairing.tasks(),
        pairing.prompts(),
        pairing.classes().join(", "),
        pairing.preferred().join(", ")
    );
    if arguments.write_only {
        return;
    }
    for load in &arguments.loads {
        run(out, *load, &arguments);
    }
}

fn run(out: &Path, load: u32, arguments: &Arguments) {
    let file = |name: &str| out.join(name).display().to_string();
    let fleet = file(&fleet_name(load, arguments));
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(["backtest", "--json", "--tasks", &file("tasks.jsonl")])
        .args(["--fleet", &fleet])
        .args(["--outcomes", &file("outcomes.jsonl"), "--outages", &file("outages.jsonl")])
        .args(["--health", &file("health.jsonl"), "--seed", &arguments.seed.to_string()])
        .env("POINTSMAN__ROUTING__START_WITHIN_MS", arguments.start_within_ms.to_string())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("\nload {load} %, {:.1} s, {fleet}", report["elapsed_s"].as_f64().unwrap());
    println!(
        "{:24} {:>9} {:>16} {:>12} {:>8} {:>8} {:>12}",
        "router", "quality", "class-informed", "hindsight", "refused", "failed", "mean wait, s"
    );
    line("pointsman", &report);
    for (name, summary) in report["baselines"].as_object().unwrap() {
        line(name, summary);
    }
    let by_priority = report["by_priority"].as_object().unwrap();
    if by_priority.len() > 1 {
        println!(
            "\n{:24} {:>9} {:>9} {:>8} {:>8} {:>12}",
            "priority", "tasks", "quality", "late", "refused", "mean wait, s"
        );
        for (name, figures) in by_priority {
            priority_line(name, figures);
        }
    }
}

fn fleet_name(load: u32, arguments: &Arguments) -> String {
    let flat = if arguments.flat { "-flat" } else { "" };
    let alone = if arguments.alone { "-alone" } else { "" };
    format!("fleet-{load}{flat}{alone}.json")
}

fn refused(figures: &Value) -> u64 {
    figures["refused"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

fn priority_line(name: &str, figures: &Value) {
    let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "{name:24} {:>9} {:9.1} {:8} {:8} {:12.2}",
        number("tasks"),
        number("quality"),
        number("late"),
        refused(figures),
        number("mean_wait_ms") / 1_000.0,
    );
}

fn line(name: &str, summary: &Value) {
    let number = |key: &str| summary[key].as_f64().unwrap_or(f64::NAN);
    let refused = refused(summary);
    println!(
        "{name:24} {:9.1} {:14.2} % {:10.2} % {refused:8} {:8} {:12.2}",
        number("quality"),
        number("share_class_informed") * 100.0,
        number("share") * 100.0,
        number("failed_attempts"),
        number("mean_wait_ms") / 1_000.0,
    );
}
