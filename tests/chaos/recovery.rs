//! How long it takes until there are decisions again: from kill -9 to the first new one, with many tasks
//! in flight and many batches after the last snapshot, on one lane.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use pointsman::clock::Stopwatch;
use pointsman::codec::{Codec, OutputFormat, RegisteredSchemas};
use pointsman::demo::publish::{producer, publish_fleet, send};
use pointsman::demo::records::next;
use pointsman::demo::topics::DemoTopics;
use pointsman::model::Topic;
use pointsman::model::resource::{FleetFile, ResourceSpec, Speed, TokenPrices};
use pointsman::model::task::{Objective, Priority, Requirements, Task};
use pointsman::stream::client::to_end::is_passing;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde::Serialize;
use testbed::{eventually, unique};

use crate::configuration::configuration;
use crate::instance::Instances;
use crate::plan::SESSION_TIMEOUT_MS;

/// Measured so often.
const WORKERS: i32 = 1;
const RUNS: usize = 5;
const RESOURCES: u32 = 16;
const TASKS_OF_A_BATCH: u32 = 10;
const LIMIT: Duration = Duration::from_secs(600);
const ASK: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub in_flight: u32,
    pub tail: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    what: &'static str,
    in_flight: u32,
    tail_batches: u64,
    session_timeout_ms: u64,
    /// From SIGKILL to the first new decision, as a consumer of committed records reads it.
    decision_after_ms: Vec<u64>,
    median_ms: u64,
    /// Less the session timeout where another instance takes over: until then the group waits.
    beyond_session_ms: u64,
    goal_ms: u64,
}

/// Every batch is followed by a snapshot, here and in the topic; or none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshots {
    Often,
    Never,
}

struct Site<'a> {
    client: ClientConfig,
    topics: DemoTopics,
    codec: Codec,
    tasks: BaseProducer,
    group: BaseConsumer,
    instances: Instances,
    published: u32,
    interrupted: &'a AtomicBool,
}

