//! Committed offsets, and those that wait for the end of a transaction.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::*;
use kafka_protocol::messages::offset_commit_response::*;
use kafka_protocol::messages::offset_fetch_response::*;
use kafka_protocol::messages::txn_offset_commit_response::*;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::membership::{Group, State};
use super::{Groups, code, owned};

/// UTF-16 units of an offset's metadata: the default `offset.metadata.max.bytes` of a broker, which
/// counts so in spite of its name.
const METADATA_LENGTH_MAX: usize = 4_096;

#[derive(Debug, Clone)]
struct Offset {
    offset: i64,
    leader_epoch: i32,
    metadata: StrBytes,
    /// Later ones are greater, pending or not: a transaction that ends does not bring an offset
    /// back that was committed meanwhile.
    number: u64,
}

type ByTopic = BTreeMap<String, BTreeMap<i32, Offset>>;

/// The offsets of a group. Each is of a partition that existed when it was committed.
#[derive(Debug, Default)]
pub struct Offsets {
    committed: ByTopic,
    /// By producer id.
    pending: BTreeMap<i64, ByTopic>,
    committed_count: u64,
}

impl Offsets {
    pub fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    /// A producer's transaction has ended.
    pub fn settle(&mut self, producer_id: i64, commit: bool) {
        let pending = self.pending.remove(&producer_id).filter(|_| commit).unwrap_or_default();
        for (topic, partitions) in pending {
            let committed = self.committed.entry(topic).or_default();
            for (partition, offset) in partitions {
                let present = committed.get(&partition);
                if present.is_none_or(|present| present.number < offset.number) {
                    committed.insert(partition, offset);
                }
            }
        }
    }

    /// The topic was deleted, and its offsets with it.
    pub fn forget_topic(&mut self, topic: &str) {
        self.committed.remove(topic);
        for pending in self.pending.values_mut() {
            pending.remove(topic);
        }
    }

    /// `producer_id` is that of the transaction, where there is one.
    fn put(
        &mut self,
        producer_id: Option<i64>,
        topic: &str,
        asked: &OffsetCommitRequestPartition,
    ) -> Result<(), ResponseError> {
        let metadata = asked.committed_metadata.as_ref();
        let length = metadata.map_or(0, |metadata| metadata.encode_utf16().count());
        if length > METADATA_LENGTH_MAX {
            return Err(ResponseError::OffsetMetadataTooLarge);
        }
        self.committed_count += 1;
        let offset = Offset {
            offset: asked.committed_offset,
            leader_epoch: asked.committed_leader_epoch,
            metadata: metadata.map(owned).unwrap_or_default(),
            number: self.committed_count,
        };
        let by_topic = match producer_id {
            Some(producer_id) => self.pending.entry(producer_id).or_default(),
            None => &mut self.committed,
        };
        by_topic.entry(topic.to_owned()).or_default().insert(asked.partition_index, offset);
        Ok(())
    }

    fn is_pending(&self, topic: &str, partition: i32) -> bool {
        let holds = |pending: &ByTopic| {
            pending.get(topic).is_some_and(|partitions| partitions.contains_key(&partition))
        };
        self.pending.values().any(holds)
    }

