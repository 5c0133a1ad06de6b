//! Whatever is advised, whenever messages come and however the fleet changes: rights are conserved,
//! limits hold over all lanes, and each journal gives its lane again.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Site, settings};
use crate::lane::Lane;
use crate::model::event::InboxBody;
use crate::model::policy::Policy;
use crate::model::resource::Dimension;
use crate::model::rights::{Advice, LimitKind, LimitName, LimitOwner};
use crate::model::task::Priority;
use crate::routing::fact::Fact;
use crate::routing::rights::{RIGHTS, first_deal};
use crate::routing::state::Phase;

#[derive(Debug, Clone)]
enum Act {
    Task {
        lane: usize,
        input_tokens: u32,
        priority: usize,
        tenant: bool,
    },
    /// The oldest attempt of the lane ends.
    Result {
        lane: usize,
        output_tokens: u32,
    },
    Advice {
        lane: usize,
        to_lane: u32,
        limit: usize,
        rights: u32,
        owed_to: Option<Priority>,
        stale: bool,
    },
    Resource {
        id: usize,
        slots: u32,
        tokens: Option<u64>,
        requests: Option<u64>,
    },
    Remove {
        id: usize,
    },
    /// Someone says that less is granted, for a while.
    Lower {
        id: usize,
        source: usize,
        kind: usize,
        limit: u64,
        for_ms: i64,
    },
    Tenant {
        requests: Option<u64>,
        usd: Option<f64>,
    },
    Step {
        lane: usize,
        messages: usize,
        entries: usize,
    },
    Wait {
        ms: i64,
    },
    /// A lane is added, with this clock.
    Add {
        ahead_ms: i64,
    },
    /// A lane is told how many there are now.
    Count {
        lane: usize,
    },
}

fn owed_to() -> impl Strategy<Value = Option<Priority>> {
    prop::option::of(prop::sample::select(&Priority::ALL[..]))
}

/// Lanes that are added at most.
const ADDED_MAX: usize = 3;

fn act(first: usize) -> impl Strategy<Value = Act> {
    let lanes = first + ADDED_MAX;
    let rights = prop_oneof![1u32..1_000_000, Just(250_000), Just(u32::MAX)];
    prop_oneof![
        8 => (0..lanes, 1u32..400, 0usize..3, any::<bool>()).prop_map(
            |(lane, input_tokens, priority, tenant)| Act::Task { lane, input_tokens, priority, tenant }
        ),
        5 => (0..lanes, 0u32..100).prop_map(
            |(lane, output_tokens)| Act::Result { lane, output_tokens }
        ),
        6 => (
            0..lanes, 0..lanes as u32 + 1, any::<usize>(), rights, owed_to(),
            prop::bool::weighted(0.1),
        )
            .prop_map(|(lane, to_lane, limit, rights, owed_to, stale)| Act::Advice {
                lane, to_lane, limit, rights, owed_to, stale,
            }),
        1 => (0usize..2, 1u32..9, prop::option::of(200u64..3_000), prop::option::of(1u64..12))
            .prop_map(|(id, slots, tokens, requests)| Act::Resource { id, slots, tokens, requests }),
        1 => (0usize..2).prop_map(|id| Act::Remove { id }),
        2 => (0usize..2, 0usize..2, 0usize..3, 1u64..1_500, 0i64..9_000).prop_map(
            |(id, source, kind, limit, for_ms)| Act::Lower { id, source, kind, limit, for_ms }
        ),
        1 => (prop::option::of(1u64..9), prop::option::of(0.001f64..0.1))
            .prop_map(|(requests, usd)| Act::Tenant { requests, usd }),
        16 => (0..lanes, 0usize..4, 0usize..2).prop_map(
            |(lane, messages, entries)| Act::Step { lane, messages, entries }
        ),
        5 => (1i64..4_000).prop_map(|ms| Act::Wait { ms }),
        1 => (-900i64..900).prop_map(|ahead_ms| Act::Add { ahead_ms }),
        3 => (0..lanes).prop_map(|lane| Act::Count { lane }),
    ]
}

