//! The id of a request: everything that is answered and logged of it says it.

use std::future::Future;

use axum::http::HeaderName;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: String;
}

/// The id of the request that is being answered; empty outside of one.
pub(super) fn current_request_id() -> String {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}

/// What answers a request of this id.
pub(super) fn scope<F: Future>(id: String, answering: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(id, answering)
}
