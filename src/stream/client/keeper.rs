//! A worker's snapshots, on a thread of their own: compressed, stored on this instance's disk,
//! published, found again and removed. No lane waits for any of it but one that is being restored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tracing::{debug, info, warn};
use xxhash_rust::xxh3::xxh3_128;

use super::archive::{Archive, ArchiveError, Found};
use super::settings;
use crate::clock::Stopwatch;
use crate::config::Config;
use crate::failpoint::{self, Point};
use crate::lane::snapshot::{read_header, seal};
use crate::model::Topic;
use crate::model::snapshot::{Dropped, KeptAt, MANIFEST_FORMAT, Manifest, SnapshotPoint};
use crate::store::SnapshotStore;
use crate::stream::worker::event::{SnapshotSource, Taken};

/// What a damaged manifest may ask for: more than any lane holds.
const STATE_BYTES_MAX: u64 = 16 << 30;

pub enum Request {
    Find {
        ask: u64,
        lane: u32,
        seq_max: u64,
        published: SnapshotPoint,
    },
    Store(Taken),
    Announced(Manifest),
    /// A lane could not use it.
    Refused {
        lane: u32,
        seq: u64,
        source: SnapshotSource,
    },
    /// Lanes have come, or come back.
    Assigned,
}

pub enum Answer {
    Found { ask: u64, lane: u32, found: Option<FoundBytes> },
    Stored { lane: u32, run: u64, manifest: Option<Manifest> },
}

pub struct FoundBytes {
    pub seq: u64,
    pub source: SnapshotSource,
    pub bytes: Vec<u8>,
}

/// Requests are bounded by who asks: of each lane one snapshot is under way at a time, and one
/// question.
pub struct Keeper {
    ended: Arc<AtomicBool>,
    requests: Option<Sender<Request>>,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(config: &Config, number: u32) -> std::io::Result<Self> {
        let (requests, asked) = channel();
        let (answered, answers) = channel();
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = Arc::clone(&ended);
        let config = config.clone();
        let thread =
            std::thread::Builder::new().name(format!("snapshots-{number}")).spawn(move || {
                let kafka = &config.kafka;
                let store = SnapshotStore::new(
                    &kafka.data_directory,
                    &kafka.group_id,
                    &kafka.instance_id,
                    config.snapshot.cache_bytes,
                );
                let archive = Archive {
                    consumer: settings::reader(&config),
                    producer: settings::snapshot_producer(&config),
                    topic: config.topics.name(Topic::Snapshots).to_owned(),
                    ended: &is_ended,
                };
                let mut keeping =
                    Keeping { config: &config, store, archive, known: BTreeMap::new() };
                while let Ok(request) = asked.recv() {
                    if is_ended.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Some(answer) = keeping.serve(request)
                        && answered.send(answer).is_err()
                    {
                        break;
                    }
                }
            })?;
        Ok(Keeper { ended, requests: Some(requests), answers, thread: Some(thread) })
    }

    pub fn ask(&self, request: Request) {
        if let Some(requests) = &self.requests
            && requests.send(request).is_err()
        {
            warn!("the thread of the snapshots has ended");
        }
    }

    pub fn next_answer(&self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            debug!("the thread of the snapshots has panicked");
        }
    }
}

struct Keeping<'a> {
    config: &'a Config,
    store: SnapshotStore,
    archive: Archive<'a>,
    /// The newest committed manifest of each lane that has published in this assignment.
    known: BTreeMap<u32, Option<Manifest>>,
}

