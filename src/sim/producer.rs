//! The transactional producer of an instance: the steps of a transaction as requests, with the retries
//! and the verdicts of a real client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId,
    InitProducerIdRequest, OffsetCommitRequest, ProduceRequest, ProducerId, TransactionalId,
    TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::faults::Step;
use super::instance::Instance;
use super::records::{Origin, Plain, batch};
use super::steps::{StepError, step};
use super::world::name;
use crate::broker::wire::{Reply, Request};
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::model::Topic;
use crate::planted::{Bug, planted};
use crate::stream::worker::event::Failure;

pub const TRANSACTION_TIMEOUT_MS: i32 = 2_000;

pub struct Producer {
    transactional_id: TransactionalId,
    id: i64,
    epoch: i16,
    sequences: BTreeMap<(Topic, i32), i32>,
    /// Produced, and not yet sent; of which lanes.
    queued: BTreeMap<(Topic, i32), Vec<Plain>>,
    lanes: BTreeSet<u32>,
}

impl Producer {
    /// Fences every predecessor.
    pub async fn open(instance: &Instance) -> Result<Self, Failure> {
        let transactional_id = TransactionalId(StrBytes::from_string(instance.transactional_id()));
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional_id.clone()))
            .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let mut given = (0, 0);
        step(instance, Step::Open, Request::InitProducerId(request), |reply| {
            let Reply::InitProducerId(response) = reply else { return Vec::new() };
            given = (response.producer_id.0, response.producer_epoch);
            vec![response.error_code]
        })
        .await
        .map_err(|error| error.or_abort(Step::Open))?;
        let (id, epoch) = given;
        let (sequences, queued, lanes) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Ok(Producer { transactional_id, id, epoch, sequences, queued, lanes })
    }

    /// Queues a batch's outputs.
    pub fn produce(&mut self, batch: &Prepared) {
        self.lanes.insert(batch.lane);
        for record in &batch.records {
            let OutputTopic::Known(topic) = record.topic else { continue };
            let bytes = |range: &Option<std::ops::Range<u32>>| {
                range.as_ref().map(|range| bytes::Bytes::copy_from_slice(batch.slice(range)))
            };
            let headers = batch
                .headers_of(record)
                .map(|(name, value)| (name.to_owned(), value.map(bytes::Bytes::copy_from_slice)));
            self.queued.entry((topic, record.partition)).or_default().push(Plain {
                offset: 0,
                timestamp_ms: record.timestamp_ms,
                key: bytes(&record.key),
                value: bytes(&record.value),
                headers: headers.collect(),
            });
        }
    }

    /// Sends what is queued, until all of it is acknowledged.
    pub async fn flush(&mut self, instance: &Instance) -> Result<(), Failure> {
        let mut partitions: BTreeMap<Topic, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in self.queued.keys() {
            partitions.entry(*topic).or_default().push(*partition);
        }
        let topics = partitions.into_iter().map(|(topic, partitions)| {
            AddPartitionsToTxnTopic::default().with_name(name(topic)).with_partitions(partitions)
        });
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id.clone())
            .with_v3_and_below_producer_id(ProducerId(self.id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(topics.collect());
        let request = Request::AddPartitionsToTxn(request);
        step(instance, Step::AddPartitions, request, |reply| {
            let Reply::AddPartitionsToTxn(response) = reply else { return Vec::new() };
            response
                .results_by_topic_v3_and_below
                .iter()
                .flat_map(|topic| &topic.results_by_partition)
                .map(|partition| partition.partition_error_code)
                .collect()
        })
        .await
        .map_err(|error| error.or_abort(Step::AddPartitions))?;
        let mut topics: BTreeMap<Topic, Vec<PartitionProduceData>> = BTreeMap::new();
        let lanes: BTreeSet<u32> = std::mem::take(&mut self.lanes);
        for ((topic, partition), records) in std::mem::take(&mut self.queued) {
            let sequence = self.sequences.entry((topic, partition)).or_insert(0);
            let origin = Origin {
                producer_id: self.id,
                epoch: self.epoch,
                sequence: *sequence,
                transactional: true,
            };
            *sequence += i32::try_from(records.len()).unwrap_or(0);
            let bytes = batch(&records, origin).map_err(Failure::Abort)?;
            let data =
                PartitionProduceData::default().with_index(partition).with_records(Some(bytes));
            topics.entry(topic).or_default().push(data);
        }
        let topics = topics.into_iter().map(|(topic, data)| {
            TopicProduceData::default().with_name(name(topic)).with_partition_data(data)
        });
        let request = ProduceRequest::default()
            .with_transactional_id(Some(self.transactional_id.clone()))
            .with_acks(-1)
            .with_timeout_ms(1_000)
            .with_topic_data(topics.collect());
        step(instance, Step::Produce, Request::Produce(request), produced).await.map_err(|error| {
            match error {
                StepError::Late => {
                    let reason = "no answer in time".to_owned();
                    Failure::Undelivered { lanes: lanes.into_iter().collect(), reason }
                }
                StepError::Failed(failure) => failure,
            }
        })
    }

    pub async fn send_offsets(
        &self,
        instance: &Instance,
        batches: &[Arc<Prepared>],
        member_id: &str,
        generation: i32,
    ) -> Result<(), Failure> {
        if planted(Bug::CommitOutside) {
            return commit_beside(instance, batches, member_id, generation).await;
        }
        // Whoever is no member is believed, as clients of old were.
        let (member_id, generation, instance_id) = if planted(Bug::SkipFence) {
            ("", -1, None)
        } else {
            (member_id, generation, Some(StrBytes::from_string(instance.name.clone())))
        };
        let group = GroupId(StrBytes::from_static_str(super::group::GROUP));
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(self.transactional_id.clone())
            .with_producer_id(ProducerId(self.id))
            .with_producer_epoch(self.epoch)
            .with_group_id(group.clone());
        step(instance, Step::AddOffsets, Request::AddOffsetsToTxn(request), |reply| {
            let Reply::AddOffsetsToTxn(response) = reply else { return Vec::new() };
            vec![response.error_code]
        })
        .await
        .map_err(|error| error.or_abort(Step::AddOffsets))?;
        let mut topics: BTreeMap<Topic, Vec<TxnOffsetCommitRequestPartition>> = BTreeMap::new();
        for batch in batches {
            for (topic, offset) in &batch.offsets {
                let partition = TxnOffsetCommitRequestPartition::default()
                    .with_partition_index(i32::try_from(batch.lane).unwrap_or(-1))
                    .with_committed_offset(*offset)
                    .with_committed_metadata(Some(StrBytes::from_string(batch.metadata.clone())));
                topics.entry(*topic).or_default().push(partition);
            }
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            TxnOffsetCommitRequestTopic::default()
                .with_name(name(topic))
                .with_partitions(partitions)
        });
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id.clone())
            .with_group_id(group)
            .with_producer_id(ProducerId(self.id))
            .with_producer_epoch(self.epoch)
            .with_generation_id(generation)
            .with_member_id(StrBytes::from_string(member_id.to_owned()))
            .with_group_instance_id(instance_id)
            .with_topics(topics.collect());
        let request = Request::TxnOffsetCommit(request);
        step(instance, Step::SendOffsets, request, |reply| {
            let Reply::TxnOffsetCommit(response) = reply else { return Vec::new() };
            response
                .topics
                .iter()
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code)
                .collect()
        })
        .await
        .map_err(|error| error.or_abort(Step::SendOffsets))
    }

    /// Ends the transaction. Where no answer came in time, its outcome is unknown.
    pub async fn end(&mut self, instance: &Instance, commit: bool) -> Result<(), Failure> {
        self.queued.clear();
        self.lanes.clear();
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id.clone())
            .with_producer_id(ProducerId(self.id))
            .with_producer_epoch(self.epoch)
            .with_committed(commit);
        let ended = step(instance, Step::End, Request::EndTxn(request), |reply| {
            let Reply::EndTxn(response) = reply else { return Vec::new() };
            vec![response.error_code]
        });
        match ended.await {
            Err(StepError::Late) => Err(Failure::Unknown("no answer in time".to_owned())),
            Err(StepError::Failed(failure)) => Err(failure),
            Ok(()) => Ok(()),
        }
    }
}

