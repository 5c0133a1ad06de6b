//! A worker's snapshots, on a thread of their own: compressed, stored on this instance's disk,
//! published, found again and removed. No lane waits for any of it but one that is being restored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tracing::{debug, info, warn};

use super::archive::{Archive, ArchiveError};
use super::settings;
use crate::clock::Stopwatch;
use crate::config::Config;
use crate::failpoint::{self, Point};
use crate::model::Topic;
use crate::model::snapshot::{Manifest, SnapshotPoint};
use crate::store::SnapshotStore;
use crate::stream::packed::{self, CHUNK_BYTES, Published, unpack};
use crate::stream::worker::event::{SnapshotSource, Taken};

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
                    Keeping { config: &config, store, archive, known: Published::default() };
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
    known: Published,
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
                self.known.committed(manifest);
                None
            }
            Request::Refused { lane, seq, source: SnapshotSource::Local } => {
                self.store.remove(lane, seq);
                None
            }
            Request::Refused { source: SnapshotSource::Published, .. } => None,
            Request::Assigned => {
                self.known.forget();
                None
            }
        }
    }

    fn keep(&mut self, taken: Taken) -> Option<Manifest> {
        let took = Stopwatch::start();
        let zstd_level = self.config.snapshot.zstd_level;
        let (mut manifest, stored) = match packed::pack(&taken, zstd_level, CHUNK_BYTES) {
            Ok(packed) => packed,
            Err(error) => {
                let error = chain(&error);
                warn!(lane = taken.lane, seq = taken.seq, error, "no snapshot can be made");
                return None;
            }
        };
        let (state_bytes, stored) = (manifest.state_bytes, Arc::new(stored));
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
        if !self.known.knows(lane, published) {
            let from = (published.seq > 0).then_some(published.batch_time_ms);
            let found = self.archive.look(lane, from)?;
            let (unused, newest) = self.known.looked(lane, found);
            orphans = unused;
            if let Some(newest) = newest.cloned() {
                self.remove(&newest);
            }
        }
        self.known.succeed(manifest, orphans, &self.config.snapshot);
        failpoint::pass(Point::ChunksBefore);
        self.archive.publish(manifest, stored)?;
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
        let local_seq = local.as_ref().map(|local| local.seq);
        let mut looks = packed::looks(local_seq, seq_max, published).into_iter();
        let found = looks.find_map(|from| self.find_published(lane, seq_max, from));
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
            let read = self.store.read(lane, seq).map_err(|error| chain(&error));
            let unpacked = read.and_then(|(manifest, stored)| {
                unpack(&manifest, &stored).map_err(|error| error.to_string())
            });
            match unpacked {
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
        let found = match self.archive.look(lane, from) {
            Ok(found) => found,
            Err(error) => {
                warn!(lane, error = %chain(&error), "published snapshots cannot be looked for");
                return None;
            }
        };
        for (seq, manifest) in found.manifests.range(..=seq_max).rev() {
            let stored = self.archive.fetch(&found, manifest).map_err(|error| chain(&error));
            let unpacked = stored
                .and_then(|stored| unpack(manifest, &stored).map_err(|error| error.to_string()));
            match unpacked {
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
