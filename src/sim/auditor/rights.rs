//! The rights of every limit are all there, in every lane's hands or on the way, at every step that was
//! committed: counted from the journals' facts and the inboxes' records alone, and at the end compared
//! with what the lanes hold.

use std::collections::BTreeMap;

use super::Findings;
use super::chain::Chain;
use crate::lane::Lane;
use crate::model::Topic;
use crate::model::event::InboxBody;
use crate::model::resource::{FleetEntry, Limit};
use crate::model::rights::{LimitKind, LimitName, LimitOwner};
use crate::routing::fact::{Fact, Taken};
use crate::sim::logs::Logs;
use crate::sim::world::World;

/// All rights of one limit.
const ALL: i64 = 1_000_000;

/// One step of a lane, as far as rights are concerned.
enum Step {
    Known(LimitName, u64),
    Given { limit: LimitName, to_lane: u32, rights: i64 },
    Taken { limit: LimitName, from_lane: u32, rights: i64, how: Taken },
}

/// A record of an inbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    from_lane: u32,
    limit: LimitName,
    rights: i64,
}

/// What the lanes hold of one limit, and what is on the way.
#[derive(Debug, Clone, Default)]
struct Account {
    held: BTreeMap<u32, i64>,
    on_the_way: i64,
    /// Of lanes that have not read of the limit yet.
    undealt: i64,
}

