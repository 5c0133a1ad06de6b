//! `demo`: a real trace through the real router, with simulated workers, and an audit of it all.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::exit::{Exit, coded};
use super::print::Format;
use super::topics::plan::LANES_DEFAULT;
use super::{Global, signals};
use crate::broker::front::{Front, FrontSettings};
use crate::demo::{self, Ended, Options, fleet};

#[derive(Debug, Args)]
#[command(after_long_help = "\
The trace is one hour of a production code-completion service (8,819 requests, Microsoft Azure, \
CC-BY-4.0). The fleet's prices and context windows are real as of 2026; its limits, speeds and \
qualities are invented. At 40 % of the tasks one resource breaks, at 70 % it recovers.

Without --brokers it brings a broker of its own, in memory and on a free port of this host: there \
is nothing to install, and nothing is left. With --keep that broker stays until Ctrl-C.

The demo makes topics of its own, named `demo-<time>-<process>-…`, and deletes them at the end \
(unless --keep). The configuration file and POINTSMAN__… variables are not used; --property \
passes what the brokers ask for.

At the end a second consumer reads everything back and counts: tasks lost, decisions doubled, \
limits exceeded in any sliding window. The exit code is 1 where it finds anything.

Examples:
  pointsman demo
  pointsman demo --kill-after 10
  pointsman demo --keep
  pointsman demo --brokers localhost:9092
  pointsman demo --brokers localhost:9092 --tasks 1000 --json | jq .end_to_end_ms")]
pub struct DemoArgs {
    /// Brokers to begin with, comma separated; without it the demo brings its own
    #[arg(long, env = "POINTSMAN_DEMO_BROKERS", value_name = "HOST:PORT")]
    pub brokers: Option<String>,
    /// Seconds of the trace in one second
    #[arg(long, env = "POINTSMAN_DEMO_SPEED", value_name = "N", default_value_t = fleet::SPEED_DEFAULT, value_parser = speed)]
    pub speed: f64,
    /// Only the first N tasks of the trace
    #[arg(
        long,
        env = "POINTSMAN_DEMO_TASKS",
        value_name = "N",
        default_value_t = 8_819,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub tasks: u64,
    /// Fixes tenants, priorities, classes, deadlines and what the models answer
    #[arg(long, env = "POINTSMAN_DEMO_SEED", value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Keep the topics, the router's configuration and its log; and the demo's own broker, until
    /// Ctrl-C
    #[arg(long, env = "POINTSMAN_DEMO_KEEP")]
    pub keep: bool,
    /// Kill the router (SIGKILL) this long after the first task, and start it again
    #[arg(long, env = "POINTSMAN_DEMO_KILL_AFTER", value_name = "SECONDS", value_parser = seconds)]
    pub kill_after: Option<Duration>,
    /// Lanes, each with a thread of the router and a simulated worker; a lane holds its part of
    /// every limit
    #[arg(
        long,
        env = "POINTSMAN_DEMO_WORKERS",
        value_name = "N",
        default_value_t = LANES_DEFAULT,
        value_parser = clap::value_parser!(i32).range(1..=64)
    )]
    pub workers: i32,
    /// A librdkafka property for all clients, such as security.protocol=ssl; can be repeated
    #[arg(long = "property", env = "POINTSMAN_DEMO_PROPERTY", value_name = "NAME=VALUE", value_parser = property)]
    pub properties: Vec<(String, String)>,
}

/// Runs the demo.
///
/// # Errors
/// It could not be brought to its end: Kafka cannot be reached, the router ended, Ctrl-C. What the
/// audit found is no error but `Exit::Failed`.
pub fn run(global: &Global, arguments: DemoArgs) -> anyhow::Result<Exit> {
    let interrupted = signals::stop_on_signals()?;
    let printer = global.printer();
    let (brokers, own) = match arguments.brokers {
        Some(brokers) => (brokers, None),
        None => {
            let front = Front::start(FrontSettings::default())
                .context("a broker for the demo cannot be started")?;
            printer.note(&format!("broker: {}, the demo's own, in memory", front.address()));
            (front.address().to_string(), Some(front))
        }
    };
    let options = Options {
        brokers,
        embedded: own.is_some(),
        properties: arguments.properties,
        speed: arguments.speed,
        tasks: usize::try_from(arguments.tasks).unwrap_or(usize::MAX),
        seed: arguments.seed,
        workers: arguments.workers,
        keep: arguments.keep,
        kill_after: arguments.kill_after,
    };
    let ended = demo::run(&options, &interrupted).map_err(|error| {
        if interrupted.load(Ordering::Relaxed) {
            return coded(Exit::Failed, format!("{error:#}"));
        }
        error
    })?;

    for note in &ended.notes {
        printer.note(note);
    }
    for finding in &ended.report.findings {
        printer.note(&finding.to_string());
    }
    let unnamed = ended.report.found().saturating_sub(ended.report.findings.len() as u64);
    if unnamed > 0 {
        printer.note(&format!("… and {unnamed} findings more"));
    }
    let mut out = std::io::stdout().lock();
    if printer.format != Format::Table {
        serde_json::to_writer(&mut out, &ended.summary)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", ended.summary.tables())?;
    }
    drop(out);
    if let Some(front) = own.filter(|_| options.keep) {
        printer.note(&look_around(&options.brokers, &ended));
        signals::wait(&interrupted, || front.is_serving());
    }
    Ok(if ended.summary.is_clean() { Exit::Ok } else { Exit::Failed })
}

/// What can be done with a broker that stays.
fn look_around(address: &str, ended: &Ended) -> String {
    let Ended { prefix, directory, .. } = ended;
    let config = directory.join("pointsman.toml");
    format!(
        "the broker stays until Ctrl-C; look around:
  kcat -b {address} -L
  kcat -b {address} -C -t {prefix}tasks -o beginning -c 3 -f '%T %k %s\\n'
  python3 -c \"from confluent_kafka.admin import AdminClient as A; \
print(*A({{'bootstrap.servers': '{address}'}}).list_topics(timeout=9).topics, sep='\\n')\"
  pointsman tap route-decisions --from-beginning --limit 3 --config {}",
        config.display()
    )
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Slower than life makes no demo; faster than this the hour takes a third of a second.
        Ok(speed) if (1.0..=10_000.0).contains(&speed) => Ok(speed),
        Ok(_) | Err(_) => Err("a number in [1, 10000]".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3_600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) | Err(_) => Err("seconds in [0, 3600]".to_owned()),
    }
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) | None => Err("NAME=VALUE, such as security.protocol=ssl".to_owned()),
    }
}
