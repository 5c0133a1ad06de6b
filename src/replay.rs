//! Journals read again: what was decided is decided once more, compared, explained, or decided
//! otherwise. Pure but for the reading, which is behind [`source::Source`].

pub mod audit;
pub mod check;
pub mod compare;
pub mod find;
pub mod journal;
pub mod player;
pub mod published;
pub mod recording;
pub mod snapshots;
pub mod source;
pub mod start;
pub mod story;
#[cfg(test)]
mod tests;
pub mod what_if;

/// A record with its bytes.
pub use crate::lane::intake::OwnedRecord as Record;
