//! What the brokers say about themselves, about access, and about the time.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{ConfigResource, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Message, Timestamp};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::{Findings, Group};
use crate::cli::exit::{self, Exit};
use crate::cli::kafka::Cluster;
use crate::clock;
use crate::config::Config;
use crate::model::Topic;

/// Whether the brokers ask who may do what; `Unknown` where they may not be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorizer {
    None,
    Some,
    Unknown,
}

/// Looks at the brokers; `None`: they do not answer, and nothing else can be looked at.
pub fn check(
    config: &Config,
    cluster: &Cluster<'_>,
    findings: &mut Findings,
) -> Option<Authorizer> {
    let metadata = match cluster.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            let fix = "start Kafka, or correct kafka.brokers and [kafka.properties]";
            findings.fail(Group::Brokers, exit::of(&error), format!("{error:#}"), fix);
            return None;
        }
    };
    let count = metadata.brokers().len();
    let noun = if count == 1 { "broker" } else { "brokers" };
    findings.ok(Group::Brokers, format!("{count} {noun} behind {}", config.kafka.brokers));
    let Some(broker) = metadata.brokers().first() else { return Some(Authorizer::Unknown) };
    let described = cluster.describe(&[ResourceSpecifier::Broker(broker.id())]);
    match described.map(|mut described| described.pop()) {
        Ok(Some(Ok(resource))) => Some(check_settings(config, &settings_of(resource), findings)),
        Ok(Some(Err(code))) => {
            let text = format!("version and limits cannot be verified: {code}");
            findings.warn(Group::Brokers, text, "allow DescribeConfigs on the cluster");
            Some(Authorizer::Unknown)
        }
        Ok(None) => Some(Authorizer::Unknown),
        Err(error) => {
            let text = format!("version and limits cannot be verified: {error:#}");
            findings.warn(Group::Brokers, text, "allow DescribeConfigs on the cluster");
            Some(Authorizer::Unknown)
        }
    }
}

fn settings_of(resource: ConfigResource) -> BTreeMap<String, String> {
    resource
        .entries
        .into_iter()
        .map(|entry| (entry.name, entry.value.unwrap_or_default()))
        .collect()
}

fn check_settings(
    config: &Config,
    settings: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Authorizer {
    // No request of the client's tells the version, but each version brought settings of its own.
    let since = [
        ("group.share.heartbeat.interval.ms", "4.0"),
        ("group.consumer.migration.policy", "3.7"),
        ("log.message.timestamp.before.max.ms", "3.6"),
    ];
    match since.iter().find(|(name, _)| settings.contains_key(*name)) {
        Some((_, version)) => {
            findings
                .ok(Group::Brokers, format!("Apache Kafka {version} or later, by its settings"));
        }
        None => findings.fail(
            Group::Brokers,
            Exit::Failed,
            "older than Apache Kafka 3.6, by its settings",
            "upgrade the brokers to 3.6 or later",
        ),
    }
    let number = |name: &str| settings.get(name).and_then(|value| value.parse::<u64>().ok());
    let worker = &config.worker;
    let bounds = [
        (
            "transaction.max.timeout.ms",
            "worker.transaction_timeout_ms",
            worker.transaction_timeout_ms,
        ),
        ("group.max.session.timeout.ms", "worker.session_timeout_ms", worker.session_timeout_ms),
    ];
    for (name, key, ours) in bounds {
        if number(name).is_some_and(|most| ours > most) {
            let most = number(name).unwrap_or_default();
            let text = format!("{key} is {ours}, and the brokers allow at most {most} ({name})");
            let fix = format!("set {key} to at most {most}");
            findings.fail(Group::Brokers, Exit::Config, text, fix);
        }
    }
    if let Some(least) = number("group.min.session.timeout.ms")
        && worker.session_timeout_ms < least
    {
        let text = format!(
            "worker.session_timeout_ms is {}, and the brokers ask for at least {least}",
            worker.session_timeout_ms
        );
        let fix = format!("set worker.session_timeout_ms to at least {least}");
        findings.fail(Group::Brokers, Exit::Config, text, fix);
    }
    match settings.get("authorizer.class.name").map(String::as_str) {
        None => Authorizer::Unknown,
        Some("") => Authorizer::None,
        Some(_) => Authorizer::Some,
    }
}

/// What may be tried without writing: the group's offsets, and describing the inputs.
pub fn check_acls(
    config: &Config,
    cluster: &Cluster<'_>,
    authorizer: Authorizer,
    findings: &mut Findings,
) {
    if authorizer == Authorizer::None {
        findings.ok(Group::Acls, "the brokers have no authorizer: everything is allowed");
        return;
    }
    let group = &config.kafka.group_id;
    match committed(config, cluster) {
        Ok(()) => findings.ok(Group::Acls, format!("Describe on group {group}")),
        Err(code) if is_denied(code) => {
            let text = format!("no Describe on group {group}");
            findings.fail(Group::Acls, Exit::Denied, text, format!("allow Read on group {group}"));
        }
        Err(code) => {
            let text = format!("group {group} cannot be described: {code}");
            findings.warn(Group::Acls, text, "look at the brokers' logs");
        }
    }
    let tasks = config.topics.name(Topic::Tasks);
    findings.warn(
        Group::Acls,
        "Write and transactional ids cannot be verified without writing",
        format!(
            "allow: Read on group {group}; Read and Describe on the inputs ({tasks}, …); Write and Describe \
             on the outputs; Write and Describe on TransactionalId {group}- (prefixed); \
             IdempotentWrite on the cluster"
        ),
    );
}

fn is_denied(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::GroupAuthorizationFailed | RDKafkaErrorCode::TopicAuthorizationFailed
    )
}

