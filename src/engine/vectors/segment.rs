//! Up to [`SEGMENT`] records in columns, shared as a whole.

use std::sync::Arc;

use vectorkeep_kernel::Quantization;

/// Records of a segment: what a writer copies at most where somebody reads it.
pub(super) const SEGMENT: usize = 256;
/// Vectors that are copied together where one of them changes.
const GROUP: usize = 16;
/// The sequence of a dead row; real sequences start at 1.
const DEAD: u64 = 0;

/// A vector's quantized form.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Quantized {
    codes: Vec<i8>,
    quantization: Quantization,
}

impl Quantized {
    pub(in crate::engine) fn of(vector: &[f32]) -> Self {
        let mut codes = Vec::with_capacity(vector.len());
        let quantization = vectorkeep_kernel::quantize(vector, &mut codes);
        Self {
            codes,
            quantization,
        }
    }
}

/// One record's row.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    ordinal: u64,
    sequence: u64,
    vector: &'a [f32],
    codes: &'a [i8],
    quantization: Quantization,
}

impl<'a> Row<'a> {
    pub(super) fn new(
        ordinal: u64,
        sequence: u64,
        vector: &'a [f32],
        quantized: &'a Quantized,
    ) -> Self {
        Self {
            ordinal,
            sequence,
            vector,
            codes: &quantized.codes,
            quantization: quantized.quantization,
        }
    }
}

/// Up to [`SEGMENT`] records.
#[derive(Clone, Debug, Default)]
pub(super) struct Segment {
    ordinals: Vec<u64>,
    sequences: Vec<u64>,
    quantizations: Vec<Quantization>,
    codes: Vec<i8>,
    /// Up to [`GROUP`] vectors each.
    vectors: Vec<Arc<Vec<f32>>>,
    dimension: usize,
    dead: usize,
    /// No row was written after it.
    newest: u64,
}

impl Segment {
    pub(super) fn of<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> Self {
        let mut segment = Self::default();
        rows.into_iter().for_each(|row| segment.push(&row));
        segment
    }

    pub(super) fn rows(&self) -> usize {
        self.ordinals.len()
    }

    pub(super) fn live(&self) -> usize {
        self.rows() - self.dead
    }

    pub(super) fn first(&self) -> u64 {
        self.ordinals.first().copied().unwrap_or(0)
    }

    pub(super) fn last(&self) -> u64 {
        self.ordinals.last().copied().unwrap_or(0)
    }

    /// Where an ordinal stands, or would.
    pub(super) fn find(&self, ordinal: u64) -> Result<usize, usize> {
        // Where nothing is missing in between, a row is an ordinal less the first one.
        if let Some(row) = ordinal.checked_sub(self.first())
            && self.last() - self.first() + 1 == self.rows() as u64
            && row < self.rows() as u64
        {
            return Ok(row as usize);
        }
        self.ordinals.binary_search(&ordinal)
    }

    pub(super) fn is_live(&self, row: usize) -> bool {
        self.sequences.get(row).is_some_and(|found| *found != DEAD)
    }

    fn codes(&self, row: usize) -> Option<&[i8]> {
        let start = row * self.dimension;
        self.codes.get(start..start + self.dimension)
    }

    pub(super) fn vector(&self, row: usize) -> Option<&[f32]> {
        let start = (row % GROUP) * self.dimension;
        let group = self.vectors.get(row / GROUP)?;
        group.get(start..start + self.dimension)
    }

    pub(super) fn row(&self, row: usize) -> Option<Row<'_>> {
        Some(Row {
            ordinal: *self.ordinals.get(row)?,
            sequence: *self.sequences.get(row)?,
            vector: self.vector(row)?,
            codes: self.codes(row)?,
            quantization: *self.quantizations.get(row)?,
        })
    }

    pub(super) fn all_rows(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.rows()).filter_map(|row| self.row(row))
    }

    /// Rows that are not dead, in order.
    pub(super) fn live_rows(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.rows()).filter(|row| self.is_live(*row))
    }

    pub(super) fn push(&mut self, row: &Row<'_>) {
        self.dimension = row.vector.len();
        if self.rows().is_multiple_of(GROUP) {
            self.vectors.push(Arc::default());
        }
        // A second group is seldom the last: from then on there is room for a whole group, and a whole segment, and no
        // more. What was shared has none left.
        let is_large = self.vectors.len() > 1;
        if let Some(group) = self.vectors.last_mut().map(Arc::make_mut) {
            if is_large {
                group.reserve_exact(GROUP * self.dimension - group.len());
                let room = SEGMENT * self.dimension - self.codes.len();
                self.codes.reserve_exact(room);
            }
            group.extend_from_slice(row.vector);
        }
        self.codes.extend_from_slice(row.codes);
        self.quantizations.push(row.quantization);
        self.ordinals.push(row.ordinal);
        self.sequences.push(row.sequence);
        self.dead += usize::from(row.sequence == DEAD);
        self.newest = self.newest.max(row.sequence);
    }

    pub(super) fn replace(&mut self, at: usize, row: &Row<'_>) {
        let (place, start) = (at * self.dimension, (at % GROUP) * self.dimension);
        if let Some(codes) = self.codes.get_mut(place..place + self.dimension) {
            codes.copy_from_slice(row.codes);
        }
        if let Some(group) = self.vectors.get_mut(at / GROUP)
            && let Some(kept) = Arc::make_mut(group).get_mut(start..start + self.dimension)
        {
            kept.copy_from_slice(row.vector);
        }
        if let Some(kept) = self.quantizations.get_mut(at) {
            *kept = row.quantization;
        }
        if let Some(written) = self.sequences.get_mut(at) {
            self.dead -= usize::from(*written == DEAD);
            *written = row.sequence;
        }
        self.newest = self.newest.max(row.sequence);
    }

    pub(super) fn dead(&self) -> usize {
        self.dead
    }

    pub(super) fn ordinal(&self, row: usize) -> Option<u64> {
        self.ordinals.get(row).copied()
    }

    pub(super) fn sequence(&self, row: usize) -> Option<u64> {
        self.sequences.get(row).copied()
    }

    pub(super) fn quantized(&self, row: usize) -> Option<(&[i8], &Quantization)> {
        Some((self.codes(row)?, self.quantizations.get(row)?))
    }

    /// Ordinals of the rows that were written after a sequence; the dead never were.
    pub(super) fn written_after(&self, sequence: u64) -> impl Iterator<Item = u64> + '_ {
        let count = if self.newest > sequence {
            self.rows()
        } else {
            0
        };
        let rows = self.ordinals.iter().zip(&self.sequences).take(count);
        rows.filter(move |(_, written)| **written > sequence)
            .map(|(ordinal, _)| *ordinal)
    }

    /// Takes a live row's record away; the row stays.
    pub(super) fn kill(&mut self, row: usize) {
        if let Some(written) = self.sequences.get_mut(row) {
            *written = DEAD;
            self.dead += 1;
        }
    }

    /// See [`super::Columns::damage`].
    #[cfg(debug_assertions)]
    pub(super) fn damage(&mut self, row: usize) {
        let start = (row % GROUP) * self.dimension;
        let group = self.vectors.get_mut(row / GROUP).map(Arc::make_mut);
        if let Some(component) = group.and_then(|group| group.get_mut(start)) {
            *component = f32::from_bits(component.to_bits() ^ 1);
        }
    }
}
