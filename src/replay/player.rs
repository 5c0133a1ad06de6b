//! One lane's journal, played again: a batch is either folded (its facts alone) or run again (with
//! the records of its inputs).

use std::cell::OnceCell;
use std::collections::{BTreeMap, VecDeque};

use super::Record;
use super::source::{Cursor, Go, Peeked, Source};
use super::start::Earliest;
use crate::codec::headers::{CONNECT_ERRORS_OFFSET, CONNECT_ERRORS_PREFIX};
use crate::lane::journal::{FoldError, facts_of};
use crate::lane::prepared::Prepared;
use crate::lane::rerun::{is_choice, skipped_controls};
use crate::lane::{Lane, LaneSettings};
use crate::model::Topic;
use crate::model::journal::JournalRecord;
use crate::model::task::Task;
use crate::model::time::Timestamp;
use crate::routing::TaskKey;
use crate::routing::fact::{ENGINE_VERSION, Fact};

/// Tasks that passed and may be asked for again, bytes: more than a lane's backlog usually has.
/// What is not among them is read from the source, which is slower and no more.
const WINDOW_BYTES_MAX: usize = 256 << 20;

/// A journal record as it is read.
#[derive(Debug)]
pub struct Batch {
    pub value: Vec<u8>,
    pub record: JournalRecord,
    /// Where it stands.
    pub offset: i64,
    facts: OnceCell<Vec<Fact>>,
    choices: OnceCell<Choices>,
}

/// What is read off the facts of a batch that is run again.
#[derive(Debug)]
pub struct Choices {
    /// What the world chose at the time.
    pub facts: Vec<Fact>,
    pub decisions: u64,
}

impl Batch {
    /// Of a record of the journal.
    ///
    /// # Errors
    /// It cannot be decoded.
    pub fn read(settings: &LaneSettings, lane: u32, entry: Record) -> Result<Self, PlayError> {
        let offset = entry.offset;
        let value = entry.value.unwrap_or_default();
        let decoded = settings.codec.decode_journal(&value);
        let record = decoded.map_err(|source| PlayError::Journal { lane, offset, source })?;
        let (facts, choices) = (OnceCell::new(), OnceCell::new());
        Ok(Batch { value, record, offset, facts, choices })
    }

    /// Its facts, which are decoded when they are first asked for: to be folded they need not be.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn facts(&self) -> Result<&[Fact], PlayError> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let decoded = Lane::facts_of(&self.record)?;
        Ok(self.facts.get_or_init(|| decoded))
    }

    /// As [`Batch::facts`], but for the few that are not decided again: decoded one by one, most are
    /// forgotten at once, which costs half as much as to keep them all.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn choices(&self) -> Result<&Choices, PlayError> {
        if let Some(choices) = self.choices.get() {
            return Ok(choices);
        }
        let mut choices = Choices { facts: Vec::new(), decisions: 0 };
        for fact in facts_of(&self.record)? {
            let fact = fact?;
            choices.decisions += u64::from(is_decision(&fact));
            if is_choice(&fact) {
                choices.facts.push(fact);
            }
        }
        Ok(self.choices.get_or_init(|| choices))
    }
}

/// Whether a fact is a decision about a task.
pub fn is_decision(fact: &Fact) -> bool {
    match fact {
        Fact::Routed { .. } | Fact::Refused { .. } => true,
        Fact::BatchOpened { .. }
        | Fact::PolicySet(_)
        | Fact::FleetSet { .. }
        | Fact::HealthSet { .. }
        | Fact::ControlSkipped { .. }
        | Fact::Queued { .. }
        | Fact::Duplicate { .. }
        | Fact::AttemptEnded { .. }
        | Fact::LeaseExtended { .. }
        | Fact::AttemptSlow { .. }
        | Fact::BreakerTold { .. }
        | Fact::FailoverEnded { .. }
        | Fact::LoadPublished { .. }
        | Fact::RightsGiven { .. }
        | Fact::RightsTaken { .. }
        | Fact::RightsPledged { .. }
        | Fact::RoomKept { .. }
        | Fact::LanesCounted { .. }
        | Fact::StrategyChanged { .. }
        | Fact::HeadroomTold { .. }
        | Fact::DeadLettered { .. } => false,
    }
}

/// Why a batch was folded and not run again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Folded {
    /// It is older than what was asked for.
    Earlier,
    /// Another engine decided it.
    Engine(u32),
    /// A record that it read is not there any more.
    Deleted { topic: Topic, offset: i64 },
}

#[derive(Debug)]
pub enum Played {
    Folded(Folded),
    /// `None`: nothing happened, where something was journaled.
    Ran(Option<Box<Prepared>>),
}

