//! Rights: the millionths of a limit that a lane holds, and what they are worth.
//!
//! Units are whole, rights are not: a third of 3 slots is 333,333 rights and a little. A part that
//! is short of a unit by so little that all lanes' shortages could never make up a unit together
//! counts as full, so that 3 slots serve 3 lanes. How little does not depend on how many lanes there
//! are: lanes are added, not all learn of it at the same moment, and those that disagree must not
//! count more than there is. Limits above 977 may lose less than one unit in each lane.

/// All rights of one limit together.
pub const RIGHTS: u32 = 1_000_000;

pub use crate::model::rights::LANES_MAX;

/// What a part of any limit may be short of a unit, in millionths of a unit: what all lanes together are
/// short of stays below one.
const SLACK_MAX: u64 = (RIGHTS as u64 - 1) / LANES_MAX as u64;

/// A limit's amount: how rights of it are counted in units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    pub limit: u64,
}

impl Scale {
    /// What a part of this limit may be short of a unit, in millionths of a unit: less than one
    /// right is worth.
    fn slack(self) -> u128 {
        u128::from(self.limit.saturating_sub(1).min(SLACK_MAX))
    }

    /// What `rights` are worth, in whole units. The units of up to [`LANES_MAX`] lanes together are
    /// at most the limit, however the rights are spread.
    pub fn units(self, rights: u32) -> u64 {
        let worth = u128::from(rights) * u128::from(self.limit) + self.slack();
        (worth / u128::from(RIGHTS)) as u64
    }

    /// The fewest rights that are worth so many units; more than all where the limit is smaller.
    pub fn rights_for(self, units: u64) -> u64 {
        let worth = (u128::from(units) * u128::from(RIGHTS)).saturating_sub(self.slack());
        worth.div_ceil(u128::from(self.limit.max(1))) as u64
    }

    /// What a lane that holds `held` rights and keeps `kept` units gives where it is asked for
    /// `asked` rights; 0: nothing.
    ///
    /// Whole units change hands: the receiver can use what the giver loses. Rights that are worth
    /// nothing here are given as they are, so that fragments can be collected.
    pub fn gift(self, held: u32, kept: u64, asked: u32) -> u32 {
        let least = self.rights_for(kept);
        let spare = u64::from(held).saturating_sub(least).min(u64::from(asked)) as u32;
        let idle = u64::from(held).saturating_sub(self.rights_for(self.units(held)));
        if u64::from(spare) <= idle {
            return spare;
        }
        match self.units(spare) {
            // A part of a unit would be lost here and of no use there.
            0 => idle as u32,
            units => {
                let exact = (u128::from(units) * u128::from(RIGHTS))
                    .div_ceil(u128::from(self.limit.max(1)));
                spare.min(u32::try_from(exact).unwrap_or(u32::MAX))
            }
        }
    }
}

