//! What routing one task costs, from eligibility to reservation, warm: the decision and folding
//! its fact. `cargo bench --bench routing`. Beside it a table of routing, allocation and balancing against
//! the limits that were set for them, and what it brings that candidate lists are kept.
//!
//! ```text
//! cargo bench --bench routing                            # times
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect='routing::decide_one' \
//!     BENCH --count results 4 32                         # instructions of 2,000 decisions
//! ```
//!
//! `--count` takes what happens between two tasks (`changes`, `nothing`, `results`), classes and resources;
//! folding is in `routing::fold_one`.

#[path = "planner/load.rs"]
mod load;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use load::{LOAD_SNAPSHOT_MS, Load, snapshots};
use pointsman::clock::Stopwatch;
use pointsman::model::resource::{Dimension, FleetEntry, Limit, ResourceSpec, Speed, TokenPrices};
use pointsman::model::result::TaskResult;
use pointsman::model::task::Task;
use pointsman::model::time::Timestamp;
use pointsman::routing::TaskKey;
use pointsman::routing::allocator::{ResultVerdict, decide_result};
use pointsman::routing::balancer::rebalance::Planner;
use pointsman::routing::balancer::{NewArrival, distribute_load};
use pointsman::routing::eligibility::Memo;
use pointsman::routing::engine::decide_task;
use pointsman::routing::fact::Fact;
use pointsman::routing::state::{Phase, State};

const TASKS: usize = 10_000;
/// As many as any number of tasks needs.
const SLOTS: u32 = 1_000_000;

