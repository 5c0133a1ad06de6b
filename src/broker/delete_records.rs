//! DeleteRecords.

#[cfg(test)]
mod tests;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::once;
use super::topics::Topics;

pub fn delete_records(
    topics: &mut Topics,
    request: &DeleteRecordsRequest,
) -> DeleteRecordsResponse {
    let mut results = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for (asked, again) in once(&topic.partitions, |asked| asked.partition_index) {
            let deleted = if again {
                Err(ResponseError::InvalidRequest)
            } else {
                topics.delete_before(&topic.name, asked.partition_index, asked.offset)
            };
            let result =
                DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            partitions.push(match deleted {
                Ok(start_offset) => result.with_low_watermark(start_offset),
                Err(code) => result.with_low_watermark(-1).with_error_code(code.code()),
            });
        }
        results.push(
            DeleteRecordsTopicResult::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions),
        );
    }
    DeleteRecordsResponse::default().with_topics(results)
}
