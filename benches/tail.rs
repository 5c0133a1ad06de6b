//! The slowest answers, and instant failures: the core against a balancer that everybody knows.
//!
//! ```text
//! cargo bench --bench tail [-- --seed 1]
//! ```
//!
//! 20 servers of 4 slots each, two of which are five times as slow, and nobody says so. Tasks come as a
//! Poisson stream at 90 % of what all servers can do; how long one takes at a server is drawn once, so both
//! sides see the same. Against `tower`'s power of two choices with peak EWMA, the real crate on tokio's
//! paused clock: there each server has a queue of its own, and a row beside gives it servers that are not
//! ready while their slots are taken. The core routes in a closed loop, in batches of 20 ms; no waiting
//! costs it anything but the wait. Latency is from arrival to answer.
//!
//! Then two of the 20 servers fail each attempt after 5 ms. Round robin suffers a failure with a tenth of its
//! attempts; how many of those does the core suffer?
#![expect(clippy::unwrap_used, reason = "a bench that cannot run must say where")]
#![expect(clippy::disallowed_methods, reason = "the clock is tokio's, and stands still")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use clap::Parser;
use pointsman::backtest::baselines::{self, Baseline};
use pointsman::backtest::scenario::{KnownOutcome, Outage, Scenario, TimedTask};
use pointsman::backtest::site::{End, Run};
use pointsman::backtest::{Settings, route};
use pointsman::model::policy::Policy;
use pointsman::model::resource::FleetFile;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma};
use tower::util::rng::HasherRng;
use tower::{BoxError, Service};

const SERVERS: usize = 20;
const SLOTS: usize = 4;
/// The first two: five times as slow as the others, or the ones that fail.
const ILL: usize = 2;
const SLOWER: f64 = 5.0;
const MEAN_MS: f64 = 1_000.0;
const LOAD: f64 = 0.9;
const TASKS: usize = 40_000;
/// What both learn at the beginning does not count.
const WARM: usize = TASKS / 10;
/// Of `tower`'s estimate of latency: what it begins with, and how long it remembers (its usual choice).
const RTT: Duration = Duration::from_secs(1);
const DECAY: Duration = Duration::from_secs(10);

#[derive(Debug, Parser)]
#[command(about = "Compares tail latency with tower's balancer, and failures with round robin")]
struct Arguments {
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long tasks take.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// All within a tenth: what is known of the answer's length is in the prediction.
    Even,
    /// Lengths vary as those of answers do: one in a hundred takes 2.8 times the mean.
    LogNormal,
    /// One in a hundred takes 4.6 times the mean.
    Exponential,
}

