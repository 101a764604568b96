//! Chroma's HTTP API v2 as a client speaks it: collections and records in JSON, both ways.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::background::processors;
use crate::error::{Error, Kind, Result};
use crate::model::collection::CollectionDefinition;
use crate::model::configuration::{Configuration, ConfigurationRequest};
use crate::model::metadata::{Metadata, MetadataValue};
use crate::model::record::Record;
use crate::model::schema::{self, Schema};

/// A collection, as far as it is looked at.
#[derive(Deserialize)]
pub(super) struct WireCollection {
    pub(super) id: String,
    pub(super) name: String,
    metadata: Option<Metadata>,
    configuration_json: Option<ConfigurationRequest>,
    schema: Option<Schema>,
    dimension: Option<u32>,
}

impl WireCollection {
    /// Everything but the records. The schema says more than the configuration beside it.
    ///
    /// # Errors
    /// `InvalidArgument` for what cannot be.
    pub(super) fn definition(self) -> Result<CollectionDefinition> {
        let metadata = self.metadata.unwrap_or_default();
        let (configuration, schema) = match self.schema {
            Some(schema) => (schema.configuration(processors()), schema),
            None => schema::reconcile(&metadata, self.configuration_json, None, processors())?,
        };
        Ok(CollectionDefinition {
            metadata,
            configuration,
            schema,
            dimension: self.dimension,
        })
    }
}

/// The request that makes a collection of this definition, but for its metadata, and what sets that afterwards:
/// `hnsw:` keys in it would count as a configuration. A schema that says more than the configuration goes alone:
/// both together are refused.
pub(super) fn creation(name: &str, definition: &CollectionDefinition) -> (Value, Option<Value>) {
    let mut request = json!({ "name": name, "get_or_create": true });
    let plain = Schema::of(&definition.configuration);
    if let Some(members) = request.as_object_mut() {
        if definition.schema == plain {
            let configuration = definition.configuration.to_export_json();
            members.insert("configuration".to_owned(), configuration);
        } else {
            members.insert("schema".to_owned(), json!(definition.schema));
        }
    }
    let metadata =
        (!definition.metadata.is_empty()).then(|| json!({ "new_metadata": definition.metadata }));
    (request, metadata)
}

/// What of a definition came over otherwise.
pub(super) fn differences(
    wanted: &CollectionDefinition,
    found: &CollectionDefinition,
) -> Vec<String> {
    let shown = |configuration: &Configuration| configuration.to_export_json();
    let mut differences = Vec::new();
    if wanted.metadata != found.metadata {
        differences.push("the collection's metadata".to_owned());
    }
    let (a, b) = (shown(&wanted.configuration), shown(&found.configuration));
    if a != b {
        differences.push(format!("the collection's configuration: {a} became {b}"));
    }
    if wanted.dimension != found.dimension {
        differences.push("the collection's dimension".to_owned());
    }
    if !wanted.schema.chooses_as(&found.schema) {
        differences.push("the collection's schema".to_owned());
    }
    differences
}

/// Records by column.
#[derive(Deserialize)]
pub(super) struct WireRecords {
    ids: Vec<String>,
    embeddings: Option<Vec<Option<Vec<f32>>>>,
    documents: Option<Vec<Option<String>>>,
    metadatas: Option<Vec<Option<Metadata>>>,
    uris: Option<Vec<Option<String>>>,
}

impl WireRecords {
    /// The records, complete.
    ///
    /// # Errors
    /// `RemoteUnavailable` when columns are missing or of another length.
    pub(super) fn records(self) -> Result<Vec<Record>> {
        let bad =
            |what: &str| Error::new(Kind::RemoteUnavailable, format!("a page of records {what}"));
        let count = self.ids.len();
        let (Some(embeddings), Some(documents), Some(metadatas), Some(uris)) =
            (self.embeddings, self.documents, self.metadatas, self.uris)
        else {
            return Err(bad("lacks columns that were asked for"));
        };
        let lengths = [
            embeddings.len(),
            documents.len(),
            metadatas.len(),
            uris.len(),
        ];
        if lengths.iter().any(|length| *length != count) {
            return Err(bad("has columns of different lengths"));
        }
        let rows = self.ids.into_iter().zip(embeddings).zip(documents);
        rows.zip(metadatas)
            .zip(uris)
            .map(|((((id, embedding), document), metadata), uri)| {
                let embedding = embedding
                    .filter(|found| !found.is_empty() && found.iter().all(|x| x.is_finite()))
                    .ok_or_else(|| bad("has a record without a usable embedding"))?;
                Ok(Record {
                    id,
                    embedding,
                    document,
                    uri,
                    metadata: metadata.unwrap_or_default(),
                })
            })
            .collect()
    }
}

/// The columns that make a record complete.
pub(super) const ALL_COLUMNS: [&str; 4] = ["embeddings", "documents", "metadatas", "uris"];

/// Records as a write sends them; `obsolete` names metadata keys that are to be taken away, by id.
pub(super) fn write_request(records: &[&Record], obsolete: &BTreeMap<&str, Vec<String>>) -> Value {
    let encode = |record: &&Record| {
        let bytes: Vec<u8> = record
            .embedding
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        BASE64_STANDARD.encode(bytes)
    };
    let metadata = |record: &&Record| {
        let entry = |(key, value): (&String, &MetadataValue)| (key.clone(), json!(value));
        let mut metadata: Map<String, Value> = record.metadata.iter().map(entry).collect();
        let gone = obsolete.get(record.id.as_str()).into_iter().flatten();
        metadata.extend(gone.map(|key| (key.clone(), Value::Null)));
        if metadata.is_empty() {
            Value::Null
        } else {
            Value::Object(metadata)
        }
    };
    json!({
        "ids": records.iter().map(|record| &record.id).collect::<Vec<_>>(),
        "embeddings": records.iter().map(encode).collect::<Vec<_>>(),
        "documents": records.iter().map(|record| &record.document).collect::<Vec<_>>(),
        "metadatas": records.iter().map(metadata).collect::<Vec<_>>(),
        "uris": records.iter().map(|record| &record.uri).collect::<Vec<_>>(),
    })
}
