//! `recover`: why a lane does not run, and what resolves it.

mod find;

use std::sync::atomic::AtomicBool;

use clap::Args;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use super::exit::{Exit, coded};
use super::kafka::Cluster;
use super::{Global, tool_codec};
use crate::config::Config;
use crate::model::Topic;
use crate::model::snapshot::Dropped;
use crate::store::SnapshotStore;
use crate::stream::client::archive::Archive;
use crate::stream::client::settings;
use crate::stream::committed::{self, Metadata};
use crate::stream::instance_lock;
use find::{Found, LaneReport, Verdict};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Without an action it looks, and changes nothing: what is committed for each lane, where its journal \
ends, which snapshots there are, and what resolves a difference. With one it says what it would do; \
--yes does it. Every instance of the group has to be stopped then.

Exit code 3: a lane does not run as it is.

Examples:
  pointsman recover                            why does a lane not run?
  pointsman recover --restore-offsets --yes    undo kafka-consumer-groups --reset-offsets
  pointsman recover --drop-local --yes         restore from Kafka at the next start
  pointsman recover --lane 3 --from-snapshot 120000 --yes
  pointsman recover --lane 3 --from-snapshot 0 --yes     fold the whole journal")]
pub struct RecoverArgs {
    /// Only this lane
    #[arg(long, env = "POINTSMAN_RECOVER_LANE", value_name = "LANE")]
    lane: Option<u32>,
    /// Set the group's offsets to those of each lane's last journal record
    #[arg(long, env = "POINTSMAN_RECOVER_RESTORE_OFFSETS", group = "action")]
    restore_offsets: bool,
    /// Delete the snapshots on this instance's disk; the next start restores from Kafka
    #[arg(long, env = "POINTSMAN_RECOVER_DROP_LOCAL", group = "action")]
    drop_local: bool,
    /// Remove every snapshot after this one, here and in the topic; 0: all of them
    #[arg(
        long,
        env = "POINTSMAN_RECOVER_FROM_SNAPSHOT",
        value_name = "SEQ",
        group = "action",
        requires = "lane"
    )]
    from_snapshot: Option<u64>,
    /// Do it
    #[arg(long, env = "POINTSMAN_YES")]
    yes: bool,
}

/// What is done, or would be.
#[derive(Debug, Serialize)]
struct Step {
    lane: u32,
    what: String,
    done: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    lanes: Vec<LaneReport>,
    steps: Vec<Step>,
}

pub fn recover(global: &Global, arguments: &RecoverArgs) -> anyhow::Result<Exit> {
    let config = global.config()?;
    let cluster = Cluster::new(&config.kafka, global.timeout());
    let printer = global.printer();
    // While an instance of this name runs, its snapshots are its own.
    let changes =
        arguments.restore_offsets || arguments.drop_local || arguments.from_snapshot.is_some();
    let _lock = if changes && arguments.yes {
        let taken = instance_lock::take(&config.kafka.data_directory, &config.kafka.instance_id);
        Some(
            taken.map_err(|error| {
                coded(Exit::Refused, format!("stop the instance first: {error}"))
            })?,
        )
    } else {
        None
    };
    let partitions = cluster.partitions()?;
    let Some(lanes) = partitions.get(config.topics.name(Topic::Tasks)).copied() else {
        let name = config.topics.name(Topic::Tasks);
        return Err(coded(
            Exit::NotFound,
            format!("there is no topic `{name}`; fix: pointsman topics apply"),
        ));
    };
    let lanes = u32::try_from(lanes).unwrap_or(0);
    let wanted: Vec<u32> = match arguments.lane {
        Some(lane) if lane >= lanes => {
            let text = format!("there is no lane {lane}; `tasks` has {lanes} partitions");
            return Err(coded(Exit::NotFound, text));
        }
        Some(lane) => vec![lane],
        None => (0..lanes).collect(),
    };
    let ended = AtomicBool::new(false);
    let tools = Tools {
        store: SnapshotStore::new(
            &config.kafka.data_directory,
            &config.kafka.group_id,
            &config.kafka.instance_id,
            config.snapshot.cache_bytes,
        ),
        archive: Archive {
            consumer: settings::reader(&config),
            producer: settings::snapshot_producer(&config),
            topic: config.topics.name(Topic::Snapshots).to_owned(),
            ended: &ended,
        },
        group: group(&config)?,
        config: &config,
        cluster: &cluster,
    };
    let codec = tool_codec(&config)?;
    let mut report = Report { lanes: Vec::new(), steps: Vec::new() };
    for lane in wanted {
        let found = find::look(&tools, &codec, lane)?;
        let steps = tools.act(arguments, lane, &found)?;
        report.steps.extend(steps);
        report.lanes.push(found.report);
    }
    let differs = report.lanes.iter().any(|lane| lane.verdict != Verdict::Runs);
    printer.document(&report, || words(&report, changes, arguments.yes))?;
    let resolved = changes && arguments.yes;
    Ok(if differs && !resolved { Exit::Difference } else { Exit::Ok })
}

