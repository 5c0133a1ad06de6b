//! The baseline: what it costs to pass the same records through the same client, in transactions
//! formed by the same rules, without deciding anything.
//!
//! It reads the same tasks and results by the group consumer of the router, with its settings, and
//! writes by its transactional producer, for each task a decision and an allocation event, for each
//! result an allocation event, for each batch a journal record, now and then the load snapshots:
//! with the same keys, headers and sizes. The values are copies of what the router wrote in a run
//! before. What it leaves out: decoding, deciding, keeping state, encoding, hashing, recovery.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use pointsman::clock::{Stopwatch, wall_now};
use pointsman::codec::{Codec, RawRecord};
use pointsman::config::Config;
use pointsman::lane::outputs::{Origin, Outputs, Room};
use pointsman::lane::prepared::{BatchCounts, OutputTopic, Prepared};
use pointsman::model::Topic;
use pointsman::stream::client::group::{Group, GroupEvent};
use pointsman::stream::client::names::InputNames;
use pointsman::stream::client::producer::TransactionalProducer;
use pointsman::stream::client::reader::Read;
use pointsman::stream::client::settings;

use crate::child::Report;
use crate::material;
use crate::samples::{Sample, Samples};

/// As the router's client: messages that are taken over at a time, how long it waits for them where
/// nothing is due, and how often queues are forwarded.
const FETCH_MAX: usize = 2_048;
const IDLE_WAIT_MS: u64 = 10;
const FORWARD_MS: u64 = 50;

/// Runs the workers until `shutdown` is set.
pub fn run(config: &Config, samples: &Samples, shutdown: &AtomicBool) -> anyhow::Result<Report> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for number in 0..config.worker.workers {
            let thread = std::thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn_scoped(scope, move || {
                    Passing::new(config, number, samples)?.run(shutdown)
                })?;
            threads.push(thread);
        }
        let mut sum = Report::default();
        for thread in threads {
            let Ok(report) = thread.join() else { bail!("a worker panicked") };
            let report = report?;
            sum.poll_s += report.poll_s;
            sum.decode_s += report.decode_s;
            sum.produce_s += report.produce_s;
            sum.flush_s += report.flush_s;
            sum.send_offsets_s += report.send_offsets_s;
            sum.commit_s += report.commit_s;
            sum.transactions += report.transactions;
        }
        Ok(sum)
    })
}

/// One lane: what it will write next, and how far it has read.
struct PassingLane {
    number: u32,
    seq: u64,
    batch: Option<Batch>,
    /// The next offset of each lane input.
    next: [i64; 3],
    loads_published: Stopwatch,
    journal_at: usize,
    cursor: usize,
    /// Of the last batch.
    room: Room,
}

struct Batch {
    outputs: Outputs,
    inputs: u64,
    since: Stopwatch,
}

struct Passing<'a> {
    config: &'a Config,
    samples: &'a Samples,
    codec: Codec,
    number: u32,
    group: Group,
    producer: Option<TransactionalProducer>,
    lanes: BTreeMap<u32, PassingLane>,
    forwarded: Stopwatch,
    report: Report,
}

impl<'a> Passing<'a> {
    fn new(config: &'a Config, number: u32, samples: &'a Samples) -> anyhow::Result<Self> {
        let names = InputNames::new(&config.topics).context("a topic's name cannot be used")?;
        Ok(Passing {
            config,
            samples,
            codec: material::codec()?,
            number,
            group: Group::join(&settings::group(config, number), &names)?,
            producer: None,
            lanes: BTreeMap::new(),
            forwarded: Stopwatch::start(),
            report: Report::default(),
        })
    }

    fn run(mut self, shutdown: &AtomicBool) -> anyhow::Result<Report> {
        while !shutdown.load(Ordering::Relaxed) {
            for event in self.group.poll()? {
                match event {
                    GroupEvent::Assigned(assigned) => self.assigned(&assigned)?,
                    // Recovery is not measured: a baseline that is rebalanced begins anew.
                    GroupEvent::Revoked { .. } => self.lanes.clear(),
                }
            }
            self.fetch();
            if self.forwarded.elapsed_ms() >= FORWARD_MS {
                self.forwarded = Stopwatch::start();
                self.group.forward();
            }
            if self.due_in_ms() == Some(0) {
                self.transact()?;
            }
        }
        Ok(self.report)
    }

    fn assigned(&mut self, assigned: &[(Topic, i32)]) -> anyhow::Result<()> {
        let timeout = Duration::from_millis(self.config.worker.transaction_timeout_ms);
        let mut from = Vec::new();
        let mut lanes: Vec<u32> = Vec::new();
        for (_, partition) in assigned.iter().filter(|(topic, _)| *topic == Topic::Tasks) {
            lanes.push(u32::try_from(*partition)?);
        }
        for (lane, committed) in self.group.committed(&lanes, timeout)? {
            let next = committed.map(|offset| offset.map_or(0, |committed| committed.offset));
            for (topic, offset) in Topic::LANE_INPUTS.into_iter().zip(next) {
                from.push((topic, i32::try_from(lane)?, offset));
            }
            self.lanes.insert(
                lane,
                PassingLane {
                    number: lane,
                    seq: 0,
                    batch: None,
                    next,
                    loads_published: Stopwatch::start(),
                    journal_at: 0,
                    cursor: 0,
                    room: Room::default(),
                },
            );
        }
        if self.producer.is_none() && !lanes.is_empty() {
            let config = settings::producer(self.config, self.number);
            let opened = TransactionalProducer::open(&config, &self.config.topics, timeout)?;
            self.producer = Some(opened);
        }
        self.group.read_from(&from)?;
        Ok(())
    }

