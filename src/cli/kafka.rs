//! Kafka as the commands use it: admin requests, reading a topic once, publishing a few records.
//! Nothing here joins the router's group.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use rdkafka::Offset;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier,
};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode;

use super::exit::{Exit, coded};
use crate::codec::{Header, RawRecord};
use crate::config::Kafka;
use crate::model::Topic;
use crate::stream::client::to_end::ToEnd;
use crate::stream::connect::client_config;

/// Keeps what the client says about its connections, so that an error can name the cause.
#[derive(Default)]
pub struct Watch {
    reasons: Mutex<Vec<String>>,
}

/// Reasons that are kept: the first ones name the cause, the others repeat it.
const REASONS_MAX: usize = 3;

impl Watch {
    fn note(&self, reason: &str) {
        let Ok(mut reasons) = self.reasons.lock() else { return };
        // librdkafka puts the time spent behind it, which makes equal reasons differ.
        let reason = reason.split(" (after ").next().unwrap_or(reason).to_owned();
        if reasons.len() < REASONS_MAX && !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }

    fn reasons(&self) -> Vec<String> {
        self.reasons.lock().map(|reasons| reasons.clone()).unwrap_or_default()
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            self.note(reason);
        }
    }
}

impl ConsumerContext for Watch {}

/// A Kafka cluster, and how long to wait for it.
#[derive(Debug)]
pub struct Cluster<'a> {
    kafka: &'a Kafka,
    timeout: Duration,
}

/// The partitions of each existing topic, by name.
pub type Partitions = BTreeMap<String, i32>;

/// A record with its bytes, as it was read.
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    pub fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect()
        });
        Record {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }

    /// Hands the record to the codec as one of this topic.
    pub fn with<T>(&self, topic: Topic, read: impl FnOnce(&RawRecord<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| Header { name, value: value.as_deref() })
            .collect();
        read(&RawRecord {
            topic,
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
        })
    }
}

