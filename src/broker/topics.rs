//! Topics: their partitions and settings.

use kafka_protocol::messages::*;

use super::Settings;
use super::log::Log;

#[derive(Debug)]
pub struct Topics {}

impl Topics {
    pub fn new(_settings: &Settings) -> Self {
        Topics {}
    }
    pub fn log(&self, _topic: &str, _partition: i32) -> Option<&Log> {
        unimplemented!()
    }
    pub fn log_mut(&mut self, _topic: &str, _partition: i32) -> Option<&mut Log> {
        unimplemented!()
    }
    /// Creates topics that are asked for by name, where the request allows it.
    pub fn metadata(
        &mut self,
        _now_ms: i64,
        _settings: &Settings,
        _version: i16,
        _request: MetadataRequest,
    ) -> MetadataResponse {
        unimplemented!()
    }
    pub fn create(&mut self, _now_ms: i64, _request: CreateTopicsRequest) -> CreateTopicsResponse {
        unimplemented!()
    }
    pub fn delete(&mut self, _request: &DeleteTopicsRequest) -> DeleteTopicsResponse {
        unimplemented!()
    }
    pub fn create_partitions(
        &mut self,
        _request: &CreatePartitionsRequest,
    ) -> CreatePartitionsResponse {
        unimplemented!()
    }
    pub fn describe_configs(&self, _request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
        unimplemented!()
    }
    /// Compacts and evicts.
    pub fn keep_bounds(&mut self, _now_ms: i64) {
        unimplemented!()
    }
}
