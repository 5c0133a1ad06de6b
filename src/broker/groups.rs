//! Consumer groups: the classic protocol.

use kafka_protocol::messages::*;

use super::topics::Topics;
use super::transactions::Transactions;
use super::{Replies, Ticket};

#[derive(Debug)]
pub struct Groups {}

impl Groups {
    pub fn new(_initial_rebalance_delay_ms: i64) -> Self {
        Groups {}
    }
    pub fn join(
        &mut self,
        _now_ms: i64,
        _ticket: Ticket,
        _client_id: &str,
        _version: i16,
        _request: JoinGroupRequest,
        _replies: &mut Replies,
    ) {
        unimplemented!()
    }
    pub fn sync(
        &mut self,
        _now_ms: i64,
        _ticket: Ticket,
        _request: SyncGroupRequest,
        _replies: &mut Replies,
    ) {
        unimplemented!()
    }
    pub fn heartbeat(&mut self, _now_ms: i64, _request: &HeartbeatRequest) -> HeartbeatResponse {
        unimplemented!()
    }
    pub fn leave(
        &mut self,
        _now_ms: i64,
        _request: LeaveGroupRequest,
        _replies: &mut Replies,
    ) -> LeaveGroupResponse {
        unimplemented!()
    }
    pub fn commit(
        &mut self,
        _now_ms: i64,
        _topics: &Topics,
        _request: &OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        unimplemented!()
    }
    pub fn committed(&self, _request: &OffsetFetchRequest) -> OffsetFetchResponse {
        unimplemented!()
    }
    pub fn list(&self, _request: &ListGroupsRequest) -> ListGroupsResponse {
        unimplemented!()
    }
    pub fn describe(&self, _request: &DescribeGroupsRequest) -> DescribeGroupsResponse {
        unimplemented!()
    }
    /// Offsets that take effect when the producer's transaction is committed.
    pub fn commit_in_transaction(
        &mut self,
        _now_ms: i64,
        _topics: &Topics,
        _transactions: &Transactions,
        _request: &TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        unimplemented!()
    }
    /// The producer's transaction has ended: its pending offsets in this group take effect, or are gone.
    pub fn settle(&mut self, _group: &str, _producer_id: i64, _commit: bool) {
        unimplemented!()
    }
    /// Ends sessions and rebalances whose time is over.
    pub fn advance(&mut self, _now_ms: i64, _replies: &mut Replies) {
        unimplemented!()
    }
    pub fn due_ms(&self) -> Option<i64> {
        unimplemented!()
    }
    /// The connection that waits is gone.
    pub fn forget(&mut self, _ticket: Ticket) {
        unimplemented!()
    }
}
