//! Receiving the bodies of requests: so long at most, so many bytes in memory at a time, and not slower than
//! the configured rate.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header;
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::ServerConfig;
use crate::error::{Error, Kind, Result};

/// Text of a body that is too long, as Chroma's server has it; what it may have follows.
const TOO_LARGE: &str = "Failed to buffer the request body: length limit exceeded";
/// Memory is counted in pieces of this many bytes.
const PIECE: usize = 1_024;
/// Room that is made at once for a body of an announced length.
const FIRST_ROOM: usize = 1 << 20;

/// How fast a body has to come.
#[derive(Clone, Copy)]
pub(super) struct BodyDeadline {
    started: Instant,
    grace: Duration,
    bytes_per_second: u64,
}

impl BodyDeadline {
    /// From now on.
    pub(super) fn new(server: &ServerConfig) -> Self {
        Self {
            started: Instant::now(),
            grace: Duration::from_millis(server.body_timeout_ms),
            bytes_per_second: server.min_body_bytes_per_second.max(1),
        }
    }

    /// The next part, when so many bytes are there already.
    ///
    /// # Errors
    /// `SlowRequest` when it does not come in time, `InvalidArgument` when the body ends in the middle.
    pub(super) async fn next(
        self,
        body: &mut BodyDataStream,
        received: u64,
    ) -> Result<Option<Bytes>> {
        let due = self.started + self.grace + Duration::from_secs(received / self.bytes_per_second);
        match tokio::time::timeout_at(due, body.next()).await {
            Ok(part) => part.transpose().map_err(|error| {
                Error::invalid("the request body did not arrive whole").because(error.into_inner())
            }),
            Err(_) => Err(Error::new(
                Kind::SlowRequest,
                "the body came too slowly (server.body_timeout_ms, server.min_body_bytes_per_second)",
            )),
        }
    }
}

/// Bounds on all bodies.
#[derive(Clone)]
pub(super) struct Bodies {
    max_bytes: usize,
    server: Arc<ServerConfig>,
    /// Pieces that may be held at the same time.
    memory: Arc<Semaphore>,
}

/// Memory that a body takes, free when this goes.
pub(super) struct Held(Option<OwnedSemaphorePermit>);

impl Bodies {
    pub(super) fn new(server: &ServerConfig) -> Self {
        let pieces = server.max_receiving_bytes.div_ceil(PIECE);
        Self {
            max_bytes: server.max_body_bytes,
            server: Arc::new(server.clone()),
            memory: Arc::new(Semaphore::new(pieces.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The same request with its body in one piece.
    ///
    /// # Errors
    /// `TooLarge`, `SlowRequest`, `InvalidArgument` when it breaks off, `Unavailable` when too much is being
    /// received.
    pub(super) async fn receive(&self, request: Request) -> Result<(Request, Held)> {
        let announced = request
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let (parts, body) = request.into_parts();
        let mut body = body.into_data_stream();
        let deadline = BodyDeadline::new(&self.server);
        if let Some(announced) = announced
            && announced > self.max_bytes
        {
            self.discard(&mut body, deadline, announced.min(2 * self.max_bytes))
                .await?;
            return Err(self.too_large());
        }
        let mut held = Held(None);
        let mut whole = BytesMut::with_capacity(announced.unwrap_or(0).min(FIRST_ROOM));
        while let Some(part) = deadline.next(&mut body, whole.len() as u64).await? {
            if part.len() > self.max_bytes - whole.len() {
                return Err(self.too_large());
            }
            let pieces = |bytes: usize| bytes.div_ceil(PIECE);
            let more = pieces(whole.len() + part.len()) - pieces(whole.len());
            self.hold(&mut held, more)?;
            if announced == Some(part.len()) {
                // It came at once: nothing is copied.
                return Ok((Request::from_parts(parts, Body::from(part)), held));
            }
            whole.extend_from_slice(&part);
        }
        let body = Body::from(whole.freeze());
        Ok((Request::from_parts(parts, body), held))
    }

    fn too_large(&self) -> Error {
        let most = self.max_bytes;
        let text = format!("{TOO_LARGE}: it may have {most} bytes (server.max_body_bytes)");
        Error::new(Kind::TooLarge, text).with("max_body_bytes", most)
    }

    fn hold(&self, held: &mut Held, pieces: usize) -> Result<()> {
        let busy = || {
            Error::new(
                Kind::Unavailable,
                "too much is being received at the same time (server.max_receiving_bytes)",
            )
        };
        let pieces = u32::try_from(pieces).map_err(|_| busy())?;
        let more = Arc::clone(&self.memory)
            .try_acquire_many_owned(pieces)
            .map_err(|_| busy())?;
        match &mut held.0 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// Takes a body in without keeping it: many clients read the answer only after they have sent all.
    async fn discard(
        &self,
        body: &mut BodyDataStream,
        deadline: BodyDeadline,
        most: usize,
    ) -> Result<()> {
        let mut seen = 0;
        while let Some(part) = deadline.next(body, seen as u64).await? {
            seen += part.len();
            if seen > most {
                break;
            }
        }
        Ok(())
    }
}
