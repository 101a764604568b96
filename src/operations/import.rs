//! Importing an export: read as a stream, checked record by record, stored as a full backup.
//!
//! Nothing is visible before all of it was read and found right: the manifest comes last, as in every
//! backup. What a refused document had already stored is collected like other packs that nothing needs.

mod document;
mod lines;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::duplicates::Duplicates;
use super::packer::{LayerWriter, PackSettings, Packer};
use crate::error::{Error, Kind, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::configuration::{Configuration, ConfigurationRequest};
use crate::model::digest::{Digest, RecordHash};
use crate::model::metadata::{Metadata, is_key};
use crate::model::names::{CollectionName, check_name, check_tenant_name};
use crate::model::record::Record;
use crate::model::schema::{self, Schema};
use crate::progress::Progress;
use crate::repository::format::{
    BackupScope, LayerReference, Manifest, ManifestCollection, REPOSITORY_FORMAT, Summary, Totals,
};
use crate::repository::pack::PackRow;
use crate::repository::{LockMode, Repository, backup_id};
use source::{Offset, Source};

/// Name and version of the format that is read.
const FORMAT: &str = "vectorkeep-export";
const VERSION: u32 = 1;

/// How the document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentFormat {
    /// One JSON object.
    Json,
    /// A JSON object per line.
    JsonLines,
}

/// Bounds and settings of an import.
#[derive(Clone, Debug)]
pub struct ImportSettings {
    /// Of its packs.
    pub packs: PackSettings,
    /// Longest text of one record, or of what stands between records.
    pub max_record_bytes: u64,
    /// Bytes of a document, unpacked.
    pub max_bytes: u64,
    /// Bytes that may be held to find ids that stand twice; beyond it they go to a file.
    pub memory_bytes: u64,
    /// Where such files go.
    pub scratch: PathBuf,
    /// Bytes of keys and values of a backup's labels.
    pub max_label_bytes: usize,
    /// Collections in a document.
    pub max_collections: usize,
    /// Threads that an index is built with where the document does not say.
    pub num_threads: usize,
}

/// Imports a document, which was received at `requested_at`.
///
/// # Errors
/// `Unprocessable` with the position: wrong shape, an id that stands twice, a wrong dimension, a number that
/// is not finite, a digest that the records do not have. `Canceled`, `StorageFault`. No backup is listed
/// then.
pub fn execute(
    repository: &Repository,
    file: &Path,
    format: Option<DocumentFormat>,
    settings: &ImportSettings,
    requested_at: DateTime<Utc>,
    progress: &Progress,
) -> Result<Manifest> {
    let started = std::time::Instant::now();
    let (source, offset) = Source::open(file, settings.max_bytes, settings.max_record_bytes)?;
    progress.stage("lock");
    let lock = repository.lock(LockMode::Shared, progress)?;
    progress.phase("import", 0);
    let mut import = Import {
        packer: Packer::new(repository, settings.packs, progress)?,
        settings,
        progress,
        offset,
        names: BTreeSet::new(),
        collections: Vec::new(),
        labels: BTreeMap::new(),
        record: None,
        failure: None,
    };
    let mut source = source;
    match format.map_or_else(|| source.guess_format(), Ok)? {
        DocumentFormat::Json => document::read(&mut import, source)?,
        DocumentFormat::JsonLines => lines::read(&mut import, source)?,
    }
    super::backup::check_labels(&import.labels, settings.max_label_bytes)?;
    progress.stage("commit");
    progress.commit()?;
    let summary = Summary {
        format: REPOSITORY_FORMAT,
        repository_id: repository.id(),
        id: backup_id(requested_at),
        kind: "full".to_owned(),
        parent: None,
        // What the document says is of no later time.
        created_at: requested_at,
        requested_at: Some(requested_at),
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        // Of no store: nothing can be incremental to it.
        store_id: Uuid::nil(),
        sequence: 0,
        line: 0,
        new_records: import.packer.new_records,
        tombstones: 0,
        new_bytes: import.packer.new_bytes,
        labels: import.labels,
        pinned: false,
        scope: BackupScope::Selection,
        totals: Totals::default(),
        parts: Vec::new(),
    };
    let manifest = Manifest::new(summary, Vec::new(), import.collections);
    repository.commit(manifest, &lock, &BTreeSet::new())
}

/// A record as it stands in the document.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenRecord {
    #[serde(default, rename = "type")]
    _type: Option<serde::de::IgnoredAny>,
    id: String,
    embedding: Vec<f32>,
    document: Option<String>,
    uri: Option<String>,
    metadata: Option<Metadata>,
}

