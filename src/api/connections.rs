//! The connections that are open, and which of them makes room for a new one.
//!
//! A connection is waiting while no request of it is being answered: idle, or sending the head of a request as
//! slowly as it likes. When as many are open as may be, the one that has waited longest is closed for the new
//! one, so that silent and slow clients take no one's place.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// All open connections.
pub(super) struct Connections {
    max: usize,
    table: Mutex<Table>,
    open: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    /// Counts events; orders them.
    clock: u64,
    entries: HashMap<u64, Entry>,
    /// Connections by when they began to wait.
    waiting: BTreeMap<u64, u64>,
}

struct Entry {
    since: Option<u64>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    evicted: Notify,
    /// Whether a request is being answered.
    busy: AtomicBool,
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

impl Connections {
    /// At most `max` at a time.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            table: Mutex::new(Table::default()),
            open: watch::Sender::new(0),
        })
    }

    /// A place for a new connection; `None` when all are busy.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Connection> {
        let mut table = self.table.lock();
        if table.entries.len() >= self.max {
            let (_, longest) = table.waiting.pop_first()?;
            let evicted = table.entries.remove(&longest)?;
            evicted.shared.evicted.notify_one();
        }
        let id = table.tick();
        let shared = Arc::new(Shared::default());
        let entry = Entry {
            since: Some(id),
            shared: Arc::clone(&shared),
        };
        table.entries.insert(id, entry);
        table.waiting.insert(id, id);
        drop(table);
        self.open.send_modify(|open| *open += 1);
        Some(Connection {
            id,
            shared,
            all: Arc::clone(self),
        })
    }

    /// Returns when none is open.
    pub(super) async fn closed(&self) {
        let mut open = self.open.subscribe();
        let _ = open.wait_for(|open| *open == 0).await;
    }
}

/// One open connection; its place is free when this goes.
pub(super) struct Connection {
    id: u64,
    shared: Arc<Shared>,
    all: Arc<Connections>,
}

impl Connection {
    /// Returns when this connection is to make room.
    pub(super) async fn evicted(&self) {
        self.shared.evicted.notified().await;
    }

    /// Whether a request is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.shared.busy.load(Ordering::Acquire)
    }

    /// For the time of a request.
    pub(super) fn request(self: &Arc<Self>) -> Busy {
        self.shared.busy.store(true, Ordering::Release);
        let mut table = self.all.table.lock();
        if let Some(entry) = table.entries.get_mut(&self.id)
            && let Some(since) = entry.since.take()
        {
            table.waiting.remove(&since);
        }
        Busy(Arc::clone(self))
    }

    fn wait(&self) {
        let mut table = self.all.table.lock();
        let since = table.tick();
        if let Some(entry) = table.entries.get_mut(&self.id) {
            entry.since = Some(since);
            table.waiting.insert(since, self.id);
        }
        drop(table);
        self.shared.busy.store(false, Ordering::Release);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut table = self.all.table.lock();
        if let Some(entry) = table.entries.remove(&self.id)
            && let Some(since) = entry.since
        {
            table.waiting.remove(&since);
        }
        drop(table);
        self.all.open.send_modify(|open| *open -= 1);
    }
}

/// A request is being answered until this goes.
pub(super) struct Busy(Arc<Connection>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(connection: &Connection) -> bool {
        let mut waited = Box::pin(connection.evicted());
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        waited.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn the_longest_waiting_one_makes_room_and_a_busy_one_never() {
        let all = Connections::new(3);
        let open = || all.admit().map(Arc::new);
        let (a, b, c) = (open().unwrap(), open().unwrap(), open().unwrap());
        // a was first, but has asked something since; b is at it.
        drop(a.request());
        let busy = b.request();
        let d = open().unwrap();
        assert!(is_evicted(&c) && !is_evicted(&a) && !is_evicted(&b));
        let e = open().unwrap();
        assert!(is_evicted(&a) && !is_evicted(&d) && b.is_busy());
        let (_d, _e) = (d.request(), e.request());
        assert!(open().is_none(), "all are busy");
        drop(busy);
        assert!(!b.is_busy() && open().is_some());
        assert!(is_evicted(&b));
    }
}
