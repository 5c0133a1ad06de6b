//! `dlq redrive`: dead letters back into their inputs.
//!
//! Never twice: the records and a mark that names their letters are one Kafka transaction. Marks are
//! read after `init_transactions`, which ends what an earlier redrive left open and fences one that
//! still runs; so a redrive that was interrupted goes on behind its last committed transaction,
//! whatever filters it is given. A letter that is older than the oldest mark that is kept is
//! refused, because its mark may be deleted.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde::Serialize;

use super::SelectArgs;
use super::letters::{self, Letter, Mark, REDRIVE, REPLAY_ID};
use crate::cli::exit::Exit;
use crate::cli::kafka::Cluster;
use crate::cli::replay::{FromKafka, lane_settings};
use crate::cli::{Global, tool_codec};
use crate::clock::wall_now;
use crate::codec::headers::CONTENT_TYPE;
use crate::config::Config;
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::event::OperatorAction;
use crate::replay::Record;
use crate::replay::snapshots::Limit;
use crate::replay::start::{Start, start};

/// Letters of one transaction: one mark names them all, and is far below a record's bound.
const LETTERS_MAX: usize = 100;
/// A letter that died this often again is not tried once more: it will not live.
const REDRIVES_MAX: usize = 3;
/// Letters that one redrive takes: they are held in memory while they are decided.
const SELECTED_MAX: usize = 100_000;

#[derive(Debug, Args)]
#[command(after_long_help = "\
First the letters are decided on a copy of the lanes' present state, so that the dry run says how \
many would route now. With --yes they are sent to their topic and partition with their own key, \
headers and order, and a header `replay-id`. Ended early, the same command goes on where it stopped; \
no letter is sent twice.

Examples:
  pointsman dlq redrive tasks.dlq --reason context_window --since -6h
  pointsman dlq redrive tasks.dlq --reason context_window --since -6h --yes --rate 20")]
pub struct RedriveArgs {
    #[command(flatten)]
    select: SelectArgs,
    /// Only say what would happen, which is so without --yes too
    #[arg(long, env = "POINTSMAN_REDRIVE_DRY_RUN")]
    dry_run: bool,
    /// Do it
    #[arg(long, short, env = "POINTSMAN_REDRIVE_YES", conflicts_with = "dry_run")]
    yes: bool,
    /// Records a second
    #[arg(
        long,
        env = "POINTSMAN_REDRIVE_RATE",
        value_name = "N",
        default_value = "50",
        value_parser = clap::value_parser!(u32).range(1..=100_000)
    )]
    rate: u32,
    /// Why, for `operator-actions`
    #[arg(long, env = "POINTSMAN_REDRIVE_COMMENT", value_name = "TEXT", default_value = "")]
    comment: String,
}

