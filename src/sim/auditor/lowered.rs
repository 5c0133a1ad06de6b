//! A limit that was changed is kept by all lanes together, in whatever was reserved since the last of
//! them had read of it; and by each lane, whatever it had in use, in all that it reserved since it had
//! read of it itself.
//!
//! More cannot be promised: a lane that has more in use than its part of the lower limit waits until that
//! has ended, and the others, which do not know of it, use theirs.

use std::collections::BTreeMap;

use super::Findings;
use crate::demo::audit::above_limits;
use crate::demo::audit::history::AllocationSeen;
use crate::lane::Lane;
use crate::model::Topic;
use crate::model::allocation::AllocationKind;
use crate::model::resource::{FleetEntry, ResourceSpec};
use crate::routing::fact::Fact;
use crate::sim::logs::Logs;
use crate::sim::world::World;

/// What one record of the fleet says of a resource; nothing where it takes it out.
type Said = Option<Box<ResourceSpec>>;

/// When each lane had read a record, by its offset: batch times, milliseconds.
type Read = BTreeMap<i64, (Said, BTreeMap<u32, i64>)>;

pub fn check(world: &World, logs: &Logs, allocations: &[AllocationSeen], findings: &mut Findings) {
    let mut by_resource: BTreeMap<String, Read> = BTreeMap::new();
    for lane in 0..world.lanes() {
        if let Err(error) = read(world, logs, lane, &mut by_resource) {
            return findings.say("readable", error);
        }
    }
    for (id, records) in by_resource {
        let of: Vec<&AllocationSeen> =
            allocations.iter().filter(|event| *event.resource == *id).collect();
        let records: Vec<_> = records.into_values().collect();
        for (place, (said, read_at)) in records.iter().enumerate() {
            let next = records.get(place + 1).map(|(_, read_at)| read_at);
            let all = (read_at.len() == world.lanes() as usize)
                .then(|| read_at.values().copied().max())
                .flatten();
            let first_next = next.and_then(|read_at| read_at.values().copied().min());
            if let Some(since) = all {
                let within = |at: i64| at > since && first_next.is_none_or(|next| at < next);
                let events = of.iter().filter(|event| within(event.reserved_at_ms));
                let events: Vec<AllocationSeen> = events.map(|event| (*event).clone()).collect();
                look(said, &events, &within, "all lanes", findings);
            }
            for (lane, since) in read_at {
                let next = next.and_then(|read_at| read_at.get(lane)).copied();
                let within = |at: i64| at > *since && next.is_none_or(|next| at < next);
                let events = of.iter().filter(|event| event.lane == *lane);
                let events: Vec<AllocationSeen> = events.map(|event| (*event).clone()).collect();
                look(said, &events, &within, &format!("lane {lane}"), findings);
            }
        }
    }
}

/// Looks at what was reserved at these times.
fn look(
    said: &Said,
    events: &[AllocationSeen],
    within: &dyn Fn(i64) -> bool,
    who: &str,
    findings: &mut Findings,
) {
    let Some(spec) = said else {
        let reserved = events.iter().filter(|event| event.kind == AllocationKind::Reserved);
        for event in reserved.filter(|event| within(event.at_ms)) {
            let detail =
                format!("{} of {}, which is gone for {who}", event.attempt, event.resource);
            findings.say("lowered", detail);
        }
        return;
    };
    for finding in above_limits(spec, events, within) {
        findings.say("lowered", format!("{who}: {finding}"));
    }
}

fn read(
    world: &World,
    logs: &Logs,
    lane: u32,
    by_resource: &mut BTreeMap<String, Read>,
) -> Result<(), String> {
    for record in logs.of(Topic::Journal, i32::try_from(lane).unwrap_or(0)) {
        let record = world.codec.decode_journal(record.value.as_deref().unwrap_or_default());
        let record = record.map_err(|error| error.to_string())?;
        for fact in Lane::facts_of(&record).map_err(|error| error.to_string())? {
            let Fact::FleetSet { offset, entry } = fact else { continue };
            let (id, said) = match *entry {
                FleetEntry::Resource(spec) => (spec.id.clone(), Some(Box::new(spec))),
                FleetEntry::ResourceRemoved(id) => (id, None),
                FleetEntry::Tenant(_) | FleetEntry::TenantRemoved(_) => continue,
            };
            let records = by_resource.entry(id).or_default();
            let (_, read_at) = records.entry(offset).or_insert((said, BTreeMap::new()));
            read_at.insert(lane, record.batch_time_ms.as_ms());
        }
    }
    Ok(())
}
