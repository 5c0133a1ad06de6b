//! Committed offsets: who may commit them, and who sees them when.

use kafka_protocol::messages::OffsetFetchResponse;
use testbed::eventually;

use crate::ask;
use crate::groups::{JOIN, SYNC, enter, join};
use crate::raw::Batch;
use crate::script::{LIMIT, Script};

/// All of a group's offsets, in an order.
fn all_of(script: &mut Script, what: &str, group: &str, version: i16) {
    let request = ask::committed(group, &[]).with_topics(None);
    let mut answer: OffsetFetchResponse = script.answer(version, &request);
    answer.topics.sort_by(|one, other| one.name.cmp(&other.name));
    for topic in &mut answer.topics {
        topic.partitions.sort_by_key(|of| of.partition_index);
    }
    script.write(what, &answer);
}

/// The group's coordinator learns of a transaction's end a moment after its own has answered.
fn committed(script: &mut Script, group: &str, topic: &str, partitions: &[i32]) {
    let stable = ask::committed(group, &[(topic, partitions)]).with_require_stable(true);
    let answer = eventually("stable offsets", LIMIT, || {
        let answer = script.answer(7, &stable);
        let is_stable = answer.topics[0].partitions.iter().all(|of| of.error_code == 0);
        is_stable.then_some(answer)
    });
    script.write("committed", &answer);
}

#[test]
fn offsets_are_kept_with_their_metadata() {
    Script::run("offsets", |script| {
        let topic = script.topic("tasks", 3, &[]);
        let (group, missing) = (script.name("group"), script.name("missing"));
        script.ask("nothing yet", 7, &ask::committed(&group, &[(&topic, &[0, 1])]));
        all_of(script, "nothing at all", &group, 7);
        let long = "m".repeat(4_096);
        let longer = "m".repeat(4_097);
        for (what, of) in [
            ("with metadata", (&*topic, 0, 7, Some("v1;7"))),
            ("without", (&*topic, 1, 8, None)),
            ("again, backwards", (&*topic, 0, 3, Some("v1;3"))),
            ("empty metadata", (&*topic, 2, 1, Some(""))),
            ("long metadata", (&*topic, 2, 2, Some(&*long))),
            ("too long metadata", (&*topic, 2, 3, Some(&*longer))),
            ("no partition", (&*topic, 3, 1, None)),
            ("no topic", (&*missing, 0, 1, None)),
            ("before the beginning", (&*topic, 1, -1, None)),
            ("far behind the end", (&*topic, 1, 1_000_000, None)),
        ] {
            script.ask(what, 7, &ask::commit(&group, of));
        }
        script.ask("no group", 7, &ask::commit("", (&topic, 0, 1, None)));
        let of = [(&*topic, &[0, 1, 9][..]), (&*missing, &[0])];
        for version in [1, 2, 3, 5, 6, 7] {
            script.ask(&format!("version {version}"), version, &ask::committed(&group, &of));
            if version >= 2 {
                all_of(script, &format!("all, version {version}"), &group, version);
            }
        }
        script.ask("of no group", 7, &ask::committed("", &[(&topic, &[0])]));
        let epoch = {
            let mut request = ask::commit(&group, (&topic, 0, 4, None));
            request.topics[0].partitions[0].committed_leader_epoch = 5;
            request
        };
        script.ask("with an epoch", 7, &epoch);
        script.ask("its epoch", 7, &ask::committed(&group, &[(&topic, &[0])]));
        for version in [2, 3, 5, 6] {
            let request = ask::commit(&group, (&topic, 0, i64::from(version), None));
            script.ask(&format!("version {version}"), version, &request);
        }
    });
}

#[test]
fn only_members_of_the_generation_commit() {
    Script::run("stale_generation", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let (group, id) = (script.name("group"), script.name("router"));
        let answer = script.ask("init", 4, &ask::init(&id, 60_000));
        let producer = (answer.producer_id.0, answer.producer_epoch);
        script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
        let both =
            |script: &mut Script, what: &str, generation: i32, member: &str, name: Option<&str>| {
                let request = ask::commit(&group, (&topic, 0, 1, Some("plain")))
                    .with_generation_id_or_member_epoch(generation)
                    .with_member_id(ask::text(member))
                    .with_group_instance_id(name.map(ask::text));
                script.ask(&format!("{what}, plain"), 7, &request);
                let request =
                    ask::commit_in(&id, producer, &group, (&topic, 0, 2, "transactional"))
                        .with_generation_id(generation)
                        .with_member_id(ask::text(member))
                        .with_group_instance_id(name.map(ask::text));
                script.ask(&format!("{what}, transactional"), 3, &request);
            };
        both(script, "no group, no member", -1, "", None);
        both(script, "no group, a member", 1, "nobody", None);
        let named = |request: kafka_protocol::messages::JoinGroupRequest| {
            request.with_group_instance_id(Some(ask::text("one")))
        };
        let member = enter(script, "joins", &group, "a", named);
        both(script, "before the sync", 1, &member, None);
        script.ask("syncs", SYNC, &ask::sync(&group, 1, &member, &[(&member, "all")]));
        both(script, "a member", 1, &member, None);
        both(script, "by name", 1, &member, Some("one"));
        both(script, "by another name", 1, &member, Some("two"));
        both(script, "a name without an id", 1, "", Some("one"));
        both(script, "another id of that name", 1, "nobody", Some("one"));
        both(script, "a stale generation", 0, &member, None);
        both(script, "a generation to come", 2, &member, None);
        both(script, "a stranger", 1, "nobody", None);
        both(script, "no member", -1, "", None);
        both(script, "a member without a generation", -1, &member, None);
        join(script, "rejoins, a leader", &named(ask::join(&group, &member, "a")));
        script.ask("syncs", SYNC, &ask::sync(&group, 2, &member, &[(&member, "all")]));
        both(script, "of the generation before", 1, &member, None);
        both(script, "of this one", 2, &member, None);
        script.ask("older, without members", 2, &{
            ask::commit_in(&id, producer, &group, (&topic, 0, 3, "old"))
        });
        script.ask("commit", 1, &ask::end(&id, producer, true));
        committed(script, &group, &topic, &[0]);
        let restarted = script.answer(JOIN, &named(ask::join(&group, "", "a"))).member_id;
        script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
        both(script, "the member before the restart", 2, &member, None);
        both(script, "the member before the restart, by name", 2, &member, Some("one"));
        both(script, "the restarted member", 2, &restarted, Some("one"));
        script.ask("abort", 1, &ask::end(&id, producer, false));
    });
}

