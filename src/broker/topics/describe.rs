//! DescribeConfigs.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;

use super::super::NODE;
use super::Topics;
use super::config::BROKER;

const TOPIC_RESOURCE: i8 = 2;
const BROKER_RESOURCE: i8 = 4;

const OF_TOPIC: i8 = 1;
const DEFAULT: i8 = 5;

impl Topics {
    pub fn describe_configs(&self, request: &DescribeConfigsRequest) -> DescribeConfigsResponse {
        let results = request.resources.iter().map(|resource| {
            let result = DescribeConfigsResult::default()
                .with_resource_type(resource.resource_type)
                .with_resource_name(resource.resource_name.clone());
            match self.entries(resource, request.include_synonyms) {
                Ok(mut entries) => {
                    // Nothing asked for is everything.
                    let wanted = resource.configuration_keys.as_deref().unwrap_or_default();
                    entries.retain(|entry| wanted.is_empty() || wanted.contains(&entry.name));
                    result.with_configs(entries)
                }
                Err((code, text)) => result
                    .with_error_code(code.code())
                    .with_error_message(Some(StrBytes::from_string(text))),
            }
        });
        DescribeConfigsResponse::default().with_results(results.collect())
    }

    fn entries(
        &self,
        resource: &DescribeConfigsResource,
        with_synonyms: bool,
    ) -> Result<Vec<DescribeConfigsResourceResult>, (ResponseError, String)> {
        let name = resource.resource_name.as_str();
        let entry = |name: &'static str, value: &str, default: &'static str, given: bool| {
            let own = given.then_some((OF_TOPIC, value));
            let synonyms = own.into_iter().chain([(DEFAULT, default)]);
            let synonyms = synonyms.filter(|_| with_synonyms).map(|(source, value)| {
                DescribeConfigsSynonym::default()
                    .with_name(StrBytes::from_static_str(name))
                    .with_value(Some(StrBytes::from_string(value.to_owned())))
                    .with_source(source)
            });
            DescribeConfigsResourceResult::default()
                .with_name(StrBytes::from_static_str(name))
                .with_value(Some(StrBytes::from_string(value.to_owned())))
                .with_config_source(if given { OF_TOPIC } else { DEFAULT })
                .with_synonyms(synonyms.collect())
        };
        match resource.resource_type {
            TOPIC_RESOURCE => {
                super::names::check(name)
                    .map_err(|text| (ResponseError::InvalidTopicException, text))?;
                let topic = self
                    .topics
                    .get(name)
                    .ok_or_else(|| (ResponseError::UnknownTopicOrPartition, String::new()))?;
                let entries = topic.config.entries();
                Ok(entries
                    .map(|(name, value, default, given)| entry(name, value, default, given))
                    .collect())
            }
            BROKER_RESOURCE if name.is_empty() || name == NODE.0.to_string() => {
                let entries = BROKER.iter();
                Ok(entries.map(|(name, value)| entry(name, value, value, false)).collect())
            }
            BROKER_RESOURCE if name.parse::<i32>().is_err() => Err((
                ResponseError::InvalidRequest,
                format!("Broker id must be an integer, but it is: {name}"),
            )),
            BROKER_RESOURCE => Err((
                ResponseError::InvalidRequest,
                format!(
                    "Unexpected broker id, expected {} or empty string, but received {name}",
                    NODE.0
                ),
            )),
            other => {
                Err((ResponseError::InvalidRequest, format!("Unsupported resource type: {other}")))
            }
        }
    }
}
