//! Records on their way into packs: what backups and imports write.

use crate::error::{Error, Result};
use crate::model::record::RecordView;
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::LayerReference;
use crate::repository::pack::{self, PackRow, PackTombstone};

/// Rows per pack, whatever their size.
const MAX_PACK_ROWS: u64 = 1 << 16;

/// Settings of packs.
#[derive(Clone, Copy, Debug)]
pub struct PackSettings {
    /// zstd level.
    pub compression_level: i32,
    /// Bytes of records that a pack aims at; up to twice this is gathered.
    pub pack_bytes: u64,
}

/// Puts packs into a repository and counts what was put.
pub(super) struct Packer<'a> {
    repository: &'a Repository,
    settings: PackSettings,
    progress: &'a Progress,
    pub(super) new_records: u64,
    pub(super) tombstones: u64,
    pub(super) new_bytes: u64,
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        repository: &'a Repository,
        settings: PackSettings,
        progress: &'a Progress,
    ) -> Self {
        Self {
            repository,
            settings,
            progress,
            new_records: 0,
            tombstones: 0,
            new_bytes: 0,
        }
    }
}

/// Rows of one layer, cut into packs at fixed ordinal ranges, so that an unchanged range gives the same
/// pack again.
pub(super) struct LayerWriter<'p, 'a> {
    packer: &'p mut Packer<'a>,
    dimension: u32,
    /// Ordinals per pack, a power of two.
    range: u64,
    rows: Vec<PackRow>,
    bytes: u64,
    reference: LayerReference,
}

impl<'p, 'a> LayerWriter<'p, 'a> {
    /// A layer of records of about `average` bytes; without a dimension the first row says it.
    pub(super) fn new(packer: &'p mut Packer<'a>, dimension: Option<u32>, average: u64) -> Self {
        let rows = (packer.settings.pack_bytes / average.max(1)).clamp(1, MAX_PACK_ROWS);
        Self {
            packer,
            dimension: dimension.unwrap_or(0),
            range: 1 << rows.ilog2(),
            rows: Vec::new(),
            bytes: 0,
            reference: LayerReference::default(),
        }
    }

    /// Takes the next row, in ordinal order.
    pub(super) fn row(&mut self, row: PackRow) -> Result<()> {
        let another = self
            .rows
            .first()
            .is_some_and(|first| first.ordinal / self.range != row.ordinal / self.range);
        // Records much larger than the average must not gather in memory either.
        if another || self.bytes >= 2 * self.packer.settings.pack_bytes {
            self.flush()?;
        }
        self.bytes += row.canonical.len() as u64;
        self.rows.push(row);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else {
            return Ok(());
        };
        self.packer.progress.check()?;
        // The first write after a layer began may have fixed the dimension since.
        let dimension = match self.dimension {
            0 => row_dimension(first)?,
            dimension => dimension,
        };
        let ordinals = (first.ordinal, last.ordinal);
        let bytes = pack::encode_records(
            &self.rows,
            dimension,
            self.packer.settings.compression_level,
        )?;
        let count = self.rows.len() as u64;
        self.packer.new_records += count;
        self.packer.new_bytes += bytes.len() as u64;
        let pack = self
            .packer
            .repository
            .put_pack(bytes.into(), count, ordinals)?;
        self.packer.progress.advance(count, self.bytes);
        self.reference.packs.push(pack);
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    /// Puts the deletions, which count before the layer's rows.
    pub(super) fn tombstones(&mut self, tombstones: &[PackTombstone]) -> Result<()> {
        let ordinals = tombstones.iter().map(|tombstone| tombstone.ordinal);
        let (Some(first), Some(last)) = (ordinals.clone().min(), ordinals.max()) else {
            return Ok(());
        };
        let bytes = pack::encode_tombstones(tombstones, self.packer.settings.compression_level)?;
        let count = tombstones.len() as u64;
        self.packer.tombstones += count;
        self.packer.new_bytes += bytes.len() as u64;
        let pack = self
            .packer
            .repository
            .put_pack(bytes.into(), count, (first, last))?;
        self.reference.tombstones.push(pack);
        Ok(())
    }

    /// Puts what is left.
    pub(super) fn finish(mut self) -> Result<LayerReference> {
        self.flush()?;
        Ok(self.reference)
    }
}

fn row_dimension(row: &PackRow) -> Result<u32> {
    let view = RecordView::parse(&row.canonical)?;
    u32::try_from(view.dimension()).map_err(|_| Error::internal("too many dimensions"))
}
