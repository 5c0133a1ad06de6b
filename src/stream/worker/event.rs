//! What a worker is told, and what it asks for.

use std::sync::Arc;

use crate::codec::RawRecord;
use crate::config::StartFrom;
use crate::lane::FoldError;
use crate::lane::prepared::Prepared;
use crate::lane::snapshot::Frozen;
use crate::model::Topic;
use crate::model::rights::LANES_MAX;
use crate::model::snapshot::{Manifest, SnapshotPoint};
use crate::model::time::Timestamp;
use crate::stream::committed::{CommittedError, LaneCommit};

/// What the client reports.
#[derive(Debug)]
pub enum Event<'a> {
    /// Partitions of the topics of the contract; told before each `Assigned`, and in answer to
    /// [`Command::CountPartitions`].
    Partitions(Vec<(Topic, i32)>),
    /// The whole assignment. Nothing is read of it until [`Command::ReadInputs`] says from where.
    Assigned(Vec<(Topic, i32)>),
    /// The assignment is gone, all of it: rebalances are eager.
    Revoked,
    /// The answer to [`Command::FetchCommitted`], by its number.
    Committed { ask: u64, lanes: Vec<(u32, LaneCommit)> },
    /// The question could not be answered; the worker asks again later.
    CommittedUnknown { ask: u64 },
    /// The answer to [`Command::FindSnapshot`]; `None`: there is none that could be used.
    SnapshotFound { ask: u64, lane: u32, found: Option<FoundSnapshot<'a>> },
    /// The answer to [`Command::StoreSnapshot`]; the manifest where it was to be published and was.
    SnapshotStored { lane: u32, run: u64, manifest: Option<Manifest> },
    /// The answer to [`Command::FindStart`]: where each lane input begins.
    Start { lane: u32, offsets: [i64; 3] },
    /// The next record of a lane's journal, from where it was to be read.
    JournalRecord { lane: u32, value: &'a [u8] },
    /// The journal has been read to what is now its end. More may follow.
    JournalEnd { lane: u32 },
    /// A record of a lane input or a control topic.
    Record(RawRecord<'a>),
    /// An input is read to what is now its end; `offset` is the next one to read.
    End { topic: Topic, partition: i32, offset: i64 },
    /// The input no longer holds the offset that is to be read.
    Deleted { topic: Topic, partition: i32, offset: i64 },
    /// The answer to [`Command::FindResultsEnd`].
    ResultsEnd { lane: u32, end: i64 },
    /// The answer to [`Command::ReadAgain`], one for each offset; `None` where it is gone.
    Reread { lane: u32, offset: i64, record: Option<RawRecord<'a>> },
    /// The step of the transaction that was asked for last is done.
    Done,
    /// It is not.
    Failed(Failure),
    /// A pool's decision topic, missing before, exists.
    PoolAppeared(Arc<str>),
    /// Time has passed. To be told at least every 100 ms.
    Tick,
    /// The process is to end.
    Shutdown,
}

/// Bytes that a lane may be made of.
#[derive(Debug, Clone, Copy)]
pub struct FoundSnapshot<'a> {
    pub seq: u64,
    pub source: SnapshotSource,
    /// As `Lane::snapshot` gave them.
    pub bytes: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotSource {
    /// On this instance's disk.
    Local,
    /// In the `snapshots` topic.
    Published,
}

/// A snapshot that was just taken: of a batch that is committed.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    pub lane: u32,
    /// To be returned with the answer.
    pub run: u64,
    pub seq: u64,
    pub hash: String,
    pub batch_time: Timestamp,
    /// The next offset of `tasks`.
    pub tasks_offset: i64,
    pub local: bool,
    pub publish: bool,
    /// The newest published one before.
    pub published: SnapshotPoint,
    pub frozen: Frozen,
}

/// Why a lane does not begin with a snapshot; it looks for an older one, or folds its whole journal.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Unusable(#[from] crate::lane::snapshot::SnapshotError),
    #[error("it is of seq {seq}, and {committed} is committed")]
    Beyond { seq: u64, committed: u64 },
    #[error("it does not belong to this journal: a hash differs")]
    OtherChain,
    #[error("restoring it panics")]
    Panics,
}

/// Why a step of a transaction failed, by what has to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The transaction must be aborted; the producer is fine.
    #[error("transaction must be aborted: {0}")]
    Abort(String),
    /// These lanes' records could not be delivered in time.
    #[error("records of lanes {lanes:?} could not be delivered in time: {reason}")]
    Undelivered { lanes: Vec<u32>, reason: String },
    /// Outputs of these lanes are larger than their topics take: the same bytes fail for ever.
    #[error("an output of lanes {lanes:?} is larger than its topic takes: {reason}")]
    TooLarge { lanes: Vec<u32>, reason: String },
    /// This member is not, or no longer, in the group's generation.
    #[error("the group's generation has moved on: {0}")]
    Membership(String),
    /// The producer is lost, or whether the transaction was committed is not known.
    #[error("the transaction's outcome is unknown: {0}")]
    Unknown(String),
    /// Another process uses the same transactional id.
    #[error("another process uses this instance's transactional id: {0}")]
    Fenced(String),
    /// The decision topic of this pool does not exist.
    #[error("the decision topic of pool '{0}' does not exist")]
    PoolMissing(Arc<str>),
    /// An ACL forbids it.
    #[error("not allowed by the brokers' ACLs: {0}")]
    Denied(String),
}

