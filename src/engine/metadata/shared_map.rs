//! An ordered map in leaves that are shared by reference count: a clone copies pointers, and a writer copies the
//! leaves that it changes while somebody else still reads them.

use std::ops::{Bound, RangeBounds as _};
use std::sync::Arc;

/// Entries of a leaf.
const LEAF: usize = 256;

type Leaf<K, V> = Vec<(K, V)>;

#[derive(Clone, Debug)]
pub(super) struct SharedMap<K, V> {
    /// None is empty.
    leaves: Vec<Arc<Leaf<K, V>>>,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { leaves: Vec::new() }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// The leaf that a key stands in, or would, and its place there.
    fn find(&self, key: &K) -> (usize, Result<usize, usize>) {
        let starts_before =
            |leaf: &Arc<Leaf<K, V>>| leaf.first().is_some_and(|(first, _)| first <= key);
        let at = self.leaves.partition_point(starts_before).saturating_sub(1);
        let Some(leaf) = self.leaves.get(at) else {
            return (at, Err(0));
        };
        (at, leaf.binary_search_by(|(found, _)| found.cmp(key)))
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        let (at, place) = self.find(key);
        let entry = self.leaves.get(at)?.get(place.ok()?)?;
        Some(&entry.1)
    }

    /// Changes the value of a key, or puts one there.
    pub(super) fn update(&mut self, key: K, change: impl FnOnce(&mut V), new: impl FnOnce() -> V) {
        let (at, place) = self.find(&key);
        let leaves = self.leaves.len();
        let Some(leaf) = self.leaves.get_mut(at) else {
            self.leaves.push(Arc::new(vec![(key, new())]));
            return;
        };
        let entries = Arc::make_mut(leaf);
        match place {
            Ok(place) => {
                if let Some((_, value)) = entries.get_mut(place) {
                    change(value);
                }
            }
            Err(place) => {
                entries.insert(place, (key, new()));
                if entries.len() > LEAF {
                    // Keys that only grow leave full leaves behind.
                    let is_last = at + 1 == leaves && place + 1 == entries.len();
                    let half = if is_last { LEAF } else { LEAF / 2 };
                    let rest = entries.split_off(half);
                    self.leaves.insert(at + 1, Arc::new(rest));
                }
            }
        }
    }

    /// Changes the value of a key, if there is one; it goes where `change` says so.
    pub(super) fn change_or_remove(&mut self, key: &K, change: impl FnOnce(&mut V) -> bool) {
        let (at, Ok(place)) = self.find(key) else {
            return;
        };
        let Some(entries) = self.leaves.get_mut(at).map(Arc::make_mut) else {
            return;
        };
        if !entries
            .get_mut(place)
            .is_some_and(|(_, value)| change(value))
        {
            return;
        }
        entries.remove(place);
        let left = entries.len();
        let before = at.checked_sub(1).and_then(|at| self.leaves.get(at));
        // Half full, so that the next change does not part them again.
        let joins = before.is_some_and(|before| before.len() + left <= LEAF / 2);
        if left == 0 || joins {
            let gone = self.leaves.remove(at);
            let before = at.checked_sub(1).and_then(|at| self.leaves.get_mut(at));
            if let Some(before) = before.filter(|_| left > 0) {
                Arc::make_mut(before).extend(Arc::unwrap_or_clone(gone));
            }
        }
    }

    /// The values of a range of keys, in their order.
    pub(super) fn range(&self, range: (Bound<K>, Bound<K>)) -> impl Iterator<Item = &V> {
        let first = match &range.0 {
            Bound::Included(key) | Bound::Excluded(key) => self.find(key).0,
            Bound::Unbounded => 0,
        };
        let end = range.1.clone();
        let leaves = self.leaves.iter().skip(first);
        let leaves = leaves.take_while(move |leaf| {
            let first = leaf.first().map(|(key, _)| key);
            first.is_some_and(|key| (Bound::Unbounded, end.as_ref()).contains(key))
        });
        let entries = leaves.flat_map(|leaf| leaf.iter());
        entries
            .filter(move |(key, _)| range.contains(key))
            .map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &SharedMap<u32, u32>, model: &BTreeMap<u32, u32>) {
        assert_eq!(map.is_empty(), model.is_empty());
        assert!(
            map.leaves
                .iter()
                .all(|leaf| (1..=LEAF).contains(&leaf.len()))
        );
        for key in 0..2_000 {
            assert_eq!(map.get(&key), model.get(&key));
        }
        let bound = |key| [Bound::Unbounded, Bound::Included(key), Bound::Excluded(key)];
        for (from, to) in [(0, 2_000), (300, 1_000), (555, 556), (1_999, 1_999)] {
            for range in bound(from)
                .into_iter()
                .flat_map(|from| bound(to).map(|to| (from, to)))
            {
                let expected = model.iter().filter(|(key, _)| range.contains(*key));
                let expected: Vec<u32> = expected.map(|(_, value)| *value).collect();
                let found: Vec<u32> = map.range(range).copied().collect();
                assert_eq!(found, expected, "{range:?}");
            }
        }
    }

    #[test]
    fn descending_keys_behind_a_full_leaf_share_leaves() {
        let mut map = SharedMap::default();
        for key in (0..256).chain((1_000..3_000).rev()) {
            map.update(key, |_| {}, || key);
        }
        let leaves = map.leaves.len();
        assert!(leaves <= 20, "{leaves} leaves of 2,256 keys");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn the_map_follows_another_and_earlier_states_stay(
            steps in prop::collection::vec((0_u32..2_000, 1_u32..700, any::<bool>()), 1..16),
        ) {
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            let mut kept = Vec::new();
            for (from, count, insert) in steps {
                let mut keys: Vec<u32> = (from..(from + count).min(2_000)).collect();
                if from % 2 == 0 {
                    keys.reverse();
                }
                for key in keys {
                    if insert {
                        map.update(key, |value| *value += 1, || key);
                        model.entry(key).and_modify(|value| *value += 1).or_insert(key);
                    } else {
                        // Every other one only changes.
                        map.change_or_remove(&key, |value| {
                            *value += 1;
                            *value % 2 == 0
                        });
                        if let Some(value) = model.get_mut(&key) {
                            *value += 1;
                            if *value % 2 == 0 {
                                model.remove(&key);
                            }
                        }
                    }
                }
                kept.push((map.clone(), model.clone()));
            }
            for (map, model) in &kept {
                check(map, model);
            }
        }
    }
}
