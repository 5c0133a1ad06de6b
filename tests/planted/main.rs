//! A test of the tests: each bug of `src/planted.rs`, planted by itself, must be found by the simulation
//! within 200 seeds. `ops/planted` builds and runs it, with a feature that nothing else has.

use pointsman::planted::{Bug, plant};
use pointsman::sim::{SimulationSettings, run};

const SEEDS_MAX: u64 = 200;

// One test: what is planted is there in the whole process.
#[test]
fn every_bug_is_found() {
    let settings = SimulationSettings::default();
    let mut unfound = Vec::new();
    for bug in Bug::ALL {
        plant(bug);
        let found = (1..=SEEDS_MAX)
            .find_map(|seed| run(seed, &settings).unwrap().violations.into_iter().next());
        match found {
            Some(first) => {
                println!(
                    "{}: seed {}: {}: {}",
                    bug.name(),
                    first.seed,
                    first.invariant,
                    first.detail
                );
            }
            None => unfound.push(bug.name()),
        }
    }
    assert_eq!(unfound, [] as [&str; 0]);
}
