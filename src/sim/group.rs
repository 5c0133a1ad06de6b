//! A member of the consumer group: it joins, shares the lanes out where it leads, and keeps its session.
//! It runs beside the worker, as a client's own thread does.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::instance::Instance;
use super::network::Fate;
use super::world::{World, name, topic};
use crate::broker::wire::{Reply, Request};
use crate::model::Topic;
use crate::stream::committed::{CommittedOffset, LaneCommit};

pub const GROUP: &str = "pointsman";

const SESSION_TIMEOUT_MS: i32 = 6_000;
const HEARTBEAT_US: u64 = 1_000_000;
/// Others may take as long to join.
const JOIN_US: u64 = 30_000_000;
const ANSWER_US: u64 = 3_000_000;
const BACKOFF_US: u64 = 50_000;

/// What the worker is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupEvent {
    Assigned(Vec<u32>),
    Revoked,
    /// Another member has this one's name: the process must end.
    Fenced,
}

#[derive(Debug, Default)]
pub struct Membership {
    pub member_id: String,
    pub generation: i32,
    pub events: VecDeque<GroupEvent>,
}

impl Membership {
    fn told(&self) -> bool {
        self.events.is_empty()
    }
}

/// Keeps the membership until it is fenced.
pub async fn keep(instance: Rc<Instance>, membership: Rc<RefCell<Membership>>) {
    loop {
        let Some(lanes) = join(&instance, &membership).await else { continue };
        membership.borrow_mut().events.push_back(GroupEvent::Assigned(lanes));
        heartbeat(&instance, &membership).await;
        membership.borrow_mut().events.push_back(GroupEvent::Revoked);
        // No one joins anew before the worker has parked its lanes.
        while !membership.borrow().told() {
            instance.sleep(1_000).await;
        }
    }
}

/// Until the group is to share out again: because it says so, or because there are more lanes.
async fn heartbeat(instance: &Instance, membership: &Rc<RefCell<Membership>>) {
    loop {
        instance.sleep(HEARTBEAT_US).await;
        if instance.world.lanes() != instance.world.lanes_shared.get() {
            return;
        }
        let request = {
            let membership = membership.borrow();
            HeartbeatRequest::default()
                .with_group_id(group_id())
                .with_generation_id(membership.generation)
                .with_member_id(StrBytes::from_string(membership.member_id.clone()))
                .with_group_instance_id(Some(StrBytes::from_string(instance.name.clone())))
        };
        let reply = instance.ask(Request::Heartbeat(request), ANSWER_US).await;
        let Some(Reply::Heartbeat(response)) = reply else { continue };
        if response.error_code == 0 {
            continue;
        }
        settle(membership, response.error_code);
        return;
    }
}

/// What an error says of the membership.
fn settle(membership: &Rc<RefCell<Membership>>, code: i16) {
    let mut membership = membership.borrow_mut();
    if code == ResponseError::UnknownMemberId.code() {
        membership.member_id.clear();
    } else if code == ResponseError::FencedInstanceId.code() {
        membership.events.push_back(GroupEvent::Fenced);
    }
}

