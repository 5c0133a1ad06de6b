//! What a task's candidates offer at their prices: now, and to those who wait.

use super::super::eligibility::{Candidate, Candidates, Memo, kept, rank};
use super::super::fact::{AttemptEnd, Bid, Loss, ResourceIndex};
use super::super::features::Projected;
use super::super::fleet::{Broken, Claim};
use super::super::learned::Moved;
use super::super::shape::PlainObjective;
use super::super::sharing::Taking;
use super::super::speed::Latency;
use super::super::state::{Fallbacks, State, Tried};
use super::ahead::{Ahead, Here, Way};
use super::prices::{Prices, usd_micros};
use crate::model::reason::RefusalReason;
use crate::model::task::Objective;

/// What the engine needs to know of a task.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub candidates: &'a Candidates,
    pub input_tokens: u32,
    /// Output that is reserved, tokens.
    pub max_output_tokens: u32,
    /// Output that tasks of its class usually have, tokens.
    pub output_expected: f64,
    /// Until the deadline; `None` without one.
    pub left_ms: Option<f64>,
    /// It may wait this long for something better; `None` where it takes what is free now.
    pub wait_ms: Option<f64>,
    pub tried: &'a [Tried],
    /// Taken in this order where they can serve, before anything else.
    pub preferred: Fallbacks,
    /// Of a task with stages: those that are left.
    pub ahead: Option<&'a Ahead<'a>>,
    /// Who served its session last.
    pub affine: Option<ResourceIndex>,
    /// Its features, where they have weight anywhere.
    pub features: Option<&'a Projected>,
}

impl Ask<'_> {
    /// Without prices. Who served the session last has some of the input at hand.
    #[inline(always)]
    pub fn utility(&self, state: &State, candidate: &Candidate) -> f64 {
        let mut utility = candidate.utility(self.input_tokens, self.output_expected);
        if let Some(moved) = self.moved(state, candidate.resource) {
            utility += self.moved_worth(state, candidate.resource, moved);
        }
        if self.affine == Some(candidate.resource) {
            return utility + self.saved(state, candidate);
        }
        utility
    }

    /// What the task's features make of the quality that is expected there; `None` where they have no
    /// weight.
    #[inline]
    pub fn moved(&self, state: &State, resource: ResourceIndex) -> Option<Moved> {
        let (features, shape) = (self.features?, &self.candidates.shape);
        let prior = state.fleet.at(resource).spec.quality_prior(&shape.class).unwrap_or_default();
        state.learned.moved(self.candidates.class, resource, prior, features)
    }

    /// What that is worth, in utility.
    pub fn moved_worth(&self, state: &State, resource: ResourceIndex, moved: Moved) -> f64 {
        let weights = Objective::from(self.candidates.shape.objective).weights();
        weights.quality * moved.by * kept(state.fleet.at(resource))
    }

    /// What the session saves where it was served last.
    pub fn saved(&self, state: &State, candidate: &Candidate) -> f64 {
        state.policy.affinity_share * candidate.input_part(self.input_tokens)
    }

    /// What a candidate's limits ask for.
    pub fn price(&self, state: &State, resource: ResourceIndex) -> f64 {
        self.prices(state).of(state, resource)
    }

    /// The present stage there, for the way on from it.
    pub fn here<'s>(&self, state: &'s State, resource: ResourceIndex) -> Here<'s> {
        let terms = state.fleet.terms(resource);
        Here {
            region: &state.fleet.at(resource).spec.region,
            cost_usd: terms.cost_usd(self.input_tokens, f64::from(self.max_output_tokens)),
            upper_ms: self.latency(state, resource).upper_ms,
            ceiling_usd: self.candidates.shape.requirements.max_cost_usd,
            left_ms: self.left_ms,
        }
    }

    /// The way on from a candidate; `None` for a task without stages.
    #[inline]
    pub fn way(
        &self,
        state: &State,
        resource: ResourceIndex,
    ) -> Option<Result<Way, RefusalReason>> {
        self.ahead.map(|ahead| ahead.way(&self.here(state, resource)))
    }

    pub fn tokens(&self) -> u64 {
        u64::from(self.input_tokens) + u64::from(self.max_output_tokens)
    }

    /// Whether its last attempt was taken away from what went down.
    pub fn is_failed_over(&self) -> bool {
        self.tried.last().is_some_and(|tried| tried.end == AttemptEnd::FailedOver)
    }

    /// What it costs there at most, millionths of a US dollar.
    pub fn usd_micros(&self, state: &State, resource: ResourceIndex) -> u64 {
        let terms = state.fleet.terms(resource);
        usd_micros(terms.cost_usd(self.input_tokens, f64::from(self.max_output_tokens)))
    }

    /// What it takes there, of the resource and of the budgets.
    pub fn taking(&self, state: &State, resource: ResourceIndex) -> Taking {
        Taking {
            priority: self.candidates.shape.priority,
            tokens: self.tokens(),
            usd_micros: self.usd_micros(state, resource),
        }
    }

    pub fn prices(&self, state: &State) -> Prices {
        Prices::new(state, self.candidates, self.input_tokens, self.output_expected)
    }

    /// Of an attempt there, from the decision on.
    #[inline]
    pub fn latency(&self, state: &State, resource: ResourceIndex) -> Latency {
        state.latency(resource, self.input_tokens, self.output_expected)
    }

    /// Whether the price is more than being served is worth to it: its utility, or what is usually
    /// at stake where that is more, because weights under which every answer is worth little or
    /// less than nothing do not mean that none is wanted. Only weights of one's own are on a scale
    /// that has a zero; the named objectives do no more than rank.
    pub fn is_priced_out(&self, state: &State, utility: f64, price: f64) -> bool {
        let stake = state.stake.get();
        match self.candidates.shape.objective {
            PlainObjective::Weights { .. } => price > utility && price > stake,
            PlainObjective::Cheapest
            | PlainObjective::Fastest
            | PlainObjective::Best
            | PlainObjective::Balanced => false,
        }
    }
}

