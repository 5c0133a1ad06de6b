//! Each task decided or dead-lettered, each attempt once, each routed attempt with its reservation.

use indexmap::{IndexMap, IndexSet};
use std::collections::BTreeSet;
use std::sync::Arc;

use super::history::{AllocationSeen, AttemptKey, DeadLetterSeen, DecisionSeen, TaskSeen};
use super::{AuditReport, Finding};
use crate::model::allocation::AllocationKind;
use crate::model::decision::Outcome;

/// Counts `lost` and `duplicated`, and what became of each task.
pub(super) fn check_tasks(
    tasks: &[TaskSeen],
    decisions: &[DecisionSeen],
    dead_letters: &[DeadLetterSeen],
    report: &mut AuditReport,
) {
    let mut times: IndexMap<&AttemptKey, usize> = IndexMap::with_capacity(decisions.len());
    let mut last: IndexMap<&Arc<str>, &DecisionSeen> = IndexMap::with_capacity(tasks.len());
    for decision in decisions {
        *times.entry(&decision.attempt).or_default() += 1;
        let last = last.entry(&decision.attempt.task).or_insert(decision);
        let place = |one: &DecisionSeen| (one.attempt.stage, one.attempt.attempt);
        if place(decision) > place(last) {
            *last = decision;
        }
    }
    report.decided = last.len() as u64;
    for decision in last.values() {
        let (counts, name) = match (decision.outcome, &decision.resource) {
            (Outcome::Routed, Some(resource)) => (&mut report.by_resource, resource.as_ref()),
            // Reported by `check_reservations`.
            (Outcome::Routed, None) => continue,
            (Outcome::Refused, _) => {
                let reason = decision.reason.map_or("unknown", |reason| reason.name());
                (&mut report.refused, reason)
            }
        };
        *counts.entry(name.to_owned()).or_default() += 1;
    }

    let mut repeated: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    repeated.sort_unstable();
    for (attempt, times) in repeated {
        report.find(Finding::Duplicated { attempt: (*attempt).clone(), decisions: *times });
    }

    let dead: BTreeSet<DeadLetterSeen> = dead_letters.iter().copied().collect();
    let mut known: IndexSet<&Arc<str>> = IndexSet::with_capacity(tasks.len());
    for record in tasks {
        known.extend(&record.task);
        let decided = record.task.as_ref().is_some_and(|task| last.contains_key(task));
        let place = DeadLetterSeen { partition: record.partition, offset: record.offset };
        if !decided && !dead.contains(&place) {
            report.find(Finding::Lost {
                task: record.task.clone(),
                partition: record.partition,
                offset: record.offset,
            });
        }
    }
    check_stages(tasks, &last, &dead, report);
    let mut unknown: Vec<_> = last.iter().filter(|(task, _)| !known.contains(*task)).collect();
    unknown.sort_unstable_by_key(|(task, _)| *task);
    for (_, decision) in unknown {
        report.find(Finding::Inconsistent {
            attempt: decision.attempt.clone(),
            detail: "decided, and no such task was ever published".to_owned(),
        });
    }
}

/// A task whose last decision serves a stage that is not its last was left half-way. A repeated
/// id has the stages of its first record.
fn check_stages(
    tasks: &[TaskSeen],
    last: &IndexMap<&Arc<str>, &DecisionSeen>,
    dead: &BTreeSet<DeadLetterSeen>,
    report: &mut AuditReport,
) {
    let mut seen: IndexSet<&Arc<str>> = IndexSet::with_capacity(tasks.len());
    for record in tasks {
        let Some(task) = record.task.as_ref().filter(|task| seen.insert(task)) else { continue };
        let Some(decision) = last.get(task) else { continue };
        let place = DeadLetterSeen { partition: record.partition, offset: record.offset };
        let stage = decision.attempt.stage;
        let half_way = decision.outcome == Outcome::Routed
            && stage + 1 < record.stages
            && !dead.contains(&place);
        let detail = if stage >= record.stages {
            format!("decided stage {stage} of a task with {} stages", record.stages)
        } else if half_way {
            format!("the last of {} stages was never decided", record.stages)
        } else {
            continue;
        };
        report.find(Finding::Inconsistent { attempt: decision.attempt.clone(), detail });
    }
}

/// A later stage begins when the one before has ended: its last attempt was released before.
pub(super) fn check_order(
    decisions: &[DecisionSeen],
    allocations: &[AllocationSeen],
    report: &mut AuditReport,
) {
    let later = decisions.iter().filter(|one| one.attempt.stage > 0 && one.attempt.attempt == 1);
    let later: IndexSet<(&Arc<str>, u32)> =
        later.map(|one| (&one.attempt.task, one.attempt.stage)).collect();
    if later.is_empty() {
        return;
    }
    let mut released: IndexSet<(&Arc<str>, u32)> = IndexSet::new();
    let mut begun: Vec<&AllocationSeen> = Vec::new();
    for event in allocations {
        let AttemptKey { task, stage, .. } = &event.attempt;
        match event.kind {
            AllocationKind::Released => {
                released.insert((task, *stage));
            }
            AllocationKind::Reserved if *stage > 0 && !released.contains(&(task, *stage - 1)) => {
                begun.push(event);
            }
            AllocationKind::Reserved
            | AllocationKind::Adjusted
            | AllocationKind::Expired
            | AllocationKind::Denied
            | AllocationKind::FailedOver => {}
        }
    }
    for event in begun {
        report.find(Finding::Inconsistent {
            attempt: event.attempt.clone(),
            detail: "begun before the stage before it had ended".to_owned(),
        });
    }
    let missing = later.iter().filter(|(task, stage)| !released.contains(&(*task, *stage - 1)));
    for (task, stage) in missing {
        report.find(Finding::Inconsistent {
            attempt: AttemptKey { task: Arc::clone(task), stage: *stage, attempt: 1 },
            detail: "decided, and the stage before it never ended".to_owned(),
        });
    }
}

/// Counts `unreserved` and `undecided`: a routed attempt has exactly one reservation, of the
/// resource that the decision names, and each reservation has its decision.
pub(super) fn check_reservations(
    decisions: &[DecisionSeen],
    allocations: &[AllocationSeen],
    report: &mut AuditReport,
) {
    let mut reserved: IndexMap<(&AttemptKey, &Arc<str>), bool> = IndexMap::new();
    for event in allocations {
        if event.kind == AllocationKind::Reserved {
            reserved.insert((&event.attempt, &event.resource), false);
        }
    }
    for decision in decisions {
        if decision.outcome == Outcome::Refused {
            continue;
        }
        let place = decision.resource.as_ref().map(|resource| (&decision.attempt, resource));
        match place.and_then(|place| reserved.get_mut(&place)) {
            Some(matched) => *matched = true,
            None => report.find(Finding::Unreserved {
                attempt: decision.attempt.clone(),
                resource: decision.resource.clone(),
            }),
        }
    }
    let mut unmatched: Vec<_> =
        reserved.into_iter().filter(|(_, matched)| !matched).map(|(place, _)| place).collect();
    unmatched.sort_unstable();
    for (attempt, resource) in unmatched {
        let finding =
            Finding::Undecided { attempt: attempt.clone(), resource: Arc::clone(resource) };
        report.find(finding);
    }
}
