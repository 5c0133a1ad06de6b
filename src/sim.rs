//! The whole system from one seed: the real worker and lanes, through a modelled client, over the modelled
//! Kafka, in virtual time. Processes crash and stand still, requests and answers get lost, come late or
//! are errors, disks are damaged, clocks differ, resources fail. First faults, in which nothing may go
//! wrong (safety), then a quiet time in which everything must come to its end (liveness). One seed
//! repeats a run exactly.

mod adviser;
pub mod auditor;
mod client;
pub mod dice;
mod disk;
pub mod executor;
pub mod faults;
mod group;
mod instance;
mod keeper;
mod logs;
mod network;
mod planner;
mod producer;
mod reader;
mod records;
mod steps;
mod workload;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::codec::{Codec, CodecError, OutputFormat, RegisteredSchemas};
use crate::config::{Snapshot, StartFrom};
use crate::lane::LaneSettings;
use crate::model::policy::Policy;
use crate::stream::worker::WorkerSettings;
use auditor::{Progress, Violation, look};
use dice::{Dice, stream};
use executor::Executor;
use faults::{Coverage, Faults};
use instance::Instance;
use network::Network;
pub use world::Beginnings;
use world::{Partitions, World};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulationSettings {
    pub tasks: u64,
    /// Lanes at first.
    pub lanes: u32,
    /// Lanes that are added while there are faults.
    pub lanes_added: u32,
    /// Processes of the router, besides a guest that comes and goes while there are faults.
    pub instances: u32,
}

impl Default for SimulationSettings {
    fn default() -> Self {
        SimulationSettings { tasks: 200, lanes: 3, lanes_added: 0, instances: 2 }
    }
}

/// What became of one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub violations: Vec<Violation>,
    /// How often a process ran.
    pub steps: u64,
    pub requests: u64,
    /// Virtual time until the last task was done, milliseconds.
    pub virtual_ms: u64,
    /// Decisions that were made again, and were the same.
    pub replayed: u64,
    pub coverage: Coverage,
    pub beginnings: Beginnings,
}

/// Faults go on for so long at least, microseconds of virtual time.
const FAULTS_US: u64 = 15_000_000;
/// Faults that a run must have met before the quiet time begins, and how long they are waited for.
const FAULTS_MIN: u64 = 10;
const FAULTS_US_MAX: u64 = 60_000_000;
/// Everything must be done within this time after the last fault.
const QUIET_US: u64 = 180_000_000;
/// Whether it is, is looked at this often.
const LOOK_US: u64 = 500_000;

/// Clocks differ from the broker's by so much at most, milliseconds.
pub(crate) const CLOCK_OFFSET_MS: u64 = 400;

