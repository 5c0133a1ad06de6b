//! The program as operators, producers and workers meet it: the built binary on a real Kafka.
#![expect(clippy::unwrap_used, reason = "what cannot be run must fail the test")]
#![expect(clippy::panic, reason = "a test's failure")]

mod bad_input;
mod confluent;
mod demo;
mod kills;
mod lanes;
mod readme;
mod records;
mod secure;
mod site;
mod store;
mod verbs;
