//! A server that speaks Chroma's HTTP API v2, Chroma itself or another instance of this service.
//!
//! Every write is such that doing it twice is the same as doing it once: an answer that was lost is asked for
//! again. Records grow in a collection under a name that nobody else uses; at the end the names change.

mod swap;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::{Method, Url};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::http::{Answer, Http};
use super::wire::{self, ALL_COLUMNS, WireCollection, WireRecords};
use super::{
    Batch, BatchSize, Contents, Description, EnvironmentKind, Position, RemoteLimits,
    RemoteSettings, Source, StreamEnd,
};
use crate::error::{Error, Kind, Result};
use crate::model::names::CollectionName;
use crate::model::record::Record;
use crate::progress::Progress;

/// Records that are deleted with one request.
const EMPTIED_AT_A_TIME: usize = 1_000;

/// A server.
pub struct Remote {
    http: Http,
    settings: RemoteSettings,
}

impl Remote {
    /// Sets a client up; nobody is asked anything.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad address or file.
    pub fn open(
        name: &str,
        settings: RemoteSettings,
        limits: RemoteLimits,
        runtime: Handle,
    ) -> Result<Self> {
        Ok(Self {
            http: Http::open(name, &settings, limits, runtime)?,
            settings,
        })
    }

    /// How it is reached.
    pub fn settings(&self) -> &RemoteSettings {
        &self.settings
    }

    /// Whether it answers in time, and then its version, if it says so: another instance tells it only to keys that
    /// are not limited. For use on the runtime.
    pub async fn probe(&self) -> Option<Option<String>> {
        let (path, pointer) = match self.settings.kind {
            EnvironmentKind::Vectorkeep => (&["health"][..], "/version"),
            _ => (&["api", "v2", "version"][..], ""),
        };
        let body = self.http.probe(self.http.url(path.iter().copied())).await?;
        let answer: Value = serde_json::from_slice(&body).ok()?;
        let version = answer.pointer(pointer).and_then(Value::as_str);
        Some(version.map(str::to_owned))
    }

    /// An address below the collections of a database.
    fn url(&self, name: &CollectionName, rest: &[&str]) -> Url {
        let CollectionName {
            tenant, database, ..
        } = name;
        let database = [
            "api",
            "v2",
            "tenants",
            tenant,
            "databases",
            database,
            "collections",
        ];
        self.http
            .url(database.into_iter().chain(rest.iter().copied()))
    }

    /// A success, or `None` where there is no such thing.
    fn found(&self, answer: Answer) -> Result<Option<Bytes>> {
        match answer.status {
            404 => Ok(None),
            _ if answer.is_success() => Ok(Some(answer.body)),
            _ => Err(self.http.refused(&answer)),
        }
    }

    /// The collection of a name.
    ///
    /// # Errors
    /// `RemoteUnavailable`.
    fn find(&self, name: &CollectionName, progress: &Progress) -> Result<Option<WireCollection>> {
        self.look(&self.url(name, &[&name.name]), progress)
    }

    /// The collection at an address.
    fn look(&self, url: &Url, progress: &Progress) -> Result<Option<WireCollection>> {
        let answer = self.http.call(&Method::GET, url, None, progress)?;
        let decode = |body: Bytes| {
            serde_json::from_slice(&body).map_err(|error| {
                self.http
                    .unavailable(&format!("a collection that cannot be read: {error}"))
            })
        };
        self.found(answer)?.map(decode).transpose()
    }

    /// Whether a name is taken, and by what.
    ///
    /// # Errors
    /// `RemoteUnavailable`.
    pub fn id_of(&self, name: &CollectionName, progress: &Progress) -> Result<Option<String>> {
        Ok(self.find(name, progress)?.map(|found| found.id))
    }

    fn post(&self, name: &CollectionName, rest: &[&str], body: &Value) -> (Url, Bytes) {
        (self.url(name, rest), Bytes::from(body.to_string()))
    }

    /// Changes a collection's name, metadata or configuration.
    fn put(
        &self,
        name: &CollectionName,
        id: &str,
        change: &Value,
        progress: &Progress,
    ) -> Result<()> {
        let (url, body) = self.post(name, &[id], change);
        self.http.done(&Method::PUT, &url, body, progress)
    }

    fn ensure_database(&self, name: &CollectionName, progress: &Progress) -> Result<()> {
        let tenants = ["api", "v2", "tenants"];
        let one = |rest: &[&str]| {
            let rest = rest.iter().copied();
            self.http.url(tenants.into_iter().chain(rest))
        };
        let (tenant, database) = (name.tenant.as_str(), name.database.as_str());
        let needed = [
            (one(&[tenant]), one(&[]), tenant),
            (
                one(&[tenant, "databases", database]),
                one(&[tenant, "databases"]),
                database,
            ),
        ];
        for (there, make, wanted) in needed {
            let answer = self.http.call(&Method::GET, &there, None, progress)?;
            if self.found(answer)?.is_some() {
                continue;
            }
            let body = Bytes::from(json!({ "name": wanted }).to_string());
            let answer = self.http.call(&Method::POST, &make, Some(body), progress)?;
            // Made meanwhile, perhaps by this very request, whose answer was lost.
            if !answer.is_success() && answer.status != 409 {
                return Err(self.http.refused(&answer));
            }
        }
        Ok(())
    }

