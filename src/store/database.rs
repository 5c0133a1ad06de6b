//! One sled database, opened and used as the rules say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Somebody else has it open: it is not ours to delete.
    #[error("another process has it open")]
    Locked,
    #[error("{0}")]
    Unusable(String),
}

/// Runs sled, whose panics only mean that its files are damaged.
pub fn guarded<T>(run: impl FnOnce() -> sled::Result<T>) -> Result<T, DatabaseError> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(understood(&error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(DatabaseError::Unusable(format!(
                "sled panicked: {}",
                text.unwrap_or("without words")
            )))
        }
    }
}

fn understood(error: &sled::Error) -> DatabaseError {
    let text = error.to_string();
    // Its own text is all that tells this from any other I/O error.
    if text.contains("could not acquire lock") {
        return DatabaseError::Locked;
    }
    DatabaseError::Unusable(text)
}

pub fn open(path: &Path, cache_bytes: u64) -> Result<sled::Db, DatabaseError> {
    guarded(|| {
        sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
            .open()
    })
}

/// Closes it; what that writes may fail like anything else.
pub fn close(database: sled::Db) -> Result<(), DatabaseError> {
    guarded(|| {
        drop(database);
        Ok(())
    })
}
