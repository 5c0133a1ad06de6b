//! Topics: made, changed, described, deleted.

use std::time::Duration;

use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use testbed::eventually;

use crate::ask::{self, READ_UNCOMMITTED};
use crate::raw::Batch;
use crate::script::{LIMIT, Script, place};

#[test]
fn topics_are_made_with_what_they_are_told() {
    Script::run("create_topics", |script| {
        let names: Vec<String> = (0..12).map(|number| script.name(&format!("t{number}"))).collect();
        let with = |index: usize, settings: &[(&str, &str)]| {
            ask::create(vec![ask::topic(&names[index], 2, settings)])
        };
        script.ask("plain", 4, &with(0, &[]));
        script.ask("again", 4, &with(0, &[]));
        let of = |name: &str| ask::topic(name, 1, &[]);
        let twice = ask::create(vec![of(&names[1]), of(&names[2]), of(&names[1])]);
        let mut answer = script.answer(4, &twice);
        answer.topics.sort_by_key(|of| place(&[&names[1]], &of.name));
        script.write("twice at once", &answer);
        script.ask("only looked at", 4, &with(3, &[]).with_validate_only(true));
        script.ask("only looked at, there", 4, &with(0, &[]).with_validate_only(true));
        for (what, partitions, replicas) in [
            ("default partitions", -1, 1),
            ("default replicas", 1, -1),
            ("no partitions", 0, 1),
            ("fewer than none", -2, 1),
            ("no replicas", 1, 0),
            ("too many replicas", 1, 2),
        ] {
            let name = script.name("sized");
            let topic = ask::topic(&name, partitions, &[]).with_replication_factor(replicas);
            script.ask(what, 4, &ask::create(vec![topic]));
        }
        let long = "l".repeat(249);
        let longer = "l".repeat(250);
        for name in ["", ".", "..", "a b", "a/b", "ä", &longer] {
            script.ask(&format!("named '{name}'"), 4, &ask::create(vec![of(name)]));
        }
        let valid_long = ask::create(vec![of(&long)]).with_validate_only(true);
        script.ask("a long name", 4, &valid_long);
        let dotted = script.name("dotted.name");
        script.ask("a dotted name", 4, &ask::create(vec![of(&dotted)]));
        let collides = dotted.replace('.', "_");
        script.also(&collides, "dotted_name");
        script.ask("one that collides", 4, &ask::create(vec![of(&collides)]));
        for (key, value) in [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact,delete"),
            ("cleanup.policy", "keep"),
            ("retention.ms", "soon"),
            ("retention.ms", "-2"),
            ("max.message.bytes", "-1"),
            ("message.timestamp.type", "AppendTime"),
            ("compression.type", "zstd"),
            ("compression.type", "brotli"),
            ("no.such.setting", "1"),
            ("min.insync.replicas", "0"),
            ("segment.bytes", "1"),
        ] {
            let request = with(4, &[(key, value)]).with_validate_only(true);
            script.ask(&format!("{key}={value}"), 4, &request);
        }
        for version in [2, 3, 4] {
            let name = script.name("versions");
            script.ask(&format!("version {version}"), version, &ask::create(vec![of(&name)]));
        }
    });
}

fn delete(script: &mut Script, what: &str, topics: &[&str]) {
    let mut answer = script.answer(3, &ask::delete(topics));
    let name = |of: &DeletableTopicResult| of.name.as_ref().map(|name| place(topics, name));
    answer.responses.sort_by_key(name);
    script.write(what, &answer);
}

#[test]
fn topics_are_deleted_and_made_anew() {
    Script::run("delete_topics", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let (other, missing) = (script.topic("others", 1, &[]), script.name("missing"));
        let group = script.name("group");
        script.produce("produce", &ask::produce(&topic, 0, Batch::of(&["a=1"]).bytes()));
        script.ask("commit", 7, &ask::commit(&group, (&topic, 0, 1, Some("m"))));
        delete(script, "delete", &[&topic, &missing]);
        eventually("its end", LIMIT, || {
            let answer = script.answer(9, &ask::metadata(&[&topic]));
            (answer.topics[0].error_code != 0).then_some(())
        });
        script.ask("metadata", 9, &ask::metadata(&[&topic, &missing]));
        script.produce("produce", &ask::produce(&topic, 0, Batch::of(&["a=1"]).bytes()));
        script.fetch("fetch", &ask::fetch(&topic, 0, 0, READ_UNCOMMITTED));
        script.ask("its end", 7, &ask::list_offsets(&topic, 0, -1, READ_UNCOMMITTED));
        script.ask("delete again", 3, &ask::delete(&[&topic]));
        delete(script, "delete a doubled one", &[&other, &other]);
        let anew = ask::create(vec![ask::topic(&topic, 1, &[("retention.ms", "-1")])]);
        script.ask("anew", 4, &anew);
        script.until_led(&topic, 0);
        script.produce("produce", &ask::produce(&topic, 0, Batch::of(&["b=2"]).bytes()));
        script.fetch("fetch", &ask::fetch(&topic, 0, 0, READ_UNCOMMITTED));
        script.ask("committed", 7, &ask::committed(&group, &[(&topic, &[0])]));
        script.ask("delete in version 1", 1, &ask::delete(&[&topic]));
        script.ask("delete nothing", 3, &ask::delete(&[]));
        delete(script, "delete a wrong name", &["a b", ""]);
    });
}

