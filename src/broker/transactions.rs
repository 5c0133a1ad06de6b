//! Producer ids, their epochs, and transactions.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;

use super::groups::Groups;
use super::topics::Topics;

#[derive(Debug, Default)]
pub struct Transactions {}

impl Transactions {
    pub fn init(&mut self, _now_ms: i64, _topics: &mut Topics, _groups: &mut Groups, _request: &InitProducerIdRequest) -> InitProducerIdResponse {
        unimplemented!()
    }
    pub fn add_partitions(&mut self, _now_ms: i64, _topics: &Topics, _request: &AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse {
        unimplemented!()
    }
    pub fn add_offsets(&mut self, _now_ms: i64, _request: &AddOffsetsToTxnRequest) -> AddOffsetsToTxnResponse {
        unimplemented!()
    }
    pub fn end(&mut self, _now_ms: i64, _topics: &mut Topics, _groups: &mut Groups, _request: &EndTxnRequest) -> EndTxnResponse {
        unimplemented!()
    }
    /// Aborts transactions whose time is over.
    pub fn advance(&mut self, _now_ms: i64, _topics: &mut Topics, _groups: &mut Groups) {
        unimplemented!()
    }
    pub fn due_ms(&self) -> Option<i64> {
        unimplemented!()
    }
    /// Whether a transactional batch of this producer may be appended: its transaction is open, and
    /// the partition was added to it.
    pub fn may_write(&self, _producer_id: i64, _epoch: i16, _topic: &str, _partition: i32) -> Result<(), ResponseError> {
        unimplemented!()
    }
    /// Whether this producer may commit the group's offsets in its transaction.
    pub fn may_commit_offsets(&self, _transactional_id: &str, _producer_id: i64, _epoch: i16, _group: &str) -> Result<(), ResponseError> {
        unimplemented!()
    }
}
