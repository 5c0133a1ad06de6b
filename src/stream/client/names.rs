//! Which topic a name of the broker stands for.

use std::ffi::CString;

use crate::config::TopicNames;
use crate::model::Topic;

/// The inputs, by name.
#[derive(Debug, Clone)]
pub struct InputNames {
    names: Vec<(Topic, CString)>,
}

/// What a worker reads: lane inputs, control topics, journal.
const READ: [Topic; 6] = [
    Topic::Tasks,
    Topic::TaskResults,
    Topic::LaneInbox,
    Topic::Fleet,
    Topic::HealthEvents,
    Topic::Journal,
];

impl InputNames {
    /// `None` where a name cannot be a topic's.
    pub fn new(names: &TopicNames) -> Option<Self> {
        let named = READ.iter().map(|topic| {
            let name = CString::new(names.name(*topic)).ok()?;
            Some((*topic, name))
        });
        Some(InputNames { names: named.collect::<Option<Vec<_>>>()? })
    }

    pub fn topic(&self, name: &[u8]) -> Option<Topic> {
        self.names.iter().find(|(_, known)| known.as_bytes() == name).map(|(topic, _)| *topic)
    }

    pub fn name(&self, topic: Topic) -> Option<&CString> {
        self.names.iter().find(|(known, _)| *known == topic).map(|(_, name)| name)
    }
}
