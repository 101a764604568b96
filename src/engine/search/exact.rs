//! Exact search: every candidate is compared, quantized to bytes first, and those that are left in full. An
//! index for large collections has its place in [`nearest`].

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::engine::threads::in_shares;
use crate::engine::vectors::Columns;
use crate::model::configuration::Space;
use vectorkeep_kernel::{QuantizedQuery, exact_distance};

/// A record, by its slot or its ordinal, at a distance or a bound on it. Nearer ones, then earlier ones,
/// come first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ranked {
    pub(super) distance: f64,
    pub(super) place: u64,
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance
            .total_cmp(&other.distance)
            .then(self.place.cmp(&other.place))
    }
}

/// The `k` first, in a heap with the last of them on top.
struct Nearest {
    k: usize,
    heap: BinaryHeap<Ranked>,
}

impl Nearest {
    fn new(k: usize) -> Self {
        Self {
            k,
            heap: BinaryHeap::new(),
        }
    }

    fn offer(&mut self, ranked: Ranked) {
        if self.heap.len() < self.k {
            self.heap.push(ranked);
        } else if let Some(mut last) = self.heap.peek_mut()
            && ranked < *last
        {
            *last = ranked;
        }
    }

    /// Beyond this distance nothing comes among them.
    fn limit(&self) -> f64 {
        match self.heap.peek() {
            Some(last) if self.heap.len() == self.k => last.distance,
            _ => f64::INFINITY,
        }
    }
}

/// Slots that may hold one of the `k` nearest, as far as quantized vectors tell.
struct Shortlist {
    /// By the greatest distance they can have: so near are `k` vectors at least.
    surely: Nearest,
    /// By the least distance they can have.
    slots: Vec<Ranked>,
}

impl Shortlist {
    fn new(k: usize) -> Self {
        Self {
            surely: Nearest::new(k),
            slots: Vec::new(),
        }
    }

    fn offer(&mut self, slot: usize, (least, greatest): (f64, f64)) {
        let ranked = |distance| Ranked {
            distance,
            place: slot as u64,
        };
        if least <= self.surely.limit() {
            self.slots.push(ranked(least));
            self.surely.offer(ranked(greatest));
        }
    }

    fn merge(mut self, other: Self) -> Self {
        let surely = other.surely.heap.into_iter();
        surely.for_each(|ranked| self.surely.offer(ranked));
        self.slots.extend(other.slots);
        self
    }

    /// The slots that are left, the most promising first.
    fn into_sorted(mut self) -> Vec<Ranked> {
        let limit = self.surely.limit();
        self.slots.retain(|ranked| ranked.distance <= limit);
        self.slots.sort_unstable();
        self.slots
    }
}

/// Components compared per thread below which starting another one costs more than it saves.
const MIN_COMPONENTS_PER_THREAD: usize = 8_000_000;

/// The ordinals of the `k` nearest of the candidates (of all records without), on up to `threads` threads.
/// Distances and their order are those of f64; quantized vectors only rule out what cannot be near.
pub(super) fn nearest(
    columns: &Columns,
    space: Space,
    query: &[f32],
    k: usize,
    candidates: Option<&[u64]>,
    threads: usize,
) -> Vec<Ranked> {
    let candidates: Option<Vec<usize>> =
        candidates.map(|ordinals| columns.slots_of(ordinals).collect());
    let slot_at = |at: usize| match &candidates {
        Some(slots) => slots.get(at).copied(),
        None => Some(at),
    };
    let count = candidates.as_ref().map_or(columns.slots(), Vec::len);
    let quantized_query = QuantizedQuery::new(query);
    let shortlist = |range: Range<usize>| {
        let mut list = Shortlist::new(k);
        for slot in range.filter_map(slot_at) {
            if let Some((codes, quantization)) = columns.quantized(slot) {
                let bounds = match &quantized_query {
                    Some(query) => query.bounds(space, codes, quantization),
                    None => (f64::NEG_INFINITY, f64::INFINITY),
                };
                list.offer(slot, bounds);
            }
        }
        list
    };
    let worthwhile = count.saturating_mul(query.len()) / MIN_COMPONENTS_PER_THREAD;
    let slots = in_shares(count, threads.min(worthwhile), shortlist)
        .into_iter()
        .fold(Shortlist::new(k), Shortlist::merge)
        .into_sorted();
    let mut nearest = Nearest::new(k);
    for Ranked { distance, place } in slots {
        if distance > nearest.limit() {
            break;
        }
        let slot = place as usize;
        if let (Some(ordinal), Some(vector)) = (columns.ordinal(slot), columns.vector(slot)) {
            nearest.offer(Ranked {
                distance: exact_distance(space, query, vector),
                place: ordinal,
            });
        }
    }
    nearest.heap.into_sorted_vec()
}
