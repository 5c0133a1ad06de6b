//! A file of recorded topics: blocks of records, each of one partition and compressed by itself,
//! and an index at the end, so that every partition can be read from any offset without the others.
//!
//! `PMREC001`, the blocks, the index, its length (8 bytes, big endian), `PMREC001` again. A file
//! that was cut has no index and is refused; a newer version has another mark.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::Record;
use super::source::{Cursor, Go, Source};
use crate::codec::{Header, OutputFormat, RawRecord};
use crate::model::Topic;
use crate::model::time::Timestamp;

const MARK: &[u8; 8] = b"PMREC001";

/// A block is closed at this size: large enough to compress well, small enough to be held.
const BLOCK_BYTES: usize = 1 << 20;
/// What a block may claim to hold: one record may be larger than a block, and Kafka's own bound of
/// a record is far below this.
const BLOCK_BYTES_MAX: usize = 64 << 20;
/// What an index may claim: a million blocks.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// What a replay needs to know of the router beside its topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Partitions of `tasks`.
    pub lanes: u32,
    /// When it was recorded, milliseconds since the epoch.
    pub recorded_at_ms: i64,
    pub group: String,
    pub output: OutputFormat,
    pub decisions_by_pool: bool,
    /// The names of the topics where they were recorded, by their default names.
    pub topic_names: BTreeMap<String, String>,
    /// The ids of our schemas in the registry, by the topics' default names.
    pub schema_ids: BTreeMap<String, u32>,
    /// The schemas of other writers, by their ids in the registry.
    pub writer_schemas: BTreeMap<u32, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Index {
    about: About,
    parts: Vec<Part>,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    topic: String,
    partition: i32,
    start: i64,
    end: i64,
    blocks: Vec<Block>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    at: u64,
    bytes: u32,
    raw_bytes: u32,
    hash: u64,
    first_offset: i64,
    /// The latest time of a record in it.
    time_ms_max: i64,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    #[error("it is no recording, or one of a newer release: it does not begin with PMREC001")]
    NotOne,
    #[error("it is cut short: the recording was not finished")]
    Cut,
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it cannot be read")]
    Io(#[from] std::io::Error),
}

/// Writes a recording.
pub struct Writer<W: Write> {
    out: W,
    at: u64,
    parts: BTreeMap<(Topic, i32), Open>,
}

struct Open {
    part: Part,
    raw: Vec<u8>,
    first_offset: i64,
    /// The one after the last record.
    end: i64,
    time_ms_max: i64,
}

impl<W: Write> Writer<W> {
    /// # Errors
    /// It cannot be written.
    pub fn new(mut out: W) -> std::io::Result<Self> {
        out.write_all(MARK)?;
        Ok(Writer { out, at: MARK.len() as u64, parts: BTreeMap::new() })
    }

    /// Names a partition and the offsets that were there, even where it holds nothing; what is added
    /// behind them moves the end on.
    pub fn part(&mut self, topic: Topic, partition: i32, bounds: &Range<i64>) {
        let part = Part {
            topic: topic.default_name().to_owned(),
            partition,
            start: bounds.start,
            end: bounds.end,
            blocks: Vec::new(),
        };
        let (end, time_ms_max) = (bounds.end, i64::MIN);
        let open = Open { part, raw: Vec::new(), first_offset: 0, end, time_ms_max };
        self.parts.insert((topic, partition), open);
    }

    /// Adds a record of a partition that was named; a partition's records in order.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn record(&mut self, topic: Topic, record: &Record) -> std::io::Result<()> {
        let Some(open) = self.parts.get_mut(&(topic, record.partition)) else { return Ok(()) };
        if open.raw.is_empty() {
            open.first_offset = record.offset;
            open.time_ms_max = i64::MIN;
        }
        open.end = open.end.max(record.offset + 1);
        open.time_ms_max = open.time_ms_max.max(record.timestamp_ms);
        write_record(record, &mut open.raw);
        if open.raw.len() >= BLOCK_BYTES {
            close(&mut self.out, &mut self.at, open)?;
        }
        Ok(())
    }

    /// Writes what is left and the index.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self, about: About) -> std::io::Result<W> {
        for open in self.parts.values_mut() {
            close(&mut self.out, &mut self.at, open)?;
        }
        let parts = self.parts.into_values().map(|open| Part { end: open.end, ..open.part });
        let parts = parts.collect();
        let index = postcard::to_stdvec(&Index { about, parts }).map_err(std::io::Error::other)?;
        self.out.write_all(&index)?;
        self.out.write_all(&(index.len() as u64).to_be_bytes())?;
        self.out.write_all(MARK)?;
        self.out.flush()?;
        Ok(self.out)
    }
}

