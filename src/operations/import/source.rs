//! The bytes of a received document.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use super::DocumentFormat;
use crate::error::{Error, Result};

/// How the source says that a piece is too long; everything else is a fault of the disk.
pub(super) const TOO_LONG: io::ErrorKind = io::ErrorKind::InvalidData;

pub(super) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::storage("the received document cannot be read").because(error)
}

/// The document's bytes, counted, and bounded between one record and the next.
pub(super) struct Source {
    file: BufReader<File>,
    offset: Offset,
}

/// How far the document was read, and how far it may be before the next record begins.
#[derive(Clone)]
pub(super) struct Offset {
    pub(super) read: Rc<Cell<u64>>,
    end: Rc<Cell<u64>>,
    /// Bytes that one piece may have.
    pub(super) step: u64,
}

impl Offset {
    /// From here on another `max_record_bytes` may be read.
    pub(super) fn advance(&self) {
        self.end.set(self.read.get().saturating_add(self.step));
    }
}

impl Source {
    pub(super) fn open(path: &Path, max_record_bytes: u64) -> Result<(Self, Offset)> {
        let file = File::open(path)
            .map_err(|error| Error::storage("the received document is gone").because(error))?;
        let offset = Offset {
            read: Rc::default(),
            end: Rc::new(Cell::new(max_record_bytes)),
            step: max_record_bytes,
        };
        let source = Self {
            file: BufReader::with_capacity(1 << 16, file),
            offset: offset.clone(),
        };
        Ok((source, offset))
    }

    /// Lines begin with an object whose first member is `type`.
    pub(super) fn guess_format(&mut self) -> Result<DocumentFormat> {
        let beginning = self.file.fill_buf().map_err(unreadable)?;
        let mut told = beginning.iter().filter(|byte| !byte.is_ascii_whitespace());
        let lines = b"{\"type\":"
            .iter()
            .all(|expected| told.next() == Some(expected));
        Ok(if lines {
            DocumentFormat::JsonLines
        } else {
            DocumentFormat::Json
        })
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let allowed = self.offset.end.get() - self.offset.read.get().min(self.offset.end.get());
        if allowed == 0 {
            return Err(io::Error::new(
                TOO_LONG,
                format!(
                    "more than {} bytes in one piece (repository.max_import_record_bytes)",
                    self.offset.step
                ),
            ));
        }
        let most = usize::try_from(allowed)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.file.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.offset.read.set(self.offset.read.get() + count as u64);
        Ok(count)
    }
}