/// A planted bug's way: the offsets are committed at once, whatever becomes of the transaction.
async fn commit_beside(
    instance: &Instance,
    batches: &[Arc<Prepared>],
    member_id: &str,
    generation: i32,
) -> Result<(), Failure> {
    let mut topics = Vec::new();
    for batch in batches {
        for (topic, offset) in &batch.offsets {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(i32::try_from(batch.lane).unwrap_or(-1))
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(StrBytes::from_string(batch.metadata.clone())));
            let topic = OffsetCommitRequestTopic::default().with_name(name(*topic));
            topics.push(topic.with_partitions(vec![partition]));
        }
    }
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str(super::group::GROUP)))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(StrBytes::from_string(member_id.to_owned()))
        .with_group_instance_id(Some(StrBytes::from_string(instance.name.clone())))
        .with_topics(topics);
    let sent = step(instance, Step::SendOffsets, Request::OffsetCommit(request), |reply| {
        let Reply::OffsetCommit(response) = reply else { return Vec::new() };
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        partitions.map(|partition| partition.error_code).collect()
    });
    sent.await.map_err(|error| error.or_abort(Step::SendOffsets))
}

/// The error codes of an answer to what was produced.
fn produced(reply: &Reply) -> Vec<i16> {
    let Reply::Produce(response) = reply else { return Vec::new() };
    let partitions = response.responses.iter().flat_map(|topic| &topic.partition_responses);
    partitions.map(|partition| partition.error_code).collect()
}

/// What was to be published is not, for sure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpublished;

/// A producer without transactions, for one snapshot.
pub struct IdempotentProducer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

impl IdempotentProducer {
    pub async fn open(instance: &Instance) -> Result<Self, Unpublished> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(TRANSACTION_TIMEOUT_MS)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let mut given = (0, 0);
        let opened = step(instance, Step::Publish, Request::InitProducerId(request), |reply| {
            let Reply::InitProducerId(response) = reply else { return Vec::new() };
            given = (response.producer_id.0, response.producer_epoch);
            vec![response.error_code]
        });
        opened.await.map_err(|_| Unpublished)?;
        Ok(IdempotentProducer { id: given.0, epoch: given.1, sequence: 0 })
    }

    /// Publishes a record; all of one partition.
    pub async fn send(
        &mut self,
        instance: &Instance,
        topic: Topic,
        partition: i32,
        record: Plain,
    ) -> Result<(), Unpublished> {
        let origin = Origin {
            producer_id: self.id,
            epoch: self.epoch,
            sequence: self.sequence,
            transactional: false,
        };
        self.sequence += 1;
        let bytes = batch(&[record], origin).map_err(|_| Unpublished)?;
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(bytes));
        let topic =
            TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_acks(-1)
            .with_timeout_ms(1_000)
            .with_topic_data(vec![topic]);
        let sent = step(instance, Step::Publish, Request::Produce(request), produced);
        sent.await.map_err(|_| Unpublished)
    }
}
