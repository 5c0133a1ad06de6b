//! Joining, sharing out and leaving: how a group goes from one generation to the next.

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::membership::{Group, JoinTimer, Member, State, Waiting, bytes, copied};
use super::{Replies, Ticket, owned};
use crate::broker::wire::Reply;

/// Members of a group, and members that were given an id and did not come yet. A broker sets no
/// bound unless told (`group.max.size`); every member is in the leader's answer.
const MEMBERS_MAX: usize = 1_000;

/// Metadata and assignments of all members together: a broker stores them as one record, of which
/// the offsets topic takes about 1 MiB.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// A new member whose join is not answered is given up, as on a broker: its client may be gone.
const NEW_MEMBER_TIMEOUT_MS: i64 = 300_000;

/// A rebalance that no member joined is tried again after this at the earliest, since members may
/// ask for a rebalance time-out of zero.
const RETRY_MS_MIN: i64 = 1_000;

/// From this version on, members without a static id are first given an id.
const MEMBER_ID_REQUIRED_FROM: i16 = 4;

/// How a join came.
pub struct Join<'a> {
    pub now_ms: i64,
    pub ticket: Ticket,
    pub client_id: &'a str,
    pub version: i16,
    /// The id of the member: a new one where it has none.
    pub member_id: StrBytes,
}

pub fn join_refused(member_id: &StrBytes, error: ResponseError) -> JoinGroupResponse {
    JoinGroupResponse::default().with_member_id(member_id.clone()).with_error_code(error.code())
}

pub fn synced(result: Result<Bytes, ResponseError>) -> SyncGroupResponse {
    match result {
        Ok(assignment) => SyncGroupResponse::default().with_assignment(assignment),
        Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
    }
}

fn answer(waiting: Option<Waiting>, reply: impl Into<Reply>, replies: &mut Replies) {
    let ticket = waiting.and_then(|waiting| waiting.0);
    replies.extend(ticket.map(|ticket| (ticket, reply.into())));
}

