//! Starts and stops the components that the tests run against: the modelled Kafka, Apache Kafka, a schema
//! registry, and a Python with other implementations of the formats.
//!
//! A component that cannot be started fails the test with one line that says what to install: a test
//! that skips itself is a test that is not there.

mod broker;
mod component;
mod kafka;
mod registry;
mod wait;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;

pub use broker::{Broker, create_topic};
pub use kafka::KafkaCluster;
pub use registry::SchemaRegistry;
pub use wait::{eventually, until};

/// `prefix` with a suffix that no other test and no earlier run has: tests share a broker, so each
/// needs topics, groups and transactional ids of its own.
pub fn unique(prefix: &str) -> String {
    // Each RandomState has a new key, which is all the randomness that a name needs.
    format!("{prefix}-{:016x}", RandomState::new().build_hasher().finish())
}

/// The Python that has fastavro and confluent-kafka: `$POINTSMAN_PYTHON`, which `ops/test` sets, or
/// the venv that it made.
///
/// # Panics
/// Where there is none, saying how to make one.
pub fn python() -> PathBuf {
    let python = match std::env::var_os("POINTSMAN_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => component::target_directory().join("venv/bin/python"),
    };
    assert!(
        python.is_file(),
        "no Python at {}: run `ops/test --setup`, or set POINTSMAN_PYTHON to a Python with fastavro and confluent-kafka",
        python.display()
    );
    python
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<String> =
            (0..100).map(|_| super::unique("tasks")).collect();
        assert_eq!(names.len(), 100);
        assert!(names.iter().all(|name| name.starts_with("tasks-") && name.len() == 22));
    }
}
