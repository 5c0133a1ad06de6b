//! A snapshot as it is stored and published: compressed, cut into chunks, named by its manifest.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_128;

use super::{SnapshotError, read_header};
use crate::model::snapshot::{MANIFEST_FORMAT, Manifest};

/// What a damaged manifest may ask for: more than any lane holds.
const STORED_BYTES_MAX: u64 = 4 << 30;
const STATE_BYTES_MAX: u64 = 16 << 30;

/// Why what is stored is not the snapshot that its manifest names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    #[error("its manifest has format {found}; this release reads format {MANIFEST_FORMAT}")]
    Format { found: u32 },
    #[error("it claims to have {bytes} bytes")]
    Claims { bytes: u64 },
    #[error("it has no chunks")]
    Nothing,
    #[error("{found} of {expected} chunks are there")]
    Chunks { found: usize, expected: u32 },
    #[error("its hash does not match")]
    Hash,
    #[error("it cannot be decompressed: {problem}")]
    Compressed { problem: String },
    #[error(transparent)]
    Unusable(#[from] SnapshotError),
    #[error("it is of lane {lane} at seq {seq}")]
    Other { lane: u32, seq: u64 },
}

/// Whether its chunks are worth being read.
///
/// # Errors
/// The manifest is of another release, or asks for more than there can be.
pub fn check_manifest(manifest: &Manifest) -> Result<(), StoredError> {
    if manifest.format != MANIFEST_FORMAT {
        return Err(StoredError::Format { found: manifest.format });
    }
    if manifest.stored_bytes > STORED_BYTES_MAX {
        return Err(StoredError::Claims { bytes: manifest.stored_bytes });
    }
    if manifest.state_bytes > STATE_BYTES_MAX {
        return Err(StoredError::Claims { bytes: manifest.state_bytes });
    }
    Ok(())
}

/// The stored bytes of chunks by their number.
///
/// # Errors
/// Some are missing.
pub fn join(manifest: &Manifest, chunks: BTreeMap<u32, Vec<u8>>) -> Result<Vec<u8>, StoredError> {
    check_manifest(manifest)?;
    let chunks: Vec<Vec<u8>> = chunks
        .into_iter()
        .filter(|(number, _)| *number < manifest.chunks)
        .map(|(_, c)| c)
        .collect();
    if chunks.is_empty() {
        return Err(StoredError::Nothing);
    }
    if chunks.len() != manifest.chunks as usize {
        return Err(StoredError::Chunks { found: chunks.len(), expected: manifest.chunks });
    }
    Ok(chunks.concat())
}

/// XXH3-128, as a manifest has it.
pub fn hash(stored: &[u8]) -> String {
    format!("{:032x}", xxh3_128(stored))
}

/// The state's bytes, checked by both hashes, and that they are what the manifest says.
///
/// # Errors
/// They are damaged, of a newer release, or another snapshot's.
pub fn unpack(manifest: &Manifest, stored: &[u8]) -> Result<Vec<u8>, StoredError> {
    check_manifest(manifest)?;
    if hash(stored) != manifest.stored_hash {
        return Err(StoredError::Hash);
    }
    let capacity = usize::try_from(manifest.state_bytes).unwrap_or(usize::MAX);
    let bytes = zstd::bulk::decompress(stored, capacity)
        .map_err(|error| StoredError::Compressed { problem: error.to_string() })?;
    let (header, _) = read_header(&bytes)?;
    if (header.lane, header.seq) != (manifest.lane, manifest.seq) {
        return Err(StoredError::Other { lane: header.lane, seq: header.seq });
    }
    Ok(bytes)
}
