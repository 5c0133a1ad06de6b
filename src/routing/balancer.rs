//! `distributeLoad`: a batch's tasks are assigned together, in the order of what they stand to lose.
//!
//! First come, first served gives the last slot of a good model to a task that would have done as
//! well with the next. So the tasks of a batch, and those that wait, are asked by priority, then by
//! their [`Loss`]: how much less the next best candidate is worth to them at the prices of the time.

pub mod rebalance;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::TaskKey;
use super::eligibility::Memo;
use super::engine::loss_of_new;
use super::fact::Loss;
use super::state::{Phase, State};
use crate::model::task::{Priority, Task};
use crate::model::time::Timestamp;

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// A task of the backlog.
    Waiting(TaskKey),
    /// A new task, by its place among those that were handed in.
    New(usize),
}

/// A new task and when it was created.
#[derive(Debug, Clone, Copy)]
pub struct NewArrival<'a> {
    pub task: &'a Task,
    pub created_at: Timestamp,
}

/// By priority, loss, and whether it waits already: since when, or in the order of arrival.
type Rank = (Priority, Reverse<Loss>, bool, u64);

/// The order in which these tasks are asked. A task id that comes twice has its second turn after
/// all others, where it is seen for what it is.
pub fn distribute_load(
    state: &State,
    memo: &mut Memo,
    waiting: &[TaskKey],
    arrivals: &[NewArrival<'_>],
) -> Vec<Turn> {
    memo.forget_claims();
    // Nothing to compare, nothing to count.
    if waiting.is_empty() && arrivals.len() == 1 {
        return vec![Turn::New(0)];
    }
    let mut turns: Vec<(Rank, Turn)> = Vec::with_capacity(waiting.len() + arrivals.len());
    for key in waiting {
        let Some(live) = state.tasks.get(key) else { continue };
        let Phase::Waiting { turn, loss, .. } = live.phase else { continue };
        let rank = (live.task.shape.priority, Reverse(loss), false, turn);
        turns.push((rank, Turn::Waiting(*key)));
    }
    let mut again = Vec::new();
    let mut seen = BTreeSet::new();
    for (place, NewArrival { task, created_at }) in arrivals.iter().enumerate() {
        if !seen.insert(TaskKey::of(&task.task_id)) {
            again.push(Turn::New(place));
            continue;
        }
        let loss = loss_of_new(state, memo, task, *created_at);
        turns.push(((task.priority, Reverse(loss), true, place as u64), Turn::New(place)));
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, turn)| turn).chain(again).collect()
}
