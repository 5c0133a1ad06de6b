//! The stand-in for all providers: keeps the fleet's limits itself, in exact sliding windows, and so
//! checks the router that claims to keep them. Shares no code with the core.

use std::collections::VecDeque;

use crate::model::resource::{Dimension, ResourceSpec};

/// One limit, with every start of its window.
#[derive(Debug)]
struct RateWindow {
    dimension: Dimension,
    amount: u64,
    window_ms: u64,
    /// Time and amount of each start, oldest first: the limit itself bounds their number.
    starts: VecDeque<(u64, u64)>,
    /// The number of the oldest start that is still here.
    first: u64,
    used: u64,
}

impl RateWindow {
    /// Forgets what has left the window, which is open at its old end: (now − window, now].
    fn advance(&mut self, now_ms: u64) {
        while let Some((at_ms, amount)) = self.starts.front()
            && at_ms + self.window_ms <= now_ms
        {
            self.used -= amount;
            self.first += 1;
            self.starts.pop_front();
        }
    }

    fn need(&self, tokens: u64) -> u64 {
        match self.dimension {
            Dimension::Requests => 1,
            Dimension::Tokens => tokens,
        }
    }
}

#[derive(Debug)]
struct Deployment {
    slots: u32,
    busy: u32,
    rates: Vec<RateWindow>,
    started: u64,
}

impl Deployment {
    fn fits(&self, tokens: u64) -> bool {
        self.busy < self.slots
            && self.rates.iter().all(|rate| rate.used + rate.need(tokens) <= rate.amount)
    }
}

/// The right of an attempt that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub resource: usize,
    number: u64,
    reserved_tokens: u64,
}

#[derive(Debug)]
pub struct Provider {
    deployments: Vec<Deployment>,
    /// Starts that were refused because they went over a limit.
    pub oversubscribed: u64,
    /// Tokens used beyond what was reserved for them.
    pub overrun_tokens: u64,
}

impl Provider {
    pub fn new(resources: &[ResourceSpec]) -> Self {
        let deployments = resources.iter().map(|spec| Deployment {
            slots: spec.slots,
            busy: 0,
            rates: spec
                .limits
                .iter()
                .map(|limit| RateWindow {
                    dimension: limit.dimension,
                    amount: limit.amount,
                    window_ms: u64::from(limit.window_s) * 1_000,
                    starts: VecDeque::new(),
                    first: 0,
                    used: 0,
                })
                .collect(),
            started: 0,
        });
        Provider { deployments: deployments.collect(), oversubscribed: 0, overrun_tokens: 0 }
    }

    /// Moves every window on.
    pub fn advance(&mut self, now_ms: u64) {
        for rate in self.deployments.iter_mut().flat_map(|one| &mut one.rates) {
            rate.advance(now_ms);
        }
    }

    /// Whether a start with so many tokens is within the limits at the time of the last `advance`.
    pub fn fits(&self, resource: usize, tokens: u64) -> bool {
        self.deployments[resource].fits(tokens)
    }

    /// Requests under way.
    pub fn busy(&self, resource: usize) -> u32 {
        self.deployments[resource].busy
    }

    /// When a window next lets go of something; `None` where all are empty.
    pub fn next_release_ms(&self) -> Option<u64> {
        let rates = self.deployments.iter().flat_map(|one| &one.rates);
        rates.filter_map(|rate| Some(rate.starts.front()?.0 + rate.window_ms)).min()
    }

    /// Starts an attempt; `None` where it goes over a limit, which is counted.
    pub fn start(&mut self, now_ms: u64, resource: usize, tokens: u64) -> Option<Ticket> {
        let deployment = &mut self.deployments[resource];
        for rate in &mut deployment.rates {
            rate.advance(now_ms);
        }
        if !deployment.fits(tokens) {
            self.oversubscribed += 1;
            return None;
        }
        for rate in &mut deployment.rates {
            let need = rate.need(tokens);
            rate.starts.push_back((now_ms, need));
            rate.used += need;
        }
        deployment.busy += 1;
        let number = deployment.started;
        deployment.started += 1;
        Some(Ticket { resource, number, reserved_tokens: tokens })
    }

    /// Ends an attempt. Where it is known what it used, that counts from now on, at the time of its
    /// start; else what was reserved stays.
    pub fn end(&mut self, ticket: Ticket, used_tokens: Option<u64>) {
        let deployment = &mut self.deployments[ticket.resource];
        deployment.busy -= 1;
        let Some(used) = used_tokens else { return };
        self.overrun_tokens += used.saturating_sub(ticket.reserved_tokens);
        for rate in deployment.rates.iter_mut().filter(|rate| rate.dimension == Dimension::Tokens) {
            let Some(place) = ticket.number.checked_sub(rate.first) else { continue };
            if let Some((_, amount)) = rate.starts.get_mut(place as usize) {
                rate.used = rate.used - *amount + used;
                *amount = used;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backtest::tests::resource;
    use serde_json::json;

    #[test]
    fn limits_are_kept_in_every_sliding_window() {
        let limits = json!([
            {"dimension": "requests", "amount": 2, "window_s": 10},
            {"dimension": "tokens", "amount": 100, "window_s": 20},
        ]);
        let spec = resource("a", json!({"slots": 2, "limits": limits}));
        let mut provider = Provider::new(&[spec]);
        let first = provider.start(1_000, 0, 40).unwrap();
        let second = provider.start(5_000, 0, 40).unwrap();
        assert_eq!(provider.start(6_000, 0, 1), None, "no slot");
        provider.end(second, Some(60));
        assert_eq!(provider.overrun_tokens, 20);
        assert_eq!(provider.start(10_999, 0, 0), None, "two requests in 10 s");
        assert_eq!(provider.start(11_000, 0, 1), None, "100 tokens in 20 s");
        provider.end(first, Some(30));
        let third = provider.start(11_000, 0, 10).unwrap();
        assert_eq!(provider.next_release_ms(), Some(15_000));
        provider.advance(21_000);
        assert!(provider.fits(0, 30) && !provider.fits(0, 31));
        provider.end(third, None);
        assert_eq!((provider.busy(0), provider.oversubscribed), (0, 3));
    }
}
