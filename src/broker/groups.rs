//! Consumer groups by the classic protocol, as the coordinator of Apache Kafka 4 runs them: members
//! join, their leader shares the partitions out, heartbeats keep sessions alive, and offsets are
//! committed, in a transaction or outside.
//!
//! A timer falls due at its own instant, however late [`Groups::advance`] is called, so that a
//! simulation that leaps over minutes sees what a broker would have done meanwhile.
//!
//! What is not here: the new group protocol, deletion of single offsets, and the expiry of offsets by
//! time. Nothing survives the process.

mod describe;
mod membership;
mod offsets;
mod rebalance;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::topics::Topics;
use super::transactions::Transactions;
use super::{Replies, Ticket};
use membership::{Group, State};
use rebalance::{Join, join_refused, synced};

/// Groups that exist side by side. Tools and tests name a new one per run; those that hold nothing
/// any more make room.
const GROUPS_MAX: usize = 10_000;

/// Sessions, milliseconds: a broker's defaults `group.min.session.timeout.ms` and
/// `group.max.session.timeout.ms`.
const SESSION_TIMEOUT_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;

#[derive(Debug)]
pub struct Groups {
    initial_rebalance_delay_ms: i64,
    groups: BTreeMap<String, Group>,
    /// How many member ids were given out: the next one's number.
    member_ids: u64,
    /// No timer falls due before. It may be too early, since a timer that moves back leaves it as
    /// it is: every heartbeat would else go through all groups.
    due_ms: Option<i64>,
}

impl Groups {
    /// A new group waits `initial_rebalance_delay_ms` for more members.
    pub fn new(initial_rebalance_delay_ms: i64) -> Self {
        Groups { initial_rebalance_delay_ms, groups: BTreeMap::new(), member_ids: 0, due_ms: None }
    }

    /// The answer comes when the group is complete, or at once where it is an error.
    pub fn join(
        &mut self,
        now_ms: i64,
        ticket: Ticket,
        client_id: &str,
        version: i16,
        request: JoinGroupRequest,
        replies: &mut Replies,
    ) {
        let result = self.may_join(&request).and_then(|()| {
            let member_id = self.member_id(now_ms, client_id, &request);
            let join = Join { now_ms, ticket, client_id, version, member_id };
            self.change(&request.group_id, |group| {
                let result = group.join(join, &request, replies);
                // An initial delay of zero ends with the request.
                group.expire(now_ms, replies);
                result
            })
        });
        if let Err(error) = result {
            replies.push_back((ticket, join_refused(&request.member_id, error).into()));
        }
    }

    /// The answer comes when the leader has shared the partitions out, or at once.
    pub fn sync(
        &mut self,
        now_ms: i64,
        ticket: Ticket,
        request: SyncGroupRequest,
        replies: &mut Replies,
    ) {
        let result =
            self.change(&request.group_id, |group| group.sync(now_ms, ticket, &request, replies));
        if let Err(error) = result {
            replies.push_back((ticket, synced(Err(error)).into()));
        }
    }

    pub fn heartbeat(&mut self, now_ms: i64, request: &HeartbeatRequest) -> HeartbeatResponse {
        let result = self.change(&request.group_id, |group| group.heartbeat(now_ms, request));
        HeartbeatResponse::default().with_error_code(code(result))
    }

    pub fn leave(
        &mut self,
        now_ms: i64,
        request: LeaveGroupRequest,
        replies: &mut Replies,
    ) -> LeaveGroupResponse {
        let result = self
            .change(&request.group_id, |group| group.leave(now_ms, &request.member_id, replies));
        LeaveGroupResponse::default().with_error_code(code(result))
    }

    pub fn commit(
        &mut self,
        now_ms: i64,
        topics: &Topics,
        request: &OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        self.commit_where(now_ms, request, |topic, partition| {
            topics.log(topic, partition).is_some()
        })
    }

    pub fn committed(&self, request: &OffsetFetchRequest) -> OffsetFetchResponse {
        offsets::fetch(self.groups.get(request.group_id.as_str()), request)
    }

    /// Deletes groups without members, and their offsets.
    pub fn delete(&mut self, request: &DeleteGroupsRequest) -> DeleteGroupsResponse {
        let results = request.groups_names.iter().map(|id| {
            let deleted = match self.groups.get(id.as_str()).map(|group| group.state) {
                None => Err(ResponseError::GroupIdNotFound),
                Some(State::Empty) => {
                    self.groups.remove(id.as_str());
                    Ok(())
                }
                Some(State::PreparingRebalance | State::CompletingRebalance | State::Stable) => {
                    Err(ResponseError::NonEmptyGroup)
                }
            };
            DeletableGroupResult::default().with_group_id(id.clone()).with_error_code(code(deleted))
        });
        DeleteGroupsResponse::default().with_results(results.collect())
    }

    pub fn list(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        describe::list(&self.groups, request)
    }

