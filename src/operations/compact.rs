//! Compaction: the plan looks whether there is room for the copy, and says when one is worth it.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::engine::{CatchUp, Engine, Usage};
use crate::error::Result;
use crate::progress::Progress;

/// A fresh sled store takes 1.9 to 3.3 times what lives in it, by measurement, and so now and then more than the
/// old files; the copy needs it beside them.
const ROOM_FACTOR: u64 = 4;
/// What an empty store takes at least.
const LEAST_ROOM_BYTES: u64 = 16 * 1024 * 1024;
/// By itself, a compaction comes again only when the files have grown by this factor since the last:
/// where one gave little back, the next would as well.
const LEAST_GROWTH: f64 = 1.25;

/// When a compaction starts by itself.
#[derive(Clone, Copy, Debug)]
pub struct CompactionTrigger {
    /// Bytes of files per live byte; 0: never.
    pub ratio: f64,
    /// Bytes of files below which it never does.
    pub min_bytes: u64,
}

impl CompactionTrigger {
    /// Whether a compaction is worth it; `last` is what the files took after the last one.
    pub fn due(&self, usage: &Usage, last: u64) -> bool {
        self.ratio > 0.0
            && usage.file_bytes >= self.min_bytes
            && usage.file_bytes as f64 >= last as f64 * LEAST_GROWTH
            && usage.file_bytes as f64 >= usage.live_bytes as f64 * self.ratio
    }
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct CompactionOutcome {
    /// Bytes of the store's files before.
    pub before_bytes: u64,
    /// Bytes of the store's files after.
    pub after_bytes: u64,
    /// Bytes of what lives in them, estimated.
    pub live_bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// Checks that the copy has room.
///
/// # Errors
/// `InsufficientStorage` with the numbers.
pub fn plan(engine: &Engine) -> Result<()> {
    let usage = engine.usage()?;
    let needed = usage.live_bytes.saturating_mul(ROOM_FACTOR);
    engine.check_room(needed.max(LEAST_ROOM_BYTES))
}

/// Compacts the store.
///
/// # Errors
/// Those of [`Engine::compact`]; the store goes on as it was.
pub fn execute(
    engine: &Engine,
    catch_up: CatchUp,
    progress: &Progress,
) -> Result<CompactionOutcome> {
    let started = Instant::now();
    // It may have waited for a worker since it was planned.
    plan(engine)?;
    let before = engine.usage()?;
    engine.compact(catch_up, progress)?;
    let after = engine.usage()?;
    Ok(CompactionOutcome {
        before_bytes: before.file_bytes,
        after_bytes: after.file_bytes,
        live_bytes: after.live_bytes,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_is_due_by_ratio_size_and_growth() {
        let trigger = CompactionTrigger {
            ratio: 4.0,
            min_bytes: 1_000,
        };
        let usage = |file_bytes, live_bytes| Usage {
            file_bytes,
            live_bytes,
            records: 1,
        };
        assert!(trigger.due(&usage(4_000, 1_000), 0));
        assert!(!trigger.due(&usage(3_999, 1_000), 0), "the ratio");
        assert!(!trigger.due(&usage(999, 0), 0), "the size");
        assert!(!trigger.due(&usage(5_000, 1_000), 4_001), "the growth");
        assert!(trigger.due(&usage(5_000, 1_000), 4_000));
        let never = CompactionTrigger {
            ratio: 0.0,
            ..trigger
        };
        assert!(!never.due(&usage(u64::MAX, 0), 0));
    }
}
