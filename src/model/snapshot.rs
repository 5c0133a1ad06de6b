//! A snapshot of a lane as its manifest names it: in the `snapshots` topic, and in the local store.

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// Raised when a manifest or the cutting into chunks changes its meaning.
pub const MANIFEST_FORMAT: u32 = 1;

/// Where a lane was when its snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SnapshotPoint {
    /// The batch after which it was taken; 0: there is none.
    pub seq: u64,
    /// The time of that batch.
    pub batch_time_ms: Timestamp,
}

/// A published snapshot that is not to be found any more once the manifest that names it here is
/// committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub seq: u64,
    pub chunks: u32,
}

/// What there is to know of a snapshot without reading it. JSON in the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub lane: u32,
    pub seq: u64,
    /// The chain hash of that batch, 32 hexadecimal digits.
    pub hash: String,
    pub batch_time_ms: Timestamp,
    /// The next offset of `tasks`: tasks decided so far, from some beginning.
    pub tasks_offset: i64,
    /// Bytes of the lane's state, and of what is stored: the same, compressed (zstd).
    pub state_bytes: u64,
    pub stored_bytes: u64,
    pub chunks: u32,
    /// XXH3-128 of the stored bytes, 32 hexadecimal digits.
    pub stored_hash: String,
    /// Stays as long as the journal, so that replay can start here.
    #[serde(default)]
    pub kept: bool,
    /// The newest one that is kept, this one included.
    #[serde(default)]
    pub last_kept: Option<KeptAt>,
    /// The one that was published before, until this one's successor is.
    #[serde(default)]
    pub previous: Option<Dropped>,
    /// Whether that one is kept.
    #[serde(default)]
    pub previous_kept: bool,
    /// To be removed once this manifest is committed.
    #[serde(default)]
    pub drops: Vec<Dropped>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAt {
    pub seq: u64,
    pub batch_time_ms: Timestamp,
    pub tasks_offset: i64,
}

impl Manifest {
    pub fn point(&self) -> SnapshotPoint {
        SnapshotPoint { seq: self.seq, batch_time_ms: self.batch_time_ms }
    }
}

/// The key of a record of the `snapshots` topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotKey {
    pub lane: u32,
    pub seq: u64,
    pub part: SnapshotPart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPart {
    Chunk(u32),
    Manifest,
}

impl SnapshotKey {
    pub fn chunk(lane: u32, seq: u64, chunk: u32) -> Self {
        SnapshotKey { lane, seq, part: SnapshotPart::Chunk(chunk) }
    }

    pub fn manifest(lane: u32, seq: u64) -> Self {
        SnapshotKey { lane, seq, part: SnapshotPart::Manifest }
    }

    /// `None` where it is no such key.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(key).ok()?.split('/');
        let lane = parts.next()?.parse().ok()?;
        let seq = parts.next()?.parse().ok()?;
        let part = match parts.next()? {
            "manifest" => SnapshotPart::Manifest,
            chunk => SnapshotPart::Chunk(chunk.parse().ok()?),
        };
        parts.next().is_none().then_some(SnapshotKey { lane, seq, part })
    }
}

impl std::fmt::Display for SnapshotKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.part {
            SnapshotPart::Chunk(chunk) => {
                write!(formatter, "{}/{}/{chunk}", self.lane, self.seq)
            }
            SnapshotPart::Manifest => write!(formatter, "{}/{}/manifest", self.lane, self.seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        for key in [SnapshotKey::chunk(3, 42, 7), SnapshotKey::manifest(0, 1)] {
            assert_eq!(SnapshotKey::parse(key.to_string().as_bytes()), Some(key));
        }
        for other in ["", "3/42", "3/42/x", "3/42/7/1", "x/1/1"] {
            assert_eq!(SnapshotKey::parse(other.as_bytes()), None, "{other}");
        }
    }
}
