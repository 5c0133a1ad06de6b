//! Scripts: a line is the time in milliseconds and a request, or what comes of time alone; below it
//! are all the answers that it brings, whole, each with the number of the request that it answers.

mod commits;
mod random;
mod rebalances;
mod static_members;

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::*;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::txn_offset_commit_request::*;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::Groups;
use crate::broker::wire::{self, Reply};
use crate::broker::{Replies, Ticket};

/// Topics `t` and `u` exist, with two partitions.
fn exists(topic: &str, partition: i32) -> bool {
    ["t", "u"].contains(&topic) && (0..2).contains(&partition)
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// `key=value` words of a line.
struct Words<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Words<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.get(key).copied()
    }
    fn text(&self, key: &str) -> StrBytes {
        text(self.get(key).unwrap_or_default())
    }
    fn number(&self, key: &str, default: i64) -> i64 {
        self.get(key).map_or(default, |value| value.parse().unwrap())
    }
    fn list(&self, key: &str) -> Vec<Vec<&'a str>> {
        let items = self.get(key).into_iter().flat_map(|list| list.split(','));
        items.map(|item| item.split(':').collect()).collect()
    }
}

struct Script {
    groups: Groups,
    tickets: u64,
    versions: BTreeMap<Ticket, i16>,
}

impl Script {
    fn new(initial_delay_ms: i64) -> Self {
        Script { groups: Groups::new(initial_delay_ms), tickets: 0, versions: BTreeMap::new() }
    }

