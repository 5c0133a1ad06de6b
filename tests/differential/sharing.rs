//! Real members of one group.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use testbed::eventually;

use crate::ask;
use crate::client;
use crate::groups::{BEAT, SYNC, enter};
use crate::raw::Batch;
use crate::script::{LIMIT, Script};

fn member(script: &Script, group: &str, topic: &str) -> BaseConsumer {
    let settings = [
        ("partition.assignment.strategy", "range"),
        ("session.timeout.ms", "6000"),
        ("heartbeat.interval.ms", "100"),
    ];
    let consumer = client::consumer(script, group, &settings);
    consumer.subscribe(&[topic]).unwrap();
    consumer
}

fn assigned(consumer: &BaseConsumer) -> Vec<i32> {
    let list = consumer.assignment().unwrap();
    let mut found: Vec<i32> = list.elements().iter().map(|of| of.partition()).collect();
    found.sort_unstable();
    found
}

/// Polls all until they have so many partitions each.
fn until_shared(consumers: &[&BaseConsumer], shares: &[usize]) {
    eventually("the shares", LIMIT, || {
        for consumer in consumers {
            drop(consumer.poll(Duration::from_millis(20)));
        }
        let mut found: Vec<usize> = consumers.iter().map(|of| assigned(of).len()).collect();
        found.sort_unstable();
        (found == shares).then_some(())
    });
}

#[test]
fn members_share_by_range() {
    Script::run("sharing", |script| {
        let topic = script.topic("tasks", 5, &[]);
        let group = script.name("group");
        let one = member(script, &group, &topic);
        until_shared(&[&one], &[5]);
        script.say(format!("alone: {:?}", assigned(&one)));
        let two = member(script, &group, &topic);
        until_shared(&[&one, &two], &[2, 3]);
        // Who is first is a matter of the ids.
        let mut shares = [assigned(&one), assigned(&two)];
        shares.sort();
        script.say(format!("two: {shares:?}"));
        let committed: TopicPartitionList = two.assignment().unwrap();
        let mut offsets = TopicPartitionList::new();
        for of in committed.elements() {
            offsets.add_partition_offset(&topic, of.partition(), Offset::Offset(0)).unwrap();
        }
        let commit = two.commit(&offsets, CommitMode::Sync);
        script.say(format!("commit: {}", client::outcome(commit)));
        drop(one);
        until_shared(&[&two], &[5]);
        script.say(format!("left: {:?}", assigned(&two)));
        let three = member(script, &group, &topic);
        until_shared(&[&two, &three], &[2, 3]);
        two.unsubscribe();
        until_shared(&[&two, &three], &[0, 5]);
        script.say(format!("unsubscribed: {:?}", assigned(&three)));
    });
}

#[test]
fn a_silent_members_partitions_go_to_the_other() {
    Script::run("expired_client", |script| {
        let topic = script.topic("tasks", 4, &[]);
        let group = script.name("group");
        let one = member(script, &group, &topic);
        until_shared(&[&one], &[4]);
        // It joins by hand, with a real subscription (version 0, one topic, no data), and then is silent.
        let mut metadata = vec![0, 0, 0, 0, 0, 1];
        metadata.extend(i16::try_from(topic.len()).unwrap().to_be_bytes());
        metadata.extend(topic.as_bytes());
        metadata.extend([0, 0, 0, 0]);
        let subscribed = |member: &str| {
            let mut request = ask::join(&group, member, "").with_session_timeout_ms(6_000);
            request.protocols[0].metadata = metadata.clone().into();
            request
        };
        let silent = enter(script, "by hand", &group, "", |_| subscribed(""));
        let mut raw = script.connect();
        raw.send(5, &subscribed(&silent));
        // Reading the answer blocks until the other has come back, which its polling does.
        let waiting = std::thread::spawn(move || {
            (raw.receive::<kafka_protocol::messages::JoinGroupRequest>(5), raw)
        });
        eventually("the join", LIMIT, || {
            drop(one.poll(Duration::from_millis(20)));
            waiting.is_finished().then_some(())
        });
        let (joined, mut raw) = waiting.join().unwrap();
        script.say(format!("generation {}, error {}", joined.generation_id, joined.error_code));
        let generation = joined.generation_id;
        raw.send(SYNC, &ask::sync(&group, generation, &silent, &[]));
        let share = raw.receive::<kafka_protocol::messages::SyncGroupRequest>(SYNC);
        script.say(format!("error {}, {} bytes", share.error_code, share.assignment.len()));
        until_shared(&[&one], &[2]);
        script.say("half each");
        until_shared(&[&one], &[4]);
        script.say(format!("the other is silent: {:?}", assigned(&one)));
        script.ask("the silent beats", BEAT, &ask::heartbeat(&group, generation, &silent));
    });
}

#[test]
fn a_member_resumes_where_the_last_one_committed() {
    Script::run("resume", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let group = script.name("group");
        for partition in [0, 1] {
            let batch = Batch::of(&["a=1", "b=2", "c=3"]);
            script.produce("tasks", &ask::produce(&topic, partition, batch.bytes()));
        }
        for round in 1..=2 {
            let consumer = member(script, &group, &topic);
            let mut found = Vec::new();
            let left = if round == 1 { 6 } else { 3 };
            eventually("the records", LIMIT, || {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    found.push(client::shown(&message));
                }
                (found.len() == left).then_some(())
            });
            found.sort();
            script.say(format!("{found:?}"));
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset(&topic, 0, Offset::Offset(2)).unwrap();
            offsets.add_partition_offset(&topic, 1, Offset::Offset(1)).unwrap();
            offsets.find_partition(&topic, 1).unwrap().set_metadata("half");
            script.say(client::outcome(consumer.commit(&offsets, CommitMode::Sync)));
            let committed = consumer.committed(LIMIT).unwrap();
            for of in committed.elements() {
                let (partition, offset) = (of.partition(), of.offset());
                script.say(format!("{partition}: {offset:?} '{}'", of.metadata()));
            }
        }
    });
}
