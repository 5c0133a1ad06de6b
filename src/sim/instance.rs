//! One process of the router: the real worker, and a modelled client that executes what it asks for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::executor::ProcessId;
use super::faults::{DELAY_US, Fault, PAUSE_US, RESTART_US};
use super::group::{self, GroupEvent, Membership};
use super::network::{BEGIN_MS, Fate};
use super::producer::Producer;
use super::reader::{Found, Reader, offset_at, record_at};
use super::world::World;
use crate::broker::wire::{Reply, Request};
use crate::config::StartFrom;
use crate::model::Topic;
use crate::stream::clock::Now;
use crate::stream::worker::event::{Command, Event, Failure};
use crate::stream::worker::{Worker, WorkerSettings};

/// A process that ended by itself is started again after so long, as a service manager would.
const RESPAWN_US: u64 = 500_000;

/// Control topics are read this often.
const CONTROLS_US: u64 = 50_000;

pub struct Instance {
    pub name: String,
    pub world: Rc<World>,
    /// This machine's clock, less the broker's, milliseconds.
    clock_offset_ms: i64,
    paused_until_us: Cell<u64>,
    down_until_us: Cell<u64>,
    processes: RefCell<Vec<ProcessId>>,
}

impl Instance {
    pub fn new(name: &str, world: Rc<World>, clock_offset_ms: i64) -> Rc<Self> {
        Rc::new(Instance {
            name: name.to_owned(),
            world,
            clock_offset_ms,
            paused_until_us: Cell::new(0),
            down_until_us: Cell::new(0),
            processes: RefCell::default(),
        })
    }

    pub fn transactional_id(&self) -> String {
        format!("{}-{}", group::GROUP, self.name)
    }

    fn now(&self) -> Now {
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

    /// A request of the commit path, which may meet a fault.
    pub async fn send(
        &self,
        request: Request,
        timeout_us: u64,
        fault: Option<Fault>,
    ) -> Option<Reply> {
        let within = |range| self.world.faults.borrow_mut().within(range);
        let fate = match fault {
            Some(Fault::RequestLost) => Fate::RequestLost,
            Some(Fault::ResponseLost) => Fate::ResponseLost,
            Some(Fault::Delayed) => Fate::Delayed(within(DELAY_US)),
            Some(Fault::CrashBefore | Fault::CrashAfter | Fault::Paused) | None => Fate::Arrives,
        };
        if fault == Some(Fault::CrashBefore) {
            self.crash(within(RESTART_US)).await;
        }
        if fault == Some(Fault::Paused) {
            let until_us = self.world.network.timeline.now_us() + within(PAUSE_US);
            self.paused_until_us.set(until_us);
            self.sleep(0).await;
        }
        let reply = self.world.network.call(&self.name, request, timeout_us, fate).await;
        if fault == Some(Fault::CrashAfter) {
            self.crash(within(RESTART_US)).await;
        }
        self.sleep(0).await;
        reply
    }

    /// The process is gone at once; whoever keeps it starts it again later.
    async fn crash(&self, down_us: u64) {
        let timeline = &self.world.network.timeline;
        self.down_until_us.set(timeline.now_us() + down_us);
        for process in self.processes.take() {
            timeline.kill(process);
        }
        std::future::pending::<()>().await;
    }

    /// Starts the process, and again whenever it has ended.
    pub async fn keep(self: Rc<Self>, settings: WorkerSettings) {
        let timeline = Rc::clone(&self.world.network.timeline);
        loop {
            let membership = Rc::new(RefCell::new(Membership::default()));
            let done = Rc::new(Cell::new(false));
            let member = timeline.spawn(group::keep(Rc::clone(&self), Rc::clone(&membership)));
            let worker = {
                let (instance, done) = (Rc::clone(&self), Rc::clone(&done));
                let settings = settings.clone();
                timeline.spawn(async move {
                    Client::new(&instance, settings, membership).run().await;
                    done.set(true);
                })
            };
            *self.processes.borrow_mut() = vec![member, worker];
            while !done.get() && !self.processes.borrow().is_empty() {
                timeline.sleep(10_000).await;
            }
            for process in self.processes.take() {
                timeline.kill(process);
            }
            let wait_us = self.down_until_us.get().saturating_sub(timeline.now_us());
            timeline.sleep(wait_us.max(RESPAWN_US)).await;
        }
    }
}

struct Client<'a> {
    instance: &'a Instance,
    worker: Worker,
    membership: Rc<RefCell<Membership>>,
    inputs: Reader,
    controls: Reader,
    journals: Reader,
    producer: Option<Producer>,
    controls_us: u64,
    stopped: bool,
}

