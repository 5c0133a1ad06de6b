//! Resources that the fleet took out: which rights a lane holds of them, should they come back.
//!
//! What is under way on a resource goes on when it is taken out, in lanes that do not know of one
//! another. Were its rights dealt anew when it comes back, a lane with nothing under way would get
//! rights that another one is still using. So they are kept, for as long as they are remembered,
//! and what is forgotten must be the same in all lanes: the one that went first.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Resource;
use crate::model::resource::RESOURCES_MAX;
use crate::model::rights::LimitKind;

/// Resources that are gone and remembered: as many as can be there.
const GONE_MAX: usize = RESOURCES_MAX;

/// What a lane holds of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub kind: LimitKind,
    pub rights: u32,
    pub incarnation: i64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Gone {
    /// By the offset of the record that took each out.
    order: BTreeMap<i64, Arc<str>>,
    removed_at: BTreeMap<Arc<str>, i64>,
    /// Of those whose place another resource has now.
    held: BTreeMap<Arc<str>, Vec<Held>>,
}

impl Gone {
    /// A resource goes. Returns the one that is forgotten for it.
    pub fn remember(&mut self, id: &Arc<str>, offset: i64) -> Option<Arc<str>> {
        if self.removed_at.contains_key(id) {
            return None;
        }
        self.order.insert(offset, Arc::clone(id));
        self.removed_at.insert(Arc::clone(id), offset);
        if self.order.len() <= GONE_MAX {
            return None;
        }
        let (_, first) = self.order.pop_first()?;
        self.removed_at.remove(&first);
        self.held.remove(&first);
        Some(first)
    }

    /// A resource is back. What the lane holds of it where its place was taken.
    pub fn back(&mut self, id: &str) -> Vec<Held> {
        if let Some(offset) = self.removed_at.remove(id) {
            self.order.remove(&offset);
        }
        self.held.remove(id).unwrap_or_default()
    }

    /// Another resource takes the place of this one, of which nothing is in use.
    pub fn keep(&mut self, resource: &Resource) {
        if resource.forgotten || !self.removed_at.contains_key(&resource.id) {
            return;
        }
        let slots = Held {
            kind: LimitKind::Slots,
            rights: resource.slots_rights,
            incarnation: resource.slots_incarnation,
        };
        let rates = resource.dormant.iter().chain(&resource.rates).map(|rate| Held {
            kind: LimitKind::Rate {
                dimension: rate.limit.dimension,
                window_s: rate.limit.window_s,
            },
            rights: rate.rights,
            incarnation: rate.incarnation,
        });
        let held = std::iter::once(slots).chain(rates).collect();
        self.held.insert(Arc::clone(&resource.id), held);
    }

    pub fn held(&self, id: &str, kind: LimitKind) -> Option<Held> {
        self.held.get(id)?.iter().find(|held| held.kind == kind).copied()
    }

    pub fn rename(&mut self, id: &str, kind: LimitKind, incarnation: i64) {
        let held = self.held.get_mut(id).into_iter().flatten();
        held.filter(|held| held.kind == kind).for_each(|held| held.incarnation = incarnation);
    }

    pub fn hold(&mut self, id: &str, kind: LimitKind, rights: u32) {
        let held = self.held.get_mut(id).into_iter().flatten();
        held.filter(|held| held.kind == kind).for_each(|held| held.rights = rights);
    }
}
