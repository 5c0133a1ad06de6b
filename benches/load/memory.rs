//! Memory of the router with a large fleet and many tasks in flight.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use pointsman::clock::Stopwatch;
use pointsman::codec::Codec;
use pointsman::model::Topic;

use crate::child::{Memory, Running, Side};
use crate::kafka::{self, Run, Shared, Watcher};
use crate::material;

/// What was fetched and produced is given back, or it is not: after this long it is counted.
const SETTLE: Duration = Duration::from_secs(3);

const STALL: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub empty: Memory,
    pub loaded: Memory,
    pub further: Memory,
    /// Bytes of resident memory for each task after the first ones.
    pub bytes_per_further_task: f64,
}

pub struct Sizes {
    pub lanes: u32,
    pub resources: u32,
    pub tasks: u32,
    pub further_tasks: u32,
}

pub fn measure(
    brokers: &str,
    name: &str,
    codec: &Codec,
    sizes: &Sizes,
    binary: Option<&PathBuf>,
) -> anyhow::Result<Measured> {
    // No lease may end while it is counted.
    let lease = ("ROUTING__LEASE_MS_MIN", "3600000".to_owned());
    let run = Run::prepare(brokers, name, sizes.lanes, &Shared::default(), &[lease])?;
    kafka::publish_fleet(
        brokers,
        run.name(Topic::Fleet),
        codec,
        &material::fleet(sizes.resources),
    )?;
    let watcher = Watcher::new(&run)?;
    let mut child = match binary {
        Some(binary) => Running::start_binary(binary, &run)?,
        None => Running::start(Side::Router, &run, None)?,
    };
    let publish_and_settle = |child: &mut Running, from: u32, to: u32| {
        kafka::publish_tasks(brokers, run.name(Topic::Tasks), codec, sizes.lanes, from..to)?;
        let waited = Stopwatch::start();
        while watcher.progress()?.tasks_sum() < to {
            child.check()?;
            if waited.elapsed() > STALL {
                bail!("not every task is decided: {:?}", watcher.progress()?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(SETTLE);
        child.memory()
    };
    let empty = publish_and_settle(&mut child, 0, sizes.lanes)?;
    let loaded = publish_and_settle(&mut child, sizes.lanes, sizes.tasks)?;
    let all = sizes.tasks + sizes.further_tasks;
    let further = publish_and_settle(&mut child, sizes.tasks, all)?;
    if binary.is_some() {
        child.kill()?;
    } else {
        child.stop()?;
    }
    run.remove()?;
    let grown = further.resident as f64 - loaded.resident as f64;
    Ok(Measured {
        empty,
        loaded,
        further,
        bytes_per_further_task: grown / f64::from(sizes.further_tasks.max(1)),
    })
}
