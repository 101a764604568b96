//! A collection's columns in memory: ordinal, sequence, vector and quantized vector of every record, by slot.
//!
//! Slots are in ordinal order, because ordinals only grow: a new record takes the next slot, a deleted
//! one leaves a dead slot behind (its sequence is 0), and when the dead outnumber the living the columns
//! are packed. The sequence column is what "changed after S" is answered from.

use std::ops::Range;

use vectorkeep_kernel::Quantization;

/// Vectors per block: growing appends a block and never moves the vectors before it.
const BLOCK: usize = 1024;
/// Below this many dead slots packing is not worth it.
const MIN_DEAD_TO_PACK: usize = 1024;
/// The sequence of a dead slot; real sequences start at 1.
const DEAD: u64 = 0;

/// Up to [`BLOCK`] vectors after one another.
#[derive(Debug, Default)]
struct Block {
    components: Vec<f32>,
    codes: Vec<i8>,
}

#[derive(Debug, Default)]
pub(super) struct Columns {
    dimension: usize,
    ordinals: Vec<u64>,
    sequences: Vec<u64>,
    quantizations: Vec<Quantization>,
    blocks: Vec<Block>,
    dead: usize,
}

impl Columns {
    /// Live records.
    pub(super) fn live(&self) -> usize {
        self.ordinals.len() - self.dead
    }

    /// The slot of a live record.
    pub(super) fn slot(&self, ordinal: u64) -> Option<usize> {
        let slot = self.ordinals.binary_search(&ordinal).ok()?;
        (self.sequence(slot)? != DEAD).then_some(slot)
    }

    /// Slots of those records that are live; ordinals ascending.
    pub(super) fn slots_of(&self, ordinals: &[u64]) -> impl Iterator<Item = usize> {
        // Where nothing was ever deleted, and after packing, a slot is an ordinal less the first one.
        let first = self.ordinals.first().copied().unwrap_or(0);
        let last = self.ordinals.last().copied().unwrap_or(0);
        let gapless = last - first + 1 == self.ordinals.len() as u64;
        ordinals.iter().filter_map(move |ordinal| {
            if gapless {
                let slot = usize::try_from(ordinal.checked_sub(first)?).ok()?;
                (self.sequence(slot)? != DEAD).then_some(slot)
            } else {
                self.slot(*ordinal)
            }
        })
    }

    fn sequence(&self, slot: usize) -> Option<u64> {
        self.sequences.get(slot).copied()
    }

    /// The record in a slot.
    pub(super) fn ordinal(&self, slot: usize) -> Option<u64> {
        self.ordinals.get(slot).copied()
    }

