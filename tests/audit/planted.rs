use std::sync::Arc;

use pointsman::demo::audit::history::{
    AllocationSeen, AttemptKey, DeadLetterSeen, DecisionSeen, TaskSeen,
};
use pointsman::demo::audit::{AuditReport, audit};
use pointsman::model::allocation::AllocationKind;
use pointsman::model::decision::{Outcome, Reserved};
use pointsman::model::reason::RefusalReason;
use pointsman::model::resource::FleetFile;

/// One resource: 2 slots, 3 requests and 1,000 tokens in 10 s.
fn fleet() -> FleetFile {
    toml::from_str(
        r#"
        [[resource]]
        id = "r"
        model = "m"
        provider = "p"
        region = "eu"
        context_window = 10000
        max_output_tokens = 1000
        slots = 2
        limits = [
          { dimension = "requests", amount = 3, window_s = 10 },
          { dimension = "tokens", amount = 1000, window_s = 10 },
        ]
        "#,
    )
    .unwrap()
}

#[derive(Default, Clone)]
struct History {
    tasks: Vec<TaskSeen>,
    decisions: Vec<DecisionSeen>,
    allocations: Vec<AllocationSeen>,
    dead_letters: Vec<DeadLetterSeen>,
}

fn key(task: &str, attempt: u32) -> AttemptKey {
    AttemptKey { task: Arc::from(task), stage: 0, attempt }
}

fn held(slots: u32, requests: u32, tokens: u64) -> Reserved {
    Reserved { slots, requests, tokens }
}

impl History {
    fn task(mut self, task: &str) -> Self {
        let offset = self.tasks.len() as i64;
        self.tasks.push(TaskSeen { partition: 0, offset, task: Some(Arc::from(task)), stages: 1 });
        self
    }

    fn dead(mut self, offset: i64) -> Self {
        self.dead_letters.push(DeadLetterSeen { partition: 0, offset });
        self
    }

    fn refused(mut self, task: &str, attempt: u32, reason: RefusalReason) -> Self {
        self.decisions.push(DecisionSeen {
            attempt: key(task, attempt),
            outcome: Outcome::Refused,
            reason: Some(reason),
            resource: None,
        });
        self
    }

    fn decided(mut self, task: &str, attempt: u32) -> Self {
        self.decisions.push(DecisionSeen {
            attempt: key(task, attempt),
            outcome: Outcome::Routed,
            reason: None,
            resource: Some(Arc::from("r")),
        });
        self
    }

    fn event(
        mut self,
        kind: AllocationKind,
        (task, attempt, lane): (&str, u32, u32),
        (at_ms, reserved_at_ms): (i64, i64),
        held: Reserved,
    ) -> Self {
        self.allocations.push(AllocationSeen {
            kind,
            resource: Arc::from("r"),
            attempt: key(task, attempt),
            lane,
            at_ms,
            reserved_at_ms,
            held,
            overrun_tokens: 0,
        });
        self
    }

    /// A task, its decision and its reservation of a slot, a request and these tokens.
    fn routed(self, task: &str, at_ms: i64, tokens: u64) -> Self {
        self.task(task).decided(task, 1).event(
            AllocationKind::Reserved,
            (task, 1, 0),
            (at_ms, at_ms),
            held(1, 1, tokens),
        )
    }

    /// The end of the first attempt, with the tokens that it used.
    fn released(self, task: &str, (at_ms, reserved_at_ms): (i64, i64), tokens: u64) -> Self {
        let times = (at_ms, reserved_at_ms);
        self.event(AllocationKind::Released, (task, 1, 0), times, held(0, 1, tokens))
    }

    /// One task from reservation to release in a millisecond.
    fn served(self, task: &str, at_ms: i64, tokens: u64) -> Self {
        self.routed(task, at_ms, tokens).released(task, (at_ms + 1, at_ms), tokens)
    }

    fn audit(&self) -> AuditReport {
        audit(&fleet(), &self.tasks, &self.decisions, &self.allocations, &self.dead_letters)
    }
}

/// Compares every finding in words, and that the counters count just these.
#[track_caller]
fn check(history: &History, expected: &[&str]) {
    let report = history.audit();
    let found: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
    assert_eq!(report.found(), expected.len() as u64);
    assert_eq!(report.is_clean(), expected.is_empty());
}

