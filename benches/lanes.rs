//! What it costs to divide a fleet among lanes, in the closed loop of `pointsman backtest`.
//!
//! ```text
//! cargo bench --bench lanes                        # utility under skewed load; messages under a steady one
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null BENCH --only shared     # instructions of one part
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null BENCH --only separate
//! ```
//!
//! Skewed: the arrivals and token counts of Azure's trace, half as much again as the two better resources
//! take; four fifths of the tasks come to one lane. Steady: tasks of one size, three fifths of what there
//! is, the same for each lane; next to as many routers with a lane and a part of the fleet each, which have
//! nothing to say to one another.
#![expect(clippy::unwrap_used, reason = "a bench that cannot run must say where")]

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};

use pointsman::backtest::parse::{Files, Lines, scenario};
use pointsman::backtest::scenario::Scenario;
use pointsman::backtest::site::Run;
use pointsman::backtest::summary::utility;
use pointsman::backtest::{Settings, route};
use pointsman::clock::Stopwatch;
use pointsman::demo::trace::bundled;
use pointsman::model::policy::Policy;
use pointsman::model::resource::FleetFile;

/// What came before is not compared: the lanes begin with equal parts.
const FROM_MS: u64 = 30_000;
const LANES: u32 = 8;
const STEADY_MS: u64 = 600_000;

#[derive(Debug, Parser)]
struct Arguments {
    /// One part of the steady load, once: for a counter of instructions.
    #[arg(long)]
    only: Option<Part>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Shared,
    Separate,
}

fn main() {
    let arguments = Arguments::parse();
    match arguments.only {
        Some(Part::Shared) => println!("{} tasks", shared().fates.len()),
        Some(Part::Separate) => println!("{} tasks", separate()),
        None => {
            skewed(arguments.seed);
            steady();
        }
    }
}

fn read(tasks: &[Value], resources: Value) -> Scenario {
    let lines: Vec<String> = tasks.iter().map(ToString::to_string).collect();
    let text = lines.join("\n");
    let fleet: FleetFile = serde_json::from_value(json!({"resource": resources})).unwrap();
    let files = Files {
        tasks: Lines { name: "tasks", text: &text },
        fleet,
        outcomes: None,
        outages: None,
        health: None,
        history: None,
    };
    scenario(&files, 1).unwrap()
}

fn routed(scenario: &Scenario, lanes: u32, skew: Option<f64>, seed: u64) -> Run {
    let policy = Policy { wait_ms_max: 30_000, ..Policy::default() };
    route(scenario, &Settings { policy, seed, lanes, skew }, &|_| true).unwrap()
}

/// Four resources of which the better two are short.
fn fleet(tokens: u64, requests: u64) -> Value {
    let resource = |id: &str, quality: f64, limits: Value, slots: u32| {
        json!({
            "id": id, "model": id, "provider": id, "region": "eu", "slots": slots,
            "context_window": 128_000, "max_output_tokens": 8_192,
            "quality": {"default": quality, "code": quality, "chat": 0.9 * quality},
            "speed": {
                "time_to_first_token_ms": 300, "prefill_tokens_per_s": 8_000, "decode_tokens_per_s": 60,
            },
            "limits": limits,
        })
    };
    let minute = |dimension: &str, amount: u64| json!([{"dimension": dimension, "amount": amount, "window_s": 60}]);
    json!([
        resource("best", 0.95, minute("tokens", tokens), 200),
        resource("good", 0.8, minute("requests", requests), 200),
        resource("fair", 0.6, json!([]), 24),
        resource("any", 0.4, json!([]), 400),
    ])
}

