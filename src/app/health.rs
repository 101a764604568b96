//! What is looked at in the background for `/health`, and the work of deep checks.

use std::sync::Arc;
use std::time::Duration;

use super::App;
use crate::config::HealthConfig;
use crate::engine::CollectionInfo;
use crate::error::Result;
use crate::health::deep::{DeepCheck, DeepChecks, DeepLimits, Work};
use crate::health::monitor::Monitor;
use crate::health::{
    EmbeddingSelection, Report, Status, check_collections, check_embeddings, check_storage,
    overview,
};
use crate::repository::VerifiedBackup;

/// Deep checks within the configured bounds.
pub(super) fn deep_checks(config: &HealthConfig) -> DeepChecks {
    DeepChecks::new(DeepLimits {
        max_running: config.max_deep_checks,
        max_age: Duration::from_millis(config.deep_max_age_ms),
    })
}

impl App {
    /// What `/health` answers; from memory.
    pub fn health(&self) -> Report {
        let (engine, config) = (self.engine(), &self.config().health);
        let repository = self.opened_repository();
        overview(
            engine,
            repository,
            self.monitor(),
            self.deep_checks(),
            config,
        )
    }

    /// What deep health checks found last.
    pub fn deep_checks(&self) -> &DeepChecks {
        &self.inner.deep_checks
    }

    /// The newest backup that a verification of its records, or a drill, found sound, as far as is known.
    pub fn last_verified_backup(&self) -> Option<VerifiedBackup> {
        self.monitor().last_verified()
    }

    pub(super) fn monitor(&self) -> &Monitor {
        &self.inner.monitor
    }

    /// The result of a deep check, from a run of now or of just before, within `health.deep_timeout_ms`.
    ///
    /// # Errors
    /// As for [`DeepChecks::result`].
    pub async fn deep_check(&self, check: DeepCheck) -> Result<Report> {
        let timeout = Duration::from_millis(self.config().health.deep_timeout_ms);
        let (version, work) = (self.version_of(check), self.deep_work(check));
        self.deep_checks()
            .result(check, version, timeout, work)
            .await
    }

    fn begin_deep_check(&self, check: DeepCheck) -> Result<()> {
        let (version, work) = (self.version_of(check), self.deep_work(check));
        self.deep_checks().begin(check, version, work)
    }

    /// The last write to what a check looks at. (What the disk is like does not depend on it.)
    fn version_of(&self, check: DeepCheck) -> u64 {
        match check.collection() {
            Some(id) => self
                .engine()
                .collection(id)
                .map_or(0, |info| info.head.sequence),
            None if check == DeepCheck::Storage => 0,
            None => self.engine().sequence(),
        }
    }

    /// The work of a deep check.
    fn deep_work(&self, check: DeepCheck) -> Work {
        let app = self.clone();
        Box::new(move |progress| {
            let (engine, config) = (app.engine(), &app.config().health);
            match check {
                DeepCheck::Storage => Ok(check_storage(engine, app.repository(), config)),
                DeepCheck::Collections(id) => check_collections(engine, id, config, progress),
                DeepCheck::Embeddings(collection, sample) => {
                    let selection = EmbeddingSelection { collection, sample };
                    check_embeddings(engine, selection, config, progress)
                }
            }
        })
    }

    /// Looks for the first time, and goes on from time to time.
    pub(super) fn start_watching(&self, repository_is_remote: bool) {
        let health = &self.config().health;
        crate::health::clear_probes(self.engine().data_dir());
        self.monitor().look_at_disk(self.engine(), health);
        // Which backup to restore is the first thing to know then.
        let engine = self.engine();
        let is_damaged = |info: &CollectionInfo| engine.damage_of(info.descriptor.id).is_some();
        let is_sound = engine.fault().is_none() && !engine.all_collections().iter().any(is_damaged);
        if !is_sound && !repository_is_remote {
            self.look_at_backups();
        }
        self.repeat(health.monitor_interval_ms, Self::look_at_storage);
        if health.scrub_interval_ms > 0 {
            self.repeat(health.scrub_interval_ms, Self::scrub);
        }
        self.follow_backups();
    }

    /// Asks the disk. Storage that was found wanting is checked again, so that its recovery shows by itself.
    fn look_at_storage(&self) -> Result<()> {
        let config = &self.config().health;
        self.monitor().look_at_disk(self.engine(), config);
        let check = DeepCheck::Storage;
        let last = self.deep_checks().last_status(check);
        if last.is_some_and(|last| last > Status::Pass) && !self.is_draining() {
            self.begin_deep_check(check)?;
        }
        Ok(())
    }

    /// Checks all collections; the result shows in `/health`.
    fn scrub(&self) -> Result<()> {
        if self.is_draining() {
            return Ok(());
        }
        let check = DeepCheck::Collections(None);
        self.begin_deep_check(check)
    }

    /// Says that a backup was made or deleted other than by a job.
    pub fn backups_changed(&self) {
        self.inner.backups_changed.notify_one();
    }

    fn look_at_backups(&self) {
        let seen = self.repository().and_then(|repository| {
            let known = self
                .known_repository()
                .filter(|known| *known != repository.id());
            let mut seen = repository.backups_seen()?;
            seen.other_repository = known;
            Ok(seen)
        });
        match seen {
            Ok(seen) => self.monitor().note_backups(Ok(seen)),
            // What it asks with goes away then.
            Err(error) if self.is_draining() => {
                tracing::debug!(?error, "the backups were not looked at again");
            }
            Err(error) => {
                tracing::warn!(
                    ?error,
                    "what backups there are is not known; what was known stands"
                );
                self.monitor().note_backups(Err(error));
            }
        }
    }

    /// Keeps what is known of the backups true: after each job that touches them, and from time to time.
    fn follow_backups(&self) {
        let weak = Arc::downgrade(&self.inner);
        let mut jobs = self.jobs().backup_changes();
        let changed = Arc::clone(&self.inner.backups_changed);
        let config = self.config();
        let interval = Duration::from_millis(config.repository.sweep_interval_ms.max(1));
        let sooner = interval.min(Duration::from_millis(
            config.health.monitor_interval_ms.max(1),
        ));
        self.inner.runtime.spawn(async move {
            loop {
                let Some(inner) = weak.upgrade() else {
                    return;
                };
                let app = Self { inner };
                let looked = app.on_thread(|app| {
                    app.look_at_backups();
                    Ok(())
                });
                let looked = looked.await;
                // That it is back shows soon.
                let pause = if app.monitor().is_unreadable() {
                    sooner
                } else {
                    interval
                };
                drop(app);
                if let Err(error) = looked {
                    tracing::warn!(?error, "looking at the backups failed");
                }
                tokio::select! {
                    changed = jobs.changed() => if changed.is_err() {
                        return;
                    },
                    () = changed.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }
}
