//! What happens to a store whose files do not stay as they were written.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::snapshots::SnapshotStore;
use crate::model::snapshot::{MANIFEST_FORMAT, Manifest};
use crate::model::time::Timestamp;

fn manifest(seq: u64, stored: &[u8]) -> Manifest {
    Manifest {
        format: MANIFEST_FORMAT,
        lane: 3,
        seq,
        hash: "0".repeat(32),
        batch_time_ms: Timestamp::from_ms(7),
        tasks_offset: 9,
        state_bytes: 1,
        stored_bytes: stored.len() as u64,
        chunks: 1,
        stored_hash: format!("{:032x}", xxh3_128(stored)),
        kept: false,
        last_kept: None,
        previous: None,
        previous_kept: false,
        drops: Vec::new(),
    }
}

/// Bytes that do not repeat, over more than one batch of chunks.
fn stored() -> Arc<Vec<u8>> {
    Arc::new((0..1_200_000_u64).flat_map(|number| (number * number).to_le_bytes()).collect())
}

fn store(directory: &Path) -> SnapshotStore {
    SnapshotStore::new(directory, "group/a", "instance", 8 << 20)
}

/// The database's largest file, which has the chunks.
fn file_of(directory: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_dir() {
                directories.push(entry.path());
            } else {
                found.push((entry.metadata().unwrap().len(), entry.path()));
            }
        }
    }
    found.sort();
    found.pop().unwrap().1
}

#[test]
fn what_was_written_is_read_and_only_the_newest_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    assert_eq!(store.seqs(3).unwrap(), [] as [u64; 0]);
    let stored = stored();
    for seq in [8, 12, 13] {
        store.write(&manifest(seq, &stored), &stored).unwrap();
        assert_eq!(store.seqs(3).unwrap(), [seq]);
        assert_eq!(store.read(3, seq).unwrap(), (manifest(seq, &stored), stored.to_vec()));
    }
    // A second time, as after a rebalance; and one that was cut off.
    store.write(&manifest(13, &stored), &stored).unwrap();
    fs::create_dir(store.root().join("lane-3/writing-14")).unwrap();
    assert_eq!(store.seqs(3).unwrap(), [13]);
    assert_eq!(fs::read_dir(store.root().join("lane-3")).unwrap().count(), 1);
    store.remove(3, 13);
    assert_eq!(store.seqs(3).unwrap(), [] as [u64; 0]);
}

/// Writes one, changes its largest file, and reads it: never something else than was written.
fn check(what: &str, change: impl Fn(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let stored = stored();
    store.write(&manifest(5, &stored), &stored).unwrap();
    change(&file_of(directory.path()));
    match store.read(3, 5) {
        // What was changed need not have been part of any chunk.
        Ok(read) => assert!(read == (manifest(5, &stored), stored.to_vec()), "{what}"),
        Err(error) => {
            println!("{what}: {error}");
            assert!(error.to_string().contains("is damaged: "), "{what}: {error}");
            assert_eq!(store.seqs(3).unwrap(), [] as [u64; 0], "{what}: it is deleted");
        }
    }
    // And the next one is written as if nothing had been.
    store.write(&manifest(6, &stored), &stored).unwrap();
    assert!(store.read(3, 6).unwrap().1 == *stored, "{what}");
}

/// Runs a test in a process of its own: where sled hangs, it hangs for the whole process.
pub(super) fn alone(name: &str, part: &str) -> String {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", name])
        .env("PART", part)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "{text}");
    text
}

/// What [`alone`] was told; `None` where a test that is part of another one runs by itself.
pub fn part() -> Option<u64> {
    std::env::var("PART").ok().map(|part| part.parse().unwrap())
}

#[test]
fn a_truncated_file_is_never_read_as_something_else() {
    for part in ["0", "1", "3", "9"] {
        println!("{}", alone("store::tests::truncated", part));
    }
}

#[test]
#[ignore = "part of another one"]
fn truncated() {
    let Some(part) = part() else { return };
    check(&format!("truncated to {part}/10"), |path| {
        let length = fs::metadata(path).unwrap().len();
        OpenOptions::new().write(true).open(path).unwrap().set_len(length * part / 10).unwrap();
    });
}

#[test]
fn a_flipped_bit_is_never_read_as_something_else() {
    for part in 0..8 {
        check(&format!("a bit flipped at {part}/8"), |path| {
            let mut file = OpenOptions::new().read(true).write(true).open(path).unwrap();
            let at = file.metadata().unwrap().len() * part / 8 + 100;
            let mut byte = [0];
            file.seek(SeekFrom::Start(at)).unwrap();
            file.read_exact(&mut byte).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&[byte[0] ^ 4]).unwrap();
        });
    }
}

#[test]
fn a_directory_that_is_gone_is_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let error = store.read(3, 5).unwrap_err().to_string();
    assert!(error.ends_with("is damaged: it is gone"), "{error}");
    let stored = stored();
    store.write(&manifest(5, &stored), &stored).unwrap();
    fs::remove_dir_all(directory.path().join("snapshots")).unwrap();
    assert_eq!(store.seqs(3).unwrap(), [] as [u64; 0]);
    store.write(&manifest(6, &stored), &stored).unwrap();
    assert_eq!(store.seqs(3).unwrap(), [6]);
}

#[test]
fn what_another_process_has_open_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let stored = stored();
    store.write(&manifest(5, &stored), &stored).unwrap();
    let path = store.root().join("lane-3").join(format!("seq-{:020}", 5));
    let other = super::database::open(&path, 8 << 20).unwrap();
    let error = store.read(3, 5).unwrap_err().to_string();
    assert!(error.ends_with("is open in another process"), "{error}");
    assert_eq!(store.seqs(3).unwrap(), [5]);
    drop(other);
    assert!(store.read(3, 5).unwrap().1 == *stored);
}

#[test]
fn a_data_directory_that_is_no_directory_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let stored = stored();
    let error = store(&file).write(&manifest(5, &stored), &stored).unwrap_err().to_string();
    assert!(error.ends_with("cannot be used"), "{error}");
}

/// A file system of 24 MiB, by `mount`: only the superuser may, so elsewhere this says that it did
/// not look.
#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    println!("{}", alone("store::tests::full_disk", ""));
}

#[test]
#[ignore = "part of another one"]
fn full_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(directory.path())
        .output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: no small file system can be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let store = store(directory.path());
        let stored = stored();
        // Asked before: there is less than is needed.
        let error = store.write(&manifest(5, &stored), &stored).unwrap_err().to_string();
        assert!(error.contains("bytes of space left, and"), "{error}");
        // Not known before: the disk fills while sled writes.
        let path = store.root().join("full");
        fs::create_dir_all(&path).unwrap();
        let error =
            store.fill(&path, &manifest(5, &stored), &Arc::new(stored.repeat(4))).unwrap_err();
        // Mostly the second.
        let known = ["No space left on device", "sled does not return within"];
        assert!(known.iter().any(|text| error.to_string().contains(text)), "{error}");
        println!("{error}");
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(store.seqs(3).unwrap(), [] as [u64; 0]);
    });
    let unmounted =
        std::process::Command::new("umount").arg("-l").arg(directory.path()).output().unwrap();
    assert!(unmounted.status.success(), "{unmounted:?}");
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
