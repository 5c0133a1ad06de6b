use clap::{Arg, Command, Parser};

use super::exit::{Exit, coded};
use super::*;
use crate::model::health::HealthScope;

/// Every command of the tree with its path.
fn commands(command: &Command, path: &str, visit: &mut impl FnMut(&str, &Command)) {
    visit(path, command);
    for sub in command.get_subcommands() {
        commands(sub, &format!("{path} {}", sub.get_name()), visit);
    }
}

fn is_own(argument: &Arg) -> bool {
    !["help", "version"].contains(&argument.get_id().as_str())
}

#[test]
fn the_command_line_is_well_formed() {
    command().debug_assert();
}

#[test]
fn every_command_and_argument_says_what_it_is_for() {
    let mut found = Vec::new();
    let mut seen = 0;
    commands(&command(), "pointsman", &mut |path, command| {
        if command.get_about().is_none() {
            found.push(format!("{path} has no description"));
        }
        for argument in command.get_arguments().filter(|argument| is_own(argument)) {
            seen += 1;
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            if help.is_empty() || help.ends_with('.') {
                found.push(format!("{path}: {} is described as {help:?}", argument.get_id()));
            }
        }
    });
    assert_eq!(found, [""; 0]);
    assert!(seen > 20, "{seen}");
}

#[test]
fn every_option_is_a_variable_too() {
    let mut found = Vec::new();
    commands(&command(), "pointsman", &mut |path, command| {
        for argument in command.get_arguments().filter(|argument| is_own(argument)) {
            let name = argument.get_env().and_then(|name| name.to_str()).unwrap_or("");
            // A shell's name is given where it is needed.
            if !name.starts_with("POINTSMAN_") && argument.get_id() != "shell" {
                found.push(format!("{path}: {}", argument.get_id()));
            }
            // Two underscores would make it a setting.
            assert!(!name.starts_with("POINTSMAN__"), "{name}");
        }
    });
    assert_eq!(found, [""; 0]);
}

#[test]
fn help_is_worth_reading() {
    // The variables of the machine that runs the tests are not part of it.
    let mut command = command().mut_args(|argument| argument.hide_env_values(true));
    insta::assert_snapshot!(command.render_long_help().to_string());
}

#[test]
fn options_that_make_no_sense_are_wrong_usage() {
    for line in [
        "pointsman",
        "pointsman fleet apply",
        "pointsman topics apply --partitions 0",
        "pointsman submit -f x --rate 0",
        "pointsman tap --limit 0",
        "pointsman drain resource:x",
        "pointsman check --timeout 0",
        "pointsman run -o yaml",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
        assert!(error.use_stderr(), "{line}");
    }
}

#[test]
fn exit_codes_follow_from_the_cause() {
    use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
    let kafka = |code| anyhow::Error::new(KafkaError::MetadataFetch(code));
    let rows = [
        (anyhow::anyhow!("something"), Exit::Failed),
        (coded(Exit::NotFound, "x").context("while"), Exit::NotFound),
        (anyhow::Error::new(ConfigErrors(Vec::new())), Exit::Config),
        (kafka(Code::BrokerTransportFailure), Exit::Unreachable),
        (kafka(Code::OperationTimedOut).context("while"), Exit::Unreachable),
        (kafka(Code::TopicAuthorizationFailed), Exit::Denied),
        (kafka(Code::ProducerFenced), Exit::Transient),
        (kafka(Code::InvalidTopic), Exit::Failed),
        (anyhow::Error::new(KafkaError::ClientCreation("no file".to_owned())), Exit::Config),
    ];
    for (error, expected) in rows {
        assert_eq!(exit::of(&error), expected, "{error:#}");
    }
}

#[test]
fn targets_may_have_colons_in_their_ids() {
    let rows = [
        ("resource:a", HealthScope::Resource, "a"),
        ("provider:openai", HealthScope::Provider, "openai"),
        ("failure_domain:openai/eu", HealthScope::FailureDomain, "openai/eu"),
        ("region:eu:west", HealthScope::Region, "eu:west"),
        ("llama3:70b", HealthScope::Resource, "llama3:70b"),
    ];
    for (text, scope, id) in rows {
        assert_eq!(health::target_of(text), (scope, id));
    }
}

#[test]
fn topics_are_found_by_both_names() {
    use crate::model::Topic;
    let names = |key: &str, value: &str| {
        let variable = (crate::config::environment_name(key), value.to_owned());
        Config::load(None, std::iter::once(variable)).unwrap().topics
    };
    let renamed = names("topics.tasks", "jobs");
    let pools = names("topics.route_decisions", "routes.{pool}");
    let rows = [
        (&renamed, "tasks", Some(Topic::Tasks)),
        (&renamed, "jobs", Some(Topic::Tasks)),
        (&renamed, "jobs.dlq", Some(Topic::TasksDlq)),
        (&renamed, "routes.gpu", None),
        (&pools, "route-decisions", Some(Topic::RouteDecisions)),
        (&pools, "routes.gpu", Some(Topic::RouteDecisions)),
    ];
    for (names, text, expected) in rows {
        assert_eq!(tap::topic_of(names, text), expected, "{text}");
    }
}

#[test]
fn a_record_that_cannot_be_decoded_is_shown_with_the_reason() {
    use crate::codec::DecodeError;
    let record = kafka::Record {
        topic: "tasks".to_owned(),
        partition: 2,
        offset: 7,
        timestamp_ms: 5,
        key: Some(vec![0xff]),
        value: Some(b"nope".to_vec()),
        headers: vec![("a".to_owned(), Some(b"b".to_vec())), ("c".to_owned(), None)],
    };
    let line = |decoded| serde_json::to_string(&tap::line_of(&record, decoded)).unwrap();
    assert_eq!(
        line(Err(DecodeError::Json("eof".to_owned()))),
        r#"{"topic":"tasks","partition":2,"offset":7,"timestamp_ms":5,"key":{"base64":"/w=="},"headers":{"a":"b","c":null},"error":"json: eof","value_base64":"bm9wZQ=="}"#
    );
    assert_eq!(
        line(Ok(serde_json::Value::Null)),
        r#"{"topic":"tasks","partition":2,"offset":7,"timestamp_ms":5,"key":{"base64":"/w=="},"headers":{"a":"b","c":null},"value":null}"#
    );
}