#[test]
fn records_are_deleted_up_to_an_offset() {
    Script::run("delete_records", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let kept = script.topic("kept", 1, &[("cleanup.policy", "compact")]);
        let both = script.topic("both", 1, &[("cleanup.policy", "compact,delete")]);
        let missing = script.name("missing");
        for _ in 0..3 {
            let records = Batch::of(&["a=1", "b=2"]).bytes();
            script.produce("produce", &ask::produce(&topic, 0, records));
        }
        for (what, topic, partition, offset) in [
            ("nothing", &topic, 0, 0),
            ("within a batch", &topic, 0, 3),
            ("what is gone", &topic, 0, 1),
            ("behind the end", &topic, 0, 7),
            ("no offset", &topic, 0, -2),
            ("of an empty one", &topic, 1, -1),
            ("of none", &topic, 2, 0),
            ("of no topic", &missing, 0, 0),
            ("of a compacted one", &kept, 0, 0),
            ("of one that is both", &both, 0, -1),
        ] {
            for version in [0, 2] {
                let request = ask::delete_records(topic, partition, offset);
                script.ask(&format!("{what}, version {version}"), version, &request);
            }
        }
        script.ask("its start", 7, &ask::list_offsets(&topic, 0, -2, READ_UNCOMMITTED));
        script.ask("by time", 7, &ask::list_offsets(&topic, 0, 0, READ_UNCOMMITTED));
        for offset in [2, 3] {
            script.fetch("fetch", &ask::fetch(&topic, 0, offset, READ_UNCOMMITTED));
        }
        script.ask("everything", 2, &ask::delete_records(&topic, 0, -1));
        script.ask("its start", 7, &ask::list_offsets(&topic, 0, -2, READ_UNCOMMITTED));
        script.fetch("fetch", &ask::fetch(&topic, 0, 6, READ_UNCOMMITTED));
        script.produce("produce", &ask::produce(&topic, 0, Batch::of(&["c=3"]).bytes()));
        script.fetch("fetch", &ask::fetch(&topic, 0, 6, READ_UNCOMMITTED));
    });
}

#[test]
fn partitions_are_added_never_taken_away() {
    Script::run("create_partitions", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let missing = script.name("missing");
        script.produce("produce", &ask::produce(&topic, 1, Batch::of(&["a=1"]).bytes()));
        for (what, count) in [("fewer", 1), ("none", 0), ("as many", 2), ("less than none", -1)] {
            script.ask(what, 1, &ask::create_partitions(&[(&topic, count)]));
        }
        script.ask("no topic", 1, &ask::create_partitions(&[(&missing, 3)]));
        script.ask("twice", 1, &ask::create_partitions(&[(&topic, 3), (&topic, 4)]));
        let looked_at = ask::create_partitions(&[(&topic, 3)]).with_validate_only(true);
        script.ask("only looked at", 1, &looked_at);
        script.ask("more", 1, &ask::create_partitions(&[(&topic, 4)]));
        for partition in [2, 3] {
            script.until_led(&topic, partition);
        }
        script.produce("produce", &ask::produce(&topic, 3, Batch::of(&["b=2"]).bytes()));
        script.fetch("what was there", &ask::fetch(&topic, 1, 0, READ_UNCOMMITTED));
        script.fetch("what is new", &ask::fetch(&topic, 3, 0, READ_UNCOMMITTED));
    });
}

