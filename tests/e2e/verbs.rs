//! The operators' verbs, in the order in which an installation needs them.

use std::time::Duration;

use pointsman::model::Topic;
use serde_json::{Value, json};
use testbed::until;

use crate::records::Sender;
use crate::site::{LIMIT, ROOMY, Ran, Site};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// Two resources of one quality, the first one cheaper.
const TWO: &str = r#"
[[resource]]
id = "cheap"
model = "small"
provider = "alpha"
region = "eu"
usd_per_million_tokens = { input = 1.0, output = 1.0 }
context_window = 1000
max_output_tokens = 100
slots = 1000
quality = { default = 0.5 }

[[resource]]
id = "dear"
model = "small"
provider = "beta"
region = "eu"
usd_per_million_tokens = { input = 900.0, output = 900.0 }
context_window = 1000
max_output_tokens = 100
slots = 1000
limits = [{ dimension = "requests", amount = 60000, window_s = 60 }]
quality = { default = 0.5 }

[[tenant]]
id = "acme"
usd_per_hour = 20.0
"#;

#[test]
fn an_installation_is_checked_made_and_gets_lanes() {
    let site = Site::bare("");
    let ran = site.does(&["check"]);
    let out = site.plain(&ran.out);
    assert_eq!((ran.code, ran.err.as_str()), (1, ""), "{out}");
    let all: Vec<&str> = Topic::ALL.iter().map(|topic| topic.default_name()).collect();
    let missing = format!("topics   × 17 of 17 missing: {}", all.join(", "));
    let found = lines(&out);
    let at = found.iter().position(|line| line.starts_with("topics")).unwrap();
    assert_eq!(found[at..at + 2], [&missing, "           fix: pointsman topics apply"]);
    assert_eq!(found.last(), Some(&"6 ok, 0 warnings, 1 failure"), "{out}");
    assert_eq!(site.does(&["topics", "plan"]).code, 3);
    let ran = site.does(&["submit", "-f", "-"]);
    let expected = "error: there is no topic `tasks`; fix: pointsman topics apply\n";
    assert_eq!((ran.code, site.plain(&ran.err).as_str()), (4, expected));

    let ran = site.does(&["topics", "apply", "--partitions", "2"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "17 created\n"), "{}", ran.out);
    let ran = site.does(&["topics", "apply"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, "0 created\n"), "{}", ran.out);
    assert_eq!(site.does(&["topics", "plan"]).code, 0);

    let ran = site.does(&["check"]);
    let out = site.plain(&ran.out);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{out}");
    let given = 17 + 4 + 1 + 2;
    assert_eq!(
        lines(&out),
        [
            format!("config   ✓ valid; {given} settings given").as_str(),
            "brokers  ✓ 1 broker behind BROKERS",
            "         ✓ Apache Kafka 4.0 or later, by its settings",
            "topics   ✓ 17 right, 2 lanes",
            "acls     ✓ the brokers have no authorizer: everything is allowed",
            "schemas  ✓ Avro single-object encoding; no registry is needed",
            "clock    ✓ no broker timestamp to compare with yet; `run` measures the difference before it takes a lane",
            "7 ok, 0 warnings, 0 failures",
        ]
    );

    let ran = site.does(&["topics", "apply", "--partitions", "1"]);
    let expected = "error: the lane topics do not fit together; nothing was changed\n";
    assert_eq!((ran.code, ran.err.as_str()), (3, expected));
    for topic in ["tasks", "task-results", "lane-inbox"] {
        let expected = format!(
            "\n× {topic} has 2 partitions, needs 1\n  fix: partitions are never taken away"
        );
        assert!(site.plain(&ran.out).contains(&expected), "{}", ran.out);
    }
    let ran = site.does(&["topics", "plan", "--partitions", "4"]);
    let expected = "\n12 short of partitions; fix: pointsman topics apply --partitions 4\n";
    assert_eq!(ran.code, 3);
    assert!(site.plain(&ran.out).ends_with(expected), "{}", ran.out);
    let ran = site.does(&["topics", "apply", "--partitions", "4"]);
    let expected = "0 created, 12 have more partitions\nlanes were added: running instances take them over within seconds; keys go to other lanes from now on\n";
    assert_eq!((ran.code, ran.err.as_str()), (0, expected), "{}", ran.out);
    let plan = site.json(&["topics", "plan"]);
    assert_eq!(plan["lanes"], json!(4));
}

