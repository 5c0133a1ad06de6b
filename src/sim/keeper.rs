//! An instance's snapshots: stored on its disk, published over the network, found and removed. A process
//! beside the worker, as the snapshots' thread is; crashes leave chunks without a manifest behind.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::executor::ProcessId;
use super::instance::Instance;
use super::producer::{IdempotentProducer, Unpublished};
use super::reader::{Found as Read, Reader, offset_at};
use super::records::Plain;
use crate::config;
use crate::model::Topic;
use crate::model::snapshot::{Manifest, SnapshotKey, SnapshotPoint};
use crate::model::time::Timestamp;
use crate::stream::packed::{self, Found, Pieces, Published, unpack};
use crate::stream::worker::event::{SnapshotSource, Taken};

/// Small enough that a snapshot has several.
const CHUNK_BYTES: usize = 2 << 10;

/// To write a snapshot to the disk takes so long, microseconds.
const WRITE_US: std::ops::Range<u64> = 500..40_000;

/// A partition that is not read to its end in so many fetches does not count.
const FETCHES_MAX: usize = 1_000;

pub enum Request {
    Find { ask: u64, lane: u32, seq_max: u64, published: SnapshotPoint },
    Store(Taken),
    Announced(Manifest),
    Refused { lane: u32, seq: u64, source: SnapshotSource },
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

/// What the worker's process asks of the keeper's, and hears from it.
#[derive(Default)]
pub struct Desk {
    keeper: Cell<Option<ProcessId>>,
    requests: RefCell<VecDeque<Request>>,
    answers: RefCell<VecDeque<Answer>>,
}

impl Desk {
    pub fn ask(&self, instance: &Instance, request: Request) {
        self.requests.borrow_mut().push_back(request);
        if let Some(keeper) = self.keeper.get() {
            instance.world.network.timeline.wake(keeper);
        }
    }

    pub fn next_answer(&self) -> Option<Answer> {
        self.answers.borrow_mut().pop_front()
    }
}

/// Serves the desk until the process ends.
pub async fn keep(instance: Rc<Instance>, desk: Rc<Desk>, settings: config::Snapshot) {
    let timeline = Rc::clone(&instance.world.network.timeline);
    desk.keeper.set(Some(timeline.current()));
    let mut keeper = Keeper { instance, settings, known: Published::default() };
    loop {
        let request = desk.requests.borrow_mut().pop_front();
        match request {
            Some(request) => {
                if let Some(answer) = keeper.serve(request).await {
                    desk.answers.borrow_mut().push_back(answer);
                }
            }
            None => timeline.until(u64::MAX).await,
        }
    }
}

struct Keeper {
    instance: Rc<Instance>,
    settings: config::Snapshot,
    known: Published,
}

impl Keeper {
    async fn serve(&mut self, request: Request) -> Option<Answer> {
        match request {
            Request::Find { ask, lane, seq_max, published } => {
                let found = self.find(lane, seq_max, published).await;
                Some(Answer::Found { ask, lane, found })
            }
            Request::Store(taken) => {
                let (lane, run) = (taken.lane, taken.run);
                let manifest = self.keep(taken).await;
                Some(Answer::Stored { lane, run, manifest })
            }
            Request::Announced(manifest) => {
                self.remove(&manifest).await;
                self.known.committed(manifest);
                None
            }
            Request::Refused { lane, seq, source: SnapshotSource::Local } => {
                self.instance.disk.borrow_mut().remove(lane, seq);
                None
            }
            Request::Refused { source: SnapshotSource::Published, .. } => None,
            Request::Assigned => {
                self.known.forget();
                None
            }
        }
    }

    async fn keep(&mut self, taken: Taken) -> Option<Manifest> {
        let packed = packed::pack(&taken, self.settings.zstd_level, CHUNK_BYTES);
        let (mut manifest, stored) = match packed {
            Ok(packed) => packed,
            Err(error) => {
                let name = &self.instance.name;
                let violation = format!("{name}: a snapshot cannot be packed: {error}");
                self.instance.world.violation(violation);
                return None;
            }
        };
        if taken.local {
            let us = self.instance.world.faults.borrow_mut().within(WRITE_US);
            self.instance.sleep(us).await;
            self.instance.disk.borrow_mut().write(manifest.clone(), stored.clone());
        }
        if !taken.publish {
            return None;
        }
        self.publish(&mut manifest, &stored, taken.published).await.ok()?;
        Some(manifest)
    }

    async fn publish(
        &mut self,
        manifest: &mut Manifest,
        stored: &[u8],
        published: SnapshotPoint,
    ) -> Result<(), Unpublished> {
        let lane = manifest.lane;
        let mut orphans = Vec::new();
        if !self.known.knows(lane, published) {
            let from = (published.seq > 0).then_some(published.batch_time_ms);
            let found = self.look(lane, from).await.ok_or(Unpublished)?;
            let (unused, newest) = self.known.looked(lane, found);
            orphans = unused;
            if let Some(newest) = newest.cloned() {
                self.remove(&newest).await;
            }
        }
        self.known.succeed(manifest, orphans, &self.settings);
        let chunks = packed::chunks(manifest, stored, CHUNK_BYTES);
        self.send(lane, manifest.batch_time_ms, chunks).await
    }

