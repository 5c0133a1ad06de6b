//! CreateTopics, CreatePartitions, DeleteTopics.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::super::log::Log;
use super::super::once;
use super::{LogId, Partition, Topic, TopicConfig, Topics, names};

/// Where Kafka would look at the assignment.
const ONE_BROKER: &str = "Partitions cannot be assigned: there is one broker.";

/// Why not, for a program and for people.
type Refusal = (ResponseError, String);

fn refuse<T>(code: ResponseError, text: impl Into<String>) -> Result<T, Refusal> {
    Err((code, text.into()))
}

/// An error code, and a text where there is one.
fn outcome(result: Result<(), Refusal>) -> (i16, Option<StrBytes>) {
    match result {
        Ok(()) => (0, None),
        Err((code, text)) => (code.code(), (!text.is_empty()).then(|| StrBytes::from_string(text))),
    }
}

impl Topics {
    pub fn create(&mut self, request: CreateTopicsRequest) -> CreateTopicsResponse {
        // Names are looked at before anything is created, and a name that is there twice is answered once.
        let asked = once(&request.topics, |topic| topic.name.clone());
        let named = asked.map(|(topic, again)| (topic, again, self.check_name(&topic.name)));
        let named: Vec<_> = named.collect();
        let mut results = Vec::new();
        for (topic, again, checked) in named {
            let created = if again {
                refuse(ResponseError::InvalidRequest, "Duplicate topic name.")
            } else {
                checked.and_then(|()| self.create_one(topic, request.validate_only))
            };
            let (code, text) = outcome(created);
            let result = CreatableTopicResult::default().with_name(topic.name.clone());
            results.push(result.with_error_code(code).with_error_message(text));
        }
        CreateTopicsResponse::default().with_topics(results)
    }

    fn create_one(&mut self, topic: &CreatableTopic, validate_only: bool) -> Result<(), Refusal> {
        let name = topic.name.as_str();
        if self.topics.contains_key(name) {
            let text = format!("Topic '{name}' already exists.");
            return refuse(ResponseError::TopicAlreadyExists, text);
        }
        let null = topic.configs.iter().find(|config| config.value.is_none());
        if let Some(config) = null {
            let text =
                format!("Null value not supported for topic configs: {}", config.name.as_str());
            return refuse(ResponseError::InvalidConfig, text);
        }
        let given = topic.configs.iter();
        let given =
            given.map(|config| (&*config.name, config.value.as_deref().unwrap_or_default()));
        let config =
            TopicConfig::new(given).map_err(|text| (ResponseError::InvalidConfig, text))?;
        let partitions = partitions_asked(topic)?;
        self.check_room(partitions)?;
        if !validate_only {
            self.add(name, partitions, config);
        }
        Ok(())
    }

    pub(super) fn check_name(&self, name: &str) -> Result<(), Refusal> {
        names::check(name).map_err(|text| (ResponseError::InvalidTopicException, text))?;
        match self.topics.keys().find(|existing| names::collide(existing, name)) {
            Some(existing) => refuse(
                ResponseError::InvalidTopicException,
                format!("Topic '{name}' collides with existing topic: {existing}"),
            ),
            None => Ok(()),
        }
    }

    pub(super) fn check_room(&self, more: usize) -> Result<(), Refusal> {
        let most = self.partitions_max;
        if self.partitions.len().saturating_add(more) > most {
            let text = format!("This broker keeps at most {most} partitions.");
            return refuse(ResponseError::PolicyViolation, text);
        }
        Ok(())
    }

    pub(super) fn add(&mut self, name: &str, partitions: usize, config: TopicConfig) {
        self.topics_created += 1;
        // Not zero, which stands for no topic.
        let id = Uuid::from_u64_pair(0x706f_696e_7473_6d61, self.topics_created);
        let topic = Topic { id, config: Arc::new(config), partitions: Vec::new() };
        self.topics.insert(name.to_owned(), topic);
        self.grow(name, partitions);
    }

