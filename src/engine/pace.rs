//! Writers that are slowed while something catches up with them.
//!
//! A snapshot copies what changed while it copied, round by round. As long as writers change more in a round than is copied in the
//! same time, it never ends. So they get a rate below that of copying: each round is then shorter than the one before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

/// The rates that are in force. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Pace {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Whether there is one: most of the time nobody is slowed, and nobody takes the lock.
    slowed: AtomicBool,
    limits: Mutex<Vec<Limit>>,
    tokens: AtomicU64,
}

struct Limit {
    token: u64,
    /// Whose writers are slowed; `None`: all.
    collections: Option<BTreeSet<Uuid>>,
    records_per_second: f64,
    /// When the next write may begin.
    next: Instant,
}

/// One that catches up with writers; when it ends they are as fast as they can.
pub(super) struct Pursuit {
    pace: Pace,
    token: u64,
    collections: Option<BTreeSet<Uuid>>,
}

impl Pursuit {
    /// Slows the writers where the next round would not be half as long as the one that ended: to half the rate of copying.
    /// `before`, `next`: changes of these rounds; `copied`: what was copied in the time.
    pub(super) fn hold_back(&self, before: u64, next: u64, copied: u64, took: Duration) {
        if next <= before / 2 {
            return;
        }
        let rate = copied as f64 / took.as_secs_f64().max(0.001) / 2.0;
        tracing::debug!(
            behind = next,
            copied,
            records_per_second = rate,
            "writers are slowed while a copy catches up with them"
        );
        let limit = Limit {
            token: self.token,
            collections: self.collections.clone(),
            // A moment when nothing was copied must not stop them for ever.
            records_per_second: rate.max(1.0),
            next: Instant::now(),
        };
        self.pace.replace(self.token, Some(limit));
    }
}

impl Drop for Pursuit {
    fn drop(&mut self) {
        self.pace.replace(self.token, None);
    }
}

impl Pace {
    /// Catches up with writers to these collections; `None`: to all.
    pub(super) fn pursuit(&self, collections: Option<BTreeSet<Uuid>>) -> Pursuit {
        Pursuit {
            pace: self.clone(),
            token: self.inner.tokens.fetch_add(1, Ordering::Relaxed),
            collections,
        }
    }

    fn replace(&self, token: u64, limit: Option<Limit>) {
        let mut limits = self.inner.limits.lock();
        limits.retain(|limit| limit.token != token);
        limits.extend(limit);
        self.inner
            .slowed
            .store(!limits.is_empty(), Ordering::Release);
    }

    /// How long a write of so many records has to wait for its turn; no longer than `most`, and what it waits less counts for
    /// those after it.
    pub(super) fn turn(
        &self,
        collection: Uuid,
        records: usize,
        now: Instant,
        most: Duration,
    ) -> Duration {
        if !self.inner.slowed.load(Ordering::Acquire) {
            return Duration::ZERO;
        }
        let mut wait = Duration::ZERO;
        for limit in self.inner.limits.lock().iter_mut() {
            let concerned = limit.collections.as_ref();
            if concerned.is_some_and(|concerned| !concerned.contains(&collection)) {
                continue;
            }
            let turn = limit.next.max(now);
            wait = wait.max(turn - now);
            let takes = Duration::from_secs_f64(records as f64 / limit.records_per_second);
            // Nobody waits for more than `most`, whatever came before.
            limit.next = (turn + takes).min(now + most);
        }
        wait.min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(1);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn writers_take_turns_at_half_the_rate_of_copying_and_wait_no_longer_than_the_bound() {
        let (pace, collection) = (Pace::default(), Uuid::from_u128(1));
        let now = Instant::now();
        let waits = |now| pace.turn(collection, 100, now, MOST).as_millis();
        let pursuit = pace.pursuit(None);
        // The next round is half as long: nobody has to be slowed.
        pursuit.hold_back(4_000, 2_000, 4_000, SECOND);
        assert_eq!((waits(now), waits(now)), (0, 0));
        pursuit.hold_back(2_000, 1_001, 2_000, SECOND);
        let now = Instant::now();
        let found: Vec<u128> = (0..12).map(|_| waits(now)).collect();
        assert_eq!(
            found,
            [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1_000, 1_000]
        );
        drop(pursuit);
        assert_eq!(waits(now), 0);
    }

    #[test]
    fn only_writers_to_what_is_copied_are_slowed_and_the_lowest_rate_counts() {
        let pace = Pace::default();
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let slow = pace.pursuit(Some(BTreeSet::from([one])));
        let fast = pace.pursuit(None);
        slow.hold_back(0, 1, 2_000, SECOND);
        fast.hold_back(0, 1, 20_000, SECOND);
        let now = Instant::now();
        for collection in [one, other] {
            pace.turn(collection, 100, now, MOST);
        }
        assert_eq!(pace.turn(one, 1, now, MOST), Duration::from_millis(100));
        assert!(pace.turn(other, 1, now, MOST) < Duration::from_millis(30));
        drop(slow);
        assert!(pace.turn(one, 1, now, MOST) < Duration::from_millis(30));
    }
}
