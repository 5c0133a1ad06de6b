use serde_json::json;

use super::diff::{Change, diff};
use super::file::parse;
use super::*;

const FLEET: &str = r#"
[[resource]]
id = "a"
model = "m"
provider = "p"
region = "eu"
context_window = 1000
max_output_tokens = 100
slots = 4

[[tenant]]
id = "acme"
"#;

fn fleet(text: &str) -> FleetFile {
    parse(text, false).unwrap()
}

#[test]
fn everything_that_is_wrong_is_named_with_its_entry() {
    let text = r#"
resources = 1

[[resource]]
id = "a"
model = "m"
provider = "p"
region = "eu"
context_window = 1000
max_output_tokens = 100
slots = 0
usd_per_million_tokens = { input = -1.0, output = 1.0 }

[[resource]]
id = "b"
slots = "four"

[[resource]]
model = "m"

[[tenant]]
id = "acme"
weigth = 1.0

[[tenant]]
id = "t"
reserved_share = 1.5

[[tenant]]
id = "*"
usd_per_hour = 1.0
weight = 2.0
"#;
    let errors = parse(text, false).unwrap_err();
    assert_eq!(
        errors,
        [
            "resource 2 `b`: slots: invalid type: string \"four\", expected u32",
            "resource 3 `?`: missing field `id`",
            "`resources`: unknown key; allowed: resource, tenant",
            "tenant 1 `acme`: weigth: unknown field `weigth`, expected one of `id`, `weight`, `limits`, `burst`, `usd_per_hour`, `reserved_share`",
            "resource 1 `a`: usd_per_million_tokens.input: -1 is not allowed; a finite number of at least 0",
            "resource 1 `a`: slots: 0 is not allowed; at least 1",
            "tenant 1 `t`: reserved_share: 1.5 is not allowed; a number in [0, 1]",
            "tenant 2 `*`: weight: a value for tenant `*` is not allowed; limits and usd_per_hour alone: `*` stands for all tenants together",
            "all tenants: reserved_share: 1.5 is not allowed; shares that sum to at most 1",
        ]
    );
}

#[test]
fn json_has_the_same_keys() {
    let text = r#"{"resource": [{"id": "a", "model": "m", "provider": "p", "region": "eu",
        "context_window": 1000, "max_output_tokens": 100, "slots": 4}], "tenant": [{"id": "acme"}]}"#;
    assert_eq!(parse(text, true).unwrap(), fleet(FLEET));
    assert_eq!(
        parse("{", true).unwrap_err(),
        ["not JSON: EOF while parsing an object at line 1 column 1"]
    );
}

#[test]
fn nothing_changes_where_nothing_differs() {
    let changes = diff(&fleet(FLEET), &fleet(FLEET), true);
    assert_eq!((changes.changes, changes.entries, changes.unchanged), (vec![], vec![], 2));
}

#[test]
fn a_change_names_its_fields_and_what_is_gone_stays_unless_pruned() {
    let published = fleet(FLEET);
    let text = FLEET.replace("slots = 4", "slots = 8").replace("\"acme\"", "\"beta\"");
    let wanted = fleet(&text);
    let changed = Change::Changed {
        key: "a".to_owned(),
        fields: vec![diff::Field { field: "slots".to_owned(), from: json!(4), to: json!(8) }],
    };
    let added = Change::Added { key: "tenant:beta".to_owned() };
    let key = "tenant:acme".to_owned();
    let published_entries = vec![
        FleetEntry::Resource(wanted.resources[0].clone()),
        FleetEntry::Tenant(wanted.tenants[0].clone()),
    ];

    let kept = diff(&published, &wanted, false);
    let expected = vec![changed.clone(), added.clone(), Change::Kept { key: key.clone() }];
    assert_eq!((kept.changes, kept.entries), (expected, published_entries.clone()));

    let pruned = diff(&published, &wanted, true);
    let expected = vec![changed, added, Change::Removed { key }];
    let removed = FleetEntry::TenantRemoved("acme".to_owned());
    assert_eq!(pruned.changes, expected);
    assert_eq!(pruned.entries, [published_entries, vec![removed]].concat());
}

#[test]
fn the_last_record_of_a_key_holds() {
    let spec = fleet(FLEET).resources.remove(0);
    let mut again = spec.clone();
    again.slots = 9;
    let mut found = FleetFile::default();
    take(&mut found, FleetEntry::Resource(spec.clone()));
    take(&mut found, FleetEntry::Resource(again.clone()));
    assert_eq!(found.resources, [again]);
    take(&mut found, FleetEntry::ResourceRemoved(spec.id));
    assert_eq!(found, FleetFile::default());
}