/// What every lane is looked at with.
pub(super) struct Tools<'a> {
    pub config: &'a Config,
    pub cluster: &'a Cluster<'a>,
    pub store: SnapshotStore,
    pub archive: Archive<'a>,
    pub group: BaseConsumer,
}

/// A client in the group's name that never joins it.
fn group(config: &Config) -> anyhow::Result<BaseConsumer> {
    Ok(settings::reader(config).create()?)
}

impl Tools<'_> {
    fn act(&self, arguments: &RecoverArgs, lane: u32, found: &Found) -> anyhow::Result<Vec<Step>> {
        let done = arguments.yes;
        let mut steps = Vec::new();
        let mut step = |what: String| steps.push(Step { lane, what, done });
        if arguments.restore_offsets {
            let Some(last) = &found.last else { return Ok(steps) };
            if found.report.verdict == Verdict::Runs {
                return Ok(steps);
            }
            let offsets = Topic::LANE_INPUTS.map(|topic| {
                let name = self.config.topics.name(topic);
                last.offsets.iter().find(|range| range.topic == name).map_or(0, |range| range.to)
            });
            step(format!("offsets to {offsets:?}, those of seq {}", last.seq));
            if done {
                let point = found.newest_published(last.seq);
                let metadata = committed::metadata(&Metadata {
                    epoch: last.epoch,
                    seq: last.seq,
                    hash: &last.hash,
                    snapshot: point,
                    dealt: Some(last.lanes),
                });
                self.commit(lane, offsets, &metadata)?;
            }
        }
        if arguments.drop_local {
            for snapshot in &found.report.local {
                step(format!("delete the local snapshot at seq {}", snapshot.seq));
                if done {
                    self.store.remove(lane, snapshot.seq);
                }
            }
        }
        if let Some(seq) = arguments.from_snapshot {
            let is_there = seq == 0
                || found.report.published.iter().chain(&found.report.local).any(|at| at.seq == seq);
            if !is_there {
                let text =
                    format!("lane {lane} has no snapshot at seq {seq}; 0 folds the whole journal");
                return Err(coded(Exit::NotFound, text));
            }
            for snapshot in found.report.local.iter().filter(|snapshot| snapshot.seq > seq) {
                step(format!("delete the local snapshot at seq {}", snapshot.seq));
                if done {
                    self.store.remove(lane, snapshot.seq);
                }
            }
            let later: Vec<Dropped> = found.later(seq);
            for dropped in &later {
                step(format!("remove the published snapshot at seq {}", dropped.seq));
            }
            if done && !later.is_empty() {
                self.archive.remove(lane, crate::clock::wall_now(), &later)?;
            }
        }
        Ok(steps)
    }

    fn commit(&self, lane: u32, offsets: [i64; 3], metadata: &str) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        for (topic, offset) in Topic::LANE_INPUTS.into_iter().zip(offsets) {
            let name = self.config.topics.name(topic);
            let mut element = list.add_partition(name, i32::try_from(lane)?);
            element.set_offset(Offset::Offset(offset))?;
            element.set_metadata(metadata);
        }
        self.group.commit(&list, CommitMode::Sync).map_err(|error| {
            let text = format!(
                "the offsets cannot be set ({error}): stop every instance of the group, and wait until its session is over ({} ms)",
                self.config.worker.session_timeout_ms
            );
            coded(Exit::Refused, text)
        })
    }
}

fn words(report: &Report, changes: bool, yes: bool) -> String {
    let mut text = String::new();
    for lane in &report.lanes {
        text.push_str(&lane.words());
    }
    for step in &report.steps {
        let tense = if step.done { "done" } else { "would" };
        text.push_str(&format!("{tense}: lane {}: {}\n", step.lane, step.what));
    }
    if changes && report.steps.is_empty() {
        text.push_str("nothing to do\n");
    } else if changes && !yes {
        text.push_str(
            "nothing was changed; --yes does it, with every instance of the group stopped\n",
        );
    }
    text
}
