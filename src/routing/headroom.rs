//! A provider that grants less than the fleet says: what workers pass on of its answers lowers the
//! limits of a resource for a while, in all lanes.
//!
//! A lane cannot know what the others have in use, so it tells only what is certain: that the provider
//! grants less than the fleet says, that it has less left than this lane alone could still take, or
//! that it refuses requests for which everything was reserved, again and again or for long. What the
//! lane hears it publishes as a health event, in the transaction of its batch, and does nothing itself:
//! it lowers the limit when it reads the event, as every other lane does. So all lanes agree, and the
//! health offset of a decision says which limits it had.
//!
//! Rights are millionths of a limit, so a lower one scales every lane's units and needs no message.
//! What is in use stays in use: where that is more, nothing new is reserved until it fits. Everything
//! ends by itself, by the time that the event names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TaskKey;
use super::fact::{AttemptEnd, Fact, ResourceIndex};
use super::fleet::{Rate, Resource};
use super::rights::RIGHTS;
use super::state::{Phase, State};
use crate::model::health::{HEADROOM_SOURCE, HealthEvent, HealthScope, LOWERED_MAX, LoweredLimit};
use crate::model::resource::Limit;
use crate::model::result::{RateLimit, ResultStatus, TaskResult};
use crate::model::rights::{Counted, LimitKind};
use crate::model::time::Timestamp;

/// Events that lower limits, of all resources and sources. Anyone may publish.
pub const LOWERED_EVENTS_MAX: usize = 1 << 14;

/// No event lowers a limit for longer (an hour), whatever it says: whoever means it changes the fleet.
const LOWERED_MS_MAX: u64 = 3_600_000;

/// What a provider said so long ago says nothing of now: a lane that stood still reads old results.
const SAID_MS_MAX: u64 = 5_000;

/// A lane says the next of one resource after so long, when the others have followed the last.
const TELL_MS: u64 = 5_000;

/// For how long a provider's word is taken: what it asks for within these, and where it asks for
/// nothing.
const HOLD_MS_MIN: u64 = 5_000;
const HOLD_MS_MAX: u64 = 300_000;
const HOLD_MS: u64 = 10_000;

/// A provider's own limit is no passing thing. It is told again before the last telling ends.
const LIMIT_HOLD_MS: u64 = 60_000;
const LIMIT_RENEW_MS: u64 = 10_000;

/// A limit is not worth an event for less than an eighth of it.
const BAND: u64 = 8;

/// One refusal may be anything. It is clear when the provider wants to be left alone for so long, or
/// when so many came within a minute, and they are a tenth of what ended.
const REFUSED_MS: u64 = 5_000;
const REFUSALS: u32 = 3;
const REFUSALS_MS: u64 = 60_000;
const REFUSED_ONE_IN: u32 = 10;

/// No headroom that is told lowers a limit below a sixteenth of the fleet's: with nothing sent,
/// nobody would hear that there is more again.
const FLOOR: u64 = 16;

/// One source's word on a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Lowered {
    /// Those that have not ended; never none.
    limits: Vec<LoweredLimit>,
    since: Timestamp,
}

/// How attempts on a resource ended since one of them was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Refusals {
    since: Timestamp,
    refused: u32,
    ended: u32,
}

impl Refusals {
    const fn none(now: Timestamp) -> Self {
        Refusals { since: now, refused: 0, ended: 0 }
    }

    fn is_over(self, now: Timestamp) -> bool {
        self.since.plus_ms(REFUSALS_MS) <= now
    }

    fn count(&mut self, is_refused: bool) {
        self.ended = self.ended.saturating_add(1);
        self.refused = self.refused.saturating_add(u32::from(is_refused));
    }
}

/// Lowered limits of all resources, and when the lane said something of them itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Headroom {
    /// By the resource's id, then by source.
    lowered: BTreeMap<String, BTreeMap<String, Lowered>>,
    kept: usize,
    told_at: BTreeMap<ResourceIndex, Timestamp>,
    /// Of resources that refused something within the last minute that they were used.
    refusals: BTreeMap<ResourceIndex, Refusals>,
}

/// The source of what a lane heard of headroom.
pub fn headroom_source(lane: u32) -> String {
    format!("{HEADROOM_SOURCE}{lane}")
}

/// The limit that an event means.
pub fn kind_of(lowered: &LoweredLimit) -> LimitKind {
    LimitKind::of(lowered.dimension, lowered.window_s)
}

