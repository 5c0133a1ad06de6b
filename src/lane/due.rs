//! When a lane has something to do that no record brings.

use super::Lane;
use crate::model::time::Timestamp;
use crate::routing::timers;

/// Timers are served at most this often.
const TIMER_MS: u64 = 100;

impl Lane {
    /// When `prepare` has something to do even without input.
    pub fn next_timer(&self) -> Option<Timestamp> {
        let soon = self.state.batch_time.plus_ms(TIMER_MS);
        let waiting = !self.state.backlog.is_empty() || self.ready.has_ended();
        let waiting = waiting.then_some(soon);
        let policy = self.state.policy != self.settings.policy
            || self.epoch_begins
            || self.lanes_told > self.state.lanes;
        let policy = policy.then_some(soon);
        let load = self
            .state
            .fleet
            .used()
            .then(|| self.state.load_published_at.plus_ms(self.state.policy.load_snapshot_ms));
        let timer = timers::next(&self.state);
        let published_at = self.state.load_published_at;
        let sharing = self.state.sharing.next(self.state.policy.load_snapshot_ms, published_at);
        [waiting, policy, load, timer, sharing].into_iter().flatten().min().map(|due| due.max(soon))
    }
}
