//! The classic group protocol, member by member.

use kafka_protocol::messages::{
    DescribeGroupsResponse, JoinGroupRequest, JoinGroupResponse, ListGroupsRequest,
    SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use testbed::{eventually, until};

use crate::ask;
use crate::raw::Raw;
use crate::script::{LIMIT, Script, place};

pub const JOIN: i16 = 5;
pub const SYNC: i16 = 3;
pub const BEAT: i16 = 3;
pub const LEAVE: i16 = 1;

/// A member's number in Kafka's list of members is that of a hash table.
fn sorted(mut answer: JoinGroupResponse) -> JoinGroupResponse {
    answer.members.sort_by(|one, other| one.metadata.cmp(&other.metadata));
    answer
}

/// Sends a join, whose answer may take others' joins: see [`joined`].
pub fn send_join(script: &Script, request: &JoinGroupRequest) -> Raw {
    let mut raw = script.connect();
    raw.send(JOIN, request);
    raw
}

pub fn joined(script: &mut Script, raw: &mut Raw, what: &str) -> JoinGroupResponse {
    let answer = sorted(raw.receive::<JoinGroupRequest>(JOIN));
    script.write(what, &answer);
    answer
}

/// A join that needs nobody else's.
pub fn join(script: &mut Script, what: &str, request: &JoinGroupRequest) -> JoinGroupResponse {
    let answer = sorted(script.answer(JOIN, request));
    script.write(what, &answer);
    answer
}

/// A first member: asked to come again with the id that it is given.
pub fn enter(
    script: &mut Script,
    what: &str,
    group: &str,
    metadata: &'static str,
    change: impl Fn(JoinGroupRequest) -> JoinGroupRequest,
) -> String {
    let request = change(ask::join(group, "", metadata));
    let answer = join(script, what, &request);
    answer.member_id.to_string()
}

pub fn describe(script: &mut Script, what: &str, groups: &[&str]) {
    let mut answer: DescribeGroupsResponse = script.answer(4, &ask::describe(groups));
    answer.groups.sort_by_key(|of| place(groups, &of.group_id));
    for group in &mut answer.groups {
        group.members.sort_by_key(|of| (of.member_metadata.clone(), of.member_assignment.clone()));
    }
    script.write(what, &answer);
}

/// Heartbeats until the group wants its members back.
pub fn until_rebalance(script: &mut Script, group: &str, generation: i32, member: &str) {
    let request = ask::heartbeat(group, generation, member);
    let answer = eventually("a rebalance", LIMIT, || {
        let answer = script.answer(BEAT, &request);
        (answer.error_code != 0).then_some(answer)
    });
    script.write("heartbeat", &answer);
}

fn until_empty(script: &mut Script, group: &str) {
    until("an empty group", LIMIT, || {
        let answer = script.answer(4, &ask::describe(&[group]));
        answer.groups[0].group_state.as_str() == "Empty"
    });
}

#[test]
fn members_come_share_and_go() {
    Script::run("group_life", |script| {
        let group = script.name("group");
        // Until it is in Kafka's log, it is a matter of chance whether it is described.
        describe(script, "before it is there", &[&group]);
        let a = enter(script, "a enters", &group, "a", |request| request);
        join(script, "a joins", &ask::join(&group, &a, "a"));
        script.ask("a beats before it has", BEAT, &ask::heartbeat(&group, 1, &a));
        script.ask("a syncs", SYNC, &ask::sync(&group, 1, &a, &[(&a, "all")]));
        script.ask("a syncs again", SYNC, &ask::sync(&group, 1, &a, &[]));
        script.ask("a beats", BEAT, &ask::heartbeat(&group, 1, &a));
        describe(script, "a alone", &[&group]);

        let b = enter(script, "b enters", &group, "b", |request| request);
        script.ask("a beats", BEAT, &ask::heartbeat(&group, 1, &a));
        let mut of_b = send_join(script, &ask::join(&group, &b, "b"));
        until_rebalance(script, &group, 1, &a);
        script.ask("a syncs too early", SYNC, &ask::sync(&group, 1, &a, &[]));
        script.ask("a commits while it rebalances", 7, &{
            let topic = ("nothing", 0, 1, None);
            ask::commit(&group, topic)
                .with_generation_id_or_member_epoch(1)
                .with_member_id(ask::text(&a))
        });
        describe(script, "rebalancing", &[&group]);
        let mut of_a = send_join(script, &ask::join(&group, &a, "a"));
        joined(script, &mut of_a, "a rejoins");
        joined(script, &mut of_b, "b joins");
        // A follower waits for the leader's.
        of_b.send(SYNC, &ask::sync(&group, 2, &b, &[]));
        let shares = [(&*a, "half"), (&*b, "other half")];
        script.ask("a syncs", SYNC, &ask::sync(&group, 2, &a, &shares));
        script.receive::<SyncGroupRequest>(&mut of_b, "b syncs", SYNC);
        describe(script, "a and b", &[&group]);
        for (what, generation, member) in [
            ("a beats", 2, &*a),
            ("b beats", 2, &*b),
            ("b is late", 1, &*b),
            ("b is early", 3, &*b),
            ("somebody beats", 2, "nobody"),
            ("no name beats", 2, ""),
        ] {
            script.ask(what, BEAT, &ask::heartbeat(&group, generation, member));
        }
        script.ask("an old sync", SYNC, &ask::sync(&group, 1, &b, &[]));
        script.ask("a stranger's sync", SYNC, &ask::sync(&group, 2, "nobody", &[]));
        join(script, "a stranger's join", &ask::join(&group, "nobody", "n"));

        // A follower that joins as it is learns what it knew.
        join(script, "b joins as it is", &ask::join(&group, &b, "b"));
        script.ask("a beats", BEAT, &ask::heartbeat(&group, 2, &a));
        // The leader wants a new round.
        let mut of_a = send_join(script, &ask::join(&group, &a, "a"));
        until_rebalance(script, &group, 2, &b);
        let mut of_b = send_join(script, &ask::join(&group, &b, "b"));
        joined(script, &mut of_a, "a asks for a rebalance");
        joined(script, &mut of_b, "b follows");
        let shares = [(&*a, "one"), (&*b, "two")];
        script.ask("a syncs", SYNC, &ask::sync(&group, 3, &a, &shares));
        script.ask("b syncs", SYNC, &ask::sync(&group, 3, &b, &[]));

        script.ask("a leaves", LEAVE, &ask::leave(&group, &a));
        script.ask("a leaves again", LEAVE, &ask::leave(&group, &a));
        until_rebalance(script, &group, 3, &b);
        join(script, "b is alone", &ask::join(&group, &b, "b"));
        script.ask("b syncs", SYNC, &ask::sync(&group, 4, &b, &[(&b, "all")]));
        script.ask("b leaves", LEAVE, &ask::leave(&group, &b));
        describe(script, "empty", &[&group]);
        script.ask("b beats", BEAT, &ask::heartbeat(&group, 4, &b));
        let c = enter(script, "c enters", &group, "c", |request| request);
        join(script, "c joins", &ask::join(&group, &c, "c"));
        script.ask("c leaves", LEAVE, &ask::leave(&group, &c));
        let missing = script.name("missing");
        script.ask("nobody's group", LEAVE, &ask::leave(&missing, &c));
        script.ask("nobody's group", BEAT, &ask::heartbeat(&missing, 1, &c));
        script.ask("nobody's group", SYNC, &ask::sync(&missing, 1, &c, &[]));
    });
}

#[test]
fn joins_that_make_no_sense_are_refused() {
    Script::run("group_refusals", |script| {
        let group = script.name("group");
        let a = enter(script, "a enters", &group, "a", |request| request);
        join(script, "a joins", &ask::join(&group, &a, "a"));
        script.ask("a syncs", SYNC, &ask::sync(&group, 1, &a, &[(&a, "all")]));
        let sessions = [5_999, 6_000, 1_800_000, 1_800_001, -1];
        for session_ms in sessions {
            let other = script.name("other");
            let request = ask::join(&other, "", "m").with_session_timeout_ms(session_ms);
            join(script, &format!("a session of {session_ms}"), &request);
        }
        join(script, "no group", &ask::join("", "", "m"));
        let missing = script.name("missing");
        join(script, "a member of nothing", &ask::join(&missing, "member", "m"));
        let mut request = ask::join(&group, "", "b").with_protocol_type(ask::text("connect"));
        join(script, "another kind", &request);
        request = ask::join(&group, "", "b");
        request.protocols[0].name = ask::text("sticky");
        join(script, "another protocol", &request);
        request.protocols.clear();
        join(script, "no protocol", &request);
        let other = script.name("other");
        request = ask::join(&other, "", "b").with_protocols(Vec::new());
        join(script, "no protocol, first", &request);
        request = ask::join(&other, "", "b").with_protocol_type(StrBytes::default());
        join(script, "no kind, first", &request);
        script.ask("no group", BEAT, &ask::heartbeat("", 1, &a));
        script.ask("no group", SYNC, &ask::sync("", 1, &a, &[]));
        script.ask("no group", LEAVE, &ask::leave("", &a));
    });
}

#[test]
fn older_clients_need_not_come_twice() {
    Script::run("group_old_joins", |script| {
        for version in [0, 1, 3, 4] {
            let group = script.name("group");
            let mut request = ask::join(&group, "", "a");
            if version == 0 {
                request.rebalance_timeout_ms = -1;
            }
            let what = format!("version {version}");
            let answer = sorted(script.answer(version, &request));
            script.write(&what, &answer);
            if version < 4 {
                let member = answer.member_id.to_string();
                let sync = ask::sync(&group, 1, &member, &[(&member, "all")]);
                script.ask(&what, version.min(2), &sync);
                script.ask(&what, version.min(2), &ask::heartbeat(&group, 1, &member));
                script.ask(&what, 0, &ask::leave(&group, &member));
            }
        }
    });
}

#[test]
fn a_member_that_is_silent_is_put_out() {
    Script::run("expired_session", |script| {
        let group = script.name("group");
        let brief = |request: JoinGroupRequest| request.with_session_timeout_ms(6_000);
        let a = enter(script, "a enters", &group, "a", |request| request);
        join(script, "a joins", &ask::join(&group, &a, "a"));
        script.ask("a syncs", SYNC, &ask::sync(&group, 1, &a, &[(&a, "all")]));
        let b = enter(script, "b enters", &group, "b", brief);
        let mut of_b = send_join(script, &brief(ask::join(&group, &b, "b")));
        until_rebalance(script, &group, 1, &a);
        let mut of_a = send_join(script, &ask::join(&group, &a, "a"));
        joined(script, &mut of_a, "a rejoins");
        joined(script, &mut of_b, "b joins");
        let shares = [(&*a, "half"), (&*b, "other half")];
        script.ask("a syncs", SYNC, &ask::sync(&group, 2, &a, &shares));
        until_rebalance(script, &group, 2, &a);
        join(script, "a rejoins", &ask::join(&group, &a, "a"));
        script.ask("a syncs", SYNC, &ask::sync(&group, 3, &a, &[(&a, "all")]));
        script.ask("b beats", BEAT, &ask::heartbeat(&group, 2, &b));
        script.ask("b commits", 7, &{
            ask::commit(&group, ("nothing", 0, 1, None))
                .with_generation_id_or_member_epoch(2)
                .with_member_id(ask::text(&b))
        });
        describe(script, "a alone", &[&group]);
        // One that was asked to come again, and does not.
        enter(script, "c enters", &group, "c", brief);
        script.ask("a beats", BEAT, &ask::heartbeat(&group, 3, &a));
        // The last one.
        script.ask("a leaves", LEAVE, &ask::leave(&group, &a));
        until_empty(script, &group);
        let d = enter(script, "d enters", &group, "d", brief);
        join(script, "d joins", &brief(ask::join(&group, &d, "d")));
        script.ask("d syncs", SYNC, &ask::sync(&group, 5, &d, &[(&d, "all")]));
        until_empty(script, &group);
        script.ask("d beats", BEAT, &ask::heartbeat(&group, 5, &d));
    });
}

#[test]
fn a_rebalance_does_not_wait_for_ever() {
    Script::run("rebalance_timeout", |script| {
        let group = script.name("group");
        let brief = |request: JoinGroupRequest| request.with_rebalance_timeout_ms(1_000);
        let a = enter(script, "a enters", &group, "a", brief);
        join(script, "a joins", &brief(ask::join(&group, &a, "a")));
        script.ask("a syncs", SYNC, &ask::sync(&group, 1, &a, &[(&a, "all")]));
        let b = enter(script, "b enters", &group, "b", brief);
        // Nobody tells a, which does not come back.
        let mut of_b = send_join(script, &brief(ask::join(&group, &b, "b")));
        joined(script, &mut of_b, "b joins");
        script.ask("a beats", BEAT, &ask::heartbeat(&group, 1, &a));
        script.ask("a rejoins", JOIN, &brief(ask::join(&group, &a, "a")));
        script.ask("b syncs", SYNC, &ask::sync(&group, 2, &b, &[(&b, "all")]));
        describe(script, "b alone", &[&group]);
        // A leader that does not say who gets what.
        let c = enter(script, "c enters", &group, "c", brief);
        let mut of_c = send_join(script, &brief(ask::join(&group, &c, "c")));
        until_rebalance(script, &group, 2, &b);
        let mut of_b = send_join(script, &brief(ask::join(&group, &b, "b")));
        joined(script, &mut of_b, "b rejoins");
        joined(script, &mut of_c, "c joins");
        of_c.send(SYNC, &ask::sync(&group, 3, &c, &[]));
        script.receive::<SyncGroupRequest>(&mut of_c, "c waited for the leader", SYNC);
        script.ask("b syncs late", SYNC, &ask::sync(&group, 3, &b, &[]));
    });
}

#[test]
fn groups_are_listed_and_described() {
    Script::run("list_groups", |script| {
        let (full, empty) = (script.name("full"), script.name("empty"));
        let topic = script.topic("tasks", 1, &[]);
        let a = enter(script, "a enters", &full, "a", |request| request);
        join(script, "a joins", &ask::join(&full, &a, "a"));
        script.ask("a syncs", SYNC, &ask::sync(&full, 1, &a, &[(&a, "all")]));
        script.ask("commit", 7, &ask::commit(&empty, (&topic, 0, 1, None)));
        for (version, states) in [
            (0, &[][..]),
            (2, &[]),
            (3, &[]),
            (4, &[]),
            (4, &["Stable"]),
            (4, &["Empty", "dead"]),
            (4, &["empty"]),
        ] {
            let states_: Vec<StrBytes> = states.iter().map(|state| ask::text(state)).collect();
            let request = ListGroupsRequest::default().with_states_filter(states_);
            let mut answer = script.answer(version, &request);
            // Other scripts have groups too.
            answer.groups.retain(|of| [&*full, &*empty].contains(&of.group_id.as_str()));
            answer.groups.sort_by(|one, other| one.group_id.cmp(&other.group_id));
            script.write(&format!("version {version}, {states:?}"), &answer);
        }
        let missing = script.name("missing");
        describe(script, "described", &[&full, &empty, &missing, ""]);
        for version in 0..=4 {
            let answer = script.answer(version, &ask::describe(&[&full]));
            script.write(&format!("version {version}"), &answer);
        }
    });
}
