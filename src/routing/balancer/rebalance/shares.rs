//! One round over one limit: who wants more of it, who can spare some, and what should move.

use super::asked::{Asked, Memory, Open};
use crate::model::task::Priority;
use crate::model::time::Timestamp;
use crate::routing::rights::{RIGHTS, Scale};

/// What a lane that is not waiting keeps above its highest use: an eighth of it. The peaks of a steady
/// load differ by less from one snapshot to the next, so that what was given away is not wanted back.
const HEADROOM: u64 = 8;

/// What moves is a part of a lane's equal share of the limit that matters, or the messages would
/// cost more than it is worth: a 32nd, and at least one unit.
const MOVE_PART: u64 = 32;

/// A lane whose highest use comes to fifteen sixteenths of its units wants more: tasks go elsewhere
/// before any of them waits. It gets as much again from lanes of whose units an eighth is more than they
/// need, and an eighth more from others with a lower price.
const TIGHT: (u64, u64) = (15, 16);
const STEP: u64 = 8;

/// Prices that differ by less than this factor are equal: chance alone moves them so much where a
/// lane's part is a few dozen tasks.
const PRICE_BAND: f64 = 2.0;

/// Between two steps for the same lane from lanes with prices: the time in which a price shows what
/// the last step did, an eighth of a window, milliseconds at least.
const PRICE_MS_MIN: u64 = 5_000;

/// Lanes that all have waiting tasks are evened out where they are off by a half and more: what
/// waits is counted batch by batch, and varies that much.
const WAITING_BAND: (u64, u64) = (3, 2);

/// Between two moves from one waiting lane to another, milliseconds: until both have said what
/// became of the last one.
const EVEN_MS: u64 = 5_000;

/// Windows are kept a little longer than they are, and clocks differ, milliseconds.
const WINDOW_MARGIN_MS: u64 = 15_000;

/// One lane's part of a limit as it was told last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    pub lane: u32,
    /// By the lane's clock.
    pub at: Timestamp,
    pub rights: u32,
    pub used: u64,
    pub used_max: u64,
    /// Units that tasks wait for; 0: none does.
    pub waiting: u64,
    /// Units of the largest of them that is more than the lane has; 0: there is none.
    pub largest: u64,
    /// Since when a task waits; meaningless where none does.
    pub since: Timestamp,
    /// Of a task of the usual size, in utility.
    pub price: f64,
    /// Of `waiting`, what critical tasks wait for, and interactive ones.
    pub critical: u64,
    pub interactive: u64,
    /// Of the largest.
    pub priority: Priority,
    /// Rights that it owes to others.
    pub pledged: u32,
}

#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub scale: Scale,
    /// That share it.
    pub lanes: u32,
    /// 0 for slots.
    pub window_s: u32,
    pub silent_ms: u64,
}

/// Rights that should move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub from: u32,
    pub to: u32,
    pub rights: u32,
    /// See [`crate::model::rights::Advice::owed_to`].
    pub owed_to: Option<Priority>,
}

/// A lane in this round, with what it will hold when all that was advised is done.
#[derive(Debug, Clone, Copy)]
pub struct Stand {
    pub lane: u32,
    pub rights: u32,
    pub units: u64,
    /// Without what is only advised.
    pub units_told: u64,
    pub used: u64,
    /// What it uses at most, by what it said last.
    pub peak: u64,
    /// Units in which its tasks would have room, those that wait too.
    pub wants: u64,
    pub is_waiting: bool,
    pub largest: u64,
    pub since: Timestamp,
    pub price: f64,
    /// It gives nothing in this round: it was asked and has not answered, or let the last advice pass,
    /// or rights are being collected for it.
    pub is_left_alone: bool,
    /// It can be asked for what it owes, though other advice for it is open.
    pub may_owe: bool,
    /// Units that critical tasks wait for.
    pub critical: u64,
    /// Of these, those that they find, or that are free and on their way.
    pub critical_finds: u64,
    /// Units that are owed to its critical tasks.
    pub critical_owed: u64,
    /// Units that it was asked to give for critical tasks elsewhere.
    pub owes_critical: u64,
    /// Of the most urgent tasks that wait and are not critical.
    pub urgency: Priority,
    /// Of the largest.
    pub priority: Priority,
}

pub struct Round<'a> {
    pub limit: Limit,
    pub stands: Vec<Stand>,
    pub memory: &'a mut Memory,
    pub now: Timestamp,
    moves: Vec<Move>,
    room: usize,
}

impl Limit {
    /// A move of fewer units is not worth its messages.
    fn move_min(&self) -> u64 {
        let share = self.scale.limit / u64::from(self.lanes.max(1));
        (share / MOVE_PART).max(1)
    }

