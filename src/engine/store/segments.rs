//! sled's log, looked at before sled opens it: recovery changes the file before it can be asked what it found.
//!
//! The log is a file of segments of equal size. Each begins with a header of 20 bytes: a checksum (CRC-32, inverted) of
//! what follows; the log sequence number (LSN) of the segment's first byte; the greatest LSN that was stable when the
//! header was written. Both numbers are little-endian, xor 2^63 − 1. (sled 0.34.7, `src/pagecache/logger.rs`.)
//!
//! Recovery looks at segments from the newest snapshot on. It takes the greatest stable LSN of their headers, reads on from
//! the segment that holds it as long as segments follow one another, and blanks every segment behind the first that is
//! missing (`src/pagecache/iterator.rs`, `snapshot.rs`). Where the first one itself is missing, that is all of them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const HEADER_BYTES: usize = 20;
/// What LSNs are stored xor of.
const MASK: i64 = i64::MAX;

/// What recovery would make of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Forecast {
    /// It finds everything that is there.
    Whole,
    /// A segment is missing among the last ones; those behind it, so many, would be blanked. After a kill they hold only
    /// what nobody was told.
    Torn { blanked: usize },
    /// It would find nothing, and blank or write over what is there.
    Lost(String),
}

/// A segment's header, as far as it is one.
struct Header {
    lsn: i64,
    stable_lsn: i64,
}

impl Header {
    fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (crc, rest) = bytes.split_first_chunk::<4>()?;
        let (lsn, stable) = rest.split_first_chunk::<8>()?;
        let stable = stable.first_chunk::<8>()?;
        let crc = u32::from_le_bytes(*crc) ^ u32::MAX;
        (crc == crc32fast::hash(rest)).then(|| Self {
            lsn: i64::from_le_bytes(*lsn) ^ MASK,
            stable_lsn: i64::from_le_bytes(*stable) ^ MASK,
        })
    }
}

/// Looks at the log in `file`, of segments of `segment_bytes`. `snapshot_lsn` is what the newest snapshot reaches to;
/// 0 without one. Reads 20 bytes a segment.
pub(super) fn forecast(file: &Path, segment_bytes: u64, snapshot_lsn: i64) -> io::Result<Forecast> {
    let log = File::open(file)?;
    let length = log.metadata()?.len();
    let segment = i64::try_from(segment_bytes).unwrap_or(i64::MAX).max(1);
    let floor = |lsn: i64| lsn.div_euclid(segment) * segment;
    let first = floor(snapshot_lsn);
    let mut found = BTreeSet::new();
    let (mut stable, mut is_any) = (first, false);
    let mut at = 0;
    while at + HEADER_BYTES as u64 <= length {
        let mut bytes = [0; HEADER_BYTES];
        log.read_exact_at(&mut bytes, at)?;
        at += segment_bytes;
        let Some(header) = Header::decode(&bytes) else {
            continue;
        };
        is_any = true;
        if header.lsn >= first {
            stable = stable.max(header.stable_lsn);
            found.insert(header.lsn);
        }
    }
    if !is_any {
        let empty = length == 0;
        let lost = || Forecast::Lost(format!("none of its {length} bytes are a log's"));
        return Ok(if empty { Forecast::Whole } else { lost() });
    }
    // Nothing was written since the snapshot.
    if found.is_empty() {
        return Ok(Forecast::Whole);
    }
    let begin = floor(stable).max(0);
    if !found.contains(&begin) {
        return Ok(Forecast::Lost(format!(
            "the segment of LSN {begin}, which was once synced, is not there"
        )));
    }
    let tail: Vec<i64> = found.range(begin..).copied().collect();
    let whole = tail
        .iter()
        .zip(std::iter::successors(Some(begin), |lsn| {
            lsn.checked_add(segment)
        }))
        .take_while(|(found, expected)| **found == *expected)
        .count();
    Ok(match tail.len() - whole {
        0 => Forecast::Whole,
        blanked => Forecast::Torn { blanked },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1_000;

    fn header(lsn: i64, stable_lsn: i64) -> [u8; HEADER_BYTES] {
        let mut rest = Vec::new();
        rest.extend((lsn ^ MASK).to_le_bytes());
        rest.extend((stable_lsn ^ MASK).to_le_bytes());
        let crc = crc32fast::hash(&rest) ^ u32::MAX;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        bytes[4..].copy_from_slice(&rest);
        bytes
    }

    /// A log of these headers, one a segment; `None` is a segment that is blank.
    fn of(headers: &[Option<(i64, i64)>], snapshot_lsn: i64) -> Forecast {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (at, found) in headers.iter().enumerate() {
            let bytes = found.map_or([0; HEADER_BYTES], |(lsn, stable)| header(lsn, stable));
            let mut segment = vec![7; SEGMENT as usize];
            segment[..HEADER_BYTES].copy_from_slice(&bytes);
            let at = at as u64 * SEGMENT;
            file.as_file().write_all_at(&segment, at).unwrap();
        }
        forecast(file.path(), SEGMENT, snapshot_lsn).unwrap()
    }

    #[test]
    fn a_log_whose_segments_follow_one_another_is_whole_wherever_they_lie() {
        let in_order = [Some((0, -1)), Some((1_000, 900)), Some((2_000, 1_800))];
        assert_eq!(of(&in_order, 0), Forecast::Whole);
        let reused = [Some((2_000, 1_800)), None, Some((1_000, 900))];
        assert_eq!(of(&reused, 0), Forecast::Whole);
        assert_eq!(of(&[], 0), Forecast::Whole);
    }

    #[test]
    fn a_log_without_the_segment_of_its_greatest_stable_number_is_lost() {
        let without = [Some((0, -1)), None, Some((2_000, 1_800))];
        assert!(matches!(of(&without, 0), Forecast::Lost(what) if what.contains("LSN 1000")));
        assert!(matches!(of(&[None, None], 0), Forecast::Lost(_)));
        // What a snapshot holds is not read again.
        assert_eq!(of(&[Some((0, -1)), None], 1_000), Forecast::Whole);
        let behind = [Some((0, -1)), Some((2_000, 900))];
        assert!(matches!(of(&behind, 1_000), Forecast::Lost(_)));
    }

    #[test]
    fn segments_behind_a_gap_are_counted() {
        let gap = [
            Some((0, -1)),
            Some((1_000, 10)),
            None,
            Some((3_000, 20)),
            Some((4_000, 30)),
        ];
        assert_eq!(of(&gap, 0), Forecast::Torn { blanked: 2 });
    }
}
