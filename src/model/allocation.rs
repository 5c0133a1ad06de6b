//! What happened to a resource's capacity. See `schemas/allocation_event.avsc`.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::decision::Reserved;
use super::reason::RefusalReason;
use super::time::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AllocationKind {
    /// Capacity was reserved, at `at_ms`.
    Reserved,
    /// A correction after the release (a result of an attempt whose lease had ended).
    Adjusted,
    /// The attempt ended; the slot is free and the debit is corrected to what was used.
    Released,
    /// The lease ended without a result; the slot is free, the whole debit stays.
    Expired,
    /// No capacity could be reserved; nothing changed.
    Denied,
    /// The resource went down; the slot is free, the whole debit stays, the task is decided again.
    FailedOver,
}

impl AllocationKind {
    pub const fn name(self) -> &'static str {
        match self {
            AllocationKind::Reserved => "reserved",
            AllocationKind::Adjusted => "adjusted",
            AllocationKind::Released => "released",
            AllocationKind::Expired => "expired",
            AllocationKind::Denied => "denied",
            AllocationKind::FailedOver => "failed_over",
        }
    }
}

/// One record of `allocation-events`.
///
/// `held` is what the attempt holds *after* this event: slots in use, and the requests and tokens
/// debited at `reserved_at_ms`. An overrun is debited at `at_ms`, apart from `held`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocationEvent<'a> {
    pub kind: AllocationKind,
    #[serde(borrow)]
    pub resource: Cow<'a, str>,
    #[serde(borrow)]
    pub task_id: Cow<'a, str>,
    pub attempt: u32,
    pub stage: u32,
    pub lane: u32,
    /// Batch time.
    pub at_ms: Timestamp,
    pub reserved_at_ms: Timestamp,
    pub held: Reserved,
    /// Tokens used beyond the reservation.
    pub overrun_tokens: u64,
    pub reason: Option<RefusalReason>,
}
