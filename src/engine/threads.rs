//! Work shared out over threads that end before the call does.

use std::ops::Range;
use std::thread::ScopedJoinHandle;

/// Shares `count` items out over up to `threads` threads.
pub(super) fn in_shares<T: Send>(
    count: usize,
    threads: usize,
    work: impl Fn(Range<usize>) -> T + Sync,
) -> Vec<T> {
    let share = count.div_ceil(threads.max(1)).max(1);
    let ranges = (0..count)
        .step_by(share)
        .map(|start| start..(start + share).min(count));
    if threads < 2 {
        return ranges.map(work).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> = ranges
            .map(|range| scope.spawn(move || work(range)))
            .collect();
        running.into_iter().map(joined).collect()
    })
}

/// What a thread returned; its panic goes on here.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