fn close<W: Write>(out: &mut W, at: &mut u64, open: &mut Open) -> std::io::Result<()> {
    if open.raw.is_empty() {
        return Ok(());
    }
    // Level 3 is zstd's own default: five times smaller, at hundreds of megabytes a second.
    let packed = zstd::bulk::compress(&open.raw, 3)?;
    let length = |bytes: usize| u32::try_from(bytes).map_err(std::io::Error::other);
    open.part.blocks.push(Block {
        at: *at,
        bytes: length(packed.len())?,
        raw_bytes: length(open.raw.len())?,
        hash: xxh3_64(&packed),
        first_offset: open.first_offset,
        time_ms_max: open.time_ms_max,
    });
    out.write_all(&packed)?;
    *at += packed.len() as u64;
    open.raw.clear();
    Ok(())
}

fn write_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        None => out.extend_from_slice(&u32::MAX.to_be_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

fn write_record(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(&record.offset.to_be_bytes());
    out.extend_from_slice(&record.timestamp_ms.to_be_bytes());
    write_bytes(record.key.as_deref(), out);
    write_bytes(record.value.as_deref(), out);
    out.extend_from_slice(&(record.headers.len() as u32).to_be_bytes());
    for (name, value) in &record.headers {
        write_bytes(Some(name.as_bytes()), out);
        write_bytes(value.as_deref(), out);
    }
}

/// Reads what `write_record` wrote; `None` where it ends too early.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        let length = u32::from_be_bytes(self.take()?);
        if length == u32::MAX {
            return Some(None);
        }
        let (head, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(Some(head))
    }

    /// A record of this topic, with its headers where there is room for them: its bytes are lent.
    fn record<'b>(
        &mut self,
        topic: Topic,
        partition: i32,
        headers: &'b mut Vec<Header<'a>>,
    ) -> Option<RawRecord<'b>>
    where
        'a: 'b,
    {
        let offset = i64::from_be_bytes(self.take()?);
        let timestamp_ms = i64::from_be_bytes(self.take()?);
        let key = self.bytes()?;
        let value = self.bytes()?;
        let count = u32::from_be_bytes(self.take()?);
        for _ in 0..count {
            let name = std::str::from_utf8(self.bytes()??).ok()?;
            headers.push(Header { name, value: self.bytes()? });
        }
        Some(RawRecord { topic, partition, offset, timestamp_ms, key, value, headers })
    }
}

/// A recording that is read.
pub struct Recording<R> {
    file: Arc<Mutex<R>>,
    about: About,
    parts: BTreeMap<(Topic, i32), Arc<Part>>,
}

impl<R: Read + Seek> Recording<R> {
    /// # Errors
    /// The file is none, or damaged.
    pub fn open(mut file: R) -> Result<Self, RecordingError> {
        let mut mark = [0; 8];
        file.read_exact(&mut mark).map_err(|_| RecordingError::NotOne)?;
        if mark != *MARK {
            return Err(RecordingError::NotOne);
        }
        let size = file.seek(SeekFrom::End(0))?;
        let tail = size.checked_sub(24).ok_or(RecordingError::Cut)?;
        let mut ending = [0; 16];
        file.seek(SeekFrom::Start(tail + 8))?;
        file.read_exact(&mut ending)?;
        let (length, mark) = ending.split_at(8);
        if mark != MARK {
            return Err(RecordingError::Cut);
        }
        let length = u64::from_be_bytes(length.try_into().unwrap_or_default());
        let begin = (tail + 8).checked_sub(length);
        let begin = begin.filter(|begin| *begin >= 8 && length <= INDEX_BYTES_MAX);
        let damaged = |what: &str| RecordingError::Damaged(what.to_owned());
        let begin = begin.ok_or_else(|| damaged("the length of its index"))?;
        file.seek(SeekFrom::Start(begin))?;
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| damaged("its index"))?];
        file.read_exact(&mut bytes)?;
        let index: Index = postcard::from_bytes(&bytes).map_err(|_| damaged("its index"))?;
        let mut parts = BTreeMap::new();
        for part in index.parts {
            let topic = Topic::ALL.into_iter().find(|topic| topic.default_name() == part.topic);
            let topic = topic.ok_or_else(|| damaged("the name of a topic"))?;
            parts.insert((topic, part.partition), Arc::new(part));
        }
        Ok(Recording { file: Arc::new(Mutex::new(file)), about: index.about, parts })
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    /// Each partition with its offsets.
    pub fn parts(&self) -> impl Iterator<Item = (Topic, i32, Range<i64>)> + '_ {
        self.parts
            .iter()
            .map(|((topic, partition), part)| (*topic, *partition, part.start..part.end))
    }
}

impl<R: Read + Seek> Recording<R> {
    fn cursor(&self, topic: Topic, part: &Arc<Part>, from: i64) -> BlockCursor<R> {
        let after = part.blocks.partition_point(|block| block.first_offset <= from);
        BlockCursor {
            topic,
            file: Arc::clone(&self.file),
            part: Arc::clone(part),
            block: after.saturating_sub(1),
            from,
            packed: Vec::new(),
            raw: Vec::new(),
            read: 0,
        }
    }
}

struct BlockCursor<R> {
    topic: Topic,
    file: Arc<Mutex<R>>,
    part: Arc<Part>,
    /// The block that is read next.
    block: usize,
    from: i64,
    /// Kept from block to block, as the next.
    packed: Vec<u8>,
    raw: Vec<u8>,
    /// Bytes of `raw` that are read.
    read: usize,
}

