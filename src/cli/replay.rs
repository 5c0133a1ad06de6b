//! `replay audit | what-if`, and where the commands that look back read from.

mod from_kafka;
pub mod lane_view;
pub mod range;
mod what_if;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::exit::{Exit, coded};
use super::kafka::Cluster;
use super::print::{Format, Printer};
use super::{Global, registry};
use crate::clock::{Stopwatch, wall_now};
use crate::codec::{Codec, OutputFormat, REGISTERED_TOPICS, RegisteredSchemas, schema};
use crate::config::Config;
use crate::lane::LaneSettings;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::registry::{Registry, subject};
use crate::replay::audit::{Audit, Range, audit_lane};
use crate::replay::recording::Recording;
use crate::replay::source::Source;
pub use from_kafka::FromKafka;
use range::RangeArgs;

#[derive(Debug, Args)]
pub struct ReplayArgs {
    #[command(subcommand)]
    command: ReplayCommand,
}

#[derive(Debug, Subcommand)]
enum ReplayCommand {
    /// Decide everything again and compare it, bit for bit, with what was journaled and published
    Audit(AuditArgs),
    /// Decide the same tasks under another fleet or policy, and compare
    WhatIf(what_if::WhatIfArgs),
}

/// Where the records are.
#[derive(Debug, Args)]
pub struct FromArgs {
    /// A file that `pointsman record` wrote, in place of the brokers
    #[arg(long, env = "POINTSMAN_FROM_FILE", value_name = "FILE")]
    pub from_file: Option<PathBuf>,
    /// Only this lane
    #[arg(long, env = "POINTSMAN_REPLAY_LANE", value_name = "LANE")]
    pub lane: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads the topics without joining the router's group and changes nothing. Every batch is decided \
again from its journal record and its inputs; facts, outputs and hashes must be equal. What differs \
first is named, and the exit code is 3. Batches of another engine version are folded and counted \
apart: their own release can decide them again.

Examples:
  pointsman replay audit --since -1h
  pointsman replay audit --lane 3 --json
  pointsman record -o run.pmrec && pointsman replay audit --from-file run.pmrec")]
struct AuditArgs {
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// Print the summary as one JSON object
    #[arg(long, env = "POINTSMAN_REPLAY_JSON")]
    json: bool,
}

pub fn run(global: &Global, arguments: &ReplayArgs) -> anyhow::Result<Exit> {
    match &arguments.command {
        ReplayCommand::Audit(arguments) => audit(global, arguments),
        ReplayCommand::WhatIf(arguments) => what_if::run(global, arguments),
    }
}

/// Recorded topics with what is needed to decide on them.
pub struct Opened {
    pub source: Box<dyn Source>,
    pub settings: LaneSettings,
    /// The lanes that are asked for.
    pub lanes: Vec<u32>,
}

impl Opened {
    /// Journal records of the lanes, for a progress bar.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn journal_records(&mut self) -> anyhow::Result<u64> {
        let mut all = 0;
        for lane in &self.lanes {
            let bounds = self.source.bounds(Topic::Journal, i32::try_from(*lane)?)?;
            all += u64::try_from(bounds.end - bounds.start).unwrap_or(0);
        }
        Ok(all)
    }
}

/// Opens a file, or the topics of the brokers.
///
/// # Errors
/// It cannot be read; it has no such lane.
pub fn open(global: &Global, from: &FromArgs) -> anyhow::Result<Opened> {
    let (source, settings): (Box<dyn Source>, LaneSettings) = match &from.from_file {
        Some(path) => {
            let recording = open_file(path)?;
            let settings = settings_of(&recording)?;
            (Box::new(recording), settings)
        }
        None => {
            let config = global.config()?;
            let (settings, _) = lane_settings(&config)?;
            let cluster = Cluster::new(&config.kafka, global.timeout());
            (Box::new(FromKafka::open(&cluster, &config, &settings.codec)?), settings)
        }
    };
    let lanes = match from.lane {
        None => (0..source.lanes()).collect(),
        Some(lane) if lane < source.lanes() => vec![lane],
        Some(lane) => {
            let text = format!("there is no lane {lane}; allowed: 0 to {}", source.lanes() - 1);
            return Err(coded(Exit::NotFound, text));
        }
    };
    Ok(Opened { source, settings, lanes })
}

fn open_file(path: &Path) -> anyhow::Result<Recording<BufReader<File>>> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("{shown} cannot be opened"))?;
    Recording::open(BufReader::new(file)).with_context(|| format!("{shown} cannot be replayed"))
}