/// Why a lane cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    #[error("{}", begun(*lane, *seq, *earliest))]
    Begun { lane: u32, seq: u64, earliest: Earliest },
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error("the journal of lane {lane} has a record that cannot be decoded, at offset {offset}")]
    Journal { lane: u32, offset: i64, source: crate::codec::DecodeError },
}

fn begun(lane: u32, seq: u64, earliest: Earliest) -> String {
    let deleted =
        format!("the journal of lane {lane} begins at seq {seq}: what was before is deleted");
    match earliest {
        Earliest::Snapshot(point) => format!(
            "{deleted}; earliest replayable: what follows seq {}, of {}",
            point.seq, point.batch_time_ms
        ),
        Earliest::FirstBatch | Earliest::Nowhere { .. } => {
            format!("{deleted}, and no published snapshot of this lane serves in its place")
        }
    }
}

/// Reads a lane's journal.
pub struct Journal {
    cursor: Peeked,
    next: Option<Batch>,
    lane: u32,
    settings: LaneSettings,
}

impl Journal {
    /// From its beginning.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn open(
        source: &mut dyn Source,
        lane: u32,
        settings: &LaneSettings,
    ) -> anyhow::Result<Self> {
        let first = source.bounds(Topic::Journal, i32::try_from(lane)?)?.start;
        Self::open_at(source, lane, settings, first)
    }

    /// From this offset on.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn open_at(
        source: &mut dyn Source,
        lane: u32,
        settings: &LaneSettings,
        offset: i64,
    ) -> anyhow::Result<Self> {
        let cursor = source.open(Topic::Journal, i32::try_from(lane)?, offset)?;
        let cursor = Peeked::new(cursor);
        Ok(Journal { cursor, next: None, lane, settings: settings.clone() })
    }

    /// The next batch of the lane.
    ///
    /// # Errors
    /// The source cannot be read, or what it holds cannot be decoded.
    pub fn next_batch(&mut self) -> anyhow::Result<Option<Batch>> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let Some(entry) = self.cursor.take()? else { return Ok(None) };
        Ok(Some(Batch::read(&self.settings, self.lane, entry)?))
    }

    /// The next batch, which stays the next one.
    ///
    /// # Errors
    /// As [`Journal::next_batch`].
    pub fn peek(&mut self) -> anyhow::Result<Option<&Batch>> {
        if self.next.is_none() {
            self.next = self.next_batch()?;
        }
        Ok(self.next.as_ref())
    }

    /// Reads past the batches up to this one; returns that one's hash where it was there.
    ///
    /// # Errors
    /// As [`Journal::next_batch`].
    pub fn skip_through(&mut self, seq: u64) -> anyhow::Result<Option<String>> {
        let mut hash = None;
        while let Some(next) = self.peek()? {
            if next.record.seq > seq {
                break;
            }
            if let Some(batch) = self.next.take()
                && batch.record.seq == seq
            {
                hash = Some(batch.record.hash);
            }
        }
        Ok(hash)
    }
}

/// The records that a lane took, in order.
struct Inputs {
    cursors: [Box<dyn Cursor>; 3],
    window: Window,
    /// Results of the batch that was run last, misdirected ones included.
    results: Vec<(Topic, Record)>,
}

/// Control records that a batch could not use, by topic and offset.
type Skipped = BTreeMap<(Topic, i64), Record>;

/// Tasks that were read, by offset.
#[derive(Default)]
struct Window {
    records: VecDeque<Record>,
    bytes: usize,
}

impl Window {
    fn push(&mut self, record: Record) {
        self.bytes += record.bytes();
        self.records.push_back(record);
        while self.bytes > WINDOW_BYTES_MAX
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= oldest.bytes();
        }
    }

    fn get(&self, offset: i64) -> Option<&Record> {
        let at = self.records.binary_search_by_key(&offset, |record| record.offset).ok()?;
        self.records.get(at)
    }
}

pub struct Player {
    number: u32,
    settings: LaneSettings,
    lane: Option<Lane>,
    inputs: Option<Inputs>,
    /// Whether [`Player::results`] is asked for: nothing else needs them a second time.
    pub keeps_results: bool,
}

impl Player {
    pub fn new(number: u32, settings: &LaneSettings) -> Self {
        let settings = settings.clone();
        Player { number, settings, lane: None, inputs: None, keeps_results: false }
    }

    /// Goes on with a lane as it was left.
    pub fn resumed(lane: Lane, settings: &LaneSettings) -> Self {
        let number = lane.number();
        Player { lane: Some(lane), ..Player::new(number, settings) }
    }

    /// The lane, once it has played a batch.
    pub fn lane(&self) -> Option<&Lane> {
        self.lane.as_ref()
    }

