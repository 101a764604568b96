//! A collection's columns in memory: ordinal, sequence, vector and quantized vector of every record.
//!
//! They stand in segments of up to [`SEGMENT`] records, in ordinal order. A segment is shared by reference count:
//! [`Columns::clone`] copies pointers, and a writer copies the segments that it changes while somebody else still
//! reads them. A slot names a place: the segment and the row in it. New records go behind the last one, because
//! ordinals only grow; a deleted one leaves a dead row (its sequence is 0), and a segment with more dead than live
//! rows is packed. The sequence column is what "changed after S" is answered from.

mod segment;

use std::sync::Arc;

pub(super) use self::segment::Quantized;
use self::segment::{Row, SEGMENT, Segment};
use vectorkeep_kernel::Quantization;

#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    segments: Vec<Arc<Segment>>,
    live: usize,
}

impl Columns {
    /// Live records.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// The segment that an ordinal stands in, or would.
    fn segment_of(&self, ordinal: u64) -> usize {
        let behind = self
            .segments
            .partition_point(|segment| segment.first() <= ordinal);
        behind.saturating_sub(1)
    }

    fn at(&self, slot: usize) -> Option<(&Segment, usize)> {
        let segment = self.segments.get(slot / SEGMENT)?;
        Some((segment, slot % SEGMENT))
    }

    /// The slot of a live record.
    pub(super) fn slot(&self, ordinal: u64) -> Option<usize> {
        let at = self.segment_of(ordinal);
        let segment = self.segments.get(at)?;
        let row = segment.find(ordinal).ok()?;
        segment.is_live(row).then_some(at * SEGMENT + row)
    }

    /// The write that made the live record of an ordinal.
    pub(super) fn sequence_of(&self, ordinal: u64) -> Option<u64> {
        let (segment, row) = self.at(self.slot(ordinal)?)?;
        segment.sequence(row)
    }

    /// Slots of those records that are live; ordinals ascending.
    pub(super) fn slots_of(&self, ordinals: &[u64]) -> impl Iterator<Item = usize> {
        let mut at = 0;
        ordinals.iter().filter_map(move |ordinal| {
            let here = self.segments.get(at)?;
            if !(here.first()..=here.last()).contains(ordinal) {
                at = self.segment_of(*ordinal);
            }
            let segment = self.segments.get(at)?;
            let row = segment.find(*ordinal).ok()?;
            segment.is_live(row).then_some(at * SEGMENT + row)
        })
    }

    /// The record in a slot.
    pub(super) fn ordinal(&self, slot: usize) -> Option<u64> {
        let (segment, row) = self.at(slot)?;
        segment.ordinal(row)
    }

    /// Ordinal of the live record at `offset` in insertion order.
    pub(super) fn ordinal_at(&self, offset: usize) -> Option<u64> {
        let mut left = offset;
        for segment in &self.segments {
            if left < segment.live() {
                let row = segment.live_rows().nth(left)?;
                return segment.ordinal(row);
            }
            left -= segment.live();
        }
        None
    }

