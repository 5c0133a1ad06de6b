//! One limit that eight lanes share, under ten times the demand that it takes: what is used of it in
//! each minute, on one, two and four instances, and in the minute in which one of them is killed.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use pointsman::clock::Stopwatch;
use pointsman::codec::{Codec, OutputFormat, RegisteredSchemas};
use pointsman::demo::audit::history::AllocationSeen;
use pointsman::demo::audit::{audit, read};
use pointsman::demo::publish::{producer, publish_fleet, send};
use pointsman::demo::records::{consumer, next, raw};
use pointsman::demo::topics::DemoTopics;
use pointsman::draw::{Draw, Purpose};
use pointsman::model::Topic;
use pointsman::model::allocation::AllocationKind;
use pointsman::model::decision::{Outcome, RouteDecision};
use pointsman::model::resource::{Dimension, FleetFile, Limit, ResourceSpec, Speed, TokenPrices};
use pointsman::model::result::{ResultStatus, TaskResult};
use pointsman::model::task::{Objective, Priority, Requirements, Task};
use pointsman::stream::client::to_end::ToEnd;
use rdkafka::producer::BaseProducer;
use rdkafka::{ClientConfig, Offset};
use serde::Serialize;
use testbed::{eventually, unique};

use crate::configuration::configuration;
use crate::instance::Instances;

const LANES: i32 = 8;
const WORKERS: i32 = 1;
const TOKENS: u64 = 20_000;
const REQUESTS: u64 = 60;
const WINDOW_S: u32 = 60;
/// More than a lane's part of the limit, 2,500.
const TASK_TOKENS_MAX: u32 = 4_000;
const START_WITHIN_MS: u64 = 1_000;
/// Ten times what the limits take.
const TASKS_PER_S: f64 = 10.0;
/// The first window fills from nothing.
const WARM_UP: Duration = Duration::from_secs(70);
const MINUTE: Duration = Duration::from_secs(60);
/// In which minute after the warm-up an instance is killed; it comes back at once.
const KILLED_IN: u32 = 2;
const MINUTES: u32 = 4;
/// What waits when nothing more comes has this long to be served or refused.
const DRAIN_WAIT: Duration = Duration::from_secs(180);
/// How long an answer takes.
const SERVICE: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(600);

/// One minute of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Minute {
    instances: usize,
    killed: bool,
    tokens: u64,
    requests: u64,
    /// Reserved of the fuller limit in the window up to each second, on average, of the most that can be.
    share: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    lanes: i32,
    /// Of `limit · window / (window + start_within)`.
    pub minutes: Vec<Minute>,
    goal_share: f64,
    tasks: u64,
    /// By the audit: never more than the limit in any window.
    pub findings: Vec<String>,
    used_max: BTreeMap<String, u64>,
    messages_per_s: f64,
}

struct Site<'a> {
    client: ClientConfig,
    topics: DemoTopics,
    codec: Codec,
    fleet: FleetFile,
    producer: BaseProducer,
    instances: Instances,
    began: Stopwatch,
    published: u32,
    decided: u64,
    seed: u64,
    running: VecDeque<(Stopwatch, i32, TaskResult)>,
    interrupted: &'a AtomicBool,
}

