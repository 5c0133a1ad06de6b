use kafka_protocol::messages::list_offsets_request::ListOffsetsTopic;

use super::super::batch::tests::{Sent, plain, transactional};
use super::super::topics::tests::{name, topics};
use super::super::wire;
use super::*;

#[test]
fn offsets_are_listed() {
    let mut topics = topics(&[("a", 2, &[])]);
    let id = topics.id("a", 0).unwrap();
    let two = &[(None, Some("1")), (None, Some("2"))];
    for timestamp_ms in [1_000, 9_000, 2_000] {
        let batch = Sent { timestamp_ms, ..plain() }.batch(two);
        topics.append(0, id, &batch).unwrap();
    }
    let open = Sent { timestamp_ms: 20_000, ..transactional(1, 0, 0) };
    topics.append(0, id, &open.batch(two)).unwrap();
    topics.log_mut("a", 0).unwrap().evict_oldest();
    let ask = |version, isolation, partition, timestamp, epoch| {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(timestamp)
            .with_current_leader_epoch(epoch);
        let asked = ListOffsetsTopic::default().with_name(name("a")).with_partitions(vec![asked]);
        let request =
            ListOffsetsRequest::default().with_isolation_level(isolation).with_topics(vec![asked]);
        let response = list_offsets(&topics, version, &request);
        wire::encode(&response.clone().into(), version, 1).unwrap();
        let found = &response.topics[0].partitions[0];
        (found.error_code, found.offset, found.timestamp, found.leader_epoch)
    };
    let rows = [
        ("latest", 0, 0, -1, -1, (0, 8, -1, 0)),
        ("latest, committed", 1, 0, -1, -1, (0, 6, -1, 0)),
        ("earliest", 0, 0, -2, -1, (0, 2, -1, 0)),
        ("newest", 0, 0, -3, -1, (0, 7, 20_001, 0)),
        ("newest is not committed", 1, 0, -3, -1, (0, -1, -1, -1)),
        ("by time, evicted", 0, 0, 0, -1, (0, 2, 9_000, 0)),
        ("by time", 0, 0, 9_001, -1, (0, 3, 9_001, 0)),
        ("by time, open", 0, 0, 10_000, -1, (0, 6, 20_000, 0)),
        ("by time, not committed", 1, 0, 10_000, -1, (0, -1, -1, -1)),
        ("by time, none", 0, 0, 30_000, -1, (0, -1, -1, -1)),
        ("empty", 0, 1, -1, 0, (0, 0, -1, 0)),
        ("empty, by time", 0, 1, 1, 0, (0, -1, -1, -1)),
        ("unknown epoch", 0, 0, -1, 1, (75, -1, -1, -1)),
        ("unknown partition", 0, 2, -1, -1, (3, -1, -1, -1)),
    ];
    for (about, isolation, partition, timestamp, epoch, expected) in rows {
        assert_eq!(ask(4, isolation, partition, timestamp, epoch), expected, "{about}");
    }
    for version in 1..=7 {
        let epoch = if version < 4 { -1 } else { 0 };
        assert_eq!(ask(version, 0, 0, -1, -1), (0, 8, -1, epoch), "version {version}");
    }
}
