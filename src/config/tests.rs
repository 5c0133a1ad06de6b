use std::path::Path;

use super::*;

/// Loads a file's text and variables; the file is called `p.toml` in errors.
fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let mut source = source::Source::default();
    source.read_toml(Path::new("p.toml"), text);
    source.read_environment(
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let surroundings = validate::Surroundings {
        host_name: Some("host-1".to_owned()),
        data_directory: PathBuf::from("data"),
    };
    validate::validate(source, &surroundings)
        .map(|(config, effective)| Loaded { config, effective })
        .map_err(|errors| errors.to_string())
}

fn config(text: &str, variables: &[(&str, &str)]) -> Config {
    load_text(text, variables).unwrap().config
}

/// The errors of a configuration, each on a line; empty where it is valid.
fn check(text: &str, variables: &[(&str, &str)], expected: &str) {
    let errors = load_text(text, variables).err().unwrap_or_default();
    assert_eq!(errors, expected);
}

#[test]
fn defaults_are_those_of_the_design() {
    let config = config("", &[]);
    assert_eq!(
        config.kafka,
        Kafka {
            brokers: "localhost:9092".to_owned(),
            group_id: "pointsman".to_owned(),
            instance_id: "host-1".to_owned(),
            properties: BTreeMap::new(),
            data_directory: PathBuf::from("data"),
        }
    );
    assert_eq!(
        config.worker,
        Worker {
            workers: 1,
            start_from: StartFrom::Earliest,
            batch_records_max: 4_096,
            batch_bytes_max: 8 << 20,
            batch_wait_ms: 5,
            linger_ms: 5,
            transaction_timeout_ms: 5_000,
            session_timeout_ms: 20_000,
            payload_cache_bytes: 4 << 20,
            shutdown_ms_max: 10_000,
            clock_difference_ms_max: 1_000,
            new_epoch: false,
            unjournaled: false,
        }
    );
    assert_eq!(config.routing, Policy::default());
    assert_eq!(config.output, Output { format: OutputFormat::Avro, schema_registry: None });
    for topic in Topic::ALL {
        assert_eq!(config.topics.name(topic), topic.default_name());
    }
    assert_eq!(config.http.address, SocketAddr::from(([127, 0, 0, 1], 9640)));
    assert_eq!(config.log, Log { format: LogFormat::Auto, filter: "info".to_owned() });
}

#[test]
fn every_setting_is_used_once_and_can_be_set_both_ways() {
    let loaded = load_text("", &[]).unwrap();
    let used: Vec<&str> = loaded.effective.iter().map(|found| found.key.as_str()).collect();
    let known: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    let mut sorted = (used.clone(), known.clone());
    sorted.0.sort_unstable();
    sorted.1.sort_unstable();
    assert_eq!(sorted.0, sorted.1);

    for setting in &SETTINGS {
        let value = match setting.kind {
            Kind::Brokers => "b:1",
            Kind::Name | Kind::Text | Kind::Secret | Kind::Path => "some",
            Kind::TopicName | Kind::TopicTemplate => "some-topic",
            Kind::Integer { min, .. } => &min.to_string(),
            Kind::Number { min, .. } => &min.to_string(),
            Kind::Choice(choices) => choices.last().unwrap(),
            Kind::SocketAddress => "127.0.0.1:1",
            Kind::Url => "http://registry",
            Kind::LogFilter => "debug",
        };
        // Settings that ask for others get them.
        let others = match setting.key {
            "output.schema_registry.user" => "[output.schema_registry]\nurl = \"http://r\"",
            "output.schema_registry.password" => {
                "[output.schema_registry]\nurl = \"http://r\"\nuser = \"u\""
            }
            "worker.session_timeout_ms" => "[worker]\ntransaction_timeout_ms = 999",
            "routing.lease_ms_max" => "[routing]\nlease_ms_min = 1\nstart_within_ms = 1",
            _ => "",
        };
        // The least session timeout leaves no room for a transaction: that one is expected to fail.
        let name = setting.environment();
        let outcome = load_text(others, &[(&name, value)]);
        if setting.key == "worker.session_timeout_ms" {
            assert!(outcome.is_err());
            continue;
        }
        let loaded = outcome.unwrap_or_else(|errors| panic!("{}: {errors}", setting.key));
        let found = loaded.effective.iter().find(|found| found.key == setting.key).unwrap();
        assert_eq!(found.origin, Origin::Environment(name), "{}", setting.key);
    }
}

