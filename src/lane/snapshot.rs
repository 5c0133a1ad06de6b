//! The whole lane at a seq, as bytes: what recovery begins with in place of the first batch.
//!
//! `magic, format version, header, state, live tasks, recent task ids, XXH3-128 of all that`. Header,
//! state and tasks are postcard's. The lane stands still only while it is frozen: what is large is
//! shared with it, and becomes bytes on another thread. A shape that tasks share is written once,
//! recent ids are the bytes that they are in memory, leases follow from the tasks. A snapshot is a cache of the journal: one that cannot be used is dropped, and an older one or the
//! journal's beginning serves.

pub mod stored;
mod tasks;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::journal::ChainHash;
use super::{Lane, LaneSettings};
use crate::routing::eligibility::Memo;
use crate::routing::fact::{ENGINE_VERSION, FACT_LEVEL};
use crate::routing::recent::{Recent, RecentIds};
use crate::routing::state::State;
use crate::routing::tasks::TaskList;

/// Raised with every change of the state's encoding.
pub const FORMAT_VERSION: u16 = 5;

const MAGIC: [u8; 4] = *b"PMLS";
const HASH_BYTES: usize = 16;

/// What a snapshot says of itself, before its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHeader {
    pub engine_version: u32,
    pub fact_level: u32,
    pub lane: u32,
    /// Lanes that there were at first.
    pub lanes: u32,
    pub epoch: u32,
    /// The batch after which it was taken.
    pub seq: u64,
    /// The chain hash of that batch.
    pub hash: [u8; 16],
    /// The next offsets of `tasks`, `task-results` and `lane-inbox`.
    pub offsets: [Option<i64>; 3],
}

/// Why a snapshot cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    #[error(
        "the snapshot has format {found} and fact level {fact_level}; this release reads format {FORMAT_VERSION} and fact levels up to {FACT_LEVEL}"
    )]
    Newer { found: u16, fact_level: u32 },
    #[error("the state cannot be encoded: {0}")]
    Unencodable(String),
    #[error("the snapshot is of lane {lane}")]
    Other { lane: u32 },
}

/// A lane at a seq, taken off it, to be made bytes of on another thread.
#[derive(Debug, Clone, PartialEq)]
pub struct Frozen {
    /// Up to the live tasks.
    head: Vec<u8>,
    /// Shared with the state.
    tasks: TaskList,
    recent: RecentIds,
}

impl Frozen {
    /// The snapshot's bytes, with their hash.
    ///
    /// # Errors
    /// Where a part of the state cannot be encoded: a bug.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let Frozen { head, tasks, recent } = self;
        // Room for all of it: growing would copy it again and again.
        let usual = head.len() + tasks.len() * TASK_BYTES + recent.len() * RECENT_BYTES;
        let mut bytes = Vec::with_capacity(usual + HASH_BYTES);
        bytes.extend_from_slice(head);
        let mut bytes = tasks::write(tasks, bytes).map_err(unencodable)?;
        recent.write(&mut bytes);
        seal(&mut bytes);
        Ok(bytes)
    }
}

impl Lane {
    /// The lane as its last batch left it. To be taken right after [`Lane::prepare`] or
    /// [`Lane::fold`]: a later `prepare` moves the state on in time even where it makes no batch.
    ///
    /// # Errors
    /// Where a part of the state cannot be encoded: a bug.
    pub fn freeze(&self) -> Result<Frozen, SnapshotError> {
        let header = SnapshotHeader {
            engine_version: ENGINE_VERSION,
            fact_level: FACT_LEVEL,
            lane: self.state.lane,
            lanes: self.state.dealt,
            epoch: self.epoch,
            seq: self.seq,
            hash: self.hash.0,
            offsets: self.decided().map(|(_, offset)| offset),
        };
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        let head = postcard::to_extend(&header, head)
            .and_then(|head| postcard::to_extend(&self.state, head))
            .map_err(unencodable)?;
        Ok(Frozen { head, tasks: self.state.tasks.list(), recent: self.state.recent.ids() })
    }

    /// The bytes of [`Lane::freeze`] at once.
    ///
    /// # Errors
    /// As [`Lane::freeze`].
    pub fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        self.freeze()?.encode()
    }

    /// The lane that the bytes were taken of, number `lane`.
    ///
    /// # Errors
    /// Where the bytes are damaged, of another lane, or of a newer release.
    pub fn restore(lane: u32, bytes: &[u8], settings: LaneSettings) -> Result<Self, SnapshotError> {
        let (header, rest) = read_header(bytes)?;
        if header.lane != lane {
            return Err(SnapshotError::Other { lane: header.lane });
        }
        let (mut state, rest): (State, _) = postcard::take_from_bytes(rest).map_err(damaged)?;
        let mut memo = Memo::default();
        let rest = tasks::read(&mut state, &mut memo, rest).map_err(damaged)?;
        let recent = || SnapshotError::Damaged("its recent task ids are cut short".to_owned());
        state.recent = Recent::read(rest).ok_or_else(recent)?;
        let mut lane = Lane::genesis(lane, header.lanes, header.epoch, settings);
        lane.seq = header.seq;
        lane.hash = ChainHash(header.hash);
        lane.fleet_read = state.fleet_position;
        lane.health_read = state.health_position;
        lane.results_caught_up_at = state.results_caught_up_at;
        let [tasks, task_results, lane_inbox] = header.offsets;
        if let Some(offset) = tasks {
            lane.tasks.start_at(offset);
        }
        if let Some(offset) = task_results {
            lane.results.start_at(offset);
        }
        if let Some(offset) = lane_inbox {
            lane.inbox.start_at(offset);
        }
        lane.state = state;
        lane.memo = memo;
        Ok(lane)
    }
}

