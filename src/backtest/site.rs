//! The workers of a backtest: attempts under way at the stand-in provider, what they report and
//! when, and what became of every task.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::provider::{Provider, Ticket};
use super::scenario::Scenario;
use crate::model::reason::RefusalReason;
use crate::model::result::{ResultStatus, TaskResult};

/// A worker with a long attempt says this often that it is alive: well within the shortest lease.
const HEARTBEAT_MS: u64 = 10_000;

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum End {
    Open,
    /// `finished_ms` is exact, from the scenario's start.
    Answered {
        resource: usize,
        quality: f64,
        finished_ms: f64,
    },
    Refused(RefusalReason),
}

/// What became of a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    pub end: End,
    /// The start of the first attempt, and of the last.
    pub first_start_ms: Option<u64>,
    pub last_start_ms: u64,
    /// Of all attempts that answered.
    pub cost_usd: f64,
}

/// One decision, for `--decisions`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    pub task: usize,
    pub decided_ms: u64,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Routed { resource: usize, attempt: u32 },
    Refused(RefusalReason),
}

/// Everything that came of one router over a scenario.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// By task.
    pub fates: Vec<Fate>,
    pub decisions: Vec<Decision>,
    pub attempts: u64,
    pub failed_attempts: u64,
    pub oversubscribed: u64,
    pub overrun_tokens: u64,
    /// Between lanes: rights that moved, and what the planner advised.
    pub messages: u64,
    pub advice: u64,
}

#[derive(Debug)]
struct Running {
    attempt: u32,
    ticket: Ticket,
    started_ms: u64,
    fails: bool,
}

/// What a worker does next, at a time; ordered by when it was planned where times are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Starts,
    Beats,
    Ends,
    /// The provider refused the start.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    at_ms: u64,
    order: u64,
    step: Step,
    task: usize,
    attempt: u32,
    resource: usize,
}

#[derive(Debug)]
pub struct Site<'a> {
    pub scenario: &'a Scenario,
    pub provider: Provider,
    seed: u64,
    /// Whether starts and heartbeats are reported; a router that does not listen needs none.
    reports_life: bool,
    running: Vec<Option<Running>>,
    events: BinaryHeap<Reverse<Event>>,
    order: u64,
    open: usize,
    run: Run,
}

impl<'a> Site<'a> {
    pub fn new(scenario: &'a Scenario, seed: u64, reports_life: bool) -> Self {
        let tasks = scenario.tasks.len();
        let fate = Fate { end: End::Open, first_start_ms: None, last_start_ms: 0, cost_usd: 0.0 };
        Site {
            scenario,
            provider: Provider::new(scenario.resources()),
            seed,
            reports_life,
            running: std::iter::repeat_with(|| None).take(tasks).collect(),
            events: BinaryHeap::new(),
            order: 0,
            open: tasks,
            run: Run {
                fates: vec![fate; tasks],
                decisions: Vec::new(),
                attempts: 0,
                failed_attempts: 0,
                oversubscribed: 0,
                messages: 0,
                advice: 0,
                overrun_tokens: 0,
            },
        }
    }

    /// Tasks that have not ended.
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn finish(self) -> Run {
        let Provider { oversubscribed, overrun_tokens, .. } = self.provider;
        Run { oversubscribed, overrun_tokens, ..self.run }
    }

    fn plan(&mut self, at_ms: u64, step: Step, task: usize, attempt: u32, resource: usize) {
        self.order += 1;
        let event = Event { at_ms, order: self.order, step, task, attempt, resource };
        self.events.push(Reverse(event));
    }

    /// Starts an attempt now.
    pub fn start(
        &mut self,
        now_ms: u64,
        task: usize,
        attempt: u32,
        resource: usize,
        reserved_tokens: u64,
    ) {
        let verdict = Verdict::Routed { resource, attempt };
        self.run.decisions.push(Decision { task, decided_ms: now_ms, verdict });
        self.run.attempts += 1;
        let started = self.provider.start(now_ms, resource, reserved_tokens);
        let outcome = self.scenario.outcome(task, resource);
        let (Some(ticket), Some(outcome)) = (started, outcome) else {
            if let Some(ticket) = started {
                self.provider.end(ticket, None);
            }
            self.plan(now_ms, Step::Refused, task, attempt, resource);
            return;
        };
        let fate = &mut self.run.fates[task];
        fate.first_start_ms.get_or_insert(now_ms);
        fate.last_start_ms = now_ms;
        let fails = self.scenario.fails(self.seed, task, attempt, resource, now_ms);
        let ends_ms = now_ms + libm::ceil(outcome.duration_ms) as u64;
        self.running[task] = Some(Running { attempt, ticket, started_ms: now_ms, fails });
        if self.reports_life {
            self.plan(now_ms, Step::Starts, task, attempt, resource);
            if now_ms + HEARTBEAT_MS < ends_ms {
                self.plan(now_ms + HEARTBEAT_MS, Step::Beats, task, attempt, resource);
            }
        }
        self.plan(ends_ms, Step::Ends, task, attempt, resource);
    }

