//! Routers to compare with. Each gets the same input, limits, knowledge of health and right to wait
//! as the core: what finds no room waits, by priority and then in order of arrival, until its deadline
//! or the policy's longest wait. They differ in which of the resources with room they take. They know no
//! tenants, so nothing of a tenant's limits holds them back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::scenario::Scenario;
use super::site::{Run, Site};
use super::{BacktestError, Settings, Watch};
use crate::draw::{Draw, Purpose};
use crate::model::health::{HealthScope, HealthStatus};
use crate::model::reason::RefusalReason;
use crate::model::resource::{ResourceSpec, TenantSpec};
use crate::model::result::{ResultStatus, TaskResult};
use crate::model::task::Priority;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    Random,
    RoundRobin,
    /// The lowest price for the task.
    Cheapest,
    /// The highest prior quality for the task's class.
    BestQualityFirst,
    /// The smallest share of slots in use.
    LeastBusy,
    /// Of two at random, the one with the lower peak EWMA of latency times requests under way.
    PowerOfTwoPeakEwma,
}

impl Baseline {
    pub const ALL: [Baseline; 6] = [
        Baseline::Random,
        Baseline::RoundRobin,
        Baseline::Cheapest,
        Baseline::BestQualityFirst,
        Baseline::LeastBusy,
        Baseline::PowerOfTwoPeakEwma,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Baseline::Random => "random",
            Baseline::RoundRobin => "round_robin",
            Baseline::Cheapest => "cheapest",
            Baseline::BestQualityFirst => "best_quality_first",
            Baseline::LeastBusy => "least_busy",
            Baseline::PowerOfTwoPeakEwma => "power_of_two_peak_ewma",
        }
    }
}

/// What makes the comparison with them unequal; `None` where nothing does.
pub fn note(scenario: &Scenario) -> Option<String> {
    let is_bound = |tenant: &&TenantSpec| {
        let TenantSpec { id: _, weight: _, limits, burst, usd_per_hour, reserved_share } = tenant;
        !limits.is_empty() || burst.is_some() || usd_per_hour.is_some() || *reserved_share > 0.0
    };
    let bound = scenario.fleet.tenants.iter().filter(is_bound).count();
    let text = format!(
        "the limits and shares of {bound} tenants bind pointsman alone, not the simple routers"
    );
    (bound > 0).then_some(text)
}

/// Latency that decays towards what is seen and jumps to what is worse, after Finagle and `tower`.
#[derive(Debug, Clone, Copy)]
struct PeakEwma {
    ms: f64,
    at_ms: u64,
}

/// The time in which an older latency loses all but 1/e of its weight: `tower`'s usual choice.
const DECAY_MS: f64 = 10_000.0;

impl PeakEwma {
    fn add(&mut self, ms: f64, now_ms: u64) {
        if ms > self.ms {
            self.ms = ms;
        } else {
            let kept = libm::exp(-((now_ms - self.at_ms) as f64) / DECAY_MS);
            self.ms = self.ms * kept + ms * (1.0 - kept);
        }
        self.at_ms = now_ms;
    }
}

/// Waiting tasks of a priority that are tried each time: as many as the core tries.
const TRIED_MAX: usize = 512;

struct Waiting {
    task: usize,
    until_ms: u64,
    /// The number of the next attempt.
    attempt: u32,
    failures: u32,
    tried: Vec<usize>,
    /// What could ever serve it, by the priors.
    candidates: Vec<usize>,
}

struct Router<'a> {
    baseline: Baseline,
    settings: &'a Settings,
    scenario: &'a Scenario,
    site: Site<'a>,
    queues: [VecDeque<Waiting>; 3],
    /// What waits, by the time until which it may.
    waits: BTreeSet<(u64, usize)>,
    /// Attempts under way, by task.
    started: BTreeMap<usize, Waiting>,
    health: BTreeMap<(HealthScope, String), HealthStatus>,
    serves: Vec<bool>,
    cursor: usize,
    latency: Vec<PeakEwma>,
    dice: Draw,
}