/// What would happen, or has.
#[derive(Debug, Default, Serialize)]
struct Summary {
    matched: u64,
    /// Sent again by an earlier redrive.
    redriven_before: u64,
    /// Letters that died again too often, or whose mark may be deleted, or that have no bytes.
    not_taken: BTreeMap<&'static str, u64>,
    /// What the lanes would decide now.
    forecast: Forecast,
    /// Records that were sent.
    sent: u64,
    replay_id: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Forecast {
    routed: u64,
    waiting: u64,
    duplicates: u64,
    refused: BTreeMap<&'static str, u64>,
    /// Dead again.
    dead: u64,
    /// Accepted, where the input is not `tasks`.
    accepted: u64,
}

pub fn run(global: &Global, arguments: &RedriveArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let wanted = arguments.select.wanted(&config)?;
    // Before the marks are read: what is in flight of another redrive is then over.
    let producer = arguments.yes.then(|| open(&cluster, &config)).transpose()?;
    let mut summary = Summary::default();
    let done = letters::redriven(&cluster, &config)?;
    let mut taken: Vec<Letter> = Vec::new();
    letters::read(&cluster, &config, &wanted, &mut |letter| {
        summary.matched += 1;
        let why_not = if done.contains(&letter) {
            summary.redriven_before += 1;
            return Ok(());
        } else if !done.covers(&letter) {
            Some("older than the marks of redrives")
        } else if letter.redrives() >= REDRIVES_MAX {
            Some("redriven 3 times")
        } else if letter.record.value.is_none() {
            Some("without bytes")
        } else if taken.len() >= SELECTED_MAX {
            Some("beyond 100,000")
        } else {
            None
        };
        match why_not {
            Some(why) => *summary.not_taken.entry(why).or_default() += 1,
            None => taken.push(letter),
        }
        Ok(())
    })?;
    summary.forecast = forecast(&cluster, &config, &taken)?;
    let printer = global.printer();
    if let Some(producer) = producer.as_ref().filter(|_| !taken.is_empty()) {
        let id = format!("{REDRIVE}-{}-{}", wall_now().as_ms(), std::process::id());
        summary.replay_id = Some(id.clone());
        let sender = Sender { cluster: &cluster, config: &config, producer, id };
        summary.sent = sender.send(arguments, &taken)?;
    }
    printer.document(&summary, || text(&summary, taken.len()))?;
    Ok(Exit::Ok)
}

/// A transactional producer; opening it ends and fences every other redrive of the group.
fn open(cluster: &Cluster<'_>, config: &Config) -> anyhow::Result<BaseProducer> {
    let mut client = cluster.producer();
    client.set("transactional.id", format!("{}-{REDRIVE}", config.kafka.group_id));
    let producer: BaseProducer = client.create().context("the Kafka client cannot be made")?;
    producer.init_transactions(cluster.timeout()).context("no transaction can be begun")?;
    Ok(producer)
}

/// What the lanes would make of the letters now: decided on copies, from their journals.
fn forecast(cluster: &Cluster<'_>, config: &Config, taken: &[Letter]) -> anyhow::Result<Forecast> {
    let mut found = Forecast::default();
    if taken.is_empty() {
        return Ok(found);
    }
    let (settings, _) = lane_settings(config)?;
    let mut source = FromKafka::open(cluster, config, &settings.codec)?;
    let partitions: std::collections::BTreeSet<i32> =
        taken.iter().map(|letter| letter.record.partition).collect();
    for partition in partitions {
        let number = u32::try_from(partition)?;
        let Start { mut player, mut journal, .. } =
            start(&mut source, &settings, number, Limit::NONE)?;
        while let Some(batch) = journal.next_batch()? {
            player.play(&mut source, &batch, false)?;
        }
        let Some(lane) = player.lane() else { continue };
        let letters = taken.iter().filter(|letter| letter.record.partition == partition);
        decide(lane, &settings, letters, &mut found)?;
    }
    Ok(found)
}

fn decide<'a>(
    lane: &Lane,
    settings: &LaneSettings,
    letters: impl Iterator<Item = &'a Letter>,
    found: &mut Forecast,
) -> anyhow::Result<()> {
    let state = lane.state();
    let mut settings = settings.clone();
    settings.policy = state.policy.clone();
    let bytes = lane.snapshot().context("the state of a lane cannot be copied")?;
    let mut copy = Lane::restore(state.lane, &bytes, settings)
        .context("the state of a lane cannot be copied")?;
    let mut inputs = 0;
    for letter in letters {
        let Some(input) = letter.input() else { continue };
        let positions = copy.positions();
        let offset = match input {
            Topic::Tasks => positions.tasks.unwrap_or(0),
            Topic::TaskResults => positions.task_results.unwrap_or(0),
            Topic::LaneInbox => positions.lane_inbox.unwrap_or(0),
            Topic::Fleet => positions.fleet,
            Topic::HealthEvents => positions.health_events,
            Topic::RouteDecisions
            | Topic::AllocationEvents
            | Topic::BalanceEvents
            | Topic::LoadSnapshots
            | Topic::Journal
            | Topic::Snapshots
            | Topic::OperatorActions
            | Topic::TasksDlq
            | Topic::TaskResultsDlq
            | Topic::LaneInboxDlq
            | Topic::HealthEventsDlq
            | Topic::FleetDlq => continue,
        };
        inputs += u64::from(input != Topic::Tasks);
        let original = Record {
            partition: letter.record.partition,
            offset,
            timestamp_ms: wall_now().as_ms(),
            key: letter.record.key.clone(),
            value: letter.record.value.clone(),
            headers: letter.original_headers().cloned().collect(),
        };
        original.with_raw(input, |raw| copy.offer(raw));
    }
    let before = found.dead;
    // The lane's budget of a batch may make several of them.
    for _ in 0..=SELECTED_MAX {
        let Some(prepared) = copy.prepare(wall_now()) else { break };
        let counts = prepared.counts;
        found.routed += counts.routed;
        found.waiting += counts.queued;
        found.duplicates += counts.duplicates;
        found.dead += counts.dead_letters.len() as u64;
        for (reason, count) in counts.refused {
            *found.refused.entry(reason.name()).or_default() += count;
        }
        if copy.queued() == 0 {
            break;
        }
    }
    found.accepted += inputs.saturating_sub(found.dead - before);
    Ok(())
}

struct Sender<'a> {
    cluster: &'a Cluster<'a>,
    config: &'a Config,
    producer: &'a BaseProducer,
    id: String,
}

