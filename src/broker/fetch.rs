//! Fetch, with requests that wait for records.

use kafka_protocol::messages::FetchRequest;

use super::topics::Topics;
use super::{Replies, Ticket};

#[derive(Debug, Default)]
pub struct Fetches {}

impl Fetches {
    pub fn fetch(
        &mut self,
        _topics: &Topics,
        _now_ms: i64,
        _ticket: Ticket,
        _version: i16,
        _request: FetchRequest,
        _replies: &mut Replies,
    ) {
        unimplemented!()
    }
    /// Answers those that have waited enough, or have got enough.
    pub fn wake(&mut self, _topics: &Topics, _now_ms: i64, _replies: &mut Replies) {
        unimplemented!()
    }
    pub fn due_ms(&self) -> Option<i64> {
        unimplemented!()
    }
    pub fn forget(&mut self, _ticket: Ticket) {
        unimplemented!()
    }
}
