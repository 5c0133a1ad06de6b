//! What each tenant was given lately, by which tenants take turns, and what the lower priorities are
//! owed.
//!
//! Whoever sends most would get most: where the backlog is served by loss alone, a tenant with a
//! hundred thousand tasks leaves nothing to one with ten. Start-time fair queueing (Goyal, Vin and
//! Cheng, 1996) gives every flow a virtual time that grows by `cost / weight` of what it is given, and
//! serves the smallest. It needs one clock for all, and there is none here: tenants that compete for
//! one model do not compete for another, and whatever bounds the lead of one that waited long makes
//! others' differences disappear. So virtual times *fade*: what was given [`MEMORY_MS`] ago counts for
//! 1/e (as in the fair share schedulers of batch systems since Kay and Lauder, 1988). Fading keeps the
//! order of tenants as it is, and bounds every lead by what the other was given in that time. A tenant
//! that was given nothing for long goes first until it has had its part of the last seconds.
//!
//! The cost is the tokens that are expected (Sheng et al., *Fairness in serving large language models*,
//! 2024), when they are reserved: also those of attempts that fail.
//!
//! Priorities go before all that. What a lower one is owed grows by its guaranteed share of what the
//! others are given while it waits, or its tasks are refused for want of capacity; the first tasks that
//! this pays for go first. That is deficit round robin (Shreedhar and Varghese, 1995), with shares
//! instead of quanta.
//!
//! `charge_v1` and `owe_v1` are frozen: journals are folded with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::faded::{Faded, MEMORY_MS};
use crate::model::task::Priority;
use crate::model::time::Timestamp;

/// Below so many tokens a tenant was given nothing, and is forgotten.
const TOKENS_MIN: f64 = 0.01;

/// Tenants of one priority that are remembered apart: producers choose names. The others are one.
/// 10,000 of 100 bytes are a megabyte.
const TENANTS_MAX: usize = 10_000;
/// Where those have their account: no tenant has an empty name.
const OTHERS: &str = "";

/// So long after one of its tasks was refused for want of capacity, a priority still goes without.
const REFUSED_MS: u64 = 10_000;

/// A priority is owed at most so many tokens: one task with a large context.
pub const OWED_TOKENS_MAX: f64 = 131_072.0;

/// The accounts of one priority.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Accounts {
    /// Tokens.
    by_tenant: BTreeMap<Box<str>, Faded>,
    /// When those with nothing were forgotten last.
    swept_at: Timestamp,
    /// Tokens.
    owed: f64,
    /// When a task was refused for want of capacity last.
    refused_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Shares {
    /// By priority, the highest first.
    accounts: [Accounts; Priority::ALL.len()],
}

impl Shares {
    /// Tokens that the tenant was given in this priority, faded; at least 0.
    pub fn given(&self, priority: Priority, tenant: &str, now: Timestamp) -> f64 {
        let accounts = &self.accounts[priority as usize];
        let given = accounts.by_tenant.get(tenant).or_else(|| {
            let is_full = accounts.by_tenant.len() >= TENANTS_MAX;
            is_full.then(|| accounts.by_tenant.get(OTHERS)).flatten()
        });
        given.map_or(0.0, |given| given.at(now))
    }

    /// Tokens that the priority may take before the others; at most [`OWED_TOKENS_MAX`].
    pub fn owed(&self, priority: Priority) -> f64 {
        self.accounts[priority as usize].owed
    }

    /// Whether a task of a higher priority was ever given anything.
    pub fn has_served_above(&self, priority: Priority) -> bool {
        let above = self.accounts.iter().take(priority as usize);
        above.into_iter().any(|accounts| !accounts.by_tenant.is_empty())
    }

    /// A task of the priority was refused for want of capacity.
    pub fn refused(&mut self, priority: Priority, now: Timestamp) {
        self.accounts[priority as usize].refused_at = Some(now);
    }

    /// Whether that was so a short time ago.
    pub fn was_refused(&self, priority: Priority, now: Timestamp) -> bool {
        let refused_at = self.accounts[priority as usize].refused_at;
        refused_at.is_some_and(|at| now.ms_since(at) < REFUSED_MS)
    }

