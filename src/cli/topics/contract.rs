//! Which topics there must be, and how they must be set.

use crate::config::TopicNames;
use crate::model::Topic;

/// How many partitions a topic has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    One,
    /// As many as there are lanes.
    Lanes,
    /// Any number: lanes write to their own number modulo it.
    Any,
}

/// When a setting is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Equal(&'static str),
    /// At least this; -1 stands for no bound at all.
    AtLeast(i64),
}

/// One setting of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub rule: Rule,
    /// Whether Pointsman cannot work with another value; otherwise it is advice.
    pub must: bool,
    pub why: &'static str,
}

impl Setting {
    /// What a new topic is created with.
    pub fn value(&self) -> String {
        match self.rule {
            Rule::Equal(value) => value.to_owned(),
            Rule::AtLeast(value) => value.to_string(),
        }
    }

    /// Whether this value will do.
    pub fn accepts(&self, value: &str) -> bool {
        match self.rule {
            Rule::Equal(wanted) => value == wanted,
            Rule::AtLeast(wanted) => value
                .parse::<i64>()
                .is_ok_and(|value| value == -1 || (wanted != -1 && value >= wanted)),
        }
    }
}

/// One topic that there must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub topic: Topic,
    pub name: String,
    pub count: Count,
    pub settings: Vec<Setting>,
}

const DAY_MS: i64 = 86_400_000;
/// What the decoder reads of one input record.
const INPUT_BYTES: i64 = 2 << 20;
/// Larger than an input: its payload, and what we add.
const OUTPUT_BYTES: i64 = 4 << 20;
/// A batch's facts, and the control records that it carries by value.
const JOURNAL_BYTES: i64 = 16 << 20;

/// Every topic of the contract; of a template, one for each pool.
pub fn needs(names: &TopicNames, pools: &[String]) -> Vec<Need> {
    let mut found = Vec::new();
    for topic in Topic::ALL {
        let settings = settings(topic);
        if topic == Topic::RouteDecisions && names.decisions_by_pool() {
            for pool in pools {
                let name = names.decisions_of(pool);
                found.push(Need { topic, name, count: Count::Any, settings: settings.clone() });
            }
            continue;
        }
        let name = names.name(topic).to_owned();
        found.push(Need { topic, name, count: count(topic), settings });
    }
    found
}

const fn count(topic: Topic) -> Count {
    match topic {
        Topic::HealthEvents
        | Topic::Fleet
        | Topic::OperatorActions
        | Topic::HealthEventsDlq
        | Topic::FleetDlq => Count::One,
        Topic::Tasks
        | Topic::TaskResults
        | Topic::LaneInbox
        | Topic::RouteDecisions
        | Topic::AllocationEvents
        | Topic::BalanceEvents
        | Topic::LoadSnapshots
        | Topic::Journal
        | Topic::Snapshots
        | Topic::TasksDlq
        | Topic::TaskResultsDlq
        | Topic::LaneInboxDlq => Count::Lanes,
    }
}

fn settings(topic: Topic) -> Vec<Setting> {
    let policy =
        |value, why| Setting { name: "cleanup.policy", rule: Rule::Equal(value), must: true, why };
    let retention = |days: i64, why| Setting {
        name: "retention.ms",
        rule: Rule::AtLeast(days * DAY_MS),
        must: false,
        why,
    };
    let bytes = |bytes, why| Setting {
        name: "max.message.bytes",
        rule: Rule::AtLeast(bytes),
        must: false,
        why,
    };
    const KEPT: &str = "records of one key are not versions of one another";
    const COMPACTED: &str = "the last record of a key holds, however old it is";
    match topic {
        Topic::Tasks => vec![
            policy("delete", KEPT),
            retention(
                7,
                "a waiting task is read again from here: keep it longer than a task lives",
            ),
            bytes(INPUT_BYTES, "a payload of 1 MiB and its task"),
        ],
        Topic::TaskResults | Topic::LaneInbox => vec![
            policy("delete", KEPT),
            retention(7, "a lane that was down for long still has to read it"),
            bytes(INPUT_BYTES, "a result with a long error"),
        ],
        Topic::HealthEvents => {
            vec![policy("compact", COMPACTED), bytes(INPUT_BYTES, "as for every input")]
        }
        Topic::Fleet => {
            const AGREED: &str = "rights belong to the record by which their limit came: a lane                 that stood still has to read the records that the others read";
            let kept =
                |name| Setting { name, rule: Rule::AtLeast(7 * DAY_MS), must: false, why: AGREED };
            vec![
                policy("compact", COMPACTED),
                bytes(INPUT_BYTES, "as for every input"),
                kept("min.compaction.lag.ms"),
                kept("delete.retention.ms"),
            ]
        }
        Topic::LoadSnapshots | Topic::Snapshots => vec![policy("compact", COMPACTED)],
        Topic::RouteDecisions => vec![
            policy("delete", KEPT),
            retention(7, "a worker that was down for long still has to read it"),
            bytes(OUTPUT_BYTES, "a decision carries its task's payload"),
        ],
        Topic::AllocationEvents | Topic::BalanceEvents => {
            vec![policy("delete", KEPT), retention(7, "audits read it")]
        }
        Topic::Journal => vec![
            policy("delete", KEPT),
            Setting {
                name: "retention.ms",
                rule: Rule::AtLeast(-1),
                must: true,
                why: "a lane recovers by its journal, from the first record on",
            },
            Setting {
                name: "retention.bytes",
                rule: Rule::AtLeast(-1),
                must: true,
                why: "a lane recovers by its journal, from the first record on",
            },
            bytes(JOURNAL_BYTES, "a batch's facts, and control records by value"),
        ],
        Topic::OperatorActions => vec![
            policy("delete", KEPT),
            retention(90, "it says who did what"),
            Setting {
                name: "message.timestamp.type",
                rule: Rule::Equal("LogAppendTime"),
                must: true,
                why: "instances compare their clocks with the broker's there",
            },
        ],
        Topic::TasksDlq
        | Topic::TaskResultsDlq
        | Topic::LaneInboxDlq
        | Topic::HealthEventsDlq
        | Topic::FleetDlq => vec![
            policy("delete", KEPT),
            retention(30, "somebody has to look at it first"),
            bytes(OUTPUT_BYTES, "the original record and its error headers"),
        ],
    }
}
