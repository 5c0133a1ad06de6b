//! The replay of allocation events against the limits of each resource.

use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::history::{AllocationSeen, AttemptKey};
use super::{AuditReport, Finding, Peak};
use crate::model::allocation::AllocationKind;
use crate::model::decision::Reserved;
use crate::model::resource::{Dimension, FleetFile, ResourceSpec};

/// Counts `oversubscribed`, `unreleased` and `inconsistent`, and finds each limit's peak.
pub(super) fn check(fleet: &FleetFile, allocations: &[AllocationSeen], report: &mut AuditReport) {
    let specs: IndexMap<&str, &ResourceSpec> =
        fleet.resources.iter().map(|resource| (resource.id.as_str(), resource)).collect();
    let mut by_resource: BTreeMap<&Arc<str>, Vec<(usize, &AllocationSeen)>> = BTreeMap::new();
    for (place, event) in allocations.iter().enumerate() {
        match event.kind {
            AllocationKind::FailedOver => report.failed_over += 1,
            AllocationKind::Expired => report.expired += 1,
            // Nothing was reserved, so there is nothing to replay.
            AllocationKind::Denied => continue,
            AllocationKind::Reserved | AllocationKind::Adjusted | AllocationKind::Released => (),
        }
        report.overrun_tokens += event.overrun_tokens;
        by_resource.entry(&event.resource).or_default().push((place, event));
    }
    for (resource, mut events) in by_resource {
        let Some(spec) = specs.get(resource.as_ref()) else {
            for (_, event) in events {
                report.find(Finding::Inconsistent {
                    attempt: event.attempt.clone(),
                    detail: format!("reserved {resource}, which the fleet does not have"),
                });
            }
            continue;
        };
        events.sort_by_key(|(place, event)| (event.at_ms, order_in_ms(event), *place));
        let mut replay = Replay::new(Arc::clone(resource), spec);
        for (_, event) in events {
            replay.apply(event, report);
        }
        replay.finish(report);
    }
}

/// What was above a resource's limits at some times, milliseconds, whatever it was at others.
pub(super) fn above(
    spec: &ResourceSpec,
    allocations: &[AllocationSeen],
    at: &dyn Fn(i64) -> bool,
) -> Vec<Finding> {
    let mut events: Vec<_> = allocations.iter().enumerate().collect();
    events.sort_by_key(|(place, event)| (event.at_ms, order_in_ms(event), *place));
    let mut replay = Replay::new(Arc::from(spec.id.as_str()), spec);
    let mut found = Vec::new();
    for (_, event) in events {
        // One report for each event: a report keeps no more than its first findings.
        let mut report = AuditReport::default();
        replay.apply(event, &mut report);
        if at(event.at_ms) {
            let findings = report.findings.into_iter();
            found.extend(findings.filter(|one| matches!(one, Finding::Oversubscribed { .. })));
        }
    }
    found
}

/// Inside one millisecond: what is given back comes before what is reserved, but not before the
/// reservation that it belongs to.
fn order_in_ms(event: &AllocationSeen) -> u8 {
    match event.kind {
        AllocationKind::Reserved => 1,
        AllocationKind::Adjusted
        | AllocationKind::Released
        | AllocationKind::Expired
        | AllocationKind::Denied
        | AllocationKind::FailedOver => {
            if event.reserved_at_ms < event.at_ms {
                0
            } else {
                2
            }
        }
    }
}

/// One limit's sliding window: what is reserved at each millisecond in it, and the sum.
struct Window {
    dimension: Dimension,
    window_s: u32,
    limit: u64,
    used: u64,
    used_max: u64,
    reserved: BTreeMap<i64, u64>,
}

impl Window {
    fn amount(&self, held: &Reserved) -> u64 {
        match self.dimension {
            Dimension::Requests => u64::from(held.requests),
            Dimension::Tokens => held.tokens,
        }
    }

    /// Leaves behind what was reserved a whole window before `at_ms`: the window is
    /// `(at − window, at]`.
    fn move_to(&mut self, at_ms: i64) {
        let start_ms = at_ms - i64::from(self.window_s) * 1_000;
        while let Some(first) = self.reserved.first_entry() {
            if *first.key() > start_ms {
                break;
            }
            self.used -= first.remove();
        }
    }

    fn add(&mut self, at_ms: i64, amount: u64) {
        *self.reserved.entry(at_ms).or_default() += amount;
        self.used += amount;
        self.used_max = self.used_max.max(self.used);
    }

    /// Gives back a part of what was reserved at `at_ms`, where that is still in the window.
    fn give_back(&mut self, at_ms: i64, amount: u64) {
        if let Some(reserved) = self.reserved.get_mut(&at_ms) {
            *reserved -= amount;
            self.used -= amount;
        }
    }
}

