//! Seeded draws: one stream per purpose and index, so that a new draw somewhere shifts no other.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// How long a task's answer is, by the task's place.
    Length = 1,
    /// What a resource makes of a task, by the place of the pair.
    Outcome = 2,
    /// Whether an attempt gets through a partial outage, by task and attempt.
    Outage = 3,
    /// What a baseline throws dice for.
    Baseline = 4,
    /// Which lane a task comes to, by the task's place.
    Lane = 5,
}

/// One stream of draws.
#[derive(Debug)]
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of a purpose and index under a seed.
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&index.to_le_bytes());
        Draw(ChaCha8Rng::from_seed(bytes))
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        // 53 bits are what an f64 holds exactly.
        (self.0.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// A number below `count`; 0 where `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        // The bias of the remainder is far below anything that a backtest could notice.
        (self.0.next_u64() % (count.max(1) as u64)) as usize
    }
}
