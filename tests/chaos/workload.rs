//! What goes on while there are faults: the demo's tasks, its simulated workers and its outage.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{anyhow, bail};
use pointsman::clock::{Stopwatch, wall_now};
use pointsman::codec::{Codec, OutputFormat, RegisteredSchemas};
use pointsman::demo::ledger::Ledger;
use pointsman::demo::outage::{Outage, Step};
use pointsman::demo::publish::{producer, publish_fleet, publish_health, publish_tasks};
use pointsman::demo::records::consumer;
use pointsman::demo::tasks::{DemoTask, generate};
use pointsman::demo::topics::DemoTopics;
use pointsman::demo::trace;
use pointsman::demo::watch::watch;
use pointsman::demo::workers::{Work, Workplace, work};
use pointsman::model::Topic;
use pointsman::model::health::HealthStatus;
use pointsman::model::resource::FleetFile;
use rdkafka::ClientConfig;
use testbed::eventually;

/// Seconds of the trace in one: 100 tasks a second.
const SPEED: f64 = 40.0;
/// How long all must stay accounted for: between two attempts nothing seems to be held.
const SETTLED: Duration = Duration::from_millis(500);
/// Longer than any script: the patience below ends it before.
const HOUR: Duration = Duration::from_secs(3_600);
/// From the end of the script until all has ended: the longest deadline of a task is a minute.
const DRAIN_WAIT: Duration = Duration::from_secs(100);

pub struct Workload<'a> {
    pub client: &'a ClientConfig,
    pub topics: &'a DemoTopics,
    pub seed: u64,
    codec: Codec,
    fleet: FleetFile,
    tasks: Vec<DemoTask>,
}

/// How it ended.
#[derive(Debug, Default)]
pub struct Played {
    pub tasks: u64,
    /// What had not ended when the patience was over.
    pub missing: Option<String>,
    pub elapsed: Duration,
}

impl<'a> Workload<'a> {
    /// Tasks for so long, and the fleet published.
    pub fn prepare(
        client: &'a ClientConfig,
        topics: &'a DemoTopics,
        seed: u64,
        lasts: Duration,
    ) -> anyhow::Result<Self> {
        let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default())?;
        let fleet = pointsman::demo::fleet::bundled(SPEED)?;
        let mut arrivals = trace::bundled()?;
        let last_us = (lasts.as_micros() as f64 * SPEED) as u64;
        arrivals.retain(|arrival| arrival.after_us <= last_us);
        let tasks = generate(&arrivals, SPEED, seed);
        publish_fleet(client, topics, &codec, &fleet)?;
        Ok(Workload { client, topics, seed, codec, fleet, tasks })
    }

    /// Everybody at work until all is accounted for. `script` does its next step and says whether it
    /// has come to its end.
    pub fn play(
        &self,
        interrupted: &AtomicBool,
        mut script: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Played> {
        let Workload { client, topics, seed, codec, fleet, tasks } = self;
        let ledger = Ledger::new(tasks.len(), fleet.resources.len());
        let decisions = topics.name(Topic::RouteDecisions);
        let readers: Vec<_> = (0..topics.lanes)
            .map(|lane| Ok((consumer(client, &[(decisions, lane)])?, producer(client)?)))
            .collect::<anyhow::Result<_>>()?;
        let watched: Vec<(&str, i32)> = [Topic::AllocationEvents, Topic::TasksDlq]
            .into_iter()
            .flat_map(|topic| (0..topics.lanes).map(move |lane| (topics.name(topic), lane)))
            .collect();
        let watcher = consumer(client, &watched)?;
        let task_producer = producer(client)?;
        let began = Stopwatch::start();
        let place = Workplace { topics, codec, fleet, tasks, ledger: &ledger, seed: *seed, began };

        thread::scope(|scope| {
            let workers: Vec<ScopedJoinHandle<'_, anyhow::Result<Work>>> = readers
                .iter()
                .map(|(reader, answers)| scope.spawn(move || work(place, reader, answers)))
                .collect();
            let watching = scope.spawn(|| watch(&watcher, topics, codec, fleet, &ledger));
            let publishing =
                scope.spawn(|| publish_tasks(&task_producer, topics, codec, tasks, &ledger, began));
            let times: Vec<u64> = tasks.iter().map(|task| task.after_us).collect();
            let mut course = Course {
                workload: self,
                ledger: &ledger,
                began,
                outage: Outage::new(&times),
                over_since: None,
                script_ended: None,
            };
            let played = eventually("the end of a round", HOUR, || {
                let is_dead = watching.is_finished()
                    || workers.iter().any(ScopedJoinHandle::is_finished)
                    || (publishing.is_finished() && !ledger.is_published());
                let stepped = if interrupted.load(Ordering::Relaxed) {
                    Err(anyhow!("interrupted"))
                } else if is_dead {
                    Err(anyhow!("a thread of the workload has ended"))
                } else {
                    script().and_then(|ended| course.step(ended))
                };
                stepped.transpose()
            });
            ledger.stop.store(true, Ordering::Relaxed);
            // An error of a thread is the reason where the script ended because of it.
            joined(watching)?;
            joined(publishing)?;
            for worker in workers {
                joined(worker)?;
            }
            played
        })
    }
}

trait Published {
    fn is_published(&self) -> bool;
}

impl Published for Ledger {
    fn is_published(&self) -> bool {
        self.totals().published == self.tasks()
    }
}

struct Course<'a> {
    workload: &'a Workload<'a>,
    ledger: &'a Ledger,
    began: Stopwatch,
    outage: Outage,
    over_since: Option<Stopwatch>,
    script_ended: Option<Stopwatch>,
}

impl Course<'_> {
    fn step(&mut self, script_has_ended: bool) -> anyhow::Result<Option<Played>> {
        while let Some(step) = self.outage.due(self.began.elapsed_us(), &self.ledger.in_flight()) {
            self.take(step)?;
        }
        if !script_has_ended {
            return Ok(None);
        }
        let ended = *self.script_ended.get_or_insert_with(Stopwatch::start);
        let mut played =
            Played { tasks: self.ledger.tasks(), missing: None, elapsed: self.began.elapsed() };
        if self.ledger.is_over() {
            let over = self.over_since.get_or_insert_with(Stopwatch::start);
            return Ok(over.remaining(SETTLED).is_zero().then_some(played));
        }
        self.over_since = None;
        if self.ledger.is_published() && ended.remaining(DRAIN_WAIT).is_zero() {
            played.missing = Some(self.ledger.missing());
            return Ok(Some(played));
        }
        Ok(None)
    }

    fn take(&mut self, step: Step) -> anyhow::Result<()> {
        let (resource, status) = match step {
            Step::Breaks(resource) => {
                self.ledger.set_broken(Some(resource));
                return Ok(());
            }
            Step::Reported(resource) => (resource, HealthStatus::Unhealthy),
            Step::Recovers(resource) => {
                // First the resource works, then anyone hears of it.
                self.ledger.set_broken(None);
                (resource, HealthStatus::Healthy)
            }
        };
        let Workload { client, topics, codec, fleet, .. } = self.workload;
        match fleet.resources.get(resource) {
            Some(one) => publish_health(client, topics, codec, &one.id, status, wall_now()),
            None => Ok(()),
        }
    }
}

fn joined<T>(handle: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    match handle.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread of the workload panicked"),
    }
}
