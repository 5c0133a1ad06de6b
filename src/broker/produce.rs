//! Produce.

use kafka_protocol::messages::{ProduceRequest, ProduceResponse};

use super::topics::Topics;
use super::transactions::Transactions;

/// `None` for `acks=0`.
pub fn produce(
    _topics: &mut Topics,
    _transactions: &Transactions,
    _now_ms: i64,
    _request: ProduceRequest,
) -> Option<ProduceResponse> {
    unimplemented!()
}