fn committed(config: &Config, cluster: &Cluster<'_>) -> Result<(), RDKafkaErrorCode> {
    let mut client = cluster.client();
    client.set("group.id", &config.kafka.group_id);
    client.set("enable.auto.commit", "false");
    // A running instance's open transaction must not make this wait.
    client.set("isolation.level", "read_uncommitted");
    let code = |error: rdkafka::error::KafkaError| {
        error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)
    };
    let consumer: BaseConsumer = client.create().map_err(code)?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition(config.topics.name(Topic::Tasks), 0);
    let offsets = consumer.committed_offsets(partitions, cluster.timeout()).map_err(code)?;
    offsets.elements().iter().try_for_each(|element| element.error().map_err(code))
}

/// The newest record of `operator-actions` has the broker's time: ours cannot be earlier.
pub fn check_clock(config: &Config, cluster: &Cluster<'_>, findings: &mut Findings) {
    const MEASURED: &str = "`run` measures the difference before it takes a lane";
    let limit_ms = config.worker.clock_difference_ms_max;
    match newest(config, cluster) {
        Some(appended_ms) => {
            let now_ms = clock::wall_now().as_ms();
            let behind_ms = appended_ms.saturating_sub(now_ms);
            if behind_ms > i64::try_from(limit_ms).unwrap_or(i64::MAX) {
                let text = format!("this clock is {behind_ms} ms or more behind the broker's");
                findings.fail(Group::Clock, Exit::Failed, text, "synchronise the clocks (NTP)");
            } else {
                let text = format!("not behind the broker's newest timestamp; {MEASURED}");
                findings.ok(Group::Clock, text);
            }
        }
        None => findings
            .ok(Group::Clock, format!("no broker timestamp to compare with yet; {MEASURED}")),
    }
}

fn newest(config: &Config, cluster: &Cluster<'_>) -> Option<i64> {
    let consumer = cluster.reader().ok()?;
    let mut assignment = TopicPartitionList::new();
    let topic = config.topics.name(Topic::OperatorActions);
    // The end of a transaction takes an offset too, so the last record may be a little before.
    assignment.add_partition_offset(topic, 0, Offset::OffsetTail(8)).ok()?;
    consumer.assign(&assignment).ok()?;
    let mut newest = None;
    let watch = clock::Stopwatch::start();
    while watch.elapsed() < cluster.timeout() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                if let Timestamp::LogAppendTime(appended_ms) = message.timestamp() {
                    newest = newest.max(Some(appended_ms));
                }
            }
            // The end, or a topic that is missing, which is a finding already.
            Some(Err(_)) => return newest,
            None => {}
        }
    }
    newest
}
