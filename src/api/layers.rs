//! What surrounds every request: its id, a log line, the bounds on time and number, and the answers for
//! paths and methods that do not exist.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use uuid::Uuid;

use super::bodies::Bodies;
use super::error::{Problem, refusal};
use super::jobs::asks_to_wait;
use super::measure;
use super::request_id::{self, REQUEST_ID};
use super::route_list::Requirements;
use super::running::{GiveUpOnDrop, GivenUp, Running};
use crate::app::App;
use crate::error::{Error, Kind};

const TRACE_ID: HeaderName = HeaderName::from_static("chroma-trace-id");
/// A request id that a client sends is taken over up to this length.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Gives the request its id, logs it, and puts the id on the answer.
pub(super) async fn identify(request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
        .map(str::to_owned);
    let unique = Uuid::now_v7().simple().to_string();
    let id = given.unwrap_or_else(|| unique.clone());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", id = %id, %method, path);
    let started = Instant::now();
    let answered = async {
        let response = next.run(request).await;
        explain_unknown(&method, &path, response)
    };
    let mut response = request_id::scope(id.clone(), answered)
        .instrument(span.clone())
        .await;
    let status = response.status();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    if (status.is_client_error() || status.is_server_error())
        && let Ok(value) = HeaderValue::from_str(&unique)
    {
        headers.insert(TRACE_ID, value);
    }
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    span.in_scope(|| {
        let status = status.as_u16();
        if status >= 500 && ![501, 503].contains(&status) {
            tracing::warn!(status, duration_ms, "request answered");
        } else {
            tracing::debug!(status, duration_ms, "request answered");
        }
    });
    response
}

/// A panic gets its family's error for a body. Outside `/api`, unknown paths and wrong methods get a problem for a body; below it they stay empty, as
/// Chroma's server leaves them.
fn explain_unknown(method: &Method, path: &str, response: Response) -> Response {
    if response.extensions().get::<Panicked>().is_some() {
        return refusal(path, Error::internal("the request's handler panicked"));
    }
    let status = response.status();
    let unknown = matches!(
        status,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    ) && !response.headers().contains_key(header::CONTENT_TYPE);
    if !unknown || path.starts_with("/api/") || path == "/" {
        return response;
    }
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            Error::new(Kind::NotAllowed, format!("{path} takes no {method}"))
        }
        _ => Error::not_found(format!("there is no {path}")),
    };
    let mut problem = Problem(error).into_response();
    if let Some(allow) = response.headers().get(header::ALLOW) {
        problem.headers_mut().insert(header::ALLOW, allow.clone());
    }
    problem
}

const PLANNED_PATHS: [&str; 2] = ["/restore", "/migrate"];
const IMPORT_PATH: &str = "/backups/import";

/// Bounds on requests.
#[derive(Clone)]
pub(super) struct Bounds {
    running: Arc<Semaphore>,
    timeout: Duration,
    wait_timeout: Duration,
    bodies: Bodies,
    requirements: Arc<Requirements>,
}

impl Bounds {
    pub(super) fn new(app: &App, requirements: Arc<Requirements>) -> Self {
        let server = &app.config().server;
        Self {
            running: Arc::new(Semaphore::new(server.max_concurrent_requests)),
            timeout: Duration::from_millis(server.request_timeout_ms),
            wait_timeout: Duration::from_millis(app.config().jobs.wait_timeout_ms),
            bodies: Bodies::new(server),
            requirements,
        }
    }
}

/// Refuses what is too much and ends what takes too long. Probes are exempt from the first. A request counts
/// from when it is there as a whole: one that comes slowly takes no place.
pub(super) async fn bound(State(bounds): State<Bounds>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let (request, _held) = if takes_body(&request, &bounds.requirements) {
        match bounds.bodies.receive(request).await {
            Ok((request, held)) => (request, Some(held)),
            Err(error) => return refusal(&path, error),
        }
    } else {
        (request, None)
    };
    let permit = bounds.running.try_acquire();
    if permit.is_err() && !bounds.requirements.is_open(&path) {
        measure::count_refused();
        return refusal(
            &path,
            Error::new(
                Kind::Unavailable,
                "too many requests are running (server.max_concurrent_requests)",
            ),
        );
    }
    let waits = !path.starts_with("/api/")
        && request
            .uri()
            .query()
            .is_some_and(|query| query.split('&').any(asks_to_wait));
    let mut timeout = bounds.timeout;
    // A dry run may have to read all that the job would.
    if waits || PLANNED_PATHS.contains(&path.as_str()) {
        timeout += bounds.wait_timeout;
    }
    // An upload may take its time as long as it goes on; it looks at that itself.
    if path == IMPORT_PATH {
        timeout = Duration::MAX;
    }
    let is_safe = request.method().is_safe();
    let running = Running::default();
    let _left = GiveUpOnDrop(running.clone());
    let answered = tokio::time::timeout(timeout, running.scope(next.run(request))).await;
    answered.unwrap_or_else(|_| refusal(&path, too_long(timeout, is_safe, running.give_up())))
}

/// What a request is told that took too long: whether what it asked for may still happen.
fn too_long(timeout: Duration, is_safe: bool, given_up: GivenUp) -> Error {
    let what = match given_up {
        _ if is_safe => "",
        GivenUp::Stopped => "; it was stopped, and changed nothing",
        GivenUp::GoesOn => "; what it asked for may still take effect",
    };
    let timeout = timeout.as_millis();
    Error::new(
        Kind::Timeout,
        format!("the request took longer than {timeout} ms{what}"),
    )
}

/// Whether a route is there that reads a body as a whole.
fn takes_body(request: &Request, requirements: &Requirements) -> bool {
    let reads = matches!(
        *request.method(),
        Method::POST | Method::PUT | Method::PATCH | Method::DELETE
    );
    reads
        && !request.body().is_end_stream()
        && request.uri().path() != IMPORT_PATH
        // Nobody's body is read without a key.
        && request
            .extensions()
            .get::<MatchedPath>()
            .is_some_and(|route| !requirements.is_open(route.as_str()))
}

/// Stands on the answer in place of a panic, until [`identify`] gives it its family's body.
#[derive(Clone, Copy)]
struct Panicked;

/// The answer in place of a panic.
pub(super) fn panicked(_: Box<dyn std::any::Any + Send + 'static>) -> Response<Body> {
    let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
    response.extensions_mut().insert(Panicked);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_answered_with_the_body_of_the_paths_family() {
        for (path, media_type) in [
            ("/api/v2/tenants/x", "application/json"),
            ("/backups", "application/problem+json"),
        ] {
            let response = explain_unknown(&Method::GET, path, panicked(Box::new("defect")));
            assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(
                response.headers()[header::CONTENT_TYPE],
                media_type,
                "{path}"
            );
        }
    }
}