pub fn measure(
    brokers: &str,
    directory: &Path,
    sizes: Sizes,
    takeover: bool,
    interrupted: &AtomicBool,
) -> anyhow::Result<Measured> {
    let mut client = ClientConfig::new();
    client.set("client.id", "pointsman-chaos").set("bootstrap.servers", brokers);
    let prefix = format!("{}-", unique("recovery"));
    let topics = DemoTopics::new(&prefix, 1);
    topics.create(&client)?;
    let directory = directory.join("recovery");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default())?;
    let resources = (0..RESOURCES).map(resource).collect();
    let fleet = FleetFile { resources, ..FleetFile::default() };
    publish_fleet(&client, &topics, &codec, &fleet)?;
    let configure = |snapshots: Snapshots| {
        configuration(brokers, &prefix, &topics, WORKERS, &sections(snapshots))
    };
    let mut group = client.clone();
    group.set("group.id", format!("{prefix}group")).set("enable.auto.commit", "false");
    // Or the question would wait for each transaction under way.
    group.set("isolation.level", "read_uncommitted");
    let mut site = Site {
        tasks: producer(&client)?,
        group: group.create().context("no consumer can be made")?,
        instances: Instances::new(&directory, configure(Snapshots::Often)?),
        client,
        topics: topics.clone(),
        codec,
        published: 0,
        interrupted,
    };

    // The state, and a snapshot of it: here, and in the topic.
    site.instances.join(0, "")?;
    let tail_tasks = u32::try_from(sizes.tail)?.saturating_mul(TASKS_OF_A_BATCH);
    site.publish(sizes.in_flight.saturating_sub(tail_tasks))?;
    site.until_decided("the state")?;
    let full = site.published;
    let snapshot_seq = site.wait("a snapshot of the state", |site| {
        // The next batch announces it.
        site.publish(1)?;
        site.until_decided("a batch")?;
        let committed = site.committed()?;
        Ok((committed.snapshot_tasks(full)).then_some(committed.snapshot_seq))
    })?;
    site.instances.end(0, false)?;
    site.wait("the end of the first instance", |site| {
        Ok(site.instances.are_gone()?.then_some(()))
    })?;

    // The batches after it.
    site.instances.configure(configure(Snapshots::Never)?)?;
    site.instances.join(0, "")?;
    site.wait("the tail", |site| {
        site.publish(TASKS_OF_A_BATCH)?;
        site.instances.look()?;
        let seq = site.committed()?.seq;
        Ok((seq >= snapshot_seq + sizes.tail).then_some(()))
    })?;
    site.until_decided("the tail")?;

    let mut decision_after_ms = Vec::new();
    let (mut owner, mut standby) = (0, 1);
    let mut tail_batches = 0;
    for _ in 0..RUNS {
        if takeover {
            // What it had on its disk would be found.
            let data = directory.join(format!("i{standby}")).join("data");
            if data.exists() {
                fs::remove_dir_all(&data)?;
            }
            site.instances.join(standby, "")?;
            site.wait("the other instance to join", |site| {
                site.instances.look()?;
                Ok(site.instances.log(standby)?.contains("assigned").then_some(()))
            })?;
            // Its join has moved the lane, perhaps.
            site.publish(1)?;
            site.until_decided("a task after the join")?;
            if !site.instances.runs_lane(owner)? {
                (owner, standby) = (standby, owner);
            }
        }
        tail_batches = site.committed()?.seq - snapshot_seq;
        let decisions = site.decisions_from_now()?;
        let probe = format!("t-{}", site.published);
        site.instances.kill(owner, !takeover, "")?;
        let killed = Stopwatch::start();
        site.publish(1)?;
        site.instances.look()?;
        let found = site.wait("a new decision", |site| {
            site.instances.look()?;
            while let Some(message) = next(&decisions, Duration::from_millis(1))? {
                if message.key() == Some(probe.as_bytes()) {
                    return Ok(Some(killed.elapsed_ms()));
                }
            }
            Ok(None)
        })?;
        eprintln!("{tail_batches} batches after the snapshot: {found} ms");
        decision_after_ms.push(found);
        std::mem::swap(&mut owner, &mut standby);
        if !takeover {
            (owner, standby) = (0, 1);
        }
    }
    site.instances.stop()?;
    site.wait("the end", |site| Ok(site.instances.are_gone()?.then_some(())))?;
    if let Some(finding) = site.instances.deaths.findings.first() {
        bail!("{finding}");
    }
    site.topics.delete(&site.client, &format!("{prefix}group"))?;
    let mut sorted = decision_after_ms.clone();
    sorted.sort_unstable();
    let median_ms = sorted.get(RUNS / 2).copied().unwrap_or_default();
    let session_ms = if takeover { SESSION_TIMEOUT_MS } else { 0 };
    Ok(Measured {
        what: if takeover { "takeover" } else { "restart" },
        in_flight: site.published,
        tail_batches,
        session_timeout_ms: SESSION_TIMEOUT_MS,
        decision_after_ms,
        median_ms,
        beyond_session_ms: median_ms.saturating_sub(session_ms),
        goal_ms: 5_000,
    })
}

/// What the committed metadata of the lane says.
#[derive(Debug, Clone, Copy, Default)]
struct Committed {
    tasks: i64,
    seq: u64,
    snapshot_seq: u64,
}

impl Committed {
    /// Whether the newest published snapshot has all of so many tasks.
    fn snapshot_tasks(&self, tasks: u32) -> bool {
        self.snapshot_seq > 0 && self.tasks > i64::from(tasks) && self.seq - self.snapshot_seq < 5
    }
}

