//! Tasks per second of both sides, with a backlog of tasks to work off and a result for each.

use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use pointsman::clock::Stopwatch;
use pointsman::codec::Codec;
use pointsman::model::Topic;

use crate::child::{Cpu, Report, Running, Side};
use crate::kafka::{self, Progress, Publisher, Run, Shared, Watcher};
use crate::material::{self, TaskNumber};
use crate::samples::{Written, written};

/// Between two looks at what is committed.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A side that decides nothing more for so long is broken.
const STALL: Duration = Duration::from_secs(60);

/// What one run showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub tasks: u32,
    pub tasks_per_s: f64,
    /// CPU time of the process while they were worked off, per task.
    pub cpu_us: f64,
    /// Of that, in the workers' own threads.
    pub workers_cpu_us: f64,
    pub written: Written,
    pub report: Report,
}

/// Publishes a result for every task whose decision is committed.
pub struct Feeder {
    publisher: Publisher,
    topic: String,
    fed: Vec<u32>,
    value: Vec<u8>,
}

impl Feeder {
    pub fn new(run: &Run) -> anyhow::Result<Self> {
        Ok(Feeder {
            publisher: kafka::publisher(&run.brokers, 5)?,
            topic: run.name(Topic::TaskResults).to_owned(),
            fed: vec![0; run.lanes as usize],
            value: Vec::new(),
        })
    }

    pub fn feed(&mut self, codec: &Codec, progress: &Progress) -> anyhow::Result<()> {
        for (lane, (fed, decided)) in (0..).zip(self.fed.iter_mut().zip(&progress.tasks)) {
            for number in *fed..*decided {
                let result = material::result(TaskNumber { lane, number });
                self.value.clear();
                codec.encode_task_result(&result, &mut self.value);
                kafka::publish(&self.publisher, &self.topic, lane, &result.task_id, &self.value)?;
            }
            *fed = (*fed).max(*decided);
        }
        Ok(())
    }
}

/// Works off `tasks` tasks that are published already.
pub fn measure(
    side: Side,
    run: &Run,
    codec: &Codec,
    samples: Option<&Path>,
    tasks: u32,
) -> anyhow::Result<Measured> {
    let mut feeder = Feeder::new(run)?;
    let watcher = Watcher::new(run)?;
    let mut child = Running::start(side, run, samples)?;
    let mut started: Option<(Stopwatch, Cpu, u32)> = None;
    let mut moved = Stopwatch::start();
    let mut before = 0;
    let (took, cpu, counted) = loop {
        child.check()?;
        let progress = watcher.progress()?;
        let sum = progress.tasks_sum() + progress.results_sum();
        if sum != before {
            before = sum;
            moved = Stopwatch::start();
        } else if moved.elapsed() > STALL {
            bail!("the {} stands still: {progress:?}", side.name());
        }
        match started {
            None if progress.tasks_sum() > 0 => {
                started = Some((Stopwatch::start(), child.cpu()?, progress.tasks_sum()));
            }
            Some((clock, cpu, first))
                if progress.tasks_sum() >= tasks && progress.results_sum() >= tasks =>
            {
                break (clock.elapsed(), child.cpu()?.since(cpu), tasks - first);
            }
            None | Some(_) => {}
        }
        feeder.feed(codec, &progress)?;
        std::thread::sleep(LOOK_EVERY);
    };
    let report = child.stop()?;
    let written = written(run, codec)?;
    if written.decisions != u64::from(tasks) {
        bail!("{} decisions of {tasks} tasks are readable", written.decisions);
    }
    let per_task = |seconds: f64| seconds * 1e6 / f64::from(counted.max(1));
    Ok(Measured {
        tasks,
        tasks_per_s: f64::from(counted) / took.as_secs_f64(),
        cpu_us: per_task(cpu.total_s()),
        workers_cpu_us: per_task(cpu.workers_s),
        written,
        report,
    })
}

/// Topics with the fleet and the tasks, which all runs read.
pub fn publish_inputs(
    brokers: &str,
    name: &str,
    lanes: u32,
    codec: &Codec,
    resources: u32,
    tasks: u32,
) -> anyhow::Result<Shared> {
    let mut shared = Shared::default();
    for topic in [Topic::Fleet, Topic::Tasks] {
        let topic_name = format!("{name}.{}", topic.default_name());
        kafka::make_topic(brokers, topic, &topic_name, lanes)?;
        shared.names.insert(topic, topic_name);
    }
    let fleet = material::fleet(resources);
    kafka::publish_fleet(brokers, &shared.names[&Topic::Fleet], codec, &fleet)?;
    kafka::publish_tasks(brokers, &shared.names[&Topic::Tasks], codec, lanes, 0..tasks)?;
    Ok(shared)
}
