//! Metadata in memory: which records have which value under which key, so that filters read no records.
//!
//! Per key, values are kept in order (ranges are runs) with the ordinals that have them: a single one
//! inline, several as a compressed bitmap. Numbers compare by value whatever their type; elements of lists
//! are kept apart and by exact type, as `$contains` wants them. Documents are not here: a filter on them
//! gets candidates that its other conditions leave, and reads those.
//!
//! All of it is shared by reference count: who selects takes the part that the filter speaks of
//! ([`MetadataIndex::part_for`]), and writers go on.

mod keys;
mod shared_map;

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringTreemap;

use self::keys::{ElementKey, Entries, ValueKey, range};
use self::shared_map::SharedMap;
use crate::model::filter::{Condition, Filter};
use crate::model::metadata::Metadata;

/// The ordinals that have a value; most values of a key like a title have one.
#[derive(Clone, Debug)]
enum Postings {
    One(u64),
    Many(Arc<RoaringTreemap>),
}

impl Postings {
    fn insert(&mut self, ordinal: u64) {
        match self {
            Self::One(one) if *one == ordinal => {}
            Self::One(one) => {
                *self = Self::Many(Arc::new([*one, ordinal].into_iter().collect()));
            }
            Self::Many(many) => {
                Arc::make_mut(many).insert(ordinal);
            }
        }
    }

    /// Takes an ordinal away; true when none is left.
    fn remove(&mut self, ordinal: u64) -> bool {
        match self {
            Self::One(one) => *one == ordinal,
            Self::Many(many) => {
                let many = Arc::make_mut(many);
                many.remove(ordinal);
                many.is_empty()
            }
        }
    }

    fn contains(&self, ordinal: u64) -> bool {
        match self {
            Self::One(one) => *one == ordinal,
            Self::Many(many) => many.contains(ordinal),
        }
    }

    fn add_to(&self, set: &mut RoaringTreemap) {
        match self {
            Self::One(one) => {
                set.insert(*one);
            }
            Self::Many(many) => *set |= &**many,
        }
    }
}

/// The values under one key.
#[derive(Clone, Debug, Default)]
struct KeyIndex {
    values: SharedMap<ValueKey, Postings>,
    elements: SharedMap<ElementKey, Postings>,
}

fn insert<K: Ord + Clone>(map: &mut SharedMap<K, Postings>, key: K, ordinal: u64) {
    let new = || Postings::One(ordinal);
    map.update(key, |postings| postings.insert(ordinal), new);
}

fn remove<K: Ord + Clone>(map: &mut SharedMap<K, Postings>, key: &K, ordinal: u64) {
    map.change_or_remove(key, |postings| postings.remove(ordinal));
}

/// What a filter selects, as far as metadata can tell.
pub(super) struct Selection {
    /// Records that may match; `None`: all.
    pub(super) ordinals: Option<RoaringTreemap>,
    /// Whether all of them do. If not, the filter has to see each record.
    pub(super) exact: bool,
}

/// The metadata of a collection's live records.
#[derive(Debug, Default)]
pub(super) struct MetadataIndex {
    live: Arc<RoaringTreemap>,
    keys: HashMap<String, KeyIndex>,
}

impl MetadataIndex {
    /// Takes a record in.
    pub(super) fn insert(&mut self, ordinal: u64, metadata: &Metadata) {
        Arc::make_mut(&mut self.live).insert(ordinal);
        for (key, value) in metadata {
            if !self.keys.contains_key(key) {
                self.keys.insert(key.clone(), KeyIndex::default());
            }
            let Some(index) = self.keys.get_mut(key) else {
                continue;
            };
            match Entries::of(value) {
                Entries::Value(value) => insert(&mut index.values, value, ordinal),
                Entries::Elements(elements) => {
                    for element in elements {
                        insert(&mut index.elements, element, ordinal);
                    }
                }
            }
        }
    }

    /// Takes a record out; `metadata` is what it was put in with.
    pub(super) fn remove(&mut self, ordinal: u64, metadata: &Metadata) {
        Arc::make_mut(&mut self.live).remove(ordinal);
        for (key, value) in metadata {
            let Some(index) = self.keys.get_mut(key) else {
                continue;
            };
            match Entries::of(value) {
                Entries::Value(value) => remove(&mut index.values, &value, ordinal),
                Entries::Elements(elements) => {
                    for element in &elements {
                        remove(&mut index.elements, element, ordinal);
                    }
                }
            }
            if index.values.is_empty() && index.elements.is_empty() {
                self.keys.remove(key);
            }
        }
    }