    /// The rights that are worth so many units wherever they come to.
    fn rights_of(&self, units: u64) -> u32 {
        let rights =
            (u128::from(units) * u128::from(RIGHTS)).div_ceil(u128::from(self.scale.limit.max(1)));
        u32::try_from(rights).unwrap_or(RIGHTS).min(RIGHTS)
    }
}

impl<'a> Round<'a> {
    pub fn new(
        limit: Limit,
        parts: &[Part],
        memory: &'a mut Memory,
        now: Timestamp,
        room: usize,
    ) -> Self {
        memory.settle(parts, now);
        let open = memory.open();
        let open = |part: &Part| open.get(&part.lane).copied().unwrap_or_default();
        let stands = parts.iter().map(|part| stand(limit, part, open(part), memory, now)).collect();
        Round { limit, stands, memory, now, moves: Vec::new(), room }
    }

    /// The moves, and whether the limit must be looked at again even if nothing more is told.
    pub fn end(self) -> (Vec<Move>, bool) {
        let is_waiting = self.stands.iter().any(|stand| stand.is_waiting);
        let is_open = self.memory.is_open()
            || (is_waiting && !self.moves.is_empty())
            || self.has_other_time()
            || self.awaits_idle();
        (self.moves, is_open)
    }

    /// What may be moved later though nothing is told: lanes that will be asked again.
    fn has_other_time(&self) -> bool {
        let waits = self.stands.iter().any(|stand| stand.is_waiting && stand.units < stand.wants);
        let spare = self.stands.iter().any(|stand| stand.is_left_alone && stand.spare() > 0);
        waits && (spare || self.stands.iter().any(|stand| stand.largest > stand.units))
    }

    /// Advises that `from` gives so many units to `to`, by their places. What it cannot have is left out.
    pub fn give(&mut self, from: usize, to: usize, units: u64) -> u64 {
        self.advise(from, to, units, None)
    }

    /// The same for units that it owes to tasks of this priority: as they become free.
    pub fn owe(&mut self, from: usize, to: usize, units: u64, priority: Priority) -> u64 {
        self.advise(from, to, units, Some(priority))
    }

    /// Advises a lane to keep room together for the largest task that waits there.
    pub fn keep(&mut self, place: usize) {
        let stand = self.stands[place];
        let rights = self.limit.rights_of(stand.largest);
        if self.moves.len() < self.room {
            let owed_to = Some(stand.priority);
            self.moves.push(Move { from: stand.lane, to: stand.lane, rights, owed_to });
        }
    }

    fn advise(&mut self, from: usize, to: usize, units: u64, owed_to: Option<Priority>) -> u64 {
        let (giver, receiver) = (self.stands[from], self.stands[to]);
        // Whatever else the giver owes is less urgent.
        let most = match owed_to {
            Some(Priority::Critical) => giver.units_told.saturating_sub(giver.owes_critical),
            Some(Priority::Interactive | Priority::Batch) | None => giver.units,
        };
        let units = units.min(most);
        let rights = self.limit.rights_of(units);
        let rights = if owed_to.is_some() { rights } else { rights.min(giver.rights) };
        if units == 0 || rights == 0 || self.moves.len() >= self.room {
            return 0;
        }
        let asked = Asked::new((giver.lane, receiver.lane), rights, owed_to, self.now);
        let said = self.memory.ask(asked);
        self.moves.push(Move { from: giver.lane, to: receiver.lane, rights: said, owed_to });
        let scale = self.limit.scale;
        if owed_to == Some(Priority::Critical) {
            self.stands[from].owes_critical += units;
            self.stands[to].critical_owed += units;
        }
        let giver = giver.rights.saturating_sub(rights);
        let receiver = receiver.rights.saturating_add(rights).min(RIGHTS);
        self.stands[from].rights = giver;
        self.stands[from].units = scale.units(giver);
        self.stands[to].rights = receiver;
        self.stands[to].units = scale.units(receiver);
        units
    }

    /// Rights to where they are worth more.
    pub fn share(&mut self) {
        self.fill_waiting();
        self.follow_prices();
        self.even_waiting();
    }