fn site() -> impl Strategy<Value = (Vec<i64>, Vec<Act>)> {
    (1usize..=16).prop_flat_map(|lanes| {
        let clocks = proptest::collection::vec(-900i64..900, lanes);
        (clocks, proptest::collection::vec(act(lanes), 50..400))
    })
}

/// What one attempt took of a limit, when, by true time.
#[derive(Debug, Clone)]
struct Took {
    at: i64,
    task: String,
    amount: u64,
}

/// A second opinion: which limits there are, what they were at most, and what was taken of them.
#[derive(Default)]
struct Book {
    /// By owner and kind: its incarnation, and the amount that was dealt.
    limits: BTreeMap<(String, LimitKind), (i64, u64)>,
    most: BTreeMap<(String, LimitKind), u64>,
    took: BTreeMap<(String, LimitKind), Vec<Took>>,
}

const RESOURCES: [&str; 2] = ["one", "two"];
const START_WITHIN_MS: u64 = 500;

impl Book {
    fn limit(&mut self, offset: i64, key: &str, kind: LimitKind, amount: u64) {
        let name = (key.to_owned(), kind);
        self.limits.entry(name.clone()).or_insert((offset, amount));
        let most = self.most.entry(name).or_default();
        *most = amount.max(*most);
    }

    fn names(&self) -> Vec<LimitName> {
        let names = self.limits.iter().map(|((key, kind), (incarnation, _))| LimitName {
            owner: LimitOwner::of_key(key),
            incarnation: *incarnation,
            kind: *kind,
        });
        names.collect()
    }

    /// Held, early, under way, and not dealt yet by lanes that have not read so far.
    fn conserved(&self, site: &Site) {
        for name in self.names() {
            let (_, amount) = self.limits[&(name.owner.key(), name.kind)];
            let dealt = site.members[0].lane.state().dealt;
            let mut sum = 0;
            for (number, member) in site.members.iter().enumerate() {
                let state = member.lane.state();
                sum += match state.stand(&name) {
                    Some(stand) => u64::from(stand.rights),
                    None if state.fleet_position > name.incarnation => 0,
                    None => u64::from(first_deal(amount, number as u32, dealt)),
                };
                sum += state.sharing.early(&name);
            }
            for (_, message) in site.under_way() {
                if let InboxBody::Rights(transfer) = message.body
                    && transfer.limit == name
                {
                    sum += u64::from(transfer.rights);
                }
            }
            assert_eq!(sum, u64::from(RIGHTS), "{name:?}");
        }
    }

    fn heard(&mut self, site: &Site, lane: usize) {
        for event in &site.events {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            if text("kind") == "rights_moved" || text("kind") == "rights_pledged" {
                continue;
            }
            let (key, task) = (text("resource"), text("task_id"));
            let held = |field: &str| event["held"][field].as_u64().unwrap();
            for ((owner, kind), taken) in &mut self.took {
                if *owner == key && text("kind") != "reserved" {
                    let of = taken.iter_mut().filter(|took| took.task == task);
                    of.for_each(|took| took.amount = amount(*kind, &held));
                }
            }
            if text("kind") != "reserved" {
                continue;
            }
            for ((owner, kind), (incarnation, _)) in self.limits.clone() {
                let name = LimitName { owner: LimitOwner::of_key(&owner), incarnation, kind };
                let stand = site.members[lane].lane.state().stand(&name);
                if owner == key && stand.is_some_and(|stand| stand.in_force) {
                    let took =
                        Took { at: site.now, task: task.clone(), amount: amount(kind, &held) };
                    self.took.entry((owner, kind)).or_default().push(took);
                }
            }
        }
    }

    /// No window of any limit holds more than the limit ever was.
    fn within_limits(&self, now: i64) {
        for ((owner, kind), taken) in &self.took {
            let window_ms = i64::from(kind.window_s()) * 1_000;
            let counts = |took: &&Took| *kind == LimitKind::Slots || took.at > now - window_ms;
            let used: u64 = taken.iter().filter(counts).map(|took| took.amount).sum();
            let most = self.most[&(owner.clone(), *kind)];
            assert!(used <= most, "{owner} {kind:?} at {now}: {used} of {most}");
        }
    }
}

