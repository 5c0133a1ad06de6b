//! `tap`: the records of a topic as JSON lines, as they come.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::exit::{Exit, coded};
use super::kafka::{Cluster, Partitions, Record};
use super::{Global, registry, tool_codec};
use crate::codec::{Codec, DecodeError};
use crate::config::{Config, TopicNames};
use crate::model::Topic;
use crate::stream::client::to_end::{ToEnd, is_passing};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Only committed records are shown. Each line has the topic, partition, offset, time, key, headers \
and decoded value of one record; what cannot be decoded is shown with the reason and its bytes.

Examples:
  pointsman tap
  pointsman tap tasks.dlq --from-beginning --no-follow
  pointsman tap route-decisions --lane 3 | jq -r 'select(.value.outcome == \"refused\") | .value.reason'")]
pub struct TapArgs {
    /// A topic, by its default or its configured name
    #[arg(env = "POINTSMAN_TAP_TOPIC", default_value = "route-decisions")]
    topic: String,
    /// Begin with the oldest record, not with the next one
    #[arg(long, env = "POINTSMAN_TAP_FROM_BEGINNING")]
    from_beginning: bool,
    /// Stop at the end instead of waiting for more
    #[arg(long, env = "POINTSMAN_TAP_NO_FOLLOW")]
    no_follow: bool,
    /// Stop after so many records
    #[arg(long, env = "POINTSMAN_TAP_LIMIT", value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Only this lane's partition
    #[arg(long, env = "POINTSMAN_TAP_LANE", value_name = "LANE",
          value_parser = clap::value_parser!(i32).range(0..))]
    lane: Option<i32>,
}

pub fn tap(global: &Global, arguments: &TapArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let partitions = cluster.partitions()?;
    let topic = topic_of(&config.topics, &arguments.topic)
        .ok_or_else(|| coded(Exit::Usage, unknown_topic(&arguments.topic)))?;
    let names = names_of(&config.topics, topic, &arguments.topic, &partitions);
    let places = places(arguments, &names, &partitions)?;

    let decoder = Decoder { codec: tool_codec(&config)?, config: &config };
    let mut shown = Shown {
        decoder,
        topic,
        out: std::io::stdout().lock(),
        left: arguments.limit.unwrap_or(u64::MAX),
    };
    if arguments.no_follow {
        to_end(&cluster, places, &mut shown)?;
    } else {
        follow(&cluster, &places, &mut shown)?;
    }
    shown.out.flush()?;
    Ok(Exit::Ok)
}

/// The client says which partition has ended, and not of which topic: one topic at a time.
fn to_end(cluster: &Cluster<'_>, places: Places<'_>, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    let consumer = cluster.reader()?;
    for (name, partitions) in places {
        let mut to_end = ToEnd::new(name);
        for (partition, from) in partitions {
            to_end = to_end.with(partition, from, 0);
        }
        to_end.begin(&consumer)?;
        while shown.left > 0
            && let Some(message) = to_end
                .next(&consumer, cluster.timeout())
                .with_context(|| format!("`{name}` cannot be read to its end"))?
        {
            shown.show(&Record::of(&message))?;
        }
    }
    Ok(())
}

fn follow(cluster: &Cluster<'_>, places: &Places<'_>, shown: &mut Shown<'_>) -> anyhow::Result<()> {
    let consumer = cluster.reader()?;
    let mut assignment = TopicPartitionList::new();
    for (name, partitions) in places {
        for (partition, from) in partitions {
            assignment.add_partition_offset(name, *partition, *from)?;
        }
    }
    consumer.assign(&assignment)?;
    while shown.left > 0 {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => shown.show(&Record::of(&message))?,
            Some(Err(KafkaError::PartitionEOF(_))) | None => shown.out.flush()?,
            Some(Err(error)) if is_passing(&error) => {}
            Some(Err(error)) => return Err(error).context("the topic cannot be read"),
        }
    }
    Ok(())
}

/// Where records are shown, and how many more.
struct Shown<'a> {
    decoder: Decoder<'a>,
    topic: Topic,
    out: std::io::StdoutLock<'static>,
    left: u64,
}