/// The fleet, its windows and the rest; a task, with a long id; a recent id.
const HEAD_BYTES: usize = 256 << 10;
const TASK_BYTES: usize = 160;
const RECENT_BYTES: usize = 24;

fn unencodable(error: postcard::Error) -> SnapshotError {
    SnapshotError::Unencodable(error.to_string())
}

/// Adds the hash of the bytes.
pub fn seal(bytes: &mut Vec<u8>) {
    let hash = xxh3_128(bytes);
    bytes.extend_from_slice(&hash.to_be_bytes());
}

/// Checks the bytes and reads what they say of themselves; the rest is the state.
///
/// # Errors
/// Where the bytes are damaged, or of a newer release.
pub fn read_header(bytes: &[u8]) -> Result<(SnapshotHeader, &[u8]), SnapshotError> {
    let short = || SnapshotError::Damaged(format!("it has {} bytes", bytes.len()));
    let (body, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or_else(short)?;
    if xxh3_128(body).to_be_bytes() != *hash {
        return Err(SnapshotError::Damaged("its hash does not match".to_owned()));
    }
    let (magic, body) = body.split_first_chunk::<4>().ok_or_else(short)?;
    let (version, body) = body.split_first_chunk::<2>().ok_or_else(short)?;
    if *magic != MAGIC {
        return Err(SnapshotError::Damaged("it does not begin as a snapshot".to_owned()));
    }
    let found = u16::from_be_bytes(*version);
    if found != FORMAT_VERSION {
        return Err(SnapshotError::Newer { found, fact_level: 0 });
    }
    let (header, rest): (SnapshotHeader, _) = postcard::take_from_bytes(body).map_err(damaged)?;
    if header.fact_level > FACT_LEVEL {
        return Err(SnapshotError::Newer { found, fact_level: header.fact_level });
    }
    Ok((header, rest))
}

fn damaged(error: postcard::Error) -> SnapshotError {
    SnapshotError::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::lane::tests::{Bench, settings};
    use crate::model::policy::Policy;

    fn lived() -> Bench {
        let mut bench = Bench::new(Policy::default());
        bench.resource("one", json!({"slots": 3}));
        for id in 0..6 {
            bench.task(&format!("t{id}"), json!({"class": format!("c{}", id % 2)}));
        }
        bench.step();
        bench
    }

    #[test]
    fn a_lane_comes_back_as_it_was_and_goes_on_alike() {
        let mut bench = lived();
        let bytes = bench.lane.snapshot().unwrap();
        let restored = Lane::restore(0, &bytes, settings(Policy::default())).unwrap();
        assert_eq!(restored.state(), bench.lane.state());
        assert_eq!(restored.positions(), bench.lane.positions());
        assert_eq!(restored.snapshot().unwrap(), bytes);
        let shapes = restored.state().tasks.values().map(|live| Arc::as_ptr(&live.task.shape));
        let shapes: std::collections::BTreeSet<_> = shapes.collect();
        assert_eq!(shapes.len(), 2, "tasks of one shape share it");
        let mut twin = lived();
        twin.lane = restored;
        for bench in [&mut bench, &mut twin] {
            bench.result("t1", 1, "succeeded", json!({"output_tokens": 7}));
            bench.reread();
            bench.step_at(1_010_000);
        }
        let [ours, theirs] = [bench, twin].map(|mut bench| {
            // Samples are no output: where a lane began to take them is its own affair.
            bench.prepared[1].samples.clear();
            bench.prepared.swap_remove(1)
        });
        assert_eq!(ours.counts, theirs.counts);
        assert_eq!(ours.hash, theirs.hash);
        // Compared as text, because a mismatch would print megabytes.
        assert!(format!("{ours:?}") == format!("{theirs:?}"), "the outputs differ");
    }

    #[test]
    fn what_cannot_be_used_says_why() {
        let bytes = lived().lane.snapshot().unwrap();
        let check = |lane: u32, change: &dyn Fn(&mut Vec<u8>), expected: &str| {
            let mut bytes = bytes.clone();
            change(&mut bytes);
            let error = Lane::restore(lane, &bytes, settings(Policy::default())).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        let sealed = |bytes: &mut Vec<u8>| {
            bytes.truncate(bytes.len() - HASH_BYTES);
            let hash = xxh3_128(bytes);
            bytes.extend_from_slice(&hash.to_be_bytes());
        };
        check(0, &|bytes| bytes.truncate(9), "the snapshot is damaged: it has 9 bytes");
        check(0, &|bytes| bytes[40] ^= 1, "the snapshot is damaged: its hash does not match");
        check(0, &|bytes| bytes.truncate(500), "the snapshot is damaged: its hash does not match");
        check(2, &|_| (), "the snapshot is of lane 0");
        check(
            0,
            &|bytes| {
                bytes[5] = 9;
                sealed(bytes);
            },
            "the snapshot has format 9 and fact level 0; this release reads format 5 and fact levels up to 4",
        );
        check(
            0,
            &|bytes| {
                bytes[0] = 0;
                sealed(bytes);
            },
            "the snapshot is damaged: it does not begin as a snapshot",
        );
    }
}
