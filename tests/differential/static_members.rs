//! Members with a name of their own, which outlives them.

use std::time::Duration;

use kafka_protocol::messages::JoinGroupRequest;
use rdkafka::consumer::{BaseConsumer, Consumer};
use testbed::eventually;

use crate::ask;
use crate::client;
use crate::groups::{BEAT, JOIN, LEAVE, SYNC, describe, enter, joined, send_join, until_rebalance};
use crate::script::{LIMIT, Script};

#[test]
fn a_restarted_static_member_is_who_it_was() {
    Script::run("static_restart", |script| {
        let group = script.name("group");
        let named = |name: &'static str| {
            move |request: JoinGroupRequest| {
                request
                    .with_group_instance_id(Some(ask::text(name)))
                    .with_session_timeout_ms(30_000)
            }
        };
        // It need not come again.
        let a = enter(script, "a joins", &group, "a", named("one"));
        script.ask("a syncs", SYNC, &{
            let sync = ask::sync(&group, 1, &a, &[(&a, "all")]);
            sync.with_group_instance_id(Some(ask::text("one")))
        });
        let mut of_b = send_join(script, &named("two")(ask::join(&group, "", "b")));
        until_rebalance(script, &group, 1, &a);
        let mut of_a = send_join(script, &named("one")(ask::join(&group, &a, "a")));
        joined(script, &mut of_a, "a rejoins");
        let b = joined(script, &mut of_b, "b joins").member_id.to_string();
        let shares = [(&*a, "half"), (&*b, "other half")];
        script.ask("a syncs", SYNC, &ask::sync(&group, 2, &a, &shares));
        script.ask("b syncs", SYNC, &ask::sync(&group, 2, &b, &[]));

        let again = enter(script, "b restarts", &group, "b", named("two"));
        script.ask("b syncs", SYNC, &ask::sync(&group, 2, &again, &[]));
        script.ask("a beats", BEAT, &ask::heartbeat(&group, 2, &a));
        let restarted = enter(script, "a, the leader, restarts", &group, "a", named("one"));
        script.ask("a syncs", SYNC, &ask::sync(&group, 2, &restarted, &[]));
        script.ask("b beats", BEAT, &ask::heartbeat(&group, 2, &again));
        describe(script, "a and b", &[&group]);

        let named_two = Some(ask::text("two"));
        for (what, instance) in [("by id", None), ("by id and name", named_two.clone())] {
            let beat = ask::heartbeat(&group, 2, &b).with_group_instance_id(instance.clone());
            script.ask(&format!("the old b beats, {what}"), BEAT, &beat);
            let sync = ask::sync(&group, 2, &b, &[]).with_group_instance_id(instance.clone());
            script.ask(&format!("the old b syncs, {what}"), SYNC, &sync);
            let join = ask::join(&group, &b, "b").with_group_instance_id(instance.clone());
            script.ask(&format!("the old b joins, {what}"), JOIN, &join);
            let commit = ask::commit(&group, ("nothing", 0, 1, None))
                .with_generation_id_or_member_epoch(2)
                .with_member_id(ask::text(&b))
                .with_group_instance_id(instance);
            script.ask(&format!("the old b commits, {what}"), 7, &commit);
        }
        let unknown =
            ask::heartbeat(&group, 2, &again).with_group_instance_id(Some(ask::text("x")));
        script.ask("b by another name", BEAT, &unknown);

        // With another subscription it is still who it was: the leader is not asked.
        let b = enter(script, "b, changed", &group, "b, changed", named("two"));
        script.ask("a beats", BEAT, &ask::heartbeat(&group, 2, &restarted));
        script.ask("b syncs", SYNC, &ask::sync(&group, 2, &b, &[]));
        describe(script, "b changed", &[&group]);
        script.ask("b leaves", LEAVE, &ask::leave(&group, &b));
        until_rebalance(script, &group, 2, &restarted);
        describe(script, "b is gone", &[&group]);
    });
}

/// What a consumer is given, sorted.
fn assigned(consumer: &BaseConsumer) -> Vec<i32> {
    let list = consumer.assignment().unwrap();
    let mut found: Vec<i32> = list.elements().iter().map(|of| of.partition()).collect();
    found.sort_unstable();
    found
}

fn poll(consumer: &BaseConsumer) -> Option<String> {
    match consumer.poll(Duration::from_millis(20))? {
        Ok(_message) => None,
        Err(rdkafka::error::KafkaError::PartitionEOF(_)) => None,
        Err(error) => Some(client::code(&error)),
    }
}

#[test]
fn a_static_client_comes_back_to_its_partitions() {
    Script::run("static_clients", |script| {
        let topic = script.topic("tasks", 4, &[]);
        let group = script.name("group");
        let member = |script: &Script, name: &str| {
            let settings = [
                ("group.instance.id", name),
                ("session.timeout.ms", "45000"),
                ("partition.assignment.strategy", "range"),
            ];
            let consumer = client::consumer(script, &group, &settings);
            consumer.subscribe(&[&topic]).unwrap();
            consumer
        };
        let generation = |script: &mut Script| {
            let answer = script.answer(4, &ask::describe(&[&group]));
            answer.groups[0].members.len()
        };
        let one = member(script, "one");
        eventually("all partitions", LIMIT, || {
            poll(&one);
            (assigned(&one) == [0, 1, 2, 3]).then_some(())
        });
        let two = member(script, "two");
        eventually("two each", LIMIT, || {
            poll(&one);
            poll(&two);
            (assigned(&one).len() == 2 && assigned(&two).len() == 2).then_some(())
        });
        script.say(format!("one {:?}, two {:?}", assigned(&one), assigned(&two)));
        drop(two);
        let members = generation(script);
        script.say(format!("two is gone, {members} members"));
        let two = member(script, "two");
        eventually("what it had", LIMIT, || {
            poll(&one);
            poll(&two);
            (!assigned(&two).is_empty()).then_some(())
        });
        script.say(format!("one {:?}, two {:?}", assigned(&one), assigned(&two)));
        // A twin takes the name over; the first learns that it is fenced.
        let twin = member(script, "two");
        eventually("the name", LIMIT, || {
            poll(&one);
            poll(&twin);
            (!assigned(&twin).is_empty()).then_some(())
        });
        let end = eventually("the end of the first", LIMIT, || {
            poll(&one);
            poll(&twin);
            poll(&two)
        });
        script.say(format!("the first: {end}"));
        let fatal = two.client().fatal_error();
        script.say(format!("fatal: {:?}", fatal.map(|(code, _)| code)));
        script.say(format!("one {:?}, twin {:?}", assigned(&one), assigned(&twin)));
    });
}