/// What the client is to do. The steps of a transaction, from `Begin` to `Reopen`, are answered by
/// `Done` or `Failed`, and the next one is asked for only then.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    FetchCommitted {
        ask: u64,
        lanes: Vec<u32>,
    },
    /// Partitions are being added, or are missing: tell again how many there are.
    CountPartitions,
    FindStart {
        lane: u32,
        from: StartFrom,
    },
    /// Find the newest verified snapshot of the lane that is not above `seq_max`, here or in the
    /// topic; `published` is the newest one there that is known.
    FindSnapshot {
        ask: u64,
        lane: u32,
        seq_max: u64,
        published: SnapshotPoint,
    },
    /// Store it here, or publish it, or both, and answer when that is done or has failed.
    StoreSnapshot(Taken),
    /// The manifest is committed: what it drops is to be removed.
    SnapshotAnnounced(Manifest),
    /// For the log: the lane begins with this snapshot, and `target` is where it has to go.
    SnapshotUsed {
        lane: u32,
        seq: u64,
        target: u64,
        source: SnapshotSource,
    },
    /// For the log, and to delete it where it is ours to delete.
    SnapshotRefused {
        lane: u32,
        seq: u64,
        source: SnapshotSource,
        error: SnapshotError,
    },
    /// Read this lane's journal, read-committed, until `StopJournal`: from the first record of this
    /// time or later, or from the beginning.
    ReadJournal {
        lane: u32,
        from: Option<Timestamp>,
    },
    StopJournal {
        lane: u32,
    },
    /// Read these inputs from these offsets, and no others. What was read ahead is dropped.
    ReadInputs(Vec<(Topic, i32, i64)>),
    /// Read the control topics from these offsets; offsets that are gone mean the earliest there is.
    ReadControls {
        fleet: i64,
        health_events: i64,
    },
    /// For the log, as is `Resume`: the lane rests. What is read meanwhile is said by `ReadInputs`.
    Pause {
        lane: u32,
    },
    Resume {
        lane: u32,
    },
    Begin,
    Produce(Arc<Prepared>),
    Flush,
    SendOffsets(Vec<Arc<Prepared>>),
    Commit,
    Abort,
    /// Drop the producer where there is one, and open it: `init_transactions`, which fences every
    /// predecessor and ends its transaction.
    Reopen,
    /// Leave and enter the group anew; `Revoked` is understood.
    Rejoin,
    ReadAgain {
        lane: u32,
        offsets: Vec<i64>,
    },
    /// Where `task-results` of the lane ends, open transactions included.
    FindResultsEnd {
        lane: u32,
    },
    /// For the log and the metrics: the lane takes part from now on.
    LaneRuns {
        lane: u32,
    },
    /// For the log and the metrics: the lane has read the control topics, and no resource is in
    /// them. Until one is, only control records are decided.
    LaneAwaitsFleet {
        lane: u32,
    },
    /// For the log: the journal goes up to `seq` and the group's offsets name `committed`, an earlier
    /// batch. The lane goes on behind its journal, and its next batch sets the offsets right.
    OffsetsBehind {
        lane: u32,
        committed: u64,
        seq: u64,
    },
    /// For the log: offsets that somebody set are accepted, and the lane's outputs have a new epoch.
    EpochBegun {
        lane: u32,
        epoch: u32,
        offsets: [i64; 3],
    },
    /// For the log: the core panicked; `culprit` is known once it happened record by record.
    LanePanicked {
        lane: u32,
        culprit: Option<(Topic, i64)>,
    },
    /// For the log and the metrics: the lane cannot begin yet. It goes on by itself once it can, and
    /// is stopped where that takes too long.
    LaneWaits {
        lane: u32,
        error: LaneError,
    },
    /// The lane stands still until someone has resolved the cause; the others go on.
    LaneStopped {
        lane: u32,
        error: LaneError,
    },
    /// The worker is done: with nothing open, or because it cannot go on.
    Stop(Option<Failure>),
}

