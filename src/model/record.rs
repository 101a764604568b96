//! A record and its canonical bytes: the one encoding that is hashed, stored and compared.
//!
//! Canonical form, all numbers little-endian:
//!
//! ```text
//! id         u32 length, UTF-8 bytes
//! embedding  u32 dimension, dimension × f32 bits
//! document   u8 present, then u32 length and UTF-8 bytes
//! uri        as document
//! metadata   u32 count, then by ascending key: u32 length, key, u8 type, value
//! value      0 bool u8 | 1 int i64 | 2 float f64 bits | 3 string u32 length, bytes
//!            4..7 lists of these: u32 count, elements
//! ```

use crate::error::{Error, Result};
use crate::model::digest::RecordHash;
use crate::model::metadata::{Metadata, MetadataValue};

/// One record, owned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// Unique within its collection, not empty.
    pub id: String,
    /// `dimension` finite floats.
    pub embedding: Vec<f32>,
    /// The text, if any.
    pub document: Option<String>,
    /// Where the content lives, if anywhere.
    pub uri: Option<String>,
    /// Typed values by key; empty means none.
    pub metadata: Metadata,
}

impl Record {
    /// Appends the canonical bytes to `out`.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        out.reserve(self.id.len() + self.embedding.len() * 4 + 64);
        write_bytes(out, self.id.as_bytes());
        write_len(out, self.embedding.len());
        for component in &self.embedding {
            out.extend_from_slice(&component.to_bits().to_le_bytes());
        }
        write_optional(out, self.document.as_deref());
        write_optional(out, self.uri.as_deref());
        write_len(out, self.metadata.len());
        for (key, value) in &self.metadata {
            write_bytes(out, key.as_bytes());
            write_value(out, value);
        }
    }

    /// The canonical bytes.
    pub fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_canonical(&mut out);
        out
    }

    /// The hash that stands for this record's content.
    pub fn hash(&self) -> RecordHash {
        RecordHash::of(&self.canonical())
    }
}

fn write_len(out: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("bodies are bounded far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn write_optional(out: &mut Vec<u8>, text: Option<&str>) {
    out.push(u8::from(text.is_some()));
    if let Some(text) = text {
        write_bytes(out, text.as_bytes());
    }
}

fn write_list<T>(out: &mut Vec<u8>, tag: u8, list: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(tag);
    write_len(out, list.len());
    list.iter().for_each(|element| write(out, element));
}

fn write_value(out: &mut Vec<u8>, value: &MetadataValue) {
    match value {
        MetadataValue::Bool(v) => out.extend_from_slice(&[0, u8::from(*v)]),
        MetadataValue::Int(v) => {
            out.push(1);
            out.extend_from_slice(&v.to_le_bytes());
        }
        MetadataValue::Float(v) => {
            out.push(2);
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }
        MetadataValue::Str(v) => {
            out.push(3);
            write_bytes(out, v.as_bytes());
        }
        MetadataValue::BoolList(list) => write_list(out, 4, list, |out, v| out.push(u8::from(*v))),
        MetadataValue::IntList(list) => write_list(out, 5, list, |out, v| {
            out.extend_from_slice(&v.to_le_bytes());
        }),
        MetadataValue::FloatList(list) => write_list(out, 6, list, |out, v| {
            out.extend_from_slice(&v.to_bits().to_le_bytes());
        }),
        MetadataValue::StrList(list) => {
            write_list(out, 7, list, |out, v| write_bytes(out, v.as_bytes()));
        }
    }
}

/// A record inside its canonical bytes: parts are found at once, decoded on demand.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// The id.
    pub id: &'a str,
    embedding: &'a [u8],
    /// The document.
    pub document: Option<&'a str>,
    /// The uri.
    pub uri: Option<&'a str>,
    metadata: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Finds the parts of canonical bytes.
    ///
    /// # Errors
    /// `StorageFault` when the bytes are not a canonical record.
    pub fn parse(canonical: &'a [u8]) -> Result<Self> {
        let mut cursor = Cursor(canonical);
        let parsed = (|| {
            let id = cursor.text()?;
            let dimension = cursor.len()?;
            let embedding = cursor.take(dimension.checked_mul(4)?)?;
            let document = cursor.optional()?;
            let uri = cursor.optional()?;
            Some((id, embedding, document, uri))
        })();
        let (id, embedding, document, uri) = parsed.ok_or_else(undecodable)?;
        Ok(Self {
            id,
            embedding,
            document,
            uri,
            metadata: cursor.0,
        })
    }

    /// Number of components.
    pub fn dimension(&self) -> usize {
        self.embedding.len() / 4
    }

    /// The components, bit for bit.
    pub fn embedding(&self) -> impl ExactSizeIterator<Item = f32> + 'a {
        self.embedding
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
    }

    /// Whether there is any metadata.
    pub fn has_metadata(&self) -> bool {
        self.metadata.iter().take(4).any(|byte| *byte != 0)
    }

    /// Decodes the metadata.
    ///
    /// # Errors
    /// `StorageFault` when the bytes are not canonical.
    pub fn metadata(&self) -> Result<Metadata> {
        let mut cursor = Cursor(self.metadata);
        (|| {
            let count = cursor.len()?;
            let mut metadata = Metadata::new();
            for _ in 0..count {
                let key = cursor.text()?.to_owned();
                metadata.insert(key, cursor.value()?);
            }
            cursor.0.is_empty().then_some(metadata)
        })()
        .ok_or_else(undecodable)
    }

    /// Decodes the whole record.
    ///
    /// # Errors
    /// `StorageFault` when the bytes are not canonical.
    pub fn to_record(&self) -> Result<Record> {
        Ok(Record {
            id: self.id.to_owned(),
            embedding: self.embedding().collect(),
            document: self.document.map(str::to_owned),
            uri: self.uri.map(str::to_owned),
            metadata: self.metadata()?,
        })
    }
}