impl Shape {
    fn draw_ms(self, dice: &mut ChaCha8Rng) -> f64 {
        let unit =
            |dice: &mut ChaCha8Rng| ((dice.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        match self {
            Shape::Even => MEAN_MS * (0.9 + 0.2 * unit(dice)),
            Shape::Exponential => -MEAN_MS * unit(dice).ln(),
            Shape::LogNormal => {
                const SIGMA: f64 = 0.5;
                let bell =
                    (-2.0 * unit(dice).ln()).sqrt() * (std::f64::consts::TAU * unit(dice)).cos();
                MEAN_MS * (SIGMA * bell - SIGMA * SIGMA / 2.0).exp()
            }
        }
    }
}

/// Arrivals, and how long each task takes at each server.
struct Load {
    arrivals_ms: Vec<u64>,
    durations_ms: Vec<[u64; SERVERS]>,
}

impl Load {
    fn draw(shape: Shape, slower: f64, seed: u64) -> Self {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let swift = (SERVERS - ILL) as f64 + ILL as f64 / slower;
        let between_ms = MEAN_MS / (LOAD * SLOTS as f64 * swift);
        let mut at_ms = 0.0;
        let mut load = Load { arrivals_ms: Vec::new(), durations_ms: Vec::new() };
        for _ in 0..TASKS {
            at_ms += between_ms / MEAN_MS * Shape::Exponential.draw_ms(&mut dice);
            load.arrivals_ms.push(at_ms as u64);
            load.durations_ms.push(std::array::from_fn(|server| {
                let factor = if server < ILL { slower } else { 1.0 };
                (shape.draw_ms(&mut dice) * factor).ceil() as u64
            }));
        }
        load
    }

    /// The same for the core: a fleet whose entries all say the mean.
    fn scenario(&self, seed: u64) -> Scenario {
        let resources: Vec<_> = (0..SERVERS)
            .map(|server| {
                json!({
                    "id": format!("s{server}"), "model": "m", "provider": "p", "region": "r",
                    "failure_domain": format!("d{server}"), "context_window": 10_000,
                    "max_output_tokens": 1_000, "slots": SLOTS, "quality": {"default": 0.8},
                    "usd_per_million_tokens": {"input": 1.0, "output": 1.0},
                    "speed": {"time_to_first_token_ms": MEAN_MS / 2.0, "prefill_tokens_per_s": 1e6,
                              "decode_tokens_per_s": 100.0 / (MEAN_MS / 2_000.0)},
                })
            })
            .collect();
        let fleet: FleetFile = serde_json::from_value(json!({"resource": resources})).unwrap();
        let tasks = self.arrivals_ms.iter().enumerate().map(|(place, arrival_ms)| TimedTask {
            arrival_ms: *arrival_ms,
            task: serde_json::from_value(json!({
                "task_id": format!("t{place}"), "input_tokens": 100, "max_output_tokens": 400,
                "objective": "fastest",
            }))
            .unwrap(),
        });
        let mut known = BTreeMap::new();
        for (place, durations_ms) in self.durations_ms.iter().enumerate() {
            for (server, ms) in durations_ms.iter().enumerate() {
                known.insert(
                    (place, server),
                    KnownOutcome {
                        quality: Some(0.8),
                        output_tokens: Some(100),
                        duration_ms: Some(*ms as f64),
                        time_to_first_token_ms: None,
                    },
                );
            }
        }
        Scenario::new(fleet, tasks.collect(), &known, seed)
    }
}

fn settings(seed: u64) -> Settings {
    Settings { policy: Policy::default(), seed, lanes: 1, skew: None }
}

/// Of all answers after the beginning.
fn p99_ms(mut latencies: Vec<f64>) -> f64 {
    latencies.sort_by(f64::total_cmp);
    latencies[latencies.len() * 99 / 100]
}

fn core_p99_ms(load: &Load, seed: u64) -> f64 {
    let scenario = load.scenario(seed);
    let run = route(&scenario, &settings(seed), &|_| true).unwrap();
    let latencies = run.fates.iter().zip(&load.arrivals_ms).skip(WARM).map(|(fate, arrival_ms)| {
        match fate.end {
            End::Answered { finished_ms, .. } => finished_ms - *arrival_ms as f64,
            End::Open | End::Refused(_) => panic!("a task without an answer: {:?}", fate.end),
        }
    });
    p99_ms(latencies.collect())
}

/// A server of `tower`'s side.
struct Server {
    number: usize,
    load: Rc<Load>,
    slots: Arc<Semaphore>,
    /// Whether it says that it is not ready while its slots are taken, in place of queueing.
    says_full: bool,
}

impl Service<usize> for Server {
    type Response = ();
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<(), Infallible>>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.says_full && self.slots.available_permits() == 0 {
            // The balancer asks again with the next task; the bench's clock wakes it every 5 ms.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: usize) -> Self::Future {
        let ms = self.load.durations_ms[task][self.number];
        let slots = Arc::clone(&self.slots);
        // Taken at once where one is free, so that the next question sees it.
        let free = Arc::clone(&slots).try_acquire_owned();
        Box::pin(async move {
            let _slot = match free {
                Ok(slot) => slot,
                Err(_) => slots.acquire_owned().await.unwrap(),
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(())
        })
    }
}

fn tower_p99_ms(load: &Rc<Load>, says_full: bool) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.unwrap(), async {
        let servers = (0..SERVERS).map(|number| {
            let slots = Arc::new(Semaphore::new(SLOTS));
            let server = Server { number, load: Rc::clone(load), slots, says_full };
            let decay_ns = DECAY.as_nanos() as f64;
            PeakEwma::new(server, RTT, decay_ns, CompleteOnResponse::default())
        });
        let rng = HasherRng::with_hasher(BuildHasherDefault::<DefaultHasher>::default());
        let mut balance = Balance::from_rng(ServiceList::new(servers.collect::<Vec<_>>()), rng);
        let start = Instant::now();
        let mut answers = Vec::new();
        for (task, arrival_ms) in load.arrivals_ms.iter().enumerate() {
            let arrival = start + Duration::from_millis(*arrival_ms);
            tokio::time::sleep_until(arrival).await;
            loop {
                let ready =
                    poll_fn(|cx| Poll::Ready(Service::<usize>::poll_ready(&mut balance, cx)));
                match ready.await {
                    Poll::Ready(ready) => break ready.unwrap(),
                    Poll::Pending => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
            let answer = balance.call(task);
            answers.push(tokio::task::spawn_local(async move {
                answer.await.map_err(|error: BoxError| error.to_string()).unwrap();
                arrival.elapsed().as_secs_f64() * 1_000.0
            }));
        }
        let mut latencies = Vec::new();
        for answer in answers {
            latencies.push(answer.await.unwrap());
        }
        p99_ms(latencies.split_off(WARM))
    })
}

fn tail(seed: u64) {
    println!("p99 of {} tasks, s (seed {seed})", TASKS - WARM);
    println!(
        "{:14} {:>13} {:>10} {:>22} {:>8} {:>26} {:>8}",
        "durations",
        "one by itself",
        "pointsman",
        "two choices, peak EWMA",
        "lower by",
        "the same, told what is full",
        "lower by"
    );
    let shapes = [
        ("even", Shape::Even),
        ("log-normal", Shape::LogNormal),
        ("exponential", Shape::Exponential),
    ];
    for (name, shape) in shapes {
        let load = Rc::new(Load::draw(shape, SLOWER, seed));
        let core = core_p99_ms(&load, seed);
        let alone = load.durations_ms.iter().map(|durations_ms| durations_ms[ILL] as f64);
        let floor = p99_ms(alone.collect());
        let (queues, told) = (tower_p99_ms(&load, false), tower_p99_ms(&load, true));
        let lower = |other: f64| (1.0 - core / other) * 100.0;
        println!(
            "{name:14} {:13.2} {:10.2} {:22.2} {:6.1} % {:26.2} {:6.1} %",
            floor / 1_000.0,
            core / 1_000.0,
            queues / 1_000.0,
            lower(queues),
            told / 1_000.0,
            lower(told),
        );
    }
}

fn failures(seed: u64) {
    let mut load = Load::draw(Shape::LogNormal, 1.0, seed);
    for durations_ms in &mut load.durations_ms {
        durations_ms[..ILL].fill(5);
    }
    let mut scenario = load.scenario(seed);
    let outage = |resource| Outage { resource, from_ms: 0, to_ms: u64::MAX, hard: true };
    scenario.outages = (0..ILL).map(outage).collect();
    let core = route(&scenario, &settings(seed), &|_| true).unwrap();
    let round_robin =
        baselines::run(Baseline::RoundRobin, &scenario, &settings(seed), &|_| true).unwrap();
    let shown = |name: &str, run: &Run| {
        let refused = run.fates.iter().filter(|fate| !matches!(fate.end, End::Answered { .. }));
        println!(
            "{name:14} {:8} of {} attempts failed, {} tasks without an answer",
            run.failed_attempts,
            run.attempts,
            refused.count()
        );
    };
    println!("\ntwo servers that fail at once, {TASKS} tasks");
    shown("pointsman", &core);
    shown("round robin", &round_robin);
    let avoided = 1.0 - core.failed_attempts as f64 / round_robin.failed_attempts as f64;
    println!("avoided: {:.2} %", avoided * 100.0);
}

fn main() {
    let arguments = Arguments::parse();
    tail(arguments.seed);
    failures(arguments.seed);
}
