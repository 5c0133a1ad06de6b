//! Another implementation of Avro reads what we write, and we read what it writes: Python's
//! fastavro, which works from `schemas/*.avsc` alone.
//!
//! The conversation is lines of JSON with the records' bytes in base64. The Python program rebuilds
//! each record from its own decoding, writes it again with fastavro and sends both back.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pointsman::codec::{Codec, Header, OutputFormat, RawRecord, RegisteredSchemas, schema};
use pointsman::model::Topic;
use pointsman::model::allocation::{AllocationEvent, AllocationKind};
use pointsman::model::decision::{
    ChainLink, Outcome, Refusal, Reserved, RouteDecision, RouteMetrics,
};
use pointsman::model::reason::RefusalReason;
use pointsman::model::resource::Dimension;
use pointsman::model::result::{RateLimit, ResultStatus, TaskResult};
use pointsman::model::task::{Objective, Priority, Requirements, Stage, Task, Weights};
use pointsman::model::time::Timestamp;
use serde_json::{Value, json};

fn python() -> PathBuf {
    let python = std::env::var_os("POINTSMAN_PYTHON").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "no Python at {}: run `python3 -m venv target/venv && target/venv/bin/pip install fastavro confluent-kafka`, or name one in POINTSMAN_PYTHON",
        python.display()
    );
    python
}

fn codec() -> Codec {
    Codec::new(OutputFormat::Avro, RegisteredSchemas::default()).unwrap()
}