impl<'a> Cluster<'a> {
    pub fn new(kafka: &'a Kafka, timeout: Duration) -> Self {
        Cluster { kafka, timeout }
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The settings of every client, for those who add their own.
    pub fn client(&self) -> ClientConfig {
        let mut client = client_config(self.kafka);
        // Connection errors are reported at once, not after 30 s of trying.
        client.set("socket.connection.setup.timeout.ms", "5000");
        client
    }

    /// What is known about the cluster: brokers, topics and partitions.
    ///
    /// # Errors
    /// No broker answers within the timeout; the client's own reasons are in the text.
    pub fn metadata(&self) -> anyhow::Result<Metadata> {
        let consumer: BaseConsumer<Watch> =
            BaseConsumer::from_config_and_context(&self.client(), Watch::default())
                .context("the Kafka client cannot be made")?;
        consumer
            .fetch_metadata(None, self.timeout)
            .map_err(|error| self.unreachable(&consumer, error))
    }

    fn unreachable(&self, consumer: &BaseConsumer<Watch>, error: KafkaError) -> anyhow::Error {
        // The reasons are queued as events; each poll takes one.
        const EVENTS_MAX: usize = 32;
        for _ in 0..EVENTS_MAX {
            // What the poll itself returns only repeats that there is no connection.
            drop(consumer.poll(Duration::from_millis(5)));
        }
        let reasons = consumer.context().reasons();
        let denied = reasons.iter().any(|reason| {
            reason.contains("uthentication fail") || reason.contains("uthorization fail")
        });
        let exit = match error.rdkafka_error_code() {
            _ if denied => Exit::Denied,
            Some(RDKafkaErrorCode::ClusterAuthorizationFailed) => Exit::Denied,
            Some(_) | None => Exit::Unreachable,
        };
        let reasons = if reasons.is_empty() { error.to_string() } else { reasons.join("; ") };
        let waited = self.timeout.as_secs();
        coded(exit, format!("no answer from {} within {waited} s: {reasons}", self.kafka.brokers))
    }

    /// Every topic with its number of partitions.
    ///
    /// # Errors
    /// As [`Cluster::metadata`].
    pub fn partitions(&self) -> anyhow::Result<Partitions> {
        Ok(partitions_of(&self.metadata()?))
    }

    pub fn admin(&self) -> anyhow::Result<AdminClient<Watch>> {
        AdminClient::from_config_and_context(&self.client(), Watch::default())
            .context("the Kafka client cannot be made")
    }

    pub fn admin_options(&self) -> AdminOptions {
        AdminOptions::new()
            .request_timeout(Some(self.timeout))
            .operation_timeout(Some(self.timeout))
    }

    /// The settings of topics or brokers; an error for each that cannot be described.
    ///
    /// # Errors
    /// The request as a whole failed.
    pub fn describe(
        &self,
        what: &[ResourceSpecifier<'_>],
    ) -> anyhow::Result<Vec<Result<ConfigResource, RDKafkaErrorCode>>> {
        let admin = self.admin()?;
        let described = wait(admin.describe_configs(what, &self.admin_options()))?
            .context("configurations cannot be described")?;
        Ok(described.into_iter().map(refused_without_settings).collect())
    }

    /// A consumer that has been given partitions from the start, and reads only what is committed.
    pub fn reader(&self) -> anyhow::Result<BaseConsumer<Watch>> {
        let mut client = self.client();
        // Without a group id the client cannot be assigned partitions; nothing is committed to it.
        client.set("group.id", format!("{}-reader", self.kafka.group_id));
        client.set("enable.auto.commit", "false");
        client.set("enable.partition.eof", "true");
        client.set("isolation.level", "read_committed");
        client.set("auto.offset.reset", "error");
        client.set("fetch.wait.max.ms", "100");
        BaseConsumer::from_config_and_context(&client, Watch::default())
            .context("the Kafka client cannot be made")
    }

    /// A client that may ask what a group has committed. It joins nothing as long as it subscribes
    /// to nothing.
    pub fn member(&self, group_id: &str) -> anyhow::Result<BaseConsumer<Watch>> {
        let mut client = self.client();
        client.set("group.id", group_id);
        client.set("enable.auto.commit", "false");
        client.set("isolation.level", "read_committed");
        BaseConsumer::from_config_and_context(&client, Watch::default())
            .context("the Kafka client cannot be made")
    }

    /// Every committed record of a topic, from its beginning to the end seen on the way.
    ///
    /// # Errors
    /// A read failed, or the end was not reached: without a record for the timeout.
    pub fn read_all(
        &self,
        topic: &str,
        partitions: i32,
        mut each: impl FnMut(Record) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut to_end = ToEnd::new(topic);
        for partition in 0..partitions {
            to_end = to_end.with(partition, Offset::Beginning, 0);
        }
        let consumer = self.reader()?;
        to_end.begin(&consumer)?;
        while let Some(record) = to_end
            .next(&consumer, self.timeout)
            .with_context(|| format!("`{topic}` cannot be read to its end"))?
        {
            each(Record::of(&record))?;
        }
        Ok(())
    }

    /// Publishes records and waits until all replicas have them.
    ///
    /// # Errors
    /// The first record that could not be delivered.
    pub fn publish(&self, records: &[Publish]) -> anyhow::Result<()> {
        use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
        let producer: ThreadedProducer<Deliveries> =
            ThreadedProducer::from_config_and_context(&self.producer(), Deliveries::default())
                .context("the Kafka client cannot be made")?;
        for record in records {
            let mut base: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&record.topic)
                .key(record.key.as_slice())
                .headers(record.owned_headers());
            if let Some(value) = &record.value {
                base = base.payload(value.as_slice());
            }
            if let Some(partition) = record.partition {
                base = base.partition(partition);
            }
            producer
                .send(base)
                .map_err(|(error, _)| error)
                .with_context(|| format!("`{}` cannot be written", record.topic))?;
        }
        producer.flush(self.timeout).context("not everything was acknowledged in time")?;
        match producer.context().first_error() {
            None => Ok(()),
            Some(error) => Err(error).context("a record was not accepted"),
        }
    }

    /// The settings of a producer that loses and doubles nothing.
    pub fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client.set("enable.idempotence", "true");
        client.set("acks", "all");
        client.set("compression.type", "lz4");
        // As Java clients place keys, so that a key stays on its partition whoever writes it.
        client.set("partitioner", "murmur2_random");
        // The broker's bound for each topic decides, not the client's own of 1 MB.
        client.set("message.max.bytes", "16000000");
        client.set("message.timeout.ms", self.timeout.as_millis().to_string());
        client
    }
}

/// The client passes the refusal of one resource on as a resource without settings, which none is.
fn refused_without_settings(
    described: Result<ConfigResource, RDKafkaErrorCode>,
) -> Result<ConfigResource, RDKafkaErrorCode> {
    let resource = described?;
    if !resource.entries.is_empty() {
        return Ok(resource);
    }
    Err(match resource.specifier {
        OwnedResourceSpecifier::Topic(_) => RDKafkaErrorCode::TopicAuthorizationFailed,
        OwnedResourceSpecifier::Group(_) => RDKafkaErrorCode::GroupAuthorizationFailed,
        OwnedResourceSpecifier::Broker(_) => RDKafkaErrorCode::ClusterAuthorizationFailed,
    })
}

/// A record to publish.
pub struct Publish {
    pub topic: String,
    pub partition: Option<i32>,
    pub key: Vec<u8>,
    /// `None`: a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(&'static str, Vec<u8>)>,
}

impl Publish {
    fn owned_headers(&self) -> rdkafka::message::OwnedHeaders {
        self.headers.iter().fold(rdkafka::message::OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(rdkafka::message::Header { key, value: Some(value) })
        })
    }
}

/// Remembers the first record that could not be delivered.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Option<KafkaError>>,
}

impl Deliveries {
    fn first_error(&self) -> Option<KafkaError> {
        self.failed.lock().ok().and_then(|failed| failed.clone())
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl rdkafka::producer::ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result
            && let Ok(mut failed) = self.failed.lock()
        {
            failed.get_or_insert_with(|| error.clone());
        }
    }
}

/// Every topic of the metadata with its number of partitions.
pub fn partitions_of(metadata: &Metadata) -> Partitions {
    metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none())
        .map(|topic| {
            (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
        })
        .collect()
}

/// Waits for an admin request in this thread.
pub fn wait<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .context("the runtime cannot be made")?;
    Ok(runtime.block_on(future))
}
