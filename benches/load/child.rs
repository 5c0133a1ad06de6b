//! The process under test: the router or the baseline, as a child of the load generator, so that
//! its memory and its CPU time are its own.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use pointsman::config::Config;
use pointsman::stream::run::{Stats, run_observed};
use pointsman::telemetry::Telemetry;
use serde::{Deserialize, Serialize};

use crate::baseline;
use crate::kafka::Run;
use crate::samples::Samples;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Side {
    Router,
    /// The router without journal and snapshots, to know what they cost.
    Unjournaled,
    Baseline,
}

impl Side {
    pub const fn name(self) -> &'static str {
        match self {
            Side::Router => "router",
            Side::Unjournaled => "unjournaled",
            Side::Baseline => "baseline",
        }
    }
}

/// What a child says of itself at its end: seconds of its workers' wall-clock time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    pub poll_s: f64,
    pub decode_s: f64,
    pub decide_s: f64,
    pub produce_s: f64,
    pub flush_s: f64,
    pub send_offsets_s: f64,
    pub commit_s: f64,
    pub transactions: u64,
}

/// In the child: runs until standard input ends, which it also does when the parent dies.
pub fn serve(side: Side, samples: Option<&Path>) -> anyhow::Result<()> {
    let mut config =
        Config::load(None, std::env::vars()).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    if side == Side::Unjournaled {
        config.worker.unjournaled = true;
        config.snapshot.local_batches = 0;
        config.snapshot.publish_batches = 0;
    }
    tracing_subscriber::fmt()
        .with_env_filter(&config.log.filter)
        .with_writer(std::io::stderr)
        .init();
    let shutdown = Arc::new(AtomicBool::new(false));
    {
        let shutdown = Arc::clone(&shutdown);
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            // However it ends, it is the end.
            drop(std::io::stdin().read_to_end(&mut rest));
            shutdown.store(true, Ordering::Relaxed);
        });
    }
    let report = match side {
        Side::Router | Side::Unjournaled => {
            let telemetry = Telemetry::new(config.worker.workers);
            let stats = Stats::new(config.worker.workers);
            run_observed(&config, &telemetry, &shutdown, &stats)?;
            report_of(&stats)
        }
        Side::Baseline => {
            let samples = Samples::read(samples.context("--samples is missing")?)?;
            baseline::run(&config, &samples, &shutdown)?
        }
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn report_of(stats: &Stats) -> Report {
    let seconds = |us: u64| us as f64 / 1e6;
    stats.of_each_worker().iter().fold(Report::default(), |sum, worker| Report {
        poll_s: sum.poll_s + seconds(worker.poll_us),
        decode_s: sum.decode_s + seconds(worker.decode_us),
        decide_s: sum.decide_s + seconds(worker.decide_us),
        produce_s: sum.produce_s + seconds(worker.produce_us),
        flush_s: sum.flush_s + seconds(worker.flush_us),
        send_offsets_s: sum.send_offsets_s + seconds(worker.send_offsets_us),
        commit_s: sum.commit_s + seconds(worker.commit_us),
        transactions: sum.transactions + worker.transactions,
    })
}

/// CPU time of a process so far, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cpu {
    /// The workers' own threads.
    pub workers_s: f64,
    /// All other threads: librdkafka's.
    pub others_s: f64,
}

impl Cpu {
    pub fn since(self, earlier: Cpu) -> Cpu {
        Cpu {
            workers_s: self.workers_s - earlier.workers_s,
            others_s: self.others_s - earlier.others_s,
        }
    }

    pub fn total_s(self) -> f64 {
        self.workers_s + self.others_s
    }
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    pub resident: u64,
    pub resident_max: u64,
}

pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    side: Side,
}

impl Running {
    pub fn start(side: Side, run: &Run, samples: Option<&Path>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", side.name()]);
        if let Some(samples) = samples {
            command.arg("--samples").arg(samples);
        }
        Self::spawn(side, command, run)
    }

    /// The router as it is installed.
    pub fn start_binary(binary: &PathBuf, run: &Run) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.arg("run");
        Self::spawn(Side::Router, command, run)
    }

    fn spawn(side: Side, mut command: Command, run: &Run) -> anyhow::Result<Self> {
        let mut child = command
            .env_clear()
            .envs(std::env::vars().filter(|(name, _)| !name.starts_with("POINTSMAN__")))
            .envs(&run.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{command:?} cannot be started"))?;
        let stdin = child.stdin.take();
        Ok(Running { child, stdin, side })
    }

    /// An error where the child has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("the {} ended early: {status}", self.side.name()),
            None => Ok(()),
        }
    }

    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let mut cpu = Cpu::default();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let directory = task?.path();
            // A thread may end while it is looked at; what it used is lost here.
            let (Ok(name), Ok(times)) = (
                std::fs::read_to_string(directory.join("comm")),
                std::fs::read_to_string(directory.join("schedstat")),
            ) else {
                continue;
            };
            let ns: f64 = times.split_whitespace().next().unwrap_or("0").parse()?;
            let sum =
                if name.starts_with("worker-") { &mut cpu.workers_s } else { &mut cpu.others_s };
            *sum += ns / 1e9;
        }
        Ok(cpu)
    }

    pub fn memory(&self) -> anyhow::Result<Memory> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let values: BTreeMap<&str, u64> = text
            .lines()
            .filter_map(|line| {
                let (name, value) = line.split_once(':')?;
                let kilobytes = value.trim().strip_suffix(" kB")?;
                Some((name, kilobytes.parse::<u64>().ok()? * 1024))
            })
            .collect();
        let of = |name: &str| values.get(name).copied().unwrap_or(0);
        Ok(Memory { resident: of("VmRSS"), resident_max: of("VmHWM") })
    }

    /// Ends it and reads what it says of itself.
    pub fn stop(mut self) -> anyhow::Result<Report> {
        drop(self.stdin.take());
        let mut said = String::new();
        if let Some(stdout) = self.child.stdout.take() {
            std::io::BufReader::new(stdout).read_line(&mut said)?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the {} failed: {status}", self.side.name());
        }
        serde_json::from_str(&said).context("the child's report")
    }

    /// Ends it the hard way: the binary as it is installed takes signals, which is not its
    /// measurement's business.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}
