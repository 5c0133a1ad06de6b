//! The brokers of the rounds: each cluster is started for the first round that needs it.

use anyhow::{Context, bail};
use pointsman::broker::front::{Front, FrontSettings};
use testbed::KafkaCluster;

use crate::plan::Kind;

const NODES: u32 = 3;

/// Where the rounds of one kind run.
pub struct Clusters {
    on: String,
    kafka: Option<KafkaCluster>,
    model: Option<Front>,
    three: Option<KafkaCluster>,
}

impl Clusters {
    pub fn new(on: &str) -> Self {
        Clusters { on: on.to_owned(), kafka: None, model: None, three: None }
    }

    /// Whether there is what this kind needs: only brokers of our own can be killed.
    pub fn can(&self, kind: Kind) -> bool {
        kind != Kind::Brokers || self.on == "kafka"
    }

    /// The bootstrap list for rounds that let the brokers live.
    pub fn one(&mut self) -> anyhow::Result<&str> {
        match self.on.as_str() {
            "kafka" => Ok(self.kafka.get_or_insert_with(|| KafkaCluster::start(1)).bootstrap()),
            "model" => {
                if self.model.is_none() {
                    let mut settings = FrontSettings::default();
                    settings.broker.topics_auto_created = false;
                    self.model =
                        Some(Front::start(settings).context("the modelled Kafka cannot start")?);
                    let front = self.model.as_ref();
                    self.on = front.map_or_else(String::new, |front| front.address().to_string());
                }
                Ok(&self.on)
            }
            _ => Ok(&self.on),
        }
    }

    /// The next round that needs them gets new ones.
    pub fn forget_three(&mut self) {
        self.three = None;
    }

    /// Three brokers, of which one at a time may be down.
    pub fn three(&mut self) -> anyhow::Result<&KafkaCluster> {
        if self.on != "kafka" {
            bail!("only brokers of its own can be killed: without --on");
        }
        Ok(self.three.get_or_insert_with(|| KafkaCluster::start(NODES)))
    }
}
