//! A machine that runs a process of the router: what it sends, how it stands still, crashes and comes
//! again. Its disk stays.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use rand_chacha::ChaCha8Rng;

use super::client::Client;
use super::dice::Dice;
use super::disk::Disk;
use super::executor::ProcessId;
use super::faults::{DELAY_US, Fault, OUTAGE_US, OVERTAKEN_US, PAUSE_US, RESTART_US, Step};
use super::group::{self, Membership};
use super::keeper::{self, Desk};
use super::network::{BEGIN_MS, Fate};
use super::planner;
use super::world::World;
use crate::broker::wire::{Reply, Request};
use crate::stream::clock::Now;
use crate::stream::worker::WorkerSettings;

/// A process that ended by itself is started again after so long, as a service manager would.
const RESPAWN_US: u64 = 500_000;

/// A process that was asked to end has so long for it.
const KILL_US: u64 = 4_000_000;

/// A guest comes for so long, and is away for so long: shorter than its session sometimes.
const VISIT_US: Range<u64> = 1_000_000..7_000_000;
const AWAY_US: Range<u64> = 500_000..8_000_000;

pub struct Instance {
    pub name: String,
    pub world: Rc<World>,
    /// This machine's clock, less the broker's, milliseconds.
    clock_offset_ms: i64,
    paused_until_us: Cell<u64>,
    down_until_us: Cell<u64>,
    /// The process is asked to end.
    pub ending: Cell<bool>,
    processes: RefCell<Vec<ProcessId>>,
    /// Who starts the process.
    keeper: Cell<Option<ProcessId>>,
    pub disk: RefCell<Disk>,
}

impl Instance {
    pub fn new(name: &str, world: Rc<World>, clock_offset_ms: i64) -> Rc<Self> {
        Rc::new(Instance {
            name: name.to_owned(),
            world,
            clock_offset_ms,
            paused_until_us: Cell::new(0),
            down_until_us: Cell::new(0),
            ending: Cell::new(false),
            processes: RefCell::default(),
            keeper: Cell::new(None),
            disk: RefCell::default(),
        })
    }

    pub fn transactional_id(&self) -> String {
        format!("{}-{}", group::GROUP, self.name)
    }

    pub fn now(&self) -> Now {
        let monotonic_us = self.world.network.timeline.now_us();
        let wall_ms = i64::try_from(monotonic_us / 1_000).unwrap_or(0);
        Now { wall_ms: BEGIN_MS + wall_ms + self.clock_offset_ms, monotonic_us }
    }

    /// Sleeps, and stands still for as long as the process does.
    pub async fn sleep(&self, us: u64) {
        let timeline = &self.world.network.timeline;
        timeline.sleep(us).await;
        while timeline.now_us() < self.paused_until_us.get() {
            timeline.sleep(self.paused_until_us.get() - timeline.now_us()).await;
        }
    }

    /// A request without a fault.
    pub async fn ask(&self, request: Request, timeout_us: u64) -> Option<Reply> {
        let reply = self.world.network.call(&self.name, request, timeout_us, Fate::Arrives).await;
        self.sleep(0).await;
        reply
    }

    /// A request of a step, which may meet a fault.
    pub async fn send(
        &self,
        request: Request,
        timeout_us: u64,
        fault: Option<(Fault, Step)>,
    ) -> Option<Reply> {
        let network = &self.world.network;
        let within = |range| self.world.faults.borrow_mut().within(range);
        let error = |step| self.world.faults.borrow_mut().error(step);
        let fate = match fault {
            Some((Fault::RequestLost, _)) => Fate::RequestLost,
            Some((Fault::ResponseLost, _)) => Fate::ResponseLost,
            Some((Fault::Delayed, _)) => Fate::Delayed(within(DELAY_US)),
            Some((Fault::Overtaken, _)) => Fate::Overtaken(within(OVERTAKEN_US)),
            Some((Fault::Refused, step)) => Fate::Refused(error(step)),
            Some((Fault::SeemsRefused, step)) => Fate::SeemsRefused(error(step)),
            Some((Fault::CrashBefore, _)) => {
                self.crash(within(RESTART_US)).await;
                Fate::Arrives
            }
            Some((Fault::Paused, _)) => {
                let until_us = network.timeline.now_us() + within(PAUSE_US);
                self.paused_until_us.set(until_us);
                self.sleep(0).await;
                Fate::Arrives
            }
            Some((Fault::Outage, _)) => {
                network.fall_out(within(OUTAGE_US));
                Fate::Arrives
            }
            Some((Fault::CrashAfter, _)) | None => Fate::Arrives,
        };
        let reply = network.call(&self.name, request, timeout_us, fate).await;
        if let Some((Fault::CrashAfter, _)) = fault {
            self.crash(within(RESTART_US)).await;
        }
        self.sleep(0).await;
        reply
    }

