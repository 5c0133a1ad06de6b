//! Metadata.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::super::{NODE, Settings, once};
use super::{Topic, TopicConfig, Topics};

/// As Kafka's own look: a random id in base 64.
const CLUSTER: &str = "pointsman-broker-model";

impl Topics {
    /// Creates topics that are asked for by name, where the request allows it.
    pub fn metadata(
        &mut self,
        settings: &Settings,
        version: i16,
        request: MetadataRequest,
    ) -> MetadataResponse {
        let asked = request.topics.filter(|topics| version > 0 || !topics.is_empty());
        let topics = match asked {
            None => {
                let all = self.topics.iter();
                all.map(|(name, topic)| described(name, topic, version)).collect()
            }
            Some(asked) => {
                let may_create = settings.topics_auto_created && request.allow_auto_topic_creation;
                once(&asked, |one| (one.name.clone(), one.topic_id))
                    .map(|(one, _)| self.asked(one, version, may_create))
                    .collect()
            }
        };
        let broker = MetadataResponseBroker::default()
            .with_node_id(NODE)
            .with_host(StrBytes::from_string(settings.host.clone()))
            .with_port(i32::from(settings.port));
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(StrBytes::from_static_str(CLUSTER)))
            .with_controller_id(NODE)
            .with_topics(topics)
    }

    fn asked(
        &mut self,
        asked: &MetadataRequestTopic,
        version: i16,
        may_create: bool,
    ) -> MetadataResponseTopic {
        let Some(name) = &asked.name else {
            let known = self.topics.iter().find(|(_, topic)| topic.id == asked.topic_id);
            return known.map_or_else(
                || {
                    MetadataResponseTopic::default()
                        .with_name(None)
                        .with_topic_id(asked.topic_id)
                        .with_error_code(ResponseError::UnknownTopicId.code())
                },
                |(name, topic)| described(name, topic, version),
            );
        };
        if may_create && !self.topics.contains_key(name.as_str()) {
            let config = TopicConfig::new([]).ok();
            let checked = self.check_name(name).and_then(|()| self.check_room(1));
            match (checked, config) {
                (Ok(()), Some(config)) => self.add(name, 1, config),
                (Err((code, _)), _) => return refused(name, code),
                (Ok(()), None) => {}
            }
        }
        match self.topics.get(name.as_str()) {
            Some(topic) => described(name, topic, version),
            None if super::names::check(name).is_err() => {
                refused(name, ResponseError::InvalidTopicException)
            }
            None => refused(name, ResponseError::UnknownTopicOrPartition),
        }
    }
}

fn refused(name: &TopicName, code: ResponseError) -> MetadataResponseTopic {
    MetadataResponseTopic::default().with_name(Some(name.clone())).with_error_code(code.code())
}

fn described(name: &str, topic: &Topic, version: i16) -> MetadataResponseTopic {
    let partitions = (0..).zip(&topic.partitions).map(|(index, _)| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(NODE)
            .with_leader_epoch(if version >= 7 { 0 } else { -1 })
            .with_replica_nodes(vec![NODE])
            .with_isr_nodes(vec![NODE])
    });
    let described = MetadataResponseTopic::default()
        .with_name(Some(StrBytes::from_string(name.to_owned()).into()))
        .with_partitions(partitions.collect());
    if version >= 10 { described.with_topic_id(topic.id) } else { described }
}