/// One run with so many instances.
pub fn measure(
    brokers: &str,
    directory: &Path,
    instances: usize,
    interrupted: &AtomicBool,
) -> anyhow::Result<Measured> {
    let mut client = ClientConfig::new();
    client.set("client.id", "pointsman-chaos").set("bootstrap.servers", brokers);
    let prefix = format!("{}-", unique("shared"));
    let topics = DemoTopics::new(&prefix, LANES);
    topics.create(&client)?;
    let directory = directory.join(format!("shared-{instances}"));
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default())?;
    let fleet = FleetFile { resources: vec![resource()], ..FleetFile::default() };
    publish_fleet(&client, &topics, &codec, &fleet)?;
    let lanes: Vec<(&str, i32)> =
        (0..LANES).map(|lane| (topics.name(Topic::RouteDecisions), lane)).collect();
    let decisions = consumer(&client, &lanes)?;
    let sections = format!("[routing]\nstart_within_ms = {START_WITHIN_MS}\n");
    let mut site = Site {
        producer: producer(&client)?,
        instances: Instances::new(
            &directory,
            configuration(brokers, &prefix, &topics, WORKERS, &sections)?,
        ),
        client: client.clone(),
        topics: topics.clone(),
        codec,
        fleet,
        began: Stopwatch::start(),
        published: 0,
        decided: 0,
        seed: instances as u64,
        running: VecDeque::new(),
        interrupted,
    };
    for number in 0..instances {
        site.instances.join(number, "")?;
    }
    let mut killed = false;
    let kill_after = WARM_UP + MINUTE * KILLED_IN + MINUTE / 3;
    let lasts = WARM_UP + MINUTE * MINUTES;
    site.wait("the last minute", lasts * 2, |site| {
        site.work(&decisions)?;
        site.publish()?;
        if !killed && site.began.elapsed() >= kill_after {
            site.instances.kill(instances - 1, true, "")?;
            killed = true;
        }
        Ok((site.began.elapsed() >= lasts).then_some(()))
    })?;
    site.wait("the last decision", DRAIN_WAIT, |site| {
        site.work(&decisions)?;
        let is_over = site.decided >= u64::from(site.published) && site.running.is_empty();
        Ok(is_over.then_some(()))
    })?;
    site.instances.stop()?;
    site.wait("the end of the instances", LIMIT, |site| {
        Ok(site.instances.are_gone()?.then_some(()))
    })?;
    let measured = site.measured(instances)?;
    site.topics.delete(&client, &format!("{prefix}group"))?;
    Ok(measured)
}

