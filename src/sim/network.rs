//! The way between clients and the modelled Kafka: latencies, and requests and responses that are lost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use kafka_protocol::ResponseError;
use rand_chacha::ChaCha8Rng;

use super::dice::Dice;
use super::executor::{ProcessId, Timeline};
use crate::broker::front::refusal;
use crate::broker::wire::{Reply, Request, SERVED};
use crate::broker::{Broker, Settings, Ticket};

/// When a simulation begins, milliseconds since 1970: any time will do.
pub const BEGIN_MS: i64 = 1_800_000_000_000;

/// One way takes so long where nothing is wrong, microseconds.
const LATENCY_US: std::ops::Range<u64> = 100..1_500;

/// Answers that nobody waits for any more are not kept; nothing waits longer than this.
const NEVER_US: u64 = u64::MAX / 2;

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    /// It never gets there.
    RequestLost,
    /// It takes effect, and the answer never comes.
    ResponseLost,
    /// The answer comes late, microseconds.
    Delayed(u64),
    /// It arrives late, microseconds, when its sender has gone on; nobody waits for the answer.
    Overtaken(u64),
    /// It takes no effect, and this error is the answer.
    Refused(ResponseError),
    /// It takes effect, and this error is the answer.
    SeemsRefused(ResponseError),
}

pub struct Network {
    pub timeline: Rc<Timeline>,
    broker: RefCell<Broker>,
    waiting: RefCell<BTreeMap<Ticket, ProcessId>>,
    replies: RefCell<BTreeMap<Ticket, Reply>>,
    last_ticket: Cell<u64>,
    dice: RefCell<ChaCha8Rng>,
    keeper: Cell<Option<ProcessId>>,
    requests: Cell<u64>,
    /// When the broker's time is looked after next.
    awaited_us: Cell<u64>,
    /// Until then no request of a router arrives.
    out_until_us: Cell<u64>,
}

impl Network {
    pub fn new(timeline: Rc<Timeline>, dice: ChaCha8Rng) -> Rc<Self> {
        let network = Rc::new(Network {
            timeline,
            broker: RefCell::new(Broker::new(Settings::default())),
            waiting: RefCell::default(),
            replies: RefCell::default(),
            last_ticket: Cell::new(0),
            dice: RefCell::new(dice),
            keeper: Cell::new(None),
            requests: Cell::new(0),
            awaited_us: Cell::new(0),
            out_until_us: Cell::new(0),
        });
        let kept = Rc::clone(&network);
        network.keeper.set(Some(network.timeline.spawn(async move { kept.keep_time().await })));
        network
    }

