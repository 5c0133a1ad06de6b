//! `topics plan` and `topics apply`.

pub mod contract;
pub mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use anyhow::Context;
use clap::{Args, Subcommand};
use rdkafka::admin::{
    NewPartitions, NewTopic, OwnedResourceSpecifier, ResourceSpecifier, TopicReplication,
};
use rdkafka::types::RDKafkaErrorCode;

use super::exit::{Exit, coded};
use super::kafka::{Cluster, Partitions, wait};
use super::print::{Printer, table};
use super::{Global, fleet};
use crate::clock::Stopwatch;
use crate::config::Config;
use plan::{Existing, Plan, Row};

#[derive(Debug, Args)]
pub struct TopicsArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show what exists against what is needed; changes nothing, exits with 3 on a difference
    Plan(Options),
    /// Create what is missing, and add partitions; existing topics are not changed otherwise
    Apply(Options),
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
The partitions of `tasks` are the lanes: the unit of ordering, recovery and movement. One lane \
decides tens of thousands of tasks a second, so their number is not about speed: up to that many \
instances can share the work, and each recovers its part.

More can be added while Pointsman runs, and none is ever taken away. They begin without capacity and \
get some from the others within seconds of load. Keys go to other lanes from then on: a task id is \
recognised, and a session stays with its resource, inside one lane only.

Examples:
  pointsman topics plan
  pointsman topics apply --partitions 8 --replication 3")]
struct Options {
    /// Lanes: of a new installation, or more than there are (default: those that exist, else 4)
    #[arg(long, env = "POINTSMAN_TOPICS_PARTITIONS", value_name = "N",
          value_parser = clap::value_parser!(i32).range(1..=1024))]
    partitions: Option<i32>,
    /// Replicas of new topics (default: the broker's)
    #[arg(long, env = "POINTSMAN_TOPICS_REPLICATION", value_name = "N",
          value_parser = clap::value_parser!(i32).range(1..=32))]
    replication: Option<i32>,
    /// A pool that has a decision topic, besides those of the fleet; repeatable
    #[arg(long = "pool", env = "POINTSMAN_TOPICS_POOL", value_name = "NAME")]
    pools: Vec<String>,
}

pub fn run(global: &Global, arguments: &TopicsArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let printer = global.printer();
    match &arguments.verb {
        Verb::Plan(options) => {
            let plan = compare(&config, &cluster, options.partitions, &options.pools)?;
            show(&printer, &plan)?;
            let different = plan.missing().chain(plan.short()).chain(plan.wrong()).next();
            let different = different.is_some();
            Ok(if different { Exit::Difference } else { Exit::Ok })
        }
        Verb::Apply(options) => {
            let plan = compare(&config, &cluster, options.partitions, &options.pools)?;
            // A new lane needs all its topics, and needs them right.
            if plan.lanes_disagree || plan.adds_lanes() && plan.wrong().next().is_some() {
                show(&printer, &plan)?;
                return Err(coded(
                    Exit::Difference,
                    "the lane topics do not fit together; nothing was changed",
                ));
            }
            let created = create(&cluster, &plan, options.replication)?;
            let grown = add_partitions(&cluster, &plan)?;
            show(&printer, &compare(&config, &cluster, None, &options.pools)?)?;
            let grown =
                if grown > 0 { format!(", {grown} have more partitions") } else { String::new() };
            printer.note(&format!("{created} created{grown}"));
            if plan.adds_lanes() {
                printer.note(ADDED);
            }
            if plan.wrong().next().is_some() {
                return Err(coded(
                    Exit::Difference,
                    "existing topics are wrong and were not changed; the fixes are above",
                ));
            }
            Ok(Exit::Ok)
        }
    }
}

/// What follows from lanes that are added.
const ADDED: &str = "lanes were added: running instances take them over within seconds; keys go to other lanes from now on";

