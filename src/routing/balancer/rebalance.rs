//! `rebalance`: which lane should give rights to which other one, by what lanes say of their load.
//!
//! The first deal divides every limit equally, and load is never equal. Nobody can move another
//! lane's rights: a lane gives what is safe for it, in its own transaction, and this only
//! *advises*. Advice that is lost, stale or doubled costs a detour, so what counts here is to come
//! to rest at a good division, soon, with few messages. The rejected alternative, lanes that ask each
//! other, takes as many messages as there are pairs, and nobody sees where the rights lie idle.
//!
//! Rights follow value. At the optimum of the divided problem the shadow price of a resource is the
//! same in all lanes; it is 0 where there is slack, so rights go from slack to want first, then from
//! lower prices to higher ones. Where tasks wait in several lanes and not all can have what they
//! want, each gets in proportion to what it wants: a waiting task has the same chance in every lane.
//!
//! A steady load moves nothing: see the bands in `shares`. A task that fits the limit but no lane's
//! units needs rights from several lanes: they are collected for one lane at a time, the one that
//! waited longest first. With fewer units than lanes that is all there is, and the units go round. What
//! critical tasks wait for comes from batch work of other lanes.
//!
//! A lane whose own tasks wait has nothing free to give. Where its rights are *owed* to others, the advice
//! says so, with the priority of the tasks that they are for, and the lane gives them as they become free:
//! see `routing::sharing`.
//!
//! Each round looks only at limits of which something was told, or of which something is open.

mod asked;
mod collect;
mod critical;
mod idle;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::model::event::{DimensionLoad, LoadSnapshot};
use crate::model::rights::{Advice, Counted, LimitKind, LimitName, LimitOwner};
use crate::model::time::Timestamp;
use crate::routing::rights::Scale;
use asked::Memory;
use shares::{Limit, Part, Round};

/// Advice of one round, 100 KiB or so of records. What comes beyond waits for the next round.
pub const ADVICE_MAX: usize = 512;

/// A lane that has said nothing for this many of its intervals, and a bit, does not run or has
/// nothing to do: those that use something, or lack it, say so in each. The highest use and the waiting
/// tasks of its last word do not count any more.
const SILENT_INTERVALS: u64 = 2;
/// For the way of its words, and for clocks that differ, milliseconds.
const SILENT_MARGIN_MS: u64 = 2_000;

/// What the planner would have a lane do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advised {
    /// The lane that the advice is for: it shall give.
    pub lane: u32,
    pub advice: Advice,
}

/// What is known of every lane's load, and what was advised lately.
#[derive(Debug)]
pub struct Planner {
    lanes: u32,
    silent_ms: u64,
    /// By the owner's key in `fleet`.
    owners: BTreeMap<String, Owner>,
    /// Owners to look at in the next round.
    due: BTreeSet<String>,
    /// The last owner of the last round: one that was cut off goes on behind it.
    last: String,
}

#[derive(Debug, Default)]
struct Owner {
    told: BTreeMap<u32, Vec<Told>>,
    memory: BTreeMap<(LimitKind, i64), Memory>,
}

/// One limit in a lane's last load snapshot of its owner.
#[derive(Debug, Clone, Copy)]
struct Told {
    kind: LimitKind,
    incarnation: i64,
    amount: u64,
    part: Part,
}

impl Planner {
    /// For so many lanes that publish what they use so often, milliseconds.
    pub fn new(lanes: u32, load_snapshot_ms: u64) -> Self {
        let silent_ms = load_snapshot_ms.saturating_mul(SILENT_INTERVALS);
        let silent_ms = silent_ms.saturating_add(SILENT_MARGIN_MS);
        Planner {
            lanes,
            silent_ms,
            owners: BTreeMap::new(),
            due: BTreeSet::new(),
            last: String::new(),
        }
    }

    /// Whether a round would look at anything.
    pub fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// A lane has said how it stands with a resource or tenant.
    pub fn told(&mut self, snapshot: &LoadSnapshot<'_>) {
        let LoadSnapshot { lane, ref resource, at_ms, ref load, .. } = *snapshot;
        // A lane's own record has no limits.
        if self.lanes <= 1 || lane >= self.lanes || load.is_empty() {
            return;
        }
        let owner = self.owners.entry(resource.to_string()).or_default();
        owner.told.insert(lane, load.iter().filter_map(|load| told(lane, at_ms, load)).collect());
        self.due.insert(resource.to_string());
    }

    /// A lane's load snapshot of an owner is removed from the topic.
    pub fn untold(&mut self, lane: u32, key: &str) {
        if let Some(owner) = self.owners.get_mut(key) {
            owner.told.remove(&lane);
            if owner.told.is_empty() {
                self.owners.remove(key);
                self.due.remove(key);
            }
        }
    }

