//! Texts → one `Config`. Every setting is judged even after the first error.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors, Origin};
use super::forms::{is_host_and_port, is_topic_name, is_url};
use super::settings::{Fallback, Kind, SETTINGS, Setting};
use super::source::{Given, PROPERTIES, Source};
use super::{
    Config, Effective, Http, Kafka, Log, LogFormat, Output, SchemaRegistry, Secret, Snapshot,
    StartFrom, TopicNames, Worker, properties,
};
use crate::codec::OutputFormat;
use crate::model::Topic;
use crate::model::policy::{Policy, ReserveOutput};

/// What the host says where the configuration says nothing.
pub struct Surroundings {
    /// `None` where it cannot be found.
    pub host_name: Option<String>,
    pub data_directory: PathBuf,
}

/// Bound of a file that holds a secret: a longer one is a mistake, such as a device.
const SECRET_BYTES_MAX: u64 = 65_536;

pub fn validate(
    source: Source,
    surroundings: &Surroundings,
) -> Result<(Config, Vec<Effective>), ConfigErrors> {
    let Source { given, errors } = source;
    let mut reader = Reader { given, errors, effective: Vec::new(), known: Vec::new() };
    reader.report_unknown();

    let kafka = Kafka {
        brokers: reader.text("kafka.brokers"),
        group_id: reader.text("kafka.group_id"),
        instance_id: reader.derived("kafka.instance_id", surroundings.host_name.clone()),
        properties: reader.properties(),
        data_directory: PathBuf::from(reader.derived(
            "kafka.data_directory",
            Some(surroundings.data_directory.to_string_lossy().into_owned()),
        )),
    };
    let topics = topic_names(&mut reader);
    let output = output(&mut reader);
    let worker = worker(&mut reader);
    let routing = routing(&mut reader);
    let snapshot = snapshot(&mut reader);
    let http = http(&mut reader);
    let log = Log {
        format: match reader.text("log.format").as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => LogFormat::Auto,
        },
        filter: reader.text("log.filter"),
    };

    if reader.errors.is_empty() {
        let config = Config { kafka, topics, output, worker, routing, snapshot, http, log };
        return Ok((config, reader.effective));
    }
    Err(ConfigErrors(reader.errors))
}

fn topic_names(reader: &mut Reader) -> TopicNames {
    let mut names = BTreeMap::new();
    for topic in Topic::ALL {
        let input = Topic::ALL.into_iter().find(|input| input.dlq() == Some(topic));
        let derived =
            input.and_then(|input| names.get(&input)).map(|input: &String| format!("{input}.dlq"));
        names.insert(topic, reader.derived(&topic_key(topic), derived));
    }
    let mut owners: BTreeMap<&str, Topic> = BTreeMap::new();
    for (topic, name) in &names {
        let input = Topic::ALL.into_iter().find(|input| input.dlq() == Some(*topic));
        if input.is_some_and(|input| reader.is_refused(&topic_key(input))) {
            // Its name follows from one that is wrong already.
            continue;
        }
        if let Some(first) = owners.insert(name, *topic) {
            let allowed = format!("a name other than that of `{}`", topic_key(first));
            reader.refuse(&topic_key(*topic), &allowed);
        }
    }
    TopicNames::new(names)
}

/// The key that names a topic.
pub fn topic_key(topic: Topic) -> String {
    format!("topics.{}", topic.default_name().replace(['-', '.'], "_"))
}

fn output(reader: &mut Reader) -> Output {
    let format = match reader.text("output.format").as_str() {
        "confluent" => OutputFormat::Confluent,
        "json" => OutputFormat::Json,
        _ => OutputFormat::Avro,
    };
    let url = reader.optional("output.schema_registry.url");
    let user = reader.optional("output.schema_registry.user");
    let password = reader.secret("output.schema_registry.password");
    if format == OutputFormat::Confluent && url.is_none() {
        reader.refuse("output.format", "`confluent` only together with output.schema_registry.url");
    }
    for (key, given) in [
        ("output.schema_registry.user", user.is_some()),
        ("output.schema_registry.password", password.is_some()),
    ] {
        if given && url.is_none() {
            reader.refuse(key, "only together with output.schema_registry.url");
        }
    }
    if user.is_none() && password.is_some() {
        reader.refuse(
            "output.schema_registry.password",
            "only together with output.schema_registry.user",
        );
    }
    let schema_registry = url.map(|url| {
        let url = url.trim_end_matches('/').to_owned();
        SchemaRegistry { url, user, password }
    });
    Output { format, schema_registry }
}