#[test]
fn a_clean_history_passes() {
    let history = History::default()
        .served("a", 1_000, 400)
        .served("b", 1_000, 600)
        .task("c")
        .refused("c", 1, RefusalReason::Region)
        .task("d")
        .dead(3)
        // Fails on its first attempt, and keeps its request.
        .routed("e", 1_002, 0)
        .event(AllocationKind::FailedOver, ("e", 1, 0), (1_003, 1_002), held(0, 1, 0))
        .decided("e", 2)
        .event(AllocationKind::Reserved, ("e", 2, 0), (11_002, 11_002), held(1, 1, 1_000))
        .event(AllocationKind::Expired, ("e", 2, 0), (20_000, 11_002), held(0, 1, 1_000))
        .event(AllocationKind::Adjusted, ("e", 2, 0), (20_500, 11_002), held(0, 1, 10));
    check(&history, &[]);
    let report = history.audit();
    let counts = (report.tasks, report.decided, report.decisions, report.dead_lettered);
    assert_eq!(counts, (5, 4, 5, 1));
    assert_eq!((report.failed_over, report.expired), (1, 1));
    assert_eq!(report.refused, [("region".to_owned(), 1)].into());
    assert_eq!(report.by_resource, [("r".to_owned(), 3)].into());
    let peaks = report.peaks["r"].iter();
    let peaks: Vec<_> = peaks.map(|peak| (peak.dimension, peak.used_max, peak.limit)).collect();
    assert_eq!(peaks, [("slots", 2, 2), ("requests", 3, 3), ("tokens", 1_000, 1_000)]);
}

#[test]
fn a_planted_loss_is_found() {
    let lost = History::default().served("a", 0, 1).task("b").served("c", 1, 1);
    check(&lost, &["lost: task b (partition 0, offset 1)"]);
    // A dead letter of another record accounts for nothing.
    check(&lost.clone().dead(0), &["lost: task b (partition 0, offset 1)"]);
    check(&lost.dead(1), &[]);

    let mut undecodable = History::default();
    undecodable.tasks.push(TaskSeen { partition: 3, offset: 7, task: None, stages: 1 });
    check(&undecodable, &["lost: undecodable task record (partition 3, offset 7)"]);
    undecodable.dead_letters.push(DeadLetterSeen { partition: 3, offset: 7 });
    check(&undecodable, &[]);

    // A repeated id needs no second decision.
    check(&History::default().served("a", 0, 1).task("a"), &[]);
}

#[test]
fn a_planted_double_is_found() {
    let twice = History::default().served("a", 0, 1).decided("a", 1);
    check(&twice, &["duplicated: attempt 1 of task a was decided 2 times"]);
    let refused = History::default().served("a", 0, 1).refused("a", 1, RefusalReason::Duplicate);
    check(&refused, &["duplicated: attempt 1 of task a was decided 2 times"]);
    // A repeated id that is decided again reserves again, too.
    let again = History::default().served("a", 0, 1).routed("a", 5, 1);
    check(
        &again,
        &[
            "duplicated: attempt 1 of task a was decided 2 times",
            "inconsistent: attempt 1 of task a: reserved r twice",
            "unreleased: attempt 1 of task a still holds a slot of r",
        ],
    );
    let invented = History::default().refused("x", 1, RefusalReason::Region);
    check(
        &invented,
        &["inconsistent: attempt 1 of task x: decided, and no such task was ever published"],
    );
}

#[test]
fn planted_overruns_of_each_limit_are_found() {
    // Slots: the third attempt begins while two run; when one of them ends first, all is well.
    let slots = |third_at| {
        History::default()
            .routed("a", 100, 1)
            .routed("b", 150, 1)
            .released("a", (200, 100), 1)
            .released("b", (200, 150), 1)
            .served("c", third_at, 1)
    };
    check(&slots(199), &["oversubscribed: r had 3 of 2 slots in use at 199"]);
    check(&slots(200), &[]);

    // Requests: exactly a window apart is fine, one millisecond less is not.
    let requests = |fourth_at| {
        History::default()
            .served("a", 1_000, 1)
            .served("b", 2_000, 1)
            .served("c", 3_000, 1)
            .served("d", fourth_at, 1)
    };
    let over = "oversubscribed: r had 4 of 3 requests reserved in the 10 s that end at 10999";
    check(&requests(10_999), &[over]);
    check(&requests(11_000), &[]);

    // Tokens: the same edge.
    let tokens = |second_at| History::default().served("a", 0, 1_000).served("b", second_at, 1);
    let over = "oversubscribed: r had 1001 of 1000 tokens reserved in the 10 s that end at 9999";
    check(&tokens(9_999), &[over]);
    check(&tokens(10_000), &[]);
}

