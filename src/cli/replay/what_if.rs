//! `replay what-if`: both histories side by side.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::range::RangeArgs;
use super::{FromArgs, Opened, open_whole, progress};
use crate::cli::Global;
use crate::cli::exit::{Exit, coded};
use crate::cli::fleet::file;
use crate::cli::kafka::{Cluster, Publish};
use crate::cli::print::{table, text_of};
use crate::clock::{Stopwatch, wall_now};
use crate::replay::what_if::{Change, Changed, Comparison, Tally, compare_lane};

/// Changed decisions that people are shown; a program gets all.
const SHOWN_MAX: usize = 10;
/// Records that are published at a time.
const PUBLISH_MAX: usize = 1_000;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Where a task goes the same way at the same time, its recorded results count. Where its route \
changes, a success after the predicted latency is modelled; the share of such attempts is printed. \
The exit code is 3 where anything would have been decided otherwise.

Examples:
  pointsman replay what-if --since -1h --set gpt-4o-eu.slots=20
  pointsman replay what-if --fleet cheaper.toml --json | jq '.changed | length'
  pointsman replay what-if --from-file run.pmrec --set routing.fallbacks_max=0")]
pub struct WhatIfArgs {
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// Another fleet, as a fleet file
    #[arg(long, env = "POINTSMAN_WHAT_IF_FLEET", value_name = "FILE")]
    fleet: Option<PathBuf>,
    /// Another policy: the `[routing]` section of another configuration file
    #[arg(long, env = "POINTSMAN_WHAT_IF_POLICY", value_name = "FILE")]
    policy: Option<PathBuf>,
    /// One setting: routing.KEY=VALUE or RESOURCE.KEY=VALUE; can be repeated
    #[arg(long = "set", env = "POINTSMAN_WHAT_IF_SET", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Publish every changed decision to this topic, as JSON
    #[arg(long, env = "POINTSMAN_WHAT_IF_PUBLISH", value_name = "TOPIC")]
    publish: Option<String>,
}

#[derive(Debug, Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    comparison: &'a Comparison,
    elapsed_s: f64,
    changed_decisions: &'a [Changed],
}

pub fn run(global: &Global, arguments: &WhatIfArgs) -> anyhow::Result<Exit> {
    let change = change_of(arguments)?;
    let range = arguments.range.range(wall_now())?;
    let mut opened = open_whole(global, &arguments.from)?;
    opened.refuse_deleted(range.since)?;
    let bar = progress(opened.journal_records()?, "what-if");
    let begun = Stopwatch::start();
    let mut changed = Vec::new();
    let mut keep = |one: &Changed| changed.push(one.clone());
    let mut tally = Tally::new(&mut keep);
    let Opened { source, settings, lanes } = &mut opened;
    for lane in lanes {
        let mut step = |_: &_| bar.inc(1);
        compare_lane(&mut **source, settings, *lane, range, &change, &mut tally, &mut step)?;
    }
    let comparison = tally.finish();
    bar.finish_and_clear();
    if let Some(topic) = &arguments.publish {
        publish(global, topic, &changed)?;
    }
    let elapsed_s = begun.elapsed().as_secs_f64();
    let printer = global.printer();
    let answer = Answer { comparison: &comparison, elapsed_s, changed_decisions: &changed };
    printer.document(&answer, || text(&answer))?;
    Ok(if comparison.changed == 0 { Exit::Ok } else { Exit::Difference })
}

fn change_of(arguments: &WhatIfArgs) -> anyhow::Result<Change> {
    let mut change = Change::default();
    if let Some(path) = &arguments.fleet {
        change.set_fleet(file::read(path)?);
    }
    if let Some(path) = &arguments.policy {
        // The environment is this process's, and the file is about another one.
        change.set_policy(crate::config::load(Some(path), std::iter::empty())?.config.routing);
    }
    for text in &arguments.set {
        change.set(text).map_err(|error| coded(Exit::Usage, error.to_string()))?;
    }
    if change.is_empty() {
        return Err(coded(Exit::Usage, "nothing is changed: give --fleet, --policy or --set"));
    }
    Ok(change)
}

fn publish(global: &Global, topic: &str, changed: &[Changed]) -> anyhow::Result<()> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    for part in changed.chunks(PUBLISH_MAX) {
        let mut records = Vec::new();
        for one in part {
            records.push(Publish {
                topic: topic.to_owned(),
                partition: None,
                key: one.task_id.clone().into_bytes(),
                value: Some(serde_json::to_vec(one)?),
                headers: vec![("content-type", b"application/json".to_vec())],
            });
        }
        cluster.publish(&records)?;
    }
    Ok(())
}

fn text(answer: &Answer<'_>) -> String {
    let Comparison { tasks, same, changed, baseline, what_if, modelled_share, .. } =
        answer.comparison;
    let mut out = format!(
        "{tasks} tasks decided again in {:.1} s: {same} the same, {changed} otherwise, {} still \
         waiting; {:.1} % of the results are modelled\n",
        answer.elapsed_s,
        answer.comparison.waiting,
        modelled_share * 100.0
    );
    let mut rows = table(&["", "baseline", "what-if", "change"]);
    let mut row = |name: &str, one: f64, other: f64, digits: usize| {
        let change = if one == 0.0 {
            "-".to_owned()
        } else {
            format!("{:+.1} %", (other - one) / one * 100.0)
        };
        rows.add_row([
            name.to_owned(),
            format!("{one:.digits$}"),
            format!("{other:.digits$}"),
            change,
        ]);
    };
    let refused = |totals: &crate::replay::what_if::Totals| totals.refused.values().sum::<u64>();
    row("attempts", baseline.attempts as f64, what_if.attempts as f64, 0);
    row("refused", refused(baseline) as f64, refused(what_if) as f64, 0);
    row("cost, USD", baseline.cost_usd, what_if.cost_usd, 4);
    row("predicted quality", baseline.quality, what_if.quality, 4);
    row("predicted latency, ms", baseline.latency_ms, what_if.latency_ms, 0);
    row("wait, ms", baseline.wait_ms, what_if.wait_ms, 1);
    let mut resources: Vec<&String> =
        baseline.by_resource.keys().chain(what_if.by_resource.keys()).collect();
    resources.sort();
    resources.dedup();
    for id in resources {
        let load = |totals: &crate::replay::what_if::Totals| {
            totals.by_resource.get(id).map_or(0, |load| load.attempts) as f64
        };
        row(&format!("attempts on {id}"), load(baseline), load(what_if), 0);
    }
    // Writing to a string cannot fail.
    writeln!(out, "{}", text_of(&rows)).ok();
    let mut moved: Vec<(&String, &u64)> = answer.comparison.moved.iter().collect();
    moved.sort_by(|one, other| other.1.cmp(one.1).then(one.0.cmp(other.0)));
    for (from_to, count) in moved.iter().take(SHOWN_MAX) {
        writeln!(out, "moved {count:>8}  {from_to}").ok();
    }
    for one in answer.changed_decisions.iter().take(SHOWN_MAX) {
        writeln!(out, "changed  {}", one.task_id).ok();
    }
    let more = answer.changed_decisions.len().saturating_sub(SHOWN_MAX);
    if more > 0 {
        writeln!(out, "… and {more} more: --json names all").ok();
    }
    out
}