/// Creates every topic that is missing, and waits until it can be used.
///
/// # Errors
/// The lane topics that exist do not fit together, or a topic cannot be created.
pub fn ensure(
    config: &Config,
    cluster: &Cluster<'_>,
    partitions: Option<i32>,
    replication: Option<i32>,
) -> anyhow::Result<usize> {
    let plan = compare(config, cluster, partitions, &[])?;
    if plan.lanes_disagree || plan.short().next().is_some() {
        return Err(coded(Exit::Difference, "the lane topics do not fit together"));
    }
    create(cluster, &plan, replication)
}

/// What there is against what is needed.
///
/// # Errors
/// Kafka cannot be asked.
pub fn compare(
    config: &Config,
    cluster: &Cluster<'_>,
    asked: Option<i32>,
    pools: &[String],
) -> anyhow::Result<Plan> {
    let partitions = cluster.partitions()?;
    let mut pools = pools.to_vec();
    if config.topics.decisions_by_pool() {
        let fleet = fleet::read(config, cluster, &partitions)?;
        pools.extend(fleet.entries.resources.into_iter().map(|resource| resource.pool));
        pools.sort();
        pools.dedup();
    }
    let needs = contract::needs(&config.topics, &pools);
    let names: Vec<&str> = needs
        .iter()
        .map(|need| need.name.as_str())
        .filter(|name| partitions.contains_key(*name))
        .collect();
    let existing = describe(cluster, &names, &partitions)?;
    Ok(plan::plan(&needs, &existing, asked, &config.kafka.brokers))
}

fn describe(
    cluster: &Cluster<'_>,
    names: &[&str],
    partitions: &Partitions,
) -> anyhow::Result<BTreeMap<String, Existing>> {
    let mut existing: BTreeMap<String, Existing> = names
        .iter()
        .map(|name| {
            let partitions = partitions.get(*name).copied().unwrap_or_default();
            ((*name).to_owned(), Existing { partitions, settings: None })
        })
        .collect();
    if names.is_empty() {
        return Ok(existing);
    }
    let specifiers: Vec<ResourceSpecifier<'_>> =
        names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    for resource in cluster.describe(&specifiers)? {
        // One that may not be described stays without settings; the plan says so.
        let Ok(resource) = resource else { continue };
        let OwnedResourceSpecifier::Topic(name) = &resource.specifier else { continue };
        if let Some(found) = existing.get_mut(name) {
            let settings = resource
                .entries
                .into_iter()
                .filter_map(|entry| Some((entry.name, entry.value?)))
                .collect();
            found.settings = Some(settings);
        }
    }
    Ok(existing)
}

fn create(cluster: &Cluster<'_>, plan: &Plan, replication: Option<i32>) -> anyhow::Result<usize> {
    let new: Vec<NewTopic<'_>> = plan
        .missing()
        .map(|row| {
            // -1: the broker's default.
            let replicas = TopicReplication::Fixed(replication.unwrap_or(-1));
            let mut topic = NewTopic::new(&row.name, row.partitions_needed, replicas);
            for (name, value) in &row.settings {
                topic = topic.set(name, value);
            }
            if replication.is_some_and(|replicas| replicas >= 3) {
                // One broker may be away, and an acknowledged record is still on two.
                topic = topic.set("min.insync.replicas", "2");
            }
            topic
        })
        .collect();
    if new.is_empty() {
        return Ok(0);
    }
    let admin = cluster.admin()?;
    let results = wait(admin.create_topics(&new, &cluster.admin_options()))?
        .context("topics cannot be created")?;
    let refusals = results.into_iter().filter_map(Result::err);
    let refusals = refusals.filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists);
    refused(refusals, "topics cannot be created")?;
    await_topics(cluster, plan)?;
    Ok(new.len())
}

/// Adds partitions to the topics that have too few: first to all others, then to `tasks`.
fn add_partitions(cluster: &Cluster<'_>, plan: &Plan) -> anyhow::Result<usize> {
    let short: Vec<&Row> = plan.short().collect();
    let last = short.len() - usize::from(plan.adds_lanes());
    for rows in [&short[..last], &short[last..]] {
        grow(cluster, rows)?;
    }
    Ok(short.len())
}

