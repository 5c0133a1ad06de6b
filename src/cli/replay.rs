//! `replay audit | what-if`, and where the commands that look back read from.

mod from_kafka;
pub mod lane_view;
mod parallel;
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
use super::{Global, registry};
use crate::clock::{Stopwatch, wall_now};
use crate::codec::{Codec, OutputFormat, REGISTERED_TOPICS, RegisteredSchemas, schema};
use crate::config::Config;
use crate::lane::LaneSettings;
use crate::model::Topic;
use crate::model::policy::Policy;
use crate::model::snapshot::SnapshotPoint;
use crate::model::time::Timestamp;
use crate::registry::{Registry, subject};
use crate::replay::audit::{Audit, Begun, Range};
use crate::replay::journal::Earliest;
use crate::replay::journal::PlayError;
use crate::replay::recording::Recording;
use crate::replay::source::Source;
use crate::replay::start::earliest;
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
again from its journal record and its inputs; facts, outputs and hashes must be equal, and the whole \
state where a snapshot was published. With --since it begins with the newest snapshot before that. What differs \
first is named, and the exit code is 3. Batches of another engine version are folded and counted \
apart: their own release can decide them again.

Examples:
  pointsman replay audit --since -1h
  pointsman replay audit --lane 3 --json
  pointsman record -f run.pmrec && pointsman replay audit --from-file run.pmrec")]
struct AuditArgs {
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    range: RangeArgs,
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
        self.journal_records_since(Timestamp::EPOCH)
    }

    /// As [`Opened::journal_records`], from a time on.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn journal_records_since(&mut self, since: Timestamp) -> anyhow::Result<u64> {
        let mut all = 0;
        for lane in &self.lanes {
            let partition = i32::try_from(*lane)?;
            let mut bounds = self.source.bounds(Topic::Journal, partition)?;
            if since > Timestamp::EPOCH {
                bounds.start = self.source.offset_at(Topic::Journal, partition, since)?;
            }
            all += u64::try_from(bounds.end - bounds.start).unwrap_or(0);
        }
        Ok(all)
    }

    /// Refuses a range that begins before what can be replayed, naming what can in every lane.
    ///
    /// # Errors
    /// It does; or the source cannot be read.
    pub fn refuse_deleted(&mut self, since: Timestamp) -> anyhow::Result<()> {
        if since == Timestamp::EPOCH {
            return Ok(());
        }
        let mut latest: Option<(u32, SnapshotPoint)> = None;
        for lane in &self.lanes {
            match earliest(&mut *self.source, &self.settings, *lane)? {
                Earliest::FirstBatch => {}
                Earliest::Snapshot(point) => {
                    let is_later =
                        latest.is_none_or(|(_, other)| other.batch_time_ms < point.batch_time_ms);
                    if point.batch_time_ms >= since && is_later {
                        latest = Some((*lane, point));
                    }
                }
                Earliest::Nowhere { seq } => {
                    let earliest = Earliest::Nowhere { seq };
                    let error = PlayError::Begun { lane: *lane, seq, earliest };
                    return Err(coded(Exit::NotFound, error.to_string()));
                }
            }
        }
        let Some((lane, point)) = latest else { return Ok(()) };
        let text = format!(
            "--since {since} is before what can be replayed: the journal's beginning is deleted; \
             earliest replayable: --since {} (lane {lane}, what follows seq {})",
            point.batch_time_ms.plus_ms(1),
            point.seq
        );
        Err(coded(Exit::NotFound, text))
    }
}

/// Opens a file, or the topics of the brokers.
///
/// # Errors
/// It cannot be read; it has no such lane.
pub fn open(global: &Global, from: &FromArgs) -> anyhow::Result<Opened> {
    open_topics(global, from, false)
}

/// As [`open`]; what the journal's records name is read together with them, also where it was
/// just being written.
///
/// # Errors
/// As [`open`].
pub fn open_whole(global: &Global, from: &FromArgs) -> anyhow::Result<Opened> {
    open_topics(global, from, true)
}

fn open_topics(global: &Global, from: &FromArgs, is_whole: bool) -> anyhow::Result<Opened> {
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
            let mut source = FromKafka::open(&cluster, &config, &settings.codec)?;
            if is_whole {
                source.note_all()?;
            }
            (Box::new(source), settings)
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
        unjournaled: false,
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
        unjournaled: false,
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
    let mut opened = open_whole(global, &arguments.from)?;
    opened.refuse_deleted(range.since)?;
    let bar = progress(opened.journal_records()?, "audit");
    let begun = Stopwatch::start();
    let found = parallel::audit(&opened, range, &bar)?;
    bar.finish_and_clear();
    let elapsed_s = begun.elapsed().as_secs_f64();
    let decisions_per_s = found.decisions as f64 / elapsed_s.max(1e-9);
    let printer = global.printer();
    let summary = Summary { audit: &found, elapsed_s, decisions_per_s };
    printer.document(&summary, || audit_text(&summary))?;
    Ok(if found.is_identical() { Exit::Ok } else { Exit::Difference })
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
    let equal = audit.snapshots_equal;
    if equal > 0 {
        let s = if equal == 1 { "" } else { "s" };
        writeln!(text, "{equal} published snapshot{s} equal to the whole state").ok();
    }
    for (reason, count) in &audit.snapshots_not_compared {
        writeln!(text, "{count} published snapshots not compared: {reason}").ok();
    }
    for begun in &audit.begun_with {
        let Begun { lane, seq, .. } = begun;
        let at = Timestamp::from_ms(begun.batch_time_ms);
        match seq {
            0 => writeln!(text, "lane {lane} begun with its first batch"),
            _ => writeln!(text, "lane {lane} begun with its snapshot at seq {seq}, of {at}"),
        }
        .ok();
        for snapshot in &begun.passed_over {
            writeln!(text, "  passed over: the snapshot at {snapshot}").ok();
        }
    }
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