    /// `charge_v1`: the tenant is given so many tokens.
    pub fn charge_v1(&mut self, priority: Priority, tenant: &str, tokens: f64, now: Timestamp) {
        let accounts = &mut self.accounts[priority as usize];
        if let Some(given) = accounts.by_tenant.get_mut(tenant) {
            given.add_v1(tokens, now);
            return;
        }
        // Seldom, because it looks at all of them.
        if accounts.by_tenant.len() >= TENANTS_MAX
            && now.ms_since(accounts.swept_at) as f64 >= MEMORY_MS
        {
            accounts.by_tenant.retain(|_, given| given.at(now) >= TOKENS_MIN);
            accounts.swept_at = now;
        }
        let is_full = accounts.by_tenant.len() >= TENANTS_MAX;
        let name = if is_full { OTHERS } else { tenant };
        let given = accounts.by_tenant.entry(Box::from(name)).or_default();
        given.add_v1(tokens, now);
    }

    /// `owe_v1`: a priority is given so many tokens; each lower one that `waits` is owed its `share`
    /// of them, and one that does not wait is owed nothing. Whoever is refused does as one that waits.
    pub fn owe_v1(
        &mut self,
        given: Priority,
        tokens: f64,
        share: f64,
        waits: impl Fn(Priority) -> bool,
    ) {
        for priority in Priority::ALL {
            let owed = &mut self.accounts[priority as usize].owed;
            if !waits(priority) {
                *owed = 0.0;
            } else if priority == given {
                *owed = if *owed > tokens { *owed - tokens } else { 0.0 };
            } else if priority > Priority::Critical {
                let more = *owed + share * tokens;
                *owed = if more < OWED_TOKENS_MAX { more } else { OWED_TOKENS_MAX };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(1_000_000).plus_ms(ms)
    }

    const BATCH: Priority = Priority::Batch;

    #[test]
    fn what_was_given_fades() {
        let mut shares = Shares::default();
        shares.charge_v1(BATCH, "a", 100.0, at(0));
        shares.charge_v1(BATCH, "a", 50.0, at(10_000));
        let once = libm::exp(-1.0);
        for (what, tenant, now, expected) in [
            ("at once", "a", 10_000, 100.0 * once + 50.0),
            ("later", "a", 20_000, (100.0 * once + 50.0) * once),
            ("who got nothing", "b", 10_000, 0.0),
        ] {
            let given = shares.given(BATCH, tenant, at(now));
            assert!((given - expected).abs() < 1e-9, "{what}: {given}");
        }
        assert_eq!(shares.given(Priority::Critical, "a", at(0)), 0.0, "of another priority");
    }

    #[test]
    fn names_without_end_take_no_more_memory() {
        let mut shares = Shares::default();
        for number in 0..TENANTS_MAX + 100 {
            shares.charge_v1(BATCH, &format!("t{number}"), 1.0, at(20_000));
        }
        let count = |shares: &Shares| shares.accounts[2].by_tenant.len();
        assert_eq!(count(&shares), TENANTS_MAX + 1);
        assert_eq!(shares.given(BATCH, "another", at(20_000)), 100.0, "the others are one");
        // Those that were given nothing for long make room.
        shares.charge_v1(BATCH, "new", 1.0, at(200_000));
        assert_eq!(count(&shares), 1);
    }

    #[test]
    fn what_is_owed() {
        // (what, waits, given, share, owed to interactive, to batch)
        let waiting = |waits: &'static [Priority]| move |priority| waits.contains(&priority);
        let all = waiting(&[Priority::Critical, Priority::Interactive, Priority::Batch]);
        let mut shares = Shares::default();
        let mut check = |what: &str, given, tokens, waits: &dyn Fn(Priority) -> bool, owed| {
            shares.owe_v1(given, tokens, 0.01, waits);
            let found = [Priority::Interactive, BATCH].map(|priority| shares.owed(priority));
            assert_eq!(found, owed, "{what}");
            assert_eq!(shares.owed(Priority::Critical), 0.0);
        };
        check("a hundredth", Priority::Critical, 1_000.0, &all, [10.0, 10.0]);
        check("of both above", Priority::Interactive, 500.0, &all, [0.0, 15.0]);
        check("paid", BATCH, 12.0, &all, [0.12, 3.0]);
        check("a bound", Priority::Critical, 1e9, &all, [OWED_TOKENS_MAX, OWED_TOKENS_MAX]);
        let none = waiting(&[Priority::Interactive]);
        check("nobody waits", Priority::Critical, 0.0, &none, [OWED_TOKENS_MAX, 0.0]);
    }
}