fn worker(reader: &mut Reader) -> Worker {
    let worker = Worker {
        workers: reader.integer("worker.workers"),
        start_from: match reader.text("worker.start_from").as_str() {
            "latest" => StartFrom::Latest,
            _ => StartFrom::Earliest,
        },
        batch_records_max: reader.integer("worker.batch_records_max"),
        batch_bytes_max: reader.integer("worker.batch_bytes_max"),
        batch_wait_ms: reader.integer("worker.batch_wait_ms"),
        linger_ms: reader.integer("worker.linger_ms"),
        transaction_timeout_ms: reader.integer("worker.transaction_timeout_ms"),
        session_timeout_ms: reader.integer("worker.session_timeout_ms"),
        payload_cache_bytes: reader.integer("worker.payload_cache_bytes"),
        shutdown_ms_max: reader.integer("worker.shutdown_ms_max"),
        clock_difference_ms_max: reader.integer("worker.clock_difference_ms_max"),
        new_epoch: false,
        unjournaled: false,
    };
    // A dead instance's transaction has to end before its lanes are handed out again.
    if worker.transaction_timeout_ms >= worker.session_timeout_ms {
        let allowed =
            format!("less than worker.session_timeout_ms ({})", worker.session_timeout_ms);
        reader.refuse("worker.transaction_timeout_ms", &allowed);
    }
    if worker.linger_ms >= worker.transaction_timeout_ms {
        let allowed =
            format!("less than worker.transaction_timeout_ms ({})", worker.transaction_timeout_ms);
        reader.refuse("worker.linger_ms", &allowed);
    }
    worker
}

fn routing(reader: &mut Reader) -> Policy {
    let policy = Policy {
        attempts_max: reader.integer("routing.attempts_max"),
        fallbacks_max: reader.integer("routing.fallbacks_max"),
        start_within_ms: reader.integer("routing.start_within_ms"),
        lease_factor: reader.number("routing.lease_factor"),
        lease_ms_min: reader.integer("routing.lease_ms_min"),
        lease_ms_max: reader.integer("routing.lease_ms_max"),
        lease_grace_ms: reader.integer("routing.lease_grace_ms"),
        backlog_tasks_max: reader.integer("routing.backlog_tasks_max"),
        wait_ms_max: reader.integer("routing.wait_ms_max"),
        recognise_ms: reader.integer("routing.recognise_ms"),
        recognise_tasks_max: reader.integer("routing.recognise_tasks_max"),
        explore_share: reader.number("routing.explore_share"),
        reserve_output: match reader.text("routing.reserve_output").as_str() {
            "predicted" => ReserveOutput::Predicted,
            _ => ReserveOutput::All,
        },
        load_snapshot_ms: reader.integer("routing.load_snapshot_ms"),
        pools_missing: Vec::new(),
        priority_share_min: reader.number("routing.priority_share_min"),
        transfer_ms: reader.number("routing.transfer_ms"),
        transfer_usd_per_million_tokens: reader.number("routing.transfer_usd_per_million_tokens"),
        affinity_share: reader.number("routing.affinity_share"),
    };
    if policy.lease_ms_min > policy.lease_ms_max {
        let allowed = format!("at most routing.lease_ms_max ({})", policy.lease_ms_max);
        reader.refuse("routing.lease_ms_min", &allowed);
    }
    // A lease that is over before the worker has to start would fail every late start over.
    if policy.start_within_ms > policy.lease_ms_max {
        let allowed = format!("at most routing.lease_ms_max ({})", policy.lease_ms_max);
        reader.refuse("routing.start_within_ms", &allowed);
    }
    policy
}

fn snapshot(reader: &mut Reader) -> Snapshot {
    Snapshot {
        local_batches: reader.integer("snapshot.local_batches"),
        local_journal_bytes: reader.integer("snapshot.local_journal_bytes"),
        local_interval_ms_min: reader.integer("snapshot.local_interval_ms_min"),
        publish_batches: reader.integer("snapshot.publish_batches"),
        publish_journal_bytes: reader.integer("snapshot.publish_journal_bytes"),
        keep_interval_ms: reader.integer("snapshot.keep_interval_ms"),
        keep_decisions: reader.integer("snapshot.keep_decisions"),
        cache_bytes: reader.integer("snapshot.cache_bytes"),
        zstd_level: reader.integer("snapshot.zstd_level"),
    }
}

