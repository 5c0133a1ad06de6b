//! Producers that were replaced, and what they may still do: nothing.

use rdkafka::Offset;
use rdkafka::producer::{BaseRecord, Producer};

use crate::ask::{self, READ_COMMITTED};
use crate::client::{self, Client, outcome};
use crate::raw::Batch;
use crate::script::{LIMIT, Script};

#[test]
fn a_producer_is_fenced_by_the_next_of_its_id() {
    Script::run("fenced_producer", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let (id, group) = (script.name("router"), script.name("group"));
        let init = ask::init(&id, 60_000);
        let answer = script.ask("init", 4, &init);
        let old = (answer.producer_id.0, answer.producer_epoch);
        let within = |producer, partition, sequence| {
            let batch = Batch::of(&["a=1"]).by(producer, sequence).transactional();
            ask::produce_in(&id, &topic, partition, batch.bytes())
        };
        script.ask("add", 0, &ask::add_partitions(&id, old, &topic, &[0]));
        script.ask("add offsets", 0, &ask::add_offsets(&id, old, &group));
        let offsets =
            |producer, offset| ask::commit_in(&id, producer, &group, (&topic, 0, offset, "m"));
        script.ask("offsets", 3, &offsets(old, 1));
        script.produce("produce", &within(old, 0, 0));
        // What was open is aborted first.
        let answer = script.ask("the next", 4, &init);
        let new = (answer.producer_id.0, answer.producer_epoch);
        script.until_end(&topic, 0, READ_COMMITTED, 2);
        script.produce("old: produce", &within(old, 0, 1));
        script.produce("old: produce where it was not", &within(old, 1, 0));
        script.ask("old: add", 0, &ask::add_partitions(&id, old, &topic, &[0]));
        script.ask("old: add offsets", 0, &ask::add_offsets(&id, old, &group));
        script.ask("old: offsets", 3, &offsets(old, 2));
        for version in [0, 1] {
            let what = format!("old: commit, version {version}");
            script.ask(&what, version, &ask::end(&id, old, true));
        }
        script.ask("old: abort", 1, &ask::end(&id, old, false));
        let mut resume = init.clone();
        (resume.producer_id.0, resume.producer_epoch) = old;
        script.ask("old: init as who it was", 4, &resume);
        script.ask("old: init as who it was, before errors were told apart", 3, &resume);
        script.ask("new: add", 0, &ask::add_partitions(&id, new, &topic, &[0]));
        script.produce("new: produce", &within(new, 0, 0));
        script.produce("old: produce while the new one does", &within(old, 0, 1));
        script.ask("new: commit", 1, &ask::end(&id, new, true));
        script.until_end(&topic, 0, READ_COMMITTED, 4);
        script.fetch("all of it", &ask::fetch(&topic, 0, 0, READ_COMMITTED));
        script.ask("the group", 7, &ask::committed(&group, &[(&topic, &[0])]));
    });
}

#[test]
fn a_producer_may_init_again_as_who_it_was() {
    Script::run("resumed_producer", |script| {
        let id = script.name("router");
        let mut init = ask::init(&id, 60_000);
        let answer = script.ask("init", 4, &init);
        let first = (answer.producer_id.0, answer.producer_epoch);
        (init.producer_id.0, init.producer_epoch) = first;
        script.ask("again", 4, &init);
        script.ask("again, its answer was lost", 4, &init);
        let epoch = script.ask("as anybody", 4, &ask::init(&id, 60_000)).producer_epoch;
        script.ask("again, too late", 4, &init);
        init.producer_epoch = epoch + 5;
        script.ask("of an epoch to come", 4, &init);
        init.producer_id.0 += 1_000_000;
        script.ask("as another", 4, &init);
        for timeout_ms in [0, -1, 900_000, 900_001] {
            let other = script.name("other");
            let what = format!("a timeout of {timeout_ms}");
            script.ask(&what, 4, &ask::init(&other, timeout_ms));
        }
        script.ask("an empty id", 4, &ask::init("", 60_000));
        let missing = script.name("missing");
        let mut init = ask::init(&missing, 60_000);
        (init.producer_id.0, init.producer_epoch) = first;
        script.ask("an id that nobody had, as who it was", 4, &init);
    });
}

#[test]
fn a_fenced_client_can_do_nothing_more() {
    Script::run("fenced_client", |script| {
        let topic = script.topic("tasks", 1, &[]);
        for what in ["commit", "abort", "produce", "begin"] {
            let id = script.name("router");
            let old = Client::transactional(script, &id);
            old.producer.init_transactions(LIMIT).unwrap();
            let send = |client: &Client, value: &str| {
                let record = BaseRecord::<str, str>::to(&topic).partition(0).payload(value);
                client.producer.send(record).map_err(|(error, _)| error).unwrap();
                client.reports()
            };
            if what != "begin" {
                old.producer.begin_transaction().unwrap();
                let reports = send(&old, &format!("old, {what}"));
                script.say(format!("{what}, old: {reports:?}"));
            }
            let new = Client::transactional(script, &id);
            let init = new.producer.init_transactions(LIMIT);
            script.say(format!("{what}, the next: {}", outcome(init)));
            let end = match what {
                "commit" => old.producer.commit_transaction(LIMIT),
                "abort" => old.producer.abort_transaction(LIMIT),
                "produce" => {
                    script.say(format!("{what}, old: {:?}", send(&old, "zombie")));
                    old.producer.commit_transaction(LIMIT)
                }
                _begin => {
                    old.producer.begin_transaction().unwrap();
                    script.say(format!("{what}, old: {:?}", send(&old, "zombie")));
                    old.producer.commit_transaction(LIMIT)
                }
            };
            script.say(format!("{what}, old: {}", outcome(end)));
            let fatal = old.producer.client().fatal_error();
            script.say(format!("{what}, old: {:?}", fatal.map(|(code, _)| code)));
            new.producer.begin_transaction().unwrap();
            let reports = send(&new, &format!("new, {what}"));
            script.say(format!("{what}, new: {reports:?}"));
            let end = new.producer.commit_transaction(LIMIT);
            script.say(format!("{what}, new: {}", outcome(end)));
        }
        let found = client::read(script, "read_committed", &topic, 1, Offset::Beginning);
        script.say(format!("{found:?}"));
    });
}