    /// The answers, in words.
    fn run(&mut self, line: &str) -> Vec<String> {
        // Ids in short, as `a#1`: the name and the number.
        let mut parts = line.split_whitespace();
        let now_ms: i64 = parts.next().unwrap().parse().unwrap();
        let command = parts.next().unwrap();
        let words = Words(parts.map(|part| part.split_once('=').unwrap()).collect());
        let mut replies = Replies::new();
        self.groups.advance(now_ms, &mut replies);
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let group = GroupId(text(words.get("group").unwrap_or("g")));
        let (id, instance) = (long(&words.text("id")), words.get("static").map(text));
        let generation = words.number("gen", -1) as i32;
        let mut version = words.number("v", -1) as i16;
        let reply: Option<Reply> = match command {
            "wait" => None,
            "forget" => {
                self.groups.forget(Ticket(words.number("request", 0) as u64));
                None
            }
            "settle" => {
                let commit = words.get("commit") == Some("yes");
                self.groups.settle(&group, words.number("producer", 0), commit);
                None
            }
            "delete" => {
                self.groups.forget_topic(&words.text("topic"));
                None
            }
            "join" => {
                version = if version < 0 { 5 } else { version };
                let protocols = match words.get("protocols") {
                    Some(_) => words.list("protocols"),
                    None => vec![vec!["range", "m"]],
                };
                let protocols = protocols.iter().map(|item| {
                    JoinGroupRequestProtocol::default()
                        .with_name(text(item[0]))
                        .with_metadata(Bytes::copy_from_slice(item[1].as_bytes()))
                });
                let request = JoinGroupRequest::default()
                    .with_group_id(group)
                    .with_session_timeout_ms(words.number("session", 6_000) as i32)
                    .with_rebalance_timeout_ms(words.number("rebalance", 20_000) as i32)
                    .with_member_id(id)
                    .with_group_instance_id(instance)
                    .with_protocol_type(text(words.get("type").unwrap_or("consumer")))
                    .with_protocols(protocols.collect());
                let client = words.get("client").unwrap_or("a");
                self.groups.join(now_ms, ticket, client, version, request, &mut replies);
                None
            }
            "sync" => {
                let give = words.list("give");
                let give = give.iter().map(|item| {
                    SyncGroupRequestAssignment::default()
                        .with_member_id(long(item[0]))
                        .with_assignment(Bytes::copy_from_slice(item[1].as_bytes()))
                });
                let request = SyncGroupRequest::default()
                    .with_group_id(group)
                    .with_generation_id(generation)
                    .with_member_id(id)
                    .with_group_instance_id(instance)
                    .with_assignments(give.collect());
                self.groups.sync(now_ms, ticket, request, &mut replies);
                None
            }
            "beat" => {
                let request = HeartbeatRequest::default()
                    .with_group_id(group)
                    .with_generation_id(generation)
                    .with_member_id(id)
                    .with_group_instance_id(instance);
                Some(self.groups.heartbeat(now_ms, &request).into())
            }
            "leave" => {
                let request = LeaveGroupRequest::default().with_group_id(group).with_member_id(id);
                Some(self.groups.leave(now_ms, request, &mut replies).into())
            }
            "commit" => {
                let topics = words.list("at").into_iter().map(|item| {
                    let partition = OffsetCommitRequestPartition::default()
                        .with_partition_index(item[1].parse().unwrap())
                        .with_committed_offset(item[2].parse().unwrap())
                        .with_committed_leader_epoch(words.number("epoch", -1) as i32)
                        .with_committed_metadata(item.get(3).map(|metadata| text(metadata)));
                    OffsetCommitRequestTopic::default()
                        .with_name(TopicName(text(item[0])))
                        .with_partitions(vec![partition])
                });
                let request = OffsetCommitRequest::default()
                    .with_group_id(group)
                    .with_generation_id_or_member_epoch(generation)
                    .with_member_id(id)
                    .with_group_instance_id(instance)
                    .with_topics(topics.collect());
                Some(self.groups.commit_where(now_ms, &request, exists).into())
            }
            "pend" => {
                let topics = words.list("at").into_iter().map(|item| {
                    let partition = TxnOffsetCommitRequestPartition::default()
                        .with_partition_index(item[1].parse().unwrap())
                        .with_committed_offset(item[2].parse().unwrap())
                        .with_committed_leader_epoch(words.number("epoch", -1) as i32)
                        .with_committed_metadata(item.get(3).map(|metadata| text(metadata)));
                    TxnOffsetCommitRequestTopic::default()
                        .with_name(TopicName(text(item[0])))
                        .with_partitions(vec![partition])
                });
                let request = TxnOffsetCommitRequest::default()
                    .with_group_id(group)
                    .with_producer_id(ProducerId(words.number("producer", 0)))
                    .with_generation_id(generation)
                    .with_member_id(id)
                    .with_group_instance_id(instance)
                    .with_topics(topics.collect());
                let allowed = match words.get("allowed") {
                    Some(_) => Err(ResponseError::InvalidTxnState),
                    None => Ok(()),
                };
                Some(
                    self.groups
                        .commit_in_transaction_where(now_ms, &request, exists, allowed)
                        .into(),
                )
            }
            "fetch" => {
                let topics = words.get("of").map(|_| {
                    let topics = words.list("of").into_iter().map(|item| {
                        OffsetFetchRequestTopic::default()
                            .with_name(TopicName(text(item[0])))
                            .with_partition_indexes(vec![item[1].parse().unwrap()])
                    });
                    topics.collect()
                });
                let request = OffsetFetchRequest::default()
                    .with_group_id(group)
                    .with_require_stable(words.get("stable").is_some())
                    .with_topics(topics);
                Some(self.groups.committed(&request).into())
            }
            "list" => {
                let states = words.list("states").concat().into_iter().map(text).collect();
                let request = ListGroupsRequest::default().with_states_filter(states);
                Some(self.groups.list(&request).into())
            }
            "describe" => {
                let request = DescribeGroupsRequest::default().with_groups(vec![group]);
                Some(self.groups.describe(&request).into())
            }
            _ => panic!("no such command: {command}"),
        };
        replies.extend(reply.map(|reply| (ticket, reply)));
        self.versions.insert(ticket, version);
        replies.iter().map(|(ticket, reply)| self.say(*ticket, reply)).collect()
    }

