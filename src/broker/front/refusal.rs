//! Answers that refuse a request: which field of which response carries the error, as Apache Kafka
//! fills it in. What an answer repeats of the request (topics, partitions, members) is repeated.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_response::*;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::delete_records_response::*;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::*;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::offset_commit_response::*;
use kafka_protocol::messages::offset_fetch_response::*;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::txn_offset_commit_response::*;
use kafka_protocol::messages::*;

use crate::broker::wire::{Reply, Request};

/// The offset, epoch or number that says "none".
const NONE: i64 = -1;

/// A fetch without records, each of its partitions like this one.
fn fetched(request: &FetchRequest, like: &PartitionData) -> Reply {
    let topics = each(&request.topics, |topic| {
        let partitions = each(&topic.partitions, |partition| {
            like.clone()
                .with_partition_index(partition.partition)
                .with_aborted_transactions(None)
                .with_records(Some(Bytes::new()))
        });
        FetchableTopicResponse::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions)
    });
    FetchResponse::default().with_responses(topics).into()
}

/// The answer to a fetch by a leader that knows of nothing that is committed; `None`: it is no fetch.
pub fn nothing_committed(request: &Request) -> Option<Reply> {
    let Request::Fetch(request) = request else { return None };
    let nothing = PartitionData::default().with_high_watermark(0).with_last_stable_offset(0);
    Some(fetched(request, &nothing))
}

/// The answer that refuses all that the request asks for.
pub fn refusal(request: &Request, version: i16, error: ResponseError) -> Reply {
    let code = error.code();
    match request {
        Request::ApiVersions(_) => ApiVersionsResponse::default().with_error_code(code).into(),
        Request::Metadata(request) => {
            let topics = each(request.topics.iter().flatten(), |topic| {
                MetadataResponseTopic::default().with_name(topic.name.clone()).with_error_code(code)
            });
            MetadataResponse::default().with_topics(topics).into()
        }
        Request::CreateTopics(request) => {
            let topics = each(&request.topics, |topic| {
                CreatableTopicResult::default().with_name(topic.name.clone()).with_error_code(code)
            });
            CreateTopicsResponse::default().with_topics(topics).into()
        }
        Request::DeleteTopics(request) => {
            let topics = each(&request.topic_names, |name| {
                DeletableTopicResult::default().with_name(Some(name.clone())).with_error_code(code)
            });
            DeleteTopicsResponse::default().with_responses(topics).into()
        }
        Request::DeleteRecords(request) => {
            let topics = each(&request.topics, |topic| {
                let partitions = each(&topic.partitions, |partition| {
                    DeleteRecordsPartitionResult::default()
                        .with_partition_index(partition.partition_index)
                        .with_low_watermark(NONE)
                        .with_error_code(code)
                });
                DeleteRecordsTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions)
            });
            DeleteRecordsResponse::default().with_topics(topics).into()
        }
        Request::CreatePartitions(request) => {
            let topics = each(&request.topics, |topic| {
                CreatePartitionsTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_error_code(code)
            });
            CreatePartitionsResponse::default().with_results(topics).into()
        }
        Request::DescribeConfigs(request) => {
            let resources = each(&request.resources, |resource| {
                DescribeConfigsResult::default()
                    .with_resource_type(resource.resource_type)
                    .with_resource_name(resource.resource_name.clone())
                    .with_error_code(code)
            });
            DescribeConfigsResponse::default().with_results(resources).into()
        }
        Request::Produce(request) => {
            let topics = each(&request.topic_data, |topic| {
                let partitions = each(&topic.partition_data, |partition| {
                    PartitionProduceResponse::default()
                        .with_index(partition.index)
                        .with_error_code(code)
                        .with_base_offset(NONE)
                });
                TopicProduceResponse::default()
                    .with_name(topic.name.clone())
                    .with_partition_responses(partitions)
            });
            ProduceResponse::default().with_responses(topics).into()
        }
        Request::Fetch(request) => {
            let refused = PartitionData::default().with_error_code(code).with_high_watermark(NONE);
            fetched(request, &refused)
        }
        Request::ListOffsets(request) => {
            let topics = each(&request.topics, |topic| {
                let partitions = each(&topic.partitions, |partition| {
                    ListOffsetsPartitionResponse::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code)
                });
                ListOffsetsTopicResponse::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions)
            });
            ListOffsetsResponse::default().with_topics(topics).into()
        }
        Request::FindCoordinator(_) => FindCoordinatorResponse::default()
            .with_error_code(code)
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .into(),
        Request::JoinGroup(request) => JoinGroupResponse::default()
            .with_error_code(code)
            .with_member_id(request.member_id.clone())
            .into(),
        Request::SyncGroup(_) => SyncGroupResponse::default().with_error_code(code).into(),
        Request::Heartbeat(_) => HeartbeatResponse::default().with_error_code(code).into(),
        Request::LeaveGroup(_) => LeaveGroupResponse::default().with_error_code(code).into(),
        Request::OffsetCommit(request) => {
            let topics = each(&request.topics, |topic| {
                let partitions = each(&topic.partitions, |partition| {
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code)
                });
                OffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions)
            });
            OffsetCommitResponse::default().with_topics(topics).into()
        }
        // Version 1 has no error of its own.
        Request::OffsetFetch(request) if version < 2 => {
            let topics = each(request.topics.iter().flatten(), |topic| {
                let partitions = each(&topic.partition_indexes, |partition| {
                    OffsetFetchResponsePartition::default()
                        .with_partition_index(*partition)
                        .with_committed_offset(NONE)
                        .with_error_code(code)
                });
                OffsetFetchResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions)
            });
            OffsetFetchResponse::default().with_topics(topics).into()
        }
        Request::OffsetFetch(_) => OffsetFetchResponse::default().with_error_code(code).into(),
        Request::ListGroups(_) => ListGroupsResponse::default().with_error_code(code).into(),
        Request::DescribeGroups(request) => {
            let groups = each(&request.groups, |group| {
                DescribedGroup::default().with_group_id(group.clone()).with_error_code(code)
            });
            DescribeGroupsResponse::default().with_groups(groups).into()
        }
        Request::DeleteGroups(request) => {
            let results = each(&request.groups_names, |group| {
                DeletableGroupResult::default().with_group_id(group.clone()).with_error_code(code)
            });
            DeleteGroupsResponse::default().with_results(results).into()
        }
        Request::InitProducerId(_) => {
            InitProducerIdResponse::default().with_error_code(code).with_producer_epoch(-1).into()
        }
        Request::AddPartitionsToTxn(request) => {
            let topics = each(&request.v3_and_below_topics, |topic| {
                let partitions = each(&topic.partitions, |partition| {
                    AddPartitionsToTxnPartitionResult::default()
                        .with_partition_index(*partition)
                        .with_partition_error_code(code)
                });
                AddPartitionsToTxnTopicResult::default()
                    .with_name(topic.name.clone())
                    .with_results_by_partition(partitions)
            });
            AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics).into()
        }
        Request::AddOffsetsToTxn(_) => {
            AddOffsetsToTxnResponse::default().with_error_code(code).into()
        }
        Request::TxnOffsetCommit(request) => {
            let topics = each(&request.topics, |topic| {
                let partitions = each(&topic.partitions, |partition| {
                    TxnOffsetCommitResponsePartition::default()
                        .with_partition_index(partition.partition_index)
                        .with_error_code(code)
                });
                TxnOffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions)
            });
            TxnOffsetCommitResponse::default().with_topics(topics).into()
        }
        Request::EndTxn(_) => EndTxnResponse::default().with_error_code(code).into(),
    }
}