#[test]
fn a_fleet_is_planned_applied_and_shown() {
    let site = Site::new();
    let file = site.write("fleet.toml", TWO);
    let ran = site.does(&["fleet", "show"]);
    let empty = "the fleet is empty; fix: pointsman fleet apply -f fleet.toml\n";
    assert_eq!(ran, Ran { code: 0, out: empty.to_owned(), err: String::new() });

    let plan = ["fleet", "plan", "-f", &file];
    let apply = ["fleet", "apply", "-f", &file];
    let added = "+ cheap\n+ dear\n+ tenant:acme\n3 to publish, 0 unchanged\n";
    assert_eq!(site.does(&plan), Ran { code: 3, out: added.to_owned(), err: String::new() });
    let refused = "error: nothing was published (without a terminal, pass --yes)\n";
    assert_eq!(site.does(&apply), Ran { code: 5, out: added.to_owned(), err: refused.to_owned() });
    let ran = site.does(&[&apply[..], &["--yes"]].concat());
    assert_eq!((ran.code, ran.out.as_str()), (0, added));
    assert_eq!(site.plain(&ran.err), "3 published to `fleet`\n");
    let same = "0 to publish, 3 unchanged\n";
    assert_eq!(site.does(&plan), Ran { code: 0, out: same.to_owned(), err: String::new() });

    let ran = site.does(&["fleet", "show"]);
    assert_eq!(
        lines(&ran.out),
        [
            "RESOURCE  MODEL  FAILURE DOMAIN  REGION  POOL     SLOTS  LIMITS",
            "cheap     small  alpha/eu        eu      default  1000   –",
            "dear      small  beta/eu         eu      default  1000   60000 requests/60 s",
            "",
            "TENANT  WEIGHT  LIMITS  BURST  USD PER HOUR",
            "acme    1       –       –      20",
        ]
    );

    // One resource is changed, the other one left out.
    let (_, rest) = TWO.split_once("[[resource]]\nid = \"dear\"").unwrap();
    let less = format!("[[resource]]\nid = \"dear\"{}", rest.replace("slots = 1000", "slots = 7"));
    site.write("fleet.toml", &less);
    let ran = site.does(&plan);
    let expected = "~ dear\n    slots: 1000 → 7\n  cheap is not in the file and stays; --prune removes it\n\
                    1 to publish, 1 unchanged\n";
    assert_eq!(ran, Ran { code: 3, out: expected.to_owned(), err: String::new() });
    let ran = site.does(&[&apply[..], &["--prune", "--yes"]].concat());
    let expected = "~ dear\n    slots: 1000 → 7\n- cheap\n2 to publish, 1 unchanged\n";
    assert_eq!((ran.code, ran.out.as_str()), (0, expected));
    let shown = site.json(&["fleet", "show"]);
    let ids: Vec<&Value> =
        shown["resource"].as_array().unwrap().iter().map(|resource| &resource["id"]).collect();
    assert_eq!(ids, ["dear"]);
}

