//! What snapshots cost, and what they save: how long a lane stands still for one, how large it is,
//! how long it takes to come back from one, and what the core spends on the journal and on them.
//!
//! In the time of this thread on a processor: others do not count. What the journal costs of the
//! throughput over Kafka: `cargo bench --bench load -- journal`.

use anyhow::Context;
use clap::Args;
use pointsman::lane::prepared::{OutputTopic, Prepared};
use pointsman::lane::snapshot::read_header;
use pointsman::lane::{Lane, LaneSettings};
use pointsman::model::Topic;
use rustix::time::{ClockId, clock_gettime};

use crate::driven::{Driven, settings};

/// Tasks of one batch.
const BATCH: u32 = 1_000;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Tasks in flight.
    #[arg(long, default_value_t = 100_000)]
    in_flight: u32,
    /// Batches behind the snapshot that a recovery folds.
    #[arg(long, default_value_t = 1_000)]
    tail: u32,
    /// Tasks and results of a batch of that tail.
    #[arg(long, default_value_t = 500)]
    tail_batch: u32,
    /// Recent task ids beside those in flight.
    #[arg(long, default_value_t = 900_000)]
    recent: u32,
    /// Repetitions; the medians are printed.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

fn ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

/// The median, and the longest.
fn shown(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let longest = times.last().copied().unwrap_or(0.0);
    format!("median {:.1}, longest {longest:.1}", times[times.len() / 2])
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    snapshots(arguments)?;
    journal(arguments)
}

fn snapshots(arguments: &Arguments) -> anyhow::Result<()> {
    let nowhere = &mut |_, _| Ok(());
    let mut driven = Driven::begin(0, 1, settings()?, nowhere)?;
    // Served, and remembered.
    for _ in 0..arguments.recent / BATCH {
        driven.batch(BATCH, 0, nowhere)?;
        driven.batch(0, BATCH, nowhere)?;
    }
    for _ in 0..arguments.in_flight / BATCH {
        driven.batch(BATCH, 0, nowhere)?;
    }
    let state = driven.lane.state();
    println!("{} tasks in flight, {} recent ids", state.in_flight, state.recent.len());

    let (mut taken, mut encoded, mut packed, mut restored) = (vec![], vec![], vec![], vec![]);
    let mut bytes = Vec::new();
    let mut stored = Vec::new();
    for _ in 0..arguments.rounds {
        let t0 = ms();
        let frozen = driven.lane.freeze()?;
        let t1 = ms();
        bytes = frozen.encode()?;
        let t2 = ms();
        stored = zstd::bulk::compress(&bytes, 1)?;
        let t3 = ms();
        let unpacked = zstd::bulk::decompress(&stored, bytes.len())?;
        read_header(&unpacked)?;
        let lane = Lane::restore(0, &unpacked, settings()?)?;
        let t4 = ms();
        anyhow::ensure!(lane.hash() == driven.lane.hash(), "another lane was restored");
        taken.push(t1 - t0);
        encoded.push(t2 - t1);
        packed.push(t3 - t2);
        restored.push(t4 - t3);
    }
    println!("the lane stands still, ms: {} (goal <= 20)", shown(taken));
    println!("snapshot: {} bytes, compressed {} bytes", bytes.len(), stored.len());
    println!("encoded in, ms: {}; compressed in, ms: {}", shown(encoded), shown(packed));
    println!("decompressed, checked and restored in, ms: {}", shown(restored));

    let mut tail: Vec<Vec<u8>> = Vec::new();
    let mut journal_bytes = 0;
    for _ in 0..arguments.tail {
        let prepared = driven.batch(arguments.tail_batch, arguments.tail_batch, nowhere)?;
        let record = journal_of(&prepared)?;
        journal_bytes += record.len();
        tail.push(record);
    }
    let mut folded = Vec::new();
    for _ in 0..arguments.rounds {
        let mut lane = Lane::restore(0, &bytes, settings()?)?;
        let begun = ms();
        for record in &tail {
            lane.fold(record)?;
        }
        folded.push(ms() - begun);
        anyhow::ensure!(lane.hash() == driven.lane.hash(), "it was folded to another state");
    }
    println!(
        "a tail of {} batches with {} tasks and results each ({} MB of journal) folded in, ms: {}",
        arguments.tail,
        arguments.tail_batch,
        journal_bytes / 1_000_000,
        shown(folded)
    );
    Ok(())
}

fn journal_of(prepared: &Prepared) -> anyhow::Result<Vec<u8>> {
    let last = prepared.records.last().context("no output")?;
    anyhow::ensure!(last.topic == OutputTopic::Known(Topic::Journal), "no journal record");
    let value = last.value.as_ref().context("an empty journal record")?;
    Ok(prepared.slice(value).to_vec())
}

/// Batches of a round, and of the warm-up before the first.
const ROUND: u32 = 50;
/// As the worker takes them by default: one for each so many batches.
const SNAPSHOT_BATCHES: u32 = 1_000;

/// What the core spends, with the journal and snapshots and without, taking turns.
fn journal(arguments: &Arguments) -> anyhow::Result<()> {
    let nowhere = &mut |_, _| Ok(());
    let mut lanes = Vec::new();
    for unjournaled in [false, true] {
        let mut driven = Driven::begin(0, 1, LaneSettings { unjournaled, ..settings()? }, nowhere)?;
        for _ in 0..20 {
            driven.batch(BATCH, 0, nowhere)?;
        }
        for _ in 0..ROUND {
            driven.batch(BATCH, BATCH, nowhere)?;
        }
        lanes.push(driven);
    }
    let mut us = [vec![], vec![]];
    let mut snapshot_us = Vec::new();
    let mut ratios = Vec::new();
    for _ in 0..arguments.rounds * 3 {
        for (driven, us) in lanes.iter_mut().zip(&mut us) {
            let mut spent = 0.0;
            for _ in 0..ROUND {
                spent += driven.timed(BATCH, BATCH, ms)?;
            }
            us.push(spent * 1e3 / f64::from(ROUND * BATCH));
        }
        let begun = ms();
        let bytes = lanes[0].lane.freeze()?.encode()?;
        let taken_us = (ms() - begun) * 1e3 / f64::from(SNAPSHOT_BATCHES * BATCH);
        std::hint::black_box(bytes);
        snapshot_us.push(taken_us);
        if let (Some(with), Some(without)) = (us[0].last(), us[1].last()) {
            ratios.push((with + taken_us) / without);
        }
    }
    println!("core, a task and its result, us with the journal: {}", shown(us[0].clone()));
    println!("  without: {}", shown(us[1].clone()));
    println!("  a snapshot for each {SNAPSHOT_BATCHES} batches: {}", shown(snapshot_us));
    println!("  ratio: {} of the core alone", shown(ratios));
    Ok(())
}
