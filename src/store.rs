//! (I/O) What an instance keeps on its own disk, by sled 0.34.7: a disposable cache. Everything in it can
//! be had from Kafka again, so whatever does not fit is deleted, with a line in the log, and never
//! repaired.
//!
//! The rules for that release were each measured: one database directory per lane and snapshot,
//! written, flushed, the manifest's key last, flushed again, and renamed into place; values of at
//! most 64 KiB and at most 100 keys in a batch (5,000 grew to 1 GB of memory); no flusher thread, a
//! small cache, low-space mode; and every call under `catch_unwind`, because damaged files make it
//! panic, on a thread of its own, because a full disk makes it wait for ever.

mod database;
pub mod snapshots;
pub mod view;

#[cfg(test)]
mod tests;

pub use snapshots::{SnapshotStore, StoreError};
pub use view::LoadStore;
