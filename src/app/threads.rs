//! Blocking calls, and what becomes of who waits for one that hangs.

use std::time::Duration;

use super::App;
use crate::error::{Error, Result};

/// For calls that were under way when another turned out to hang in the store: they may still end by themselves.
const LAST_CHANCE: Duration = Duration::from_secs(1);

impl App {
    /// As [`App::blocking`], for calls that must not wait behind requests for data.
    ///
    /// # Errors
    /// As there; `Unavailable` when a call into the store turned out to hang and this one did not end.
    pub async fn on_thread<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let app = self.clone();
        let mut hung = self.engine().hung();
        let is_known = *hung.borrow();
        let mut running = tokio::task::spawn_blocking(move || call(&app));
        let ended = tokio::select! {
            ended = &mut running => ended,
            // What hangs leaves its thread behind, and who asked gets an answer.
            _ = async { hung.wait_for(|hung| *hung).await.is_ok() }, if !is_known => {
                match tokio::time::timeout(LAST_CHANCE, running).await {
                    Ok(ended) => ended,
                    Err(_) => return Err(self.engine().stopped()),
                }
            }
        };
        ended.unwrap_or_else(|error| {
            Err(Error::internal("a request's thread panicked").because(error))
        })
    }
}
