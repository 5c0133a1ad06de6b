//! What there is against what is needed. Pure: it is handed what the brokers said.

use std::collections::BTreeMap;

use serde::Serialize;

use super::contract::{Count, Need};
use crate::cli::print::Mark;
use crate::model::Topic;

/// What the brokers said about one existing topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Existing {
    pub partitions: i32,
    /// `None`: it may not be described.
    pub settings: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Right,
    /// `apply` creates it.
    Missing,
    /// `apply` adds partitions.
    Short,
    /// It works, and could be better.
    Advice,
    /// `apply` does not change it.
    Wrong,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            State::Right => "right",
            State::Missing => "missing",
            State::Short => "short",
            State::Advice => "advice",
            State::Wrong => "wrong",
        }
    }

    pub const fn mark(self) -> Mark {
        match self {
            State::Right => Mark::Ok,
            State::Advice => Mark::Warning,
            State::Missing | State::Short | State::Wrong => Mark::Failure,
        }
    }
}

/// Something about an existing topic that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub must: bool,
    pub text: String,
    pub fix: String,
}

/// One topic of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The topic's default name, which is its key in the configuration with `_` for `-` and `.`.
    pub topic: &'static str,
    pub name: String,
    pub state: State,
    /// `null` where it is missing.
    pub partitions: Option<i32>,
    /// What it needs, or would be created with.
    pub partitions_needed: i32,
    pub findings: Vec<Finding>,
    /// What it would be created with.
    pub settings: BTreeMap<&'static str, String>,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub lanes: i32,
    pub topics: Vec<Row>,
    #[serde(skip)]
    pub lanes_disagree: bool,
}

impl Plan {
    pub fn missing(&self) -> impl Iterator<Item = &Row> {
        self.topics.iter().filter(|row| row.state == State::Missing)
    }

    /// Topics that get partitions, in this order: `tasks` is the last one, so that whatever comes to a
    /// new lane finds all that the lane needs.
    pub fn short(&self) -> impl Iterator<Item = &Row> {
        let short = || self.topics.iter().filter(|row| row.state == State::Short);
        let is_tasks = |row: &&Row| row.topic == Topic::Tasks.default_name();
        short().filter(move |row| !is_tasks(row)).chain(short().filter(is_tasks))
    }

    /// Whether lanes are added to an installation that has some.
    pub fn adds_lanes(&self) -> bool {
        self.short().any(|row| row.topic == Topic::Tasks.default_name())
    }

    pub fn wrong(&self) -> impl Iterator<Item = &Row> {
        self.topics.iter().filter(|row| row.state == State::Wrong)
    }
}

/// Lanes of a new installation. A lane costs next to nothing, and one more later sends keys to other
/// lanes: with four, up to four instances can share the work, and one that is lost takes a part of it along,
/// not all.
pub const LANES_DEFAULT: i32 = 4;

/// Compares. `asked` is the number of partitions that the user wants for lanes.
pub fn plan(
    needs: &[Need],
    existing: &BTreeMap<String, Existing>,
    asked: Option<i32>,
    brokers: &str,
) -> Plan {
    let partitions_of = |topic: Topic| {
        let need = needs.iter().find(|need| need.topic == topic)?;
        existing.get(&need.name).map(|found| found.partitions)
    };
    // The partitions of `tasks` are the lanes; the others follow. Lanes are added, never taken away.
    let found = Topic::LANE_INPUTS.into_iter().find_map(partitions_of);
    let lanes = found.max(asked).unwrap_or(LANES_DEFAULT);
    let mut lanes_disagree = false;
    let mut topics = Vec::new();
    for need in needs {
        let partitions_needed = match need.count {
            Count::One => 1,
            Count::Lanes | Count::Any => lanes,
        };
        let settings = need.settings.iter().map(|setting| (setting.name, setting.value()));
        let mut row = Row {
            topic: need.topic.default_name(),
            name: need.name.clone(),
            state: State::Missing,
            partitions: None,
            partitions_needed,
            findings: Vec::new(),
            settings: settings.collect(),
        };
        if let Some(found) = existing.get(&need.name) {
            row.partitions = Some(found.partitions);
            let is_lane_input = Topic::LANE_INPUTS.contains(&need.topic);
            let is_fewer = is_lane_input && asked.is_some_and(|asked| asked < found.partitions);
            let is_short = need.count == Count::Lanes && found.partitions < partitions_needed;
            if need.count != Count::Any && (is_fewer || found.partitions != partitions_needed) {
                lanes_disagree |= is_lane_input && !is_short;
                let wanted = if is_fewer { asked.unwrap_or(lanes) } else { partitions_needed };
                row.findings.push(partition_finding(need, found.partitions, wanted, brokers));
            }
            let at = row.findings.len();
            settings_findings(need, found, brokers, &mut row.findings);
            row.state =
                if row.findings[at..].iter().any(|finding| finding.must) || at > 0 && !is_short {
                    State::Wrong
                } else if is_short {
                    State::Short
                } else if row.findings.is_empty() {
                    State::Right
                } else {
                    State::Advice
                };
        }
        topics.push(row);
    }
    Plan { lanes, topics, lanes_disagree }
}

fn partition_finding(need: &Need, found: i32, wanted: i32, brokers: &str) -> Finding {
    let name = &need.name;
    let text = format!("has {}, needs {wanted}", counted(found));
    let fix = if need.count == Count::Lanes && found < wanted {
        format!("pointsman topics apply --partitions {wanted}")
    } else if need.count == Count::Lanes {
        format!(
            "partitions are never taken away: `pointsman topics apply --partitions {found}` gives all lane \
             topics as many; or begin anew with other topic names and another kafka.group_id"
        )
    } else {
        format!(
            "delete it and run `pointsman topics apply`: kafka-topics.sh --bootstrap-server {brokers} \
             --delete --topic {name}"
        )
    };
    Finding { must: true, text, fix }
}

fn counted(partitions: i32) -> String {
    if partitions == 1 { "1 partition".to_owned() } else { format!("{partitions} partitions") }
}

fn settings_findings(need: &Need, found: &Existing, brokers: &str, findings: &mut Vec<Finding>) {
    let Some(settings) = &found.settings else {
        findings.push(Finding {
            must: false,
            text: "its settings may not be described".to_owned(),
            fix: format!("allow DescribeConfigs on topic {}", need.name),
        });
        return;
    };
    for setting in &need.settings {
        let value = settings.get(setting.name).map_or("", String::as_str);
        if setting.accepts(value) {
            continue;
        }
        let needed = setting.value();
        let word = if setting.must { "needs" } else { "should be at least" };
        findings.push(Finding {
            must: setting.must,
            text: format!("{} is {value}, {word} {needed}: {}", setting.name, setting.why),
            fix: format!(
                "kafka-configs.sh --bootstrap-server {brokers} --alter --entity-type topics \
                 --entity-name {} --add-config {}={needed}",
                need.name, setting.name
            ),
        });
    }
}
