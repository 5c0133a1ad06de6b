//! The simulated workers: they read route decisions as any worker would, wait for as long as the
//! model would take, and publish what it answered to the partition that the decision names.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use anyhow::Context;
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::BorrowedMessage;
use rdkafka::producer::{BaseProducer, Producer};

use super::attempt::{Answer, Attempt, Broken, answer, broken};
use super::ledger::Ledger;
use super::publish::send;
use super::records::{next, raw};
use super::tasks::{DemoTask, index_of};
use super::topics::DemoTopics;
use crate::clock::{Stopwatch, wall_now};
use crate::codec::Codec;
use crate::model::Topic;
use crate::model::decision::{Outcome, RouteDecision};
use crate::model::resource::{FleetFile, ResourceSpec};
use crate::model::result::{ResultStatus, TaskResult};

/// The longest wait for a decision while no answer is due.
const POLL: Duration = Duration::from_millis(5);
/// Decisions that are read before answers that are due get their turn.
const DECISIONS_AT_ONCE: usize = 256;
/// How long the last answers may take.
const FLUSH_WAIT: Duration = Duration::from_secs(10);

/// What all workers share.
#[derive(Clone, Copy)]
pub struct Workplace<'a> {
    pub topics: &'a DemoTopics,
    pub codec: &'a Codec,
    pub fleet: &'a FleetFile,
    pub tasks: &'a [DemoTask],
    pub ledger: &'a Ledger,
    pub seed: u64,
    pub began: Stopwatch,
}

/// What one worker did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Work {
    pub succeeded: u64,
    pub failed: u64,
    pub rate_limited: u64,
    pub late: u64,
    /// Attempts that were never answered.
    pub hung: u64,
    pub cost_usd: f64,
    /// From publication to the first decision, for each task that this worker decided about.
    pub end_to_end_ms: Vec<f64>,
}

impl Work {
    pub fn add(&mut self, other: Work) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.rate_limited += other.rate_limited;
        self.late += other.late;
        self.hung += other.hung;
        self.cost_usd += other.cost_usd;
        self.end_to_end_ms.extend(other.end_to_end_ms);
    }
}

/// Attempts of a stage, in the numbering over all stages: more than `attempts_max` allows.
const STAGE_ATTEMPTS: u32 = 16;

/// An attempt that runs, by the time at which it ends.
struct Running<'a> {
    lane: i32,
    /// Numbered over all stages, so that each draws for itself.
    attempt: Attempt,
    /// As the decision has it.
    attempt_number: u32,
    stage: u32,
    /// Whether no stage follows.
    is_last: bool,
    resource: &'a ResourceSpec,
    /// The resource's place in the fleet.
    number: usize,
    answer: Answer,
}

/// Works until the ledger says to stop.
pub fn work(
    place: Workplace<'_>,
    consumer: &BaseConsumer,
    producer: &BaseProducer,
) -> anyhow::Result<Work> {
    let resources = place.fleet.resources.iter().enumerate();
    let mut worker = Worker {
        place,
        producer,
        resources: resources.map(|(number, one)| (one.id.as_str(), (number, one))).collect(),
        due: BinaryHeap::new(),
        running: BTreeMap::new(),
        next: 0,
        value: Vec::new(),
        work: Work::default(),
    };
    while !place.ledger.stopping() {
        let mut wait = worker.until_due().min(POLL);
        for _ in 0..DECISIONS_AT_ONCE {
            let Some(message) = next(consumer, wait)? else { break };
            worker.read(&message)?;
            wait = Duration::ZERO;
        }
        worker.answer_due()?;
        producer.poll(Duration::ZERO);
    }
    producer.flush(FLUSH_WAIT).context("the last results cannot be published")?;
    Ok(worker.work)
}

struct Worker<'a> {
    place: Workplace<'a>,
    producer: &'a BaseProducer,
    /// With their places in the fleet.
    resources: BTreeMap<&'a str, (usize, &'a ResourceSpec)>,
    /// When each running attempt ends, in microseconds after the beginning.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    running: BTreeMap<u64, Running<'a>>,
    next: u64,
    value: Vec<u8>,
    work: Work,
}

impl<'a> Worker<'a> {
    fn now_us(&self) -> u64 {
        self.place.began.elapsed_us()
    }

    fn until_due(&self) -> Duration {
        let due = self.due.peek().map_or(u64::MAX, |Reverse((due_us, _))| *due_us);
        Duration::from_micros(due.saturating_sub(self.now_us()))
    }

    fn read(&mut self, message: &BorrowedMessage<'_>) -> anyhow::Result<()> {
        let record = raw(Topic::RouteDecisions, message);
        let decision = self.place.codec.decode_route_decision(&record)?;
        let Some(index) = index_of(&decision.task_id) else {
            return Ok(());
        };
        let now_us = self.now_us();
        if let Some(waited_us) = self.place.ledger.decided(index, now_us) {
            self.work.end_to_end_ms.push(waited_us as f64 / 1_000.0);
        }
        match decision.outcome {
            Outcome::Refused => self.place.ledger.ended(index),
            Outcome::Routed => self.begin(index, &decision, now_us)?,
        }
        Ok(())
    }

