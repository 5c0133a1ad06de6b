//! Records as other programs write and see them: bytes, not models.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::site::LIMIT;

/// A record of partition 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Seen {
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(found, _)| found == name);
        let (_, value) = found.unwrap_or_else(|| panic!("no header {name}: {self:?}"));
        std::str::from_utf8(value).unwrap()
    }
}

/// A producer that sends whatever it is given.
pub struct Sender {
    producer: BaseProducer,
}

impl Sender {
    pub fn new(client: &ClientConfig) -> Self {
        let mut client = client.clone();
        client.set("linger.ms", "1").set("message.max.bytes", "4000000");
        Sender { producer: client.create().unwrap() }
    }

    /// To partition 0, with a header of the sender's own.
    pub fn send(&self, topic: &str, key: &str, value: &[u8]) {
        self.send_to(topic, 0, key, value);
    }

    pub fn send_to(&self, topic: &str, partition: i32, key: &str, value: &[u8]) {
        let header = Header { key: "sender", value: Some("test") };
        let record = BaseRecord::to(topic)
            .partition(partition)
            .key(key)
            .payload(value)
            .headers(OwnedHeaders::new().insert(header));
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    pub fn flush(&self) {
        self.producer.flush(LIMIT).unwrap();
    }
}

/// A consumer of committed records of partition 0, from its beginning.
pub fn reader(client: &ClientConfig, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = client
        .clone()
        .set("group.id", "reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    consumer
}

/// Everything that is committed in partition 0 now.
pub fn read(client: &ClientConfig, topic: &str) -> Vec<Seen> {
    let consumer = reader(client, topic);
    let mut seen = Vec::new();
    loop {
        match consumer.poll(LIMIT).expect("the end of the partition") {
            Ok(message) => {
                let headers = message.headers().map_or_else(Vec::new, |headers| {
                    let of = |header: Header<'_, &[u8]>| {
                        (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
                    };
                    headers.iter().map(of).collect()
                });
                seen.push(Seen {
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers,
                });
            }
            Err(KafkaError::PartitionEOF(_)) => return seen,
            Err(error) => panic!("{topic}: {error}"),
        }
    }
}
