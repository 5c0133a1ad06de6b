//! The bundled demo through a plain stand-in for the router: the fleet is a tight fit that still
//! serves nearly everything, and the audit agrees with it event by event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;

use pointsman::demo::attempt::{Attempt, answer};
use pointsman::demo::audit::audit;
use pointsman::demo::audit::history::{AllocationSeen, AttemptKey, DecisionSeen, TaskSeen};
use pointsman::demo::{fleet, tasks, trace};
use pointsman::model::allocation::AllocationKind;
use pointsman::model::decision::{Outcome, Reserved};
use pointsman::model::reason::RefusalReason;
use pointsman::model::resource::{Dimension, ResourceSpec};

/// From decision to result, besides the model's own time: about what Kafka takes on a laptop.
const ROUND_TRIP_MS: i64 = 150;
/// Windows are kept this much longer than the limits say: `start_within`, and one sub-bucket.
const LONGER_MS: i64 = 300;

/// Breaks at 40 % and recovers at 70 % of the time.
const BREAKS: &str = "anthropic-us-claude-haiku-4.5";

struct Resource<'a> {
    spec: &'a ResourceSpec,
    slots: u32,
    /// When, and how many tokens; a released attempt's are corrected in place.
    reserved: VecDeque<(i64, usize, u64)>,
}

impl Resource<'_> {
    fn fits(&mut self, at_ms: i64, tokens: u64) -> bool {
        while self.reserved.front().is_some_and(|(at, ..)| *at <= at_ms - 10_000 - LONGER_MS) {
            self.reserved.pop_front();
        }
        let used: u64 = self.reserved.iter().map(|(_, _, tokens)| tokens).sum();
        let limit = |dimension| {
            let limit = self.spec.limits.iter().find(|limit| limit.dimension == dimension);
            limit.unwrap().amount
        };
        self.slots < self.spec.slots
            && (self.reserved.len() as u64) < limit(Dimension::Requests)
            && used + tokens <= limit(Dimension::Tokens)
    }
}