#[test]
fn pending_offsets_are_unstable() {
    Script::run("require_stable", |script| {
        let topic = script.topic("tasks", 2, &[]);
        let (group, id) = (script.name("group"), script.name("router"));
        script.ask("plain", 7, &ask::commit(&group, (&topic, 0, 1, Some("plain"))));
        let answer = script.ask("init", 4, &ask::init(&id, 60_000));
        let producer = (answer.producer_id.0, answer.producer_epoch);
        let look = |script: &mut Script, what: &str| {
            for stable in [false, true] {
                let request = ask::committed(&group, &[(&topic, &[0, 1])]);
                let request = request.with_require_stable(stable);
                script.ask(&format!("{what}, stable {stable}"), 7, &request);
                let mut request = ask::committed(&group, &[]).with_topics(None);
                request.require_stable = stable;
                let mut answer = script.answer(7, &request);
                for topic in &mut answer.topics {
                    topic.partitions.sort_by_key(|of| of.partition_index);
                }
                script.write(&format!("{what}, all, stable {stable}"), &answer);
            }
        };
        for (round, commit) in [(1, false), (2, true)] {
            script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
            look(script, "added");
            for partition in [0, 1] {
                let of = (&*topic, partition, 10 * round, "pending");
                script.ask("offsets", 3, &ask::commit_in(&id, producer, &group, of));
            }
            look(script, "pending");
            // A plain commit during the transaction.
            script.ask("plain", 7, &ask::commit(&group, (&topic, 0, 5, Some("between"))));
            look(script, "after a plain one");
            let of = (&*topic, 0, 11 * round, "again");
            script.ask("offsets again", 3, &ask::commit_in(&id, producer, &group, of));
            script.ask("end", 1, &ask::end(&id, producer, commit));
            committed(script, &group, &topic, &[0, 1]);
            look(script, "ended");
        }
        let errors = [
            ("no topic", ask::commit_in(&id, producer, &group, ("missing", 0, 1, ""))),
            ("no partition", ask::commit_in(&id, producer, &group, (&topic, 7, 1, ""))),
            ("long metadata", {
                let long = "m".repeat(5_000);
                ask::commit_in(&id, producer, &group, (&topic, 0, 1, &long))
            }),
        ];
        script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
        for (what, request) in errors {
            script.ask(what, 3, &request);
        }
        script.ask("no group", 0, &ask::add_offsets(&id, producer, ""));
        script.ask("abort", 1, &ask::end(&id, producer, false));
    });
}

#[test]
fn offsets_and_records_of_one_transaction_go_together() {
    Script::run("offsets_with_records", |script| {
        let topic = script.topic("tasks", 1, &[]);
        let (group, id) = (script.name("group"), script.name("router"));
        let answer = script.ask("init", 4, &ask::init(&id, 60_000));
        let producer = (answer.producer_id.0, answer.producer_epoch);
        for (sequence, commit) in [(0, true), (1, false)] {
            script.ask("add", 0, &ask::add_partitions(&id, producer, &topic, &[0]));
            let batch = Batch::of(&["a=1"]).by(producer, sequence).transactional();
            script.produce("produce", &ask::produce_in(&id, &topic, 0, batch.bytes()));
            script.ask("add offsets", 0, &ask::add_offsets(&id, producer, &group));
            let of = (&*topic, 0, i64::from(sequence) + 1, "m");
            script.ask("offsets", 3, &ask::commit_in(&id, producer, &group, of));
            script.ask("end", 1, &ask::end(&id, producer, commit));
            committed(script, &group, &topic, &[0]);
        }
        // The next producer of that id finds nothing open.
        let next = script.ask("the next", 4, &ask::init(&id, 60_000));
        let next = (next.producer_id.0, next.producer_epoch);
        script.ask("nothing to end", 1, &ask::end(&id, next, true));
    });
}
