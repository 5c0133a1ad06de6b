//! What routing one task costs, from eligibility to reservation, warm: the decision and folding
//! its fact. `cargo bench --bench routing`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::model::resource::{Dimension, FleetEntry, Limit, ResourceSpec, Speed, TokenPrices};
use pointsman::model::task::Task;
use pointsman::model::time::Timestamp;
use pointsman::routing::eligibility::Memo;
use pointsman::routing::engine::decide_task;
use pointsman::routing::fact::Fact;
use pointsman::routing::state::State;

const TASKS: usize = 10_000;

/// Resources that differ in price, speed and quality, in 16 failure domains, with two limits each.
fn resource(number: u32) -> ResourceSpec {
    let part = f64::from(number % 97) / 97.0;
    ResourceSpec {
        id: format!("resource-{number}"),
        model: format!("model-{}", number % 12),
        provider: format!("provider-{}", number % 8),
        region: format!("region-{}", number % 2),
        failure_domain: format!("domain-{}", number % 16),
        pool: "default".to_owned(),
        usd_per_million_tokens: TokenPrices { input: 0.1 + part, output: 1.0 + part },
        context_window: 128_000,
        max_output_tokens: 16_384,
        slots: 1_000_000,
        limits: vec![
            Limit { dimension: Dimension::Requests, amount: 10_000_000, window_s: 60 },
            Limit { dimension: Dimension::Tokens, amount: 100_000_000_000, window_s: 60 },
        ],
        speed: Speed {
            time_to_first_token_ms: 200.0 + 100.0 * part,
            prefill_tokens_per_s: 5_000.0,
            decode_tokens_per_s: 50.0 + 50.0 * part,
        },
        quality: [("default".to_owned(), 0.5 + part / 2.0)].into(),
        modalities: vec!["text".to_owned()],
        tenants: Vec::new(),
    }
}

fn state(resources: u32) -> State {
    let mut state = State::genesis(0, 1);
    let at = Timestamp::from_ms(1_000_000);
    state.evolve(&Fact::BatchOpened { at, results_caught_up_at: at });
    for number in 0..resources {
        let entry = Box::new(FleetEntry::Resource(resource(number)));
        state.evolve(&Fact::FleetSet { offset: i64::from(number), entry });
    }
    state
}

fn tasks() -> Vec<Task> {
    let classes = ["chat", "code", "code-review", "extract"];
    (0..TASKS)
        .map(|number| {
            let class = classes[number % classes.len()];
            let text = format!(
                r#"{{"task_id":"task-{number:08}","class":"{class}","deadline_ms":60000,
                     "input_tokens":{},"max_output_tokens":512}}"#,
                100 + number % 3_000,
            );
            serde_json::from_str(&text).expect("a task of this bench is valid")
        })
        .collect()
}

fn route(state: &mut State, memo: &mut Memo, tasks: &[Task]) {
    for (offset, task) in tasks.iter().enumerate() {
        let at = state.batch_time;
        for fact in decide_task(state, memo, task, offset as i64, at) {
            state.evolve(black_box(&fact));
        }
    }
}

fn routing(criterion: &mut Criterion) {
    let tasks = tasks();
    let mut group = criterion.benchmark_group("route_one_task");
    group.throughput(Throughput::Elements(1));
    for resources in [32, 1_024, 10_000] {
        let fresh = state(resources);
        let count = if resources > 2_000 { TASKS / 10 } else { TASKS };
        group.bench_function(BenchmarkId::from_parameter(resources), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                let mut left = iterations as usize;
                while left > 0 {
                    let mut state = fresh.clone();
                    let mut memo = Memo::default();
                    route(&mut state, &mut memo, &tasks[..8]);
                    let now = left.min(count - 8);
                    #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
                    let start = Instant::now();
                    route(&mut state, &mut memo, &tasks[8..8 + now]);
                    #[expect(clippy::disallowed_methods, reason = "a bench measures time")]
                    let elapsed = start.elapsed();
                    spent += elapsed;
                    left -= now;
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(4));
    targets = routing
}
criterion_main!(benches);