impl Headroom {
    /// Whether an event would exceed what is kept.
    pub fn is_full_for(&self, event: &HealthEvent) -> bool {
        !event.limits.is_empty()
            && self.kept >= LOWERED_EVENTS_MAX
            && !self
                .lowered
                .get(&event.id)
                .is_some_and(|sources| sources.contains_key(&event.source))
    }

    /// A source's last word takes the place of the one before; whether limits may have changed.
    pub fn set(&mut self, event: &HealthEvent, now: Timestamp) -> bool {
        if event.scope != HealthScope::Resource {
            return false;
        }
        let latest = now.plus_ms(LOWERED_MS_MAX);
        let mut limits = event.limits.clone();
        limits.iter_mut().for_each(|one| one.until_at_ms = one.until_at_ms.min(latest));
        limits.retain(|one| one.until_at_ms > now);
        if limits.is_empty() {
            let Some(sources) = self.lowered.get_mut(&event.id) else { return false };
            let is_gone = sources.remove(&event.source).is_some();
            if sources.is_empty() {
                self.lowered.remove(&event.id);
            }
            self.kept -= usize::from(is_gone);
            return is_gone;
        }
        let lowered = Lowered { limits, since: now };
        let sources = self.lowered.entry(event.id.clone()).or_default();
        let before = sources.insert(event.source.clone(), lowered);
        self.kept += usize::from(before.is_none());
        true
    }

    /// Takes out what has ended; the resources whose limits may have changed. Asked twice it says
    /// the same as asked once, later.
    pub fn end(&mut self, now: Timestamp) -> Vec<String> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let mut ended = Vec::new();
        self.lowered.retain(|id, sources| {
            let before = sources.len();
            let mut is_changed = false;
            sources.retain(|_, lowered| {
                let limits = lowered.limits.len();
                lowered.limits.retain(|one| one.until_at_ms > now);
                is_changed |= lowered.limits.len() < limits;
                !lowered.limits.is_empty()
            });
            self.kept -= before - sources.len();
            if is_changed {
                ended.push(id.clone());
            }
            !sources.is_empty()
        });
        ended
    }

    fn of(&self, id: &str) -> impl Iterator<Item = &Lowered> {
        self.lowered.get(id).into_iter().flat_map(BTreeMap::values)
    }

    /// The least that anyone says of a limit, and until when somebody does.
    pub fn lowest(&self, id: &str, kind: LimitKind) -> Option<(u64, Timestamp)> {
        let said = self.of(id).flat_map(|one| &one.limits);
        let of_kind = said.filter(|one| kind_of(one) == kind);
        of_kind.map(|one| (one.limit, one.until_at_ms)).min_by_key(|(limit, until)| {
            // Of those that say the same, the one that says it longest.
            (*limit, std::cmp::Reverse(*until))
        })
    }

    /// What a source still says of a resource.
    fn said(&self, id: &str, source: &str) -> &[LoweredLimit] {
        let lowered = self.lowered.get(id).and_then(|sources| sources.get(source));
        lowered.map_or(&[], |lowered| lowered.limits.as_slice())
    }

    /// Since when the resource's limits are what they are, as far as events lowered them.
    fn since(&self, id: &str) -> Timestamp {
        self.of(id).map(|one| one.since).max().unwrap_or(Timestamp::EPOCH)
    }

    /// When the first of them ends.
    pub fn due(&self) -> Option<Timestamp> {
        let limits = self.lowered.values().flat_map(BTreeMap::values).flat_map(|one| &one.limits);
        limits.map(|one| one.until_at_ms).min()
    }

    pub fn told(&mut self, resource: ResourceIndex, now: Timestamp) {
        self.told_at.insert(resource, now);
        // The next word needs refusals of its own.
        self.refusals.remove(&resource);
    }

    /// An attempt has ended.
    pub fn ended_v1(&mut self, resource: ResourceIndex, end: AttemptEnd, now: Timestamp) {
        let is_refused = end == AttemptEnd::RateLimited;
        if self.refusals.get(&resource).is_some_and(|refusals| refusals.is_over(now)) {
            self.refusals.remove(&resource);
        }
        if is_refused {
            self.refusals.entry(resource).or_insert(Refusals::none(now)).count(true);
        } else if let Some(refusals) = self.refusals.get_mut(&resource) {
            refusals.count(false);
        }
    }

    /// Whether one more refusal makes it clear.
    fn is_clear(
        &self,
        resource: ResourceIndex,
        retry_after_ms: Option<u64>,
        now: Timestamp,
    ) -> bool {
        let known = self.refusals.get(&resource).filter(|refusals| !refusals.is_over(now));
        let mut refusals = known.copied().unwrap_or(Refusals::none(now));
        refusals.count(true);
        let often = refusals.refused.saturating_mul(REFUSED_ONE_IN) >= refusals.ended;
        retry_after_ms.is_some_and(|ms| ms >= REFUSED_MS) || (refusals.refused >= REFUSALS && often)
    }

    /// Another resource has this index now.
    pub fn forget(&mut self, resource: ResourceIndex) {
        self.told_at.remove(&resource);
        self.refusals.remove(&resource);
    }
}

