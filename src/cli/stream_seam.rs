//! Stands for `stream::run` until the stream is merged: delete this file, its `mod` line in
//! `cli.rs`, and name `crate::stream::run` in `cli/run.rs`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::Config;
use crate::telemetry::Telemetry;

pub fn run(
    _config: Config,
    _telemetry: Arc<Telemetry>,
    shutdown: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    while !shutdown.load(std::sync::atomic::Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}
