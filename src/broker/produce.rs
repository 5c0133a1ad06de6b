//! Produce.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use kafka_protocol::protocol::StrBytes;

use super::batch::{Batch, BatchError, RawRecord};
use super::log::{Appended, Log};
use super::topics::{TopicConfig, Topics};
use super::transactions::Transactions;

/// Why a partition's batch is not there.
struct Refusal {
    code: ResponseError,
    text: Option<String>,
    /// Of the log that was looked at; else -1.
    start_offset: i64,
    /// The records that it is for, where it is not for the batch.
    records: Vec<i32>,
}

impl From<ResponseError> for Refusal {
    fn from(code: ResponseError) -> Self {
        Refusal { code, text: None, start_offset: -1, records: Vec::new() }
    }
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        Refusal { text: Some(error.to_string()), ..error.code().into() }
    }
}

impl Refusal {
    /// As Kafka: these it finds before it comes to the log.
    fn at(self, log: &Log) -> Self {
        let early = [ResponseError::CorruptMessage, ResponseError::MessageTooLarge];
        if early.contains(&self.code) {
            self
        } else {
            Refusal { start_offset: log.start_offset(), ..self }
        }
    }
}

/// `None` for `acks=0`.
pub fn produce(
    topics: &mut Topics,
    transactions: &Transactions,
    now_ms: i64,
    request: ProduceRequest,
) -> Option<ProduceResponse> {
    let acks = request.acks;
    let is_named = request.transactional_id.is_some();
    let responses = request.topic_data.into_iter().map(|topic| {
        let partitions = topic.partition_data.into_iter().map(|partition| {
            let appended = if [-1, 0, 1].contains(&acks) {
                let records = partition.records.unwrap_or_default();
                let to = (topic.name.as_str(), partition.index);
                append(topics, transactions, now_ms, is_named, to, &records)
            } else {
                Err(ResponseError::InvalidRequiredAcks.into())
            };
            let response = PartitionProduceResponse::default().with_index(partition.index);
            match appended {
                Ok(appended) => {
                    let log = topics.log(&topic.name, partition.index);
                    response
                        .with_base_offset(appended.base_offset)
                        .with_log_append_time_ms(appended.log_append_time_ms)
                        .with_log_start_offset(log.map_or(-1, |log| log.start_offset()))
                }
                Err(Refusal { code, text, start_offset, records }) => {
                    let text = text.map(StrBytes::from_string);
                    let records = records.into_iter().map(|index| {
                        BatchIndexAndErrorMessage::default()
                            .with_batch_index(index)
                            .with_batch_index_error_message(text.clone())
                    });
                    response
                        .with_error_code(code.code())
                        .with_base_offset(-1)
                        .with_log_start_offset(start_offset)
                        .with_record_errors(records.collect())
                        .with_error_message(text.clone())
                }
            }
        });
        let partitions = partitions.collect();
        TopicProduceResponse::default().with_name(topic.name).with_partition_responses(partitions)
    });
    let response = ProduceResponse::default().with_responses(responses.collect());
    (acks != 0).then_some(response)
}

fn append(
    topics: &mut Topics,
    transactions: &Transactions,
    now_ms: i64,
    is_named: bool,
    (topic, partition): (&str, i32),
    records: &Bytes,
) -> Result<Appended, Refusal> {
    let unknown = ResponseError::UnknownTopicOrPartition;
    let id = topics.id(topic, partition).ok_or(unknown)?;
    let (log, config) = topics.by_id(id).zip(topics.config(topic)).ok_or(unknown)?;
    let batch = Batch::produced(records)?;
    let header = batch.header();
    if header.is_transactional() && !is_named {
        return Err(ResponseError::TransactionalIdAuthorizationFailed.into());
    }
    // As Kafka: the coordinator is asked for the first batch of a transaction only.
    if header.is_transactional() && !log.in_transaction(header.producer_id, header.producer_epoch) {
        transactions.may_write(header.producer_id, header.producer_epoch, topic, partition)?;
    }
    let known = look(&batch, now_ms, log, config, topics.batch_bytes_max());
    match known.map_err(|refusal| refusal.at(log))? {
        Some(duplicate) => Ok(duplicate),
        None => Ok(topics.append(now_ms, id, &batch)?),
    }
}

/// Whether a batch may be appended; where it is already there, `Some`.
fn look(
    batch: &Batch,
    now_ms: i64,
    log: &Log,
    config: &TopicConfig,
    bytes_max: usize,
) -> Result<Option<Appended>, Refusal> {
    batch.check(config.batch_bytes_max.min(bytes_max))?;
    if config.compaction.is_some() {
        batch.check_keys().map_err(|error| {
            let of_records = error == BatchError::KeyMissing;
            let is_so = |record: &RawRecord| of_records && record.key.is_none();
            Refusal { records: batch.records_where(is_so), ..error.into() }
        })?;
    }
    let header = batch.header();
    let latest_ms = now_ms.saturating_add(config.timestamp_after_ms_max);
    if header.max_timestamp_ms > latest_ms && !config.stamps {
        let records = batch.records_where(|record| record.timestamp_ms(header) > latest_ms);
        return Err(Refusal { records, ..BatchError::Timestamp.into() });
    }
    Ok(log.check(header)?)
}
