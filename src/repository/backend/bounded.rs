//! Calls into a directory, which may be on a file system that never answers.
//!
//! A thread that waits for such a file system waits for ever, and nothing can end it. So no caller waits for longer than
//! `repository.request_timeout_ms`, and no more than `repository.max_requests` threads are given away.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Backend;
use crate::error::{Error, Kind, Result};

/// Bounds on calls into a directory; object stores have bounds of their own.
#[derive(Clone)]
pub(super) struct Calls {
    timeout: Duration,
    /// One for each call that has not returned.
    places: Arc<Semaphore>,
}

impl Calls {
    pub(super) fn new(timeout: Duration, most: usize) -> Self {
        Self {
            timeout,
            places: Arc::new(Semaphore::new(most)),
        }
    }

    /// The outcome of a call; `None` where it did not return in time. It may still do what it was to do.
    pub(super) async fn wait<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let places = self.places.clone();
        let calling = async move {
            let place = places.acquire_owned().await.ok()?;
            let called = tokio::spawn(async move {
                let _until_it_returns = place;
                call.await
            });
            called.await.ok()
        };
        let called = tokio::time::timeout(self.timeout, calling).await;
        called.ok().flatten()
    }
}

impl Backend {
    /// The outcome of a call that asks for this path.
    ///
    /// # Errors
    /// `RemoteUnavailable` when a file system did not answer in time.
    pub(super) async fn bounded<T: Send + 'static>(
        &self,
        path: &str,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        if self.directory.is_none() {
            return Ok(call.await);
        }
        let called = self.calls.wait(call).await;
        called.ok_or_else(|| unanswered(&self.location, path, self.calls.timeout))
    }

    /// As [`Backend::bounded`], of a call that blocks, from a blocking thread.
    ///
    /// # Errors
    /// As [`Backend::bounded`].
    pub(super) fn bounded_blocking<T: Send + 'static>(
        &self,
        path: &str,
        call: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let calling = async move { tokio::task::spawn_blocking(call).await };
        let called = self.runtime.block_on(self.bounded(path, calling))?;
        called.map_err(|error| Error::internal("a call was broken off").because(error))?
    }
}

pub(super) fn unanswered(location: &str, path: &str, timeout: Duration) -> Error {
    Error::new(
        Kind::RemoteUnavailable,
        format!(
            "the repository {location} did not answer within {} ms (repository.request_timeout_ms): {path}",
            timeout.as_millis()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hangs takes no more threads than are allowed, and what comes after it is answered.
    #[tokio::test]
    async fn calls_that_never_return_are_given_up_and_no_more_of_them_begin() {
        let calls = Calls::new(Duration::from_millis(50), 2);
        let begun = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        assert_eq!(calls.wait(async { 7 }).await, Some(7));
        let (goes_on, _) = tokio::sync::broadcast::channel::<()>(1);
        for _ in 0..5 {
            let (begun, mut gate) = (begun.clone(), goes_on.subscribe());
            let hangs = async move {
                begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let _ = gate.recv().await;
            };
            assert_eq!(calls.wait(hangs).await, None);
        }
        assert_eq!(begun.load(std::sync::atomic::Ordering::Relaxed), 2);
        goes_on.send(()).unwrap();
        assert_eq!(calls.wait(async { 8 }).await, Some(8));
    }
}