impl<R: Read + Seek> BlockCursor<R> {
    /// Whether there is another block.
    fn load(&mut self) -> Result<bool, RecordingError> {
        let Some(block) = self.part.blocks.get(self.block) else { return Ok(false) };
        self.block += 1;
        let damaged = |what: &str| {
            let Part { topic, partition, .. } = &*self.part;
            RecordingError::Damaged(format!("{what} of {topic}/{partition}"))
        };
        let (bytes, raw_bytes) = (block.bytes as usize, block.raw_bytes as usize);
        if bytes > BLOCK_BYTES_MAX || raw_bytes > BLOCK_BYTES_MAX {
            return Err(damaged("the size of a block"));
        }
        self.packed.resize(bytes, 0);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(block.at))?;
        file.read_exact(&mut self.packed)?;
        // Other threads may read while this one decompresses.
        drop(file);
        if xxh3_64(&self.packed) != block.hash {
            return Err(damaged("a block"));
        }
        self.raw.resize(raw_bytes, 0);
        let read = zstd::bulk::decompress_to_buffer(&self.packed, &mut self.raw);
        if !read.is_ok_and(|read| read == raw_bytes) {
            // Nothing is read of one that is damaged.
            self.raw.clear();
            self.read = 0;
            return Err(damaged("a compressed block"));
        }
        self.read = 0;
        Ok(true)
    }
}

impl<R: Read + Seek> Cursor for BlockCursor<R> {
    fn next(&mut self) -> anyhow::Result<Option<Record>> {
        let mut next = None;
        self.lend(&mut |raw| {
            next = Some(Record::of(raw));
            Ok(Go::Enough)
        })?;
        Ok(next)
    }

    fn lend(
        &mut self,
        each: &mut dyn FnMut(&RawRecord<'_>) -> anyhow::Result<Go>,
    ) -> anyhow::Result<bool> {
        loop {
            if self.read == self.raw.len() && !self.load()? {
                return Ok(false);
            }
            let mut bytes = Bytes(&self.raw[self.read..]);
            // Most records have no headers, or those of an event.
            let mut headers = Vec::with_capacity(6);
            let record = bytes.record(self.topic, self.part.partition, &mut headers);
            let left = bytes.0.len();
            let record = record.ok_or_else(|| RecordingError::Damaged("a record".to_owned()))?;
            let go = if record.offset < self.from { Go::On } else { each(&record)? };
            if go == Go::Back {
                return Ok(true);
            }
            self.read = self.raw.len() - left;
            if go == Go::Enough {
                return Ok(true);
            }
        }
    }
}

/// A partition that is not in the file.
struct Nothing;

impl Cursor for Nothing {
    fn next(&mut self) -> anyhow::Result<Option<Record>> {
        Ok(None)
    }

    fn lend(
        &mut self,
        _: &mut dyn FnMut(&RawRecord<'_>) -> anyhow::Result<Go>,
    ) -> anyhow::Result<bool> {
        Ok(false)
    }
}

impl<R: Read + Seek + Send + 'static> Source for Recording<R> {
    fn lanes(&self) -> u32 {
        self.about.lanes
    }

    fn bounds(&mut self, topic: Topic, partition: i32) -> anyhow::Result<Range<i64>> {
        let part = self.parts.get(&(topic, partition));
        Ok(part.map_or(0..0, |part| part.start..part.end))
    }

    fn open(&mut self, topic: Topic, partition: i32, from: i64) -> anyhow::Result<Box<dyn Cursor>> {
        Ok(match self.parts.get(&(topic, partition)) {
            Some(part) => Box::new(self.cursor(topic, part, from)),
            None => Box::new(Nothing),
        })
    }

    fn next_from(
        &mut self,
        topic: Topic,
        partition: i32,
        offset: i64,
    ) -> anyhow::Result<Option<Record>> {
        match self.parts.get(&(topic, partition)) {
            Some(part) => self.cursor(topic, part, offset).next(),
            None => Ok(None),
        }
    }

    fn offset_at(&mut self, topic: Topic, partition: i32, at: Timestamp) -> anyhow::Result<i64> {
        let Some(part) = self.parts.get(&(topic, partition)) else { return Ok(0) };
        let block = part.blocks.iter().find(|block| block.time_ms_max >= at.as_ms());
        let Some(block) = block else { return Ok(part.end) };
        let mut cursor = self.cursor(topic, part, block.first_offset);
        let mut found = part.end;
        cursor.lend(&mut |record| {
            if record.timestamp_ms < at.as_ms() {
                return Ok(Go::On);
            }
            found = record.offset;
            Ok(Go::Enough)
        })?;
        Ok(found)
    }

    fn duplicate(&self) -> anyhow::Result<Box<dyn Source + Send>> {
        let Recording { file, about, parts } = self;
        let file = Arc::clone(file);
        Ok(Box::new(Recording { file, about: about.clone(), parts: parts.clone() }))
    }
}
