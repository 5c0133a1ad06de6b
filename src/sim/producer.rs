//! The transactional producer of an instance: the steps of a transaction as requests, with the retries
//! and the verdicts of a real client.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId,
    InitProducerIdRequest, ProduceRequest, ProducerId, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::faults::Step;
use super::instance::Instance;
use super::records::{Origin, Plain, batch};
use super::world::name;
use crate::broker::wire::{Reply, Request};
use crate::lane::prepared::{OutputTopic, Prepared};
use crate::model::Topic;
use crate::stream::worker::event::Failure;

/// A step is tried again for so long, microseconds: as the transaction's time-out and a second.
const STEP_US: u64 = 3_000_000;

/// An answer is waited for so long.
const ANSWER_US: u64 = 1_000_000;

/// Between two tries.
const BACKOFF_US: u64 = 5_000;

pub const TRANSACTION_TIMEOUT_MS: i32 = 2_000;

pub struct Producer {
    transactional_id: TransactionalId,
    id: i64,
    epoch: i16,
    sequences: BTreeMap<(Topic, i32), i32>,
    /// Produced, and not yet sent.
    queued: BTreeMap<(Topic, i32), Vec<Plain>>,
}

/// What an answer's error code asks for.
enum Verdict {
    Done,
    Again,
    Failed(Failure),
}

fn verdict(code: i16) -> Verdict {
    use ResponseError as Error;
    const AGAIN: [Error; 6] = [
        Error::CoordinatorLoadInProgress,
        Error::CoordinatorNotAvailable,
        Error::NotCoordinator,
        Error::ConcurrentTransactions,
        Error::RequestTimedOut,
        Error::NotLeaderOrFollower,
    ];
    const FENCED: [Error; 2] = [Error::InvalidProducerEpoch, Error::ProducerFenced];
    const MEMBERSHIP: [Error; 3] =
        [Error::IllegalGeneration, Error::UnknownMemberId, Error::FencedInstanceId];
    const LOST: [Error; 2] = [Error::InvalidTxnState, Error::InvalidProducerIdMapping];
    let Some(error) = code.err() else { return Verdict::Done };
    let reason = format!("{error:?}");
    if AGAIN.contains(&error) {
        return Verdict::Again;
    }
    Verdict::Failed(if FENCED.contains(&error) {
        Failure::Fenced(reason)
    } else if MEMBERSHIP.contains(&error) {
        Failure::Membership(reason)
    } else if LOST.contains(&error) {
        Failure::Unknown(reason)
    } else {
        Failure::Abort(reason)
    })
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
        .await?;
        let (id, epoch) = given;
        let (sequences, queued) = (BTreeMap::new(), BTreeMap::new());
        Ok(Producer { transactional_id, id, epoch, sequences, queued })
    }

    /// Queues a batch's outputs.
    pub fn produce(&mut self, batch: &Prepared) {
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
        .await?;
        let mut topics: BTreeMap<Topic, Vec<PartitionProduceData>> = BTreeMap::new();
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
        step(instance, Step::Produce, Request::Produce(request), |reply| {
            let Reply::Produce(response) = reply else { return Vec::new() };
            response
                .responses
                .iter()
                .flat_map(|topic| &topic.partition_responses)
                .map(|partition| partition.error_code)
                .collect()
        })
        .await
    }

    pub async fn send_offsets(
        &self,
        instance: &Instance,
        batches: &[Arc<Prepared>],
        member_id: &str,
        generation: i32,
    ) -> Result<(), Failure> {
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
        .await?;
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
            .with_group_instance_id(Some(StrBytes::from_string(instance.name.clone())))
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
    }

    /// Ends the transaction. Where no answer came in time, its outcome is unknown.
    pub async fn end(&mut self, instance: &Instance, commit: bool) -> Result<(), Failure> {
        self.queued.clear();
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
            Err(Failure::Abort(reason)) => Err(Failure::Unknown(reason)),
            ended => ended,
        }
    }
}

/// Sends a request until its answer is good, is bad, or the step's time is over. A fault is met by one
/// of the tries.
async fn step(
    instance: &Instance,
    step: Step,
    request: Request,
    mut codes: impl FnMut(&Reply) -> Vec<i16>,
) -> Result<(), Failure> {
    let timeline = &instance.world.network.timeline;
    let deadline_us = timeline.now_us() + STEP_US;
    let mut fault = instance.world.faults.borrow_mut().next(step);
    loop {
        let reply = instance.send(request.clone(), ANSWER_US, fault.take()).await;
        if let Some(reply) = reply {
            let mut again = false;
            for code in codes(&reply) {
                match verdict(code) {
                    Verdict::Done => {}
                    Verdict::Again => again = true,
                    Verdict::Failed(failure) => return Err(failure),
                }
            }
            if !again {
                return Ok(());
            }
        }
        if timeline.now_us() >= deadline_us {
            return Err(Failure::Abort(format!("{}: no answer in time", step.name())));
        }
        timeline.sleep(BACKOFF_US).await;
    }
}
