//! Exporting a backup as one valid JSON document or as lines of JSON, streamed: memory does not grow with the backup.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::digest::Digest;
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
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
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

/// How the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportLayout {
    /// One JSON object.
    Json,
    /// A JSON object per line: `export`, then per collection `collection`, its `record`s and
    /// `collection_end`, then `end`.
    JsonLines,
}

/// Writes the document: `backup` is what stands under that member.
///
/// # Errors
/// `BackupCorrupt` naming pack and collection; `Internal` when `out` takes no more. The document is
/// incomplete then, so that no reader takes it for whole.
pub fn write(
    repository: &Repository,
    collections: &[&ManifestCollection],
    backup: &serde_json::Value,
    layout: ExportLayout,
    out: &mut impl Write,
) -> Result<()> {
    let head =
        format!("\"format\":\"vectorkeep-export\",\"version\":{VERSION},\"backup\":{backup}");
    let count = collections.len();
    match layout {
        ExportLayout::Json => {
            put(out, format!("{{{head},\"collections\":["))?;
            for (index, collection) in collections.iter().enumerate() {
                put(out, if index > 0 { "," } else { "" })?;
                put(out, format!("{{{},\"records\":[", definition(collection)))?;
                write_records(repository, collection, out, layout)?;
                put(out, format!("],\"digest\":\"{}\"}}", collection.digest))?;
            }
            put(out, "]}\n")
        }
        ExportLayout::JsonLines => {
            put(out, format!("{{\"type\":\"export\",{head}}}\n"))?;
            for collection in collections {
                let described = definition(collection);
                put(out, format!("{{\"type\":\"collection\",{described}}}\n"))?;
                write_records(repository, collection, out, layout)?;
                let (records, digest) = (collection.records, collection.digest);
                let newline = if records > 0 { "\n" } else { "" };
                put(
                    out,
                    format!(
                        "{newline}{{\"type\":\"collection_end\",\"records\":{records},\"digest\":\"{digest}\"}}\n"
                    ),
                )?;
            }
            put(
                out,
                format!("{{\"type\":\"end\",\"collections\":{count}}}\n"),
            )
        }
    }
}

/// The members of a collection but its records.
fn definition(collection: &ManifestCollection) -> String {
    let definition = &collection.definition;
    let text = serde_json::json!({
        "tenant": collection.name.tenant,
        "database": collection.name.database,
        "name": collection.name.name,
        "metadata": (!definition.metadata.is_empty()).then_some(&definition.metadata),
        "configuration": definition.configuration.to_export_json(),
        "schema": definition.schema,
        "dimension": definition.dimension,
    })
    .to_string();
    // The object goes on elsewhere: its records are streamed.
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'));
    inner.unwrap_or_default().to_owned()
}

/// Writes the records and holds them against the digest.
fn write_records(
    repository: &Repository,
    collection: &ManifestCollection,
    out: &mut impl Write,
    layout: ExportLayout,
) -> Result<()> {
    let (kind, between) = match layout {
        ExportLayout::Json => (None, ","),
        ExportLayout::JsonLines => (Some("record"), "\n"),
    };
    let mut digest = Digest::EMPTY;
    let mut count = 0_u64;
    for record in CollectionReader::open(repository, collection)? {
        let found = record?;
        digest.add(&found.hash);
        put(out, if count == 0 { "" } else { between })?;
        count += 1;
        let record = &found.record;
        let exported = ExportedRecord {
            kind,
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
    Ok(())
}

fn put(out: &mut impl Write, text: impl AsRef<str>) -> Result<()> {
    out.write_all(text.as_ref().as_bytes()).map_err(stopped)
}

fn stopped(error: io::Error) -> Error {
    Error::internal("the export was not taken to its end").because(error)
}
