//! A recorded history of many decisions: how long an explanation takes, and how fast an audit is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;
use pointsman::clock::Stopwatch;
use pointsman::codec::headers::CE_ID;
use pointsman::model::Topic;
use pointsman::model::time::Timestamp;
use pointsman::replay::audit::{Audit, Range, audit_lane};
use pointsman::replay::find::find_decision;
use pointsman::replay::recording::{About, Recording, Writer};
use pointsman::replay::source::Source;
use pointsman::replay::story::tell;
use rustix::time::{ClockId, clock_gettime};

use crate::driven::{Driven, settings};

/// Tasks of one batch.
const BATCH: u32 = 1_000;
/// Batches until a task's result comes: so many tasks are in flight.
const RESULT_AFTER: u32 = 20;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Of all lanes together.
    #[arg(long, default_value_t = 1_000_000)]
    decisions: u32,
    #[arg(long, default_value_t = 1)]
    lanes: u32,
    /// Decisions of a lane between two snapshots.
    #[arg(long, default_value_t = 100_000)]
    snapshot_every: u32,
    /// Decisions that are explained.
    #[arg(long, default_value_t = 20)]
    explained: u32,
    /// Where the recording is, or is made; without it in a temporary directory.
    #[arg(long)]
    file: Option<std::path::PathBuf>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = arguments.file.clone().unwrap_or_else(|| directory.path().join("run.pmrec"));
    if !path.exists() {
        record(arguments, &path)?;
    }
    println!("recording: {:.0} MB", path.metadata()?.len() as f64 / 1e6);
    explain(arguments, &path)?;
    audit(&path)?;
    command(&path, &["replay", "audit"])
}

fn record(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let Arguments { decisions, lanes, snapshot_every, .. } = *arguments;
    let mut writer = Writer::new(BufWriter::new(File::create_new(path)?))?;
    for topic in Topic::ALL {
        for lane in 0..i32::try_from(lanes)? {
            writer.part(topic, lane, &(0..0));
        }
    }
    let began = Stopwatch::start();
    let mut ends: BTreeMap<(Topic, i32), i64> = BTreeMap::new();
    let mut each = |topic: Topic, record: pointsman::replay::Record| -> anyhow::Result<()> {
        let end = ends.entry((topic, record.partition)).or_default();
        let record = pointsman::replay::Record { offset: *end, ..record };
        *end += 1;
        Ok(writer.record(topic, &record)?)
    };
    for lane in 0..lanes {
        let mut driven = Driven::begin(lane, lanes, settings()?, &mut each)?;
        let mut snapshot = 0;
        for batch in 0..decisions / lanes / BATCH {
            let results = if batch < RESULT_AFTER { 0 } else { BATCH };
            let prepared = driven.batch(BATCH, results, &mut each)?;
            anyhow::ensure!(prepared.counts.routed == u64::from(BATCH), "not all are routed");
            if driven.tasks - snapshot >= snapshot_every {
                snapshot = driven.tasks;
                driven.snapshot(&mut each)?;
            }
        }
    }
    let name = |topic: Topic| topic.default_name().to_owned();
    writer.finish(About {
        lanes,
        recorded_at_ms: 0,
        group: "bench".to_owned(),
        output: Default::default(),
        decisions_by_pool: false,
        topic_names: Topic::ALL.iter().map(|topic| (name(*topic), name(*topic))).collect(),
        schema_ids: BTreeMap::new(),
        writer_schemas: BTreeMap::new(),
    })?;
    println!("recorded in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<Recording<BufReader<File>>> {
    Ok(Recording::open(BufReader::new(File::open(path)?))?)
}

/// Of this thread on a processor.
fn cpu_s() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn explain(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let mut recording = open(path)?;
    let end = recording.bounds(Topic::RouteDecisions, 0)?.end;
    let settings = settings()?;
    let mut walls = Vec::new();
    let mut cpus = Vec::new();
    let mut last = String::new();
    for number in 0..arguments.explained {
        // Not in step with the snapshots.
        let offset = (end - 1) * i64::from(number * 2 + 1) / i64::from(arguments.explained * 2);
        let found = recording.at(Topic::RouteDecisions, 0, offset)?.context("a decision")?;
        let id = found.headers.into_iter().find(|(name, _)| name == CE_ID);
        let id = String::from_utf8(id.and_then(|(_, value)| value).context("an id")?)?;
        let (wall, cpu) = (Stopwatch::start(), cpu_s());
        let place = find_decision(&mut recording, &settings, &id)?.context("not found")?;
        let told = tell(&mut recording, &settings, &place, Timestamp::MAX, &mut |_| ())?;
        walls.push(wall.elapsed().as_secs_f64());
        cpus.push(cpu_s() - cpu);
        let told = told.context("no story")?;
        if told.verified_batches != told.batches || told.ended != "over" {
            bail!("{id}: {} of {} batches verified", told.verified_batches, told.batches);
        }
        last = id;
    }
    for (what, mut times) in [("elapsed", walls), ("on a processor", cpus)] {
        times.sort_by(f64::total_cmp);
        println!(
            "explain of a decision, {what}: median {:.0} ms, longest {:.0} ms of {} (goal < 1,000)",
            times[times.len() / 2] * 1e3,
            times[times.len() - 1] * 1e3,
            times.len()
        );
    }
    command(path, &["explain", &last])
}

fn audit(path: &Path) -> anyhow::Result<()> {
    let mut recording = open(path)?;
    let settings = settings()?;
    let (wall, cpu) = (Stopwatch::start(), cpu_s());
    let mut found = Audit::default();
    for lane in 0..recording.lanes() {
        audit_lane(&mut recording, &settings, lane, Range::ALL, &mut found, &mut |_| ())?;
    }
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_s() - cpu);
    if let Some(divergence) = &found.first_divergence {
        bail!("{divergence:#?}");
    }
    println!(
        "audit in one thread: {} of {} decisions identical, {} outputs and {} snapshots equal; \
         {:.0} decisions/s elapsed, {:.0} on a processor (goal >= 100,000)",
        found.identical,
        found.decisions,
        found.published_equal,
        found.snapshots_equal,
        found.decisions as f64 / wall,
        found.decisions as f64 / cpu,
    );
    Ok(())
}

/// The command as an operator runs it.
fn command(path: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let wall = Stopwatch::start();
    let output = Command::new(env!("CARGO_BIN_EXE_pointsman"))
        .args(arguments)
        .arg("--from-file")
        .arg(path)
        .output()?;
    let took = wall.elapsed().as_secs_f64();
    println!(
        "`pointsman {}` in {took:.2} s:\n{}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    anyhow::ensure!(output.status.success(), "it failed: {}", output.status);
    Ok(())
}
