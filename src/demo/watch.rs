//! Watches the router's other outputs while it works: what is reserved and not yet given back, and
//! dead letters. Without it nobody could tell when a demo is over.

use indexmap::IndexSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::consumer::BaseConsumer;
use rdkafka::message::Message;

use super::ledger::Ledger;
use super::records::{Next, next, raw};
use super::tasks::index_of;
use super::topics::DemoTopics;
use crate::codec::Codec;
use crate::model::Topic;
use crate::model::allocation::AllocationKind;

const POLL: Duration = Duration::from_millis(20);

/// Keeps the ledger up to date until it says to stop.
pub fn watch(
    consumer: &BaseConsumer,
    topics: &DemoTopics,
    codec: &Codec,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    // Bounded by the tasks of the demo.
    let mut open: IndexSet<(String, u32, u32)> = IndexSet::new();
    while !ledger.stopping() {
        let Next::Record(message) = next(consumer, POLL)? else {
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
        match event.kind {
            AllocationKind::Reserved => drop(open.insert(attempt)),
            AllocationKind::Released | AllocationKind::Expired => drop(open.swap_remove(&attempt)),
            AllocationKind::FailedOver => {
                ledger.failed_over.fetch_add(1, Ordering::Relaxed);
                open.swap_remove(&attempt);
            }
            AllocationKind::Adjusted | AllocationKind::Denied => (),
        }
        ledger.open_reservations.store(open.len() as i64, Ordering::Release);
    }
    Ok(())
}
