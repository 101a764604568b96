//! Accepting connections: bounded in number, in the time that the head of a request may take, and closed in
//! order at the end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::connections::{Busy, Connection, Connections};
use super::newline::longer_by;
use super::prefix::Prefix;
use super::routes::router;
use super::tls::Certificates;
use super::transfer_rate::{MinimumRateStream, MinimumTransferRate};
use crate::app::App;
use crate::error::Result;

/// After an error that is not the client's (no file descriptor left): until some are free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For what is left of an answer on a connection that is to be closed.
const CLOSING_PAUSE: Duration = Duration::from_secs(1);
/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// An answer is handed on in pieces of at most this.
const PIECE_BYTES: usize = 64 * 1024;
/// What a connection is told for which there is no place.
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nchroma-trace-id: 00000000000000000000000000000000\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves until `shutdown` resolves, then finishes running requests within the configured grace period
/// and closes the application.
///
/// # Errors
/// `InvalidArgument` for a certificate that cannot be used, `StorageFault` when the last sync fails.
pub async fn serve(
    app: App,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let certificates = match Certificates::open(&app.config().tls) {
        Ok(certificates) => certificates,
        Err(error) => {
            app.close(Duration::ZERO).await?;
            return Err(error);
        }
    };
    let watching = certificates.clone().map(|certificates| {
        let interval = Duration::from_millis(app.config().tls.reload_interval_ms);
        tokio::spawn(watch_files(certificates, interval))
    });
    let settings = &app.config().server;
    let server = Server {
        router: router(&app),
        prefix: Prefix::new(&settings.base_path),
        minimum_rate: MinimumTransferRate {
            grace: Duration::from_millis(settings.write_timeout_ms),
            bytes_per_second: settings.min_body_bytes_per_second,
        },
        certificates,
        connections: Connections::new(settings.max_connections),
        header_timeout: Duration::from_millis(settings.header_timeout_ms),
    };
    let (stopping, stopped) = watch::channel(false);
    tokio::select! {
        never = server.accept(&listener, &stopped) => match never {},
        () = shutdown => {}
    }
    app.start_draining();
    let delay = Duration::from_millis(settings.drain_delay_ms);
    tracing::info!(
        ?delay,
        "stopping: not ready; then no new connections; finishing running requests"
    );
    server.go_on(&listener, delay, &stopped).await;
    drop(listener);
    stopping.send_replace(true);
    let grace = Duration::from_millis(settings.shutdown_grace_ms);
    // Requests that wait for a job end with it.
    let (finished, ()) = tokio::join!(
        tokio::time::timeout(grace, server.connections.closed()),
        app.jobs().drain(grace)
    );
    if finished.is_err() {
        tracing::warn!("requests were still running when the grace period ended");
    }
    if let Some(watching) = watching {
        watching.abort();
    }
    app.close(Duration::ZERO).await?;
    tracing::info!("stopped");
    Ok(())
}

async fn watch_files(certificates: Arc<Certificates>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let certificates = Arc::clone(&certificates);
        let reload = tokio::task::spawn_blocking(move || certificates.reload());
        if reload.await.is_err() {
            tracing::error!("reading the TLS certificate panicked");
        }
    }
}

/// A connection that its client gave up before it was accepted is no matter; everything else takes a moment.
async fn pause_after(error: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        return;
    }
    tracing::error!(%error, "no connection can be accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

struct Server {
    router: Router,
    prefix: Prefix,
    certificates: Option<Arc<Certificates>>,
    connections: Arc<Connections>,
    header_timeout: Duration,
    minimum_rate: MinimumTransferRate,
}

impl Server {
    async fn accept(&self, listener: &TcpListener, stopped: &watch::Receiver<bool>) -> Infallible {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => self.take(stream, from, stopped.clone()),
                Err(error) => pause_after(&error).await,
            }
        }
    }

    /// Still accepts for a while: whoever sends requests here has to see first that this is not ready.
    async fn go_on(
        &self,
        listener: &TcpListener,
        delay: Duration,
        stopped: &watch::Receiver<bool>,
    ) {
        if !delay.is_zero() {
            let _ = tokio::time::timeout(delay, self.accept(listener, stopped)).await;
        }
    }

    fn take(&self, stream: TcpStream, from: SocketAddr, stopped: watch::Receiver<bool>) {
        // Small answers must not wait for the acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        let Some(connection) = self.connections.admit() else {
            tracing::warn!(%from, "no place for a connection (server.max_connections)");
            if self.certificates.is_none() {
                tokio::spawn(refuse(stream));
            }
            return;
        };
        let connection = Arc::new(connection);
        let routes = (self.router.clone(), self.prefix.clone());
        let timeout = self.header_timeout;
        // TLS sends of its own as well: the bound is below it.
        let stream = MinimumRateStream::new(stream, self.minimum_rate);
        let acceptor = self.certificates.as_ref().map(|found| found.acceptor());
        tokio::spawn(async move {
            let Some(acceptor) = acceptor else {
                return answer(stream, routes, timeout, connection, stopped).await;
            };
            let handshake = tokio::time::timeout(timeout, acceptor.accept(stream));
            let mut stops = stopped.clone();
            let stream = tokio::select! {
                accepted = handshake => accepted,
                () = connection.evicted() => return,
                _ = stops.wait_for(|stopped| *stopped) => return,
            };
            match stream {
                Ok(Ok(stream)) => answer(stream, routes, timeout, connection, stopped).await,
                Ok(Err(error)) => tracing::debug!(%from, %error, "no TLS connection"),
                Err(_) => tracing::debug!(%from, "a TLS handshake took too long"),
            }
        });
    }
}

async fn refuse(mut stream: TcpStream) {
    // Who does not take it has not waited for it either.
    let _ = stream.write_all(NO_PLACE).await;
    let _ = stream.shutdown().await;
}

/// Answers the requests of one connection until it ends, is to make room, or the service stops.
async fn answer<S>(
    stream: S,
    (router, prefix): (Router, Prefix),
    header_timeout: Duration,
    connection: Arc<Connection>,
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let place = Arc::clone(&connection);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let busy = place.request();
        let (router, prefix) = (router.clone(), prefix.clone());
        async move {
            let response = match prefix.strip(request.map(Body::new)) {
                Ok(request) => router
                    .oneshot(request)
                    .await
                    .map(|response| prefix.put(response))?,
                Err(redirect) => redirect,
            };
            let answer: std::result::Result<_, Infallible> = Ok(response.map(|body| Answered {
                body,
                rest: Bytes::new(),
                _busy: busy,
            }));
            answer
        }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        ended = served.as_mut() => return log(ended),
        // Between the choice and now a request may have come: it is answered first.
        () = connection.evicted() => if !connection.is_busy() {
            return;
        },
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    served.as_mut().graceful_shutdown();
    loop {
        // A request that is being answered is finished; the head of one that never comes is not waited for.
        match tokio::time::timeout(CLOSING_PAUSE, served.as_mut()).await {
            Ok(ended) => return log(ended),
            Err(_) if connection.is_busy() => {}
            Err(_) => return,
        }
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// The body of an answer: the connection is busy until it is handed on, which goes in pieces, as fast as the
/// client takes them.
struct Answered {
    body: Body,
    /// What is left of the part that is being handed on.
    rest: Bytes,
    _busy: Busy,
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        longer_by(&self.body.size_hint(), self.rest.len() as u64)
    }
}
