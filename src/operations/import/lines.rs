//! The document as JSON Lines: an object per line, each with its `type`.
//!
//! `export` first; then for each collection `collection`, its lines of `record`, `collection_end`; `end`
//! last, so that a document that was cut off is never taken for whole.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _};

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::source::{REFUSED, Source, unreadable};
use super::{GivenCollection, GivenRecord, Import, Stop};
use crate::error::{Error, Result};
use crate::model::digest::Digest;
use crate::model::object::Object;

/// What is taken over of the backup that was exported.
#[derive(Deserialize)]
pub(super) struct GivenBackup {
    pub(super) labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportLine {
    #[serde(rename = "type")]
    _type: IgnoredAny,
    format: Option<String>,
    version: Option<u32>,
    backup: Option<GivenBackup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionEndLine {
    #[serde(rename = "type")]
    _type: IgnoredAny,
    records: Option<u64>,
    digest: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    #[serde(rename = "type")]
    _type: IgnoredAny,
    collections: Option<u64>,
}

/// Lines, each read whole; what a line is of was looked at.
struct Lines {
    source: BufReader<Source>,
    offset: super::Offset,
    line: Vec<u8>,
    /// Counted from 1.
    number: u64,
}

impl Lines {
    /// The type of the next line that is not empty; the line stays until the next call.
    fn next(&mut self) -> Result<Option<String>> {
        loop {
            self.line.clear();
            self.offset.advance();
            // The source bounds a line; here it is only bounded once more where lines are shorter.
            let count = (&mut self.source)
                .take(self.offset.step)
                .read_until(b'\n', &mut self.line)
                .map_err(|error| match error.kind() {
                    REFUSED => self.refused(&error.to_string()),
                    _ => unreadable(error),
                })?;
            if count == 0 {
                return Ok(None);
            }
            self.number += 1;
            if count as u64 == self.offset.step && self.line.last() != Some(&b'\n') {
                return Err(
                    self.refused("the line is longer than repository.max_import_record_bytes")
                );
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        let typed: Typed<'_> =
            serde_json::from_slice(&self.line).map_err(|error| self.refused(&error.to_string()))?;
        Ok(Some(typed.kind.into_owned()))
    }

    fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let mut deserializer = serde_json::Deserializer::from_slice(&self.line);
        let parsed = serde_path_to_error::deserialize(&mut deserializer);
        let Object(value) = parsed.map_err(|error| self.refused(&error.to_string()))?;
        Ok(value)
    }

    fn refused(&self, text: &str) -> Error {
        Error::unprocessable(format!("line {}: {text}", self.number)).with("line", self.number)
    }
}

/// Reads the whole document.
pub(super) fn read(import: &mut Import<'_>, source: Source) -> Result<()> {
    let mut lines = Lines {
        source: BufReader::new(source),
        offset: import.offset.clone(),
        line: Vec::new(),
        number: 0,
    };
    let expect = |kind: Option<String>, expected: &str, lines: &Lines| match kind {
        Some(kind) if kind == expected => Ok(()),
        Some(kind) => {
            Err(lines.refused(&format!("a line of type {kind:?}, expected {expected:?}")))
        }
        None => Err(lines.refused(&format!(
            "the document ends where a line of type {expected:?} must follow: it was cut off"
        ))),
    };
    expect(lines.next()?, "export", &lines)?;
    let head: ExportLine = lines.parse()?;
    Import::check_format(head.format.as_deref(), head.version)?;
    import.labels = head
        .backup
        .and_then(|backup| backup.labels)
        .unwrap_or_default();
    loop {
        let kind = lines.next()?;
        if kind.as_deref() == Some("collection") {
            read_collection(import, &mut lines)?;
            continue;
        }
        expect(kind, "end", &lines)?;
        let end: EndLine = lines.parse()?;
        let found = import.collections.len() as u64;
        if end.collections.is_some_and(|expected| expected != found) {
            return Err(lines.refused(&format!(
                "{found} collections were read, the line says otherwise"
            )));
        }
        return match lines.next()? {
            None => Ok(()),
            Some(_) => Err(lines.refused("something follows the line of type \"end\"")),
        };
    }
}

fn read_collection(import: &mut Import<'_>, lines: &mut Lines) -> Result<()> {
    let mut given: GivenCollection = lines.parse()?;
    let mut after = None;
    let taken = import.records(given.dimension, || match lines.next()? {
        Some(kind) if kind == "record" => lines.parse::<GivenRecord>().map(Some),
        other => {
            after = other;
            Ok(None)
        }
    });
    let imported = match taken {
        Ok(imported) => imported,
        Err(Stop::Source(error)) => return Err(import.at(error)),
        Err(Stop::Own(error)) => return Err(error),
    };
    match after.as_deref() {
        Some("collection_end") => {}
        Some(other) => {
            return Err(lines.refused(&format!(
                "a line of type {other:?}, expected \"record\" or \"collection_end\""
            )));
        }
        None => {
            return Err(lines.refused(
                "the document ends where a line of type \"collection_end\" must follow: it was cut off",
            ));
        }
    }
    let end: CollectionEndLine = lines.parse()?;
    if end
        .records
        .is_some_and(|expected| expected != imported.count)
    {
        return Err(lines.refused(&format!(
            "{} records were read, the line says otherwise",
            imported.count
        )));
    }
    given.digest = end.digest;
    import.collection(given, imported)
}