    /// The broker's clock, milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        BEGIN_MS + i64::try_from(self.timeline.now_us() / 1_000).unwrap_or(0)
    }

    /// Requests that were sent.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Sends a request, and waits for its answer for `timeout_us` at most.
    pub async fn call(
        self: &Rc<Self>,
        client: &str,
        request: Request,
        timeout_us: u64,
        fate: Fate,
    ) -> Option<Reply> {
        let deadline_us = self.timeline.now_us().saturating_add(timeout_us);
        self.requests.set(self.requests.get() + 1);
        self.travel().await;
        if let Fate::Refused(error) = fate {
            self.travel().await;
            return Some(refusal(&request, version_of(&request), error));
        }
        if let Fate::Overtaken(us) = fate {
            let (network, client) = (Rc::clone(self), client.to_owned());
            self.timeline.spawn(async move {
                network.timeline.sleep(us).await;
                network.drop_in(&client, request);
            });
            self.timeline.sleep(deadline_us.saturating_sub(self.timeline.now_us())).await;
            return None;
        }
        if fate == Fate::RequestLost || self.timeline.now_us() < self.out_until_us.get() {
            self.timeline.sleep(deadline_us.saturating_sub(self.timeline.now_us())).await;
            return None;
        }
        let ticket = Ticket(self.last_ticket.get() + 1);
        self.last_ticket.set(ticket.0);
        self.waiting.borrow_mut().insert(ticket, self.timeline.current());
        // Gone with the process that waits, where that is ended.
        let forget = Forget { network: Rc::clone(self), ticket };
        let seems = match fate {
            Fate::SeemsRefused(error) => Some(refusal(&request, version_of(&request), error)),
            Fate::Arrives
            | Fate::RequestLost
            | Fate::ResponseLost
            | Fate::Delayed(_)
            | Fate::Overtaken(_)
            | Fate::Refused(_) => None,
        };
        self.submit(ticket, client, request);
        loop {
            if self.replies.borrow().contains_key(&ticket) {
                break;
            }
            if self.timeline.now_us() >= deadline_us {
                drop(forget);
                return None;
            }
            self.timeline.until(deadline_us.min(NEVER_US)).await;
        }
        let reply = self.replies.borrow_mut().remove(&ticket);
        drop(forget);
        match fate {
            Fate::Arrives | Fate::RequestLost | Fate::Refused(_) | Fate::SeemsRefused(_) => {
                self.travel().await;
            }
            Fate::Delayed(us) => self.timeline.sleep(us).await,
            Fate::ResponseLost | Fate::Overtaken(_) => {
                self.timeline.sleep(deadline_us.saturating_sub(self.timeline.now_us())).await;
                return None;
            }
        }
        if self.timeline.now_us() > deadline_us { None } else { seems.or(reply) }
    }

    /// From now on and for so long, nothing that is sent through the network arrives.
    pub fn fall_out(&self, us: u64) {
        let until_us = self.timeline.now_us().saturating_add(us);
        self.out_until_us.set(until_us.max(self.out_until_us.get()));
    }

    /// Sends a request past the network, for those who look on: it arrives at once.
    pub fn ask(&self, request: Request) -> Option<Reply> {
        let ticket = Ticket(self.last_ticket.get() + 1);
        self.last_ticket.set(ticket.0);
        self.waiting.borrow_mut().insert(ticket, self.timeline.current());
        self.submit(ticket, "onlooker", request);
        self.waiting.borrow_mut().remove(&ticket);
        self.replies.borrow_mut().remove(&ticket)
    }

    /// A request whose answer nobody waits for.
    fn drop_in(&self, client: &str, request: Request) {
        let ticket = Ticket(self.last_ticket.get() + 1);
        self.last_ticket.set(ticket.0);
        self.submit(ticket, client, request);
    }

    async fn travel(&self) {
        let us = self.dice.borrow_mut().within(LATENCY_US);
        self.timeline.sleep(us).await;
    }

    fn submit(&self, ticket: Ticket, client: &str, request: Request) {
        let version = version_of(&request);
        let now_ms = self.now_ms();
        self.broker.borrow_mut().request(now_ms, ticket, client, version, request);
        self.deliver();
        // The broker may have something to do earlier than it thought.
        let due_us = self.due_us();
        if due_us < self.awaited_us.get()
            && let Some(keeper) = self.keeper.get()
        {
            self.awaited_us.set(due_us);
            self.timeline.wake(keeper);
        }
    }

    /// When the broker has something to do by itself, in the simulation's time.
    fn due_us(&self) -> u64 {
        let due_ms = self.broker.borrow().due_ms();
        due_ms.map_or(NEVER_US, |due_ms| {
            u64::try_from(due_ms.max(self.now_ms() + 1) - BEGIN_MS).unwrap_or(0) * 1_000
        })
    }

    fn deliver(&self) {
        while let Some((ticket, reply)) = self.broker.borrow_mut().next_reply() {
            if let Some(process) = self.waiting.borrow().get(&ticket) {
                self.replies.borrow_mut().insert(ticket, reply);
                self.timeline.wake(*process);
            }
        }
    }

    /// Lets the broker's time pass.
    async fn keep_time(&self) {
        loop {
            let now_ms = self.now_ms();
            self.broker.borrow_mut().advance(now_ms);
            self.deliver();
            let at_us = self.due_us();
            self.awaited_us.set(at_us);
            self.timeline.until(at_us).await;
        }
    }
}

struct Forget {
    network: Rc<Network>,
    ticket: Ticket,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.network.waiting.borrow_mut().remove(&self.ticket);
        self.network.replies.borrow_mut().remove(&self.ticket);
        self.network.broker.borrow_mut().forget(self.ticket);
    }
}

/// The newest version that is served.
fn version_of(request: &Request) -> i16 {
    let api = request.api();
    SERVED.iter().find(|(served, ..)| *served == api).map_or(0, |(_, _, newest)| *newest)
}