impl Site<'_> {
    fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        eventually(what, LIMIT, || {
            if self.interrupted.load(Ordering::Relaxed) {
                return Some(Err(anyhow::anyhow!("interrupted")));
            }
            look(self).transpose()
        })
    }

    fn publish(&mut self, tasks: u32) -> anyhow::Result<()> {
        let mut value = Vec::new();
        for number in self.published..self.published + tasks {
            let task = task(number);
            value.clear();
            self.codec.encode_task(&task, &mut value);
            let topic = self.topics.name(Topic::Tasks);
            send(&self.tasks, topic, Some(0), task.task_id.as_bytes(), &value)?;
            self.tasks.poll(Duration::ZERO);
        }
        self.published += tasks;
        self.tasks.flush(ASK).context("tasks are not delivered")
    }

    fn until_decided(&mut self, what: &str) -> anyhow::Result<()> {
        self.wait(what, |site| {
            site.instances.look()?;
            Ok((site.committed()?.tasks >= i64::from(site.published)).then_some(()))
        })
    }

    fn committed(&self) -> anyhow::Result<Committed> {
        let mut list = TopicPartitionList::new();
        list.add_partition(self.topics.name(Topic::Tasks), 0);
        // Before the group exists there is nothing.
        let Ok(found) = self.group.committed_offsets(list, ASK) else {
            return Ok(Committed::default());
        };
        let elements = found.elements();
        let Some(element) = elements.first() else { return Ok(Committed::default()) };
        let Offset::Offset(tasks) = element.offset() else { return Ok(Committed::default()) };
        // v1;epoch;seq;hash;snapshot_seq;snapshot_time;lanes
        let fields: Vec<&str> = element.metadata().split(';').collect();
        let number = |at: usize| fields.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Committed { tasks, seq: number(2), snapshot_seq: number(4) })
    }

    fn decisions_from_now(&self) -> anyhow::Result<BaseConsumer> {
        let mut client = self.client.clone();
        client.set("group.id", "pointsman-chaos-reader").set("enable.auto.commit", "false");
        client.set("isolation.level", "read_committed").set("fetch.wait.max.ms", "5");
        client.set("enable.partition.eof", "true");
        let consumer: BaseConsumer = client.create().context("no consumer can be made")?;
        let name = self.topics.name(Topic::RouteDecisions);
        let (_, end) = consumer.fetch_watermarks(name, 0, ASK)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(name, 0, Offset::Offset(end))?;
        consumer.assign(&list)?;
        // It is there when it has found that there is nothing.
        eventually("the reader of decisions", ASK, || match consumer.poll(ASK)? {
            Err(KafkaError::PartitionEOF(_)) => Some(Ok(())),
            Ok(_) => None,
            Err(error) if is_passing(&error) => None,
            Err(error) => Some(Err(error)),
        })?;
        Ok(consumer)
    }
}

fn resource(number: u32) -> ResourceSpec {
    let part = f64::from(number) / f64::from(RESOURCES);
    ResourceSpec {
        id: format!("resource-{number:02}"),
        model: format!("model-{}", number % 4),
        provider: format!("provider-{}", number % 8),
        region: "eu".to_owned(),
        failure_domain: format!("domain-{number}"),
        pool: "default".to_owned(),
        usd_per_million_tokens: TokenPrices { input: 0.1 + part, output: 1.0 + part },
        context_window: 128_000,
        max_output_tokens: 16_384,
        // Nobody answers: all of them stay in flight.
        slots: 1_000_000,
        limits: Vec::new(),
        speed: Speed {
            time_to_first_token_ms: 200.0,
            prefill_tokens_per_s: 5_000.0,
            decode_tokens_per_s: 80.0,
        },
        quality: [("default".to_owned(), 0.5 + part / 2.0)].into(),
        modalities: vec!["text".to_owned()],
        tenants: Vec::new(),
    }
}

fn task(number: u32) -> Task {
    Task {
        task_id: format!("t-{number}"),
        tenant: ["acme", "birch", "cedar", "delta"][number as usize % 4].to_owned(),
        class: ["chat", "code", "extract"][number as usize % 3].to_owned(),
        priority: Priority::ALL[number as usize % Priority::ALL.len()],
        created_at_ms: None,
        deadline_ms: None,
        input_tokens: 100 + number % 3_000,
        max_output_tokens: 512,
        objective: Objective::Balanced,
        requirements: Requirements::default(),
        session: None,
        features: Vec::new(),
        stages: Vec::new(),
        payload: Some(format!("{{\"text\":\"{}\"}}", "a question ".repeat(25)).into_bytes()),
    }
}

fn sections(snapshots: Snapshots) -> String {
    let every = u8::from(snapshots == Snapshots::Often);
    format!(
        "[routing]\nlease_ms_min = 3600000\n\n[snapshot]\nlocal_batches = {every}\n\
         local_interval_ms_min = 0\npublish_batches = {every}\n"
    )
}
