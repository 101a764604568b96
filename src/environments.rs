//! Other places that collections live in, and how records come from there and go there.
//!
//! A place is a [`Source`] of one collection and a [`Target`] for one; what is done with them is decided in
//! `operations`. Nothing here knows of this store: the local ends are there too.

mod chroma_rounding;
mod http;
mod remote;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::error::{Error, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::configuration::Space;
use crate::model::digest::Digest;
use crate::model::names::CollectionName;
use crate::model::record::Record;
use crate::progress::Progress;

pub(crate) use http::trusting;
pub use remote::{Remote, RemoteCollection};

/// The name of this store among the environments.
pub const LOCAL: &str = "local";

/// What kind of place it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentKind {
    /// This store.
    Local,
    /// Another instance of this service.
    Vectorkeep,
    /// A Chroma server.
    Chroma,
}

/// The header that a token is sent in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenHeader {
    /// `Authorization: Bearer TOKEN`
    #[default]
    Authorization,
    /// `X-Chroma-Token: TOKEN`
    XChromaToken,
}

/// How a place is reached.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// What kind it is.
    pub kind: EnvironmentKind,
    /// Scheme, host and port, perhaps a path.
    pub url: String,
    /// The tenant where a request names none.
    pub tenant: String,
    /// The database where a request names none.
    pub database: String,
    /// What it asks for, if anything.
    pub token: Option<Token>,
    /// Certificates (PEM) that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// A secret. Its `Debug` form does not show it.
#[derive(Clone)]
pub struct Token {
    /// The secret.
    pub secret: String,
    /// Where it goes.
    pub header: TokenHeader,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

/// Bounds on what is asked of other places.
#[derive(Clone, Debug)]
pub struct RemoteLimits {
    /// Longest single request.
    pub request_timeout: Duration,
    /// How often one is repeated.
    pub max_retries: usize,
    /// Until when it is repeated.
    pub retry_timeout: Duration,
    /// Requests to one place at the same time.
    pub max_requests: usize,
    /// Records that one request carries, in bytes; one larger record goes alone.
    pub max_request_bytes: usize,
    /// Longest answer.
    pub max_answer_bytes: usize,
    /// How long a place may take to say that it is there.
    pub probe_timeout: Duration,
}

/// How much goes at a time.
#[derive(Clone, Copy, Debug)]
pub struct BatchSize {
    /// Records.
    pub records: usize,
    /// Bytes of them, as far as that is known before.
    pub bytes: usize,
}

/// How far a stream is. What it means is known to the source alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The sequence that changes are looked for from; 0 where the source has none.
    pub since: u64,
    /// The next record to read.
    pub next: u64,
}

/// Some records on their way.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Ids that are gone from the source, to be removed first.
    pub removed: Vec<String>,
    /// Records, complete.
    pub records: Vec<Record>,
    /// Whether the ids are new to the target, as far as the source knows. Others may be there with another content.
    pub fresh: bool,
    /// Where to go on once this batch is in the target.
    pub position: Position,
}

/// A collection as its source describes it.
#[derive(Clone, Debug)]
pub struct Description {
    /// The source's id of the collection.
    pub id: String,
    /// Everything but the records.
    pub definition: CollectionDefinition,
    /// How many there are.
    pub records: u64,
}

/// Count and digest of a collection's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// How many.
    pub records: u64,
    /// Their digest.
    pub digest: Digest,
}

impl Contents {
    /// Counts records in.
    pub fn add<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>) {
        for record in records {
            self.records += 1;
            self.digest.add(&record.hash());
        }
    }
}

/// How a stream ended.
#[derive(Clone, Debug)]
pub struct StreamEnd {
    /// The definition at its end.
    pub definition: CollectionDefinition,
    /// The collection at the moment that the stream brings the target to; `None`: what was streamed is all there
    /// is to know.
    pub contents: Option<Contents>,
    /// That moment, where the source knows such.
    pub moment: Option<u64>,
}

/// A collection to read from.
pub trait Source: Send + Sync {
    /// What it is.
    ///
    /// # Errors
    /// `NotFound`, `RemoteUnavailable`.
    fn describe(&self, progress: &Progress) -> Result<Description>;