impl Keeping<'_> {
    fn serve(&mut self, request: Request) -> Option<Answer> {
        match request {
            Request::Find { ask, lane, seq_max, published } => {
                let found = self.find(lane, seq_max, published);
                Some(Answer::Found { ask, lane, found })
            }
            Request::Store(taken) => {
                let (lane, run) = (taken.lane, taken.run);
                let manifest = self.keep(taken);
                Some(Answer::Stored { lane, run, manifest })
            }
            Request::Announced(manifest) => {
                self.remove(&manifest);
                self.known.insert(manifest.lane, Some(manifest));
                None
            }
            Request::Refused { lane, seq, source: SnapshotSource::Local } => {
                self.store.remove(lane, seq);
                None
            }
            Request::Refused { source: SnapshotSource::Published, .. } => None,
            Request::Assigned => {
                // Another instance may have published in the meantime.
                self.known.clear();
                None
            }
        }
    }

    fn keep(&mut self, mut taken: Taken) -> Option<Manifest> {
        let took = Stopwatch::start();
        seal(&mut taken.bytes);
        let state_bytes = taken.bytes.len() as u64;
        let stored = match zstd::bulk::compress(&taken.bytes, self.config.snapshot.zstd_level) {
            Ok(stored) => stored,
            Err(error) => {
                warn!(lane = taken.lane, seq = taken.seq, %error, "a snapshot cannot be compressed");
                return None;
            }
        };
        taken.bytes = Vec::new();
        let stored = Arc::new(stored);
        let mut manifest = Manifest {
            format: MANIFEST_FORMAT,
            lane: taken.lane,
            seq: taken.seq,
            hash: taken.hash,
            batch_time_ms: taken.batch_time,
            tasks_offset: taken.tasks_offset,
            state_bytes,
            stored_bytes: stored.len() as u64,
            chunks: 0,
            stored_hash: format!("{:032x}", xxh3_128(&stored)),
            kept: false,
            last_kept: None,
            previous: None,
            previous_kept: false,
            drops: Vec::new(),
        };
        if taken.local {
            let written = self.store.write(&manifest, &stored);
            failpoint::pass(Point::StoreAfter);
            match written {
                Ok(()) => debug!(
                    lane = taken.lane,
                    seq = taken.seq,
                    state_bytes,
                    stored_bytes = stored.len(),
                    took_ms = took.elapsed_ms(),
                    "snapshot stored"
                ),
                Err(error) => warn!(
                    lane = taken.lane,
                    seq = taken.seq,
                    error = %chain(&error),
                    "the snapshot is not stored here; a restart begins with an older or a published one"
                ),
            }
        }
        if !taken.publish {
            return None;
        }
        match self.publish(&mut manifest, &stored, taken.published) {
            Ok(()) => {
                info!(
                    lane = taken.lane,
                    seq = taken.seq,
                    state_bytes,
                    stored_bytes = stored.len(),
                    chunks = manifest.chunks,
                    took_ms = took.elapsed_ms(),
                    "snapshot published"
                );
                Some(manifest)
            }
            Err(ArchiveError::Ending) => None,
            Err(error) => {
                warn!(
                    lane = taken.lane,
                    seq = taken.seq,
                    error = %chain(&error),
                    "the snapshot is not published; the next one is"
                );
                None
            }
        }
    }

    fn publish(
        &mut self,
        manifest: &mut Manifest,
        stored: &[u8],
        published: SnapshotPoint,
    ) -> Result<(), ArchiveError> {
        let lane = manifest.lane;
        let mut orphans = Vec::new();
        if !self.known.contains_key(&lane) {
            let from = (published.seq > 0).then_some(published.batch_time_ms);
            let found = self.archive.look(lane, from)?;
            orphans = found.orphans();
            let newest = found.manifests.into_values().next_back();
            if let Some(newest) = &newest {
                // The one who committed it may not have got so far.
                self.remove(newest);
            }
            self.known.insert(lane, newest);
        }
        succeed(manifest, self.known.get(&lane).and_then(Option::as_ref), &self.config.snapshot);
        // A seq that is published again, after a manifest that was never committed.
        orphans.retain(|orphan| orphan.seq != manifest.seq);
        manifest.drops.extend(orphans);
        failpoint::pass(Point::ChunksBefore);
        manifest.chunks = self.archive.publish(manifest, stored)?;
        failpoint::pass(Point::ChunksAfter);
        Ok(())
    }

    fn remove(&self, manifest: &Manifest) {
        if manifest.drops.is_empty() {
            return;
        }
        failpoint::pass(Point::TombstonesBefore);
        let removed = self.archive.remove(manifest.lane, manifest.batch_time_ms, &manifest.drops);
        failpoint::pass(Point::TombstonesAfter);
        match removed {
            Ok(()) | Err(ArchiveError::Ending) => {}
            Err(error) => warn!(
                lane = manifest.lane,
                error = %chain(&error),
                "old snapshots are not removed; that is tried again after the next assignment"
            ),
        }
    }

    /// The newest one that can be verified, at most `seq_max`.
    fn find(&self, lane: u32, seq_max: u64, published: SnapshotPoint) -> Option<FoundBytes> {
        let local = self.find_local(lane, seq_max);
        if published.seq > seq_max {
            // Someone has gone back behind it: all that is there has to be looked through.
            let older = self.find_published(lane, seq_max, None);
            return newer(local, older);
        }
        if published.seq == 0 || local.as_ref().is_some_and(|local| local.seq >= published.seq) {
            return local;
        }
        let at_time = Some(published.batch_time_ms);
        let found = self
            .find_published(lane, seq_max, at_time)
            .or_else(|| self.find_published(lane, seq_max, None));
        newer(local, found)
    }

    fn find_local(&self, lane: u32, seq_max: u64) -> Option<FoundBytes> {
        let seqs = match self.store.seqs(lane) {
            Ok(seqs) => seqs,
            Err(error) => {
                warn!(lane, error = %chain(&error), "local snapshots cannot be looked for");
                return None;
            }
        };
        for seq in seqs.into_iter().filter(|seq| *seq <= seq_max) {
            let read = self.store.read(lane, seq);
            let read = read.map_err(|error| chain(&error));
            match read.and_then(|(manifest, stored)| unpack(&manifest, &stored)) {
                Ok(bytes) => return Some(FoundBytes { seq, source: SnapshotSource::Local, bytes }),
                Err(error) => {
                    warn!(lane, seq, error, "a local snapshot cannot be used; Kafka has all of it");
                }
            }
        }
        None
    }

    fn find_published(
        &self,
        lane: u32,
        seq_max: u64,
        from: Option<crate::model::time::Timestamp>,
    ) -> Option<FoundBytes> {
        let found: Found = match self.archive.look(lane, from) {
            Ok(found) => found,
            Err(error) => {
                warn!(lane, error = %chain(&error), "published snapshots cannot be looked for");
                return None;
            }
        };
        for (seq, manifest) in found.manifests.range(..=seq_max).rev() {
            let stored = self.archive.fetch(&found, manifest);
            let stored = stored.map_err(|error| chain(&error));
            match stored.and_then(|stored| unpack(manifest, &stored)) {
                Ok(bytes) => {
                    let source = SnapshotSource::Published;
                    return Some(FoundBytes { seq: *seq, source, bytes });
                }
                Err(error) => {
                    warn!(
                        lane,
                        seq, error, "a published snapshot cannot be used; an older one may"
                    );
                }
            }
        }
        None
    }
}

