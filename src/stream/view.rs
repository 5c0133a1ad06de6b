//! (I/O) The instance's view of `load-snapshots`: the newest record of each key, read on a thread of its
//! own from where the local store left off, kept there, and shown to `http`. What an instance needs to
//! do its work is not in it: without brokers or disk it is older, or only in memory. Where lane 0 runs, the
//! planner of rights is told what is new as well, and advises on this thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use super::advisor::Advisor;
use super::client::reader::Quiet;
use super::client::settings;
use crate::clock::{Stopwatch, wall_now};
use crate::codec::{Codec, RawRecord};
use crate::config::Config;
use crate::model::Topic;
use crate::model::event::LoadSnapshot;
use crate::store::LoadStore;
use crate::store::view::Kept;
use crate::telemetry::Telemetry;

/// Until a shutdown is noticed.
const POLL: Duration = Duration::from_millis(100);
/// Brokers that do not answer are asked again.
const ASK: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// What has changed is shown, and is stored, this often; stored earlier where it is much. A lane that has
/// run dry is seen, and advised about, within this time.
const SHOW_EVERY: Duration = Duration::from_millis(100);
const STORE_EVERY: Duration = Duration::from_secs(5);
const CHANGES_MAX: usize = 1_000;
/// A topic that has got more partitions is noticed within this time.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Half the time for which brokers keep tombstones unless told otherwise (`delete.retention.ms`).
const STALE_MS: u64 = 12 * 3_600 * 1_000;
/// 100 lanes of 1,000 resources, and about 50 MB: what comes beyond is not shown.
const ENTRIES_MAX: usize = 100_000;

/// Reads until `stop` is set.
pub fn run(config: &Config, codec: &Codec, telemetry: &Telemetry, stop: &AtomicBool) {
    let mut view = View::open(config, codec, telemetry);
    let mut told = false;
    while !stop.load(Ordering::Relaxed) {
        match view.follow(stop) {
            Ok(()) => break,
            Err(error) => {
                // The workers say the same, and louder.
                if !std::mem::replace(&mut told, true) {
                    info!(%error, "load snapshots are not read for now");
                }
                let waited = Stopwatch::start();
                while waited.elapsed() < ASK_AGAIN && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(POLL);
                }
            }
        }
    }
    view.end();
}

struct View<'a> {
    config: &'a Config,
    codec: &'a Codec,
    telemetry: &'a Telemetry,
    topic: &'a str,
    /// `None`: in memory alone.
    store: Option<LoadStore>,
    entries: BTreeMap<Vec<u8>, Kept>,
    positions: BTreeMap<i32, i64>,
    /// What is stored is so old that removals in between may have left no trace.
    is_stale: bool,
    /// Keys that are not stored, and not shown, as they are now.
    unstored: BTreeSet<Vec<u8>>,
    unshown: BTreeSet<Vec<u8>>,
    /// Partitions that were read to their end in this run.
    ended: BTreeSet<i32>,
    is_full: bool,
    /// Whether it was shown that the topic is read.
    is_read: bool,
    advisor: Advisor<'a>,
}

impl<'a> View<'a> {
    fn open(config: &'a Config, codec: &'a Codec, telemetry: &'a Telemetry) -> Self {
        let kafka = &config.kafka;
        let topic = config.topics.name(Topic::LoadSnapshots);
        let mut view = View {
            config,
            codec,
            telemetry,
            topic,
            store: None,
            entries: BTreeMap::new(),
            positions: BTreeMap::new(),
            is_stale: false,
            unstored: BTreeSet::new(),
            unshown: BTreeSet::new(),
            ended: BTreeSet::new(),
            is_full: false,
            is_read: false,
            advisor: Advisor::new(config, codec, telemetry),
        };
        let opened = LoadStore::open(
            &kafka.data_directory,
            &kafka.group_id,
            &kafka.instance_id,
            topic,
            config.snapshot.cache_bytes,
        );
        match opened {
            Ok(opened) => {
                if let Some(problem) = opened.begun_anew {
                    let path = opened.store.path().display();
                    warn!(%path, problem, "the view of load snapshots was damaged and is deleted; the topic has all of it");
                }
                view.store = Some(opened.store);
                view.entries = opened.entries;
                view.positions = opened.positions;
                view.is_stale = wall_now().ms_since(opened.stored_at) > STALE_MS;
                view.unshown = view.entries.keys().cloned().collect();
                info!(entries = view.entries.len(), "load snapshots as they were");
                view.show();
            }
            Err(error) => warn!(%error, "load snapshots are kept in memory alone"),
        }
        view
    }