/// The first rule that depends on the task's sizes and that a candidate misses.
pub(super) fn size_miss(
    state: &State,
    ask: &Ask<'_>,
    index: ResourceIndex,
) -> Option<RefusalReason> {
    size_miss_at(state, ask, index, || ask.latency(state, index))
}

/// As [`size_miss`], where the latency there may be known.
#[inline]
fn size_miss_at(
    state: &State,
    ask: &Ask<'_>,
    index: ResourceIndex,
    latency: impl FnOnce() -> Latency,
) -> Option<RefusalReason> {
    let terms = state.fleet.terms(index);
    if ask.tokens() > u64::from(terms.context_window)
        || ask.max_output_tokens > terms.max_output_tokens
    {
        return Some(RefusalReason::ContextWindow);
    }
    // The class is good enough there, and this task may not be.
    if let Some(least) = ask.candidates.shape.requirements.min_quality
        && ask.moved(state, index).is_some_and(|moved| moved.quality < least)
    {
        return Some(RefusalReason::Quality);
    }
    // Deadline and ceiling are the whole chain's.
    if let Some(way) = ask.way(state, index) {
        return way.err();
    }
    if let Some(ceiling) = ask.candidates.shape.requirements.max_cost_usd
        && terms.cost_usd(ask.input_tokens, f64::from(ask.max_output_tokens)) > ceiling
    {
        return Some(RefusalReason::Cost);
    }
    if let Some(left_ms) = ask.left_ms
        && latency().upper_ms > left_ms
    {
        return Some(RefusalReason::Deadline);
    }
    None
}

/// One candidate that may serve, as far as its rules go.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    pub candidate: &'a Candidate,
    /// `utility − price`.
    pub score: f64,
    pub price: f64,
    pub slots: u32,
}

/// Candidates without room that are worth a look at when they will have some: the best few, because
/// looking costs a walk through their windows.
const LATER_MAX: usize = 4;

/// All offers of a task's candidates, and the best of them.
pub(super) struct Survey<'a> {
    /// The best with room at a price that the task may pay.
    pub now: Option<Offer<'a>>,
    /// The best score of those with room that cost more.
    rationed: Option<f64>,
    /// The best without room, best first.
    later: [Option<Offer<'a>>; LATER_MAX],
    /// Whether any candidate could ever take so many tokens.
    waits: bool,
    /// Whether one of them could that is more than probed.
    waits_for_room: bool,
    /// The best score of those that could and that nothing but breakers keeps from it: where there is no other.
    broken: Option<f64>,
    /// Whether it is room alone that one of those lacks, and not money.
    lacks_room: bool,
    /// The best, with room or not, and the score of the next.
    first: Option<Offer<'a>>,
    second: Option<f64>,
    /// Of the utilities, without prices.
    top: f64,
    rather: ResourceIndex,
    sum: f64,
    count: u32,
    pub furthest: RefusalReason,
}