/// Sends one line for each record and returns the answers.
fn ask(records: &[(Topic, Vec<u8>)]) -> Vec<Value> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut child = Command::new(python())
        .arg(manifest.join("tests/interop/echo.py"))
        .arg(manifest.join("schemas"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    for (topic, bytes) in records {
        let schema = schema::of(*topic).unwrap();
        let line = json!({"schema": schema.name, "record": STANDARD.encode(bytes)});
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn record(topic: Topic, value: &[u8]) -> RawRecord<'_> {
    const NONE: &[Header<'_>] = &[];
    RawRecord {
        topic,
        partition: 0,
        offset: 0,
        timestamp_ms: -1,
        key: None,
        value: Some(value),
        headers: NONE,
    }
}

/// What fastavro saw in our bytes and the bytes that it wrote itself.
fn check<T: PartialEq + std::fmt::Debug>(
    topic: Topic,
    values: &[(T, Value)],
    encode: impl Fn(&Codec, &T, &mut Vec<u8>),
    decode: impl Fn(&Codec, &RawRecord<'_>) -> T,
) {
    let codec = codec();
    let records: Vec<(Topic, Vec<u8>)> = values
        .iter()
        .map(|(value, _)| {
            let mut bytes = Vec::new();
            encode(&codec, value, &mut bytes);
            (topic, bytes)
        })
        .collect();
    let answers = ask(&records);
    assert_eq!(answers.len(), values.len());
    for (answer, (value, seen)) in answers.iter().zip(values) {
        assert_eq!(&answer["seen"], seen);
        let written = STANDARD.decode(answer["record"].as_str().unwrap()).unwrap();
        assert_eq!(&decode(&codec, &record(topic, &written)), value);
    }
}

fn full_task() -> Task {
    Task {
        task_id: "t-000001".to_owned(),
        tenant: "acme".to_owned(),
        class: "übersetzen".to_owned(),
        priority: Priority::Batch,
        created_at_ms: Some(Timestamp::from_ms(1_700_158_623_979)),
        deadline_ms: Some(81_440),
        input_tokens: 374,
        max_output_tokens: 100_000_000,
        objective: Objective::Weights(Weights { quality: 1.0, usd: 10.0, second: 0.001 }),
        requirements: Requirements {
            min_quality: Some(0.6),
            max_cost_usd: Some(0.05),
            regions: vec!["eu".to_owned(), "us".to_owned()],
            modalities: vec!["text".to_owned()],
            models: vec!["gpt-4o".to_owned()],
        },
        session: Some("s-17".to_owned()),
        features: vec![0.5, -0.25],
        stages: vec![Stage {
            name: "draft".to_owned(),
            class: "code".to_owned(),
            input_tokens: 300,
            max_output_tokens: 500,
            models: Vec::new(),
        }],
        payload: Some(vec![0, 255, b'{']),
    }
}

#[test]
#[ignore = "needs Python: see ops/test"]
fn tasks() {
    let least = Task {
        task_id: "t-2".to_owned(),
        tenant: "default".to_owned(),
        class: "default".to_owned(),
        priority: Priority::Interactive,
        created_at_ms: None,
        deadline_ms: None,
        input_tokens: 1,
        max_output_tokens: 1_024,
        objective: Objective::Fastest,
        requirements: Requirements::default(),
        session: None,
        features: Vec::new(),
        stages: Vec::new(),
        payload: None,
    };
    let values = [
        (
            full_task(),
            json!({
                "task_id": "t-000001", "tenant": "acme", "class": "übersetzen", "priority": "batch",
                "created_at_ms": 1_700_158_623_979_i64, "deadline_ms": 81_440,
                "input_tokens": 374, "max_output_tokens": 100_000_000,
                "objective": "balanced",
                "objective_weights": {"quality": 1.0, "usd": 10.0, "second": 0.001},
                "requirements": {"min_quality": 0.6, "max_cost_usd": 0.05, "regions": ["eu", "us"],
                    "modalities": ["text"], "models": ["gpt-4o"]},
                "session": "s-17", "features": [0.5, -0.25],
                "stages": [{"name": "draft", "class": "code", "input_tokens": 300,
                    "max_output_tokens": 500, "models": []}],
                "payload": {"base64": "AP97"}
            }),
        ),
        (
            least,
            json!({
                "task_id": "t-2", "tenant": "default", "class": "default",
                "priority": "interactive", "created_at_ms": null, "deadline_ms": null,
                "input_tokens": 1, "max_output_tokens": 1_024, "objective": "fastest",
                "objective_weights": null,
                "requirements": {"min_quality": null, "max_cost_usd": null, "regions": [],
                    "modalities": [], "models": []},
                "session": null, "features": [], "stages": [], "payload": null
            }),
        ),
    ];
    let decode = |codec: &Codec, record: &RawRecord<'_>| codec.decode_task(record).unwrap();
    check(Topic::Tasks, &values, Codec::encode_task, decode);
}

#[test]
#[ignore = "needs Python: see ops/test"]
fn task_results() {
    let result = TaskResult {
        task_id: "t-000001".to_owned(),
        attempt: 1,
        stage: 0,
        resource: "gpt-4o-eu".to_owned(),
        lane: Some(3),
        status: ResultStatus::RateLimited,
        input_tokens: Some(374),
        output_tokens: Some(0),
        time_to_first_token_ms: Some(310.0),
        duration_ms: Some(1_840.5),
        quality: None,
        retry_after_ms: Some(20_000),
        error: Some("429".to_owned()),
        rate_limits: vec![RateLimit {
            dimension: Dimension::Tokens,
            window_s: Some(60),
            limit: Some(200_000),
            remaining: 0,
            reset_ms: None,
        }],
    };
    let seen = json!({
        "task_id": "t-000001", "attempt": 1, "stage": 0, "resource": "gpt-4o-eu",
        "lane": 3, "status": "rate_limited", "input_tokens": 374, "output_tokens": 0,
        "time_to_first_token_ms": 310.0, "duration_ms": 1_840.5, "quality": null,
        "retry_after_ms": 20_000, "error": "429", "rate_limits": [
            {"dimension": "tokens", "window_s": 60, "limit": 200_000, "remaining": 0, "reset_ms": null}
        ]
    });
    let decode = |codec: &Codec, record: &RawRecord<'_>| codec.decode_task_result(record).unwrap();
    check(Topic::TaskResults, &[(result, seen)], Codec::encode_task_result, decode);
}

#[test]
#[ignore = "needs Python: see ops/test"]
fn route_decisions() {
    let link = |resource: &'static str| ChainLink {
        stage: 0,
        resource: resource.into(),
        model: "gpt-4o".into(),
    };
    let routed = RouteDecision {
        decision_id: "3-1-1042-17".into(),
        task_id: "t-000001".into(),
        attempt: 1,
        stage: 0,
        lane: 3,
        outcome: Outcome::Routed,
        reason: None,
        tenant: "acme".into(),
        class: "code".into(),
        priority: Priority::Critical,
        primary: vec![link("gpt-4o-eu")],
        fallbacks: vec![vec![link("gpt-4o-us")], vec![]],
        metrics: Some(RouteMetrics {
            quality: 0.81,
            cost_usd: 0.0112,
            latency_ms: 13_191.0,
            utility: -0.63,
            price: 0.0,
            propensity: 1.0,
        }),
        decided_at_ms: Timestamp::from_ms(1_700_158_624_000),
        start_by_at_ms: Some(Timestamp::from_ms(1_700_158_626_000)),
        lease_until_at_ms: Some(Timestamp::from_ms(1_700_158_678_764)),
        reserved: Some(Reserved { slots: 1, requests: 1, tokens: 5_000_000_000 }),
        input_tokens: 374,
        max_output_tokens: 1_024,
        health_offset: -1,
        refusals: Vec::new(),
        payload: Some(br#"{"messages":[]}"#.into()),
        fallbacks_apart: true,
        stages: 1,
    };
    let refused = RouteDecision {
        outcome: Outcome::Refused,
        reason: Some(RefusalReason::NoCapacity),
        primary: Vec::new(),
        fallbacks: Vec::new(),
        metrics: None,
        start_by_at_ms: None,
        lease_until_at_ms: None,
        reserved: None,
        refusals: vec![Refusal {
            resource: "gpt-4o-eu".into(),
            rule: RefusalReason::ContextWindow,
            needed: "200000".into(),
            had: "128000".into(),
        }],
        payload: None,
        ..routed.clone()
    };
    let link = |resource: &str| json!({"stage": 0, "resource": resource, "model": "gpt-4o"});
    let seen_routed = json!({
        "decision_id": "3-1-1042-17", "task_id": "t-000001", "attempt": 1, "stage": 0, "lane": 3,
        "outcome": "routed", "reason": null, "tenant": "acme", "class": "code",
        "priority": "critical", "primary": [link("gpt-4o-eu")],
        "fallbacks": [[link("gpt-4o-us")], []],
        "metrics": {"quality": 0.81, "cost_usd": 0.0112, "latency_ms": 13_191.0, "utility": -0.63,
            "price": 0.0, "propensity": 1.0},
        "decided_at_ms": 1_700_158_624_000_i64, "start_by_at_ms": 1_700_158_626_000_i64,
        "lease_until_at_ms": 1_700_158_678_764_i64,
        "reserved": {"slots": 1, "requests": 1, "tokens": 5_000_000_000_i64},
        "input_tokens": 374, "max_output_tokens": 1_024, "health_offset": -1, "refusals": [],
        "payload": {"base64": STANDARD.encode(br#"{"messages":[]}"#)},
        "fallbacks_apart": true, "stages": 1,
    });
    let mut seen_refused = seen_routed.clone();
    for (name, value) in [
        ("outcome", json!("refused")),
        ("reason", json!("no_capacity")),
        ("primary", json!([])),
        ("fallbacks", json!([])),
        ("metrics", Value::Null),
        ("start_by_at_ms", Value::Null),
        ("lease_until_at_ms", Value::Null),
        ("reserved", Value::Null),
        (
            "refusals",
            json!([{"resource": "gpt-4o-eu", "rule": "context_window", "needed": "200000",
                "had": "128000"}]),
        ),
        ("payload", Value::Null),
    ] {
        seen_refused[name] = value;
    }
    let decode =
        |codec: &Codec, record: &RawRecord<'_>| codec.decode_route_decision(record).unwrap();
    let values = [(routed, seen_routed), (refused, seen_refused)];
    check(Topic::RouteDecisions, &values, Codec::encode_route_decision, decode);
}

#[test]
#[ignore = "needs Python: see ops/test"]
fn allocation_events() {
    let event = AllocationEvent {
        kind: AllocationKind::FailedOver,
        resource: "gpt-4o-eu".into(),
        task_id: "t-000001".into(),
        attempt: 2,
        stage: 1,
        lane: 3,
        at_ms: Timestamp::from_ms(1_700_158_624_000),
        reserved_at_ms: Timestamp::from_ms(1_700_158_623_000),
        held: Reserved { slots: 0, requests: 1, tokens: 1_398 },
        overrun_tokens: 12,
        reason: Some(RefusalReason::PoolTopicMissing),
    };
    let seen = json!({
        "kind": "failed_over", "resource": "gpt-4o-eu", "task_id": "t-000001", "attempt": 2,
        "stage": 1, "lane": 3, "at_ms": 1_700_158_624_000_i64,
        "reserved_at_ms": 1_700_158_623_000_i64,
        "held": {"slots": 0, "requests": 1, "tokens": 1_398}, "overrun_tokens": 12,
        "reason": "pool_topic_missing"
    });
    let decode =
        |codec: &Codec, record: &RawRecord<'_>| codec.decode_allocation_event(record).unwrap();
    check(Topic::AllocationEvents, &[(event, seen)], Codec::encode_allocation_event, decode);
}
