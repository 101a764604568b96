//! Finding an id that stands twice among more ids than fit into memory: hashes are sorted in runs, runs
//! go to files, and all are merged at the end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, IntoInnerError, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// 16 bytes of BLAKE3 of an id, and which record has it.
type Entry = ([u8; 16], u64);
const ENTRY_BYTES: usize = 24;
const SMALLEST_RUN: usize = 1_000;

pub(super) struct Duplicates {
    scratch: PathBuf,
    run: Vec<Entry>,
    most: usize,
    runs: Vec<Run>,
}

impl Duplicates {
    /// Holds at most about `memory_bytes`; files go into `scratch`.
    pub(super) fn new(scratch: &Path, memory_bytes: u64) -> Self {
        let most = usize::try_from(memory_bytes).unwrap_or(usize::MAX) / size_of::<Entry>();
        Self {
            scratch: scratch.to_owned(),
            run: Vec::new(),
            most: most.max(SMALLEST_RUN),
            runs: Vec::new(),
        }
    }

    /// Takes the id of a record.
    pub(super) fn add(&mut self, id: &str, record: u64) -> Result<()> {
        let hash = blake3::hash(id.as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(hash.as_bytes().split_at(16).0);
        if self.run.len() >= self.most {
            self.run.sort_unstable();
            let run = Run::write(&self.scratch, &self.run).map_err(unusable)?;
            self.runs.push(run);
            self.run.clear();
        }
        self.run.push((short, record));
        Ok(())
    }

    /// Two records with the same id.
    pub(super) fn find(mut self) -> Result<Option<(u64, u64)>> {
        self.run.sort_unstable();
        let mut sources: Vec<Entries<'_>> = vec![Box::new(self.run.iter().copied().map(Ok))];
        for run in &self.runs {
            sources.push(Box::new(run.read().map_err(unusable)?));
        }
        let mut heads = BinaryHeap::new();
        for (index, source) in sources.iter_mut().enumerate() {
            if let Some(entry) = source.next() {
                heads.push(Reverse((entry.map_err(unusable)?, index)));
            }
        }
        let mut last: Option<Entry> = None;
        while let Some(Reverse((entry, index))) = heads.pop() {
            if let Some(last) = last.filter(|last| last.0 == entry.0) {
                return Ok(Some((last.1, entry.1)));
            }
            last = Some(entry);
            if let Some(entry) = sources.get_mut(index).and_then(Iterator::next) {
                heads.push(Reverse((entry.map_err(unusable)?, index)));
            }
        }
        Ok(None)
    }
}

type Entries<'a> = Box<dyn Iterator<Item = io::Result<Entry>> + 'a>;

fn unusable(error: io::Error) -> Error {
    Error::file("a temporary file of sorted ids cannot be used", error)
}

/// A sorted file, gone when it is closed.
struct Run {
    file: File,
    entries: usize,
}

impl Run {
    fn write(directory: &Path, entries: &[Entry]) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut file = BufWriter::new(tempfile::tempfile_in(directory)?);
        for (hash, record) in entries {
            file.write_all(hash)?;
            file.write_all(&record.to_le_bytes())?;
        }
        Ok(Self {
            file: file.into_inner().map_err(IntoInnerError::into_error)?,
            entries: entries.len(),
        })
    }

    /// All entries, once.
    fn read(&self) -> io::Result<impl Iterator<Item = io::Result<Entry>> + use<'_>> {
        (&self.file).rewind()?;
        let mut file = BufReader::new(&self.file);
        Ok((0..self.entries).map(move |_| {
            let mut bytes = [0; ENTRY_BYTES];
            file.read_exact(&mut bytes)?;
            let (hash, record) = bytes.split_at(16);
            let (mut short, mut number) = ([0; 16], [0; 8]);
            short.copy_from_slice(hash);
            number.copy_from_slice(record);
            Ok((short, u64::from_le_bytes(number)))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_twice_is_found_wherever_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let find = |ids: &[usize]| {
            // The smallest runs: five files and a rest.
            let mut duplicates = Duplicates::new(directory.path(), 0);
            for (record, id) in ids.iter().enumerate() {
                duplicates.add(&format!("id-{id}"), record as u64).unwrap();
            }
            duplicates.find().unwrap()
        };
        let mut ids: Vec<usize> = (0..5_500).collect();
        assert_eq!(find(&ids), None);
        for (first, second) in [(0, 5_499), (1_500, 1_501), (2_000, 3_999), (5_400, 5_499)] {
            let before = std::mem::replace(&mut ids[second], first);
            assert_eq!(find(&ids), Some((first as u64, second as u64)));
            ids[second] = before;
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
