//! Where the connections meet the model: it takes a request, and brings the answer to whoever waits
//! for it. All on one thread, and nothing here waits while the model is borrowed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::fault::Faults;
use crate::broker::wire::{Call, Reply};
use crate::broker::{Broker, Ticket};
use crate::clock::wall_now;

/// How soon the model is looked after again at the earliest.
const AGAIN_MIN: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct Desk {
    pub faults: Faults,
    inner: RefCell<Inner>,
    /// The model is due earlier than its clock believes.
    earlier: Notify,
}

#[derive(Debug)]
struct Inner {
    broker: Broker,
    /// At most one for each connection.
    waiting: BTreeMap<Ticket, oneshot::Sender<Reply>>,
    tickets: u64,
    /// When the clock will look after the model.
    armed_ms: Option<i64>,
}

impl Desk {
    pub fn new(broker: Broker, faults: Faults) -> Self {
        let waiting = BTreeMap::new();
        Desk {
            faults,
            inner: RefCell::new(Inner { broker, waiting, tickets: 0, armed_ms: None }),
            earlier: Notify::new(),
        }
    }

    /// Hands a request to the model. The answer comes by the channel, now or later.
    pub fn request(&self, call: Call) -> (Ticket, oneshot::Receiver<Reply>) {
        let mut inner = self.inner.borrow_mut();
        let ticket = Ticket(inner.tickets);
        inner.tickets += 1;
        let (sender, receiver) = oneshot::channel();
        inner.waiting.insert(ticket, sender);
        let now_ms = wall_now().as_ms();
        inner.broker.request(now_ms, ticket, &call.client_id, call.version, call.request);
        inner.deliver();
        let due_ms = inner.broker.due_ms();
        if due_ms.is_some_and(|due| inner.armed_ms.is_none_or(|armed| due < armed)) {
            self.earlier.notify_one();
        }
        (ticket, receiver)
    }

    /// Nobody waits for this answer any more.
    pub fn forget(&self, ticket: Ticket) {
        let mut inner = self.inner.borrow_mut();
        inner.waiting.remove(&ticket);
        inner.broker.forget(ticket);
    }

    /// Lets the model's time pass. Never ends.
    pub async fn keep_time(&self) {
        loop {
            let now_ms = wall_now().as_ms();
            let wait = {
                let mut inner = self.inner.borrow_mut();
                inner.broker.advance(now_ms);
                inner.deliver();
                inner.armed_ms = inner.broker.due_ms();
                inner.armed_ms.map(|due| {
                    Duration::from_millis(u64::try_from(due - now_ms).unwrap_or(0)).max(AGAIN_MIN)
                })
            };
            let earlier = self.earlier.notified();
            match wait {
                None => earlier.await,
                Some(wait) => {
                    tokio::select! {
                        () = earlier => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }
}

impl Inner {
    fn deliver(&mut self) {
        while let Some((ticket, reply)) = self.broker.next_reply() {
            if let Some(sender) = self.waiting.remove(&ticket) {
                // The connection that waited is gone.
                drop(sender.send(reply));
            }
        }
    }
}
