//! Topics, configuration and clients of one test.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::Duration;

use pointsman::config::Config;
use pointsman::model::Topic;
use pointsman::stream::run::{RunError, Stats, run_observed};
use pointsman::telemetry::{LaneState, Telemetry};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Broker, eventually, unique};

pub const LIMIT: Duration = Duration::from_secs(60);

/// One set of topics on the shared broker, and a group of its own.
pub struct World {
    pub prefix: String,
    pub lanes: i32,
    directory: TempDir,
    producer: BaseProducer,
}

/// A record as the second client reads it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: String,
    pub value: Value,
}

/// `pointsman run` in this process.
pub struct Running {
    shutdown: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), RunError>>>,
    pub telemetry: Arc<Telemetry>,
    pub stats: Stats,
}

impl World {
    pub fn new(lanes: i32) -> Self {
        start_log();
        let kafka = Broker::shared();
        let prefix = unique("w");
        for topic in Topic::ALL {
            let single = matches!(
                topic,
                Topic::Fleet
                    | Topic::HealthEvents
                    | Topic::OperatorActions
                    | Topic::FleetDlq
                    | Topic::HealthEventsDlq
            );
            let mut properties = Vec::new();
            if topic == Topic::OperatorActions {
                properties.push(("message.timestamp.type", "LogAppendTime"));
            }
            if matches!(topic, Topic::Fleet | Topic::HealthEvents | Topic::Snapshots) {
                properties.push(("cleanup.policy", "compact"));
            }
            let partitions = if single { 1 } else { lanes };
            kafka.create_topic(&named(&prefix, topic), partitions, &properties);
        }
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka.bootstrap())
            .set("linger.ms", "1")
            .create()
            .unwrap();
        World { prefix, lanes, directory: tempfile::tempdir().unwrap(), producer }
    }

    /// The configuration of an instance; `changes` are environment variables without their prefix.
    pub fn config(&self, instance: &str, changes: &[(&str, &str)]) -> Config {
        let settings = BTreeMap::from([
            ("KAFKA__BROKERS", Broker::shared().bootstrap().to_owned()),
            ("KAFKA__GROUP_ID", self.prefix.clone()),
            ("KAFKA__INSTANCE_ID", instance.to_owned()),
            (
                "KAFKA__DATA_DIRECTORY",
                self.directory.path().join(instance).to_str().unwrap().to_owned(),
            ),
            ("OUTPUT__FORMAT", "json".to_owned()),
            ("WORKER__SESSION_TIMEOUT_MS", "6000".to_owned()),
            ("WORKER__TRANSACTION_TIMEOUT_MS", "4000".to_owned()),
        ]);
        let topics: Vec<(String, String)> = Topic::ALL
            .iter()
            .map(|topic| {
                let key = topic.default_name().replace(['-', '.'], "_").to_uppercase();
                (format!("TOPICS__{key}"), named(&self.prefix, *topic))
            })
            .collect();
        let mut settings: BTreeMap<String, String> =
            settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        settings.extend(topics);
        settings
            .extend(changes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let settings =
            settings.into_iter().map(|(key, value)| (format!("POINTSMAN__{key}"), value));
        Config::load(None, settings).unwrap_or_else(|errors| panic!("{errors}"))
    }

    pub fn run(&self, config: Config) -> Running {
        let shutdown = Arc::new(AtomicBool::new(false));
        let telemetry = Arc::new(Telemetry::new(config.worker.workers));
        let stats = Stats::new(config.worker.workers);
        let thread = {
            let (shutdown, telemetry) = (Arc::clone(&shutdown), Arc::clone(&telemetry));
            let stats = stats.clone();
            std::thread::spawn(move || run_observed(&config, &telemetry, &shutdown, &stats))
        };
        Running { shutdown, thread: Some(thread), telemetry, stats }
    }

    pub fn name(&self, topic: Topic) -> String {
        named(&self.prefix, topic)
    }

    pub fn publish(&self, topic: Topic, partition: i32, key: &str, value: &Value) {
        let name = self.name(topic);
        let value = value.to_string();
        let record = BaseRecord::to(&name).partition(partition).key(key).payload(&value);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
    }

    pub fn flush(&self) {
        self.producer.flush(LIMIT).unwrap();
    }

    /// A resource with room for everything.
    pub fn publish_fleet(&self) {
        let resource = json!({
            "id": "gpt-eu", "model": "gpt", "provider": "openai", "region": "eu",
            "failure_domain": "openai/eu",
            "usd_per_million_tokens": {"input": 2.5, "output": 10.0},
            "context_window": 128_000, "max_output_tokens": 16_384, "slots": 100_000,
            "limits": [{"dimension": "requests", "amount": 10_000_000, "window_s": 10}],
            "speed": {"time_to_first_token_ms": 350, "prefill_tokens_per_s": 9000.0,
                      "decode_tokens_per_s": 80.0},
            "quality": {"default": 0.7}, "modalities": ["text"],
        });
        self.publish(Topic::Fleet, 0, "gpt-eu", &json!({"resource": resource}));
        self.flush();
    }

    pub fn publish_tasks(&self, ids: impl Iterator<Item = u32>) {
        for id in ids {
            let task =
                json!({"task_id": format!("t-{id}"), "input_tokens": 10, "max_output_tokens": 20});
            self.publish(Topic::Tasks, id as i32 % self.lanes, "acme", &task);
            self.producer.poll(Duration::ZERO);
        }
        self.flush();
    }

    /// Everything that is committed in a topic now.
    pub fn read(&self, topic: Topic) -> Vec<Seen> {
        read(&self.name(topic), "read_committed")
    }

    /// Waits until the decisions of at least so many tasks are committed, and returns all.
    pub fn decisions(&self, count: usize) -> Vec<Seen> {
        eventually(&format!("{count} decisions"), LIMIT, || {
            let seen = self.read(Topic::RouteDecisions);
            (seen.len() >= count).then_some(seen)
        })
    }
}