    /// The router gave an attempt up (its resource went down, its lease ended): the worker breaks it
    /// off.
    pub fn break_off(&mut self, task: usize, attempt: u32) {
        if let Some(running) = self.running[task].take_if(|running| running.attempt == attempt) {
            self.provider.end(running.ticket, None);
            self.run.failed_attempts += 1;
        }
    }

    pub fn refuse(&mut self, now_ms: u64, task: usize, reason: RefusalReason) {
        let verdict = Verdict::Refused(reason);
        self.run.decisions.push(Decision { task, decided_ms: now_ms, verdict });
        self.end(task, End::Refused(reason));
    }

    fn end(&mut self, task: usize, end: End) {
        let fate = &mut self.run.fates[task];
        if fate.end == End::Open {
            fate.end = end;
            self.open -= 1;
        }
    }

    pub fn next_event_ms(&self) -> Option<u64> {
        self.events.peek().map(|Reverse(event)| event.at_ms)
    }

    /// What the workers report until now, in order.
    pub fn reports(&mut self, now_ms: u64) -> Vec<(usize, TaskResult)> {
        let mut found = Vec::new();
        while let Some(Reverse(event)) = self.events.peek().copied()
            && event.at_ms <= now_ms
        {
            self.events.pop();
            found.extend(self.report(event).map(|result| (event.task, result)));
        }
        found
    }

    fn report(&mut self, event: Event) -> Option<TaskResult> {
        let Event { at_ms, step, task, attempt, resource, .. } = event;
        let mut result = TaskResult {
            task_id: self.scenario.tasks[task].task.task_id.clone(),
            attempt,
            stage: 0,
            resource: self.scenario.resources()[resource].id.clone(),
            lane: None,
            status: ResultStatus::Started,
            input_tokens: None,
            output_tokens: None,
            time_to_first_token_ms: None,
            duration_ms: None,
            quality: None,
            retry_after_ms: None,
            error: None,
            rate_limits: Vec::new(),
        };
        if step == Step::Refused {
            self.run.failed_attempts += 1;
            result.status = ResultStatus::RateLimited;
            result.retry_after_ms = Some(1_000);
            return Some(result);
        }
        let is_current = |running: &Running| running.attempt == attempt;
        if !self.running[task].as_ref().is_some_and(is_current) {
            return None;
        }
        match step {
            Step::Starts => {}
            Step::Beats => {
                result.status = ResultStatus::Heartbeat;
                self.plan(at_ms + HEARTBEAT_MS, Step::Beats, task, attempt, resource);
            }
            Step::Ends | Step::Refused => {
                let running = self.running[task].take()?;
                let outcome = *self.scenario.outcome(task, resource)?;
                if running.fails {
                    self.provider.end(running.ticket, None);
                    self.run.failed_attempts += 1;
                    result.status = ResultStatus::Failed;
                    result.duration_ms = Some(outcome.duration_ms);
                } else {
                    self.answer(task, &running, &mut result);
                }
            }
        }
        Some(result)
    }

    fn answer(&mut self, task: usize, running: &Running, result: &mut TaskResult) {
        let resource = running.ticket.resource;
        let Some(outcome) = self.scenario.outcome(task, resource).copied() else { return };
        let input_tokens = self.scenario.tasks[task].task.input_tokens;
        let used = u64::from(input_tokens) + u64::from(outcome.output_tokens);
        self.provider.end(running.ticket, Some(used));
        self.run.fates[task].cost_usd +=
            self.scenario.cost_usd(task, resource, outcome.output_tokens);
        let finished_ms = running.started_ms as f64 + outcome.duration_ms;
        self.end(task, End::Answered { resource, quality: outcome.quality, finished_ms });
        result.status = ResultStatus::Succeeded;
        result.input_tokens = Some(input_tokens);
        result.output_tokens = Some(outcome.output_tokens);
        result.time_to_first_token_ms = Some(outcome.time_to_first_token_ms);
        result.duration_ms = Some(outcome.duration_ms);
        result.quality = Some(outcome.quality);
    }
}