    /// As much of it as this filter asks for, to select without holding anything that a writer needs.
    pub(super) fn part_for(&self, filter: &Filter) -> Self {
        let mut part = Self {
            live: Arc::clone(&self.live),
            keys: HashMap::new(),
        };
        filter.each_key(&mut |key| {
            if let Some(index) = self.keys.get(key)
                && !part.keys.contains_key(key)
            {
                part.keys.insert(key.to_owned(), index.clone());
            }
        });
        part
    }

    /// Whether a record stands here with at least this metadata.
    pub(super) fn agrees(&self, ordinal: u64, metadata: &Metadata) -> bool {
        let has = |postings: Option<&Postings>| {
            postings.is_some_and(|postings| postings.contains(ordinal))
        };
        self.live.contains(ordinal)
            && metadata.iter().all(|(key, value)| {
                self.keys
                    .get(key)
                    .is_some_and(|index| match Entries::of(value) {
                        Entries::Value(value) => has(index.values.get(&value)),
                        Entries::Elements(elements) => elements
                            .iter()
                            .all(|element| has(index.elements.get(element))),
                    })
            })
    }

    /// The records that may match a filter.
    pub(super) fn select(&self, filter: &Filter) -> Selection {
        match filter {
            Filter::And(filters) => {
                let mut selected = Selection {
                    ordinals: None,
                    exact: true,
                };
                for filter in filters {
                    let one = self.select(filter);
                    selected.exact &= one.exact;
                    selected.ordinals = match (selected.ordinals, one.ordinals) {
                        (Some(a), Some(b)) => Some(a & b),
                        (a, b) => a.or(b),
                    };
                }
                selected
            }
            Filter::Or(filters) => {
                let mut selected = Selection {
                    ordinals: Some(RoaringTreemap::new()),
                    exact: true,
                };
                for filter in filters {
                    let one = self.select(filter);
                    selected.exact &= one.exact;
                    selected.ordinals = match (selected.ordinals, one.ordinals) {
                        (Some(a), Some(b)) => Some(a | b),
                        // One that may be anything makes all of it so.
                        _ => None,
                    };
                }
                selected
            }
            Filter::Metadata { key, condition } if !filter.reads_documents() => Selection {
                ordinals: Some(self.leaf(self.keys.get(key), condition)),
                exact: true,
            },
            Filter::Metadata { .. } | Filter::Document(_) => Selection {
                ordinals: None,
                exact: false,
            },
        }
    }

    fn leaf(&self, index: Option<&KeyIndex>, condition: &Condition) -> RoaringTreemap {
        let mut found = RoaringTreemap::new();
        let negated = matches!(
            condition,
            Condition::Ne(_) | Condition::NotIn(_) | Condition::NotContains(_)
        );
        if let Some(index) = index {
            index.positive(condition, &mut found);
        }
        if negated { &*self.live - &found } else { found }
    }
}

