use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};

use super::super::batch::tests::plain;
use super::super::log::Isolation;
use super::super::topics::tests::{encode_all, name, topics};
use super::*;

#[test]
fn what_comes_before_an_offset_goes() {
    let compacted: &[(&str, &str)] = &[("cleanup.policy", "compact")];
    let mut topics = topics(&[("a", 2, &[]), ("c", 1, compacted)]);
    let id = topics.id("a", 0).unwrap();
    for _ in 0..3 {
        topics.append(0, id, &plain().batch(&[(None, Some("1")), (None, Some("2"))])).unwrap();
    }
    // Topic, partition and offset; the error's code and where the log begins.
    let rows = [
        ("nothing", "a", 0, 0, (0, 0)),
        ("within a batch", "a", 0, 3, (0, 3)),
        ("what is gone already", "a", 0, 1, (0, 3)),
        ("behind the end", "a", 0, 7, (1, -1)),
        ("no offset", "a", 0, -2, (1, -1)),
        ("everything", "a", 0, -1, (0, 6)),
        ("an empty log", "a", 1, -1, (0, 0)),
        ("no such partition", "a", 2, 0, (3, -1)),
        ("no such topic", "b", 0, 0, (3, -1)),
        ("a log that is compacted alone", "c", 0, 0, (44, -1)),
    ];
    for (about, topic, partition, offset, expected) in rows {
        let asked =
            DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
        let asked =
            DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![asked]);
        let request = DeleteRecordsRequest::default().with_topics(vec![asked]);
        let response = delete_records(&mut topics, &request);
        encode_all(&response.clone().into());
        let found = &response.topics[0].partitions[0];
        assert_eq!((found.error_code, found.low_watermark), expected, "{about}");
        if about == "within a batch" {
            let log = topics.log("a", 0).unwrap();
            let read = |offset| log.read(offset, Isolation::Uncommitted, 1_000, true);
            assert_eq!(read(2), Err(ResponseError::OffsetOutOfRange));
            // Both batches that are left, the first from its beginning: readers leave out what is gone.
            assert!(read(3).unwrap().records.len() > read(4).unwrap().records.len());
            assert_eq!(log.first_since(0).map(|(offset, _)| offset), Some(3));
        }
    }
    let log = topics.log("a", 0).unwrap();
    assert_eq!((log.start_offset(), log.end_offset(), log.bytes()), (6, 6, 0));
    assert_eq!(topics.append(0, id, &plain().batch(&[(None, Some("3"))])).unwrap().base_offset, 6);
}