/// The settings of the router whose topics were recorded.
fn settings_of<R: std::io::Read + std::io::Seek>(
    recording: &Recording<R>,
) -> anyhow::Result<LaneSettings> {
    let about = recording.about();
    let topic = |name: &String| Topic::ALL.into_iter().find(|topic| topic.default_name() == name);
    let ids = about.schema_ids.iter();
    let registered = RegisteredSchemas {
        ids: ids.filter_map(|(name, id)| Some((topic(name)?, *id))).collect(),
        writers: about.writer_schemas.clone(),
    };
    let names = about.topic_names.iter();
    Ok(LaneSettings {
        codec: Arc::new(Codec::new(about.output, registered)?),
        policy: Policy::default(),
        batch_records_max: usize::MAX,
        source: format!("pointsman/{}", about.group),
        group: about.group.clone(),
        topic_names: names.filter_map(|(name, now)| Some((topic(name)?, now.clone()))).collect(),
        decisions_by_pool: about.decisions_by_pool,
    })
}

/// The settings of a router with this configuration, and the registered ids of its schemas.
///
/// # Errors
/// The registry cannot be asked.
pub fn lane_settings(config: &Config) -> anyhow::Result<(LaneSettings, RegisteredSchemas)> {
    let mut registered = RegisteredSchemas::default();
    if config.output.format == OutputFormat::Confluent
        && let Some(settings) = &config.output.schema_registry
    {
        let registry = Registry::new(settings)?;
        for topic in REGISTERED_TOPICS {
            // Looking back registers nothing.
            if let Some(schema) = schema::of(topic)
                && let Some(id) =
                    registry.lookup(&subject(config.topics.name(topic)), schema.text)?
            {
                registered.ids.insert(topic, id);
            }
        }
    }
    let codec = Codec::new(config.output.format, registered.clone())?;
    let names = Topic::ALL.iter().map(|topic| (*topic, config.topics.name(*topic).to_owned()));
    let settings = LaneSettings {
        codec: Arc::new(codec),
        policy: config.routing.clone(),
        batch_records_max: usize::MAX,
        source: format!("pointsman/{}", config.kafka.group_id),
        group: config.kafka.group_id.clone(),
        topic_names: names.collect(),
        decisions_by_pool: config.topics.decisions_by_pool(),
    };
    Ok((settings, registered))
}

/// Lets the codec read what another writer wrote, and returns the schema where it can be had.
fn teach(codec: &Codec, config: &Config, id: u32) -> anyhow::Result<Option<String>> {
    let settings = config.output.schema_registry.as_ref();
    registry::teach(codec, settings, id)?;
    let Some(settings) = settings else { return Ok(None) };
    // Asked twice for a schema, of which there are few, so that it can be kept.
    Ok(Registry::new(settings)?.resolve(id).unwrap_or_default())
}

/// A bar on stderr, where that is a terminal.
pub fn progress(length: u64, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    let style = "{msg} {bar:30} {pos}/{len} batches, {elapsed}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// The pinned names, and more.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    audit: &'a Audit,
    elapsed_s: f64,
    decisions_per_s: f64,
}

fn audit(global: &Global, arguments: &AuditArgs) -> anyhow::Result<Exit> {
    let range: Range = arguments.range.range(wall_now())?;
    let mut opened = open(global, &arguments.from)?;
    let bar = progress(opened.journal_records()?, "audit");
    let begun = Stopwatch::start();
    let mut found = Audit::default();
    let Opened { source, settings, lanes } = &mut opened;
    for lane in lanes {
        audit_lane(&mut **source, settings, *lane, range, &mut found, &mut |_| bar.inc(1))?;
    }
    bar.finish_and_clear();
    let elapsed_s = begun.elapsed().as_secs_f64();
    let decisions_per_s = found.decisions as f64 / elapsed_s.max(1e-9);
    let printer = global.printer();
    let summary = Summary { audit: &found, elapsed_s, decisions_per_s };
    let printer = with_json(printer, arguments.json);
    printer.document(&summary, || audit_text(&summary))?;
    Ok(if found.is_identical() { Exit::Ok } else { Exit::Difference })
}

/// `--json` is `--output json` on one line.
pub fn with_json(mut printer: Printer, json: bool) -> Printer {
    if json && printer.format == Format::Table {
        printer.format = Format::Jsonl;
    }
    printer
}

fn audit_text(summary: &Summary<'_>) -> String {
    use std::fmt::Write as _;
    let Audit { decisions, identical, batches, lanes, .. } = summary.audit;
    let mut text = format!(
        "{identical} of {decisions} decisions identical, {batches} batches of {lanes} lanes in \
         {:.1} s ({:.0} decisions/s)\n",
        summary.elapsed_s, summary.decisions_per_s
    );
    let audit = summary.audit;
    // Writing to a string cannot fail.
    writeln!(
        text,
        "{} published outputs equal, {} not there any more",
        audit.published_equal, audit.published_deleted
    )
    .ok();
    for (reason, batches) in &audit.folded_batches {
        writeln!(text, "{batches} batches folded and not decided again: {reason}").ok();
    }
    if let Some(found) = &audit.first_divergence {
        writeln!(
            text,
            "first divergence: lane {} epoch {} seq {}, {}\n  expected {}\n  found    {}",
            found.lane, found.epoch, found.seq, found.what, found.expected, found.found
        )
        .ok();
    }
    text
}
