//! The README's producer and worker are programs: this runs them.

use std::process::{Command, Stdio};

use pointsman::model::Topic;
use serde_json::{Value, json};
use testbed::{eventually, python};

use crate::site::{LIMIT, Site};

/// The ```python blocks of the README.
fn programs() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("```python\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Puts something in the place of what must be there exactly once.
fn replaced(program: &str, from: &str, to: &str) -> String {
    assert_eq!(program.matches(from).count(), 1, "`{from}` in the README's program:\n{program}");
    program.replace(from, to)
}

/// The program as it is there, for the brokers and topics of this site.
fn adapted(program: &str, site: &Site, topics: &[Topic]) -> String {
    let mut program = program.replace("127.0.0.1:9092", &site.brokers);
    for topic in topics {
        let name = format!("\"{}\"", topic.default_name());
        program = replaced(&program, &name, &format!("\"{}\"", site.name(*topic)));
    }
    program
}

fn run(program: &str) {
    let mut child = Command::new(python())
        .args(["-c", program])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = eventually("the program's end", LIMIT, || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(ended.success(), "{ended}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs Python: see ops/test"]
fn the_readmes_producer_and_worker_bring_a_task_to_its_end() {
    let programs = programs();
    let [producer, worker] = &programs[..] else { panic!("{} programs", programs.len()) };
    let site = Site::new();
    site.apply_fleet(&readme_fleet());
    let router = site.start_ready();

    run(&adapted(producer, &site, &[Topic::Tasks]));
    let decisions = site.await_records("route-decisions", 1);
    let decision = &decisions[0]["value"];
    assert_eq!(decision["outcome"], json!("routed"), "{decision}");
    assert_eq!(decision["primary"][0]["resource"], json!("gpt-eu"));
    assert_eq!(decision["payload"], json!({"messages": [{"role": "user", "content": "Hello"}]}));

    let worker = adapted(worker, &site, &[Topic::RouteDecisions, Topic::TaskResults]);
    let worker = replaced(&worker, "\"workers\"", &format!("\"{}workers\"", site.prefix));
    // It ends after its first decision, and in any case.
    let worker = replaced(&worker, "while True:", "for _ in range(50):");
    let end = "    consumer.commit(record)\n";
    let worker =
        replaced(&worker, end, &format!("{end}    break\nelse:\n    raise SystemExit(3)\n"));
    run(&worker);

    let events = site.await_records("allocation-events", 2);
    let seen: Vec<Value> = events
        .iter()
        .map(|event| {
            let event = &event["value"];
            json!([
                event["kind"],
                event["resource"],
                event["held"]["slots"],
                event["held"]["tokens"]
            ])
        })
        .collect();
    assert_eq!(
        seen,
        [json!(["reserved", "gpt-eu", 1, 500]), json!(["released", "gpt-eu", 0, 320])]
    );
    assert_eq!(events[1]["value"]["task_id"], decision["task_id"]);
    assert!(router.stop().success());
    assert_eq!(site.tap("task-results.dlq"), [] as [Value; 0]);
}

/// The fleet that the README shows.
fn readme_fleet() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let block = text.split("```toml\n").nth(1).unwrap();
    block.split("```").next().unwrap().to_owned()
}