/// Why a lane stands still.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LaneError {
    #[error(transparent)]
    Committed(#[from] CommittedError),
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error(
        "lane {lane}: {topic} has {found} partitions and tasks has {tasks}: they must be equal, see `pointsman topics plan`"
    )]
    Partitions { lane: u32, topic: &'static str, found: i32, tasks: i32 },
    #[error("lane {lane}: tasks has {tasks} partitions; allowed: up to {LANES_MAX}")]
    TooMany { lane: u32, tasks: i32 },
    #[error(
        "lane {lane}: there are {lanes} lanes, and {topic} has {found} partitions: partitions are added, never taken away"
    )]
    Fewer { lane: u32, lanes: u32, topic: &'static str, found: i32 },
    #[error(
        "lane {lane} is new, and no other lane has committed how many lanes there were at first: an earlier release wrote their last batches, and their next ones say it"
    )]
    Unsaid { lane: u32 },
    #[error(
        "lane {lane}: the journal has records and the group no committed offsets: someone has deleted the group or changed its name"
    )]
    JournalWithoutOffsets { lane: u32 },
    #[error(
        "lane {lane}: the journal ends at seq {found}, and seq {expected} is committed: records of the journal are missing"
    )]
    JournalEnds { lane: u32, found: u64, expected: u64 },
    #[error("lane {lane}: seq {seq} of the journal has another hash than the committed one")]
    Hash { lane: u32, seq: u64 },
    #[error(
        "lane {lane}: the journal has read {topic} up to {journal}, and {committed} is committed: someone has reset the group's offsets"
    )]
    Position { lane: u32, topic: &'static str, journal: i64, committed: i64 },
    #[error("lane {lane}: offset {offset} of {topic} is deleted before it was read")]
    Deleted { lane: u32, topic: &'static str, offset: i64 },
    #[error(
        "lane {lane}: an output is larger than its topic takes (max.message.bytes), see `pointsman topics plan`"
    )]
    TooLarge { lane: u32 },
    #[error("lane {lane}: the core panics at seq {seq} without any input to blame")]
    Panics { lane: u32, seq: u64 },
}

impl LaneError {
    /// Whether it can pass by itself, once the topics have as many partitions as they should.
    pub fn is_about_partitions(&self) -> bool {
        match self {
            LaneError::Partitions { .. } | LaneError::Fewer { .. } => true,
            LaneError::Committed(_)
            | LaneError::Fold(_)
            | LaneError::TooMany { .. }
            | LaneError::Unsaid { .. }
            | LaneError::JournalWithoutOffsets { .. }
            | LaneError::JournalEnds { .. }
            | LaneError::Hash { .. }
            | LaneError::Position { .. }
            | LaneError::Deleted { .. }
            | LaneError::TooLarge { .. }
            | LaneError::Panics { .. } => false,
        }
    }
}