    fn fetch(&mut self) {
        let wait_ms = self.due_in_ms().unwrap_or(IDLE_WAIT_MS).min(IDLE_WAIT_MS);
        let mut took = Stopwatch::start();
        let Passing { group, lanes, config, codec, samples, report, .. } = self;
        let batch = group.fetch(Duration::from_millis(wait_ms), FETCH_MAX);
        if batch.len() == 0 {
            return;
        }
        report.poll_s += took.lap().as_secs_f64();
        group.hand_over(&batch, |read| {
            if let Read::Record(record) = read
                && let Ok(lane) = u32::try_from(record.partition)
                && let Some(lane) = lanes.get_mut(&lane)
            {
                lane.pass(config, codec, samples, &record);
            }
        });
        report.decode_s += took.elapsed().as_secs_f64();
    }

    /// In how many milliseconds a batch is due; `None` while nothing makes one.
    fn due_in_ms(&self) -> Option<u64> {
        let batches = self.lanes.values().filter_map(|lane| lane.batch.as_ref());
        batches
            .map(|batch| {
                if batch.inputs >= u64::from(self.config.worker.batch_records_max) {
                    return 0;
                }
                self.config.worker.batch_wait_ms.saturating_sub(batch.since.elapsed_ms())
            })
            .min()
    }

    fn transact(&mut self) -> anyhow::Result<()> {
        let Passing { producer, lanes, group, samples, report, .. } = self;
        let producer = producer.as_mut().context("there is no producer")?;
        let batches: Vec<Arc<Prepared>> =
            lanes.values_mut().filter_map(|lane| lane.close(samples)).map(Arc::new).collect();
        let mut took = Stopwatch::start();
        producer.begin()?;
        for batch in &batches {
            producer.produce(batch)?;
        }
        report.produce_s += took.lap().as_secs_f64();
        producer.flush()?;
        report.flush_s += took.lap().as_secs_f64();
        let metadata = group.metadata().context("no member of the group")?;
        producer.send_offsets(&batches, &metadata)?;
        report.send_offsets_s += took.lap().as_secs_f64();
        producer.commit()?;
        report.commit_s += took.lap().as_secs_f64();
        report.transactions += 1;
        Ok(())
    }
}

impl PassingLane {
    fn pass(&mut self, config: &Config, codec: &Codec, samples: &Samples, record: &RawRecord<'_>) {
        let Some(input) = Topic::LANE_INPUTS.iter().position(|topic| *topic == record.topic) else {
            return;
        };
        self.next[input] = record.offset + 1;
        let (lane, seq) = (self.number, self.seq + 1);
        let batch = self.batch.get_or_insert_with(|| {
            let origin = Origin { lane, epoch: 0, seq, at: wall_now() };
            let source = format!("pointsman/{}", config.kafka.group_id);
            let outputs = Outputs::new(origin, &source, codec, self.room);
            Batch { outputs, inputs: 0, since: Stopwatch::start() }
        });
        batch.inputs += 1;
        self.cursor += 1;
        let mut write = |topic: Topic, key: &str, sample: &Sample| {
            let to = OutputTopic::Known(topic);
            batch.outputs.event(topic, to, lane, key, None, |out| {
                out.extend_from_slice(&sample.value);
            });
        };
        let nth = |samples: &'_ [Sample]| self.cursor % samples.len().max(1);
        if record.topic == Topic::Tasks {
            let decision = &samples.decisions[nth(&samples.decisions)];
            write(Topic::RouteDecisions, task_id(record), decision);
            let reserved = &samples.reserved[nth(&samples.reserved)];
            write(Topic::AllocationEvents, &reserved.key, reserved);
        } else {
            let released = &samples.released[nth(&samples.released)];
            write(Topic::AllocationEvents, &released.key, released);
        }
        if self.loads_published.elapsed_ms() >= config.routing.load_snapshot_ms {
            self.loads_published = Stopwatch::start();
            for load in &samples.loads {
                write(Topic::LoadSnapshots, &load.key, load);
            }
        }
    }

    fn close(&mut self, samples: &Samples) -> Option<Prepared> {
        let Batch { mut outputs, inputs, .. } = self.batch.take()?;
        self.seq += 1;
        let to = OutputTopic::Known(Topic::Journal);
        let key = self.number.to_string();
        let journal_at = &mut self.journal_at;
        outputs.event(Topic::Journal, to, self.number, &key, None, |out| {
            samples.put_journal(inputs, journal_at, out);
        });
        let hash = format!("{:032x}", self.seq);
        self.room = outputs.room().with_reserve();
        Some(Prepared {
            lane: self.number,
            seq: self.seq,
            metadata: format!("v1;0;{};{hash};0;0", self.seq),
            hash,
            offsets: Topic::LANE_INPUTS.into_iter().zip(self.next).collect(),
            records: outputs.records,
            headers: outputs.headers,
            shared_headers: outputs.shared_headers,
            bytes: outputs.bytes,
            counts: BatchCounts::default(),
            samples: Vec::new(),
        })
    }
}

/// The first field of a task in Avro single-object encoding: ten bytes of header, a length, the id.
fn task_id<'a>(record: &RawRecord<'a>) -> &'a str {
    let value = record.value.unwrap_or_default();
    let length = value.get(10).map_or(0, |byte| usize::from(byte >> 1));
    value.get(11..11 + length).and_then(|id| std::str::from_utf8(id).ok()).unwrap_or("")
}
