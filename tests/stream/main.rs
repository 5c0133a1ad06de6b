//! The stream on a real Kafka: read back by a second, read-committed client.

mod world;

mod path;
mod snapshots;
mod view;
