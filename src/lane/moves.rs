//! What happens to a lane's queues when it moves, and what it is told of the others.

use super::Lane;
use super::intake::Queue;
use super::ready::Ready;
use crate::model::time::Timestamp;

impl Lane {
    /// Up to when the batch that opens now decides all results. What is queued beyond it is read
    /// and not decided: no lease may end over it.
    pub(super) fn caught_up_at(&self) -> Timestamp {
        if self.inbox.len() + self.results.len() > self.settings.batch_records_max {
            return self.state.results_caught_up_at;
        }
        self.results_caught_up_at
    }

    /// Forgets what was offered and not decided: batches that were decided elsewhere have it, or it
    /// is offered again. The positions go back with it.
    pub fn clear_queue(&mut self) {
        self.controls.clear();
        self.fleet_read = self.state.fleet_position;
        self.health_read = self.state.health_position;
        back(&mut self.tasks);
        back(&mut self.results);
        back(&mut self.inbox);
        self.ready = Ready::default();
        self.wanted.clear();
        // Results that were caught up with are forgotten with the others.
        self.results_caught_up_at = self.state.results_caught_up_at;
    }

    /// Goes on at these offsets of `tasks`, `task-results` and `lane-inbox`, wherever it was, and
    /// says so in the outputs by this epoch. The next batch is due at once.
    pub fn begin_epoch(&mut self, epoch: u32, [tasks, task_results, lane_inbox]: [i64; 3]) {
        self.clear_queue();
        self.epoch = epoch;
        self.epoch_begins = true;
        self.start_at(tasks, task_results, lane_inbox);
    }

    /// Whether the lane was added to lanes that had shared all rights out among themselves.
    pub fn is_added(&self) -> bool {
        self.state.lane >= self.state.dealt
    }

    /// There are so many lanes now: journaled with the next batch, where it is news.
    pub fn count_lanes(&mut self, lanes: u32) {
        self.lanes_told = lanes;
    }

    /// In the `ce_id` of every output.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }
}

fn back<T>(queue: &mut Queue<T>) {
    let decided = queue.decided;
    *queue = Queue::default();
    if let Some(offset) = decided {
        queue.start_at(offset);
    }
}
