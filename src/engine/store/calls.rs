//! Calls into sled that are under way, so that one which never ends is noticed.
//!
//! sled's failed flush wakes nobody: who waits for it sleeps for ever. Each call therefore stands in a slot of its thread
//! while it lasts, which costs two stores to memory of that thread alone. A watchdog looks at all slots every so often and
//! counts in how many looks it has seen the same call. It counts looks, not time: a process that was stopped for a
//! while has not waited.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use thread_local::ThreadLocal;

/// What a thread has asked of sled or of its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::engine) enum Call {
    Read = 1,
    Scan,
    Commit,
    Sync,
    Size,
    /// Into the copy that a compaction makes.
    Copy,
    /// The small file beside the store.
    Watermark,
}

impl Call {
    const ALL: [Self; 7] = [
        Self::Read,
        Self::Scan,
        Self::Commit,
        Self::Sync,
        Self::Size,
        Self::Copy,
        Self::Watermark,
    ];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|call| *call as u8 == number)
    }

    fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Scan => "scan",
            Self::Commit => "commit",
            Self::Sync => "sync",
            Self::Size => "size",
            Self::Copy => "copy",
            Self::Watermark => "watermark",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What one thread is at.
#[derive(Default)]
struct Slot {
    /// The call's number; 0: none. Only its thread writes it.
    call: AtomicU8,
    /// Calls that the thread has begun. Only its thread writes it.
    turn: AtomicU64,
    /// The turn that the watchdog saw last, and in how many looks running. Only the watchdog writes them.
    seen: AtomicU64,
    looks: AtomicU32,
}

/// The calls of a store that are under way.
#[derive(Default)]
pub struct Calls {
    threads: ThreadLocal<Slot>,
}

/// A call under way; it is over when this is dropped.
pub(super) struct UnderWay<'a> {
    slot: &'a Slot,
    outer: u8,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.slot.call.store(self.outer, Ordering::Release);
    }
}

impl Calls {
    /// Notes that this thread begins a call.
    pub(super) fn begin(&self, call: Call) -> UnderWay<'_> {
        let slot = self.threads.get_or_default();
        let turn = slot.turn.load(Ordering::Relaxed);
        slot.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        let outer = slot.call.load(Ordering::Relaxed);
        slot.call.store(call as u8, Ordering::Release);
        UnderWay { slot, outer }
    }

    /// Looks at all threads: the call that has been seen most often, and in how many looks running, this one included.
    /// Only the watchdog may call.
    pub(in crate::engine) fn look(&self) -> Option<(Call, u32)> {
        let seen = self.threads.iter().filter_map(Slot::look);
        seen.max_by_key(|(_, looks)| *looks)
    }

    /// What is under way at this moment, in words.
    pub fn under_way(&self) -> Vec<&'static str> {
        let slots = self.threads.iter();
        slots
            .filter_map(|slot| Call::of(slot.call.load(Ordering::Acquire)))
            .map(Call::word)
            .collect()
    }
}

impl Slot {
    fn look(&self) -> Option<(Call, u32)> {
        let call = Call::of(self.call.load(Ordering::Acquire));
        let turn = self.turn.load(Ordering::Acquire);
        let is_known = call.is_some() && self.seen.swap(turn, Ordering::Relaxed) == turn;
        let looks = match call {
            None => 0,
            Some(_) if is_known => self.looks.load(Ordering::Relaxed).saturating_add(1),
            Some(_) => 1,
        };
        self.looks.store(looks, Ordering::Relaxed);
        Some((call?, looks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_goes_on_is_counted_and_another_of_the_same_thread_begins_anew() {
        let calls = Calls::default();
        assert_eq!(calls.look(), None);
        let first = calls.begin(Call::Commit);
        for looks in 1..5 {
            assert_eq!(calls.look(), Some((Call::Commit, looks)));
        }
        drop(first);
        assert_eq!((calls.look(), calls.under_way()), (None, vec![]));
        let second = calls.begin(Call::Commit);
        assert_eq!(calls.look(), Some((Call::Commit, 1)));
        drop(second);
        // Between two looks it ended, and one like it began: it has not waited.
        let third = calls.begin(Call::Commit);
        assert_eq!(calls.look(), Some((Call::Commit, 1)));
        let inner = calls.begin(Call::Read);
        assert_eq!(calls.under_way(), ["read"]);
        drop(inner);
        assert_eq!(calls.under_way(), ["commit"]);
        drop(third);
    }

    #[test]
    fn of_several_threads_the_one_that_waits_longest_is_found() {
        let calls = Calls::default();
        let hanging = calls.begin(Call::Sync);
        calls.look();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let _read = calls.begin(Call::Read);
                (calls.look(), calls.under_way().len())
            });
            let (longest, under_way) = other.join().unwrap();
            assert_eq!((longest, under_way), (Some((Call::Sync, 2)), 2));
        });
        drop(hanging);
    }
}