fn http(reader: &mut Reader) -> Http {
    let text = reader.text("http.address");
    let address = text.parse().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    let token = reader.secret("http.token");
    if !address.ip().is_loopback() && token.is_none() {
        reader.refuse(
            "http.address",
            "an address that is not loopback only together with http.token (or http.token_file)",
        );
    }
    Http { address, token }
}

struct Reader {
    given: BTreeMap<String, Given>,
    errors: Vec<ConfigError>,
    effective: Vec<Effective>,
    /// Keys with an error: what follows from a wrong value is not reported.
    known: Vec<String>,
}

impl Reader {
    fn error(&mut self, key: &str, problem: String, origin: Origin) {
        self.known.push(key.to_owned());
        self.errors.push(ConfigError { key: key.to_owned(), problem, origin });
    }

    fn is_refused(&self, key: &str) -> bool {
        self.known.iter().any(|known| known == key)
    }

    /// Reports that a value, as it is in force, does not fit the others.
    fn refuse(&mut self, key: &str, allowed: &str) {
        if self.is_refused(key) {
            return;
        }
        let found = self.effective.iter().find(|effective| effective.key == key);
        let (shown, origin) = found.map_or((String::new(), Origin::Default), |effective| {
            let shown = match &effective.value {
                Some(value) if !effective.secret => quoted(value),
                Some(_) | None => effective.shown(),
            };
            (shown, effective.origin.clone())
        });
        self.error(key, format!("{shown} is not allowed; {allowed}"), origin);
    }

    fn report_unknown(&mut self) {
        let mut allowed: Vec<String> =
            SETTINGS.iter().map(|setting| setting.key.to_owned()).collect();
        allowed.extend(
            SETTINGS
                .iter()
                .filter(|setting| setting.kind == Kind::Secret)
                .map(|setting| format!("{}_file", setting.key)),
        );
        let unknown: Vec<(String, Origin)> = self
            .given
            .iter()
            .filter(|(key, _)| {
                !allowed.contains(key) && !key.starts_with(&format!("{PROPERTIES}."))
            })
            .map(|(key, given)| (key.clone(), given.origin.clone()))
            .collect();
        for (key, origin) in unknown {
            let nearest = allowed
                .iter()
                .map(|candidate| (strsim::jaro_winkler(&key, candidate), candidate))
                .max_by(|left, right| left.0.total_cmp(&right.0));
            // Below this the suggestion is more often a guess than a correction.
            let problem = match nearest {
                Some((likeness, candidate)) if likeness > 0.85 => {
                    format!("unknown key; did you mean {candidate}?")
                }
                Some(_) | None => {
                    "unknown key; `pointsman config reference` lists all keys".to_owned()
                }
            };
            self.error(&key, problem, origin);
        }
    }

    fn record(&mut self, key: &str, value: Option<String>, secret: bool, origin: Origin) {
        self.effective.push(Effective { key: key.to_owned(), value, secret, origin });
    }

