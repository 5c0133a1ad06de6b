//! How a command that goes on and on is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A flag that the first SIGTERM or SIGINT sets; the second one ends the process at once: the
/// shutdown itself may hang, on a broker that does not answer.
pub fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The order counts: the first one looks at what earlier signals set.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .context("signals cannot be handled")?;
    }
    Ok(stop)
}

/// Waits until `stop` is set, or `goes_on` says no.
pub fn wait(stop: &AtomicBool, goes_on: impl Fn() -> bool) {
    while !stop.load(Ordering::Relaxed) && goes_on() {
        std::thread::sleep(LOOK_EVERY);
    }
}
