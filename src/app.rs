//! The application: opens everything once, owns it, shuts it down in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::config::{Config, DurabilityMode};
use crate::engine::{CatchUp, Durability, Engine, EngineOptions, OpenOptions};
use crate::error::{Error, Result};
use crate::health::deep::DeepChecks;
use crate::jobs::{JobKind, JobLimits, JobState, Jobs, Work};
use crate::model::filter;
use crate::operations::backup::BackupSettings;
use crate::operations::compact::{self, CompactionTrigger};
use crate::progress::Progress;
use crate::repository::Repository;

/// Everything that runs. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    engine: Engine,
    jobs: Jobs,
    /// Opened when it is first needed and again until it succeeds: data is served without it.
    repository: Mutex<Option<Repository>>,
    runtime: Handle,
    started: Instant,
    draining: AtomicBool,
    deep_checks: DeepChecks,
    /// Bytes of the store's files after the last compaction of this process; 0 before the first.
    compacted_bytes: AtomicU64,
}

impl App {
    /// Opens the store and the jobs. Blocks.
    ///
    /// # Errors
    /// What opening the store finds; `StorageFault` when jobs cannot be read.
    pub fn open(config: Config, runtime: Handle) -> Result<Self> {
        let storage = &config.storage;
        let engine = Engine::open(EngineOptions {
            store: OpenOptions {
                data_dir: storage.data_dir.clone(),
                cache_bytes: storage.cache_bytes,
                accept_data_loss: storage.accept_data_loss,
                min_free_bytes: storage.min_free_bytes,
            },
            durability: match storage.durability {
                DurabilityMode::Always => Durability::Always,
                DurabilityMode::Interval => {
                    Durability::Interval(Duration::from_millis(storage.sync_interval_ms))
                }
            },
            max_tombstones: storage.max_tombstones,
        })?;
        let limits = JobLimits {
            workers: config.jobs.workers,
            max_queued: config.jobs.max_queued,
            kept: config.jobs.kept,
        };
        let jobs = Jobs::open(engine.clone(), runtime.clone(), limits)?;
        let app = Self {
            inner: Arc::new(Inner {
                config,
                engine,
                jobs,
                repository: Mutex::new(None),
                runtime,
                started: Instant::now(),
                draining: AtomicBool::new(false),
                deep_checks: DeepChecks::default(),
                compacted_bytes: AtomicU64::new(0),
            }),
        };
        if let Err(error) = app.repository() {
            tracing::warn!(%error, "the repository cannot be opened; backups and restores will be refused");
        }
        app.watch_size();
        Ok(app)
    }

    /// Looks from time to time whether a compaction is due, for as long as the application is there.
    fn watch_size(&self) {
        let weak = Arc::downgrade(&self.inner);
        let interval = Duration::from_millis(self.inner.config.compaction.check_interval_ms.max(1));
        self.inner.runtime.spawn(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                let outcome = Self { inner }.blocking(Self::compact_if_due).await;
                if let Err(error) = outcome {
                    tracing::warn!(%error, "a compaction that is due could not be started");
                }
            }
        });
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
        compact::plan(self.engine())?;
        tracing::info!(usage.file_bytes, usage.live_bytes, "compacting the store");
        // One that fails is not begun again at once; its success puts the true number here.
        let bytes = &self.inner.compacted_bytes;
        bytes.store(usage.file_bytes, Ordering::Relaxed);
        let request = serde_json::json!({});
        self.jobs()
            .submit(JobKind::Compaction, request, self.compaction_work())
            .map(|_| ())
    }

    /// The work of a compaction's job.
    pub fn compaction_work(&self) -> Work {
        let weak = Arc::downgrade(&self.inner);
        let engine = self.engine().clone();
        let config = &self.inner.config.compaction;
        let catch_up = CatchUp {
            max_last_round: config.max_last_round,
            max_rounds: config.max_rounds,
        };
        Box::new(move |progress: &Progress| {
            let outcome = compact::execute(&engine, catch_up, progress)?;
            if let Some(inner) = weak.upgrade() {
                let bytes = outcome.after_bytes;
                inner.compacted_bytes.store(bytes, Ordering::Relaxed);
            }
            Ok(serde_json::json!(outcome))
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.inner.jobs
    }

    /// What deep health checks found last.
    pub fn deep_checks(&self) -> &DeepChecks {
        &self.inner.deep_checks
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.inner.started.elapsed()
    }

    /// The repository. Blocks.
    ///
    /// # Errors
    /// What opening it finds.
    pub fn repository(&self) -> Result<Repository> {
        let mut open = self.inner.repository.lock();
        if let Some(repository) = open.as_ref() {
            return Ok(repository.clone());
        }
        let repository = Repository::open(
            &self.inner.config.repository.url,
            self.inner.runtime.clone(),
        )?;
        Ok(open.insert(repository).clone())
    }

    /// Settings of a backup.
    pub fn backup_settings(&self) -> BackupSettings {
        let repository = &self.inner.config.repository;
        BackupSettings {
            compression_level: repository.compression_level,
            pack_bytes: repository.pack_bytes,
            catch_up: self.catch_up(),
        }
    }

    /// Bounds of a backup's, a migration's and a fork's catching up.
    pub fn catch_up(&self) -> CatchUp {
        let repository = &self.inner.config.repository;
        CatchUp {
            max_last_round: repository.max_last_round,
            max_rounds: repository.max_rounds,
        }
    }

    /// Bounds of filters.
    pub fn filter_limits(&self) -> filter::Limits {
        let query = &self.inner.config.query;
        filter::Limits {
            max_depth: query.max_filter_depth,
            max_nodes: query.max_filter_nodes,
            max_regex_bytes: query.max_regex_bytes,
        }
    }

    /// Runs a blocking call on a thread for such.
    ///
    /// # Errors
    /// Those of the call; `Internal` when it panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let app = self.clone();
        tokio::task::spawn_blocking(move || call(&app))
            .await
            .unwrap_or_else(|error| {
                Err(Error::internal("a request's thread panicked").because(error))
            })
    }

    /// From now on not ready: load balancers send nothing new.
    pub fn start_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// Whether the service drains.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Ends jobs, then closes the store: the order in which they use each other.
    ///
    /// # Errors
    /// `StorageFault` when the last sync failed.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        self.inner.jobs.drain(grace).await;
        self.blocking(|app| app.engine().close()).await
    }
}
