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
#[doc(hidden)]
pub mod damage;
mod format;
mod inspect;
mod kernel;
mod listings;
mod load;
mod maintenance;
mod markers;
mod metadata;
mod meters;
mod namespaces;
mod publish;
mod search;
mod staging;
mod store;
mod threads;
mod vectors;
mod write;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
use uuid::Uuid;

use catalog::{Catalog, CatalogBatch, StoredCatalog};
use collection::Collection;
use store::{Batch, Store, Tree};

use crate::error::{Error, Kind, Result};
use crate::meters::record_since;
use crate::model::collection::Lifecycle;
use crate::model::names::{DEFAULT_DATABASE, DEFAULT_TENANT};

pub use catalog::{Database, Tenant};
pub use changes::{CatchUp, Cut, CutScope, Final, FinalPart, Layer, Tombstone};
pub use checkpoints::StoredCheckpoint;
pub use collection::{CollectionInfo, Projection};
pub use compact::Usage;
pub use format::{Head, StoredRecord};
pub use inspect::{CollectionInspection, InspectionLimits};
pub use markers::BackupMarker;
pub use namespaces::{CollectionUpdate, NewCollection, already_exists};
pub use publish::{Publication, Published};
pub use search::{GetRequest, Neighbour, QueryRequest};
pub use staging::{Exclusive, FoundRecord, StagedRecord, Staging};
pub use store::OpenOptions;
pub use write::{DeleteRequest, RecordPatch, WriteMode, WriteOutcome};

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
}

/// The engine. Cheap to clone; the last clone does not close it, [`Engine::close`] does.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    options: EngineOptions,
    catalog: RwLock<Catalog>,
    /// THE write lock. It holds the last sequence given out.
    writer: Mutex<Writer>,
    /// Watermarks of running cuts: tombstones above the lowest stay.
    pins: Mutex<Vec<(u64, u64)>>,
    /// Collections whose records are to be removed, and the bell for the maintenance thread.
    garbage: Mutex<Vec<Garbage>>,
    bell: Condvar,
    /// Searches that run; they share the cores.
    searches: AtomicUsize,
    closing: AtomicBool,
    maintenance: Mutex<Option<std::thread::JoinHandle<()>>>,
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
    /// *record* does not prevent opening: its collection refuses reads and the store refuses writes.
    pub fn open(options: EngineOptions) -> Result<Self> {
        meters::start();
        let store = Store::open(&options.store)?;
        let stored = StoredCatalog::read(&store)?;
        let (catalog, garbage) = load(&store, stored)?;
        let inner = Arc::new(Inner {
            writer: Mutex::new(Writer {
                sequence: store.committed(),
            }),
            store,
            options,
            catalog: RwLock::new(catalog),
            pins: Mutex::new(Vec::new()),
            garbage: Mutex::new(garbage),
            bell: Condvar::new(),
            searches: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            maintenance: Mutex::new(None),
        });
        inner.ensure_defaults()?;
        maintenance::start(&inner)?;
        Ok(Self { inner })
    }

    /// Stops background work, syncs everything, brings the watermark up. Further writes are refused.
    ///
    /// # Errors
    /// `StorageFault` when the last sync failed.
    pub fn close(&self) -> Result<()> {
        self.inner.closing.store(true, Ordering::Release);
        // The thread looks and falls asleep under this lock: either it has seen it, or it hears the bell.
        drop(self.inner.garbage.lock());
        self.inner.bell.notify_all();
        if let Some(thread) = self.inner.maintenance.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the maintenance thread panicked");
        }
        let _writer = self.inner.writer.lock();
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

    /// Keeps a job's record; durable when this returns.
    ///
    /// # Errors
    /// `Unavailable` or `StorageFault`.
    pub fn put_job(&self, id: &str, payload: Vec<u8>) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(Tree::Jobs, id.as_bytes().to_vec(), payload);
        let sequence = self.inner.commit(batch)?;
        self.inner.store.wait_synced(sequence)
    }

    /// Forgets a job's record.
    ///
    /// # Errors
    /// `Unavailable` or `StorageFault`.
    pub fn remove_job(&self, id: &str) -> Result<()> {
        let mut batch = Batch::default();
        batch.remove(Tree::Jobs, id.as_bytes().to_vec());
        self.inner.commit(batch).map(|_| ())
    }

    /// All jobs' records, by id.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn jobs(&self) -> Result<Vec<Vec<u8>>> {
        self.inner
            .store
            .scan(Tree::Jobs, vec![0], vec![u8::MAX], true)
            .map(|entry| Ok(entry?.1.to_vec()))
            .collect()
    }
}

/// Builds the catalog in memory and names what has to be swept.
fn load(store: &Store, stored: StoredCatalog) -> Result<(Catalog, Vec<Garbage>)> {
    let mut catalog = Catalog::default();
    let mut garbage = Vec::new();
    let checkpoints = checkpoints::read(store)?;
    let owned = |id: Uuid| checkpoints.iter().any(|found| found.staged == Some(id));
    for descriptor in &stored.descriptors {
        let goes_on = descriptor.lifecycle == Lifecycle::Staging && owned(descriptor.id);
        let live = descriptor.lifecycle == Lifecycle::Live && stored.points_to(descriptor);
        if !live && !goes_on {
            garbage.push(Garbage {
                id: descriptor.id,
                collection: None,
            });
            continue;
        }
        let head = catalog::read_head(store, descriptor.id)?;
        let collection = Collection::new(descriptor.clone(), head);
        collection.load(store)?;
        if live {
            catalog.names.insert(descriptor.name.clone(), descriptor.id);
        }
        catalog
            .collections
            .insert(descriptor.id, Arc::new(collection));
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
    fn lock_for_write(&self) -> MutexGuard<'_, Writer> {
        let started = Instant::now();
        let writer = self.writer.lock();
        record_since(&meters::WRITE_LOCK_WAIT, started);
        writer
    }

    /// Commits a batch that changes nothing in memory.
    fn commit(&self, batch: Batch) -> Result<u64> {
        let mut writer = self.writer.lock();
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
        record_since(&meters::COMMIT_DURATION, started);
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
        let mut catalog = self.catalog.write();
        let key = (database.tenant.clone(), database.name.clone());
        if catalog.tenants.contains_key(&tenant.name) && catalog.databases.contains_key(&key) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put_tenant(&tenant);
        batch.put_database(&database);
        let sequence = self.commit(batch)?;
        catalog.tenants.insert(tenant.name.clone(), tenant);
        catalog.databases.insert(key, database);
        drop(catalog);
        self.store.wait_synced(sequence)
    }

    /// A live collection, for clients: a staged one is not there for them.
    fn live_collection(&self, id: Uuid) -> Result<Arc<Collection>> {
        let collection = self.live_or_staged(id)?;
        let lifecycle = collection.state.read().descriptor.lifecycle;
        match lifecycle {
            Lifecycle::Live => Ok(collection),
            Lifecycle::Staging | Lifecycle::Dropped => Err(missing(id)),
        }
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

/// The text that Chroma's record routes use, with its final dot.
fn missing(id: Uuid) -> Error {
    Error::not_found(format!("Collection [{id}] does not exist."))
}
