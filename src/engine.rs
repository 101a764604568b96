//! The collection engine: sled below, vectors in memory, one write lock for everything.
//!
//! Every write batch, to whatever collection, gets the next number of the store's one sequence.
//! Allocation, transaction and publication (memory, digest) happen under the write lock, so a number
//! names one state of everything. The sync that makes a write durable happens outside it and is shared.
//!
//! All calls block; callers on an async runtime use a blocking thread.

mod catalog;
mod changes;
mod checkpoints;
mod collection;
mod compact;
mod consistency;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod damage;
mod delete;
mod format;
mod inspect;
mod jobs;
mod listings;
mod load;
mod maintenance;
mod markers;
mod metadata;
mod metrics;
mod namespaces;
mod ordered;
mod pace;
mod publish;
mod search;
#[cfg(test)]
mod simulation;
mod staging;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod threads;
mod vectors;
mod watchdog;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::watch;
use uuid::Uuid;

use catalog::{Catalog, CatalogBatch, StoredCatalog};
use collection::Collection;
use ordered::{Guard, Held, OrderedRwLock, Rank};
use pace::Pace;
use store::{Batch, Store};

use crate::error::{Error, Kind, Result};
use crate::metrics::record_since;
use crate::model::collection::{CollectionDescriptor, Lifecycle};
use crate::model::names::{DEFAULT_DATABASE, DEFAULT_TENANT};

pub use catalog::{Database, Namespaces, Tenant};
pub use changes::{CatchUp, Final, Round, Snapshot, SnapshotScope, Tombstone};
pub use checkpoints::StoredCheckpoint;
pub use collection::{CollectionInfo, Projection};
pub use compact::Usage;
pub use delete::DeleteRequest;
pub use format::{Head, StoredRecord};
pub use inspect::{CollectionInspection, InspectionLimits};
pub use markers::BackupMarker;
pub use namespaces::{CollectionUpdate, NewCollection, already_exists};
pub use publish::{Publication, Published};
pub use search::{GetRequest, Neighbour, QueryRequest};
pub use staging::{Exclusive, FoundRecord, StagedRecord, Staging};
pub use store::{Calls, OpenOptions};
pub use write::{RecordPatch, WriteMode, WriteOutcome};

/// Between two looks whether the maintenance thread has ended.
const END_PAUSE: Duration = Duration::from_millis(5);

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After it is synced.
    Always,
    /// At once; a sync follows within this time. A crash of the machine can lose that much.
    Interval(Duration),
}

/// How to run an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The store.
    pub store: OpenOptions,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Tombstones that a collection may keep when nothing reads them.
    pub max_tombstones: u64,
    /// Records that a deletion removes in one step.
    pub max_delete_step: usize,
    /// Longest that a write waits so that a copy can catch up with writers.
    pub max_write_delay: Duration,
}

/// The engine. Cheap to clone; the last clone does not close it, [`Engine::close`] does.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    options: EngineOptions,
    catalog: OrderedRwLock<Catalog>,
    /// THE write lock. It holds the last sequence given out.
    writer: Mutex<Writer>,
    /// Watermarks of running snapshots: tombstones above the lowest stay.
    pins: Mutex<Vec<(u64, u64)>>,
    /// Slows writers while something catches up with them.
    pace: Pace,
    /// Collections whose records are to be removed, and the bell for the maintenance thread.
    garbage: Mutex<Vec<Garbage>>,
    bell: Condvar,
    /// Searches that run; they share the cores.
    searches: AtomicUsize,
    closing: AtomicBool,
    maintenance: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Dropped with the engine, which ends the watchdog.
    watchdog: Mutex<Option<watchdog::Running>>,
    /// How long the oldest call into the store has lasted, as the watchdog saw it last.
    longest_call_ms: AtomicU64,
}

/// A collection that no name points to any more.
struct Garbage {
    id: Uuid,
    /// Who still reads it holds this as well; its records stay until they are done.
    collection: Option<Arc<Collection>>,
}