    /// Deletes a collection, of a Chroma server its records first: it would leave list-valued metadata behind,
    /// which then turns up in others' records.
    fn delete(&self, name: &CollectionName, progress: &Progress) -> Result<()> {
        if !self.is_vectorkeep()
            && let Some(found) = self.find(name, progress)?
        {
            self.empty(name, &found.id, progress)?;
        }
        let url = self.url(name, &[&name.name]);
        let answer = self.http.call(&Method::DELETE, &url, None, progress)?;
        self.found(answer).map(|_| ())
    }

    fn empty(&self, name: &CollectionName, id: &str, progress: &Progress) -> Result<()> {
        loop {
            let request = json!({"limit": EMPTIED_AT_A_TIME, "include": []});
            let (url, body) = self.post(name, &[id, "get"], &request);
            let page: Value = self.http.read(&Method::POST, &url, Some(body), progress)?;
            let ids = page.get("ids").and_then(Value::as_array);
            let Some(ids) = ids.filter(|ids| !ids.is_empty()) else {
                return Ok(());
            };
            let (url, body) = self.post(name, &[id, "delete"], &json!({ "ids": ids }));
            self.http.done(&Method::POST, &url, body, progress)?;
        }
    }

    fn is_vectorkeep(&self) -> bool {
        self.settings.kind == EnvironmentKind::Vectorkeep
    }
}

/// One collection of a server.
#[derive(Clone)]
pub struct RemoteCollection {
    remote: Arc<Remote>,
    name: CollectionName,
}

impl RemoteCollection {
    /// The collection of that name, whether it is there or not.
    pub fn new(remote: Arc<Remote>, name: CollectionName) -> Self {
        Self { remote, name }
    }

    fn http(&self) -> &Http {
        &self.remote.http
    }

    fn existing(&self, progress: &Progress) -> Result<WireCollection> {
        let found = self.remote.find(&self.name, progress)?;
        found.ok_or_else(|| {
            Error::not_found(format!(
                "the environment {} has no collection {}",
                self.http().shown(),
                self.name
            ))
        })
    }

    fn get(&self, id: &str, request: &Value, progress: &Progress) -> Result<Vec<Record>> {
        let (url, body) = self.remote.post(&self.name, &[id, "get"], request);
        let page: WireRecords = self
            .http()
            .read(&Method::POST, &url, Some(body), progress)?;
        page.records()
            .map_err(|error| self.http().unavailable(error.message()))
    }

    fn count(&self, id: &str, progress: &Progress) -> Result<u64> {
        let url = self.remote.url(&self.name, &[id, "count"]);
        self.http().read(&Method::GET, &url, None, progress)
    }

