//! What an instance shows of itself: written by the workers, read by `http` and by the metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::Serialize;
use tokio::sync::watch;

use super::TransactionBegins;
use super::label::LaneState;
pub use crate::hindsight::window::Share;
use crate::model::system_health::{Strategy, SystemHealth};

/// What one lane, or all lanes together, hold and use of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Usage {
    /// Of the resource, over all lanes and instances.
    pub limit: u64,
    /// This lane's part of it.
    pub granted: u64,
    /// In use: now for slots, in the window for rates.
    pub reserved: u64,
}

/// One rate limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowView {
    /// `requests` or `tokens`.
    pub dimension: &'static str,
    pub window_s: u32,
    #[serde(flatten)]
    pub usage: Usage,
}

/// A resource as a lane, or the whole instance, sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceView {
    pub id: Arc<str>,
    /// As in `HealthStatus::name`.
    pub health: &'static str,
    pub slots: Usage,
    pub windows: Vec<WindowView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct InputLag {
    pub records: u64,
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct LaneView {
    pub state: LaneState,
    /// Why the lane does not run.
    pub reason: Option<String>,
    pub seq: u64,
    pub batch_time_ms: i64,
    pub in_flight: u64,
    pub backlog: u64,
    pub restore_remaining_records: u64,
    /// As of its last batch.
    pub system: Option<SystemHealth>,
    /// Of what perfect foresight could have earned lately with this lane's part of the limits.
    pub hindsight: Option<Share>,
    /// By input topic.
    pub lag: BTreeMap<&'static str, InputLag>,
    /// Summed over the lanes where they are shown: see [`View::resources`].
    #[serde(skip)]
    pub resources: Arc<[ResourceView]>,
}

/// The instance: its lanes, and whether it is on its way out.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub lanes: BTreeMap<u32, LaneView>,
    /// For each worker its lanes, once the group has given it some, or none.
    pub assignments: Vec<Option<Vec<u32>>>,
    pub stopping: bool,
}

/// Whether work may be expected of this instance, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub reasons: Vec<String>,
}

impl View {
    pub fn new(workers: u32) -> Self {
        View {
            lanes: BTreeMap::new(),
            assignments: (0..workers).map(|_| None).collect(),
            stopping: false,
        }
    }

    pub(super) fn assign(&mut self, worker: u32, lanes: &[u32]) {
        for lane in lanes {
            self.lanes.entry(*lane).or_default();
        }
        if let Some(assignment) = self.assignments.get_mut(worker as usize) {
            *assignment = Some(lanes.to_vec());
        }
    }

    /// Ready is who has an assignment for every worker and runs every lane of it; no lanes at all
    /// is ready too: an instance in reserve.
    pub fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        if self.stopping {
            reasons.push("shutting down".to_owned());
        }
        for (worker, assignment) in self.assignments.iter().enumerate() {
            if assignment.is_none() {
                reasons.push(format!("worker {worker} waits for its first assignment"));
            }
        }
        for (lane, view) in &self.lanes {
            let detail = match view.state {
                LaneState::Running => continue,
                LaneState::Restoring => {
                    format!(", {} records to go", view.restore_remaining_records)
                }
                LaneState::Paused | LaneState::Stopped => String::new(),
            };
            let why = view.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            reasons.push(format!("lane {lane} is {}{detail}{why}", view.state.name()));
        }
        Readiness { ready: reasons.is_empty(), reasons }
    }

    /// Tasks of all lanes that wait for a resource.
    pub fn backlog(&self) -> u64 {
        self.lanes.values().map(|lane| lane.backlog).sum()
    }

    /// Attempts of all lanes that are under way.
    pub fn in_flight(&self) -> u64 {
        self.lanes.values().map(|lane| lane.in_flight).sum()
    }

    /// Each resource, its use and grants summed over the lanes of this instance.
    pub fn resources(&self) -> Vec<ResourceView> {
        let mut merged: BTreeMap<&str, ResourceView> = BTreeMap::new();
        for resource in self.lanes.values().flat_map(|lane| lane.resources.iter()) {
            let Some(sum) = merged.get_mut(&*resource.id) else {
                merged.insert(&resource.id, resource.clone());
                continue;
            };
            sum.slots.add(resource.slots);
            for window in &resource.windows {
                let same = sum.windows.iter_mut().find(|other| {
                    other.dimension == window.dimension && other.window_s == window.window_s
                });
                match same {
                    Some(same) => same.usage.add(window.usage),
                    None => sum.windows.push(window.clone()),
                }
            }
        }
        merged.into_values().collect()
    }
}

impl Usage {
    fn add(&mut self, other: Usage) {
        self.limit = self.limit.max(other.limit);
        self.granted += other.granted;
        self.reserved += other.reserved;
    }

