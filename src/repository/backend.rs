//! Bytes by path: the only module that names `object_store`.

mod bounded;
mod read;

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    PutPayload, RetryConfig,
};
use tokio::runtime::Handle;

use bounded::Calls;

use super::credentials::{Settings, redacted};
use crate::error::{Error, Kind, Result};
use crate::tls::install_provider;

/// A file that takes room until deleting needs it: for a lock and for the list of what is to be removed.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 1 << 20;

/// How a repository is reached.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// A directory, `file://`, `s3://bucket/prefix`, `gs://…`, `az://…`, or `memory://` for tests.
    pub url: String,
    /// TOML of names and values as the environment would have them (`AWS_ACCESS_KEY_ID = "…"`).
    pub credentials_file: Option<PathBuf>,
    /// Longest single request to an object store.
    pub request_timeout: Duration,
    /// Repetitions of a request that failed in a way that may pass.
    pub max_retries: usize,
    /// No repetition begins later than this after the first attempt.
    pub retry_timeout: Duration,
    /// Longest object that is read as a whole and is no pack: manifests, and what stands beside them.
    pub max_object_bytes: u64,
    /// Calls into a directory that may not have returned at the same time.
    pub max_calls: usize,
}

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

/// Where a URL points to.
enum Location<'a> {
    Directory(PathBuf),
    Memory,
    /// Scheme, and what follows it.
    Bucket(&'a str, &'a str),
}

impl<'a> Location<'a> {
    fn of(url: &'a str) -> Result<Self> {
        let directory = match url.split_once("://") {
            None if ["s3:/", "gs:/", "az:/"]
                .iter()
                .any(|scheme| url.starts_with(scheme)) =>
            {
                return Err(Error::invalid(
                    "repository.url: two slashes follow the scheme",
                ));
            }
            None => PathBuf::from(url),
            Some(("file", path)) => PathBuf::from(path),
            Some(("memory", _)) => return Ok(Self::Memory),
            Some((scheme @ ("s3" | "gs" | "az"), rest)) => {
                // What stands there is not repeated: it may be a password.
                if rest.contains(['@', '?', '#']) {
                    return Err(Error::invalid(format!(
                        "repository.url: {scheme}:// takes a bucket and a prefix; credentials belong into the \
                         environment or repository.credentials_file"
                    )));
                }
                if rest.split('/').next().unwrap_or_default().is_empty() {
                    return Err(Error::invalid("repository.url: the bucket's name is empty"));
                }
                return Ok(Self::Bucket(scheme, rest));
            }
            Some((scheme, _)) => {
                return Err(Error::invalid(format!(
                    "repository.url: {scheme}:// is not offered; give a directory, s3://, gs:// or az://"
                )));
            }
        };
        if directory.as_os_str().is_empty() {
            return Err(Error::invalid("repository.url: the directory is empty"));
        }
        Ok(Self::Directory(directory))
    }
}

impl BackendOptions {
    /// Whether it ends with the process.
    pub(super) fn is_memory(&self) -> bool {
        matches!(Location::of(&self.url), Ok(Location::Memory))
    }

    fn calls(&self) -> Calls {
        Calls::new(self.request_timeout, self.max_calls)
    }

    /// Whether it is on another machine.
    pub fn is_remote(&self) -> bool {
        matches!(Location::of(&self.url), Ok(Location::Bucket(..)))
    }
}

/// Checks the form of a repository's URL.
///
/// # Errors
/// `InvalidArgument`; what may be a secret is not repeated.
pub fn check_url(url: &str) -> Result<()> {
    Location::of(url).map(|_| ())
}

/// The directory that a repository's URL means; none where it is elsewhere.
///
/// # Errors
/// As [`check_url`].
pub fn directory_of(url: &str) -> Result<Option<PathBuf>> {
    Ok(match Location::of(url)? {
        Location::Directory(directory) => Some(directory),
        Location::Memory | Location::Bucket(..) => None,
    })
}

impl Backend {
    /// Opens the place; a directory that is not there is made if `create` says so.
    pub(super) fn open(options: &BackendOptions, create: bool, runtime: Handle) -> Result<Self> {
        match Location::of(&options.url)? {
            Location::Directory(directory) => {
                Self::open_directory(options, directory, create, runtime)
            }
            Location::Memory => Ok(Self {
                store: Arc::new(InMemory::new()),
                runtime,
                location: options.url.clone(),
                directory: None,
                max_object_bytes: options.max_object_bytes,
                calls: options.calls(),
                secrets: Arc::default(),
            }),
            Location::Bucket(scheme, rest) => Self::open_bucket(options, scheme, rest, runtime),
        }
    }

