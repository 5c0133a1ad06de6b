//! The schemas themselves: their fingerprints, their enums, and what Avro says about our bytes.

use apache_avro::Schema;

use crate::codec::schema::{self, TopicSchema};
use crate::codec::writers::fingerprint;
use crate::model::Topic;

fn parse(schema: &TopicSchema) -> Schema {
    Schema::parse_str(schema.text).unwrap()
}

/// A schema cannot change unnoticed: its fingerprint is in every record that was ever written.
#[test]
fn fingerprints_are_those_of_the_schemas() {
    let all = Topic::ALL.into_iter().filter_map(schema::of);
    let all = all.chain([&schema::SNAPSHOT_MANIFEST, &schema::SNAPSHOT_CHUNK]);
    let found: Vec<String> = all
        .filter(|schema| schema.fingerprint != fingerprint(&parse(schema)))
        .map(|schema| format!("{}: {:#018x}", schema.name, fingerprint(&parse(schema))))
        .collect();
    assert_eq!(found, Vec::<String>::new(), "schemas whose fingerprint is another one now");
}
