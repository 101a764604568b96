//! How many threads can run at the same time, and threads for work that nobody waits for at this moment: requests
//! come first.

use std::io;
use std::sync::LazyLock;
use std::thread::{Builder, JoinHandle};

/// Threads that can run at the same time. Found out once: it costs reading the process's limits.
pub(crate) fn processors() -> usize {
    static PROCESSORS: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));
    *PROCESSORS
}

/// Of background threads; 0 is the usual one, 19 the most. On a machine that is busy with requests alone it
/// leaves them about a tenth of a processor: work goes on, and ends.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Starts a thread that gives way to the others. (On Linux, where a thread has a priority of its own.) It
/// holds locks that requests wait for only for moments: on a busy machine it would keep them for long.
///
/// # Errors
/// When the system has no thread left.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(move || {
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::nice(NICENESS) {
            tracing::debug!(%error, "a background thread has the usual priority");
        }
        work()
    })
}