    fn open_directory(
        options: &BackendOptions,
        directory: PathBuf,
        create: bool,
        runtime: Handle,
    ) -> Result<Self> {
        let calls = options.calls();
        let place = directory.clone();
        let opening = calls.wait(async move {
            tokio::task::spawn_blocking(move || opened_directory(&place, create)).await
        });
        let opened = runtime.block_on(opening).ok_or_else(|| {
            bounded::unanswered(
                &options.url,
                "the directory itself",
                options.request_timeout,
            )
        })?;
        let store = opened
            .map_err(|error| Error::internal("a directory cannot be opened").because(error))??;
        Ok(Self {
            store: Arc::new(store),
            runtime,
            location: directory.display().to_string(),
            directory: Some(directory),
            max_object_bytes: options.max_object_bytes,
            calls,
            secrets: Arc::default(),
        })
    }

    fn open_bucket(
        options: &BackendOptions,
        scheme: &str,
        rest: &str,
        runtime: Handle,
    ) -> Result<Self> {
        let settings = Settings::load(scheme, options.credentials_file.as_deref())?;
        install_provider();
        let client = ClientOptions::new()
            .with_timeout(options.request_timeout)
            .with_connect_timeout(options.request_timeout);
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: options.max_retries,
            retry_timeout: options.retry_timeout,
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        // The three builders have no trait in common. The bucket comes last: the environment may name one as
        // well, for something else.
        macro_rules! build {
            ($builder:ty, $with_bucket:ident) => {{
                let mut builder = <$builder>::new()
                    .with_client_options(client)
                    .with_retry(retry);
                for (name, value) in settings.known(|name| name.parse().ok())? {
                    builder = builder.with_config(name, value);
                }
                let built = builder.$with_bucket(bucket).build();
                built.map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }};
        }
        let built = match scheme {
            "s3" => build!(AmazonS3Builder, with_bucket_name),
            "gs" => build!(GoogleCloudStorageBuilder, with_bucket_name),
            _ => build!(MicrosoftAzureBuilder, with_container_name),
        };
        let location = format!("{scheme}://{}", rest.trim_end_matches('/'));
        let secrets = settings.secrets();
        let store = built.map_err(|error| {
            let cause = redacted(&secrets, &error);
            Error::invalid(format!(
                "repository.url: {location} cannot be used: {cause}"
            ))
        })?;
        let store: Arc<dyn ObjectStore> = match prefix.trim_matches('/') {
            "" => store,
            prefix => Arc::new(PrefixStore::new(store, Path::from(prefix))),
        };
        Ok(Self {
            store,
            runtime,
            location,
            directory: None,
            max_object_bytes: options.max_object_bytes,
            calls: options.calls(),
            secrets: Arc::new(secrets),
        })
    }

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

/// Opens a directory; one that is not there is made if `create` says so.
fn opened_directory(directory: &FilePath, create: bool) -> Result<LocalFileSystem> {
    let fail = |error: &dyn std::fmt::Display| {
        Error::repository(format!(
            "the repository directory {} cannot be used: {error}",
            directory.display()
        ))
    };
    if create {
        std::fs::create_dir_all(directory).map_err(|error| fail(&error))?;
    } else if !directory.is_dir() {
        return Err(Error::not_found(format!(
            "there is no directory {}",
            directory.display()
        )));
    }
    // Synced on every put: a manifest must not be durable before its packs are.
    let store = LocalFileSystem::new_with_prefix(directory).map_err(|error| fail(&error))?;
    Ok(store.with_fsync(true))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_cannot_be_are_refused_and_secrets_in_them_not_repeated() {
        for good in [
            "backups",
            "/var/backups",
            "file:///var/backups",
            "s3://bucket",
            "gs://bucket/a/b",
            "az://container/x",
            "memory://",
        ] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "file://",
            "s3://",
            "s3:///prefix",
            "ftp://host/x",
            "s3:/bucket",
            "s3://id:hunter2@bucket/x",
            "az://container?sig=hunter2",
        ] {
            let error = check_url(bad).unwrap_err();
            assert!(error.message().starts_with("repository.url"), "{error}");
            assert!(!error.message().contains("hunter2"), "{error}");
        }
    }
}