    fn fetch(&self, topic: &str, partition: i32, is_stable: bool) -> OffsetFetchResponsePartition {
        let none = OffsetFetchResponsePartition::default()
            .with_partition_index(partition)
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(StrBytes::default()));
        if is_stable && self.is_pending(topic, partition) {
            return none.with_error_code(ResponseError::UnstableOffsetCommit.code());
        }
        match self.committed.get(topic).and_then(|partitions| partitions.get(&partition)) {
            Some(offset) => none
                .with_committed_offset(offset.offset)
                .with_committed_leader_epoch(offset.leader_epoch)
                .with_metadata(Some(offset.metadata.clone())),
            None => none,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Transaction {
    producer_id: i64,
    /// Whether it is one that may commit the group's offsets.
    allowed: Result<(), ResponseError>,
}

/// Offsets of a group; one that is not there has none. Those that are pending and were never
/// committed are found by name only, as on a broker.
pub fn fetch(group: Option<&Group>, request: &OffsetFetchRequest) -> OffsetFetchResponse {
    let none = Offsets::default();
    let offsets = group.map_or(&none, |group| &group.offsets);
    let topic = |name: &TopicName, partitions: &mut dyn Iterator<Item = i32>| {
        let fetch = |partition| offsets.fetch(name, partition, request.require_stable);
        OffsetFetchResponseTopic::default()
            .with_name(name.clone())
            .with_partitions(partitions.map(fetch).collect())
    };
    let topics = match &request.topics {
        Some(topics) => topics
            .iter()
            .map(|asked| topic(&asked.name, &mut asked.partition_indexes.iter().copied()))
            .collect(),
        None => offsets
            .committed
            .iter()
            .map(|(name, partitions)| {
                let name = TopicName(StrBytes::from_string(name.clone()));
                topic(&name, &mut partitions.keys().copied())
            })
            .collect(),
    };
    OffsetFetchResponse::default().with_topics(topics)
}

impl Group {
    /// # Errors
    /// Why this member, or whoever is none, may not commit now.
    fn validate_commit(
        &self,
        request: &OffsetCommitRequest,
        is_transactional: bool,
    ) -> Result<(), ResponseError> {
        let (id, instance_id) = (&request.member_id, request.group_instance_id.as_ref());
        let generation = request.generation_id_or_member_epoch;
        if generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if generation >= 0 || !id.is_empty() || instance_id.is_some() {
            self.validate_generation(id, instance_id, generation)?;
        } else if !is_transactional {
            return Err(ResponseError::UnknownMemberId);
        }
        if !is_transactional && self.state == State::CompletingRebalance {
            return Err(ResponseError::RebalanceInProgress);
        }
        Ok(())
    }
}

impl Groups {
    /// Commits where `exists` says that there is such a partition.
    pub(super) fn commit_where(
        &mut self,
        now_ms: i64,
        request: &OffsetCommitRequest,
        exists: impl Fn(&str, i32) -> bool,
    ) -> OffsetCommitResponse {
        self.put_all(now_ms, request, None, exists)
    }

    /// Commits pending the transaction, if `allowed`.
    pub(super) fn commit_in_transaction_where(
        &mut self,
        now_ms: i64,
        request: &TxnOffsetCommitRequest,
        exists: impl Fn(&str, i32) -> bool,
        allowed: Result<(), ResponseError>,
    ) -> TxnOffsetCommitResponse {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                OffsetCommitRequestPartition::default()
                    .with_partition_index(asked.partition_index)
                    .with_committed_offset(asked.committed_offset)
                    .with_committed_leader_epoch(asked.committed_leader_epoch)
                    .with_committed_metadata(asked.committed_metadata.clone())
            });
            OffsetCommitRequestTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        let plain = OffsetCommitRequest::default()
            .with_group_id(request.group_id.clone())
            .with_generation_id_or_member_epoch(request.generation_id)
            .with_member_id(request.member_id.clone())
            .with_group_instance_id(request.group_instance_id.clone())
            .with_topics(topics.collect());
        let transaction = Transaction { producer_id: request.producer_id.0, allowed };
        let answered = self.put_all(now_ms, &plain, Some(transaction), exists);
        let topics = answered.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|answer| {
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(answer.partition_index)
                    .with_error_code(answer.error_code)
            });
            TxnOffsetCommitResponseTopic::default()
                .with_name(topic.name)
                .with_partitions(partitions.collect())
        });
        TxnOffsetCommitResponse::default().with_topics(topics.collect())
    }

    fn put_all(
        &mut self,
        now_ms: i64,
        request: &OffsetCommitRequest,
        transaction: Option<Transaction>,
        exists: impl Fn(&str, i32) -> bool,
    ) -> OffsetCommitResponse {
        let is_any_known = request.topics.iter().any(|topic| {
            topic.partitions.iter().any(|asked| exists(&topic.name, asked.partition_index))
        });
        // Where no partition exists, the group is not asked, nor created.
        let mut group = Err(ResponseError::UnknownTopicOrPartition);
        if is_any_known {
            group = self.group_to_commit(now_ms, request, transaction);
        }
        let producer_id = transaction.map(|transaction| transaction.producer_id);
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|asked| {
                let result = if !exists(&topic.name, asked.partition_index) {
                    Err(ResponseError::UnknownTopicOrPartition)
                } else {
                    let group = group.as_mut().map_err(|error| *error);
                    group.and_then(|group| group.offsets.put(producer_id, &topic.name, asked))
                };
                OffsetCommitResponsePartition::default()
                    .with_partition_index(asked.partition_index)
                    .with_error_code(code(result))
            });
            OffsetCommitResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect())
        });
        OffsetCommitResponse::default().with_topics(topics.collect())
    }

    /// A group that is not there is created for who does not claim to be its member. To commit
    /// keeps a member's session, but not in a transaction.
    fn group_to_commit(
        &mut self,
        now_ms: i64,
        request: &OffsetCommitRequest,
        transaction: Option<Transaction>,
    ) -> Result<&mut Group, ResponseError> {
        let id = request.group_id.as_str();
        if let Some(transaction) = transaction {
            if id.is_empty() {
                return Err(ResponseError::InvalidGroupId);
            }
            transaction.allowed?;
        }
        if !self.groups.contains_key(id) {
            if request.generation_id_or_member_epoch >= 0 {
                return Err(ResponseError::IllegalGeneration);
            }
            self.create(id)?;
        }
        let group = self.groups.get_mut(id).ok_or(ResponseError::UnknownServerError)?;
        group.validate_commit(request, transaction.is_some())?;
        if transaction.is_none() {
            group.extend_session(now_ms, &request.member_id);
            self.due_ms = self.due_ms.into_iter().chain(group.due_ms()).min();
        }
        Ok(group)
    }
}