/// State that only the holder of the write lock sees.
struct Writer {
    sequence: u64,
}

/// The write lock, held.
type WriteLock<'a> = Guard<MutexGuard<'a, Writer>>;

impl Writer {
    /// The number that the batch under construction will get.
    fn next(&self) -> u64 {
        self.sequence + 1
    }
}

impl Engine {
    /// Opens the engine: mends, checks, loads vectors, sweeps what a crash left aside.
    ///
    /// # Errors
    /// See `Store::open`: in use elsewhere, damaged, behind its watermark, of another format. A damaged
    /// collection does not prevent opening: it refuses reads and writes, the others do not.
    pub fn open(options: EngineOptions) -> Result<Self> {
        let store = Store::open(&options.store)?;
        Self::on(store, options)
    }

    fn on(store: Store, options: EngineOptions) -> Result<Self> {
        metrics::start();
        let stored = StoredCatalog::read(&store)?;
        let (catalog, garbage) = load(&store, stored)?;
        let inner = Arc::new(Inner {
            writer: Mutex::new(Writer {
                sequence: store.committed(),
            }),
            store,
            options,
            catalog: OrderedRwLock::new(Rank::Catalog, catalog),
            pins: Mutex::new(Vec::new()),
            pace: Pace::default(),
            garbage: Mutex::new(garbage),
            bell: Condvar::new(),
            searches: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            maintenance: Mutex::new(None),
            watchdog: Mutex::new(None),
            longest_call_ms: AtomicU64::new(0),
        });
        watchdog::start(&inner)?;
        inner.ensure_defaults()?;
        maintenance::start(&inner)?;
        Ok(Self { inner })
    }

    /// Stops background work, syncs everything, brings the watermark up. Further writes are refused.
    ///
    /// # Errors
    /// `StorageFault` when the last sync failed; `Unavailable` when a call into the store hangs, which is then not waited
    /// for.
    pub fn close(&self) -> Result<()> {
        self.inner.closing.store(true, Ordering::Release);
        // The thread looks and falls asleep under this lock: either it has seen it, or it hears the bell.
        drop(self.inner.garbage.lock());
        self.inner.bell.notify_all();
        let thread = self.inner.maintenance.lock().take();
        while thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if self.inner.store.is_hung() {
                return Err(self.inner.store.stopped());
            }
            std::thread::sleep(END_PAUSE);
        }
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the maintenance thread panicked");
        }
        let _writer = self.inner.lock_writer()?;
        self.inner.store.close()
    }

    /// Identity of the store, made when it was created.
    pub fn store_id(&self) -> Uuid {
        self.inner.store.id()
    }

    /// Sequence of the last committed write.
    pub fn sequence(&self) -> u64 {
        self.inner.store.committed()
    }

    /// Returns when everything up to `sequence` is on the disk.
    ///
    /// # Errors
    /// `StorageFault` or `Unavailable` when the sync fails or failed.
    pub fn sync_to(&self, sequence: u64) -> Result<()> {
        self.inner.store.wait_synced(sequence)
    }

    /// Bytes of the store's files.
    ///
    /// # Errors
    /// `StorageFault` when the files cannot be listed.
    pub fn size_bytes(&self) -> Result<u64> {
        self.inner.store.size_bytes()
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        self.inner.store.directory()
    }

    /// Why no more writes are taken, if so.
    pub fn fault(&self) -> Option<String> {
        self.inner.store.poison_reason().map(str::to_owned)
    }

    /// Bytes that are kept free on the disk: with less, writes are refused (`storage.min_free_bytes`).
    pub fn min_free_bytes(&self) -> u64 {
        self.inner.options.store.min_free_bytes
    }

    /// Becomes true when a call into the store has not ended within `storage.sync_timeout_ms`: what waits for its thread
    /// waits for ever.
    pub fn hung(&self) -> watch::Receiver<bool> {
        self.inner.store.hung()
    }

    /// The refusal of what a store that has failed cannot do.
    pub fn stopped(&self) -> Error {
        self.inner.store.stopped()
    }

    /// What is asked of the store at this moment.
    pub fn calls(&self) -> Arc<Calls> {
        Arc::clone(self.inner.store.calls())
    }

    /// How long the oldest call into the store has lasted, to an eighth of `storage.sync_timeout_ms`.
    pub fn longest_call(&self) -> Duration {
        Duration::from_millis(self.inner.longest_call_ms.load(Ordering::Relaxed))
    }

    /// Takes a lock under which others write to the store.
    ///
    /// # Errors
    /// `Unavailable` when its holder hangs there.
    pub fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> Result<MutexGuard<'a, T>> {
        self.inner.store.lock(mutex)
    }

    /// Why nothing is written to a live collection, if so.
    pub fn damage_of(&self, collection: Uuid) -> Option<String> {
        self.inner.live_collection(collection).ok()?.damage()
    }
}