    async fn remove(&self, manifest: &Manifest) {
        if !manifest.drops.is_empty() {
            let keys = packed::keys_of(manifest.lane, &manifest.drops).map(|key| (key, None));
            // Tried again after the next assignment.
            let _removed = self.send(manifest.lane, manifest.batch_time_ms, keys).await;
        }
    }

    async fn send<'b>(
        &self,
        lane: u32,
        at: Timestamp,
        records: impl Iterator<Item = (SnapshotKey, Option<&'b [u8]>)>,
    ) -> Result<(), Unpublished> {
        let partition = i32::try_from(lane).unwrap_or(-1);
        let mut producer = IdempotentProducer::open(&self.instance).await?;
        for (key, value) in records {
            let record = Plain {
                offset: 0,
                timestamp_ms: at.as_ms(),
                key: Some(key.to_string().into_bytes().into()),
                value: value.map(bytes::Bytes::copy_from_slice),
                headers: Vec::new(),
            };
            producer.send(&self.instance, Topic::Snapshots, partition, record).await?;
        }
        Ok(())
    }

    async fn find(&self, lane: u32, seq_max: u64, published: SnapshotPoint) -> Option<FoundBytes> {
        let read = self.instance.disk.borrow_mut().read(lane, seq_max);
        let local = read.and_then(|read| {
            if read.is_err() {
                self.instance.world.beginnings.borrow_mut().damaged += 1;
            }
            let (seq, bytes) = read.ok()?;
            Some(FoundBytes { seq, source: SnapshotSource::Local, bytes })
        });
        let local_seq = local.as_ref().map(|local| local.seq);
        for from in packed::looks(local_seq, seq_max, published) {
            if let Some(found) = self.find_published(lane, seq_max, from).await {
                return Some(match local {
                    Some(local) if local.seq >= found.seq => local,
                    Some(_) | None => found,
                });
            }
        }
        local
    }

    async fn find_published(
        &self,
        lane: u32,
        seq_max: u64,
        from: Option<Timestamp>,
    ) -> Option<FoundBytes> {
        let found = self.look(lane, from).await?;
        for (seq, manifest) in found.manifests.range(..=seq_max).rev() {
            let Some(first) = found.first_chunk(*seq) else { continue };
            let Ok(mut pieces) = Pieces::of(manifest) else { continue };
            let read = self.read(lane, first, |_, key, value| pieces.take(key, value)).await;
            let Some(()) = read else { continue };
            let unpacked = pieces.join().and_then(|stored| unpack(manifest, &stored));
            if let Ok(bytes) = unpacked {
                return Some(FoundBytes { seq: *seq, source: SnapshotSource::Published, bytes });
            }
        }
        None
    }

    async fn look(&self, lane: u32, from: Option<Timestamp>) -> Option<Found> {
        let (world, name) = (&self.instance.world, self.instance.name.as_str());
        let partition = i32::try_from(lane).unwrap_or(-1);
        let start = match from {
            Some(from) => {
                let time = from.as_ms();
                let found = offset_at(world, name, Topic::Snapshots, partition, time, true).await;
                found.map_or(0, |offset| offset.max(0))
            }
            None => 0,
        };
        let mut found = Found::default();
        let take = |offset, key, value: Option<&[u8]>| {
            if let Err(error) = found.take(offset, key, value) {
                world.violation(format!("a manifest of lane {lane} cannot be read: {error}"));
            }
            true
        };
        self.read(lane, start, take).await?;
        Some(found)
    }

    /// Reads a lane's partition to its end, or until `take` wants no more.
    async fn read(
        &self,
        lane: u32,
        from: i64,
        mut take: impl FnMut(i64, SnapshotKey, Option<&[u8]>) -> bool,
    ) -> Option<()> {
        let (world, name) = (&self.instance.world, self.instance.name.as_str());
        let mut reader = Reader::default();
        reader.set(Topic::Snapshots, i32::try_from(lane).unwrap_or(-1), from);
        for _ in 0..FETCHES_MAX {
            let found = reader.poll(world, name, 0).await;
            self.instance.sleep(0).await;
            for found in found {
                match found {
                    Read::Record(_, _, record) => {
                        let Some(key) = record.key.as_deref().and_then(SnapshotKey::parse) else {
                            continue;
                        };
                        if !take(record.offset, key, record.value.as_deref()) {
                            return Some(());
                        }
                    }
                    Read::End(..) => return Some(()),
                    Read::OutOfRange(..) => {}
                }
            }
        }
        None
    }
}
