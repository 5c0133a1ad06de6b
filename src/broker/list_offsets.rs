//! ListOffsets.

use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::topics::Topics;

pub fn list_offsets(_topics: &Topics, _request: &ListOffsetsRequest) -> ListOffsetsResponse {
    unimplemented!()
}
