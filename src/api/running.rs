//! A request that runs, as the layer around it sees it: who gives it up stops the work that looks at
//! [`progress`], and learns whether something may still come of it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::progress::Progress;

tokio::task_local! {
    static RUNNING: Running;
}

/// A request that runs. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Running {
    progress: Progress,
    /// Whether the work looks at it.
    is_watched: Arc<AtomicBool>,
}

/// What may come of a request that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// Nothing: it was stopped before it changed anything.
    Stopped,
    /// All of it: it was past the point up to which it can be stopped, or knows no such point.
    GoesOn,
}

impl Running {
    /// Runs a request's future; [`progress`] is its there.
    pub(super) async fn scope<F: Future>(&self, request: F) -> F::Output {
        RUNNING.scope(self.clone(), request).await
    }

    pub(super) fn give_up(&self) -> GivenUp {
        let stopped = self.progress.cancel();
        if stopped && self.is_watched.load(Ordering::Acquire) {
            GivenUp::Stopped
        } else {
            GivenUp::GoesOn
        }
    }
}

/// A client that leaves gives its request up.
pub(super) struct GiveUpOnDrop(pub(super) Running);

impl Drop for GiveUpOnDrop {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Of the request that this is called in, for work that changes nothing before it has called [`Progress::commit`] and
/// ends where that or [`Progress::check`] says so.
pub(super) fn progress() -> Progress {
    let running = RUNNING.try_with(|running| {
        running.is_watched.store(true, Ordering::Release);
        running.progress.clone()
    });
    running.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gives_a_request_up_learns_whether_something_may_come_of_it() {
        let unwatched = Running::default();
        unwatched.scope(async {}).await;
        assert_eq!(unwatched.give_up(), GivenUp::GoesOn);
        let reading = Running::default();
        let read = reading.scope(async { progress() }).await;
        assert_eq!(reading.give_up(), GivenUp::Stopped);
        assert!(read.check().is_err());
        let writing = Running::default();
        let write = writing.scope(async { progress() }).await;
        write.commit().unwrap();
        assert_eq!(writing.give_up(), GivenUp::GoesOn);
        assert!(write.check().is_ok());
        let left = Running::default();
        let other = left.scope(async { progress() }).await;
        drop(GiveUpOnDrop(left));
        assert!(other.check().is_err());
    }
}
