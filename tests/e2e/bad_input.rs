//! What cannot be used stops nothing and is never lost.

use pointsman::codec::{Codec, OutputFormat, RegisteredSchemas};
use pointsman::model::Topic;
use pointsman::model::task::{Objective, Requirements, Task, Weights};
use serde_json::{Value, json};
use testbed::eventually;

use crate::records::{Seen, Sender, read};
use crate::site::{LIMIT, ROOMY, Site};

/// A value that cannot be used, and what the dead letter must say: stage, reason, message.
type Row = (Vec<u8>, [&'static str; 3]);

/// A task in Avro, as a careless producer may write it.
fn avro(task: &Task) -> Vec<u8> {
    let codec = Codec::new(OutputFormat::Avro, RegisteredSchemas::default()).unwrap();
    let mut bytes = Vec::new();
    codec.encode_task(task, &mut bytes);
    bytes
}

fn task(objective: Objective) -> Task {
    Task {
        task_id: "avro".to_owned(),
        tenant: "default".to_owned(),
        class: "default".to_owned(),
        priority: Default::default(),
        created_at_ms: None,
        deadline_ms: None,
        input_tokens: 1,
        max_output_tokens: 1,
        objective,
        requirements: Requirements::default(),
        session: None,
        features: Vec::new(),
        stages: Vec::new(),
        payload: None,
    }
}

fn bad_tasks() -> Vec<Row> {
    let json = |value: Value| value.to_string().into_bytes();
    let weights = Weights { quality: f64::NAN, usd: 1.0, second: 1.0 };
    let good = avro(&task(Objective::Balanced));
    let cut_off = good[..good.len() - 3].to_vec();
    let stage = json!({"name": "draft", "input_tokens": 1});
    let stages = json!({"task_id": "s", "input_tokens": 1, "stages": vec![stage; 10_000]});
    let payload = json!({"task_id": "p", "input_tokens": 1, "payload": "x".repeat(1 << 20)});
    vec![
        (
            b"\xff\xfehello".to_vec(),
            [
                "decode",
                "unknown_format",
                "the value is neither Avro (first bytes c3 01, or 00 with a schema id) nor JSON (first byte `{`, or content-type application/json): it begins with ff fe 68 65 6c 6c 6f",
            ],
        ),
        (
            [&[0][..], &4_000_000_u32.to_be_bytes(), b"body"].concat(),
            ["decode", "unknown_schema_id", "the schema with registry id 4000000 is not known"],
        ),
        (
            [&[0xc3, 1][..], &0x1122_3344_5566_7788_u64.to_le_bytes(), b"body"].concat(),
            [
                "decode",
                "unknown_fingerprint",
                "the Avro schema with fingerprint 1122334455667788 is not known for this topic",
            ],
        ),
        (cut_off, ["decode", "avro", "avro: "]),
        (b"{\"task_id\": ".to_vec(), ["decode", "json", "json: "]),
        (
            json(json!({"task_id": "", "input_tokens": 1})),
            [
                "validate",
                "invalid",
                "task_id: an empty string is not allowed; a name of at least one byte",
            ],
        ),
        (
            avro(&task(Objective::Weights(weights))),
            [
                "validate",
                "invalid",
                "objective.quality: NaN is not allowed; a finite number of at least 0",
            ],
        ),
        (
            json(json!({"task_id": "d", "input_tokens": 1, "deadline_ms": -5})),
            [
                "decode",
                "json",
                "json: deadline_ms: invalid value: integer `-5`, expected u64 at line 1 column 17",
            ],
        ),
        (
            json(payload),
            ["validate", "invalid", "payload: 1048578 bytes is not allowed; at most 1048576 bytes"],
        ),
        (json(stages), ["validate", "invalid", "stages: 10000 entries is not allowed; at most 16"]),
    ]
}

fn bad_fleet() -> Vec<Row> {
    let resource = |change: Value| {
        let mut resource = json!({
            "id": "gpt-eu", "model": "m", "provider": "p", "region": "r", "context_window": 1_000,
            "max_output_tokens": 100, "slots": 1,
        });
        let fields = resource.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        json!({ "resource": resource }).to_string().into_bytes()
    };
    vec![
        (
            resource(json!({"slots": 0})),
            ["validate", "invalid", "slots: 0 is not allowed; at least 1"],
        ),
        (
            resource(json!({"usd_per_million_tokens": {"input": -1.0, "output": 1.0}})),
            [
                "validate",
                "invalid",
                "usd_per_million_tokens.input: -1 is not allowed; a finite number of at least 0",
            ],
        ),
    ]
}

fn bad_results() -> Vec<Row> {
    let result =
        json!({"task_id": "nobody", "attempt": 1, "resource": "gpt-eu", "status": "succeeded"});
    vec![(
        result.to_string().into_bytes(),
        ["core", "unknown_task", "no task `nobody` is known in this lane"],
    )]
}

/// Compares the dead letters of an input with what was sent, in its order.
fn check(site: &Site, input: Topic, key: &str, rows: &[Row]) {
    let name = site.name(input);
    let letters = eventually(&format!("the dead letters of {name}"), LIMIT, || {
        let letters = read(&site.client(), &format!("{name}.dlq"));
        (letters.len() >= rows.len()).then_some(letters)
    });
    assert_eq!(letters.len(), rows.len());
    for (offset, (letter, (value, [stage, reason, message]))) in
        letters.iter().zip(rows).enumerate()
    {
        let said = letter.header("__connect.errors.exception.message");
        assert!(said.starts_with(message), "{said}");
        let expected = Seen {
            key: Some(key.as_bytes().to_vec()),
            value: Some(value.clone()),
            headers: [
                ("sender", "test"),
                ("__connect.errors.topic", &name),
                ("__connect.errors.partition", "0"),
                ("__connect.errors.offset", &offset.to_string()),
                ("__connect.errors.connector.name", &format!("{}group", site.prefix)),
                ("__connect.errors.task.id", "0"),
                ("__connect.errors.stage", stage),
                ("__connect.errors.class.name", "pointsman"),
                ("__connect.errors.exception.class.name", reason),
                ("__connect.errors.exception.message", said),
            ]
            .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
            .to_vec(),
        };
        assert!(*letter == expected, "{reason} at {offset}: {:?}", letter.headers);
    }
}

#[test]
fn bad_records_become_dead_letters_and_a_good_task_behind_them_is_decided() {
    let site = Site::new();
    let sender = Sender::new(&site.client());
    for (topic, key, rows) in [
        (Topic::Fleet, "gpt-eu", bad_fleet()),
        (Topic::Tasks, "acme", bad_tasks()),
        (Topic::TaskResults, "nobody", bad_results()),
    ] {
        for (value, _) in rows {
            sender.send(&site.name(topic), key, &value);
        }
    }
    sender.flush();
    site.apply_fleet(ROOMY);
    let good = json!({"task_id": "good", "input_tokens": 10, "max_output_tokens": 20});
    sender.send(&site.name(Topic::Tasks), "acme", good.to_string().as_bytes());
    sender.flush();

    let router = site.start_ready();
    let decisions = site.await_records("route-decisions", 1);
    let decision = &decisions[0]["value"];
    assert_eq!([&decision["task_id"], &decision["outcome"]], [&json!("good"), &json!("routed")]);
    check(&site, Topic::Fleet, "gpt-eu", &bad_fleet());
    check(&site, Topic::Tasks, "acme", &bad_tasks());
    check(&site, Topic::TaskResults, "nobody", &bad_results());
    let counted = [
        ("fleet", "validate", "invalid", 2),
        ("task-results", "core", "unknown_task", 1),
        ("tasks", "decode", "avro", 1),
        ("tasks", "decode", "json", 2),
        ("tasks", "decode", "unknown_fingerprint", 1),
        ("tasks", "decode", "unknown_format", 1),
        ("tasks", "decode", "unknown_schema_id", 1),
        ("tasks", "validate", "invalid", 4),
    ]
    .map(|(topic, stage, reason, count)| {
        format!(
            "pointsman_dead_letters_total{{topic=\"{topic}\",stage=\"{stage}\",reason=\"{reason}\"}} {count}"
        )
    });
    assert_eq!(router.samples("pointsman_dead_letters_total"), counted);

    // The same task again: no second decision, and a record that says so.
    sender.send(&site.name(Topic::Tasks), "acme", good.to_string().as_bytes());
    sender.flush();
    let events = site.await_records("allocation-events", 2);
    let seen: Vec<[&Value; 3]> = events
        .iter()
        .map(|event| ["kind", "task_id", "reason"].map(|name| &event["value"][name]))
        .collect();
    let good = &json!("good");
    assert_eq!(
        seen,
        [[&json!("reserved"), good, &Value::Null], [&json!("denied"), good, &json!("duplicate")]]
    );
    assert!(router.stop().success());
    assert_eq!(site.tap("route-decisions").len(), 1);
}