fn grow(cluster: &Cluster<'_>, rows: &[&Row]) -> anyhow::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let wanted = |row: &Row| usize::try_from(row.partitions_needed).unwrap_or_default();
    let more: Vec<NewPartitions<'_>> =
        rows.iter().map(|row| NewPartitions::new(&row.name, wanted(row))).collect();
    let admin = cluster.admin()?;
    let results = wait(admin.create_partitions(&more, &cluster.admin_options()))?
        .context("partitions cannot be added")?;
    refused(results.into_iter().filter_map(Result::err), "partitions cannot be added")?;
    await_partitions(cluster, rows)
}

/// Brokers learn of new partitions a little later than the controller.
fn await_partitions(cluster: &Cluster<'_>, rows: &[&Row]) -> anyhow::Result<()> {
    let waited = Stopwatch::start();
    loop {
        let known = cluster.partitions()?;
        let has_all =
            |row: &Row| known.get(&row.name).is_some_and(|count| *count >= row.partitions_needed);
        let Some(short) = rows.iter().find(|row| !has_all(row)) else { return Ok(()) };
        if waited.elapsed() > cluster.timeout() {
            let text = format!("`{}` was given partitions, and they do not appear", short.name);
            return Err(coded(Exit::Transient, text));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Topics that the brokers said no to.
fn refused(
    refusals: impl Iterator<Item = (String, RDKafkaErrorCode)>,
    what: &str,
) -> anyhow::Result<()> {
    let mut denied = false;
    let mut failed = Vec::new();
    for (name, code) in refusals {
        denied |= matches!(
            code,
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
        );
        failed.push(format!("`{name}`: {code}"));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let exit = if denied { Exit::Denied } else { Exit::Failed };
    Err(coded(exit, format!("{what}: {}", failed.join("; "))))
}

/// A topic is created on the controller first; brokers learn of it a little later.
fn await_topics(cluster: &Cluster<'_>, plan: &Plan) -> anyhow::Result<()> {
    let waited = Stopwatch::start();
    loop {
        let known = cluster.partitions()?;
        let Some(unknown) = plan.missing().find(|row| !known.contains_key(&row.name)) else {
            return Ok(());
        };
        if waited.elapsed() > cluster.timeout() {
            let text = format!("`{}` was created and does not appear", unknown.name);
            return Err(coded(Exit::Transient, text));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn show(printer: &Printer, plan: &Plan) -> anyhow::Result<()> {
    printer.document(plan, || words(printer, plan))
}

fn words(printer: &Printer, plan: &Plan) -> String {
    let mut table = table(&["", "topic", "partitions", "state"]);
    for row in &plan.topics {
        let partitions = match row.partitions {
            Some(partitions) => partitions.to_string(),
            None => format!("{} (new)", row.partitions_needed),
        };
        let mark = printer.mark(row.state.mark());
        table.add_row([mark.as_str(), &row.name, &partitions, row.state.name()]);
    }
    let mut text = super::print::text_of(&table);
    text.push('\n');
    for row in &plan.topics {
        for finding in &row.findings {
            let mark = printer.mark(row.state.mark());
            text.push_str(&format!(
                "\n{mark} {} {}\n  fix: {}\n",
                row.name, finding.text, finding.fix
            ));
        }
    }
    let (missing, short) = (plan.missing().count(), plan.short().count());
    let number = if short > 0 { format!(" --partitions {}", plan.lanes) } else { String::new() };
    let words = [(missing, "missing"), (short, "short of partitions")];
    let words = words.iter().filter(|(count, _)| *count > 0);
    let words: Vec<String> = words.map(|(count, word)| format!("{count} {word}")).collect();
    if !words.is_empty() {
        let words = words.join(", ");
        text.push_str(&format!("\n{words}; fix: pointsman topics apply{number}\n"));
    }
    text
}
