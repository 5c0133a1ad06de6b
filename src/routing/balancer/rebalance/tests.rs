//! Single rounds, row by row; and the whole loop over modelled lanes in [`model`].

mod model;

use std::borrow::Cow;

use super::*;
use crate::model::health::HealthStatus;
use crate::model::task::Priority;

const NOW: Timestamp = Timestamp::from_ms(1_000_000_000);

/// One lane of a row: rights in thousandths of all, use, highest use, waiting, the largest waiting, how
/// long it has waited (ms), price.
#[derive(Debug, Clone, Copy, Default)]
struct Lane {
    rights: u32,
    used: u64,
    used_max: u64,
    waiting: u64,
    largest: u64,
    waited_ms: u64,
    price: f64,
    silent_ms: u64,
    critical: u64,
}

/// Uses so much, and nothing waits.
fn uses(rights: u32, used: u64) -> Lane {
    Lane { rights, used, used_max: used, ..Lane::default() }
}

fn waits(rights: u32, used: u64, waiting: u64) -> Lane {
    Lane { waiting, ..uses(rights, used) }
}

fn snapshot(lane: u32, limit: u64, row: Lane) -> LoadSnapshot<'static> {
    let at = NOW.minus_ms(row.silent_ms);
    let rights = row.rights * 1_000;
    LoadSnapshot {
        lane,
        resource: Cow::Borrowed("r"),
        at_ms: at,
        health: HealthStatus::Healthy,
        load: vec![DimensionLoad {
            dimension: Cow::Borrowed("slots"),
            window_s: 0,
            limit,
            units: Scale { limit }.units(rights),
            used: row.used,
            used_max: row.used_max,
            price: row.price,
            rights,
            incarnation: 7,
            waiting: row.waiting,
            largest_waiting: row.largest,
            waiting_since_ms: (row.waiting > 0).then(|| at.minus_ms(row.waited_ms)),
            waiting_critical: row.critical,
            waiting_interactive: row.waiting - row.critical,
            largest_priority: Priority::Interactive,
            pledged: 0,
        }],
        in_flight: 0,
        backlog: 0,
        system: None,
    }
}

fn planner(limit: u64, rows: &[Lane]) -> Planner {
    let lanes = rows.len() as u32;
    let mut planner = Planner::new(lanes, 5_000);
    for (lane, row) in (0..).zip(rows) {
        planner.told(&snapshot(lane, limit, *row));
    }
    planner
}

/// (from, to, rights in thousandths of all, rounded), in order.
fn moves(advised: &[Advised]) -> Vec<(u32, u32, u32)> {
    let row = |one: &Advised| (one.lane, one.advice.to_lane, (one.advice.rights + 500) / 1_000);
    advised.iter().map(row).collect()
}

#[test]
fn rows() {
    let check = |what: &str, limit: u64, rows: &[Lane], expected: &[(u32, u32, u32)]| {
        assert_eq!(moves(&planner(limit, rows).rebalance(NOW)), expected, "{what}");
    };
    let idle = uses(250, 0);
    check("nobody lacks anything", 100, &[uses(250, 20), idle, idle, idle], &[]);
    check("all are full, and none waits", 100, &[uses(250, 25); 4], &[]);
    check("all are full, and all wait", 100, &[waits(250, 25, 40); 4], &[]);
    check(
        "from slack to want, as much as is wanted",
        100,
        &[waits(250, 25, 10), idle, uses(250, 8), uses(250, 16)],
        &[(1, 0, 100)],
    );
    check(
        "the headroom of an eighth stays",
        100,
        &[waits(250, 25, 100), uses(250, 8), uses(250, 16), uses(250, 24)],
        &[(1, 0, 160), (2, 0, 70)],
    );
    check(
        "in proportion to what is wanted",
        100,
        &[waits(250, 25, 50), waits(250, 25, 25), idle, idle],
        &[(2, 0, 250), (3, 0, 100), (3, 1, 150)],
    );
    check(
        "a lane that has said nothing for long, and waits no more",
        100,
        &[Lane { silent_ms: 60_000, ..waits(250, 25, 10) }, idle, idle, idle],
        &[],
    );
    check(
        "price follows slack: as much again at once",
        100,
        &[Lane { price: 0.2, ..uses(250, 24) }, idle, idle, idle],
        &[(1, 0, 250)],
    );
    check(
        "and one step where the other has a price too",
        160,
        &[Lane { price: 0.5, ..uses(500, 79) }, Lane { price: 0.2, ..uses(500, 66) }],
        &[(1, 0, 63)],
    );
    check(
        "not where the prices are about the same",
        160,
        &[Lane { price: 0.5, ..uses(500, 79) }, Lane { price: 0.3, ..uses(500, 66) }],
        &[],
    );
    let fragment = |waited_ms| Lane { largest: 40, waited_ms, ..waits(250, 25, 60) };
    check(
        "fragments, for the lane that waited longest",
        100,
        &[fragment(10), fragment(900), uses(250, 0), uses(250, 18)],
        &[(2, 1, 250), (3, 1, 50), (0, 1, 60), (3, 1, 40)],
    );
    check(
        "a single unit goes to who waits longest",
        1,
        &[
            uses(1_000, 0),
            Lane { largest: 1, waited_ms: 5, ..waits(0, 0, 3) },
            Lane { largest: 1, waited_ms: 50, ..waits(0, 0, 1) },
        ],
        &[(0, 2, 1_000)],
    );
    check(
        "also where it is in use: it is asked for when it becomes free",
        1,
        &[waits(1_000, 1, 9), Lane { largest: 1, waited_ms: 50, ..waits(0, 0, 1) }],
        &[(0, 1, 1_000)],
    );
}

