//! Records whose whole content follows from id and version, so that what comes back can be compared with
//! what was sent without keeping it; and collections of such records.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::random::Random;
use crate::service::Api;

const DIMENSION: usize = 24;
/// Above the length from which the store splits a value over several keys.
const LONG_DOCUMENT_BYTES: usize = 30_000;
/// One document in so many is a long one.
const LONG_DOCUMENT_EVERY: u64 = 150;
const RECORDS_PER_REQUEST: usize = 250;

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: String,
    embedding: Vec<f32>,
    document: String,
    uri: String,
    metadata: Value,
}

/// Records by id.
pub(crate) type Records = BTreeMap<String, Record>;

impl Record {
    /// The record that this id has at this version.
    pub(crate) fn of(id: &str, version: u64) -> Self {
        let mut random = Random::of((id, version));
        // Multiples of 1/256 below 128 are exact in f32 and in decimal.
        let embedding = (0..DIMENSION)
            .map(|_| {
                f32::from(i16::from_le_bytes([
                    random.number() as u8,
                    random.number() as u8,
                ])) / 256.0
            })
            .collect();
        let length = match random.within(0..LONG_DOCUMENT_EVERY) {
            0 => LONG_DOCUMENT_BYTES,
            other => usize::try_from(other).unwrap(),
        };
        Self {
            id: id.to_owned(),
            embedding,
            document: format!("{id} in version {version} {}", "é".repeat(length / 2)),
            uri: format!("file:///{id}?v={version}"),
            metadata: json!({
                "version": version,
                "half": version as f64 + 0.5,
                "even": version.is_multiple_of(2),
                "digits": [version % 10, version / 10 % 10],
            }),
        }
    }

    /// The version that its metadata says.
    pub(crate) fn version(&self) -> Option<u64> {
        self.metadata["version"].as_u64()
    }