/// The first deal: the rights of `lane` where there were `dealt` lanes at first, so that every lane
/// computes the same without a message. Whole units are dealt, the first lanes get one more where the
/// limit does not divide. A lane that was added later gets nothing.
///
/// Rights are rounded up to what their units need, and the last lane takes what is left, so that
/// the sum over the lanes is never above all rights.
pub fn first_deal(limit: u64, lane: u32, dealt: u32) -> u32 {
    let dealt = dealt.max(1);
    if lane >= dealt {
        return 0;
    }
    let (limit, lane, lanes) = (u128::from(limit), u128::from(lane), u128::from(dealt));
    // The rights of lanes 0..n, whose units are n·⌊limit/lanes⌋ and the first remainders.
    let up_to = |n: u128| {
        if n == lanes {
            return u128::from(RIGHTS);
        }
        let units = n * (limit / lanes) + n.min(limit % lanes);
        (units * u128::from(RIGHTS)).div_ceil(limit.max(1)).min(u128::from(RIGHTS))
    };
    (up_to(lane + 1) - up_to(lane)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows() {
        let deal = |limit, lanes: u32| -> Vec<u64> {
            let scale = Scale { limit };
            (0..lanes).map(|lane| scale.units(first_deal(limit, lane, lanes))).collect()
        };
        assert_eq!(deal(40, 1), [40]);
        assert_eq!(deal(1, 4), [1, 0, 0, 0]);
        assert_eq!(deal(2, 4), [1, 1, 0, 0]);
        assert_eq!(deal(3, 3), [1, 1, 1]);
        assert_eq!(deal(7, 7), [1; 7]);
        assert_eq!(deal(40, 4), [10, 10, 10, 10]);
        assert_eq!(deal(10, 4), [3, 3, 2, 2]);
        assert_eq!(deal(200_000, 8), [25_000; 8]);
        assert_eq!(deal(977, 7), [140, 140, 140, 140, 139, 139, 139]);
        assert_eq!(deal(2_000, 7), [286, 286, 286, 286, 286, 285, 285]);
        assert_eq!(deal(0, 2), [0, 0]);
    }

    /// Lanes that are added get nothing, and take nothing from the others' first deal.
    #[test]
    fn who_comes_later_has_no_rights() {
        for (limit, dealt) in [(40, 1), (1, 4), (10, 4), (0, 2), (200_000, 8)] {
            let rights: Vec<u32> =
                (0..dealt + 3).map(|lane| first_deal(limit, lane, dealt)).collect();
            assert_eq!(rights.iter().sum::<u32>(), RIGHTS, "{limit} over {dealt}: {rights:?}");
            assert_eq!(rights[dealt as usize..], [0; 3], "{limit} over {dealt}");
        }
    }

    #[test]
    fn gifts() {
        let check = |limit, held, kept, asked, expected| {
            let scale = Scale { limit };
            assert_eq!(scale.gift(held, kept, asked), expected, "{limit} {held} {kept} {asked}");
        };
        // One slot of four is a quarter of the rights.
        check(4, 1_000_000, 0, 250_000, 250_000);
        check(4, 1_000_000, 0, 300_000, 250_000);
        check(4, 1_000_000, 2, 1_000_000, 500_000);
        check(4, 250_000, 1, 250_000, 0);
        check(4, 250_000, 1, 0, 0);
        // Half a slot is of use to nobody, unless it is of no use here.
        check(4, 250_000, 0, 125_000, 0);
        check(4, 375_000, 1, 125_000, 125_000);
        check(4, 375_000, 1, 1_000_000, 125_000);
        check(3, 333_333, 0, 333_333, 333_333);
        // More than is held, and more than there is.
        check(4, 250_000, 0, u32::MAX, 250_000);
        check(4, 0, 0, 1_000_000, 0);
        check(4, 250_000, 9, 1_000_000, 0);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit(limit in 1u64..10_000_000, lanes in 1u32..64) {
            let rights: u64 = (0..lanes).map(|lane| u64::from(first_deal(limit, lane, lanes))).sum();
            prop_assert_eq!(rights, u64::from(RIGHTS));
            let scale = Scale { limit };
            let dealt: u64 =
                (0..lanes).map(|lane| scale.units(first_deal(limit, lane, lanes))).sum();
            prop_assert!(dealt <= limit);
        }

        /// However rights are spread over as many lanes as there can be, their units are within the
        /// limit.
        #[test]
        fn no_spread_is_worth_more(
            limit in prop_oneof![1u64..100, 900u64..1_100, 1u64..3_000_000],
            cuts in prop_oneof![
                proptest::collection::vec(0u32..=RIGHTS, 0..63),
                proptest::collection::vec(0u32..=RIGHTS, LANES_MAX as usize - 1),
            ],
        ) {
            let mut cuts = cuts;
            cuts.extend([0, RIGHTS]);
            cuts.sort_unstable();
            let scale = Scale { limit };
            let worth: u64 = cuts.windows(2).map(|pair| scale.units(pair[1] - pair[0])).sum();
            prop_assert!(worth <= limit, "{worth} of {limit}");
        }

        /// The same where every lane is short of a unit by as little as it can be: the worst spread.
        #[test]
        fn the_worst_spread_is_worth_no_more(limit in 1u64..3_000_000, lanes in 1u64..=1_024) {
            let scale = Scale { limit };
            let each = u64::from(RIGHTS) / lanes;
            let units = scale.units(each as u32) + 1;
            // Just enough rights for one unit more than an equal part is worth.
            let least = scale.rights_for(units);
            let full = u64::from(RIGHTS).checked_div(least).unwrap_or(0).min(lanes);
            let rest = u64::from(RIGHTS) - full * least;
            let rest = if full < lanes { scale.units(rest as u32) } else { 0 };
            prop_assert!(full * units + rest <= limit, "{full} times {units}, {rest} of {limit}");
        }

        #[test]
        fn rights_for_is_the_least(limit in 1u64..3_000_000, part in 0u64..1_000_000) {
            let scale = Scale { limit };
            let units = part * limit / 1_000_000;
            let least = scale.rights_for(units);
            prop_assert!(least <= u64::from(RIGHTS));
            prop_assert!(scale.units(least as u32) >= units);
            prop_assert!(least == 0 || scale.units(least as u32 - 1) < units);
        }

        /// Never below what is kept, never more than was asked; what is lost here is worth as much
        /// there.
        #[test]
        fn a_gift_is_whole_units(
            limit in prop_oneof![1u64..100, 1u64..3_000_000],
            held in 0u32..=RIGHTS, asked in any::<u32>(), share in 0u64..=100,
            other in 0u32..=RIGHTS,
        ) {
            let scale = Scale { limit };
            let kept = scale.units(held) * share / 100;
            let gift = scale.gift(held, kept, asked);
            prop_assert!(gift <= held && gift <= asked);
            let (before, after) = (scale.units(held), scale.units(held - gift));
            prop_assert!(after >= kept);
            let other = other.min(RIGHTS - held);
            let gained = scale.units(other + gift) - scale.units(other);
            // Large limits have several units to a right, and there one may get lost.
            prop_assert!(gained + limit.div_ceil(u64::from(RIGHTS)) >= before - after);
        }
    }
}
