//! The client and the codec against a real schema registry.

use pointsman::codec::{Codec, DecodeError, Header, OutputFormat, RawRecord, schema};
use pointsman::config::SchemaRegistry as Settings;
use pointsman::model::Topic;
use pointsman::model::task::Task;
use pointsman::registry::{Compatibility, Registry, subject};
use testbed::{SchemaRegistry, unique};

const OWN_SCHEMA: &str = r#"{"type": "record", "name": "Task", "namespace": "com.example", "fields": [
    {"name": "input_tokens", "type": "int"}, {"name": "task_id", "type": "string"}]}"#;

#[test]
#[ignore = "needs a schema registry: see ops/test"]
fn schemas_are_registered_found_checked_and_used() {
    let url = SchemaRegistry::shared().url().to_owned();
    let registry = Registry::new(&Settings { url, user: None, password: None }).unwrap();
    let topics = Topic::ALL.into_iter().filter(|topic| schema::of(*topic).is_some());
    let names: Vec<(Topic, String)> =
        topics.map(|topic| (topic, unique(topic.default_name()))).collect();

    for (topic, name) in &names {
        let text = schema::of(*topic).unwrap().text;
        assert_eq!(registry.lookup(&subject(name), text), Ok(None));
        assert_eq!(
            registry.check_compatibility(&subject(name), text),
            Ok(Compatibility::FirstVersion)
        );
    }
    let named = names.iter().map(|(topic, name)| (*topic, name.as_str()));
    let registered = registry.register_topics(named.clone()).unwrap();
    assert_eq!(registry.register_topics(named), Ok(registered.clone()));
    for (topic, name) in &names {
        let text = schema::of(*topic).unwrap().text;
        let id = registered.ids[topic];
        assert_eq!(registry.lookup(&subject(name), text), Ok(Some(id)));
        let found = registry.resolve(id).unwrap().unwrap();
        let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parsed(&found), parsed(text), "{name}");
        assert_eq!(
            registry.check_compatibility(&subject(name), text),
            Ok(Compatibility::Compatible)
        );
    }
    assert_eq!(registry.resolve(4_000_000), Ok(None));

    // A producer with a schema of its own, which the codec learns when it meets its id.
    let id = registry.register(&subject(&unique("others")), OWN_SCHEMA).unwrap();
    let codec = Codec::new(OutputFormat::Confluent, registered.clone()).unwrap();
    let bytes = [&[0][..], &id.to_be_bytes(), &[20, 4, b't', b'1']].concat();
    const NONE: &[Header<'_>] = &[];
    let record = RawRecord {
        topic: Topic::Tasks,
        partition: 0,
        offset: 0,
        timestamp_ms: -1,
        key: None,
        value: Some(&bytes),
        headers: NONE,
    };
    assert_eq!(codec.decode_task(&record), Err(DecodeError::UnknownSchemaId(id)));
    assert_eq!(codec.unknown_schema(&record), Some(id));
    codec.learn_schema(id, &registry.resolve(id).unwrap().unwrap()).unwrap();
    let task: Task = codec.decode_task(&record).unwrap();
    assert_eq!((task.task_id.as_str(), task.input_tokens), ("t1", 10));

    // What we write names the registered schema.
    let mut bytes = Vec::new();
    codec.encode_task(&task, &mut bytes);
    assert_eq!(bytes[..5], [&[0][..], &registered.ids[&Topic::Tasks].to_be_bytes()].concat());
    let record = RawRecord { value: Some(&bytes), ..record };
    assert_eq!(codec.decode_task(&record), Ok(task));
}
