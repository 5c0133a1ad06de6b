//! `run`: signals, HTTP and the workers of one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::sync::watch;

use super::exit::{Exit, coded};
use super::{Global, signals};
use crate::clock::Stopwatch;
use crate::config::Config;
use crate::http::Server;
use crate::stream::run::RunErrorKind;
use crate::telemetry::{Telemetry, logs};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Serves /livez, /readyz, /metrics and /api/v1/status on http.address. SIGTERM and Ctrl-C end it \
within worker.shutdown_ms_max: the batch under way is committed or aborted; a second signal ends \
it at once, which loses nothing either.

Examples:
  pointsman run
  pointsman run --config pointsman.toml
  POINTSMAN__KAFKA__BROKERS=kafka:9092 pointsman run")]
pub struct RunArgs {
    /// Accept offsets that were set with Kafka's own tools, and go on there
    #[arg(
        long,
        env = "POINTSMAN_NEW_EPOCH",
        long_help = "Accept offsets that were set with Kafka's own tools (kafka-consumer-groups --reset-offsets), and \
                     go on there. Without it such a lane stops, because what is read twice may be decided \
                     twice. The lane keeps its state; its outputs carry a new epoch. Lanes whose offsets \
                     are Pointsman's own are not touched. `pointsman recover --restore-offsets` undoes the reset instead"
    )]
    new_epoch: bool,
}

pub fn run(global: &Global, arguments: &RunArgs) -> anyhow::Result<Exit> {
    #[cfg(feature = "failpoints")]
    crate::failpoint::arm().map_err(|error| coded(Exit::Config, error))?;
    let mut config = global.config()?;
    config.worker.new_epoch = arguments.new_epoch;
    logs::start(&config.log, global.printer().stderr_colour());
    let telemetry = Arc::new(Telemetry::new(config.worker.workers));
    let shutdown = signals::stop_on_signals()?;

    let server = Server::bind(&config.http)
        .with_context(|| format!("http.address {} cannot be served", config.http.address))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        brokers = config.kafka.brokers,
        group = config.kafka.group_id,
        instance = config.kafka.instance_id,
        workers = config.worker.workers,
        http = %server.address(),
        "starting"
    );
    let (stop_http, http_stopped) = watch::channel(false);
    let served = Arc::clone(&telemetry);
    let http = std::thread::Builder::new()
        .name("http".to_owned())
        .spawn(move || server.serve(served, http_stopped))
        .context("the HTTP thread cannot be started")?;
    watch_shutdown(&config, Arc::clone(&shutdown), Arc::clone(&telemetry))?;

    let result = stream(&config, &telemetry, &shutdown);

    telemetry.stopping();
    stop_http.send_replace(true);
    match http.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "HTTP ended early"),
        Err(_) => tracing::warn!("the HTTP thread panicked"),
    }
    result?;
    if !shutdown.load(Ordering::Relaxed) {
        return Err(coded(Exit::Transient, "the workers ended without having been asked to"));
    }
    tracing::info!("stopped");
    Ok(Exit::Ok)
}

/// Runs the workers: returns when `shutdown` is set, or when they cannot go on.
fn stream(config: &Config, telemetry: &Telemetry, shutdown: &AtomicBool) -> anyhow::Result<()> {
    crate::stream::run::run(config, telemetry, shutdown).map_err(|error| {
        let exit = match error.kind() {
            RunErrorKind::Unreachable => Exit::Unreachable,
            RunErrorKind::State => Exit::StateRefused,
            RunErrorKind::Transient => Exit::Transient,
            RunErrorKind::Denied => Exit::Denied,
            RunErrorKind::Config => Exit::Config,
        };
        coded(exit, format!("{:#}", anyhow::Error::new(error)))
    })
}

/// Marks the instance as stopping, and ends the process where the workers take too long: what
/// they left open is aborted by the broker and decided again.
fn watch_shutdown(
    config: &Config,
    shutdown: Arc<AtomicBool>,
    telemetry: Arc<Telemetry>,
) -> anyhow::Result<()> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let limit = Duration::from_millis(config.worker.shutdown_ms_max);
    std::thread::Builder::new()
        .name("shutdown".to_owned())
        .spawn(move || {
            while !shutdown.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
            }
            telemetry.stopping();
            tracing::info!("stopping");
            let begun = Stopwatch::start();
            // The process ends under this thread where all goes well.
            while begun.elapsed() < limit {
                std::thread::sleep(LOOK_EVERY);
            }
            tracing::error!(limit_ms = limit.as_millis(), "still not stopped: ending now");
            std::process::exit(Exit::Transient as i32);
        })
        .context("the shutdown thread cannot be started")?;
    Ok(())
}