    /// From one record of an export.
    pub(crate) fn exported(value: &Value) -> Self {
        Self {
            id: text(&value["id"]),
            embedding: floats(&value["embedding"]),
            document: text(&value["document"]),
            uri: text(&value["uri"]),
            metadata: value["metadata"].clone(),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn floats(value: &Value) -> Vec<f32> {
    let numbers = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |number: &Value| number.as_f64().unwrap_or(f64::NAN) as f32;
    numbers.iter().map(number).collect()
}

/// How embeddings travel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Encoding {
    Numbers,
    /// What Chroma's own clients send: base64 of little-endian f32.
    Base64,
}

/// The body of a write.
pub(crate) fn columns(records: &[Record], encoding: Encoding) -> Value {
    let column = |of: fn(&Record) -> Value| records.iter().map(of).collect::<Vec<_>>();
    let embeddings = match encoding {
        Encoding::Numbers => column(|record| json!(record.embedding)),
        Encoding::Base64 => column(|record| json!(base64_of(&record.embedding))),
    };
    json!({
        "ids": column(|record| json!(record.id)),
        "embeddings": embeddings,
        "documents": column(|record| json!(record.document)),
        "uris": column(|record| json!(record.uri)),
        "metadatas": column(|record| record.metadata.clone()),
    })
}

fn base64_of(embedding: &[f32]) -> String {
    let bytes: Vec<u8> = embedding
        .iter()
        .flat_map(|component| component.to_le_bytes())
        .collect();
    BASE64_STANDARD.encode(bytes)
}

/// Everything that a collection holds, in its order.
pub(crate) async fn read(api: &Api, collection: &str, at: &str) -> Vec<Record> {
    let include = json!({"include": ["documents", "embeddings", "metadatas", "uris"]});
    let (status, found) = api.post(&records_path(collection, "get"), &include).await;
    assert_eq!(status, 200, "{at}: get: {found}");
    let cell = |column: &str, row: usize| found[column][row].clone();
    (0..found["ids"].as_array().unwrap().len())
        .map(|row| Record {
            id: text(&cell("ids", row)),
            embedding: floats(&cell("embeddings", row)),
            document: text(&cell("documents", row)),
            uri: text(&cell("uris", row)),
            metadata: cell("metadatas", row),
        })
        .collect()
}

/// By id; every id once.
pub(crate) fn by_id(records: Vec<Record>, at: &str) -> Records {
    let count = records.len();
    let records: Records = records
        .into_iter()
        .map(|record| (record.id.clone(), record))
        .collect();
    assert_eq!(records.len(), count, "{at}: an id is there twice");
    records
}

/// The first ids on which two sets of records differ.
pub(crate) fn differences<'a>(one: &'a Records, other: &'a Records) -> Vec<&'a str> {
    let mut ids: Vec<&str> = one
        .keys()
        .chain(other.keys())
        .filter(|id| one.get(*id) != other.get(*id))
        .map(String::as_str)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.truncate(5);
    ids
}

/// The path of a record route.
pub(crate) fn records_path(collection: &str, verb: &str) -> String {
    format!("{COLLECTIONS}/{collection}/{verb}")
}

/// The path of the collections of the default database.
pub(crate) const COLLECTIONS: &str =
    "/api/v2/tenants/default_tenant/databases/default_database/collections";

/// Creates a collection; returns its id.
pub(crate) async fn create_collection(api: &Api, name: &str) -> String {
    let (status, made) = api.post(COLLECTIONS, &json!({"name": name})).await;
    assert_eq!(status, 200, "creating {name}: {made}");
    text(&made["id"])
}

/// Drops collections; what they held may still be on its way out when the next kill comes.
pub(crate) async fn drop_collections(
    api: &Api,
    names: impl IntoIterator<Item = &'static str>,
    at: &str,
) {
    for name in names {
        let (status, answer) = api.delete(&format!("{COLLECTIONS}/{name}")).await;
        assert_eq!(status, 200, "{at}: dropping {name}: {answer}");
    }
}

/// A collection that only this test writes to, never while a kill is due: what it holds is known.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) id: String,
    pub(crate) records: Records,
}

impl Known {
    /// Creates it with `count` records of version 1.
    pub(crate) async fn create(api: &Api, name: &'static str, count: usize) -> Self {
        let mut known = Self {
            name,
            id: create_collection(api, name).await,
            records: Records::new(),
        };
        let records = (0..count)
            .map(|index| Record::of(&format!("{name}-{index}"), 1))
            .collect();
        known.put(api, records).await;
        known
    }

    /// Upserts records.
    pub(crate) async fn put(&mut self, api: &Api, records: Vec<Record>) {
        for chunk in records.chunks(RECORDS_PER_REQUEST) {
            let body = columns(chunk, Encoding::Base64);
            let path = records_path(&self.id, "upsert");
            let (status, answer) = api.post(&path, &body).await;
            assert_eq!(status, 200, "loading {}: {answer}", self.name);
        }
        let named = records
            .into_iter()
            .map(|record| (record.id.clone(), record));
        self.records.extend(named);
    }

    /// Deletes records.
    pub(crate) async fn remove(&mut self, api: &Api, ids: Vec<String>) {
        let path = records_path(&self.id, "delete");
        let (status, answer) = api.post(&path, &json!({"ids": ids})).await;
        assert_eq!(status, 200, "changing {}: {answer}", self.name);
        self.records.retain(|id, _| !ids.contains(id));
    }

    /// Changes it: of each ten records one goes, one comes anew, some get this version.
    pub(crate) async fn change(&mut self, api: &Api, version: u64) {
        let mut random = Random::of((self.name, version));
        let (mut gone, mut put) = (Vec::new(), Vec::new());
        for id in self.records.keys() {
            match random.within(0..10) {
                0 => {
                    gone.push(id.clone());
                    put.push(Record::of(&format!("{id}+{version}"), version));
                }
                1..4 => put.push(Record::of(id, version)),
                _ => {}
            }
        }
        self.remove(api, gone).await;
        self.put(api, put).await;
    }
}
