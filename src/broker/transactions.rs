//! Producer ids, their epochs, and transactions: the transaction coordinator of KIP-98, with the epochs
//! of KIP-360, as it serves clients of the first transaction protocol.
//!
//! Markers are written at once, so the states between "prepared" and "completed" do not exist here.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::*;

use super::groups::Groups;
use super::topics::Topics;

/// `transaction.max.timeout.ms` of a broker by default.
const TIMEOUT_MS_MAX: i32 = 900_000;

/// Transactional ids that are remembered: far more than any test or demonstration has. The one that
/// has rested longest is forgotten first.
const PRODUCERS_MAX: usize = 10_000;

/// No producer id, and no epoch.
const NONE: i64 = -1;
const NO_EPOCH: i16 = -1;

#[derive(Debug, Default)]
pub struct Transactions {
    producers: BTreeMap<String, Producer>,
    /// The transactional id of a producer id.
    by_id: BTreeMap<i64, String>,
    last_id: i64,
}

#[derive(Debug)]
struct Producer {
    id: i64,
    epoch: i16,
    /// The epoch before, where its owner asked for the present one itself.
    last_epoch: i16,
    timeout_ms: i32,
    open: Option<Transaction>,
    /// Whether the last transaction was committed: the answer to its `EndTxn` may have been lost.
    committed: Option<bool>,
    changed_ms: i64,
}

#[derive(Debug, Default)]
struct Transaction {
    begun_ms: i64,
    partitions: BTreeSet<(String, i32)>,
    groups: BTreeSet<String>,
}

impl Transactions {
    /// Gives a producer its id and epoch; a transactional one fences its predecessor, whose open
    /// transaction is aborted first: the client is to ask again after that.
    pub fn init(
        &mut self,
        now_ms: i64,
        topics: &mut Topics,
        groups: &mut Groups,
        version: i16,
        request: &InitProducerIdRequest,
    ) -> InitProducerIdResponse {
        let response = InitProducerIdResponse::default();
        match self.give(now_ms, topics, groups, request) {
            Ok((id, epoch)) => response.with_producer_id(ProducerId(id)).with_producer_epoch(epoch),
            Err(error) => response
                .with_error_code(for_version(error, version, 4).code())
                .with_producer_id(ProducerId(NONE))
                .with_producer_epoch(NO_EPOCH),
        }
    }

    fn give(
        &mut self,
        now_ms: i64,
        topics: &mut Topics,
        groups: &mut Groups,
        request: &InitProducerIdRequest,
    ) -> Result<(i64, i16), ResponseError> {
        let Some(name) = &request.transactional_id else { return Ok((self.next_id(), 0)) };
        if name.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        if !(1..=TIMEOUT_MS_MAX).contains(&request.transaction_timeout_ms) {
            return Err(ResponseError::InvalidTransactionTimeout);
        }
        if !self.producers.contains_key(name.as_str()) {
            self.make_room();
            let id = self.next_id();
            self.by_id.insert(id, name.to_string());
            let fresh = Producer {
                id,
                epoch: NO_EPOCH,
                last_epoch: NO_EPOCH,
                timeout_ms: request.transaction_timeout_ms,
                open: None,
                committed: None,
                changed_ms: now_ms,
            };
            self.producers.insert(name.to_string(), fresh);
        }
        let next_id = self.last_id + 1;
        let Some(producer) = self.producers.get_mut(name.as_str()) else {
            return Err(ResponseError::UnknownServerError);
        };
        let expected = (request.producer_id.0 != NONE)
            .then_some((request.producer_id.0, request.producer_epoch));
        if let Some((id, _)) = expected
            && producer.epoch != NO_EPOCH
            && id != producer.id
        {
            return Err(ResponseError::ProducerFenced);
        }
        if producer.open.is_some() {
            // This epoch is nobody's: the one who asks again gets the next.
            producer.fence(now_ms, topics, groups);
            return Err(ResponseError::ConcurrentTransactions);
        }
        match expected {
            Some((_, epoch)) if producer.epoch != NO_EPOCH && epoch != producer.epoch => {
                // Its answer was lost, or somebody else has come since.
                return if epoch == producer.last_epoch {
                    Ok((producer.id, producer.epoch))
                } else {
                    Err(ResponseError::ProducerFenced)
                };
            }
            Some(_) => producer.last_epoch = producer.epoch,
            None => producer.last_epoch = NO_EPOCH,
        }
        producer.timeout_ms = request.transaction_timeout_ms;
        producer.committed = None;
        producer.changed_ms = now_ms;
        if producer.epoch >= i16::MAX - 1 {
            self.by_id.remove(&producer.id);
            self.by_id.insert(next_id, name.to_string());
            (producer.id, producer.epoch) = (next_id, 0);
            self.last_id = next_id;
        } else {
            producer.epoch += 1;
        }
        Ok((producer.id, producer.epoch))
    }

    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn make_room(&mut self) {
        if self.producers.len() < PRODUCERS_MAX {
            return;
        }
        let resting = self.producers.iter().filter(|(_, producer)| producer.open.is_none());
        let oldest = resting.min_by_key(|(_, producer)| producer.changed_ms);
        if let Some((name, id)) = oldest.map(|(name, producer)| (name.clone(), producer.id)) {
            self.producers.remove(&name);
            self.by_id.remove(&id);
        }
    }

