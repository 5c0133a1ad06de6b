//! The broker that all tests of a process share: the modelled Kafka, or a real one.

use std::sync::OnceLock;
use std::time::Duration;

use pointsman::broker::front::{Front, FrontSettings};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::kafka::KafkaCluster;

/// A broker without faults. Tests that stop nodes, or need TLS, start a [`KafkaCluster`].
#[derive(Debug)]
pub struct Broker {
    bootstrap: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Model { _front: Front },
    Kafka { _cluster: KafkaCluster },
    SomebodyElses,
}

impl Broker {
    /// The one broker that all tests of this process share, started for the first who asks:
    /// `$POINTSMAN_TEST_BROKERS` where that is set; else what `$POINTSMAN_TEST_BROKER` says, `model`
    /// (the modelled Kafka, inside this process) where it says nothing, or `kafka` (Apache Kafka, needs Java).
    ///
    /// # Panics
    /// Where it cannot be started, saying what to install.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| {
            if let Ok(bootstrap) = std::env::var("POINTSMAN_TEST_BROKERS") {
                return Broker { bootstrap, kind: Kind::SomebodyElses };
            }
            let kind = std::env::var("POINTSMAN_TEST_BROKER").unwrap_or_else(|_| "model".into());
            match kind.as_str() {
                "model" => {
                    let mut settings = FrontSettings::default();
                    // As `ops/kafka/kafka` has it: a test says which topics it wants.
                    settings.broker.topics_auto_created = false;
                    let front = Front::start(settings)
                        .unwrap_or_else(|error| panic!("the modelled Kafka cannot start: {error}"));
                    let bootstrap = front.address().to_string();
                    Broker { bootstrap, kind: Kind::Model { _front: front } }
                }
                "kafka" => {
                    let cluster = KafkaCluster::start(1);
                    let bootstrap = cluster.bootstrap().to_owned();
                    Broker { bootstrap, kind: Kind::Kafka { _cluster: cluster } }
                }
                other => panic!("POINTSMAN_TEST_BROKER must be model or kafka, is '{other}'"),
            }
        })
    }

    /// `host:port`, comma separated.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn is_model(&self) -> bool {
        matches!(self.kind, Kind::Model { .. })
    }

    /// As [`create_topic`].
    pub fn create_topic(&self, name: &str, partitions: i32, properties: &[(&str, &str)]) {
        create_topic(&self.bootstrap, name, partitions, properties);
    }
}

/// Creates a topic, replicated as the cluster's default is, with properties such as
/// `("cleanup.policy", "compact")`.
///
/// # Panics
/// Where the topic exists already or the broker refuses it.
pub fn create_topic(bootstrap: &str, name: &str, partitions: i32, properties: &[(&str, &str)]) {
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    for (key, value) in properties {
        topic = topic.set(key, value);
    }
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .create()
        .expect("an admin client of a bootstrap list alone can be made");
    // A node that was just started may not know all others yet.
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let results = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers can be made")
        .block_on(admin.create_topics([&topic], &options))
        .unwrap_or_else(|error| panic!("topic {name} cannot be created: {error}"));
    for result in results {
        result.unwrap_or_else(|(_, code)| panic!("topic {name} cannot be created: {code}"));
    }
}
