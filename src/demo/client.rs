//! The demo's HTTP client: what any client of the service would send.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::records::DemoRecord;
use crate::error::{Error, Result};
use crate::tls::client_builder;

const DATABASE: &str = "/api/v2/tenants/default_tenant/databases/default_database";

/// Talks to one service.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
}

/// An exported backup, as far as the demo looks into it.
#[derive(Deserialize)]
pub(super) struct Export {
    pub(super) collections: Vec<ExportedCollection>,
}

/// A collection in it.
#[derive(Deserialize)]
pub(super) struct ExportedCollection {
    pub(super) records: Vec<IgnoredAny>,
    pub(super) digest: String,
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            // A proxy of the environment is not for what runs in this process.
            http: client_builder().no_proxy().build().unwrap_or_default(),
            base: format!("http://{address}"),
        }
    }

    /// Where the service is.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    async fn read<T: DeserializeOwned>(
        what: &str,
        sent: reqwest::Result<reqwest::Response>,
    ) -> Result<T> {
        let failed = |error: reqwest::Error| Error::internal(format!("{what}: {error}"));
        let answer = sent.map_err(failed)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(failed)?;
        if !status.is_success() {
            let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
            // A failed job carries its problem; other errors are the problem.
            let detail = problem
                .pointer("/problem/detail")
                .or_else(|| problem.get("message"))
                .and_then(Value::as_str)
                .map_or_else(|| problem.to_string(), str::to_owned);
            return Err(Error::internal(format!("{what}: {status}: {detail}")));
        }
        serde_json::from_slice(&body).map_err(|error| Error::internal(format!("{what}: {error}")))
    }

    /// GET, JSON back.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let sent = self.http.get(format!("{}{path}", self.base)).send().await;
        Self::read(&format!("GET {path}"), sent).await
    }

    /// POST, JSON both ways.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let sent = self
            .http
            .post(format!("{}{path}", self.base))
            .json(body)
            .send()
            .await;
        Self::read(&format!("POST {path}"), sent).await
    }

    /// Runs a long verb to its end and returns the job's result.
    pub(super) async fn run(&self, path: &str, body: &Value) -> Result<Value> {
        let mut job = self.post(&format!("{path}?wait=true"), body).await?;
        Ok(job.get_mut("result").map(Value::take).unwrap_or_default())
    }

    /// Creates a collection and returns its id.
    pub(super) async fn create_collection(&self, name: &str) -> Result<String> {
        let body = json!({"name": name, "configuration": {"hnsw": {"space": "cosine"}}});
        let collection = self.post(&format!("{DATABASE}/collections"), &body).await?;
        text(&collection, "/id")
    }

    /// Finds a collection's id.
    pub(super) async fn collection_id(&self, name: &str) -> Result<String> {
        let collection: Value = self.get(&format!("{DATABASE}/collections/{name}")).await?;
        text(&collection, "/id")
    }

    /// Adds new records.
    pub(super) async fn add(&self, collection: &str, records: &[DemoRecord]) -> Result<()> {
        self.put("add", collection, records).await
    }

    /// Writes records over those of the same ids, adds the others.
    pub(super) async fn upsert(&self, collection: &str, records: &[DemoRecord]) -> Result<()> {
        self.put("upsert", collection, records).await
    }

    /// Writes records, vectors as base64 like the official clients.
    async fn put(&self, verb: &str, collection: &str, records: &[DemoRecord]) -> Result<()> {
        let encode = |embedding: &[f32]| {
            let bytes: Vec<u8> = embedding.iter().flat_map(|x| x.to_le_bytes()).collect();
            BASE64_STANDARD.encode(bytes)
        };
        let body = json!({
            "ids": records.iter().map(|record| &record.id).collect::<Vec<_>>(),
            "embeddings": records.iter().map(|record| encode(&record.embedding)).collect::<Vec<_>>(),
            "documents": records.iter().map(|record| &record.document).collect::<Vec<_>>(),
            "metadatas": records.iter().map(|record| &record.metadata).collect::<Vec<_>>(),
        });
        let path = format!("{DATABASE}/collections/{collection}/{verb}");
        self.post(&path, &body).await.map(|_| ())
    }

    /// Number of records.
    pub(super) async fn count(&self, collection: &str) -> Result<u64> {
        self.get(&format!("{DATABASE}/collections/{collection}/count"))
            .await
    }

    /// Deletes records by id.
    pub(super) async fn delete(&self, collection: &str, ids: &[&str]) -> Result<()> {
        let path = format!("{DATABASE}/collections/{collection}/delete");
        self.post(&path, &json!({ "ids": ids })).await.map(|_| ())
    }

    /// The nearest record to a vector.
    pub(super) async fn nearest(&self, collection: &str, embedding: &[f32]) -> Result<String> {
        let path = format!("{DATABASE}/collections/{collection}/query");
        let body = json!({"query_embeddings": [embedding], "n_results": 1, "include": []});
        let found = self.post(&path, &body).await?;
        text(&found, "/ids/0/0")
    }

    /// The integrity check's observation for a collection; an error unless it passes.
    pub(super) async fn integrity(&self, name: &str) -> Result<Value> {
        let report: Value = self.get(&format!("/health/collections/{name}")).await?;
        report
            .pointer("/checks/collections:integrity/0/observed_value")
            .cloned()
            .ok_or_else(|| {
                Error::internal(format!("the check of {name} looked at nothing: {report}"))
            })
    }

    /// A collection's digest, recomputed by the integrity check.
    pub(super) async fn digest(&self, name: &str) -> Result<String> {
        text(&self.integrity(name).await?, "/recomputed_digest")
    }
}

/// A text in an answer.
pub(super) fn text(value: &Value, pointer: &str) -> Result<String> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| Error::internal(format!("an answer has no text at {pointer}: {value}")))
}

/// A number in an answer.
pub(super) fn number(value: &Value, pointer: &str) -> Result<u64> {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .ok_or_else(|| Error::internal(format!("an answer has no number at {pointer}: {value}")))
}