/// What a collection is, apart from its records. Configuration and schema as exports have them.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenCollection {
    #[serde(default, rename = "type")]
    _type: Option<serde::de::IgnoredAny>,
    tenant: Option<String>,
    database: Option<String>,
    name: Option<String>,
    metadata: Option<Metadata>,
    configuration: Option<ConfigurationRequest>,
    schema: Option<Schema>,
    dimension: Option<u32>,
    /// Stands after the records.
    #[serde(skip)]
    digest: Option<Digest>,
}

/// The records of a collection, stored.
struct ImportedRecords {
    count: u64,
    bytes: u64,
    dimension: Option<u32>,
    digest: Digest,
    layer: LayerReference,
}

/// Why reading records stopped.
enum Stop<E> {
    /// The document cannot be read on.
    Source(E),
    /// A record is not allowed, or could not be stored.
    Own(Error),
}

struct Import<'a> {
    packer: Packer<'a>,
    settings: &'a ImportSettings,
    progress: &'a Progress,
    offset: Offset,
    names: BTreeSet<CollectionName>,
    collections: Vec<ManifestCollection>,
    labels: BTreeMap<String, String>,
    /// The record that is read, counted from 0; `None` outside of records.
    record: Option<u64>,
    /// What a parser in between cannot carry.
    failure: Option<Error>,
}

impl Import<'_> {
    /// Where the document is read: for people and programs.
    fn at(&self, error: Error) -> Error {
        // Neither the document nor a place in it is the reason.
        if matches!(error.kind(), Kind::Canceled | Kind::StorageFault) {
            return error;
        }
        let collection = self.collections.len();
        let offset = self.offset.read.get();
        let place = match self.record {
            Some(record) => format!("collections[{collection}].records[{record}]"),
            None => format!("collections[{collection}]"),
        };
        let text = format!("{place}, before byte {offset}: {}", error.message());
        let members = error.members().iter().cloned();
        let placed = members
            .fold(Error::new(error.kind(), text), |placed, (name, value)| {
                placed.with(name, value)
            })
            .with("collection_index", collection)
            .with("byte_offset", offset);
        let placed = match self.record {
            Some(record) => placed.with("record_index", record),
            None => placed,
        };
        match error.cause_text() {
            Some(cause) => placed.because(cause),
            None => placed,
        }
    }

    fn refused(&self, text: impl Into<String>) -> Error {
        self.at(Error::unprocessable(text))
    }

    /// The kind and version of the document.
    fn check_format(format: Option<&str>, version: Option<u32>) -> Result<()> {
        if format != Some(FORMAT) {
            return Err(Error::unprocessable(format!(
                "no export: \"format\" must be {FORMAT:?}"
            )));
        }
        if version != Some(VERSION) {
            return Err(Error::unprocessable(format!(
                "\"version\" must be {VERSION}: this program reads no other"
            )));
        }
        Ok(())
    }

    /// Takes the records of a collection, `next` by `next`.
    fn records<E>(
        &mut self,
        declared: Option<u32>,
        mut next: impl FnMut() -> Result<Option<GivenRecord>, E>,
    ) -> Result<ImportedRecords, Stop<E>> {
        let mut duplicates = Duplicates::new(&self.settings.scratch, self.settings.memory_bytes);
        let mut imported = ImportedRecords {
            count: 0,
            bytes: 0,
            dimension: declared,
            digest: Digest::EMPTY,
            layer: LayerReference::default(),
        };
        let progress = self.progress;
        let offset = self.offset.clone();
        // Cut by bytes alone: how long the records are is not known before.
        let mut writer = LayerWriter::new(&mut self.packer, declared, 1);
        let mut failed: Option<Stop<E>> = None;
        let mut record_index = 0;
        loop {
            offset.advance();
            let given = match next() {
                Ok(Some(given)) => given,
                Ok(None) => break,
                Err(error) => {
                    failed = Some(Stop::Source(error));
                    break;
                }
            };
            let row = check(given, &mut imported).and_then(|record| {
                progress.check()?;
                duplicates.add(&record.id, record_index)?;
                let canonical = record.canonical();
                imported.digest.add(&RecordHash::of(&canonical));
                imported.bytes += canonical.len() as u64;
                writer.row(PackRow {
                    ordinal: record_index,
                    sequence: 0,
                    canonical,
                })
            });
            if let Err(error) = row {
                failed = Some(Stop::Own(error));
                break;
            }
            record_index += 1;
        }
        imported.count = record_index;
        let written = match &failed {
            None => writer.finish(),
            Some(_) => Ok(LayerReference::default()),
        };
        self.record = Some(record_index);
        match failed {
            None => {}
            Some(Stop::Own(error)) => return Err(Stop::Own(self.at(error))),
            Some(source) => return Err(source),
        }
        imported.layer = written.map_err(Stop::Own)?;
        if let Some((first, second)) = duplicates.find().map_err(Stop::Own)? {
            self.record = Some(second);
            return Err(Stop::Own(
                self.refused(format!("its id stands in records[{first}] as well")),
            ));
        }
        self.record = None;
        Ok(imported)
    }

    /// Closes a collection.
    fn collection(&mut self, given: GivenCollection, imported: ImportedRecords) -> Result<()> {
        self.record = None;
        self.progress.check()?;
        if self.collections.len() >= self.settings.max_collections {
            return Err(self.refused(format!(
                "more than {} collections (repository.max_import_collections)",
                self.settings.max_collections
            )));
        }
        let name = self.name_of(&given)?;
        if given.dimension == Some(0) {
            return Err(self.refused("\"dimension\" must be at least 1, or null"));
        }
        if let (Some(declared), Some(found)) = (given.dimension, imported.dimension)
            && declared != found
        {
            return Err(self.refused(format!(
                "its records have {found} dimensions, \"dimension\" says {declared}"
            )));
        }
        if let Some(expected) = given.digest
            && expected != imported.digest
        {
            return Err(self.refused(format!(
                "its records have the digest {}, the document says {expected}: it was changed or damaged. To import \
                 it as it is, take \"digest\" out",
                imported.digest
            )));
        }
        let metadata = given.metadata.unwrap_or_default();
        check_keys(&metadata).map_err(|error| self.at(error))?;
        let (configuration, schema) = self
            .definition(&metadata, given.configuration, given.schema)
            .map_err(|error| self.refused(error.message()))?;
        let definition = CollectionDefinition {
            metadata,
            configuration,
            schema,
            dimension: imported.dimension.or(given.dimension),
        };
        if !self.names.insert(name.clone()) {
            return Err(self.refused(format!("{name} stands in the document twice")));
        }
        let layers = match imported.layer.packs.is_empty() {
            true => Vec::new(),
            false => vec![imported.layer],
        };
        self.collections.push(ManifestCollection {
            name,
            id: Uuid::new_v4(),
            public_id: None,
            records: imported.count,
            raw_bytes: imported.bytes,
            sequence: 0,
            next_ordinal: imported.count,
            digest: imported.digest,
            definition_hash: definition.hash(),
            definition: definition.into(),
            layers,
        });
        Ok(())
    }

    fn name_of(&self, given: &GivenCollection) -> Result<CollectionName> {
        let Some(name) = given.name.as_deref() else {
            return Err(self.refused("it has no \"name\""));
        };
        let name =
            CollectionName::with_defaults(given.tenant.as_deref(), given.database.as_deref(), name);
        check_tenant_name(&name.tenant)
            .and_then(|()| check_name(&name.database))
            .and_then(|()| check_name(&name.name))
            .map_err(|error| self.refused(error.message()))?;
        Ok(name)
    }

    fn definition(
        &self,
        metadata: &Metadata,
        configuration: Option<ConfigurationRequest>,
        schema: Option<Schema>,
    ) -> Result<(Configuration, Schema)> {
        let threads = self.settings.num_threads;
        let Some(schema) = schema else {
            return schema::reconcile(metadata, configuration, None, threads);
        };
        let Some(configuration) = configuration else {
            return Ok((schema.configuration(threads), schema));
        };
        let configuration = configuration.exported(metadata, threads)?;
        if schema.space() != configuration.space() {
            return Err(Error::unprocessable(
                "\"configuration\" and \"schema\" have different spaces",
            ));
        }
        Ok((configuration, schema))
    }
}

