//! A lane that is driven directly, and every record that it reads and writes.

use anyhow::Context;
use pointsman::codec::Codec;
use pointsman::codec::RawRecord;
use pointsman::codec::encode::fleet_key;
use pointsman::lane::prepared::{OutputTopic, Prepared};
use pointsman::lane::{Lane, LaneSettings};
use pointsman::model::Topic;
use pointsman::model::policy::Policy;
use pointsman::model::snapshot::{MANIFEST_FORMAT, Manifest, SnapshotKey};
use pointsman::model::time::Timestamp;
use pointsman::replay::Record;
use xxhash_rust::xxh3::xxh3_128;

use crate::material::{self, TaskNumber};

/// Milliseconds between two batches.
const BATCH_MS: u64 = 20;
/// As `stream::client::archive` cuts them.
const CHUNK_BYTES: usize = 512 << 10;
const RESOURCES: u32 = 16;

/// A record goes to its topic.
pub type Each<'a> = dyn FnMut(Topic, Record) -> anyhow::Result<()> + 'a;

pub struct Driven {
    pub lane: Lane,
    codec: Codec,
    now: Timestamp,
    /// Tasks that were published, and those whose results were.
    pub tasks: u32,
    pub results: u32,
}

pub fn settings() -> anyhow::Result<LaneSettings> {
    Ok(LaneSettings {
        codec: std::sync::Arc::new(material::codec()?),
        policy: Policy::default(),
        batch_records_max: 4_096,
        source: "pointsman/bench".to_owned(),
        group: "bench".to_owned(),
        topic_names: Default::default(),
        decisions_by_pool: false,
        unjournaled: false,
    })
}

impl Driven {
    /// A lane with a fleet; the fleet's records are written by lane 0.
    pub fn begin(
        number: u32,
        lanes: u32,
        settings: LaneSettings,
        each: &mut Each<'_>,
    ) -> anyhow::Result<Self> {
        let codec = material::codec()?;
        let mut lane = Lane::genesis(number, lanes, 1, settings);
        lane.start_at(0, 0, 0);
        let now = Timestamp::from_ms(1_700_000_000_000);
        for (offset, entry) in (0..).zip(material::fleet(RESOURCES)) {
            let mut value = Vec::new();
            anyhow::ensure!(codec.encode_fleet_entry(&entry, &mut value), "a removal is no fleet");
            let key = fleet_key(&entry);
            let raw = raw(Topic::Fleet, 0, offset, now, key.as_bytes(), &value);
            lane.offer(&raw);
            if number == 0 {
                each(Topic::Fleet, Record::of(&raw))?;
            }
        }
        Ok(Driven { lane, codec, now, tasks: 0, results: 0 })
    }

    /// A batch of new tasks, and of results for the oldest ones.
    pub fn batch(
        &mut self,
        tasks: u32,
        results: u32,
        each: &mut Each<'_>,
    ) -> anyhow::Result<Prepared> {
        self.offer(tasks, results, each)?;
        let prepared = self.lane.prepare(self.now).context("no batch is prepared")?;
        anyhow::ensure!(self.lane.queued() == 0, "a batch did not take what was offered");
        published(&prepared, each)?;
        Ok(prepared)
    }

    /// As [`Driven::batch`]; what the lane takes by this clock, from the bytes of the inputs to
    /// those of the outputs.
    pub fn timed(&mut self, tasks: u32, results: u32, clock: fn() -> f64) -> anyhow::Result<f64> {
        let mut records = Vec::new();
        let mut keep = |topic, record| {
            records.push((topic, record));
            Ok(())
        };
        self.encode(tasks, results, &mut keep)?;
        let begun = clock();
        for (topic, record) in &records {
            record.with_raw(*topic, |raw| self.lane.offer(raw));
        }
        let prepared = self.lane.prepare(self.now).context("no batch is prepared")?;
        let took = clock() - begun;
        std::hint::black_box(prepared);
        Ok(took)
    }

