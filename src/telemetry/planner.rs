//! What the planner of rights does, where it runs.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::{Label, LaneState, Telemetry};
use crate::model::rights::Advice;

/// A round of a few limits takes microseconds, one of 512 lanes and 200 resources a tenth of a second.
const ROUND_SECONDS: [f64; 10] = [1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 0.01, 0.05, 0.1, 0.5];

#[derive(Debug, Clone)]
pub(super) struct PlannerMetrics {
    rounds: Histogram,
    advice: Family<[Label; 1], Counter>,
    rights: Family<[Label; 1], Counter>,
    failed: Counter,
}

impl PlannerMetrics {
    pub fn new() -> Self {
        PlannerMetrics {
            rounds: Histogram::new(&ROUND_SECONDS),
            advice: Family::default(),
            rights: Family::default(),
            failed: Counter::default(),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "planner_round_duration_seconds",
            "Rounds of the planner of rights, where it runs",
            self.rounds.clone(),
        );
        registry.register(
            "planner_advice",
            "Advice to lanes to give rights to another one",
            self.advice.clone(),
        );
        registry.register(
            "planner_rights_advised",
            "Rights that lanes were advised to give: millionths of a limit",
            self.rights.clone(),
        );
        registry.register(
            "planner_advice_failed",
            "Advice that could not be sent or was not delivered",
            self.failed.clone(),
        );
    }
}

impl Telemetry {
    /// A round of the planner took this long.
    pub fn planned(&self, took: Duration) {
        self.planner.rounds.observe(took.as_secs_f64());
    }

    /// Advice was sent.
    pub fn advised(&self, advice: &Advice) {
        let labels = [("dimension", advice.limit.kind.counted().name())];
        self.planner.advice.get_or_create(&labels).inc();
        self.planner.rights.get_or_create(&labels).inc_by(u64::from(advice.rights));
    }

    /// So much advice was not sent or not delivered.
    pub fn advice_failed(&self, count: u64) {
        self.planner.failed.inc_by(count);
    }

    /// Whether a lane runs on this instance.
    pub fn runs(&self, lane: u32) -> bool {
        self.view.borrow().lanes.get(&lane).is_some_and(|lane| lane.state == LaneState::Running)
    }
}
