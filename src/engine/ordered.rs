//! The engine's locks, and the order in which a thread takes them.
//!
//! | rank | lock | held for |
//! |---|---|---|
//! | [`Rank::Inspection`] | `Collection::inspecting` | one inspection of a collection |
//! | [`Rank::Writer`] | `Inner::writer` | one batch: its number, its transaction, its publication; or the last round of a copy |
//! | [`Rank::Catalog`] | `Inner::catalog` | reading or changing names, in memory |
//! | [`Rank::Memory`] | `Collection::memory` | copying pointers out, a look at one record, or one batch's publication |
//!
//! Who holds one takes only those below it. Beneath them are locks under which no other is taken: `pins`, `garbage`, the
//! pace's, a consistency watch's, and the store's. Above them is the lock under which `jobs` records what it begins
//! ([`super::Engine::lock`]). Where debug assertions are on, a thread that takes one out of order panics.

use std::ops::{Deref, DerefMut};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A lock's place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Inspection,
    Writer,
    Catalog,
    Memory,
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::RefCell;

    use super::Rank;

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn begin(rank: Rank) {
        HELD.with_borrow_mut(|held| {
            let last = held.iter().max();
            assert!(
                last.is_none_or(|last| *last < rank),
                "the lock {rank:?} is taken under {last:?}"
            );
            held.push(rank);
        });
    }

    pub(super) fn end(rank: Rank) {
        // A thread that ends may have dropped what it held before.
        let _ = HELD.try_with(|held| {
            let mut held = held.borrow_mut();
            if let Some(at) = held.iter().rposition(|found| *found == rank) {
                held.swap_remove(at);
            }
        });
    }
}

/// That this thread holds a lock, or is about to take it.
#[derive(Debug)]
pub(super) struct Held {
    #[cfg_attr(
        not(debug_assertions),
        expect(dead_code, reason = "nothing is checked")
    )]
    rank: Rank,
}

impl Held {
    /// To be made before the lock is taken: what is out of order may never return.
    pub(super) fn new(rank: Rank) -> Self {
        #[cfg(debug_assertions)]
        held::begin(rank);
        Self { rank }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        held::end(self.rank);
    }
}

/// A guard of a lock with a rank.
pub(super) struct Guard<G> {
    // Dropped first.
    guard: G,
    _held: Held,
}

impl<G> Guard<G> {
    pub(super) fn new(guard: G, held: Held) -> Self {
        Self { guard, _held: held }
    }
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

/// A lock with a rank.
pub(super) struct OrderedRwLock<T> {
    rank: Rank,
    lock: RwLock<T>,
}

impl<T> OrderedRwLock<T> {
    pub(super) fn new(rank: Rank, value: T) -> Self {
        Self {
            rank,
            lock: RwLock::new(value),
        }
    }

    pub(super) fn read(&self) -> Guard<RwLockReadGuard<'_, T>> {
        let held = Held::new(self.rank);
        Guard::new(self.lock.read(), held)
    }

    pub(super) fn write(&self) -> Guard<RwLockWriteGuard<'_, T>> {
        let held = Held::new(self.rank);
        Guard::new(self.lock.write(), held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_their_order() {
        let (catalog, memory) = (
            OrderedRwLock::new(Rank::Catalog, 1),
            OrderedRwLock::new(Rank::Memory, 2),
        );
        {
            let _writer = Held::new(Rank::Writer);
            let (one, mut two) = (catalog.read(), memory.write());
            *two += *one;
        }
        // Given back, they may be taken again, in any order of giving back.
        let (one, two) = (catalog.read(), memory.read());
        drop(one);
        assert_eq!(*two, 3);
        drop(two);
        drop(catalog.write());
    }

    #[test]
    #[should_panic(expected = "the lock Writer is taken under Some(Memory)")]
    fn a_lock_out_of_order_is_a_panic() {
        let memory = OrderedRwLock::new(Rank::Memory, ());
        let _held = memory.read();
        let _writer = Held::new(Rank::Writer);
    }

    #[test]
    #[should_panic(expected = "the lock Catalog is taken under Some(Catalog)")]
    fn a_lock_twice_is_a_panic() {
        let catalog = OrderedRwLock::new(Rank::Catalog, ());
        let _held = catalog.read();
        let _again = catalog.read();
    }
}