    /// Hands all records on, in insertion order, from a position on; then what changed meanwhile, where the source
    /// knows that.
    ///
    /// # Errors
    /// `Conflict` when it cannot go on from there, `NotFound`, `RemoteUnavailable`, `Canceled`, those of `emit`.
    fn stream(
        &self,
        from: Option<Position>,
        size: BatchSize,
        progress: &Progress,
        emit: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<StreamEnd>;

    /// Those of these records that exist; where the source knows moments, those that were not written since.
    ///
    /// # Errors
    /// `NotFound`, `RemoteUnavailable`.
    fn lookup(&self, ids: &[&str], moment: Option<u64>, progress: &Progress)
    -> Result<Vec<Record>>;

    /// Count and digest, of what it really holds.
    ///
    /// # Errors
    /// `NotFound`, `RemoteUnavailable`, `Canceled`.
    fn contents(&self, size: BatchSize, progress: &Progress) -> Result<Contents>;
}

/// Something that a target cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// What.
    pub what: String,
    /// Records that have it; 0: the collection itself.
    pub records: u64,
    /// Ids of the first of them.
    pub examples: Vec<String>,
}

/// A place to write a collection to. What is written is seen under no name that anyone asked for before it is
/// published.
pub trait Target: Send + Sync {
    /// Takes away from a definition what it cannot hold, and says what that was.
    fn fit_collection(&self, definition: &mut CollectionDefinition) -> Vec<String>;

    /// Takes away from a record of a collection of this space what it cannot hold, and says what that was.
    fn fit(&self, space: Space, record: &mut Record) -> Vec<&'static str>;

    /// Whether a record that was found is the one that was to be written, after [`Target::fit`].
    fn holds(&self, space: Space, wanted: &Record, found: &Record) -> bool;

    /// An empty collection to write to, or the one that was begun with, under a name of its own.
    /// Returns its id.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `StorageFault`.
    fn stage(
        &self,
        name: &CollectionName,
        definition: &CollectionDefinition,
        begun: Option<&str>,
        progress: &Progress,
    ) -> Result<Staged>;

    /// Brings a batch in. The same batch again changes nothing.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `StorageFault`.
    fn write(&self, staged: &str, batch: &Batch, progress: &Progress) -> Result<()>;

    /// Gives the staged collection its definition as it was at the end; what could not be brought over is
    /// returned.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `StorageFault`.
    fn complete(
        &self,
        staged: &str,
        definition: &CollectionDefinition,
        progress: &Progress,
    ) -> Result<Vec<String>>;

    /// Reads a staged collection back: count and digest of what it really holds.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `StorageFault`, `Canceled`.
    fn staged_contents(
        &self,
        staged: &str,
        size: BatchSize,
        progress: &Progress,
    ) -> Result<Contents>;

    /// Hands the records of a staged collection on.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `StorageFault`, `Canceled`, those of `visit`.
    fn staged_records(
        &self,
        staged: &str,
        size: BatchSize,
        progress: &Progress,
        visit: &mut dyn FnMut(Vec<Record>) -> Result<()>,
    ) -> Result<()>;

    /// Those of these records that a collection of the target has, staged or not.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `StorageFault`.
    fn staged_lookup(&self, staged: &str, ids: &[&str], progress: &Progress)
    -> Result<Vec<Record>>;

    /// Gives a staged collection up, by its name and, where that is known, its id. One that got another name stays.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `StorageFault`.
    fn discard(
        &self,
        staging: &CollectionName,
        staged: Option<&str>,
        progress: &Progress,
    ) -> Result<()>;
}

/// A collection that is written to.
#[derive(Clone, Debug)]
pub struct Staged {
    /// The target's id of it.
    pub id: String,
    /// Whether it is the one that was begun with.
    pub resumed: bool,
}

/// All configured places. Cheap to clone.
#[derive(Clone, Default)]
pub struct Environments {
    remotes: Arc<BTreeMap<String, Arc<Remote>>>,
}

impl Environments {
    /// Sets clients up; nobody is asked anything yet.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad address, or a file that cannot be used.
    pub fn open(
        settings: BTreeMap<String, RemoteSettings>,
        limits: &RemoteLimits,
        runtime: &Handle,
    ) -> Result<Self> {
        let open = |(name, settings): (String, RemoteSettings)| {
            let remote = Remote::open(&name, settings, limits.clone(), runtime.clone())?;
            Ok((name, Arc::new(remote)))
        };
        let remotes: Result<_> = settings.into_iter().map(open).collect();
        Ok(Self {
            remotes: Arc::new(remotes?),
        })
    }

    /// The place of a name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, name: &str) -> Result<Arc<Remote>> {
        self.remotes.get(name).cloned().ok_or_else(|| {
            Error::not_found(format!(
                "there is no environment {name:?}; see GET /environments"
            ))
        })
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Arc<Remote>)> {
        self.remotes.iter()
    }
}
