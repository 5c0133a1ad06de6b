//! (I/O) One process per instance id and data directory.
//!
//! Two processes with one id would fence each other for ever. Brokers tell them apart only after
//! the fact; a lock on the data directory says it at once, and who the other one is.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "instance '{instance}' is running already, as process {holder}: give this one another kafka.instance_id and kafka.data_directory"
    )]
    Twin { instance: String, holder: String },
    #[error("kafka.data_directory {} cannot be used", path.display())]
    Directory { path: PathBuf, source: std::io::Error },
}

/// Held while the process runs; the operating system releases it however it ends.
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

/// Takes the lock of this instance.
///
/// # Errors
/// Another process holds it, or the directory cannot be written.
pub fn take(directory: &Path, instance: &str) -> Result<InstanceLock, LockError> {
    let wrong = |source| LockError::Directory { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(wrong)?;
    // An id may hold what a file's name may not.
    let name: String = instance
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .collect();
    let path = directory.join(format!("{name}.lock"));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(wrong)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Its number only helps to find it.
            if file.read_to_string(&mut holder).is_err() || holder.is_empty() {
                holder = "unknown".to_owned();
            }
            let holder = holder.trim().to_owned();
            return Err(LockError::Twin { instance: instance.to_owned(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(wrong(source)),
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(wrong)?;
    Ok(InstanceLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_named_and_a_successor_gets_in() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let held = take(&path, "host/a").unwrap();
        let twin = take(&path, "host/a").unwrap_err().to_string();
        let expected =
            format!("instance 'host/a' is running already, as process {}", std::process::id());
        assert!(twin.starts_with(&expected), "{twin}");
        let other = take(&path, "host-b").unwrap();
        drop(held);
        let successor = take(&path, "host/a").unwrap();
        drop((other, successor));
    }
}
