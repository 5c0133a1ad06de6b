//! `backtest` as a user runs it: files in, one JSON object or a table out.

use serde_json::{Value, json};

use crate::run;

const FLEET: &str = r#"
[[resource]]
id = "good"
model = "g"
provider = "p"
region = "eu"
context_window = 10000
max_output_tokens = 1000
slots = 1
quality = { default = 0.9 }

[[resource]]
id = "plain"
model = "p"
provider = "q"
region = "eu"
context_window = 10000
max_output_tokens = 1000
slots = 1
limits = [{ dimension = "requests", amount = 1, window_s = 60 }]
quality = { default = 0.6 }
"#;

const TASKS: &str = r#"{"task_id": "t1", "arrival_ms": 0, "input_tokens": 10, "max_output_tokens": 10}
{"task_id": "t2", "arrival_ms": 0, "input_tokens": 10, "max_output_tokens": 10, "requirements": {"models": ["p"]}}
{"task_id": "t3", "arrival_ms": 0, "input_tokens": 10, "max_output_tokens": 10, "deadline_ms": 1000}
"#;

const OUTCOMES: &str = r#"{"task_id": "t1", "outcomes": {"good": {"quality": 0.8, "output_tokens": 5, "duration_ms": 2000}}}
{"task_id": "t2", "outcomes": {"plain": {"quality": 0.7, "output_tokens": 5, "duration_ms": 2000}}}
"#;

/// The arguments of a backtest of files in a directory that lives as long as the test.
fn files(directory: &tempfile::TempDir, tasks: &str) -> Vec<String> {
    let mut arguments = vec!["backtest".to_owned()];
    for (option, name, text) in [
        ("--tasks", "tasks.jsonl", tasks),
        ("--fleet", "fleet.toml", FLEET),
        ("--outcomes", "outcomes.jsonl", OUTCOMES),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        arguments.extend([option.to_owned(), path.display().to_string()]);
    }
    arguments
}

fn backtest(arguments: &[String], more: &[&str]) -> (i32, String, String) {
    let all: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
    run(&all, &[])
}

#[test]
fn a_report_a_table_and_the_decisions() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = files(&directory, TASKS);
    let decisions = directory.path().join("decisions.jsonl");
    let (code, out, err) =
        backtest(&arguments, &["--json", "--decisions", decisions.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&report["tasks"], &report["routed"], &report["late"]),
        (&3.into(), &2.into(), &0.into())
    );
    assert_eq!(report["refused"]["deadline"], 1);
    assert_eq!(report["quality"], 1.5);
    assert_eq!(report["oversubscribed"], 0);
    for key in ["share", "share_class_informed", "quality_share", "quality_share_class_informed"] {
        let share = report[key].as_f64().unwrap();
        assert!((0.5..=1.0).contains(&share), "{key}: {share}");
    }
    let baselines: Vec<&String> = report["baselines"].as_object().unwrap().keys().collect();
    assert_eq!(
        baselines,
        [
            "best_quality_first",
            "cheapest",
            "least_busy",
            "power_of_two_peak_ewma",
            "random",
            "round_robin"
        ]
    );
    let lines: Vec<Value> = std::fs::read_to_string(&decisions)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines[..2],
        [
            // It has no other, so it stands to lose more.
            json!({"task_id": "t2", "resource": "plain", "attempt": 1, "decided_ms": 0}),
            json!({"task_id": "t1", "resource": "good", "attempt": 1, "decided_ms": 0}),
        ]
    );
    assert_eq!((lines.len(), &lines[2]["refused"]), (3, &json!("deadline")));
    assert_eq!(report["notes"], json!([]));
    let (code, table, err) = backtest(&arguments, &["--no-baselines", "--no-bounds"]);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ROUTER"), "{table}");
    assert!(lines[1].starts_with("pointsman"), "{table}");
    assert_eq!(lines[3], "refused by pointsman: deadline 1", "{table}");
}

#[test]
fn what_makes_the_comparison_unequal_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = files(&directory, TASKS);
    let tenants =
        "[[tenant]]\nid = \"a\"\nusd_per_hour = 1.0\n[[tenant]]\nid = \"b\"\nweight = 2.0\n";
    std::fs::write(directory.path().join("fleet.toml"), format!("{FLEET}{tenants}")).unwrap();
    let note = "the limits and shares of 1 tenants bind pointsman alone, not the simple routers";
    for (more, expected) in [(vec![], json!([note])), (vec!["--no-baselines"], json!([]))] {
        let options = [vec!["--json", "--no-bounds"], more].concat();
        let (code, out, err) = backtest(&arguments, &options);
        assert_eq!(code, 0, "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["notes"], expected);
        assert_eq!(err.contains(note), expected != json!([]), "{err}");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let arguments =
        files(&directory, &format!("{TASKS}{{\"task_id\": \"t4\", \"input_tokens\": 1}}\n"));
    let (code, out, err) = backtest(&arguments, &[]);
    assert_eq!((code, out.as_str()), (78, ""));
    assert!(err.contains("tasks.jsonl:4: missing field `arrival_ms`"), "{err}");
}