    fn by_ids(&self, id: &str, ids: &[&str], progress: &Progress) -> Result<Vec<Record>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        self.get(id, &json!({"ids": ids, "include": ALL_COLUMNS}), progress)
    }

    /// All records from one on, in order; `take` gets a page and where the next one begins.
    fn pages(
        &self,
        id: &str,
        from: u64,
        size: BatchSize,
        progress: &Progress,
        take: &mut dyn FnMut(Vec<Record>, u64) -> Result<()>,
    ) -> Result<()> {
        let mut offset = from;
        let mut limit = 1;
        loop {
            progress.check()?;
            let request = json!({"limit": limit, "offset": offset, "include": ALL_COLUMNS});
            let page = match self.get(id, &request, progress) {
                // Larger ones than those before.
                Err(error) if error.kind() == Kind::TooLarge && limit > 1 => {
                    limit /= 2;
                    continue;
                }
                Err(error) if error.kind() == Kind::TooLarge => {
                    return Err(Error::new(Kind::RemoteUnavailable, error.message()));
                }
                page => page?,
            };
            if page.is_empty() {
                return Ok(());
            }
            // They say how large the next ones are, about.
            let bytes: usize = page.iter().map(|record| record.canonical().len()).sum();
            let full = page.len() >= limit;
            limit = (size.bytes / (bytes / page.len()).max(1)).clamp(1, size.records);
            offset += page.len() as u64;
            take(page, offset)?;
            if !full {
                return Ok(());
            }
        }
    }

    /// Writes records to a live or staged collection as they are.
    fn upsert(
        &self,
        id: &str,
        records: &[&Record],
        obsolete: &BTreeMap<&str, Vec<String>>,
        progress: &Progress,
    ) -> Result<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|record| {
                bytes += record.canonical().len();
                bytes <= self.http().max_request_bytes()
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let request = wire::write_request(now, obsolete);
            let (url, body) = self.remote.post(&self.name, &[id, "upsert"], &request);
            self.http().done(&Method::POST, &url, body, progress)?;
            rest = later;
        }
        Ok(())
    }

    /// Deletes records of a live or staged collection.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `Canceled`.
    pub fn remove(&self, id: &str, ids: &[&str], progress: &Progress) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let request = json!({ "ids": ids });
        let (url, body) = self.remote.post(&self.name, &[id, "delete"], &request);
        self.http().done(&Method::POST, &url, body, progress)
    }

    /// Makes records exactly so, whatever is there under their ids: an upsert alone leaves metadata keys, a
    /// document and a uri that the new record does not have.
    ///
    /// # Errors
    /// `RemoteUnavailable`, `Canceled`.
    pub fn put_exactly(&self, id: &str, records: &[Record], progress: &Progress) -> Result<()> {
        let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
        let there = self.by_ids(id, &ids, progress)?;
        let there: BTreeMap<&str, &Record> = there.iter().map(|r| (r.id.as_str(), r)).collect();
        let mut obsolete = BTreeMap::new();
        let mut again = Vec::new();
        for record in records {
            let Some(old) = there.get(record.id.as_str()) else {
                continue;
            };
            let lost = (old.document.is_some() && record.document.is_none())
                || (old.uri.is_some() && record.uri.is_none());
            if lost {
                again.push(record.id.as_str());
                continue;
            }
            let keys = old.metadata.keys();
            let gone: Vec<String> = keys
                .filter(|key| !record.metadata.contains_key(*key))
                .cloned()
                .collect();
            obsolete.insert(record.id.as_str(), gone);
        }
        self.remove(id, &again, progress)?;
        let records: Vec<&Record> = records.iter().collect();
        self.upsert(id, &records, &obsolete, progress)
    }

    /// What another instance recomputes from its stored bytes, if it has that at hand: its check may take longer than
    /// a request.
    fn recomputed(&self, progress: &Progress) -> Result<Option<Contents>> {
        let mut url = self.http().url(["health", "collections", &self.name.name]);
        url.query_pairs_mut()
            .append_pair("tenant", &self.name.tenant)
            .append_pair("database", &self.name.database);
        let answer = match self.http().call(&Method::GET, &url, None, progress) {
            Ok(answer) if answer.is_success() => answer,
            Err(error) if error.kind() == Kind::Canceled => return Err(error),
            _ => return Ok(None),
        };
        let report: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let found = report.pointer("/checks/collections:integrity/0/observed_value");
        let running = report.to_string().contains("\"output\":\"running\"");
        Ok(found.filter(|_| !running).and_then(|found| {
            Some(Contents {
                records: found.get("checked_records")?.as_u64()?,
                digest: found.get("recomputed_digest")?.as_str()?.parse().ok()?,
            })
        }))
    }

    fn read_contents(&self, id: &str, size: BatchSize, progress: &Progress) -> Result<Contents> {
        let mut contents = Contents::default();
        self.pages(id, 0, size, progress, &mut |page, _| {
            progress.advance(page.len() as u64, 0);
            contents.add(&page);
            Ok(())
        })?;
        Ok(contents)
    }
}

impl Source for RemoteCollection {
    fn describe(&self, progress: &Progress) -> Result<Description> {
        let found = self.existing(progress)?;
        let id = found.id.clone();
        let records = self.count(&id, progress)?;
        let definition = found
            .definition()
            .map_err(|error| self.http().unavailable(error.message()))?;
        Ok(Description {
            id,
            definition,
            records,
        })
    }

    fn stream(
        &self,
        from: Option<Position>,
        size: BatchSize,
        progress: &Progress,
        emit: &mut dyn FnMut(Batch) -> Result<()>,
    ) -> Result<StreamEnd> {
        let found = self.existing(progress)?;
        let from = from.unwrap_or_default().next;
        let (id, mut next) = (found.id.clone(), from);
        self.pages(&id, from, size, progress, &mut |records, after| {
            next = after;
            emit(Batch {
                removed: Vec::new(),
                records,
                fresh: true,
                position: Position { since: 0, next },
            })
        })?;
        let records = self.count(&id, progress)?;
        if records != next {
            return Err(Error::new(
                Kind::Conflict,
                format!(
                    "{next} records of {} were read, it has {records} now: it is being written to",
                    self.name
                ),
            ));
        }
        let definition = self.existing(progress)?.definition();
        Ok(StreamEnd {
            definition: definition.map_err(|error| self.http().unavailable(error.message()))?,
            contents: None,
            moment: None,
        })
    }

    fn lookup(&self, ids: &[&str], _: Option<u64>, progress: &Progress) -> Result<Vec<Record>> {
        let id = self.existing(progress)?.id;
        self.by_ids(&id, ids, progress)
    }

    fn contents(&self, size: BatchSize, progress: &Progress) -> Result<Contents> {
        // Its own word counts metadata in as well that its answers do not show.
        if self.remote.is_vectorkeep()
            && let Some(contents) = self.recomputed(progress)?
        {
            return Ok(contents);
        }
        let id = self.existing(progress)?.id;
        self.read_contents(&id, size, progress)
    }
}