impl Sender<'_> {
    fn send(&self, arguments: &RedriveArgs, taken: &[Letter]) -> anyhow::Result<u64> {
        let rate = NonZeroU32::new(arguments.rate).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(rate).allow_burst(NonZeroU32::MIN);
        let limiter: DefaultDirectRateLimiter = RateLimiter::direct(quota);
        let bar = crate::cli::replay::progress(taken.len() as u64, "redrive");
        let mut sent = 0;
        // One topic in a transaction, so that one mark names its letters.
        for part in taken.chunk_by(|one, other| one.topic == other.topic) {
            for part in part.chunks(LETTERS_MAX) {
                for _ in part {
                    wait(&limiter);
                    bar.inc(1);
                }
                self.transact(arguments, part).with_context(|| {
                    format!("{sent} records were sent; the same command goes on from there")
                })?;
                sent += part.len() as u64;
            }
        }
        bar.finish_and_clear();
        Ok(sent)
    }

    fn transact(&self, arguments: &RedriveArgs, part: &[Letter]) -> anyhow::Result<()> {
        let timeout = self.cluster.timeout();
        self.producer.begin_transaction()?;
        let produced = self.produce(arguments, part);
        let committed = produced.and_then(|()| {
            self.producer.flush(timeout)?;
            Ok(self.producer.commit_transaction(timeout)?)
        });
        if committed.is_err() {
            // Where this fails too, the next `init_transactions` ends it.
            self.producer.abort_transaction(timeout).ok();
        }
        committed
    }

    fn produce(&self, arguments: &RedriveArgs, part: &[Letter]) -> anyhow::Result<()> {
        let mut mark =
            Mark { replay_id: self.id.clone(), topic: String::new(), letters: Vec::new() };
        for letter in part {
            let Some(input) = letter.input() else { continue };
            mark.topic.clone_from(&letter.topic_name);
            mark.letters.push((letter.record.partition, letter.record.offset));
            let mut headers = OwnedHeaders::new();
            for (key, value) in letter.original_headers() {
                headers = headers.insert(Header { key, value: value.as_deref() });
            }
            headers = headers.insert(Header { key: REPLAY_ID, value: Some(self.id.as_bytes()) });
            let mut record: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to(self.config.topics.name(input))
                    .partition(letter.record.partition)
                    .headers(headers);
            if let Some(key) = &letter.record.key {
                record = record.key(key);
            }
            if let Some(value) = &letter.record.value {
                record = record.payload(value);
            }
            self.producer.send(record).map_err(|(error, _)| error)?;
        }
        let codec = tool_codec(self.config)?;
        let first = mark.letters.first().copied().unwrap_or_default();
        let action = OperatorAction {
            action_id: format!("{}-{}-{}-{}", self.id, mark.topic, first.0, first.1),
            kind: REDRIVE.to_owned(),
            actor: std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()),
            reason: arguments.comment.clone(),
            at_ms: wall_now(),
            detail: serde_json::to_string(&mark)?,
        };
        let mut value = Vec::new();
        codec.encode_operator_action(&action, &mut value);
        let topic = Topic::OperatorActions;
        let header = Header { key: CONTENT_TYPE, value: Some(codec.content_type(topic)) };
        let record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(self.config.topics.name(topic))
            .partition(0)
            .key(action.action_id.as_bytes())
            .headers(OwnedHeaders::new().insert(header))
            .payload(&value);
        self.producer.send(record).map_err(|(error, _)| error)?;
        Ok(())
    }
}

/// Waits for the next turn.
fn wait(limiter: &DefaultDirectRateLimiter) {
    while limiter.check().is_err() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn text(summary: &Summary, taken: usize) -> String {
    let forecast = &summary.forecast;
    let refused: u64 = forecast.refused.values().sum();
    let reasons: Vec<String> =
        forecast.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    let mut out = format!(
        "{taken} of {} match; decided now: {} would route, {} wait, {refused} refused again ({}), {} \
         duplicates, {} dead again, {} accepted\n",
        summary.matched,
        forecast.routed,
        forecast.waiting,
        if reasons.is_empty() { "-".to_owned() } else { reasons.join(", ") },
        forecast.duplicates,
        forecast.dead,
        forecast.accepted,
    );
    if summary.redriven_before > 0 {
        out.push_str(&format!("{} were sent again before\n", summary.redriven_before));
    }
    for (why, count) in &summary.not_taken {
        out.push_str(&format!("{count} are not taken: {why}\n"));
    }
    match &summary.replay_id {
        Some(id) => out.push_str(&format!("{} sent, replay-id {id}\n", summary.sent)),
        None if taken > 0 => out.push_str("nothing was sent: run with --yes\n"),
        None => {}
    }
    out
}