impl KeyIndex {
    /// The records that satisfy the condition, or the one that it negates.
    fn positive(&self, condition: &Condition, found: &mut RoaringTreemap) {
        let mut value = |key: ValueKey| {
            if let Some(postings) = self.values.get(&key) {
                postings.add_to(found);
            }
        };
        match condition {
            Condition::Eq(operand) | Condition::Ne(operand) => value(ValueKey::of(operand)),
            Condition::In(set) | Condition::NotIn(set) => {
                set.iter().for_each(|operand| value(ValueKey::of(operand)));
            }
            Condition::Contains(element) | Condition::NotContains(element) => {
                if let Some(postings) = self.elements.get(&ElementKey::of(element)) {
                    postings.add_to(found);
                }
            }
            Condition::Compare { op, operand } => {
                for postings in self.values.range(range(*op, *operand)) {
                    postings.add_to(found);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::filter::Limits;
    use crate::model::metadata::MetadataValue;

    const LIMITS: Limits = Limits {
        max_depth: 16,
        max_nodes: 100,
        max_regex_bytes: 1 << 16,
    };

    fn value() -> impl Strategy<Value = MetadataValue> {
        let float = prop_oneof![
            Just(2.0),
            Just(-0.0),
            Just(0.0),
            Just(2.5),
            Just(9_007_199_254_740_992.0),
            Just(1e300),
            Just(-9.3e18),
        ];
        let int = prop_oneof![
            Just(0_i64),
            Just(2),
            Just(3),
            Just(9_007_199_254_740_993),
            Just(i64::MAX),
            Just(i64::MIN)
        ];
        prop_oneof![
            any::<bool>().prop_map(MetadataValue::Bool),
            int.clone().prop_map(MetadataValue::Int),
            float.clone().prop_map(MetadataValue::Float),
            "[ab]{0,2}".prop_map(MetadataValue::Str),
            prop::collection::vec(int, 1..3).prop_map(MetadataValue::IntList),
            prop::collection::vec(float, 1..3).prop_map(MetadataValue::FloatList),
            prop::collection::vec("[ab]{0,2}", 1..3).prop_map(MetadataValue::StrList),
        ]
    }

    fn operand() -> impl Strategy<Value = Value> {
        value().prop_filter_map("scalar", |value| match value {
            MetadataValue::Bool(v) => Some(json!(v)),
            MetadataValue::Int(v) => Some(json!(v)),
            MetadataValue::Float(v) => Some(json!(v)),
            MetadataValue::Str(v) => Some(json!(v)),
            _ => None,
        })
    }

    fn leaf() -> impl Strategy<Value = Value> {
        let operator = prop::sample::select(vec![
            "$eq",
            "$ne",
            "$gt",
            "$gte",
            "$lt",
            "$lte",
            "$contains",
            "$not_contains",
            "$in",
            "$nin",
        ]);
        ("[xy]", operator, operand()).prop_map(|(key, operator, operand)| {
            let operand = if operator.ends_with("in") {
                json!([operand])
            } else {
                operand
            };
            json!({ key: { operator: operand } })
        })
    }

    fn filter() -> impl Strategy<Value = Value> {
        let document = Just(json!({"#document": {"$contains": "a"}}));
        prop_oneof![4 => leaf(), 1 => document].prop_recursive(3, 12, 3, |inner| {
            let list = prop::collection::vec(inner, 1..3);
            prop_oneof![
                list.clone().prop_map(|filters| json!({ "$and": filters })),
                list.prop_map(|filters| json!({ "$or": filters })),
            ]
        })
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        prop::collection::btree_map("[xyz]", value(), 0..3)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// The filter's own evaluation of every record is the truth that the index has to meet.
        #[test]
        fn selects_what_the_filter_matches(
            records in prop::collection::vec((metadata(), metadata(), prop::option::of("[ab]{0,2}"), 0..3_u8), 0..12),
            filter in filter(),
        ) {
            // Operands that Chroma refuses for an operator are another test's.
            let Ok(Some(filter)) = Filter::parse_where(&filter, &LIMITS) else { return Ok(()) };
            let mut index = MetadataIndex::default();
            let mut model = BTreeMap::new();
            for (ordinal, (first, second, document, fate)) in (0_u64..).zip(records) {
                index.insert(ordinal, &first);
                model.insert(ordinal, (first.clone(), document.clone()));
                if fate == 1 {
                    index.remove(ordinal, &first);
                    index.insert(ordinal, &second);
                    model.insert(ordinal, (second, document));
                } else if fate == 2 {
                    index.remove(ordinal, &first);
                    model.remove(&ordinal);
                }
            }
            let matching: Vec<u64> = model
                .iter()
                .filter(|(_, (metadata, document))| filter.matches(metadata, document.as_deref()))
                .map(|(ordinal, _)| *ordinal)
                .collect();
            let selection = index.part_for(&filter).select(&filter);
            let selected: Vec<u64> = match selection.ordinals {
                Some(ordinals) => ordinals.iter().collect(),
                None => model.keys().copied().collect(),
            };
            if selection.exact {
                prop_assert_eq!(&selected, &matching);
            }
            prop_assert!(matching.iter().all(|ordinal| selected.contains(ordinal)));
            for (ordinal, (metadata, _)) in &model {
                prop_assert!(index.agrees(*ordinal, metadata));
            }
        }
    }

    #[test]
    fn nothing_is_left_of_removed_records() {
        let mut index = MetadataIndex::default();
        let metadata = Metadata::from([
            ("a".to_owned(), MetadataValue::Int(1)),
            (
                "b".to_owned(),
                MetadataValue::StrList(vec!["x".to_owned(), "y".to_owned(), "x".to_owned()]),
            ),
        ]);
        for ordinal in 0..10 {
            index.insert(ordinal, &metadata);
        }
        for ordinal in 0..10 {
            index.remove(ordinal, &metadata);
        }
        assert!(index.keys.is_empty() && index.live.is_empty());
    }
}