    fn kinds(self) -> [(&'static str, u64); 3] {
        [("limit", self.limit), ("granted", self.granted), ("reserved", self.reserved)]
    }
}

/// The view as metrics, made when somebody asks.
#[derive(Debug)]
pub(super) struct ViewCollector {
    pub view: watch::Receiver<View>,
    pub begins: Arc<TransactionBegins>,
}

impl Collector for ViewCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        // A copy, so that a slow scrape does not hold a worker up.
        let view = self.view.borrow().clone();
        let ready = u64::from(view.readiness().ready);
        gauge(&mut encoder, "instance_ready", "1 where every lane of this instance runs.", ready)?;
        gauge(&mut encoder, "backlog_tasks", "Tasks that wait for a resource.", view.backlog())?;
        gauge(&mut encoder, "in_flight_tasks", "Attempts under way.", view.in_flight())?;
        gauge(
            &mut encoder,
            "transaction_open_seconds",
            "Age of the oldest open transaction; 0: none is open.",
            self.begins.oldest_seconds(),
        )?;
        lanes(&mut encoder, &view)?;
        strategies(&mut encoder, &view)?;
        let resources = view.resources();
        // A bound, should a fleet be larger than what a metrics store takes well.
        resource_metrics(&mut encoder, &resources[..resources.len().min(super::NAMES_MAX)])
    }
}

fn lanes(encoder: &mut DescriptorEncoder<'_>, view: &View) -> Result<(), fmt::Error> {
    let lanes = || view.lanes.iter().map(|(lane, view)| (lane.to_string(), view));
    let states = lanes().flat_map(|(lane, view)| {
        LaneState::ALL.map(|state| {
            let labels = vec![("lane", lane.clone()), ("state", state.name().to_owned())];
            (labels, f64::from(u8::from(view.state == state)))
        })
    });
    family(encoder, "lane_state", "1 for the state that the lane is in.", states)?;
    let lags = || {
        lanes().flat_map(|(lane, view)| {
            view.lag.iter().map(move |(input, lag)| {
                (vec![("lane", lane.clone()), ("input", (*input).to_owned())], *lag)
            })
        })
    };
    family(
        encoder,
        "lane_lag_records",
        "Records between the lane's next offset and the log-stable offset.",
        lags().map(|(labels, lag)| (labels, lag.records as f64)),
    )?;
    family(
        encoder,
        "lane_lag_seconds",
        "Age of the oldest record that the lane has not read.",
        lags().map(|(labels, lag)| (labels, lag.seconds)),
    )?;
    family(
        encoder,
        "lane_restore_remaining_records",
        "Journal records that the lane has yet to fold.",
        lanes().map(|(lane, view)| (vec![("lane", lane)], view.restore_remaining_records as f64)),
    )?;
    let shares =
        || lanes().filter_map(|(lane, view)| Some((vec![("lane", lane)], view.hindsight?)));
    family(
        encoder,
        "hindsight_share_ratio",
        "Utility of the last five minutes' tasks by what perfect foresight could have earned.",
        shares().map(|(labels, found)| (labels, found.share)),
    )?;
    family(
        encoder,
        "hindsight_tasks",
        "Tasks that the hindsight share rests on.",
        shares().map(|(labels, found)| (labels, found.tasks as f64)),
    )
}

fn strategies(encoder: &mut DescriptorEncoder<'_>, view: &View) -> Result<(), fmt::Error> {
    let systems = || view.lanes.values().filter_map(|lane| lane.system.as_ref());
    let lanes = Strategy::ALL.map(|strategy| {
        let count = systems().filter(|system| system.strategy == strategy).count();
        (vec![("strategy", strategy.name().to_owned())], count as f64)
    });
    let help = "Lanes in which the strategy is in force.";
    family(encoder, "spike_strategy", help, lanes.into_iter())?;
    let rates = [
        ("now", systems().map(|system| system.arrivals_per_s).sum()),
        ("usual", systems().map(|system| system.arrivals_per_s_usual).sum()),
        ("expected", systems().map(|system| system.arrivals_per_s_expected).sum()),
    ];
    family(
        encoder,
        "arrivals_per_second",
        "New tasks in a second: of the last few seconds, usually, and as expected next.",
        rates.into_iter().map(|(kind, rate): (_, f64)| (vec![("kind", kind.to_owned())], rate)),
    )
}

fn resource_metrics(
    encoder: &mut DescriptorEncoder<'_>,
    resources: &[ResourceView],
) -> Result<(), fmt::Error> {
    let slots = resources.iter().flat_map(|resource| {
        resource.slots.kinds().map(|(kind, value)| {
            let labels = vec![("resource", resource.id.to_string()), ("kind", kind.to_owned())];
            (labels, value as f64)
        })
    });
    family(encoder, "resource_slots", "Concurrent requests: limit, granted, reserved.", slots)?;
    for dimension in ["requests", "tokens"] {
        let windows = resources.iter().flat_map(|resource| {
            resource.windows.iter().filter(|window| window.dimension == dimension).flat_map(
                |window| {
                    window.usage.kinds().map(|(kind, value)| {
                        let labels = vec![
                            ("resource", resource.id.to_string()),
                            ("window_seconds", window.window_s.to_string()),
                            ("kind", kind.to_owned()),
                        ];
                        (labels, value as f64)
                    })
                },
            )
        });
        let (name, help) = match dimension {
            "requests" => {
                ("resource_requests", "Requests in the window: limit, granted, reserved.")
            }
            _ => ("resource_tokens", "Tokens in the window: limit, granted, reserved."),
        };
        family(encoder, name, help, windows)?;
    }
    Ok(())
}

fn gauge<Value>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: Value,
) -> Result<(), fmt::Error>
where
    ConstGauge<Value>: EncodeMetric,
{
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (Vec<(&'static str, String)>, f64)>,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
