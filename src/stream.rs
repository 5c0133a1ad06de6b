//! The worker: a sans-io state machine, and the thin Kafka client that executes what it asks for.

pub mod clock;
pub mod committed;
pub mod connect;
mod ffi;
pub mod worker;
