//! End-to-end latency of both sides at a paced rate: from the time at which a task was to be
//! published to the time at which a read-committed consumer has its decision.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use pointsman::clock::Stopwatch;
use pointsman::codec::Codec;
use pointsman::model::Topic;
use rdkafka::error::KafkaError;
use rdkafka::message::Message;

use crate::child::{Cpu, Running, Side};
use crate::kafka::{self, Run};
use crate::material::{self, TaskNumber};

/// Tasks are published in bursts this far apart.
const PACE: Duration = Duration::from_millis(1);

/// What is left on its way after the last task was published.
const DRAIN: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub p50_ms: f64,
    pub p95_ms: f64,
    pub p99_ms: f64,
    pub cpu_us: f64,
    /// Published in fact; below the aim where the machine is too busy.
    pub tasks_per_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub tasks_per_s: u32,
    pub warm_s: u32,
    pub measured_s: u32,
}

impl Pace {
    fn tasks(self) -> u32 {
        self.tasks_per_s * (self.warm_s + self.measured_s)
    }

    /// When a task is to be published.
    fn due(self, index: u32) -> Duration {
        Duration::from_micros(u64::from(index) * 1_000_000 / u64::from(self.tasks_per_s))
    }
}

pub fn measure(
    side: Side,
    run: &Run,
    codec: &Codec,
    samples: Option<&Path>,
    pace: Pace,
) -> anyhow::Result<Measured> {
    let mut child = Running::start(side, run, samples)?;
    let reader = kafka::reader(&run.brokers, run.name(Topic::RouteDecisions), run.lanes)?;
    let publisher = kafka::publisher(&run.brokers, 5)?;
    let results = run.name(Topic::TaskResults).to_owned();

    // One task of each lane first, so that neither side's start is measured.
    let mut value = Vec::new();
    let first = run.lanes;
    publish_task(run, codec, &publisher, 0..first, &mut value)?;
    let mut seen = 0;
    let waited = Stopwatch::start();
    while seen < first {
        child.check()?;
        if waited.elapsed() > DRAIN {
            bail!("the {} decides nothing", side.name());
        }
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(_)) => seen += 1,
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            Some(Err(error)) => return Err(error.into()),
        }
    }

    let tasks = pace.tasks();
    let clock = Stopwatch::start();
    let begun_cpu = child.cpu()?;
    let published = AtomicU32::new(0);
    let is_over = AtomicBool::new(false);
    let mut latencies_us: Vec<u32> = Vec::with_capacity(tasks as usize);
    let (publishing_took, cpu) = std::thread::scope(|scope| -> anyhow::Result<(Duration, Cpu)> {
        let pacer = scope.spawn(|| -> anyhow::Result<Duration> {
            let publisher = kafka::publisher(&run.brokers, 1)?;
            let mut value = Vec::new();
            let mut next = 0;
            while next < tasks && !is_over.load(Ordering::Relaxed) {
                let elapsed = clock.elapsed();
                let mut end = next;
                while end < tasks && pace.due(end) <= elapsed {
                    end += 1;
                }
                publish_task(run, codec, &publisher, first + next..first + end, &mut value)?;
                published.store(end, Ordering::Relaxed);
                next = end;
                std::thread::sleep(PACE);
            }
            let took = clock.elapsed();
            kafka::flush(&publisher)?;
            Ok(took)
        });
        let mut result = Vec::new();
        let mut read = || -> anyhow::Result<Cpu> {
            let mut decided = 0;
            let limit = pace.due(tasks) + DRAIN;
            while decided < tasks {
                if clock.elapsed() > limit {
                    bail!("{decided} of {tasks} decisions after {limit:?}");
                }
                let message = match reader.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => message,
                    Some(Err(KafkaError::PartitionEOF(_))) | None => continue,
                    Some(Err(error)) => return Err(error.into()),
                };
                let which = message.key().and_then(TaskNumber::of_id);
                let which = which.context("a decision without a task id as its key")?;
                let index = which.index(run.lanes).saturating_sub(first);
                let latency = clock.elapsed().saturating_sub(pace.due(index));
                if index >= pace.warm_s * pace.tasks_per_s {
                    latencies_us.push(u32::try_from(latency.as_micros())?);
                }
                decided += 1;
                let answer = material::result(which);
                result.clear();
                codec.encode_task_result(&answer, &mut result);
                kafka::publish(&publisher, &results, which.lane, &answer.task_id, &result)?;
            }
            child.cpu()
        };
        let cpu = read();
        is_over.store(true, Ordering::Relaxed);
        let Ok(took) = pacer.join() else { bail!("the pacer panicked") };
        Ok((took?, cpu?.since(begun_cpu)))
    })?;
    child.stop()?;
    latencies_us.sort_unstable();
    let quantile_ms = |quantile: f64| {
        let at = (latencies_us.len() as f64 * quantile) as usize;
        latencies_us.get(at).map_or(0.0, |us| f64::from(*us) / 1e3)
    };
    Ok(Measured {
        p50_ms: quantile_ms(0.5),
        p95_ms: quantile_ms(0.95),
        p99_ms: quantile_ms(0.99),
        cpu_us: cpu.total_s() * 1e6 / f64::from(tasks),
        tasks_per_s: f64::from(tasks) / publishing_took.as_secs_f64(),
    })
}

fn publish_task(
    run: &Run,
    codec: &Codec,
    publisher: &kafka::Publisher,
    indexes: std::ops::Range<u32>,
    value: &mut Vec<u8>,
) -> anyhow::Result<()> {
    for index in indexes {
        let which = TaskNumber::dealt(index, run.lanes);
        let task = material::task(which)?;
        value.clear();
        codec.encode_task(&task, value);
        kafka::publish(publisher, run.name(Topic::Tasks), which.lane, &task.tenant, value)?;
    }
    Ok(())
}