#[test]
fn every_error_is_reported_with_its_place_and_what_is_allowed() {
    check(
        r#"
[kafka]
brokers = "nowhere"
group_id = ""
grup_id = "x"

[worker]
workers = 0
batch_records_max = "many"
start_from = "middle"

[topics]
tasks = "my tasks"

[nonsense]
a.b = 1

[output]
format = "xml"

[output.schema_registry]
url = "registry:8081"

[log]
filter = "a=b=c"
"#,
        &[("POINTSMAN__HTTP__ADDRESS", "localhost"), ("POINTSMAN__ROUTING__LEASE_FACTOR", "NaN")],
        "the configuration is not valid, 13 errors:
  kafka.grup_id: unknown key; did you mean kafka.group_id? (p.toml:5)
  nonsense.a.b: unknown key; `pointsman config reference` lists all keys (p.toml:16)
  kafka.brokers: `nowhere` is not allowed; `host:port`, comma separated (p.toml:3)
  kafka.group_id: an empty text is not allowed; 1 to 249 bytes without white space (p.toml:4)
  topics.tasks: `my tasks` is not allowed; 1 to 249 of the characters `a-z A-Z 0-9 . _ -` (p.toml:13)
  output.format: `xml` is not allowed; one of `avro`, `confluent`, `json` (p.toml:19)
  output.schema_registry.url: `registry:8081` is not allowed; a URL that starts with `http://` or `https://`, without user and password (p.toml:22)
  worker.workers: 0 is not allowed; an integer from 1 to 64 (p.toml:8)
  worker.start_from: `middle` is not allowed; one of `earliest`, `latest` (p.toml:10)
  worker.batch_records_max: `many` is not allowed; an integer from 1 to 65,536 (p.toml:9)
  routing.lease_factor: NaN is not allowed; a number from 1 to 1000 (environment POINTSMAN__ROUTING__LEASE_FACTOR)
  http.address: `localhost` is not allowed; `address:port`, such as `127.0.0.1:9640` (environment POINTSMAN__HTTP__ADDRESS)
  log.filter: `a=b=c` is not allowed; a level or directives such as `info` or `pointsman=debug` (p.toml:25)",
    );
}

#[test]
fn values_that_do_not_fit_together_are_refused() {
    check(
        r#"
[worker]
transaction_timeout_ms = 20000

[routing]
lease_ms_min = 5000
lease_ms_max = 4000

[output]
format = "confluent"

[topics]
fleet = "tasks"

[http]
address = "0.0.0.0:80"
"#,
        &[],
        "the configuration is not valid, 5 errors:
  topics.fleet: `tasks` is not allowed; a name other than that of `topics.tasks` (p.toml:13)
  output.format: `confluent` is not allowed; `confluent` only together with output.schema_registry.url (p.toml:10)
  worker.transaction_timeout_ms: 20000 is not allowed; less than worker.session_timeout_ms (20000) (p.toml:3)
  routing.lease_ms_min: 5000 is not allowed; at most routing.lease_ms_max (4000) (p.toml:6)
  http.address: `0.0.0.0:80` is not allowed; an address that is not loopback only together with http.token (or http.token_file) (p.toml:16)",
    );
}

#[test]
fn what_is_not_toml_is_named_with_its_line() {
    check(
        "[kafka]\nbrokers = \n[worker\nworkers = 2\n",
        &[("POINTSMAN__WORKER__WORKERS", "0")],
        "the configuration is not valid, 3 errors:
  not TOML: unclosed table, expected `]` (p.toml:3)
  not TOML: string values must be quoted, expected literal string (p.toml:2)
  worker.workers: 0 is not allowed; an integer from 1 to 64 (environment POINTSMAN__WORKER__WORKERS)",
    );
}

#[test]
fn the_environment_wins_and_names_itself() {
    let loaded = load_text(
        "[kafka]\ngroup_id = \"a\"\nbrokers = [\"x:1\", \"y:2\"]\n",
        &[("POINTSMAN__KAFKA__GROUP_ID", "b"), ("OTHER__KAFKA__GROUP_ID", "c")],
    )
    .unwrap();
    assert_eq!(loaded.config.kafka.group_id, "b");
    assert_eq!(loaded.config.kafka.brokers, "x:1,y:2");
    let origins: Vec<String> =
        loaded.effective.iter().take(2).map(|found| found.origin.to_string()).collect();
    assert_eq!(origins, ["p.toml:3", "environment POINTSMAN__KAFKA__GROUP_ID"]);
}

#[test]
fn dead_letters_follow_the_name_of_their_input() {
    let config = config("[topics]\ntasks = \"jobs\"\nroute_decisions = \"routes.{pool}\"\n", &[]);
    assert_eq!(config.topics.name(Topic::TasksDlq), "jobs.dlq");
    assert_eq!(config.topics.decisions_of("gpu"), "routes.gpu");
    check(
        "topics.route_decisions = \"{pool}{pool}\"",
        &[],
        "the configuration is not valid, 1 error:
  topics.route_decisions: `{pool}{pool}` is not allowed; 1 to 249 of the characters `a-z A-Z 0-9 . _ -`, and `{pool}` at most once (p.toml:1)",
    );
}