    pub fn add_partitions(
        &mut self,
        now_ms: i64,
        topics: &Topics,
        request: &AddPartitionsToTxnRequest,
    ) -> AddPartitionsToTxnResponse {
        let asked = &request.v3_and_below_topics;
        let partitions = || {
            asked.iter().flat_map(|topic| {
                topic.partitions.iter().map(|partition| (topic.name.to_string(), *partition))
            })
        };
        let exists = |topic: &str, partition| topics.log(topic, partition).is_some();
        let all_exist = partitions().all(|(topic, partition)| exists(&topic, partition));
        let added = if all_exist {
            self.producer_mut(
                &request.v3_and_below_transactional_id,
                request.v3_and_below_producer_id.0,
                request.v3_and_below_producer_epoch,
            )
            .map(|producer| producer.transaction(now_ms).partitions.extend(partitions()))
        } else {
            Err(ResponseError::OperationNotAttempted)
        };
        let code_of = |topic: &str, partition| match added {
            Ok(()) => 0,
            Err(_) if !exists(topic, partition) => ResponseError::UnknownTopicOrPartition.code(),
            Err(error) => for_version(error, 0, 2).code(),
        };
        let results = asked.iter().map(|topic| {
            let results = topic.partitions.iter().map(|partition| {
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*partition)
                    .with_partition_error_code(code_of(&topic.name, *partition))
            });
            AddPartitionsToTxnTopicResult::default()
                .with_name(topic.name.clone())
                .with_results_by_partition(results.collect())
        });
        AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(results.collect())
    }

    pub fn add_offsets(
        &mut self,
        now_ms: i64,
        request: &AddOffsetsToTxnRequest,
    ) -> AddOffsetsToTxnResponse {
        let group = request.group_id.to_string();
        let added = self
            .producer_mut(&request.transactional_id, request.producer_id.0, request.producer_epoch)
            .map(|producer| producer.transaction(now_ms).groups.insert(group));
        let code = added.map_or_else(|error| for_version(error, 0, 2).code(), |_| 0);
        AddOffsetsToTxnResponse::default().with_error_code(code)
    }

    /// Ends a transaction. One that has ended the same way already is ended again without effect.
    pub fn end(
        &mut self,
        now_ms: i64,
        topics: &mut Topics,
        groups: &mut Groups,
        request: &EndTxnRequest,
    ) -> EndTxnResponse {
        let commit = request.committed;
        let ended = self
            .producer_mut(&request.transactional_id, request.producer_id.0, request.producer_epoch)
            .and_then(|producer| {
                if producer.open.is_some() {
                    producer.finish(now_ms, topics, groups, commit);
                }
                let is_so = producer.committed == Some(commit);
                if is_so { Ok(()) } else { Err(ResponseError::InvalidTxnState) }
            });
        let code = ended.map_or_else(|error| for_version(error, 0, 2).code(), |()| 0);
        EndTxnResponse::default().with_error_code(code)
    }

    /// Aborts transactions whose time is over, and fences their producers.
    pub fn advance(&mut self, now_ms: i64, topics: &mut Topics, groups: &mut Groups) {
        for producer in self.producers.values_mut() {
            if producer.ends_ms().is_some_and(|at| at <= now_ms) {
                producer.fence(now_ms, topics, groups);
            }
        }
    }

    /// When the next transaction's time is over.
    pub fn due_ms(&self) -> Option<i64> {
        self.producers.values().filter_map(Producer::ends_ms).min()
    }

    /// Whether a transactional batch of this producer may be appended: its transaction is open, and
    /// the partition was added to it (KIP-890, part 1).
    pub fn may_write(
        &self,
        producer_id: i64,
        epoch: i16,
        topic: &str,
        partition: i32,
    ) -> Result<(), ResponseError> {
        let producer = self.by_id.get(&producer_id).and_then(|name| self.producers.get(name));
        let producer = producer.ok_or(ResponseError::InvalidProducerIdMapping)?;
        if producer.epoch != epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        let partition = (topic.to_owned(), partition);
        let open = producer.open.as_ref();
        let is_added = open.is_some_and(|open| open.partitions.contains(&partition));
        if is_added { Ok(()) } else { Err(ResponseError::InvalidTxnState) }
    }

    /// Whether this producer may commit the group's offsets in its transaction.
    pub fn may_commit_offsets(
        &self,
        transactional_id: &str,
        producer_id: i64,
        epoch: i16,
        group: &str,
    ) -> Result<(), ResponseError> {
        let producer = self.producers.get(transactional_id);
        let producer = producer
            .filter(|producer| producer.id == producer_id)
            .ok_or(ResponseError::InvalidProducerIdMapping)?;
        if producer.epoch != epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        let is_added = producer.open.as_ref().is_some_and(|open| open.groups.contains(group));
        if is_added { Ok(()) } else { Err(ResponseError::InvalidTxnState) }
    }

    fn producer_mut(
        &mut self,
        transactional_id: &str,
        id: i64,
        epoch: i16,
    ) -> Result<&mut Producer, ResponseError> {
        if transactional_id.is_empty() {
            return Err(ResponseError::InvalidRequest);
        }
        let producer = self.producers.get_mut(transactional_id);
        let producer = producer
            .filter(|producer| producer.id == id)
            .ok_or(ResponseError::InvalidProducerIdMapping)?;
        if producer.epoch == epoch { Ok(producer) } else { Err(ResponseError::ProducerFenced) }
    }
}