/// What a result says of its provider's headroom, where that is clearly less than what the lane
/// counts: to be asked before the result ends its attempt, whose reservation still counts.
/// `said_at` is the time of the result's record.
pub fn decide_headroom(state: &State, result: &TaskResult, said_at: Timestamp) -> Option<Fact> {
    let is_refused = result.status == ResultStatus::RateLimited;
    let now = state.batch_time;
    if (result.rate_limits.is_empty() && !is_refused) || said_at.plus_ms(SAID_MS_MAX) < now {
        return None;
    }
    let live = state.tasks.get(&TaskKey::of(&result.task_id))?;
    if (result.stage, result.attempt) != (live.task.stage, live.attempt) {
        return None;
    }
    let Phase::InFlight { resource: index, reserved_at, .. } = live.phase else { return None };
    let resource = state.fleet.at(index);
    if resource.removed || (!result.resource.is_empty() && *result.resource != *resource.id) {
        return None;
    }
    let headroom = &state.health.headroom;
    if headroom.told_at.get(&index).is_some_and(|told| told.plus_ms(TELL_MS) > now) {
        return None;
    }
    let mut heard = Heard { now, limits: Vec::new() };
    for said in &result.rate_limits {
        if let Some(rate) = meant(resource, said) {
            heard.hear_limit(state, resource, rate, said);
        }
    }
    // What was reserved before limits were lowered says nothing of the lower ones.
    if reserved_at >= headroom.since(&resource.id) {
        for said in &result.rate_limits {
            if let Some(rate) = meant(resource, said) {
                heard.hear_remaining(resource, rate, said);
            }
        }
        let is_clear = is_refused && headroom.is_clear(index, result.retry_after_ms, now);
        if is_clear && heard.limits.is_empty() {
            heard.hear_refusal(resource, result.retry_after_ms);
        }
    }
    let Heard { mut limits, .. } = heard;
    if limits.is_empty() {
        return None;
    }
    // The event takes the place of the lane's last one, which may have said something of others.
    let others = headroom.said(&resource.id, &headroom_source(state.lane)).iter();
    let is_new = |one: &&LoweredLimit| limits.iter().all(|new| kind_of(new) != kind_of(one));
    let others: Vec<LoweredLimit> = others.filter(is_new).copied().collect();
    limits.extend(others);
    limits.truncate(LOWERED_MAX);
    Some(Fact::HeadroomTold { resource: index, limits })
}

/// The rate that a provider's word is about.
fn meant<'a>(resource: &'a Resource, said: &RateLimit) -> Option<&'a Rate> {
    let mut of = resource.rates.iter().filter(|rate| rate.limit.dimension == said.dimension);
    match said.window_s {
        Some(window_s) => of.find(|rate| rate.limit.window_s == window_s),
        // Providers count by the minute where they do not say; a limit of an hour is another one.
        None => of.min_by_key(|rate| rate.limit.window_s).filter(|rate| rate.limit.window_s <= 60),
    }
}

/// What the fleet says of a limit of the resource.
fn amount_of(resource: &Resource, kind: LimitKind) -> u64 {
    match kind {
        LimitKind::Slots => u64::from(resource.spec.slots),
        LimitKind::Rate { dimension, window_s } => {
            let same = |limit: &&Limit| (limit.dimension, limit.window_s) == (dimension, window_s);
            resource.spec.limits.iter().find(same).map_or(0, |limit| limit.amount)
        }
        LimitKind::Budget => 0,
    }
}

/// What is to be told.
struct Heard {
    now: Timestamp,
    limits: Vec<LoweredLimit>,
}

impl Heard {
    fn tell(&mut self, kind: LimitKind, limit: u64, hold_ms: u64) {
        let (dimension, window_s) = (kind.counted(), kind.window_s());
        let until_at_ms = self.now.plus_ms(hold_ms);
        let told = LoweredLimit { dimension, window_s, limit, until_at_ms };
        match self.limits.iter_mut().find(|one| kind_of(one) == kind) {
            // The lowest that is said of it.
            Some(one) if one.limit <= limit => {}
            Some(one) => *one = told,
            None => self.limits.push(told),
        }
    }

