use kafka_protocol::messages::DeleteTopicsRequest;
use kafka_protocol::messages::fetch_request::FetchTopic;

use super::super::batch::tests::{plain, split, transactional};
use super::super::topics::tests::{name, topics};
use super::super::wire::{self, Reply};
use super::*;

/// Topic, partition, offset, and the most bytes.
type Asked<'a> = (&'a str, i32, i64, i32);

fn request(asked: &[Asked<'_>]) -> FetchRequest {
    let topics = asked.iter().map(|(topic, partition, offset, bytes_max)| {
        let partition = FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(*bytes_max);
        FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition])
    });
    FetchRequest::default()
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(i32::MAX)
        .with_topics(topics.collect())
}

fn append(topics: &mut Topics, topic: &str, partition: i32) {
    let id = topics.id(topic, partition).unwrap();
    topics.append(0, id, &plain().batch(&[(None, Some("1"))])).unwrap();
}

/// What one partition of an answer says: error, base offsets, end, stable end, start, aborted.
type Row = (i16, Vec<i64>, i64, i64, i64, Option<Vec<(i64, i64)>>);

fn rows(reply: &Reply) -> Vec<Row> {
    for version in 4..=12 {
        wire::encode(reply, version, 1).unwrap();
    }
    let Reply::Fetch(response) = reply else { panic!("{reply:?}") };
    let partitions = response.responses.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|data| {
            let batches = split(data.records.clone().expect("never null"));
            let aborted = data.aborted_transactions.as_ref().map(|aborted| {
                aborted.iter().map(|one| (one.producer_id.0, one.first_offset)).collect()
            });
            (
                data.error_code,
                batches.iter().map(|batch| batch.header().base_offset).collect(),
                data.high_watermark,
                data.last_stable_offset,
                data.log_start_offset,
                aborted,
            )
        })
        .collect()
}

/// Settles, and takes the answers there are.
fn answers(
    fetches: &mut Fetches,
    topics: &mut Topics,
    now_ms: i64,
    replies: &mut Replies,
) -> Vec<(u64, Vec<Row>)> {
    topics.keep_bounds(now_ms);
    fetches.wake(topics, now_ms, replies);
    replies.drain(..).map(|(ticket, reply)| (ticket.0, rows(&reply))).collect()
}

fn read(topics: &Topics, request: FetchRequest) -> Vec<Row> {
    let (mut fetches, mut replies) = (Fetches::default(), Replies::new());
    fetches.fetch(topics, 0, Ticket(1), request, &mut replies);
    assert_eq!(replies.len(), 1);
    replies.drain(..).flat_map(|(_, reply)| rows(&reply)).collect()
}

const MUCH: i32 = 1 << 20;

#[test]
fn what_is_there_is_answered_at_once() {
    let mut topics = topics(&[("a", 2, &[])]);
    let id = topics.id("a", 0).unwrap();
    for _ in 0..2 {
        append(&mut topics, "a", 0);
    }
    topics.append(0, id, &transactional(7, 0, 0).batch(&[(None, Some("1"))])).unwrap();
    topics.log_mut("a", 0).unwrap().append_marker(0, 7, 0, false);
    topics.append(0, id, &transactional(8, 0, 0).batch(&[(None, Some("1"))])).unwrap();
    append(&mut topics, "a", 1);
    let committed = |request: FetchRequest| request.with_isolation_level(1);
    let all = || vec![0, 1, 2, 3, 4];
    let none = (0, vec![], 5, 4, 0, None);
    let unknown = || (3, vec![], -1, -1, -1, Some(vec![]));
    let wrong = |code| (code, vec![], -1, -1, -1, None);
    let one = i32::try_from(plain().batch(&[(None, Some("1"))]).size()).unwrap();
    let cases = [
        ("all", request(&[("a", 0, 0, MUCH)]), vec![(0, all(), 5, 4, 0, None)]),
        (
            "committed",
            committed(request(&[("a", 0, 1, MUCH)])),
            vec![(0, vec![1, 2, 3], 5, 4, 0, Some(vec![(7, 2)]))],
        ),
        ("one at least", request(&[("a", 0, 1, 0)]), vec![(0, vec![1], 5, 4, 0, None)]),
        (
            "one at least, of the first only",
            request(&[("a", 0, 1, 0), ("a", 1, 0, 0)]),
            vec![(0, vec![1], 5, 4, 0, None), (0, vec![], 1, 1, 0, None)],
        ),
        (
            "the first that has any",
            request(&[("a", 0, 5, 0), ("a", 1, 0, 0)]),
            vec![none.clone(), (0, vec![0], 1, 1, 0, None)],
        ),
        (
            "within the whole bound",
            request(&[("a", 0, 0, MUCH), ("a", 1, 0, MUCH)]).with_max_bytes(2 * one),
            vec![(0, vec![0, 1], 5, 4, 0, None), (0, vec![], 1, 1, 0, None)],
        ),
        ("out of range", request(&[("a", 0, 6, MUCH)]), vec![wrong(1)]),
        ("negative", request(&[("a", 0, -1, MUCH)]), vec![wrong(1)]),
        (
            "no such partition",
            request(&[("a", 0, 5, MUCH), ("a", 2, 0, MUCH)]),
            vec![none.clone(), unknown()],
        ),
        ("no such topic", request(&[("b", 0, 0, MUCH)]), vec![unknown()]),
        ("no wait", request(&[("a", 0, 5, MUCH)]).with_max_wait_ms(0), vec![none.clone()]),
        ("nothing asked", request(&[("a", 0, 5, MUCH)]).with_min_bytes(0), vec![none]),
        ("no partitions", request(&[]), vec![]),
    ];
    for (about, request, expected) in cases {
        assert_eq!(read(&topics, request), expected, "{about}");
    }
    let mut ahead = request(&[("a", 0, 0, MUCH)]);
    ahead.topics[0].partitions[0].current_leader_epoch = 1;
    assert_eq!(read(&topics, ahead), [wrong(75)]);
}

