//! SIGKILL at random moments, under load, with a worker that answers everything.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use pointsman::codec::{Codec, OutputFormat, RegisteredSchemas};
use pointsman::demo::audit::{audit, read as history};
use pointsman::demo::topics::DemoTopics;
use pointsman::model::Topic;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use serde_json::{Value, json};
use testbed::{unique, until};

use crate::records::{Sender, read, reader};
use crate::site::{LIMIT, Site};

const TASKS: usize = 5_000;
const KILLS: usize = 5;

/// Tight enough that tasks wait for slots: a slot that leaks or is used twice shows.
const TIGHT: &str = r#"
[[resource]]
id = "one"
model = "m"
provider = "alpha"
region = "eu"
context_window = 1000
max_output_tokens = 100
slots = 150
quality = { default = 0.5 }

[[resource]]
id = "two"
model = "m"
provider = "beta"
region = "eu"
context_window = 1000
max_output_tokens = 100
slots = 50
quality = { default = 0.5 }
"#;

/// Nothing times out while a busy machine restarts the router.
const PATIENT: &str =
    "[output]\nformat = \"json\"\n\n[routing]\nwait_ms_max = 600000\nlease_ms_min = 300000\n";

/// A worker: answers every routed decision at once, until it is told to stop.
fn work(client: &ClientConfig, site: &Site, answered: &AtomicUsize, stop: &AtomicBool) {
    let consumer = reader(client, &site.name(Topic::RouteDecisions));
    let sender = Sender::new(client);
    let results = site.name(Topic::TaskResults);
    while !stop.load(Ordering::Relaxed) {
        let message = match consumer.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) | None => continue,
            Some(Err(error)) => panic!("{error}"),
        };
        let decision: Value = serde_json::from_slice(message.payload().unwrap()).unwrap();
        if decision["outcome"] != json!("routed") {
            continue;
        }
        let id = decision["task_id"].as_str().unwrap();
        let result = json!({
            "task_id": id, "attempt": decision["attempt"], "lane": decision["lane"],
            "resource": decision["primary"][0]["resource"], "status": "succeeded",
            "input_tokens": 10, "output_tokens": 5,
        });
        sender.send(&results, id, result.to_string().as_bytes());
        answered.fetch_add(1, Ordering::Relaxed);
    }
    sender.flush();
}

/// Increasing counts of answers, at random, printed so that a failure can be told.
fn moments() -> Vec<usize> {
    let mut moments: Vec<usize> = (0..KILLS)
        .map(|_| {
            let digits = unique("x").split_off(2);
            usize::try_from(u64::from_str_radix(&digits, 16).unwrap() % 4_500).unwrap()
        })
        .collect();
    moments.sort_unstable();
    println!("killed after so many answers: {moments:?}");
    moments
}

#[test]
fn killed_five_times_under_load_it_decides_every_task_once() {
    let site = Site::bare(PATIENT);
    site.make_topics();
    site.apply_fleet(TIGHT);
    let client = site.client();
    let mut router = site.start_ready();
    let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| work(&client, &site, &answered, &stop));
        let script = || {
            let sender = Sender::new(&client);
            for number in 0..TASKS {
                let task = json!({"task_id": format!("t-{number}"), "input_tokens": 10,
                                  "max_output_tokens": 20});
                sender.send(&site.name(Topic::Tasks), "k", task.to_string().as_bytes());
            }
            sender.flush();
            for moment in moments() {
                until(&format!("{moment} answers"), LIMIT, || {
                    answered.load(Ordering::Relaxed) >= moment
                });
                router.kill();
                router = site.start();
            }
            until("every task is answered", LIMIT, || answered.load(Ordering::Relaxed) >= TASKS);
        };
        // The worker ends, however the script does.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(script));
        stop.store(true, Ordering::Relaxed);
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });

    let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default()).unwrap();
    let topics = DemoTopics::new(&site.prefix, 1);
    until("every reservation is released", LIMIT, || {
        read(&client, &site.name(Topic::AllocationEvents)).len() >= 2 * TASKS
    });
    assert!(router.stop().success());
    let history = history::read(&client, &topics, &codec).unwrap();
    let report = audit(
        &history.fleet,
        &history.tasks,
        &history.decisions,
        &history.allocations,
        &history.dead_letters,
    );
    assert!(report.is_clean(), "{report:#?}");
    let counts = [report.tasks, report.decided, report.decisions, report.dead_lettered];
    let tasks = TASKS as u64;
    assert_eq!(counts, [tasks, tasks, tasks, 0], "{report:#?}");
    assert_eq!(answered.load(Ordering::Relaxed), TASKS);
    assert_eq!(report.refused.len(), 0, "{report:#?}");
    assert_eq!(site.tap("task-results.dlq"), [] as [Value; 0]);
}
