//! Transactions as their producers and readers see them.

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use testbed::eventually;

use crate::ask::{self, READ_COMMITTED, READ_UNCOMMITTED};
use crate::client::{self, Client, code, outcome};
use crate::raw::Batch;
use crate::script::{LIMIT, Script};

fn send(client: &Client, topic: &str, partition: i32, values: &[&str]) {
    for value in values {
        let record = BaseRecord::<str, str>::to(topic).partition(partition).payload(value);
        client.producer.send(record).map_err(|(error, _)| error).unwrap();
    }
}

/// What readers of both levels find.
fn say_read(script: &mut Script, topic: &str, partitions: i32) {
    for isolation in ["read_committed", "read_uncommitted"] {
        let found = client::read(script, isolation, topic, partitions, Offset::Beginning);
        script.say(format!("{isolation}: {found:?}"));
    }
}

#[test]
fn a_commit_shows_all_and_an_abort_nothing() {
    Script::run("commit_and_abort", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let id = script.name("router");
        let client = Client::transactional(script, &id);
        let producer = &client.producer;
        script.say(format!("init: {}", outcome(producer.init_transactions(LIMIT))));
        for commit in [true, false, true] {
            script.say(format!("begin: {}", outcome(producer.begin_transaction())));
            send(&client, &topic, 0, &["one", "two"]);
            send(&client, &topic, 1, &["three"]);
            let mut reports = client.reports();
            reports.sort();
            script.say(reports.join("; "));
            let end = if commit {
                producer.commit_transaction(LIMIT)
            } else {
                producer.abort_transaction(LIMIT)
            };
            script.say(format!("end: {}", outcome(end)));
        }
        script.until_end(&topic, 0, READ_COMMITTED, 9);
        script.until_end(&topic, 1, READ_COMMITTED, 6);
        say_read(script, &topic, 2);
        for partition in [0, 1] {
            for isolation in [READ_UNCOMMITTED, READ_COMMITTED] {
                let request = ask::fetch(&topic, partition, 0, isolation);
                script.fetch(&format!("partition {partition} at level {isolation}"), &request);
            }
        }
        // The list of what was aborted begins where the reader does.
        script.fetch("behind the abort", &ask::fetch(&topic, 0, 6, READ_COMMITTED));
        script.fetch("inside the abort", &ask::fetch(&topic, 0, 4, READ_COMMITTED));
    });
}

#[test]
fn an_open_transaction_hides_what_follows_it() {
    Script::run("open_transaction", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let (first, second) = (script.name("first"), script.name("second"));
        let mut producers = Vec::new();
        for id in [&first, &second] {
            let answer = script.ask("init", 4, &ask::init(id, 60_000));
            let producer = (answer.producer_id.0, answer.producer_epoch);
            script.ask("add", 0, &ask::add_partitions(id, producer, &topic, &[0]));
            producers.push(producer);
        }
        let plain = |value| ask::produce(&topic, 0, Batch::of(&[value]).bytes());
        let within = |id: &str, producer, sequence, value| {
            let batch = Batch::of(&[value]).by(producer, sequence).transactional();
            ask::produce_in(id, &topic, 0, batch.bytes())
        };
        script.produce("before", &plain("a=before"));
        script.produce("first", &within(&first, producers[0], 0, "b=first"));
        script.produce("between", &plain("c=between"));
        script.produce("second", &within(&second, producers[1], 0, "d=second"));
        script.produce("first", &within(&first, producers[0], 1, "e=first"));
        let look = |script: &mut Script, what: &str| {
            for isolation in [READ_UNCOMMITTED, READ_COMMITTED] {
                let request = ask::fetch(&topic, 0, 0, isolation);
                script.fetch(&format!("{what}, level {isolation}"), &request);
                let request = ask::list_offsets(&topic, 0, -1, isolation);
                script.ask(&format!("{what}, the end"), 7, &request);
            }
        };
        look(script, "both open");
        script.fetch("from the stable end", &ask::fetch(&topic, 0, 1, READ_COMMITTED));
        script.fetch("behind it", &ask::fetch(&topic, 0, 3, READ_COMMITTED));
        script.ask("the second aborts", 1, &ask::end(&second, producers[1], false));
        script.until_end(&topic, 0, READ_UNCOMMITTED, 6);
        look(script, "one open");
        script.produce("after", &plain("f=after"));
        script.ask("the first commits", 1, &ask::end(&first, producers[0], true));
        script.until_end(&topic, 0, READ_COMMITTED, 8);
        look(script, "none open");
        say_read(script, &topic, 1);
    });
}

#[test]
fn a_reader_is_woken_when_a_transaction_ends() {
    Script::run("woken_by_commit", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let id = script.name("router");
        let client = Client::transactional(script, &id);
        client.producer.init_transactions(LIMIT).unwrap();
        let group = script.name("reader");
        let consumer = client::consumer(script, &group, &[("isolation.level", "read_committed")]);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        for value in ["one", "two", "three"] {
            client.producer.begin_transaction().unwrap();
            send(&client, &topic, 0, &[value]);
            script.say(format!("{:?}", client.reports()));
            let end = if value == "two" {
                client.producer.abort_transaction(LIMIT)
            } else {
                client.producer.commit_transaction(LIMIT)
            };
            script.say(outcome(end));
            if value == "two" {
                continue;
            }
            let read = eventually("the record", LIMIT, || {
                match consumer.poll(Duration::from_millis(100))? {
                    Ok(message) => Some(client::shown(&message)),
                    Err(_end_of_partition) => None,
                }
            });
            script.say(read);
        }
    });
}

