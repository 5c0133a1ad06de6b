//! Amounts that fade: what was added [`MEMORY_MS`] ago counts for 1/e.
//!
//! `add_v1` is frozen: journals are folded with it.

use serde::{Deserialize, Serialize};

use crate::model::time::Timestamp;

/// After so long, what was added counts for 1/e.
pub const MEMORY_MS: f64 = 10_000.0;

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Faded {
    amount: f64,
    at: Timestamp,
}

impl Faded {
    /// What is left of it; at least 0.
    pub fn at(&self, now: Timestamp) -> f64 {
        if self.amount <= 0.0 || now <= self.at {
            return self.amount;
        }
        self.amount * libm::exp(-(now.ms_since(self.at) as f64) / MEMORY_MS)
    }

    /// `add_v1`
    pub fn add_v1(&mut self, amount: f64, now: Timestamp) {
        *self = Faded { amount: self.at(now) + amount, at: now };
    }
}