    /// One round: what lanes should give each other, by what is known at this time.
    pub fn rebalance(&mut self, now: Timestamp) -> Vec<Advised> {
        let mut advised = Vec::new();
        let behind = (Bound::Excluded(self.last.as_str()), Bound::Unbounded);
        let before = (Bound::Unbounded, Bound::Included(self.last.as_str()));
        let due: Vec<String> = self
            .due
            .range::<str, _>(behind)
            .chain(self.due.range::<str, _>(before))
            .cloned()
            .collect();
        for key in due {
            if advised.len() >= ADVICE_MAX {
                break;
            }
            let Some(owner) = self.owners.get_mut(&key) else { continue };
            let is_open = owner.round(&key, self.lanes, self.silent_ms, now, &mut advised);
            if !is_open {
                self.due.remove(&key);
            }
            self.last = key;
        }
        advised
    }
}

fn told(lane: u32, at: Timestamp, load: &DimensionLoad<'_>) -> Option<Told> {
    let counted = Counted::ALL.into_iter().find(|counted| counted.name() == load.dimension)?;
    Some(Told {
        kind: LimitKind::of(counted, load.window_s),
        incarnation: load.incarnation,
        amount: load.limit,
        part: Part {
            lane,
            at,
            rights: load.rights,
            used: load.used,
            used_max: load.used_max.max(load.used),
            waiting: load.waiting,
            largest: load.largest_waiting,
            since: load.waiting_since_ms.unwrap_or(at),
            price: load.price,
            critical: load.waiting_critical,
            interactive: load.waiting_interactive,
            priority: load.largest_priority,
            pledged: load.pledged,
        },
    })
}

impl Owner {
    /// Looks at every limit; whether something is open that time alone may change.
    fn round(
        &mut self,
        key: &str,
        lanes: u32,
        silent_ms: u64,
        now: Timestamp,
        advised: &mut Vec<Advised>,
    ) -> bool {
        // A lane that has read less of the fleet speaks of the limit that was there before.
        let mut limits: Limits = BTreeMap::new();
        for told in self.told.values().flatten() {
            let (newest, amount, parts) = limits.entry((told.kind, told.incarnation)).or_insert((
                told.part.at,
                0,
                Vec::new(),
            ));
            if *amount == 0 || told.part.at > *newest {
                (*newest, *amount) = (told.part.at, told.amount);
            }
            parts.push(told.part);
        }
        join_newcomers(&mut limits);
        self.memory.retain(|name, _| limits.contains_key(name));
        let mut is_open = false;
        for ((kind, incarnation), (_, amount, parts)) in limits {
            // Nothing to move, and nowhere.
            if amount == 0 || parts.len() < 2 {
                continue;
            }
            let memory = self.memory.entry((kind, incarnation)).or_default();
            let limit = Limit {
                scale: Scale { limit: amount },
                lanes,
                window_s: kind.window_s(),
                silent_ms,
            };
            let room = ADVICE_MAX.saturating_sub(advised.len());
            let mut round = Round::new(limit, &parts, memory, now, room);
            round.serve_critical();
            round.collect();
            round.share();
            round.take_idle();
            let (moves, open) = round.end();
            is_open |= open;
            advised.extend(moves.into_iter().map(|one| {
                let owner = LimitOwner::of_key(key);
                let limit = LimitName { owner, incarnation, kind };
                let advice =
                    Advice { limit, to_lane: one.to, rights: one.rights, owed_to: one.owed_to };
                Advised { lane: one.from, advice }
            }));
        }
        is_open
    }
}

/// Every limit of an owner, by kind and incarnation: the newest amount, since when, and the lanes' parts.
type Limits = BTreeMap<(LimitKind, i64), (Timestamp, u64, Vec<Part>)>;

/// A lane that was added may know a limit by a later record of the fleet than the others, because the
/// earlier one was compacted away. Where it has no rights of it yet, it is one of them all the same, and
/// takes the limit's name from the first rights that it gets.
fn join_newcomers(limits: &mut Limits) {
    let kinds: Vec<(LimitKind, i64)> = limits.keys().copied().collect();
    for same in kinds.chunk_by(|one, other| one.0 == other.0).filter(|same| same.len() > 1) {
        let held = |name: &(LimitKind, i64)| -> u64 {
            let parts = limits.get(name).into_iter().flat_map(|(_, _, parts)| parts);
            parts.map(|part| u64::from(part.rights)).sum()
        };
        let Some(main) = same.iter().max_by_key(|name| held(name)).copied() else { continue };
        let mut newcomers = Vec::new();
        for name in same.iter().filter(|name| **name > main) {
            let Some((_, _, parts)) = limits.get_mut(name) else { continue };
            newcomers.extend(parts.iter().filter(|part| part.rights == 0).copied());
            parts.retain(|part| part.rights > 0);
        }
        if let Some((_, _, parts)) = limits.get_mut(&main) {
            parts.extend(newcomers);
            parts.sort_by_key(|part| part.lane);
        }
    }
}
