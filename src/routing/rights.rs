//! Rights: the millionths of a limit that a lane holds.

/// All rights of one limit together.
pub const RIGHTS: u32 = 1_000_000;

/// What `rights` are worth of `limit`, in whole units.
pub fn units(rights: u32, limit: u64) -> u64 {
    (u128::from(rights) * u128::from(limit) / u128::from(RIGHTS)) as u64
}

/// The first deal: the rights of `lane` of `lanes`, so that every lane computes the same without a
/// message. Whole units are dealt, the first lanes get one more where the limit does not divide.
///
/// Rights are rounded up to what their units need, and the last lane takes what is left, so that
/// the sum over the lanes is never above all rights.
pub fn first_deal(limit: u64, lane: u32, lanes: u32) -> u32 {
    if lanes <= 1 {
        return RIGHTS;
    }
    let (limit, lane, lanes) = (u128::from(limit), u128::from(lane), u128::from(lanes));
    // The rights of lanes 0..n, whose units are n·⌊limit/lanes⌋ and the first remainders.
    let dealt = |n: u128| {
        let units = n * (limit / lanes) + n.min(limit % lanes);
        (units * u128::from(RIGHTS)).div_ceil(limit.max(1)).min(u128::from(RIGHTS))
    };
    (dealt(lane + 1) - dealt(lane)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rows() {
        let deal = |limit, lanes: u32| -> Vec<u64> {
            (0..lanes).map(|lane| units(first_deal(limit, lane, lanes), limit)).collect()
        };
        assert_eq!(deal(40, 1), [40]);
        assert_eq!(deal(2, 4), [1, 1, 0, 0]);
        assert_eq!(deal(40, 4), [10, 10, 10, 10]);
        assert_eq!(deal(10, 4), [3, 3, 2, 2]);
        assert_eq!(deal(200_000, 8), [25_000; 8]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit(limit in 1u64..10_000_000, lanes in 1u32..64) {
            let rights: u64 = (0..lanes).map(|lane| u64::from(first_deal(limit, lane, lanes))).sum();
            prop_assert_eq!(rights, u64::from(RIGHTS));
            let dealt: u64 = (0..lanes).map(|lane| units(first_deal(limit, lane, lanes), limit)).sum();
            prop_assert!(dealt <= limit);
        }
    }
}
