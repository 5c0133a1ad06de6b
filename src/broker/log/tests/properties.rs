//! Readers and compaction against plain lists.

use proptest::prelude::*;

use super::compaction::rules;
use super::*;

#[derive(Debug, Clone)]
enum Step {
    Write { producer: i64, keys: Vec<u8> },
    Plain { keys: Vec<u8> },
    End { producer: i64, commit: bool },
    Compact,
    Evict,
}

fn steps(with_changes: bool) -> impl Strategy<Value = Vec<Step>> {
    let keys = || proptest::collection::vec(0_u8..6, 1..4);
    let step = prop_oneof![
        4 => (0_i64..4, keys()).prop_map(|(producer, keys)| Step::Write { producer, keys }),
        2 => keys().prop_map(|keys| Step::Plain { keys }),
        3 => (0_i64..4, any::<bool>()).prop_map(|(producer, commit)| Step::End { producer, commit }),
        u32::from(with_changes) => Just(Step::Compact),
        u32::from(with_changes) => Just(Step::Evict),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A record as the naive model has it. `open` is its producer while the transaction is.
struct Known {
    row: (i64, String, Option<String>),
    open: Option<i64>,
    aborted: bool,
}

/// Runs the steps on a log, and on a plain list of records. Every third value is a tombstone.
fn run(steps: &[Step]) -> (Log, Vec<Known>) {
    let (mut log, mut model) = (Log::default(), Vec::<Known>::new());
    let mut sequences = [0; 4];
    for (now_ms, step) in (0..).zip(steps) {
        let (sent, keys) = match step {
            Step::Write { producer, keys } => {
                let sequence = &mut sequences[usize::try_from(*producer).unwrap()];
                let sent = transactional(*producer, 0, *sequence);
                *sequence += i32::try_from(keys.len()).unwrap();
                (sent, keys)
            }
            Step::Plain { keys } => (plain(), keys),
            Step::End { producer, commit } => {
                log.append_marker(now_ms, *producer, 0, *commit);
                for known in model.iter_mut().filter(|known| known.open == Some(*producer)) {
                    known.open = None;
                    known.aborted = !commit;
                }
                continue;
            }
            Step::Compact => {
                log.compact(now_ms * 50, &rules());
                continue;
            }
            Step::Evict => {
                if log.oldest().is_some() {
                    log.evict_oldest();
                }
                continue;
            }
        };
        let open = sent.transactional.then_some(sent.producer_id);
        let rows: Vec<_> = (log.end_offset()..)
            .zip(keys)
            .map(|(offset, key)| {
                let value = (offset % 3 != 0).then(|| format!("v{offset}"));
                (offset, format!("k{key}"), value)
            })
            .collect();
        let pairs: Vec<_> =
            rows.iter().map(|(_, key, value)| (Some(&**key), value.as_deref())).collect();
        let batch = sent.batch(&pairs);
        assert_eq!(log.check(batch.header()), Ok(None));
        log.append(now_ms, &batch, false);
        model.extend(rows.into_iter().map(|row| Known { row, open, aborted: false }));
    }
    (log, model)
}

/// What a reader is to see, if nothing was taken out.
fn visible(log: &Log, model: &[Known], isolation: Isolation) -> Vec<(i64, String, Option<String>)> {
    let first_open = model.iter().find(|known| known.open.is_some());
    let end = match (isolation, first_open) {
        (Isolation::Committed, Some(open)) => open.row.0,
        (Isolation::Committed, None) | (Isolation::Uncommitted, _) => log.end_offset(),
    };
    assert_eq!(log.visible_end(isolation), end);
    let seen = |known: &&Known| isolation == Isolation::Uncommitted || !known.aborted;
    let known = model.iter().filter(|known| known.row.0 < end).filter(seen);
    known.map(|known| known.row.clone()).collect()
}

proptest! {
    #[test]
    fn readers_see_what_a_plain_list_shows(steps in steps(false), bytes_max in 0_usize..1_000) {
        let (log, model) = run(&steps);
        for isolation in BOTH {
            let expected = visible(&log, &model, isolation);
            let (found, position) = consume(&log, isolation, bytes_max);
            prop_assert_eq!(found, expected);
            prop_assert_eq!(position, log.visible_end(isolation));
        }
    }

    /// Compaction and eviction change nothing that was not replaced, aborted, deleted or evicted.
    #[test]
    fn compaction_keeps_the_latest(steps in steps(true), bytes_max in 0_usize..1_000) {
        let (mut log, model) = run(&steps);
        for now_ms in [5_000, 10_000] {
            let all = visible(&log, &model, Isolation::Committed);
            let all: Vec<_> = all.into_iter().filter(|row| row.0 >= log.start_offset()).collect();
            let (found, position) = consume(&log, Isolation::Committed, bytes_max);
            prop_assert_eq!(position, log.visible_end(Isolation::Committed));
            prop_assert!(found.iter().all(|row| all.contains(row)));
            let table = |rows: &[(i64, String, Option<String>)]| {
                let rows = rows.iter().map(|(_, key, value)| (key.clone(), value.clone()));
                let mut table: std::collections::BTreeMap<_, _> = rows.collect();
                table.retain(|_, value| value.is_some());
                table
            };
            prop_assert_eq!(table(&found), table(&all));
            let bytes: usize = log.batches.iter().map(|kept| Log::cost(kept.batch.size())).sum();
            prop_assert_eq!(log.bytes(), bytes);
            log.compact(now_ms, &rules());
        }
    }
}