impl<'a> Client<'a> {
    fn new(
        instance: &'a Instance,
        settings: WorkerSettings,
        membership: Rc<RefCell<Membership>>,
    ) -> Self {
        Client {
            instance,
            worker: Worker::new(settings),
            membership,
            inputs: Reader::default(),
            controls: Reader::default(),
            journals: Reader::default(),
            producer: None,
            controls_us: 0,
            stopped: false,
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        self.worker.handle(self.instance.now(), event);
    }

    async fn run(mut self) {
        loop {
            self.execute().await;
            self.serve_group();
            self.execute().await;
            if self.stopped {
                return;
            }
            self.read().await;
            self.tell(Event::Tick);
        }
    }

    fn serve_group(&mut self) {
        loop {
            let event = self.membership.borrow_mut().events.pop_front();
            match event {
                None => return,
                Some(GroupEvent::Assigned(lanes)) => {
                    let world = &self.instance.world;
                    let partitions =
                        Topic::ALL.map(|topic| (topic, world.partitions(topic))).to_vec();
                    self.tell(Event::Partitions(partitions));
                    let assigned = lanes.iter().flat_map(|lane| {
                        let partition = i32::try_from(*lane).unwrap_or(-1);
                        Topic::LANE_INPUTS.map(|topic| (topic, partition))
                    });
                    self.tell(Event::Assigned(assigned.collect()));
                }
                Some(GroupEvent::Revoked) => {
                    self.inputs.clear();
                    self.tell(Event::Revoked);
                }
                Some(GroupEvent::Fenced) => self.stopped = true,
            }
        }
    }

    async fn read(&mut self) {
        let (world, name) = (&self.instance.world, self.instance.name.as_str());
        let restoring = !self.journals.is_idle();
        let wait_ms = if restoring { 0 } else { self.worker.wait_ms(self.instance.now()) };
        if self.worker.takes_records() && !self.inputs.is_idle() {
            let found = self.inputs.poll(world, name, wait_ms).await;
            self.instance.sleep(0).await;
            self.hand_over(found);
        } else {
            self.instance.sleep(1_000 * wait_ms.max(1)).await;
        }
        let now_us = self.instance.now().monotonic_us;
        if now_us >= self.controls_us {
            self.controls_us = now_us + CONTROLS_US;
            let found = self.controls.poll(world, name, 0).await;
            // A control topic is compacted: the reader goes on at the earliest record there is.
            let found = found.into_iter().filter(|found| !matches!(found, Found::OutOfRange(..)));
            self.hand_over(found.collect());
        }
        for found in self.journals.poll(world, name, 0).await {
            match found {
                Found::Record(_, partition, record) => {
                    let value = record.value.unwrap_or_default();
                    let lane = u32::try_from(partition).unwrap_or(0);
                    self.tell(Event::JournalRecord { lane, value: &value });
                }
                Found::End(_, partition, _) => {
                    let lane = u32::try_from(partition).unwrap_or(0);
                    self.tell(Event::JournalEnd { lane });
                }
                Found::OutOfRange(..) => {}
            }
        }
    }

    fn hand_over(&mut self, found: Vec<Found>) {
        for found in found {
            match found {
                Found::Record(topic, partition, record) => {
                    record.with_raw(topic, partition, |raw| self.tell(Event::Record(*raw)));
                }
                Found::End(topic, partition, offset) => {
                    self.tell(Event::End { topic, partition, offset });
                }
                Found::OutOfRange(topic, partition, offset) => {
                    self.tell(Event::Deleted { topic, partition, offset });
                }
            }
        }
    }

    async fn execute(&mut self) {
        while let Some(command) = self.worker.next_command() {
            self.execute_one(command).await;
        }
    }

    async fn execute_one(&mut self, command: Command) {
        let instance = self.instance;
        let (world, name) = (&instance.world, instance.name.as_str());
        match command {
            Command::FetchCommitted { ask, lanes } => {
                match group::committed(instance, &lanes).await {
                    Some(lanes) => self.tell(Event::Committed { ask, lanes }),
                    None => self.tell(Event::CommittedUnknown { ask }),
                }
            }
            Command::FindStart { lane, from } => {
                let mut offsets = [0; 3];
                let partition = i32::try_from(lane).unwrap_or(-1);
                for (offset, topic) in offsets.iter_mut().zip(Topic::LANE_INPUTS) {
                    let earliest = from == StartFrom::Earliest || topic == Topic::LaneInbox;
                    let time = if earliest { -2 } else { -1 };
                    let found = offset_at(world, name, topic, partition, time, true).await;
                    *offset = found.unwrap_or(0);
                }
                self.tell(Event::Start { lane, offsets });
            }
            Command::FindSnapshot { ask, lane, .. } => {
                self.tell(Event::SnapshotFound { ask, lane, found: None });
            }
            Command::StoreSnapshot(_)
            | Command::SnapshotAnnounced(_)
            | Command::SnapshotUsed { .. }
            | Command::SnapshotRefused { .. }
            | Command::EpochBegun { .. } => {}
            Command::ReadJournal { lane, .. } => {
                self.journals.set(Topic::Journal, i32::try_from(lane).unwrap_or(-1), 0);
            }
            Command::StopJournal { lane } => {
                self.journals.remove(Topic::Journal, i32::try_from(lane).unwrap_or(-1));
            }
            Command::ReadInputs(inputs) => {
                self.inputs.clear();
                for (topic, partition, offset) in inputs {
                    self.inputs.set(topic, partition, offset);
                }
            }
            Command::ReadControls { fleet, health_events } => {
                self.controls.set(Topic::Fleet, 0, fleet);
                self.controls.set(Topic::HealthEvents, 0, health_events);
                self.controls_us = 0;
            }
            // What is read follows at once.
            Command::Pause { .. } | Command::Resume { .. } => {}
            Command::ReadAgain { lane, offsets } => {
                let partition = i32::try_from(lane).unwrap_or(-1);
                for offset in offsets {
                    match record_at(world, name, Topic::Tasks, partition, offset).await {
                        Some(record) => record.with_raw(Topic::Tasks, partition, |raw| {
                            self.tell(Event::Reread { lane, offset, record: Some(*raw) });
                        }),
                        None => self.tell(Event::Reread { lane, offset, record: None }),
                    }
                }
            }
            Command::FindResultsEnd { lane } => {
                let partition = i32::try_from(lane).unwrap_or(-1);
                let end = offset_at(world, name, Topic::TaskResults, partition, -1, false).await;
                if let Some(end) = end {
                    self.tell(Event::ResultsEnd { lane, end });
                }
            }
            Command::Rejoin => {
                // The member asks to be let in again, under the same name.
                self.membership.borrow_mut().generation = -1;
                self.inputs.clear();
            }
            Command::LaneRuns { .. } | Command::LaneAwaitsFleet { .. } => {}
            Command::LanePanicked { lane, culprit } => {
                world.violation(format!("{name}: the core panicked in lane {lane} at {culprit:?}"));
            }
            Command::LaneStopped { lane, error } => {
                world.violation(format!("{name}: lane {lane} is stopped: {error}"));
            }
            Command::Stop(_) => self.stopped = true,
            Command::Begin
            | Command::Produce(_)
            | Command::Flush
            | Command::SendOffsets(_)
            | Command::Commit
            | Command::Abort
            | Command::Reopen => {
                let done = self.step(&command).await;
                self.tell(done.map_or_else(Event::Failed, |()| Event::Done));
            }
        }
    }

    async fn step(&mut self, command: &Command) -> Result<(), Failure> {
        let instance = self.instance;
        if matches!(command, Command::Reopen) {
            self.producer = None;
            self.producer = Some(Producer::open(instance).await?);
            return Ok(());
        }
        let Some(producer) = &mut self.producer else {
            return Err(Failure::Unknown("there is no producer".to_owned()));
        };
        if let Command::Produce(batch) = command {
            producer.produce(batch);
        } else if let Command::SendOffsets(batches) = command {
            let (member_id, generation) = {
                let membership = self.membership.borrow();
                (membership.member_id.clone(), membership.generation)
            };
            return producer.send_offsets(instance, batches, &member_id, generation).await;
        }
        if matches!(command, Command::Flush) {
            producer.flush(instance).await
        } else if matches!(command, Command::Commit | Command::Abort) {
            producer.end(instance, matches!(command, Command::Commit)).await
        } else {
            Ok(())
        }
    }
}