#[test]
fn settings_are_described() {
    Script::run("describe_configs", |script| {
        const KEYS: &[&str] = &[
            "cleanup.policy",
            "max.message.bytes",
            "message.timestamp.type",
            "retention.bytes",
            "retention.ms",
        ];
        let name = script.name("tasks");
        let settings = [("cleanup.policy", "compact"), ("retention.ms", "86400000")];
        script.answer(4, &ask::create(vec![ask::topic(&name, 1, &settings)]));
        script.until_led(&name, 0);
        let missing = script.name("missing");
        for (what, topic, keys) in [
            ("those that matter", &*name, Some(KEYS)),
            ("none", &*name, Some(&[][..])),
            ("one that is not there", &*name, Some(&["no.such.setting", "retention.ms"][..])),
            ("of no topic", &*missing, Some(KEYS)),
            ("of a wrong name", "a b", Some(KEYS)),
        ] {
            for version in [1, 2] {
                let mut answer = script.answer(version, &ask::describe_topic(topic, keys));
                // Where that one comes from depends on a feature of the controller.
                answer.results[0].configs.retain(|of| of.name.as_str() != "min.insync.replicas");
                answer.results[0].configs.sort_by(|one, other| one.name.cmp(&other.name));
                script.write(&format!("{what}, version {version}"), &answer);
            }
        }
        // All of them: those that matter are among them.
        let mut all = script.answer(2, &ask::describe_topic(&name, None));
        all.results[0].configs.retain(|of| KEYS.contains(&of.name.as_str()));
        all.results[0].configs.sort_by(|one, other| one.name.cmp(&other.name));
        script.write("all of them", &all);
    });
}

#[test]
fn topics_and_coordinators_are_found() {
    Script::run("metadata", |script| {
        let topic = script.topic("tasks", 3, &[]);
        let missing = script.name("missing");
        // Topics and partitions come in the order of hash tables.
        let write = |script: &mut Script, what: &str, mut answer: MetadataResponse| {
            answer.topics.sort_by_key(|of| of.name.as_ref().map(|name| place(&[&topic], name)));
            for topic in &mut answer.topics {
                topic.partitions.sort_by_key(|of| of.partition_index);
            }
            script.write(what, &answer);
        };
        for version in [0, 1, 4, 5, 7, 8, 9, 10, 12] {
            let mut request = ask::metadata(&[&topic, &missing]);
            if version < 4 {
                request.allow_auto_topic_creation = true;
            }
            let answer = script.answer(version, &request);
            write(script, &format!("version {version}"), answer);
        }
        for name in ["a b", "", ".."] {
            script.ask(&format!("named '{name}'"), 9, &ask::metadata(&[name]));
        }
        let doubled = script.answer(9, &ask::metadata(&[&topic, &topic]));
        write(script, "twice", doubled);
        script.ask("none", 9, &ask::metadata(&[]));
        let mut all: MetadataRequest = ask::metadata(&[]);
        all.topics = None;
        let mut answer = script.answer(9, &all);
        answer.topics.retain(|of| of.name.as_ref().is_some_and(|name| name.as_str() == topic));
        write(script, "all", answer);
        let nobodys = "00000000-0000-4000-8000-000000000077".parse().unwrap();
        let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(nobodys);
        script.ask(
            "by an id that nobody has",
            12,
            &ask::metadata(&[]).with_topics(Some(vec![by_id])),
        );
        let found = script.answer(12, &ask::metadata(&[&topic])).topics[0].topic_id;
        let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(found);
        let answer = script.answer(12, &ask::metadata(&[]).with_topics(Some(vec![by_id])));
        write(script, "by its id", answer);
        for (what, version, kind) in
            [("group", 0, 0), ("group", 2, 0), ("transaction", 2, 1), ("nothing", 2, 9)]
        {
            let request =
                FindCoordinatorRequest::default().with_key(ask::text("key")).with_key_type(kind);
            script.ask(&format!("{what}, version {version}"), version, &request);
        }
    });
}

#[test]
fn an_admin_client_makes_and_deletes() {
    Script::run("admin_client", |script| {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &script.bootstrap).create().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        let name = script.name("tasks");
        for (what, partitions, setting) in [
            ("new", 3, ("cleanup.policy", "compact")),
            ("again", 3, ("cleanup.policy", "compact")),
            ("wrong", 3, ("cleanup.policy", "keep")),
        ] {
            let name = if what == "wrong" { script.name("wrong") } else { name.clone() };
            let topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1))
                .set(setting.0, setting.1);
            let made = runtime.block_on(admin.create_topics([&topic], &options)).unwrap();
            let made: Vec<_> = made.into_iter().map(|of| of.map_err(|(_, code)| code)).collect();
            script.say(format!("{what}: {made:?}"));
        }
        script.until_led(&name, 0);
        let more = NewPartitions::new(&name, 5);
        let made = runtime.block_on(admin.create_partitions([&more], &options)).unwrap();
        script.say(format!("more: {made:?}"));
        let partitions = eventually("five partitions", LIMIT, || {
            let found = admin.inner().fetch_metadata(Some(&name), LIMIT).unwrap();
            let found = found.topics()[0].partitions().len();
            (found == 5).then_some(found)
        });
        script.say(format!("{partitions} partitions"));
        let missing = script.name("missing");
        let gone = runtime.block_on(admin.delete_topics(&[&*name, &*missing], &options)).unwrap();
        let gone: Vec<_> = gone.into_iter().map(|of| of.map_err(|(_, code)| code)).collect();
        script.say(format!("deleted: {gone:?}"));
    });
}
