//! What makes the modelled Kafka trustworthy: one set of scripts, run by the real client (and, where no
//! client can be made to send something, by the raw protocol) against Apache Kafka and against the model.
//!
//! Each script writes down every answer that a client sees; what rightly differs from run to run (member
//! and producer ids, ports, the time) gets a stable name. Apache Kafka's transcripts are kept in
//! `transcripts/`. Both brokers are held to them: the model whenever the tests run, Apache Kafka by
//! `ops/test`. Only Apache Kafka can write them: `POINTSMAN_TEST_BROKER=kafka POINTSMAN_TEST_RECORD=1`.

mod ask;
mod client;
mod compaction;
mod fetch;
mod groups;
mod offsets;
mod produce;
mod raw;
mod script;
mod sharing;
mod shown;
mod static_members;
mod topics;
mod transactions;
mod zombies;
