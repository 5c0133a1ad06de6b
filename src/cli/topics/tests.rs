use super::contract::{Rule, Setting, needs};
use super::plan::{Existing, Plan, State, plan};
use super::*;
use crate::model::Topic;

fn names(variables: &[(&str, &str)]) -> crate::config::TopicNames {
    let variables = variables
        .iter()
        .map(|(key, value)| (crate::config::environment_name(key), (*value).to_owned()));
    Config::load(None, variables).unwrap().topics
}

/// Everything as `apply` would make it.
fn right(lanes: i32) -> BTreeMap<String, Existing> {
    plan(&needs(&names(&[]), &[]), &BTreeMap::new(), Some(lanes), "b:1")
        .topics
        .into_iter()
        .map(|row| {
            let settings = row.settings.into_iter();
            let settings = settings.map(|(name, value)| (name.to_owned(), value)).collect();
            let partitions = row.partitions_needed;
            (row.name, Existing { partitions, settings: Some(settings) })
        })
        .collect()
}

fn compared(existing: &BTreeMap<String, Existing>, asked: Option<i32>) -> Plan {
    plan(&needs(&names(&[]), &[]), existing, asked, "b:1")
}

/// Name, state and findings of what is not right.
fn differences(plan: &Plan) -> Vec<String> {
    plan.topics
        .iter()
        .filter(|row| row.state != State::Right)
        .map(|row| {
            let texts: Vec<&str> =
                row.findings.iter().map(|finding| finding.text.as_str()).collect();
            format!("{} {}: {}", row.name, row.state.name(), texts.join("; "))
        })
        .collect()
}

#[test]
fn what_apply_makes_is_right() {
    let plan = compared(&right(4), None);
    assert_eq!(differences(&plan), [""; 0]);
    assert_eq!(plan.lanes, 4);
    assert!(!plan.lanes_disagree);
}

#[test]
fn a_new_installation_has_four_lanes_and_every_topic() {
    let plan = compared(&BTreeMap::new(), None);
    let shown: Vec<String> = plan
        .topics
        .iter()
        .map(|row| {
            let settings: Vec<String> =
                row.settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{} {} {}", row.name, row.partitions_needed, settings.join(" "))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "tasks 4 cleanup.policy=delete max.message.bytes=2097152 retention.ms=604800000",
            "task-results 4 cleanup.policy=delete max.message.bytes=2097152 retention.ms=604800000",
            "lane-inbox 4 cleanup.policy=delete max.message.bytes=2097152 retention.ms=604800000",
            "health-events 1 cleanup.policy=compact max.message.bytes=2097152",
            "fleet 1 cleanup.policy=compact delete.retention.ms=604800000 max.message.bytes=2097152 min.compaction.lag.ms=604800000",
            "route-decisions 4 cleanup.policy=delete max.message.bytes=4194304 retention.ms=604800000",
            "allocation-events 4 cleanup.policy=delete retention.ms=604800000",
            "balance-events 4 cleanup.policy=delete retention.ms=604800000",
            "load-snapshots 4 cleanup.policy=compact",
            "journal 4 cleanup.policy=delete max.message.bytes=16777216 retention.bytes=-1 retention.ms=-1",
            "snapshots 4 cleanup.policy=compact",
            "operator-actions 1 cleanup.policy=delete message.timestamp.type=LogAppendTime retention.ms=7776000000",
            "tasks.dlq 4 cleanup.policy=delete max.message.bytes=4194304 retention.ms=2592000000",
            "task-results.dlq 4 cleanup.policy=delete max.message.bytes=4194304 retention.ms=2592000000",
            "lane-inbox.dlq 4 cleanup.policy=delete max.message.bytes=4194304 retention.ms=2592000000",
            "health-events.dlq 1 cleanup.policy=delete max.message.bytes=4194304 retention.ms=2592000000",
            "fleet.dlq 1 cleanup.policy=delete max.message.bytes=4194304 retention.ms=2592000000",
        ]
    );
}

/// An installation of one lane, as all were by default before, keeps it.
#[test]
fn the_default_is_for_new_installations() {
    for lanes in [1, 2, 16] {
        let plan = compared(&right(lanes), None);
        assert_eq!((plan.lanes, differences(&plan)), (lanes, vec![]));
    }
}

#[test]
fn existing_lanes_decide_about_the_others() {
    let mut existing = right(4);
    existing.remove("task-results");
    let plan = compared(&existing, None);
    assert_eq!(differences(&plan), ["task-results missing: "]);
    assert_eq!(plan.missing().next().unwrap().partitions_needed, 4);
}

#[test]
fn lanes_are_added_and_tasks_is_the_last_to_get_them() {
    let plan = compared(&right(2), Some(4));
    assert!(!plan.lanes_disagree && plan.adds_lanes());
    assert_eq!(plan.lanes, 4);
    let short: Vec<&str> = plan.short().map(|row| row.name.as_str()).collect();
    assert_eq!(
        short,
        [
            "task-results",
            "lane-inbox",
            "route-decisions",
            "allocation-events",
            "balance-events",
            "load-snapshots",
            "journal",
            "snapshots",
            "tasks.dlq",
            "task-results.dlq",
            "lane-inbox.dlq",
            "tasks",
        ]
    );
    let finding = &plan.short().last().unwrap().findings[0];
    assert_eq!(finding.text, "has 2 partitions, needs 4");
    assert_eq!(finding.fix, "pointsman topics apply --partitions 4");
    // What is asked for is there.
    assert_eq!(differences(&compared(&right(4), Some(4))), [""; 0]);
}