fn undecodable() -> Error {
    Error::storage("a stored record cannot be decoded")
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn len(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.len()?;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn optional(&mut self) -> Option<Option<&'a str>> {
        if self.flag()? {
            self.text().map(Some)
        } else {
            Some(None)
        }
    }

    fn int(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.array()?))
    }

    fn float(&mut self) -> Option<f64> {
        Some(f64::from_le_bytes(self.array()?))
    }

    fn list<T>(&mut self, element: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.len()?;
        // A damaged count must not reserve memory: each element takes at least one byte.
        (count <= self.0.len()).then_some(())?;
        (0..count).map(|_| element(self)).collect()
    }

    fn value(&mut self) -> Option<MetadataValue> {
        let [tag] = self.array()?;
        Some(match tag {
            0 => MetadataValue::Bool(self.flag()?),
            1 => MetadataValue::Int(self.int()?),
            2 => MetadataValue::Float(self.float()?),
            3 => MetadataValue::Str(self.text()?.to_owned()),
            4 => MetadataValue::BoolList(self.list(Self::flag)?),
            5 => MetadataValue::IntList(self.list(Self::int)?),
            6 => MetadataValue::FloatList(self.list(Self::float)?),
            7 => MetadataValue::StrList(self.list(|c| c.text().map(str::to_owned))?),
            _ => return None,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = MetadataValue> {
        let float = any::<f64>().prop_filter("finite", |f| f.is_finite());
        prop_oneof![
            any::<bool>().prop_map(MetadataValue::Bool),
            any::<i64>().prop_map(MetadataValue::Int),
            float.clone().prop_map(MetadataValue::Float),
            any::<String>().prop_map(MetadataValue::Str),
            prop::collection::vec(any::<bool>(), 1..4).prop_map(MetadataValue::BoolList),
            prop::collection::vec(any::<i64>(), 1..4).prop_map(MetadataValue::IntList),
            prop::collection::vec(float, 1..4).prop_map(MetadataValue::FloatList),
            prop::collection::vec(any::<String>(), 1..4).prop_map(MetadataValue::StrList),
        ]
    }

    prop_compose! {
        fn record()(
            id in ".{1,20}",
            embedding in prop::collection::vec(any::<f32>().prop_filter("finite", |f| f.is_finite()), 0..20),
            document in any::<Option<String>>(),
            uri in any::<Option<String>>(),
            metadata in prop::collection::btree_map(any::<String>(), value(), 0..5),
        ) -> Record {
            Record { id, embedding, document, uri, metadata }
        }
    }

    proptest! {
        #[test]
        fn canonical_bytes_decode_to_the_same_record(record in record()) {
            let bytes = record.canonical();
            let decoded = RecordView::parse(&bytes).unwrap().to_record().unwrap();
            prop_assert_eq!(decoded.canonical(), bytes);
            prop_assert_eq!(decoded, record);
        }

        #[test]
        fn metadata_survives_json(metadata in prop::collection::btree_map(any::<String>(), value(), 0..5)) {
            let text = serde_json::to_string(&metadata).unwrap();
            let parsed: Metadata = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(format!("{parsed:?}"), format!("{metadata:?}"));
        }

        #[test]
        fn damaged_bytes_never_panic(record in record(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = record.canonical();
            let position = at.index(bytes.len());
            bytes[position] = byte;
            bytes.truncate(cut.index(bytes.len()) + 1);
            if let Ok(view) = RecordView::parse(&bytes) {
                let _ = view.to_record();
            }
        }
    }

    /// The bytes behind every stored hash and digest: a change here breaks comparison with old backups.
    #[test]
    fn canonical_form_is_pinned() {
        let record = Record {
            id: "a".into(),
            embedding: vec![1.0, -0.0],
            document: Some("d".into()),
            uri: None,
            metadata: Metadata::from([("k".into(), MetadataValue::Int(2))]),
        };
        let expected: &[u8] = &[
            1, 0, 0, 0, b'a', 2, 0, 0, 0, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x80, 1, 1, 0, 0, 0, b'd', 0,
            1, 0, 0, 0, 1, 0, 0, 0, b'k', 1, 2, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(record.canonical(), expected);
    }
}