pub fn check(world: &World, logs: &Logs, lanes: &[Chain], findings: &mut Findings) {
    let (mut steps, mut inboxes) = (Vec::new(), Vec::new());
    for lane in 0..world.lanes() {
        match (journal(world, logs, lane), inbox(world, logs, lane)) {
            (Ok(found), Ok(messages)) => {
                steps.push(found.into_iter());
                inboxes.push(messages);
            }
            (Err(error), _) | (_, Err(error)) => return findings.say("readable", error),
        }
    }
    let dealt = match first_lanes(world, logs) {
        Ok(dealt) => dealt,
        Err(error) => return findings.say("rights", error),
    };
    let mut walk = Walk {
        dealt,
        accounts: BTreeMap::new(),
        given: BTreeMap::new(),
        taken: vec![0; inboxes.len()],
        inboxes,
        found: Vec::new(),
    };
    // In any order in which what is taken was given before: each lane as far as it can go.
    let mut waiting: Vec<Option<Step>> = steps.iter().map(|_| None).collect();
    loop {
        let mut moved = false;
        for lane in 0..world.lanes() {
            let number = lane as usize;
            while let Some(step) = waiting[number].take().or_else(|| steps[number].next()) {
                if !walk.may(lane, &step) {
                    waiting[number] = Some(step);
                    break;
                }
                walk.step(lane, step);
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    for (lane, step) in waiting.iter().enumerate() {
        if let Some(Step::Taken { limit, from_lane, rights, .. }) = step {
            walk.found.push(format!(
                "lane {lane} took {rights} of {limit:?}, which lane {from_lane} never gave"
            ));
        }
    }
    walk.compare(lanes);
    for detail in walk.found {
        findings.say("rights", detail);
    }
}

struct Walk {
    /// Lanes at first: those that were added later hold nothing by themselves.
    dealt: u32,
    accounts: BTreeMap<LimitName, Account>,
    inboxes: Vec<Vec<Message>>,
    /// Messages of each inbox that were taken.
    taken: Vec<usize>,
    /// What each lane gave to each other one, in order.
    given: BTreeMap<(u32, u32), Vec<Message>>,
    found: Vec<String>,
}

impl Walk {
    /// Whether what the step needs has happened.
    fn may(&self, lane: u32, step: &Step) -> bool {
        let Step::Taken { from_lane, .. } = step else { return true };
        let before = &self.inboxes[lane as usize];
        let before = &before[..self.taken[lane as usize].min(before.len())];
        let number = before.iter().filter(|message| message.from_lane == *from_lane).count();
        self.given.get(&(*from_lane, lane)).is_some_and(|given| given.len() > number)
    }

    fn step(&mut self, lane: u32, step: Step) {
        let limit = match step {
            Step::Known(limit, amount) => {
                let lanes = self.dealt;
                let account = self.accounts.entry(limit.clone()).or_insert_with(|| Account {
                    undealt: (0..lanes).map(|lane| dealt(amount, lane, lanes)).sum(),
                    ..Account::default()
                });
                // What changes its amount only is dealt already.
                if account.held.contains_key(&lane) {
                    return;
                }
                let share = dealt(amount, lane, lanes);
                account.undealt -= share;
                *account.held.entry(lane).or_default() += share;
                limit
            }
            Step::Given { limit, to_lane, rights } => {
                let account = self.accounts.entry(limit.clone()).or_default();
                *account.held.entry(lane).or_default() -= rights;
                account.on_the_way += rights;
                let message = Message { from_lane: lane, limit: limit.clone(), rights };
                self.given.entry((lane, to_lane)).or_default().push(message);
                limit
            }
            Step::Taken { limit, from_lane, rights, how } => {
                let place = self.taken[lane as usize];
                self.taken[lane as usize] += 1;
                let expected = Message { from_lane, limit: limit.clone(), rights };
                let inbox = &self.inboxes[lane as usize];
                let message = inbox.get(place);
                if message != Some(&expected) {
                    self.found.push(format!(
                        "lane {lane} took {expected:?}, and message {place} of its inbox is {message:?}"
                    ));
                }
                let number = inbox[..place.min(inbox.len())]
                    .iter()
                    .filter(|message| message.from_lane == from_lane)
                    .count();
                let given = self.given.get(&(from_lane, lane)).and_then(|given| given.get(number));
                if given != Some(&expected) {
                    self.found
                        .push(format!("lane {lane} took {expected:?}, and given was {given:?}"));
                }
                let account = self.accounts.entry(limit.clone()).or_default();
                account.on_the_way -= rights;
                match how {
                    Taken::Held | Taken::Kept => {
                        *account.held.entry(lane).or_default() += rights;
                    }
                    Taken::Void => self.found.push(format!("lane {lane}: {expected:?} is void")),
                }
                limit
            }
        };
        let Some(account) = self.accounts.get(&limit) else { return };
        let sum = account.held.values().sum::<i64>() + account.on_the_way + account.undealt;
        if sum != ALL || account.held.values().any(|held| *held < 0) {
            self.found
                .push(format!("{limit:?}: {sum} rights after a step of lane {lane}: {account:?}"));
        }
    }

    /// What the lanes' own states say.
    fn compare(&mut self, lanes: &[Chain]) {
        for (limit, account) in &self.accounts {
            for chain in lanes {
                let (lane, state) = (chain.lane.number(), chain.lane.state());
                let counted = account.held.get(&lane).copied();
                let stand = state.stand(limit).map(|stand| i64::from(stand.rights));
                let early = state.sharing.early(limit) as i64;
                let held = stand.map_or((early > 0).then_some(early), |held| Some(held + early));
                if held != counted {
                    self.found.push(format!(
                        "lane {lane} holds {held:?} rights of {limit:?}; by its journal {counted:?}"
                    ));
                }
            }
        }
        for (to_lane, inbox) in self.inboxes.iter().enumerate() {
            let sent = self.given.iter().filter(|((_, to), _)| *to as usize == to_lane);
            let sent: usize = sent.map(|(_, given)| given.len()).sum();
            if sent != inbox.len() {
                self.found.push(format!(
                    "lanes gave {sent} times to lane {to_lane}, whose inbox has {}",
                    inbox.len()
                ));
            }
        }
    }
}

/// Lanes at first, by all journals: those that there were before partitions were added, or after it where
/// no lane had committed anything by then.
fn first_lanes(world: &World, logs: &Logs) -> Result<u32, String> {
    let mut dealt = None;
    for lane in 0..world.lanes() {
        for record in logs.of(Topic::Journal, i32::try_from(lane).unwrap_or(0)) {
            let record = world.codec.decode_journal(record.value.as_deref().unwrap_or_default());
            let said = record.map_err(|error| error.to_string())?.lanes;
            let before = *dealt.get_or_insert(said);
            if before != said || ![world.dealt, world.lanes()].contains(&said) {
                return Err(format!(
                    "lane {lane} began among {said} lanes, another among {before}"
                ));
            }
        }
    }
    Ok(dealt.unwrap_or(world.dealt))
}

/// The first deal, as it is promised: whole units, one more to the first lanes, and rights rounded up
/// from the first lane on.
fn dealt(amount: u64, lane: u32, lanes: u32) -> i64 {
    if lane >= lanes {
        return 0;
    }
    let (amount, lanes) = (amount as i128, i128::from(lanes));
    let mut before = 0;
    let mut share = 0;
    for number in 0..=i128::from(lane) {
        let units = (number + 1) * (amount / lanes) + (number + 1).min(amount % lanes);
        let rights = (units * i128::from(ALL) + amount - 1) / amount;
        share = rights - before;
        before = rights;
    }
    share as i64
}

fn journal(world: &World, logs: &Logs, lane: u32) -> Result<Vec<Step>, String> {
    let partition = i32::try_from(lane).unwrap_or(0);
    let mut steps = Vec::new();
    let mut known: BTreeMap<(LimitOwner, LimitKind), i64> = BTreeMap::new();
    for record in logs.of(Topic::Journal, partition) {
        let record = world.codec.decode_journal(record.value.as_deref().unwrap_or_default());
        let record = record.map_err(|error| error.to_string())?;
        for fact in Lane::facts_of(&record).map_err(|error| error.to_string())? {
            if let Fact::FleetSet { offset, entry } = &fact {
                for (owner, kind, amount) in limits(entry) {
                    let incarnation = *known.entry((owner.clone(), kind)).or_insert(*offset);
                    steps.push(Step::Known(LimitName { owner, incarnation, kind }, amount));
                }
            } else if let Fact::RightsGiven { limit, to_lane, rights } = fact {
                steps.push(Step::Given { limit, to_lane, rights: i64::from(rights) });
            } else if let Fact::RightsTaken { from_lane, transfer, how } = fact {
                let rights = i64::from(transfer.rights);
                steps.push(Step::Taken { limit: transfer.limit, from_lane, rights, how });
            }
        }
    }
    Ok(steps)
}

fn limits(entry: &FleetEntry) -> Vec<(LimitOwner, LimitKind, u64)> {
    let rate = |owner: LimitOwner| {
        move |limit: &Limit| {
            let kind = LimitKind::Rate { dimension: limit.dimension, window_s: limit.window_s };
            (owner.clone(), kind, limit.amount)
        }
    };
    match entry {
        FleetEntry::Resource(spec) => {
            let owner = LimitOwner::Resource(spec.id.clone());
            let slots = (owner.clone(), LimitKind::Slots, u64::from(spec.slots));
            std::iter::once(slots).chain(spec.limits.iter().map(rate(owner))).collect()
        }
        FleetEntry::Tenant(spec) => {
            let owner = LimitOwner::Tenant(spec.id.clone());
            let budget = spec.usd_per_hour.map(|usd| (usd * 1e6) as u64);
            let budget = budget.map(|amount| (owner.clone(), LimitKind::Budget, amount));
            spec.limits.iter().map(rate(owner)).chain(budget).collect()
        }
        FleetEntry::ResourceRemoved(_) | FleetEntry::TenantRemoved(_) => Vec::new(),
    }
}

fn inbox(world: &World, logs: &Logs, lane: u32) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    for record in logs.of(Topic::LaneInbox, i32::try_from(lane).unwrap_or(0)) {
        let decoded = record.with_raw(Topic::LaneInbox, |raw| world.codec.decode_lane_inbox(raw));
        let message = decoded.map_err(|error| error.to_string())?;
        let InboxBody::Rights(transfer) = message.body else { continue };
        messages.push(Message {
            from_lane: message.from_lane,
            limit: transfer.limit,
            rights: i64::from(transfer.rights),
        });
    }
    Ok(messages)
}
