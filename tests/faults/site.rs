//! One broker, one installation, one router and a worker that answers everything.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use pointsman::broker::front::{Fault, Front, FrontSettings, Rule, RuleId};
use pointsman::codec::{Codec, OutputFormat, RegisteredSchemas};
use pointsman::config::Config;
use pointsman::demo::audit::{audit, read as history};
use pointsman::demo::topics::DemoTopics;
use pointsman::model::Topic;
use pointsman::stream::run::{RunError, Stats, run_observed};
use pointsman::telemetry::{LaneState, Telemetry};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{eventually, unique, until};

/// Decided in a few transactions.
pub const TASKS: usize = 20;

/// The client gives a request up after the transaction's time-out, and a member its session.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Site {
    router: Option<Router>,
    config: Config,
    topics: DemoTopics,
    client: ClientConfig,
    producer: BaseProducer,
    consumer: BaseConsumer,
    /// Attempts that were decided, and allocation events that were seen.
    decided: BTreeSet<String>,
    allocations: usize,
    /// How routers ended that ended by themselves.
    pub given_up: Vec<String>,
    front: Front,
    environment: Vec<(String, String)>,
    _directory: TempDir,
}

struct Router {
    shutdown: Arc<AtomicBool>,
    telemetry: Arc<Telemetry>,
    thread: JoinHandle<Result<(), RunError>>,
}

