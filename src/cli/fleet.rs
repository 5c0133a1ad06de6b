//! `fleet plan`, `fleet apply` and `fleet show`.

mod diff;
pub mod file;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::exit::{Exit, coded};
use super::kafka::{Cluster, Partitions, Publish};
use super::print::{Mark, Printer, confirm, table, text_of};
use super::{Global, registry, tool_codec};
use crate::codec::encode::fleet_key;
use crate::codec::headers::CONTENT_TYPE;
use crate::config::Config;
use crate::model::Topic;
use crate::model::resource::{FleetEntry, FleetFile, Limit};
use diff::{Change, Changes};

#[derive(Debug, Args)]
pub struct FleetArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what a file would change; changes nothing, exits with 3 on a difference
    Plan(FileOptions),
    /// Publish what a file changes; asks first
    Apply(ApplyOptions),
    /// Show the fleet as it is published
    Show,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  pointsman fleet plan -f fleet.toml
  pointsman fleet plan -f fleet.json --prune -o json")]
struct FileOptions {
    /// The fleet file: TOML, or JSON where it ends in .json
    #[arg(long, short, env = "POINTSMAN_FLEET_FILE", value_name = "FILE")]
    file: PathBuf,
    /// Remove what is not in the file
    #[arg(long, env = "POINTSMAN_FLEET_PRUNE")]
    prune: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The fleet is a compacted topic: each change is one record, and every lane takes it over at the same \
place of that topic.

Examples:
  pointsman fleet apply -f fleet.toml
  pointsman fleet apply -f fleet.toml --prune --yes")]
struct ApplyOptions {
    #[command(flatten)]
    file: FileOptions,
    /// Do not ask
    #[arg(long, short, env = "POINTSMAN_YES")]
    yes: bool,
}

/// The fleet as it is published.
#[derive(Debug, Default)]
pub struct Published {
    pub entries: FleetFile,
    /// Records that cannot be read: the router dead-letters them.
    pub unreadable: Vec<String>,
}

pub fn run(global: &Global, arguments: &FleetArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let printer = global.printer();
    match &arguments.verb {
        Verb::Plan(options) => {
            let changes = changes(&config, &cluster, options, &printer)?;
            printer.document(&changes, || words(&changes))?;
            Ok(if changes.is_empty() { Exit::Ok } else { Exit::Difference })
        }
        Verb::Apply(options) => apply(&config, &cluster, options, &printer),
        Verb::Show => {
            let published = read_existing(&config, &cluster)?;
            warn_unreadable(&printer, &published);
            printer.document(&published.entries, || fleet_table(&published.entries))?;
            Ok(Exit::Ok)
        }
    }
}

fn apply(
    config: &Config,
    cluster: &Cluster<'_>,
    options: &ApplyOptions,
    printer: &Printer,
) -> anyhow::Result<Exit> {
    let changes = changes(config, cluster, &options.file, printer)?;
    printer.document(&changes, || words(&changes))?;
    if changes.is_empty() {
        return Ok(Exit::Ok);
    }
    let count = changes.entries.len();
    if !options.yes && !confirm(&format!("publish {count} changes to `{}`?", fleet_topic(config))) {
        return Err(coded(Exit::Refused, "nothing was published (without a terminal, pass --yes)"));
    }
    publish(config, cluster, changes.entries)?;
    printer.note(&format!("{count} published to `{}`", fleet_topic(config)));
    Ok(Exit::Ok)
}

fn fleet_topic(config: &Config) -> &str {
    config.topics.name(Topic::Fleet)
}

/// Publishes entries to the fleet topic, in this order.
///
/// # Errors
/// Not everything was acknowledged.
pub fn publish(
    config: &Config,
    cluster: &Cluster<'_>,
    entries: Vec<FleetEntry>,
) -> anyhow::Result<()> {
    let codec = tool_codec(config)?;
    let records: Vec<Publish> = entries
        .iter()
        .map(|entry| {
            let mut value = Vec::new();
            let has_value = codec.encode_fleet_entry(entry, &mut value);
            Publish {
                topic: fleet_topic(config).to_owned(),
                partition: Some(0),
                key: fleet_key(entry).into_bytes(),
                value: has_value.then_some(value),
                headers: vec![(CONTENT_TYPE, codec.content_type(Topic::Fleet).to_vec())],
            }
        })
        .collect();
    cluster.publish(&records)
}

fn changes(
    config: &Config,
    cluster: &Cluster<'_>,
    options: &FileOptions,
    printer: &Printer,
) -> anyhow::Result<Changes> {
    let wanted = file::read(&options.file)?;
    let published = read_existing(config, cluster)?;
    warn_unreadable(printer, &published);
    Ok(diff::diff(&published.entries, &wanted, options.prune))
}

fn warn_unreadable(printer: &Printer, published: &Published) {
    for problem in &published.unreadable {
        printer.note(&format!("{} {problem}", printer.mark(Mark::Warning)));
    }
}

fn read_existing(config: &Config, cluster: &Cluster<'_>) -> anyhow::Result<Published> {
    let partitions = cluster.partitions()?;
    if !partitions.contains_key(fleet_topic(config)) {
        let text =
            format!("there is no topic `{}`; fix: pointsman topics apply", fleet_topic(config));
        return Err(coded(Exit::NotFound, text));
    }
    read(config, cluster, &partitions)
}

/// The fleet as it is published; empty where the topic does not exist.
///
/// # Errors
/// The topic cannot be read.
pub fn read(
    config: &Config,
    cluster: &Cluster<'_>,
    partitions: &Partitions,
) -> anyhow::Result<Published> {
    let topic = fleet_topic(config);
    let mut published = Published::default();
    let Some(count) = partitions.get(topic) else { return Ok(published) };
    let codec = tool_codec(config)?;
    cluster.read_all(topic, *count, |record| {
        if let Some(id) = record.with(Topic::Fleet, |raw| codec.unknown_schema(raw)) {
            let settings = config.output.schema_registry.as_ref();
            registry::teach(&codec, settings, id)?;
        }
        match record.with(Topic::Fleet, |raw| codec.decode_fleet_entry(raw)) {
            Ok(entry) => take(&mut published.entries, entry),
            Err(error) => {
                published.unreadable.push(format!("`{topic}` offset {}: {error}", record.offset));
            }
        }
        Ok(())
    })?;
    published.entries.resources.sort_by(|left, right| left.id.cmp(&right.id));
    published.entries.tenants.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(published)
}

fn take(fleet: &mut FleetFile, entry: FleetEntry) {
    match entry {
        FleetEntry::Resource(spec) => {
            fleet.resources.retain(|other| other.id != spec.id);
            fleet.resources.push(spec);
        }
        FleetEntry::ResourceRemoved(id) => fleet.resources.retain(|other| other.id != id),
        FleetEntry::Tenant(spec) => {
            fleet.tenants.retain(|other| other.id != spec.id);
            fleet.tenants.push(spec);
        }
        FleetEntry::TenantRemoved(id) => fleet.tenants.retain(|other| other.id != id),
    }
}

fn words(changes: &Changes) -> String {
    let mut text = String::new();
    for change in &changes.changes {
        match change {
            Change::Added { key } => text.push_str(&format!("+ {key}\n")),
            Change::Removed { key } => text.push_str(&format!("- {key}\n")),
            Change::Changed { key, fields } => {
                text.push_str(&format!("~ {key}\n"));
                for field in fields {
                    text.push_str(&format!("    {}: {} → {}\n", field.field, field.from, field.to));
                }
            }
            Change::Kept { key } => {
                text.push_str(&format!(
                    "  {key} is not in the file and stays; --prune removes it\n"
                ));
            }
        }
    }
    let count = changes.entries.len();
    text.push_str(&format!("{count} to publish, {} unchanged\n", changes.unchanged));
    text
}

fn fleet_table(fleet: &FleetFile) -> String {
    if fleet.resources.is_empty() && fleet.tenants.is_empty() {
        return "the fleet is empty; fix: pointsman fleet apply -f fleet.toml\n".to_owned();
    }
    let mut resources =
        table(&["resource", "model", "failure domain", "region", "pool", "slots", "limits"]);
    for resource in &fleet.resources {
        resources.add_row([
            resource.id.clone(),
            resource.model.clone(),
            resource.domain(),
            resource.region.clone(),
            resource.pool.clone(),
            resource.slots.to_string(),
            limits(&resource.limits),
        ]);
    }
    let mut text = text_of(&resources) + "\n";
    if !fleet.tenants.is_empty() {
        let mut tenants = table(&["tenant", "weight", "limits", "burst", "usd per hour"]);
        for tenant in &fleet.tenants {
            let or_dash = |value: Option<String>| value.unwrap_or_else(|| "–".to_owned());
            tenants.add_row([
                tenant.id.clone(),
                tenant.weight.to_string(),
                limits(&tenant.limits),
                or_dash(tenant.burst.map(|burst| burst.to_string())),
                or_dash(tenant.usd_per_hour.map(|budget| budget.to_string())),
            ]);
        }
        text.push_str(&format!("\n{}\n", text_of(&tenants)));
    }
    text
}

fn limits(limits: &[Limit]) -> String {
    if limits.is_empty() {
        return "–".to_owned();
    }
    let words: Vec<String> = limits
        .iter()
        .map(|limit| format!("{} {}/{} s", limit.amount, limit.dimension.name(), limit.window_s))
        .collect();
    words.join(", ")
}
