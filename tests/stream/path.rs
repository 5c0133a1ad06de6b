//! Tasks in, decisions out.

use std::time::Duration;

use pointsman::model::Topic;
use pointsman::stream::run::RunErrorKind;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;
use testbed::{Broker, until};

use crate::world::{LIMIT, World, read, task_ids};

#[test]
fn one_task_becomes_one_decision_in_one_transaction() {
    let world = World::new(1);
    world.publish_fleet();
    world.publish_tasks(0..1);
    let running = world.run(world.config("a", &[]));
    let decisions = world.decisions(1);
    assert_eq!(task_ids(&decisions), [0]);
    assert_eq!(decisions[0].value["outcome"], json!("routed"));
    assert_eq!(decisions[0].value["primary"][0]["resource"], json!("gpt-eu"));
    assert_eq!(decisions[0].partition, 0);
    assert!(!world.read(Topic::Journal).is_empty());
    assert!(!world.read(Topic::AllocationEvents).is_empty());
    running.stop().unwrap();
}

#[test]
fn a_restart_goes_on_where_it_was_and_shutdown_is_quick() {
    let world = World::new(2);
    world.publish_fleet();
    world.publish_tasks(0..300);
    let running = world.run(world.config("a", &[]));
    assert_eq!(task_ids(&world.decisions(300)), (0..300).collect::<Vec<_>>());
    running.stop().unwrap();
    world.publish_tasks(300..500);
    let running = world.run(world.config("a", &[("WORKER__WORKERS", "2")]));
    assert_eq!(task_ids(&world.decisions(500)), (0..500).collect::<Vec<_>>());
    running.stop().unwrap();
}

#[test]
fn two_instances_share_the_lanes_and_one_takes_over() {
    let world = World::new(4);
    world.publish_fleet();
    let first = world.run(world.config("a", &[]));
    world.publish_tasks(0..400);
    world.decisions(400);
    // The second one rebalances the group under load.
    let second = world.run(world.config("b", &[]));
    world.publish_tasks(400..2_000);
    until("both instances run lanes", LIMIT, || {
        let lanes = |running: &crate::world::Running| running.telemetry.view().lanes.len();
        lanes(&first) == 2 && lanes(&second) == 2
    });
    world.publish_tasks(2_000..3_000);
    first.stop().unwrap();
    world.publish_tasks(3_000..3_500);
    // The first one's session has to time out: it is a static member, and may be back.
    assert_eq!(task_ids(&world.decisions(3_500)), (0..3_500).collect::<Vec<_>>());
    second.stop().unwrap();
}

#[test]
fn start_from_latest_skips_what_was_there() {
    let world = World::new(1);
    world.publish_fleet();
    world.publish_tasks(0..10);
    let running = world.run(world.config("a", &[("WORKER__START_FROM", "latest")]));
    until("the lane runs", LIMIT, || running.runs(1));
    world.publish_tasks(10..20);
    assert_eq!(task_ids(&world.decisions(10)), (10..20).collect::<Vec<_>>());
    running.stop().unwrap();
}

#[test]
fn offsets_that_somebody_reset_are_refused() {
    let world = World::new(1);
    world.publish_fleet();
    world.publish_tasks(0..5);
    let running = world.run(world.config("a", &[]));
    world.decisions(5);
    running.stop().unwrap();
    // The member's session has to be over before anyone may commit for the group.
    let group: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", Broker::shared().bootstrap())
        .set("group.id", &world.prefix)
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&world.name(Topic::Tasks), 0, Offset::Offset(0)).unwrap();
    until("the group is empty", LIMIT, || group.commit(&list, CommitMode::Sync).is_ok());
    let error = world.run(world.config("a", &[])).wait().unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::State);
    assert!(error.to_string().contains("someone has reset the group's offsets"), "{error}");
    assert_eq!(world.decisions(5).len(), 5);
}

#[test]
fn a_transaction_that_a_successor_fences_stays_hidden() {
    let world = World::new(1);
    world.publish_fleet();
    let config = world.config("a", &[]);
    // A zombie of the instance has a transaction open.
    let zombie: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", Broker::shared().bootstrap())
        .set("transactional.id", format!("{}-a-0", world.prefix))
        .create()
        .unwrap();
    zombie.init_transactions(LIMIT).unwrap();
    zombie.begin_transaction().unwrap();
    let decisions = world.name(Topic::RouteDecisions);
    let value = json!({"task_id": "t-999999"}).to_string();
    zombie
        .send(BaseRecord::to(&decisions).partition(0).key("zombie").payload(&value))
        .map_err(|(error, _)| error)
        .unwrap();
    zombie.flush(LIMIT).unwrap();
    world.publish_tasks(0..3);
    let running = world.run(config);
    assert_eq!(task_ids(&world.decisions(3)), [0, 1, 2]);
    assert!(zombie.commit_transaction(Duration::from_secs(10)).is_err());
    assert_eq!(task_ids(&world.decisions(3)), [0, 1, 2]);
    let all = read(&decisions, "read_uncommitted");
    assert!(all.iter().any(|seen| seen.key == "zombie" && seen.offset == 0), "{all:?}");
    running.stop().unwrap();
}

#[test]
fn a_twin_and_missing_topics_are_named() {
    let world = World::new(1);
    let running = world.run(world.config("a", &[]));
    until("the first one is up", LIMIT, || !running.telemetry.view().lanes.is_empty());
    let twin = world.run(world.config("a", &[])).wait().unwrap_err();
    assert!(twin.to_string().starts_with("instance 'a' is running already"), "{twin}");
    running.stop().unwrap();

    let missing = world.run(world.config("b", &[("TOPICS__FLEET", "nowhere")])).wait().unwrap_err();
    assert_eq!(missing.to_string(), "topics are missing: nowhere; see `pointsman topics plan`");
    assert_eq!(missing.kind(), RunErrorKind::Config);
}

/// Not a test of speed: it prints where the time of a transaction goes.
#[test]
fn a_backlog_is_worked_off_and_its_phases_are_known() {
    let world = World::new(1);
    world.publish_fleet();
    world.publish_tasks(0..20_000);
    let running = world.run(world.config("a", &[]));
    let decisions = world.decisions(20_000);
    assert_eq!(task_ids(&decisions), (0..20_000).collect::<Vec<_>>());
    let stats = running.stats.of_each_worker();
    println!("{stats:#?}");
    assert_eq!(stats[0].tasks, 20_000);
    running.stop().unwrap();
}
