//! What the group has committed for a lane: its three offsets, each with the same metadata, which
//! names the last batch of the lane. It is the verdict on every transaction whose end was not seen.

use crate::lane::prepared::Prepared;
use crate::model::Topic;
use crate::model::rights::LANES_MAX;
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
    /// Lanes that there were at first; `None` where an earlier release wrote it.
    pub dealt: Option<u32>,
}

impl CommitPoint {
    /// What the group will hold once this batch is committed.
    pub fn of(batch: &Prepared) -> Self {
        let offset = |topic| {
            batch.offsets.iter().find(|(of, _)| *of == topic).map_or(0, |(_, offset)| *offset)
        };
        let ours = parse(&batch.metadata);
        CommitPoint {
            epoch: ours.as_ref().map_or(0, |ours| ours.epoch),
            seq: batch.seq,
            hash: batch.hash.clone(),
            offsets: Topic::LANE_INPUTS.map(offset),
            snapshot: ours.as_ref().map_or_else(Default::default, |ours| ours.snapshot),
            dealt: ours.and_then(|ours| ours.dealt),
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
    #[error(
        "lanes {one} and {other} have committed that there were {one_dealt} and {other_dealt} lanes at first: they are of different installations, or partitions were added while the first lanes began"
    )]
    Dealt { one: u32, one_dealt: u32, other: u32, other_dealt: u32 },
}

/// What all lanes' committed offsets say together of how many lanes there were at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dealt {
    /// No lane has committed anything: these are the first.
    Nothing,
    /// Lanes have committed, and none of them says it: an earlier release wrote that, or someone
    /// else.
    Unsaid,
    Among(u32),
}

/// Reads it off all lanes' committed offsets.
///
/// # Errors
/// Lanes disagree.
pub fn dealt(commits: &[(u32, LaneCommit)]) -> Result<Dealt, CommittedError> {
    let mut said: Option<(u32, u32)> = None;
    let committed = commits.iter().flat_map(|(lane, commit)| {
        commit.iter().flatten().map(move |committed| (*lane, committed))
    });
    let mut is_any = false;
    for (other, committed) in committed {
        is_any = true;
        let other_dealt = parse(&committed.metadata).and_then(|metadata| metadata.dealt);
        let Some(other_dealt) = other_dealt else { continue };
        let (one, one_dealt) = *said.get_or_insert((other, other_dealt));
        if one_dealt != other_dealt {
            return Err(CommittedError::Dealt { one, one_dealt, other, other_dealt });
        }
    }
    Ok(match said {
        Some((_, dealt)) => Dealt::Among(dealt),
        None if is_any => Dealt::Unsaid,
        None => Dealt::Nothing,
    })
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
        let Some(Metadata { epoch, seq, hash, snapshot, dealt }) = parse(&committed.metadata)
        else {
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
                let hash = hash.to_owned();
                found = Some(CommitPoint { epoch, seq, hash, offsets, snapshot, dealt });
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
pub fn metadata(of: &Metadata<'_>) -> String {
    let Metadata { epoch, seq, hash, snapshot, dealt } = of;
    let SnapshotPoint { seq: snapshot_seq, batch_time_ms } = snapshot;
    let dealt = dealt.map_or_else(String::new, |dealt| format!(";{dealt}"));
    format!("v1;{epoch};{seq};{hash};{snapshot_seq};{}{dealt}", batch_time_ms.as_ms())
}

/// What is committed with each offset.
pub struct Metadata<'a> {
    pub epoch: u32,
    pub seq: u64,
    pub hash: &'a str,
    pub snapshot: SnapshotPoint,
    /// Lanes that there were at first; earlier releases did not say it.
    pub dealt: Option<u32>,
}

/// `v1;epoch;seq;hash;snapshot_seq;snapshot_time;lanes`; later versions may append fields.
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
    let dealt = match fields.next() {
        Some(lanes) => Some(lanes.parse().ok().filter(|lanes| (1..=LANES_MAX).contains(lanes))?),
        None => None,
    };
    is_hash.then_some(Metadata { epoch, seq, hash, snapshot, dealt })
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
        let snapshot = SnapshotPoint { seq: 5, batch_time_ms: Timestamp::from_ms(99) };
        // The last field is missing where an earlier release wrote it.
        for (ours, dealt) in
            [(format!("v1;1;7;{HASH};5;99;4"), Some(4)), (format!("v1;1;7;{HASH};5;99"), None)]
        {
            assert_eq!(metadata(&Metadata { epoch: 1, seq: 7, hash: HASH, snapshot, dealt }), ours);
            let hash = HASH.to_owned();
            let offsets = [10, 20, 0];
            check(
                [offset(10, &ours), offset(20, &ours), offset(0, &ours)],
                Ok(Some(CommitPoint { epoch: 1, seq: 7, hash, offsets, snapshot, dealt })),
            );
        }
        check([None, None, None], Ok(None));
    }

    #[test]
    fn lanes_say_how_many_there_were_at_first() {
        let of = |dealt: &str| {
            let metadata = format!("v1;1;7;{HASH};0;0{dealt}");
            [offset(1, &metadata), offset(2, &metadata), offset(0, &metadata)]
        };
        let none = || LaneCommit::default();
        let rows = [
            (vec![], Ok(Dealt::Nothing)),
            (vec![none(), none()], Ok(Dealt::Nothing)),
            (vec![none(), of(";2"), none()], Ok(Dealt::Among(2))),
            // One that says it is enough.
            (vec![of(""), of(";2")], Ok(Dealt::Among(2))),
            (vec![none(), of("")], Ok(Dealt::Unsaid)),
            (vec![[offset(1, ""), None, None]], Ok(Dealt::Unsaid)),
            (
                vec![of(";2"), none(), of(";3")],
                Err(CommittedError::Dealt { one: 0, one_dealt: 2, other: 2, other_dealt: 3 }),
            ),
        ];
        for (commits, expected) in rows {
            let commits: Vec<(u32, LaneCommit)> = (0..).zip(commits).collect();
            assert_eq!(dealt(&commits), expected, "{commits:?}");
        }
    }

    #[test]
    fn what_someone_else_wrote_is_refused() {
        let ours = format!("v1;1;7;{HASH};0;0");
        let other = format!("v1;1;8;{HASH};0;0");
        for foreign in [
            "",
            "v2;1;7",
            "v1;1;7;short;0;0",
            "v1;x;7;0;0;0",
            &format!("v1;1;7;{HASH}"),
            &format!("v1;1;7;{HASH};0;0;0"),
            &format!("v1;1;7;{HASH};0;0;1025"),
            &format!("v1;1;7;{HASH};0;0;"),
        ] {
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
