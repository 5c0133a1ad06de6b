use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::*;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::*;
use kafka_protocol::protocol::StrBytes;

use super::*;
use crate::broker::wire::{self, SERVED};

const T: StrBytes = StrBytes::from_static_str("t");

/// One request of each kind, about partition 7 of topic `t` where it is about any.
fn requests() -> Vec<Request> {
    let name = || TopicName(T);
    let topic = MetadataRequestTopic::default().with_name(Some(name()));
    let partition = PartitionProduceData::default().with_index(7);
    let produced =
        TopicProduceData::default().with_name(name()).with_partition_data(vec![partition]);
    let partition = FetchPartition::default().with_partition(7);
    let fetched = FetchTopic::default().with_topic(name()).with_partitions(vec![partition]);
    let partition = DeleteRecordsPartition::default().with_partition_index(7);
    let deleted = DeleteRecordsTopic::default().with_name(name()).with_partitions(vec![partition]);
    let partition = ListOffsetsPartition::default().with_partition_index(7);
    let listed = ListOffsetsTopic::default().with_name(name()).with_partitions(vec![partition]);
    let partition = OffsetCommitRequestPartition::default().with_partition_index(7);
    let committed =
        OffsetCommitRequestTopic::default().with_name(name()).with_partitions(vec![partition]);
    let asked =
        OffsetFetchRequestTopic::default().with_name(name()).with_partition_indexes(vec![7]);
    let added = AddPartitionsToTxnTopic::default().with_name(name()).with_partitions(vec![7]);
    let partition = TxnOffsetCommitRequestPartition::default().with_partition_index(7);
    let pending =
        TxnOffsetCommitRequestTopic::default().with_name(name()).with_partitions(vec![partition]);
    vec![
        Request::ApiVersions(ApiVersionsRequest::default()),
        Request::Metadata(MetadataRequest::default().with_topics(Some(vec![topic]))),
        Request::CreateTopics(
            CreateTopicsRequest::default()
                .with_topics(vec![CreatableTopic::default().with_name(name())]),
        ),
        Request::DeleteTopics(DeleteTopicsRequest::default().with_topic_names(vec![name()])),
        Request::DeleteRecords(DeleteRecordsRequest::default().with_topics(vec![deleted])),
        Request::CreatePartitions(
            CreatePartitionsRequest::default()
                .with_topics(vec![CreatePartitionsTopic::default().with_name(name())]),
        ),
        Request::DescribeConfigs(
            DescribeConfigsRequest::default()
                .with_resources(vec![DescribeConfigsResource::default().with_resource_name(T)]),
        ),
        Request::Produce(ProduceRequest::default().with_topic_data(vec![produced])),
        Request::Fetch(FetchRequest::default().with_topics(vec![fetched])),
        Request::ListOffsets(ListOffsetsRequest::default().with_topics(vec![listed])),
        Request::FindCoordinator(FindCoordinatorRequest::default()),
        Request::JoinGroup(JoinGroupRequest::default()),
        Request::SyncGroup(SyncGroupRequest::default()),
        Request::Heartbeat(HeartbeatRequest::default()),
        Request::LeaveGroup(LeaveGroupRequest::default()),
        Request::OffsetCommit(OffsetCommitRequest::default().with_topics(vec![committed])),
        Request::OffsetFetch(OffsetFetchRequest::default().with_topics(Some(vec![asked]))),
        Request::ListGroups(ListGroupsRequest::default()),
        Request::DescribeGroups(DescribeGroupsRequest::default().with_groups(vec![GroupId(T)])),
        Request::DeleteGroups(DeleteGroupsRequest::default().with_groups_names(vec![GroupId(T)])),
        Request::InitProducerId(InitProducerIdRequest::default()),
        Request::AddPartitionsToTxn(
            AddPartitionsToTxnRequest::default().with_v3_and_below_topics(vec![added]),
        ),
        Request::AddOffsetsToTxn(AddOffsetsToTxnRequest::default()),
        Request::TxnOffsetCommit(TxnOffsetCommitRequest::default().with_topics(vec![pending])),
        Request::EndTxn(EndTxnRequest::default()),
    ]
}

#[test]
fn every_request_can_be_refused_in_every_version() {
    let requests = requests();
    assert_eq!(requests.iter().map(Request::api).collect::<Vec<_>>(), apis());
    // A code whose bytes mean nothing else.
    let error = ResponseError::Unknown(0x5a5b);
    for (request, (api, min, max)) in requests.iter().zip(SERVED) {
        // Older ones of Produce are announced, and cannot be decoded.
        let min = if *api == ApiKey::Produce { 3 } else { *min };
        for version in min..=*max {
            let reply = refusal(request, version, error);
            assert_eq!(reply.api(), *api);
            let frame = wire::encode(&reply, version, 1).unwrap();
            let carries = frame.windows(2).filter(|bytes| *bytes == [0x5a, 0x5b]).count();
            assert_eq!(carries, 1, "{api:?} {version}: {reply:?}");
        }
    }
}

fn apis() -> Vec<ApiKey> {
    SERVED.iter().map(|(api, _, _)| *api).collect()
}

#[test]
fn requests_say_which_topics_they_are_about() {
    use ApiKey::*;
    let about: Vec<ApiKey> = requests()
        .iter()
        .filter(|request| {
            assert!(!names_topic(request, "u"), "{request:?}");
            names_topic(request, "t")
        })
        .map(Request::api)
        .collect();
    let expected = [
        Metadata,
        CreateTopics,
        DeleteTopics,
        DeleteRecords,
        CreatePartitions,
        DescribeConfigs,
        Produce,
        Fetch,
        ListOffsets,
        OffsetCommit,
        OffsetFetch,
        AddPartitionsToTxn,
        TxnOffsetCommit,
    ];
    assert_eq!(about, expected);
}

#[test]
fn an_answer_repeats_what_was_asked() {
    let partition = PartitionProduceResponse::default()
        .with_index(7)
        .with_error_code(7)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1);
    let topic = TopicProduceResponse::default()
        .with_name(TopicName(T))
        .with_partition_responses(vec![partition]);
    let expected = ProduceResponse::default().with_responses(vec![topic]);
    let request = requests().into_iter().find(|request| request.api() == ApiKey::Produce).unwrap();
    assert_eq!(refusal(&request, 9, ResponseError::RequestTimedOut), expected.into());
}