fn amount(kind: LimitKind, held: &dyn Fn(&str) -> u64) -> u64 {
    match kind {
        LimitKind::Slots => held("slots"),
        LimitKind::Rate { dimension: Dimension::Requests, .. } => held("requests"),
        LimitKind::Rate { dimension: Dimension::Tokens, .. } => held("tokens"),
        LimitKind::Budget => 0,
    }
}

fn policy() -> Policy {
    Policy {
        start_within_ms: START_WITHIN_MS,
        backlog_tasks_max: 8,
        wait_ms_max: 20_000,
        lease_ms_min: 3_600_000,
        ..Policy::default()
    }
}

fn change(site: &mut Site, book: &mut Book, act: &Act) {
    let offset = site.fleet.len() as i64;
    match act {
        Act::Resource { id, slots, tokens, requests } => {
            let mut limits = Vec::new();
            if let Some(amount) = tokens {
                limits.push(json!({"dimension": "tokens", "amount": amount, "window_s": 10}));
                book.limit(offset, RESOURCES[*id], rate(Dimension::Tokens, 10), *amount);
            }
            if let Some(amount) = requests {
                limits.push(json!({"dimension": "requests", "amount": amount, "window_s": 5}));
                book.limit(offset, RESOURCES[*id], rate(Dimension::Requests, 5), *amount);
            }
            book.limit(offset, RESOURCES[*id], LimitKind::Slots, u64::from(*slots));
            site.resource(RESOURCES[*id], json!({"slots": slots, "limits": limits}));
        }
        Act::Remove { id } => site.remove(RESOURCES[*id]),
        Act::Lower { id, source, kind, limit, for_ms } => {
            let (dimension, window_s, limit) = [
                ("slots", 0, limit % 6 + 1),
                ("tokens", 10, *limit),
                ("requests", 5, limit % 8 + 1),
            ][*kind];
            let until = site.now + for_ms;
            let limits = json!([{
                "dimension": dimension, "window_s": window_s, "limit": limit, "until_at_ms": until,
            }]);
            let (id, source) = (RESOURCES[*id], format!("source-{source}"));
            let event = json!({
                "scope": "resource", "id": id, "status": "degraded", "source": source,
                "limits": limits,
            });
            site.health.push((format!("resource:{id}#{source}"), event.to_string().into_bytes()));
        }
        Act::Tenant { requests, usd } => {
            let mut limits = Vec::new();
            if let Some(amount) = requests {
                limits.push(json!({"dimension": "requests", "amount": amount, "window_s": 5}));
                book.limit(offset, "tenant:acme", rate(Dimension::Requests, 5), *amount);
            }
            if let Some(usd) = usd {
                book.limit(offset, "tenant:acme", LimitKind::Budget, (usd * 1e6) as u64);
            }
            site.tenant("acme", json!({"limits": limits, "usd_per_hour": usd}));
        }
        Act::Task { .. }
        | Act::Result { .. }
        | Act::Advice { .. }
        | Act::Step { .. }
        | Act::Wait { .. }
        | Act::Add { .. }
        | Act::Count { .. } => {}
    }
}

fn rate(dimension: Dimension, window_s: u32) -> LimitKind {
    LimitKind::Rate { dimension, window_s }
}