    pub fn describe(&self, request: &DescribeGroupsRequest) -> DescribeGroupsResponse {
        describe::describe(&self.groups, request)
    }

    /// Offsets that take effect when the producer's transaction is committed.
    pub fn commit_in_transaction(
        &mut self,
        now_ms: i64,
        topics: &Topics,
        transactions: &Transactions,
        request: &TxnOffsetCommitRequest,
    ) -> TxnOffsetCommitResponse {
        let allowed = transactions.may_commit_offsets(
            &request.transactional_id,
            request.producer_id.0,
            request.producer_epoch,
            &request.group_id,
        );
        let exists = |topic: &str, partition| topics.log(topic, partition).is_some();
        self.commit_in_transaction_where(now_ms, request, exists, allowed)
    }

    /// The producer's transaction has ended: its pending offsets in this group take effect, or are gone.
    pub fn settle(&mut self, group: &str, producer_id: i64, commit: bool) {
        if let Some(group) = self.groups.get_mut(group) {
            group.offsets.settle(producer_id, commit);
        }
    }

    /// The topic was deleted: its offsets are gone, as on a broker.
    pub fn forget_topic(&mut self, topic: &str) {
        for group in self.groups.values_mut() {
            group.offsets.forget_topic(topic);
        }
    }

    /// Ends sessions and rebalances whose time is over.
    pub fn advance(&mut self, now_ms: i64, replies: &mut Replies) {
        if self.due_ms.is_none_or(|due_ms| now_ms < due_ms) {
            return;
        }
        for group in self.groups.values_mut() {
            group.expire(now_ms, replies);
        }
        self.due_ms = self.groups.values().filter_map(Group::due_ms).min();
    }

    /// When [`Groups::advance`] may have something to do.
    pub fn due_ms(&self) -> Option<i64> {
        self.due_ms
    }

    /// The connection that waits is gone. Its member stays in the group, as on a broker: it counts as
    /// joined, and nobody reads the answer.
    pub fn forget(&mut self, ticket: Ticket) {
        for member in self.groups.values_mut().flat_map(|group| group.members.values_mut()) {
            for waiting in [&mut member.joining, &mut member.syncing].into_iter().flatten() {
                waiting.0.take_if(|of| *of == ticket);
            }
        }
    }

    /// Every change of a member goes through here, so that the group's timers are known.
    ///
    /// # Errors
    /// The change's own, or that the group is not there.
    fn change(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Group) -> Result<(), ResponseError>,
    ) -> Result<(), ResponseError> {
        if id.is_empty() {
            return Err(ResponseError::InvalidGroupId);
        }
        let group = self.groups.get_mut(id).ok_or(ResponseError::UnknownMemberId)?;
        let result = change(group);
        self.due_ms = self.due_ms.into_iter().chain(group.due_ms()).min();
        result
    }

    /// Creates the group for its first member.
    fn may_join(&mut self, request: &JoinGroupRequest) -> Result<(), ResponseError> {
        let id = request.group_id.as_str();
        if id.is_empty() {
            Err(ResponseError::InvalidGroupId)
        } else if !SESSION_TIMEOUT_MS.contains(&request.session_timeout_ms) {
            Err(ResponseError::InvalidSessionTimeout)
        } else if request.member_id.is_empty() && !self.groups.contains_key(id) {
            self.create(id)
        } else {
            Ok(())
        }
    }

    /// # Errors
    /// There are too many groups that hold something.
    fn create(&mut self, id: &str) -> Result<(), ResponseError> {
        if self.groups.len() >= GROUPS_MAX {
            self.groups.retain(|_, group| !group.holds_nothing());
        }
        if self.groups.len() >= GROUPS_MAX {
            return Err(ResponseError::GroupMaxSizeReached);
        }
        let initial_delay_ms = self.initial_rebalance_delay_ms;
        self.groups.insert(id.to_owned(), Group { initial_delay_ms, ..Group::default() });
        Ok(())
    }

    /// The id that the member has, or a new one. A broker draws them at random; here they carry the
    /// time besides a number, so that a client of an earlier run, with no more than its old id, is
    /// not taken for another member.
    fn member_id(&mut self, now_ms: i64, client_id: &str, request: &JoinGroupRequest) -> StrBytes {
        if !request.member_id.is_empty() {
            return owned(&request.member_id);
        }
        self.member_ids += 1;
        let name = request.group_instance_id.as_deref().unwrap_or(client_id);
        let (time, number) = (now_ms & 0xffff_ffff, self.member_ids & 0xffff_ffff_ffff);
        StrBytes::from_string(format!("{name}-{time:08x}-0000-4000-8000-{number:012x}"))
    }
}

fn code(result: Result<(), ResponseError>) -> i16 {
    result.err().map_or(0, |error| error.code())
}

/// A copy that does not keep the request's frame in memory.
fn owned(text: &StrBytes) -> StrBytes {
    StrBytes::from_string(text.to_string())
}
