//! Modelled lanes in a closed loop with the planner: tasks of one size or of several come at a rate to
//! each lane, wait where the lane's units are in use, and take of a sliding window. What lanes give is
//! decided as the core decides it; advice and rights take their time.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::routing::price::{Price, Stake, Take};
use crate::routing::rights::{RIGHTS, first_deal};

const TICK_MS: u64 = 100;
/// From the planner to a lane, and from lane to lane: a transaction or two.
const WAY_MS: u64 = 300;
const LOAD_MS: u64 = 5_000;
/// What is owed is owed for so long.
const PLEDGE_MS: u64 = 10_000;

/// Tasks that come to a lane: so many in a thousand ticks, of sizes in turn.
#[derive(Debug, Clone)]
struct Arrivals {
    per_1000_ticks: u64,
    sizes: Vec<u64>,
    /// By chance rather than in equal steps.
    by_chance: bool,
    /// Tasks are worth between nothing and two stakes here, and go elsewhere rather than pay more,
    /// or wait.
    elastic: bool,
}

#[derive(Debug)]
struct ModelLane {
    number: u32,
    rights: u32,
    arrivals: Arrivals,
    come: u64,
    /// (when it came, size)
    waiting: VecDeque<(u64, u64)>,
    /// (when it was taken, size)
    window: VecDeque<(u64, u64)>,
    used: u64,
    used_max: u64,
    served: u64,
    price: Price,
    told_ms: u64,
    untold: bool,
    dry_since: Option<u64>,
    dead: bool,
    draws: u64,
    /// (to, rights, until)
    pledges: Vec<(u32, u32, u64)>,
    /// (size, until)
    keeps: Option<(u64, u64)>,
}

struct Model {
    limit: u64,
    window_ms: u64,
    lanes: Vec<ModelLane>,
    planner: Planner,
    now_ms: u64,
    advice: VecDeque<(u64, Advised)>,
    gifts: VecDeque<(u64, u32, u32)>,
    advised: u64,
    /// The newest of each lane.
    told: BTreeMap<u32, LoadSnapshot<'static>>,
}

impl Model {
    fn new(limit: u64, window_ms: u64, arrivals: Vec<Arrivals>) -> Self {
        let count = arrivals.len() as u32;
        let lanes = (0..).zip(arrivals).map(|(number, arrivals)| {
            ModelLane::new(number, first_deal(limit, number, count), arrivals)
        });
        Model {
            limit,
            window_ms,
            lanes: lanes.collect(),
            planner: Planner::new(count, LOAD_MS),
            now_ms: 0,
            advice: VecDeque::new(),
            gifts: VecDeque::new(),
            advised: 0,
            told: BTreeMap::new(),
        }
    }

    /// A lane is added, and the planner begins anew with what was told last, as it does then.
    fn add(&mut self, arrivals: Arrivals) {
        let number = self.lanes.len() as u32;
        self.lanes.push(ModelLane::new(number, 0, arrivals));
        self.planner = Planner::new(number + 1, LOAD_MS);
        for told in self.told.values() {
            self.planner.told(told);
        }
    }

    fn scale(&self) -> Scale {
        Scale { limit: self.limit }
    }

