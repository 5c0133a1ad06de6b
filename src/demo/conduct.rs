//! The course of a demo: prepare, run the script until every task is accounted for, audit, clean up.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rdkafka::ClientConfig;

use super::audit::{self, AuditReport, read};
use super::ledger::Ledger;
use super::outage::{Outage, Step};
use super::publish::{producer, publish_fleet, publish_health, publish_tasks};
use super::quantile::Histogram;
use super::records::consumer;
use super::router::{Router, group_id};
use super::summary::{Measured, Summary};
use super::tasks::DemoTask;
use super::topics::DemoTopics;
use super::watch::watch;
use super::workers::{Work, Workplace, work};
use super::{Options, fleet, tasks, trace};
use crate::clock::{Stopwatch, wall_now};
use crate::codec::{Codec, OutputFormat, RegisteredSchemas};
use crate::model::Topic;
use crate::model::health::HealthStatus;
use crate::model::resource::FleetFile;

/// How long the router may take to serve its lanes: joining a group and reading empty topics
/// takes a few seconds.
const READY_WAIT: Duration = Duration::from_secs(60);
/// After the last task was published: the longest wait of a task without a deadline, and a
/// restart with its recovery.
const DRAIN_WAIT: Duration = Duration::from_secs(90);
/// How long everything must stay accounted for: between the end of one attempt and the
/// reservation of the next one, both of one transaction, nothing seems to be held.
const SETTLED: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(20);
/// The histogram in which the router keeps what deciding one task takes.
const DECIDE_HISTOGRAM: &str = "pointsman_decide_duration_seconds";

/// A demo that came to its end: the audit may still have found something.
#[derive(Debug)]
pub struct Ended {
    pub summary: Summary,
    pub report: AuditReport,
    /// What else should be said: each a line.
    pub notes: Vec<String>,
    /// Before the name of each topic.
    pub prefix: String,
    /// Of the router's configuration and log, where they were to be kept.
    pub directory: PathBuf,
}

/// Runs a demo; `interrupted` ends it early, and in order.
pub fn run(options: &Options, interrupted: &AtomicBool) -> anyhow::Result<Ended> {
    let mut client = ClientConfig::new();
    for (name, value) in &options.properties {
        client.set(name, value);
    }
    client.set("client.id", "pointsman-demo").set("bootstrap.servers", &options.brokers);
    let run_id = format!("demo-{}-{}", wall_now().as_ms() / 1_000, std::process::id());
    let topics = DemoTopics::new(&format!("{run_id}-"), options.workers);
    let directory = std::env::temp_dir().join(format!("pointsman-{run_id}"));
    fs::create_dir_all(&directory)
        .with_context(|| format!("{} cannot be made", directory.display()))?;
    topics.create(&client)?;

    let stage = Stage { options, client, run_id, topics, directory };
    let ended = stage.run(interrupted);
    let mut notes = Vec::new();
    if options.keep {
        notes.push(format!("kept: topics {}*, {}", stage.prefix(), stage.directory.display()));
    } else {
        if !options.embedded
            && let Err(error) = stage.topics.delete(&stage.client, &group_id(&stage.run_id))
        {
            notes.push(format!("topics {}* are left behind: {error:#}", stage.prefix()));
        }
        if let Err(error) = fs::remove_dir_all(&stage.directory) {
            notes.push(format!("{} is left behind: {error}", stage.directory.display()));
        }
    }
    match ended {
        Ok(mut ended) => {
            ended.notes.append(&mut notes);
            Ok(ended)
        }
        Err(error) if notes.is_empty() => Err(error),
        Err(error) => Err(error.context(notes.join("\n"))),
    }
}

/// What one demo has to itself.
struct Stage<'a> {
    options: &'a Options,
    client: ClientConfig,
    run_id: String,
    topics: DemoTopics,
    directory: PathBuf,
}

