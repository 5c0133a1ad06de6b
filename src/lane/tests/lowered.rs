//! The fleet changes under lanes that have work there: a limit below what is in use, a resource that
//! goes and comes back, and one that is new.

use serde_json::json;

use super::sharing::Site;
use crate::model::policy::Policy;

fn site() -> Site {
    let policy =
        Policy { load_snapshot_ms: 1_000_000_000, wait_ms_max: 3_600_000, ..Policy::default() };
    let mut site = Site::new(3, &policy);
    site.resource("r", json!({"slots": 9}));
    site
}

/// All lanes read everything and run a batch; how many slots each has in use then.
fn step(site: &mut Site) -> [u32; 3] {
    site.now += 100;
    let lanes = [0, 1, 2];
    lanes.iter().for_each(|lane| site.step(*lane));
    lanes.map(|lane| {
        let fleet = &site.members[lane].lane.state().fleet;
        fleet.iter().map(|(_, resource)| resource.slots_in_use).sum()
    })
}

fn tasks(site: &mut Site, name: &str, counts: [usize; 3]) {
    for (lane, count) in counts.into_iter().enumerate() {
        for number in 0..count {
            site.task(lane, &format!("{name}{lane}-{number}"), json!({}));
        }
    }
}

#[test]
fn each_lane_waits_until_its_own_use_fits_a_lower_limit() {
    let mut site = site();
    tasks(&mut site, "t", [3, 1, 0]);
    assert_eq!(step(&mut site), [3, 1, 0]);
    // One slot for each lane now. Nobody is sent away.
    site.resource("r", json!({"slots": 3}));
    tasks(&mut site, "u", [2, 2, 2]);
    assert_eq!(step(&mut site), [3, 1, 1], "only the last lane has less in use than its part");
    for (ended, expected) in [("t0-0", [2, 1, 1]), ("t0-1", [1, 1, 1]), ("t0-2", [1, 1, 1])] {
        site.succeeded(0, ended, 1, 100);
        assert_eq!(step(&mut site), expected, "{ended}");
    }
    // All together within the limit from the moment at which the old work has ended.
    site.succeeded(1, "t1-0", 1, 100);
    assert_eq!(step(&mut site), [1, 1, 1]);
    site.resource("r", json!({"slots": 9}));
    assert_eq!(step(&mut site), [2, 2, 2], "what waited is served with the higher limit");
}

#[test]
fn a_resource_that_comes_back_counts_the_work_that_went_on() {
    let mut site = site();
    tasks(&mut site, "t", [3, 1, 0]);
    assert_eq!(step(&mut site), [3, 1, 0]);
    site.remove("r");
    // Another one, so that there is something to go to.
    site.resource("new", json!({"slots": 3, "quality": {"default": 0.1}}));
    tasks(&mut site, "u", [1, 1, 1]);
    assert_eq!(step(&mut site), [4, 2, 1], "a new resource is dealt among all lanes");
    site.resource("r", json!({"slots": 9}));
    tasks(&mut site, "v", [1, 1, 1]);
    assert_eq!(step(&mut site), [4, 3, 2], "the first lane's part of it is in use still");
    site.succeeded(0, "t0-0", 1, 100);
    assert_eq!(step(&mut site), [4, 3, 2]);
}
