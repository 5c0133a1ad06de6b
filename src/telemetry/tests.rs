use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::model::reason::RefusalReason;

fn usage(limit: u64, granted: u64, reserved: u64) -> Usage {
    Usage { limit, granted, reserved }
}

fn resource(id: &str) -> ResourceView {
    let window = |dimension, usage| WindowView { dimension, window_s: 60, usage };
    ResourceView {
        id: id.into(),
        health: "healthy",
        slots: usage(40, 20, 7),
        windows: vec![
            window("requests", usage(600, 300, 12)),
            window("tokens", usage(200_000, 100_000, 4_096)),
        ],
    }
}

/// Telemetry that has seen something of everything.
fn busy() -> Telemetry {
    let telemetry = Telemetry::new(2);
    telemetry.assigned(0, &[0, 1]);
    telemetry.assigned(1, &[2]);
    telemetry.lane_state(0, LaneState::Running, None);
    telemetry.lane_state(1, LaneState::Stopped, Some("journal: a record is missing".to_owned()));
    telemetry.lane_restore_remaining(2, 512);
    telemetry.lane_progress(0, 17, Timestamp::from_ms(5), 3, 4);
    telemetry.lane_lag(0, Topic::Tasks, 12, 0.5);
    telemetry.lane_resources(0, [resource("gpt"), resource("llama")].into());
    telemetry.lane_resources(1, [resource("gpt")].into());
    telemetry.batch_phase(BatchPhase::Decide, Duration::from_micros(300));
    telemetry.transaction_begun(0);
    telemetry.transaction_ended(0, TransactionResult::Committed);
    telemetry.transaction_ended(1, TransactionResult::Unknown);
    telemetry.kafka_error(KafkaErrorClass::TimedOut);
    telemetry.clock_difference_ms(-12);
    telemetry.http_request("/metrics", 200);
    telemetry.revoked(RebalanceKind::Lost, &[]);
    let counts = BatchCounts {
        tasks: 5,
        results: 2,
        routed: 2,
        queued: 1,
        duplicates: 1,
        failed_over: 3,
        leases_expired: 4,
        refused: vec![(RefusalReason::Quality, 1)],
        dead_letters: vec![(Topic::Fleet, "validate", "invalid")],
        selections: vec![("gpt".into(), 2, 0)],
        facts: 9,
        fact_bytes: 900,
        wait_ms: vec![1, 20, 70_000],
        headroom_told: 6,
        rights_pledged: 0,
        rights_given: 3,
        rights_taken: 2,
        rights_void: 0,
        advice_ignored: 1,
    };
    telemetry.batch_committed(&counts, Duration::from_millis(4));
    telemetry
}

/// The samples of the metrics whose names begin with one of these.
fn samples(telemetry: &Telemetry, names: &[&str]) -> Vec<String> {
    let text = telemetry.prometheus_text();
    let mut lines: Vec<String> = text
        .lines()
        .filter(|line| names.iter().any(|name| line.starts_with(&format!("pointsman_{name}"))))
        .map(|line| line.trim_start_matches("pointsman_").to_owned())
        .collect();
    lines.sort();
    lines
}

#[test]
fn a_batch_is_counted_by_what_became_of_it() {
    let names = [
        "input_records",
        "decisions",
        "refusals",
        "rights_messages",
        "dead_letters",
        "failovers",
        "headroom_events",
        "lease_expirations",
        "batch_records_sum",
        "task_to_commit_seconds_count",
        "task_to_commit_seconds_bucket{le=\"0.005\"}",
        "task_to_commit_seconds_bucket{le=\"0.025\"}",
        "task_to_commit_seconds_bucket{le=\"60",
        "task_to_commit_seconds_bucket{le=\"+Inf\"}",
    ];
    assert_eq!(
        samples(&busy(), &names),
        [
            "batch_records_sum 8.0",
            "dead_letters_total{topic=\"fleet\",stage=\"validate\",reason=\"invalid\"} 1",
            "decisions_total{outcome=\"refused\"} 1",
            "decisions_total{outcome=\"routed\"} 2",
            "decisions_total{outcome=\"waiting\"} 1",
            "failovers_total 3",
            "headroom_events_total 6",
            "input_records_total{topic=\"fleet\",outcome=\"dead_lettered\"} 1",
            "input_records_total{topic=\"task-results\",outcome=\"accepted\"} 2",
            "input_records_total{topic=\"tasks\",outcome=\"accepted\"} 4",
            "input_records_total{topic=\"tasks\",outcome=\"duplicate\"} 1",
            "lease_expirations_total 4",
            "refusals_total{reason=\"quality\"} 1",
            "rights_messages_total{outcome=\"given\"} 3",
            "rights_messages_total{outcome=\"ignored\"} 1",
            "rights_messages_total{outcome=\"taken\"} 2",
            "task_to_commit_seconds_bucket{le=\"+Inf\"} 3",
            "task_to_commit_seconds_bucket{le=\"0.005\"} 1",
            "task_to_commit_seconds_bucket{le=\"0.025\"} 2",
            "task_to_commit_seconds_bucket{le=\"60.0\"} 2",
            "task_to_commit_seconds_count 3",
        ]
    );
}

