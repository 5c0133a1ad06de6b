//! The librdkafka settings of each client of a worker. What the configuration passes through comes
//! first; what correctness rests on is set here and wins.

use rdkafka::ClientConfig;

use crate::config::Config;
use crate::stream::connect::{PROGRAM, client_config};

/// What all consumers of the process together may hold of what they fetched ahead: the process is
/// to stay below 100 MB.
const FETCHED_KBYTES_MAX: u64 = 12 * 1024;

/// What one producer holds of outputs that are not acknowledged; a transaction waits for room.
const PRODUCED_KBYTES_MAX: u64 = 32 * 1024;

/// Partitions that are added are noticed within this time, milliseconds; the default is five minutes.
const METADATA_MS: &str = "10000";

fn consumer(config: &Config) -> ClientConfig {
    let mut client = client_config(&config.kafka);
    client
        .set("group.id", &config.kafka.group_id)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        .set("topic.metadata.refresh.interval.ms", METADATA_MS)
        .set("retry.backoff.ms", "10")
        // The default of 1 s starves a queue that was full for a moment.
        .set("fetch.queue.backoff.ms", "5")
        .set("fetch.max.bytes", "8388608");
    client
}

/// The consumer that is a member of the group.
pub fn group(config: &Config, worker: u32) -> ClientConfig {
    let mut client = consumer(config);
    let share = FETCHED_KBYTES_MAX / u64::from(config.worker.workers.max(1));
    let member = member(config, worker);
    client
        .set("client.id", format!("{PROGRAM}-{member}"))
        .set("group.instance.id", member)
        // Equal partition counts then mean equal lanes of all three inputs.
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", config.worker.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", (config.worker.session_timeout_ms / 6).max(1).to_string())
        // A position is never guessed: a lane without one stops.
        .set("auto.offset.reset", "error")
        .set("queued.max.messages.kbytes", share.max(2_048).to_string());
    client
}

/// A consumer of partitions that it is told, beside the group: control topics, journals, single
/// records.
pub fn reader(config: &Config) -> ClientConfig {
    let mut client = consumer(config);
    client.set("auto.offset.reset", "earliest").set("queued.max.messages.kbytes", "4096");
    client
}

/// The reader of journals, while lanes are restored. They wait to hear that there is no more: brokers
/// say so at once.
pub fn journal_reader(config: &Config) -> ClientConfig {
    let mut client = reader(config);
    client.set("fetch.wait.max.ms", "20");
    client
}

/// Asks where partitions end, with open transactions or without.
pub fn watcher(config: &Config, isolation: &str) -> ClientConfig {
    let mut client = consumer(config);
    client.set("isolation.level", isolation);
    client
}

/// The client's own bound, 1 MB, is less than a dead letter or a decision may have: as much as a
/// record of the largest topic, the journal (`topics plan`). The brokers' bound of each topic decides.
const RECORD_BYTES_MAX: u32 = 16 << 20;

/// What one producer of snapshots holds: a few chunks.
const SNAPSHOT_KBYTES_MAX: u64 = 4 * 1024;

/// The transactional producer.
pub fn producer(config: &Config, worker: u32) -> ClientConfig {
    let mut client = client_config(&config.kafka);
    let timeout_ms = config.worker.transaction_timeout_ms;
    // Earlier than the broker's own abort, which would fence this producer.
    let delivery_ms = timeout_ms - timeout_ms / 5;
    client
        .set("transactional.id", transactional_id(config, worker))
        .set("transaction.timeout.ms", timeout_ms.to_string())
        .set("message.timeout.ms", delivery_ms.to_string())
        .set("socket.timeout.ms", timeout_ms.to_string())
        .set("enable.idempotence", "true")
        .set("delivery.report.only.error", "true")
        .set("topic.metadata.refresh.interval.ms", METADATA_MS)
        .set("linger.ms", config.worker.linger_ms.to_string())
        .set("compression.type", "lz4")
        .set("batch.size", "1000000")
        .set("message.max.bytes", RECORD_BYTES_MAX.to_string())
        .set("retry.backoff.ms", "5")
        .set("queue.buffering.max.kbytes", PRODUCED_KBYTES_MAX.to_string());
    client
}

/// The producer of snapshots: idempotent, and with little in flight beside the transactional one.
pub fn snapshot_producer(config: &Config) -> ClientConfig {
    let mut client = client_config(&config.kafka);
    client
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("message.timeout.ms", "20000")
        // What is in it is compressed.
        .set("compression.type", "none")
        .set("queue.buffering.max.kbytes", SNAPSHOT_KBYTES_MAX.to_string());
    client
}

/// What the planner's producer holds: all the advice of a round, several times.
const ADVICE_KBYTES_MAX: u64 = 1_024;

/// The producer of the planner's advice. What was not delivered soon is of no use any more.
pub fn advice_producer(config: &Config) -> ClientConfig {
    let mut client = client_config(&config.kafka);
    client
        .set("enable.idempotence", "true")
        .set("delivery.report.only.error", "true")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "5000")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.kbytes", ADVICE_KBYTES_MAX.to_string());
    client
}

/// The producer that compares clocks.
pub fn clock_producer(config: &Config) -> ClientConfig {
    let mut client = client_config(&config.kafka);
    client
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("message.timeout.ms", "10000");
    client
}

/// `<instance>-<worker>`: the same after a restart, so that lanes do not move for it.
fn member(config: &Config, worker: u32) -> String {
    format!("{}-{worker}", config.kafka.instance_id)
}

pub fn transactional_id(config: &Config, worker: u32) -> String {
    format!("{}-{}", config.kafka.group_id, member(config, worker))
}