impl Site<'_> {
    fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        eventually(what, limit, || {
            if self.interrupted.load(Ordering::Relaxed) {
                return Some(Err(anyhow::anyhow!("interrupted")));
            }
            if let Err(error) = self.instances.look() {
                return Some(Err(error));
            }
            look(self).transpose()
        })
    }

    /// The tasks that are due by now.
    fn publish(&mut self) -> anyhow::Result<()> {
        let due = (self.began.elapsed().as_secs_f64() * TASKS_PER_S) as u32;
        let mut value = Vec::new();
        while self.published < due {
            let task = self.task();
            value.clear();
            self.codec.encode_task(&task, &mut value);
            let lane = self.published as i32 % LANES;
            let topic = self.topics.name(Topic::Tasks);
            send(&self.producer, topic, Some(lane), task.task_id.as_bytes(), &value)?;
            self.published += 1;
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// One in fifty is larger than a lane's part of the limit; the mean is what makes both limits
    /// about equally scarce.
    fn task(&self) -> Task {
        let mut draw = Draw::new(self.seed, Purpose::Task, u64::from(self.published));
        let tokens =
            if draw.chance(0.02) { TASK_TOKENS_MAX } else { draw.between(50.0, 450.0) as u32 };
        Task {
            task_id: format!("t-{}", self.published),
            tenant: "acme".to_owned(),
            class: "chat".to_owned(),
            priority: Priority::Interactive,
            created_at_ms: None,
            deadline_ms: None,
            input_tokens: tokens / 2,
            max_output_tokens: tokens - tokens / 2,
            objective: Objective::Balanced,
            requirements: Requirements::default(),
            session: None,
            features: Vec::new(),
            stages: Vec::new(),
            payload: None,
        }
    }

    /// Reads decisions and answers those whose time has come.
    fn work(&mut self, decisions: &rdkafka::consumer::BaseConsumer) -> anyhow::Result<()> {
        while let Some(message) = next(decisions, Duration::from_millis(2))? {
            let record = raw(Topic::RouteDecisions, &message);
            let decision = self.codec.decode_route_decision(&record)?;
            self.decided += 1;
            if decision.outcome == Outcome::Routed {
                let lane = decision.lane as i32;
                self.running.push_back((Stopwatch::start(), lane, succeeded(&decision)?));
            }
        }
        let mut value = Vec::new();
        while self.running.front().is_some_and(|(began, ..)| began.remaining(SERVICE).is_zero()) {
            let Some((_, lane, result)) = self.running.pop_front() else { break };
            value.clear();
            self.codec.encode_task_result(&result, &mut value);
            let topic = self.topics.name(Topic::TaskResults);
            send(&self.producer, topic, Some(lane), result.task_id.as_bytes(), &value)?;
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    fn measured(&self, instances: usize) -> anyhow::Result<Measured> {
        let history = read::read(&self.client, &self.topics, &self.codec)?;
        let report = audit(
            &self.fleet,
            &history.tasks,
            &history.decisions,
            &history.allocations,
            &history.dead_letters,
        );
        let mut findings: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
        findings.extend(self.instances.deaths.findings.iter().cloned());
        findings.extend(self.instances.remarkable());
        let reserved: Vec<&AllocationSeen> =
            history.allocations.iter().filter(|one| one.kind == AllocationKind::Reserved).collect();
        let first_ms = reserved.iter().map(|one| one.at_ms).min().context("nothing was routed")?;
        let inbox = consumer_end(&self.client, &self.topics)?;
        let seconds = self.began.elapsed().as_secs_f64();
        let minutes = (0..MINUTES).map(|minute| {
            let from = first_ms + WARM_UP.as_millis() as i64 + i64::from(minute) * 60_000;
            let (tokens, requests) = used(&reserved, from + 60_000);
            let window_ms = f64::from(WINDOW_S) * 1_000.0;
            let part = window_ms / (window_ms + START_WITHIN_MS as f64);
            // What was reserved at once leaves its windows at once, so counts by minute jump; what is in
            // use does not.
            let fuller = |second: i64| {
                let (tokens, requests) = used(&reserved, from + second * 1_000);
                (tokens as f64 / TOKENS as f64).max(requests as f64 / REQUESTS as f64)
            };
            let share = (1..=60).map(fuller).sum::<f64>() / 60.0 / part;
            Minute { instances, killed: minute == KILLED_IN, tokens, requests, share }
        });
        let peaks = report.peaks.values().flatten();
        Ok(Measured {
            lanes: LANES,
            minutes: minutes.collect(),
            goal_share: 0.95,
            tasks: report.tasks,
            used_max: peaks.map(|peak| (peak.dimension.to_owned(), peak.used_max)).collect(),
            findings,
            messages_per_s: inbox as f64 / seconds,
        })
    }
}

/// Tokens and requests that were reserved in the window up to a time.
fn used(reserved: &[&AllocationSeen], until_ms: i64) -> (u64, u64) {
    let window = until_ms - i64::from(WINDOW_S) * 1_000..until_ms;
    let of_it = reserved.iter().filter(|one| window.contains(&one.at_ms));
    of_it.fold((0, 0), |(tokens, requests), one| (tokens + one.held.tokens, requests + 1))
}

/// Records of the lanes' inboxes: advice, transfers.
fn consumer_end(client: &ClientConfig, topics: &DemoTopics) -> anyhow::Result<u64> {
    let reader = consumer(client, &[])?;
    let mut to_end = ToEnd::new(topics.name(Topic::LaneInbox));
    for lane in 0..LANES {
        to_end = to_end.with(lane, Offset::Beginning, 0);
    }
    to_end.begin(&reader)?;
    let mut records = 0;
    while to_end.next(&reader, LIMIT).context("the inboxes have no end")?.is_some() {
        records += 1;
    }
    Ok(records)
}

fn succeeded(decision: &RouteDecision<'_>) -> anyhow::Result<TaskResult> {
    let Some(link) = decision.primary.first() else { bail!("a route to nowhere") };
    Ok(TaskResult {
        task_id: decision.task_id.to_string(),
        attempt: decision.attempt,
        stage: decision.stage,
        resource: link.resource.to_string(),
        lane: Some(decision.lane),
        status: ResultStatus::Succeeded,
        // As much as was reserved: nothing comes back.
        input_tokens: Some(decision.input_tokens),
        output_tokens: Some(decision.max_output_tokens),
        time_to_first_token_ms: None,
        duration_ms: Some(SERVICE.as_millis() as f64),
        quality: None,
        retry_after_ms: None,
        error: None,
        rate_limits: Vec::new(),
    })
}

fn resource() -> ResourceSpec {
    let limit = |dimension, amount| Limit { dimension, amount, window_s: WINDOW_S };
    ResourceSpec {
        id: "one".to_owned(),
        model: "one".to_owned(),
        provider: "alpha".to_owned(),
        region: "eu".to_owned(),
        failure_domain: "alpha".to_owned(),
        pool: "default".to_owned(),
        usd_per_million_tokens: TokenPrices { input: 1.0, output: 1.0 },
        context_window: 8_000,
        max_output_tokens: 4_000,
        slots: 64,
        limits: vec![limit(Dimension::Tokens, TOKENS), limit(Dimension::Requests, REQUESTS)],
        speed: Speed {
            time_to_first_token_ms: 100.0,
            prefill_tokens_per_s: 10_000.0,
            decode_tokens_per_s: 10_000.0,
        },
        quality: [("default".to_owned(), 0.9)].into(),
        modalities: vec!["text".to_owned()],
        tenants: Vec::new(),
    }
}
