//! The repository: opened when it is first needed, and again until that succeeds.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{App, temporary};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::repository::{BackendOptions, LockSettings, ReadLimits, Repository, RepositoryOptions};

/// The repository, as far as it could be opened.
pub(super) enum RepositorySlot {
    Closed,
    Failed { at: Instant, error: Error },
    Open(Repository),
}

impl App {
    pub(super) fn try_repository(&self) {
        if let Err(error) = self.repository() {
            tracing::warn!(
                ?error,
                "the repository cannot be opened; backups and restores will be refused"
            );
        }
    }

    /// The repository. Blocks; who comes while another tries to open it waits for that attempt alone.
    ///
    /// # Errors
    /// What opening it finds.
    pub fn repository(&self) -> Result<Repository> {
        let asked = Instant::now();
        let mut slot = self.inner.repository.lock();
        match &*slot {
            RepositorySlot::Open(repository) => return Ok(repository.clone()),
            RepositorySlot::Failed { at, error } if *at >= asked => return Err(error.again()),
            _ => {}
        }
        let opened = Repository::open(
            &repository_options(&self.inner.config),
            self.holder(),
            self.known_repository(),
            self.inner.runtime.clone(),
        );
        match opened {
            Ok(repository) => {
                *slot = RepositorySlot::Open(repository.clone());
                Ok(repository)
            }
            Err(error) => {
                let (at, again) = (Instant::now(), error.again());
                *slot = RepositorySlot::Failed { at, error: again };
                Err(error)
            }
        }
    }

    /// The repository that the newest backup of this store went to.
    pub(crate) fn known_repository(&self) -> Option<Uuid> {
        self.engine().last_repository().unwrap_or_else(|error| {
            tracing::warn!(
                ?error,
                "the store does not say which repository it used last"
            );
            None
        })
    }

    /// The repository as far as it is open; does not wait.
    ///
    /// # Errors
    /// Why it could not be opened, `Unavailable` while that is tried.
    pub fn opened_repository(&self) -> Result<Repository> {
        match self.inner.repository.try_lock().as_deref() {
            Some(RepositorySlot::Open(repository)) => Ok(repository.clone()),
            Some(RepositorySlot::Failed { error, .. }) => Err(error.again()),
            Some(RepositorySlot::Closed) | None => Err(Error::new(
                Kind::Unavailable,
                "the repository is not open yet",
            )),
        }
    }

    /// Who the repository's locks are taken for: the same after a restart, another one elsewhere.
    fn holder(&self) -> Uuid {
        let engine = self.engine();
        let directory = engine.data_dir().canonicalize();
        let mut hasher = blake3::Hasher::new();
        hasher.update(engine.store_id().as_bytes());
        hasher.update(rustix::system::uname().nodename().to_bytes());
        if let Ok(directory) = &directory {
            hasher.update(directory.as_os_str().as_encoded_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(hasher.finalize().as_bytes().split_at(16).0);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }

    /// How long packs that nothing needs are kept.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.inner.config.repository.grace_ms)
    }
}

/// How the configured repository is opened.
pub fn repository_options(config: &Config) -> RepositoryOptions {
    let repository = &config.repository;
    RepositoryOptions {
        backend: BackendOptions {
            url: repository.url.clone(),
            credentials_file: repository.credentials_file.clone(),
            request_timeout: Duration::from_millis(repository.request_timeout_ms),
            max_retries: repository.max_retries,
            retry_timeout: Duration::from_millis(repository.retry_timeout_ms),
            max_object_bytes: repository.max_manifest_bytes,
            max_calls: repository.max_requests,
        },
        limits: ReadLimits {
            memory_bytes: config.jobs.memory_bytes,
            scratch: temporary::directory(&config.storage.data_dir),
        },
        locks: LockSettings {
            stale: Duration::from_millis(repository.lock_stale_ms),
            wait: Duration::from_millis(repository.lock_wait_ms),
        },
        begin_new: repository.begin_new,
    }
}
