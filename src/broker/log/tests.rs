use kafka_protocol::ResponseError;
use proptest::prelude::*;

use super::super::batch::tests::{Sent, decode, idempotent, plain, split, transactional};
use super::{Appended, Compaction, Isolation, Log};

const BOTH: [Isolation; 2] = [Isolation::Uncommitted, Isolation::Committed];

fn send(log: &mut Log, sent: &Sent, pairs: &[(&str, &str)]) -> Result<Appended, ResponseError> {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| (Some(*key), Some(*value))).collect();
    let batch = sent.batch(&pairs);
    match log.check(batch.header())? {
        Some(duplicate) => Ok(duplicate),
        None => Ok(log.append(2_000, &batch, false)),
    }
}

/// As many records as this.
fn send_count(log: &mut Log, sent: &Sent, count: usize) -> Result<i64, ResponseError> {
    send(log, sent, &vec![("k", "v"); count]).map(|appended| appended.base_offset)
}

/// What a consumer makes of a log, as Java's does: offset, key and value; and where it ends.
fn consume(
    log: &Log,
    isolation: Isolation,
    bytes_max: usize,
) -> (Vec<(i64, String, Option<String>)>, i64) {
    let (mut found, mut position) = (Vec::new(), log.start_offset());
    loop {
        let read = log.read(position, isolation, bytes_max, true).unwrap();
        let batches = split(read.records);
        if batches.is_empty() {
            return (found, position);
        }
        let mut aborted = read.aborted.unwrap_or_default();
        aborted.sort_by_key(|aborted| aborted.first_offset);
        let mut aborting = std::collections::BTreeSet::new();
        for batch in batches {
            let header = *batch.header();
            while aborted.first().is_some_and(|first| first.first_offset <= batch.last_offset()) {
                aborting.insert(aborted.remove(0).producer_id);
            }
            let from = position;
            position = batch.last_offset() + 1;
            if header.is_control() {
                if !batch.commits() {
                    aborting.remove(&header.producer_id);
                }
                continue;
            }
            if header.is_transactional() && aborting.contains(&header.producer_id) {
                continue;
            }
            let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            let records = decode(&batch).into_iter().filter(|record| record.offset >= from);
            found.extend(
                records.map(|one| (one.offset, text(one.key.unwrap()), one.value.map(text))),
            );
        }
    }
}

#[test]
fn a_producers_batches_follow_one_another_once() {
    use ResponseError::{InvalidProducerEpoch, OutOfOrderSequenceNumber};
    let log = &mut Log::default();
    let rows = [
        ("the first", idempotent(1, 0, 0), 2, Ok(0)),
        ("the second", idempotent(1, 0, 2), 1, Ok(2)),
        ("again", idempotent(1, 0, 2), 1, Ok(2)),
        ("the first again", idempotent(1, 0, 0), 2, Ok(0)),
        ("the first, other length", idempotent(1, 0, 0), 1, Err(OutOfOrderSequenceNumber)),
        ("a gap", idempotent(1, 0, 4), 1, Err(OutOfOrderSequenceNumber)),
        ("another producer", idempotent(2, 0, 0), 1, Ok(3)),
        ("a new epoch, not from 0", idempotent(1, 1, 3), 1, Err(OutOfOrderSequenceNumber)),
        ("a new epoch", idempotent(1, 1, 0), 1, Ok(4)),
        ("the old epoch", idempotent(1, 0, 3), 1, Err(InvalidProducerEpoch)),
        ("unknown, from any sequence", idempotent(3, 4, 17), 1, Ok(5)),
        ("to the largest sequence", idempotent(4, 0, i32::MAX - 1), 2, Ok(6)),
        ("and from 0 again", idempotent(4, 0, 0), 1, Ok(8)),
        ("over the largest sequence", idempotent(5, 0, i32::MAX), 2, Ok(9)),
        ("then 1", idempotent(5, 0, 1), 1, Ok(11)),
        ("then not 0", idempotent(5, 0, 0), 1, Err(OutOfOrderSequenceNumber)),
        ("not idempotent", plain(), 3, Ok(12)),
    ];
    for (name, sent, count, expected) in rows {
        assert_eq!(send_count(log, &sent, count), expected, "{name}");
    }
    assert_eq!(log.end_offset(), 15);
}