    /// What comes of time alone.
    fn advance(&mut self, now_ms: i64) -> Vec<String> {
        let mut replies = Replies::new();
        self.groups.advance(now_ms, &mut replies);
        replies.iter().map(|(ticket, reply)| self.say(*ticket, reply)).collect()
    }

    fn say(&self, ticket: Ticket, reply: &Reply) -> String {
        // What is answered can be sent, in the version it was asked in, or else in every one.
        let (_, min, max) = *wire::SERVED.iter().find(|(api, ..)| *api == reply.api()).unwrap();
        let version = self.versions[&ticket];
        for version in (min..=max).filter(|of| version < 0 || version == *of) {
            wire::encode(reply, version, 1).unwrap();
        }
        let of = ticket.0;
        #[expect(clippy::wildcard_enum_match_arm, reason = "the other APIs are not of groups")]
        let said = match reply {
            Reply::JoinGroup(joined) => say_join(of, joined),
            Reply::SyncGroup(synced) if synced.error_code == 0 => {
                assert_eq!((&synced.protocol_type, &synced.protocol_name), (&None, &None));
                format!("{of} assignment={}", String::from_utf8_lossy(&synced.assignment))
            }
            Reply::SyncGroup(synced) => {
                assert!(synced.assignment.is_empty());
                format!("{of} {}", error(synced.error_code))
            }
            Reply::Heartbeat(beat) => format!("{of} {}", error(beat.error_code)),
            Reply::LeaveGroup(left) => {
                assert_eq!(left.members, []);
                format!("{of} {}", error(left.error_code))
            }
            Reply::OffsetCommit(committed) => {
                let each = committed.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| {
                        let (index, code) = (partition.partition_index, partition.error_code);
                        format!(" {}:{index}:{}", &*topic.name, error(code))
                    })
                });
                format!("{of}{}", each.collect::<String>())
            }
            Reply::TxnOffsetCommit(pending) => {
                let each = pending.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| {
                        let (index, code) = (partition.partition_index, partition.error_code);
                        format!(" {}:{index}:{}", &*topic.name, error(code))
                    })
                });
                format!("{of}{}", each.collect::<String>())
            }
            Reply::OffsetFetch(fetched) => {
                assert_eq!((fetched.error_code, fetched.groups.len()), (0, 0));
                let each = fetched.topics.iter().flat_map(|topic| {
                    topic.partitions.iter().map(|partition| {
                        let metadata = partition.metadata.as_deref().unwrap();
                        format!(
                            " {}:{}:{}:{}:{metadata}:{}",
                            &*topic.name,
                            partition.partition_index,
                            partition.committed_offset,
                            partition.committed_leader_epoch,
                            error(partition.error_code)
                        )
                    })
                });
                format!("{of}{}", each.collect::<String>())
            }
            Reply::ListGroups(listed) => {
                assert_eq!(listed.error_code, 0);
                let each = listed.groups.iter().map(|group| {
                    let (id, kind, state) =
                        (&*group.group_id, &group.protocol_type, &group.group_state);
                    format!(" {id}:{kind}:{state}")
                });
                format!("{of}{}", each.collect::<String>())
            }
            Reply::DescribeGroups(described) => {
                let [group] = &described.groups[..] else { panic!("{described:?}") };
                assert_eq!((group.error_code, group.authorized_operations), (0, i32::MIN));
                let members = group.members.iter().map(|member| {
                    assert_eq!(member.client_host.as_str(), "/127.0.0.1");
                    format!(
                        " {}:{}:{}:{}:{}",
                        member.member_id,
                        member.group_instance_id.as_deref().unwrap_or("-"),
                        member.client_id,
                        String::from_utf8_lossy(&member.member_metadata),
                        String::from_utf8_lossy(&member.member_assignment)
                    )
                });
                let (id, state) = (&*group.group_id, &group.group_state);
                let protocol = (&group.protocol_type, &group.protocol_data);
                let members = members.collect::<String>();
                format!("{of} {id} {state} {}/{}{members}", protocol.0, protocol.1)
            }
            other => panic!("{other:?}"),
        };
        short(&said)
    }
}