    fn partition(&self) -> i32 {
        self.number as i32
    }

    /// Plays the next batch of the journal; `runs` says whether it is to be run again where that is
    /// possible.
    ///
    /// # Errors
    /// The source cannot be read, or the batch does not follow the one before.
    pub fn play(
        &mut self,
        source: &mut dyn Source,
        batch: &Batch,
        runs: bool,
    ) -> anyhow::Result<Played> {
        let record = &batch.record;
        if self.lane.is_none() {
            if record.seq != 1 {
                let (lane, seq) = (self.number, record.seq);
                return Err(
                    PlayError::Begun { lane, seq, earliest: Earliest::Nowhere { seq } }.into()
                );
            }
            let settings = self.settings.clone();
            self.lane = Some(Lane::genesis(self.number, record.lanes, record.epoch, settings));
        }
        let prepared = match self.readiness(source, batch, runs)? {
            Ok(skipped) => self.run(source, record, &batch.choices()?.facts, &skipped)?,
            Err(folded) => {
                self.pass_over(record)?;
                if let Some(lane) = &mut self.lane {
                    lane.fold_record(record).map_err(PlayError::Fold)?;
                }
                return Ok(Played::Folded(folded));
            }
        };
        Ok(Played::Ran(prepared.map(Box::new)))
    }

    /// Whether a batch can be run again; then the control records that it could not use.
    fn readiness(
        &mut self,
        source: &mut dyn Source,
        batch: &Batch,
        runs: bool,
    ) -> anyhow::Result<Result<Skipped, Folded>> {
        if !runs {
            return Ok(Err(Folded::Earlier));
        }
        let record = &batch.record;
        if record.engine_version != ENGINE_VERSION {
            return Ok(Err(Folded::Engine(record.engine_version)));
        }
        if self.inputs.is_none() {
            let mut cursors = Vec::new();
            for (topic, from) in Topic::LANE_INPUTS.into_iter().zip(self.starts(record)) {
                let first = source.bounds(topic, self.partition())?.start;
                if from < first && self.range(record, topic).is_some_and(|(from, to)| from < to) {
                    return Ok(Err(Folded::Deleted { topic, offset: from }));
                }
                cursors.push(source.open(topic, self.partition(), from)?);
            }
            if let Ok(cursors) = <[Box<dyn Cursor>; 3]>::try_from(cursors) {
                self.inputs =
                    Some(Inputs { cursors, window: Window::default(), results: Vec::new() });
            }
        }
        let mut skipped = BTreeMap::new();
        for (topic, offset) in skipped_controls(self.number, &batch.choices()?.facts) {
            match find_control(source, topic, offset)? {
                Some(found) => skipped.insert((topic, offset), found),
                None => return Ok(Err(Folded::Deleted { topic, offset })),
            };
        }
        Ok(Ok(skipped))
    }

    /// Where the batch begins in each of the lane's inputs.
    fn starts(&self, record: &JournalRecord) -> [i64; 3] {
        Topic::LANE_INPUTS.map(|topic| self.range(record, topic).map_or(0, |(from, _)| from))
    }

    fn range(&self, record: &JournalRecord, topic: Topic) -> Option<(i64, i64)> {
        let name = self.settings.topic_names.get(&topic).map_or(topic.default_name(), |name| name);
        let range = record.offsets.iter().find(|range| range.topic == name)?;
        Some((range.from, range.to))
    }

    /// The inputs of a batch that is folded are read past.
    fn pass_over(&mut self, record: &JournalRecord) -> anyhow::Result<()> {
        let ends = Topic::LANE_INPUTS.map(|topic| self.range(record, topic));
        let Some(inputs) = &mut self.inputs else { return Ok(()) };
        for ((cursor, end), topic) in inputs.cursors.iter_mut().zip(ends).zip(Topic::LANE_INPUTS) {
            let Some((_, to)) = end else { continue };
            cursor.lend(&mut |raw| {
                if raw.offset >= to {
                    return Ok(Go::Back);
                }
                if topic == Topic::Tasks {
                    inputs.window.push(Record::of(raw));
                }
                Ok(Go::On)
            })?;
        }
        Ok(())
    }