impl Group {
    /// # Errors
    /// Why the member cannot join. Else the answer comes when the rebalance is over, or is there.
    pub fn join(
        &mut self,
        join: Join,
        request: &JoinGroupRequest,
        replies: &mut Replies,
    ) -> Result<(), ResponseError> {
        let Join { now_ms, ticket, .. } = join;
        let id = &request.member_id;
        let known = self.members.get(id);
        let is_accepted = match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                known.is_some_and(|member| member.joining.is_some())
                    || self.joining_count() < MEMBERS_MAX
            }
            State::CompletingRebalance | State::Stable => {
                known.is_some() || self.members.len() < MEMBERS_MAX
            }
        };
        if !is_accepted {
            self.remove(id);
            return Err(ResponseError::GroupMaxSizeReached);
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            return Err(ResponseError::InconsistentGroupProtocol);
        }
        let others = self.members.iter().filter(|(of, _)| *of != id);
        let others_bytes = others.map(|(_, member)| member.bytes()).sum::<usize>();
        let own = request.protocols.iter().map(|given| bytes(&given.name, &given.metadata));
        if others_bytes + own.sum::<usize>() > GROUP_BYTES_MAX {
            return Err(ResponseError::UnknownServerError);
        }
        if !id.is_empty() {
            if !self.pending.contains_key(id) {
                self.validate(id, request.group_instance_id.as_ref())?;
                return self.rejoin(&join, request, replies);
            }
            if request.group_instance_id.is_some() {
                return Err(ResponseError::UnknownServerError);
            }
            self.join_new(join, request, replies);
            return Ok(());
        }
        let holder = request.group_instance_id.as_deref().and_then(|id| self.static_member(id));
        if let Some(holder) = holder.cloned() {
            self.join_replacing(&holder, join, request, replies);
        } else if request.group_instance_id.is_none() && join.version >= MEMBER_ID_REQUIRED_FROM {
            if self.pending.len() >= MEMBERS_MAX {
                return Err(ResponseError::GroupMaxSizeReached);
            }
            let ends_ms = now_ms + i64::from(request.session_timeout_ms);
            self.pending.insert(join.member_id.clone(), ends_ms);
            let response = join_refused(&join.member_id, ResponseError::MemberIdRequired);
            replies.push_back((ticket, response.into()));
        } else {
            self.join_new(join, request, replies);
        }
        Ok(())
    }

    fn join_new(&mut self, join: Join, request: &JoinGroupRequest, replies: &mut Replies) {
        self.is_member_added |= self.state == State::PreparingRebalance && self.is_initial;
        let member = Member {
            instance_id: request.group_instance_id.as_ref().map(owned),
            client_id: StrBytes::from_string(join.client_id.to_owned()),
            session_timeout_ms: 0,
            rebalance_timeout_ms: 0,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            is_new: true,
            joining: None,
            syncing: None,
            session_ends_ms: Some(join.now_ms + NEW_MEMBER_TIMEOUT_MS),
        };
        self.add(join.member_id.clone(), &request.protocol_type, member);
        self.update(&join.member_id, &join, request);
        self.rebalance(join.now_ms, replies);
    }

    fn rejoin(
        &mut self,
        join: &Join,
        request: &JoinGroupRequest,
        replies: &mut Replies,
    ) -> Result<(), ResponseError> {
        let id = &request.member_id;
        let is_same =
            self.members.get(id).is_some_and(|member| member.has_protocols(&request.protocols));
        let is_current = match self.state {
            State::Empty => return Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance => false,
            // It did not get the answer to its join.
            State::CompletingRebalance => is_same,
            // A leader that joins again wants a new assignment.
            State::Stable => is_same && !self.is_leader(id),
        };
        if is_current {
            let mut joined = self.joined().with_member_id(owned(id));
            if self.is_leader(id) {
                joined.members = self.roster();
            }
            replies.push_back((join.ticket, joined.into()));
        } else {
            self.update(id, join, request);
            self.rebalance(join.now_ms, replies);
        }
        Ok(())
    }

    /// A static member came again without its id, or a second one with the same static id: the new
    /// one takes the place, and the old one is fenced.
    fn join_replacing(
        &mut self,
        old_id: &StrBytes,
        join: Join,
        request: &JoinGroupRequest,
        replies: &mut Replies,
    ) {
        let Some(old) = self.members.remove(old_id) else {
            return;
        };
        let error = ResponseError::FencedInstanceId;
        answer(old.joining, join_refused(old_id, error), replies);
        answer(old.syncing, synced(Err(error)), replies);
        let old_leader = self.leader.clone();
        let new_id = &join.member_id;
        if self.is_leader(old_id) {
            self.leader = Some(new_id.clone());
        }
        let mut member = Member { is_new: false, joining: None, syncing: None, ..old };
        member.extend_session(join.now_ms);
        self.members.insert(new_id.clone(), member);
        self.update(new_id, &join, request);
        match self.state {
            State::Stable if self.select_protocol() == self.protocol => {
                // Nothing changes for the others. A leader is not told that it is one: it would
                // share out anew, and nobody asked the others to join.
                let joined = self
                    .joined()
                    .with_leader(old_leader.unwrap_or_default())
                    .with_member_id(new_id.clone());
                let waiting = self.members.get_mut(new_id).and_then(|member| member.joining.take());
                answer(waiting, joined, replies);
            }
            // The leader may have been told the old id.
            State::CompletingRebalance | State::Stable => self.prepare(join.now_ms, replies),
            State::Empty | State::PreparingRebalance => {
                self.complete_join_if_all(join.now_ms, replies);
            }
        }
    }

    /// What a join says of its member. An older join that still waits gets no answer.
    fn update(&mut self, id: &StrBytes, join: &Join, request: &JoinGroupRequest) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.protocols = copied(&request.protocols);
        member.session_timeout_ms = request.session_timeout_ms.into();
        member.rebalance_timeout_ms = match join.version {
            0 => request.session_timeout_ms.into(),
            _ => request.rebalance_timeout_ms.into(),
        };
        member.joining = Some(Waiting(Some(join.ticket)));
    }

    fn rebalance(&mut self, now_ms: i64, replies: &mut Replies) {
        if self.state == State::PreparingRebalance {
            self.complete_join_if_all(now_ms, replies);
        } else {
            self.prepare(now_ms, replies);
        }
    }

    pub fn prepare(&mut self, now_ms: i64, replies: &mut Replies) {
        if self.state == State::CompletingRebalance {
            self.answer_syncs(now_ms, Err(ResponseError::RebalanceInProgress), replies);
        }
        self.to_sync.clear();
        self.is_initial = self.state == State::Empty;
        self.state = State::PreparingRebalance;
        let timeout_ms = self.rebalance_timeout_ms();
        if self.is_initial {
            let delay_ms = self.initial_delay_ms;
            self.join_timer = Some(JoinTimer::Initial {
                due_ms: now_ms + delay_ms,
                delay_ms,
                remaining_ms: (timeout_ms - delay_ms).max(0),
            });
        } else if self.have_all_joined() {
            self.complete_join(now_ms, replies);
        } else {
            self.join_timer = Some(JoinTimer::Rebalance { due_ms: now_ms + timeout_ms });
        }
    }

    fn complete_join_if_all(&mut self, now_ms: i64, replies: &mut Replies) {
        let is_open = self.state == State::PreparingRebalance && !self.is_initial;
        if is_open && self.have_all_joined() {
            self.complete_join(now_ms, replies);
        }
    }

    pub fn complete_join(&mut self, now_ms: i64, replies: &mut Replies) {
        self.join_timer = None;
        let missing = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect::<Vec<_>>();
        for id in missing {
            self.remove(&id);
        }
        if !self.elect() && !self.members.is_empty() {
            // Only static members are left, and none came: until their sessions end.
            let due_ms = now_ms + self.rebalance_timeout_ms().max(RETRY_MS_MIN);
            self.join_timer = Some(JoinTimer::Rebalance { due_ms });
            return;
        }
        self.generation = self.generation.saturating_add(1);
        self.protocol = self.select_protocol();
        if self.members.is_empty() {
            self.state = State::Empty;
            return;
        }
        self.state = State::CompletingRebalance;
        let (joined, roster) = (self.joined(), self.roster());
        for (id, member) in &mut self.members {
            let mut joined = joined.clone().with_member_id(id.clone());
            if *id == joined.leader {
                joined.members.clone_from(&roster);
            }
            answer(member.joining.take(), joined, replies);
            member.extend_session(now_ms);
            member.is_new = false;
            self.to_sync.insert(id.clone());
        }
        self.sync_due_ms = Some(now_ms + self.rebalance_timeout_ms());
    }

    fn joined(&self) -> JoinGroupResponse {
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_name(Some(self.protocol.clone().unwrap_or_default()))
            .with_leader(self.leader.clone().unwrap_or_default())
    }

    fn roster(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let entry = |(id, member): (&StrBytes, &Member)| {
            JoinGroupResponseMember::default()
                .with_member_id(id.clone())
                .with_group_instance_id(member.instance_id.clone())
                .with_metadata(member.metadata(protocol))
        };
        self.members.iter().map(entry).collect()
    }

    /// # Errors
    /// Why the member gets no assignment. Else the answer comes with the leader's, or is there.
    pub fn sync(
        &mut self,
        now_ms: i64,
        ticket: Ticket,
        request: &SyncGroupRequest,
        replies: &mut Replies,
    ) -> Result<(), ResponseError> {
        let id = &request.member_id;
        self.validate_generation(id, request.group_instance_id.as_ref(), request.generation_id)?;
        match self.state {
            State::Empty => return Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance => return Err(ResponseError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => {}
        }
        self.to_sync.remove(id);
        let is_leader = self.is_leader(id);
        let Some(member) = self.members.get_mut(id) else {
            return Err(ResponseError::UnknownMemberId);
        };
        if self.state == State::Stable {
            let response = synced(Ok(member.assignment.clone()));
            replies.push_back((ticket, response.into()));
            return Ok(());
        }
        member.syncing = Some(Waiting(Some(ticket)));
        if !is_leader {
            return Ok(());
        }
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for given in &request.assignments {
            if let Some(member) = self.members.get_mut(&given.member_id) {
                member.assignment = Bytes::copy_from_slice(&given.assignment);
            }
        }
        if self.members.values().map(Member::bytes).sum::<usize>() > GROUP_BYTES_MAX {
            self.answer_syncs(now_ms, Err(ResponseError::UnknownServerError), replies);
            self.rebalance(now_ms, replies);
        } else {
            self.answer_syncs(now_ms, Ok(()), replies);
            self.state = State::Stable;
        }
        Ok(())
    }

    fn answer_syncs(
        &mut self,
        now_ms: i64,
        result: Result<(), ResponseError>,
        replies: &mut Replies,
    ) {
        for member in self.members.values_mut() {
            if result.is_err() {
                member.assignment = Bytes::new();
            }
            if let Some(waiting) = member.syncing.take() {
                let result = result.map(|()| member.assignment.clone());
                answer(Some(waiting), synced(result), replies);
                member.extend_session(now_ms);
            }
        }
    }

    /// # Errors
    /// That the member is not in this generation, or is to join again.
    pub fn heartbeat(
        &mut self,
        now_ms: i64,
        request: &HeartbeatRequest,
    ) -> Result<(), ResponseError> {
        let id = &request.member_id;
        self.validate_generation(id, request.group_instance_id.as_ref(), request.generation_id)?;
        self.extend_session(now_ms, id);
        match self.state {
            State::Empty => Err(ResponseError::UnknownMemberId),
            State::PreparingRebalance => Err(ResponseError::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    pub fn extend_session(&mut self, now_ms: i64, member_id: &StrBytes) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.extend_session(now_ms);
        }
    }

    /// # Errors
    /// The member is unknown.
    pub fn leave(
        &mut self,
        now_ms: i64,
        member_id: &StrBytes,
        replies: &mut Replies,
    ) -> Result<(), ResponseError> {
        if !self.pending.contains_key(member_id) {
            self.validate(member_id, None)?;
        }
        self.remove_answering(member_id, replies);
        match self.state {
            State::Empty => {}
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.rebalance(now_ms, replies);
            }
        }
        Ok(())
    }

    pub fn remove_answering(&mut self, member_id: &StrBytes, replies: &mut Replies) {
        let waiting = self.remove(member_id).and_then(|member| member.joining);
        let response = join_refused(&StrBytes::default(), ResponseError::UnknownMemberId);
        answer(waiting, response, replies);
    }
}