#[test]
fn tasks_are_submitted_line_by_line_and_tapped() {
    let site = Site::new();
    let good = |id: &str| json!({"task_id": id, "input_tokens": 10}).to_string();
    let text = format!("{}\n\n{{\"task_id\": \"b\"}}\n{}\n", good("a"), good("c"));
    let file = site.write("tasks.jsonl", &text);
    let ran = site.does(&["submit", "-f", &file]);
    let expected = "line 3: json: missing field `input_tokens` at line 1 column 16\n\
                    error: 1 line is no valid task; nothing was sent (--skip-invalid sends the others)\n";
    assert_eq!(ran, Ran { code: 1, out: String::new(), err: expected.to_owned() });
    assert_eq!(site.tap("tasks"), [] as [Value; 0]);

    let ran = site.does(&["submit", "-f", &file, "--skip-invalid", "-o", "json"]);
    let summary: Value = serde_json::from_str(&ran.out).unwrap();
    let counts = ["submitted", "invalid", "failed"].map(|name| &summary[name]);
    assert_eq!((ran.code, counts), (1, [&json!(2), &json!(1), &json!(0)]), "{}", ran.err);

    let tap = ["tap", "tasks", "--from-beginning", "--limit", "1"];
    let ran = site.does(&tap);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let mut line: Value = serde_json::from_str(ran.out.trim_end()).unwrap();
    assert!(line["timestamp_ms"].take().as_i64().unwrap() > 0);
    assert_eq!(
        line,
        json!({
            "topic": site.name(Topic::Tasks), "partition": 0, "offset": 0, "timestamp_ms": null,
            "key": "a", "headers": {"content-type": "application/json"},
            "value": {"task_id": "a", "input_tokens": 10},
        })
    );
    let ran = site.does(&["tap", "task", "--no-follow"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert_eq!(site.does(&["tap", "tasks", "--no-follow", "--lane", "7"]).code, 4);
}

#[test]
fn a_drain_moves_new_work_away_and_its_end_brings_it_back() {
    let site = Site::new();
    site.apply_fleet(TWO);
    let router = site.start_ready();
    let sender = Sender::new(&site.client());
    let mut count = 0;
    // The resource of one more task.
    let mut decided = || {
        count += 1;
        let task = json!({"task_id": format!("t-{count}"), "input_tokens": 10, "max_output_tokens": 20,
                          "objective": "cheapest"});
        sender.send(&site.name(Topic::Tasks), "k", task.to_string().as_bytes());
        sender.flush();
        let decisions = site.await_records("route-decisions", count);
        decisions[count - 1]["value"]["primary"][0]["resource"].as_str().unwrap().to_owned()
    };
    assert_eq!(decided(), "cheap");

    let ran = site.does(&["drain", "provider:gamma", "--reason", "r"]);
    let expected = "error: the fleet has no provider `gamma`; it has: alpha, beta\n";
    assert_eq!(ran, Ran { code: 4, out: String::new(), err: expected.to_owned() });
    let drain = ["drain", "provider:alpha", "--reason", "quota review"];
    let ran = site.does(&[&drain[..], &["--dry-run"]].concat());
    assert!(ran.out.starts_with("would publish provider:alpha drain"), "{ran:?}");
    assert_eq!(decided(), "cheap");

    let ran = site.does(&drain);
    let expected = "published provider:alpha drain to `health-events`; undo: pointsman undrain provider:alpha --reason …\n";
    assert_eq!((ran.code, site.plain(&ran.out).as_str()), (0, expected));
    // It counts from the batch on that reads it: not before that of a task sent later.
    until("the drain holds", LIMIT, || decided() == "dear");
    assert_eq!(decided(), "dear");
    let ran = site.does(&["undrain", "provider:alpha", "--reason", "done"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    until("the drain is over", LIMIT, || decided() == "cheap");

    let notes: Vec<Value> = site
        .tap("operator-actions")
        .into_iter()
        .filter(|line| line.get("error").is_none())
        .map(|mut line| line["value"].take())
        .filter(|note| note["detail"] == json!("provider:alpha"))
        .map(|note| json!([note["kind"], note["reason"]]))
        .collect();
    assert_eq!(notes, [json!(["drain", "quota review"]), json!(["undrain", "done"])]);
    assert!(router.stop().success());
}

#[test]
fn a_router_says_why_it_cannot_start_and_ends_when_asked() {
    let site = Site::bare("[output]\nformat = \"json\"\n");
    let ran = site.does(&["run"]);
    assert_eq!((ran.code, ran.out.as_str()), (78, ""), "{ran:?}");
    let last = ran.err.lines().last().unwrap();
    let names: Vec<&str> =
        last.strip_prefix("error: topics are missing: ").unwrap().split("; ").collect();
    assert_eq!(names[1], "see `pointsman topics plan`");
    assert!(names[0].contains(&site.name(Topic::Tasks)), "{last}");

    site.make_topics();
    site.apply_fleet(ROOMY);
    let router = site.start_ready();
    assert_eq!(router.get("/livez").as_deref(), Some("ok\n"));
    // A second one under the same instance id.
    let ran = site.does(&["run"]);
    let expected = format!(
        "error: instance 'one' is running already, as process {}: give this one another kafka.instance_id and kafka.data_directory",
        router.process()
    );
    assert_eq!((ran.code, ran.err.lines().last()), (78, Some(expected.as_str())), "{}", ran.err);

    let file = site.write("one.jsonl", "{\"task_id\": \"a\", \"input_tokens\": 10}\n");
    assert_eq!(site.does(&["submit", "-f", &file]).code, 0);
    site.await_records("route-decisions", 1);
    let status = router.stop();
    assert!(status.success(), "{status}");
    // A restart goes on; and it ends as quickly where nothing was read yet.
    let status = site.start().await_stop_after_start();
    assert!(status.success(), "{status}");
    assert_eq!(site.tap("route-decisions").len(), 1);
}

#[test]
fn brokers_that_do_not_answer_are_named() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::on(&address.to_string(), "");
    let router = site.start();
    let log = site.path("log");
    let status = router.await_end(Duration::from_secs(30));
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.code(), Some(69), "{log}");
    let last = log.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("error: cannot reach Kafka at {address} within 10s")),
        "{last}"
    );
}
