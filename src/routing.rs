//! The core: a lane's state, what it decides, and how facts change it.
//!
//! Pure by rule: no I/O, no clock, no entropy, no async, no order that depends on a hash. `decide`
//! functions read the [`state::State`] and return [`fact::Fact`]s; only [`evolve`] changes the
//! state. `docs/concepts/` explains the ideas, `ARCHITECTURE.md` the flow.

pub mod admission;
pub mod affinity;
pub mod allocator;
pub mod backlog;
pub mod balancer;
pub mod breaker;
pub mod breakers;
pub mod capability;
pub mod chain;
pub mod control;
pub mod eligibility;
pub mod engine;
pub mod evolve;
pub mod explain;
pub mod fact;
pub mod faded;
pub mod features;
pub mod fleet;
pub mod headroom;
pub mod health;
pub mod learned;
pub mod output_tokens;
pub mod posterior;
pub mod price;
pub mod recent;
pub mod reserved;
pub mod rights;
pub mod shape;
pub mod shares;
pub mod sharing;
pub mod speed;
pub mod spikes;
pub mod state;
pub mod surge;
pub mod system_health;
pub mod tasks;
pub mod timers;
pub mod trust;
pub mod window;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

/// The 128-bit hash of a task id, by which a lane knows a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey(pub [u8; 16]);

impl TaskKey {
    pub fn of(task_id: &str) -> Self {
        TaskKey(xxh3_128(task_id.as_bytes()).to_be_bytes())
    }

    /// The key is a hash already: its first half serves every table.
    pub fn spread(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}