#[test]
fn five_batches_are_remembered() {
    let log = &mut Log::default();
    for sequence in 0..6 {
        assert_eq!(send_count(log, &idempotent(1, 0, sequence), 1), Ok(i64::from(sequence)));
    }
    assert_eq!(send_count(log, &idempotent(1, 0, 1), 1), Ok(1));
    let forgotten = send_count(log, &idempotent(1, 0, 0), 1);
    assert_eq!(forgotten, Err(ResponseError::OutOfOrderSequenceNumber));
}

#[test]
fn a_duplicate_is_answered_with_its_own_time() {
    let log = &mut Log::default();
    let sent = idempotent(1, 0, 0);
    let first = send(log, &sent, &[("a", "1"), ("b", "2")]);
    assert_eq!(first, Ok(Appended { base_offset: 0, log_append_time_ms: -1 }));
    let again = send(log, &sent, &[("a", "1"), ("b", "2")]);
    assert_eq!(again, Ok(Appended { base_offset: 0, log_append_time_ms: 1_001 }));
}

#[test]
fn sequences_go_on_over_transactions_and_begin_anew_with_the_epoch() {
    let log = &mut Log::default();
    assert_eq!(send_count(log, &transactional(1, 0, 0), 1), Ok(0));
    assert!(log.in_transaction(1, 0) && !log.in_transaction(1, 1) && !log.in_transaction(2, 0));
    let outside = send_count(log, &idempotent(1, 0, 1), 1);
    assert_eq!(outside, Err(ResponseError::InvalidTxnState));
    log.append_marker(0, 1, 0, true);
    assert!(!log.in_transaction(1, 0));
    assert_eq!(send_count(log, &transactional(1, 0, 1), 1), Ok(2));
    log.append_marker(0, 1, 1, false);
    let old = send_count(log, &transactional(1, 0, 2), 1);
    assert_eq!(old, Err(ResponseError::InvalidProducerEpoch));
    let gap = send_count(log, &transactional(1, 1, 2), 1);
    assert_eq!(gap, Err(ResponseError::OutOfOrderSequenceNumber));
    assert_eq!(send_count(log, &transactional(1, 1, 0), 1), Ok(4));
    let end = log.end_offset();
    log.append_marker(0, 1, 0, false);
    assert_eq!((log.end_offset(), log.last_stable_offset()), (end, 4), "of an old epoch");
}

#[test]
fn silent_producers_make_room() {
    let log = &mut Log::default();
    assert_eq!(send_count(log, &transactional(0, 0, 0), 1), Ok(0));
    for id in 1..2_010 {
        assert_eq!(send_count(log, &idempotent(id, 0, 0), 1), Ok(id));
    }
    assert!(log.in_transaction(0, 0), "an open transaction stays");
    assert_eq!(send_count(log, &idempotent(1, 0, 5), 1), Ok(2_010), "is unknown");
    let known = send_count(log, &idempotent(2_009, 0, 5), 1);
    assert_eq!(known, Err(ResponseError::OutOfOrderSequenceNumber));
}

/// Producer 1: a (aborted), producer 2: b (committed), producer 3: c (open), and plain d.
fn mixed() -> Log {
    let mut log = Log::default();
    for (sent, key) in [(transactional(1, 0, 0), "a"), (transactional(2, 0, 0), "b")] {
        send(&mut log, &sent, &[(key, "1"), (key, "2")]).unwrap();
    }
    log.append_marker(3_000, 1, 0, false);
    send(&mut log, &transactional(3, 0, 0), &[("c", "1")]).unwrap();
    log.append_marker(3_000, 2, 0, true);
    send(&mut log, &plain(), &[("d", "1")]).unwrap();
    log
}