impl Running {
    pub fn stop(mut self) -> Result<(), RunError> {
        self.shutdown.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    pub fn wait(mut self) -> Result<(), RunError> {
        self.thread.take().unwrap().join().unwrap()
    }

    /// Whether so many lanes run here.
    pub fn runs(&self, lanes: usize) -> bool {
        let view = self.telemetry.view();
        view.lanes.values().filter(|lane| lane.state == LaneState::Running).count() == lanes
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.store(true, Ordering::Relaxed);
    }
}

/// Shown by the test runner where a test fails.
fn start_log() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let filter = std::env::var("POINTSMAN_TEST_LOG").unwrap_or_else(|_| "info".to_owned());
        tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    });
}

fn named(prefix: &str, topic: Topic) -> String {
    format!("{prefix}.{}", topic.default_name())
}

/// The ids of the tasks of these decisions, sorted: every one is there once, or this shows it.
pub fn task_ids(decisions: &[Seen]) -> Vec<u32> {
    let mut ids: Vec<u32> = decisions
        .iter()
        .map(|seen| seen.value["task_id"].as_str().unwrap()[2..].parse().unwrap())
        .collect();
    ids.sort_unstable();
    ids
}

pub fn read(name: &str, isolation: &str) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", Broker::shared().bootstrap())
        .set("group.id", "reader")
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(name), LIMIT).unwrap();
    let partitions = metadata.topics()[0].partitions().len();
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(name, partition as i32, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut seen = Vec::new();
    let mut ended = 0;
    while ended < partitions {
        match consumer.poll(LIMIT).expect("an end of each partition") {
            Ok(message) => {
                let value = message.payload().unwrap_or_default();
                seen.push(Seen {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
                    value: serde_json::from_slice(value).unwrap_or(Value::Null),
                });
            }
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{name}: {error}"),
        }
    }
    seen
}
