//! Compaction: what stays, what goes, and when.

use super::*;

pub fn rules() -> Compaction {
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
