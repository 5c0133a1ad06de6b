//! How long a round of the planner takes, up to 512 lanes (64 instances of 8) and 200 resources of
//! three limits. `cargo bench --bench planner`.

#[path = "planner/load.rs"]
mod load;

use load::{LOAD_SNAPSHOT_MS, Load, snapshots};
use pointsman::clock::Stopwatch;
use pointsman::model::time::Timestamp;
use pointsman::routing::balancer::rebalance::{Advised, Planner};

fn case(lanes: u32, resources: u32, load: Load) {
    let at = Timestamp::from_ms(1_000_000_000);
    let mut planner = Planner::new(lanes, LOAD_SNAPSHOT_MS);
    let told = snapshots(lanes, resources, at, load);
    let telling = Stopwatch::start();
    told.iter().for_each(|snapshot| planner.told(snapshot));
    let told_us = telling.elapsed_us();
    let (mut rounds, mut advice, mut first_us, mut worst_us) = (0_u64, 0, 0, 0);
    // Until nothing is left to be advised.
    loop {
        let round = Stopwatch::start();
        let advised: Vec<Advised> = planner.rebalance(at.plus_ms(100));
        let took_us = round.elapsed_us();
        rounds += 1;
        first_us = if rounds == 1 { took_us } else { first_us };
        worst_us = worst_us.max(took_us);
        advice += advised.len();
        if advised.is_empty() {
            break;
        }
    }
    println!(
        "{lanes:>4} lanes, {resources:>3} resources, {load:?}: {:.2} us to take a snapshot, first round {:.1} ms, worst {:.1} ms, {rounds} rounds, {advice} pieces of advice",
        told_us as f64 / told.len() as f64,
        first_us as f64 / 1e3,
        worst_us as f64 / 1e3,
    );
}

fn main() {
    for (lanes, resources) in [(8, 20), (64, 200), (512, 20), (512, 200)] {
        for load in [Load::Steady, Load::Skewed, Load::Overloaded] {
            case(lanes, resources, load);
        }
    }
}