impl Shown<'_> {
    fn show(&mut self, record: &Record) -> anyhow::Result<()> {
        serde_json::to_writer(&mut self.out, &self.decoder.line(self.topic, record)?)?;
        writeln!(self.out)?;
        self.left -= 1;
        Ok(())
    }
}

/// The topic that a name stands for: a default name, a configured one, or a pool's.
pub(super) fn topic_of(names: &TopicNames, text: &str) -> Option<Topic> {
    let by_name = |topic: &Topic| names.name(*topic) == text || topic.default_name() == text;
    Topic::ALL.iter().copied().find(by_name).or_else(|| {
        let (before, after) = names.name(Topic::RouteDecisions).split_once("{pool}")?;
        (text.starts_with(before) && text.ends_with(after)).then_some(Topic::RouteDecisions)
    })
}

fn unknown_topic(text: &str) -> String {
    let names: Vec<&str> = Topic::ALL.iter().map(|topic| topic.default_name()).collect();
    format!("`{text}` is none of the topics {}", names.join(", "))
}

/// The names to read: all decision topics where there is one for each pool.
fn names_of(names: &TopicNames, topic: Topic, text: &str, partitions: &Partitions) -> Vec<String> {
    let template = names.name(topic);
    match template.split_once("{pool}") {
        Some((before, after)) if text == topic.default_name() || text == template => partitions
            .keys()
            .filter(|name| name.starts_with(before) && name.ends_with(after))
            .cloned()
            .collect(),
        Some(_) => vec![text.to_owned()],
        None => vec![template.to_owned()],
    }
}

/// The partitions of each name, and where to begin.
type Places<'a> = BTreeMap<&'a str, Vec<(i32, Offset)>>;

fn places<'a>(
    arguments: &TapArgs,
    names: &'a [String],
    partitions: &Partitions,
) -> anyhow::Result<Places<'a>> {
    let from = if arguments.from_beginning { Offset::Beginning } else { Offset::End };
    let mut places = Places::new();
    for name in names {
        let Some(count) = partitions.get(name) else {
            let text = format!("there is no topic `{name}`; fix: pointsman topics apply");
            return Err(coded(Exit::NotFound, text));
        };
        let of = (0..*count).filter(|one| arguments.lane.is_none_or(|lane| lane == *one));
        places.insert(name, of.map(|partition| (partition, from)).collect());
    }
    if places.values().all(Vec::is_empty) {
        let text = match arguments.lane {
            Some(lane) => format!("`{}` has no lane {lane}", arguments.topic),
            None => format!("`{}` has no topic yet", arguments.topic),
        };
        return Err(coded(Exit::NotFound, text));
    }
    Ok(places)
}

struct Decoder<'a> {
    codec: Codec,
    config: &'a Config,
}

impl Decoder<'_> {
    fn line<'r>(&self, topic: Topic, record: &'r Record) -> anyhow::Result<Line<'r>> {
        if let Some(id) = record.with(topic, |raw| self.codec.unknown_schema(raw)) {
            let settings = self.config.output.schema_registry.as_ref();
            registry::teach(&self.codec, settings, id)?;
        }
        let decoded = record.with(topic, |raw| self.codec.to_json(raw));
        Ok(line_of(record, decoded))
    }
}

/// One record for people and programs.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    /// -1: it has none.
    timestamp_ms: i64,
    key: Option<Value>,
    headers: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// Why the value is not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

pub(super) fn line_of(record: &Record, decoded: Result<Value, DecodeError>) -> Line<'_> {
    let header = |value: &Option<Vec<u8>>| value.as_deref().map_or(Value::Null, text_or_base64);
    let (value, error) = match decoded {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let value_base64 =
        error.as_ref().map(|_| STANDARD.encode(record.value.as_deref().unwrap_or(&[])));
    Line {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref().map(text_or_base64),
        headers: record.headers.iter().map(|(name, value)| (name.clone(), header(value))).collect(),
        value,
        error,
        value_base64,
    }
}

fn text_or_base64(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({ "base64": STANDARD.encode(bytes) }),
    }
}
