//! (I/O) The share of the hindsight bound that the lanes of this instance have reached lately: solved
//! on a thread of its own, one lane after the other, because a bound takes a moment and nobody waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::hindsight::window::Question;
use crate::telemetry::Telemetry;

/// How often each lane's share is found anew.
const EVERY: Duration = Duration::from_secs(60);

/// What is to be solved, by lane; `None`: too little is known.
pub type Questions = Vec<(u32, Option<Question>)>;

/// Asks once a minute.
#[derive(Debug)]
pub struct Asker {
    questions: SyncSender<Questions>,
    asked: Stopwatch,
}

impl Asker {
    /// An asker, and what it asks.
    pub fn new() -> (Self, Receiver<Questions>) {
        // One is solved, and one may wait.
        let (questions, asked) = sync_channel(1);
        (Asker { questions, asked: Stopwatch::start() }, asked)
    }

    pub fn go_on(&mut self, telemetry: &Telemetry) {
        if self.asked.elapsed() >= EVERY {
            self.asked = Stopwatch::start();
            // Full: who is a minute behind is not given more to do. The solver ends after the asker.
            let _asked = self.questions.try_send(telemetry.hindsight_questions());
        }
    }
}

/// Solves what is asked until nobody asks any more.
pub fn solve(asked: &Receiver<Questions>, telemetry: &Telemetry, stop: &AtomicBool) {
    for (lane, question) in asked.iter().flatten() {
        let share = question.and_then(|one| one.answer(&|_| !stop.load(Ordering::Relaxed)));
        telemetry.lane_hindsight(lane, share);
    }
}
