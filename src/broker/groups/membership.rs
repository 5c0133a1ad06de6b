//! A group and its members: who is in it, who leads, what all of them support.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::protocol::StrBytes;

use super::offsets::Offsets;
use super::{Ticket, owned};

/// Kafka's states of a group, but for `Dead`: what is not there counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

/// A request that is not answered yet; without a ticket where nobody waits for the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting(pub Option<Ticket>);

#[derive(Debug)]
pub struct Member {
    pub instance_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub session_timeout_ms: i64,
    pub rebalance_timeout_ms: i64,
    /// What it can be assigned by, the preferred one first, with its metadata.
    pub protocols: Vec<(StrBytes, Bytes)>,
    pub assignment: Bytes,
    /// Its first join is not answered.
    pub is_new: bool,
    pub joining: Option<Waiting>,
    pub syncing: Option<Waiting>,
    pub session_ends_ms: Option<i64>,
}

impl Member {
    pub fn metadata(&self, protocol: &str) -> Bytes {
        let metadata = self.protocols.iter().find(|(name, _)| &**name == protocol);
        metadata.map_or_else(Bytes::new, |(_, metadata)| metadata.clone())
    }

    pub fn has_protocols(&self, protocols: &[JoinGroupRequestProtocol]) -> bool {
        let given = protocols.iter().map(|given| (&given.name, &given.metadata));
        self.protocols.iter().map(|(name, metadata)| (name, metadata)).eq(given)
    }

    pub fn bytes(&self) -> usize {
        let protocols = self.protocols.iter().map(|(name, metadata)| bytes(name, metadata));
        protocols.sum::<usize>() + self.assignment.len()
    }

    /// A member that waits for its group need not send heartbeats, unless it is new: it has no id
    /// yet, and its client may be gone.
    pub fn is_alive_without_heartbeat(&self) -> bool {
        !self.is_new && (self.joining.is_some() || self.syncing.is_some())
    }

    pub fn extend_session(&mut self, now_ms: i64) {
        self.session_ends_ms = Some(now_ms + self.session_timeout_ms);
    }
}

/// What a protocol of a member takes, its entry too.
pub fn bytes(name: &StrBytes, metadata: &Bytes) -> usize {
    name.len() + metadata.len() + size_of::<(StrBytes, Bytes)>()
}

pub fn copied(protocols: &[JoinGroupRequestProtocol]) -> Vec<(StrBytes, Bytes)> {
    let copy = |given: &JoinGroupRequestProtocol| {
        (owned(&given.name), Bytes::copy_from_slice(&given.metadata))
    };
    protocols.iter().map(copy).collect()
}

/// What ends the joining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinTimer {
    /// A group that was empty waits for more members, as long as they come and time remains.
    Initial {
        due_ms: i64,
        delay_ms: i64,
        remaining_ms: i64,
    },
    Rebalance {
        due_ms: i64,
    },
}

impl JoinTimer {
    pub fn due_ms(self) -> i64 {
        match self {
            JoinTimer::Initial { due_ms, .. } | JoinTimer::Rebalance { due_ms } => due_ms,
        }
    }
}

#[derive(Debug, Default)]
pub struct Group {
    /// How long it waits for more members when it was empty.
    pub initial_delay_ms: i64,
    pub state: State,
    /// The rebalance under way began in an empty group.
    pub is_initial: bool,
    /// A member came during the initial delay, which may be extended once more.
    pub is_member_added: bool,
    pub generation: i32,
    pub protocol_type: Option<StrBytes>,
    pub protocol: Option<StrBytes>,
    pub leader: Option<StrBytes>,
    pub members: BTreeMap<StrBytes, Member>,
    /// Members that were given an id and are to join by it, until when in milliseconds.
    pub pending: BTreeMap<StrBytes, i64>,
    /// Members of this generation that have not asked for their assignment.
    pub to_sync: BTreeSet<StrBytes>,
    pub join_timer: Option<JoinTimer>,
    /// When those that are still to sync are given up.
    pub sync_due_ms: Option<i64>,
    pub offsets: Offsets,
}

