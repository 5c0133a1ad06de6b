//! `drain` and `undrain`: one health event, and the note of who did it and why.

use clap::Args;

use super::exit::{Exit, coded};
use super::kafka::{Cluster, Publish};
use super::{Global, fleet, tool_codec};
use crate::clock;
use crate::codec::encode::health_key;
use crate::codec::headers::CONTENT_TYPE;
use crate::config::Config;
use crate::model::Topic;
use crate::model::event::OperatorAction;
use crate::model::health::{HealthEvent, HealthScope, HealthStatus};
use crate::model::resource::FleetFile;

#[derive(Debug, Args)]
#[command(after_long_help = "\
What is drained finishes the work it has and gets no new work. The drain holds until it is undone, \
also over restarts.

Examples:
  pointsman drain resource:gpt-4o-eu --reason 'quota review'
  pointsman drain provider:openai --reason incident
  pointsman undrain provider:openai --reason 'incident closed'")]
pub struct DrainArgs {
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  pointsman undrain resource:gpt-4o-eu --reason 'quota raised'")]
pub struct UndrainArgs {
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Args)]
struct Options {
    /// resource:ID, provider:ID, region:ID or failure_domain:ID; without a scope a resource
    #[arg(value_name = "SCOPE:ID", env = "POINTSMAN_DRAIN_TARGET")]
    target: String,
    /// Why; recorded with who did it
    #[arg(long, env = "POINTSMAN_DRAIN_REASON", value_name = "TEXT")]
    reason: String,
    /// Say what would be published, and publish nothing
    #[arg(long, env = "POINTSMAN_DRY_RUN")]
    dry_run: bool,
}

pub fn drain(global: &Global, arguments: &DrainArgs) -> anyhow::Result<Exit> {
    publish(global, &arguments.options, HealthStatus::Drain)
}

pub fn undrain(global: &Global, arguments: &UndrainArgs) -> anyhow::Result<Exit> {
    publish(global, &arguments.options, HealthStatus::Healthy)
}

const SCOPES: [HealthScope; 4] =
    [HealthScope::Resource, HealthScope::Provider, HealthScope::Region, HealthScope::FailureDomain];

/// Ids may have colons in them, so only the name of a scope parts.
pub(super) fn target_of(text: &str) -> (HealthScope, &str) {
    for scope in SCOPES {
        if let Some(id) = text.strip_prefix(scope.name()).and_then(|rest| rest.strip_prefix(':')) {
            return (scope, id);
        }
    }
    (HealthScope::Resource, text)
}

/// The ids of a scope that the fleet has.
fn ids(fleet: &FleetFile, scope: HealthScope) -> Vec<String> {
    let mut ids: Vec<String> = fleet
        .resources
        .iter()
        .map(|resource| match scope {
            HealthScope::Resource => resource.id.clone(),
            HealthScope::Provider => resource.provider.clone(),
            HealthScope::Region => resource.region.clone(),
            HealthScope::FailureDomain => resource.domain(),
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

fn publish(global: &Global, options: &Options, status: HealthStatus) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let printer = global.printer();
    let (scope, id) = target_of(&options.target);
    let event = HealthEvent {
        scope,
        id: id.to_owned(),
        status,
        severity: 0.0,
        reason: options.reason.clone(),
        at_ms: Some(clock::wall_now()),
        source: String::new(),
        limits: Vec::new(),
    };
    event.validate().map_err(|error| coded(Exit::Usage, error.to_string()))?;
    check_target(&config, &cluster, scope, id)?;

    let key = health_key(&event);
    if !options.dry_run {
        cluster.publish(&records(&config, &event)?)?;
    }
    printer.document(&event, || {
        let topic = config.topics.name(Topic::HealthEvents);
        let verb = if options.dry_run { "would publish" } else { "published" };
        let undo = match status {
            HealthStatus::Drain => format!("; undo: pointsman undrain {key} --reason …"),
            HealthStatus::Healthy | HealthStatus::Degraded | HealthStatus::Unhealthy => {
                String::new()
            }
        };
        format!("{verb} {key} {} to `{topic}`{undo}\n", status.name())
    })?;
    Ok(Exit::Ok)
}

fn check_target(
    config: &Config,
    cluster: &Cluster<'_>,
    scope: HealthScope,
    id: &str,
) -> anyhow::Result<()> {
    let partitions = cluster.partitions()?;
    for topic in [Topic::HealthEvents, Topic::OperatorActions] {
        let name = config.topics.name(topic);
        if !partitions.contains_key(name) {
            let text = format!("there is no topic `{name}`; fix: pointsman topics apply");
            return Err(coded(Exit::NotFound, text));
        }
    }
    let known = ids(&fleet::read(config, cluster, &partitions)?.entries, scope);
    if known.iter().any(|known| known == id) {
        return Ok(());
    }
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let text = format!("the fleet has no {} `{id}`; it has: {list}", scope.name());
    Err(coded(Exit::NotFound, text))
}

fn records(config: &Config, event: &HealthEvent) -> anyhow::Result<Vec<Publish>> {
    let codec = tool_codec(config)?;
    let at_ms = clock::wall_now();
    let kind = match event.status {
        HealthStatus::Drain => "drain",
        HealthStatus::Healthy | HealthStatus::Degraded | HealthStatus::Unhealthy => "undrain",
    };
    let action = OperatorAction {
        action_id: format!("{kind}-{}-{}", at_ms.as_ms(), std::process::id()),
        kind: kind.to_owned(),
        actor: std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()),
        reason: event.reason.clone(),
        at_ms,
        detail: health_key(event),
    };
    let mut health = Vec::new();
    codec.encode_health_event(event, &mut health);
    let mut note = Vec::new();
    codec.encode_operator_action(&action, &mut note);
    let record = |topic: Topic, key: String, value: Vec<u8>| Publish {
        topic: config.topics.name(topic).to_owned(),
        partition: Some(0),
        key: key.into_bytes(),
        value: Some(value),
        headers: vec![(CONTENT_TYPE, codec.content_type(topic).to_vec())],
    };
    Ok(vec![
        record(Topic::HealthEvents, health_key(event), health),
        record(Topic::OperatorActions, action.action_id.clone(), note),
    ])
}
