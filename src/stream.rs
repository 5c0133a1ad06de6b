//! The worker: a sans-io state machine, and the thin Kafka client that executes what it asks for.

mod advisor;
pub mod client;
pub mod clock;
pub mod clock_check;
pub mod committed;
pub mod connect;
mod ffi;
mod hindsight;
pub mod instance_lock;
pub mod observe;
pub mod packed;
pub mod run;
mod schemas;
pub mod view;
pub mod worker;