/// Checks what can be seen in the record alone, and its dimension.
fn check(given: GivenRecord, imported: &mut ImportedRecords) -> Result<Record> {
    let GivenRecord {
        id,
        embedding,
        document,
        uri,
        metadata,
        ..
    } = given;
    let refused = |text: String| Err(Error::unprocessable(format!("{id:?}: {text}")));
    if id.is_empty() {
        return refused("an id must have at least one character".to_owned());
    }
    if let Some(position) = embedding
        .iter()
        .position(|component| !component.is_finite())
    {
        return refused(format!("embedding[{position}] is not finite as f32"));
    }
    let Some(found) = u32::try_from(embedding.len())
        .ok()
        .filter(|found| *found > 0)
    else {
        return refused("an embedding must have at least one component".to_owned());
    };
    let expected = *imported.dimension.get_or_insert(found);
    if found != expected {
        return refused(format!(
            "embedding has {found} dimensions, expected {expected}"
        ));
    }
    let metadata = metadata.unwrap_or_default();
    check_keys(&metadata)?;
    Ok(Record {
        id,
        embedding,
        document,
        uri,
        metadata,
    })
}

fn check_keys(metadata: &Metadata) -> Result<()> {
    match metadata.keys().find(|key| !is_key(key)) {
        None => Ok(()),
        Some(key) => Err(Error::unprocessable(format!(
            "{key:?} cannot be a key of metadata"
        ))),
    }
}
