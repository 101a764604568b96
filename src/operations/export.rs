//! Exporting a backup as one valid JSON document, streamed: memory does not grow with the backup.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::names::CollectionName;
use crate::repository::Repository;
use crate::repository::format::{Manifest, ManifestCollection};
use crate::repository::reader::CollectionReader;

/// Version of the export format.
const VERSION: u32 = 1;

/// One record as it is exported. f32 and f64 are written in the shortest form that reads back as the
/// same bits; serde_json sees to it.
#[derive(Serialize)]
struct ExportedRecord<'a> {
    id: &'a str,
    embedding: &'a [f32],
    document: &'a Option<String>,
    uri: &'a Option<String>,
    metadata: Option<&'a crate::model::metadata::Metadata>,
}

/// Checks that the export can begin.
///
/// # Errors
/// `NotFound` when the backup holds no such collection.
pub fn select<'a>(
    manifest: &'a Manifest,
    collection: Option<&CollectionName>,
) -> Result<Vec<&'a ManifestCollection>> {
    let Some(name) = collection else {
        return Ok(manifest.collections.iter().collect());
    };
    let found: Vec<_> = manifest
        .collections
        .iter()
        .filter(|collection| collection.name == *name)
        .collect();
    if found.is_empty() {
        return Err(Error::not_found(format!(
            "the backup {} holds no collection {name}",
            manifest.id
        )));
    }
    Ok(found)
}

/// Writes the document: `backup` is what stands under that member.
///
/// # Errors
/// `BackupCorrupt` naming pack and collection; `Internal` when `out` takes no more. The document is
/// incomplete then, so that no reader takes it for whole.
pub fn write_json(
    repository: &Repository,
    collections: &[&ManifestCollection],
    backup: &serde_json::Value,
    out: &mut impl Write,
) -> Result<()> {
    let head = format!(
        "{{\"format\":\"vectorkeep-export\",\"version\":{VERSION},\"backup\":{backup},\"collections\":["
    );
    put(out, head.as_bytes())?;
    for (index, collection) in collections.iter().enumerate() {
        if index > 0 {
            put(out, b",")?;
        }
        write_collection(repository, collection, out)?;
    }
    put(out, b"]}\n")
}

fn write_collection(
    repository: &Repository,
    collection: &ManifestCollection,
    out: &mut impl Write,
) -> Result<()> {
    let definition = &collection.definition;
    let mut head = serde_json::json!({
        "tenant": collection.name.tenant,
        "database": collection.name.database,
        "name": collection.name.name,
        "metadata": (!definition.metadata.is_empty()).then_some(&definition.metadata),
        "configuration": definition.configuration.to_json(),
        "schema": definition.schema,
        "dimension": definition.dimension,
    })
    .to_string();
    // The object is continued by hand: its records are streamed.
    head.pop();
    put(out, head.as_bytes())?;
    put(out, b",\"records\":[")?;
    let mut digest = crate::model::digest::Digest::EMPTY;
    let mut count = 0_u64;
    for record in CollectionReader::open(repository, collection)? {
        let found = record?;
        digest.add(&found.hash);
        if count > 0 {
            put(out, b",")?;
        }
        count += 1;
        let record = &found.record;
        let exported = ExportedRecord {
            id: &record.id,
            embedding: &record.embedding,
            document: &record.document,
            uri: &record.uri,
            metadata: (!record.metadata.is_empty()).then_some(&record.metadata),
        };
        serde_json::to_writer(&mut *out, &exported).map_err(|error| stopped(error.into()))?;
    }
    if digest != collection.digest || count != collection.records {
        return Err(Error::backup_corrupt(format!(
            "the records of {} do not have the digest that the manifest says",
            collection.name
        ))
        .with("collection", collection.name.to_string()));
    }
    put(out, format!("],\"digest\":\"{digest}\"}}").as_bytes())
}

fn put(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(stopped)
}

fn stopped(error: io::Error) -> Error {
    Error::internal("the export was not taken to its end").because(error)
}