/// Resources that differ in price, speed and quality, in 16 failure domains, with two limits each.
fn resource(number: u32, slots: u32) -> ResourceSpec {
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
        slots,
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

fn state(resources: u32, slots: u32) -> State {
    let mut state = State::genesis(0, 1);
    let at = Timestamp::from_ms(1_000_000);
    state.evolve(&Fact::BatchOpened { at, results_caught_up_at: at });
    for number in 0..resources {
        let entry = Box::new(FleetEntry::Resource(resource(number, slots)));
        state.evolve(&Fact::FleetSet { offset: i64::from(number), entry });
    }
    state
}

fn tasks() -> Vec<Task> {
    tasks_of(4)
}

/// Tasks of so many classes in turn.
fn tasks_of(classes: usize) -> Vec<Task> {
    (0..TASKS)
        .map(|number| {
            let class = format!("class-{}", number % classes);
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
        let facts = decide_task(state, memo, task, offset as i64, at);
        fold_one(state, &facts);
    }
}

fn routing(criterion: &mut Criterion) {
    let tasks = tasks();
    let mut group = criterion.benchmark_group("route_one_task");
    group.throughput(Throughput::Elements(1));
    for resources in [32, 1_024, 10_000] {
        let fresh = state(resources, SLOTS);
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

/// The times of one thing, and what it may take.
fn row(what: &str, mut times: Vec<Duration>, limit_ms: Option<u32>) {
    times.sort_unstable();
    let ms = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    let limit = limit_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms}"));
    let missed = limit_ms.is_some_and(|limit| ms(99) > f64::from(limit));
    let missed = if missed { "  MISSED" } else { "" };
    println!("{what:58} {:>7} {:9.4} {:9.4} {limit:>6}{missed}", times.len(), ms(50), ms(99));
}

/// Deciding each of the tasks, and folding that beside; and reserving and giving back what each of them takes.
fn decided_and_allocated(resources: u32, tasks: &[Task]) -> (Vec<Duration>, Vec<Duration>) {
    let mut state = state(resources, SLOTS);
    let mut memo = Memo::default();
    route(&mut state, &mut memo, &tasks[..8]);
    let (mut decided, mut allocated) = (Vec::new(), Vec::new());
    for (offset, task) in tasks.iter().enumerate().skip(8) {
        let at = state.batch_time;
        let deciding = Stopwatch::start();
        let facts = black_box(decide_task(&state, &mut memo, task, offset as i64, at));
        decided.push(deciding.elapsed());
        let result = result_of(task);
        let allocating = Stopwatch::start();
        fold_one(&mut state, &facts);
        end(&mut state, &result);
        allocated.push(allocating.elapsed());
    }
    (decided, allocated)
}

fn result_of(task: &Task) -> TaskResult {
    let result = format!(
        r#"{{"task_id":"{}","attempt":1,"status":"succeeded","input_tokens":100,
             "output_tokens":64,"duration_ms":900,"quality":0.7}}"#,
        task.task_id
    );
    serde_json::from_str(&result).expect("a result of this bench")
}

/// A result of a task that is under way.
fn end(state: &mut State, result: &TaskResult) {
    match decide_result(state, result, state.batch_time) {
        ResultVerdict::Facts(facts) => facts.iter().for_each(|fact| state.evolve(fact)),
        other @ (ResultVerdict::Stale
        | ResultVerdict::Forward { .. }
        | ResultVerdict::UnknownTask
        | ResultVerdict::ResourceMismatch { .. }) => {
            unreachable!("a result of a task that is under way: {other:?}")
        }
    }
}

/// For callgrind, which counts by function.
#[inline(never)]
fn decide_one(state: &State, memo: &mut Memo, task: &Task, offset: usize) -> Vec<Fact> {
    decide_task(state, memo, black_box(task), offset as i64, state.batch_time)
}

/// See [`decide_one`].
#[inline(never)]
fn fold_one(state: &mut State, facts: &[Fact]) {
    facts.iter().for_each(|fact| state.evolve(black_box(fact)));
}

/// What happens between two tasks.
#[derive(Debug, Clone, Copy)]
enum Between {
    /// The fleet changes: no list that was kept is of use, so this is what a task costs where none is kept.
    Changes,
    Nothing,
    /// The last task's result is folded.
    Results,
}

impl Between {
    const ALL: [Between; 3] = [Between::Changes, Between::Nothing, Between::Results];

    fn of(name: &str) -> Self {
        match name {
            "changes" => Between::Changes,
            "nothing" => Between::Nothing,
            "results" => Between::Results,
            other => panic!("changes, nothing or results, not {other}"),
        }
    }
}

/// A lane that has seen each class of its tasks, and what deciding each of the others takes.
fn kept_lists(fresh: &State, classes: usize, between: Between, tasks: &[Task]) -> Vec<Duration> {
    let (mut state, mut memo) = (fresh.clone(), Memo::default());
    route(&mut state, &mut memo, &tasks[..classes]);
    let mut times = Vec::with_capacity(tasks.len());
    for (offset, task) in tasks.iter().enumerate().skip(classes) {
        let deciding = Stopwatch::start();
        let facts = black_box(decide_one(&state, &mut memo, task, offset));
        times.push(deciding.elapsed());
        fold_one(&mut state, &facts);
        match between {
            Between::Changes => state.fleet.changed(),
            Between::Nothing => {}
            Between::Results => end(&mut state, &result_of(task)),
        }
    }
    times
}

/// What keeping candidate lists brings, in turns.
fn caching() {
    const TURNS: usize = 9;
    println!(
        "{:58} {:>12} {:>12} {:>12}",
        "deciding, median of 9 turns, us", "none kept", "kept", "results"
    );
    for (resources, count) in [(32, 2_000), (1_024, 600)] {
        let fresh = state(resources, SLOTS);
        for classes in [4, 100] {
            let tasks = &tasks_of(classes)[..classes + count];
            let mut means = Between::ALL.map(|_| Vec::new());
            for _ in 0..TURNS {
                for (between, means) in Between::ALL.into_iter().zip(&mut means) {
                    let times = kept_lists(&fresh, classes, between, tasks);
                    let sum: Duration = times.iter().sum();
                    means.push(sum.as_secs_f64() * 1e6 / times.len() as f64);
                }
            }
            let [none, kept, results] = means.map(|mut means| {
                means.sort_by(f64::total_cmp);
                means[TURNS / 2]
            });
            let what = format!("{classes} classes, {resources} resources");
            println!("{what:58} {none:12.2} {kept:12.2} {results:12.2}");
        }
    }
}

/// Instructions for whoever counts them.
fn count(between: &str, classes: &str, resources: &str) {
    const COUNTED: usize = 2_000;
    let number = |text: &str| -> u32 { text.parse().expect("a number") };
    let classes = number(classes) as usize;
    let tasks = &tasks_of(classes)[..classes + COUNTED];
    kept_lists(&state(number(resources), SLOTS), classes, Between::of(between), tasks);
}

/// Ordering a batch of tasks: new ones, and ones that wait because all slots are taken.
fn distributed(resources: u32, batch: usize, tasks: &[Task]) -> [Vec<Duration>; 2] {
    const TIMES: usize = 200;
    let at = Timestamp::from_ms(1_000_000);
    let time = |state: &State, waiting: &[TaskKey], arrivals: &[NewArrival<'_>]| {
        let mut memo = Memo::default();
        let distribute = |memo: &mut Memo| distribute_load(state, memo, waiting, arrivals);
        assert_eq!(distribute(&mut memo).len(), batch);
        let times = (0..TIMES).map(|_| {
            let distributing = Stopwatch::start();
            black_box(distribute(&mut memo));
            distributing.elapsed()
        });
        times.collect()
    };
    let arrivals: Vec<NewArrival<'_>> =
        tasks[..batch].iter().map(|task| NewArrival { task, created_at: at }).collect();
    let new = time(&state(resources, SLOTS), &[], &arrivals);
    let mut full = state(resources, 1);
    // Some wait of their own choice while there is room, and later ones take it.
    route(&mut full, &mut Memo::default(), &tasks[..resources as usize + 2 * batch]);
    let waits = full.tasks.iter().filter(|(_, live)| matches!(live.phase, Phase::Waiting { .. }));
    let keys: Vec<TaskKey> = waits.map(|(key, _)| *key).take(batch).collect();
    [new, time(&full, &keys, &[])]
}

/// Every round of a planner until nothing is left to be advised, under three kinds of load.
fn planned(lanes: u32, resources: u32) -> Vec<Duration> {
    let at = Timestamp::from_ms(1_000_000_000);
    let mut times = Vec::new();
    for load in [Load::Steady, Load::Skewed, Load::Overloaded] {
        let told = snapshots(lanes, resources, at, load);
        for _ in 0..5 {
            let mut planner = Planner::new(lanes, LOAD_SNAPSHOT_MS);
            told.iter().for_each(|snapshot| planner.told(snapshot));
            let mut advice = 1;
            while advice > 0 {
                let planning = Stopwatch::start();
                advice = black_box(planner.rebalance(at.plus_ms(100))).len();
                times.push(planning.elapsed());
            }
        }
    }
    times
}

/// Routing in 10 ms, allocation in 5 ms, balancing in 15 ms.
fn limits() {
    const RESOURCES: u32 = 200;
    const BATCH: usize = 512;
    let tasks = tasks();
    println!("{:58} {:>7} {:>9} {:>9} {:>6}", "", "times", "p50, ms", "p99, ms", "limit");
    for resources in [RESOURCES, 10_000] {
        let (decided, allocated) = decided_and_allocated(resources, &tasks[..2_000]);
        row(&format!("routing: a task is decided, {resources} resources"), decided, Some(10));
        let what = format!("allocation: reserved and given back, {resources} resources");
        row(&what, allocated, Some(5));
    }
    let [new, waiting] = distributed(RESOURCES, BATCH, &tasks);
    let what =
        |kind: &str| format!("balancing: {BATCH} {kind} tasks ordered, {RESOURCES} resources");
    row(&what("new"), new, Some(15));
    row(&what("waiting"), waiting, Some(15));
    for lanes in [4, 64] {
        let what = format!("a planner's round, {lanes} lanes, {RESOURCES} resources");
        row(&what, planned(lanes, RESOURCES), None);
    }
    println!(
        "The 15 ms are compared with the distribution of a batch, which the tasks wait for; no task waits\n         for a planner's round, which stands beside it."
    );
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).measurement_time(Duration::from_secs(4));
    targets = routing
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, between, classes, resources] = arguments.as_slice()
        && first == "--count"
    {
        return count(between, classes, resources);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    // Not where it is only tried whether the bench runs.
    if arguments.iter().any(|argument| argument == "--bench") {
        limits();
        caching();
    }
}
