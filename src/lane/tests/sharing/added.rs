//! Lanes that are added to those that share: they begin without rights, are given some, and give.

use super::*;
use crate::model::rights::RightsTransfer;
use crate::routing::fact::{Fact, Taken};
use crate::routing::rights::{LANES_MAX, RIGHTS};

impl Site {
    /// A lane more, that knows how many there are. The others have not heard of it.
    pub fn add_lane(&mut self, policy: &Policy) {
        let number = self.members.len() as u32;
        let dealt = self.members[0].lane.state().dealt;
        let mut member = Member::new(number, dealt, policy);
        member.lane.count_lanes(number + 1);
        self.members.push(member);
    }

    /// All lanes hear how many there are.
    fn count(&mut self) {
        let lanes = self.members.len() as u32;
        self.members.iter_mut().for_each(|member| member.lane.count_lanes(lanes));
    }

    /// What lanes hold, each under the name that it knows, and what is under way to them.
    fn rights(&self, names: &[LimitName]) -> Vec<u32> {
        let held = self.members.iter().enumerate().map(|(number, member)| {
            let state = member.lane.state();
            let held = names.iter().filter_map(|name| state.stand(name)).map(|stand| stand.rights);
            let early: u64 = names.iter().map(|name| state.sharing.early(name)).sum();
            let under_way = self.under_way().filter(|(to, _)| *to == number);
            let under_way = under_way.map(|(_, message)| match message.body {
                InboxBody::Rights(transfer) => transfer.rights,
                InboxBody::Result(_) | InboxBody::Advice(_) => 0,
            });
            held.chain(under_way).sum::<u32>() + early as u32
        });
        held.collect()
    }

    fn facts(&self, lane: usize) -> Vec<Fact> {
        let member = &self.members[lane];
        let records = member.journal.iter().flat_map(|value| {
            let record = member.lane.settings.codec.decode_journal(value).unwrap();
            Lane::facts_of(&record).unwrap()
        });
        records.collect()
    }

    /// The journals give the lanes again, and so do snapshots; a new lane need not know beforehand how
    /// many there were at first.
    fn folds(&self) {
        for (number, member) in self.members.iter().enumerate() {
            let mut folded = Lane::genesis(number as u32, 7, 1, settings(Policy::default()));
            folded.start_at(0, 0, 0);
            member.journal.iter().for_each(|record| folded.fold(record).unwrap());
            assert_eq!(folded.hash(), member.lane.hash(), "lane {number}");
            let bytes = folded.snapshot().unwrap();
            let restored =
                Lane::restore(number as u32, &bytes, settings(Policy::default())).unwrap();
            assert!(restored.state() == folded.state(), "lane {number}");
            let (ours, theirs) = (member.lane.state(), restored.state());
            let numbers = |state: &crate::routing::state::State| (state.dealt, state.lanes);
            assert_eq!(numbers(ours), numbers(theirs), "lane {number}");
        }
    }
}

#[test]
fn a_lane_that_is_added_gets_rights_and_gives_them_back() {
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", json!({"slots": 4}));
    let limit = slots("r", 0);
    all_step(&mut site);
    site.add_lane(&Policy::default());
    site.step(2);
    assert_eq!(site.rights(std::slice::from_ref(&limit)), [500_000, 500_000, 0]);
    let [load] = &site.loads[..] else { panic!("{:?}", site.loads) };
    assert_eq!((load.lane, load.load[0].rights), (2, 0), "it says that it has nothing");
    // The others have not heard of it: whoever gave to it would write to a partition of which nobody
    // knows whether it is there.
    site.advise(0, advice(&limit, 2, 250_000));
    site.step(0);
    assert_eq!(site.rights(std::slice::from_ref(&limit)), [500_000, 500_000, 0]);
    for id in ["a", "b"] {
        site.task(2, id, json!({}));
    }
    site.step(2);
    assert_eq!(site.decisions, [] as [Value; 0], "they wait");
    site.count();
    site.now += 1_000;
    site.advise(0, advice(&limit, 2, 250_000));
    all_step(&mut site);
    site.now += 10;
    site.step(2);
    assert_eq!(site.units(&limit), [1, 2, 1]);
    assert_eq!(site.members[2].lane.state().in_flight, 1);
    // A limit that is new is dealt among the first ones too.
    site.resource("s", json!({"slots": 2}));
    all_step(&mut site);
    assert_eq!(site.rights(&[slots("s", 1)]), [500_000, 500_000, 0]);
    // And back, once it is free.
    site.succeeded(2, "a", 1, 10);
    site.succeeded(2, "b", 1, 10);
    site.now += 1_000;
    site.step(2);
    site.advise(2, advice(&limit, 1, RIGHTS));
    site.step(2);
    site.now += 1_000;
    all_step(&mut site);
    assert_eq!(site.units(&limit)[0], 1);
    assert_eq!(site.rights(std::slice::from_ref(&limit)).iter().sum::<u32>(), RIGHTS);
    site.folds();
}