/// One try to join; the lanes that this member is given.
async fn join(instance: &Instance, membership: &Rc<RefCell<Membership>>) -> Option<Vec<u32>> {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(StrBytes::from_static_str("range"))
        .with_metadata(bytes::Bytes::from_static(b"all"));
    let member_id = membership.borrow().member_id.clone();
    let request = JoinGroupRequest::default()
        .with_group_id(group_id())
        .with_session_timeout_ms(SESSION_TIMEOUT_MS)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(StrBytes::from_string(member_id))
        .with_group_instance_id(Some(StrBytes::from_string(instance.name.clone())))
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocols(vec![protocol]);
    let reply = instance.ask(Request::JoinGroup(request), JOIN_US).await;
    let Some(Reply::JoinGroup(joined)) = reply else { return None };
    if joined.error_code != 0 {
        if joined.error_code == ResponseError::MemberIdRequired.code() {
            membership.borrow_mut().member_id = joined.member_id.to_string();
        }
        settle(membership, joined.error_code);
        instance.sleep(BACKOFF_US).await;
        return None;
    }
    {
        let mut membership = membership.borrow_mut();
        membership.member_id = joined.member_id.to_string();
        membership.generation = joined.generation_id;
    }
    let assignments = if joined.leader == joined.member_id {
        let lanes = instance.world.lanes();
        instance.world.lanes_shared.set(lanes);
        share(lanes, &joined)
    } else {
        Vec::new()
    };
    let request = SyncGroupRequest::default()
        .with_group_id(group_id())
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_group_instance_id(Some(StrBytes::from_string(instance.name.clone())))
        .with_assignments(assignments);
    let reply = instance.ask(Request::SyncGroup(request), JOIN_US).await;
    let Some(Reply::SyncGroup(synced)) = reply else { return None };
    if synced.error_code != 0 {
        settle(membership, synced.error_code);
        instance.sleep(BACKOFF_US).await;
        return None;
    }
    let lanes = synced
        .assignment
        .chunks_exact(4)
        .filter_map(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
    Some(lanes.collect())
}

/// By ranges, over the members in the order of their names.
fn share(lanes: u32, joined: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
    let mut members: Vec<_> = joined
        .members
        .iter()
        .map(|member| (member.group_instance_id.clone(), member.member_id.clone()))
        .collect();
    members.sort_by(|one, other| one.0.as_deref().cmp(&other.0.as_deref()));
    let count = u32::try_from(members.len()).unwrap_or(1).max(1);
    let (each, more) = (lanes / count, lanes % count);
    let mut next = 0;
    let mut assignments = Vec::new();
    for ((_, member_id), index) in members.into_iter().zip(0..) {
        let until = next + each + u32::from(index < more);
        let bytes: Vec<u8> = (next..until).flat_map(u32::to_be_bytes).collect();
        next = until;
        assignments.push(
            SyncGroupRequestAssignment::default()
                .with_member_id(member_id)
                .with_assignment(bytes.into()),
        );
    }
    assignments
}

/// Takes a process that has ended out of the group, as an operator does who will not wait for its
/// session to end.
pub async fn remove_member(instance: &Instance) {
    let member = MemberIdentity::default()
        .with_member_id(StrBytes::from_static_str(""))
        .with_group_instance_id(Some(StrBytes::from_string(instance.name.clone())));
    let request = LeaveGroupRequest::default().with_group_id(group_id()).with_members(vec![member]);
    let network = &instance.world.network;
    // The session ends by itself where that is not answered.
    let _left =
        network.call("operator", Request::LeaveGroup(request), ANSWER_US, Fate::Arrives).await;
}

/// What the group has committed for these lanes; `None` where it cannot be known now.
pub async fn committed(instance: &Instance, lanes: &[u32]) -> Option<Vec<(u32, LaneCommit)>> {
    let request = Request::OffsetFetch(offset_fetch(lanes, true));
    let network = &instance.world.network;
    let reply = network.call(&instance.name, request, ANSWER_US, Fate::Arrives).await;
    let Some(Reply::OffsetFetch(response)) = reply else { return None };
    commits(lanes, &response)
}

/// For those who look on: the same, whatever is pending.
pub fn committed_now(world: &World, lanes: &[u32]) -> Option<Vec<(u32, LaneCommit)>> {
    match world.network.ask(Request::OffsetFetch(offset_fetch(lanes, false))) {
        Some(Reply::OffsetFetch(response)) => commits(lanes, &response),
        Some(_) | None => None,
    }
}

fn offset_fetch(lanes: &[u32], stable: bool) -> OffsetFetchRequest {
    let partitions: Vec<i32> = lanes.iter().filter_map(|lane| i32::try_from(*lane).ok()).collect();
    let topics = Topic::LANE_INPUTS.map(|topic| {
        OffsetFetchRequestTopic::default()
            .with_name(name(topic))
            .with_partition_indexes(partitions.clone())
    });
    OffsetFetchRequest::default()
        .with_group_id(group_id())
        .with_topics(Some(topics.into()))
        .with_require_stable(stable)
}

fn commits(lanes: &[u32], response: &OffsetFetchResponse) -> Option<Vec<(u32, LaneCommit)>> {
    if response.error_code != 0 {
        return None;
    }
    let mut commits: BTreeMap<u32, LaneCommit> =
        lanes.iter().map(|lane| (*lane, LaneCommit::default())).collect();
    for answered in &response.topics {
        let of = topic(&answered.name);
        let index = Topic::LANE_INPUTS.iter().position(|input| Some(*input) == of)?;
        for partition in &answered.partitions {
            if partition.error_code != 0 {
                return None;
            }
            let lane = u32::try_from(partition.partition_index).ok()?;
            if partition.committed_offset >= 0
                && let Some(commit) = commits.get_mut(&lane)
            {
                let metadata = partition.metadata.as_deref().unwrap_or_default().to_owned();
                commit[index] =
                    Some(CommittedOffset { offset: partition.committed_offset, metadata });
            }
        }
    }
    Some(commits.into_iter().collect())
}

fn group_id() -> GroupId {
    GroupId(StrBytes::from_static_str(GROUP))
}
