//! Bytes by path: the only module that names `object_store`.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use tokio::runtime::Handle;

use crate::error::{Error, Result};

/// Free and total bytes of the disk below a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that an unprivileged writer can still use.
    pub available_bytes: u64,
}

#[derive(Clone)]
pub(super) struct Backend {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    location: String,
    directory: Option<PathBuf>,
}

/// The directory that a repository's URL names.
///
/// # Errors
/// `InvalidArgument` for a URL of another kind.
pub(super) fn directory(url: &str) -> Result<PathBuf> {
    let directory = match url.split_once("://") {
        None => PathBuf::from(url),
        Some(("file", path)) => PathBuf::from(path),
        Some((scheme, _)) => {
            return Err(Error::invalid(format!(
                "repository.url: {scheme}:// is not offered; give a directory"
            )));
        }
    };
    if directory.as_os_str().is_empty() {
        return Err(Error::invalid("repository.url: the directory is empty"));
    }
    Ok(directory)
}

impl Backend {
    pub(super) fn open(url: &str, runtime: Handle) -> Result<Self> {
        let directory = directory(url)?;
        let fail = |error: &dyn std::fmt::Display| {
            Error::storage(format!(
                "the repository directory {} cannot be used: {error}",
                directory.display()
            ))
        };
        std::fs::create_dir_all(&directory).map_err(|error| fail(&error))?;
        // Synced on every put: a manifest must not be durable before its packs are.
        let store = LocalFileSystem::new_with_prefix(&directory)
            .map_err(|error| fail(&error))?
            .with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            runtime,
            location: directory.display().to_string(),
            directory: Some(directory),
        })
    }

    pub(super) fn location(&self) -> &str {
        &self.location
    }

    pub(super) fn room(&self) -> Result<Option<Room>> {
        self.directory
            .as_deref()
            .map(|directory| {
                crate::disk::available_bytes(directory)
                    .map(|available_bytes| Room { available_bytes })
            })
            .transpose()
    }

    fn fault(&self, what: &str, path: &str, error: object_store::Error) -> Error {
        Error::storage(format!(
            "the repository {} failed to {what} {path}",
            self.location
        ))
        .because(error)
    }

    /// The object's bytes; `None` when there is none.
    pub(super) fn get(&self, path: &str) -> Result<Option<Bytes>> {
        let location = Path::from(path);
        let read = async {
            match self.store.get(&location).await {
                Ok(found) => found.bytes().await.map(Some),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        self.runtime
            .block_on(read)
            .map_err(|error| self.fault("read", path, error))
    }

    /// The object's size; `None` when there is none.
    pub(super) fn size(&self, path: &str) -> Result<Option<u64>> {
        match self.runtime.block_on(self.store.head(&Path::from(path))) {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.fault("look up", path, error)),
        }
    }

    /// Stores an object, in the place of one that is there.
    pub(super) fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.put_as(path, bytes, PutMode::Overwrite).map(|_| ())
    }

    /// Stores an object unless there is one; false when there was.
    pub(super) fn put_new(&self, path: &str, bytes: Bytes) -> Result<bool> {
        self.put_as(path, bytes, PutMode::Create)
    }

    fn put_as(&self, path: &str, bytes: Bytes, mode: PutMode) -> Result<bool> {
        let location = Path::from(path);
        let options = PutOptions::from(mode);
        let put = self
            .store
            .put_opts(&location, PutPayload::from(bytes), options);
        match self.runtime.block_on(put) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.fault("store", path, error)),
        }
    }

    /// File names directly below a prefix.
    pub(super) fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let prefix_path = Path::from(prefix);
        let listing = async {
            self.store
                .list(Some(&prefix_path))
                .try_collect::<Vec<_>>()
                .await
        };
        let objects = self
            .runtime
            .block_on(listing)
            .map_err(|error| self.fault("list", prefix, error))?;
        Ok(objects
            .into_iter()
            .filter_map(|object| object.location.filename().map(str::to_owned))
            .collect())
    }
}
