//! Shapes that several record routes share: embeddings in two encodings, include lists, columns.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::Projection;
use crate::error::{Error, Result};
use crate::model::metadata::Metadata;

/// Whether a metadata key is shown: those that are Chroma's own are not.
pub(super) fn is_visible(key: &str) -> bool {
    !key.starts_with("chroma:")
}

/// Metadata as it is shown: none for empty.
pub(super) fn visible(mut metadata: Metadata) -> Option<Metadata> {
    metadata.retain(|key, _| is_visible(key));
    (!metadata.is_empty()).then_some(metadata)
}

/// One embedding as sent.
enum Embedding<'a> {
    Numbers(Vec<f32>),
    /// Base64 of little-endian f32.
    Text(Cow<'a, str>),
}

/// All embeddings of a request: all arrays of numbers or all base64; entries may be null.
pub(super) struct Embeddings<'a>(Vec<Option<Embedding<'a>>>);

impl Embeddings<'_> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has_null(&self) -> bool {
        self.0.iter().any(Option::is_none)
    }

    /// Decodes and checks: finite, not empty, all of one length.
    pub(super) fn decode(self) -> Result<Vec<Option<Vec<f32>>>> {
        let mut dimension = None;
        let mut decoded = Vec::with_capacity(self.0.len());
        for embedding in self.0 {
            let embedding = match embedding {
                None => None,
                Some(Embedding::Numbers(numbers)) => Some(finite(numbers)?),
                Some(Embedding::Text(text)) => Some(decode_base64(&text)?),
            };
            if let Some(embedding) = &embedding {
                if embedding.is_empty() {
                    return Err(Error::invalid(
                        "Validation error: embeddings: Each embedding must have at least 1 dimension",
                    ));
                }
                if *dimension.get_or_insert(embedding.len()) != embedding.len() {
                    return Err(inconsistent_dimensions());
                }
            }
            decoded.push(embedding);
        }
        Ok(decoded)
    }
}

pub(super) fn inconsistent_dimensions() -> Error {
    Error::invalid("Inconsistent dimensions in provided embeddings")
}

/// Numbers that overflowed f32 are refused.
pub(super) fn finite(numbers: Vec<f32>) -> Result<Vec<f32>> {
    if numbers.iter().all(|number| number.is_finite()) {
        Ok(numbers)
    } else {
        Err(Error::invalid(
            "Validation error: embeddings: Embeddings must not contain NaN or Infinity values",
        ))
    }
}

fn decode_base64(text: &str) -> Result<Vec<f32>> {
    let bytes = BASE64_STANDARD
        .decode(text)
        .map_err(|error| Error::invalid(format!("Invalid base64 string: {error}")))?;
    let (components, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::invalid(format!(
            "Invalid byte length: {} bytes cannot be converted to f32 values (must be divisible by 4)",
            bytes.len()
        )));
    }
    let embedding: Vec<f32> = components
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    match embedding
        .iter()
        .enumerate()
        .find(|(_, component)| !component.is_finite())
    {
        None => Ok(embedding),
        Some((index, value)) => Err(Error::invalid(format!(
            "Non-finite float value at embedding index {index}: {value}"
        ))),
    }
}

const UNTAGGED: &str = "data did not match any variant of untagged enum EmbeddingsPayload";

impl<'de: 'a, 'a> Deserialize<'de> for Embeddings<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EmbeddingsVisitor)
    }
}

struct EmbeddingsVisitor;

impl<'de> Visitor<'de> for EmbeddingsVisitor {
    type Value = Embeddings<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of arrays of numbers or of base64 strings")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Err(E::custom(UNTAGGED))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut embeddings = Vec::with_capacity(seq.size_hint().unwrap_or(0));
        let (mut numbers, mut texts) = (false, false);
        while let Some(embedding) = seq.next_element::<Option<Embedding<'de>>>()? {
            match &embedding {
                Some(Embedding::Numbers(_)) => numbers = true,
                Some(Embedding::Text(_)) => texts = true,
                None => {}
            }
            embeddings.push(embedding);
        }
        if numbers && texts {
            return Err(de::Error::custom(UNTAGGED));
        }
        Ok(Embeddings(embeddings))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Embedding<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EmbeddingVisitor)
    }
}

struct EmbeddingVisitor;

impl<'de> Visitor<'de> for EmbeddingVisitor {
    type Value = Embedding<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers or a base64 string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Embedding::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Embedding::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut numbers = Vec::with_capacity(seq.size_hint().unwrap_or(0));
        while let Some(number) = seq.next_element()? {
            numbers.push(number);
        }
        Ok(Embedding::Numbers(numbers))
    }
}

/// A column of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::api) enum Include {
    /// Distances of a query; without meaning elsewhere.
    Distances,
    /// The texts.
    Documents,
    /// The vectors.
    Embeddings,
    /// The metadata.
    Metadatas,
    /// The uris.
    Uris,
}

/// The parts of records that an include list needs.
pub(super) fn projection(include: &[Include]) -> Projection {
    Projection {
        embedding: include.contains(&Include::Embeddings),
        document: include.contains(&Include::Documents),
        uri: include.contains(&Include::Uris),
        metadata: include.contains(&Include::Metadatas),
    }
}
