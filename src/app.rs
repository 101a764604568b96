//! The application: opens everything once, owns it, shuts it down in order.

mod gauges;
mod health;
mod repository;
mod settings;
mod started;
mod temporary;
mod threads;
pub mod verbs;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

use crate::access::Access;
use crate::config::Config;
use crate::engine::Engine;
use crate::environments::Environments;
use crate::error::{Error, Kind, Result};
use crate::health::deep::DeepChecks;
use crate::health::monitor::Monitor;
use crate::jobs::{JobKind, JobState, Jobs};
use crate::metrics;
use crate::operations::compact::CompactionTrigger;
use crate::operations::delete;
use crate::operations::migrate::{self, RunningMigrations};
use crate::repository::Repository;

use gauges::Observed;
use repository::RepositorySlot;
pub use repository::repository_options;
use verbs::JobRequest;

/// Everything that runs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    access: Access,
    engine: Engine,
    jobs: Jobs,
    /// Of this run.
    process: Uuid,
    migrations: RunningMigrations,
    /// Other places that collections live in.
    environments: Environments,
    /// Opened when it is first needed and again until it succeeds: data is served without it.
    repository: Mutex<RepositorySlot>,
    /// Requests that may ask the repository at the same time: where it hangs, data must not.
    repository_requests: Arc<Semaphore>,
    /// Threads that blocking calls of requests may take at the same time.
    threads: Arc<Semaphore>,
    runtime: Handle,
    started: Instant,
    draining: AtomicBool,
    deep_checks: DeepChecks,
    monitor: Monitor,
    /// Rung when backups were changed other than by a job.
    backups_changed: Arc<Notify>,
    /// Documents that may be received at the same time.
    uploads: Arc<Semaphore>,
    /// Clients that may follow the events of jobs.
    event_streams: Arc<Semaphore>,
    /// Bytes of the store's files after the last compaction of this process; 0 before the first.
    compacted_bytes: AtomicU64,
    /// What metrics tell of the disk and of backups.
    observed: Mutex<Observed>,
}

impl App {
    /// Opens the store and the jobs. Blocks.
    ///
    /// # Errors
    /// What opening the store finds; `StorageFault` when jobs cannot be read.
    pub fn open(config: Config, runtime: Handle) -> Result<Self> {
        metrics::start();
        config.check_places()?;
        let at = repository_options(&config);
        Repository::check_settings(&at, runtime.clone())?;
        let access = Access::open(config.access.key_sources())?;
        let environments = settings::environments(&config, &runtime)?;
        let engine = Engine::open(settings::engine(&config.storage))?;
        let limits = settings::job_limits(&config.jobs);
        temporary::clear(&config.storage.data_dir);
        let repository_requests = Arc::new(Semaphore::new(config.repository.max_requests));
        let threads = Arc::new(Semaphore::new(config.server.max_threads));
        let uploads = Arc::new(Semaphore::new(config.repository.max_uploads));
        let event_streams = Arc::new(Semaphore::new(config.jobs.max_event_streams));
        let jobs = Jobs::open(engine.clone(), runtime.clone(), limits)?;
        let deep_checks = health::deep_checks(&config.health);
        let app = Self {
            inner: Arc::new(Inner {
                config,
                access,
                engine,
                jobs,
                process: Uuid::new_v4(),
                migrations: RunningMigrations::default(),
                environments,
                repository: Mutex::new(RepositorySlot::Closed),
                repository_requests,
                threads,
                runtime,
                started: Instant::now(),
                draining: AtomicBool::new(false),
                deep_checks,
                monitor: Monitor::default(),
                backups_changed: Arc::default(),
                event_streams,
                uploads,
                compacted_bytes: AtomicU64::new(0),
                observed: Mutex::default(),
            }),
        };
        if at.backend.is_remote() {
            // Another machine may take its time; data is served meanwhile.
            let opening = app.clone();
            app.inner
                .runtime
                .spawn_blocking(move || opening.try_repository());
        } else {
            app.try_repository();
        }
        app.start_watching(at.backend.is_remote());
        app.jobs().resume(|record| app.work_again(record));
        app.observe()?;
        app.repeat_chores();
        Ok(app)
    }

    /// Begins what is done from time to time.
    fn repeat_chores(&self) {
        let config = &self.inner.config;
        self.repeat(config.compaction.check_interval_ms, Self::compact_if_due);
        self.repeat(config.repository.sweep_interval_ms, Self::sweep);
        self.repeat(config.access.reload_interval_ms, |app| {
            app.access().reload()
        });
        let refresh_interval_ms = config.metrics.refresh_interval_ms;
        self.repeat(refresh_interval_ms, Self::observe);
        // By itself: a disk that hangs must not hold it up.
        self.repeat(refresh_interval_ms, |_| {
            metrics::upkeep();
            Ok(())
        });
    }

