//! The TCP front of the modelled Kafka: any client talks to it as to a broker. All connections and
//! the model share one thread, so nothing is locked. For development and tests: it listens on
//! loopback unless it is told otherwise, knows no TLS and asks nobody who they are.

mod connection;
mod desk;
mod fault;
mod refusal;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};

use super::{Broker, Settings};
use desk::Desk;
pub use fault::{Fault, Faults, Rule, RuleId};
pub use refusal::refusal;

/// After a connection could not be accepted, as where the process has no more file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontSettings {
    /// Port 0 stands for one that is free.
    pub address: SocketAddr,
    /// Whoever comes when there are so many is turned away.
    pub connections_max: usize,
    /// Its host and port are those of the address in fact.
    pub broker: Settings,
}

impl Default for FrontSettings {
    fn default() -> Self {
        FrontSettings {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            // A client holds two or three. The usual limit of a process is 1,024 descriptors.
            connections_max: 800,
            broker: Settings::default(),
        }
    }
}

/// A broker that serves, until it is dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    faults: Faults,
    /// Its end tells the thread to stop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Binds the address and serves it on a thread of its own.
    ///
    /// # Errors
    /// Where the address is taken, or not this host's, or the thread cannot be started.
    pub fn start(settings: FrontSettings) -> io::Result<Front> {
        let FrontSettings { address, connections_max, mut broker } = settings;
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        broker.host = address.ip().to_string();
        broker.port = address.port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let faults = Faults::default();
        let (stop, stopped) = oneshot::channel();
        let shared = faults.clone();
        let thread = std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
            let desk = Rc::new(Desk::new(Broker::new(broker), shared));
            let serving = serve(listener, connections_max, desk, stopped);
            if let Err(error) = LocalSet::new().block_on(&runtime, serving) {
                tracing::error!(%error, "the broker ended");
            }
        })?;
        Ok(Front { address, faults, stop: Some(stop), thread: Some(thread) })
    }

    /// The address in fact: what clients take for `bootstrap.servers`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What shall happen to requests; may be kept and used from any thread.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// False where the model failed: nobody is served any more.
    pub fn is_serving(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported there.
            drop(thread.join());
        }
    }
}

/// Serves until `stopped`, or until the model panics: what it would answer then is worth nothing.
async fn serve(
    listener: TcpListener,
    connections_max: usize,
    desk: Rc<Desk>,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    let clock = Rc::clone(&desk);
    connections.spawn_local(async move { clock.keep_time().await });
    loop {
        tokio::select! {
            // Whatever its end is, that of the front is meant.
            _ = &mut stopped => return Ok(()),
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    return Err(io::Error::other(error));
                }
            }
            accepted = listener.accept() => match accepted {
                // The clock is one of them.
                Ok((_, peer)) if connections.len() > connections_max => {
                    tracing::warn!(%peer, connections_max, "turned away: too many connections");
                }
                Ok((stream, peer)) => {
                    let desk = Rc::clone(&desk);
                    connections.spawn_local(async move {
                        if let Err(error) = connection::serve(stream, &desk).await {
                            tracing::debug!(%peer, %error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}
