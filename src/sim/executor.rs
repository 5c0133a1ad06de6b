//! Runs the processes of a simulation one at a time in virtual time. Which one runs next depends on
//! nothing but the times and the order in which they went to sleep: so a seed repeats a run.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId(u64);

type Process = Pin<Box<dyn Future<Output = ()>>>;

/// Virtual time and who waits for it; shared by all processes.
#[derive(Debug, Default)]
pub struct Timeline {
    now_us: Cell<u64>,
    current: Cell<u64>,
    /// By time, then by the order of going to sleep.
    sleepers: RefCell<BTreeSet<(u64, u64, u64)>>,
    order: Cell<u64>,
    awake: RefCell<VecDeque<u64>>,
    started: RefCell<Vec<(u64, SpawnedProcess)>>,
    ended: RefCell<Vec<u64>>,
    last_id: Cell<u64>,
}

struct SpawnedProcess(Process);

impl std::fmt::Debug for SpawnedProcess {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("process")
    }
}

impl Timeline {
    /// Microseconds since the simulation began.
    pub fn now_us(&self) -> u64 {
        self.now_us.get()
    }

    /// The process that runs now.
    pub fn current(&self) -> ProcessId {
        ProcessId(self.current.get())
    }

    /// Starts a process; it runs once those that are awake have run.
    pub fn spawn(&self, process: impl Future<Output = ()> + 'static) -> ProcessId {
        let id = self.last_id.get() + 1;
        self.last_id.set(id);
        self.started.borrow_mut().push((id, SpawnedProcess(Box::pin(process))));
        ProcessId(id)
    }

    /// Ends a process wherever it is, its values dropped. Ending oneself takes effect at the next
    /// wait.
    pub fn kill(&self, process: ProcessId) {
        self.ended.borrow_mut().push(process.0);
    }

    /// Wakes a process that waits for something other than time.
    pub fn wake(&self, process: ProcessId) {
        self.awake.borrow_mut().push_back(process.0);
    }

    /// Sleeps until that time, or until woken.
    pub fn until(&self, at_us: u64) -> Sleep<'_> {
        Sleep { timeline: self, at_us, asleep: None }
    }

    pub async fn sleep(&self, us: u64) {
        let at_us = self.now_us().saturating_add(us);
        while self.now_us() < at_us {
            self.until(at_us).await;
        }
    }
}

/// Ends at its time, or when the process is woken: whoever waits for more looks again.
pub struct Sleep<'t> {
    timeline: &'t Timeline,
    at_us: u64,
    /// Its place among the sleepers.
    asleep: Option<(u64, u64, u64)>,
}

impl Future for Sleep<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.asleep.is_some() || self.at_us <= self.timeline.now_us() {
            return Poll::Ready(());
        }
        let order = self.timeline.order.get() + 1;
        self.timeline.order.set(order);
        let sleeper = (self.at_us, order, self.timeline.current.get());
        self.asleep = Some(sleeper);
        self.timeline.sleepers.borrow_mut().insert(sleeper);
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        if let Some(sleeper) = &self.asleep {
            self.timeline.sleepers.borrow_mut().remove(sleeper);
        }
    }
}

/// Owns the processes.
#[derive(Default)]
pub struct Executor {
    pub timeline: Rc<Timeline>,
    processes: BTreeMap<u64, Process>,
}

impl Executor {
    /// Runs until `until_us`, or until `stop` says so; returns how often a process ran.
    pub fn run(&mut self, until_us: u64, mut stop: impl FnMut() -> bool) -> u64 {
        let mut steps = 0;
        loop {
            self.settle();
            let next = self.timeline.awake.borrow_mut().pop_front();
            let id = match next {
                Some(id) => id,
                None => {
                    if stop() {
                        return steps;
                    }
                    let first = self.timeline.sleepers.borrow().first().copied();
                    let Some(sleeper) = first.filter(|(at_us, ..)| *at_us <= until_us) else {
                        // Time goes on where nothing happens, too.
                        self.timeline.now_us.set(until_us.max(self.timeline.now_us()));
                        return steps;
                    };
                    self.timeline.sleepers.borrow_mut().remove(&sleeper);
                    let (at_us, _, id) = sleeper;
                    self.timeline.now_us.set(at_us.max(self.timeline.now_us()));
                    id
                }
            };
            let Some(process) = self.processes.get_mut(&id) else { continue };
            steps += 1;
            self.timeline.current.set(id);
            if process.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                self.processes.remove(&id);
            }
        }
    }

    /// Starts and ends what was asked for since.
    fn settle(&mut self) {
        for id in self.timeline.ended.take() {
            self.processes.remove(&id);
            self.timeline.started.borrow_mut().retain(|(started, _)| *started != id);
        }
        for (id, process) in self.timeline.started.take() {
            self.processes.insert(id, process.0);
            self.timeline.awake.borrow_mut().push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_run_in_the_order_of_their_times_and_can_be_ended() {
        let mut executor = Executor::default();
        let log = Rc::new(RefCell::new(Vec::new()));
        let mut ids = Vec::new();
        for (name, period_us) in [("a", 30), ("b", 20), ("c", 20)] {
            let (timeline, log) = (Rc::clone(&executor.timeline), Rc::clone(&log));
            ids.push(executor.timeline.spawn(async move {
                loop {
                    timeline.sleep(period_us).await;
                    log.borrow_mut().push((timeline.now_us(), name));
                }
            }));
        }
        executor.run(40, || false);
        executor.timeline.kill(ids[1]);
        executor.run(60, || false);
        let expected =
            vec![(20, "b"), (20, "c"), (30, "a"), (40, "b"), (40, "c"), (60, "a"), (60, "c")];
        assert_eq!(*log.borrow(), expected);
    }
}