/// Builds the catalog in memory and names what has to be swept.
fn load(store: &Store, stored: StoredCatalog) -> Result<(Catalog, Vec<Garbage>)> {
    let mut catalog = Catalog::default();
    let mut garbage = Vec::new();
    let checkpoints = checkpoints::read(store, |key, error| {
        tracing::error!(
            checkpoint = key,
            ?error,
            "the checkpoint of a migration cannot be read; it is set aside"
        );
    })?;
    let owned = |id: Uuid| checkpoints.iter().any(|found| found.staged == Some(id));
    let whole = stored.descriptors.iter().cloned();
    let whole = whole.map(|descriptor| (descriptor, None));
    let undescribed = stored.undescribed()?.into_iter();
    let undescribed = undescribed.map(|(descriptor, why)| (descriptor, Some(why)));
    for (descriptor, damage) in whole.chain(undescribed) {
        let goes_on = descriptor.lifecycle == Lifecycle::Staging && owned(descriptor.id);
        let live = descriptor.lifecycle == Lifecycle::Live && stored.points_to(&descriptor);
        if !live && !goes_on {
            garbage.push(Garbage {
                id: descriptor.id,
                collection: None,
            });
            continue;
        }
        let (id, name, public_id) = (descriptor.id, descriptor.name.clone(), descriptor.public_id);
        let collection = open(store, descriptor, damage)?;
        if live {
            catalog.names.insert(name, id);
            if let Some(public_id) = public_id {
                catalog.public_ids.insert(public_id, id);
            }
        }
        catalog.collections.insert(id, Arc::new(collection));
    }
    for tenant in stored.tenants {
        catalog.tenants.insert(tenant.name.clone(), tenant);
    }
    for database in stored.databases {
        let key = (database.tenant.clone(), database.name.clone());
        catalog.databases.insert(key, database);
    }
    Ok((catalog, garbage))
}

/// A collection with its records in memory. Damage is noted and logged; it is of this collection alone.
fn open(
    store: &Store,
    descriptor: CollectionDescriptor,
    damage: Option<String>,
) -> Result<Collection> {
    let head = catalog::read_head(store, descriptor.id);
    let (head, damage) = match head {
        Ok(head) => (head, damage),
        Err(error) if store.is_faulted() => return Err(error),
        Err(error) => (
            Head::default(),
            damage.or_else(|| Some(error.message().to_owned())),
        ),
    };
    let collection = Collection::new(descriptor, head);
    match damage {
        Some(damage) => collection.note_at_start(damage),
        None => collection.load(store)?,
    }
    if let Some(damage) = collection.damage() {
        tracing::error!(
            collection = %collection.info().descriptor.name,
            damage,
            "a collection is damaged; it is neither read nor written, the others are served"
        );
    }
    Ok(collection)
}

