//! One sled database, opened and used as the rules say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Somebody else has it open: it is not ours to delete.
    #[error("another process has it open")]
    Locked,
    #[error("{0}")]
    Unusable(String),
    /// Nothing is known about the files.
    #[error("{0}")]
    Hangs(String),
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

/// sled's own threads may hold a database's lock for a moment after it was closed: 3 s on a machine that is
/// busy, and well below what callers give an opening ([`limited`]).
const UNLOCK_WAIT: Duration = Duration::from_millis(50);
const UNLOCK_TRIES: u32 = 60;

/// Opens a database; waits a little where it was just closed.
pub fn open(path: &Path, cache_bytes: u64) -> Result<sled::Db, DatabaseError> {
    let mut tries = 0;
    loop {
        match open_now(path, cache_bytes) {
            Err(DatabaseError::Locked) if tries < UNLOCK_TRIES => {
                tries += 1;
                std::thread::sleep(UNLOCK_WAIT);
            }
            opened => return opened,
        }
    }
}

fn open_now(path: &Path, cache_bytes: u64) -> Result<sled::Db, DatabaseError> {
    guarded(|| {
        sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
            .open()
    })
}

/// sled has kept a thread for ever. All its databases of a process share their threads, and the next
/// calls were seen to hang as well: it is not asked again.
static HUNG: AtomicBool = AtomicBool::new(false);

/// Whether that has happened.
pub fn hangs() -> bool {
    HUNG.load(Ordering::Relaxed)
}

/// Runs sled on a thread of its own, and gives up on it after `limit`. On a full disk its writes never
/// return: measured, and nothing that a panic's catcher could see. Such a thread is left behind with its database.
pub fn limited<T: Send + 'static>(
    limit: Duration,
    run: impl FnOnce() -> Result<T, DatabaseError> + Send + 'static,
) -> Result<T, DatabaseError> {
    if hangs() {
        let text = "sled hangs: nothing is stored here before a restart".to_owned();
        return Err(DatabaseError::Hangs(text));
    }
    let (done, ended) = sync_channel(1);
    let thread = std::thread::Builder::new().name("store".to_owned());
    let started = thread.spawn(move || {
        // Nobody waits any more where this fails.
        done.send(run()).ok();
    });
    if let Err(error) = started {
        return Err(DatabaseError::Unusable(format!("no thread: {error}")));
    }
    match ended.recv_timeout(limit) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Timeout) => {
            HUNG.store(true, Ordering::Relaxed);
            Err(DatabaseError::Unusable(format!("sled does not return within {limit:?}")))
        }
        Err(RecvTimeoutError::Disconnected) => {
            Err(DatabaseError::Unusable("sled's thread panicked".to_owned()))
        }
    }
}

/// Closes it; what that writes may fail like anything else.
pub fn close(database: sled::Db) -> Result<(), DatabaseError> {
    guarded(|| {
        drop(database);
        Ok(())
    })
}