#[test]
fn lanes_and_resources_come_from_the_view() {
    let names = [
        "lane_state{lane=\"1\"",
        "lane_lag",
        "lane_restore",
        "resource_slots{resource=\"gpt\"",
        "backlog",
        "instance_ready",
    ];
    assert_eq!(
        samples(&busy(), &names),
        [
            "backlog_tasks 4",
            "instance_ready 0",
            "lane_lag_records{lane=\"0\",input=\"tasks\"} 12.0",
            "lane_lag_seconds{lane=\"0\",input=\"tasks\"} 0.5",
            "lane_restore_remaining_records{lane=\"0\"} 0.0",
            "lane_restore_remaining_records{lane=\"1\"} 0.0",
            "lane_restore_remaining_records{lane=\"2\"} 512.0",
            "lane_state{lane=\"1\",state=\"paused\"} 0.0",
            "lane_state{lane=\"1\",state=\"restoring\"} 0.0",
            "lane_state{lane=\"1\",state=\"running\"} 0.0",
            "lane_state{lane=\"1\",state=\"stopped\"} 1.0",
            "resource_slots{resource=\"gpt\",kind=\"granted\"} 40.0",
            "resource_slots{resource=\"gpt\",kind=\"limit\"} 40.0",
            "resource_slots{resource=\"gpt\",kind=\"reserved\"} 14.0",
        ]
    );
}

#[test]
fn readiness_says_what_is_missing() {
    let check = |telemetry: &Telemetry, reasons: &[&str]| {
        let readiness = telemetry.view().readiness();
        assert_eq!(readiness.reasons, reasons);
        assert_eq!(readiness.ready, reasons.is_empty());
    };
    let telemetry = Telemetry::new(1);
    check(&telemetry, &["worker 0 waits for its first assignment"]);
    telemetry.assigned(0, &[]);
    check(&telemetry, &[]);
    telemetry.assigned(0, &[4, 5]);
    telemetry.lane_restore_remaining(4, 7);
    telemetry.lane_state(5, LaneState::Paused, Some("no fleet".to_owned()));
    check(&telemetry, &["lane 4 is restoring, 7 records to go", "lane 5 is paused: no fleet"]);
    telemetry.revoked(RebalanceKind::Revoked, &[4, 5]);
    telemetry.lane_state(4, LaneState::Running, None);
    check(&telemetry, &[]);
    assert!(telemetry.view().lanes.is_empty(), "a late report brought a lane back");
    telemetry.stopping();
    check(&telemetry, &["shutting down"]);
}

#[test]
fn a_new_assignment_keeps_the_state_of_lanes_that_stay() {
    let telemetry = Telemetry::new(1);
    telemetry.assigned(0, &[0]);
    telemetry.lane_state(0, LaneState::Running, None);
    telemetry.assigned(0, &[0, 1]);
    let states: Vec<LaneState> = telemetry.view().lanes.values().map(|lane| lane.state).collect();
    assert_eq!(states, [LaneState::Running, LaneState::Restoring]);
}

#[test]
fn names_of_a_label_are_bounded() {
    let telemetry = Telemetry::new(1);
    for number in 0..3 * NAMES_MAX {
        telemetry.selections(&format!("resource-{number}"), Rank::Primary, 1);
        telemetry.selections(&format!("resource-{number}"), Rank::Fallback, 1);
    }
    telemetry.selections("resource-0", Rank::Primary, 1);
    let found = samples(&telemetry, &["selections_total"]);
    assert_eq!(found.len(), 2 * NAMES_MAX + 2);
    for expected in [
        "selections_total{resource=\"resource-0\",rank=\"primary\"} 2".to_owned(),
        format!("selections_total{{resource=\"other\",rank=\"primary\"}} {}", 2 * NAMES_MAX),
    ] {
        assert!(found.contains(&expected), "{expected}");
    }
}

