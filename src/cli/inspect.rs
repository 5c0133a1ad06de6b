//! `inspect`: what a lane's journal says, whether or not an instance runs.

mod snapshot;

use clap::{Args, Subcommand};
use rdkafka::consumer::Consumer as _;
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use super::exit::{Exit, coded};
use super::kafka::Cluster;
use super::print::{Format, table};
use super::replay::range::RangeArgs;
use super::replay::{FromArgs, Opened, open, progress};
use super::{Global, replay};
use crate::clock::wall_now;
use crate::model::Topic;
use crate::model::time::Timestamp;
use crate::replay::find::find_batch;
use crate::replay::journal::Journal;
use crate::replay::snapshots::Limit;
use crate::replay::start::{Start, start};
use crate::stream::committed::{self, CommittedOffset};

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    command: InspectCommand,
}

#[derive(Debug, Subcommand)]
enum InspectCommand {
    /// The state of a lane after a batch, folded from its journal
    Lane(LaneArgs),
    /// The batches of the journal, one a line
    Journal(JournalArgs),
    /// The snapshots of the lanes, published and in this host's store, each verified
    Snapshot(snapshot::SnapshotArgs),
    /// Where each lane reads on, as the group has committed it
    Offsets,
}

#[derive(Debug, Args)]
struct LaneArgs {
    /// The lane
    #[arg(env = "POINTSMAN_INSPECT_LANE", value_name = "LANE")]
    number: u32,
    /// After this batch; without it after the last one
    #[arg(long, env = "POINTSMAN_INSPECT_AT", value_name = "SEQ")]
    at: Option<u64>,
    /// A file that `pointsman record` wrote, in place of the brokers
    #[arg(long, env = "POINTSMAN_FROM_FILE", value_name = "FILE")]
    from_file: Option<std::path::PathBuf>,
}

#[derive(Debug, Args)]
struct JournalArgs {
    #[command(flatten)]
    from: FromArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// At most so many of the last batches of a lane
    #[arg(long, env = "POINTSMAN_INSPECT_LIMIT", value_name = "N", default_value_t = 100)]
    limit: usize,
}

pub fn run(global: &Global, arguments: &InspectArgs) -> anyhow::Result<Exit> {
    match &arguments.command {
        InspectCommand::Lane(arguments) => lane(global, arguments),
        InspectCommand::Journal(arguments) => journal(global, arguments),
        InspectCommand::Snapshot(arguments) => snapshot::run(global, arguments),
        InspectCommand::Offsets => offsets(global),
    }
}

