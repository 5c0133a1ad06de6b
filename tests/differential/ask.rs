//! Requests of the raw protocol with what scripts vary, and defaults for the rest.

use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

pub const READ_UNCOMMITTED: i8 = 0;
pub const READ_COMMITTED: i8 = 1;

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

/// With `acks=all`.
pub fn produce(topic: &str, partition: i32, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let data =
        TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data])
}

pub fn produce_in(
    transaction: &str,
    topic: &str,
    partition: i32,
    records: Bytes,
) -> ProduceRequest {
    produce(topic, partition, records).with_transactional_id(Some(transactional(transaction)))
}

/// Without a session, and without waiting for more.
pub fn fetch(topic: &str, partition: i32, offset: i64, isolation: i8) -> FetchRequest {
    let of = FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let of = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![of]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_bytes(1 << 20)
        .with_isolation_level(isolation)
        .with_session_epoch(-1)
        .with_topics(vec![of])
}

/// `-1` is the time of the end, `-2` of the beginning, `-3` the largest.
pub fn list_offsets(
    topic: &str,
    partition: i32,
    time_ms: i64,
    isolation: i8,
) -> ListOffsetsRequest {
    let of =
        ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(time_ms);
    let of = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![of]);
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation)
        .with_topics(vec![of])
}

pub fn init_idempotent() -> InitProducerIdRequest {
    InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000)
}

pub fn init(transaction: &str, timeout_ms: i32) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(transactional(transaction)))
        .with_transaction_timeout_ms(timeout_ms)
}

pub fn add_partitions(
    transaction: &str,
    producer: (i64, i16),
    topic: &str,
    partitions: &[i32],
) -> AddPartitionsToTxnRequest {
    let of = AddPartitionsToTxnTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(partitions.to_vec());
    AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(transactional(transaction))
        .with_v3_and_below_producer_id(ProducerId(producer.0))
        .with_v3_and_below_producer_epoch(producer.1)
        .with_v3_and_below_topics(vec![of])
}

pub fn add_offsets(transaction: &str, producer: (i64, i16), group: &str) -> AddOffsetsToTxnRequest {
    AddOffsetsToTxnRequest::default()
        .with_transactional_id(transactional(transaction))
        .with_producer_id(ProducerId(producer.0))
        .with_producer_epoch(producer.1)
        .with_group_id(group_id(group))
}

/// Of a consumer that is no member: see [`by_member`].
pub fn commit_in(
    transaction: &str,
    producer: (i64, i16),
    group: &str,
    (topic, partition, offset, metadata): (&str, i32, i64, &str),
) -> TxnOffsetCommitRequest {
    let of = TxnOffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(Some(text(metadata)));
    let of = TxnOffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![of]);
    TxnOffsetCommitRequest::default()
        .with_transactional_id(transactional(transaction))
        .with_producer_id(ProducerId(producer.0))
        .with_producer_epoch(producer.1)
        .with_group_id(group_id(group))
        .with_topics(vec![of])
}

pub fn end(transaction: &str, producer: (i64, i16), commit: bool) -> EndTxnRequest {
    EndTxnRequest::default()
        .with_transactional_id(transactional(transaction))
        .with_producer_id(ProducerId(producer.0))
        .with_producer_epoch(producer.1)
        .with_committed(commit)
}

/// Of a consumer that is no member.
pub fn commit(
    group: &str,
    (topic, partition, offset, metadata): (&str, i32, i64, Option<&str>),
) -> OffsetCommitRequest {
    let of = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_metadata(metadata.map(text));
    let of =
        OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![of]);
    OffsetCommitRequest::default().with_group_id(group_id(group)).with_topics(vec![of])
}

pub fn committed(group: &str, topics: &[(&str, &[i32])]) -> OffsetFetchRequest {
    let of = topics.iter().map(|(topic, partitions)| {
        OffsetFetchRequestTopic::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(partitions.to_vec())
    });
    OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(Some(of.collect()))
}

/// The sessions of scripts' members last long, except where one shall end.
pub fn join(group: &str, member: &str, metadata: &'static str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(metadata.as_bytes()));
    JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(60_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// `assignments`: member and what it is given; the leader's, empty from all others.
pub fn sync(
    group: &str,
    generation: i32,
    member: &str,
    assignments: &[(&str, &'static str)],
) -> SyncGroupRequest {
    let assignments = assignments.iter().map(|(member, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from_static(assignment.as_bytes()))
    });
    SyncGroupRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_assignments(assignments.collect())
}

pub fn heartbeat(group: &str, generation: i32, member: &str) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(generation)
        .with_member_id(text(member))
}

pub fn leave(group: &str, member: &str) -> LeaveGroupRequest {
    LeaveGroupRequest::default().with_group_id(group_id(group)).with_member_id(text(member))
}

pub fn describe(groups: &[&str]) -> DescribeGroupsRequest {
    DescribeGroupsRequest::default().with_groups(groups.iter().map(|name| group_id(name)).collect())
}

pub fn metadata(topics: &[&str]) -> MetadataRequest {
    let of = topics
        .iter()
        .map(|topic| MetadataRequestTopic::default().with_name(Some(topic_name(topic))));
    MetadataRequest::default().with_topics(Some(of.collect())).with_allow_auto_topic_creation(false)
}

pub fn topic(name: &str, partitions: i32, settings: &[(&str, &str)]) -> CreatableTopic {
    let settings = settings.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(settings.collect())
}

pub fn create(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000)
}

pub fn delete(topics: &[&str]) -> DeleteTopicsRequest {
    DeleteTopicsRequest::default()
        .with_topic_names(topics.iter().map(|name| topic_name(name)).collect())
        .with_timeout_ms(30_000)
}

pub fn create_partitions(topics: &[(&str, i32)]) -> CreatePartitionsRequest {
    let of = topics.iter().map(|(topic, count)| {
        CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(*count)
            .with_assignments(None)
    });
    CreatePartitionsRequest::default().with_topics(of.collect()).with_timeout_ms(30_000)
}

/// `keys`: all of them where `None`.
pub fn describe_topic(topic: &str, keys: Option<&[&str]>) -> DescribeConfigsRequest {
    /// Kafka's number of this kind of resource.
    const TOPIC: i8 = 2;
    let of = DescribeConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(text(topic))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()));
    DescribeConfigsRequest::default().with_resources(vec![of])
}

/// The records before `offset`, -1 for all.
pub fn delete_records(topic: &str, partition: i32, offset: i64) -> DeleteRecordsRequest {
    let asked =
        DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
    let asked =
        DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
    DeleteRecordsRequest::default().with_timeout_ms(30_000).with_topics(vec![asked])
}
