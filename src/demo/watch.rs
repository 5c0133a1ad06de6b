//! Watches the router's other outputs while it works: what is reserved and not yet given back, and
//! dead letters. Without it nobody could tell when a demo is over.

use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;

use super::ledger::Ledger;
use super::records::{next, raw};
use super::tasks::index_of;
use super::topics::DemoTopics;
use crate::codec::Codec;
use crate::model::Topic;
use crate::model::allocation::AllocationKind;
use crate::model::resource::FleetFile;

const POLL: Duration = Duration::from_millis(20);

/// Keeps the ledger up to date until it says to stop.
pub fn watch(
    consumer: &BaseConsumer,
    topics: &DemoTopics,
    codec: &Codec,
    fleet: &FleetFile,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    let places: BTreeMap<&str, usize> =
        fleet.resources.iter().enumerate().map(|(place, one)| (one.id.as_str(), place)).collect();
    // The resource of each attempt under way; bounded by the slots of the fleet.
    let mut open: IndexMap<(String, u32, u32), usize> = IndexMap::new();
    while !ledger.stopping() {
        let Some(message) = next(consumer, POLL)? else {
            continue;
        };
        if message.topic() == topics.name(Topic::TasksDlq) {
            ledger.dead_lettered.fetch_add(1, Ordering::Relaxed);
            // A dead letter has the bytes of its task; where they are none, the audit knows.
            if let Ok(task) = codec.decode_task(&raw(Topic::Tasks, &message))
                && let Some(index) = index_of(&task.task_id)
            {
                ledger.ended(index);
            }
            continue;
        }
        let event = codec.decode_allocation_event(&raw(Topic::AllocationEvents, &message))?;
        let attempt = (event.task_id.into_owned(), event.stage, event.attempt);
        let ended = match event.kind {
            AllocationKind::Reserved => {
                // A resource that the fleet does not have is for the audit to find.
                if let Some(place) = places.get(event.resource.as_ref()) {
                    ledger.reserved(*place, 1);
                    open.insert(attempt, *place);
                }
                None
            }
            AllocationKind::Released | AllocationKind::Expired => open.swap_remove(&attempt),
            AllocationKind::FailedOver => {
                ledger.failed_over.fetch_add(1, Ordering::Relaxed);
                open.swap_remove(&attempt)
            }
            AllocationKind::Adjusted | AllocationKind::Denied => None,
        };
        if let Some(place) = ended {
            ledger.reserved(place, -1);
        }
    }
    Ok(())
}
