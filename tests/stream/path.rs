//! Tasks in, decisions out.

use pointsman::model::Topic;
use serde_json::json;

use crate::world::{World, task_ids};

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
    assert!(!world.read(Topic::Journal).is_empty());
    assert!(!world.read(Topic::AllocationEvents).is_empty());
    running.stop().unwrap();
}
