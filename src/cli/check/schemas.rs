//! Whether the schema registry knows, or would take, what we write.

use std::time::Duration;

use super::{Findings, Group};
use crate::cli::exit::{self, Exit};
use crate::cli::registry::{Fit, Registry};
use crate::codec::{OutputFormat, REGISTERED_TOPICS, schema};
use crate::config::Config;

pub fn check(config: &Config, timeout: Duration, findings: &mut Findings) {
    let Some(settings) = &config.output.schema_registry else {
        let format = match config.output.format {
            OutputFormat::Avro | OutputFormat::Confluent => "Avro single-object encoding",
            OutputFormat::Json => "JSON",
        };
        findings.ok(Group::Schemas, format!("{format}; no registry is needed"));
        return;
    };
    let registry = Registry::new(settings, timeout);
    let subjects = match registry.subjects() {
        Ok(subjects) => subjects,
        Err(error) => {
            let fix = "start the registry, or correct [output.schema_registry]";
            findings.fail(Group::Schemas, exit::of(&error), format!("{error:#}"), fix);
            return;
        }
    };
    findings.ok(Group::Schemas, format!("{} has {} subjects", settings.url, subjects.len()));
    for topic in REGISTERED_TOPICS {
        let Some(schema) = schema::of(topic) else { continue };
        let subject = format!("{}-value", config.topics.name(topic));
        if !subjects.contains(&subject) {
            continue;
        }
        match registry.fits(&subject, schema.text) {
            Ok(Fit::Compatible | Fit::NoSubject) => {}
            Ok(Fit::Incompatible) => {
                let text = format!("{subject} does not take the schema {}", schema.name);
                let fix = "remove what was registered there, or choose another topic name";
                findings.fail(Group::Schemas, Exit::Failed, text, fix);
            }
            Err(error) => {
                let fix = "allow reading and compatibility checks";
                findings.fail(Group::Schemas, exit::of(&error), format!("{error:#}"), fix);
            }
        }
    }
}
