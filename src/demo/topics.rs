//! The topics of one demo: their names carry the run's id, so that demos on one broker never meet.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;

use crate::model::Topic;

/// How long a broker may take to create or delete the topics.
const ADMIN_WAIT: Duration = Duration::from_secs(30);

/// Broker default of a topic's replication.
const REPLICATION_DEFAULT: i32 = -1;

/// What a dead letter may add to the largest record of its input, in bytes.
const DLQ_MESSAGE_BYTES_MAX: &str = "2097152";

/// The topics of one demo.
#[derive(Debug, Clone)]
pub struct DemoTopics {
    names: BTreeMap<Topic, String>,
    /// Partitions of all but the control topics.
    pub lanes: i32,
}

impl DemoTopics {
    pub fn new(prefix: &str, lanes: i32) -> Self {
        let names = Topic::ALL.map(|topic| (topic, format!("{prefix}{}", topic.default_name())));
        DemoTopics { names: BTreeMap::from(names), lanes }
    }

    pub fn name(&self, topic: Topic) -> &str {
        self.names.get(&topic).map_or(topic.default_name(), String::as_str)
    }

    pub fn names(&self) -> impl Iterator<Item = (Topic, &str)> {
        self.names.iter().map(|(topic, name)| (*topic, name.as_str()))
    }

    /// The section `[topics]` of a router's configuration.
    pub fn section(&self) -> toml::Table {
        let settings = self.names().map(|(topic, name)| {
            (topic.default_name().replace(['-', '.'], "_"), toml::Value::from(name))
        });
        settings.collect()
    }

    pub fn partitions(&self, topic: Topic) -> i32 {
        match topic {
            Topic::Fleet | Topic::HealthEvents | Topic::OperatorActions => 1,
            Topic::Tasks
            | Topic::TaskResults
            | Topic::LaneInbox
            | Topic::RouteDecisions
            | Topic::AllocationEvents
            | Topic::BalanceEvents
            | Topic::LoadSnapshots
            | Topic::Journal
            | Topic::Snapshots
            | Topic::TasksDlq
            | Topic::TaskResultsDlq
            | Topic::LaneInboxDlq
            | Topic::HealthEventsDlq
            | Topic::FleetDlq => self.lanes,
        }
    }

    fn settings(topic: Topic) -> &'static [(&'static str, &'static str)] {
        match topic {
            Topic::Fleet | Topic::HealthEvents | Topic::LoadSnapshots | Topic::Snapshots => {
                &[("cleanup.policy", "compact")]
            }
            Topic::OperatorActions => &[("message.timestamp.type", "LogAppendTime")],
            Topic::TasksDlq
            | Topic::TaskResultsDlq
            | Topic::LaneInboxDlq
            | Topic::HealthEventsDlq
            | Topic::FleetDlq => &[("max.message.bytes", DLQ_MESSAGE_BYTES_MAX)],
            Topic::Tasks
            | Topic::TaskResults
            | Topic::LaneInbox
            | Topic::RouteDecisions
            | Topic::AllocationEvents
            | Topic::BalanceEvents
            | Topic::Journal => &[],
        }
    }

    /// Creates all of them; none may exist.
    pub fn create(&self, client: &ClientConfig) -> anyhow::Result<()> {
        let admin = admin(client)?;
        let topics: Vec<NewTopic<'_>> = self
            .names()
            .map(|(topic, name)| {
                let replication = TopicReplication::Fixed(REPLICATION_DEFAULT);
                let new = NewTopic::new(name, self.partitions(topic), replication);
                let settings = Self::settings(topic).iter();
                settings.fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        let results = wait(admin.create_topics(&topics, &options()))?
            .context("the brokers cannot be asked to create topics")?;
        for result in results {
            if let Err((topic, code)) = result {
                bail!("topic {topic} cannot be created: {code}");
            }
        }
        Ok(())
    }

    /// Deletes all of them, and the router's consumer group where the broker lets it go.
    pub fn delete(&self, client: &ClientConfig, group_id: &str) -> anyhow::Result<()> {
        let admin = admin(client)?;
        let names: Vec<&str> = self.names().map(|(_, name)| name).collect();
        let results = wait(admin.delete_topics(&names, &options()))?
            .context("the brokers cannot be asked to delete topics")?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => (),
                Err((topic, code)) => bail!("topic {topic} cannot be deleted: {code}"),
            }
        }
        // A static member stays in its group until the session times out, so the broker may
        // refuse; the group then expires by itself.
        drop(wait(admin.delete_groups(&[group_id], &options()))?);
        Ok(())
    }
}

fn admin(client: &ClientConfig) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    client.create().context("no client for the brokers can be made")
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ADMIN_WAIT)).request_timeout(Some(ADMIN_WAIT))
}

/// Runs one admin request to its end: it is the only asynchronous thing in a demo.
fn wait<T>(request: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(request))
}