fn say_join(of: u64, joined: &JoinGroupResponse) -> String {
    assert_eq!((joined.throttle_time_ms, joined.skip_assignment), (0, false));
    assert_eq!(joined.protocol_type, None);
    let id = &joined.member_id;
    let protocol = joined.protocol_name.as_deref().unwrap();
    if joined.error_code != 0 {
        assert_eq!((joined.generation_id, protocol, &*joined.leader), (-1, "", ""));
        assert_eq!(joined.members, []);
        return format!("{of} {} id={id}", error(joined.error_code));
    }
    let members = joined.members.iter().map(|member| {
        let metadata = String::from_utf8_lossy(&member.metadata);
        let instance = member.group_instance_id.as_deref().unwrap_or("-");
        format!(" {}:{instance}:{metadata}", member.member_id)
    });
    let members = members.collect::<String>();
    let (generation, leader) = (joined.generation_id, &joined.leader);
    format!("{of} joined id={id} gen={generation} {protocol} leader={leader}{members}")
}

fn error(code: i16) -> String {
    ResponseError::try_from_code(code).map_or("ok".to_owned(), |error| format!("{error:?}"))
}

/// The part of an id between its name and number, without the time.
const MIDDLE: &str = "-0000-4000-8000-";

/// `a#1@64` is the first id, given out at 100 ms; the time is left out where it is zero.
fn long(id: &str) -> StrBytes {
    let Some((name, rest)) = id.split_once('#') else {
        return text(id);
    };
    let (number, time) = rest.split_once('@').unwrap_or((rest, "0"));
    let number: u64 = number.parse().unwrap();
    text(&format!("{name}-{time:0>8}{MIDDLE}{number:012x}"))
}

fn short(line: &str) -> String {
    let mut parts = line.split(MIDDLE);
    let mut said = parts.next().unwrap().to_owned();
    for part in parts {
        let (number, rest) = part.split_at(12);
        let time = said.split_off(said.len() - 8);
        assert_eq!(said.pop(), Some('-'));
        said += &format!("#{}", u64::from_str_radix(number, 16).unwrap());
        let time = time.trim_start_matches('0');
        if !time.is_empty() {
            said += &format!("@{time}");
        }
        said += rest;
    }
    said
}

/// Runs the lines. Those with `>` are the answers that must come, those with `#` say why.
fn check(initial_delay_ms: i64, script: &str) {
    let mut run = Script::new(initial_delay_ms);
    let lines = script.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut came = String::new();
    for line in lines.clone().filter(|line| !line.starts_with('>')) {
        came += &format!("{line}\n");
        for answer in run.run(line) {
            came += &format!("> {answer}\n");
        }
    }
    let wanted = lines.map(|line| format!("{line}\n")).collect::<String>();
    assert_eq!(came, wanted, "\n--- came:\n{came}\n--- wanted:\n{wanted}");
}

#[test]
fn groups_without_members_are_deleted() {
    let mut script = Script::new(0);
    script.run("0 join v=3");
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text("t")))
        .with_partitions(vec![OffsetCommitRequestPartition::default()]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text("rests")))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    script.groups.commit_where(0, &request, exists);
    let mut delete = || -> Vec<i16> {
        let names = ["g", "rests", "never"].map(|name| GroupId(text(name)));
        let request = DeleteGroupsRequest::default().with_groups_names(names.into());
        script.groups.delete(&request).results.iter().map(|result| result.error_code).collect()
    };
    let [full, gone] = [ResponseError::NonEmptyGroup, ResponseError::GroupIdNotFound];
    assert_eq!(delete(), [full.code(), 0, gone.code()]);
    assert_eq!(delete(), [full.code(), gone.code(), gone.code()]);
}
