//! Raw TOML and environment → one validated `Config`; all errors at once.

mod error;
mod forms;
mod properties;
mod settings;
mod show;
mod source;
#[cfg(test)]
mod tests;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use error::{ConfigError, ConfigErrors, Origin};
pub use settings::{Fallback, Kind, SETTINGS, Setting, environment_name};
pub use show::{Effective, reference};
pub use validate::topic_key;

use crate::codec::OutputFormat;
use crate::model::Topic;
use crate::model::policy::Policy;

/// A value that is never printed: not by `Debug`, not in errors, not by `config show`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: String) -> Self {
        Secret(value)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// Everything that `run` needs, validated: no combination of values in here is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub kafka: Kafka,
    pub topics: TopicNames,
    pub output: Output,
    pub worker: Worker,
    pub routing: Policy,
    pub snapshot: Snapshot,
    pub http: Http,
    pub log: Log,
}

/// A configuration together with where each of its values came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub effective: Vec<Effective>,
}

impl Config {
    /// Reads the file, if any, and the variables that begin with `POINTSMAN__`, which win.
    ///
    /// # Errors
    /// Everything that is wrong, together.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigErrors> {
        load(path, environment).map(|loaded| loaded.config)
    }
}

/// As [`Config::load`], for those who also want to know where each value came from.
///
/// # Errors
/// Everything that is wrong, together.
pub fn load(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigErrors> {
    let environment: BTreeMap<String, String> = environment.collect();
    let surroundings = validate::Surroundings {
        host_name: host_name(),
        data_directory: data_directory(&environment),
    };
    let mut source = source::Source::default();
    if let Some(path) = path {
        match std::fs::read_to_string(path) {
            Ok(text) => source.read_toml(path, &text),
            Err(error) => source.errors.push(ConfigError {
                key: String::new(),
                problem: format!("the file cannot be read: {error}"),
                origin: Origin::File { path: path.to_owned(), line: 1 },
            }),
        }
    }
    source.read_environment(environment.into_iter());
    let (config, effective) = validate::validate(source, &surroundings)?;
    Ok(Loaded { config, effective })
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// The same from whatever directory the process is started, so that two of them find one lock.
fn data_directory(environment: &BTreeMap<String, String>) -> PathBuf {
    let given =
        |name: &str| environment.get(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    given("STATE_DIRECTORY")
        .or_else(|| given("XDG_STATE_HOME").map(|state| state.join("pointsman")))
        .or_else(|| given("HOME").map(|home| home.join(".local/state/pointsman")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/pointsman"))
}

#[derive(Debug, Clone, PartialEq)]
pub struct Kafka {
    /// `host:port`, comma separated.
    pub brokers: String,
    pub group_id: String,
    /// Names this process among the group's instances; the default is the host's name.
    pub instance_id: String,
    /// Passed to librdkafka as they are. All are treated as secret when printed.
    pub properties: BTreeMap<String, Secret>,
    /// Holds the lock that keeps two processes from running under one instance id.
    pub data_directory: PathBuf,
}

/// The name of every topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicNames {
    names: BTreeMap<Topic, String>,
}

impl TopicNames {
    pub fn new(names: BTreeMap<Topic, String>) -> Self {
        TopicNames { names }
    }

    /// The topic's name. That of `route-decisions` may be a template with `{pool}` in it.
    pub fn name(&self, topic: Topic) -> &str {
        self.names.get(&topic).map_or(topic.default_name(), String::as_str)
    }

    /// Whether decisions go to one topic for each pool.
    pub fn decisions_by_pool(&self) -> bool {
        self.name(Topic::RouteDecisions).contains("{pool}")
    }

    /// The decision topic of a pool.
    pub fn decisions_of(&self, pool: &str) -> String {
        self.name(Topic::RouteDecisions).replace("{pool}", pool)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    pub format: OutputFormat,
    pub schema_registry: Option<SchemaRegistry>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct SchemaRegistry {
    pub url: String,
    pub user: Option<String>,
    pub password: Option<Secret>,
}

/// Where a group that never committed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFrom {
    #[default]
    Earliest,
    Latest,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Threads, each with a consumer and a transactional producer; 1 to 64.
    pub workers: u32,
    pub start_from: StartFrom,
    /// Records of one batch of one lane.
    pub batch_records_max: u32,
    /// Bytes of one batch of one lane, inputs.
    pub batch_bytes_max: u64,
    /// A batch begins this long after the first record waits, or when it is full.
    pub batch_wait_ms: u64,
    pub linger_ms: u64,
    pub transaction_timeout_ms: u64,
    pub session_timeout_ms: u64,
    /// Bytes of tasks that are kept so that they need not be read again.
    pub payload_cache_bytes: u64,
    /// After SIGTERM the process ends within this time.
    pub shutdown_ms_max: u64,
    /// An instance whose clock differs by more than this from the broker's takes no lanes.
    pub clock_difference_ms_max: u64,
    /// Set by `run --new-epoch` alone: offsets that somebody set are accepted.
    pub new_epoch: bool,
    /// For a benchmark alone: see `LaneSettings`.
    #[doc(hidden)]
    pub unjournaled: bool,
}

/// When a lane's whole state is kept, so that recovery need not begin with the first batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Batches between two local ones; 0: none is taken.
    pub local_batches: u64,
    /// Bytes of facts between two local ones.
    pub local_journal_bytes: u64,
    pub local_interval_ms_min: u64,
    /// Batches between two published ones; 0: none is published.
    pub publish_batches: u64,
    /// Bytes of facts between two published ones.
    pub publish_journal_bytes: u64,
    /// One for each interval stays as long as the journal, …
    pub keep_interval_ms: u64,
    /// … or for this many tasks.
    pub keep_decisions: u64,
    /// Of the local store, while it is open.
    pub cache_bytes: u64,
    /// 1 to 19.
    pub zstd_level: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    pub address: SocketAddr,
    /// Needed by what changes state, and by any address that is not loopback.
    pub token: Option<Secret>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// A filter of `tracing-subscriber`, such as `info` or `pointsman=debug`.
    pub filter: String,
}
