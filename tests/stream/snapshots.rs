//! Recovery begins with a snapshot: the journal's beginning is deleted first, so nothing else could.

use std::time::Duration;

use pointsman::model::Topic;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::{Offset, TopicPartitionList};
use testbed::{Broker, until};

use crate::world::{LIMIT, World, task_ids};

const OFTEN: [(&str, &str); 4] = [
    // Nobody works here, and no lease is to end meanwhile.
    ("ROUTING__LEASE_MS_MIN", "3600000"),
    ("SNAPSHOT__LOCAL_BATCHES", "4"),
    ("SNAPSHOT__LOCAL_INTERVAL_MS_MIN", "0"),
    ("SNAPSHOT__PUBLISH_BATCHES", "8"),
];

/// Decides tasks, a few at a time, so that there are many batches.
fn decide(world: &World, from: u32, to: u32) {
    for first in (from..to).step_by(5) {
        world.publish_tasks(first..first + 5);
        world.decisions(first as usize + 5);
    }
}

fn manifests(world: &World) -> usize {
    let seen = world.read(Topic::Snapshots);
    seen.iter().filter(|seen| seen.key.ends_with("/manifest")).count()
}

/// Deletes the first records of the journal.
fn cut_journal(world: &World) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", Broker::shared().bootstrap())
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&world.name(Topic::Journal), 0, Offset::Offset(4)).unwrap();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(admin.delete_records(&list, &options)).unwrap();
}

#[test]
fn a_restart_begins_with_the_local_snapshot_and_a_takeover_with_the_published_one() {
    let world = World::new(1);
    world.publish_fleet();
    let running = world.run(world.config("a", &OFTEN));
    decide(&world, 0, 100);
    until("two snapshots are published", LIMIT, || manifests(&world) >= 2);
    decide(&world, 100, 120);
    running.stop().unwrap();
    cut_journal(&world);

    let running = world.run(world.config("a", &OFTEN));
    decide(&world, 120, 150);
    running.stop().unwrap();

    // Another instance has nothing on its disk.
    let running = world.run(world.config("b", &OFTEN));
    decide(&world, 150, 200);
    running.stop().unwrap();
    assert_eq!(task_ids(&world.decisions(200)), (0..200).collect::<Vec<_>>());
}
