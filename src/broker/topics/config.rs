//! The settings of topics and of the broker, with Kafka's defaults.

use std::collections::BTreeMap;
use std::num::ParseIntError;

use super::super::log::Compaction;

/// What a setting may be.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// A whole number of 64 bits that is at least this.
    Whole(i64),
    /// Of 32 bits.
    Int(i64),
    /// In [0, 1].
    Share,
    Switch,
    OneOf(&'static [&'static str]),
    /// Any of them, by commas.
    SomeOf(&'static [&'static str]),
    Text,
}

struct Known {
    name: &'static str,
    default: &'static str,
    kind: Kind,
}

const fn known(name: &'static str, default: &'static str, kind: Kind) -> Known {
    Known { name, default, kind }
}

const FOREVER: &str = "9223372036854775807";
const CODECS: &[&str] = &["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"];

/// By name. Those that only say how Kafka keeps files are taken and told, and do nothing here.
const TOPIC: &[Known] = &[
    known("cleanup.policy", "delete", Kind::SomeOf(&["compact", "delete"])),
    known("compression.gzip.level", "-1", Kind::Int(-1)),
    known("compression.lz4.level", "9", Kind::Int(1)),
    known("compression.type", "producer", Kind::OneOf(CODECS)),
    known("compression.zstd.level", "3", Kind::Int(-131_072)),
    known("delete.retention.ms", "86400000", Kind::Whole(0)),
    known("file.delete.delay.ms", "60000", Kind::Whole(0)),
    known("flush.messages", FOREVER, Kind::Whole(1)),
    known("flush.ms", FOREVER, Kind::Whole(0)),
    known("follower.replication.throttled.replicas", "", Kind::Text),
    known("index.interval.bytes", "4096", Kind::Int(0)),
    known("leader.replication.throttled.replicas", "", Kind::Text),
    known("local.retention.bytes", "-2", Kind::Whole(-2)),
    known("local.retention.ms", "-2", Kind::Whole(-2)),
    known("max.compaction.lag.ms", FOREVER, Kind::Whole(1)),
    known("max.message.bytes", "1048588", Kind::Int(0)),
    known("message.timestamp.after.max.ms", "3600000", Kind::Whole(0)),
    known("message.timestamp.before.max.ms", FOREVER, Kind::Whole(0)),
    known("message.timestamp.type", "CreateTime", Kind::OneOf(&["CreateTime", "LogAppendTime"])),
    known("min.cleanable.dirty.ratio", "0.5", Kind::Share),
    known("min.compaction.lag.ms", "0", Kind::Whole(0)),
    known("min.insync.replicas", "1", Kind::Int(1)),
    known("preallocate", "false", Kind::Switch),
    known("remote.log.copy.disable", "false", Kind::Switch),
    known("remote.log.delete.on.disable", "false", Kind::Switch),
    known("remote.storage.enable", "false", Kind::Switch),
    known("retention.bytes", "-1", Kind::Whole(i64::MIN)),
    known("retention.ms", "604800000", Kind::Whole(-1)),
    known("segment.bytes", "1073741824", Kind::Int(1 << 20)),
    known("segment.index.bytes", "10485760", Kind::Int(4)),
    known("segment.jitter.ms", "0", Kind::Whole(0)),
    known("segment.ms", "604800000", Kind::Whole(1)),
    known("unclean.leader.election.enable", "false", Kind::Switch),
];

/// What clients ask a broker for: its limits, and by which settings it has its age.
pub const BROKER: &[(&str, &str)] = &[
    ("authorizer.class.name", ""),
    ("auto.create.topics.enable", "true"),
    ("default.replication.factor", "1"),
    ("delete.topic.enable", "true"),
    ("group.consumer.migration.policy", "bidirectional"),
    ("group.max.session.timeout.ms", "1800000"),
    ("group.min.session.timeout.ms", "6000"),
    ("group.share.heartbeat.interval.ms", "5000"),
    ("log.message.timestamp.after.max.ms", "3600000"),
    ("log.message.timestamp.before.max.ms", FOREVER),
    ("log.message.timestamp.type", "CreateTime"),
    ("message.max.bytes", "1048588"),
    ("min.insync.replicas", "1"),
    ("num.partitions", "1"),
    ("offsets.retention.minutes", "10080"),
    ("transaction.max.timeout.ms", "900000"),
    ("transactional.id.expiration.ms", "604800000"),
];

/// A topic's settings: what was given, and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    given: BTreeMap<&'static str, String>,
    /// `None`: not compacted.
    pub compaction: Option<Compaction>,
    /// Of a topic whose old batches go; `None`: without bound.
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<usize>,
    /// Whether room is made by what is oldest here.
    pub deletes: bool,
    pub batch_bytes_max: usize,
    /// The time of a record is that of its append.
    pub stamps: bool,
    pub timestamp_after_ms_max: i64,
}

