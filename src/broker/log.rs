//! One partition's log.

use bytes::Bytes;
use kafka_protocol::ResponseError;

#[derive(Debug)]
pub struct Log {}

impl Log {
    /// Appends a marker that ends a producer's transaction here.
    pub fn append_marker(&mut self, _now_ms: i64, _producer_id: i64, _epoch: i16, _commit: bool) {
        unimplemented!()
    }
}
#[expect(dead_code)]
fn unused(_: Bytes, _: ResponseError) {}