    fn at(ms: u64) -> Timestamp {
        NOW.plus_ms(ms)
    }

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let (now, scale, window_ms, limit) =
            (self.now_ms, self.scale(), self.window_ms, self.limit);
        while self.gifts.front().is_some_and(|(due, ..)| *due <= now) {
            let (_, to, rights) = self.gifts.pop_front().unwrap();
            let lane = &mut self.lanes[to as usize];
            lane.rights += rights;
            lane.untold = true;
        }
        for lane in self.lanes.iter_mut().filter(|lane| !lane.dead) {
            lane.work(now, scale, window_ms);
            for (to, rights) in lane.give(now, scale) {
                self.gifts.push_back((now + WAY_MS, to, rights));
            }
        }
        while self.advice.front().is_some_and(|(due, _)| *due <= now) {
            let (_, advised) = self.advice.pop_front().unwrap();
            let lane = &mut self.lanes[advised.lane as usize];
            if lane.dead {
                continue;
            }
            let Advice { to_lane, rights: asked, owed_to, .. } = advised.advice;
            if to_lane == advised.lane {
                let largest = lane.waiting.iter().map(|(_, size)| *size).max().unwrap_or(0);
                lane.keeps = Some((largest, now + PLEDGE_MS));
                continue;
            }
            let rights = scale.gift(lane.rights, lane.used, asked);
            if rights > 0 {
                lane.rights -= rights;
                lane.untold = true;
                self.gifts.push_back((now + WAY_MS, to_lane, rights));
            }
            if owed_to.is_some() && lane.keeps.is_none() && asked > rights {
                lane.pledges.retain(|(to, ..)| *to != to_lane);
                lane.pledges.push((to_lane, asked - rights, now + PLEDGE_MS));
                lane.untold = true;
            }
        }
        for lane in self.lanes.iter_mut().filter(|lane| !lane.dead) {
            if let Some(snapshot) = lane.tell(now, scale, limit) {
                self.planner.told(&snapshot);
                self.told.insert(lane.number, snapshot);
            }
        }
        for advised in self.planner.rebalance(Self::at(now)) {
            let Advice { to_lane, rights, owed_to, .. } = advised.advice;
            assert!(rights > 0 && (to_lane != advised.lane || owed_to.is_some()));
            self.advised += 1;
            self.advice.push_back((now + WAY_MS, advised));
        }
        let held: u32 = self.lanes.iter().map(|lane| lane.rights).sum();
        let under_way: u32 = self.gifts.iter().map(|(_, _, rights)| rights).sum();
        assert_eq!(held + under_way, RIGHTS);
        // What the core promises, and what the lanes of this model do.
        let most: u64 = self.lanes.iter().map(|lane| lane.used.max(scale.units(lane.rights))).sum();
        assert!(most <= limit, "{most} of {limit}");
    }

    fn run(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.tick();
        }
    }

    fn units(&self, lane: usize) -> u64 {
        self.scale().units(self.lanes[lane].rights)
    }

    /// Advice in the next so many milliseconds.
    fn advice_in(&mut self, ms: u64) -> u64 {
        let before = self.advised;
        self.run(ms);
        self.advised - before
    }

    /// Units that each lane takes in the next so many milliseconds.
    fn served_in(&mut self, ms: u64) -> Vec<u64> {
        let before: Vec<u64> = self.lanes.iter().map(|lane| lane.served).collect();
        self.run(ms);
        self.lanes.iter().zip(before).map(|(lane, before)| lane.served - before).collect()
    }
}

impl ModelLane {
    fn new(number: u32, rights: u32, arrivals: Arrivals) -> Self {
        ModelLane {
            number,
            rights,
            arrivals,
            come: 0,
            waiting: VecDeque::new(),
            window: VecDeque::new(),
            used: 0,
            used_max: 0,
            served: 0,
            price: Price::default(),
            told_ms: 0,
            untold: true,
            dry_since: None,
            dead: false,
            draws: u64::from(number) + 1,
            pledges: Vec::new(),
            keeps: None,
        }
    }

    fn work(&mut self, now: u64, scale: Scale, window_ms: u64) {
        while self.window.front().is_some_and(|(at, _)| at + window_ms <= now) {
            self.used -= self.window.pop_front().unwrap().1;
        }
        for _ in 0..self.arriving(now / TICK_MS) {
            let size = self.arrivals.sizes[self.come as usize % self.arrivals.sizes.len()];
            self.come += 1;
            self.waiting.push_back((now, size));
        }
        // What waited for longer is refused.
        while self.waiting.front().is_some_and(|(at, _)| at + 30_000 <= now) {
            self.waiting.pop_front();
        }
        let pledged: u32 = self.pledges.iter().map(|(_, rights, _)| rights).sum();
        let all = scale.units(self.rights.saturating_sub(pledged));
        let mut kept = VecDeque::new();
        while let Some((at, size)) = self.waiting.pop_front() {
            let is_elastic = self.arrivals.elastic;
            let price = self.price.usual_task(Model::at(now));
            let units = match self.keeps {
                Some((large, _)) if size < large => all.saturating_sub(large),
                Some(_) | None => all,
            };
            if is_elastic && (self.used + size > units || 2.0 * self.chance() < price) {
                continue;
            }
            if self.used + size > units {
                kept.push_back((at, size));
                continue;
            }
            self.used += size;
            self.served += size;
            self.window.push_back((now, size));
            self.keeps = self.keeps.filter(|(large, _)| size < *large);
            let (units, window_ms) = (units as f64, window_ms as f64);
            let mut stake = Stake::default();
            stake.add(1.0);
            self.price.rise(Take { amount: size as f64, units, window_ms }, stake, Model::at(now));
        }
        self.waiting = kept;
        self.used_max = self.used_max.max(self.used);
    }

    /// What it owes and nobody uses.
    fn give(&mut self, now: u64, scale: Scale) -> Vec<(u32, u32)> {
        self.keeps = self.keeps.filter(|(_, until)| *until > now);
        let mut given = Vec::new();
        let mut pledges = std::mem::take(&mut self.pledges);
        for (to, left, _) in &mut pledges {
            let rights = scale.gift(self.rights, self.used, *left);
            self.rights -= rights;
            *left -= rights;
            if rights > 0 {
                given.push((*to, rights));
            }
        }
        let before = pledges.len();
        pledges.retain(|(_, left, until)| *until > now && scale.units(*left) > 0);
        self.untold |= !given.is_empty() || pledges.len() < before;
        self.pledges = pledges;
        given
    }

