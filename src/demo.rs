//! The demo: a real trace over a bundled fleet, the real router as a child process, simulated
//! workers, and an independent audit of everything that the router wrote.
//!
//! The scenario (fleet, tasks, answers, outage) is pure and fixed by the seed; what the router makes
//! of it depends on time, as it does in production. Rate windows and `start_within` are real
//! time: only arrivals and the models' durations are compressed.

pub mod attempt;
pub mod audit;
pub mod conduct;
pub mod fleet;
pub mod ledger;
pub mod outage;
pub mod publish;
pub mod quantile;
pub mod records;
pub mod router;
pub mod summary;
pub mod tasks;
pub mod topics;
pub mod trace;
pub mod watch;
pub mod workers;

use std::time::Duration;

pub use conduct::{Ended, run};

/// What a demo is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// `host:port`, comma separated.
    pub brokers: String,
    /// They are this process's own, and end with it: nothing of them needs to be tidied up.
    pub embedded: bool,
    /// librdkafka properties of every client, the router's too.
    pub properties: Vec<(String, String)>,
    /// Seconds of the trace in one second; above 0.
    pub speed: f64,
    /// At most this many tasks, from the beginning of the trace; at least 1.
    pub tasks: usize,
    pub seed: u64,
    /// Lanes, each with a worker thread of the router and a simulated worker; 1 to 64.
    pub workers: i32,
    /// Topics and files stay.
    pub keep: bool,
    /// The router is killed and restarted this long after the first task.
    pub kill_after: Option<Duration>,
}

impl Options {
    /// What the summary calls the brokers.
    pub fn broker_name(&self) -> &str {
        if self.embedded { "embedded" } else { &self.brokers }
    }
}