fn skewed(seed: u64) {
    let mut tasks = Vec::new();
    let mut tokens = 0;
    for arrival in bundled().unwrap() {
        let (input, output) = (u64::from(arrival.input_tokens), u64::from(arrival.output_tokens));
        tokens += input + output;
        let class = ["code", "chat"][tasks.len() % 2];
        tasks.push(json!({
            "task_id": format!("t-{}", tasks.len()),
            "arrival_ms": arrival.after_us.div_ceil(1_000) as f64,
            "class": class, "input_tokens": input,
            "max_output_tokens": if output <= 256 { 256 } else { 4_096 },
        }));
    }
    let minutes = tasks.last().unwrap()["arrival_ms"].as_f64().unwrap() / 60_000.0;
    let of_all = |amount: f64| (amount / minutes / 3.0) as u64;
    let scenario = read(&tasks, fleet(of_all(tokens as f64), of_all(tasks.len() as f64)));
    println!(
        "{} tasks of Azure's trace; four fifths in one lane; utility of what came after 30 s",
        tasks.len()
    );
    println!(
        "{:24} {:>10} {:>9} {:>14} {:>8} {:>8}",
        "", "utility", "of one", "oversubscribed", "moved", "advised"
    );
    let mut single = None;
    for (lanes, skew) in [
        (1, None),
        (2, Some(0.8)),
        (4, Some(0.8)),
        (LANES, None),
        (LANES, Some(0.8)),
        (16, Some(0.8)),
    ] {
        let run = routed(&scenario, lanes, skew, seed);
        let earned: f64 = (0..run.fates.len())
            .filter(|place| scenario.tasks[*place].arrival_ms >= FROM_MS)
            .map(|place| {
                let weights = scenario.tasks[place].task.objective.weights();
                utility(&scenario, place, &run.fates[place], weights)
            })
            .sum();
        let single = *single.get_or_insert(earned);
        let name = match skew {
            _ if lanes == 1 => "one lane".to_owned(),
            Some(_) => format!("{lanes} lanes, skewed"),
            None => format!("{lanes} lanes, even"),
        };
        println!(
            "{name:24} {earned:10.1} {:7.2} % {:14} {:8} {:8}",
            earned / single * 100.0,
            run.oversubscribed,
            run.messages,
            run.advice
        );
    }
}

/// Tasks of one size, one after the other.
fn steady_tasks(every_ms: f64) -> Vec<Value> {
    let count = (STEADY_MS as f64 / every_ms) as u64;
    (0..count)
        .map(|place| {
            json!({
                "task_id": format!("t-{place}"), "arrival_ms": (place as f64 * every_ms).ceil(),
                "class": "code", "input_tokens": 900, "max_output_tokens": 100,
            })
        })
        .collect()
}

/// Of 80 tasks a second, three fifths of what there is.
fn shared() -> Run {
    let scenario = read(&steady_tasks(12.5), fleet(4_000_000, 4_000));
    routed(&scenario, LANES, None, 1)
}

/// The same in as many parts; the tasks of all.
fn separate() -> usize {
    let parts = u64::from(LANES);
    let scenario =
        read(&steady_tasks(12.5 * f64::from(LANES)), fleet(4_000_000 / parts, 4_000 / parts));
    (0..parts).map(|seed| routed(&scenario, 1, None, seed).fates.len()).sum()
}

fn steady() {
    let mut ratios = Vec::new();
    let mut last = None;
    for _ in 0..5 {
        let watch = Stopwatch::start();
        let run = shared();
        let together = watch.elapsed();
        let watch = Stopwatch::start();
        separate();
        ratios.push(together.as_secs_f64() / watch.elapsed().as_secs_f64());
        last = Some(run);
    }
    ratios.sort_by(f64::total_cmp);
    let run = last.unwrap();
    let seconds = STEADY_MS as f64 / 1_000.0;
    println!(
        "\nsteady: {} tasks over {seconds} s in {LANES} lanes: {:.3} messages/s with rights, {:.3} pieces of advice/s; time beside {LANES} \
         routers of a lane each: {:.3} (median of 5; {ratios:.3?})",
        run.fates.len(),
        run.messages as f64 / seconds,
        run.advice as f64 / seconds,
        ratios[2],
    );
}
