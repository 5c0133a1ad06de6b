//! Lanes that are added to an installation that runs: they begin without capacity, get some, and serve
//! what comes to them.

use std::collections::BTreeMap;

use pointsman::model::Topic;
use serde_json::json;
use testbed::eventually;

use crate::records::Sender;
use crate::site::{LIMIT, Site};

const FLEET: &str = r#"
[[resource]]
id = "gpt-eu"
model = "gpt-5.4"
provider = "openai"
region = "eu"
context_window = 128000
max_output_tokens = 16384
slots = 40
quality = { default = 0.8 }
"#;

/// The rights of the resource's slots that each lane says it has.
fn rights(site: &Site) -> BTreeMap<u64, u64> {
    let mut newest = BTreeMap::new();
    for load in site.tap("load-snapshots") {
        let load = load.get("value").unwrap_or(&load);
        let slots = load["load"].as_array().into_iter().flatten();
        for slots in slots.filter(|one| one["dimension"] == "slots") {
            newest.insert(load["lane"].as_u64().unwrap(), slots["rights"].as_u64().unwrap());
        }
    }
    newest
}

#[test]
fn lanes_are_added_while_it_runs() {
    let site = Site::bare("[output]\nformat = \"json\"\n");
    let ran = site.does(&["topics", "apply", "--partitions", "2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    site.apply_fleet(FLEET);
    let router = site.start_ready();
    let told = eventually("both lanes' rights", LIMIT, || {
        let told = rights(&site);
        (told.len() == 2).then_some(told)
    });
    assert_eq!(told, BTreeMap::from([(0, 500_000), (1, 500_000)]));

    let ran = site.does(&["topics", "apply", "--partitions", "3"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let client = site.client();
    let sender = Sender::new(&client);
    for number in 0..3 {
        let task = json!({"task_id": format!("t-{number}"), "input_tokens": 10});
        sender.send_to(&site.name(Topic::Tasks), 2, "k", task.to_string().as_bytes());
    }
    sender.flush();
    let decisions = site.await_records("route-decisions", 3);
    for decision in decisions {
        let decision = decision.get("value").unwrap_or(&decision).clone();
        assert_eq!((&decision["lane"], &decision["outcome"]), (&json!(2), &json!("routed")));
    }
    let told = eventually("rights that add up", LIMIT, || {
        let told = rights(&site);
        (told.len() == 3 && told.values().sum::<u64>() == 1_000_000).then_some(told)
    });
    assert!(told[&2] >= 75_000, "three slots of forty: {told:?}");
    assert!(router.stop().success());

    let ran = site.does(&["replay", "audit"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