    fn begin(
        &mut self,
        index: usize,
        decision: &RouteDecision<'_>,
        now_us: u64,
    ) -> anyhow::Result<()> {
        self.place.ledger.routed(index);
        let link = decision.primary.iter().find(|link| link.stage == decision.stage);
        let resource = link.and_then(|link| self.resources.get(link.resource.as_ref()).copied());
        let (Some((number, resource)), Some(task)) = (resource, self.place.tasks.get(index)) else {
            // The audit names a route to nowhere; an answer to it would go nowhere too.
            return Ok(());
        };
        let attempt = Attempt {
            task_index: index,
            number: decision.attempt + STAGE_ATTEMPTS * decision.stage,
            input_tokens: decision.input_tokens,
            output_tokens: task.generated_tokens,
        };
        let is_late = decision.start_by_at_ms.is_some_and(|start| start < wall_now());
        let answer = if is_late {
            Answer {
                status: ResultStatus::Late,
                duration_ms: 0.0,
                time_to_first_token_ms: None,
                quality: None,
                retry_after_ms: None,
            }
        } else {
            answer(self.place.seed, &attempt, &decision.class, resource)
        };
        let running = Running {
            lane: decision.lane as i32,
            attempt,
            attempt_number: decision.attempt,
            stage: decision.stage,
            is_last: decision.stage + 1 >= decision.stages,
            resource,
            number,
            answer,
        };
        let due_us = now_us + (running.answer.duration_ms * 1_000.0) as u64;
        self.due.push(Reverse((due_us, self.next)));
        self.running.insert(self.next, running);
        self.next += 1;
        Ok(())
    }

    fn answer_due(&mut self) -> anyhow::Result<()> {
        let now_us = self.now_us();
        while let Some(Reverse((due_us, number))) = self.due.peek().copied()
            && due_us <= now_us
        {
            self.due.pop();
            if let Some(running) = self.running.remove(&number) {
                self.end(running)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, mut running: Running<'a>) -> anyhow::Result<()> {
        if self.place.ledger.is_broken(running.number) {
            match broken(self.place.seed, &running.attempt) {
                Broken::Hangs => {
                    self.work.hung += 1;
                    return Ok(());
                }
                Broken::Fails => running.answer.status = ResultStatus::Failed,
            }
        }
        self.publish(&running)
    }

    fn publish(&mut self, running: &Running<'_>) -> anyhow::Result<()> {
        let Running { attempt, answer, resource, .. } = running;
        let succeeded = answer.status == ResultStatus::Succeeded;
        let task = &self.place.tasks[attempt.task_index].task;
        let error = match answer.status {
            ResultStatus::Failed => Some("the simulated model failed"),
            ResultStatus::RateLimited => Some("the simulated provider answered 429"),
            ResultStatus::Late => Some("read after start_by"),
            ResultStatus::Succeeded
            | ResultStatus::Started
            | ResultStatus::Heartbeat
            | ResultStatus::Cancelled => None,
        };
        let result = TaskResult {
            task_id: task.task_id.clone(),
            attempt: running.attempt_number,
            stage: running.stage,
            resource: resource.id.clone(),
            lane: u32::try_from(running.lane).ok(),
            status: answer.status,
            input_tokens: succeeded.then_some(attempt.input_tokens),
            output_tokens: succeeded.then_some(attempt.output_tokens),
            time_to_first_token_ms: answer.time_to_first_token_ms.filter(|_| succeeded),
            duration_ms: Some(answer.duration_ms),
            quality: answer.quality.filter(|_| succeeded),
            retry_after_ms: answer.retry_after_ms,
            error: error.map(str::to_owned),
            rate_limits: Vec::new(),
        };
        match answer.status {
            ResultStatus::Failed => self.work.failed += 1,
            ResultStatus::RateLimited => self.work.rate_limited += 1,
            ResultStatus::Late => self.work.late += 1,
            ResultStatus::Succeeded
            | ResultStatus::Started
            | ResultStatus::Heartbeat
            | ResultStatus::Cancelled => {
                let prices = resource.usd_per_million_tokens;
                self.work.succeeded += 1;
                self.work.cost_usd += (f64::from(attempt.input_tokens) * prices.input
                    + f64::from(attempt.output_tokens) * prices.output)
                    / 1e6;
            }
        }
        self.value.clear();
        self.place.codec.encode_task_result(&result, &mut self.value);
        let topic = self.place.topics.name(Topic::TaskResults);
        let key = result.task_id.as_bytes();
        send(self.producer, topic, Some(running.lane), key, &self.value)?;
        // The success of a stage is the decision of the next.
        if succeeded && running.is_last {
            self.place.ledger.ended(attempt.task_index);
        }
        Ok(())
    }
}