#[test]
fn readers_of_committed_records_see_nothing_else() {
    let mut log = mixed();
    let keys = |log: &Log, isolation| {
        let (records, position) = consume(log, isolation, 1);
        (records.iter().map(|(_, key, _)| key.as_str()).collect::<String>(), position)
    };
    assert_eq!(log.last_stable_offset(), 5);
    assert_eq!(keys(&log, Isolation::Uncommitted), ("aabbcd".to_owned(), 8));
    assert_eq!(keys(&log, Isolation::Committed), ("bb".to_owned(), 5));
    log.append_marker(3_000, 3, 0, true);
    assert_eq!(log.last_stable_offset(), 9);
    assert_eq!(keys(&log, Isolation::Committed), ("bbcd".to_owned(), 9));
}

#[test]
fn reads_are_of_whole_batches_within_their_bound() {
    let log = mixed();
    let size = split(log.read(0, Isolation::Uncommitted, 0, true).unwrap().records)[0].size();
    let rows = [
        ("no bound", 0, usize::MAX, true, Ok((vec![0, 2, 4, 5, 6, 7], vec![(1, 0)]))),
        ("from inside a batch", 3, usize::MAX, true, Ok((vec![2, 4, 5, 6, 7], vec![(1, 0)]))),
        ("after the aborted", 5, usize::MAX, true, Ok((vec![5, 6, 7], vec![]))),
        ("one at least", 0, 0, true, Ok((vec![0], vec![(1, 0)]))),
        ("none", 0, size - 1, false, Ok((vec![], vec![]))),
        ("one", 0, size, false, Ok((vec![0], vec![(1, 0)]))),
        ("at the end", 8, usize::MAX, true, Ok((vec![], vec![]))),
        ("after it", 9, usize::MAX, true, Err(ResponseError::OffsetOutOfRange)),
        ("before it", -1, usize::MAX, true, Err(ResponseError::OffsetOutOfRange)),
    ];
    for (name, offset, bytes_max, one, expected) in rows {
        for isolation in BOTH {
            let found = log.read(offset, isolation, bytes_max, one).map(|read| {
                let offsets: Vec<i64> =
                    split(read.records).iter().map(|batch| batch.header().base_offset).collect();
                let aborted = read.aborted.map(|aborted| {
                    aborted
                        .iter()
                        .map(|one| (one.producer_id, one.first_offset))
                        .collect::<Vec<_>>()
                });
                (offsets, aborted)
            });
            let expected = expected.clone().map(|(offsets, aborted)| match isolation {
                Isolation::Uncommitted => (offsets, None),
                Isolation::Committed => {
                    (offsets.into_iter().filter(|offset| *offset < 5).collect(), Some(aborted))
                }
            });
            assert_eq!(found, expected, "{name}, {isolation:?}");
        }
    }
    assert_eq!(log.readable(0, Isolation::Uncommitted, 1), Ok(size));
    assert_eq!(log.readable(0, Isolation::Uncommitted, size + 1), Ok(2 * size));
    assert_eq!(log.readable(5, Isolation::Committed, 1), Ok(0));
}

#[test]
fn offsets_are_found_by_time() {
    let mut log = Log::default();
    for timestamp_ms in [1_000, 3_000, 2_000] {
        send(&mut log, &Sent { timestamp_ms, ..plain() }, &[("a", "1"), ("b", "2")]).unwrap();
    }
    let rows = [
        (0, Some((0, 1_000))),
        (1_001, Some((1, 1_001))),
        (1_002, Some((2, 3_000))),
        (3_001, Some((3, 3_001))),
        (3_002, None),
    ];
    for (timestamp_ms, expected) in rows {
        assert_eq!(log.first_since(timestamp_ms), expected, "{timestamp_ms}");
    }
    assert_eq!(log.newest(), Some((3, 3_001)));
    assert_eq!(Log::default().newest(), None);
}

