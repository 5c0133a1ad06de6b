//! Recorded journals, decided again by this build. See `tests/golden/README.md`.

#[path = "golden/snapshots.rs"]
mod snapshots;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pointsman::codec::{Codec, RegisteredSchemas};
use pointsman::lane::{Lane, LaneSettings};
use pointsman::model::Topic;
use pointsman::model::policy::Policy;
use pointsman::replay::audit::{Audit, Range, audit_lane};
use pointsman::replay::journal::Journal;
use pointsman::replay::player::Player;
use pointsman::replay::recording::Recording;
use pointsman::replay::snapshots::Limit;
use pointsman::replay::source::Source;
use pointsman::replay::start::{Start, start};

const HINT: &str = "this build no longer reproduces a released journal. Do not edit the golden file: \
                    raise FACT_LEVEL for another encoding of facts, ENGINE_VERSION for other \
                    decisions, and undo what folds old facts to another state; \
                    tests/golden/README.md says how";

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(directory).unwrap();
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pmrec"))
        .collect();
    found.sort();
    found
}

fn open(path: &Path) -> (Recording<BufReader<File>>, LaneSettings) {
    let recording = Recording::open(BufReader::new(File::open(path).unwrap())).unwrap();
    let about = recording.about();
    let topic = |name: &str| Topic::ALL.into_iter().find(|topic| topic.default_name() == name);
    let settings = LaneSettings {
        codec: Arc::new(Codec::new(about.output, RegisteredSchemas::default()).unwrap()),
        policy: Policy::default(),
        batch_records_max: usize::MAX,
        source: format!("pointsman/{}", about.group),
        group: about.group.clone(),
        topic_names: about
            .topic_names
            .iter()
            .map(|(name, now)| (topic(name).unwrap(), now.clone()))
            .collect(),
        decisions_by_pool: about.decisions_by_pool,
        unjournaled: false,
    };
    (recording, settings)
}

#[test]
fn golden_journals_are_decided_again_bit_for_bit() {
    let files = files();
    assert!(!files.is_empty(), "no recording in tests/golden");
    for path in files {
        let (mut recording, settings) = open(&path);
        let mut found = Audit::default();
        for lane in 0..recording.lanes() {
            let audited =
                audit_lane(&mut recording, &settings, lane, Range::ALL, &mut found, &mut |_| ());
            audited.unwrap_or_else(|error| panic!("{}: {error:#}\n{HINT}", path.display()));
        }
        if let Some(divergence) = &found.first_divergence {
            panic!("{}: {divergence:#?}\n{HINT}", path.display());
        }
        assert_eq!(found.identical, found.decisions, "{}", path.display());
        // Of an older engine the facts are folded; of this one everything is decided again.
        assert!(found.decisions + found.folded_decisions >= 400, "{}: {found:?}", path.display());
        // The state of this build is the one that was published, in every byte.
        assert!(found.snapshots_equal >= 4, "{}: {found:?}", path.display());
        assert_eq!(found.snapshots_not_compared, BTreeMap::new(), "{}: {HINT}", path.display());
    }
}

/// A lane that begins with any of the snapshots comes to the same end.
#[test]
fn golden_snapshots_are_begun_with() {
    for path in files() {
        let (mut recording, settings) = open(&path);
        for number in 0..recording.lanes() {
            let ends = [0, 10, 20].map(|seq_max| {
                let limit = Limit { seq_max, ..Limit::NONE };
                let begun = start(&mut recording, &settings, number, limit).unwrap();
                let Start { mut player, mut journal, from, passed_over } = begun;
                assert_eq!((from.seq, passed_over), (seq_max, vec![]), "{}", path.display());
                while let Some(batch) = journal.next_batch().unwrap() {
                    player.play(&mut recording, &batch, false).unwrap();
                }
                shown(player.lane().unwrap())
            });
            let [first, others @ ..] = ends;
            assert_eq!(others, [first.clone(), first], "{}: {HINT}", path.display());
        }
    }
}

/// A recording, batches by their seq, and what they left, by lane.
type States = (&'static str, &'static [u64], &'static [&'static str]);

/// Folding must give the same for ever.
const STATES: &[States] = &[(
    "level-4-engine-4.pmrec",
    &[15, 20],
    &[
        "lane 0 seq 15 57a9990323dcb50e48ae85cd5927f75b: 24 tasks, 20 leases, 4 waiting, 20 slots and 308815 in windows used, health 1",
        "lane 0 seq 20 c1be65dd7dfc08432ee65401491e32f0: 17 tasks, 17 leases, 0 waiting, 17 slots and 385337 in windows used, health 1",
        "lane 1 seq 15 8de694fa5f4c2d917d622874fbb024c5: 24 tasks, 22 leases, 2 waiting, 22 slots and 253712 in windows used, health 1",
        "lane 1 seq 20 7dc7f935fd444da316ec93d0b41baa6b: 17 tasks, 16 leases, 1 waiting, 16 slots and 336994 in windows used, health 1",
    ],
)];

#[test]
fn golden_journals_fold_to_the_same_state() {
    for (name, at, expected) in STATES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let (mut recording, settings) = open(&path);
        let mut found = Vec::new();
        for number in 0..recording.lanes() {
            let mut journal = Journal::open(&mut recording, number, &settings).unwrap();
            let mut player = Player::new(number, &settings);
            while let Some(batch) = journal.next_batch().unwrap() {
                player.play(&mut recording, &batch, false).unwrap();
                if at.contains(&batch.record.seq) {
                    found.push(shown(player.lane().unwrap()));
                }
            }
        }
        assert_eq!(found, *expected, "{name}: {HINT}");
    }
}

fn shown(lane: &Lane) -> String {
    let state = lane.state();
    let slots: u32 = state.fleet.iter().map(|(_, resource)| resource.slots_in_use).sum();
    let rates = state.fleet.iter().flat_map(|(_, resource)| &resource.rates);
    let used: u64 = rates.map(|rate| rate.window.used()).sum();
    format!(
        "lane {} seq {} {}: {} tasks, {} leases, {} waiting, {slots} slots and {used} in windows \
         used, health {}",
        state.lane,
        lane.seq(),
        lane.hash(),
        state.tasks.len(),
        state.leases.len(),
        state.backlog.len(),
        state.health_position,
    )
}