/// The default tenant and database, as Chroma's server has them.
fn defaults() -> (Tenant, Database) {
    (
        Tenant {
            name: DEFAULT_TENANT.to_owned(),
            resource_name: None,
        },
        Database {
            id: Uuid::nil(),
            name: DEFAULT_DATABASE.to_owned(),
            tenant: DEFAULT_TENANT.to_owned(),
        },
    )
}

impl Inner {
    /// Takes the write lock for a write of records.
    fn lock_for_write(&self) -> Result<WriteLock<'_>> {
        let started = Instant::now();
        let writer = self.lock_writer()?;
        record_since(&metrics::WRITE_LOCK_WAIT, started);
        Ok(writer)
    }

    /// Takes the write lock.
    ///
    /// # Errors
    /// `Unavailable` when its holder hangs in a call into the store.
    fn lock_writer(&self) -> Result<WriteLock<'_>> {
        let held = Held::new(Rank::Writer);
        Ok(Guard::new(self.store.lock(&self.writer)?, held))
    }

    /// Commits a batch that changes nothing in memory.
    fn commit(&self, batch: Batch) -> Result<u64> {
        let mut writer = self.lock_writer()?;
        self.commit_locked(&mut writer, batch)
    }

    /// Commits under the write lock; the caller then publishes and only then releases the lock.
    fn commit_locked(&self, writer: &mut Writer, batch: Batch) -> Result<u64> {
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::new(
                Kind::Unavailable,
                "the service is shutting down",
            ));
        }
        let sequence = writer.next();
        let started = Instant::now();
        self.store.commit(batch, sequence)?;
        record_since(&metrics::COMMIT_DURATION, started);
        writer.sequence = sequence;
        Ok(sequence)
    }

    /// Returns when the write may be acknowledged.
    fn acknowledge(&self, sequence: u64) -> Result<()> {
        match self.options.durability {
            Durability::Always => self.store.wait_synced(sequence),
            Durability::Interval(_) => Ok(()),
        }
    }

    fn ensure_defaults(&self) -> Result<()> {
        let (tenant, database) = defaults();
        let key = (database.tenant.clone(), database.name.clone());
        let is_there = {
            let catalog = self.catalog.read();
            catalog.tenants.contains_key(&tenant.name) && catalog.databases.contains_key(&key)
        };
        if is_there {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put_tenant(&tenant);
        batch.put_database(&database);
        let sequence = self.commit(batch)?;
        let mut catalog = self.catalog.write();
        catalog.tenants.insert(tenant.name.clone(), tenant);
        catalog.databases.insert(key, database);
        drop(catalog);
        self.store.wait_synced(sequence)
    }

    /// The live collection that clients know by this id. What holds an id for longer than one call asks for its
    /// content: [`Inner::live_collection`].
    fn addressed(&self, public_id: Uuid) -> Result<Arc<Collection>> {
        let found = self.catalog.read().addressed(public_id).cloned();
        live(public_id, found.ok_or_else(|| missing(public_id))?)
    }

    /// A live collection, for clients: a staged one is not there for them.
    fn live_collection(&self, id: Uuid) -> Result<Arc<Collection>> {
        live(id, self.live_or_staged(id)?)
    }

    /// A live or staged collection.
    fn live_or_staged(&self, id: Uuid) -> Result<Arc<Collection>> {
        self.catalog
            .read()
            .collections
            .get(&id)
            .cloned()
            .ok_or_else(|| missing(id))
    }
}

fn live(id: Uuid, collection: Arc<Collection>) -> Result<Arc<Collection>> {
    match collection.lifecycle() {
        Lifecycle::Live => Ok(collection),
        Lifecycle::Staging | Lifecycle::Dropped => Err(missing(id)),
    }
}

/// The text that Chroma's record routes use, with its final dot.
fn missing(id: Uuid) -> Error {
    Error::not_found(format!("Collection [{id}] does not exist."))
}