    /// What lanes do not use goes to those whose tasks wait, in proportion to what they want.
    fn fill_waiting(&mut self) {
        let targets = self.targets(true);
        let move_min = self.limit.move_min();
        let mut receivers: Vec<(usize, u64)> = targets;
        receivers.retain(|(place, target)| {
            let stand = &self.stands[*place];
            let lacks = target.saturating_sub(stand.units);
            lacks >= move_min.min(stand.wants - stand.units.min(stand.wants)).max(1)
        });
        receivers.sort_by_key(|(place, _)| (self.stands[*place].since, self.stands[*place].lane));
        for (receiver, target) in receivers {
            let mut lacks = target - self.stands[receiver].units;
            for giver in self.givers() {
                if lacks == 0 {
                    break;
                }
                let spare = self.stands[giver].spare();
                // The last bit of a want may be small; a bit of every lane's spare is a message each.
                if spare < move_min.min(lacks) {
                    continue;
                }
                lacks -= self.give(giver, receiver, spare.min(lacks));
            }
        }
    }

    /// Lanes that can spare something: those with the lowest prices first, then with the most.
    pub fn givers(&self) -> Vec<usize> {
        let can = |place: &usize| {
            let stand = &self.stands[*place];
            !stand.is_left_alone && !stand.is_waiting && stand.spare() > 0
        };
        let mut givers: Vec<usize> = (0..self.stands.len()).filter(can).collect();
        givers.sort_by(|one, other| {
            let (one, other) = (&self.stands[*one], &self.stands[*other]);
            let by_price = one.price.total_cmp(&other.price);
            by_price.then(other.spare().cmp(&one.spare())).then(one.lane.cmp(&other.lane))
        });
        givers
    }

    /// What each waiting lane should have, by its place: what it wants, or its share of what there is.
    fn targets(&self, with_spare: bool) -> Vec<(usize, u64)> {
        let waiting = || {
            let places = 0..self.stands.len();
            places.filter(|place| self.stands[*place].is_waiting)
        };
        let wanted: u128 = waiting().map(|place| u128::from(self.stands[place].wants)).sum();
        let held: u128 = waiting().map(|place| u128::from(self.stands[place].units)).sum();
        let spare: u128 =
            self.givers().into_iter().map(|giver| u128::from(self.stands[giver].spare())).sum();
        let there = held + if with_spare { spare } else { 0 };
        let target = |place: usize| {
            let wants = self.stands[place].wants;
            if wanted <= there || wanted == 0 {
                return wants;
            }
            // At most `wants`, because there is less than what is wanted.
            u64::try_from(there * u128::from(wants) / wanted).unwrap_or(wants)
        };
        waiting().map(|place| (place, target(place))).collect()
    }

    /// A lane that tasks avoid, because it has a price or is full, gets some from one that has too much, or
    /// has a lower price, until the prices meet.
    fn follow_prices(&mut self) {
        let is_tight = |stand: &Stand| {
            stand.units > 0
                && stand.price > 0.0
                && u128::from(stand.peak) * u128::from(TIGHT.1)
                    >= u128::from(stand.units) * u128::from(TIGHT.0)
        };
        // Those who wait too: others that do not wait use what is worth more here.
        let mut dear: Vec<usize> =
            (0..self.stands.len()).filter(|place| is_tight(&self.stands[*place])).collect();
        dear.sort_by(|one, other| {
            let (one, other) = (&self.stands[*one], &self.stands[*other]);
            other.price.total_cmp(&one.price).then(one.lane.cmp(&other.lane))
        });
        let move_min = self.limit.move_min();
        for receiver in dear {
            let to = self.stands[receiver];
            if to.is_waiting && to.units >= to.wants {
                continue;
            }
            let cheaper = |place: &usize| {
                let from = &self.stands[*place];
                let is_free = !from.is_left_alone && !from.is_waiting && *place != receiver;
                let is_worth = from.has_slack() || to.price > from.price * PRICE_BAND;
                is_free && is_worth && from.offer() >= move_min
            };
            let givers = (0..self.stands.len()).filter(cheaper);
            let by_price = |one: &usize, other: &usize| {
                let (one, other) = (&self.stands[*one], &self.stands[*other]);
                let by_slack = other.has_slack().cmp(&one.has_slack());
                let by_price = one.price.total_cmp(&other.price);
                let by_offer = other.offer().cmp(&one.offer());
                by_slack.then(by_price).then(by_offer).then(one.lane.cmp(&other.lane))
            };
            let Some(giver) = givers.min_by(by_price) else { continue };
            let from = self.stands[giver];
            if from.has_slack() {
                self.give(giver, receiver, from.spare().min(to.units));
                continue;
            }
            let last = self.memory.priced.get(&to.lane);
            let pause_ms = PRICE_MS_MIN.max(u64::from(self.limit.window_s) * 1_000 / STEP);
            if last.is_none_or(|at| self.now.ms_since(*at) >= pause_ms) {
                let step = (to.units / STEP).max(move_min);
                if self.give(giver, receiver, from.offer().min(step)) > 0 {
                    self.memory.priced.insert(to.lane, self.now);
                }
            }
        }
    }