#[test]
fn a_producer_resumes_from_the_offsets_of_its_transactions() {
    Script::run("transactional_offsets", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let (id, group) = (script.name("router"), script.name("group"));
        for partition in [0, 1] {
            let batch = Batch::of(&["a=1", "b=2", "c=3", "d=4"]);
            script.produce("tasks", &ask::produce(&topic, partition, batch.bytes()));
        }
        let member = client::consumer(script, &group, &[]);
        member.subscribe(&[&topic]).unwrap();
        let mut polled = 0;
        eventually("all tasks", LIMIT, || {
            polled += i32::from(matches!(member.poll(Duration::from_millis(100)), Some(Ok(_))));
            (polled == 8).then_some(())
        });
        let client = Client::transactional(script, &id);
        client.producer.init_transactions(LIMIT).unwrap();
        for (round, commit) in [(1, true), (2, false), (3, true)] {
            client.producer.begin_transaction().unwrap();
            let mut offsets = TopicPartitionList::new();
            for partition in [0, 1] {
                let offset = Offset::Offset(round + i64::from(partition));
                offsets.add_partition_offset(&topic, partition, offset).unwrap();
                let mut found = offsets.find_partition(&topic, partition).unwrap();
                found.set_metadata(format!("v1;round {round}"));
            }
            let members = member.group_metadata().unwrap();
            let sent = client.producer.send_offsets_to_transaction(&offsets, &members, LIMIT);
            script.say(format!("offsets: {}", outcome(sent)));
            let pending = ask::committed(&group, &[(&topic, &[0, 1])]);
            script.ask("while it is open", 7, &pending);
            let stable = pending.with_require_stable(true);
            script.ask("stable, while it is open", 7, &stable);
            let end = if commit {
                client.producer.commit_transaction(LIMIT)
            } else {
                client.producer.abort_transaction(LIMIT)
            };
            script.say(format!("end: {}", outcome(end)));
            let found = member.committed(LIMIT).unwrap();
            let mut found: Vec<String> = found
                .elements()
                .iter()
                .map(|of| format!("{} {:?} '{}'", of.partition(), of.offset(), of.metadata()))
                .collect();
            found.sort();
            script.say(format!("committed: {found:?}"));
        }
        drop(member);
        let next = client::consumer(script, &group, &[]);
        next.subscribe(&[&topic]).unwrap();
        let mut found = Vec::new();
        eventually("what is left", LIMIT, || {
            if let Some(Ok(message)) = next.poll(Duration::from_millis(100)) {
                found.push(client::shown(&message));
            }
            (found.len() == 1).then_some(())
        });
        script.say(format!("{found:?}"));
    });
}

