//! A real Apache Kafka, on free ports and in a fresh directory.

use crate::component::Component;

/// A cluster of combined brokers and controllers. Dropping it, or the end of the process, stops it
/// and removes its directory.
///
/// Six seconds to start one node, twenty for three: tests that need no faults use
/// [`crate::Broker::shared`].
#[derive(Debug)]
pub struct KafkaCluster {
    bootstrap: String,
    component: Component,
}

impl KafkaCluster {
    /// Starts a cluster of `nodes` nodes, numbered from 1.
    ///
    /// # Panics
    /// Where it cannot be started, saying what to install.
    pub fn start(nodes: u32) -> Self {
        KafkaCluster::start_with(&["--nodes", &nodes.to_string()])
    }

    /// As [`KafkaCluster::start`], with options of `ops/kafka/kafka start`.
    pub fn start_with(options: &[&str]) -> Self {
        let component = Component::new("ops/kafka/kafka");
        let bootstrap = component.run("start", options);
        KafkaCluster { bootstrap, component }
    }

    /// The addresses of a listener beside the plain one, such as `SSL`.
    ///
    /// # Panics
    /// Where the cluster was started without it.
    pub fn listener(&self, name: &str) -> String {
        let path = self.component.directory().join(format!("bootstrap-{name}"));
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("no listener {name}: {error}"));
        text.trim_end().to_owned()
    }

    /// `host:port`, comma separated.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Ends a node with SIGKILL.
    pub fn kill_node(&self, node: u32) {
        self.signal(node, "KILL");
    }

    /// Stops a node's clock, so to say: SIGSTOP. Its connections stay open and nothing answers.
    pub fn pause_node(&self, node: u32) {
        self.signal(node, "STOP");
    }

    /// Undoes [`KafkaCluster::pause_node`].
    pub fn resume_node(&self, node: u32) {
        self.signal(node, "CONT");
    }

    /// Starts a killed node again, with its data and on its port, and waits until it serves.
    pub fn start_node(&self, node: u32) {
        self.component.run("start-node", ["--node", &node.to_string()]);
    }

    fn signal(&self, node: u32, signal: &str) {
        self.component.run("kill-node", ["--node", &node.to_string(), "--signal", signal]);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::metadata::Metadata;

    use super::*;
    use crate::{create_topic, unique, until};

    /// What the cluster says of itself now, where it answers within a second.
    fn metadata(bootstrap: &str) -> Option<Metadata> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", bootstrap).create().ok()?;
        consumer.fetch_metadata(None, Duration::from_secs(1)).ok()
    }

    #[test]
    #[ignore = "needs Apache Kafka: see ops/test"]
    fn a_node_is_killed_paused_and_comes_back_and_nothing_is_left_behind() {
        let limit = Duration::from_secs(60);
        let cluster = KafkaCluster::start(1);
        let topic = unique("tasks");
        create_topic(cluster.bootstrap(), &topic, 3, &[("cleanup.policy", "compact")]);
        let partitions = || {
            let metadata = metadata(cluster.bootstrap())?;
            let found = metadata.topics().iter().find(|found| found.name() == topic)?;
            Some(found.partitions().len())
        };
        until("the topic has three partitions", limit, || partitions() == Some(3));

        cluster.kill_node(1);
        assert_eq!(partitions(), None);
        cluster.start_node(1);
        until("the topic is back", limit, || partitions() == Some(3));

        cluster.pause_node(1);
        assert_eq!(partitions(), None);
        cluster.resume_node(1);
        until("the topic answers again", limit, || partitions() == Some(3));

        let directory: PathBuf = cluster.component.directory().to_path_buf();
        assert!(directory.join("node-1/pid").is_file());
        let bootstrap = cluster.bootstrap().to_owned();
        drop(cluster);
        assert!(!directory.exists(), "{} is left behind", directory.display());
        assert!(metadata(&bootstrap).is_none(), "the broker still answers");
    }
}
