//! Records in the Confluent wire format, and a schema registry between everybody.

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as AvroValue;
use pointsman::codec::{Codec, OutputFormat, schema};
use pointsman::config::SchemaRegistry as Settings;
use pointsman::model::Topic;
use pointsman::registry::{Registry, subject};
use serde_json::{Value, json};
use testbed::{SchemaRegistry, eventually};

use crate::records::{Sender, read};
use crate::site::{LIMIT, ROOMY, Site};

/// A producer's own, older and smaller idea of a task.
const OTHER_TASK: &str = r#"{"type": "record", "name": "Task", "namespace": "com.example", "fields": [
    {"name": "input_tokens", "type": "int"}, {"name": "task_id", "type": "string"}]}"#;

/// The id that a record names, and what is behind it.
fn framed(value: &[u8]) -> (u32, &[u8]) {
    let (head, body) = value.split_at(5);
    assert_eq!(head[0], 0);
    (u32::from_be_bytes(head[1..].try_into().unwrap()), body)
}

/// Decodes with the schema that the registry has, as a worker in another language would.
fn decode(registry: &Registry, value: &[u8]) -> Vec<(String, AvroValue)> {
    let (id, mut body) = framed(value);
    let schema = registry.resolve(id).unwrap().unwrap();
    let schema = apache_avro::Schema::parse_str(&schema).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let value = reader.read_value(&mut body).unwrap();
    let AvroValue::Record(fields) = value else { panic!("{value:?}") };
    fields
}

#[test]
#[ignore = "needs a schema registry: see ops/test"]
fn a_decision_is_readable_by_the_registrys_schema() {
    let url = SchemaRegistry::shared().url();
    let site = Site::bare(&format!(
        "[output]\nformat = \"confluent\"\n\n[output.schema_registry]\nurl = \"{url}\"\n"
    ));
    site.make_topics();
    let ran = site.does(&["check"]);
    let expected = format!("schemas  ✓ {url} takes all ");
    assert!(ran.code == 0 && ran.out.contains(&expected), "{ran:?}");
    site.apply_fleet(ROOMY);
    let router = site.start_ready();

    let settings = Settings { url: url.to_owned(), user: None, password: None };
    let registry = Registry::new(&settings).unwrap();
    let names = Topic::ALL.into_iter().filter(|topic| schema::of(*topic).is_some());
    let names: Vec<(Topic, String)> = names.map(|topic| (topic, site.name(topic))).collect();
    let named = names.iter().map(|(topic, name)| (*topic, name.as_str()));
    let registered = registry.register_topics(named).unwrap();

    // One task by our own schema, one by a schema that nobody has told the router of.
    let codec = Codec::new(OutputFormat::Confluent, registered.clone()).unwrap();
    let mut ours = Vec::new();
    let task = json!({"task_id": "ours", "input_tokens": 10, "max_output_tokens": 20});
    codec.encode_task(&serde_json::from_value(task).unwrap(), &mut ours);
    assert_eq!(framed(&ours).0, registered.ids[&Topic::Tasks]);
    let other = registry.register(&subject(&format!("{}others", site.prefix)), OTHER_TASK).unwrap();
    let theirs = [&[0][..], &other.to_be_bytes(), &[20, 12], b"theirs"].concat();
    let sender = Sender::new(&site.client());
    sender.send(&site.name(Topic::Tasks), "k", &ours);
    sender.send(&site.name(Topic::Tasks), "k", &theirs);
    sender.flush();

    let decisions = eventually("two decisions", LIMIT, || {
        let seen = read(&site.client(), &site.name(Topic::RouteDecisions));
        (seen.len() >= 2).then_some(seen)
    });
    for (decision, (id, most)) in decisions.iter().zip([("ours", 20), ("theirs", 1_024)]) {
        let value = decision.value.as_deref().unwrap();
        assert_eq!(framed(value).0, registered.ids[&Topic::RouteDecisions]);
        let fields = decode(&registry, value);
        let field = |name: &str| &fields.iter().find(|(found, _)| found == name).unwrap().1;
        assert_eq!(field("task_id"), &AvroValue::String(id.to_owned()));
        assert_eq!(field("max_output_tokens"), &AvroValue::Long(most));
        assert!(matches!(field("outcome"), AvroValue::Enum(_, name) if name == "routed"));
    }
    assert_eq!(decisions.len(), 2);
    let outcomes: Vec<Value> = site
        .tap("route-decisions")
        .into_iter()
        .map(|line| json!([line["value"]["task_id"], line["value"]["outcome"]]))
        .collect();
    assert_eq!(outcomes, [json!(["ours", "routed"]), json!(["theirs", "routed"])]);
    assert!(router.stop().success());
    assert_eq!(site.tap("tasks.dlq"), [] as [Value; 0]);
}