#[test]
fn only_what_is_stable_is_evicted() {
    let mut log = mixed();
    let before = log.bytes();
    let mut evicted = Vec::new();
    while let Some((newest_ms, bytes)) = log.oldest() {
        log.evict_oldest();
        evicted.push((log.start_offset(), newest_ms, before - log.bytes() - bytes));
    }
    let offsets: Vec<i64> = evicted.iter().map(|(offset, _, _)| *offset).collect();
    assert_eq!(offsets, [2, 4, 5]);
    assert_eq!(evicted.first().map(|(_, newest_ms, rest)| (*newest_ms, *rest)), Some((1_001, 0)));
    assert_eq!(
        log.read(4, Isolation::Committed, 1, true).err(),
        Some(ResponseError::OffsetOutOfRange)
    );
    log.append_marker(0, 3, 0, true);
    while log.oldest().is_some() {
        log.evict_oldest();
    }
    assert_eq!((log.start_offset(), log.end_offset(), log.bytes()), (9, 9, 0));
    assert!(log.aborted.is_empty());
    assert_eq!(send_count(&mut log, &plain(), 1), Ok(9));
}

fn rules() -> Compaction {
    Compaction { dirty_ratio: 0.5, delete_retention_ms: 100, lag_ms_min: 0, lag_ms_max: i64::MAX }
}

fn kept(log: &Log) -> Vec<(i64, String, Option<String>)> {
    consume(log, Isolation::Committed, usize::MAX).0
}

fn row(offset: i64, key: &str, value: &str) -> (i64, String, Option<String>) {
    (offset, key.to_owned(), Some(value.to_owned()))
}

#[test]
fn the_latest_of_every_key_stays_where_it_is() {
    let mut log = Log::default();
    send(&mut log, &plain(), &[("a", "1"), ("b", "1"), ("a", "2")]).unwrap();
    send(&mut log, &idempotent(9, 0, 0), &[("b", "2"), ("c", "1")]).unwrap();
    send(&mut log, &plain(), &[("c", "2")]).unwrap();
    log.compact(0, &rules());
    // What is in the last batch is not known yet.
    assert_eq!(
        kept(&log),
        [row(2, "a", "2"), row(3, "b", "2"), row(4, "c", "1"), row(5, "c", "2")]
    );
    let read = log.read(0, Isolation::Uncommitted, usize::MAX, true).unwrap();
    let first = split(read.records).remove(0);
    assert_eq!((first.header().base_offset, first.last_offset()), (0, 2));
    assert_eq!(decode(&first)[0].headers.len(), 1);
    let again = send_count(&mut log, &idempotent(9, 0, 0), 2);
    assert_eq!(again, Ok(3), "a duplicate is known as before");
    let bytes = log.bytes();
    log.compact(0, &rules());
    assert_eq!(log.bytes(), bytes, "nothing more goes");
}

#[test]
fn tombstones_stay_for_their_time() {
    let mut log = Log::default();
    send(&mut log, &plain(), &[("a", "1")]).unwrap();
    let tombstone = plain().batch(&[(Some("a"), None), (Some("b"), Some("1"))]);
    log.append(0, &tombstone, false);
    send(&mut log, &plain(), &[("c", "1")]).unwrap();
    send(&mut log, &plain(), &[("d", "1")]).unwrap();
    let gone = [row(2, "b", "1"), row(3, "c", "1"), row(4, "d", "1")];
    let there = [&[(1, "a".to_owned(), None)], &gone[..]].concat();
    for (now_ms, expected) in [(1_000, &there[..]), (1_099, &there), (1_100, &gone)] {
        log.compact(now_ms, &rules());
        assert_eq!(kept(&log), expected, "{now_ms}");
    }
}

