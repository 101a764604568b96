//! The columns of an answer, written as JSON while the records are read: no record is held.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::wire::{Include, is_visible};
use crate::error::{Error, Kind, Result};
use crate::model::record::RecordView;

/// Columns under construction.
pub(super) struct JsonColumns {
    include: Vec<Include>,
    max_bytes: usize,
    ids: JsonList,
    embeddings: Option<JsonList>,
    documents: Option<JsonList>,
    uris: Option<JsonList>,
    metadatas: Option<JsonList>,
}

impl JsonColumns {
    /// No columns yet; at most so many bytes.
    pub(super) fn new(include: Vec<Include>, max_bytes: usize) -> Self {
        let column = |column| include.contains(&column).then(JsonList::default);
        Self {
            max_bytes,
            ids: JsonList::default(),
            embeddings: column(Include::Embeddings),
            documents: column(Include::Documents),
            uris: column(Include::Uris),
            metadatas: column(Include::Metadatas),
            include,
        }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// `StorageFault` when its metadata cannot be decoded, `TooLarge` when the answer gets too long.
    pub(super) fn push(&mut self, record: &RecordView<'_>) -> Result<()> {
        self.ids.push(&record.id)?;
        if let Some(embeddings) = &mut self.embeddings {
            embeddings.push(&Components(record))?;
        }
        if let Some(documents) = &mut self.documents {
            documents.push(&record.document)?;
        }
        if let Some(uris) = &mut self.uris {
            uris.push(&record.uri)?;
        }
        if let Some(metadatas) = &mut self.metadatas {
            let metadata = record.metadata()?;
            let visible = || metadata.iter().filter(|(key, _)| is_visible(key));
            if visible().next().is_some() {
                metadatas.push(&Entries(visible))?;
            } else {
                metadatas.push(&())?;
            }
        }
        if self.len() > self.max_bytes {
            return Err(Error::new(
                Kind::TooLarge,
                format!(
                    "the answer would have more than {} bytes (query.max_answer_bytes): ask for it in parts, with \
                     limit and offset",
                    self.max_bytes
                ),
            ));
        }
        Ok(())
    }

    fn len(&self) -> usize {
        let optional = [
            &self.embeddings,
            &self.documents,
            &self.uris,
            &self.metadatas,
        ];
        let lengths = optional.into_iter().flatten().map(|list| list.0.len());
        self.ids.0.len() + lengths.sum::<usize>()
    }

    /// The answer, sent column by column.
    ///
    /// # Errors
    /// `Internal` when it cannot be encoded.
    pub(super) fn into_parts(self) -> Result<Vec<Bytes>> {
        let include = serde_json::to_vec(&self.include).map_err(unencodable)?;
        let null_or =
            |column: Option<JsonList>| column.map_or(Bytes::from_static(b"null"), JsonList::finish);
        Ok(vec![
            Bytes::from_static(b"{\"ids\":"),
            self.ids.finish(),
            Bytes::from_static(b",\"embeddings\":"),
            null_or(self.embeddings),
            Bytes::from_static(b",\"documents\":"),
            null_or(self.documents),
            Bytes::from_static(b",\"uris\":"),
            null_or(self.uris),
            Bytes::from_static(b",\"metadatas\":"),
            null_or(self.metadatas),
            Bytes::from_static(b",\"include\":"),
            include.into(),
            Bytes::from_static(b"}"),
        ])
    }
}

/// An answer of JSON in parts.
pub(super) fn json_parts(parts: Vec<Bytes>) -> Response {
    let length: usize = parts.iter().map(Bytes::len).sum();
    let parts = parts.into_iter().map(Ok::<_, std::convert::Infallible>);
    let mut response = Response::new(Body::from_stream(futures::stream::iter(parts)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// A JSON array that grows.
#[derive(Default)]
struct JsonList(Vec<u8>);

impl JsonList {
    fn push(&mut self, value: &impl Serialize) -> Result<()> {
        self.0.push(if self.0.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(&mut self.0, value).map_err(unencodable)
    }

    fn finish(mut self) -> Bytes {
        if self.0.is_empty() {
            self.0.push(b'[');
        }
        self.0.push(b']');
        self.0.into()
    }
}

fn unencodable(error: serde_json::Error) -> Error {
    Error::internal("an answer cannot be encoded").because(error)
}

/// A record's components, as they are read.
struct Components<'a>(&'a RecordView<'a>);

impl Serialize for Components<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.embedding())
    }
}

/// A JSON object of what the function yields.
struct Entries<F>(F);

impl<K: Serialize, V: Serialize, I: Iterator<Item = (K, V)>, F: Fn() -> I> Serialize
    for Entries<F>
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in (self.0)() {
            map.serialize_entry(&key, &value)?;
        }
        map.end()
    }
}