    fn offer(&mut self, tasks: u32, results: u32, each: &mut Each<'_>) -> anyhow::Result<()> {
        let mut records = Vec::new();
        let mut keep = |topic, record| {
            records.push((topic, record));
            Ok(())
        };
        self.encode(tasks, results, &mut keep)?;
        for (topic, record) in records {
            record.with_raw(topic, |raw| self.lane.offer(raw));
            each(topic, record)?;
        }
        Ok(())
    }

    fn encode(&mut self, tasks: u32, results: u32, each: &mut Each<'_>) -> anyhow::Result<()> {
        let lane = self.lane.number();
        let mut value = Vec::new();
        for number in self.results..self.results + results {
            let result = material::result(TaskNumber { lane, number });
            value.clear();
            self.codec.encode_task_result(&result, &mut value);
            let (topic, key) = (Topic::TaskResults, result.task_id.as_bytes());
            let raw = raw(topic, lane, i64::from(number), self.now, key, &value);
            each(topic, Record::of(&raw))?;
        }
        for number in self.tasks..self.tasks + tasks {
            let task = material::task(TaskNumber { lane, number })?;
            value.clear();
            self.codec.encode_task(&task, &mut value);
            let (topic, key) = (Topic::Tasks, task.tenant.as_bytes());
            let raw = raw(topic, lane, i64::from(number), self.now, key, &value);
            each(topic, Record::of(&raw))?;
        }
        self.tasks += tasks;
        self.results += results;
        self.now = self.now.plus_ms(BATCH_MS);
        self.lane.results_caught_up(self.now);
        Ok(())
    }

    /// Publishes a snapshot.
    pub fn snapshot(&self, each: &mut Each<'_>) -> anyhow::Result<Manifest> {
        let state = self.lane.snapshot()?;
        let stored = zstd::bulk::compress(&state, 1)?;
        let (lane, seq) = (self.lane.number(), self.lane.seq());
        let chunks: Vec<&[u8]> = stored.chunks(CHUNK_BYTES).collect();
        let manifest = Manifest {
            format: MANIFEST_FORMAT,
            lane,
            seq,
            hash: self.lane.hash(),
            batch_time_ms: self.lane.batch_time(),
            tasks_offset: i64::from(self.tasks),
            state_bytes: state.len() as u64,
            stored_bytes: stored.len() as u64,
            chunks: u32::try_from(chunks.len())?,
            stored_hash: format!("{:032x}", xxh3_128(&stored)),
            kept: true,
            last_kept: None,
            previous: None,
            previous_kept: true,
            drops: Vec::new(),
        };
        let mut write = |key: SnapshotKey, value: Vec<u8>| {
            let record = Record {
                partition: i32::try_from(lane)?,
                offset: 0,
                timestamp_ms: manifest.batch_time_ms.as_ms(),
                key: Some(key.to_string().into_bytes()),
                value: Some(value),
                headers: Vec::new(),
            };
            each(Topic::Snapshots, record)
        };
        for (number, chunk) in (0..).zip(chunks) {
            write(SnapshotKey::chunk(lane, seq, number), chunk.to_vec())?;
        }
        write(SnapshotKey::manifest(lane, seq), serde_json::to_vec(&manifest)?)?;
        Ok(manifest)
    }
}

/// The outputs of a batch.
fn published(prepared: &Prepared, each: &mut Each<'_>) -> anyhow::Result<()> {
    for output in &prepared.records {
        let OutputTopic::Known(topic) = &output.topic else { continue };
        let bytes = |range: &std::ops::Range<u32>| prepared.slice(range).to_vec();
        let headers = prepared.headers_of(output);
        each(
            *topic,
            Record {
                partition: output.partition,
                // Numbered by who writes them.
                offset: 0,
                timestamp_ms: output.timestamp_ms,
                key: output.key.as_ref().map(bytes),
                value: output.value.as_ref().map(bytes),
                headers: headers
                    .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                    .collect(),
            },
        )?;
    }
    Ok(())
}

fn raw<'a>(
    topic: Topic,
    lane: u32,
    offset: i64,
    at: Timestamp,
    key: &'a [u8],
    value: &'a [u8],
) -> RawRecord<'a> {
    RawRecord {
        topic,
        partition: lane as i32,
        offset,
        timestamp_ms: at.as_ms(),
        key: Some(key),
        value: Some(value),
        headers: &[],
    }
}
