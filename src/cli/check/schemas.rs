//! Whether the schema registry knows, or would take, what we write.

use super::{Findings, Group};
use crate::cli::exit::{self, Exit};
use crate::codec::{OutputFormat, REGISTERED_TOPICS, schema};
use crate::config::Config;
use crate::registry::{Compatibility, Registry, RegistryError, subject};

pub fn check(config: &Config, findings: &mut Findings) {
    let Some(settings) = &config.output.schema_registry else {
        let format = match config.output.format {
            OutputFormat::Avro | OutputFormat::Confluent => "Avro single-object encoding",
            OutputFormat::Json => "JSON",
        };
        findings.ok(Group::Schemas, format!("{format}; no registry is needed"));
        return;
    };
    let outcome = Registry::new(settings).and_then(|registry| compare(config, &registry));
    let refusals = match outcome {
        Ok(refusals) => refusals,
        Err(error) => {
            let fix = "start the registry, or correct [output.schema_registry]";
            let error = anyhow::Error::new(error);
            findings.fail(Group::Schemas, exit::of(&error), format!("{error:#}"), fix);
            return;
        }
    };
    if refusals.is_empty() {
        let count = REGISTERED_TOPICS.len();
        findings.ok(Group::Schemas, format!("{} takes all {count} schemas", settings.url));
    }
    for refusal in refusals {
        let fix = "remove what was registered there, or choose another topic name";
        findings.fail(Group::Schemas, Exit::Failed, refusal, fix);
    }
}

/// The subjects that would not take our schema, and why.
fn compare(config: &Config, registry: &Registry) -> Result<Vec<String>, RegistryError> {
    let mut refusals = Vec::new();
    for topic in REGISTERED_TOPICS {
        let Some(schema) = schema::of(topic) else { continue };
        if config.topics.decisions_by_pool() && topic == crate::model::Topic::RouteDecisions {
            // One subject for each pool, which `run` finds out.
            continue;
        }
        let subject = subject(config.topics.name(topic));
        match registry.check_compatibility(&subject, schema.text)? {
            Compatibility::FirstVersion | Compatibility::Compatible => {}
            Compatibility::Incompatible(reasons) => {
                let reasons = reasons.join("; ");
                refusals.push(format!("{subject} does not take {}: {reasons}", schema.name));
            }
        }
    }
    Ok(refusals)
}