    /// The provider's own limit is lower than the fleet's.
    fn hear_limit(&mut self, state: &State, resource: &Resource, rate: &Rate, said: &RateLimit) {
        let kind = rate.kind();
        let Some(limit) = said.limit.map(|limit| limit.max(1)) else { return };
        let amount = amount_of(resource, kind);
        if limit >= amount {
            return;
        }
        let ends_soon = |until: Timestamp| until <= state.batch_time.plus_ms(LIMIT_RENEW_MS);
        let lowest = state.health.headroom.lowest(&resource.id, kind);
        if lowest.is_none_or(|(lowest, until)| lowest > limit || ends_soon(until)) {
            self.tell(kind, limit, LIMIT_HOLD_MS);
        }
    }

    /// Less is left than this lane alone could take.
    fn hear_remaining(&mut self, resource: &Resource, rate: &Rate, said: &RateLimit) {
        let (free, used) = (rate.free(), rate.window.used());
        let band = (rate.units / BAND).max(1);
        if said.remaining.saturating_add(band) >= free {
            return;
        }
        // What the other lanes use is not known. Rights follow load, so it is as much for each of
        // theirs; where that is wrong, the half bounds it and the next answer corrects it.
        let in_use = u128::from(used) * u128::from(RIGHTS) / u128::from(rate.rights.max(1));
        let in_use = u64::try_from(in_use).unwrap_or(u64::MAX);
        let granted = in_use.saturating_add(said.remaining);
        let lower = granted.max(rate.limit.amount / 2);
        let hold_ms = said.reset_ms.unwrap_or(HOLD_MS).clamp(HOLD_MS_MIN, HOLD_MS_MAX);
        self.lower(resource, rate.kind(), rate.limit.amount, lower, hold_ms);
    }

    /// A request was refused though all that it needs was reserved. Which limit it was nobody says,
    /// so all of them lose a quarter: repeated, that comes down to what is granted within a few
    /// tellings, and one mistake costs little (additive increase is the end of the hold).
    fn hear_refusal(&mut self, resource: &Resource, retry_after_ms: Option<u64>) {
        let hold_ms = retry_after_ms.unwrap_or(HOLD_MS).clamp(HOLD_MS, HOLD_MS_MAX);
        for rate in &resource.rates {
            let now = rate.limit.amount;
            self.lower(resource, rate.kind(), now, now - now / 4, hold_ms);
        }
        // Without rates it can only have been too much at a time.
        if resource.rates.is_empty() {
            let now = u64::from(resource.slots_limit);
            self.lower(resource, LimitKind::Slots, now, now - now / 4, hold_ms);
        }
    }

    fn lower(&mut self, resource: &Resource, kind: LimitKind, now: u64, to: u64, hold_ms: u64) {
        let limit = to.max(amount_of(resource, kind) / FLOOR).max(1);
        if limit <= now.saturating_sub((now / BAND).max(1)) {
            self.tell(kind, limit, hold_ms);
        }
    }
}

/// The lowered limits of a resource for people; `None` where none is.
pub fn lowered_text(state: &State, index: ResourceIndex) -> Option<String> {
    let resource = state.fleet.at(index);
    let rates = resource.rates.iter().map(|rate| (rate.kind(), rate.limit.amount));
    let slots = std::iter::once((LimitKind::Slots, u64::from(resource.slots_limit)));
    let lowered = slots.chain(rates).filter_map(|(kind, now)| {
        let amount = amount_of(resource, kind);
        let (_, until) = state.health.headroom.lowest(&resource.id, kind)?;
        (now < amount).then(|| {
            format!(
                "{} until {}",
                text(kind.counted(), kind.window_s(), now, amount),
                until.as_ms()
            )
        })
    });
    let lowered: Vec<String> = lowered.collect();
    (!lowered.is_empty()).then(|| lowered.join(", "))
}

/// Limits that are to be lowered, for people.
pub fn telling_text(resource: &Resource, limits: &[LoweredLimit]) -> String {
    let texts = limits.iter().map(|one| {
        let amount = amount_of(resource, kind_of(one));
        text(one.dimension, one.window_s, one.limit, amount)
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn text(dimension: Counted, window_s: u32, limit: u64, amount: u64) -> String {
    let window = match window_s {
        0 => String::new(),
        seconds => format!(" in {seconds} s"),
    };
    format!("{limit} of {amount} {}{window}", dimension.name())
}