    /// Reads the topic until the process ends.
    fn follow(&mut self, stop: &AtomicBool) -> Result<(), KafkaError> {
        let consumer: BaseConsumer<Quiet> =
            settings::reader(self.config).create_with_context(Quiet)?;
        self.assign(&consumer)?;
        let (mut shown, mut stored) = (Stopwatch::start(), Stopwatch::start());
        let mut counted = Stopwatch::start();
        while !stop.load(Ordering::Relaxed) {
            match consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    self.take(&RawRecord {
                        topic: Topic::LoadSnapshots,
                        partition: message.partition(),
                        offset: message.offset(),
                        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                        key: message.key(),
                        value: message.payload(),
                        headers: &[],
                    });
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.ended.insert(partition);
                }
                // The client goes on by itself.
                Some(Err(error)) => debug!(%error, "load snapshots"),
            }
            if shown.elapsed() >= SHOW_EVERY {
                shown = Stopwatch::start();
                self.show();
            }
            self.advisor.go_on();
            if stored.elapsed() >= STORE_EVERY || self.unstored.len() >= CHANGES_MAX {
                stored = Stopwatch::start();
                self.keep();
            }
            if counted.elapsed() >= COUNT_EVERY {
                counted = Stopwatch::start();
                // Those that are known are read on.
                if let Err(error) = self.assign(&consumer) {
                    debug!(%error, "load snapshots");
                }
            }
        }
        Ok(())
    }

    /// Reads the partitions that are not read yet.
    fn assign(&mut self, consumer: &BaseConsumer<Quiet>) -> Result<(), KafkaError> {
        let metadata = consumer.fetch_metadata(Some(self.topic), ASK)?;
        let found = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let count = found.map_or(0, |topic| topic.partitions().len());
        self.advisor.lanes(u32::try_from(count).unwrap_or(u32::MAX));
        let known = consumer.assignment()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(count).unwrap_or(i32::MAX) {
            if known.find_partition(self.topic, partition).is_some() {
                continue;
            }
            let (first, end) = consumer.fetch_watermarks(self.topic, partition, ASK)?;
            let position = self.positions.get(&partition).copied();
            let from = match position {
                Some(position) if (first..=end).contains(&position) && !self.is_stale => position,
                // What was removed in between has left no trace; or it is another topic by now.
                Some(_) => self.forget(partition, first),
                None => first,
            };
            self.positions.insert(partition, from);
            list.add_partition_offset(self.topic, partition, Offset::Offset(from))?;
        }
        self.is_stale = false;
        if list.count() > 0 {
            consumer.incremental_assign(&list)?;
        }
        Ok(())
    }

    /// Begins a partition anew.
    fn forget(&mut self, partition: i32, first: i64) -> i64 {
        info!(partition, first, "the view of load snapshots is behind its topic: read again");
        let gone: Vec<Vec<u8>> = self
            .entries
            .iter()
            .filter(|(_, kept)| kept.partition == partition)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.change(key, None);
        }
        first
    }

    fn take(&mut self, record: &RawRecord<'_>) {
        let RawRecord { partition, offset, timestamp_ms, .. } = *record;
        self.positions.insert(partition, offset + 1);
        let Some(key) = record.key else { return };
        let kept = record.value.map(|value| Kept {
            partition,
            offset,
            timestamp_ms,
            value: value.to_vec(),
        });
        self.change(key.to_vec(), kept);
    }

    fn change(&mut self, key: Vec<u8>, kept: Option<Kept>) {
        match kept {
            None => {
                self.entries.remove(&key);
            }
            Some(kept) => {
                if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&key) {
                    if !std::mem::replace(&mut self.is_full, true) {
                        warn!(ENTRIES_MAX, "there are more load snapshots than are shown");
                    }
                    return;
                }
                self.entries.insert(key.clone(), kept);
            }
        }
        self.unshown.insert(key.clone());
        if self.store.is_some() {
            self.unstored.insert(key);
        }
    }

    fn decode(&self, key: &[u8], kept: &Kept) -> Option<LoadSnapshot<'static>> {
        let decoded = self.codec.decode_load_snapshot(&RawRecord {
            topic: Topic::LoadSnapshots,
            partition: kept.partition,
            offset: kept.offset,
            timestamp_ms: kept.timestamp_ms,
            key: Some(key),
            value: Some(&kept.value),
            headers: &[],
        });
        let Kept { partition, offset, .. } = *kept;
        decoded.map_err(|error| debug!(partition, offset, %error, "a load snapshot")).ok()
    }

    fn show(&mut self) {
        let read = !self.positions.is_empty()
            && self.positions.keys().all(|partition| self.ended.contains(partition));
        if self.unshown.is_empty() && (self.is_read || !read) {
            return;
        }
        self.is_read |= read;
        let unshown = std::mem::take(&mut self.unshown);
        let changes: Vec<_> = unshown
            .into_iter()
            .map(|key| {
                let snapshot = self.entries.get(&key).and_then(|kept| self.decode(&key, kept));
                self.advisor.told(&key, snapshot.as_ref());
                (Arc::from(key), snapshot.map(Arc::new))
            })
            .collect();
        self.telemetry.load_changed(|view| {
            for (key, snapshot) in changes {
                match snapshot {
                    Some(snapshot) => view.load.insert(key, snapshot),
                    None => view.load.remove(&key),
                };
            }
            view.positions.clone_from(&self.positions);
            view.caught_up = view.caught_up || read;
        });
    }

    /// Stores what has changed.
    fn keep(&mut self) {
        let unstored = std::mem::take(&mut self.unstored);
        let Some(store) = &mut self.store else { return };
        if unstored.is_empty() {
            return;
        }
        let changes = unstored.into_iter().map(|key| {
            let kept = self.entries.get(&key).cloned();
            (key, kept)
        });
        if let Err(error) = store.apply(changes.collect(), self.positions.clone(), wall_now()) {
            warn!(%error, "load snapshots are kept in memory alone from now on");
            self.store = None;
        }
    }

    fn end(mut self) {
        self.keep();
        if let Some(Err(error)) = self.store.map(LoadStore::close) {
            debug!(%error, "the view of load snapshots");
        }
    }
}
