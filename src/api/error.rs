//! The one table from kinds of errors to statuses, and the two bodies an error can have.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::request_id::current_request_id;
use crate::error::{Error, Kind};
use crate::jobs::JobProblem;

/// What a kind becomes.
struct Case {
    status: StatusCode,
    /// Last part of the problem's type.
    slug: &'static str,
    title: &'static str,
    /// Chroma's name for it.
    chroma: &'static str,
}

fn case(kind: Kind) -> Case {
    let (status, slug, title, chroma) = match kind {
        Kind::InvalidArgument => (
            400,
            "invalid-argument",
            "Bad request",
            "InvalidArgumentError",
        ),
        Kind::Unprocessable => (422, "unprocessable", "Unprocessable content", "ChromaError"),
        Kind::NotFound => (404, "not-found", "Not found", "NotFoundError"),
        Kind::NameConflict => (409, "name-conflict", "Name conflict", "ChromaError"),
        Kind::Conflict => (409, "conflict", "Conflict", "ChromaError"),
        Kind::Forbidden => (403, "forbidden", "Forbidden", "ChromaError"),
        Kind::Unauthenticated => (401, "unauthenticated", "Unauthorized", "AuthError"),
        Kind::RoleTooSmall => (403, "role-too-small", "Forbidden", "AuthorizationError"),
        Kind::Overloaded => (429, "overloaded", "Too many requests", "ChromaError"),
        Kind::Unavailable => (503, "unavailable", "Service unavailable", "ChromaError"),
        Kind::Unimplemented => (501, "unimplemented", "Not implemented", "ChromaError"),
        Kind::StorageFault => (500, "storage-fault", "Storage fault", "InternalError"),
        Kind::RepositoryUnusable => (
            503,
            "repository-unusable",
            "Repository unusable",
            "ChromaError",
        ),
        Kind::BackupCorrupt => (422, "backup-corrupt", "Backup damaged", "ChromaError"),
        Kind::RemoteUnavailable => (502, "remote-unavailable", "Bad gateway", "ChromaError"),
        Kind::InsufficientStorage => (
            507,
            "insufficient-storage",
            "Insufficient storage",
            "ChromaError",
        ),
        Kind::SlowRequest => (408, "slow-request", "Request timeout", "ChromaError"),
        Kind::Timeout => (504, "timeout", "Gateway timeout", "ChromaError"),
        Kind::TooLarge => (413, "too-large", "Content too large", "ChromaError"),
        Kind::NotAllowed => (
            405,
            "method-not-allowed",
            "Method not allowed",
            "ChromaError",
        ),
        Kind::UnsupportedMediaType => (
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "ChromaError",
        ),
        Kind::Canceled => (409, "canceled", "Canceled", "ChromaError"),
        Kind::Internal => (500, "internal", "Internal server error", "InternalError"),
    };
    Case {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        slug,
        title,
        chroma,
    }
}

/// Logged once, where it is handled: here.
fn log(error: &Error, status: StatusCode) {
    // Being busy is no fault, nor is what is not offered; a store that takes no writes was logged when that began.
    let expected = matches!(error.kind(), Kind::Unavailable | Kind::Unimplemented);
    if status.is_server_error() && !expected {
        tracing::error!(error = ?error, "request failed");
    } else {
        tracing::debug!(error = ?error, "request refused");
    }
}

fn finish(kind: Kind, mut response: Response) -> Response {
    if matches!(
        kind,
        Kind::Unavailable | Kind::Overloaded | Kind::RepositoryUnusable
    ) {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// An error of the operations family: `application/problem+json` (RFC 9457) with Chroma's two members.
#[derive(Debug)]
pub(super) struct Problem(pub(super) Error);

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

/// The problem's body.
fn problem_body(
    kind: Kind,
    message: &str,
    members: impl Iterator<Item = (String, Value)>,
) -> Value {
    let case = case(kind);
    let mut body: Map<String, Value> = members.collect();
    let fixed = [
        ("type", json!(format!("/problems/{}", case.slug))),
        ("title", json!(case.title)),
        ("status", json!(case.status.as_u16())),
        ("detail", json!(message)),
        ("error", json!(case.chroma)),
        ("message", json!(message)),
        ("request_id", json!(current_request_id())),
    ];
    for (name, value) in fixed {
        body.insert(name.to_owned(), value);
    }
    Value::Object(body)
}

/// The problem of a job that did not succeed.
pub(super) fn job_problem(problem: &JobProblem) -> Value {
    let members = problem.members.as_object().cloned().unwrap_or_default();
    problem_body(problem.kind, &problem.message, members.into_iter())
}

/// The status of a problem.
pub(super) fn status_of(kind: Kind) -> StatusCode {
    case(kind).status
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = status_of(error.kind());
        log(&error, status);
        let members = error
            .members()
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let body = problem_body(error.kind(), error.message(), members);
        let mut response = (status, Json(body)).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        finish(error.kind(), response)
    }
}

/// An error on `/api/v2`: Chroma's body.
#[derive(Debug)]
pub(super) struct ChromaError(pub(super) Error);

impl From<Error> for ChromaError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for ChromaError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let case = case(error.kind());
        log(&error, case.status);
        let body = json!({"error": case.chroma, "message": error.message()});
        finish(error.kind(), (case.status, Json(body)).into_response())
    }
}

/// The refusal of a request before its route is asked, in the form of the path's family.
pub(super) fn refusal(path: &str, error: Error) -> Response {
    if path.starts_with("/api/") {
        ChromaError(error).into_response()
    } else {
        Problem(error).into_response()
    }
}
