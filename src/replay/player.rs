//! One lane's journal, played again: a batch is either folded (its facts alone) or run again (with
//! the records of its inputs).

use std::collections::{BTreeMap, VecDeque};

use super::Record;
use super::journal::{Batch, Earliest, PlayError};
use super::source::{Cursor, Go, Peeked, Source};
use crate::codec::headers::{CONNECT_ERRORS_OFFSET, CONNECT_ERRORS_PREFIX};
use crate::lane::prepared::Prepared;
use crate::lane::rerun::skipped_controls;
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