/// Rights that are given are gone: whoever gets them takes them, also from a lane that it has not heard of.
#[test]
fn rights_from_a_lane_that_is_not_known_yet_are_taken() {
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", json!({"slots": 4}));
    let limit = slots("r", 0);
    all_step(&mut site);
    site.add_lane(&Policy::default());
    site.step(2);
    site.members[0].lane.count_lanes(3);
    site.step(0);
    site.advise(0, advice(&limit, 2, 250_000));
    site.step(0);
    site.now += 10;
    site.step(2);
    site.advise(2, advice(&limit, 1, 250_000));
    site.step(2);
    site.now += 10;
    assert_eq!(site.members[1].lane.state().lanes, 2);
    site.step(1);
    assert_eq!(site.units(&limit), [1, 3, 0]);
    // What nobody can be is void.
    let transfer =
        RightsTransfer { limit: limit.clone(), rights: 1, given_at_ms: Timestamp::from_ms(0) };
    let body = InboxBody::Rights(transfer);
    site.send(1, &InboxMessage { from_lane: LANES_MAX, to_lane: 1, body });
    site.step(1);
    let taken = site.facts(1).into_iter().rev().find_map(|fact| {
        let Fact::RightsTaken { from_lane, how, .. } = fact else { return None };
        Some((from_lane, how))
    });
    assert_eq!(taken, Some((LANES_MAX, Taken::Void)));
    site.folds();
}

/// One lane alone says nothing of what it holds; where it is no longer alone, it does.
#[test]
fn a_lane_that_was_alone_says_what_it_holds() {
    let mut site = Site::new(1, &Policy::default());
    site.resource("r", json!({"slots": 4}));
    site.tenant(
        "acme",
        json!({"limits": [{"dimension": "requests", "amount": 9, "window_s": 60}]}),
    );
    site.step(0);
    site.now += 1_000;
    site.step(0);
    assert_eq!(site.loads, []);
    site.add_lane(&Policy::default());
    site.count();
    let due = site.members[0].lane.next_timer();
    assert_eq!(due, Some(site.members[0].lane.batch_time().plus_ms(100)), "it is told at once");
    site.now += 1_000;
    all_step(&mut site);
    assert_eq!(site.loads.len(), 2);
    site.now += 1_000;
    site.step(0);
    let told = site.facts(0).into_iter().filter_map(|fact| {
        let Fact::LoadPublished { owners, .. } = fact else { return None };
        Some(owners.len())
    });
    assert_eq!(told.collect::<Vec<_>>(), [2], "the resource and the tenant, once");
    site.advise(0, advice(&slots("r", 0), 1, 500_000));
    site.step(0);
    site.now += 10;
    site.step(1);
    assert_eq!(site.units(&slots("r", 0)), [2, 2]);
    site.folds();
}

