//! Records ↔ pack bytes. A pack is an Arrow IPC file with zstd buffers, so that `pyarrow`, polars and
//! DuckDB read a backup without this program.
//!
//! Columns of a record pack: `ordinal`, `sequence` u64; `id` utf8; `embedding` fixed-size list of f32;
//! `document`, `uri` utf8 or null; `metadata` a JSON object as utf8 or null (integers without a point,
//! floats with one); `hash` 32 bytes, BLAKE3 of the canonical record. A tombstone pack has `ordinal`,
//! `sequence`, `id`.

mod sizes;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeBinaryBuilder, FixedSizeListBuilder, Float32Builder, StringBuilder, UInt64Builder,
};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, UInt64Type};
use arrow_array::{
    Array as _, ArrayRef, FixedSizeBinaryArray, FixedSizeListArray, RecordBatch, StringArray,
    UInt64Array,
};
use arrow_ipc::CompressionType;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::model::digest::RecordHash;
use crate::model::metadata::Metadata;
use crate::model::record::{Record, RecordView};

/// A record on its way into a pack.
#[derive(Clone, Debug)]
pub struct PackRow {
    /// Its place in the collection's order.
    pub ordinal: u64,
    /// The write that made it.
    pub sequence: u64,
    /// Its canonical bytes.
    pub canonical: Vec<u8>,
}

/// A record out of a pack, checked against its hash.
#[derive(Clone, Debug, PartialEq)]
pub struct PackRecord {
    /// Its place in the collection's order.
    pub ordinal: u64,
    /// The write that made it.
    pub sequence: u64,
    /// The record.
    pub record: Record,
    /// Its hash.
    pub hash: RecordHash,
}

/// A deletion in a tombstone pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackTombstone {
    /// The ordinal that is gone.
    pub ordinal: u64,
    /// The write that deleted it.
    pub sequence: u64,
    /// The id it had.
    pub id: String,
}

fn record_schema(dimension: i32) -> Schema {
    let element = Arc::new(Field::new("item", DataType::Float32, false));
    Schema::new(vec![
        Field::new("ordinal", DataType::UInt64, false),
        Field::new("sequence", DataType::UInt64, false),
        Field::new("id", DataType::Utf8, false),
        Field::new(
            "embedding",
            DataType::FixedSizeList(element, dimension),
            false,
        ),
        Field::new("document", DataType::Utf8, true),
        Field::new("uri", DataType::Utf8, true),
        Field::new("metadata", DataType::Utf8, true),
        Field::new("hash", DataType::FixedSizeBinary(32), false),
    ])
}

fn tombstone_schema() -> Schema {
    Schema::new(vec![
        Field::new("ordinal", DataType::UInt64, false),
        Field::new("sequence", DataType::UInt64, false),
        Field::new("id", DataType::Utf8, false),
    ])
}

fn write(schema: Schema, columns: Vec<ArrayRef>, level: i32) -> Result<Vec<u8>, ArrowError> {
    let schema = Arc::new(schema);
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::ZSTD))?
        .try_with_compression_level(Some(level))?;
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &schema, options)?;
    writer.write(&batch)?;
    writer.into_inner()
}

fn unencodable(error: ArrowError) -> Error {
    Error::internal("a pack cannot be encoded").because(error)
}

/// Encodes records of one dimension; `level` is zstd's.
///
/// # Errors
/// `StorageFault` for bytes that are no canonical record, `Internal` when Arrow refuses.
pub fn encode_records(rows: &[PackRow], dimension: u32, level: i32) -> Result<Vec<u8>> {
    let width = i32::try_from(dimension).map_err(|_| Error::internal("too many dimensions"))?;
    let mut ordinals = UInt64Builder::with_capacity(rows.len());
    let mut sequences = UInt64Builder::with_capacity(rows.len());
    let mut ids = StringBuilder::new();
    let element = Arc::new(Field::new("item", DataType::Float32, false));
    let values = Float32Builder::with_capacity(rows.len() * dimension as usize);
    let mut embeddings = FixedSizeListBuilder::new(values, width).with_field(element);
    let mut documents = StringBuilder::new();
    let mut uris = StringBuilder::new();
    let mut metadatas = StringBuilder::new();
    let mut hashes = FixedSizeBinaryBuilder::with_capacity(rows.len(), 32);
    for row in rows {
        let view = RecordView::parse(&row.canonical)?;
        ordinals.append_value(row.ordinal);
        sequences.append_value(row.sequence);
        ids.append_value(view.id);
        view.embedding()
            .for_each(|component| embeddings.values().append_value(component));
        embeddings.append(true);
        documents.append_option(view.document);
        uris.append_option(view.uri);
        metadatas.append_option(metadata_json(&view)?);
        hashes
            .append_value(RecordHash::of(&row.canonical).0)
            .map_err(unencodable)?;
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(ordinals.finish()),
        Arc::new(sequences.finish()),
        Arc::new(ids.finish()),
        Arc::new(embeddings.finish()),
        Arc::new(documents.finish()),
        Arc::new(uris.finish()),
        Arc::new(metadatas.finish()),
        Arc::new(hashes.finish()),
    ];
    write(record_schema(width), columns, level).map_err(unencodable)
}