#[test]
fn a_transaction_needs_what_was_added_to_it() {
    Script::run("not_added", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let (id, group) = (script.name("router"), script.name("group"));
        let answer = script.ask("init", 4, &ask::init(&id, 60_000));
        let producer = (answer.producer_id.0, answer.producer_epoch);
        let within = |partition, sequence| {
            let batch = Batch::of(&["a=1"]).by(producer, sequence).transactional();
            ask::produce_in(&id, &topic, partition, batch.bytes())
        };
        let offsets = ask::commit_in(&id, producer, &group, (&topic, 0, 1, "m"));
        script.produce("nothing added", &within(0, 0));
        script.ask("no offsets added", 3, &offsets);
        script.ask("nothing to end", 1, &ask::end(&id, producer, true));
        script.ask("nothing to abort", 1, &ask::end(&id, producer, false));
        script.ask("add", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
        script.ask("add again", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
        script.produce("added", &within(0, 0));
        script.produce("another partition", &within(1, 0));
        script.ask("no offsets added", 3, &offsets);
        let mut answer = script.answer(0, &ask::add_partitions(&id, producer, &topic, &[1, 7]));
        let found = &mut answer.results_by_topic_v3_and_below[0].results_by_partition;
        found.sort_by_key(|of| of.partition_index);
        script.write("add no partition", &answer);
        let missing = script.name("missing");
        script.ask("add no topic", 0, &ask::add_partitions(&id, producer, &missing, &[0]));
        script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
        script.ask("offsets", 3, &offsets);
        script.ask("commit", 1, &ask::end(&id, producer, true));
        script.until_end(&topic, 0, READ_COMMITTED, 2);
        script.produce("after the end", &within(0, 1));
        script.ask("offsets after the end", 3, &offsets);
        // A batch that says it is of no transaction, while one is open.
        script.ask("add", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
        let plain = Batch::of(&["b=2"]).by(producer, 1);
        script.produce("not transactional", &ask::produce(&topic, 0, plain.bytes()));
        script.produce("transactional", &within(0, 1));
        script.produce("a duplicate", &within(0, 1));
        script.produce("a gap", &within(0, 3));
        script.ask("abort", 1, &ask::end(&id, producer, false));
        script.until_end(&topic, 0, READ_COMMITTED, 4);
        script.fetch("all of it", &ask::fetch(&topic, 0, 0, READ_COMMITTED));
        script.fetch("the other", &ask::fetch(&topic, 1, 0, READ_COMMITTED));
        script.ask("the group", 7, &ask::committed(&group, &[(&topic, &[0])]));
    });
}

#[test]
fn an_end_that_is_told_twice_is_done_once() {
    Script::run("end_retried", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let id = script.name("router");
        let answer = script.ask("init", 4, &ask::init(&id, 60_000));
        let producer = (answer.producer_id.0, answer.producer_epoch);
        let mut ends = 0;
        for (sequence, commit) in [(0, true), (1, false)] {
            script.ask("add", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
            let batch = Batch::of(&["a=1"]).by(producer, sequence).transactional();
            script.produce("produce", &ask::produce_in(&id, &topic, 0, batch.bytes()));
            script.ask("end", 1, &ask::end(&id, producer, commit));
            ends += 2;
            script.until_end(&topic, 0, READ_COMMITTED, ends);
            script.ask("end again", 1, &ask::end(&id, producer, commit));
            script.ask("end otherwise", 1, &ask::end(&id, producer, !commit));
            script.ask("end a third time", 1, &ask::end(&id, producer, commit));
        }
        script.fetch("one marker each", &ask::fetch(&topic, 0, 0, READ_COMMITTED));
        let (id_, epoch) = producer;
        script.ask("of another epoch", 1, &ask::end(&id, (id_, epoch + 1), false));
        script.ask("of another producer", 1, &ask::end(&id, (id_ + 1_000_000, epoch), false));
        let missing = script.name("missing");
        script.ask("of nobody", 1, &ask::end(&missing, producer, false));
    });
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted() {
    Script::run("transaction_timeout", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let (id, group) = (script.name("router"), script.name("group"));
        let answer = script.ask("init", 4, &ask::init(&id, 1_000));
        let producer = (answer.producer_id.0, answer.producer_epoch);
        script.ask("add", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
        script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
        let offsets = ask::commit_in(&id, producer, &group, (&topic, 0, 1, "m"));
        script.ask("offsets", 3, &offsets);
        let within = |producer, sequence| {
            let batch = Batch::of(&["a=1"]).by(producer, sequence).transactional();
            ask::produce_in(&id, &topic, 0, batch.bytes())
        };
        script.produce("produce", &within(producer, 0));
        script.until_end(&topic, 0, READ_COMMITTED, 2);
        script.ask("commit", 1, &ask::end(&id, producer, true));
        script.ask("abort", 1, &ask::end(&id, producer, false));
        script.ask("add", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
        script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
        script.ask("offsets", 3, &offsets);
        script.produce("produce", &within(producer, 1));
        script.ask("the group", 7, &ask::committed(&group, &[(&topic, &[0])]));
        let mut resumed = ask::init(&id, 60_000);
        (resumed.producer_id.0, resumed.producer_epoch) = producer;
        let answer = script.ask("resume", 4, &resumed);
        let resumed = (answer.producer_id.0, answer.producer_epoch);
        if answer.error_code == 0 {
            script.ask("add", 0, &ask::add_partitions(&id, resumed, &topic, &[0]));
            script.produce("produce", &within(resumed, 0));
            script.ask("commit", 1, &ask::end(&id, resumed, true));
            script.until_end(&topic, 0, READ_COMMITTED, 4);
        }
        script.ask("init", 4, &ask::init(&id, 60_000));
        script.fetch("all of it", &ask::fetch(&topic, 0, 0, READ_COMMITTED));
    });
}

#[test]
fn a_client_learns_that_its_transaction_took_too_long() {
    Script::run("transaction_timeout_client", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let id = script.name("router");
        let settings = [("transactional.id", &*id), ("transaction.timeout.ms", "1000")];
        let client = Client::producer(script, &settings);
        client.producer.init_transactions(LIMIT).unwrap();
        client.producer.begin_transaction().unwrap();
        send(&client, &topic, 0, &["one"]);
        script.say(format!("{:?}", client.reports()));
        script.until_end(&topic, 0, READ_COMMITTED, 2);
        let end = client.producer.commit_transaction(LIMIT);
        script.say(format!("commit: {}", outcome(end)));
        let fatal = client.producer.client().fatal_error();
        script.say(format!("fatal: {:?}", fatal.map(|(code, _)| code)));
        let again = Client::transactional(script, &id);
        script.say(format!("init: {}", outcome(again.producer.init_transactions(LIMIT))));
        again.producer.begin_transaction().unwrap();
        send(&again, &topic, 0, &["two"]);
        script.say(format!("{:?}", again.reports()));
        if let Err(error) = again.producer.commit_transaction(LIMIT) {
            script.say(code(&error));
        }
        script.until_end(&topic, 0, READ_COMMITTED, 4);
        say_read(script, &topic, 1);
    });
}
