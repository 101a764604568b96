//! What a pack would take unpacked, from what it declares: looked at before anything of it is unpacked.
//!
//! An Arrow IPC file (format 1.0, "IPC File Format") ends with a footer that lists its blocks of columns; each begins with a
//! message that lists its buffers; each compressed buffer begins with its unpacked length. The reader unpacks no more than
//! that.

use arrow_ipc::{Block, Message, RecordBatch, root_as_footer, root_as_message};

use super::PackRecord;

/// Columns that a pack may have. Ours have eight; another version may add some.
const MAX_COLUMNS: usize = 64;
/// The length of the footer and `ARROW1`.
const TRAILER_BYTES: usize = 10;
/// The length that says that a buffer is not compressed.
const NOT_COMPRESSED: i64 = -1;

/// Bytes that the columns and records of a pack take; `None` where it is no pack.
pub(super) fn unpacked_bytes(file: &[u8]) -> Option<u64> {
    let (rest, trailer) = file.split_at_checked(file.len().checked_sub(TRAILER_BYTES)?)?;
    let length = arrow_ipc::reader::read_footer_length(trailer.try_into().ok()?).ok()?;
    let footer = rest.get(rest.len().checked_sub(length)?..)?;
    // It holds no more levels than its verifier allows.
    let footer = root_as_footer(footer).ok()?;
    let columns = footer.schema()?.fields()?.len();
    // Ours have no dictionaries, and what one unpacks to is said nowhere.
    let has_dictionaries = footer.dictionaries().is_some_and(|found| !found.is_empty());
    if columns > MAX_COLUMNS || has_dictionaries {
        return None;
    }
    let mut sum: u64 = 0;
    for block in footer.recordBatches()? {
        sum = sum.checked_add(block_bytes(file, block)?)?;
    }
    Some(sum)
}

fn block_bytes(file: &[u8], block: &Block) -> Option<u64> {
    let start = usize::try_from(block.offset()).ok()?;
    let metadata = usize::try_from(block.metaDataLength()).ok()?;
    let body_bytes = usize::try_from(block.bodyLength()).ok()?;
    let block = file.get(start..)?;
    let (head, body) = block.split_at_checked(metadata)?;
    let body = body.get(..body_bytes)?;
    let batch = message(head)?.header_as_record_batch()?;
    let rows = u64::try_from(batch.length()).ok()?;
    let records = rows.checked_mul(size_of::<PackRecord>() as u64)?;
    records.checked_add(buffers_bytes(batch, body)?)
}

/// The message at the beginning of a block: its length, since version 0.15 behind four bytes of ones, then itself.
fn message(head: &[u8]) -> Option<Message<'_>> {
    let (first, rest) = head.split_first_chunk::<4>()?;
    let rest = if *first == [0xff; 4] {
        rest.split_first_chunk::<4>()?.1
    } else {
        rest
    };
    root_as_message(rest).ok()
}

fn buffers_bytes(batch: RecordBatch<'_>, body: &[u8]) -> Option<u64> {
    let is_compressed = batch.compression().is_some();
    let mut sum: u64 = 0;
    for buffer in batch.buffers()? {
        let length = u64::try_from(buffer.length()).ok()?;
        let unpacked = if is_compressed && length > 0 {
            let at = usize::try_from(buffer.offset()).ok()?;
            let declared = body.get(at..)?.first_chunk().copied()?;
            match i64::from_le_bytes(declared) {
                NOT_COMPRESSED => length,
                declared => u64::try_from(declared).ok()?,
            }
        } else {
            length
        };
        sum = sum.checked_add(unpacked)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, NullArray, UInt64Array};
    use arrow_schema::{DataType, Field, Schema};

    use super::super::{decode_tombstones, write};
    use super::*;
    use crate::error::Kind;

    fn numbers(rows: usize) -> Vec<u8> {
        let schema = Schema::new(vec![Field::new("ordinal", DataType::UInt64, false)]);
        let ordinals: ArrayRef = Arc::new(UInt64Array::from(vec![7; rows]));
        write(schema, vec![ordinals], 19).unwrap()
    }

    /// 48 KiB of the like killed a process of 8 GiB.
    #[test]
    fn a_pack_that_would_unpack_to_more_than_it_may_is_refused_before_it_is() {
        let bomb = numbers(4_000_000);
        assert!(bomb.len() < 48 * 1024, "{}", bomb.len());
        let unpacked = unpacked_bytes(&bomb).unwrap();
        assert!(unpacked >= 32_000_000, "{unpacked}");
        let error = decode_tombstones(bomb.into(), 16_000_000).unwrap_err();
        assert_eq!(error.kind(), Kind::BackupCorrupt);
        assert!(error.message().contains("jobs.memory_bytes"), "{error}");
        // What is declared is looked at, not what is there.
        let mut declared = numbers(100);
        let length = 800_i64.to_le_bytes();
        let at = declared
            .windows(8)
            .position(|window| window == length)
            .unwrap();
        declared[at..at + 8].copy_from_slice(&i64::MAX.to_le_bytes());
        let error = decode_tombstones(declared.into(), 1 << 40).unwrap_err();
        assert!(error.message().contains("jobs.memory_bytes"), "{error}");
    }

    #[test]
    fn a_thousand_columns_are_no_pack() {
        let fields: Vec<Field> = (0..1_000)
            .map(|number| Field::new(format!("c{number}"), DataType::Null, true))
            .collect();
        let columns = fields
            .iter()
            .map(|_| Arc::new(NullArray::new(3)) as ArrayRef);
        let columns = columns.collect();
        let file = write(Schema::new(fields), columns, 1).unwrap();
        assert_eq!(unpacked_bytes(&file), None);
        assert!(decode_tombstones(file.into(), 1 << 40).is_err());
    }

    #[test]
    fn what_is_no_pack_has_no_size() {
        let sound = numbers(10);
        for len in 0..sound.len() {
            assert_eq!(unpacked_bytes(&sound[..len]), None, "{len} bytes");
        }
        assert_eq!(unpacked_bytes(&[0xff; 100]), None);
    }
}