struct Replay {
    resource: Arc<str>,
    slots: u64,
    slots_used: u64,
    slots_used_max: u64,
    windows: Vec<Window>,
    attempts: IndexMap<AttemptKey, (i64, Reserved)>,
}

impl Replay {
    fn new(resource: Arc<str>, spec: &ResourceSpec) -> Self {
        let windows = spec.limits.iter().map(|limit| Window {
            dimension: limit.dimension,
            window_s: limit.window_s,
            limit: limit.amount,
            used: 0,
            used_max: 0,
            reserved: BTreeMap::new(),
        });
        Replay {
            resource,
            slots: u64::from(spec.slots),
            slots_used: 0,
            slots_used_max: 0,
            windows: windows.collect(),
            attempts: IndexMap::new(),
        }
    }

    fn apply(&mut self, event: &AllocationSeen, report: &mut AuditReport) {
        if event.kind == AllocationKind::Reserved {
            self.reserve(event, report);
        } else if let Err(detail) = self.correct(event) {
            report.find(Finding::Inconsistent { attempt: event.attempt.clone(), detail });
        }
    }

    fn reserve(&mut self, event: &AllocationSeen, report: &mut AuditReport) {
        let earlier =
            self.attempts.insert(event.attempt.clone(), (event.reserved_at_ms, event.held));
        if earlier.is_some() {
            report.find(Finding::Inconsistent {
                attempt: event.attempt.clone(),
                detail: format!("reserved {} twice", self.resource),
            });
        }
        if event.reserved_at_ms != event.at_ms {
            report.find(Finding::Inconsistent {
                attempt: event.attempt.clone(),
                detail: format!("reserved at {}, dated {}", event.at_ms, event.reserved_at_ms),
            });
        }
        self.slots_used += u64::from(event.held.slots);
        self.slots_used_max = self.slots_used_max.max(self.slots_used);
        if self.slots_used > self.slots {
            report.find(Finding::Oversubscribed {
                resource: Arc::clone(&self.resource),
                dimension: "slots",
                window_s: 0,
                at_ms: event.at_ms,
                used: self.slots_used,
                limit: self.slots,
            });
        }
        for window in &mut self.windows {
            let amount = window.amount(&event.held);
            window.move_to(event.at_ms);
            window.add(event.at_ms, amount);
            if amount > 0 && window.used > window.limit {
                report.find(Finding::Oversubscribed {
                    resource: Arc::clone(&self.resource),
                    dimension: window.dimension.name(),
                    window_s: window.window_s,
                    at_ms: event.at_ms,
                    used: window.used,
                    limit: window.limit,
                });
            }
        }
    }

    /// What an attempt holds may only shrink; the error says what else happened.
    fn correct(&mut self, event: &AllocationSeen) -> Result<(), String> {
        let kind = event.kind.name();
        let Some((reserved_at_ms, held)) = self.attempts.get_mut(&event.attempt) else {
            return Err(format!("{kind} on {}, which it had not reserved", self.resource));
        };
        if event.reserved_at_ms != *reserved_at_ms {
            return Err(format!(
                "{kind} a reservation dated {}, which was made at {reserved_at_ms}",
                event.reserved_at_ms
            ));
        }
        let (before, after) = (*held, event.held);
        if after.slots > before.slots
            || after.requests > before.requests
            || after.tokens > before.tokens
        {
            return Err(format!(
                "{kind}, and holds {after:?} of {} where it held {before:?}",
                self.resource
            ));
        }
        // A second release of a slot would free what someone else holds.
        if event.kind != AllocationKind::Adjusted && before.slots == 0 {
            return Err(format!("{kind} on {} after it had ended", self.resource));
        }
        *held = after;
        self.slots_used -= u64::from(before.slots - after.slots);
        for window in &mut self.windows {
            let amount = window.amount(&before) - window.amount(&after);
            window.give_back(*reserved_at_ms, amount);
        }
        Ok(())
    }

    fn finish(self, report: &mut AuditReport) {
        let holding = self.attempts.iter().filter(|(_, (_, held))| held.slots > 0);
        let mut unreleased: Vec<_> = holding.map(|(attempt, _)| attempt.clone()).collect();
        unreleased.sort_unstable();
        for attempt in unreleased {
            let resource = Arc::clone(&self.resource);
            report.find(Finding::Unreleased { attempt, resource });
        }
        let slots = Peak {
            dimension: "slots",
            window_s: 0,
            limit: self.slots,
            used_max: self.slots_used_max,
        };
        let windows = self.windows.iter().map(|window| Peak {
            dimension: window.dimension.name(),
            window_s: window.window_s,
            limit: window.limit,
            used_max: window.used_max,
        });
        let peaks = std::iter::once(slots).chain(windows).collect();
        report.peaks.insert(self.resource.to_string(), peaks);
    }
}
