//! Random writes: odd ids, long texts, every type of metadata, floats at their edges.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use vectorkeep::model::filter::{Filter, Limits};
use vectorkeep::model::metadata::MetadataValue;
use vectorkeep::model::record::Record;

pub(super) const DIMENSION: usize = 4;

/// Few, so that operations meet; odd, so that keys are tested.
pub(super) const IDS: [&str; 12] = [
    "a",
    "b",
    "\u{0}",
    "\u{1f}\n",
    "ключ",
    "e\u{301}",
    "é",
    "𝕏/%2F",
    " ",
    "\u{7f}",
    "\u{ffff}",
    "a long one: 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789",
];
pub(super) const KEYS: [&str; 4] = ["n", "flag", "ключ", "z"];

/// A text that prints short however long it is.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Absent,
    Short(String),
    Long { bytes: usize, seed: u8 },
}

impl Text {
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Absent => None,
            Self::Short(text) => Some(text.clone()),
            Self::Long { bytes, seed } => {
                let mut text = String::with_capacity(*bytes);
                let mut state = u32::from(*seed) + 1;
                while text.len() + 2 < *bytes {
                    state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    text.push(char::from(b'a' + (state >> 16) as u8 % 26));
                    text.push_str(if state & 0x100 == 0 { "é" } else { "-" });
                }
                Some(text)
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Patch {
    pub(super) id: usize,
    pub(super) embedding: Option<[f32; DIMENSION]>,
    pub(super) document: Text,
    pub(super) uri: Option<String>,
    pub(super) metadata: BTreeMap<usize, Option<MetadataValue>>,
}

#[derive(Clone, Debug)]
pub(super) enum Deletion {
    Number(i64),
    Flag(bool),
    Contains(char),
    Either(i64, char),
}

impl Deletion {
    pub(super) fn filter(&self) -> Filter {
        let limits = Limits {
            max_depth: 8,
            max_nodes: 100,
            max_regex_bytes: 1 << 20,
        };
        let metadata = |clause: Value| Filter::parse_where(&clause, &limits).unwrap().unwrap();
        match self {
            Self::Number(n) => metadata(json!({"n": {"$gte": n}})),
            Self::Flag(flag) => metadata(json!({"flag": {"$ne": flag}})),
            Self::Contains(c) => {
                let clause = json!({"$contains": c});
                Filter::parse_where_document(&clause, &limits)
                    .unwrap()
                    .unwrap()
            }
            Self::Either(n, c) => {
                metadata(json!({"$or": [{"n": {"$lt": n}}, {"#document": {"$contains": c}}]}))
            }
        }
    }

    pub(super) fn holds(&self, record: &Record) -> bool {
        let number = |holds: fn(f64, f64) -> bool, bound: i64| match record.metadata.get("n") {
            Some(MetadataValue::Int(n)) => holds(*n as f64, bound as f64),
            Some(MetadataValue::Float(n)) => holds(*n, bound as f64),
            _ => false,
        };
        let contains = |c: char| {
            record
                .document
                .as_ref()
                .is_some_and(|text| text.contains(c))
        };
        match self {
            Self::Number(bound) => number(|n, bound| n >= bound, *bound),
            Self::Flag(flag) => record.metadata.get("flag") != Some(&MetadataValue::Bool(*flag)),
            Self::Contains(c) => contains(*c),
            Self::Either(bound, c) => number(|n, bound| n < bound, *bound) || contains(*c),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Write(u8, Vec<Patch>),
    DeleteIds(Vec<usize>),
    DeleteWhere(Deletion, Option<usize>),
    Reopen,
    Compact,
}

fn float() -> impl Strategy<Value = f64> {
    prop_oneof![
        select(vec![
            0.0,
            -0.0,
            5e-324,
            -2.5e-310,
            1.0,
            3.0,
            f64::MAX,
            f64::MIN_POSITIVE
        ]),
        -5.0..5.0,
    ]
}

fn value() -> impl Strategy<Value = MetadataValue> {
    let int = || prop_oneof![-4_i64..8, select(vec![i64::MIN, i64::MAX])];
    let text = || prop_oneof![Just(String::new()), "\\PC{0,8}", "[\\x00-\\x1f]{1,3}"];
    prop_oneof![
        4 => any::<bool>().prop_map(MetadataValue::Bool),
        4 => int().prop_map(MetadataValue::Int),
        2 => float().prop_map(MetadataValue::Float),
        2 => text().prop_map(MetadataValue::Str),
        1 => vec(any::<bool>(), 1..4).prop_map(MetadataValue::BoolList),
        1 => vec(int(), 1..4).prop_map(MetadataValue::IntList),
        1 => vec(float(), 1..4).prop_map(MetadataValue::FloatList),
        1 => vec(text(), 1..4).prop_map(MetadataValue::StrList),
    ]
}

fn document() -> impl Strategy<Value = Text> {
    // Values are split above 24 KiB; around that everything is off by one somewhere.
    let bytes = prop_oneof![24_300..24_700_usize, 48_800..49_300_usize, 0..200_000_usize];
    prop_oneof![
        3 => Just(Text::Absent),
        5 => "\\PC{0,12}".prop_map(Text::Short),
        1 => Just(Text::Short(String::new())),
        2 => (bytes, any::<u8>()).prop_map(|(bytes, seed)| Text::Long { bytes, seed }),
    ]
}

fn component() -> impl Strategy<Value = f32> {
    let special = vec![
        0.0,
        -0.0,
        f32::from_bits(1),
        -f32::from_bits(0x7f_ffff),
        f32::MIN_POSITIVE,
        1.0,
        -1.0,
    ];
    prop_oneof![1 => select(special), 3 => -100.0_f32..100.0]
}

pub(super) fn vector() -> impl Strategy<Value = [f32; DIMENSION]> {
    [component(), component(), component(), component()]
}

prop_compose! {
    fn patch()(
        id in 0..IDS.len(),
        embedding in option::weighted(0.7, vector()),
        document in document(),
        uri in option::of("[a-z:/]{0,9}"),
        metadata in btree_map(0..KEYS.len(), option::weighted(0.8, value()), 0..3),
    ) -> Patch {
        Patch { id, embedding, document, uri, metadata }
    }
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let deletion = prop_oneof![
        (-4_i64..8).prop_map(Deletion::Number),
        any::<bool>().prop_map(Deletion::Flag),
        select(vec!['a', 'e', 'é', '0']).prop_map(Deletion::Contains),
        ((-4_i64..8), select(vec!['b', 'q'])).prop_map(|(n, c)| Deletion::Either(n, c)),
    ];
    prop_oneof![
        12 => (0..3_u8, vec(patch(), 1..6)).prop_map(|(mode, patches)| Step::Write(mode, patches)),
        4 => vec(0..IDS.len(), 1..4).prop_map(Step::DeleteIds),
        2 => (deletion, option::of(0..3_usize)).prop_map(|(deletion, limit)| Step::DeleteWhere(deletion, limit)),
        2 => Just(Step::Reopen),
        2 => Just(Step::Compact),
    ]
}
