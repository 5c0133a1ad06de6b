//! What there is of a lane: committed offsets, journal, snapshots.

use std::ops::Range;

use anyhow::Context;
use rdkafka::consumer::Consumer;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use super::Tools;
use crate::codec::Codec;
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::model::snapshot::{Dropped, Manifest, SnapshotPoint};
use crate::stream::client::to_end::ToEnd;
use crate::stream::committed::{self, CommittedOffset, LaneCommit};

/// The end of a journal holds markers and, after a crash, aborted records beside the last one.
const TAIL_RECORDS: i64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As far as can be seen from outside.
    Runs,
    OffsetsReset,
    OffsetsGone,
    /// The journal does not have the committed batch.
    JournalEnds,
    /// The journal has another batch at the committed seq, or goes on behind it.
    JournalDiffers,
    InputDeleted,
}

#[derive(Debug, Serialize)]
pub struct SnapshotReport {
    pub seq: u64,
    pub batch_time_ms: i64,
    pub stored_bytes: u64,
    /// Stays as long as the journal.
    pub kept: bool,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct LaneReport {
    pub lane: u32,
    pub verdict: Verdict,
    pub why: String,
    pub resolve: Option<String>,
    pub committed_seq: Option<u64>,
    pub journal_seq: Option<u64>,
    pub local: Vec<SnapshotReport>,
    pub published: Vec<SnapshotReport>,
}

pub struct Found {
    pub report: LaneReport,
    pub last: Option<JournalRecord>,
    manifests: Vec<Manifest>,
    orphans: Vec<Dropped>,
}

impl Found {
    /// The newest published snapshot up to a batch.
    pub fn newest_published(&self, seq: u64) -> SnapshotPoint {
        let newest = self.manifests.iter().rev().find(|manifest| manifest.seq <= seq);
        newest.map_or_else(SnapshotPoint::default, Manifest::point)
    }

