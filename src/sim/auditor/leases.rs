//! An attempt whose result came in time is never ended by its lease, however long its lane was without an
//! owner: a lease ends only once the lane has read all results that existed at its end.

use std::collections::BTreeMap;

use super::Findings;
use crate::model::Topic;
use crate::model::allocation::AllocationKind;
use crate::model::result::ResultStatus;
use crate::sim::CLOCK_OFFSET_MS;
use crate::sim::logs::Logs;
use crate::sim::world::World;

/// A lane's clock may be ahead of the broker's by as much: of its owner, or of the one before.
const AHEAD_MS: i64 = 2 * CLOCK_OFFSET_MS as i64;

/// Task, stage, and the attempt's number.
type Attempt = (String, u32, u32);

pub fn check(world: &World, logs: &Logs, findings: &mut Findings) {
    let codec = &world.codec;
    // The first end that each attempt's worker reported to its lane.
    let mut ended: BTreeMap<Attempt, i64> = BTreeMap::new();
    for record in logs.all(Topic::TaskResults) {
        let decoded = record.with_raw(Topic::TaskResults, |raw| codec.decode_task_result(raw));
        let Ok(result) = decoded else { continue };
        let is_end = match result.status {
            ResultStatus::Started | ResultStatus::Heartbeat => false,
            ResultStatus::Succeeded
            | ResultStatus::Failed
            | ResultStatus::RateLimited
            | ResultStatus::Late
            | ResultStatus::Cancelled => true,
        };
        // One on the wrong partition takes the inbox, and may come after the lease.
        let is_here = result.lane.and_then(|lane| i32::try_from(lane).ok());
        if is_end && is_here == Some(record.partition) {
            let at = record.timestamp_ms;
            let known = ended.entry((result.task_id, result.stage, result.attempt)).or_insert(at);
            *known = at.min(*known);
        }
    }
    let mut leases: BTreeMap<Attempt, i64> = BTreeMap::new();
    for record in logs.all(Topic::RouteDecisions) {
        record.with_raw(Topic::RouteDecisions, |raw| {
            if let Ok(decision) = codec.decode_route_decision(raw)
                && let Some(until) = decision.lease_until_at_ms
            {
                let attempt = (decision.task_id.to_string(), decision.stage, decision.attempt);
                leases.insert(attempt, until.as_ms());
            }
        });
    }
    for record in logs.all(Topic::AllocationEvents) {
        record.with_raw(Topic::AllocationEvents, |raw| {
            let Ok(event) = codec.decode_allocation_event(raw) else { return };
            if event.kind != AllocationKind::Expired {
                return;
            }
            let attempt = (event.task_id.to_string(), event.stage, event.attempt);
            if let (Some(ended), Some(until)) = (ended.get(&attempt), leases.get(&attempt))
                && ended + AHEAD_MS <= *until
            {
                let (task, stage, number) = attempt;
                let detail = format!(
                    "attempt {number} of stage {stage} of task {task} expired at {}: its result is of {ended}, its lease \
                     until {until}",
                    event.at_ms.as_ms()
                );
                findings.say("expired_early", detail);
            }
        });
    }
}
