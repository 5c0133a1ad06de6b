mod compaction;
mod properties;

use kafka_protocol::ResponseError;

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