/// Routes the whole scenario with a baseline.
///
/// # Errors
/// `watch` said to stop.
pub fn run(
    baseline: Baseline,
    scenario: &Scenario,
    settings: &Settings,
    watch: Watch<'_>,
) -> Result<Run, BacktestError> {
    let ewma = |spec: &ResourceSpec| PeakEwma { ms: spec.speed.time_to_first_token_ms, at_ms: 0 };
    let mut router = Router {
        baseline,
        settings,
        scenario,
        site: Site::new(scenario, settings.seed, false),
        queues: std::array::from_fn(|_| VecDeque::new()),
        waits: BTreeSet::new(),
        started: BTreeMap::new(),
        health: BTreeMap::new(),
        serves: vec![true; scenario.resources().len()],
        cursor: 0,
        latency: scenario.resources().iter().map(ewma).collect(),
        dice: Draw::new(settings.seed, Purpose::Baseline, baseline as u64),
    };
    router.run(watch)?;
    Ok(router.site.finish())
}

impl Router<'_> {
    fn run(&mut self, watch: Watch<'_>) -> Result<(), BacktestError> {
        let (mut tasks, mut events) = (0, 0);
        let scenario = self.scenario;
        while self.site.open() > 0 {
            let open = self.site.open();
            let arrival = scenario.tasks.get(tasks).map(|timed| timed.arrival_ms);
            let health = scenario.health.get(events).map(|(at_ms, _)| *at_ms);
            let next = [arrival, health, self.site.next_event_ms(), self.next_wake_ms()];
            let Some(now) = next.into_iter().flatten().min() else {
                return Err(BacktestError::Unsettled { open });
            };
            while let Some((_, event)) = scenario.health.get(events).filter(|(ms, _)| *ms <= now) {
                events += 1;
                self.health.insert((event.scope, event.id.clone()), event.status);
                self.serves = scenario.resources().iter().map(|spec| self.is_up(spec)).collect();
            }
            for (task, result) in self.site.reports(now) {
                self.ended(now, task, &result);
            }
            self.site.provider.advance(now);
            self.serve(now);
            while let Some(timed) = scenario.tasks.get(tasks).filter(|one| one.arrival_ms <= now) {
                self.arrived(now, tasks, self.until_ms(now, timed.deadline_at_ms()));
                tasks += 1;
            }
            if !watch((open - self.site.open()) as u64) {
                return Err(BacktestError::Stopped);
            }
        }
        Ok(())
    }

    fn is_up(&self, spec: &ResourceSpec) -> bool {
        let scopes = [
            (HealthScope::Resource, spec.id.clone()),
            (HealthScope::Provider, spec.provider.clone()),
            (HealthScope::Region, spec.region.clone()),
            (HealthScope::FailureDomain, spec.domain()),
        ];
        scopes.iter().all(|scope| match self.health.get(scope) {
            Some(HealthStatus::Unhealthy | HealthStatus::Drain) => false,
            Some(HealthStatus::Healthy | HealthStatus::Degraded) | None => true,
        })
    }

    fn until_ms(&self, now: u64, deadline_at_ms: Option<u64>) -> u64 {
        let longest = now.saturating_add(self.settings.policy.wait_ms_max);
        deadline_at_ms.map_or(longest, |deadline| deadline.min(longest))
    }

    /// When something may change for what waits, without anybody reporting.
    fn next_wake_ms(&self) -> Option<u64> {
        let (until, _) = *self.waits.first()?;
        Some(self.site.provider.next_release_ms().map_or(until, |release| release.min(until)))
    }

    fn arrived(&mut self, now: u64, task: usize, until_ms: u64) {
        let candidates = self.candidates(task);
        if candidates.is_empty() {
            self.site.refuse(now, task, RefusalReason::NoCapableResource);
            return;
        }
        let mut new =
            Waiting { task, until_ms, attempt: 1, failures: 0, tried: Vec::new(), candidates };
        let queue = self.queue_of(task);
        // Nobody overtakes those of the same priority that wait.
        if self.queues[queue].is_empty()
            && let Some(resource) = self.place_for(now, &new)
        {
            new.tried.push(resource);
            self.start(now, new, resource);
            return;
        }
        if self.waits.len() >= self.settings.policy.backlog_tasks_max as usize {
            // The last of a lower priority gives way, or else the task itself.
            let lower = self.queues[queue + 1..].iter_mut().rev().find_map(VecDeque::pop_back);
            match lower {
                Some(lower) => {
                    self.waits.remove(&(lower.until_ms, lower.task));
                    self.site.refuse(now, lower.task, RefusalReason::BacklogFull);
                }
                None => {
                    self.site.refuse(now, task, RefusalReason::BacklogFull);
                    return;
                }
            }
        }
        self.waits.insert((until_ms, task));
        self.queues[queue].push_back(new);
    }

    fn candidates(&self, task: usize) -> Vec<usize> {
        let asked = &self.scenario.tasks[task].task;
        let least = asked.requirements.min_quality.unwrap_or(0.0);
        let specs = self.scenario.resources().iter().enumerate();
        let good_enough = |spec: &ResourceSpec| {
            spec.quality_prior(&asked.class).is_some_and(|prior| prior >= least)
        };
        specs
            .filter(|(place, spec)| self.scenario.could_serve(task, *place) && good_enough(spec))
            .map(|(place, _)| place)
            .collect()
    }

    fn queue_of(&self, task: usize) -> usize {
        match self.scenario.tasks[task].task.priority {
            Priority::Critical => 0,
            Priority::Interactive => 1,
            Priority::Batch => 2,
        }
    }

    /// Refuses what has waited too long, and tries the rest.
    fn serve(&mut self, now: u64) {
        while let Some((_, task)) = self.waits.first().copied().filter(|(until, _)| *until <= now) {
            self.waits.pop_first();
            let queue = self.queue_of(task);
            self.queues[queue].retain(|waiting| waiting.task != task);
            let deadline_ms = self.scenario.tasks[task].deadline_at_ms();
            let is_over = deadline_ms.is_some_and(|deadline| deadline <= now);
            let reason = if is_over { RefusalReason::Deadline } else { RefusalReason::NoCapacity };
            self.site.refuse(now, task, reason);
        }
        for queue in 0..self.queues.len() {
            let mut place = 0;
            while place < self.queues[queue].len().min(TRIED_MAX) && self.has_room() {
                let waiting = &self.queues[queue][place];
                // The dice are thrown only where there is a choice.
                let candidates = self.open_to(now, waiting);
                let Some(resource) = self.choose(self.queues[queue][place].task, &candidates)
                else {
                    place += 1;
                    continue;
                };
                let Some(mut waiting) = self.queues[queue].remove(place) else { break };
                self.waits.remove(&(waiting.until_ms, waiting.task));
                waiting.tried.push(resource);
                self.start(now, waiting, resource);
            }
        }
    }

    fn has_room(&self) -> bool {
        (0..self.serves.len()).any(|place| self.serves[place] && self.site.provider.fits(place, 0))
    }

    fn start(&mut self, now: u64, waiting: Waiting, resource: usize) {
        let tokens = self.scenario.tasks[waiting.task].tokens_max();
        self.site.start(now, waiting.task, waiting.attempt, resource, tokens);
        self.started.insert(waiting.task, waiting);
    }

    fn place_for(&mut self, now: u64, waiting: &Waiting) -> Option<usize> {
        let room = self.open_to(now, waiting);
        self.choose(waiting.task, &room)
    }

    /// The candidates that have room for a task, are up, and can be expected to answer in time.
    fn open_to(&self, now: u64, waiting: &Waiting) -> Vec<usize> {
        let timed = &self.scenario.tasks[waiting.task];
        let tokens = timed.tokens_max();
        let left_ms = timed.deadline_at_ms().map(|deadline| deadline.saturating_sub(now) as f64);
        let in_time = |spec: &ResourceSpec| {
            // The same guess as the core's: a quarter of the output that may be asked for.
            let output = f64::from(timed.task.max_output_tokens) / 4.0;
            let predicted_ms = spec.speed.time_to_first_token_ms
                + f64::from(timed.task.input_tokens) * 1_000.0 / spec.speed.prefill_tokens_per_s
                + output * 1_000.0 / spec.speed.decode_tokens_per_s;
            left_ms.is_none_or(|left_ms| predicted_ms <= left_ms)
        };
        let is_fresh = |place: &usize| !waiting.tried.contains(place);
        let up = |place: &usize| self.serves[*place];
        // A resource that failed this task comes again only where there is no other.
        let only_fresh = waiting.candidates.iter().any(|place| is_fresh(place) && up(place));
        let fits = |place: &usize| {
            self.site.provider.fits(*place, tokens) && in_time(&self.scenario.resources()[*place])
        };
        let open = waiting.candidates.iter().copied();
        open.filter(|place| up(place) && (!only_fresh || is_fresh(place)) && fits(place)).collect()
    }

    fn choose(&mut self, task: usize, room: &[usize]) -> Option<usize> {
        let scenario = self.scenario;
        let specs = scenario.resources();
        let asked = &scenario.tasks[task].task;
        let lowest = |cost: &dyn Fn(usize) -> f64| {
            room.iter().copied().min_by(|one, other| cost(*one).total_cmp(&cost(*other)))
        };
        match self.baseline {
            Baseline::Random => (!room.is_empty()).then(|| room[self.dice.below(room.len())]),
            Baseline::RoundRobin => {
                let next = room.iter().copied().find(|place| *place >= self.cursor);
                let chosen = next.or(room.first().copied())?;
                self.cursor = (chosen + 1) % specs.len();
                Some(chosen)
            }
            Baseline::Cheapest => {
                lowest(&|place| scenario.cost_usd(task, place, asked.max_output_tokens))
            }
            Baseline::BestQualityFirst => {
                lowest(&|place| -specs[place].quality_prior(&asked.class).unwrap_or_default())
            }
            Baseline::LeastBusy => lowest(&|place| {
                f64::from(self.site.provider.busy(place)) / f64::from(specs[place].slots)
            }),
            Baseline::PowerOfTwoPeakEwma => {
                let first = *room.get(self.dice.below(room.len()))?;
                // Another one, where there is another.
                let others: Vec<usize> =
                    room.iter().copied().filter(|place| *place != first).collect();
                let Some(second) = others.get(self.dice.below(others.len())).copied() else {
                    return Some(first);
                };
                let load = |place: usize| {
                    self.latency[place].ms * (f64::from(self.site.provider.busy(place)) + 1.0)
                };
                Some(if load(second) < load(first) { second } else { first })
            }
        }
    }

    fn ended(&mut self, now: u64, task: usize, result: &TaskResult) {
        let Some(mut waiting) = self.started.remove(&task) else { return };
        let resource = waiting.tried.last().copied().unwrap_or_default();
        if let Some(ms) = result.duration_ms {
            self.latency[resource].add(ms, now);
        }
        if result.status == ResultStatus::Succeeded {
            return;
        }
        waiting.failures += 1;
        waiting.attempt += 1;
        if waiting.failures >= self.settings.policy.attempts_max {
            self.site.refuse(now, task, RefusalReason::AttemptsSpent);
            return;
        }
        let deadline_at_ms = self.scenario.tasks[task].deadline_at_ms();
        waiting.until_ms = self.until_ms(now, deadline_at_ms);
        let queue = self.queue_of(task);
        self.waits.insert((waiting.until_ms, task));
        self.queues[queue].push_front(waiting);
    }
}