impl Producer {
    fn ends_ms(&self) -> Option<i64> {
        let open = self.open.as_ref()?;
        Some(open.begun_ms.saturating_add(i64::from(self.timeout_ms)))
    }

    /// The open transaction, which begins with the first thing that is added to it.
    fn transaction(&mut self, now_ms: i64) -> &mut Transaction {
        let begin = || Transaction { begun_ms: now_ms, ..Transaction::default() };
        self.open.get_or_insert_with(begin)
    }

    /// Aborts what is open, in the next epoch. Its owner may go on in that one, as who it was, until
    /// somebody else comes.
    fn fence(&mut self, now_ms: i64, topics: &mut Topics, groups: &mut Groups) {
        self.last_epoch = self.epoch;
        self.epoch = self.epoch.saturating_add(1);
        self.finish(now_ms, topics, groups, false);
    }

    fn finish(&mut self, now_ms: i64, topics: &mut Topics, groups: &mut Groups, commit: bool) {
        let Some(open) = self.open.take() else { return };
        self.committed = Some(commit);
        self.changed_ms = now_ms;
        for (topic, partition) in &open.partitions {
            // A topic that was deleted meanwhile needs no marker.
            if let Some(log) = topics.log_mut(topic, *partition) {
                log.append_marker(now_ms, self.id, self.epoch, commit);
            }
        }
        for group in &open.groups {
            groups.settle(group, self.id, commit);
        }
    }
}

/// Clients of an older version know a fenced producer by another code.
fn for_version(error: ResponseError, version: i16, known_from: i16) -> ResponseError {
    if error == ResponseError::ProducerFenced && version < known_from {
        ResponseError::InvalidProducerEpoch
    } else {
        error
    }
}