#[test]
fn there_are_no_sessions() {
    let topics = topics(&[("a", 1, &[])]);
    let (mut fetches, mut replies) = (Fetches::default(), Replies::new());
    let request = request(&[("a", 0, 0, MUCH)]).with_session_id(5);
    fetches.fetch(&topics, 0, Ticket(1), request, &mut replies);
    let Some((_, Reply::Fetch(response))) = replies.pop_front() else { panic!() };
    assert_eq!((response.error_code, response.session_id), (70, 0));
}

#[test]
fn a_fetch_waits_for_records_time_or_an_error() {
    let mut topics = topics(&[("a", 3, &[]), ("b", 1, &[])]);
    let (mut fetches, mut replies) = (Fetches::default(), Replies::new());
    let asked = [
        request(&[("a", 0, 0, MUCH), ("a", 1, 0, MUCH)]),
        request(&[("a", 1, 0, MUCH)]).with_min_bytes(100),
        request(&[("a", 2, 0, MUCH)]).with_isolation_level(1),
        request(&[("a", 0, 0, MUCH)]).with_max_wait_ms(300),
        request(&[("b", 0, 0, MUCH)]),
        request(&[("b", 0, 0, MUCH)]),
    ];
    for (ticket, request) in (1..).zip(asked) {
        fetches.fetch(&topics, 1_000, Ticket(ticket), request, &mut replies);
    }
    let mut after = |now_ms, change: &mut dyn FnMut(&mut Topics, &mut Fetches)| {
        change(&mut topics, &mut fetches);
        (answers(&mut fetches, &mut topics, now_ms, &mut replies), fetches.due_ms())
    };
    let some = |base: i64, end| (0, vec![base], end, end, 0, None);
    let none = (0, vec![], 0, 0, 0, None);
    assert_eq!(after(1_000, &mut |_, _| {}), (vec![], Some(1_300)));
    let found = after(1_000, &mut |topics, _| append(topics, "a", 1));
    assert_eq!(found, (vec![(1, vec![none.clone(), some(0, 1)])], Some(1_300)));
    assert_eq!(after(1_299, &mut |_, _| {}).0, []);
    assert_eq!(after(1_300, &mut |_, _| {}), (vec![(4, vec![none])], Some(1_500)));
    let found = after(1_301, &mut |topics, _| append(topics, "a", 1));
    assert_eq!(found.0, [(2, vec![(0, vec![0, 1], 2, 2, 0, None)])]);
    // What is in an open transaction is nothing for a reader of committed records.
    let begin = &mut |topics: &mut Topics, _: &mut Fetches| {
        let id = topics.id("a", 2).unwrap();
        topics.append(0, id, &transactional(1, 0, 0).batch(&[(None, Some("1"))])).unwrap();
    };
    assert_eq!(after(1_302, begin).0, []);
    let commit = &mut |topics: &mut Topics, _: &mut Fetches| {
        topics.log_mut("a", 2).unwrap().append_marker(0, 1, 0, true);
    };
    assert_eq!(after(1_303, commit).0, [(3, vec![(0, vec![0, 1], 2, 2, 0, Some(vec![]))])]);
    // One client goes; the other hears that the topic is gone.
    let delete = &mut |topics: &mut Topics, fetches: &mut Fetches| {
        fetches.forget(Ticket(5));
        topics.delete(&DeleteTopicsRequest::default().with_topic_names(vec![name("b")]));
    };
    assert_eq!(
        after(1_304, delete),
        (vec![(6, vec![(3, vec![], -1, -1, -1, Some(vec![]))])], None)
    );
    assert!(fetches.waiting.is_empty() && fetches.by_log.is_empty() && fetches.by_time.is_empty());
}