    /// Does something from time to time, for as long as the application is there.
    fn repeat(&self, interval_ms: u64, what: fn(&Self) -> Result<()>) {
        let weak = Arc::downgrade(&self.inner);
        let interval = Duration::from_millis(interval_ms.max(1));
        self.inner.runtime.spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                if let Err(error) = (Self { inner }).on_thread(what).await {
                    tracing::warn!(?error, "what is done from time to time could not be done");
                }
            }
        });
    }

    /// Removes packs that have been unreferenced for long enough, and forgets old jobs.
    fn sweep(&self) -> Result<()> {
        self.jobs().forget_old();
        let settings = self.migrate_settings();
        let most = settings.max_checkpoints;
        let swept = migrate::sweep(self.engine(), &settings, most, chrono::Utc::now());
        if let Err(error) = swept {
            tracing::warn!(?error, "unfinished migrations were not looked through");
        }
        let repository = self.repository()?;
        let collected = delete::sweep(&repository, self.grace(), chrono::Utc::now())?;
        if collected.freed_bytes > 0 {
            tracing::info!(
                collected.freed_bytes,
                "packs that no backup needs were removed"
            );
        }
        Ok(())
    }

    fn compact_if_due(&self) -> Result<()> {
        let config = &self.inner.config.compaction;
        let trigger = CompactionTrigger {
            ratio: config.ratio,
            min_bytes: config.min_bytes,
        };
        let under_way = [JobState::Queued, JobState::Running]
            .into_iter()
            .any(|state| {
                !self
                    .jobs()
                    .list(Some(state), Some(JobKind::Compaction), None, 1)
                    .is_empty()
            });
        let usage = self.engine().usage()?;
        let last = self.inner.compacted_bytes.load(Ordering::Relaxed);
        if under_way || self.engine().fault().is_some() || !trigger.due(&usage, last) {
            return Ok(());
        }
        let request = JobRequest {
            shown: serde_json::json!({}),
            key: None,
            requested_by: None,
        };
        let bytes = &self.inner.compacted_bytes;
        let submitted = self.submit(request, |app| {
            let planned = verbs::compaction::plan(app)?;
            tracing::info!(usage.file_bytes, usage.live_bytes, "compacting the store");
            // One that fails is not begun again at once; its success puts the true number here.
            bytes.store(usage.file_bytes, Ordering::Relaxed);
            Ok(planned)
        });
        if submitted.is_err() {
            bytes.store(last, Ordering::Relaxed);
        }
        submitted.map(|_| ())
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Who may do what.
    pub fn access(&self) -> &Access {
        &self.inner.access
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.inner.jobs
    }

    /// Other places that collections live in.
    pub fn environments(&self) -> &Environments {
        &self.inner.environments
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// Places for clients that follow jobs.
    pub fn event_streams(&self) -> &Arc<Semaphore> {
        &self.inner.event_streams
    }

    /// Places for documents that are received.
    pub fn uploads(&self) -> &Arc<Semaphore> {
        &self.inner.uploads
    }

    /// Runs a blocking call on a thread for such, of which there are only so many at a time
    /// (`server.max_threads`): each holds memory of its own, and all share the processors with the threads that
    /// answer probes. Further calls wait, in order, and take no thread meanwhile.
    ///
    /// # Errors
    /// Those of the call; `Internal` when it panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let threads = Arc::clone(&self.inner.threads)
            .acquire_owned()
            .await
            .map_err(|_| Error::new(Kind::Unavailable, "the service is stopping"))?;
        // Held by the thread: a caller that goes away does not free it.
        self.on_thread(move |app| {
            let _thread = threads;
            call(app)
        })
        .await
    }

    /// As [`App::blocking`], for calls that ask the repository. It may be on another machine that hangs: only so
    /// many threads wait for it.
    ///
    /// # Errors
    /// Those of the call; `Overloaded` when too many ask it.
    pub async fn asking_repository<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.repository_permit()?;
        let answer = self
            .on_thread(move |app| {
                let _permit = permit;
                call(app)
            })
            .await;
        let gone = |error: &Error| {
            matches!(
                error.kind(),
                Kind::RepositoryUnusable | Kind::RemoteUnavailable
            )
        };
        if answer.as_ref().err().is_some_and(gone) {
            // Health shows it before it would be looked at again.
            self.backups_changed();
        }
        answer
    }

    /// A place among those who ask the repository.
    ///
    /// # Errors
    /// `Overloaded` when none is free.
    pub fn repository_permit(&self) -> Result<OwnedSemaphorePermit> {
        let places = Arc::clone(&self.inner.repository_requests);
        places.try_acquire_owned().map_err(|_| {
            Error::new(
                Kind::Overloaded,
                "too many requests ask the repository (repository.max_requests)",
            )
        })
    }

    /// From now on not ready: load balancers send nothing new, and no request waits for a deep check.
    pub fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
        self.inner.deep_checks.close();
    }

    /// Whether the service drains.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Ends jobs, then closes the store: the order in which they use each other.
    ///
    /// # Errors
    /// `StorageFault` when the last sync failed; `Unavailable` when it did not end within `storage.close_timeout_ms`.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        self.start_draining();
        tokio::join!(
            self.inner.jobs.drain(grace),
            self.inner.deep_checks.closed(grace)
        );
        // What still waits for a thread is not begun any more.
        self.inner.threads.close();
        let limit = Duration::from_millis(self.inner.config.storage.close_timeout_ms);
        let closing = self.on_thread(|app| app.engine().close());
        let closed = tokio::time::timeout(limit, closing).await;
        closed.unwrap_or_else(|_| {
            let waiting = self.engine().calls().under_way();
            Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the store was not closed within storage.close_timeout_ms; calls into it that wait: {waiting:?}"
                ),
            ))
        })
    }
}
