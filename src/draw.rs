//! Seeded draws: one stream per purpose and index, so that a new draw somewhere shifts no other.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The conditions of a task.
    Task = 1,
    /// What a simulated model does with an attempt.
    Attempt = 2,
    /// What an attempt meets on a resource that is broken, by task and attempt.
    Outage = 3,
    /// How long a task's answer is, by the task's place.
    Length = 4,
    /// What a resource makes of a task, by the place of the pair.
    Outcome = 5,
    /// What a simple router throws dice for.
    Baseline = 6,
    /// Which lane a task comes to, by the task's place.
    Lane = 7,
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
        // The bias of the remainder is far below anything that a run could notice.
        (self.0.next_u64() % (count.max(1) as u64)) as usize
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// One of `others`, each with its share of [0, 1], or `usual` for what is left of it.
    pub fn pick<T: Copy>(&mut self, usual: T, others: &[(T, f64)]) -> T {
        let mut left = self.unit();
        for (value, share) in others {
            if left < *share {
                return *value;
            }
            left -= share;
        }
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_fixed_by_seed_purpose_and_index() {
        let first = |seed, purpose, index| Draw::new(seed, purpose, index).unit();
        assert_eq!(first(1, Purpose::Task, 2), first(1, Purpose::Task, 2));
        let all = [
            first(1, Purpose::Task, 2),
            first(2, Purpose::Task, 2),
            first(1, Purpose::Attempt, 2),
            first(1, Purpose::Task, 3),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{all:?}");
        }
    }

    #[test]
    fn picks_follow_their_shares() {
        let mut draw = Draw::new(7, Purpose::Task, 0);
        let mut counts = [0_u32; 3];
        for _ in 0..10_000 {
            counts[draw.pick(0_usize, &[(1, 0.2), (2, 0.1)])] += 1;
        }
        for (count, expected) in counts.into_iter().zip([7_000_u32, 2_000, 1_000]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }
}