    /// Rows that were written after a sequence; the dead never were.
    fn written_after(&self, sequence: u64) -> impl Iterator<Item = u64> + '_ {
        let segments = self.segments.iter();
        segments.flat_map(move |segment| segment.written_after(sequence))
    }

    /// Ordinals of live records written after `sequence`, ascending.
    pub(super) fn changed_after(&self, sequence: u64) -> Vec<u64> {
        self.written_after(sequence).collect()
    }

    /// How many live records were written after `sequence`.
    pub(super) fn count_changed_after(&self, sequence: u64) -> usize {
        if sequence == 0 {
            return self.live;
        }
        self.written_after(sequence).count()
    }

    /// Where a page ends that begins at this ordinal and has so many rows; `None` when the last one is in it.
    pub(super) fn page_end(&self, start: u64, rows: usize) -> Option<u64> {
        let mut left = rows;
        for segment in self.segments.iter().skip(self.segment_of(start)) {
            let first = segment.find(start).unwrap_or_else(|row| row);
            let here = segment.rows() - first;
            if left < here {
                return segment.ordinal(first + left);
            }
            left -= here;
        }
        None
    }

    /// Ordinals of live records from `start` up to before `end`, ascending.
    pub(super) fn live_between(&self, start: u64, end: u64) -> Vec<u64> {
        let segments = self.segments.iter().skip(self.segment_of(start));
        let segments = segments.take_while(|segment| segment.first() < end);
        let ordinals = segments.flat_map(|segment| {
            let live = segment.live_rows();
            live.filter_map(|row| segment.ordinal(row))
        });
        let within = ordinals.skip_while(|ordinal| *ordinal < start);
        within.take_while(|ordinal| *ordinal < end).collect()
    }

    /// The vector in a slot.
    pub(super) fn vector(&self, slot: usize) -> Option<&[f32]> {
        let (segment, row) = self.at(slot)?;
        segment.vector(row)
    }

    /// The quantized vector in a slot, unless the row is dead.
    pub(super) fn quantized(&self, slot: usize) -> Option<(&[i8], &Quantization)> {
        let (segment, row) = self.at(slot)?;
        segment.is_live(row).then(|| segment.quantized(row))?
    }

    /// Slots are below this; some of them may be empty.
    pub(super) fn slots(&self) -> usize {
        self.segments.len() * SEGMENT
    }

    /// Inserts a record, or replaces a live one. New ordinals are the highest, but in a staged copy, which may learn
    /// of an old one after a newer one.
    pub(super) fn put(&mut self, ordinal: u64, sequence: u64, vector: &[f32], codes: &Quantized) {
        let row = Row::new(ordinal, sequence, vector, codes);
        let at = self.segment_of(ordinal);
        let is_last = at + 1 >= self.segments.len();
        let Some(segment) = self.segments.get_mut(at) else {
            return self.begin_segment(&row);
        };
        match segment.find(ordinal) {
            Ok(found) => {
                self.live += usize::from(!segment.is_live(found));
                Arc::make_mut(segment).replace(found, &row);
            }
            Err(place) if is_last && place == segment.rows() => {
                if place == SEGMENT {
                    return self.begin_segment(&row);
                }
                self.live += 1;
                Arc::make_mut(segment).push(&row);
            }
            Err(place) => self.insert(at, place, &row),
        }
    }

    fn begin_segment(&mut self, row: &Row<'_>) {
        self.segments.push(Arc::new(Segment::of([*row])));
        self.live += 1;
    }

    /// Puts a row between others; a full segment becomes two.
    fn insert(&mut self, at: usize, place: usize, row: &Row<'_>) {
        let Some(segment) = self.segments.get(at) else {
            return;
        };
        let mut rows: Vec<Row<'_>> = segment.all_rows().collect();
        rows.insert(place, *row);
        let parts = rows.len().div_ceil(SEGMENT);
        let parts: Vec<_> = rows
            .chunks(rows.len().div_ceil(parts))
            .map(|rows| Arc::new(Segment::of(rows.iter().copied())))
            .collect();
        self.segments.splice(at..=at, parts);
        self.live += 1;
    }

    /// Takes a record away. Does nothing when it is not there.
    pub(super) fn remove(&mut self, ordinal: u64) {
        let Some(slot) = self.slot(ordinal) else {
            return;
        };
        let at = slot / SEGMENT;
        let Some(shared) = self.segments.get_mut(at) else {
            return;
        };
        self.live -= 1;
        if shared.live() == 1 {
            self.segments.remove(at);
            return;
        }
        let segment = Arc::make_mut(shared);
        segment.kill(slot % SEGMENT);
        if segment.dead() > segment.live() {
            self.pack(at);
        }
    }

    /// Leaves the dead rows of a segment away, and makes it one with the segment before it where that has the room.
    fn pack(&mut self, at: usize) {
        let Some(segment) = self.segments.get(at) else {
            return;
        };
        let live = segment.live_rows().filter_map(|row| segment.row(row));
        let packed = Segment::of(live);
        let before = at.checked_sub(1).and_then(|at| self.segments.get_mut(at));
        match before {
            // Half empty, so that the next change does not part them again.
            Some(before) if before.rows() + packed.rows() <= SEGMENT / 2 => {
                let before = Arc::make_mut(before);
                packed.all_rows().for_each(|row| before.push(&row));
                self.segments.remove(at);
            }
            _ => {
                if let Some(kept) = self.segments.get_mut(at) {
                    *kept = Arc::new(packed);
                }
            }
        }
    }

    /// Changes a vector as nothing in this program does; for tests of what notices that.
    #[cfg(debug_assertions)]
    pub(super) fn damage(&mut self, slot: usize) {
        if let Some(segment) = self.segments.get_mut(slot / SEGMENT) {
            Arc::make_mut(segment).damage(slot % SEGMENT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn put(columns: &mut Columns, ordinal: u64, sequence: u64, vector: &[f32]) {
        columns.put(ordinal, sequence, vector, &Quantized::of(vector));
    }

    fn state(columns: &Columns) -> BTreeMap<u64, (u64, Vec<f32>)> {
        let slots = 0..columns.slots();
        let live = slots.filter(|slot| columns.quantized(*slot).is_some());
        live.map(|slot| {
            let ordinal = columns.ordinal(slot).expect("a record");
            let vector = columns.vector(slot).expect("its vector").to_vec();
            let mut codes = Vec::new();
            let quantization = vectorkeep_kernel::quantize(&vector, &mut codes);
            let kept = columns.quantized(slot).expect("its codes");
            assert_eq!(kept, (codes.as_slice(), &quantization));
            let sequence = columns.sequence_of(ordinal).expect("its sequence");
            (ordinal, (sequence, vector))
        })
        .collect()
    }

    fn check(columns: &Columns, model: &BTreeMap<u64, (u64, Vec<f32>)>, last: u64) {
        assert_eq!(columns.live(), model.len());
        assert_eq!(&state(columns), model);
        for since in [0, 5, last / 2, last] {
            let changed: Vec<u64> = model
                .iter()
                .filter(|(_, (s, _))| *s > since)
                .map(|(o, _)| *o)
                .collect();
            assert_eq!(columns.count_changed_after(since), changed.len());
            assert_eq!(columns.changed_after(since), changed);
        }
        let mut asked: Vec<u64> = (0..1_300).collect();
        let found: Vec<u64> = columns
            .slots_of(&asked)
            .filter_map(|slot| columns.ordinal(slot))
            .collect();
        asked.retain(|ordinal| model.contains_key(ordinal));
        assert_eq!(found, asked);
        for (offset, ordinal) in model.keys().enumerate() {
            assert_eq!(columns.ordinal_at(offset), Some(*ordinal));
        }
        assert_eq!(columns.ordinal_at(model.len()), None);
        let between = model.range(100..700).map(|(ordinal, _)| *ordinal);
        assert_eq!(columns.live_between(100, 700), between.collect::<Vec<_>>());
    }

    /// What is done, and to how many records from which one on.
    fn step() -> impl Strategy<Value = (u64, u64, bool)> {
        (
            0_u64..1_200,
            prop_oneof![Just(1_u64), 2_u64..600],
            any::<bool>(),
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        /// In any order, as a staged copy may have it, and in many at a time.
        #[test]
        fn columns_follow_a_map(steps in prop::collection::vec(step(), 1..16)) {
            let mut columns = Columns::default();
            let mut model = BTreeMap::new();
            let mut sequence = 0;
            let mut kept = Vec::new();
            for (from, count, insert) in steps {
                for ordinal in from..from + count {
                    if insert {
                        sequence += 1;
                        let vector = vec![sequence as f32 / 7.0, 1.0, 2.0];
                        put(&mut columns, ordinal, sequence, &vector);
                        model.insert(ordinal, (sequence, vector));
                    } else {
                        columns.remove(ordinal);
                        model.remove(&ordinal);
                    }
                }
                check(&columns, &model, sequence);
                kept.push((columns.clone(), model.clone(), sequence));
            }
            // Who holds an earlier state goes on to read that.
            for (columns, model, last) in &kept {
                check(columns, model, *last);
            }
        }
    }

    #[test]
    fn a_page_ends_behind_its_rows() {
        let mut columns = Columns::default();
        for ordinal in (0..2_000_u64).step_by(2) {
            put(&mut columns, ordinal, ordinal + 1, &[0.5]);
        }
        assert_eq!(columns.page_end(0, 256), Some(512));
        assert_eq!(columns.page_end(1, 1), Some(4));
        assert_eq!(columns.page_end(500, 600), Some(1_700));
        assert_eq!(columns.page_end(1_998, 1), None);
        assert_eq!(columns.page_end(5_000, 1), None);
    }

    #[test]
    fn many_deletes_leave_no_rows_behind() {
        let mut columns = Columns::default();
        for ordinal in 0..5_000_u64 {
            put(&mut columns, ordinal, ordinal + 1, &[ordinal as f32, 0.5]);
        }
        for ordinal in 0..5_000 {
            if ordinal % 50 != 0 {
                columns.remove(ordinal);
            }
        }
        assert_eq!(columns.live(), 100);
        let rows: usize = columns.segments.iter().map(|segment| segment.rows()).sum();
        assert!(rows <= 200, "{rows} rows are kept for 100 records");
        assert!(
            columns.segments.len() <= 3,
            "{} segments",
            columns.segments.len()
        );
        for ordinal in (0..5_000).step_by(50) {
            let slot = columns.slot(ordinal).expect("alive");
            assert_eq!(columns.vector(slot), Some(&[ordinal as f32, 0.5][..]));
        }
    }
}