/// The fleet is compacted: a lane that begins later may never see the record by which the others know
/// a limit. It takes the name from the first rights that it gets, and none get lost.
#[test]
fn a_lane_that_knows_a_limit_by_a_later_record_learns_its_name() {
    let tokens = |amount: u64| json!({"slots": 4, "limits": [{"dimension": "tokens", "amount": amount, "window_s": 10}]});
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", tokens(1_000));
    site.tenant(
        "acme",
        json!({"limits": [{"dimension": "requests", "amount": 10, "window_s": 60}]}),
    );
    all_step(&mut site);
    site.resource("r", tokens(2_000));
    site.tenant(
        "acme",
        json!({"limits": [{"dimension": "requests", "amount": 20, "window_s": 60}]}),
    );
    all_step(&mut site);
    site.add_lane(&Policy::default());
    site.count();
    // What compaction leaves of the fleet.
    site.members[2].fleet_read = 2;
    all_step(&mut site);
    let [r, acme] =
        [slots("r", 0), LimitName { owner: LimitOwner::Tenant("acme".to_owned()), ..slots("", 1) }];
    let counted = crate::model::rights::Counted::Tokens;
    let names = [
        (r.clone(), 2),
        (LimitName { kind: LimitKind::of(counted, 10), ..r }, 2),
        (LimitName { kind: LimitKind::of(crate::model::rights::Counted::Requests, 60), ..acme }, 3),
    ];
    for (limit, later) in &names {
        let ours = LimitName { incarnation: *later, ..limit.clone() };
        let state = |site: &Site| site.members[2].lane.state().clone();
        assert_eq!(state(&site).stand(limit), None);
        assert_eq!(state(&site).stand(&ours).map(|stand| stand.rights), Some(0));
        // What comes early is kept under the right name too.
        site.members[0].clock_ahead_ms = 400;
        site.advise(0, advice(limit, 2, 250_000));
        site.step(0);
        site.step(2);
        assert_eq!(state(&site).sharing.early(limit), 250_000, "{limit:?}");
        site.step(2);
        site.now += 500;
        site.step(2);
        let both = [limit.clone(), ours];
        assert_eq!(site.rights(&both).iter().sum::<u32>(), RIGHTS, "{limit:?}");
        let rights = state(&site).stand(limit).map(|stand| stand.rights);
        assert_eq!(rights, Some(250_000), "{limit:?}");
        // And gives them under that name.
        site.advise(2, advice(limit, 1, 250_000));
        site.step(2);
        site.now += 500;
        site.step(1);
        assert_eq!(site.rights(&both)[2], 0, "{limit:?}");
        assert_eq!(site.rights(&both).iter().sum::<u32>(), RIGHTS, "{limit:?}");
    }
    site.folds();
}

/// The same where rights come while the lane is still reading the fleet.
#[test]
fn what_comes_while_the_fleet_is_read_is_kept_for_its_limit() {
    let mut site = Site::new(2, &Policy::default());
    site.resource("r", json!({"slots": 4}));
    site.resource("s", json!({"slots": 4}));
    site.resource("r", json!({"slots": 8}));
    all_step(&mut site);
    site.add_lane(&Policy::default());
    site.count();
    all_step_but(&mut site, 2);
    site.advise(0, advice(&slots("r", 0), 2, 250_000));
    site.step(0);
    // Of what compaction left, the lane has read the first record alone.
    site.members[2].fleet_read = 1;
    site.now += 10;
    site.step_reading(2, usize::MAX / 2, 1);
    let early = |site: &Site| site.members[2].lane.state().sharing.early(&slots("r", 0));
    assert_eq!(early(&site), 250_000);
    site.now += 10;
    site.step(2);
    site.now += 10;
    site.task(2, "a", json!({}));
    site.step(2);
    assert_eq!((early(&site), site.units(&slots("r", 0))), (0, vec![2, 4, 2]));
    assert_eq!(site.rights(&[slots("r", 0)]), [250_000, 500_000, 250_000]);
    site.folds();
}

fn all_step_but(site: &mut Site, lane: usize) {
    (0..site.members.len()).filter(|one| *one != lane).for_each(|lane| site.step(lane));
}
