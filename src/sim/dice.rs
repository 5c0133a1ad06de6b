//! Random numbers of a simulation, all from its seed. Each part has a stream of its own, so that a
//! change in one does not alter the others.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The stream of a part, by its number.
pub fn stream(seed: u64, part: u64) -> ChaCha8Rng {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    dice.set_stream(part);
    dice
}

pub trait Dice {
    /// A number of the range, which must not be empty.
    fn within(&mut self, range: Range<u64>) -> u64;

    /// True with a chance of `times` in `of`.
    fn chance(&mut self, times: u64, of: u64) -> bool {
        self.within(0..of) < times
    }
}

impl Dice for ChaCha8Rng {
    fn within(&mut self, range: Range<u64>) -> u64 {
        let width = range.end.saturating_sub(range.start).max(1);
        // The bias of the remainder is far below anything that a simulation could notice.
        range.start + self.next_u64() % width
    }
}