impl Group {
    pub fn holds_nothing(&self) -> bool {
        self.state == State::Empty && self.pending.is_empty() && self.offsets.is_empty()
    }

    pub fn static_member(&self, instance_id: &str) -> Option<&StrBytes> {
        self.members
            .iter()
            .find(|(_, member)| member.instance_id.as_deref() == Some(instance_id))
            .map(|(id, _)| id)
    }

    /// # Errors
    /// The member is unknown, or another one has taken its static id.
    pub fn validate(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
    ) -> Result<(), ResponseError> {
        if let Some(instance_id) = instance_id {
            let holder = self.static_member(instance_id).ok_or(ResponseError::UnknownMemberId)?;
            if holder != member_id {
                return Err(ResponseError::FencedInstanceId);
            }
        }
        if self.members.contains_key(member_id) {
            Ok(())
        } else {
            Err(ResponseError::UnknownMemberId)
        }
    }

    /// Whether a member with these protocols can be in the group beside the others.
    pub fn supports(&self, kind: &str, protocols: &[JoinGroupRequestProtocol]) -> bool {
        if self.state == State::Empty {
            return !kind.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(kind)
            && protocols.iter().any(|given| self.is_supported_by_all(&given.name))
    }

    fn is_supported_by_all(&self, protocol: &str) -> bool {
        self.members
            .values()
            .all(|member| member.protocols.iter().any(|(name, _)| &**name == protocol))
    }

    /// What all support and most prefer. Where votes are equal, the name decides: on a broker the
    /// order of a hash table does, which for range and roundrobin is the same.
    pub fn select_protocol(&self) -> Option<StrBytes> {
        let mut votes = BTreeMap::<&StrBytes, usize>::new();
        for member in self.members.values() {
            let mut names = member.protocols.iter().map(|(name, _)| name);
            if let Some(vote) = names.find(|name| self.is_supported_by_all(name)) {
                *votes.entry(vote).or_default() += 1;
            }
        }
        votes.into_iter().rev().max_by_key(|(_, count)| *count).map(|(name, _)| name.clone())
    }

    /// # Errors
    /// As [`Group::validate`], and that the generation is not the group's.
    pub fn validate_generation(
        &self,
        member_id: &StrBytes,
        instance_id: Option<&StrBytes>,
        generation: i32,
    ) -> Result<(), ResponseError> {
        self.validate(member_id, instance_id)?;
        if generation == self.generation { Ok(()) } else { Err(ResponseError::IllegalGeneration) }
    }

    pub fn is_leader(&self, member_id: &StrBytes) -> bool {
        self.leader.as_ref() == Some(member_id)
    }

    pub fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    pub fn joining_count(&self) -> usize {
        self.members.values().filter(|member| member.joining.is_some()).count()
    }

    pub fn have_all_joined(&self) -> bool {
        self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some())
    }

    pub fn add(&mut self, member_id: StrBytes, kind: &StrBytes, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(owned(kind));
        }
        self.pending.remove(&member_id);
        self.leader.get_or_insert_with(|| member_id.clone());
        self.members.insert(member_id, member);
    }

    /// Takes a member, or one that was to join, out of the group. What it waits for is the caller's.
    pub fn remove(&mut self, member_id: &StrBytes) -> Option<Member> {
        let removed = self.members.remove(member_id);
        self.pending.remove(member_id);
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        removed
    }

    /// Sees to a leader that is there. Says whether there is one.
    pub fn elect(&mut self) -> bool {
        let is_joining =
            |id: &StrBytes| self.members.get(id).is_some_and(|member| member.joining.is_some());
        let Some(leader) = &self.leader else {
            return false;
        };
        if !is_joining(leader) {
            let Some(elected) = self.members.keys().find(|id| is_joining(id)) else {
                return false;
            };
            self.leader = Some(elected.clone());
        }
        true
    }
}
