//! The thread that notices when a call into the store does not end.
//!
//! It has nothing to do with the store itself but to look: it takes no lock that a hanging call may hold.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use super::Inner;
use crate::error::{Error, Result};

/// A call that is found in so many looks running, the whole of `storage.sync_timeout_ms` between the first and the last,
/// hangs.
const LOOKS: u32 = 8;

/// Time between two looks.
pub(super) fn interval(timeout: Duration) -> Duration {
    (timeout / (LOOKS - 1)).max(Duration::from_millis(1))
}

/// Starts the thread; it holds the engine weakly and ends with it.
pub(super) fn start(inner: &Arc<Inner>) -> Result<()> {
    let (running, ended) = mpsc::channel::<()>();
    let weak = Arc::downgrade(inner);
    let timeout = inner.options.store.sync_timeout;
    let interval = interval(timeout);
    std::thread::Builder::new()
        .name("engine-watchdog".to_owned())
        .spawn(move || {
            while matches!(ended.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                inner.look_at_calls(timeout);
            }
        })
        .map_err(|error| Error::internal("the watchdog thread cannot start").because(error))?;
    *inner.watchdog.lock() = Some(running);
    Ok(())
}

/// Kept for as long as the watchdog is to run.
pub(super) type Running = Sender<()>;

impl Inner {
    fn look_at_calls(&self, timeout: Duration) {
        let longest = self.store.calls().look();
        let looks = longest.map_or(0, |(_, looks)| looks);
        let waited = interval(timeout) * looks.saturating_sub(1);
        self.longest_call_ms.store(
            u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        if let Some((call, _)) = longest.filter(|(_, looks)| *looks >= LOOKS) {
            self.store.give_up_on(call, timeout);
        }
    }
}