impl Site {
    pub fn start() -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let front = Front::start(FrontSettings::default()).map_err(|error| text(&error))?;
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", front.address().to_string());
        let prefix = format!("{}.", unique("f"));
        let topics = DemoTopics::new(&prefix, 1);
        topics.create(&client).map_err(|error| text(&error))?;
        let directory = tempfile::tempdir().map_err(|error| text(&error))?;
        let data = directory.path().join("data");
        let mut settings = BTreeMap::from([
            ("KAFKA__BROKERS".to_owned(), front.address().to_string()),
            ("KAFKA__GROUP_ID".to_owned(), format!("{prefix}group")),
            ("KAFKA__INSTANCE_ID".to_owned(), "one".to_owned()),
            ("KAFKA__DATA_DIRECTORY".to_owned(), data.to_string_lossy().into_owned()),
            ("OUTPUT__FORMAT".to_owned(), "json".to_owned()),
            ("ROUTING__LEASE_MS_MIN".to_owned(), "300000".to_owned()),
            ("WORKER__SESSION_TIMEOUT_MS".to_owned(), "6000".to_owned()),
            ("WORKER__TRANSACTION_TIMEOUT_MS".to_owned(), "2000".to_owned()),
        ]);
        settings.extend(topics.names().map(|(topic, name)| {
            let key = topic.default_name().replace(['-', '.'], "_").to_uppercase();
            (format!("TOPICS__{key}"), name.to_owned())
        }));
        let settings =
            settings.into_iter().map(|(key, value)| (format!("POINTSMAN__{key}"), value));
        let environment: Vec<(String, String)> = settings.collect();
        let config =
            Config::load(None, environment.iter().cloned()).map_err(|error| text(&error))?;
        let mut fast = client.clone();
        fast.set("linger.ms", "1")
            .set("group.id", "reader")
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "20");
        let consumer: BaseConsumer = fast.create().map_err(|error| text(&error))?;
        let mut list = TopicPartitionList::new();
        for topic in [Topic::RouteDecisions, Topic::AllocationEvents] {
            list.add_partition_offset(topics.name(topic), 0, Offset::Beginning)
                .map_err(|error| text(&error))?;
        }
        consumer.assign(&list).map_err(|error| text(&error))?;
        let producer = fast.create().map_err(|error| text(&error))?;
        let site = Site {
            router: None,
            config,
            topics,
            client,
            producer,
            consumer,
            decided: BTreeSet::new(),
            allocations: 0,
            given_up: Vec::new(),
            front,
            environment,
            _directory: directory,
        };
        site.publish_fleet();
        Ok(site)
    }

    /// The next request of the router that the case names meets its fault.
    pub fn inject(&self, case: &crate::Case) -> RuleId {
        // The test's own producer writes other topics.
        let is_produce = case.api == ApiKey::Produce;
        let topic = is_produce.then(|| self.topics.name(Topic::Journal).to_owned());
        self.front.faults().inject(Rule {
            api: Some(case.api),
            topic,
            skip: case.skip,
            times: 1,
            fault: case.fault,
            ..Rule::default()
        })
    }

    /// Requests of this kind, about this topic, meet a fault from now on.
    pub fn trouble(&self, api: ApiKey, topic: Topic, times: u32, fault: Fault) -> RuleId {
        let topic = Some(self.topics.name(topic).to_owned());
        self.front.faults().inject(Rule { api: Some(api), topic, times, fault, ..Rule::default() })
    }

    /// As [`Site::trouble`], for the router's member of the group alone: requests are lost.
    pub fn lose_of_member(&self, api: ApiKey, topic: Topic, times: u32) -> RuleId {
        let topic = Some(self.topics.name(topic).to_owned());
        let client = Some("pointsman-one-0".to_owned());
        let fault = Fault::DropRequest;
        let api = Some(api);
        self.front.faults().inject(Rule { api, topic, client, times, fault, ..Rule::default() })
    }

    pub fn heal(&self) {
        self.front.faults().clear();
    }

    /// Waits until the router's lane rests.
    pub fn await_rest(&self) {
        until("the lane rests", LIMIT, || {
            let view = self.router.as_ref().map(|router| router.telemetry.view());
            let lanes = view.map(|view| view.lanes).unwrap_or_default();
            lanes.get(&0).is_some_and(|lane| lane.state == LaneState::Paused)
        });
    }

    pub fn hits(&self, rule: RuleId) -> u32 {
        self.front.faults().hits(rule)
    }

    pub fn run_router(&mut self) {
        let shutdown = Arc::new(AtomicBool::new(false));
        let (config, stop) = (self.config.clone(), Arc::clone(&shutdown));
        let telemetry = Arc::new(Telemetry::new(config.worker.workers));
        let told = Arc::clone(&telemetry);
        let thread = std::thread::spawn(move || {
            run_observed(&config, &told, &stop, &Stats::new(config.worker.workers))
        });
        self.router = Some(Router { shutdown, telemetry, thread });
    }

    fn publish(&self, topic: Topic, key: &str, value: &Value) {
        let value = value.to_string();
        let record = BaseRecord::to(self.topics.name(topic)).partition(0).key(key).payload(&value);
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
    }

    fn publish_fleet(&self) {
        let resource = json!({
            "id": "one", "model": "m", "provider": "alpha", "region": "eu",
            "context_window": 1000, "max_output_tokens": 100, "slots": 6,
            "limits": [{"dimension": "requests", "amount": 100_000, "window_s": 10}],
            "quality": {"default": 0.7},
        });
        self.publish(Topic::Fleet, "one", &json!({"resource": resource}));
        self.producer.flush(LIMIT).unwrap();
    }

    pub fn publish_tasks(&self, ids: Range<usize>) {
        for id in ids {
            let task =
                json!({"task_id": format!("t-{id}"), "input_tokens": 10, "max_output_tokens": 20});
            self.publish(Topic::Tasks, "k", &task);
        }
        self.producer.flush(LIMIT).unwrap();
    }

    /// Answers every decision, until so many tasks are decided and all their slots are free again. A
    /// router that gives up is started again, as a service manager would.
    pub fn work_until(&mut self, tasks: usize) -> Result<(), String> {
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("every task is decided and answered", LIMIT, || {
                if let Some(router) = self.router.take_if(|router| router.thread.is_finished()) {
                    self.given_up.push(format!("{:?}", router.thread.join()));
                    self.run_router();
                }
                self.work();
                (self.decided.len() >= tasks && self.allocations >= 2 * tasks).then_some(())
            });
        }));
        done.map_err(|_| {
            format!(
                "{} of {tasks} tasks decided, {} allocation events",
                self.decided.len(),
                self.allocations
            )
        })
    }

    fn work(&mut self) {
        while let Some(message) = self.consumer.poll(Duration::from_millis(5)) {
            let Ok(message) = message else { continue };
            if message.topic() != self.topics.name(Topic::RouteDecisions) {
                self.allocations += 1;
                continue;
            }
            let decision: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            let id = decision["task_id"].as_str().unwrap();
            self.decided.insert(id.to_owned());
            let result = json!({
                "task_id": id, "attempt": decision["attempt"], "lane": decision["lane"],
                "resource": decision["primary"][0]["resource"], "status": "succeeded",
                "input_tokens": 10, "output_tokens": 5,
            });
            self.publish(Topic::TaskResults, id, &result);
        }
        self.producer.poll(Duration::ZERO);
    }

    pub fn stop_router(&mut self) {
        if let Some(router) = self.router.take() {
            router.shutdown.store(true, Ordering::Relaxed);
            // How it ended is told by what it wrote.
            drop(router.thread.join());
        }
    }

    /// What `pointsman` prints: JSON values, one a line or a single one.
    pub fn verb(&self, arguments: &[&str]) -> Vec<Value> {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pointsman"))
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.stdout.is_empty(), "{arguments:?}: {said}");
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        values.collect::<Result<_, _>>().unwrap_or_else(|_| panic!("{arguments:?}: {said}"))
    }

    /// Stops the router and reads everything back.
    pub fn audit(mut self) -> Result<(), String> {
        self.front.faults().clear();
        self.stop_router();
        let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default()).unwrap();
        let history = history::read(&self.client, &self.topics, &codec)
            .map_err(|error| format!("{error:#}"))?;
        let report = audit(
            &history.fleet,
            &history.tasks,
            &history.decisions,
            &history.allocations,
            &history.dead_letters,
        );
        let counts = [report.tasks, report.decided, report.decisions, report.dead_lettered];
        let tasks = TASKS as u64;
        if report.is_clean() && counts == [tasks, tasks, tasks, 0] {
            Ok(())
        } else {
            Err(format!("{report:?}"))
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop_router();
    }
}