#[test]
fn what_critical_tasks_wait_for_is_owed_by_those_that_have_none() {
    let critical = Lane { critical: 2, ..waits(250, 25, 30) };
    let rows = [critical, waits(250, 25, 30), critical, waits(250, 25, 30)];
    let mut planner = planner(100, &rows);
    assert_eq!(planner.rebalance(NOW), [], "their own lane may serve them");
    let advised = planner.rebalance(NOW.plus_ms(400));
    // Twice as many slots, from two lanes.
    assert_eq!(moves(&advised), [(1, 0, 20), (3, 0, 20), (1, 2, 20), (3, 2, 20)]);
    assert!(advised.iter().all(|one| one.advice.owed_to == Some(Priority::Critical)));
    assert_eq!(planner.rebalance(NOW.plus_ms(800)), [], "they are asked");
    // One who says that it owes them is given time and asked for what one who does not should have given; who
    // says something new is asked again.
    let told = |planner: &mut Planner, lane: u32, pledged: u32, ms: u64| {
        let mut told = snapshot(lane, 100, rows[lane as usize]);
        told.at_ms = NOW.plus_ms(ms);
        told.load[0].pledged = pledged;
        planner.told(&told);
    };
    told(&mut planner, 1, 40_000, 900);
    told(&mut planner, 3, 0, 900);
    assert_eq!(moves(&planner.rebalance(NOW.plus_ms(2_600))), [(1, 0, 40), (1, 2, 40)]);
    told(&mut planner, 1, 0, 3_000);
    told(&mut planner, 3, 0, 3_100);
    assert_eq!(planner.rebalance(NOW.plus_ms(3_200)), []);
    assert_eq!(moves(&planner.rebalance(NOW.plus_ms(4_700))), [(3, 0, 40), (3, 2, 40)]);
}

#[test]
fn advice_is_not_repeated_until_it_had_its_time() {
    let mut planner = planner(100, &[waits(500, 50, 20), uses(500, 0)]);
    let moved = |planner: &mut Planner, ms: u64| moves(&planner.rebalance(NOW.plus_ms(ms)));
    assert_eq!(moved(&mut planner, 0), [(1, 0, 200)]);
    assert_eq!(moved(&mut planner, 500), []);
    // Nothing came of it, and the giver says nothing: it is left alone, for longer each time.
    let times: Vec<u64> = (0..600)
        .map(|tenth| tenth * 100)
        .filter(|ms| !moved(&mut planner, *ms).is_empty())
        .collect();
    assert_eq!(times, [12_000]);
    // It says something.
    let mut told = snapshot(1, 100, uses(500, 10));
    told.at_ms = NOW.plus_ms(60_000);
    planner.told(&told);
    told = snapshot(0, 100, waits(500, 50, 20));
    told.at_ms = NOW.plus_ms(60_000);
    planner.told(&told);
    assert_eq!(moved(&mut planner, 60_000), [(1, 0, 200)]);
    // It gives half of that; the rest is asked for when the first half had its time.
    told = snapshot(1, 100, uses(400, 10));
    told.at_ms = NOW.plus_ms(60_300);
    planner.told(&told);
    assert_eq!(moved(&mut planner, 60_400), []);
}

#[test]
fn what_is_removed_is_forgotten() {
    let mut planner = planner(100, &[waits(500, 50, 20), uses(500, 0)]);
    planner.untold(1, "r");
    assert_eq!(planner.rebalance(NOW), []);
    planner.untold(0, "r");
    assert!(!planner.is_due());
    let mut alone = Planner::new(1, 5_000);
    alone.told(&snapshot(0, 100, waits(1_000, 100, 20)));
    assert!(!alone.is_due(), "one lane has nobody to share with");
}

#[test]
fn a_round_is_bounded_and_the_next_one_goes_on() {
    let mut planner = Planner::new(2, 5_000);
    let count = ADVICE_MAX + 10;
    for number in 0..count {
        for (lane, row) in [(0, waits(500, 50, 20)), (1, uses(500, 0))] {
            let mut told = snapshot(lane, 100, row);
            told.resource = Cow::Owned(format!("r{number}"));
            planner.told(&told);
        }
    }
    let first = planner.rebalance(NOW);
    let second = planner.rebalance(NOW);
    assert_eq!((first.len(), second.len()), (ADVICE_MAX, 10));
    assert_eq!(planner.rebalance(NOW), []);
}

/// A lane that was added when the record was compacted away by which the others know the limit.
#[test]
fn a_newcomer_shares_the_limit_whatever_it_calls_it() {
    let mut planner = Planner::new(3, 5_000);
    let mut newcomer = snapshot(2, 100, waits(0, 0, 20));
    newcomer.load[0].incarnation = 90;
    for told in [snapshot(0, 100, uses(500, 10)), newcomer, snapshot(1, 100, uses(500, 50))] {
        planner.told(&told);
    }
    let advised = planner.rebalance(NOW);
    assert_eq!(moves(&advised), [(0, 2, 200)]);
    assert_eq!(advised[0].advice.limit.incarnation, 7, "by the name that the giver knows");
    // One that has rights of a limit speaks of that one.
    let mut other = snapshot(2, 100, waits(500, 50, 20));
    other.load[0].incarnation = 90;
    let mut planner = Planner::new(3, 5_000);
    for told in [snapshot(0, 100, uses(500, 10)), other, snapshot(1, 100, uses(500, 50))] {
        planner.told(&told);
    }
    assert_eq!(planner.rebalance(NOW), []);
}