#[test]
fn corrections_count_from_their_own_time() {
    let history = |second_at| {
        History::default()
            .routed("a", 0, 1_000)
            .released("a", (500, 0), 300)
            .served("b", second_at, 700)
    };
    let over = "oversubscribed: r had 1700 of 1000 tokens reserved in the 10 s that end at 499";
    check(&history(499), &[over]);
    check(&history(500), &[]);
    // A correction of what has left the window gives nothing back to it.
    let late = History::default()
        .routed("a", 0, 1_000)
        .served("b", 10_000, 1_000)
        .released("a", (10_500, 0), 0)
        .served("c", 10_501, 1);
    let over = "oversubscribed: r had 1001 of 1000 tokens reserved in the 10 s that end at 10501";
    check(&late, &[over]);
}

#[test]
fn lanes_are_summed_and_equal_times_get_the_benefit_of_the_doubt() {
    let both = |second_at| {
        History::default()
            .task("a")
            .decided("a", 1)
            .task("b")
            .decided("b", 1)
            // Read lane by lane: the second lane's records come after all of the first lane's.
            .event(AllocationKind::Reserved, ("b", 1, 0), (second_at, second_at), held(2, 1, 1))
            .event(AllocationKind::Released, ("b", 1, 0), (9_000, second_at), held(0, 1, 1))
            .event(AllocationKind::Reserved, ("a", 1, 1), (100, 100), held(1, 1, 1))
            .event(AllocationKind::Released, ("a", 1, 1), (200, 100), held(0, 1, 1))
    };
    check(&both(200), &[]);
    check(&both(199), &["oversubscribed: r had 3 of 2 slots in use at 199"]);
    // A reservation that ends in its own millisecond.
    check(&History::default().routed("a", 7, 1_000).released("a", (7, 7), 0), &[]);
}

#[test]
fn reservations_and_decisions_belong_together() {
    let unreserved = History::default().task("a").decided("a", 1);
    check(&unreserved, &["unreserved: attempt 1 of task a was routed to r without a reservation"]);
    let mut nowhere = unreserved.clone();
    nowhere.decisions[0].resource = None;
    check(&nowhere, &["unreserved: attempt 1 of task a was routed to nothing"]);
    let mut undecided = History::default().served("a", 0, 1);
    undecided.decisions[0].attempt.attempt = 2;
    check(
        &undecided,
        &[
            "unreserved: attempt 2 of task a was routed to r without a reservation",
            "undecided: attempt 1 of task a reserved r without a decision that routes it there",
        ],
    );
    let unreleased = History::default().routed("a", 0, 1);
    check(&unreleased, &["unreleased: attempt 1 of task a still holds a slot of r"]);
}

#[test]
fn contradictions_are_found() {
    let served = History::default().served("a", 0, 5);
    check(
        &served.clone().released("a", (9, 0), 5),
        &["inconsistent: attempt 1 of task a: released on r after it had ended"],
    );
    check(
        &served.clone().event(AllocationKind::Adjusted, ("a", 1, 0), (9, 0), held(0, 1, 6)),
        &["inconsistent: attempt 1 of task a: adjusted, and holds Reserved { slots: 0, requests: \
           1, tokens: 6 } of r where it held Reserved { slots: 0, requests: 1, tokens: 5 }"],
    );
    check(
        &served.clone().event(AllocationKind::Released, ("z", 1, 0), (9, 0), held(0, 1, 0)),
        &["inconsistent: attempt 1 of task z: released on r, which it had not reserved"],
    );
    let mut elsewhere = served;
    elsewhere.allocations.truncate(1);
    elsewhere.allocations[0].resource = Arc::from("q");
    elsewhere.decisions[0].resource = Some(Arc::from("q"));
    check(
        &elsewhere,
        &["inconsistent: attempt 1 of task a: reserved q, which the fleet does not have"],
    );
}

#[test]
fn overruns_are_counted_apart() {
    let mut history = History::default().served("a", 0, 1_000);
    history.allocations[1].overrun_tokens = 77;
    check(&history, &[]);
    assert_eq!(history.audit().overrun_tokens, 77);
}
