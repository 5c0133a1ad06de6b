//! The real client: librdkafka.

use std::sync::{Arc, Mutex};

use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Headers, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};
use testbed::eventually;

use crate::script::{LIMIT, Script};

/// What became of each record, in the order of the reports.
#[derive(Debug, Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<String>>>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let line = match result {
            Ok(record) => format!("partition {} offset {}", record.partition(), record.offset()),
            Err((error, _)) => code(error),
        };
        self.0.lock().unwrap().push(line);
    }
}

pub struct Client {
    pub producer: BaseProducer<Reports>,
    reports: Reports,
}

impl Client {
    pub fn producer(script: &Script, settings: &[(&str, &str)]) -> Self {
        let reports = Reports::default();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &script.bootstrap);
        for (key, value) in settings {
            config.set(*key, *value);
        }
        Client { producer: config.create_with_context(reports.clone()).unwrap(), reports }
    }

    pub fn transactional(script: &Script, id: &str) -> Self {
        Client::producer(script, &[("transactional.id", id), ("transaction.timeout.ms", "60000")])
    }

    /// Waits for the reports of all records that were sent.
    pub fn reports(&self) -> Vec<String> {
        self.producer.flush(LIMIT).unwrap();
        std::mem::take(&mut *self.reports.0.lock().unwrap())
    }
}

/// An error's code, without the text that follows it.
pub fn code(error: &KafkaError) -> String {
    let KafkaError::Transaction(of) = error else {
        let code = error.rdkafka_error_code();
        return code.map_or_else(|| error.to_string(), |code| format!("{code:?}"));
    };
    let mut text = format!("{:?}", of.code());
    for (is, word) in [
        (of.is_fatal(), ", fatal"),
        (of.is_retriable(), ", retriable"),
        (of.txn_requires_abort(), ", requires abort"),
    ] {
        text += if is { word } else { "" };
    }
    text
}

pub fn outcome<T>(result: Result<T, KafkaError>) -> String {
    result.map_or_else(|error| code(&error), |_| "ok".to_owned())
}

pub fn consumer(script: &Script, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &script.bootstrap)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "earliest");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create_with_context(DefaultConsumerContext).unwrap()
}

/// All that a reader of that level finds from `from` to the ends, by partition.
pub fn read(
    script: &mut Script,
    isolation: &str,
    topic: &str,
    partitions: i32,
    from: Offset,
) -> Vec<String> {
    let group = script.name("reader");
    let consumer = consumer(script, &group, &[("isolation.level", isolation)]);
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, from).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut found = vec![Vec::new(); usize::try_from(partitions).unwrap()];
    let mut ends = 0;
    eventually("the ends of all partitions", LIMIT, || {
        while let Some(event) = consumer.poll(std::time::Duration::from_millis(100)) {
            match event {
                Ok(message) => {
                    let partition = usize::try_from(message.partition()).unwrap();
                    found[partition].push(shown(&message));
                }
                Err(KafkaError::PartitionEOF(_)) => ends += 1,
                Err(error) => panic!("{error}"),
            }
        }
        (ends == partitions).then_some(())
    });
    found.into_iter().flatten().collect()
}

/// A record as the client sees it.
pub fn shown(message: &impl Message) -> String {
    let text = |bytes: Option<&[u8]>| {
        bytes.map_or_else(|| "null".to_owned(), |bytes| format!("'{}'", bytes.escape_ascii()))
    };
    let mut line = format!(
        "partition {} offset {}: {} = {}",
        message.partition(),
        message.offset(),
        text(message.key()),
        text(message.payload())
    );
    if let Some(headers) = message.headers() {
        for header in headers.iter() {
            line += &format!(" {}={}", header.key, text(header.value));
        }
    }
    line
}