    /// The valid text of a setting, or its fallback.
    fn lookup(&mut self, key: &str, derived: Option<String>) -> Option<String> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            debug_assert!(false, "{key} is not in the table");
            return None;
        };
        if let Some(given) = self.given.get(key).cloned() {
            match check(setting, &given.text) {
                Ok(text) => {
                    self.record(key, Some(text.clone()), false, given.origin);
                    return Some(text);
                }
                Err(problem) => self.error(key, problem, given.origin),
            }
        }
        let value = match setting.fallback {
            Fallback::Value(value) => Some(value.to_owned()),
            Fallback::Derived(how) => {
                if derived.is_none() && !self.is_refused(key) {
                    let problem = format!("{how} cannot be found; {}", setting.kind.allowed());
                    self.error(key, problem, Origin::Default);
                }
                derived
            }
            Fallback::Absent => None,
        };
        self.record(key, value.clone(), false, Origin::Default);
        value
    }

    fn text(&mut self, key: &str) -> String {
        self.lookup(key, None).unwrap_or_default()
    }

    fn optional(&mut self, key: &str) -> Option<String> {
        self.lookup(key, None)
    }

    fn derived(&mut self, key: &str, derived: Option<String>) -> String {
        self.lookup(key, derived).unwrap_or_default()
    }

    fn integer<Integer: TryFrom<u64> + Default>(&mut self, key: &str) -> Integer {
        let number: u64 = self.text(key).parse().unwrap_or_default();
        let fits = Integer::try_from(number);
        debug_assert!(fits.is_ok(), "the range of {key} exceeds its type");
        fits.unwrap_or_default()
    }

    fn number(&mut self, key: &str) -> f64 {
        self.text(key).parse().unwrap_or_default()
    }

    /// A secret, given directly or as the path of a file.
    fn secret(&mut self, key: &str) -> Option<Secret> {
        let secret = self.secret_text(key, &format!("{key}_file"));
        let origin = secret.as_ref().map_or(Origin::Default, |(_, origin)| origin.clone());
        self.record(key, secret.as_ref().map(|_| String::new()), true, origin);
        secret.map(|(text, _)| Secret::new(text))
    }

    fn secret_text(&mut self, key: &str, file_key: &str) -> Option<(String, Origin)> {
        let direct = self.given.get(key).cloned();
        let file = self.given.get(file_key).cloned();
        match (direct, file) {
            (Some(direct), Some(file)) => {
                let problem = format!("given directly and as {file_key} ({}); one", file.origin);
                self.error(key, problem, direct.origin);
                None
            }
            (Some(direct), None) if direct.text.is_empty() => {
                let problem = "an empty text is not allowed; a text that is not empty".to_owned();
                self.error(key, problem, direct.origin);
                None
            }
            (Some(direct), None) => Some((direct.text, direct.origin)),
            (None, Some(file)) => match read_secret(Path::new(&file.text)) {
                Ok(text) => Some((text, file.origin)),
                Err(problem) => {
                    self.error(file_key, problem, file.origin);
                    None
                }
            },
            (None, None) => None,
        }
    }

    fn properties(&mut self) -> BTreeMap<String, Secret> {
        let prefix = format!("{PROPERTIES}.");
        let names: Vec<String> = self
            .given
            .keys()
            .filter_map(|key| key.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect();
        let mut found = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for name in names {
            let is_file = name.ends_with(".file") && !properties::exists(&name);
            let property = if is_file { name.trim_end_matches(".file") } else { &name }.to_owned();
            let key = format!("{prefix}{property}");
            if !seen.insert(property.clone()) {
                continue;
            }
            let file_key = format!("{key}.file");
            let file_key = if properties::exists(&format!("{property}.file")) {
                // librdkafka has a property of this very name: it is not ours to read.
                String::new()
            } else {
                file_key
            };
            let Some((text, origin)) = self.secret_text(&key, &file_key) else { continue };
            if let Err(problem) = properties::check(&property, &text) {
                self.error(&key, problem, origin);
                continue;
            }
            self.record(&key, Some(String::new()), true, origin);
            found.insert(property, Secret::new(text));
        }
        found
    }
}

/// The text in its normal form, or what is wrong with it.
fn check(setting: &Setting, text: &str) -> Result<String, String> {
    let valid = match setting.kind {
        Kind::Brokers => {
            let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
            return if brokers.iter().all(|broker| is_host_and_port(broker)) {
                Ok(brokers.join(","))
            } else {
                Err(not_allowed(setting, text))
            };
        }
        Kind::Name => {
            (1..=249).contains(&text.len())
                && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control())
        }
        Kind::TopicName => is_topic_name(text),
        Kind::TopicTemplate => is_topic_name(&text.replacen("{pool}", "p", 1)),
        Kind::Integer { min, max } => {
            text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
        }
        Kind::Number { min, max } => text
            .parse::<f64>()
            .is_ok_and(|number| number.is_finite() && (min..=max).contains(&number)),
        Kind::Choice(choices) => choices.contains(&text),
        Kind::SocketAddress => text.parse::<SocketAddr>().is_ok(),
        Kind::Url => is_url(text),
        Kind::Path | Kind::Text | Kind::Secret => !text.is_empty(),
        Kind::LogFilter => !text.is_empty() && tracing_subscriber::EnvFilter::try_new(text).is_ok(),
    };
    if valid { Ok(text.to_owned()) } else { Err(not_allowed(setting, text)) }
}

fn not_allowed(setting: &Setting, text: &str) -> String {
    format!("{} is not allowed; {}", quoted(text), setting.kind.allowed())
}

/// A value as error texts show it, cut where it is long.
pub fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 64;
    if text.is_empty() {
        return "an empty text".to_owned();
    }
    if text.parse::<f64>().is_ok() {
        return text.to_owned();
    }
    let cut: String = text.chars().take(SHOWN_MAX).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("`{cut}{dots}`")
}

fn read_secret(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let shown = path.display();
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("`{shown}` is longer than {SECRET_BYTES_MAX} bytes"));
    }
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(format!("`{shown}` is empty"));
    }
    Ok(text.to_owned())
}
