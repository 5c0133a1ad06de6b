//! The librdkafka settings that every client of this process shares.

use rdkafka::ClientConfig;

use crate::config::Kafka;

/// What this program calls itself to the brokers; members of the group add which they are.
pub const PROGRAM: &str = "pointsman";

/// A client configuration with the brokers and everything that `[kafka.properties]` passes through
/// (TLS, SASL, …). Settings that a caller adds afterwards win.
pub fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("client.id", PROGRAM);
    for (name, value) in &kafka.properties {
        client.set(name, value.expose());
    }
    client.set("bootstrap.servers", &kafka.brokers);
    client
}
