//! The repository's lock: many that add or read, or one that removes.
//!
//! A lock is an object below `locks/`. Whoever wants one puts its own, then lists all: where another
//! forbids it, it takes its own away and tries again later. Two that arrive at once may both step back,
//! never both stay. The holder renews its lock; one that was not renewed for long belongs to a process
//! that is gone, judged by the object store's clock alone. A service that starts removes the locks it
//! left behind itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::Utc;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::backend::{Backend, Listed};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

const LOCKS: &str = "locks";
/// Renewals in the time after which a lock counts as left behind.
const RENEWALS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a lock allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// Adding backups, or reading them; others may do so as well.
    Shared,
    /// Removing what nothing refers to; alone.
    Exclusive,
}

impl LockMode {
    fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Exclusive => "exclusive",
        }
    }
}

/// Bounds on locks.
#[derive(Clone, Copy, Debug)]
pub struct LockSettings {
    /// A lock that was not renewed for this long is no lock any more.
    pub stale: Duration,
    /// How long to wait for others.
    pub wait: Duration,
}

/// Locks that are no longer held but may still lie there: the repository could not be reached when they
/// ended.
#[derive(Clone, Default)]
pub(super) struct LeftLocks(Arc<Mutex<Vec<String>>>);

impl LeftLocks {
    fn add(&self, path: &str) {
        self.0.lock().push(path.to_owned());
    }

    /// Removes them.
    pub(super) fn give_back(&self, backend: &Backend) -> Result<()> {
        let left = std::mem::take(&mut *self.0.lock());
        for (index, path) in left.iter().enumerate() {
            if let Err(error) = backend.delete(path) {
                self.0.lock().extend(left.into_iter().skip(index));
                return Err(error);
            }
        }
        Ok(())
    }
}

/// A lock that is held until it is dropped. Dropped on blocking threads only.
pub struct RepositoryLock {
    backend: Backend,
    path: String,
    lost: Arc<AtomicBool>,
    renewal: JoinHandle<()>,
    /// Held by the renewal while it works: it must not put the lock again after it was given back.
    renewing: Arc<tokio::sync::Mutex<()>>,
    left: LeftLocks,
}

impl RepositoryLock {
    /// Takes a lock; `holder` says who asks.
    ///
    /// # Errors
    /// `Conflict` when others hold it for longer than is waited, `Canceled`, `StorageFault`.
    pub(super) fn take(
        backend: &Backend,
        left: &LeftLocks,
        holder: Uuid,
        mode: LockMode,
        settings: LockSettings,
        progress: &Progress,
    ) -> Result<Self> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        let path = format!("{LOCKS}/{}-{holder}-{}", mode.name(), Uuid::new_v4());
        // Where the outcome is not known, the lock may lie there.
        let or_left = |error: Error| {
            left.add(&path);
            error
        };
        loop {
            progress.check()?;
            let taken = Instant::now();
            let put = match mode {
                LockMode::Shared => backend.put(&path, content()),
                LockMode::Exclusive => backend.put_for_removal(&path, content()),
            };
            put.map_err(or_left)?;
            let found = obstacle(backend, &path, mode, settings.stale).map_err(or_left)?;
            let Some(other) = found else {
                let left = left.clone();
                return Ok(Self::held(backend, left, path, taken, settings.stale));
            };
            backend.delete(&path).map_err(or_left)?;
            if started.elapsed() + pause > settings.wait {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "the repository {} is in use ({other}); try again when that is over. A lock that a process \
                         left behind passes by itself after {} s",
                        backend.location(),
                        settings.stale.as_secs()
                    ),
                ));
            }
            // Not in step with another that steps back at the same time.
            let jitter = u32::from(Uuid::new_v4().as_bytes()[0]) + 128;
            std::thread::sleep(pause * jitter / 256);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn held(
        backend: &Backend,
        left: LeftLocks,
        path: String,
        taken: Instant,
        stale: Duration,
    ) -> Self {
        let lost = Arc::new(AtomicBool::new(false));
        let renewing = Arc::default();
        let renewal = backend.runtime().spawn(renew(
            backend.clone(),
            path.clone(),
            taken,
            stale,
            Arc::clone(&lost),
            Arc::clone(&renewing),
        ));
        Self {
            backend: backend.clone(),
            path,
            lost,
            renewal,
            renewing,
            left,
        }
    }

    /// The last look before what the lock is for: whether it is still held.
    ///
    /// # Errors
    /// `Conflict` when it was lost, `StorageFault` when that cannot be known.
    pub(super) fn confirm(&self) -> Result<()> {
        if self.lost.load(Ordering::Acquire)
            || self.renewal.is_finished()
            || self.backend.size(&self.path)?.is_none()
        {
            return Err(Error::new(
                Kind::Conflict,
                "the repository's lock was lost while it was used; nothing was committed",
            ));
        }
        Ok(())
    }
}