#[test]
fn a_large_instance_stays_within_five_thousand_series() {
    let telemetry = busy();
    let lanes: Vec<u32> = (0..16).collect();
    telemetry.assigned(0, &lanes);
    let resources: Arc<[ResourceView]> =
        (0..200).map(|number| resource(&format!("r-{number}"))).collect();
    for lane in lanes {
        telemetry.lane_resources(lane, Arc::clone(&resources));
        for topic in Topic::LANE_INPUTS {
            telemetry.lane_lag(lane, topic, 1, 1.0);
        }
    }
    for resource in resources.iter() {
        telemetry.selections(&resource.id, Rank::Primary, 1);
        telemetry.selections(&resource.id, Rank::Fallback, 1);
    }
    for reason in RefusalReason::ALL {
        let refused = vec![(reason, 1)];
        telemetry
            .batch_committed(&BatchCounts { refused, ..BatchCounts::default() }, Duration::ZERO);
    }
    let text = telemetry.prometheus_text();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!((2_000..=5_000).contains(&series), "{series}");
}

#[test]
fn every_sample_has_its_metadata_and_a_unit_that_is_allowed() {
    let text = busy().prometheus_text();
    let mut described = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(name.starts_with("pointsman_") || name.starts_with("process_"), "{name}");
            for unit in ["_ms", "_us", "_milliseconds", "_kb", "_percent"] {
                assert!(!name.contains(unit), "{name}");
            }
            assert!(described.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            let known = described.contains_key(name)
                || ["_bucket", "_sum", "_count"].iter().any(|suffix| {
                    name.strip_suffix(suffix).is_some_and(|base| {
                        described.get(base).is_some_and(|kind| kind == "histogram")
                    })
                });
            assert!(known, "{line}");
        }
    }
}

/// Where it is installed, Prometheus's own check has the last word.
#[test]
fn promtool_has_nothing_to_say() {
    let program = std::env::var("POINTSMAN_PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    let spawned = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        eprintln!("promtool is not installed: only the structure was tested");
        return;
    };
    let text = busy().prometheus_text();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_hindsight_share_is_shown_where_it_is_known() {
    use crate::hindsight::window::Share;
    let telemetry = busy();
    assert_eq!(samples(&telemetry, &["hindsight"]), [""; 0]);
    telemetry.lane_hindsight(0, Some(Share { share: 0.75, tasks: 120 }));
    telemetry.lane_hindsight(1, None);
    assert_eq!(
        samples(&telemetry, &["hindsight"]),
        ["hindsight_share_ratio{lane=\"0\"} 0.75", "hindsight_tasks{lane=\"0\"} 120.0"]
    );
    telemetry.lane_hindsight(0, None);
    assert_eq!(samples(&telemetry, &["hindsight"]), [""; 0]);
}

#[test]
fn what_lanes_tell_is_asked_about_while_they_run() {
    use crate::hindsight::sample::{Capacity, NewSample, Offer, Sample};
    let task = |key: u64| {
        let offer = Offer { resource: 0, utility: 1.0, duration_ms: 100.0 };
        Sample::New(NewSample {
            key,
            level: 0,
            at: Timestamp::from_ms(5),
            until: Timestamp::from_ms(5),
            second: 0.0,
            tokens: 10.0,
            offers: vec![offer],
            utility: Some(1.0),
        })
    };
    let capacity = Capacity { slots: 1_000, rates: Vec::new() };
    let told = |tasks: u64| -> Vec<Sample> {
        std::iter::once(Sample::Capacities(vec![capacity.clone()]))
            .chain((0..tasks).map(task))
            .collect()
    };
    // Lane 0 runs; lane 1 is stopped.
    let telemetry = busy();
    let asked = |telemetry: &Telemetry| -> Vec<(u32, bool)> {
        let questions = telemetry.hindsight_questions();
        questions.iter().map(|(lane, question)| (*lane, question.is_some())).collect()
    };
    telemetry.sampled(0, &[]);
    assert_eq!(asked(&telemetry), []);
    telemetry.sampled(0, &told(63));
    telemetry.sampled(1, &told(64));
    assert_eq!(asked(&telemetry), [(0, false)], "63 tasks are too few");
    telemetry.sampled(0, &[task(63)]);
    assert_eq!(asked(&telemetry), [(0, true)]);
    // What lane 1 told before it stopped is forgotten.
    telemetry.lane_state(1, LaneState::Running, None);
    telemetry.sampled(1, &told(1));
    assert_eq!(asked(&telemetry), [(0, true), (1, false)]);
}
