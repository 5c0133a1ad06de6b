use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::super::batch::tests::{plain, transactional};
use super::super::log::Log;
use super::super::wire::{self, Reply};
use super::super::{NODE, Settings};
use super::*;

pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub fn name(name: &str) -> TopicName {
    text(name).into()
}

pub fn topic(topic: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let configs = configs.iter().map(|(name, value)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    });
    CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(configs.collect())
}

type Setting<'a> = (&'a str, &'a str);

/// Topics, each with its partitions and settings.
pub fn topics(all: &[(&str, i32, &[Setting<'_>])]) -> Topics {
    let mut topics = Topics::new(&Settings::default());
    for (name, partitions, configs) in all {
        assert_eq!(create(&mut topics, topic(name, *partitions, configs)), (0, String::new()));
    }
    topics
}

/// Error code and text.
fn create(topics: &mut Topics, topic: CreatableTopic) -> (i16, String) {
    let request = CreateTopicsRequest::default().with_topics(vec![topic]);
    let response = topics.create(request);
    encode_all(&response.clone().into());
    let result = &response.topics[0];
    (result.error_code, result.error_message.as_deref().unwrap_or_default().to_owned())
}

/// Every version that is served can carry it.
pub fn encode_all(reply: &Reply) {
    for (api, min, max) in wire::SERVED {
        if *api == reply.api() {
            for version in *min..=*max {
                wire::encode(reply, version, 1).unwrap();
            }
        }
    }
}

fn counts(topics: &Topics) -> Vec<(&str, usize)> {
    topics.topics.iter().map(|(name, topic)| (name.as_str(), topic.partitions.len())).collect()
}

#[test]
fn topics_are_created_as_kafka_would() {
    let settings = Settings { partitions_max: 10, ..Settings::default() };
    let mut topics = Topics::new(&settings);
    let assigned = CreatableReplicaAssignment::default().with_broker_ids(vec![NODE]);
    let assigned = topic("e", -1, &[]).with_assignments(vec![assigned]);
    let copies = |topic: CreatableTopic, copies| topic.with_replication_factor(copies);
    let rows = [
        (topic("a", 2, &[]), 0, ""),
        (topic("b", -1, &[("cleanup.policy", "compact,delete")]), 0, ""),
        (copies(topic("c", 1, &[]), 1), 0, ""),
        (topic("d", 2, &[]), 0, ""),
        (topic("a", 2, &[]), 36, "Topic 'a' already exists."),
        (topic("no/good", 1, &[]), 17, "Topic name is invalid"),
        (topic("x.y", 1, &[]), 0, ""),
        (topic("x_y", 1, &[]), 17, "Topic 'x_y' collides with existing topic: x.y"),
        (topic("e", 0, &[]), 37, "Number of partitions was set to an invalid non-positive value."),
        (topic("e", -2, &[]), 37, "Number of partitions was set to"),
        (copies(topic("e", 1, &[]), 3), 38, "Unable to replicate the partition 3 time(s)"),
        (copies(topic("e", 1, &[]), 0), 38, "Replication factor must be larger than 0"),
        (assigned, 39, "Partitions cannot be assigned"),
        (topic("e", 1, &[("no.such", "1")]), 40, "Unknown topic config name: no.such"),
        (
            topic("e", 1, &[("retention.ms", "a day")]),
            40,
            "Invalid value a day for configuration retention.ms: Not a number of type LONG",
        ),
        (
            topic("e", 1, &[("retention.ms", "-2")]),
            40,
            "Invalid value -2 for configuration retention.ms: Value must be at least -1",
        ),
        (topic("e", 1, &[("min.cleanable.dirty.ratio", "1.5")]), 40, "Invalid value 1.5"),
        (topic("e", 1, &[("preallocate", "perhaps")]), 40, "Invalid value perhaps"),
        (
            topic("e", 1, &[("max.message.bytes", "99999999999")]),
            40,
            "Invalid value 99999999999 for configuration max.message.bytes: Not a number of type INT",
        ),
        (
            topic(
                "e",
                1,
                &[
                    ("cleanup.policy", "compact"),
                    ("min.compaction.lag.ms", "10"),
                    ("max.compaction.lag.ms", "5"),
                ],
            ),
            40,
            "conflict topic config setting min.compaction.lag.ms (10) > max.compaction.lag.ms (5)",
        ),
        (
            topic("e", 1, &[("cleanup.policy", "shred")]),
            40,
            "Invalid value shred for configuration cleanup.policy: String must be one of: \
             compact, delete",
        ),
        (topic("e", 4, &[]), 44, "This broker keeps at most 10 partitions."),
        (topic("e", 3, &[]), 0, ""),
    ];
    for (asked, code, text) in rows {
        let about = format!("{asked:?}");
        let (found, found_text) = create(&mut topics, asked);
        assert_eq!(found, code, "{about}: {found_text}");
        assert!(found_text.starts_with(text), "{about}: {found_text}");
    }
    assert_eq!(counts(&topics), [("a", 2), ("b", 1), ("c", 1), ("d", 2), ("e", 3), ("x.y", 1)]);
}

#[test]
fn a_request_that_only_validates_changes_nothing() {
    let mut topics = topics(&[("a", 1, &[])]);
    let request = CreateTopicsRequest::default()
        .with_topics(vec![topic("b", 1, &[]), topic("c", 1, &[]), topic("c", 2, &[])])
        .with_validate_only(true);
    let codes = topics.create(request).topics.iter().map(|one| one.error_code).collect::<Vec<_>>();
    assert_eq!(codes, [0, 42], "what is there twice is answered once");
    let more = CreatePartitionsTopic::default().with_name(name("a")).with_count(3);
    let more = more.with_assignments(None);
    let request =
        CreatePartitionsRequest::default().with_topics(vec![more]).with_validate_only(true);
    assert_eq!(topics.create_partitions(&request).results[0].error_code, 0);
    assert_eq!(counts(&topics), [("a", 1)]);
}

#[test]
fn partitions_are_added_and_topics_deleted() {
    let mut topics = topics(&[("a", 2, &[])]);
    let rows = [
        ("a", 2, 37, "Topic already has 2 partition(s)."),
        ("a", 1, 37, "The topic a currently has 2 partition(s); 1 would not be an increase."),
        ("a", -1, 37, "The topic a currently has 2 partition(s); -1 would not be an increase."),
        ("b", 1, 3, ""),
        ("a", 20_000, 44, "This broker keeps at most 10000 partitions."),
        ("a", 3, 0, ""),
    ];
    for (topic, count, code, text) in rows {
        let asked = CreatePartitionsTopic::default().with_name(name(topic)).with_count(count);
        let asked = asked.with_assignments(None);
        let response =
            topics.create_partitions(&CreatePartitionsRequest::default().with_topics(vec![asked]));
        let result = &response.results[0];
        let found = result.error_message.as_deref().unwrap_or_default();
        assert_eq!((result.error_code, found), (code, text), "{topic} {count}");
        encode_all(&response.into());
    }
    assert_eq!(counts(&topics), [("a", 3)]);
    let first = topics.id("a", 0).unwrap();
    topics.append(0, first, &plain().batch(&[(None, Some("1"))])).unwrap();
    let request = DeleteTopicsRequest::default().with_topic_names(vec![name("a"), name("b")]);
    let response = topics.delete(&request);
    assert_eq!(response.responses.iter().map(|one| one.error_code).collect::<Vec<_>>(), [0, 3]);
    encode_all(&response.into());
    assert_eq!((topics.bytes, topics.partitions.len()), (0, 0));
    assert_eq!(create(&mut topics, topic("a", 1, &[])).0, 0);
    assert_ne!(topics.id("a", 0), Some(first));
}

#[test]
fn metadata_tells_and_creates() {
    let mut topics = topics(&[("a", 2, &[])]);
    let settings = Settings::default();
    let mut ask = |version, names: Option<&[&str]>, may_create| {
        let asked = names.map(|names| {
            let names = names.iter();
            names.map(|one| MetadataRequestTopic::default().with_name(Some(name(one)))).collect()
        });
        let request = MetadataRequest::default()
            .with_topics(asked)
            .with_allow_auto_topic_creation(may_create);
        let response = topics.metadata(&settings, version, request);
        wire::encode(&response.clone().into(), version, 1).unwrap();
        let broker = &response.brokers[0];
        assert_eq!((broker.node_id, &*broker.host, broker.port), (NODE, "127.0.0.1", 9092));
        let topics = response.topics.iter();
        topics
            .map(|topic| {
                let name = topic.name.as_ref().unwrap().to_string();
                (name, topic.error_code, topic.partitions.len())
            })
            .collect::<Vec<_>>()
    };
    for version in 0..=12 {
        let rows = [
            (None, false, vec![("a", 0, 2)]),
            (Some(&["b"][..]), false, vec![("b", 3, 0)]),
            (Some(&["a", "b/"]), true, vec![("a", 0, 2), ("b/", 17, 0)]),
            (Some(&["b/"]), false, vec![("b/", 17, 0)]),
        ];
        for (names, may_create, expected) in rows {
            let found = ask(version, names, may_create);
            let found: Vec<_> =
                found.iter().map(|(name, code, many)| (&**name, *code, *many)).collect();
            assert_eq!(found, expected, "version {version}, {names:?}");
        }
    }
    assert_eq!(ask(0, Some(&[]), false).len(), 1, "version 0: none stands for all");
    assert_eq!(ask(1, Some(&[]), false).len(), 0);
    assert_eq!(ask(12, Some(&["made"]), true), [("made".to_owned(), 0, 1)]);
    let id = topics.topics["made"].id;
    for (asked, code) in [(id, 0), (Uuid::from_u128(1), 100)] {
        let asked = MetadataRequestTopic::default().with_name(None).with_topic_id(asked);
        let request = MetadataRequest::default().with_topics(Some(vec![asked]));
        let response = topics.metadata(&settings, 12, request);
        assert_eq!(response.topics[0].error_code, code);
        wire::encode(&response.into(), 12, 1).unwrap();
    }
}

#[test]
fn settings_are_described() {
    let topics = topics(&[("a", 1, &[("cleanup.policy", "compact"), ("retention.ms", "-1")])]);
    let describe = |kind, name: &str, keys: Option<&[&str]>| {
        let keys = keys.map(|keys| keys.iter().map(|key| text(key)).collect());
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(keys);
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![resource])
            .with_include_synonyms(true);
        let response = topics.describe_configs(&request);
        encode_all(&response.clone().into());
        response.results.into_iter().next().unwrap()
    };
    let some = describe(2, "a", Some(&["retention.ms", "max.message.bytes", "no.such"]));
    let found: Vec<_> = some
        .configs
        .iter()
        .map(|one| {
            let sources: Vec<i8> = one.synonyms.iter().map(|synonym| synonym.source).collect();
            (&*one.name, one.value.as_deref().unwrap(), one.config_source, sources)
        })
        .collect();
    let expected =
        [("max.message.bytes", "1048588", 5, vec![5]), ("retention.ms", "-1", 1, vec![1, 5])];
    assert_eq!(found, expected);
    assert_eq!(describe(2, "a", None).configs.len(), 33);
    let rows = [(2, "b", 3), (2, "b/", 17), (4, "1", 0), (4, "", 0), (4, "2", 42), (8, "1", 42)];
    for (kind, name, code) in rows {
        assert_eq!(describe(kind, name, None).error_code, code, "{kind} {name}");
    }
    let broker = describe(4, "1", Some(&["group.share.heartbeat.interval.ms"]));
    assert_eq!(broker.configs[0].value.as_deref(), Some("5000"));
}

/// One batch of about this many bytes.
fn fill(topics: &mut Topics, topic: &str, key: &str, bytes: usize) -> Result<i64, ResponseError> {
    let value = "x".repeat(bytes);
    let id = topics.id(topic, 0).unwrap();
    let batch = plain().batch(&[(Some(key), Some(&value))]);
    topics.append(1_000, id, &batch).map(|appended| appended.base_offset)
}

fn sum(topics: &Topics) -> usize {
    topics.partitions.values().map(|partition| partition.log.bytes()).sum()
}

#[test]
fn the_oldest_of_the_largest_makes_room() {
    let settings = Settings { log_bytes_max: 100_000, ..Settings::default() };
    let mut topics = Topics::new(&settings);
    for (name, policy) in [("big", "delete"), ("small", "delete"), ("table", "compact")] {
        create(&mut topics, topic(name, 1, &[("cleanup.policy", policy)]));
    }
    for _ in 0..5 {
        fill(&mut topics, "small", "a", 1_000).unwrap();
    }
    for index in 0..5 {
        fill(&mut topics, "table", &index.to_string(), 9_000).unwrap();
    }
    for _ in 0..100 {
        fill(&mut topics, "big", "a", 1_000).unwrap();
        topics.keep_bounds(1_000);
        assert!(topics.bytes <= 100_000);
        assert_eq!(topics.bytes, sum(&topics));
    }
    let starts = |topics: &Topics| {
        ["big", "small", "table"].map(|name| topics.log(name, 0).unwrap().start_offset())
    };
    let [big, small, table] = starts(&topics);
    assert!(big > 50 && small == 0 && table == 0, "{big} {small} {table}");
    // A table cannot be evicted: in the end nothing else is left.
    let (mut is_told, big) = (false, topics.id("big", 0).unwrap());
    let full = (0..).find_map(|index| {
        let result = fill(&mut topics, "table", &format!("more {index}"), 9_000);
        topics.keep_bounds(1_000);
        is_told |= topics.changed().contains(&big);
        result.err()
    });
    assert!(is_told, "who waits for what was evicted is asked again");
    assert_eq!(full, Some(ResponseError::KafkaStorageError));
    assert_eq!(topics.log("big", 0).unwrap().bytes(), 0);
    assert_eq!((topics.bytes, topics.bytes <= 100_000), (sum(&topics), true));
    let too_large = fill(&mut topics, "big", "a", 100_000);
    assert_eq!(too_large, Err(ResponseError::KafkaStorageError));
}

#[test]
fn an_open_transaction_keeps_its_place() {
    let settings = Settings { log_bytes_max: 20_000, ..Settings::default() };
    let mut topics = Topics::new(&settings);
    create(&mut topics, topic("a", 1, &[]));
    let id = topics.id("a", 0).unwrap();
    topics.append(0, id, &transactional(1, 0, 0).batch(&[(None, Some("1"))])).unwrap();
    let full = (0..).find_map(|_| fill(&mut topics, "a", "a", 1_000).err());
    assert_eq!(full, Some(ResponseError::KafkaStorageError));
    topics.log_mut("a", 0).unwrap().append_marker(0, 1, 0, true);
    topics.keep_bounds(0);
    assert_eq!(topics.bytes, sum(&topics));
    fill(&mut topics, "a", "a", 1_000).unwrap();
    assert!(topics.log("a", 0).unwrap().start_offset() > 0);
}

#[test]
fn old_batches_go_by_the_topics_own_bounds() {
    let mut topics = topics(&[
        ("old", 1, &[("retention.ms", "60000")]),
        ("long", 1, &[("retention.bytes", "2000")]),
        ("kept", 1, &[("retention.ms", "-1")]),
        ("table", 1, &[("retention.ms", "60000"), ("cleanup.policy", "compact")]),
    ]);
    for name in ["old", "long", "kept", "table"] {
        for index in 0..5 {
            fill(&mut topics, name, &index.to_string(), 1_000).unwrap();
        }
    }
    topics.keep_bounds(1_000);
    let starts = |topics: &Topics| {
        ["old", "long", "kept", "table"].map(|name| topics.log(name, 0).unwrap().start_offset())
    };
    topics.keep_bounds(300_999);
    assert_eq!(starts(&topics), [0, 0, 0, 0]);
    topics.keep_bounds(301_000);
    assert_eq!(starts(&topics), [5, 3, 0, 0]);
    assert_eq!(topics.bytes, sum(&topics));
    let changed = ["old", "long"].map(|name| topics.id(name, 0).unwrap());
    assert_eq!(topics.changed(), changed);
    topics.keep_bounds(301_001);
    assert_eq!(topics.changed(), []);
}

#[test]
fn tables_are_compacted_by_bytes_and_by_time() {
    let mut topics = topics(&[("table", 1, &[("cleanup.policy", "compact")])]);
    let mut largest = 0;
    for _ in 0..1_000 {
        fill(&mut topics, "table", "a", 1_000).unwrap();
        topics.keep_bounds(1_000);
        largest = largest.max(topics.bytes);
        assert_eq!(topics.bytes, sum(&topics));
    }
    assert!(largest < 40_000, "{largest}");
    topics.keep_bounds(16_000);
    assert!(topics.bytes <= 2 * Log::cost(1_200), "{}", topics.bytes);
    assert_eq!(topics.log("table", 0).unwrap().end_offset(), 1_000);
}