/// Runs one seed.
///
/// # Errors
/// Where no codec can be made.
pub fn run(seed: u64, settings: &SimulationSettings) -> Result<Outcome, CodecError> {
    let mut executor = Executor::default();
    let timeline = Rc::clone(&executor.timeline);
    let codec = Arc::new(Codec::new(OutputFormat::Avro, RegisteredSchemas::default())?);
    let world = Rc::new(World {
        network: Network::new(Rc::clone(&timeline), stream(seed, 1)),
        codec: Arc::clone(&codec),
        dealt: settings.lanes,
        lanes_added: settings.lanes_added,
        partitions: Cell::new(Partitions { tasks: settings.lanes, others: settings.lanes }),
        lanes_shared: Cell::new(settings.lanes),
        faults: RefCell::new(Faults::new(stream(seed, 2))),
        beginnings: RefCell::default(),
        violations: RefCell::default(),
        published: Cell::new(false),
    });
    world.create_topics();
    workload::publish_fleet(&world);
    timeline.spawn(workload::produce(Rc::clone(&world), settings.tasks, stream(seed, 3)));
    timeline.spawn(workload::work(Rc::clone(&world), stream(seed, 4)));
    timeline.spawn(workload::rescale(Rc::clone(&world), stream(seed, 8)));
    timeline.spawn(adviser::advise(Rc::clone(&world), stream(seed, 7)));
    timeline.spawn(workload::add_lanes(Rc::clone(&world), stream(seed, 9)));
    let mut dice = stream(seed, 5);
    let worker = worker_settings(codec);
    for number in 0..=settings.instances {
        let offset = dice.within(0..2 * CLOCK_OFFSET_MS + 1);
        let offset = i64::try_from(offset).unwrap_or(0) - CLOCK_OFFSET_MS as i64;
        let instance = Instance::new(&format!("i{number}"), Rc::clone(&world), offset);
        if number < settings.instances {
            timeline.spawn(instance.keep(worker.clone()));
        } else {
            timeline.spawn(instance.visit(worker.clone(), stream(seed, 6)));
        }
    }

    let mut steps = executor.run(FAULTS_US, || false);
    steps += executor.run(FAULTS_US_MAX, || {
        world.published.get() && world.faults.borrow().coverage.faults() >= FAULTS_MIN
    });
    world.faults.borrow_mut().active = false;
    let quiet_until_us = timeline.now_us() + QUIET_US;
    let mut progress = Progress::new(&world, &worker.lane);
    let mut drained = false;
    while !drained && timeline.now_us() < quiet_until_us {
        steps += executor.run(timeline.now_us() + LOOK_US, || false);
        drained = world.published.get() && progress.is_drained(&world);
    }
    let findings = look(&world, &worker.lane, progress);
    let told = world.violations.take().into_iter().map(|detail| ("told", detail));
    let violations = findings.violations.into_iter().chain(told);
    let violations =
        violations.map(|(invariant, detail)| Violation { seed, invariant, detail }).collect();
    let coverage = world.faults.borrow().coverage.clone();
    Ok(Outcome {
        violations,
        steps,
        requests: world.network.requests(),
        virtual_ms: timeline.now_us() / 1_000,
        replayed: findings.replayed,
        coverage,
        beginnings: world.beginnings.take(),
    })
}

fn worker_settings(codec: Arc<Codec>) -> WorkerSettings {
    let policy = Policy {
        start_within_ms: 500,
        lease_ms_min: 4_000,
        lease_ms_max: 10_000,
        wait_ms_max: 20_000,
        load_snapshot_ms: 2_000,
        ..Policy::default()
    };
    WorkerSettings {
        lane: LaneSettings {
            codec,
            policy,
            batch_records_max: 64,
            source: "pointsman/simulation".to_owned(),
            group: group::GROUP.to_owned(),
            topic_names: BTreeMap::new(),
            decisions_by_pool: false,
            unjournaled: false,
        },
        start_from: StartFrom::Earliest,
        batch_wait_ms: 20,
        queued_records_max: 256,
        queued_bytes_max: 4 << 20,
        clock_uncertainty_ms: 2 * CLOCK_OFFSET_MS,
        journal_wait_ms: 14_000,
        leaderless_pause_ms: 2_000,
        snapshot: Snapshot {
            local_batches: 2,
            local_journal_bytes: 1 << 30,
            local_interval_ms_min: 0,
            publish_batches: 5,
            publish_journal_bytes: 1 << 30,
            keep_interval_ms: 10_000,
            keep_decisions: 100,
            cache_bytes: 1 << 20,
            zstd_level: 1,
        },
        new_epoch: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_seeds_find_nothing_and_each_repeats_itself() {
        let settings = SimulationSettings::default();
        for seed in 1..=8 {
            let outcome = run(seed, &settings).unwrap();
            assert_eq!(outcome.violations, [], "seed {seed}");
            assert!(outcome.coverage.faults() >= FAULTS_MIN, "seed {seed}: {}", outcome.coverage);
            assert_eq!(run(seed, &settings).unwrap(), outcome, "seed {seed}");
        }
    }

    #[test]
    fn one_lane_and_one_process_drain_too() {
        let settings =
            SimulationSettings { tasks: 50, lanes: 1, instances: 1, ..Default::default() };
        let outcome = run(3, &settings).unwrap();
        assert_eq!(outcome.violations, []);
    }

    #[test]
    fn lanes_are_added_under_way() {
        for (seed, lanes) in [(1, 1), (2, 2), (3, 3), (4, 2)] {
            let settings = SimulationSettings { lanes, lanes_added: 2, ..Default::default() };
            let outcome = run(seed, &settings).unwrap();
            assert_eq!(outcome.violations, [], "seed {seed}");
        }
    }
}