    fn grow(&mut self, name: &str, partitions: usize) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        while topic.partitions.len() < partitions {
            self.logs_created += 1;
            let id = LogId(self.logs_created);
            let config = Arc::clone(&topic.config);
            let partition = Partition { log: Log::default(), config, counted_bytes: 0 };
            self.partitions.insert(id, partition);
            topic.partitions.push(id);
        }
    }

    pub fn delete(&mut self, request: &DeleteTopicsRequest) -> DeleteTopicsResponse {
        let responses = once(&request.topic_names, Clone::clone).map(|(name, again)| {
            let known = if again { None } else { self.topics.remove(name.as_str()) };
            let code = match &known {
                Some(_) => 0,
                None if again => ResponseError::InvalidRequest.code(),
                None => ResponseError::UnknownTopicOrPartition.code(),
            };
            for id in known.into_iter().flat_map(|topic| topic.partitions) {
                let gone = self.partitions.remove(&id);
                self.bytes -= gone.map_or(0, |partition| partition.counted_bytes);
                self.touched.push(id);
            }
            DeletableTopicResult::default().with_name(Some(name.clone())).with_error_code(code)
        });
        DeleteTopicsResponse::default().with_responses(responses.collect())
    }

    pub fn create_partitions(
        &mut self,
        request: &CreatePartitionsRequest,
    ) -> CreatePartitionsResponse {
        let results = once(&request.topics, |topic| topic.name.clone()).map(|(topic, again)| {
            let (code, text) = outcome(if again {
                refuse(ResponseError::InvalidRequest, "Duplicate topic name.")
            } else {
                self.create_more(topic, request.validate_only)
            });
            let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
            result.with_error_code(code).with_error_message(text)
        });
        CreatePartitionsResponse::default().with_results(results.collect())
    }

    fn create_more(
        &mut self,
        asked: &CreatePartitionsTopic,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let name = asked.name.as_str();
        let Some(topic) = self.topics.get(name) else {
            return refuse(ResponseError::UnknownTopicOrPartition, "");
        };
        let before = topic.partitions.len();
        let wanted = usize::try_from(asked.count).unwrap_or_default();
        if wanted == before {
            let text = format!("Topic already has {before} partition(s).");
            return refuse(ResponseError::InvalidPartitions, text);
        }
        if wanted < before {
            let text = format!(
                "The topic {name} currently has {before} partition(s); {} would not be an increase.",
                asked.count
            );
            return refuse(ResponseError::InvalidPartitions, text);
        }
        if asked.assignments.is_some() {
            return refuse(ResponseError::InvalidReplicaAssignment, ONE_BROKER);
        }
        self.check_room(wanted - before)?;
        if !validate_only {
            self.grow(name, wanted);
        }
        Ok(())
    }
}

/// How many partitions a new topic has.
fn partitions_asked(topic: &CreatableTopic) -> Result<usize, Refusal> {
    if !topic.assignments.is_empty() {
        return refuse(ResponseError::InvalidReplicaAssignment, ONE_BROKER);
    }
    match topic.replication_factor {
        -1 | 1 => {}
        factor if factor < 1 => {
            let text = "Replication factor must be larger than 0, or -1 to use the default value.";
            return refuse(ResponseError::InvalidReplicationFactor, text);
        }
        factor => {
            let text = format!(
                "Unable to replicate the partition {factor} time(s): The target replication factor \
                 of {factor} cannot be reached because only 1 broker(s) are registered."
            );
            return refuse(ResponseError::InvalidReplicationFactor, text);
        }
    }
    match usize::try_from(topic.num_partitions) {
        Ok(count) if count > 0 => Ok(count),
        Err(_) if topic.num_partitions == -1 => Ok(1),
        Ok(_) | Err(_) => refuse(
            ResponseError::InvalidPartitions,
            "Number of partitions was set to an invalid non-positive value.",
        ),
    }
}
