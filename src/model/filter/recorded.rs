//! What Chroma 1.5.9 answered to filters, and that the same records are found here.

use serde_json::{Value, json};

use super::tests::{LIMITS, metadata_of, where_, where_document};
use super::*;
use crate::error::{Error, Kind};
use crate::model::metadata::Metadata;

/// What Chroma 1.5.9 answered.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Ids(&'static [&'static str]),
    Refused(&'static str),
}
use Expected::{Ids, Refused};

const ALL: &[&str] = &["i1", "i2", "i3", "i4", "i5", "i6"];

const WHERE: &str = "Invalid where clause";

const WHERE_DOCUMENT: &str = "Invalid where document clause";

/// Recorded with `wire_probe.py` (`where.*`).
const WHERE_CASES: &[(&str, &str, Expected)] = &[
    (
        "and",
        r#"{"$and": [{"s": "apple"}, {"i": 1}]}"#,
        Ids(&["i1"]),
    ),
    ("and_empty", r#"{"$and": []}"#, Ids(ALL)),
    ("and_notlist", r#"{"$and": {"s": "apple"}}"#, Refused(WHERE)),
    ("and_one", r#"{"$and": [{"s": "apple"}]}"#, Ids(&["i1"])),
    (
        "arr_contains_bool",
        r#"{"bl": {"$contains": true}}"#,
        Ids(&["i3"]),
    ),
    (
        "arr_contains_float",
        r#"{"fl": {"$contains": 0.5}}"#,
        Ids(&["i3"]),
    ),
    (
        "arr_contains_int",
        r#"{"nums": {"$contains": 1}}"#,
        Ids(&["i1"]),
    ),
    (
        "arr_contains_intfloat",
        r#"{"nums": {"$contains": 1.0}}"#,
        Ids(&[]),
    ),
    (
        "arr_contains_list",
        r#"{"tags": {"$contains": ["x"]}}"#,
        Refused(WHERE),
    ),
    (
        "arr_contains_on_scalar",
        r#"{"s": {"$contains": "apple"}}"#,
        Ids(&[]),
    ),
    (
        "arr_contains_str",
        r#"{"tags": {"$contains": "y"}}"#,
        Ids(&["i1", "i2"]),
    ),
    ("arr_eq_scalar", r#"{"tags": "x"}"#, Ids(&[])),
    ("arr_in", r#"{"tags": {"$in": ["x"]}}"#, Ids(&[])),
    ("arr_ne", r#"{"tags": {"$ne": "x"}}"#, Ids(ALL)),
    (
        "arr_not_contains",
        r#"{"tags": {"$not_contains": "x"}}"#,
        Ids(&["i2", "i3", "i4", "i5", "i6"]),
    ),
    ("bad_op", r#"{"i": {"$foo": 1}}"#, Refused(WHERE)),
    ("bool", r#"{"b": true}"#, Ids(&["i1"])),
    ("bool_eq_int", r#"{"b": 1}"#, Ids(&[])),
    (
        "bool_ne",
        r#"{"b": {"$ne": true}}"#,
        Ids(&["i2", "i3", "i4", "i5", "i6"]),
    ),
    (
        "chroma_document",
        r#"{"chroma:document": "quick QUICK"}"#,
        Ids(&["i5"]),
    ),
    (
        "deep",
        r#"{"$and": [{"$or": [{"i": 1}, {"i": 2}]}, {"$or": [{"s": "apple"}, {"s": "banana"}]}]}"#,
        Ids(&["i1", "i2"]),
    ),
    (
        "doc_contains",
        r##"{"#document": {"$contains": "quick"}}"##,
        Ids(&["i5"]),
    ),
    (
        "doc_contains_int",
        r##"{"#document": {"$contains": 1}}"##,
        Refused(WHERE),
    ),
    (
        "doc_eq",
        r##"{"#document": "quick QUICK"}"##,
        Refused(
            "Cannot filter using metadata key '#document' with type 'Str' because indexing is disabled",
        ),
    ),
    (
        "doc_not_contains",
        r##"{"#document": {"$not_contains": "quick"}}"##,
        Ids(&["i1", "i2", "i3", "i4", "i6"]),
    ),
    (
        "doc_not_regex",
        r##"{"#document": {"$not_regex": "^the"}}"##,
        Ids(&["i1", "i3", "i4", "i5", "i6"]),
    ),
    (
        "doc_regex",
        r##"{"#document": {"$regex": "(?i)quick"}}"##,
        Ids(&["i1", "i5"]),
    ),
    ("empty", "{}", Refused(WHERE)),
    ("eq", r#"{"s": {"$eq": "apple"}}"#, Ids(&["i1"])),
    ("eq_empty_str", r#"{"s": ""}"#, Ids(&["i6"])),
    ("eq_null", r#"{"s": {"$eq": null}}"#, Refused(WHERE)),
    ("eq_short", r#"{"s": "apple"}"#, Ids(&["i1"])),
    ("float_eq", r#"{"f": 2.5}"#, Ids(&["i2"])),
    ("float_eq_int", r#"{"f": 1}"#, Ids(&["i1", "i4"])),
    ("gt", r#"{"i": {"$gt": 1}}"#, Ids(&["i2", "i3", "i4"])),
    ("gt_bool", r#"{"b": {"$gt": true}}"#, Refused(WHERE)),
    (
        "gt_float_on_int",
        r#"{"i": {"$gt": 1.5}}"#,
        Ids(&["i2", "i3", "i4"]),
    ),
    ("gt_str", r#"{"s": {"$gt": "a"}}"#, Refused(WHERE)),
    ("gte", r#"{"i": {"$gte": 2}}"#, Ids(&["i2", "i3", "i4"])),
    ("id_in", r##"{"#id": {"$in": ["i1", "i2"]}}"##, Ids(&[])),
    ("id_key", r##"{"#id": "i1"}"##, Ids(&[])),
    (
        "in",
        r#"{"s": {"$in": ["apple", "Cherry"]}}"#,
        Ids(&["i1", "i3"]),
    ),
    ("in_bool", r#"{"b": {"$in": [true]}}"#, Ids(&["i1"])),
    ("in_empty", r#"{"s": {"$in": []}}"#, Refused(WHERE)),
    (
        "in_floatintmix",
        r#"{"i": {"$in": [7.5, 1]}}"#,
        Ids(&["i1"]),
    ),
    ("in_int", r#"{"i": {"$in": [1, 3]}}"#, Ids(&["i1", "i3"])),
    (
        "in_intfloat",
        r#"{"i": {"$in": [1.0, 3.0]}}"#,
        Ids(&["i1", "i3"]),
    ),
    (
        "in_intfloatmix",
        r#"{"i": {"$in": [1, 2.5]}}"#,
        Refused(WHERE),
    ),
    ("in_mixed", r#"{"s": {"$in": ["a", 1]}}"#, Refused(WHERE)),
    ("in_scalar", r#"{"s": {"$in": "apple"}}"#, Refused(WHERE)),
    ("int_big", r#"{"i": 9223372036854775807}"#, Ids(&[])),
    ("int_eq", r#"{"i": 2}"#, Ids(&["i2", "i4"])),
    ("int_eq_float", r#"{"i": 2.0}"#, Ids(&["i2", "i4"])),
    ("int_u64", r#"{"i": 18446744073709551615}"#, Refused(WHERE)),
    ("key_missing", r#"{"nokey": 1}"#, Ids(&[])),
    ("list", "[]", Refused(WHERE)),
    ("list_val", r#"{"s": ["apple"]}"#, Refused(WHERE)),
    ("lt", r#"{"f": {"$lt": 2}}"#, Ids(&["i1", "i4"])),
    ("lte", r#"{"f": {"$lte": 2.5}}"#, Ids(&["i1", "i2", "i4"])),
    (
        "ne",
        r#"{"s": {"$ne": "apple"}}"#,
        Ids(&["i2", "i3", "i4", "i5", "i6"]),
    ),
    ("ne_missing_key", r#"{"zzz": {"$ne": 1}}"#, Ids(ALL)),
    (
        "neg",
        r#"{"i": {"$gt": -1}}"#,
        Ids(&["i1", "i2", "i3", "i4"]),
    ),
    (
        "nested",
        r#"{"$or": [{"$and": [{"i": {"$gte": 2}}, {"s": {"$ne": "banana"}}]}, {"b": true}]}"#,
        Ids(&["i1", "i3", "i4"]),
    ),
    (
        "nin",
        r#"{"s": {"$nin": ["apple"]}}"#,
        Ids(&["i2", "i3", "i4", "i5", "i6"]),
    ),
    ("nin_empty", r#"{"s": {"$nin": []}}"#, Refused(WHERE)),
    (
        "nin_int",
        r#"{"i": {"$nin": [1]}}"#,
        Ids(&["i2", "i3", "i4", "i5", "i6"]),
    ),
    ("nin_missing_key", r#"{"zzz": {"$nin": [1]}}"#, Ids(ALL)),
    ("not", r#"{"$not": {"s": "apple"}}"#, Refused(WHERE)),
    ("null", "null", Ids(ALL)),
    ("null_val", r#"{"s": null}"#, Refused(WHERE)),
    ("obj_val", r#"{"s": {"x": 1}}"#, Refused(WHERE)),
    ("op_top", r#"{"$gt": 1}"#, Refused(WHERE)),
    (
        "or",
        r#"{"$or": [{"s": "apple"}, {"i": 3}]}"#,
        Ids(&["i1", "i3"]),
    ),
    ("or_empty", r#"{"$or": []}"#, Ids(&[])),
    (
        "regex_on_meta",
        r#"{"s": {"$regex": "a.*"}}"#,
        Refused(WHERE),
    ),
    ("str", r#""x""#, Refused(WHERE)),
    ("str_of_int", r#"{"i": "1"}"#, Ids(&[])),
    ("two_keys", r#"{"i": 1, "s": "apple"}"#, Refused(WHERE)),
    ("two_ops", r#"{"i": {"$gt": 0, "$lt": 3}}"#, Refused(WHERE)),
    ("unicode", r#"{"u": "žluť"}"#, Ids(&["i6"])),
];

/// Recorded with `wire_probe.py` (`wdoc.*`).
const WHERE_DOCUMENT_CASES: &[(&str, &str, Expected)] = &[
    (
        "and",
        r#"{"$and": [{"$contains": "the"}, {"$contains": "dog"}]}"#,
        Ids(&["i2"]),
    ),
    ("and_empty", r#"{"$and": []}"#, Ids(ALL)),
    ("backslash", r#"{"$contains": "\\ back"}"#, Ids(&["i3"])),
    ("bad", r#"{"$foo": "x"}"#, Refused(WHERE_DOCUMENT)),
    ("contains", r#"{"$contains": "quick"}"#, Ids(&["i5"])),
    ("contains_case", r#"{"$contains": "Quick"}"#, Ids(&["i1"])),
    (
        "empty",
        r#"{"$contains": ""}"#,
        Ids(&["i1", "i2", "i3", "i5", "i6"]),
    ),
    ("empty_obj", "{}", Refused(WHERE_DOCUMENT)),
    ("int", r#"{"$contains": 1}"#, Refused(WHERE_DOCUMENT)),
    ("list", r#"{"$contains": ["a"]}"#, Refused(WHERE_DOCUMENT)),
    (
        "nested",
        r#"{"$or": [{"$and": [{"$contains": "the"}, {"$not_contains": "fox"}]}, {"$regex": "paren"}]}"#,
        Ids(&["i2", "i3"]),
    ),
    ("newline", r#"{"$contains": "žluť\nnew"}"#, Ids(&["i6"])),
    (
        "not_contains",
        r#"{"$not_contains": "quick"}"#,
        Ids(&["i1", "i2", "i3", "i4", "i6"]),
    ),
    ("not_empty", r#"{"$not_contains": ""}"#, Ids(&["i4"])),
    (
        "not_regex",
        r#"{"$not_regex": "quick"}"#,
        Ids(&["i1", "i2", "i3", "i4", "i6"]),
    ),
    ("null", "null", Ids(ALL)),
    (
        "or",
        r#"{"$or": [{"$contains": "fox"}, {"$contains": "dog"}]}"#,
        Ids(&["i1", "i2"]),
    ),
    ("percent", r#"{"$contains": "100%"}"#, Ids(&["i2"])),
    ("quote", r#"{"$contains": "'"}"#, Ids(&[])),
    ("regex", r#"{"$regex": "qu.ck"}"#, Ids(&["i5"])),
    ("regex_anchor", r#"{"$regex": "^the"}"#, Ids(&["i2"])),
    (
        "regex_backref",
        r#"{"$regex": "(a)\\1"}"#,
        Refused(
            "Regex syntax errror: regex parse error:\n    (a)\\1\n       ^^\nerror: backreferences are not supported",
        ),
    ),
    (
        "regex_bad",
        r#"{"$regex": "("}"#,
        Refused("Regex syntax errror: regex parse error:\n    (\n    ^\nerror: unclosed group"),
    ),
    (
        "regex_bytes",
        r#"{"$regex": "(?-u)\\xFF"}"#,
        Refused(
            "Regex syntax errror: regex parse error:\n    (?-u)\\xFF\n         ^^^^\nerror: pattern can match invalid UTF-8",
        ),
    ),
    ("regex_ci", r#"{"$regex": "(?i)QUICK"}"#, Ids(&["i1", "i5"])),
    ("regex_class", r#"{"$regex": "[0-9]{3}%"}"#, Ids(&["i2"])),
    (
        "regex_dot_newline",
        r#"{"$regex": "žluť.newline"}"#,
        Ids(&[]),
    ),
    (
        "regex_empty",
        r#"{"$regex": ""}"#,
        Ids(&["i1", "i2", "i3", "i5", "i6"]),
    ),
    (
        "regex_lookahead",
        r#"{"$regex": "(?=x)"}"#,
        Refused(
            "Regex syntax errror: regex parse error:\n    (?=x)\n    ^^^\nerror: look-around, including look-ahead and look-behind, is not supported",
        ),
    ),
    ("regex_word", r#"{"$regex": "\\bfox\\b"}"#, Ids(&["i1"])),
    ("short1", r#"{"$contains": "a"}"#, Ids(&["i2", "i3", "i6"])),
    ("star", r#"{"$contains": "a*b"}"#, Ids(&["i3"])),
    ("str", r#""x""#, Refused(WHERE_DOCUMENT)),
    (
        "two",
        r#"{"$contains": "a", "$not_contains": "b"}"#,
        Refused(WHERE_DOCUMENT),
    ),
    ("underscore", r#"{"$contains": "dog_"}"#, Ids(&["i2"])),
    ("underscore_wild", r#"{"$contains": "d_g"}"#, Ids(&[])),
    ("unicode", r#"{"$contains": "žluť"}"#, Ids(&["i6"])),
    ("unicode_case", r#"{"$contains": "ŽLUŤ"}"#, Ids(&[])),
];

struct Record {
    id: &'static str,
    metadata: Metadata,
    document: Option<&'static str>,
}

/// The records of `wire_probe.py`.
fn records() -> Vec<Record> {
    let record = |id, metadata, document| Record {
        id,
        metadata: metadata_of(metadata),
        document,
    };
    vec![
        record(
            "i1",
            json!({"i": 1, "f": 1.0, "s": "apple", "b": true, "tags": ["x", "y"], "nums": [1, 2]}),
            Some("The Quick brown fox"),
        ),
        record(
            "i2",
            json!({"i": 2, "f": 2.5, "s": "banana", "b": false, "tags": ["y"], "nums": [3]}),
            Some("the lazy dog_100%"),
        ),
        record(
            "i3",
            json!({"i": 3, "s": "Cherry", "fl": [0.5, 1.5], "bl": [true]}),
            Some("a*b (paren) \\ back"),
        ),
        record("i4", json!({"f": 1, "s": "apple pie", "i": 2.0}), None),
        record("i5", json!({}), Some("quick QUICK")),
        record(
            "i6",
            json!({"s": "", "u": "žluť"}),
            Some("čeština žluť\nnewline"),
        ),
    ]
}

fn matching(filter: Option<&Filter>) -> Vec<&'static str> {
    records()
        .iter()
        .filter(|r| filter.is_none_or(|f| f.matches(&r.metadata, r.document)))
        .map(|r| r.id)
        .collect()
}

/// The caller's check with Chroma's default schema, in which only the inverted index of the
/// document is off.
fn refuse_disabled(filter: &Filter) -> Result<()> {
    filter.for_each_leaf(&mut |key, index_kind| {
        if key == DOCUMENT_KEY && index_kind == IndexKind::Str {
            return Err(Error::invalid(format!(
                "Cannot filter using metadata key '{key}' with type '{index_kind:?}' because \
                 indexing is disabled"
            )));
        }
        Ok(())
    })
}

type Parse = fn(&Value, &Limits) -> Result<Option<Filter>>;

fn check(parse: Parse, cases: &[(&str, &str, Expected)]) {
    for &(name, clause, expected) in cases {
        let clause = serde_json::from_str(clause).unwrap();
        let answer = parse(&clause, &LIMITS).and_then(|filter| {
            filter.as_ref().map_or(Ok(()), refuse_disabled)?;
            Ok(matching(filter.as_ref()))
        });
        match (answer, expected) {
            (Ok(ids), Ids(expected)) => assert_eq!(ids, expected, "{name}"),
            (Err(error), Refused(message)) => {
                assert_eq!(error.kind(), Kind::InvalidArgument, "{name}");
                assert_eq!(error.message(), message, "{name}");
            }
            (answer, expected) => panic!("{name}: {answer:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn where_answers_as_chroma_does() {
    check(Filter::parse_where, WHERE_CASES);
}

#[test]
fn where_document_answers_as_chroma_does() {
    check(Filter::parse_where_document, WHERE_DOCUMENT_CASES);
}

#[test]
fn all_of_the_given_filters_have_to_hold() {
    let filter = Filter::all([
        Some(where_(json!({"s": "apple"}))),
        None,
        Some(where_document(json!({"$contains": "fox"}))),
    ]);
    assert_eq!(matching(filter.as_ref()), ["i1"]);
    assert!(Filter::all([None, None]).is_none());
    let lone = Filter::all([None, Some(where_(json!({"i": 2})))]).unwrap();
    assert!(matches!(lone, Filter::Metadata { .. }));
}

#[test]
fn chroma_document_is_the_document_as_a_string() {
    let found = |condition: Value| matching(Some(&where_(json!({"chroma:document": condition}))));
    assert_eq!(found(json!({"$in": ["quick QUICK"]})), ["i5"]);
    assert_eq!(
        found(json!({"$ne": "quick QUICK"})),
        ["i1", "i2", "i3", "i4", "i6"]
    );
    assert!(found(json!({"$contains": "quick"})).is_empty());
}