fn run(clocks: &[i64], acts: &[Act]) -> (Site, u64) {
    let mut site = Site::new(clocks.len() as u32, &policy());
    let mut book = Book::default();
    for (member, ahead_ms) in site.members.iter_mut().zip(clocks) {
        member.clock_ahead_ms = *ahead_ms;
    }
    let (tokens, requests) = (Some(2_000), Some(8));
    for id in 0..2 {
        change(&mut site, &mut book, &Act::Resource { id, slots: 5, tokens, requests });
    }
    let mut moved = 0;
    for (number, act) in acts.iter().enumerate() {
        change(&mut site, &mut book, act);
        let there = site.members.len();
        match act {
            Act::Task { lane, input_tokens, priority, tenant } => {
                let priority = ["critical", "interactive", "batch"][*priority];
                let task = json!({
                    "input_tokens": input_tokens,
                    "priority": priority,
                    "tenant": if *tenant { "acme" } else { "default" },
                });
                site.task(lane % there, &format!("t{number}"), task);
            }
            Act::Result { lane, output_tokens } => {
                let lane = lane % there;
                let state = site.members[lane].lane.state();
                let in_flight =
                    state.tasks.values().find(|live| matches!(live.phase, Phase::InFlight { .. }));
                let found = in_flight.map(|live| (live.task.task_id.to_string(), live.attempt));
                if let Some((id, attempt)) = found {
                    site.succeeded(lane, &id, attempt, *output_tokens);
                }
            }
            Act::Advice { lane, to_lane, limit, rights, owed_to, stale } => {
                let names = book.names();
                let mut limit = names[limit % names.len()].clone();
                limit.incarnation += i64::from(*stale);
                let (to_lane, rights, owed_to) = (*to_lane, *rights, *owed_to);
                site.advise(lane % there, Advice { limit, to_lane, rights, owed_to });
            }
            Act::Step { lane, messages, entries } => {
                site.step_reading(lane % there, *messages, *entries);
                book.heard(&site, lane % there);
                let is_moved = |event: &&Value| event["kind"] == "rights_moved";
                moved += site.events.iter().filter(is_moved).count() as u64;
                book.conserved(&site);
                book.within_limits(site.now);
            }
            Act::Wait { ms } => site.now += ms,
            Act::Add { ahead_ms } if there < clocks.len() + ADDED_MAX => {
                site.add_lane(&policy());
                site.members[there].clock_ahead_ms = *ahead_ms;
            }
            Act::Add { .. } => {}
            Act::Count { lane } => site.members[lane % there].lane.count_lanes(there as u32),
            Act::Resource { .. } | Act::Remove { .. } | Act::Lower { .. } | Act::Tenant { .. } => {}
        }
    }
    let lanes = site.members.len() as u32;
    site.members.iter_mut().for_each(|member| member.lane.count_lanes(lanes));
    // Whatever is under way arrives, and every lane has read the fleet.
    for _ in 0..3 {
        site.now += 2_000;
        for lane in 0..site.members.len() {
            site.step(lane);
            book.heard(&site, lane);
            book.conserved(&site);
            book.within_limits(site.now);
        }
    }
    (site, moved)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn rights_are_conserved_and_limits_hold((clocks, acts) in site()) {
        let (site, _) = run(&clocks, &acts);
        for (number, member) in site.members.iter().enumerate() {
            // How many lanes there were at first is in the first record.
            let mut folded = Lane::genesis(number as u32, 1, 1, settings(policy()));
            folded.start_at(0, 0, 0);
            member.journal.iter().for_each(|record| folded.fold(record).unwrap());
            prop_assert_eq!(folded.hash(), member.lane.hash());
            let bytes = folded.snapshot().unwrap();
            let restored = Lane::restore(number as u32, &bytes, settings(policy())).unwrap();
            prop_assert!(restored.state() == folded.state(), "a snapshot gives another state");
            let opened = Fact::BatchOpened {
                at: member.lane.state().batch_time,
                results_caught_up_at: member.lane.state().results_caught_up_at,
            };
            let (mut state, mut live) = (folded.state().clone(), member.lane.state().clone());
            state.evolve(&opened);
            live.evolve(&opened);
            prop_assert!(state == live, "lane {number}: folding gives another state");
        }
    }
}

/// The histories above are worth something only where rights do move.
#[test]
fn random_advice_moves_rights() {
    let acts: Vec<Act> = (0..200)
        .flat_map(|number: usize| {
            let lane = number % 4;
            [
                Act::Advice {
                    lane,
                    to_lane: (lane as u32 + 1) % 4,
                    limit: number / 4,
                    rights: 250_000,
                    owed_to: None,
                    stale: false,
                },
                Act::Step { lane, messages: 4, entries: 4 },
                Act::Wait { ms: 50 },
            ]
        })
        .collect();
    let (_, moved) = run(&[0, 300, -300, 800], &acts);
    assert!(moved > 50, "{moved}");
}
