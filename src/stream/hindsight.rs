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
            self.ask(telemetry);
        }
    }

    fn ask(&self, telemetry: &Telemetry) {
        // Full: who is a minute behind is not given more to do. The solver ends after the asker.
        let _asked = self.questions.try_send(telemetry.hindsight_questions());
    }
}

/// Solves what is asked until nobody asks any more.
pub fn solve(asked: &Receiver<Questions>, telemetry: &Telemetry, stop: &AtomicBool) {
    for (lane, question) in asked.iter().flatten() {
        let share = question.and_then(|one| one.answer(&|_| !stop.load(Ordering::Relaxed)));
        telemetry.lane_hindsight(lane, share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hindsight::sample::{Capacity, NewSample, Offer, Sample};
    use crate::hindsight::window::Share;
    use crate::model::time::Timestamp;
    use crate::telemetry::LaneState;

    /// 100 tasks at once, of which each could have earned 1 and has earned this.
    fn told(utility: f64) -> Vec<Sample> {
        let task = |key| {
            Sample::New(NewSample {
                key,
                level: 0,
                at: Timestamp::from_ms(5),
                until: Timestamp::from_ms(5),
                second: 0.0,
                tokens: 10.0,
                offers: vec![Offer { resource: 0, utility: 1.0, duration_ms: 100.0 }],
                utility: Some(utility),
            })
        };
        let capacities = vec![Capacity { slots: 1_000, rates: Vec::new() }];
        std::iter::once(Sample::Capacities(capacities)).chain((0..100).map(task)).collect()
    }

    fn shares(telemetry: &Telemetry) -> Vec<Option<(usize, usize)>> {
        let per_cent = |one: Share| ((one.share * 100.0).round() as usize, one.tasks);
        telemetry.view().lanes.values().map(|lane| lane.hindsight.map(per_cent)).collect()
    }

    #[test]
    fn lanes_are_asked_about_and_shown_one_after_the_other() {
        let telemetry = Telemetry::new(1);
        telemetry.assigned(0, &[0, 1, 2]);
        (0..3).for_each(|lane| telemetry.lane_state(lane, LaneState::Running, None));
        telemetry.sampled(0, &told(0.5));
        telemetry.sampled(1, &told(1.0));
        telemetry.sampled(2, &told(1.0)[..10]);
        telemetry.lane_hindsight(2, Some(Share { share: 1.0, tasks: 64 }));
        let (mut asker, asked) = Asker::new();
        asker.go_on(&telemetry);
        assert!(asked.try_recv().is_err(), "it is not time yet");
        asker.ask(&telemetry);
        // One waits already: this one is left out, and nobody is held up.
        asker.ask(&telemetry);
        drop(asker);
        let stop = AtomicBool::new(false);
        solve(&asked, &telemetry, &stop);
        assert_eq!(shares(&telemetry), [Some((50, 100)), Some((100, 100)), None]);
        // Who is told to stop solves nothing more.
        let (asker, asked) = Asker::new();
        asker.ask(&telemetry);
        drop(asker);
        stop.store(true, Ordering::Relaxed);
        solve(&asked, &telemetry, &stop);
        assert_eq!(shares(&telemetry), [None; 3]);
    }
}