#[test]
fn lanes_are_never_taken_away() {
    let plan = compared(&right(4), Some(2));
    assert!(plan.lanes_disagree);
    assert_eq!(plan.short().count(), 0);
    assert_eq!(
        differences(&plan),
        [
            "tasks wrong: has 4 partitions, needs 2",
            "task-results wrong: has 4 partitions, needs 2",
            "lane-inbox wrong: has 4 partitions, needs 2",
        ]
    );
}

/// `apply` was ended between topics: without a number, what `tasks` has is what holds.
#[test]
fn an_addition_that_was_cut_off_is_gone_on_with() {
    let mut existing = right(4);
    existing.get_mut("tasks").unwrap().partitions = 2;
    existing.get_mut("snapshots").unwrap().partitions = 2;
    let plan = compared(&existing, Some(4));
    assert!(!plan.lanes_disagree);
    let short: Vec<&str> = plan.short().map(|row| row.name.as_str()).collect();
    assert_eq!(short, ["snapshots", "tasks"]);
    let plan = compared(&existing, None);
    assert!(plan.lanes_disagree);
    let found = plan.wrong().next().unwrap();
    assert_eq!(found.name, "task-results");
    assert_eq!(
        found.findings[0].fix,
        "partitions are never taken away: `pointsman topics apply --partitions 4` gives all lane topics as \
         many; or begin anew with other topic names and another kafka.group_id"
    );
}

#[test]
fn lane_topics_of_different_sizes_do_not_fit() {
    let mut existing = right(2);
    existing.get_mut("lane-inbox").unwrap().partitions = 1;
    existing.get_mut("journal").unwrap().partitions = 3;
    let plan = compared(&existing, None);
    assert!(!plan.lanes_disagree, "the inbox gets one more");
    assert_eq!(
        differences(&plan),
        ["lane-inbox short: has 1 partition, needs 2", "journal wrong: has 3 partitions, needs 2",]
    );
}

#[test]
fn settings_are_judged_by_what_depends_on_them() {
    let mut existing = right(1);
    let mut set = |topic: &str, name: &str, value: &str| {
        let settings = existing.get_mut(topic).unwrap().settings.as_mut().unwrap();
        settings.insert(name.to_owned(), value.to_owned());
    };
    set("fleet", "cleanup.policy", "delete");
    set("tasks", "retention.ms", "3600000");
    set("task-results", "retention.ms", "-1");
    set("journal", "retention.ms", "604800000");
    set("operator-actions", "message.timestamp.type", "CreateTime");
    existing.get_mut("tasks.dlq").unwrap().settings = None;
    let plan = compared(&existing, None);
    assert_eq!(
        differences(&plan),
        [
            "tasks advice: retention.ms is 3600000, should be at least 604800000: a waiting task is read again from here: keep it longer than a task lives",
            "fleet wrong: cleanup.policy is delete, needs compact: the last record of a key holds, however old it is",
            "journal wrong: retention.ms is 604800000, needs -1: a lane recovers by its journal, from the first record on",
            "operator-actions wrong: message.timestamp.type is CreateTime, needs LogAppendTime: instances compare their clocks with the broker's there",
            "tasks.dlq advice: its settings may not be described",
        ]
    );
    assert_eq!(
        plan.wrong().next().unwrap().findings[0].fix,
        "kafka-configs.sh --bootstrap-server b:1 --alter --entity-type topics --entity-name fleet \
         --add-config cleanup.policy=compact"
    );
}

#[test]
fn a_template_has_a_topic_for_each_pool_of_any_size() {
    let names = names(&[("topics.route_decisions", "routes.{pool}")]);
    let pools = ["cpu".to_owned(), "gpu".to_owned()];
    let mut existing = right(4);
    existing.remove("route-decisions");
    let settings = needs(&names, &pools)
        .into_iter()
        .find(|need| need.topic == Topic::RouteDecisions)
        .unwrap()
        .settings
        .iter()
        .map(|setting| (setting.name.to_owned(), setting.value()))
        .collect();
    existing.insert("routes.gpu".to_owned(), Existing { partitions: 2, settings: Some(settings) });
    let plan = plan(&needs(&names, &pools), &existing, None, "b:1");
    assert_eq!(differences(&plan), ["routes.cpu missing: "]);
}

#[test]
fn no_bound_is_more_than_any_bound() {
    let setting = |rule| Setting { name: "retention.ms", rule, must: true, why: "" };
    let rows = [
        (Rule::AtLeast(5), "5", true),
        (Rule::AtLeast(5), "4", false),
        (Rule::AtLeast(5), "-1", true),
        (Rule::AtLeast(-1), "-1", true),
        (Rule::AtLeast(-1), "99", false),
        (Rule::AtLeast(5), "", false),
        (Rule::Equal("compact"), "compact", true),
        (Rule::Equal("compact"), "compact,delete", false),
    ];
    for (rule, value, expected) in rows {
        assert_eq!(setting(rule).accepts(value), expected, "{rule:?} {value}");
    }
}
