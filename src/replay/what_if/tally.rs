//! Both histories, counted side by side.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::decision::{Outcome, RouteDecision};
use crate::model::time::Timestamp;

/// A task's first decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct First {
    /// `routed` or `refused`.
    pub outcome: Outcome,
    pub resource: Option<String>,
    pub reason: Option<&'static str>,
    pub decided_at_ms: i64,
    pub quality: Option<f64>,
    pub cost_usd: Option<f64>,
    pub latency_ms: Option<f64>,
    pub utility: Option<f64>,
}

impl First {
    fn of(decision: &RouteDecision<'_>) -> Self {
        let metrics = decision.metrics;
        First {
            outcome: decision.outcome,
            resource: decision.primary.first().map(|link| link.resource.to_string()),
            reason: decision.reason.map(|reason| reason.name()),
            decided_at_ms: decision.decided_at_ms.as_ms(),
            quality: metrics.map(|metrics| metrics.quality),
            cost_usd: metrics.map(|metrics| metrics.cost_usd),
            latency_ms: metrics.map(|metrics| metrics.latency_ms),
            utility: metrics.map(|metrics| metrics.utility),
        }
    }

    fn goes_as(&self, other: &First) -> bool {
        (self.outcome, &self.resource, self.reason)
            == (other.outcome, &other.resource, other.reason)
    }

    /// Where it sends the task, or why nowhere.
    fn place(&self) -> &str {
        self.resource.as_deref().or(self.reason).unwrap_or("-")
    }
}

/// A task whose first decision is another one; `None`: it waits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Changed {
    pub task_id: String,
    pub arrived_at_ms: i64,
    pub baseline: Option<First>,
    pub what_if: Option<First>,
}

/// What a resource had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Load {
    pub attempts: u64,
    /// As reserved.
    pub tokens: u64,
    pub cost_usd: f64,
}

/// One history.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Attempts that were routed.
    pub attempts: u64,
    pub refused: BTreeMap<&'static str, u64>,
    /// Predicted, on average over the attempts.
    pub quality: f64,
    /// Expected, together.
    pub cost_usd: f64,
    /// Predicted latency, on average.
    pub latency_ms: f64,
    pub utility: f64,
    /// From a task's arrival to its first decision, on average.
    pub wait_ms: f64,
    pub by_resource: BTreeMap<String, Load>,
    #[serde(skip)]
    waits: u64,
}

impl Totals {
    fn add(&mut self, decision: &RouteDecision<'_>) {
        let refused = decision.reason.map(|reason| reason.name());
        if let Some(reason) = refused {
            *self.refused.entry(reason).or_default() += 1;
        }
        let Some(metrics) = decision.metrics else { return };
        self.attempts += 1;
        self.quality += metrics.quality;
        self.cost_usd += metrics.cost_usd;
        self.latency_ms += metrics.latency_ms;
        self.utility += metrics.utility;
        if let Some(link) = decision.primary.first() {
            let load = self.by_resource.entry(link.resource.to_string()).or_default();
            load.attempts += 1;
            load.tokens += decision.reserved.map_or(0, |reserved| reserved.tokens);
            load.cost_usd += metrics.cost_usd;
        }
    }

    fn waited(&mut self, arrived: Timestamp, first: &First) {
        self.waits += 1;
        self.wait_ms += (first.decided_at_ms - arrived.as_ms()).max(0) as f64;
    }

