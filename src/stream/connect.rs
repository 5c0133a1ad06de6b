//! The librdkafka settings that every client of this process shares.

use rdkafka::ClientConfig;

use crate::config::Kafka;

/// A client configuration with the brokers and everything that `[kafka.properties]` passes through
/// (TLS, SASL, …). Settings that a caller adds afterwards win.
pub fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", "pointsman");
    for (name, value) in &kafka.properties {
        client.set(name, value.expose());
    }
    client.set("bootstrap.servers", &kafka.brokers);
    client
}