    /// Slots of live records, in insertion order.
    pub(super) fn live_slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.sequences
            .iter()
            .enumerate()
            .filter(|(_, sequence)| **sequence != DEAD)
            .map(|(slot, _)| slot)
    }

    /// Ordinal of the live record at `offset` in insertion order.
    pub(super) fn ordinal_at(&self, offset: usize) -> Option<u64> {
        let slot = if self.dead == 0 {
            offset
        } else {
            self.live_slots().nth(offset)?
        };
        self.ordinal(slot)
    }

    /// Ordinals of live records written after `sequence`, ascending.
    pub(super) fn changed_after(&self, sequence: u64) -> Vec<u64> {
        self.ordinals
            .iter()
            .zip(&self.sequences)
            .filter(|(_, written)| **written > sequence)
            .map(|(ordinal, _)| *ordinal)
            .collect()
    }

    /// Where a page ends that begins at this ordinal and has so many slots; `None` when the last one is in it.
    pub(super) fn page_end(&self, start: u64, slots: usize) -> Option<u64> {
        let first = self.ordinals.partition_point(|ordinal| *ordinal < start);
        self.ordinal(first.saturating_add(slots))
    }

    /// Ordinals of live records from `start` up to before `end`, ascending.
    pub(super) fn live_between(&self, start: u64, end: u64) -> Vec<u64> {
        let first = self.ordinals.partition_point(|ordinal| *ordinal < start);
        let slots = self.ordinals.iter().zip(&self.sequences).skip(first);
        slots
            .take_while(|(ordinal, _)| **ordinal < end)
            .filter(|(_, sequence)| **sequence != DEAD)
            .map(|(ordinal, _)| *ordinal)
            .collect()
    }

    /// How many live records were written after `sequence`.
    pub(super) fn count_changed_after(&self, sequence: u64) -> usize {
        self.sequences
            .iter()
            .filter(|written| **written > sequence)
            .count()
    }

    /// The vector in a slot.
    pub(super) fn vector(&self, slot: usize) -> Option<&[f32]> {
        let components = &self.blocks.get(slot / BLOCK)?.components;
        components.get(self.place(slot))
    }

    /// The quantized vector in a slot, unless the slot is dead.
    pub(super) fn quantized(&self, slot: usize) -> Option<(&[i8], &Quantization)> {
        (self.sequence(slot)? != DEAD).then(|| self.codes(slot))?
    }

    fn codes(&self, slot: usize) -> Option<(&[i8], &Quantization)> {
        let codes = self.blocks.get(slot / BLOCK)?.codes.get(self.place(slot))?;
        Some((codes, self.quantizations.get(slot)?))
    }

    /// Where a slot's vector stands in its block.
    fn place(&self, slot: usize) -> Range<usize> {
        let start = (slot % BLOCK) * self.dimension;
        start..start + self.dimension
    }

    /// Slots, the dead ones included.
    pub(super) fn slots(&self) -> usize {
        self.ordinals.len()
    }

    /// Inserts a record with a new, highest ordinal, or replaces a live one.
    pub(super) fn put(&mut self, ordinal: u64, sequence: u64, vector: &[f32]) {
        match self.ordinals.binary_search(&ordinal) {
            Ok(slot) => self.replace(slot, sequence, vector),
            Err(slot) if slot == self.ordinals.len() => self.push(ordinal, sequence, vector),
            Err(slot) => self.insert(slot, ordinal, sequence, vector),
        }
    }

    fn push(&mut self, ordinal: u64, sequence: u64, vector: &[f32]) {
        self.append(ordinal, sequence, vector, |codes| {
            vectorkeep_kernel::quantize(vector, codes)
        });
    }

    /// Takes a slot of other columns over, quantized as it is there.
    fn push_from(&mut self, other: &Self, slot: usize) {
        if let (Some(ordinal), Some(sequence), Some(vector), Some((codes, quantization))) = (
            other.ordinal(slot),
            other.sequence(slot),
            other.vector(slot),
            other.codes(slot),
        ) {
            self.append(ordinal, sequence, vector, |kept| {
                kept.extend_from_slice(codes);
                *quantization
            });
        }
    }

    /// Fills the next slot; `round` appends the codes.
    fn append(
        &mut self,
        ordinal: u64,
        sequence: u64,
        vector: &[f32],
        round: impl FnOnce(&mut Vec<i8>) -> Quantization,
    ) {
        if self.ordinals.is_empty() {
            self.dimension = vector.len();
        }
        if self.ordinals.len().is_multiple_of(BLOCK) {
            // A second block is seldom the last: each gets its room at once, and none too much.
            let room = if self.blocks.is_empty() {
                0
            } else {
                BLOCK * self.dimension
            };
            self.blocks.push(Block {
                components: Vec::with_capacity(room),
                codes: Vec::with_capacity(room),
            });
        }
        if let Some(block) = self.blocks.last_mut() {
            block.components.extend_from_slice(vector);
            self.quantizations.push(round(&mut block.codes));
        }
        self.ordinals.push(ordinal);
        self.sequences.push(sequence);
    }

    fn replace(&mut self, slot: usize, sequence: u64, vector: &[f32]) {
        let place = self.place(slot);
        let mut quantized = Vec::with_capacity(vector.len());
        let quantization = vectorkeep_kernel::quantize(vector, &mut quantized);
        if let Some(block) = self.blocks.get_mut(slot / BLOCK)
            && let Some(components) = block.components.get_mut(place.clone())
            && let Some(codes) = block.codes.get_mut(place)
        {
            components.copy_from_slice(vector);
            codes.copy_from_slice(&quantized);
        }
        if let Some(kept) = self.quantizations.get_mut(slot) {
            *kept = quantization;
        }
        if let Some(written) = self.sequences.get_mut(slot) {
            if *written == DEAD {
                self.dead -= 1;
            }
            *written = sequence;
        }
    }

    /// Only a staged copy comes here: it may learn of an old ordinal after a newer one.
    fn insert(&mut self, slot: usize, ordinal: u64, sequence: u64, vector: &[f32]) {
        let mut rebuilt = Self::default();
        for old in 0..self.ordinals.len() {
            if old == slot {
                rebuilt.push(ordinal, sequence, vector);
            }
            rebuilt.push_from(self, old);
        }
        rebuilt.dead = self.dead;
        *self = rebuilt;
    }

    /// Takes a record away. Does nothing when it is not there.
    pub(super) fn remove(&mut self, ordinal: u64) {
        let Some(slot) = self.slot(ordinal) else {
            return;
        };
        if let Some(written) = self.sequences.get_mut(slot) {
            *written = DEAD;
            self.dead += 1;
        }
        if self.dead >= MIN_DEAD_TO_PACK && self.dead > self.live() {
            self.pack();
        }
    }

    /// Changes a vector as nothing in this program does; for tests of what notices that.
    pub(super) fn damage(&mut self, slot: usize) {
        let start = self.place(slot).start;
        if let Some(block) = self.blocks.get_mut(slot / BLOCK)
            && let Some(component) = block.components.get_mut(start)
        {
            *component = f32::from_bits(component.to_bits() ^ 1);
        }
    }

    fn pack(&mut self) {
        let mut packed = Self::default();
        for slot in self.live_slots() {
            packed.push_from(self, slot);
        }
        packed.dimension = self.dimension;
        *self = packed;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn state(columns: &Columns) -> BTreeMap<u64, (u64, Vec<f32>)> {
        columns
            .live_slots()
            .map(|slot| {
                (
                    columns.ordinals[slot],
                    (
                        columns.sequences[slot],
                        columns.vector(slot).unwrap_or_default().to_vec(),
                    ),
                )
            })
            .collect()
    }

    proptest! {
        #[test]
        fn columns_follow_a_map(steps in prop::collection::vec((0_u64..40, any::<bool>(), -1.0_f32..1.0), 1..200)) {
            let mut columns = Columns::default();
            let mut model = BTreeMap::new();
            for (sequence, (ordinal, insert, x)) in (1..).zip(steps) {
                if insert {
                    columns.put(ordinal, sequence, &[x, 1.0, 2.0]);
                    model.insert(ordinal, (sequence, vec![x, 1.0, 2.0]));
                } else {
                    columns.remove(ordinal);
                    model.remove(&ordinal);
                }
                prop_assert_eq!(columns.live(), model.len());
            }
            prop_assert_eq!(state(&columns), model.clone());
            for since in [0, 5, 50, 500] {
                let changed: Vec<u64> = model.iter().filter(|(_, (s, _))| *s > since).map(|(o, _)| *o).collect();
                prop_assert_eq!(columns.changed_after(since), changed);
            }
            let mut asked: Vec<u64> = (0..45).collect();
            let found: Vec<u64> = columns.slots_of(&asked).filter_map(|slot| columns.ordinal(slot)).collect();
            asked.retain(|ordinal| model.contains_key(ordinal));
            prop_assert_eq!(found, asked);
            for (offset, ordinal) in model.keys().enumerate() {
                prop_assert_eq!(columns.ordinal_at(offset), Some(*ordinal));
            }
            columns.pack();
            prop_assert_eq!(state(&columns), model);
        }
    }

    #[test]
    fn many_deletes_pack_and_blocks_hold_their_vectors() {
        let mut columns = Columns::default();
        for ordinal in 0..5_000_u64 {
            columns.put(ordinal, ordinal + 1, &[ordinal as f32, 0.5]);
        }
        for ordinal in 0..4_000 {
            columns.remove(ordinal);
        }
        assert_eq!(columns.live(), 1_000);
        assert!(
            columns.ordinals.len() < 5_000,
            "dead slots were packed away"
        );
        for ordinal in 4_000..5_000 {
            let slot = columns.slot(ordinal).expect("alive");
            assert_eq!(columns.vector(slot), Some(&[ordinal as f32, 0.5][..]));
        }
    }
}