#[test]
fn properties_pass_through_in_every_form() {
    let config = config(
        "[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"\nsasl.username = \"u\"\n\
         \"socket.keepalive.enable\" = true\n\"fetch.min.bytes\" = 5\n",
        &[("POINTSMAN__KAFKA__PROPERTIES__SASL_MECHANISM", "SCRAM-SHA-512")],
    );
    let properties: Vec<(&str, &str)> = config
        .kafka
        .properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()))
        .collect();
    assert_eq!(
        properties,
        [
            ("fetch.min.bytes", "5"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "u"),
            ("security.protocol", "SASL_SSL"),
            ("socket.keepalive.enable", "true"),
        ]
    );
}

#[test]
fn properties_that_are_ours_or_unknown_or_wrong_are_refused() {
    check(
        "[kafka.properties]\n\"enable.auto.commit\" = true\n\"group.id\" = \"x\"\n\
         \"isolation.level\" = \"read_uncommitted\"\n\"no.such.thing\" = 1\n\
         \"fetch.min.bytes\" = \"zwei\"\n",
        &[("POINTSMAN__KAFKA__PROPERTIES__SECURITY_PROTOCOL", "geheim")],
        "the configuration is not valid, 6 errors:
  kafka.properties.enable.auto.commit: not to be set: offsets are committed in the transaction of their batch (p.toml:2)
  kafka.properties.fetch.min.bytes: librdkafka does not accept it: Invalid value for configuration property \"fetch.min.bytes\" (p.toml:6)
  kafka.properties.group.id: not to be set: set kafka.group_id instead (p.toml:3)
  kafka.properties.isolation.level: not to be set: only committed records may be decided (p.toml:4)
  kafka.properties.no.such.thing: librdkafka has no such property (p.toml:5)
  kafka.properties.security.protocol: librdkafka does not accept it: Invalid value \"…\" for configuration property \"security.protocol\" (environment POINTSMAN__KAFKA__PROPERTIES__SECURITY_PROTOCOL)",
    );
}

#[test]
fn secrets_come_from_files_and_are_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    std::fs::write(&file, "geheim-1\n").unwrap();
    let file = file.to_str().unwrap();
    let text = format!(
        "[kafka.properties]\n\"sasl.password.file\" = \"{file}\"\n[http]\ntoken_file = \"{file}\"\n\
         [output.schema_registry]\nurl = \"http://r\"\nuser = \"u\"\npassword = \"geheim-2\"\n"
    );
    let loaded = load_text(&text, &[]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.kafka.properties["sasl.password"].expose(), "geheim-1");
    assert_eq!(config.http.token.as_ref().unwrap().expose(), "geheim-1");
    let registry = config.output.schema_registry.as_ref().unwrap();
    assert_eq!(registry.password.as_ref().unwrap().expose(), "geheim-2");
    let printed = format!(
        "{loaded:?} {:?}",
        loaded.effective.iter().map(Effective::shown).collect::<Vec<_>>()
    );
    assert!(!printed.contains("geheim"), "{printed}");
    assert!(printed.contains("[redacted]"));
}

#[test]
fn secret_files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    let text = format!(
        "[http]\ntoken_file = \"{empty}\"\n[kafka.properties]\n\"sasl.password\" = \"geheim\"\n\
         \"sasl.password.file\" = \"x\"\n\"ssl.key.password.file\" = \"no/such/file\"\n"
    );
    check(
        &text,
        &[],
        &format!(
            "the configuration is not valid, 3 errors:
  kafka.properties.sasl.password: given directly and as kafka.properties.sasl.password.file (p.toml:5); one (p.toml:4)
  kafka.properties.ssl.key.password.file: `no/such/file` cannot be read: No such file or directory (os error 2) (p.toml:6)
  http.token_file: `{empty}` is empty (p.toml:2)"
        ),
    );
}

#[test]
fn a_secret_in_the_environment_replaces_the_file_of_the_file() {
    let config =
        config("[http]\ntoken_file = \"no/such/file\"\n", &[("POINTSMAN__HTTP__TOKEN", "t")]);
    assert_eq!(config.http.token, Some(Secret::new("t".to_owned())));
}

#[test]
fn the_example_is_valid_and_says_the_defaults() {
    let text = include_str!("../../pointsman.example.toml");
    let example = load_text(text, &[]).unwrap().config;
    let default = config("", &[]);
    assert_eq!(
        example,
        Config {
            kafka: Kafka { instance_id: "pointsman-1".to_owned(), ..default.kafka },
            ..default
        }
    );
}

#[test]
fn the_reference_names_every_setting() {
    let reference = reference();
    for setting in &SETTINGS {
        assert!(reference.contains(&setting.environment()), "{}", setting.key);
        assert!(setting.doc.ends_with(['.', '…']), "{}", setting.key);
    }
}

#[test]
fn a_missing_file_is_an_error() {
    let errors = load(Some(Path::new("no/such/file.toml")), std::iter::empty()).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "the configuration is not valid, 1 error:\n  the file cannot be read: No such file or \
         directory (os error 2) (no/such/file.toml:1)"
    );
}
