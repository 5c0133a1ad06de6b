//! What all lanes of the group say of their load, as the `load-snapshots` topic has it: for those who
//! ask over HTTP, whichever instance they ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::event::LoadSnapshot;

/// The newest load snapshot of each lane and resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadView {
    /// The topic was read to an end that it had after this instance's start. Until then what is
    /// shown is from before.
    pub caught_up: bool,
    /// The next offset to read, by partition.
    pub positions: BTreeMap<i32, i64>,
    /// By the key of its record: `lane/resource`.
    pub load: BTreeMap<Arc<[u8]>, Arc<LoadSnapshot<'static>>>,
}
