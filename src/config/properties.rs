//! librdkafka properties that are passed through: which of them are ours, and whether the library
//! knows and accepts the others.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// What Pointsman sets itself, and why; or the setting that stands for it.
const RESERVED: [(&str, &str); 25] = [
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("client.id", "it names this program to the brokers"),
    ("group.id", "set kafka.group_id instead"),
    ("group.instance.id", "set kafka.instance_id instead"),
    ("group.protocol", "lanes move by the classic protocol's rebalance callbacks"),
    ("session.timeout.ms", "set worker.session_timeout_ms instead"),
    ("transactional.id", "it is made of the group, the instance and the worker"),
    ("transaction.timeout.ms", "set worker.transaction_timeout_ms instead"),
    ("enable.idempotence", "exactly once rests on it"),
    ("acks", "exactly once needs the acknowledgement of all replicas"),
    ("request.required.acks", "exactly once needs the acknowledgement of all replicas"),
    ("enable.auto.commit", "offsets are committed in the transaction of their batch"),
    ("enable.auto.offset.store", "offsets are committed in the transaction of their batch"),
    ("auto.commit.interval.ms", "offsets are committed in the transaction of their batch"),
    ("isolation.level", "only committed records may be decided"),
    ("auto.offset.reset", "a lost position stops the lane; see worker.start_from"),
    (
        "partition.assignment.strategy",
        "a lane needs the same partition of several topics (`range`)",
    ),
    ("enable.partition.eof", "recovery relies on it"),
    ("linger.ms", "set worker.linger_ms instead"),
    ("queue.buffering.max.ms", "set worker.linger_ms instead"),
    ("delivery.report.only.error", "each delivery is accounted for"),
    ("allow.auto.create.topics", "topics are made by `pointsman topics apply`"),
    ("plugin.library.paths", "no code is loaded into this process"),
    ("sasl.kerberos.kinit.cmd", "no command is run by this process"),
];

/// Whether librdkafka has a property of this name.
pub fn exists(name: &str) -> bool {
    !matches!(
        set(name, ""),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, _, _))
    )
}

/// Why this property cannot be passed through; never names the value, which may be a secret.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    if let Some((_, reason)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        return Err(format!("not to be set: {reason}"));
    }
    match set(name, value) {
        Ok(()) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, _, _)) => {
            Err("librdkafka has no such property".to_owned())
        }
        Err(KafkaError::ClientConfig(_, description, _, _)) => {
            Err(format!("librdkafka does not accept it: {}", description.replace(value, "…")))
        }
        Err(error) => Err(format!("librdkafka does not accept it: {error}")),
    }
}

fn set(name: &str, value: &str) -> Result<(), KafkaError> {
    ClientConfig::new().set(name, value).create_native_config().map(drop)
}
