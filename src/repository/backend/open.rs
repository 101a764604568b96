//! Opening the place that a repository is in: a directory, a bucket of an object store, or memory.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::Handle;

use super::Backend;
use super::bounded::{self, Calls};
use crate::error::{Error, Result};
use crate::repository::credentials::{Settings, redacted};
use crate::tls::install_provider;

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
    pub(in crate::repository) fn is_memory(&self) -> bool {
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
    pub(in crate::repository) fn open(
        options: &BackendOptions,
        create: bool,
        runtime: Handle,
    ) -> Result<Self> {
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
