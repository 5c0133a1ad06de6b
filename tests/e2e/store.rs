//! A local store whose files do not stay as they were written, under the whole program: the log says so,
//! and the lane comes back from Kafka. The journal's beginning is deleted, so nothing but a snapshot
//! will do.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pointsman::model::Topic;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;
use testbed::until;

use crate::records::{Sender, read};
use crate::site::{LIMIT, ROOMY, Site};

/// Snapshots after a few batches; nobody works here, and no lease is to end meanwhile.
const OFTEN: &str = "[output]\nformat = \"json\"\n\n[routing]\nlease_ms_min = 3600000\n\n\
                     [snapshot]\nlocal_batches = 4\nlocal_interval_ms_min = 0\npublish_batches = 8\n";
const BEFORE: usize = 100;
const AFTER: usize = 20;

const REFUSED: &str = "a local snapshot cannot be used; Kafka has all of it";
const FROM_KAFKA: &str = r#""source":"Published""#;

/// Decides tasks, a few at a time, so that there are many batches.
fn decide(site: &Site, client: &ClientConfig, from: usize, to: usize) {
    const AT_ONCE: usize = 5;
    let sender = Sender::new(client);
    for first in (from..to).step_by(AT_ONCE) {
        for number in first..first + AT_ONCE {
            let task = json!({"task_id": format!("t-{number}"), "input_tokens": 10});
            sender.send(&site.name(Topic::Tasks), "k", task.to_string().as_bytes());
        }
        sender.flush();
        until(&format!("{} decisions", first + AT_ONCE), LIMIT, || {
            read(client, &site.name(Topic::RouteDecisions)).len() >= first + AT_ONCE
        });
    }
}

/// Deletes the first records of the journal.
fn cut_journal(site: &Site, client: &ClientConfig) {
    let admin: AdminClient<DefaultClientContext> = client.create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&site.name(Topic::Journal), 0, Offset::Offset(4)).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(admin.delete_records(&list, &options)).unwrap();
}

fn paths_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(paths_below(&path));
        }
        found.push(path);
    }
    found
}

/// The databases of a site's only lane; mostly one.
fn databases(site: &Site) -> Vec<PathBuf> {
    let mut found = paths_below(&site.path("data"));
    found.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seq-"));
    found
}

/// The largest file, which has the chunks.
fn chunks(site: &Site) -> PathBuf {
    let mut files = paths_below(&databases(site)[0]);
    files.retain(|path| path.is_file());
    files.sort_by_key(|path| fs::metadata(path).unwrap().len());
    files.pop().unwrap()
}

/// Runs until there are snapshots, spoils the store, and runs again.
fn check<T>(spoil: impl FnOnce(&Site) -> T, says: &[&str]) {
    let site = Site::bare(OFTEN);
    run_and_spoil(&site, spoil, says);
}

fn run_and_spoil<T>(site: &Site, spoil: impl FnOnce(&Site) -> T, says: &[&str]) {
    site.make_topics();
    site.apply_fleet(ROOMY);
    let client = site.client();
    let router = site.start_ready();
    decide(site, &client, 0, BEFORE);
    until("two snapshots are published", LIMIT, || {
        let seen = read(&client, &site.name(Topic::Snapshots));
        let keys = seen.iter().filter_map(|seen| seen.key.as_deref());
        keys.filter(|key| key.ends_with(b"/manifest")).count() >= 2
    });
    let mut log = router.log();
    assert!(router.stop().success());
    let held = spoil(site);
    cut_journal(site, &client);

    let router = site.start_ready();
    decide(site, &client, BEFORE, BEFORE + AFTER);
    log.push_str(&router.log());
    for text in says {
        assert!(log.contains(text), "{text}:\n{log}");
    }
    assert!(router.stop().success());
    drop(held);
    let decided: Vec<_> =
        read(&client, &site.name(Topic::RouteDecisions)).into_iter().map(|seen| seen.key).collect();
    let expected: Vec<_> =
        (0..BEFORE + AFTER).map(|number| Some(format!("t-{number}").into_bytes())).collect();
    assert_eq!(decided, expected);
}

#[test]
fn a_truncated_file_gives_way_to_kafka() {
    let spoil = |site: &Site| {
        let file = OpenOptions::new().write(true).open(chunks(site)).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    };
    check(spoil, &[REFUSED, FROM_KAFKA]);
}

#[test]
fn flipped_bits_give_way_to_kafka() {
    let spoil = |site: &Site| {
        let file = OpenOptions::new().read(true).write(true).open(chunks(site)).unwrap();
        // Not all of the file is in use.
        for at in (0..file.metadata().unwrap().len()).step_by(512) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        }
    };
    check(spoil, &[REFUSED, FROM_KAFKA]);
}

#[test]
fn a_deleted_directory_gives_way_to_kafka() {
    let spoil = |site: &Site| fs::remove_dir_all(site.path("data/snapshots")).unwrap();
    check(spoil, &[FROM_KAFKA]);
}

#[test]
fn a_locked_directory_gives_way_to_kafka() {
    let spoil = |site: &Site| -> Vec<sled::Db> {
        databases(site).iter().map(|path| sled::open(path).unwrap()).collect()
    };
    check(spoil, &["is open in another process", FROM_KAFKA]);
}

/// Only the superuser may mount a small file system; elsewhere this says that it did not look.
#[test]
fn a_full_disk_gives_way_to_kafka() {
    let site = Site::bare(OFTEN);
    let data = site.path("data");
    fs::create_dir(&data).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs"];
    let mounted = std::process::Command::new("mount").args(mount).arg(&data).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: no small file system can be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run_and_spoil(&site, |_| (), &["the snapshot is not stored here", FROM_KAFKA]);
    }));
    let unmounted = std::process::Command::new("umount").arg("-l").arg(&data).output().unwrap();
    assert!(unmounted.status.success(), "{unmounted:?}");
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