fn metadata_json(view: &RecordView<'_>) -> Result<Option<String>> {
    if !view.has_metadata() {
        return Ok(None);
    }
    serde_json::to_string(&view.metadata()?)
        .map(Some)
        .map_err(|error| Error::internal("metadata cannot be encoded").because(error))
}

/// Encodes tombstones.
///
/// # Errors
/// `Internal` when Arrow refuses.
pub fn encode_tombstones(tombstones: &[PackTombstone], level: i32) -> Result<Vec<u8>> {
    let ordinals: UInt64Array = tombstones.iter().map(|t| Some(t.ordinal)).collect();
    let sequences: UInt64Array = tombstones.iter().map(|t| Some(t.sequence)).collect();
    let ids: StringArray = tombstones.iter().map(|t| Some(t.id.as_str())).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(ordinals), Arc::new(sequences), Arc::new(ids)];
    write(tombstone_schema(), columns, level).map_err(unencodable)
}

/// Arrow's reader panics at some files that are none of its own. That is the file's fault, and no job's.
fn contained<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::backup_corrupt("a pack cannot be decoded")))
}

/// Bytes that a pack takes when it is unpacked, as it declares them.
///
/// # Errors
/// `BackupCorrupt` where it is no pack.
pub fn unpacked_bytes(bytes: &[u8]) -> Result<u64> {
    contained(|| {
        let unpacked = sizes::unpacked_bytes(bytes);
        unpacked.ok_or_else(|| Error::backup_corrupt("a pack cannot be decoded: it is none"))
    })
}

/// Unpacks no more than `most` bytes.
fn read(bytes: Bytes, most: u64) -> Result<Vec<RecordBatch>> {
    let unpacked = unpacked_bytes(&bytes)?;
    if unpacked > most {
        return Err(Error::backup_corrupt(format!(
            "a pack would take {unpacked} bytes, {most} are the most (jobs.memory_bytes)"
        )));
    }
    FileReader::try_new(Cursor::new(bytes), None)
        .and_then(Iterator::collect)
        .map_err(|error| Error::backup_corrupt("a pack cannot be decoded").because(error))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch
        .column_by_name(name)
        .ok_or_else(|| Error::backup_corrupt(format!("a pack has no column {name:?}")))
}

fn mistyped(name: &str) -> Error {
    Error::backup_corrupt(format!("column {name:?} of a pack has another type"))
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a UInt64Array> {
    column(batch, name)?
        .as_primitive_opt::<UInt64Type>()
        .ok_or_else(|| mistyped(name))
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    column(batch, name)?
        .as_string_opt::<i32>()
        .ok_or_else(|| mistyped(name))
}

/// The columns of one batch of a record pack.
struct Columns<'a> {
    ordinals: &'a UInt64Array,
    sequences: &'a UInt64Array,
    ids: &'a StringArray,
    embeddings: &'a FixedSizeListArray,
    documents: &'a StringArray,
    uris: &'a StringArray,
    metadatas: &'a StringArray,
    hashes: &'a FixedSizeBinaryArray,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            ordinals: numbers(batch, "ordinal")?,
            sequences: numbers(batch, "sequence")?,
            ids: texts(batch, "id")?,
            embeddings: column(batch, "embedding")?
                .as_fixed_size_list_opt()
                .ok_or_else(|| mistyped("embedding"))?,
            documents: texts(batch, "document")?,
            uris: texts(batch, "uri")?,
            metadatas: texts(batch, "metadata")?,
            hashes: column(batch, "hash")?
                .as_fixed_size_binary_opt()
                .ok_or_else(|| mistyped("hash"))?,
        })
    }

    fn record(&self, row: usize) -> Result<PackRecord> {
        let text =
            |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let id = self.ids.value(row).to_owned();
        let vector = self.embeddings.value(row);
        let embedding = vector
            .as_primitive_opt::<Float32Type>()
            .ok_or_else(|| mistyped("embedding"))?;
        let metadata = match text(self.metadatas) {
            None => Metadata::new(),
            Some(json) => serde_json::from_str(&json).map_err(|error| {
                Error::backup_corrupt(format!("the metadata of {id:?} cannot be decoded"))
                    .because(error)
            })?,
        };
        let record = Record {
            embedding: embedding.values().to_vec(),
            document: text(self.documents),
            uri: text(self.uris),
            metadata,
            id,
        };
        let hash = record.hash();
        if hash.0.as_slice() != self.hashes.value(row) {
            return Err(Error::backup_corrupt(format!(
                "record {:?} does not have the hash that stands beside it",
                record.id
            )));
        }
        Ok(PackRecord {
            ordinal: self.ordinals.value(row),
            sequence: self.sequences.value(row),
            record,
            hash,
        })
    }
}

