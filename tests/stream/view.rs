//! The view of `load-snapshots`: what the router publishes is shown.

use pointsman::telemetry::LoadView;
use testbed::until;

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

#[test]
fn what_the_router_publishes_is_shown() {
    let world = World::new(1);
    world.publish_fleet();
    let running = world.run(world.config("a", &[("ROUTING__LOAD_SNAPSHOT_MS", "100")]));
    world.publish_tasks(0..20);
    until("a resource's load is shown", LIMIT, || {
        let view = running.telemetry.load();
        view.caught_up && shown(&view) == expected(&[(0, "gpt-eu", 20)])
    });
    running.stop().unwrap();
}
