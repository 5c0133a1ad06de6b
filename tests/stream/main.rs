//! The stream on a real Kafka: read back by a second, read-committed client.

mod world;

mod path;
mod planner;
mod snapshots;
mod view;
