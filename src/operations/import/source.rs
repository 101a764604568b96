//! The bytes of a received document, unpacked where they are gzip, zlib or zstd.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use super::DocumentFormat;
use crate::error::{Error, Result};

/// How the source says that the document is to blame; everything else is a fault of the disk.
pub(super) const REFUSED: io::ErrorKind = io::ErrorKind::InvalidData;

pub(super) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::storage("the received document cannot be read").because(error)
}

/// The document's bytes, counted, and bounded between one record and the next.
pub(super) struct Source {
    content: Content,
    offset: Offset,
    /// Bytes that the document may have, unpacked.
    max_bytes: u64,
}

/// The largest window that zstd may ask for (8 MiB, what its own tool accepts without being told).
const MAX_WINDOW_LOG: u32 = 23;

/// What a document begins with says how it is packed (RFC 1950, RFC 1952, RFC 8878).
enum Content {
    Plain(BufReader<File>),
    Gzip(BufReader<MultiGzDecoder<BufReader<File>>>),
    /// What HTTP calls `deflate`.
    Zlib(BufReader<ZlibDecoder<BufReader<File>>>),
    Zstd(BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>),
}

impl Content {
    fn open(file: File) -> io::Result<Self> {
        const BUFFER: usize = 1 << 16;
        let mut file = BufReader::with_capacity(BUFFER, file);
        let beginning = file.fill_buf()?;
        if beginning.starts_with(&[0x1f, 0x8b]) {
            let unpacked = MultiGzDecoder::new(file);
            return Ok(Self::Gzip(BufReader::with_capacity(BUFFER, unpacked)));
        }
        if is_zlib(beginning) {
            let unpacked = ZlibDecoder::new(file);
            return Ok(Self::Zlib(BufReader::with_capacity(BUFFER, unpacked)));
        }
        if beginning.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let mut unpacked = zstd::stream::read::Decoder::with_buffer(file)?;
            unpacked.window_log_max(MAX_WINDOW_LOG)?;
            return Ok(Self::Zstd(BufReader::with_capacity(BUFFER, unpacked)));
        }
        Ok(Self::Plain(file))
    }

    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Self::Plain(file) => file.fill_buf(),
            Self::Gzip(unpacked) => unpacked.fill_buf().map_err(cannot_unpack),
            Self::Zlib(unpacked) => unpacked.fill_buf().map_err(cannot_unpack),
            Self::Zstd(unpacked) => unpacked.fill_buf().map_err(cannot_unpack),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Gzip(unpacked) => unpacked.read(buffer).map_err(cannot_unpack),
            Self::Zlib(unpacked) => unpacked.read(buffer).map_err(cannot_unpack),
            Self::Zstd(unpacked) => unpacked.read(buffer).map_err(cannot_unpack),
        }
    }
}

/// Whether this is the header of a zlib stream: deflate with a window of 32 KiB, and a check of both bytes. No JSON begins
/// so.
fn is_zlib(beginning: &[u8]) -> bool {
    match beginning {
        [0x78, flags, ..] => (0x7800 + u16::from(*flags)).is_multiple_of(31),
        _ => false,
    }
}

/// Some editors begin a text with this, which is no JSON.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn cannot_unpack(error: io::Error) -> io::Error {
    io::Error::new(REFUSED, format!("the document cannot be unpacked: {error}"))
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
    pub(super) fn open(
        path: &Path,
        max_bytes: u64,
        max_record_bytes: u64,
    ) -> Result<(Self, Offset)> {
        let file = File::open(path)
            .map_err(|error| Error::storage("the received document is gone").because(error))?;
        let offset = Offset {
            read: Rc::default(),
            end: Rc::new(Cell::new(max_record_bytes)),
            step: max_record_bytes,
        };
        let mut source = Self {
            content: Content::open(file).map_err(unreadable)?,
            max_bytes,
            offset: offset.clone(),
        };
        if source.beginning()?.starts_with(BYTE_ORDER_MARK) {
            source
                .read_exact(&mut [0; BYTE_ORDER_MARK.len()])
                .map_err(unreadable)?;
        }
        Ok((source, offset))
    }

    /// What comes next, without taking it.
    fn beginning(&mut self) -> Result<&[u8]> {
        self.content.fill_buf().map_err(|error| match error.kind() {
            REFUSED => Error::unprocessable(error.to_string()),
            _ => unreadable(error),
        })
    }

    /// Lines begin with an object whose first member is `type`.
    pub(super) fn guess_format(&mut self) -> Result<DocumentFormat> {
        let beginning = self.beginning()?;
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
                REFUSED,
                format!(
                    "more than {} bytes in one piece (repository.max_import_record_bytes)",
                    self.offset.step
                ),
            ));
        }
        let most = usize::try_from(allowed)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self
            .content
            .read(buffer.get_mut(..most).unwrap_or_default())?;
        let read = self.offset.read.get() + count as u64;
        self.offset.read.set(read);
        if read > self.max_bytes {
            return Err(io::Error::new(
                REFUSED,
                format!(
                    "the document has more than {} bytes, unpacked (repository.max_import_bytes)",
                    self.max_bytes
                ),
            ));
        }
        Ok(count)
    }
}