fn each<'a, T: 'a, R>(items: impl IntoIterator<Item = &'a T>, one: impl Fn(&T) -> R) -> Vec<R> {
    items.into_iter().map(one).collect()
}

/// Whether the request names this topic.
pub fn names_topic(request: &Request, topic: &str) -> bool {
    let is_it = |name: &TopicName| name.as_str() == topic;
    match request {
        Request::Metadata(request) => {
            request.topics.iter().flatten().any(|one| one.name.as_ref().is_some_and(is_it))
        }
        Request::CreateTopics(request) => request.topics.iter().any(|one| is_it(&one.name)),
        Request::DeleteTopics(request) => request.topic_names.iter().any(is_it),
        Request::DeleteRecords(request) => request.topics.iter().any(|one| is_it(&one.name)),
        Request::CreatePartitions(request) => request.topics.iter().any(|one| is_it(&one.name)),
        Request::DescribeConfigs(request) => {
            request.resources.iter().any(|one| one.resource_name.as_str() == topic)
        }
        Request::Produce(request) => request.topic_data.iter().any(|one| is_it(&one.name)),
        Request::Fetch(request) => request.topics.iter().any(|one| is_it(&one.topic)),
        Request::ListOffsets(request) => request.topics.iter().any(|one| is_it(&one.name)),
        Request::OffsetCommit(request) => request.topics.iter().any(|one| is_it(&one.name)),
        Request::OffsetFetch(request) => {
            request.topics.iter().flatten().any(|one| is_it(&one.name))
        }
        Request::AddPartitionsToTxn(request) => {
            request.v3_and_below_topics.iter().any(|one| is_it(&one.name))
        }
        Request::TxnOffsetCommit(request) => request.topics.iter().any(|one| is_it(&one.name)),
        Request::ApiVersions(_)
        | Request::FindCoordinator(_)
        | Request::JoinGroup(_)
        | Request::SyncGroup(_)
        | Request::Heartbeat(_)
        | Request::LeaveGroup(_)
        | Request::ListGroups(_)
        | Request::DescribeGroups(_)
        | Request::DeleteGroups(_)
        | Request::InitProducerId(_)
        | Request::AddOffsetsToTxn(_)
        | Request::EndTxn(_) => false,
    }
}

/// Whether only a coordinator, of a group or of transactions, answers it.
pub fn is_coordinated(api: ApiKey) -> bool {
    use ApiKey as A;
    #[rustfmt::skip]
    let coordinated = [
        A::JoinGroup, A::SyncGroup, A::Heartbeat, A::LeaveGroup, A::DescribeGroups, A::DeleteGroups, A::OffsetCommit, A::OffsetFetch,
        A::InitProducerId, A::AddPartitionsToTxn, A::AddOffsetsToTxn, A::TxnOffsetCommit, A::EndTxn,
    ];
    coordinated.contains(&api)
}
