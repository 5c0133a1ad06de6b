//! The modelled client: does what the real worker asks for, as `stream/client` does with librdkafka.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::group::{self, GroupEvent, Membership};
use super::instance::Instance;
use super::keeper::{Answer, Desk, Request};
use super::planner::PLANNING_LANE;
use super::producer::Producer;
use super::reader::{Found, Reader, offset_at, record_at};
use crate::config::StartFrom;
use crate::model::Topic;
use crate::stream::worker::event::{Command, Event, Failure, FoundSnapshot, SnapshotSource};
use crate::stream::worker::{LaneState, Worker, WorkerSettings};

/// Control topics are read this often.
const CONTROLS_US: u64 = 100_000;

/// A worker that has nothing to do for so long is left alone for so long.
const SOON_MS: u64 = 10;
const IDLE_MS: u64 = 30;

pub struct Client<'a> {
    instance: &'a Instance,
    worker: Worker,
    membership: Rc<RefCell<Membership>>,
    desk: Rc<Desk>,
    /// Whether the planner of rights runs in this process.
    plans: Rc<Cell<bool>>,
    inputs: Reader,
    controls: Reader,
    journals: Reader,
    producer: Option<Producer>,
    controls_us: u64,
    stopped: bool,
    told: bool,
}

impl<'a> Client<'a> {
    pub fn new(
        instance: &'a Instance,
        settings: WorkerSettings,
        membership: Rc<RefCell<Membership>>,
        desk: Rc<Desk>,
        plans: Rc<Cell<bool>>,
    ) -> Self {
        Client {
            instance,
            worker: Worker::new(settings),
            membership,
            desk,
            plans,
            inputs: Reader::default(),
            controls: Reader::default(),
            journals: Reader::default(),
            producer: None,
            controls_us: 0,
            stopped: false,
            told: false,
        }
    }

    fn tell(&mut self, event: Event<'_>) {
        self.worker.handle(self.instance.now(), event);
    }

    /// Runs until the worker ends.
    pub async fn run(mut self) {
        loop {
            self.execute().await;
            if self.instance.ending.get() && !self.told {
                self.told = true;
                self.tell(Event::Shutdown);
                continue;
            }
            self.serve_group();
            self.execute().await;
            if self.stopped {
                return;
            }
            self.read().await;
            self.hear();
            self.tell(Event::Tick);
            let states = self.worker.lane_states();
            self.plans.set(states.contains(&(PLANNING_LANE, LaneState::Running)));
        }
    }

    /// What has become of snapshots.
    fn hear(&mut self) {
        while let Some(answer) = self.desk.next_answer() {
            match answer {
                Answer::Found { ask, lane, found } => {
                    let found = found.as_ref().map(|found| FoundSnapshot {
                        seq: found.seq,
                        source: found.source,
                        bytes: &found.bytes,
                    });
                    self.tell(Event::SnapshotFound { ask, lane, found });
                }
                Answer::Stored { lane, run, manifest } => {
                    self.tell(Event::SnapshotStored { lane, run, manifest });
                }
            }
        }
    }

    fn serve_group(&mut self) {
        loop {
            let event = self.membership.borrow_mut().events.pop_front();
            match event {
                None => return,
                Some(GroupEvent::Assigned(lanes)) => {
                    self.count_partitions();
                    self.desk.ask(self.instance, Request::Assigned);
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

    fn count_partitions(&mut self) {
        let world = &self.instance.world;
        let partitions = Topic::ALL.map(|topic| (topic, world.partitions(topic))).to_vec();
        self.tell(Event::Partitions(partitions));
    }

    async fn read(&mut self) {
        let (world, name) = (&self.instance.world, self.instance.name.as_str());
        let restoring = !self.journals.is_idle();
        let wait_ms = if restoring { 0 } else { self.worker.wait_ms(self.instance.now()) };
        // Nothing is due, and what comes is handed over at once.
        let wait_ms = if wait_ms >= SOON_MS { IDLE_MS } else { wait_ms };
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
            Command::FindSnapshot { ask, lane, seq_max, published } => {
                self.desk.ask(instance, Request::Find { ask, lane, seq_max, published });
            }
            Command::StoreSnapshot(taken) => self.desk.ask(instance, Request::Store(taken)),
            Command::SnapshotAnnounced(manifest) => {
                world.beginnings.borrow_mut().announced += 1;
                self.desk.ask(instance, Request::Announced(manifest));
            }
            Command::SnapshotUsed { source, .. } => {
                let mut beginnings = world.beginnings.borrow_mut();
                match source {
                    SnapshotSource::Local => beginnings.local += 1,
                    SnapshotSource::Published => beginnings.published += 1,
                }
            }
            Command::SnapshotRefused { lane, seq, source, error } => {
                // Damage is found before: what is offered to a lane belongs to it.
                world.violation(format!("{name}: snapshot {seq} of lane {lane}: {error}"));
                self.desk.ask(instance, Request::Refused { lane, seq, source });
            }
            Command::OffsetsBehind { .. } => world.beginnings.borrow_mut().behind += 1,
            Command::EpochBegun { lane, epoch, .. } => {
                world.violation(format!("{name}: lane {lane} begins epoch {epoch}"));
            }
            Command::ReadJournal { lane, from } => {
                let partition = i32::try_from(lane).unwrap_or(-1);
                let offset = match from {
                    Some(from) => {
                        world.beginnings.borrow_mut().inside += 1;
                        let time = from.as_ms();
                        offset_at(world, name, Topic::Journal, partition, time, true).await
                    }
                    None => {
                        world.beginnings.borrow_mut().whole += 1;
                        None
                    }
                };
                self.journals.set(Topic::Journal, partition, offset.unwrap_or(0).max(0));
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
            Command::LaneRuns { .. }
            | Command::LaneAwaitsFleet { .. }
            | Command::LaneWaits { .. } => {}
            Command::CountPartitions => self.count_partitions(),
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