    /// Sums become averages.
    fn finish(mut self) -> Self {
        let attempts = self.attempts.max(1) as f64;
        self.quality /= attempts;
        self.latency_ms /= attempts;
        self.utility /= attempts;
        self.wait_ms /= self.waits.max(1) as f64;
        self
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub tasks: u64,
    /// Tasks whose first decision is the same.
    pub same: u64,
    pub changed: u64,
    /// Tasks that wait in one of the two when the range ends.
    pub waiting: u64,
    pub baseline: Totals,
    pub what_if: Totals,
    /// `from → to`, and how many tasks.
    pub moved: BTreeMap<String, u64>,
    /// Attempts whose results are modelled, as a share of all of the changed history.
    pub modelled_share: f64,
}

#[derive(Debug, Clone)]
struct Pair {
    arrived: Timestamp,
    baseline: Option<First>,
    what_if: Option<First>,
}

/// Counts as the histories are played.
pub struct Tally<'e> {
    /// Tasks that are not decided in both.
    open: BTreeMap<String, Pair>,
    found: Comparison,
    modelled: u64,
    each: &'e mut dyn FnMut(&Changed),
}

impl<'e> Tally<'e> {
    pub fn new(each: &'e mut dyn FnMut(&Changed)) -> Self {
        let found = Comparison {
            tasks: 0,
            same: 0,
            changed: 0,
            waiting: 0,
            baseline: Totals::default(),
            what_if: Totals::default(),
            moved: BTreeMap::new(),
            modelled_share: 0.0,
        };
        Tally { open: BTreeMap::new(), found, modelled: 0, each }
    }

    pub fn arrived(&mut self, task_id: &str, at: Timestamp) {
        self.found.tasks += 1;
        let pair = Pair { arrived: at, baseline: None, what_if: None };
        self.open.entry(task_id.to_owned()).or_insert(pair);
    }

    pub fn baseline(&mut self, decision: &RouteDecision<'_>) {
        self.found.baseline.add(decision);
        if let Some(pair) = self.open.get_mut(&*decision.task_id)
            && pair.baseline.is_none()
        {
            let first = First::of(decision);
            self.found.baseline.waited(pair.arrived, &first);
            pair.baseline = Some(first);
        }
        self.settle(&decision.task_id);
    }

    pub fn other(&mut self, decision: &RouteDecision<'_>, modelled: bool) {
        self.found.what_if.add(decision);
        self.modelled += u64::from(modelled);
        if let Some(pair) = self.open.get_mut(&*decision.task_id)
            && pair.what_if.is_none()
        {
            let first = First::of(decision);
            self.found.what_if.waited(pair.arrived, &first);
            pair.what_if = Some(first);
        }
        self.settle(&decision.task_id);
    }

    fn settle(&mut self, task_id: &str) {
        let is_settled = |pair: &Pair| pair.baseline.is_some() && pair.what_if.is_some();
        if !self.open.get(task_id).is_some_and(is_settled) {
            return;
        }
        let Some((task_id, pair)) = self.open.remove_entry(task_id) else { return };
        if let (Some(one), Some(other)) = (&pair.baseline, &pair.what_if)
            && one.goes_as(other)
        {
            self.found.same += 1;
            return;
        }
        self.changed(task_id, pair);
    }

    fn changed(&mut self, task_id: String, pair: Pair) {
        let place =
            |first: &Option<First>| first.as_ref().map_or("waiting", First::place).to_owned();
        let moved = format!("{} → {}", place(&pair.baseline), place(&pair.what_if));
        *self.found.moved.entry(moved).or_default() += 1;
        self.found.changed += 1;
        (self.each)(&Changed {
            task_id,
            arrived_at_ms: pair.arrived.as_ms(),
            baseline: pair.baseline,
            what_if: pair.what_if,
        });
    }

    /// The answer, when all lanes are played.
    pub fn finish(mut self) -> Comparison {
        for (task_id, pair) in std::mem::take(&mut self.open) {
            self.found.waiting += 1;
            // What waits in both is not decided otherwise.
            if pair.baseline.is_some() || pair.what_if.is_some() {
                self.changed(task_id, pair);
            }
        }
        let share = self.modelled as f64 / self.found.what_if.attempts.max(1) as f64;
        Comparison {
            baseline: self.found.baseline.finish(),
            what_if: self.found.what_if.finish(),
            modelled_share: share,
            ..self.found
        }
    }
}
