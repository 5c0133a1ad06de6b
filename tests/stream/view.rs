//! The view of `load-snapshots`: there at once after a restart, and read again where it is not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pointsman::codec::{Codec, RegisteredSchemas};
use pointsman::config::Config;
use pointsman::model::Topic;
use pointsman::stream::view;
use pointsman::telemetry::{LoadView, Telemetry};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use testbed::{Broker, eventually, until};

use crate::world::{LIMIT, World};

/// `lane/resource` and tasks in flight.
type Shown = Vec<(u32, String, u64)>;

fn shown(view: &LoadView) -> Shown {
    let snapshots = view.load.values();
    let mut shown: Shown = snapshots
        .map(|snapshot| (snapshot.lane, snapshot.resource.to_string(), snapshot.in_flight))
        .collect();
    shown.sort();
    shown
}

fn expected(rows: &[(u32, &str, u64)]) -> Shown {
    rows.iter().map(|(lane, id, in_flight)| (*lane, (*id).to_owned(), *in_flight)).collect()
}

fn publish(world: &World, lane: u32, resource: &str, in_flight: u64) {
    let snapshot = json!({
        "lane": lane, "resource": resource, "at_ms": 1, "health": "healthy", "load": [],
        "in_flight": in_flight, "backlog": 0,
    });
    let key = format!("{lane}/{resource}");
    world.publish(Topic::LoadSnapshots, lane as i32, &key, &snapshot);
    world.flush();
}

/// Everything that is in the topic now is deleted.
fn delete_all(world: &World, lanes: i32) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", Broker::shared().bootstrap())
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for lane in 0..lanes {
        list.add_partition_offset(&world.name(Topic::LoadSnapshots), lane, Offset::End).unwrap();
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let deleted = runtime.block_on(admin.delete_records(&list, &options)).unwrap();
    // A broker that refuses says so of each partition.
    for partition in deleted.elements() {
        partition.error().unwrap();
        assert!(matches!(partition.offset(), Offset::Offset(1..)), "{partition:?}");
    }
}

/// Ends the view's thread also where the test panics: the scope waits for it.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the thread of the view until it shows this, and ends it.
fn run_until(config: &Config, wanted: &Shown) {
    let codec = Codec::new(config.output.format, RegisteredSchemas::default()).unwrap();
    let telemetry = Telemetry::new(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| view::run(config, &codec, &telemetry, &stop));
        let _ended = Ended(&stop);
        until(&format!("{wanted:?}"), LIMIT, || {
            let view = telemetry.load();
            view.caught_up && shown(&view) == *wanted
        });
    });
}

/// What is shown at once after a start, before a broker is asked, and the positions with it.
fn stored(config: &Config) -> (Shown, BTreeMap<i32, i64>) {
    let codec = Codec::new(config.output.format, RegisteredSchemas::default()).unwrap();
    let telemetry = Telemetry::new(1);
    view::run(config, &codec, &telemetry, &AtomicBool::new(true));
    let view = telemetry.load();
    assert!(!view.caught_up, "nothing was read");
    (shown(&view), view.positions)
}

fn nothing() -> (Shown, BTreeMap<i32, i64>) {
    (Vec::new(), BTreeMap::new())
}

fn store(config: &Config) -> PathBuf {
    config.kafka.data_directory.join("load-view")
}

#[test]
fn a_restart_goes_on_where_it_was_and_whatever_is_lost_is_read_again() {
    let world = World::new(2);
    let config = world.config("a", &[]);
    publish(&world, 0, "one", 1);
    publish(&world, 0, "two", 2);
    publish(&world, 1, "one", 3);
    publish(&world, 0, "one", 4);
    let all = expected(&[(0, "one", 4), (0, "two", 2), (1, "one", 3)]);
    assert_eq!(stored(&config), nothing());
    run_until(&config, &all);
    assert_eq!(stored(&config), (all.clone(), BTreeMap::from([(0, 3), (1, 1)])));

    std::fs::remove_dir_all(store(&config)).unwrap();
    assert_eq!(stored(&config), nothing());
    run_until(&config, &all);

    // From now on only the store has it.
    delete_all(&world, 2);
    run_until(&config, &all);
    publish(&world, 1, "one", 5);
    let changed = expected(&[(0, "one", 4), (0, "two", 2), (1, "one", 5)]);
    run_until(&config, &changed);
    assert_eq!(stored(&config), (changed, BTreeMap::from([(0, 3), (1, 2)])));

    // Another instance knows what is there.
    let other = world.config("b", &[]);
    run_until(&other, &expected(&[(1, "one", 5)]));
    // It is behind what was deleted: what is gone from the topic must not stay.
    publish(&world, 1, "two", 6);
    delete_all(&world, 2);
    publish(&world, 1, "three", 7);
    run_until(&other, &expected(&[(1, "three", 7)]));
}

/// The database's directory.
fn database(config: &Config) -> PathBuf {
    let mut path = store(config);
    for _ in 0..2 {
        let entries: Vec<_> = std::fs::read_dir(&path).unwrap().collect();
        assert_eq!(entries.len(), 1, "one group, and one instance of it");
        path = entries[0].as_ref().unwrap().path();
    }
    path
}

/// Damage on which sled may hang is not here: the store's own tests try it, each in a process of its own.
#[test]
fn a_damaged_store_is_deleted_and_the_topic_read_again() {
    let world = World::new(1);
    let config = world.config("a", &[]);
    publish(&world, 0, "one", 1);
    let all = expected(&[(0, "one", 1)]);
    let whole = (all.clone(), BTreeMap::from([(0, 1)]));
    run_until(&config, &all);
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage<'_>; 2] = [
        ("a write that was cut off", &|path| {
            // Its threads may hold it for a moment after it was closed.
            let database = eventually("the store is free", LIMIT, || sled::open(path).ok());
            database.remove("meta").unwrap().unwrap();
            database.flush().unwrap();
        }),
        ("a file in its place", &|path| {
            std::fs::remove_dir_all(path).unwrap();
            std::fs::write(path, "none").unwrap();
        }),
    ];
    for (what, damage) in damages {
        assert_eq!(stored(&config), whole, "before {what}");
        damage(&database(&config));
        assert_eq!(stored(&config), nothing(), "{what}");
        run_until(&config, &all);
    }
    assert_eq!(stored(&config), whole, "it is stored again");
}

#[test]
fn what_the_router_publishes_is_shown() {
    let world = World::new(1);
    world.publish_fleet();
    let running = world.run(world.config("a", &[("ROUTING__LOAD_SNAPSHOT_MS", "100")]));
    world.publish_tasks(0..20);
    until("a resource's load is shown", LIMIT, || {
        let view = running.telemetry.load();
        view.caught_up && shown(&view) == expected(&[(0, "", 20), (0, "gpt-eu", 20)])
    });
    running.stop().unwrap();
}
