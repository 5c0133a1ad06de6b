//! Groups as tools ask for them.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::messages::describe_groups_response::*;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::membership::{Group, Member, State};

/// Every client comes over loopback.
const CLIENT_HOST: StrBytes = StrBytes::from_static_str("/127.0.0.1");

/// The state of a group that is not there.
const DEAD: StrBytes = StrBytes::from_static_str("Dead");

fn name(state: State) -> StrBytes {
    StrBytes::from_static_str(match state {
        State::Empty => "Empty",
        State::PreparingRebalance => "PreparingRebalance",
        State::CompletingRebalance => "CompletingRebalance",
        State::Stable => "Stable",
    })
}

pub fn list(groups: &BTreeMap<String, Group>, request: &ListGroupsRequest) -> ListGroupsResponse {
    let filter = &request.states_filter;
    let is_asked = |group: &Group| {
        let state = name(group.state);
        filter.is_empty() || filter.iter().any(|asked| asked.trim().eq_ignore_ascii_case(&state))
    };
    let listed = groups.iter().filter(|(_, group)| is_asked(group)).map(|(id, group)| {
        ListedGroup::default()
            .with_group_id(GroupId(StrBytes::from_string(id.clone())))
            .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
            .with_group_state(name(group.state))
    });
    ListGroupsResponse::default().with_groups(listed.collect())
}

pub fn describe(
    groups: &BTreeMap<String, Group>,
    request: &DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let described = request.groups.iter().map(|id| {
        let described = DescribedGroup::default().with_group_id(id.clone());
        match groups.get(id.as_str()) {
            Some(group) => describe_group(group, described),
            None => described.with_group_state(DEAD),
        }
    });
    DescribeGroupsResponse::default().with_groups(described.collect())
}

fn describe_group(group: &Group, described: DescribedGroup) -> DescribedGroup {
    // What members chose counts only once they have their assignments.
    let protocol = group.protocol.as_ref().filter(|_| group.state == State::Stable);
    let member = |(id, member): (&StrBytes, &Member)| {
        DescribedGroupMember::default()
            .with_member_id(id.clone())
            .with_group_instance_id(member.instance_id.clone())
            .with_client_id(member.client_id.clone())
            .with_client_host(CLIENT_HOST)
            .with_member_metadata(protocol.map_or_else(Bytes::new, |name| member.metadata(name)))
            .with_member_assignment(member.assignment.clone())
    };
    described
        .with_group_state(name(group.state))
        .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
        .with_protocol_data(protocol.cloned().unwrap_or_default())
        .with_members(group.members.iter().map(member).collect())
}