    /// Where everything is in use and tasks wait in several lanes: to one that has far less than its share
    /// of what is wanted, from one that has far more; else from the one that has the most beyond its share,
    /// as where a lane is added and the others are alike.
    fn even_waiting(&mut self) {
        if self.memory.evened_at.is_some_and(|at| self.now.ms_since(at) < EVEN_MS) {
            return;
        }
        let (more, less) = WAITING_BAND;
        let targets = self.targets(false);
        let excess = |(place, target): &(usize, u64)| {
            let stand = &self.stands[*place];
            let is_far = stand.units * less > target * more && !stand.is_left_alone;
            if is_far { stand.units - target } else { 0 }
        };
        let lack = |(place, target): &(usize, u64)| {
            let stand = &self.stands[*place];
            let is_far = stand.units * more < target * less;
            if is_far { target - stand.units } else { 0 }
        };
        let first = |of: &dyn Fn(&(usize, u64)) -> u64| {
            let most = targets.iter().max_by_key(|entry| (of(entry), std::cmp::Reverse(entry.0)));
            most.map(|entry| (entry.0, of(entry))).filter(|(_, units)| *units > 0)
        };
        let beyond = |(place, target): &(usize, u64)| {
            let stand = &self.stands[*place];
            if stand.is_left_alone { 0 } else { stand.units.saturating_sub(*target) }
        };
        let giver = first(&excess).or_else(|| first(&beyond));
        let (Some((giver, excess)), Some((receiver, lacks))) = (giver, first(&lack)) else {
            return;
        };
        let units = (excess.min(lacks) / 2).max(1);
        // Half of what the others want is not for them.
        let urgency = self.stands[receiver].urgency;
        if units >= self.limit.move_min() && self.owe(giver, receiver, units, urgency) > 0 {
            self.memory.evened_at = Some(self.now);
        }
    }
}

impl Stand {
    /// What is not used, less some headroom.
    pub fn spare(&self) -> u64 {
        self.units.saturating_sub(self.peak + self.peak / HEADROOM)
    }

    /// Whether it has so much more than it needs that a steady load of the other lanes does not explain it.
    fn has_slack(&self) -> bool {
        self.spare() > self.units / STEP
    }

    /// What it would give to someone to whom it is worth more: of what is free, one step at most.
    fn offer(&self) -> u64 {
        if self.has_slack() {
            return self.spare();
        }
        let free = self.units.saturating_sub(self.used);
        self.spare().max((self.units / STEP).min(free))
    }
}

fn stand(limit: Limit, part: &Part, open: Open, memory: &Memory, now: Timestamp) -> Stand {
    let age_ms = now.ms_since(part.at);
    let is_silent = age_ms > limit.silent_ms;
    let window_ms = u64::from(limit.window_s) * 1_000;
    // Nothing was reserved since, or the lane would have said so.
    let is_over = is_silent && limit.window_s > 0 && age_ms > window_ms + WINDOW_MARGIN_MS;
    let used = if is_over { 0 } else { part.used };
    // When all that was advised is done.
    let rights = part.rights.saturating_add(open.to_come).saturating_sub(open.to_give).min(RIGHTS);
    let units = limit.scale.units(rights);
    let is_waiting = part.waiting > 0 && !is_silent;
    let wants = part.used.saturating_add(part.waiting).max(part.largest).min(limit.scale.limit);
    Stand {
        lane: part.lane,
        rights,
        units,
        units_told: limit.scale.units(part.rights),
        used,
        peak: if is_silent { used } else { part.used_max },
        wants,
        is_waiting,
        largest: if is_waiting && part.largest <= limit.scale.limit { part.largest } else { 0 },
        since: part.since,
        // It decays where nothing is reserved.
        price: if is_silent { 0.0 } else { part.price },
        is_left_alone: open.to_give > 0 || part.pledged > 0 || !memory.may_ask(part, now),
        may_owe: !is_silent && memory.may_ask(part, now),
        critical: if is_silent { 0 } else { part.critical },
        critical_finds: limit
            .scale
            .units(part.rights.saturating_add(open.to_come_free).min(RIGHTS))
            .saturating_sub(used),
        critical_owed: limit.scale.units(open.to_come_critical.min(RIGHTS)),
        owes_critical: limit.scale.units(open.to_give_critical.min(RIGHTS)),
        urgency: if part.interactive > 0 || part.critical > 0 {
            Priority::Interactive
        } else {
            Priority::Batch
        },
        priority: part.priority,
    }
}
