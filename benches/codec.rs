//! What a record costs in the codec: nanoseconds for each record that a task brings with it.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use pointsman::codec::{Codec, Header, OutputFormat, RawRecord, RegisteredSchemas, schema};
use pointsman::model::Topic;
use pointsman::model::allocation::{AllocationEvent, AllocationKind};
use pointsman::model::decision::{ChainLink, Outcome, Reserved, RouteDecision, RouteMetrics};
use pointsman::model::task::Priority;
use pointsman::model::time::Timestamp;

const TASK: &[u8] = br#"{"task_id": "t-000001", "tenant": "acme", "class": "code-review",
    "priority": "interactive", "created_at_ms": 1700158623979, "deadline_ms": 81440,
    "input_tokens": 374, "max_output_tokens": 1024, "objective": "balanced",
    "requirements": {"min_quality": 0.6, "max_cost_usd": 0.05, "regions": ["eu"],
    "modalities": ["text"]}, "session": "s-17",
    "payload": {"messages": [{"role": "user", "content": "review this, please"}]}}"#;

const RESULT: &[u8] =
    br#"{"task_id": "t-000001", "attempt": 1, "stage": 0, "resource": "gpt-4o-eu",
    "status": "succeeded", "input_tokens": 374, "output_tokens": 120,
    "time_to_first_token_ms": 310, "duration_ms": 1840, "quality": 0.9}"#;

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

fn codec(output: OutputFormat) -> Codec {
    let codec = Codec::new(output, RegisteredSchemas::default()).expect("a codec");
    // One more symbol makes it a schema of another writer, whose records are resolved.
    let text = schema::of(Topic::Tasks).map_or("", |schema| schema.text);
    let foreign = text.replace("[\"critical\"", "[\"now\", \"critical\"");
    codec.learn_schema(900, &foreign).expect("a schema");
    codec
}

fn decision() -> RouteDecision<'static> {
    let link = |resource: &'static str| ChainLink {
        stage: 0,
        resource: resource.into(),
        model: "gpt-4o".into(),
    };
    RouteDecision {
        decision_id: "3-1-1042-17".into(),
        task_id: "t-000001".into(),
        attempt: 1,
        stage: 0,
        lane: 3,
        outcome: Outcome::Routed,
        reason: None,
        tenant: "acme".into(),
        class: "code-review".into(),
        priority: Priority::Interactive,
        primary: vec![link("gpt-4o-eu")],
        fallbacks: vec![vec![link("gpt-4o-us")], vec![link("gpt-4o-asia")]],
        metrics: Some(RouteMetrics {
            quality: 0.81,
            cost_usd: 0.0112,
            latency_ms: 13_191.0,
            utility: 0.63,
            price: 0.0,
            propensity: 1.0,
        }),
        decided_at_ms: Timestamp::from_ms(1_700_158_624_000),
        start_by_at_ms: Some(Timestamp::from_ms(1_700_158_626_000)),
        lease_until_at_ms: Some(Timestamp::from_ms(1_700_158_678_764)),
        reserved: Some(Reserved { slots: 1, requests: 1, tokens: 1_398 }),
        input_tokens: 374,
        max_output_tokens: 1_024,
        health_offset: 12,
        refusals: Vec::new(),
        payload: Some(br#"{"messages":[{"role":"user","content":"review"}]}"#.into()),
        fallbacks_apart: true,
        stages: 1,
    }
}

fn bench(criterion: &mut Criterion) {
    let avro = codec(OutputFormat::Avro);
    let json = codec(OutputFormat::Json);

    let task = avro.decode_task(&record(Topic::Tasks, TASK)).expect("a task");
    let mut task_avro = Vec::new();
    avro.encode_task(&task, &mut task_avro);
    // The symbol `now` moves the others: `interactive` is 2 there, and all else is the same.
    let mut task_foreign = [&[0, 0, 0, 3, 132][..], &task_avro[10..]].concat();
    let priority = 5 + 9 + 5 + 12;
    task_foreign[priority] = 4;
    let result = avro.decode_task_result(&record(Topic::TaskResults, RESULT)).expect("a result");
    let mut result_avro = Vec::new();
    avro.encode_task_result(&result, &mut result_avro);
    let foreign = avro.decode_task(&record(Topic::Tasks, &task_foreign));
    assert_eq!(foreign.as_ref(), Ok(&task));

    for (name, bytes) in [("avro", &task_avro[..]), ("json", TASK), ("resolved", &task_foreign)] {
        criterion.bench_function(&format!("decode task, {name}"), |bencher| {
            bencher.iter(|| avro.decode_task(&record(Topic::Tasks, black_box(bytes))));
        });
    }
    for (name, bytes) in [("avro", &result_avro[..]), ("json", RESULT)] {
        criterion.bench_function(&format!("decode task result, {name}"), |bencher| {
            bencher.iter(|| avro.decode_task_result(&record(Topic::TaskResults, black_box(bytes))));
        });
    }

    let decision = decision();
    let event = AllocationEvent {
        kind: AllocationKind::Reserved,
        resource: "gpt-4o-eu".into(),
        task_id: "t-000001".into(),
        attempt: 1,
        stage: 0,
        lane: 3,
        at_ms: Timestamp::from_ms(1_700_158_624_000),
        reserved_at_ms: Timestamp::from_ms(1_700_158_624_000),
        held: Reserved { slots: 1, requests: 1, tokens: 1_398 },
        overrun_tokens: 0,
        reason: None,
    };
    let mut out = Vec::with_capacity(4_096);
    for (name, codec) in [("avro", &avro), ("json", &json)] {
        criterion.bench_function(&format!("encode route decision, {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                codec.encode_route_decision(black_box(&decision), &mut out);
            });
        });
        criterion.bench_function(&format!("encode allocation event, {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                codec.encode_allocation_event(black_box(&event), &mut out);
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
