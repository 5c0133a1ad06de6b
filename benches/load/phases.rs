//! CPU time of a task and its result in each phase of the core, without Kafka: one lane, fed with
//! the records of the load, in one thread.

use std::time::Duration;

use anyhow::Context;
use pointsman::codec::encode::fleet_key;
use pointsman::codec::{Codec, RawRecord};
use pointsman::lane::prepared::Prepared;
use pointsman::lane::{Lane, LaneSettings};
use pointsman::model::Topic;
use pointsman::model::policy::Policy;
use pointsman::model::resource::FleetEntry;
use pointsman::model::task::Task;
use pointsman::model::time::Timestamp;
use pointsman::routing::allocator::{ResultVerdict, decide_result};
use pointsman::routing::eligibility::Memo;
use pointsman::routing::engine::decide_task;
use pointsman::routing::fact::Fact;
use pointsman::routing::state::State;
use rustix::time::{ClockId, clock_gettime};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::material::{self, TaskNumber};

/// Tasks of one batch; as many as come together in a busy router.
const BATCH: u32 = 2_000;
const BATCHES: u32 = 60;
/// The first batches fill tables and caches.
const WARM: u32 = 10;

/// Microseconds of CPU time for a task and its result.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measured {
    /// Bytes → task and result, checked, hashed and queued.
    pub decode_us: f64,
    /// Eligibility, score, reservation; release; and folding the facts into the state.
    pub decide_us: f64,
    /// Decision, allocation events and their headers → bytes.
    pub encode_us: f64,
    /// Facts → bytes, and the hash over inputs, facts and outputs.
    pub journal_us: f64,
}

impl Measured {
    pub fn core_us(&self) -> f64 {
        self.decode_us + self.decide_us + self.encode_us + self.journal_us
    }
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// CPU time of the calls, summed up; what they return is kept until the clock is read.
#[derive(Default)]
struct Timer {
    sum: Duration,
}

impl Timer {
    fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let start = cpu_time();
        let value = run();
        self.sum += cpu_time() - start;
        value
    }

    fn us_per(&self, count: u32) -> f64 {
        self.sum.as_secs_f64() * 1e6 / f64::from(count)
    }
}

pub fn measure(resources: u32) -> anyhow::Result<Measured> {
    let codec = material::codec()?;
    let fleet = material::fleet(resources);
    let (decode, prepare) = whole_lane(&codec, &fleet)?;
    let (decide, record) = core_alone(&fleet)?;
    let hash = prepare.hash.us_per(prepare.count);
    let journal_us = record.us_per(prepare.count) + hash;
    let decide_us = decide.us_per(prepare.count);
    let prepare_us = prepare.whole.us_per(prepare.count);
    Ok(Measured {
        decode_us: decode.us_per(prepare.count),
        decide_us,
        // What is left of the whole: rendering, and the batch around it.
        encode_us: (prepare_us - decide_us - journal_us).max(0.0),
        journal_us,
    })
}

struct Prepare {
    whole: Timer,
    /// Hashing the same bytes again, to know what it takes of the whole.
    hash: Timer,
    count: u32,
}

/// A lane as the worker has it: `offer` and `prepare`.
fn whole_lane(codec: &Codec, fleet: &[FleetEntry]) -> anyhow::Result<(Timer, Prepare)> {
    let mut lane = Lane::genesis(
        0,
        1,
        1,
        LaneSettings {
            codec: std::sync::Arc::new(material::codec()?),
            policy: Policy::default(),
            batch_records_max: 4_096,
            source: "pointsman/load".to_owned(),
            group: "load".to_owned(),
            topic_names: Default::default(),
            decisions_by_pool: false,
            unjournaled: false,
        },
    );
    lane.start_at(0, 0, 0);
    for (offset, entry) in (0..).zip(fleet) {
        let mut value = Vec::new();
        anyhow::ensure!(codec.encode_fleet_entry(entry, &mut value), "a removal is no fleet");
        let key = fleet_key(entry);
        lane.offer(&raw(Topic::Fleet, offset, key.as_bytes(), &value));
    }
    let mut decode = Timer::default();
    let mut prepare = Prepare { whole: Timer::default(), hash: Timer::default(), count: 0 };
    let mut now = Timestamp::from_ms(1_000_000);
    for batch in 0..BATCHES {
        let warm = batch < WARM;
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        let tasks = encoded(numbers.clone(), |which, value| {
            codec.encode_task(&material::task(which)?, value);
            Ok(())
        })?;
        let results = encoded(numbers.clone(), |which, value| {
            codec.encode_task_result(&material::result(which), value);
            Ok(())
        })?;
        for (topic, records) in [(Topic::Tasks, &tasks), (Topic::TaskResults, &results)] {
            let mut offer = || {
                for (offset, value) in numbers.clone().zip(records) {
                    lane.offer(&raw(topic, i64::from(offset), b"acme", value));
                }
            };
            if warm {
                offer()
            } else {
                decode.time(offer)
            };
            now = now.plus_ms(20);
            let mut ignored = Timer::default();
            let timer = if warm { &mut ignored } else { &mut prepare.whole };
            while lane.queued() > 0 {
                let prepared = timer.time(|| lane.prepare(now)).context("no batch is prepared")?;
                if !warm {
                    hash(&mut prepare.hash, &prepared, records);
                }
            }
        }
        if !warm {
            prepare.count += BATCH;
        }
    }
    Ok((decode, prepare))
}