impl<'a> Survey<'a> {
    pub fn of(state: &State, memo: &mut Memo, ask: &Ask<'a>) -> Self {
        let tokens = ask.tokens();
        let prices = ask.prices(state);
        let rooms = ask.rooms(state);
        let mut found = Survey {
            now: None,
            rationed: None,
            later: [None; LATER_MAX],
            waits: false,
            lacks_room: false,
            waits_for_room: false,
            broken: None,
            first: None,
            second: None,
            top: f64::NEG_INFINITY,
            rather: 0,
            sum: 0.0,
            count: 0,
            furthest: ask.candidates.furthest,
        };
        memo.scored.clear();
        let list = &ask.candidates.list;
        let was_tried =
            |candidate: &Candidate| ask.tried.iter().any(|one| one.resource == candidate.resource);
        // A resource that failed this task comes again only where there is no other.
        let skips_tried =
            !ask.tried.is_empty() && list.iter().any(|candidate| !was_tried(candidate));
        for candidate in list {
            if skips_tried && was_tried(candidate) {
                continue;
            }
            let terms = state.fleet.terms(candidate.resource);
            // Most tasks ask twice: for their deadline and for the price.
            let mut known = None;
            let mut latency =
                || *known.get_or_insert_with(|| ask.latency(state, candidate.resource));
            if let Some(reason) = size_miss_at(state, ask, candidate.resource, &mut latency) {
                if rank(reason) > rank(found.furthest) {
                    found.furthest = reason;
                }
                continue;
            }
            let utility = ask.utility(state, candidate);
            let price = prices.of_busy(state, candidate.resource, || latency().expected_ms);
            let score = match ask.way(state, candidate.resource) {
                Some(Ok(way)) => utility - price + way.worth,
                Some(Err(_)) | None => utility - price,
            };
            memo.scored.push((score, candidate.resource));
            found.count(utility, candidate.resource);
            let offer = Offer { candidate, score, price, slots: 0 };
            found.compare(offer);
            let fits_ever = tokens <= terms.tokens_max;
            found.waits |= fits_ever;
            // The first says it of most tasks, and the others' resources are far in memory.
            found.waits_for_room = found.waits_for_room
                || fits_ever && state.fleet.at(candidate.resource).broken != Broken::Probed;
            if found.now.is_some_and(|best| score < best.score) {
                continue;
            }
            let room = rooms.of(candidate.resource);
            if !room.fits(tokens) {
                if fits_ever {
                    found.lacks_room |= ask.unaffordable(state, candidate.resource).is_none();
                    found.keep_later(offer);
                }
                continue;
            }
            if ask.is_priced_out(state, score + price, price) {
                if found.rationed.is_none_or(|best| score > best) {
                    found.rationed = Some(score);
                }
                continue;
            }
            // Of equals, the one with more free slots.
            if found.now.is_none_or(|best| score > best.score || room.slots > best.slots) {
                found.now = Some(Offer { slots: room.slots, ..offer });
            }
        }
        if let Some(stuck) = ask.ahead.and_then(|ahead| ahead.stuck) {
            found.furthest = stuck;
        }
        found.look_at_broken(state, ask, prices);
        found
    }

    /// Where nothing but breakers is in the way of every candidate that could ever serve.
    fn look_at_broken(&mut self, state: &State, ask: &Ask<'a>, prices: Prices) {
        let candidates = ask.candidates;
        let is_probed = |index| state.fleet.at(index).broken == Broken::Probed;
        let serves = |candidate: &&Candidate| {
            let index = candidate.resource;
            ask.tokens() <= state.fleet.terms(index).tokens_max
                && size_miss(state, ask, index).is_none()
        };
        // Most tasks have another.
        if self.waits_for_room {
            return;
        }
        let probed = candidates.list.iter().filter(|one| is_probed(one.resource));
        for candidate in probed.chain(&candidates.stopped).filter(serves) {
            let price = prices.of(state, candidate.resource);
            let score = ask.utility(state, candidate) - price;
            self.broken = Some(self.broken.map_or(score, |best| f64::max(best, score)));
        }
    }

    /// What a task waits for that cannot be served now; `None` where it waits for nothing.
    pub fn waits_for(&self) -> Option<RefusalReason> {
        match (self.broken, self.waits) {
            (Some(_), _) => Some(RefusalReason::Health),
            (None, true) if !self.has_any() => None,
            (None, true) if self.lacks_room => Some(RefusalReason::NoCapacity),
            (None, true) => Some(RefusalReason::Budget),
            (None, false) => None,
        }
    }

    fn count(&mut self, utility: f64, resource: ResourceIndex) {
        self.count += 1;
        self.sum += utility;
        if utility > self.top {
            (self.top, self.rather) = (utility, resource);
        }
    }

    fn compare(&mut self, offer: Offer<'a>) {
        match self.first {
            Some(first) if offer.score <= first.score => {
                if self.second.is_none_or(|second| offer.score > second) {
                    self.second = Some(offer.score);
                }
            }
            Some(_) | None => {
                self.second = self.first.map(|first| first.score);
                self.first = Some(offer);
            }
        }
    }