    /// What was published after a snapshot, with or without a manifest.
    pub fn later(&self, seq: u64) -> Vec<Dropped> {
        let published = self.manifests.iter();
        let published = published.map(|of| Dropped { seq: of.seq, chunks: of.chunks });
        published.chain(self.orphans.iter().cloned()).filter(|dropped| dropped.seq > seq).collect()
    }
}

pub fn look(tools: &Tools<'_>, codec: &Codec, lane: u32) -> anyhow::Result<Found> {
    let commit = commit_of(tools, lane)?;
    let last = last_of_journal(tools, codec, lane)?;
    let published = tools.archive.look(lane, None)?;
    let orphans = published.orphans();
    let manifests: Vec<Manifest> = published.manifests.into_values().collect();
    let mut local = Vec::new();
    for seq in tools.store.seqs(lane)? {
        local.push(match tools.store.read(lane, seq) {
            Ok((manifest, _)) => shown(&manifest),
            Err(error) => SnapshotReport {
                seq,
                batch_time_ms: 0,
                stored_bytes: 0,
                kept: false,
                problem: Some(error.to_string()),
            },
        });
    }
    let (verdict, why, resolve) = judge(tools, lane, &commit, last.as_ref())?;
    let committed_seq = committed::read(lane, &commit).ok().flatten().map(|point| point.seq);
    let report = LaneReport {
        lane,
        verdict,
        why,
        resolve,
        committed_seq,
        journal_seq: last.as_ref().map(|last| last.seq),
        local,
        published: manifests.iter().map(shown).collect(),
    };
    Ok(Found { report, last, manifests, orphans })
}

fn shown(manifest: &Manifest) -> SnapshotReport {
    SnapshotReport {
        seq: manifest.seq,
        batch_time_ms: manifest.batch_time_ms.as_ms(),
        stored_bytes: manifest.stored_bytes,
        kept: manifest.kept,
        problem: None,
    }
}

const RESTORE: &str = "`pointsman recover --restore-offsets --yes` sets the offsets back to the journal's; `pointsman run --new-epoch` goes on at those that were set, which may decide tasks twice";

fn judge(
    tools: &Tools<'_>,
    lane: u32,
    commit: &LaneCommit,
    last: Option<&JournalRecord>,
) -> anyhow::Result<(Verdict, String, Option<String>)> {
    let point = match committed::read(lane, commit) {
        Ok(point) => point,
        Err(error) => {
            return Ok((Verdict::OffsetsReset, error.to_string(), Some(RESTORE.to_owned())));
        }
    };
    let (point, last) = match (point, last) {
        (None, None) => return Ok((Verdict::Runs, "it has never run".to_owned(), None)),
        (None, Some(last)) => {
            let why = format!(
                "the journal goes up to seq {} and the group has no offsets: it was deleted, or has another name",
                last.seq
            );
            return Ok((Verdict::OffsetsGone, why, Some(RESTORE.to_owned())));
        }
        (Some(point), None) => {
            let why = format!("seq {} is committed and the journal is empty", point.seq);
            let resolve =
                "restore the journal topic from a copy; without it the lane's state is lost";
            return Ok((Verdict::JournalEnds, why, Some(resolve.to_owned())));
        }
        (Some(point), Some(last)) => (point, last),
    };
    if last.seq < point.seq {
        let why =
            format!("seq {} is committed and the journal ends at seq {}", point.seq, last.seq);
        let resolve = "restore the journal topic from a copy; `pointsman run` waits for records that are only late";
        return Ok((Verdict::JournalEnds, why, Some(resolve.to_owned())));
    }
    if last.seq > point.seq || last.hash != point.hash {
        let why = format!(
            "seq {} is committed and the journal goes up to seq {}: a running instance is ahead of this, or offsets of an earlier batch were set",
            point.seq, last.seq
        );
        return Ok((Verdict::JournalDiffers, why, Some(RESTORE.to_owned())));
    }
    for (topic, offset) in Topic::LANE_INPUTS.into_iter().zip(point.offsets) {
        let name = tools.config.topics.name(topic);
        let (first, _) =
            tools.group.fetch_watermarks(name, i32::try_from(lane)?, tools.cluster.timeout())?;
        if offset < first {
            let why = format!(
                "offset {offset} of `{name}` is to be read, and it begins at {first} by now"
            );
            let resolve = format!(
                "what is gone is gone; go on at what is left: kafka-consumer-groups --reset-offsets --to-earliest --topic {name}:{lane}, and `pointsman run --new-epoch`"
            );
            return Ok((Verdict::InputDeleted, why, Some(resolve)));
        }
    }
    let why = format!("in order: committed and journal are at seq {}", point.seq);
    Ok((Verdict::Runs, why, None))
}

fn commit_of(tools: &Tools<'_>, lane: u32) -> anyhow::Result<LaneCommit> {
    let mut list = TopicPartitionList::new();
    for topic in Topic::LANE_INPUTS {
        list.add_partition(tools.config.topics.name(topic), i32::try_from(lane)?);
    }
    let found = tools.group.committed_offsets(list, tools.cluster.timeout())?;
    let mut commit = LaneCommit::default();
    for element in found.elements() {
        element.error()?;
        let index = Topic::LANE_INPUTS
            .iter()
            .position(|topic| tools.config.topics.name(*topic) == element.topic());
        if let (Some(index), Offset::Offset(offset)) = (index, element.offset()) {
            let metadata = element.metadata().to_owned();
            commit[index] = Some(CommittedOffset { offset, metadata });
        }
    }
    Ok(commit)
}

/// The last committed record of the lane's journal.
fn last_of_journal(
    tools: &Tools<'_>,
    codec: &Codec,
    lane: u32,
) -> anyhow::Result<Option<JournalRecord>> {
    let name = tools.config.topics.name(Topic::Journal);
    let partition = i32::try_from(lane)?;
    let consumer = tools.cluster.reader()?;
    let (first, end) = consumer.fetch_watermarks(name, partition, tools.cluster.timeout())?;
    let mut back = TAIL_RECORDS;
    loop {
        let from = end.saturating_sub(back).max(first);
        if let Some(value) = last_after(tools, name, partition, from..end)? {
            return Ok(Some(codec.decode_journal(&value)?));
        }
        if from == first {
            return Ok(None);
        }
        back = back.saturating_mul(16);
    }
}

fn last_after(
    tools: &Tools<'_>,
    name: &str,
    partition: i32,
    Range { start: from, end }: Range<i64>,
) -> anyhow::Result<Option<Vec<u8>>> {
    let consumer = tools.cluster.reader()?;
    let mut to_end = ToEnd::new(name).with(partition, Offset::Offset(from), end);
    to_end.begin(&consumer)?;
    let mut last = None;
    while let Some(message) = to_end
        .next(&consumer, tools.cluster.timeout())
        .with_context(|| format!("`{name}` cannot be read to its end"))?
    {
        last = message.payload().map(<[u8]>::to_vec);
    }
    Ok(last)
}

impl LaneReport {
    pub fn words(&self) -> String {
        let mut text = format!("lane {}: {}\n", self.lane, self.why);
        if let Some(resolve) = &self.resolve {
            text.push_str(&format!("  resolve: {resolve}\n"));
        }
        for (where_, snapshots) in [("here", &self.local), ("published", &self.published)] {
            for snapshot in snapshots {
                let problem = match &snapshot.problem {
                    Some(problem) => format!("; {problem}"),
                    None => String::new(),
                };
                let kept = if snapshot.kept { ", kept" } else { "" };
                text.push_str(&format!(
                    "  snapshot {where_}: seq {}, {} bytes{kept}{problem}\n",
                    snapshot.seq, snapshot.stored_bytes
                ));
            }
        }
        text
    }
}