    fn run(
        &mut self,
        source: &mut dyn Source,
        record: &JournalRecord,
        choices: &[Fact],
        skipped: &Skipped,
    ) -> anyhow::Result<Option<Prepared>> {
        let partition = self.partition();
        let ranges = Topic::LANE_INPUTS.map(|topic| self.range(record, topic));
        let (Some(lane), Some(inputs)) = (&mut self.lane, &mut self.inputs) else {
            return Ok(None);
        };
        let rereads = lane.begin_rerun(record, choices, skipped);
        for offset in rereads {
            match inputs.window.get(offset) {
                Some(found) => {
                    found.with_raw(Topic::Tasks, |raw| lane.offer_reread(offset, Some(raw)));
                }
                None => match source.at(Topic::Tasks, partition, offset)? {
                    Some(found) => {
                        found.with_raw(Topic::Tasks, |raw| lane.offer_reread(offset, Some(raw)));
                    }
                    None => lane.offer_reread(offset, None),
                },
            }
        }
        inputs.results.clear();
        for ((cursor, range), topic) in
            inputs.cursors.iter_mut().zip(ranges).zip(Topic::LANE_INPUTS)
        {
            let Some((from, to)) = range else { continue };
            cursor.lend(&mut |raw| {
                if raw.offset >= to {
                    return Ok(Go::Back);
                }
                // What lies between two epochs was given up.
                if raw.offset < from {
                    return Ok(Go::On);
                }
                lane.offer(raw);
                if topic == Topic::Tasks {
                    inputs.window.push(Record::of(raw));
                } else if self.keeps_results {
                    inputs.results.push((topic, Record::of(raw)));
                }
                Ok(Go::On)
            })?;
        }
        Ok(lane.rerun(record))
    }

    /// The results that the last batch took, by the topics that they came through; none where it
    /// was folded.
    pub fn results(&self) -> &[(Topic, Record)] {
        self.inputs.as_ref().map_or(&[], |inputs| &inputs.results)
    }

    /// Stops reading the inputs; the next batch that is run again opens them where it begins.
    pub fn close_inputs(&mut self) {
        self.inputs = None;
    }

    /// The record of a task that a batch decided, or an earlier one that it read again.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn task_at(&self, source: &mut dyn Source, offset: i64) -> anyhow::Result<Option<Record>> {
        if let Some(found) = self.inputs.as_ref().and_then(|inputs| inputs.window.get(offset)) {
            return Ok(Some(found.clone()));
        }
        source.at(Topic::Tasks, self.partition(), offset)
    }

    /// The records of `tasks` that a batch took, as far as they are still held.
    pub fn task_records(&self, record: &JournalRecord) -> impl Iterator<Item = &Record> {
        let (from, to) = self.range(record, Topic::Tasks).unwrap_or_default();
        let window = self.inputs.as_ref().map(|inputs| &inputs.window);
        (from..to).filter_map(move |offset| window?.get(offset))
    }

    /// The tasks that a batch took, with the times of their records. The batch has been played.
    ///
    /// # Errors
    /// The source cannot be read.
    pub fn tasks_of(
        &self,
        source: &mut dyn Source,
        record: &JournalRecord,
    ) -> anyhow::Result<Vec<TaskRecord>> {
        let Some((from, to)) = self.range(record, Topic::Tasks) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for offset in from..to {
            let kept = self.inputs.as_ref().and_then(|inputs| inputs.window.get(offset).cloned());
            let kept = match (kept, &self.inputs) {
                (Some(kept), _) => Some(kept),
                (None, Some(_)) => None,
                (None, None) => source.at(Topic::Tasks, self.partition(), offset)?,
            };
            let Some(kept) = kept else { continue };
            let task = kept.with_raw(Topic::Tasks, |raw| self.settings.codec.decode_task(raw));
            if let Ok(task) = task {
                let at = Timestamp::from_ms(kept.timestamp_ms.max(0));
                found.push(TaskRecord { key: TaskKey::of(&task.task_id), task, at, record: kept });
            }
        }
        Ok(found)
    }
}

/// A task with its record.
pub struct TaskRecord {
    pub key: TaskKey,
    pub task: Task,
    /// The time of its record.
    pub at: Timestamp,
    pub record: Record,
}

/// A control record that could not be used: from its topic or, where compaction has taken it, from
/// the dead letters.
fn find_control(
    source: &mut dyn Source,
    topic: Topic,
    offset: i64,
) -> anyhow::Result<Option<Record>> {
    if let Some(found) = source.at(topic, 0, offset)? {
        return Ok(Some(found));
    }
    let Some(dlq) = topic.dlq() else { return Ok(None) };
    let first = source.bounds(dlq, 0)?.start;
    let mut letters = Peeked::new(source.open(dlq, 0, first)?);
    while let Some(mut letter) = letters.take()? {
        let is_it = letter.headers.iter().any(|(name, value)| {
            name == CONNECT_ERRORS_OFFSET && value.as_deref() == Some(offset.to_string().as_bytes())
        });
        if is_it {
            letter.headers.retain(|(name, _)| !name.starts_with(CONNECT_ERRORS_PREFIX));
            letter.offset = offset;
            return Ok(Some(letter));
        }
    }
    Ok(None)
}
