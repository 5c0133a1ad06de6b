//! What a task was told before, and is kept where it can be: its fallbacks, and the plan of its chain.

use super::super::eligibility::Memo;
use super::super::fact::ResourceIndex;
use super::super::state::State;
use super::survey::{Ask, Offer};

/// The first of the task's fallbacks that can serve it now.
pub(super) fn preferred<'a>(state: &State, memo: &Memo, ask: &Ask<'a>) -> Option<Offer<'a>> {
    ask.preferred.iter().find_map(|resource| offer_of(state, memo, ask, resource))
}

/// A resource that was scored, where it can serve the task now.
fn offer_of<'a>(
    state: &State,
    memo: &Memo,
    ask: &Ask<'a>,
    resource: ResourceIndex,
) -> Option<Offer<'a>> {
    let (score, _) = memo.scored.iter().find(|(_, scored)| *scored == resource)?;
    let candidate = ask.candidates.list.iter().find(|one| one.resource == resource)?;
    let room = ask.room(state, resource);
    let (score, price) = (*score, ask.price(state, resource));
    room.fits(ask.tokens()).then_some(Offer { candidate, score, price, slots: room.slots })
}

/// A plan is kept unless another resource is better by more than this share of the usual stake. Prices move
/// by a hundredth of a stake with each task, so between two stages most plans are beaten by a little that is
/// gone again with the next batch; whoever was told of a plan should not prepare for nothing. A tenth is
/// ten such steps, and the most that keeping a plan can cost.
const KEPT_STAKES: f64 = 0.1;

/// Where a task goes that was moved away from what went down: of those that are nearly as good as the best, the
/// one of which most is free. All that was under way there moves in one batch, and the fallbacks that these tasks
/// were told are mostly the same, so each by itself would send all of them to one survivor. Prices alone spread what
/// comes over minutes, not what comes at once: they count demand against what a limit gives over its horizon.
pub(super) fn roomiest<'a>(
    state: &State,
    memo: &Memo,
    ask: &Ask<'a>,
    best: Offer<'a>,
) -> Offer<'a> {
    let least = best.score - NEAR_STAKES * state.stake.get();
    let free = |offer: &Offer<'_>| state.fleet.at(offer.candidate.resource).free_share();
    let near = memo.scored.iter().filter(|(score, _)| *score >= least);
    let mut taken = (free(&best), best);
    for offer in near.filter_map(|(_, resource)| offer_of(state, memo, ask, *resource)) {
        let free = free(&offer);
        if free > taken.0 || free == taken.0 && offer.score > taken.1.score {
            taken = (free, offer);
        }
    }
    taken.1
}

/// Survivors that are this near to the best, in stakes, are as good: what a plan may cost as well.
const NEAR_STAKES: f64 = KEPT_STAKES;

/// Who was to serve this stage, where `best` is not worth the change.
pub(super) fn planned<'a>(
    state: &State,
    memo: &Memo,
    ask: &Ask<'a>,
    best: Offer<'a>,
) -> Option<Offer<'a>> {
    let offer = offer_of(state, memo, ask, ask.ahead?.planned?)?;
    // Of those that the task may pay for, `best` is the best.
    if ask.is_priced_out(state, offer.score + offer.price, offer.price) {
        return None;
    }
    (best.score - offer.score <= KEPT_STAKES * state.stake.get()).then_some(offer)
}