fn newer(one: Option<FoundBytes>, other: Option<FoundBytes>) -> Option<FoundBytes> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if one.seq >= other.seq { one } else { other }),
        (one, other) => one.or(other),
    }
}

/// The state's bytes, checked by their own hash, and that they are what the manifest says.
fn unpack(manifest: &Manifest, stored: &[u8]) -> Result<Vec<u8>, String> {
    if manifest.state_bytes > STATE_BYTES_MAX {
        return Err(format!("it claims to have {} bytes", manifest.state_bytes));
    }
    let capacity = usize::try_from(manifest.state_bytes).unwrap_or(usize::MAX);
    let bytes = zstd::bulk::decompress(stored, capacity).map_err(|error| error.to_string())?;
    let (header, _) = read_header(&bytes).map_err(|error| error.to_string())?;
    if (header.lane, header.seq) != (manifest.lane, manifest.seq) {
        return Err(format!("it is of lane {} at seq {}", header.lane, header.seq));
    }
    Ok(bytes)
}

/// What a new manifest says of those before it.
fn succeed(manifest: &mut Manifest, newest: Option<&Manifest>, settings: &crate::config::Snapshot) {
    let last_kept = newest.and_then(|newest| newest.last_kept);
    manifest.kept = last_kept.is_none_or(|last| {
        manifest.batch_time_ms.ms_since(last.batch_time_ms) >= settings.keep_interval_ms
            || manifest.tasks_offset.abs_diff(last.tasks_offset) >= settings.keep_decisions
    });
    manifest.last_kept = if manifest.kept {
        let Manifest { seq, batch_time_ms, tasks_offset, .. } = *manifest;
        Some(KeptAt { seq, batch_time_ms, tasks_offset })
    } else {
        last_kept
    };
    if let Some(newest) = newest {
        manifest.previous = Some(Dropped { seq: newest.seq, chunks: newest.chunks });
        manifest.previous_kept = newest.kept;
        if let Some(before) = &newest.previous
            && !newest.previous_kept
            && before.seq != manifest.seq
        {
            manifest.drops.push(before.clone());
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    fn at(seq: u64, ms: i64, tasks_offset: i64) -> Manifest {
        Manifest {
            format: MANIFEST_FORMAT,
            lane: 0,
            seq,
            hash: String::new(),
            batch_time_ms: Timestamp::from_ms(ms),
            tasks_offset,
            state_bytes: 0,
            stored_bytes: 0,
            chunks: 2,
            stored_hash: String::new(),
            kept: false,
            last_kept: None,
            previous: None,
            previous_kept: false,
            drops: Vec::new(),
        }
    }

    #[test]
    fn two_stay_and_one_for_each_interval() {
        let settings = crate::config::Config::load(None, std::iter::empty()).unwrap().snapshot;
        let hour = 3_600_000;
        let mut newest: Option<Manifest> = None;
        let mut there: Vec<u64> = Vec::new();
        let mut check = |manifest: Manifest, expected: &[u64]| {
            let mut manifest = manifest;
            succeed(&mut manifest, newest.as_ref(), &settings);
            there.push(manifest.seq);
            there.retain(|seq| manifest.drops.iter().all(|dropped| dropped.seq != *seq));
            assert_eq!(there, expected, "after {}", manifest.seq);
            newest = Some(manifest);
        };
        check(at(10, 0, 0), &[10]);
        check(at(20, 1_000, 100), &[10, 20]);
        check(at(30, 2_000, 200), &[10, 20, 30]);
        check(at(40, 3_000, 300), &[10, 30, 40]);
        check(at(50, hour, 400), &[10, 40, 50]);
        check(at(60, hour + 1, 500), &[10, 50, 60]);
        check(at(70, hour + 2, 600), &[10, 50, 60, 70]);
        check(at(80, hour + 3, 1_000_401), &[10, 50, 70, 80]);
        check(at(90, hour + 4, 1_000_402), &[10, 50, 80, 90]);
        check(at(100, hour + 5, 1_000_403), &[10, 50, 80, 90, 100]);
        check(at(110, hour + 6, 1_000_404), &[10, 50, 80, 100, 110]);
    }
}