/// The hash of a batch covers its outputs (here with the journal record, which has the facts).
/// The digests of the inputs are part of decoding.
fn hash(timer: &mut Timer, prepared: &Prepared, inputs: &[Vec<u8>]) {
    std::hint::black_box(inputs.iter().map(|input| xxh3_64(input)).max());
    std::hint::black_box(timer.time(|| xxh3_128(&prepared.bytes)));
}

/// The core without the lane around it: deciding and folding, and writing the facts.
fn core_alone(fleet: &[FleetEntry]) -> anyhow::Result<(Timer, Timer)> {
    let mut state = State::genesis(0, 1);
    let mut now = Timestamp::from_ms(1_000_000);
    state.evolve(&Fact::BatchOpened { at: now, results_caught_up_at: now });
    for (offset, entry) in (0..).zip(fleet) {
        state.evolve(&Fact::FleetSet { offset, entry: Box::new(entry.clone()) });
    }
    let mut memo = Memo::default();
    let mut decide = Timer::default();
    let mut record = Timer::default();
    for batch in 0..BATCHES {
        let numbers = batch * BATCH..(batch + 1) * BATCH;
        let which = |number| TaskNumber { lane: 0, number };
        let tasks: Vec<Task> = numbers
            .clone()
            .map(|number| material::task(which(number)))
            .collect::<Result<_, _>>()?;
        let results: Vec<_> =
            numbers.clone().map(|number| material::result(which(number))).collect();
        now = now.plus_ms(20);
        let mut facts = Vec::with_capacity(BATCH as usize * 2);
        let mut step = || {
            state.evolve(&Fact::BatchOpened { at: now, results_caught_up_at: now });
            for (offset, task) in numbers.clone().zip(&tasks) {
                for fact in decide_task(&state, &mut memo, task, i64::from(offset), now) {
                    state.evolve(&fact);
                    facts.push(fact);
                }
            }
            for result in &results {
                if let ResultVerdict::Facts(found) = decide_result(&state, result, now) {
                    for fact in found {
                        state.evolve(&fact);
                        facts.push(fact);
                    }
                }
            }
        };
        if batch < WARM {
            step();
            continue;
        }
        decide.time(step);
        record.time(|| -> anyhow::Result<()> {
            let mut bytes = Vec::with_capacity(512 << 10);
            for fact in &facts {
                bytes = postcard::to_extend(fact, bytes)?;
            }
            std::hint::black_box(bytes);
            Ok(())
        })?;
    }
    Ok((decide, record))
}

fn encoded(
    numbers: std::ops::Range<u32>,
    encode: impl Fn(TaskNumber, &mut Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Vec<u8>>> {
    numbers
        .map(|number| {
            let mut value = Vec::new();
            encode(TaskNumber { lane: 0, number }, &mut value)?;
            Ok(value)
        })
        .collect()
}

fn raw<'a>(topic: Topic, offset: i64, key: &'a [u8], value: &'a [u8]) -> RawRecord<'a> {
    RawRecord {
        topic,
        partition: 0,
        offset,
        timestamp_ms: 1_000_000,
        key: Some(key),
        value: Some(value),
        headers: &[],
    }
}