impl Stage<'_> {
    fn prefix(&self) -> String {
        format!("{}-", self.run_id)
    }

    fn run(&self, interrupted: &AtomicBool) -> anyhow::Result<Ended> {
        let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default())?;
        let fleet = fleet::bundled(self.options.speed)?;
        let mut arrivals = trace::bundled()?;
        arrivals.truncate(self.options.tasks);
        let tasks = tasks::generate(&arrivals, self.options.speed, self.options.seed);
        publish_fleet(&self.client, &self.topics, &codec, &fleet)?;
        let mut router = Router::start(
            &self.directory,
            &self.options.brokers,
            &self.options.properties,
            &self.topics,
            &self.run_id,
        )?;
        let played = self
            .await_ready(&mut router, interrupted)
            .and_then(|()| self.play(&mut router, &codec, &fleet, &tasks, interrupted));
        // What the router logged matters only where something went wrong.
        let with_log = |error: anyhow::Error, router: &Router| match router.log_tail() {
            log if log.is_empty() => error,
            log => error.context(format!("the router's log ends with:\n{log}\n")),
        };
        let played = match played {
            Ok(played) => played,
            Err(error) if interrupted.load(Ordering::Relaxed) => {
                drop(router.stop());
                return Err(error);
            }
            Err(error) => {
                drop(router.stop());
                return Err(with_log(error, &router));
            }
        };
        router.stop().map_err(|error| with_log(error, &router))?;

        let history = read::read(&self.client, &self.topics, &codec)?;
        let report = audit::audit(
            &history.fleet,
            &history.tasks,
            &history.decisions,
            &history.allocations,
            &history.dead_letters,
        );
        let measured = Measured {
            seed: self.options.seed,
            routing_us: played.decide.quantiles(1e6),
            elapsed_s: played.elapsed.as_secs_f64(),
            broker: self.options.broker_name().to_owned(),
            unfinished: played.unfinished,
            kills: played.kills,
            broke: played.broke,
        };
        let summary = Summary::new(&report, played.work, measured);
        let (prefix, directory) = (self.prefix(), self.directory.clone());
        Ok(Ended { summary, report, notes: played.notes, prefix, directory })
    }

    fn await_ready(&self, router: &mut Router, interrupted: &AtomicBool) -> anyhow::Result<()> {
        let began = Stopwatch::start();
        while !router.is_ready() {
            check_interrupted(interrupted)?;
            if let Some(status) = router.ended()? {
                bail!("the router ended with {status} before it was ready");
            }
            if began.elapsed() > READY_WAIT {
                bail!("the router was not ready within {} s", READY_WAIT.as_secs());
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Everybody at work, until all is accounted for or time is up.
    fn play(
        &self,
        router: &mut Router,
        codec: &Codec,
        fleet: &FleetFile,
        tasks: &[DemoTask],
        interrupted: &AtomicBool,
    ) -> anyhow::Result<Played> {
        let ledger = Ledger::new(tasks.len(), fleet.resources.len());
        let decisions = self.topics.name(Topic::RouteDecisions);
        let readers: Vec<_> = (0..self.topics.lanes)
            .map(|lane| {
                let reader = consumer(&self.client, &[(decisions, lane)])?;
                Ok((reader, producer(&self.client)?))
            })
            .collect::<anyhow::Result<_>>()?;
        let watched: Vec<(&str, i32)> = [Topic::AllocationEvents, Topic::TasksDlq]
            .into_iter()
            .flat_map(|topic| {
                (0..self.topics.lanes).map(move |lane| (self.topics.name(topic), lane))
            })
            .collect();
        let watcher = consumer(&self.client, &watched)?;
        let task_producer = producer(&self.client)?;
        let began = Stopwatch::start();
        let (topics, seed) = (&self.topics, self.options.seed);
        let place = Workplace { topics, codec, fleet, tasks, ledger: &ledger, seed, began };

        thread::scope(|scope| {
            let workers: Vec<ScopedJoinHandle<'_, anyhow::Result<Work>>> = readers
                .iter()
                .map(|(reader, answers)| scope.spawn(move || work(place, reader, answers)))
                .collect();
            let others: Vec<ScopedJoinHandle<'_, anyhow::Result<()>>> = vec![
                scope.spawn(|| watch(&watcher, topics, codec, fleet, &ledger)),
                scope.spawn(|| publish_tasks(&task_producer, topics, codec, tasks, &ledger, began)),
            ];
            let mut script = Script {
                stage: self,
                codec,
                fleet,
                ledger: &ledger,
                began,
                outage: Outage::new(&tasks.iter().map(|one| one.after_us).collect::<Vec<_>>()),
                played: Played::default(),
                last_us: tasks.last().map_or(0, |one| one.after_us),
            };
            let is_dead = || {
                // The publisher ends by itself when all is published; nobody else may.
                workers.iter().any(ScopedJoinHandle::is_finished) || others[0].is_finished()
            };
            let result = script.follow(router, interrupted, is_dead);
            ledger.stop.store(true, Ordering::Relaxed);
            // An error of a thread is the reason where the script ended because of it.
            for other in others {
                joined(other)?;
            }
            for worker in workers {
                script.played.work.add(joined(worker)?);
            }
            result.map(|()| script.played)
        })
    }
}

/// What the script measured.
#[derive(Default)]
struct Played {
    work: Work,
    decide: Histogram,
    elapsed: Duration,
    unfinished: u64,
    kills: u64,
    /// The resource of the outage.
    broke: Option<String>,
    notes: Vec<String>,
}

struct Script<'a> {
    stage: &'a Stage<'a>,
    codec: &'a Codec,
    fleet: &'a FleetFile,
    ledger: &'a Ledger,
    began: Stopwatch,
    outage: Outage,
    played: Played,
    /// When the last task is published.
    last_us: u64,
}