    fn keep_later(&mut self, offer: Offer<'a>) {
        let mut offer = Some(offer);
        for place in &mut self.later {
            let score = |one: &Option<Offer<'_>>| one.map_or(f64::NEG_INFINITY, |one| one.score);
            if score(&offer) > score(place) {
                std::mem::swap(place, &mut offer);
            }
        }
    }

    /// The best of those without room that could ever have some.
    pub fn first_later(&self) -> Option<Offer<'a>> {
        self.later.first().copied().flatten()
    }

    /// A resource better than the best with room, of which this lane's part never fits the task.
    pub fn never_here(&self, state: &State, ask: &Ask<'_>) -> Option<ResourceIndex> {
        let offer = self.first_later()?;
        let is_better = self.now.is_some_and(|now| offer.score > now.score);
        let resource = offer.candidate.resource;
        let is_never = is_better && !state.fleet.at(resource).could_fit(ask.tokens());
        is_never.then_some(resource)
    }

    /// Whether candidates have room, and each of them costs more than the task may pay.
    pub fn is_rationed(&self) -> bool {
        self.now.is_none() && self.rationed.is_some()
    }

    /// Whether no rule stops every candidate.
    pub fn has_any(&self) -> bool {
        self.count > 0
    }

    /// The best offer, with room or without.
    pub fn first(&self) -> Option<Offer<'a>> {
        self.first
    }

    /// What the task stands to lose by going without its best candidate.
    pub fn loss(&self, state: &State) -> Loss {
        // Without another candidate it would go without everything.
        let stake = state.stake.get();
        let alone = |score: f64| if score > stake { score } else { stake };
        let Some(first) = self.first else { return Loss::of(self.broken.map_or(0.0, alone)) };
        Loss::of(self.second.map_or(alone(first.score), |second| first.score - second))
    }

    pub fn bid(&self, state: &State, ask: &Ask<'_>) -> Option<Bid> {
        let wanted = self.first?.candidate.resource;
        let busy_ms = ask.latency(state, wanted).expected_ms as u32;
        let gain = self.top - self.sum / f64::from(self.count);
        let gain = (self.count > 1).then_some(gain as f32);
        Some(Bid { wanted, busy_ms, gain, rather: self.rather })
    }

    /// What is better than the best with room even after the wait for it, where the task can wait
    /// so long: until its deadline at the slowest that can be expected, or until its time is over.
    pub fn worth_waiting(&self, state: &State, memo: &Memo, ask: &Ask<'_>) -> Option<Offer<'a>> {
        let wait_ms = ask.wait_ms?;
        let weights = Objective::from(ask.candidates.shape.objective).weights();
        let at_once = self.now.map(|now| now.score).or(self.rationed).unwrap_or(f64::NEG_INFINITY);
        let mut best: Option<(f64, Offer<'a>)> = None;
        for offer in self.later.iter().flatten() {
            let to_beat = best.map_or(at_once, |(score, _)| score);
            if offer.score <= to_beat {
                break;
            }
            if ask.is_priced_out(state, offer.score + offer.price, offer.price) {
                continue;
            }
            let resource = offer.candidate.resource;
            // An hour's budget comes back bit by bit, and to whoever asks first.
            if ask.unaffordable(state, resource).is_some() {
                continue;
            }
            let latency = ask.latency(state, resource);
            let kept = state.kept_from(ask.candidates.tenant, resource);
            let held = ask.held_back(state, resource).map(|held| held.claim).unwrap_or_default();
            let (now, ahead) = (state.batch_time, memo.claim(resource).and(kept).and(held));
            let room_in =
                state.fleet.room_in_ms(resource, now, ask.tokens(), latency.expected_ms, ahead);
            let Some(room_in_ms) = room_in else { continue };
            // There is room, and it is kept for others: nobody knows for how long.
            if room_in_ms <= 0.0 && kept != Claim::default() {
                continue;
            }
            let then_ms = ask
                .ahead
                .map_or(0.0, |ahead| ahead.least_ms(&state.fleet.at(resource).spec.region));
            let answer_ms = room_in_ms + latency.upper_ms + then_ms;
            let late = ask.left_ms.is_some_and(|left_ms| answer_ms > left_ms);
            if late || room_in_ms > wait_ms {
                continue;
            }
            let score = offer.score - weights.second * room_in_ms / 1_000.0;
            if score > to_beat {
                best = Some((score, *offer));
            }
        }
        best.map(|(_, offer)| offer)
    }
}