#[test]
fn what_was_aborted_goes_and_its_marker_later() {
    let mut log = Log::default();
    send(&mut log, &transactional(1, 0, 0), &[("a", "1")]).unwrap();
    log.append_marker(0, 1, 0, true);
    send(&mut log, &transactional(1, 0, 1), &[("a", "2"), ("b", "2")]).unwrap();
    log.append_marker(0, 1, 0, false);
    send(&mut log, &plain(), &[("c", "1")]).unwrap();
    send(&mut log, &plain(), &[("d", "1")]).unwrap();
    let markers = |log: &Log| {
        let read = log.read(0, Isolation::Uncommitted, usize::MAX, true).unwrap();
        let batches = split(read.records).into_iter().filter(|batch| batch.header().is_control());
        batches.map(|batch| batch.last_offset()).collect::<Vec<i64>>()
    };
    let expected = [row(0, "a", "1"), row(5, "c", "1"), row(6, "d", "1")];
    for (now_ms, marked) in [(0, vec![1, 4]), (50, vec![1, 4]), (200, vec![1])] {
        log.compact(now_ms, &rules());
        assert_eq!(kept(&log), expected, "{now_ms}");
        assert_eq!(markers(&log), marked, "{now_ms}");
    }
    assert!(log.aborted.is_empty());
}

#[test]
fn an_open_transaction_and_what_follows_are_not_compacted() {
    let mut log = Log::default();
    for value in ["1", "2"] {
        send(&mut log, &plain(), &[("a", value)]).unwrap();
    }
    send(&mut log, &transactional(1, 0, 0), &[("b", "1")]).unwrap();
    for value in ["3", "4", "5"] {
        send(&mut log, &plain(), &[("a", value)]).unwrap();
    }
    log.compact(0, &rules());
    assert_eq!(kept(&log), [row(1, "a", "2")]);
    log.append_marker(0, 1, 0, true);
    log.compact(0, &rules());
    assert_eq!(kept(&log), [row(2, "b", "1"), row(5, "a", "5")]);
}

#[test]
fn readers_come_to_the_end_of_what_was_compacted_away() {
    let mut log = Log::default();
    send(&mut log, &plain(), &[("a", "1")]).unwrap();
    send(&mut log, &transactional(1, 0, 0), &[("a", "2")]).unwrap();
    log.append_marker(0, 1, 0, false);
    send(&mut log, &transactional(1, 0, 1), &[("a", "3")]).unwrap();
    for now_ms in [0, 1_000, 2_000] {
        log.compact(now_ms, &rules());
        let expected = (vec![row(0, "a", "1")], 3);
        assert_eq!(consume(&log, Isolation::Committed, 1), expected, "{now_ms}");
    }
}

#[test]
fn young_records_are_left_alone() {
    let mut log = Log::default();
    for timestamp_ms in [1_000, 2_000, 3_000] {
        let sent = Sent { timestamp_ms, ..plain() };
        send(&mut log, &sent, &[("a", "1")]).unwrap();
    }
    let rules = Compaction { lag_ms_min: 1_000, ..rules() };
    log.compact(2_500, &rules);
    assert_eq!(kept(&log).len(), 3);
    log.compact(3_000, &rules);
    assert_eq!(kept(&log), [row(1, "a", "1"), row(2, "a", "1")]);
}

#[test]
fn a_compaction_is_due_by_share_and_by_time() {
    let mut log = Log::default();
    let big = "x".repeat(3_000);
    let rules = Compaction { lag_ms_max: 5_000, ..rules() };
    assert!(!log.is_due(9_000, &rules));
    for _ in 0..5 {
        assert!(!log.is_dirty(&rules));
        send(&mut log, &plain(), &[("a", &big)]).unwrap();
    }
    assert!(!log.is_dirty(&rules) && log.is_due(2_000, &rules));
    send(&mut log, &plain(), &[("a", &big)]).unwrap();
    assert!(log.is_dirty(&rules));
    log.compact(2_000, &rules);
    assert!(!log.is_dirty(&rules) && !log.is_due(2_000, &rules));
    send(&mut log, &plain(), &[("b", "1")]).unwrap();
    assert!(!log.is_due(7_000, &rules) && log.is_due(7_001, &rules));
}

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
