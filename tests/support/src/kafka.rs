//! A real Apache Kafka, on free ports and in a fresh directory.

use std::sync::OnceLock;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::component::Component;

/// A cluster of combined brokers and controllers. Dropping it, or the end of the process, stops it
/// and removes its directory.
///
/// Six seconds to start one node, twenty for three: tests that need no faults use [`KafkaCluster::shared`].
#[derive(Debug)]
pub struct KafkaCluster {
    bootstrap: String,
    /// `None` where somebody else runs the broker.
    component: Option<Component>,
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
        KafkaCluster { bootstrap, component: Some(component) }
    }

    /// The addresses of a listener beside the plain one, such as `SSL`.
    ///
    /// # Panics
    /// Where the cluster was started without it.
    pub fn listener(&self, name: &str) -> String {
        let path = self.owned().directory().join(format!("bootstrap-{name}"));
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("no listener {name}: {error}"));
        text.trim_end().to_owned()
    }

    /// The one broker that all tests of this process share: `$POINTSMAN_TEST_BROKERS` where that is
    /// set, else one that is started for the first who asks.
    pub fn shared() -> &'static KafkaCluster {
        static SHARED: OnceLock<KafkaCluster> = OnceLock::new();
        SHARED.get_or_init(|| match std::env::var("POINTSMAN_TEST_BROKERS") {
            Ok(bootstrap) => KafkaCluster { bootstrap, component: None },
            Err(_) => KafkaCluster::start(1),
        })
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
        self.owned().run("start-node", ["--node", &node.to_string()]);
    }

    /// Creates a topic, replicated as the cluster's default is, with properties such as
    /// `("cleanup.policy", "compact")`.
    ///
    /// # Panics
    /// Where the topic exists already or the broker refuses it.
    pub fn create_topic(&self, name: &str, partitions: i32, properties: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
        for (key, value) in properties {
            topic = topic.set(key, value);
        }
        // A node that was just started may not know all others yet.
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let results = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without drivers can be made")
            .block_on(self.admin().create_topics([&topic], &options))
            .unwrap_or_else(|error| panic!("topic {name} cannot be created: {error}"));
        for result in results {
            result.unwrap_or_else(|(_, code)| panic!("topic {name} cannot be created: {code}"));
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()
            .expect("an admin client of a bootstrap list alone can be made")
    }

    fn signal(&self, node: u32, signal: &str) {
        self.owned().run("kill-node", ["--node", &node.to_string(), "--signal", signal]);
    }

    fn owned(&self) -> &Component {
        self.component.as_ref().expect(
            "the nodes of POINTSMAN_TEST_BROKERS are not ours to stop: use KafkaCluster::start",
        )
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::metadata::Metadata;

    use super::*;
    use crate::{unique, until};

    /// What the cluster says of itself now, where it answers within a second.
    fn metadata(cluster: &KafkaCluster) -> Option<Metadata> {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", cluster.bootstrap()).create().ok()?;
        consumer.fetch_metadata(None, Duration::from_secs(1)).ok()
    }

    #[test]
    fn a_node_is_killed_paused_and_comes_back_and_nothing_is_left_behind() {
        let limit = Duration::from_secs(60);
        let cluster = KafkaCluster::start(1);
        let topic = unique("tasks");
        cluster.create_topic(&topic, 3, &[("cleanup.policy", "compact")]);
        let partitions = || {
            let metadata = metadata(&cluster)?;
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

        let directory: PathBuf = cluster.owned().directory().to_path_buf();
        assert!(directory.join("node-1/pid").is_file());
        let bootstrap = cluster.bootstrap().to_owned();
        drop(cluster);
        assert!(!directory.exists(), "{} is left behind", directory.display());
        let gone = KafkaCluster { bootstrap, component: None };
        assert!(metadata(&gone).is_none(), "the broker still answers");
    }
}