    fn chance(&mut self) -> f64 {
        self.draws = self.draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.draws >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Tasks that come in this tick.
    fn arriving(&mut self, tick: u64) -> u64 {
        let rate = self.arrivals.per_1000_ticks;
        if !self.arrivals.by_chance {
            return tick * rate / 1_000 - (tick - 1) * rate / 1_000;
        }
        let draws = 4 * rate.div_ceil(1_000);
        let each = rate as f64 / 1_000.0 / draws.max(1) as f64;
        (0..draws).filter(|_| self.chance() < each).count() as u64
    }

    fn tell(&mut self, now: u64, scale: Scale, limit: u64) -> Option<LoadSnapshot<'static>> {
        let units = scale.units(self.rights);
        let waiting: u64 = self.waiting.iter().take(384).map(|(_, size)| size).sum();
        let is_dry = waiting > units.saturating_sub(self.used);
        let due = now >= self.told_ms + LOAD_MS && (self.used_max > 0 || self.dry_since.is_some());
        let newly_dry = is_dry && self.dry_since.is_none();
        if !(due || self.untold || newly_dry) {
            return None;
        }
        self.dry_since = is_dry.then(|| self.dry_since.unwrap_or(now));
        let largest = self.waiting.iter().map(|(_, size)| *size).max().unwrap_or(0);
        let there = if self.keeps.is_some() { units.saturating_sub(self.used) } else { units };
        let largest = if is_dry && largest > there && largest <= limit { largest } else { 0 };
        let snapshot = snapshot(self.number, limit, Lane::default());
        let load = DimensionLoad {
            units,
            used: self.used,
            used_max: self.used_max,
            price: self.price.usual_task(Model::at(now)),
            rights: self.rights,
            waiting: if is_dry { waiting } else { 0 },
            largest_waiting: largest,
            waiting_since_ms: self.dry_since.map(Model::at),
            pledged: self.pledges.iter().map(|(_, rights, _)| rights).sum(),
            ..snapshot.load[0].clone()
        };
        self.untold = false;
        self.told_ms = now;
        self.used_max = self.used;
        Some(LoadSnapshot { at_ms: Model::at(now), load: vec![load], ..snapshot })
    }
}

fn arrivals(per_1000_ticks: u64) -> Arrivals {
    Arrivals { per_1000_ticks, sizes: vec![1], by_chance: false, elastic: false }
}

fn by_chance(per_1000_ticks: u64) -> Arrivals {
    Arrivals { by_chance: true, ..arrivals(per_1000_ticks) }
}

/// So many tasks in a window of so many milliseconds, in thousandths of ticks.
fn rate(tasks: u64, window_ms: u64) -> u64 {
    tasks * 1_000 * TICK_MS / window_ms
}

#[test]
fn skewed_load_finds_its_capacity_within_half_a_minute() {
    // Four fifths of what the limit allows in one of eight lanes, in windows of a second to a minute.
    for (limit, window_ms) in [(1_000, 1_000), (6_000, 10_000), (20_000, 60_000)] {
        let other = rate(limit / 35, window_ms);
        let mut all = vec![arrivals(other); 8];
        all[3] = arrivals(rate(limit * 8 / 10, window_ms));
        let mut model = Model::new(limit, window_ms, all);
        model.run(30_000);
        // In half a minute no more has come.
        let can_use = limit * 8 / 10 * window_ms.min(30_000) / window_ms;
        assert!(model.units(3) * 100 >= can_use * 95, "{} of {can_use}", model.units(3));
        let advised = model.advised;
        model.run(2 * window_ms);
        // Who has waited for a second gets what stands idle.
        assert!(model.advice_in(120_000) <= 1, "after {advised}, limit {limit}");
    }
}

#[test]
fn a_balanced_load_moves_nothing_once_it_has_settled() {
    // Where arrivals that come by chance just fill the limit, lanes do run dry in turns.
    let may_move = |percent: u64, by_chance: bool| match (percent, by_chance) {
        (85..=100, true) => 60,
        _ => 0,
    };
    for percent in [10, 70, 85, 100, 300] {
        let limit = 4_000;
        let each = rate(limit * percent / 100 / 8, 10_000);
        for one in [arrivals(each), by_chance(each)] {
            let mut model = Model::new(limit, 10_000, vec![one; 8]);
            let is_by_chance = model.lanes[0].arrivals.by_chance;
            model.run(60_000);
            let advised = model.advised;
            let later = model.advice_in(120_000);
            let most = may_move(percent, is_by_chance);
            assert!(later <= most, "{percent} %, {is_by_chance}: {advised}, then {later}");
        }
    }
}

