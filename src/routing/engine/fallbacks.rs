//! The next best chains, for when the one that was chosen fails.
//!
//! A fallback is of use where it does not fail together with the primary. So two chains are *apart* where no
//! link of one shares a failure domain with any link of the other, and only chains that are apart from
//! the primary are named where there are any. The ways through later stages are searched again for them,
//! without the primary's failure domains: what the first search kept of a region is its best way, which
//! may lead through the primary's domain where the second best does not.

use super::super::fact::ResourceIndex;
use super::super::state::State;
use super::survey::Ask;

/// The first links of the fallbacks, best first; and who is to serve the later stages of a task that has
/// some: behind the primary, then behind each fallback.
pub(super) fn fallbacks(
    state: &State,
    scored: &[(f64, ResourceIndex)],
    ask: &Ask<'_>,
    primary: ResourceIndex,
) -> (Vec<ResourceIndex>, Vec<Vec<ResourceIndex>>) {
    let domain = |resource: ResourceIndex| state.fleet.terms(resource).domain;
    let first = [domain(primary)];
    let Some(ahead) = ask.ahead else {
        let apart = next_best(state, scored, primary, &first);
        let any = || next_best(state, scored, primary, &[]);
        return (if apart.is_empty() { any() } else { apart }, Vec::new());
    };
    let way = ahead.way(&ask.here(state, primary));
    let plan = way.map(|way| ahead.plan(way)).unwrap_or_default();
    let all: Vec<u16> = std::iter::once(primary).chain(plan.iter().copied()).map(domain).collect();
    // What the first links avoid, and what the ways behind them do: as much as the fleet allows. The
    // primary's first link comes before its others, because it is the one that fails first.
    let rows: [(&[u16], &[u16]); 4] = [(&all, &all), (&first, &first), (&first, &[]), (&[], &[])];
    for (avoided, avoided_later) in rows {
        let may =
            |resource: ResourceIndex| resource != primary && !avoided.contains(&domain(resource));
        if state.policy.fallbacks_max == 0 || !scored.iter().any(|(_, one)| may(*one)) {
            continue;
        }
        let Some(around) = ahead.without(state, avoided_later) else { continue };
        let worth = |(score, resource): &(f64, ResourceIndex)| {
            let here = ask.here(state, *resource);
            let (best, way) = (ahead.way(&here).ok()?, around.way(&here).ok()?);
            Some((score - best.worth + way.worth, *resource))
        };
        let scored: Vec<_> = scored.iter().filter(|(_, one)| may(*one)).filter_map(worth).collect();
        let chosen = next_best(state, &scored, primary, avoided);
        if chosen.is_empty() {
            continue;
        }
        let plan_of = |one: &ResourceIndex| {
            let way = around.way(&ask.here(state, *one));
            way.map(|way| around.plan(way)).unwrap_or_default()
        };
        let plans = std::iter::once(plan).chain(chosen.iter().map(plan_of)).collect();
        return (chosen, plans);
    }
    (Vec::new(), vec![plan])
}

/// The best but the primary that are in none of these failure domains, and, where some are avoided, no two
/// of which share one.
fn next_best(
    state: &State,
    scored: &[(f64, ResourceIndex)],
    primary: ResourceIndex,
    avoided: &[u16],
) -> Vec<ResourceIndex> {
    let domain = |resource: ResourceIndex| state.fleet.terms(resource).domain;
    let mut chosen: Vec<ResourceIndex> = Vec::with_capacity(state.policy.fallbacks_max as usize);
    for _ in 0..state.policy.fallbacks_max {
        let may = |resource: ResourceIndex| {
            let clashes = |one: &ResourceIndex| {
                *one == resource || !avoided.is_empty() && domain(*one) == domain(resource)
            };
            resource != primary
                && !avoided.contains(&domain(resource))
                && !chosen.iter().any(clashes)
        };
        let mut best: Option<(f64, ResourceIndex)> = None;
        for (worth, resource) in scored {
            // Most are worse than the best so far.
            if best.is_none_or(|(best, _)| *worth > best) && may(*resource) {
                best = Some((*worth, *resource));
            }
        }
        match best {
            Some((_, resource)) => chosen.push(resource),
            None => break,
        }
    }
    chosen
}
