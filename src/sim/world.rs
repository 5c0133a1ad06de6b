//! What all processes of one simulation share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::disk::Damage;
use super::faults::Faults;
use super::network::Network;
use super::records::{Origin, Plain, batch};
use crate::broker::wire::{Reply, Request};
use crate::codec::Codec;
use crate::model::Topic;

/// How lanes came to run, and what there was to begin with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beginnings {
    /// With a snapshot of the instance's disk, and with a published one.
    pub local: u64,
    pub published: u64,
    /// Journals that were read from a time on, and from their beginning.
    pub inside: u64,
    pub whole: u64,
    /// Journals that went on behind the committed batch.
    pub behind: u64,
    /// Manifests that were committed.
    pub announced: u64,
    /// What happened to disks, by `Damage::ALL`; how often a lane found it.
    pub damages: [u64; 3],
    pub damaged: u64,
}

impl Beginnings {
    /// Journals ahead of their offsets are counted apart: too rare to be asked for.
    pub fn counts(&self) -> [(&'static str, u64); 9] {
        let [lost, truncated, flipped] = self.damages;
        [
            ("lanes began with a local snapshot", self.local),
            ("with a published one", self.published),
            ("journals read from within", self.inside),
            ("from their beginning", self.whole),
            ("snapshots announced", self.announced),
            ("lost on disk", lost),
            ("truncated", truncated),
            ("with a flipped bit", flipped),
            ("found damaged", self.damaged),
        ]
    }

    pub fn suffer(&mut self, damages: &[Damage]) {
        for damage in damages {
            self.damages[*damage as usize] += 1;
        }
    }

    pub fn add(&mut self, other: Beginnings) {
        self.local += other.local;
        self.published += other.published;
        self.inside += other.inside;
        self.whole += other.whole;
        self.behind += other.behind;
        self.announced += other.announced;
        self.damaged += other.damaged;
        for (sum, more) in self.damages.iter_mut().zip(other.damages) {
            *sum += more;
        }
    }
}

/// Topics keep their default names.
pub fn name(topic: Topic) -> TopicName {
    TopicName(StrBytes::from_static_str(topic.default_name()))
}

/// The topic of a name that [`name`] gave.
pub fn topic(name: &TopicName) -> Option<Topic> {
    Topic::ALL.into_iter().find(|topic| topic.default_name() == name.as_str())
}

pub struct World {
    pub network: Rc<Network>,
    pub codec: Arc<Codec>,
    /// Lanes at first.
    pub dealt: u32,
    /// Lanes that are added later.
    pub lanes_added: u32,
    pub partitions: Cell<Partitions>,
    /// As many as the group's leader has shared out last.
    pub lanes_shared: Cell<u32>,
    pub faults: RefCell<Faults>,
    pub beginnings: RefCell<Beginnings>,
    /// What must not happen and did, in words.
    pub violations: RefCell<Vec<String>>,
    /// Whether the workload has published everything.
    pub published: Cell<bool>,
}

/// Partitions of the topics that have one for each lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitions {
    /// The last topic to get more.
    pub tasks: u32,
    pub others: u32,
}

impl World {
    /// The lanes that there are now.
    pub fn lanes(&self) -> u32 {
        self.partitions.get().tasks
    }

    /// Gives topics so many partitions.
    pub fn add_partitions(&self, topics: &[Topic], count: u32) {
        let count = i32::try_from(count).unwrap_or(1);
        let more = topics.iter().map(|topic| {
            CreatePartitionsTopic::default()
                .with_name(name(*topic))
                .with_count(count)
                .with_assignments(None)
        });
        let request =
            CreatePartitionsRequest::default().with_topics(more.collect()).with_timeout_ms(1_000);
        match self.network.ask(Request::CreatePartitions(request)) {
            Some(Reply::CreatePartitions(response)) => {
                for topic in response.results.iter().filter(|topic| topic.error_code != 0) {
                    self.violation(format!("topic {:?}: error {}", topic.name, topic.error_code));
                }
            }
            other => self.violation(format!("partitions cannot be added: {other:?}")),
        }
    }