#[test]
fn rights_come_back_when_the_load_moves_on() {
    let limit = 1_000;
    let mut all = vec![arrivals(rate(20, 1_000)); 4];
    all[0] = arrivals(rate(900, 1_000));
    let mut model = Model::new(limit, 1_000, all);
    model.run(20_000);
    assert!(model.units(0) > 850, "{}", model.units(0));
    model.lanes[0].arrivals = arrivals(0);
    model.lanes[2].arrivals = arrivals(rate(900, 1_000));
    model.run(30_000);
    assert!(model.units(2) > 850, "{}", model.units(2));
}

/// Partitions were added: the new lane has no rights, and tasks come to it at once.
#[test]
fn a_lane_that_is_added_has_rights_within_seconds() {
    let (limit, window_ms) = (1_000, 1_000);
    let check = |others: u64, new: u64, at_least: u64, within_ms: u64| {
        let mut model = Model::new(limit, window_ms, vec![arrivals(rate(others, window_ms)); 2]);
        model.run(20_000);
        model.add(arrivals(rate(new, window_ms)));
        model.run(within_ms);
        assert!(model.units(2) >= at_least, "{others}, {new}: {}", model.units(2));
    };
    // From slack, and where all is in use and more waits.
    check(200, 300, 300, 3_000);
    check(1_000, 1_000, 100, 30_000);
    // One lane that was alone before.
    let mut model = Model::new(limit, window_ms, vec![arrivals(rate(300, window_ms))]);
    model.run(20_000);
    model.lanes[0].untold = true;
    model.add(arrivals(rate(400, window_ms)));
    model.run(3_000);
    assert!(model.units(1) >= 400, "{}", model.units(1));
}

#[test]
fn tasks_that_go_elsewhere_rather_than_wait_draw_rights_too() {
    let mut all = vec![Arrivals { elastic: true, ..by_chance(rate(250, 10_000)) }; 4];
    all[2].per_1000_ticks *= 16;
    let mut model = Model::new(2_000, 10_000, all);
    model.run(30_000);
    // The others use 250 and a few more by chance.
    assert!(model.units(2) > 1_150, "{}", model.units(2));
}

#[test]
fn a_limit_smaller_than_the_number_of_lanes_goes_round() {
    // One task a second in all, eight lanes, each with one every four seconds: twice too much.
    let mut model = Model::new(1, 1_000, vec![arrivals(25); 8]);
    model.run(60_000);
    let served = model.served_in(240_000);
    assert!(served.iter().all(|served| *served > 0), "{served:?}");
}

#[test]
fn fragments_are_collected_for_one_after_the_other() {
    // 250 units each, and now and then a task of 400 in two of the lanes.
    let mut all = vec![arrivals(rate(100, 10_000)); 8];
    for lane in [1, 6] {
        all[lane] = Arrivals { sizes: vec![400], ..arrivals(3) };
    }
    let mut model = Model::new(2_000, 10_000, all);
    model.run(60_000);
    let served = model.served_in(300_000);
    // 3 in 1,000 ticks: 9 tasks in five minutes.
    assert!(served[1] >= 7 * 400 && served[6] >= 7 * 400, "{served:?}");
}

#[test]
fn a_dead_lane_keeps_its_rights_and_hears_little() {
    let limit = 1_000;
    let mut all = vec![arrivals(0); 8];
    all[0] = arrivals(rate(2_000, 1_000));
    let mut model = Model::new(limit, 1_000, all);
    model.lanes[5].untold = false;
    model.run(200);
    model.lanes[5].dead = true;
    let advice = model.advice_in(300_000);
    assert_eq!(model.units(0), 875, "all but the dead one's");
    assert!(advice < 30, "{advice}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Whatever comes: nobody holds what is not there (the model's own checks), and in the end the units
    /// are where the tasks are.
    #[test]
    fn no_want_beside_slack(
        rates in proptest::collection::vec(0u64..40_000, 2..9),
        limit in 1_000u64..4_000,
    ) {
        let all = rates.iter().map(|rate| arrivals(*rate)).collect();
        let mut model = Model::new(limit, 1_000, all);
        model.run(60_000);
        let served = model.served_in(60_000);
        let wanted: Vec<u64> = rates.iter().map(|rate| rate * 600 / 1_000).collect();
        let can: u64 = wanted.iter().sum::<u64>().min(limit * 60);
        let all: u64 = served.iter().sum();
        prop_assert!(all * 100 >= can * 93, "{all} of {can}: {served:?} of {wanted:?}");
    }
}
