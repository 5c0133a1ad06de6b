//! The table of settings: parsing, `config show` and `config reference` all come from it.

/// What a setting accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `host:port`, comma separated; a TOML array of them too.
    Brokers,
    /// One word: no white space, at most 249 bytes.
    Name,
    /// A name that Kafka accepts for a topic.
    TopicName,
    /// As `TopicName`, and `{pool}` may occur in it once.
    TopicTemplate,
    Integer {
        min: u64,
        max: u64,
    },
    Number {
        min: f64,
        max: f64,
    },
    Choice(&'static [&'static str]),
    SocketAddress,
    Url,
    Path,
    /// Any text that is not empty.
    Text,
    /// Never printed; also accepted from a file, as `<key>_file`.
    Secret,
    /// A filter of `tracing-subscriber`.
    LogFilter,
}

impl Kind {
    /// What is allowed, as error texts and the reference say it.
    pub fn allowed(self) -> String {
        match self {
            Kind::Brokers => "`host:port`, comma separated".to_owned(),
            Kind::Name => "1 to 249 bytes without white space".to_owned(),
            Kind::TopicName => "1 to 249 of the characters `a-z A-Z 0-9 . _ -`".to_owned(),
            Kind::TopicTemplate => {
                "1 to 249 of the characters `a-z A-Z 0-9 . _ -`, and `{pool}` at most once"
                    .to_owned()
            }
            Kind::Integer { min, max } => {
                format!("an integer from {} to {}", grouped(min), grouped(max))
            }
            Kind::Number { min, max } => format!("a number from {min} to {max}"),
            Kind::Choice(choices) => {
                let quoted: Vec<String> =
                    choices.iter().map(|choice| format!("`{choice}`")).collect();
                format!("one of {}", quoted.join(", "))
            }
            Kind::SocketAddress => "`address:port`, such as `127.0.0.1:9640`".to_owned(),
            Kind::Url => {
                "a URL that starts with `http://` or `https://`, without user and password"
                    .to_owned()
            }
            Kind::Path => "a path".to_owned(),
            Kind::Text | Kind::Secret => "a text that is not empty".to_owned(),
            Kind::LogFilter => {
                "a level or directives such as `info` or `pointsman=debug`".to_owned()
            }
        }
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What holds where a setting is not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fallback {
    Value(&'static str),
    /// Found at start; the words say how.
    Derived(&'static str),
    /// Nothing.
    Absent,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// `section.key`.
    pub key: &'static str,
    pub kind: Kind,
    pub fallback: Fallback,
    pub doc: &'static str,
}

impl Setting {
    /// The environment variable that sets it.
    pub fn environment(&self) -> String {
        environment_name(self.key)
    }
}

/// The environment variable of a key.
pub fn environment_name(key: &str) -> String {
    format!("{}{}", super::source::ENVIRONMENT_PREFIX, key.replace('.', "__").to_uppercase())
}

const fn setting(key: &'static str, kind: Kind, fallback: Fallback, doc: &'static str) -> Setting {
    Setting { key, kind, fallback, doc }
}

use Fallback::{Absent, Derived, Value};
use Kind::{
    Brokers, Choice, Integer, LogFilter, Name, Number, Path, Secret, SocketAddress, Text,
    TopicName, TopicTemplate, Url,
};

const fn integer(min: u64, max: u64) -> Kind {
    Integer { min, max }
}

const DAY_MS: u64 = 86_400_000;

/// Every setting but `kafka.properties`, in the order of the reference.
#[rustfmt::skip]
pub const SETTINGS: [Setting; 67] = [
    setting("kafka.brokers", Brokers, Value("localhost:9092"),
        "Brokers to begin with; the others are found through them."),
    setting("kafka.group_id", Name, Value("pointsman"),
        "The consumer group, and the prefix of the transactional ids. All instances that share the work have the same one."),
    setting("kafka.instance_id", Name, Derived("the host's name"),
        "Names this process in the group, and must differ between instances. A restart with the same id takes its lanes over in seconds; with another one the group waits for the session timeout."),
    setting("kafka.data_directory", Path, Derived("`$STATE_DIRECTORY`, or `$XDG_STATE_HOME/pointsman`, or `~/.local/state/pointsman`, or `/var/lib/pointsman`"),
        "Holds the lock that keeps two processes from running under one instance id."),

    setting("topics.tasks", TopicName, Value("tasks"), "Input: tasks. One lane for each partition."),
    setting("topics.task_results", TopicName, Value("task-results"), "Input: what workers report. As many partitions as `tasks`."),
    setting("topics.lane_inbox", TopicName, Value("lane-inbox"), "Internal: what lanes send each other. As many partitions as `tasks`."),
    setting("topics.health_events", TopicName, Value("health-events"), "Input and output: health of resources, providers, regions and failure domains. One partition, compacted."),
    setting("topics.fleet", TopicName, Value("fleet"), "Input: resources and tenants. One partition, compacted."),
    setting("topics.route_decisions", TopicTemplate, Value("route-decisions"), "Output: decisions. With `{pool}` in the name, such as `routes.{pool}`, each pool of the fleet has its own topic."),
    setting("topics.allocation_events", TopicName, Value("allocation-events"), "Output: what was reserved, released, expired."),
    setting("topics.balance_events", TopicName, Value("balance-events"), "Output: failovers, moved rights."),
    setting("topics.load_snapshots", TopicName, Value("load-snapshots"), "Output: load of each resource as each lane sees it. Compacted."),
    setting("topics.journal", TopicName, Value("journal"), "Internal: one record for each batch, from which a lane recovers."),
    setting("topics.snapshots", TopicName, Value("snapshots"), "Internal: the whole state of each lane, now and then, so that recovery need not begin with the first batch. Compacted."),
    setting("topics.operator_actions", TopicName, Value("operator-actions"), "Input and output: who did what and why; clocks are compared there. One partition, log-append time."),
    setting("topics.tasks_dlq", TopicName, Derived("`topics.tasks` and `.dlq`"), "Output: tasks that cannot be used."),
    setting("topics.task_results_dlq", TopicName, Derived("`topics.task_results` and `.dlq`"), "Output: task results that cannot be used."),
    setting("topics.lane_inbox_dlq", TopicName, Derived("`topics.lane_inbox` and `.dlq`"), "Output: messages between lanes that cannot be used."),
    setting("topics.health_events_dlq", TopicName, Derived("`topics.health_events` and `.dlq`"), "Output: health events that cannot be used."),
    setting("topics.fleet_dlq", TopicName, Derived("`topics.fleet` and `.dlq`"), "Output: fleet entries that cannot be used."),

    setting("output.format", Choice(&["avro", "confluent", "json"]), Value("avro"),
        "Encoding of what is written: Avro single-object encoding, Avro in the Confluent wire format (needs a schema registry), or JSON. Inputs are recognised by themselves."),
    setting("output.schema_registry.url", Url, Absent, "A Confluent-compatible schema registry, up to and without `/subjects`."),
    setting("output.schema_registry.user", Text, Absent, "User of the registry (HTTP basic authentication)."),
    setting("output.schema_registry.password", Secret, Absent, "Password of the registry."),

    setting("worker.workers", integer(1, 64), Value("1"), "Threads, each with a consumer and a transactional producer. More than there are lanes are idle."),
    setting("worker.start_from", Choice(&["earliest", "latest"]), Value("earliest"), "Where a group that never committed begins."),
    setting("worker.batch_records_max", integer(1, 65_536), Value("4096"), "Records of one batch of one lane."),
    setting("worker.batch_bytes_max", integer(65_536, 268_435_456), Value("8388608"), "Bytes of one batch of one lane, inputs."),
    setting("worker.batch_wait_ms", integer(0, 1_000), Value("5"), "A batch begins this long after its first record waits, or when it is full."),
    setting("worker.linger_ms", integer(0, 1_000), Value("5"), "How long the producer waits to fill a request."),
    setting("worker.transaction_timeout_ms", integer(1_000, 900_000), Value("5000"), "The broker aborts a transaction that is open for longer. Less than the session timeout, and not more than the broker's `transaction.max.timeout.ms`."),
    setting("worker.session_timeout_ms", integer(1_000, 1_800_000), Value("20000"), "An instance that is silent for so long loses its lanes to the others. Within the broker's `group.min.session.timeout.ms` and `group.max.session.timeout.ms`."),
    setting("worker.payload_cache_bytes", integer(0, 4_294_967_296), Value("4194304"), "Bytes of tasks that are kept so that they need not be read again."),
    setting("worker.shutdown_ms_max", integer(1_000, 600_000), Value("10000"), "After SIGTERM the process ends within this time."),
    setting("worker.clock_difference_ms_max", integer(1, 60_000), Value("1000"), "An instance whose clock differs by more than this from the broker's takes no lanes."),

    setting("routing.attempts_max", integer(1, 10), Value("3"), "Attempts that may fail or expire before a task is given up."),
    setting("routing.fallbacks_max", integer(0, 4), Value("2"), "Fallback chains in a decision."),
    setting("routing.start_within_ms", integer(1, 60_000), Value("2000"), "A worker must start this soon after the decision; rate windows are kept this much longer."),
    setting("routing.lease_factor", Number { min: 1.0, max: 1_000.0 }, Value("4"), "A lease is `start_within_ms` and this many times the predicted latency, within the two bounds below."),
    setting("routing.lease_ms_min", integer(1, DAY_MS), Value("30000"), "The shortest lease."),
    setting("routing.lease_ms_max", integer(1, DAY_MS), Value("3600000"), "The longest lease."),
    setting("routing.lease_grace_ms", integer(0, 600_000), Value("1000"), "A lease ends this long after its time, so that a result on its way still counts."),
    setting("routing.backlog_tasks_max", integer(0, 10_000_000), Value("10000"), "Tasks that may wait in one lane."),
    setting("routing.wait_ms_max", integer(1, DAY_MS), Value("60000"), "A waiting task without a deadline is refused after this long."),
    setting("routing.recognise_ms", integer(0, 7 * DAY_MS), Value("3600000"), "A task id is recognised as a duplicate for this long, …"),
    setting("routing.recognise_tasks_max", integer(0, 100_000_000), Value("1000000"), "… and among this many newest task ids of the lane."),
    setting("routing.explore_share", Number { min: 0.0, max: 0.5 }, Value("0.01"), "At most this share of the decisions goes to a resource that may be better than is believed; never a critical task."),
    setting("routing.reserve_output", Choice(&["all", "predicted"]), Value("all"), "Output that is reserved, and allowed by the decision: all of `max_output_tokens`, or what 99 in 100 tasks of the class need."),
    setting("routing.priority_share_min", Number { min: 0.0, max: 0.2 }, Value("0.01"), "Each priority below `critical` gets at least this share of the tokens that are given while it waits."),
    setting("routing.transfer_ms", Number { min: 0.0, max: 600_000.0 }, Value("100"), "A task whose next stage is served in another region begins it this much later."),
    setting("routing.transfer_usd_per_million_tokens", Number { min: 0.0, max: 1_000.0 }, Value("0.0004"), "What it costs to bring a million tokens of the next stage's input to another region: 4 bytes a token at 0.1 USD a gigabyte."),
    setting("routing.affinity_share", Number { min: 0.0, max: 1.0 }, Value("0.25"), "Where a task's session was served last, this share of its input's cost and reading time is taken to be saved; 0: sessions do not count."),
    setting("routing.load_snapshot_ms", integer(100, 3_600_000), Value("5000"), "The load snapshots of a lane are this far apart."),

    setting("snapshot.local_batches", integer(0, 1_000_000_000), Value("1000"), "A lane's snapshot is kept in `kafka.data_directory` after this many batches, …"),
    setting("snapshot.local_journal_bytes", integer(65_536, 1 << 40), Value("67108864"), "… or after this many bytes of facts. With `local_batches = 0` none is kept there."),
    setting("snapshot.local_interval_ms_min", integer(0, DAY_MS), Value("10000"), "Two of them are at least this far apart."),
    setting("snapshot.publish_batches", integer(0, 1_000_000_000), Value("10000"), "A lane's snapshot is published to `topics.snapshots` after this many batches, …"),
    setting("snapshot.publish_journal_bytes", integer(65_536, 1 << 40), Value("268435456"), "… or after this many bytes of facts: what another instance that takes the lane over has to fold at most. With `publish_batches = 0` none is published."),
    setting("snapshot.keep_interval_ms", integer(60_000, 365 * DAY_MS), Value("3600000"), "Besides the newest two, one published snapshot stays for each interval as long as the journal, so that replay can start there, …"),
    setting("snapshot.keep_decisions", integer(1_000, 1 << 40), Value("1000000"), "… or for this many tasks, whichever comes first."),
    setting("snapshot.cache_bytes", integer(1_048_576, 1 << 30), Value("8388608"), "What the local store may hold in memory while it is open."),
    setting("snapshot.zstd_level", integer(1, 19), Value("1"), "How hard snapshots are compressed."),

    setting("http.address", SocketAddress, Value("127.0.0.1:9640"), "Where `/livez`, `/readyz`, `/metrics` and `/api/v1` are served. Port 0: any free one, named in the log."),
    setting("http.token", Secret, Absent, "Asked for (`Authorization: Bearer …`) by what changes state and, on an address that is not loopback, by all but `/livez` and `/readyz`."),

    setting("log.format", Choice(&["auto", "text", "json"]), Value("auto"), "`auto`: text on a terminal, JSON elsewhere."),
    setting("log.filter", LogFilter, Value("info"), "What is logged, on stderr."),
];