    pub fn partitions(&self, topic: Topic) -> i32 {
        let Partitions { tasks, others } = self.partitions.get();
        match topic {
            Topic::Fleet | Topic::HealthEvents | Topic::OperatorActions => 1,
            Topic::Tasks => i32::try_from(tasks).unwrap_or(1),
            Topic::TaskResults
            | Topic::LaneInbox
            | Topic::RouteDecisions
            | Topic::AllocationEvents
            | Topic::BalanceEvents
            | Topic::LoadSnapshots
            | Topic::Journal
            | Topic::Snapshots
            | Topic::TasksDlq
            | Topic::TaskResultsDlq
            | Topic::LaneInboxDlq
            | Topic::HealthEventsDlq
            | Topic::FleetDlq => i32::try_from(others).unwrap_or(1),
        }
    }

    /// Creates all topics.
    pub fn create_topics(&self) {
        let topics = Topic::ALL.map(|topic| {
            let compacted = matches!(
                topic,
                Topic::Fleet | Topic::HealthEvents | Topic::LoadSnapshots | Topic::Snapshots
            );
            let config = |name: &'static str, value: &'static str| {
                CreatableTopicConfig::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_value(Some(StrBytes::from_static_str(value)))
            };
            let mut configs = Vec::new();
            if compacted {
                configs.push(config("cleanup.policy", "compact"));
            }
            if topic == Topic::Fleet {
                // As `topics apply` makes it: all lanes have to read the same records of the fleet.
                configs.push(config("min.compaction.lag.ms", "604800000"));
            }
            CreatableTopic::default()
                .with_name(name(topic))
                .with_num_partitions(self.partitions(topic))
                .with_replication_factor(1)
                .with_configs(configs)
        });
        let request =
            CreateTopicsRequest::default().with_topics(topics.into()).with_timeout_ms(1_000);
        match self.network.ask(Request::CreateTopics(request)) {
            Some(Reply::CreateTopics(response)) => {
                for topic in response.topics.iter().filter(|topic| topic.error_code != 0) {
                    self.violation(format!("topic {:?}: error {}", topic.name, topic.error_code));
                }
            }
            other => self.violation(format!("topics cannot be created: {other:?}")),
        }
    }

    /// Publishes records at once, past the network: what clients of the contract do is not what is
    /// looked at here.
    pub fn publish(&self, topic: Topic, partition: i32, records: &[(Option<String>, Vec<u8>)]) {
        let records: Vec<_> =
            records.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        self.publish_any(topic, partition, &records);
    }

    /// Records and tombstones.
    pub fn publish_any(
        &self,
        topic: Topic,
        partition: i32,
        records: &[(Option<String>, Option<Vec<u8>>)],
    ) {
        let timestamp_ms = self.network.now_ms();
        let plain: Vec<Plain> = records
            .iter()
            .map(|(key, value)| Plain {
                offset: 0,
                timestamp_ms,
                key: key.clone().map(|key| key.into_bytes().into()),
                value: value.clone().map(Into::into),
                headers: Vec::new(),
            })
            .collect();
        let sent = batch(&plain, Origin::PLAIN).and_then(|bytes| {
            let data =
                PartitionProduceData::default().with_index(partition).with_records(Some(bytes));
            let topic =
                TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
            let request = ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(1_000)
                .with_topic_data(vec![topic]);
            match self.network.ask(Request::Produce(request)) {
                Some(Reply::Produce(response)) => {
                    let codes = response.responses.iter().flat_map(|topic| {
                        topic.partition_responses.iter().map(|partition| partition.error_code)
                    });
                    match codes.into_iter().find(|code| *code != 0) {
                        Some(code) => Err(format!("error {code}")),
                        None => Ok(()),
                    }
                }
                other => Err(format!("{other:?}")),
            }
        });
        if let Err(error) = sent {
            self.violation(format!("{} cannot be published: {error}", topic.default_name()));
        }
    }

    pub fn violation(&self, violation: String) {
        self.violations.borrow_mut().push(violation);
    }
}