/// Decodes a record pack that takes at most `most` bytes unpacked, and checks every record against its hash.
///
/// # Errors
/// `BackupCorrupt`.
pub fn decode_records(bytes: Bytes, most: u64) -> Result<Vec<PackRecord>> {
    contained(|| {
        let mut records = Vec::new();
        for batch in read(bytes, most)? {
            let columns = Columns::of(&batch)?;
            for row in 0..batch.num_rows() {
                records.push(columns.record(row)?);
            }
        }
        Ok(records)
    })
}

/// Decodes a tombstone pack that takes at most `most` bytes unpacked.
///
/// # Errors
/// `BackupCorrupt`.
pub fn decode_tombstones(bytes: Bytes, most: u64) -> Result<Vec<PackTombstone>> {
    contained(|| {
        let mut tombstones = Vec::new();
        for batch in read(bytes, most)? {
            let ordinals = numbers(&batch, "ordinal")?;
            let sequences = numbers(&batch, "sequence")?;
            let ids = texts(&batch, "id")?;
            for row in 0..batch.num_rows() {
                tombstones.push(PackTombstone {
                    ordinal: ordinals.value(row),
                    sequence: sequences.value(row),
                    id: ids.value(row).to_owned(),
                });
            }
        }
        Ok(tombstones)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::model::metadata::MetadataValue;

    const MOST: u64 = 1 << 20;

    fn rows() -> Vec<PackRow> {
        let record = |id: &str, embedding: Vec<f32>, metadata: Metadata| Record {
            id: id.to_owned(),
            embedding,
            document: (id != "b").then(|| format!("text of {id}")),
            uri: (id == "b").then(|| "u://b".to_owned()),
            metadata,
        };
        let metadata = Metadata::from([
            ("int".to_owned(), MetadataValue::Int(i64::MAX)),
            ("float".to_owned(), MetadataValue::Float(2.0)),
            ("tiny".to_owned(), MetadataValue::Float(5.68e-227)),
            ("minus".to_owned(), MetadataValue::Float(-0.0)),
            (
                "floats".to_owned(),
                MetadataValue::FloatList(vec![1.0, 2.5]),
            ),
            (
                "ünï".to_owned(),
                MetadataValue::StrList(vec![String::new(), "\u{1f}".to_owned()]),
            ),
        ]);
        [
            record("a", vec![-0.0, f32::MIN_POSITIVE / 2.0, f32::MAX], metadata),
            record("b", vec![1.0, 2.0, 3.0], Metadata::new()),
        ]
        .into_iter()
        .zip([3, 9])
        .map(|(record, ordinal)| PackRow {
            ordinal,
            sequence: ordinal + 1,
            canonical: record.canonical(),
        })
        .collect()
    }

    #[test]
    fn packs_return_every_bit_and_are_deterministic() {
        let rows = rows();
        let bytes = encode_records(&rows, 3, 3).unwrap();
        assert_eq!(bytes, encode_records(&rows, 3, 3).unwrap());
        let decoded = decode_records(bytes.into(), MOST).unwrap();
        assert_eq!(decoded.len(), rows.len());
        for (decoded, row) in decoded.iter().zip(&rows) {
            assert_eq!(decoded.record.canonical(), row.canonical);
            assert_eq!(
                (decoded.ordinal, decoded.sequence),
                (row.ordinal, row.sequence)
            );
        }
        let tombstones = vec![PackTombstone {
            ordinal: 1,
            sequence: 2,
            id: "x".to_owned(),
        }];
        let bytes = encode_tombstones(&tombstones, 3).unwrap();
        assert_eq!(decode_tombstones(bytes.into(), MOST).unwrap(), tombstones);
    }

    #[test]
    fn damage_that_passes_arrow_is_seen_by_the_record_hash() {
        // Not compressed, so that a flipped bit reaches a value instead of failing zstd.
        let rows = rows();
        let batch = {
            let bytes = encode_records(&rows, 3, 3).unwrap();
            read(bytes.into(), MOST).unwrap().remove(0)
        };
        let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        let mut plain = writer.into_inner().unwrap();
        let text = plain
            .windows(9)
            .position(|window| window == b"text of a")
            .expect("the document stands in the file");
        plain[text] ^= 1;
        let error = decode_records(plain.into(), MOST).unwrap_err();
        assert!(error.message().contains("hash"), "{error}");
    }

    /// Hashes keep accidents out, not whoever makes a repository by hand: a job panicked at one file in eight.
    #[test]
    fn a_pack_that_was_changed_anywhere_is_read_or_refused() {
        let bytes = encode_records(&rows(), 3, 3).unwrap();
        let (mut read, mut refused) = (0, 0);
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                match decode_records(changed.into(), MOST) {
                    Ok(_) => read += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::BackupCorrupt, "byte {at}: {error}");
                        refused += 1;
                    }
                }
            }
        }
        // Some bytes are padding.
        assert!(
            read > 0 && refused > 1_000,
            "{read} read, {refused} refused"
        );
    }
}
