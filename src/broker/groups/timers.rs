//! What ends by time: sessions, joins, and the wait for assignments.

use kafka_protocol::protocol::StrBytes;

use super::Replies;
use super::membership::{Group, JoinTimer, State};

enum Timer {
    Join(JoinTimer),
    Sync,
    Pending(StrBytes),
    Session(StrBytes),
}

impl Group {
    pub fn due_ms(&self) -> Option<i64> {
        let sessions = self.members.values().filter_map(|member| member.session_ends_ms);
        let join = self.join_timer.map(JoinTimer::due_ms);
        let pending = self.pending.values().copied();
        sessions.chain(pending).chain(join).chain(self.sync_due_ms).min()
    }

    fn next_timer(&self) -> Option<(i64, Timer)> {
        let due_ms = self.due_ms()?;
        let pending = self.pending.iter().find(|(_, ends_ms)| **ends_ms == due_ms);
        let session =
            self.members.iter().find(|(_, member)| member.session_ends_ms == Some(due_ms));
        let timer = if let Some(join) = self.join_timer.filter(|join| join.due_ms() == due_ms) {
            Timer::Join(join)
        } else if self.sync_due_ms == Some(due_ms) {
            Timer::Sync
        } else if let Some((id, _)) = pending {
            Timer::Pending(id.clone())
        } else {
            Timer::Session(session?.0.clone())
        };
        Some((due_ms, timer))
    }

    /// Does what is due until now, each at its own time.
    pub fn expire(&mut self, now_ms: i64, replies: &mut Replies) {
        while let Some((due_ms, timer)) = self.next_timer()
            && due_ms <= now_ms
        {
            match timer {
                Timer::Join(timer) => self.end_join(due_ms, timer, replies),
                Timer::Sync => self.end_sync(due_ms, replies),
                Timer::Pending(id) => {
                    self.remove(&id);
                    self.complete_join_without(due_ms, replies);
                }
                Timer::Session(id) => self.end_session(due_ms, &id, replies),
            }
        }
    }

    fn end_join(&mut self, now_ms: i64, timer: JoinTimer, replies: &mut Replies) {
        match timer {
            JoinTimer::Initial { delay_ms, remaining_ms, .. }
                if self.is_member_added && remaining_ms > 0 =>
            {
                self.is_member_added = false;
                let next_ms = self.initial_delay_ms.min(remaining_ms);
                self.join_timer = Some(JoinTimer::Initial {
                    due_ms: now_ms + next_ms,
                    delay_ms: next_ms,
                    remaining_ms: (remaining_ms - delay_ms).max(0),
                });
            }
            JoinTimer::Initial { .. } | JoinTimer::Rebalance { .. } => {
                self.complete_join(now_ms, replies);
            }
        }
    }

    fn end_sync(&mut self, now_ms: i64, replies: &mut Replies) {
        self.sync_due_ms = None;
        let missing = std::mem::take(&mut self.to_sync);
        if !missing.is_empty() {
            for id in missing {
                self.remove(&id);
            }
            self.prepare(now_ms, replies);
        }
    }

    fn end_session(&mut self, now_ms: i64, id: &StrBytes, replies: &mut Replies) {
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.session_ends_ms = None;
        if !member.is_alive_without_heartbeat() {
            self.remove_answering(id, replies);
            match self.state {
                State::CompletingRebalance | State::Stable => self.prepare(now_ms, replies),
                State::Empty | State::PreparingRebalance => {
                    self.complete_join_without(now_ms, replies);
                }
            }
        }
    }

    /// The one that the others waited for did not keep its time. As on a broker, this cuts the
    /// initial delay short.
    fn complete_join_without(&mut self, now_ms: i64, replies: &mut Replies) {
        if self.state == State::PreparingRebalance && self.have_all_joined() {
            self.complete_join(now_ms, replies);
        }
    }
}