impl Drop for RepositoryLock {
    fn drop(&mut self) {
        // Nothing is asked while a panic is under way; who takes a lock next gives this one back.
        if std::thread::panicking() {
            self.renewal.abort();
            self.left.add(&self.path);
            return;
        }
        let _renewing = self.backend.runtime().block_on(self.renewing.lock());
        self.renewal.abort();
        if let Err(error) = self.backend.delete(&self.path) {
            tracing::warn!(lock = self.path, ?error, "a repository lock stays for now");
            self.left.add(&self.path);
        }
    }
}

/// Renews a lock again and again; ends when it is lost.
async fn renew(
    backend: Backend,
    path: String,
    mut renewed: Instant,
    stale: Duration,
    lost: Arc<AtomicBool>,
    renewing: Arc<tokio::sync::Mutex<()>>,
) {
    loop {
        tokio::time::sleep(stale / RENEWALS).await;
        let _renewing = renewing.lock().await;
        let began = Instant::now();
        // Put again where it was taken away, it would prove nothing.
        let put = async {
            match backend.size_async(&path).await? {
                None => Ok(false),
                Some(_) => backend.put_async(&path, content()).await.map(|()| true),
            }
        };
        let put = tokio::time::timeout(stale / RENEWALS, put).await;
        match put {
            Ok(Ok(true)) if renewed.elapsed() < stale => renewed = began,
            Err(_) | Ok(Err(_)) if renewed.elapsed() < stale => {
                tracing::warn!(lock = path, ?put, "a repository lock was not renewed");
            }
            // Others may have taken it for left behind.
            _ => break,
        }
    }
    lost.store(true, Ordering::Release);
}

/// For people who look into the repository: the name of the object alone decides.
fn content() -> Bytes {
    json!({"format": 1, "process": std::process::id(), "renewed_at": Utc::now()})
        .to_string()
        .into()
}

/// Another lock that forbids this one. Those that are too old are removed on the way.
fn obstacle(
    backend: &Backend,
    own: &str,
    mode: LockMode,
    stale: Duration,
) -> Result<Option<String>> {
    let locks = backend.list(LOCKS)?;
    let now = locks
        .iter()
        .find(|lock| lock.path == own)
        .map(|lock| lock.modified);
    let Some(now) = now else {
        return Ok(Some("this lock was removed by another process".to_owned()));
    };
    for lock in locks.iter().filter(|lock| lock.path != own) {
        let age = (now - lock.modified).to_std().unwrap_or_default();
        if age > stale {
            tracing::warn!(
                lock = lock.path,
                ?age,
                "a lock that was left behind is removed"
            );
            backend.delete(&lock.path)?;
        } else if mode == LockMode::Exclusive || is_exclusive(lock) {
            return Ok(Some(format!("{}, since {}", lock.name(), lock.modified)));
        }
    }
    Ok(None)
}

fn is_exclusive(lock: &Listed) -> bool {
    lock.name().starts_with(LockMode::Exclusive.name())
}

/// Removes the locks that an earlier process of the same holder left behind.
pub(super) fn release_left(backend: &Backend, holder: Uuid) -> Result<()> {
    let holder = holder.to_string();
    for lock in backend.list(LOCKS)? {
        if lock.name().contains(&holder) && backend.delete(&lock.path)? {
            tracing::info!(lock = lock.path, "a lock of an earlier run is removed");
        }
    }
    Ok(())
}