impl TopicConfig {
    /// # Errors
    /// The first setting that is not known or has a wrong value, in Kafka's words.
    pub fn new<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut kept = BTreeMap::new();
        for (name, value) in given {
            let Some(known) = TOPIC.iter().find(|known| known.name == name) else {
                return Err(format!("Unknown topic config name: {name}"));
            };
            let value = value.trim();
            known.kind.check(value).map_err(|wrong| {
                format!("Invalid value {value} for configuration {name}: {wrong}")
            })?;
            kept.insert(known.name, value.to_owned());
        }
        let config = TopicConfig::of(kept);
        let [least, most] =
            ["min.compaction.lag.ms", "max.compaction.lag.ms"].map(|name| config.whole(name));
        if least > most {
            return Err(format!(
                "conflict topic config setting min.compaction.lag.ms ({least}) > \
                 max.compaction.lag.ms ({most})"
            ));
        }
        Ok(config)
    }

    fn of(given: BTreeMap<&'static str, String>) -> Self {
        let mut config = TopicConfig {
            given,
            compaction: None,
            retention_ms: None,
            retention_bytes: None,
            deletes: false,
            batch_bytes_max: 0,
            stamps: false,
            timestamp_after_ms_max: 0,
        };
        let policy = config.value("cleanup.policy");
        let has = |wanted: &str| policy.split(',').any(|one| one.trim() == wanted);
        let (deletes, compacts) = (has("delete"), has("compact"));
        let bound = |name| Some(config.whole(name)).filter(|bound| deletes && *bound >= 0);
        let retention_bytes = bound("retention.bytes").and_then(|bytes| bytes.try_into().ok());
        config.retention_ms = bound("retention.ms");
        config.retention_bytes = retention_bytes;
        config.deletes = deletes;
        config.compaction = compacts.then(|| Compaction {
            dirty_ratio: config.value("min.cleanable.dirty.ratio").parse().unwrap_or_default(),
            delete_retention_ms: config.whole("delete.retention.ms"),
            lag_ms_min: config.whole("min.compaction.lag.ms"),
            lag_ms_max: config.whole("max.compaction.lag.ms"),
        });
        config.batch_bytes_max = config.whole("max.message.bytes").try_into().unwrap_or_default();
        config.stamps = config.value("message.timestamp.type") == "LogAppendTime";
        config.timestamp_after_ms_max = config.whole("message.timestamp.after.max.ms");
        config
    }

    fn value(&self, name: &str) -> &str {
        let default = TOPIC.iter().find(|known| known.name == name);
        let default = default.map_or("", |known| known.default);
        self.given.get(name).map_or(default, String::as_str)
    }

    /// A number; all were checked.
    fn whole(&self, name: &str) -> i64 {
        self.value(name).parse().unwrap_or_default()
    }

    /// Every setting by name: its value, its default, and whether it was given.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &str, &'static str, bool)> {
        TOPIC.iter().map(|known| {
            let given = self.given.get(known.name);
            (
                known.name,
                given.map_or(known.default, String::as_str),
                known.default,
                given.is_some(),
            )
        })
    }
}

impl Kind {
    fn check(self, value: &str) -> Result<(), String> {
        let one_of = |one: &str, of: &[&str]| {
            if of.contains(&one) {
                return Ok(());
            }
            Err(format!("String must be one of: {}", of.join(", ")))
        };
        match self {
            Kind::Whole(least) => at_least(value.parse(), least, "LONG"),
            Kind::Int(least) => at_least(value.parse::<i32>().map(i64::from), least, "INT"),
            Kind::Share => match value.parse::<f64>() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(()),
                Ok(share) if share < 0.0 => Err("Value must be at least 0".to_owned()),
                Ok(_) => Err("Value must be no more than 1".to_owned()),
                Err(_) => Err("Not a number of type DOUBLE".to_owned()),
            },
            Kind::Switch if ["true", "false"].contains(&value.to_lowercase().as_str()) => Ok(()),
            Kind::Switch => Err("Expected value to be either true or false".to_owned()),
            Kind::OneOf(of) => one_of(value, of),
            Kind::SomeOf(_) if value.is_empty() => Ok(()),
            Kind::SomeOf(of) => value.split(',').try_for_each(|one| one_of(one.trim(), of)),
            Kind::Text => Ok(()),
        }
    }
}

fn at_least(number: Result<i64, ParseIntError>, least: i64, kind: &str) -> Result<(), String> {
    match number {
        Ok(number) if number >= least => Ok(()),
        Ok(_) => Err(format!("Value must be at least {least}")),
        Err(_) => Err(format!("Not a number of type {kind}")),
    }
}
