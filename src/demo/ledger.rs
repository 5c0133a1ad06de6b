//! Where each task stands, as the demo's threads see it: what the end is recognised by.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};

/// A task's state; a later decision takes a task back from `ENDED` to `ROUTED`.
const WAITING: u8 = 0;
const PUBLISHED: u8 = 1;
const ROUTED: u8 = 2;
const ENDED: u8 = 3;

/// No resource has this place.
const NOTHING: usize = usize::MAX;

/// Shared by all threads of a demo. The counters are for eyes and for the end of the demo; the
/// audit counts by itself.
#[derive(Debug)]
pub struct Ledger {
    states: Vec<AtomicU8>,
    decided: Vec<AtomicBool>,
    published_us: Vec<AtomicU64>,
    /// Reservations that are not given back, by the resource's place in the fleet.
    open_reservations: Vec<AtomicI64>,
    pub dead_lettered: AtomicU64,
    pub failed_over: AtomicU64,
    /// The place of the resource that is broken now; `NOTHING` otherwise.
    broken: AtomicUsize,
    /// All threads end.
    pub stop: AtomicBool,
}

/// How many tasks are at least this far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub published: u64,
    pub decided: u64,
    pub ended: u64,
}

impl Ledger {
    pub fn new(tasks: usize, resources: usize) -> Self {
        Ledger {
            states: (0..tasks).map(|_| AtomicU8::new(WAITING)).collect(),
            decided: (0..tasks).map(|_| AtomicBool::new(false)).collect(),
            published_us: (0..tasks).map(|_| AtomicU64::new(0)).collect(),
            open_reservations: (0..resources).map(|_| AtomicI64::new(0)).collect(),
            dead_lettered: AtomicU64::new(0),
            failed_over: AtomicU64::new(0),
            broken: AtomicUsize::new(NOTHING),
            stop: AtomicBool::new(false),
        }
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// This resource is broken from now on; `None`: none is.
    pub fn set_broken(&self, resource: Option<usize>) {
        self.broken.store(resource.unwrap_or(NOTHING), Ordering::Release);
    }

    pub fn is_broken(&self, resource: usize) -> bool {
        self.broken.load(Ordering::Acquire) == resource
    }

    /// A resource has one reservation more, or one less.
    pub fn reserved(&self, resource: usize, change: i64) {
        if let Some(open) = self.open_reservations.get(resource) {
            open.fetch_add(change, Ordering::AcqRel);
        }
    }

    /// Reservations that are not given back, by the resource's place in the fleet.
    pub fn in_flight(&self) -> Vec<i64> {
        self.open_reservations.iter().map(|open| open.load(Ordering::Acquire)).collect()
    }

    /// A task is about to be handed to the producer, `at_us` after the beginning.
    pub fn published(&self, index: usize, at_us: u64) {
        if let (Some(state), Some(published_us)) =
            (self.states.get(index), self.published_us.get(index))
        {
            published_us.store(at_us, Ordering::Release);
            state.store(PUBLISHED, Ordering::Release);
        }
    }

    /// A decision was read at `at_us`. For the first one of a task: microseconds since the task
    /// was published.
    pub fn decided(&self, index: usize, at_us: u64) -> Option<u64> {
        let is_later = self.decided.get(index)?.swap(true, Ordering::Relaxed);
        let published_us = self.published_us.get(index)?.load(Ordering::Acquire);
        (!is_later).then(|| at_us.saturating_sub(published_us))
    }

    /// The task has an attempt that will be answered, or taken from its resource.
    pub fn routed(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.store(ROUTED, Ordering::Release);
        }
    }

    /// The task is answered, refused or dead-lettered.
    pub fn ended(&self, index: usize) {
        if let Some(state) = self.states.get(index) {
            state.store(ENDED, Ordering::Release);
        }
    }

    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (state, decided) in self.states.iter().zip(&self.decided) {
            let state = state.load(Ordering::Acquire);
            totals.published += u64::from(state >= PUBLISHED);
            totals.ended += u64::from(state == ENDED);
            totals.decided += u64::from(decided.load(Ordering::Relaxed));
        }
        totals
    }

    /// All tasks of the demo.
    pub fn tasks(&self) -> u64 {
        self.states.len() as u64
    }

    /// Whether every task is accounted for and nothing is held any more.
    pub fn is_over(&self) -> bool {
        self.totals().ended == self.tasks() && self.in_flight().iter().all(|open| *open == 0)
    }

    /// What is still missing, for the message of a demo that does not end: a few tasks by number.
    pub fn missing(&self) -> String {
        const NAMED_MAX: usize = 5;
        let mut parts = Vec::new();
        for (state, what) in [
            (WAITING, "not published"),
            (PUBLISHED, "without a decision"),
            (ROUTED, "routed without an answer"),
        ] {
            let all = self.states.iter().enumerate();
            let tasks: Vec<String> = all
                .filter(|(_, one)| one.load(Ordering::Acquire) == state)
                .map(|(index, _)| format!("t-{:06}", index + 1))
                .collect();
            if !tasks.is_empty() {
                let named = tasks.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
                let more = if tasks.len() > NAMED_MAX { ", …" } else { "" };
                parts.push(format!("{} {what} ({named}{more})", tasks.len()));
            }
        }
        let open: i64 = self.in_flight().iter().sum();
        if open != 0 {
            parts.push(format!("{open} reservations not given back"));
        }
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_when_all_ended_and_nothing_is_held() {
        let ledger = Ledger::new(2, 3);
        assert_eq!(ledger.missing(), "2 not published (t-000001, t-000002)");
        ledger.published(0, 100);
        ledger.published(1, 200);
        assert_eq!(ledger.decided(0, 350), Some(250));
        assert_eq!(ledger.decided(0, 900), None);
        ledger.routed(0);
        assert_eq!(
            ledger.missing(),
            "1 without a decision (t-000002); 1 routed without an answer (t-000001)"
        );
        ledger.ended(0);
        ledger.ended(1);
        ledger.reserved(2, 1);
        assert!(!ledger.is_over());
        assert_eq!(ledger.missing(), "1 reservations not given back");
        ledger.reserved(2, -1);
        assert!(ledger.is_over());
        ledger.set_broken(Some(1));
        assert_eq!([0, 1, 2].map(|place| ledger.is_broken(place)), [false, true, false]);
        ledger.set_broken(None);
        assert!(!ledger.is_broken(1));
        // An attempt that is decided again is not over.
        ledger.routed(0);
        assert!(!ledger.is_over());
        assert_eq!(ledger.totals(), Totals { published: 2, decided: 1, ended: 1 });
    }
}
