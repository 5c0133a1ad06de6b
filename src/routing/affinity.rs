//! Affinity: which resource served a session last. What a provider keeps of a session's prompts makes
//! the next one cheaper and its first token sooner there, and nowhere else.
//!
//! Two generations stand in for an order of last use: a session that is used comes into the young one, and
//! when that is full it becomes the old one, and what was old is forgotten. So the newest
//! [`SESSIONS_MAX`]` / 2` sessions are always known, in a bounded memory, without an order to keep.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::fact::ResourceIndex;
use crate::model::task::Task;

/// Sessions that a lane knows: some 40 bytes each, so 2.6 MB.
pub const SESSIONS_MAX: usize = 65_536;

/// A session's name and its tenant's, hashed; 0 is no session.
pub type SessionHash = u64;

/// The session of a task. Two that share a hash would share a preference, which is all that it is.
pub fn session_of(task: &Task) -> SessionHash {
    let Some(session) = &task.session else { return 0 };
    xxh3_64_with_seed(session.as_bytes(), xxh3_64(task.tenant.as_bytes())).max(1)
}

/// Who served which session last.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Affinity {
    young: BTreeMap<SessionHash, ResourceIndex>,
    old: BTreeMap<SessionHash, ResourceIndex>,
}

impl Affinity {
    pub fn of(&self, session: SessionHash) -> Option<ResourceIndex> {
        if session == 0 {
            return None;
        }
        self.young.get(&session).or_else(|| self.old.get(&session)).copied()
    }

    /// A resource has served this session.
    pub fn served(&mut self, session: SessionHash, resource: ResourceIndex) {
        if session == 0 {
            return;
        }
        self.old.remove(&session);
        self.young.insert(session, resource);
        if self.young.len() >= SESSIONS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// Another resource has this index now.
    pub fn forget(&mut self, resource: ResourceIndex) {
        self.young.retain(|_, known| *known != resource);
        self.old.retain(|_, known| *known != resource);
    }

    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.young.is_empty() && self.old.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_known_and_there_is_a_bound() {
        let mut affinity = Affinity::default();
        for session in 1..=200_000_u64 {
            affinity.served(session, (session % 7) as ResourceIndex);
            // One that is used again and again stays.
            affinity.served(1, 5);
            assert!(affinity.len() <= SESSIONS_MAX);
        }
        let newest = 200_000 - SESSIONS_MAX as u64 / 2 + 10;
        for session in newest..=200_000 {
            assert_eq!(affinity.of(session), Some((session % 7) as ResourceIndex), "{session}");
        }
        assert_eq!(affinity.of(1), Some(5));
        assert_eq!(affinity.of(2), None);
        assert_eq!(affinity.of(0), None);
        affinity.forget(5);
        assert_eq!(affinity.of(1), None);
        assert_eq!(affinity.of(199_999), Some((199_999 % 7) as ResourceIndex));
    }

    #[test]
    fn a_session_is_its_tenants() {
        let of = |tenant: &str, session: serde_json::Value| {
            let task = serde_json::json!({
                "task_id": "t", "input_tokens": 1, "tenant": tenant, "session": session,
            });
            session_of(&serde_json::from_value(task).unwrap())
        };
        assert_eq!(of("a", serde_json::Value::Null), 0);
        assert_ne!(of("a", "bc".into()), of("ab", "c".into()));
        assert_eq!(of("a", "bc".into()), of("a", "bc".into()));
    }
}
