//! `inspect snapshot`: what a lane could begin with, in the topic and on this host.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::cli::Global;
use crate::cli::exit::{Exit, coded};
use crate::cli::print::{Format, table};
use crate::cli::replay::{FromArgs, open};
use crate::model::Topic;
use crate::model::snapshot::Manifest;
use crate::model::time::Timestamp;
use crate::replay::snapshots::{Snapshots, verify};
use crate::store::{SnapshotStore, StoreError};

#[derive(Debug, Args)]
#[command(after_long_help = "\
Reads every chunk and checks it: VERIFIED says that a lane could begin with the snapshot. Those in \
the topic that are KEPT stay as long as the journal, of the others the newest two do; REMOVED ones \
only wait for the brokers to compact the topic. Nothing is changed, and no instance has to run; one \
that runs here may have a snapshot of its store open, which is then said.

Examples:
  pointsman inspect snapshot
  pointsman inspect snapshot --lane 3 --output json
  pointsman inspect snapshot --local")]
pub struct SnapshotArgs {
    /// A file that `pointsman record` wrote, in place of the brokers and this host's store
    #[arg(long, env = "POINTSMAN_FROM_FILE", value_name = "FILE")]
    from_file: Option<PathBuf>,
    /// Only this lane
    #[arg(long, env = "POINTSMAN_REPLAY_LANE", value_name = "LANE")]
    lane: Option<u32>,
    /// Only what is in this host's store: the brokers are not asked
    #[arg(long, env = "POINTSMAN_INSPECT_LOCAL", conflicts_with = "from_file")]
    local: bool,
}

/// One snapshot.
#[derive(Debug, Serialize)]
struct SnapshotRow {
    lane: u32,
    /// `published` or `local`.
    place: &'static str,
    seq: u64,
    batch_time_ms: Option<i64>,
    state_bytes: Option<u64>,
    stored_bytes: Option<u64>,
    chunks: Option<u32>,
    /// It stays as long as the journal.
    kept: bool,
    /// It is taken back, and there until the topic is compacted.
    removed: bool,
    verified: bool,
    /// Why it is not.
    problem: Option<String>,
    hash: Option<String>,
}

impl SnapshotRow {
    fn of(manifest: &Manifest, place: &'static str, problem: Option<String>) -> Self {
        SnapshotRow {
            lane: manifest.lane,
            place,
            seq: manifest.seq,
            batch_time_ms: Some(manifest.batch_time_ms.as_ms()),
            state_bytes: Some(manifest.state_bytes),
            stored_bytes: Some(manifest.stored_bytes),
            chunks: Some(manifest.chunks),
            kept: manifest.kept,
            removed: false,
            verified: problem.is_none(),
            problem,
            hash: Some(manifest.hash.clone()),
        }
    }

    fn unread(lane: u32, seq: u64, problem: String) -> Self {
        SnapshotRow {
            lane,
            place: "local",
            seq,
            batch_time_ms: None,
            state_bytes: None,
            stored_bytes: None,
            chunks: None,
            kept: false,
            removed: false,
            verified: false,
            problem: Some(problem),
            hash: None,
        }
    }
}

pub fn run(global: &Global, arguments: &SnapshotArgs) -> anyhow::Result<Exit> {
    let mut rows = Vec::new();
    if !arguments.local {
        published(global, arguments, &mut rows)?;
    }
    let mut root = None;
    if arguments.from_file.is_none() {
        let kafka = global.config()?.kafka;
        let store =
            SnapshotStore::new(&kafka.data_directory, &kafka.group_id, &kafka.instance_id, CACHE);
        local(&store, arguments.lane, &mut rows)?;
        root = Some(store.root().display().to_string());
    }
    rows.sort_by_key(|row| (row.lane, row.seq, row.place));
    let printer = global.printer();
    printer.rows(&rows, shown)?;
    if printer.format == Format::Table {
        for row in &rows {
            if let Some(problem) = &row.problem {
                let SnapshotRow { lane, place, seq, .. } = row;
                printer.note(&format!("lane {lane} seq {seq}, {place}: {problem}"));
            }
        }
        if let Some(root) = root {
            printer.note(&format!("local: below {root}"));
        }
    }
    if rows.is_empty() {
        return Err(coded(Exit::NotFound, "there is no snapshot yet"));
    }
    Ok(Exit::Ok)
}

/// What sled may hold in memory: a snapshot is read once.
const CACHE: u64 = 8 << 20;

fn published(
    global: &Global,
    arguments: &SnapshotArgs,
    rows: &mut Vec<SnapshotRow>,
) -> anyhow::Result<()> {
    let from = FromArgs { from_file: arguments.from_file.clone(), lane: arguments.lane };
    let mut opened = open(global, &from)?;
    for lane in &opened.lanes {
        let first = opened.source.bounds(Topic::Snapshots, i32::try_from(*lane)?)?.start;
        let mut snapshots = Snapshots::open(&mut *opened.source, *lane, first)?;
        while let Some(found) = snapshots.next_published()? {
            let problem = found.unpack().err().map(|error| error.to_string());
            let row = SnapshotRow::of(&found.manifest, "published", problem);
            // The same one again: the later manifest counts.
            rows.retain(|other| (other.lane, other.seq) != (row.lane, row.seq));
            rows.push(row);
        }
        for row in rows.iter_mut().filter(|row| row.lane == *lane) {
            row.removed = snapshots.removed.contains(&row.seq);
        }
        if snapshots.unreadable > 0 {
            let count = snapshots.unreadable;
            let text = format!("lane {lane}: {count} manifests that this release cannot read");
            global.printer().note(&text);
        }
    }
    Ok(())
}

fn local(
    store: &SnapshotStore,
    wanted: Option<u32>,
    rows: &mut Vec<SnapshotRow>,
) -> anyhow::Result<()> {
    for lane in store.lanes()? {
        if wanted.is_some_and(|wanted| wanted != lane) {
            continue;
        }
        for seq in store.list(lane)? {
            rows.push(match store.peek(lane, seq) {
                Ok((manifest, stored)) => {
                    let problem = verify(&manifest, &stored).err();
                    SnapshotRow::of(&manifest, "local", problem.map(|error| error.to_string()))
                }
                Err(StoreError::Locked { .. }) => {
                    let text = "a running instance has it open: ask again in a moment";
                    SnapshotRow::unread(lane, seq, text.to_owned())
                }
                Err(error) => SnapshotRow::unread(lane, seq, error.to_string()),
            });
        }
    }
    Ok(())
}

fn shown(rows: &[SnapshotRow]) -> comfy_table::Table {
    let mut shown = table(&[
        "lane", "seq", "place", "time", "bytes", "stored", "chunks", "kept", "removed", "verified",
    ]);
    let yes = |is: bool| if is { "yes" } else { "-" };
    let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
    for row in rows {
        let at = row.batch_time_ms.map(|ms| Timestamp::from_ms(ms).to_string());
        shown.add_row([
            row.lane.to_string(),
            row.seq.to_string(),
            row.place.to_owned(),
            at.unwrap_or_else(|| "-".to_owned()),
            number(row.state_bytes),
            number(row.stored_bytes),
            number(row.chunks.map(u64::from)),
            yes(row.kept).to_owned(),
            yes(row.removed).to_owned(),
            if row.verified { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    shown
}
