//! ListOffsets.

#[cfg(test)]
mod tests;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::log::{Isolation, Log};
use super::once;
use super::topics::Topics;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const NEWEST: i64 = -3;

pub fn list_offsets(
    topics: &Topics,
    version: i16,
    request: &ListOffsetsRequest,
) -> ListOffsetsResponse {
    let isolation = Isolation::from(request.isolation_level);
    let listed = request.topics.iter().map(|topic| {
        let partitions = once(&topic.partitions, |asked| asked.partition_index);
        let partitions = partitions.map(|(asked, again)| {
            let log = topics.log(&topic.name, asked.partition_index);
            let response =
                ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            let found = if again {
                Err(ResponseError::InvalidRequest)
            } else {
                find(log, isolation, asked)
            };
            match found {
                Ok((offset, timestamp_ms)) => {
                    let known_epoch = version >= 4 && offset >= 0;
                    response
                        .with_offset(offset)
                        .with_timestamp(timestamp_ms)
                        .with_leader_epoch(if known_epoch { 0 } else { -1 })
                }
                Err(code) => response.with_error_code(code.code()),
            }
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    ListOffsetsResponse::default().with_topics(listed.collect())
}

/// Offset and timestamp; -1 for what is not there.
fn find(
    log: Option<&Log>,
    isolation: Isolation,
    asked: &ListOffsetsPartition,
) -> Result<(i64, i64), ResponseError> {
    let log = log.ok_or(ResponseError::UnknownTopicOrPartition)?;
    // The one leader's epoch is 0.
    if asked.current_leader_epoch > 0 {
        return Err(ResponseError::UnknownLeaderEpoch);
    }
    let end = log.visible_end(isolation);
    let found = match asked.timestamp {
        LATEST => return Ok((end, -1)),
        EARLIEST => return Ok((log.start_offset(), -1)),
        NEWEST => log.newest(),
        // Tiers there are none.
        other if other < 0 => return Err(ResponseError::UnsupportedVersion),
        timestamp_ms => log.first_since(timestamp_ms),
    };
    Ok(found.filter(|(offset, _)| *offset < end).unwrap_or((-1, -1)))
}
