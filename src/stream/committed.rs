//! What the group has committed for a lane: its three offsets, each with the same metadata, which
//! names the last batch of the lane. It is the verdict on every transaction whose end was not seen.

use crate::lane::prepared::Prepared;
use crate::model::Topic;
use crate::model::snapshot::SnapshotPoint;
use crate::model::time::Timestamp;

/// The last batch of a lane that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitPoint {
    pub epoch: u32,
    pub seq: u64,
    /// 32 hexadecimal digits.
    pub hash: String,
    /// The next offset to read of `tasks`, `task-results` and `lane-inbox`, in this order.
    pub offsets: [i64; 3],
    /// The newest published snapshot by then.
    pub snapshot: SnapshotPoint,
}

impl CommitPoint {
    /// What the group will hold once this batch is committed.
    pub fn of(batch: &Prepared) -> Self {
        let offset = |topic| {
            batch.offsets.iter().find(|(of, _)| *of == topic).map_or(0, |(_, offset)| *offset)
        };
        CommitPoint {
            epoch: parse(&batch.metadata).map_or(0, |ours| ours.epoch),
            seq: batch.seq,
            hash: batch.hash.clone(),
            offsets: Topic::LANE_INPUTS.map(offset),
            snapshot: parse(&batch.metadata).map_or_else(Default::default, |ours| ours.snapshot),
        }
    }

    /// Whether both name the same batch.
    pub fn is_same_batch(&self, other: &CommitPoint) -> bool {
        self.epoch == other.epoch && self.seq == other.seq && self.hash == other.hash
    }
}

/// One lane input's committed offset, as the broker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: i64,
    pub metadata: String,
}

/// What the broker answers for a lane: `tasks`, `task-results` and `lane-inbox`, in this order.
pub type LaneCommit = [Option<CommittedOffset>; 3];

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommittedError {
    #[error(
        "lane {lane}: the committed offset {offset} of {topic} has the metadata '{metadata}', which Pointsman did not write: someone has reset the group's offsets"
    )]
    Foreign { lane: u32, topic: &'static str, offset: i64, metadata: String },
    #[error("lane {lane}: {topic} has no committed offset, and other inputs of the lane have one")]
    Missing { lane: u32, topic: &'static str },
    #[error(
        "lane {lane}: the committed offsets of {topic} and tasks belong to different batches (seq {seq} and {tasks_seq})"
    )]
    Different { lane: u32, topic: &'static str, seq: u64, tasks_seq: u64 },
}

/// Reads a lane's committed offsets; `None` where the lane has never committed.
pub fn read(lane: u32, commit: &LaneCommit) -> Result<Option<CommitPoint>, CommittedError> {
    let mut found: Option<CommitPoint> = None;
    let names = Topic::LANE_INPUTS.map(Topic::default_name);
    if commit.iter().all(Option::is_none) {
        return Ok(None);
    }
    for (index, (committed, topic)) in commit.iter().zip(names).enumerate() {
        let Some(committed) = committed else {
            return Err(CommittedError::Missing { lane, topic });
        };
        let Some(Metadata { epoch, seq, hash, snapshot }) = parse(&committed.metadata) else {
            // A metadata of any length could have been written by anyone.
            let metadata = committed.metadata.chars().take(80).collect();
            return Err(CommittedError::Foreign {
                lane,
                topic,
                offset: committed.offset,
                metadata,
            });
        };
        match &mut found {
            None => {
                let mut offsets = [0; 3];
                offsets[index] = committed.offset;
                found = Some(CommitPoint { epoch, seq, hash: hash.to_owned(), offsets, snapshot });
            }
            Some(point) if point.epoch == epoch && point.seq == seq && point.hash == hash => {
                point.offsets[index] = committed.offset;
            }
            Some(point) => {
                let tasks_seq = point.seq;
                return Err(CommittedError::Different { lane, topic, seq, tasks_seq });
            }
        }
    }
    Ok(found)
}

/// As `lane` writes it, for who sets a lane's offsets from its journal.
pub fn metadata(epoch: u32, seq: u64, hash: &str, snapshot: SnapshotPoint) -> String {
    format!("v1;{epoch};{seq};{hash};{};{}", snapshot.seq, snapshot.batch_time_ms.as_ms())
}

/// What is committed with each offset.
pub struct Metadata<'a> {
    pub epoch: u32,
    pub seq: u64,
    pub hash: &'a str,
    pub snapshot: SnapshotPoint,
}

/// `v1;epoch;seq;hash;snapshot_seq;snapshot_time`; later versions may append fields.
pub fn parse(metadata: &str) -> Option<Metadata<'_>> {
    let mut fields = metadata.split(';');
    if fields.next()? != "v1" {
        return None;
    }
    let epoch = fields.next()?.parse().ok()?;
    let seq = fields.next()?.parse().ok()?;
    let hash = fields.next()?;
    let is_hash = hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    let snapshot_seq = fields.next()?.parse().ok()?;
    let snapshot_time = Timestamp::from_ms(fields.next()?.parse().ok()?);
    let snapshot = SnapshotPoint { seq: snapshot_seq, batch_time_ms: snapshot_time };
    is_hash.then_some(Metadata { epoch, seq, hash, snapshot })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef";

    fn offset(offset: i64, metadata: &str) -> Option<CommittedOffset> {
        Some(CommittedOffset { offset, metadata: metadata.to_owned() })
    }

    fn check(commit: LaneCommit, expected: Result<Option<CommitPoint>, CommittedError>) {
        assert_eq!(read(3, &commit), expected);
    }

    #[test]
    fn three_equal_metadata_are_a_commit_point() {
        let ours = format!("v1;1;7;{HASH};5;99");
        let snapshot = SnapshotPoint { seq: 5, batch_time_ms: Timestamp::from_ms(99) };
        assert_eq!(metadata(1, 7, HASH, snapshot), ours);
        let hash = HASH.to_owned();
        check(
            [offset(10, &ours), offset(20, &ours), offset(0, &ours)],
            Ok(Some(CommitPoint { epoch: 1, seq: 7, hash, offsets: [10, 20, 0], snapshot })),
        );
        check([None, None, None], Ok(None));
    }

    #[test]
    fn what_someone_else_wrote_is_refused() {
        let ours = format!("v1;1;7;{HASH};0;0");
        let other = format!("v1;1;8;{HASH};0;0");
        for foreign in ["", "v2;1;7", "v1;1;7;short;0;0", "v1;x;7;0;0;0", &format!("v1;1;7;{HASH}")]
        {
            check(
                [offset(10, &ours), offset(20, foreign), offset(0, &ours)],
                Err(CommittedError::Foreign {
                    lane: 3,
                    topic: "task-results",
                    offset: 20,
                    metadata: foreign.to_owned(),
                }),
            );
        }
        check(
            [offset(10, &ours), offset(20, &ours), None],
            Err(CommittedError::Missing { lane: 3, topic: "lane-inbox" }),
        );
        check(
            [None, offset(20, &ours), offset(1, &ours)],
            Err(CommittedError::Missing { lane: 3, topic: "tasks" }),
        );
        check(
            [offset(10, &ours), offset(20, &other), offset(0, &ours)],
            Err(CommittedError::Different { lane: 3, topic: "task-results", seq: 8, tasks_seq: 7 }),
        );
    }
}