fn lane(global: &Global, arguments: &LaneArgs) -> anyhow::Result<Exit> {
    let from = FromArgs { from_file: arguments.from_file.clone(), lane: Some(arguments.number) };
    let mut opened = open(global, &from)?;
    let Opened { source, settings, .. } = &mut opened;
    let number = arguments.number;
    let limit = match arguments.at {
        None => Limit::NONE,
        Some(seq) => {
            // Its time tells where its snapshots are; without it the topic is searched from its end.
            let at = find_batch(&mut **source, settings, number, seq)?;
            let before = at.map_or(Timestamp::MAX, |at| at.record.batch_time_ms.plus_ms(1));
            Limit { seq_max: seq, before }
        }
    };
    let Start { mut player, mut journal, from, passed_over } =
        start(&mut **source, settings, number, limit)?;
    let records = opened.journal_records_since(from.batch_time_ms)?;
    let bar = progress(records, "fold");
    while let Some(batch) = journal.next_batch()? {
        if arguments.at.is_some_and(|at| batch.record.seq > at) {
            break;
        }
        player.play(&mut *opened.source, &batch, false)?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (seq, why) in passed_over {
        global.printer().note(&format!("the snapshot at seq {seq} was passed over: {why}"));
    }
    let found = player.lane().filter(|lane| arguments.at.is_none_or(|at| lane.seq() == at));
    let Some(lane) = found else {
        let what = arguments.at.map_or("any batch".to_owned(), |at| format!("seq {at}"));
        let text = format!("the journal of lane {number} does not have {what}");
        return Err(coded(Exit::NotFound, text));
    };
    let shown = replay::lane_view::of(lane);
    global.printer().document(&shown, || replay::lane_view::text(&shown))?;
    Ok(Exit::Ok)
}

/// One batch.
#[derive(Debug, Serialize)]
struct BatchRow {
    lane: u32,
    epoch: u32,
    seq: u64,
    batch_time_ms: i64,
    facts: u32,
    in_flight: u64,
    backlog: u64,
    bytes: usize,
    engine_version: u32,
    hash: String,
}

fn journal(global: &Global, arguments: &JournalArgs) -> anyhow::Result<Exit> {
    let range = arguments.range.range(wall_now())?;
    let mut opened = open(global, &arguments.from)?;
    let Opened { source, settings, lanes } = &mut opened;
    let mut rows = Vec::new();
    for lane in lanes {
        let partition = i32::try_from(*lane)?;
        let from = if range.since == Timestamp::EPOCH && range.until == Timestamp::MAX {
            // Each batch takes an offset, and the marker of its transaction another.
            let bounds = source.bounds(Topic::Journal, partition)?;
            let last = i64::try_from(arguments.limit.max(1)).unwrap_or(i64::MAX);
            bounds.end.saturating_sub(last.saturating_mul(2)).max(bounds.start)
        } else {
            source.offset_at(Topic::Journal, partition, range.since)?
        };
        let mut journal = Journal::open_at(&mut **source, *lane, settings, from)?;
        let mut last = std::collections::VecDeque::new();
        while let Some(batch) = journal.next_batch()? {
            let record = batch.record;
            if record.batch_time_ms >= range.until {
                break;
            }
            if record.batch_time_ms < range.since {
                continue;
            }
            if last.len() == arguments.limit.max(1) {
                last.pop_front();
            }
            last.push_back(BatchRow {
                lane: record.lane,
                epoch: record.epoch,
                seq: record.seq,
                batch_time_ms: record.batch_time_ms.as_ms(),
                facts: record.fact_count,
                in_flight: record.in_flight,
                backlog: record.backlog,
                bytes: batch.value.len(),
                engine_version: record.engine_version,
                hash: record.hash,
            });
        }
        rows.extend(last);
    }
    global.printer().rows(&rows, |rows| {
        let mut shown = table(&[
            "lane",
            "epoch",
            "seq",
            "time",
            "facts",
            "in flight",
            "backlog",
            "bytes",
            "hash",
        ]);
        for row in rows {
            shown.add_row([
                row.lane.to_string(),
                row.epoch.to_string(),
                row.seq.to_string(),
                Timestamp::from_ms(row.batch_time_ms).to_string(),
                row.facts.to_string(),
                row.in_flight.to_string(),
                row.backlog.to_string(),
                row.bytes.to_string(),
                row.hash.clone(),
            ]);
        }
        shown
    })?;
    Ok(Exit::Ok)
}

/// One input of a lane.
#[derive(Debug, Serialize)]
struct OffsetRow {
    lane: u32,
    topic: String,
    committed: Option<i64>,
    first: i64,
    end: i64,
    lag: i64,
    /// Of the lane: the last committed batch.
    epoch: Option<u32>,
    seq: Option<u64>,
    hash: Option<String>,
    /// Why a router would refuse to start the lane.
    problem: Option<String>,
}

fn offsets(global: &Global) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let (settings, _) = replay::lane_settings(&config)?;
    let mut source = replay::FromKafka::open(&cluster, &config, &settings.codec)?;
    let lanes = crate::replay::source::Source::lanes(&source);
    let consumer = cluster.member(&config.kafka.group_id)?;
    let mut rows = Vec::new();
    for lane in 0..lanes {
        let partition = i32::try_from(lane)?;
        let mut asked = TopicPartitionList::new();
        for topic in Topic::LANE_INPUTS {
            asked.add_partition(config.topics.name(topic), partition);
        }
        let answered = consumer.committed_offsets(asked, global.timeout())?;
        let commit = Topic::LANE_INPUTS.map(|topic| {
            let element = answered.find_partition(config.topics.name(topic), partition)?;
            match element.offset() {
                Offset::Offset(offset) => {
                    Some(CommittedOffset { offset, metadata: element.metadata().to_owned() })
                }
                Offset::Beginning
                | Offset::End
                | Offset::Stored
                | Offset::Invalid
                | Offset::OffsetTail(_) => None,
            }
        });
        let (point, problem) = match committed::read(lane, &commit) {
            Ok(point) => (point, None),
            Err(error) => (None, Some(error.to_string())),
        };
        for (topic, committed) in Topic::LANE_INPUTS.into_iter().zip(&commit) {
            let bounds = crate::replay::source::Source::bounds(&mut source, topic, partition)?;
            let offset = committed.as_ref().map(|committed| committed.offset);
            rows.push(OffsetRow {
                lane,
                topic: config.topics.name(topic).to_owned(),
                committed: offset,
                first: bounds.start,
                end: bounds.end,
                lag: (bounds.end - offset.unwrap_or(bounds.start)).max(0),
                epoch: point.as_ref().map(|point| point.epoch),
                seq: point.as_ref().map(|point| point.seq),
                hash: point.as_ref().map(|point| point.hash.clone()),
                problem: problem.clone(),
            });
        }
    }
    let printer = global.printer();
    printer.rows(&rows, |rows| {
        let mut shown =
            table(&["lane", "topic", "committed", "first", "end", "lag", "seq", "hash"]);
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        for row in rows {
            shown.add_row([
                row.lane.to_string(),
                row.topic.clone(),
                or_none(row.committed.map(|offset| offset.to_string())),
                row.first.to_string(),
                row.end.to_string(),
                row.lag.to_string(),
                or_none(row.seq.map(|seq| seq.to_string())),
                or_none(row.hash.clone()),
            ]);
        }
        shown
    })?;
    let problems = rows.iter().filter_map(|row| row.problem.as_ref());
    let mut told: Vec<&String> = problems.collect();
    told.dedup();
    if printer.format == Format::Table {
        for problem in &told {
            printer.note(problem);
        }
    }
    Ok(if told.is_empty() { Exit::Ok } else { Exit::Difference })
}
