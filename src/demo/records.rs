//! Records for the demo: the bundled WordNet glosses, or a larger file of the same form.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// 50 glosses of WordNet 3.0 with embeddings; its licence lies beside the file.
const BUNDLED: &str = include_str!("../../tests/data/wordnet_50.json");

/// Ten are lost and restored, others are changed.
const FEWEST: usize = 20;

/// One record.
#[derive(Deserialize)]
pub(super) struct DemoRecord {
    pub(super) id: String,
    #[serde(default)]
    pub(super) embedding: Vec<f32>,
    #[serde(default)]
    embedding_b64: String,
    pub(super) document: String,
    pub(super) metadata: Map<String, Value>,
}

impl DemoRecord {
    /// The same vector and metadata under another id, with a word more in the document.
    pub(super) fn with(&self, word: &str, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            embedding: self.embedding.clone(),
            embedding_b64: String::new(),
            document: format!("{} ({word})", self.document),
            metadata: self.metadata.clone(),
        }
    }

    fn decoded(mut self) -> Result<Self> {
        if self.embedding.is_empty() {
            let bytes = BASE64_STANDARD
                .decode(&self.embedding_b64)
                .map_err(|error| Error::invalid(format!("record {}: {error}", self.id)))?;
            let (components, _) = bytes.as_chunks::<4>();
            self.embedding = components
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect();
        }
        Ok(self)
    }
}

#[derive(Deserialize)]
struct BundledFile {
    records: Vec<DemoRecord>,
}

/// The bundled records.
///
/// # Errors
/// None in a build whose tests pass.
pub(super) fn bundled() -> Result<Vec<DemoRecord>> {
    let file: BundledFile = serde_json::from_str(BUNDLED)
        .map_err(|error| Error::internal("the bundled records cannot be read").because(error))?;
    Ok(file.records)
}

/// Records of a `.jsonl` or `.jsonl.zst` file, one object a line.
///
/// # Errors
/// `InvalidArgument` naming file and line, or for too few records.
pub(super) fn from_file(path: &Path) -> Result<Vec<DemoRecord>> {
    let fail = |what: String| Error::invalid(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| fail(error.to_string()))?;
    let reader: Box<dyn Read> = if path.extension().is_some_and(|extension| extension == "zst") {
        Box::new(zstd::Decoder::new(file).map_err(|error| fail(error.to_string()))?)
    } else {
        Box::new(file)
    };
    let mut records = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(reader).lines()) {
        let line = line.map_err(|error| fail(error.to_string()))?;
        let record: DemoRecord =
            serde_json::from_str(&line).map_err(|error| fail(format!("line {number}: {error}")))?;
        records.push(record.decoded()?);
    }
    if records.len() < FEWEST {
        return Err(fail(format!(
            "holds {} records; the demo needs {FEWEST}",
            records.len()
        )));
    }
    Ok(records)
}
