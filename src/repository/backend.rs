//! Bytes by path: the only module that names `object_store`.

mod bounded;
mod open;
mod read;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::runtime::Handle;

use bounded::Calls;

pub use open::{BackendOptions, check_url, directory_of};

use super::credentials::redacted;
use crate::error::{Error, Kind, Result};

/// A file that takes room until deleting needs it: for a lock and for the list of what is to be removed.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 1 << 20;

/// An object as a listing has it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) modified: DateTime<Utc>,
}

impl Listed {
    /// The last part of the path.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

#[derive(Clone)]
pub(super) struct Backend {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    location: String,
    directory: Option<PathBuf>,
    max_object_bytes: u64,
    calls: Calls,
    /// What must appear in no message: an object store's errors quote requests and answers.
    secrets: Arc<Vec<String>>,
}

impl Backend {
    /// The longest object that [`Backend::get`] reads.
    pub(super) fn max_object_bytes(&self) -> u64 {
        self.max_object_bytes
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(super) fn available_bytes(&self) -> Result<Option<u64>> {
        let Some(directory) = self.directory.clone() else {
            return Ok(None);
        };
        self.bounded_blocking("its free room", move || {
            crate::disk::available_bytes(&directory).map(Some)
        })
    }

    fn fault(&self, what: &str, path: &str, error: &object_store::Error) -> Error {
        let kind = match &self.directory {
            Some(_) => kind_of(error).unwrap_or(Kind::RepositoryUnusable),
            None => Kind::RemoteUnavailable,
        };
        Error::new(
            kind,
            format!("the repository {} failed to {what} {path}", self.location),
        )
        .because(redacted(&self.secrets, error))
    }

    /// The object's size; `None` when there is none.
    pub(super) fn size(&self, path: &str) -> Result<Option<u64>> {
        self.runtime.block_on(self.size_async(path))
    }

    /// As [`Backend::size`], for use on the runtime.
    pub(super) async fn size_async(&self, path: &str) -> Result<Option<u64>> {
        if !self.is_file(path).await? {
            return Ok(None);
        }
        let (store, location) = (self.store.clone(), Path::from(path));
        let looking = async move { store.head(&location).await };
        match self.bounded(path, looking).await? {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.fault("look up", path, &error)),
        }
    }

    /// Stores an object, in the place of one that is there.
    pub(super) fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.runtime
            .block_on(self.put_as(path, bytes, PutMode::Overwrite))
            .map(|_| ())
    }

    /// As [`Backend::put`], for what removing things needs: on a full disk the reserve makes room for it.
    pub(super) fn put_for_removal(&self, path: &str, bytes: Bytes) -> Result<()> {
        let full = |error: &Error| error.kind() == Kind::InsufficientStorage;
        match self.put(path, bytes.clone()) {
            Err(error) if full(&error) && self.release_reserve() => self.put(path, bytes),
            put => put,
        }
    }

    /// Sets room aside in a directory, as far as there is any: deleting must be possible on a full disk.
    pub(super) fn keep_reserve(&self) {
        let Some(path) = self.reserve() else { return };
        let kept = self.bounded_blocking(RESERVE, move || {
            if std::fs::metadata(&path).is_ok_and(|file| file.len() == RESERVE_BYTES as u64) {
                return Ok(());
            }
            std::fs::write(&path, vec![b'.'; RESERVE_BYTES]).map_err(|error| {
                // A part of it would only take room.
                let _ = std::fs::remove_file(&path);
                Error::repository("the reserve cannot be written").because(error)
            })
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "no room is set aside in the repository");
        }
    }

    fn release_reserve(&self) -> bool {
        let released = self.reserve().is_some_and(|path| {
            self.bounded_blocking(RESERVE, || Ok(std::fs::remove_file(path).is_ok()))
                .unwrap_or(false)
        });
        if released {
            tracing::warn!(
                "the repository's disk is full: what was set aside for deleting is used"
            );
        }
        released
    }

    fn reserve(&self) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(RESERVE))
    }

    /// Stores an object unless there is one; false when there was.
    pub(super) fn put_new(&self, path: &str, bytes: Bytes) -> Result<bool> {
        self.runtime
            .block_on(self.put_as(path, bytes, PutMode::Create))
    }

    /// As [`Backend::put`], for use on the runtime.
    pub(super) async fn put_async(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put_as(path, bytes, PutMode::Overwrite)
            .await
            .map(|_| ())
    }

    async fn put_as(&self, path: &str, bytes: Bytes, mode: PutMode) -> Result<bool> {
        let (store, location) = (self.store.clone(), Path::from(path));
        let options = PutOptions::from(mode);
        let putting = async move {
            let payload = PutPayload::from(bytes);
            store.put_opts(&location, payload, options).await
        };
        match self.bounded(path, putting).await? {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.fault("store", path, &error)),
        }
    }

    /// Removes an object, durably; whether there was one.
    pub(super) fn delete(&self, path: &str) -> Result<bool> {
        // Object stores do not say whether there was one.
        if self.size(path)?.is_none() {
            return Ok(false);
        }
        let (store, location) = (self.store.clone(), Path::from(path));
        let deleting = async move { store.delete(&location).await };
        match self.runtime.block_on(self.bounded(path, deleting))? {
            Ok(()) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(self.fault("remove", path, &error)),
        }
        if let Some(directory) = self.directory.clone() {
            let file = directory.join(path);
            self.bounded_blocking(path, move || {
                let parent = file.parent().unwrap_or(&directory);
                let synced = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
                synced.map_err(|error| {
                    Error::repository(format!("{} cannot be synced", parent.display()))
                        .because(error)
                })
            })?;
        }
        Ok(true)
    }

    /// Removes what puts that were killed in the middle left in a directory: no listing shows it.
    pub(super) fn remove_unfinished(&self, older_than: Duration) -> Result<()> {
        let Some(directory) = self.directory.clone() else {
            return Ok(());
        };
        self.bounded_blocking("what is unfinished", move || {
            remove_unfinished(&directory, older_than).map_err(|error| {
                Error::repository("the repository cannot be tidied up").because(error)
            })
        })
    }

    /// Everything below a prefix.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let (store, location) = (self.store.clone(), Path::from(prefix));
        let listing = async move {
            let listed = store.list(Some(&location));
            listed.try_collect::<Vec<_>>().await
        };
        let objects = self
            .runtime
            .block_on(self.bounded(prefix, listing))?
            .map_err(|error| self.fault("list", prefix, &error))?;
        Ok(objects
            .into_iter()
            .map(|object| Listed {
                path: object.location.to_string(),
                size: object.size,
                modified: object.last_modified,
            })
            .collect())
    }
}

/// `object_store` writes `NAME#1` and renames it.
fn remove_unfinished(directory: &FilePath, older_than: Duration) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_unfinished(&entry.path(), older_than)?;
            continue;
        }
        let name = entry.file_name();
        let unfinished = name.to_str().and_then(|name| name.rsplit_once('#'));
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if unfinished.is_some_and(|(_, end)| end.parse::<u32>().is_ok()) && age > older_than {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// What kind of error an operating system's error below this one is.
fn kind_of(error: &object_store::Error) -> Option<Kind> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return Some(match Kind::of_file(error) {
                Kind::StorageFault => Kind::RepositoryUnusable,
                kind => kind,
            });
        }
        source = cause.source();
    }
    None
}
