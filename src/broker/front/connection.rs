//! One connection: frames in, frames out, one request after the other as Kafka does it.

use std::io;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::ProduceRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::desk::Desk;
use super::fault::Fault;
use super::refusal::{nothing_committed, refusal};
use crate::broker::wire::{self, Call, Reply, Request, WireError};

/// A longer frame ends its connection: Kafka's `socket.request.max.bytes`.
const FRAME_BYTES_MAX: usize = 100 << 20;
/// Room that is made for the next bytes, whatever length a frame claims: that of a usual one.
const CHUNK_BYTES: usize = 64 << 10;
/// What is read of the next requests while one waits for its answer. It is read to learn that the
/// client has gone away.
const AHEAD_BYTES_MAX: usize = 64 << 10;

/// Why a connection ended other than by its client, between two requests.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("a frame of {0} bytes: 0 to {FRAME_BYTES_MAX} are allowed")]
    Length(i32),
    #[error("closed by the client in the midst of a frame or a request")]
    Cut,
    #[error("closed by a fault")]
    Fault,
}

struct Connection<'a> {
    stream: TcpStream,
    desk: &'a Desk,
    /// What was read and not yet used.
    bytes: BytesMut,
}

/// Serves until the client closes it.
pub async fn serve(stream: TcpStream, desk: &Desk) -> Result<(), Ended> {
    stream.set_nodelay(true)?;
    let mut connection = Connection { stream, desk, bytes: BytesMut::new() };
    while let Some(frame) = connection.frame().await? {
        let call = wire::decode(frame)?;
        let (version, correlation_id) = (call.version, call.correlation_id);
        if let Some(reply) = connection.answer(call).await? {
            let frame = wire::encode(&reply, version, correlation_id)
                // A bug of the model, not of the client.
                .inspect_err(|error| tracing::error!(%error, "an answer is lost"))?;
            connection.stream.write_all(&frame).await?;
        }
    }
    Ok(())
}

impl Connection<'_> {
    /// The next frame without its length; `None` at the end.
    async fn frame(&mut self) -> Result<Option<Bytes>, Ended> {
        loop {
            if let Some(length) = self.bytes.first_chunk().copied().map(i32::from_be_bytes) {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= FRAME_BYTES_MAX)
                    .ok_or(Ended::Length(length))?;
                if self.bytes.len() >= 4 + length {
                    return Ok(Some(self.bytes.split_to(4 + length).split_off(4).freeze()));
                }
            }
            if !self.read().await? {
                return if self.bytes.is_empty() { Ok(None) } else { Err(Ended::Cut) };
            }
        }
    }

    /// Reads what there is; false at the end. Nothing is lost where this is not waited for.
    async fn read(&mut self) -> io::Result<bool> {
        self.bytes.reserve(CHUNK_BYTES);
        Ok(self.stream.read_buf(&mut self.bytes).await? > 0)
    }

    /// What the client gets to see, after what befalls its request.
    async fn answer(&mut self, call: Call) -> Result<Option<Reply>, Ended> {
        let refuse = |error| refusal(&call.request, call.version, error);
        match self.desk.faults.befalls(&call.client_id, &call.request) {
            None => self.apply(call).await,
            Some(Fault::DelayRequest(duration)) => {
                tokio::time::sleep(duration).await;
                self.apply(call).await
            }
            Some(Fault::DelayResponse(duration)) => {
                let reply = self.apply(call).await?;
                tokio::time::sleep(duration).await;
                Ok(reply)
            }
            Some(Fault::DropRequest) => Ok(None),
            Some(Fault::DropResponse) => self.apply(call).await.map(|_| None),
            Some(Fault::Error(error)) => Ok(is_answered(&call.request).then(|| refuse(error))),
            Some(Fault::ErrorAfter(error)) => {
                let refused = refuse(error);
                Ok(self.apply(call).await?.map(|_| refused))
            }
            Some(Fault::Behind) => match nothing_committed(&call.request) {
                Some(reply) => Ok(Some(reply)),
                None => self.apply(call).await,
            },
            Some(Fault::CloseBefore) => Err(Ended::Fault),
            Some(Fault::CloseAfter) => {
                self.apply(call).await?;
                Err(Ended::Fault)
            }
            // It is no more than a beginning: what it does to a request comes as an error.
            Some(Fault::CoordinatorAway(_)) => self.apply(call).await,
        }
    }

    /// The model's answer.
    async fn apply(&mut self, call: Call) -> Result<Option<Reply>, Ended> {
        let is_answered = is_answered(&call.request);
        let (ticket, mut reply) = self.desk.request(call);
        if !is_answered {
            self.desk.forget(ticket);
            return Ok(None);
        }
        loop {
            let has_room = self.bytes.len() < AHEAD_BYTES_MAX;
            tokio::select! {
                biased;
                // Without a sender there will be no answer: that is silence.
                reply = &mut reply => return Ok(reply.ok()),
                read = self.read(), if has_room => {
                    if !matches!(read, Ok(true)) {
                        self.desk.forget(ticket);
                        read?;
                        return Err(Ended::Cut);
                    }
                }
            }
        }
    }
}

fn is_answered(request: &Request) -> bool {
    !matches!(request, Request::Produce(ProduceRequest { acks: 0, .. }))
}