    /// The process is gone at once; whoever keeps it starts it again later.
    async fn crash(&self, down_us: u64) {
        self.die(down_us);
        std::future::pending::<()>().await;
    }

    fn die(&self, down_us: u64) {
        let timeline = &self.world.network.timeline;
        self.down_until_us.set(timeline.now_us() + down_us);
        let suffered = self.world.faults.borrow_mut().damage(&mut self.disk.borrow_mut());
        self.world.beginnings.borrow_mut().suffer(&suffered);
        for process in self.processes.take() {
            timeline.kill(process);
        }
        if let Some(keeper) = self.keeper.get() {
            timeline.wake(keeper);
        }
    }

    /// Starts the process, and again whenever it has ended.
    pub async fn keep(self: Rc<Self>, settings: WorkerSettings) {
        let timeline = Rc::clone(&self.world.network.timeline);
        loop {
            self.live(&settings, u64::MAX).await;
            let wait_us = self.down_until_us.get().saturating_sub(timeline.now_us());
            timeline.sleep(wait_us.max(RESPAWN_US)).await;
        }
    }

    /// Comes and goes while there are faults: lanes move to it and away again. It ends as it is told
    /// to, with or without an operator who takes it out of the group, or is killed.
    pub async fn visit(self: Rc<Self>, settings: WorkerSettings, mut dice: ChaCha8Rng) {
        let timeline = Rc::clone(&self.world.network.timeline);
        loop {
            timeline.sleep(dice.within(AWAY_US)).await;
            if !self.world.faults.borrow().active {
                return;
            }
            self.live(&settings, timeline.now_us() + dice.within(VISIT_US)).await;
            if dice.chance(1, 2) {
                group::remove_member(&self).await;
            }
        }
    }

    /// One life of the process; at `until_us` it is asked to end.
    async fn live(self: &Rc<Self>, settings: &WorkerSettings, until_us: u64) {
        let timeline = Rc::clone(&self.world.network.timeline);
        let membership = Rc::new(RefCell::new(Membership::default()));
        let desk = Rc::new(Desk::default());
        let done = Rc::new(Cell::new(false));
        let plans = Rc::new(Cell::new(false));
        self.ending.set(false);
        let member = timeline.spawn(group::keep(Rc::clone(self), Rc::clone(&membership)));
        let snapshots = settings.snapshot.clone();
        let keeper = timeline.spawn(keeper::keep(Rc::clone(self), Rc::clone(&desk), snapshots));
        let load_ms = settings.lane.policy.load_snapshot_ms;
        let planner = planner::plan(Rc::clone(self), Rc::clone(&plans), load_ms);
        let planner = timeline.spawn(planner);
        let worker = {
            let (instance, done) = (Rc::clone(self), Rc::clone(&done));
            let (settings, keeper) = (settings.clone(), timeline.current());
            self.keeper.set(Some(keeper));
            timeline.spawn(async move {
                Client::new(&instance, settings, membership, desk, plans).run().await;
                done.set(true);
                instance.world.network.timeline.wake(keeper);
            })
        };
        *self.processes.borrow_mut() = vec![member, keeper, planner, worker];
        // Woken where the process has ended, in whatever way.
        while !done.get() && !self.processes.borrow().is_empty() {
            let ended = timeline.now_us() >= until_us;
            self.ending.set(ended);
            // One that does not end is killed.
            let at_us = if ended { until_us.saturating_add(KILL_US) } else { until_us };
            if timeline.now_us() >= at_us {
                self.die(0);
            } else {
                timeline.until(at_us).await;
            }
        }
        for process in self.processes.take() {
            timeline.kill(process);
        }
    }
}