#[test]
fn the_bundled_demo_is_a_tight_fit() {
    let fleet = fleet::bundled(fleet::SPEED_DEFAULT).unwrap();
    let tasks = tasks::generate(&trace::bundled().unwrap(), fleet::SPEED_DEFAULT, 1);
    let end_us = tasks.last().unwrap().after_us;
    let broken_ms = (end_us * 2 / 5 / 1_000) as i64..(end_us * 7 / 10 / 1_000) as i64;

    let mut resources: Vec<Resource> = fleet
        .resources
        .iter()
        .map(|spec| Resource { spec, slots: 0, reserved: VecDeque::new() })
        .collect();
    let mut allocations = Vec::new();
    let mut decisions: Vec<DecisionSeen> = Vec::new();
    let mut ends: BinaryHeap<Reverse<(i64, i64, usize, usize)>> = BinaryHeap::new();
    let mut waiting: BTreeMap<(u8, usize), ()> = BTreeMap::new();
    let mut next = 0;
    let mut at_ms = 0;
    let key = |index: usize| AttemptKey {
        task: Arc::from(tasks[index].task.task_id.as_str()),
        stage: 0,
        attempt: 1,
    };
    let event =
        |kind, at_ms, reserved_at_ms, index, resource: &ResourceSpec, held| AllocationSeen {
            kind,
            resource: Arc::from(resource.id.as_str()),
            attempt: key(index),
            lane: 0,
            at_ms,
            reserved_at_ms,
            held,
            overrun_tokens: 0,
        };
    while next < tasks.len() || !waiting.is_empty() || !ends.is_empty() {
        while let Some(Reverse((end_ms, reserved_at, index, chosen))) = ends.peek().copied()
            && end_ms <= at_ms
        {
            ends.pop();
            let resource: &mut Resource = &mut resources[chosen];
            let task = &tasks[index];
            let most = task.task.input_tokens + task.task.max_output_tokens;
            let used = u64::from((task.task.input_tokens + task.generated_tokens).min(most));
            resource.slots -= 1;
            if let Some(entry) = resource.reserved.iter_mut().find(|(_, one, _)| *one == index) {
                entry.2 = used;
            }
            let held = Reserved { slots: 0, requests: 1, tokens: used };
            let kind = AllocationKind::Released;
            allocations.push(event(kind, at_ms, reserved_at, index, resource.spec, held));
        }
        while next < tasks.len() && tasks[next].after_us as i64 / 1_000 <= at_ms {
            waiting.insert((tasks[next].task.priority as u8, next), ());
            next += 1;
        }
        let batch: Vec<_> = waiting.keys().copied().collect();
        for place in batch {
            let (_, index) = place;
            let task = &tasks[index].task;
            let tokens = u64::from(task.input_tokens + task.max_output_tokens);
            let cost = |spec: &ResourceSpec| {
                let prices = spec.usd_per_million_tokens;
                (f64::from(task.input_tokens) * prices.input
                    + f64::from(tasks[index].generated_tokens) * prices.output)
                    / 1e6
            };
            let quality = |spec: &ResourceSpec| spec.quality_prior(&task.class).unwrap();
            let needs = &task.requirements;
            let eligible: Vec<usize> = (0..resources.len())
                .filter(|one| {
                    let spec = resources[*one].spec;
                    (needs.regions.is_empty() || needs.regions.contains(&spec.region))
                        && needs.min_quality.is_none_or(|least| quality(spec) >= least)
                        && needs.max_cost_usd.is_none_or(|most| cost(spec) <= most)
                })
                .collect();
            let waited_ms = at_ms - tasks[index].after_us as i64 / 1_000;
            let patience_ms = task.deadline_ms.unwrap_or(60_000) as i64;
            let refusal = if eligible.is_empty() {
                Some(RefusalReason::NoCapableResource)
            } else {
                (waited_ms > patience_ms - 1_000).then_some(RefusalReason::NoCapacity)
            };
            if let Some(reason) = refusal {
                waiting.remove(&place);
                decisions.push(DecisionSeen {
                    attempt: key(index),
                    outcome: Outcome::Refused,
                    reason: Some(reason),
                    resource: None,
                });
                continue;
            }
            let weights = task.objective.weights();
            let utility = |one: &usize| {
                let spec = resources[*one].spec;
                weights.quality * quality(spec) - weights.usd * cost(spec)
            };
            let mut ranked: Vec<(f64, usize)> =
                eligible.iter().map(|one| (utility(one), *one)).collect();
            ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
            let free = ranked.into_iter().map(|(_, one)| one).find(|one| {
                let is_down = resources[*one].spec.id == BREAKS && broken_ms.contains(&at_ms);
                !is_down && resources[*one].fits(at_ms, tokens)
            });
            let Some(chosen) = free else { continue };
            waiting.remove(&place);
            let resource = &mut resources[chosen];
            resource.slots += 1;
            resource.reserved.push_back((at_ms, index, tokens));
            let held = Reserved { slots: 1, requests: 1, tokens };
            let kind = AllocationKind::Reserved;
            allocations.push(event(kind, at_ms, at_ms, index, resource.spec, held));
            decisions.push(DecisionSeen {
                attempt: key(index),
                outcome: Outcome::Routed,
                reason: None,
                resource: Some(Arc::from(resource.spec.id.as_str())),
            });
            let attempt = Attempt {
                task_index: index,
                number: 1,
                input_tokens: task.input_tokens,
                output_tokens: tasks[index].generated_tokens,
            };
            let answer = answer(1, &attempt, &task.class, resource.spec);
            let end_ms = at_ms + ROUND_TRIP_MS + answer.duration_ms as i64;
            ends.push(Reverse((end_ms, at_ms, index, chosen)));
        }
        at_ms += 20;
    }

    let seen: Vec<TaskSeen> = tasks
        .iter()
        .enumerate()
        .map(|(index, one)| TaskSeen {
            stages: 1,
            partition: 0,
            offset: index as i64,
            task: Some(Arc::from(one.task.task_id.as_str())),
        })
        .collect();
    let report = audit(&fleet, &seen, &decisions, &allocations, &[]);
    assert_eq!(report.findings, []);
    let routed: u64 = report.by_resource.values().sum();
    let full =
        |peaks: &Vec<_>| peaks.iter().any(|peak: &pointsman::demo::audit::Peak| peak.share() > 0.9);
    let tight = report.peaks.values().filter(|peaks| full(peaks)).count();
    let figures =
        format!("routed {routed}, refused {:?}, tight {tight}, {at_ms} ms", report.refused);
    println!("{figures}");
    for (resource, peaks) in &report.peaks {
        let shares: Vec<_> = peaks.iter().map(|peak| format!("{:.2}", peak.share())).collect();
        println!("{resource}: {shares:?} {:?}", report.by_resource.get(resource));
    }
    assert!(routed * 100 >= 96 * 8_819, "{figures}");
    assert!(tight >= 3, "{figures}");
    assert!(at_ms < 45_000, "{figures}");

    // The same history with one reservation more is found out.
    let mut one_more = allocations.clone();
    let mut extra = one_more[0].clone();
    extra.attempt.attempt = 2;
    extra.held.tokens = 10_000_000;
    one_more.push(extra);
    let report = audit(&fleet, &seen, &decisions, &one_more, &[]);
    assert!(report.oversubscribed > 0);
    assert_eq!((report.undecided, report.unreleased), (1, 1));
}