impl Script<'_> {
    fn follow(
        &mut self,
        router: &mut Router,
        interrupted: &AtomicBool,
        is_dead: impl Fn() -> bool,
    ) -> anyhow::Result<()> {
        let tasks = self.ledger.tasks();
        let bar = progress(tasks);
        let patience = Duration::from_micros(self.last_us) + DRAIN_WAIT;
        let mut kill_at = self.stage.options.kill_after;
        let mut over_since: Option<Stopwatch> = None;
        loop {
            check_interrupted(interrupted)
                .map_err(|error| anyhow!("{error}: {}", self.ledger.missing()))?;
            if is_dead() {
                bail!("a simulated worker ended early");
            }
            if let Some(status) = router.ended()? {
                bail!("the router ended by itself with {status}");
            }
            let elapsed = self.began.elapsed();
            if kill_at.is_some_and(|at| elapsed >= at) {
                kill_at = None;
                self.measure(router);
                router.kill()?;
                router.restart()?;
                self.played.kills += 1;
            }
            let at_us = self.began.elapsed_us();
            while let Some(step) = self.outage.due(at_us, &self.ledger.in_flight()) {
                self.take(step)?;
            }
            self.show(&bar);
            if !self.ledger.is_over() {
                over_since = None;
            } else if over_since.get_or_insert_with(Stopwatch::start).elapsed() >= SETTLED {
                self.played.elapsed = elapsed.saturating_sub(SETTLED);
                break;
            }
            if elapsed > patience {
                self.played.elapsed = elapsed;
                self.played.unfinished = tasks - self.ledger.totals().ended;
                let missing = self.ledger.missing();
                let waited = elapsed.as_secs();
                self.played.notes.push(format!("not over after {waited} s: {missing}"));
                break;
            }
            thread::sleep(TICK);
        }
        bar.finish_and_clear();
        if kill_at.is_some() {
            let note = "--kill-after was later than the end: the router was not killed";
            self.played.notes.push(note.to_owned());
        }
        self.measure(router);
        Ok(())
    }

    fn take(&mut self, step: Step) -> anyhow::Result<()> {
        let (resource, status) = match step {
            Step::Breaks(resource) => {
                self.ledger.set_broken(Some(resource));
                self.played.broke = self.fleet.resources.get(resource).map(|one| one.id.clone());
                return Ok(());
            }
            Step::Reported(resource) => (resource, HealthStatus::Unhealthy),
            Step::Recovers(resource) => {
                // First the resource works, then anyone hears of it.
                self.ledger.set_broken(None);
                (resource, HealthStatus::Healthy)
            }
        };
        let Some(resource) = self.fleet.resources.get(resource) else {
            return Ok(());
        };
        let Stage { client, topics, .. } = self.stage;
        publish_health(client, topics, self.codec, &resource.id, status, wall_now())
    }

    /// Adds the histogram of the router that is running now, which dies with it.
    fn measure(&mut self, router: &Router) {
        match router.metrics() {
            Ok(exposition) => self.played.decide.add(&exposition, DECIDE_HISTOGRAM),
            Err(error) => {
                self.played.notes.push(format!("the router's metrics cannot be read: {error:#}"));
            }
        }
    }

    fn show(&self, bar: &ProgressBar) {
        let totals = self.ledger.totals();
        bar.set_position(totals.ended);
        let open: i64 = self.ledger.in_flight().iter().sum();
        let failed_over = self.ledger.failed_over.load(Ordering::Relaxed);
        bar.set_message(format!(
            "published {}, decided {}, in flight {open}, failed over {failed_over}",
            totals.published, totals.decided
        ));
    }
}

/// On a terminal's stderr only.
fn progress(tasks: u64) -> ProgressBar {
    let bar = ProgressBar::new(tasks);
    let template = "{bar:30} {pos}/{len} ended, {msg} ({elapsed})";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn check_interrupted(interrupted: &AtomicBool) -> anyhow::Result<()> {
    if interrupted.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

fn joined<T>(handle: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    match handle.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread of the demo panicked"),
    }
}
