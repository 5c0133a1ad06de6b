//! The newest records of `tasks`, bounded in bytes, so that a task that waited a little need not be
//! fetched again.
//!
//! Every task passes here, and few are asked for: keeping one copies its bytes to the end of a
//! chunk, without an allocation of its own, and forgetting is by chunk.

use std::collections::{BTreeMap, VecDeque};

use crate::codec::{Header, RawRecord};
use crate::model::Topic;

/// Large enough that few allocations are made, small enough that forgetting one is fine-grained.
const CHUNK_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub struct Cache {
    lanes: BTreeMap<u32, LaneCache>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct LaneCache {
    /// By offset, ascending.
    entries: VecDeque<Entry>,
    chunks: VecDeque<Vec<u8>>,
    /// The number of the first of `chunks`.
    first_chunk: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: i64,
    timestamp_ms: i64,
    chunk: u64,
    start: usize,
    headers: u32,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Cache { lanes: BTreeMap::new(), bytes: 0, bytes_max }
    }

    pub fn keep(&mut self, lane: u32, record: &RawRecord<'_>) {
        let size = encoded_len(record);
        if size > self.bytes_max {
            return;
        }
        let cache = self.lanes.entry(lane).or_default();
        if cache.entries.back().is_some_and(|last| last.offset >= record.offset) {
            // The lane begins anew: the order would be lost.
            self.bytes -= cache.clear();
        }
        let fits = cache.chunks.back().is_some_and(|chunk| chunk.len() + size <= chunk.capacity());
        if !fits {
            let chunk = Vec::with_capacity(size.max(CHUNK_BYTES.min(self.bytes_max)));
            self.bytes += chunk.capacity();
            cache.chunks.push_back(chunk);
        }
        let chunk_number = cache.first_chunk + cache.chunks.len() as u64 - 1;
        if let Some(chunk) = cache.chunks.back_mut() {
            let entry = Entry {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                chunk: chunk_number,
                start: chunk.len(),
                headers: u32::try_from(record.headers.len()).unwrap_or(0),
            };
            encode(record, chunk);
            cache.entries.push_back(entry);
        }
        while self.bytes > self.bytes_max && self.forget_chunk() {}
    }

    /// Lends a record, where it is still here.
    pub fn with<T>(
        &self,
        lane: u32,
        offset: i64,
        take: impl FnOnce(&RawRecord<'_>) -> T,
    ) -> Option<T> {
        let cache = self.lanes.get(&lane)?;
        let index = cache.entries.binary_search_by_key(&offset, |entry| entry.offset).ok()?;
        let entry = cache.entries.get(index)?;
        let chunk = usize::try_from(entry.chunk - cache.first_chunk).ok()?;
        let mut bytes = cache.chunks.get(chunk)?.get(entry.start..)?;
        let key = decode_bytes(&mut bytes)?;
        let value = decode_bytes(&mut bytes)?;
        let mut headers = Vec::with_capacity(entry.headers as usize);
        for _ in 0..entry.headers {
            let name = std::str::from_utf8(decode_bytes(&mut bytes)??).ok()?;
            headers.push(Header { name, value: decode_bytes(&mut bytes)? });
        }
        Some(take(&RawRecord {
            topic: Topic::Tasks,
            partition: i32::try_from(lane).ok()?,
            offset,
            timestamp_ms: entry.timestamp_ms,
            key,
            value,
            headers: &headers,
        }))
    }

    /// The lanes that are left have all the room.
    pub fn retain(&mut self, lanes: &[u32]) {
        let bytes = &mut self.bytes;
        self.lanes.retain(|lane, cache| {
            let keep = lanes.contains(lane);
            if !keep {
                *bytes -= cache.clear();
            }
            keep
        });
    }

    /// Forgets the oldest chunk of the lane that has most; `false` where there is none to spare.
    fn forget_chunk(&mut self) -> bool {
        let largest = self.lanes.values_mut().max_by_key(|cache| cache.chunks.len());
        let Some(cache) = largest else { return false };
        // The last chunk is being written.
        if cache.chunks.len() < 2 {
            return false;
        }
        if let Some(chunk) = cache.chunks.pop_front() {
            self.bytes -= chunk.capacity();
            cache.first_chunk += 1;
        }
        while cache.entries.front().is_some_and(|entry| entry.chunk < cache.first_chunk) {
            cache.entries.pop_front();
        }
        true
    }
}

impl LaneCache {
    /// How many bytes were given back.
    fn clear(&mut self) -> usize {
        self.entries.clear();
        self.first_chunk += self.chunks.len() as u64;
        self.chunks.drain(..).map(|chunk| chunk.capacity()).sum()
    }
}

/// What stands for `None` in place of a length.
const NONE: u32 = u32::MAX;

fn encoded_len(record: &RawRecord<'_>) -> usize {
    let field = |bytes: Option<&[u8]>| 4 + bytes.map_or(0, <[u8]>::len);
    let headers = record.headers.iter();
    let headers: usize =
        headers.map(|header| field(Some(header.name.as_bytes())) + field(header.value)).sum();
    field(record.key) + field(record.value) + headers
}

fn encode(record: &RawRecord<'_>, chunk: &mut Vec<u8>) {
    let mut field = |bytes: Option<&[u8]>| {
        let length = bytes.map_or(NONE, |bytes| bytes.len() as u32);
        chunk.extend_from_slice(&length.to_le_bytes());
        chunk.extend_from_slice(bytes.unwrap_or_default());
    };
    field(record.key);
    field(record.value);
    for header in record.headers {
        field(Some(header.name.as_bytes()));
        field(header.value);
    }
}

/// The outer `None`: the bytes are not what was written.
fn decode_bytes<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length);
    if length == NONE {
        *bytes = rest;
        return Some(None);
    }
    let (field, rest) = rest.split_at_checked(length as usize)?;
    *bytes = rest;
    Some(Some(field))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(cache: &mut Cache, lane: u32, offset: i64, value: &[u8]) {
        let headers = [Header { name: "a", value: Some(b"1") }, Header { name: "b", value: None }];
        cache.keep(
            lane,
            &RawRecord {
                topic: Topic::Tasks,
                partition: lane as i32,
                offset,
                timestamp_ms: offset * 10,
                key: None,
                value: Some(value),
                headers: &headers,
            },
        );
    }

    fn seen(cache: &Cache, lane: u32, offset: i64) -> Option<String> {
        cache.with(lane, offset, |record| {
            let headers: Vec<String> = record
                .headers
                .iter()
                .map(|header| format!("{}={:?}", header.name, header.value))
                .collect();
            let value = record.value.map(|value| (value.len(), value.first().copied()));
            format!("{} {:?} {value:?} {}", record.timestamp_ms, record.key, headers.join(" "))
        })
    }

    #[test]
    fn gives_back_what_it_was_given() {
        let mut cache = Cache::new(1 << 20);
        keep(&mut cache, 0, 5, b"xyz");
        keep(&mut cache, 0, 9, b"");
        keep(&mut cache, 1, 5, b"q");
        assert_eq!(
            seen(&cache, 0, 5).as_deref(),
            Some("50 None Some((3, Some(120))) a=Some([49]) b=None")
        );
        assert_eq!(
            seen(&cache, 0, 9).as_deref(),
            Some("90 None Some((0, None)) a=Some([49]) b=None")
        );
        assert_eq!(seen(&cache, 0, 6), None);
        assert_eq!(
            seen(&cache, 1, 5).as_deref(),
            Some("50 None Some((1, Some(113))) a=Some([49]) b=None")
        );
    }

    #[test]
    fn stays_within_its_bytes_and_forgets_the_oldest() {
        let mut cache = Cache::new(1 << 20);
        let value = vec![7; 100_000];
        for offset in 0..100 {
            keep(&mut cache, 0, offset, &value);
            assert!(cache.bytes <= 1 << 20, "{} bytes", cache.bytes);
        }
        assert_eq!(seen(&cache, 0, 0), None);
        assert!(seen(&cache, 0, 99).is_some());
        let held = (0..100).filter(|offset| seen(&cache, 0, *offset).is_some()).count();
        assert!((6..=10).contains(&held), "{held} of 100 held");
    }

    #[test]
    fn a_lane_that_begins_anew_replaces_what_was_kept() {
        let mut cache = Cache::new(1 << 20);
        keep(&mut cache, 0, 5, b"old");
        keep(&mut cache, 0, 6, b"old");
        keep(&mut cache, 0, 5, b"n");
        assert_eq!(seen(&cache, 0, 6), None);
        assert_eq!(
            seen(&cache, 0, 5).as_deref(),
            Some("50 None Some((1, Some(110))) a=Some([49]) b=None")
        );
        cache.retain(&[1]);
        assert_eq!((seen(&cache, 0, 5), cache.bytes), (None, 0));
    }
}
