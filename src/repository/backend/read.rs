//! Reading objects, which whoever else writes to the place may have made as they like: bounded, and never anything but
//! files.

use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::Backend;
use crate::error::{Error, Kind, Result};

/// Objects that are read at the same time.
const READ_AT_A_TIME: usize = 8;

impl Backend {
    /// The object's bytes; `None` when there is none.
    ///
    /// # Errors
    /// `BackupCorrupt` for what is no object, or longer than `max_object_bytes`; that of the store, which may not answer.
    pub(in crate::repository) fn get(&self, path: &str) -> Result<Option<Bytes>> {
        self.get_at_most(path, self.max_object_bytes)
    }

    /// As [`Backend::get`], with a bound of its own.
    pub(in crate::repository) fn get_at_most(
        &self,
        path: &str,
        most: u64,
    ) -> Result<Option<Bytes>> {
        self.runtime.block_on(self.get_async(path, most))
    }

    /// As [`Backend::get`]; what is damaged comes as nothing that can be decoded.
    pub(in crate::repository) fn get_or_garbled(&self, path: &str) -> Result<Option<Bytes>> {
        match self.get(path) {
            Err(error) if error.kind() == Kind::BackupCorrupt => {
                tracing::warn!(path, %error, "an object of the repository is damaged");
                Ok(Some(Bytes::new()))
            }
            found => found,
        }
    }

    async fn get_async(&self, path: &str, most: u64) -> Result<Option<Bytes>> {
        let (backend, path) = (self.clone(), path.to_owned());
        let asked = path.clone();
        let reading = async move {
            if let Some(directory) = &backend.directory {
                check_file(directory.join(&path), &path).await?;
            }
            backend.read(&path, most).await
        };
        self.bounded(&asked, reading).await?
    }

    async fn read(&self, path: &str, most: u64) -> Result<Option<Bytes>> {
        let found = match self.store.get(&Path::from(path)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.fault("read", path, &error)),
        };
        let size = found.meta.size;
        if size > most {
            return Err(Error::backup_corrupt(format!(
                "{path} has {size} bytes, {most} are the most"
            )));
        }
        let bytes = found.bytes().await;
        bytes
            .map(Some)
            .map_err(|error| self.fault("read", path, &error))
    }

    /// Whether what stands there can be asked for: looking it up opens it, and to open a FIFO waits for who writes to it.
    /// True for what is not there, and wherever objects are no files.
    pub(super) async fn is_file(&self, path: &str) -> Result<bool> {
        let Some(directory) = &self.directory else {
            return Ok(true);
        };
        let (file, name) = (directory.join(path), path.to_owned());
        let looking = async move { check_file(file, &name).await };
        match self.bounded(path, looking).await? {
            Err(error) if error.kind() == Kind::BackupCorrupt => Ok(false),
            found => found.map(|()| true),
        }
    }

    /// Sizes of several objects, a few at a time, in their order; `None` where there is none.
    ///
    /// # Errors
    /// That of the store, which may not answer.
    pub(in crate::repository) fn sizes(&self, paths: Vec<String>) -> Result<Vec<Option<u64>>> {
        let asking = stream::iter(paths)
            .map(|path| async move { self.size_async(&path).await })
            .buffered(READ_AT_A_TIME)
            .try_collect();
        self.runtime.block_on(asking)
    }

    /// Several objects, each with the most bytes that it may have, a few at a time, in their order; each with the errors of
    /// [`Backend::get`].
    pub(in crate::repository) fn get_many(
        &self,
        objects: Vec<(String, u64)>,
    ) -> Vec<Result<Option<Bytes>>> {
        let mut found = Vec::with_capacity(objects.len());
        self.get_each(objects, |object| found.push(object));
        found
    }

    /// As [`Backend::get_many`], each shown as it comes: no more than a few are held.
    pub(in crate::repository) fn get_each(
        &self,
        objects: Vec<(String, u64)>,
        mut show: impl FnMut(Result<Option<Bytes>>),
    ) {
        let mut reading = stream::iter(objects)
            .map(|(path, most)| async move { self.get_async(&path, most).await })
            .buffered(READ_AT_A_TIME);
        self.runtime.block_on(async {
            while let Some(object) = reading.next().await {
                show(object);
            }
        });
    }
}

/// Looks at what a path leads to before it is opened: to open a FIFO waits for who writes to it, and a device has no end.
async fn check_file(file: PathBuf, path: &str) -> Result<()> {
    let looking = tokio::task::spawn_blocking(move || std::fs::metadata(file));
    let found = looking
        .await
        .map_err(|error| Error::internal("a file cannot be looked at").because(error))?;
    match found {
        Ok(found) if !found.is_file() => {
            Err(Error::backup_corrupt(format!("{path} is not a file")))
        }
        // That there is none, or that it cannot be read, is told when it is.
        _ => Ok(()),
    }
}
