//! `distributeLoad`: a batch's tasks are assigned together, in the order of what they stand to lose.
//!
//! First come, first served gives the last slot of a good model to a task that would have done as
//! well with the next. So the tasks of a batch, and those that wait, are asked by priority, then by
//! their [`Loss`]: how much less the next best candidate is worth to them at the prices of the time.
//!
//! Where several tenants have tasks of one priority, they take turns: each task is due once its tenant
//! was given so much (with its other tasks before it, by weight), and those that are due in the same
//! *round* come by their loss. A round is an eighth of what tenants were given on average, so nobody is
//! ahead by more than that and a task, and within it the order is the one that brings most. With one
//! tenant there are no rounds.

pub mod rebalance;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::TaskKey;
use super::backlog::Given;
use super::chain::first_of;
use super::eligibility::Memo;
use super::engine::loss_of_new;
use super::fact::Loss;
use super::shares::OWED_TOKENS_MAX;
use super::state::{Phase, State};
use crate::model::task::{Priority, Task};
use crate::model::time::Timestamp;

/// Rounds that it takes to give a tenant once more what tenants were given lately.
const ROUNDS: f64 = 8.0;

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

/// By priority, round, loss, and whether it waits already: since when, or in the order of arrival.
type Rank = (Priority, u64, Reverse<Loss>, bool, u64);

/// A task that is to be asked.
struct Asked<'a> {
    rank: Rank,
    turn: Turn,
    tenant: &'a str,
    class: &'a str,
    input_tokens: u32,
    max_output_tokens: u32,
}

impl Asked<'_> {
    fn priority(&self) -> Priority {
        self.rank.0
    }

    /// Tokens that it is expected to take.
    fn tokens(&self, state: &State) -> f64 {
        tokens(state, self.class, self.input_tokens, self.max_output_tokens)
    }
}

fn tokens(state: &State, class: &str, input_tokens: u32, max_output_tokens: u32) -> f64 {
    let class = state.learned.class(class);
    f64::from(input_tokens) + state.learned.output_expected(class, max_output_tokens)
}

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
    let mut asked: Vec<Asked<'_>> = Vec::with_capacity(waiting.len() + arrivals.len());
    for key in waiting {
        let Some(live) = state.tasks.get(key) else { continue };
        let Phase::Waiting { turn, loss, .. } = live.phase else { continue };
        let (task, shape) = (&live.task, &live.task.shape);
        asked.push(Asked {
            rank: (shape.priority, 0, Reverse(loss), false, turn),
            turn: Turn::Waiting(*key),
            tenant: &shape.tenant,
            class: &shape.class,
            input_tokens: task.input_tokens,
            max_output_tokens: task.max_output_tokens,
        });
    }
    let mut again = Vec::new();
    let mut seen = BTreeSet::new();
    for (place, NewArrival { task, created_at }) in arrivals.iter().enumerate() {
        if !seen.insert(TaskKey::of(&task.task_id)) {
            again.push(Turn::New(place));
            continue;
        }
        let loss = loss_of_new(state, memo, task, *created_at);
        let (class, input_tokens, max_output_tokens) = first_of(task);
        asked.push(Asked {
            rank: (task.priority, 0, Reverse(loss), true, place as u64),
            turn: Turn::New(place),
            tenant: &task.tenant,
            class,
            input_tokens,
            max_output_tokens,
        });
    }
    asked.sort_unstable_by_key(|one| (one.rank, one.turn));
    take_turns(state, &mut asked);
    serve_owed(state, &mut asked);
    asked.into_iter().map(|one| one.turn).chain(again).collect()
}

/// Puts the tenants of each priority into rounds. `asked` is in order, and is so again.
fn take_turns(state: &State, asked: &mut [Asked<'_>]) {
    for asked in asked.chunk_by_mut(|one, other| one.priority() == other.priority()) {
        let Some(first) = asked.first() else { continue };
        if asked.iter().all(|one| one.tenant == first.tenant) {
            continue;
        }
        let mut due: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
        for one in asked.iter() {
            due.entry(one.tenant).or_insert_with(|| {
                (so_far(state, one.priority(), one.tenant), state.tenants.weight(one.tenant))
            });
        }
        let mean = due.values().map(|(so_far, _)| so_far).sum::<f64>() / due.len() as f64;
        let round = if mean > ROUNDS { mean / ROUNDS } else { 1.0 };
        for one in asked.iter_mut() {
            let tokens = one.tokens(state);
            if let Some((so_far, weight)) = due.get_mut(one.tenant) {
                one.rank.1 = (*so_far / round) as u64;
                *so_far += tokens / *weight;
            }
        }
        asked.sort_unstable_by_key(|one| (one.rank, one.turn));
    }
}

/// The first tasks of a priority that is owed as much go before all others: those of the higher of two
/// before those of the lower.
fn serve_owed(state: &State, asked: &mut Vec<Asked<'_>>) {
    for priority in [Priority::Batch, Priority::Interactive] {
        let mut owed = state.shares.owed(priority);
        if owed <= 0.0 {
            continue;
        }
        let mut is_paid = |one: &Asked<'_>| {
            if one.priority() != priority || owed <= 0.0 {
                return false;
            }
            let tokens = one.tokens(state);
            let needed = if tokens < OWED_TOKENS_MAX { tokens } else { OWED_TOKENS_MAX };
            let pays = owed >= needed;
            // None goes before an earlier one.
            owed = if pays { owed - needed } else { 0.0 };
            pays
        };
        let (mut first, others): (Vec<_>, Vec<_>) =
            std::mem::take(asked).into_iter().partition(|one| is_paid(one));
        first.extend(others);
        *asked = first;
    }
}

/// The waiting tasks that a batch tries, first those whose turn it is.
pub fn tried(state: &State) -> Vec<TaskKey> {
    let by_task = |tenant: &str, key: TaskKey| {
        let Some(live) = state.tasks.get(&key) else { return 0.0 };
        let (task, class) = (&live.task, &live.task.shape.class);
        let tokens = tokens(state, class, task.input_tokens, task.max_output_tokens);
        tokens / state.tenants.weight(tenant)
    };
    let so_far = |priority: Priority, tenant: &str| so_far(state, priority, tenant);
    state.backlog.tried(&Given { so_far, by_task })
}

/// What the tenant was given in this priority, by its weight.
fn so_far(state: &State, priority: Priority, tenant: &str) -> f64 {
    state.shares.given(priority, tenant, state.batch_time) / state.tenants.weight(tenant)
}
