//! Chroma's `where` and `where_document` filters: from JSON to a typed tree, and the question whether
//! a record satisfies it.
//!
//! It knows nothing of schemas (a caller refuses filters on disabled indexes with
//! [`Filter::for_each_leaf`]), of ids, of storage and of query planning. The grammar and the texts of
//! the errors are those of Chroma's server; comparing integers with floats is exact, which Chroma's is
//! not (it truncates the float, so that its int 2 equals 2.5).

mod evaluate;
mod parse;
mod scalar;

#[cfg(test)]
mod recorded;

use regex::Regex;

use self::scalar::ScalarRef;
use crate::error::Result;
use crate::model::schema::IndexKind;

pub use parse::Limits;
pub use scalar::{Number, Scalar, ScalarSet};

/// The key under which a `where` clause searches the text of documents.
const DOCUMENT_KEY: &str = "#document";

/// The key under which Chroma stores the document among the metadata, so that there `$eq`, `$ne`, `$in`
/// and `$nin` see the document as a string.
const STORED_DOCUMENT_KEY: &str = "chroma:document";

/// A condition on a record's metadata and document.
#[derive(Clone, Debug)]
pub enum Filter {
    /// All of them hold; none given: holds.
    And(Vec<Filter>),
    /// At least one holds; none given: does not hold.
    Or(Vec<Filter>),
    /// A condition on the value under a metadata key.
    Metadata {
        /// The key; `chroma:document` and `#document` stand for the document as a string value.
        key: String,
        /// What the value has to satisfy.
        condition: Condition,
    },
    /// A condition on the text of the document.
    Document(DocumentCondition),
}

/// A condition on one metadata value. The negations hold for absent values and other types, too.
#[derive(Clone, Debug)]
pub enum Condition {
    /// Equals; numbers by value whatever their type.
    Eq(Scalar),
    /// Not [`Condition::Eq`].
    Ne(Scalar),
    /// A number in this relation to the operand.
    Compare {
        /// The relation.
        op: CompareOp,
        /// Its right-hand side.
        operand: Number,
    },
    /// Equals one of them.
    In(ScalarSet),
    /// Not [`Condition::In`].
    NotIn(ScalarSet),
    /// A list holding this element, of exactly this type.
    Contains(Scalar),
    /// Not [`Condition::Contains`].
    NotContains(Scalar),
}

/// A relation between two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompareOp {
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
    /// Less.
    Lt,
    /// Less or equal.
    Lte,
}

/// A condition on a document's text. The negations hold for records without a document, too.
#[derive(Clone, Debug)]
pub enum DocumentCondition {
    /// Has this substring; the empty one is in every document.
    Contains(String),
    /// Not [`DocumentCondition::Contains`].
    NotContains(String),
    /// Has a match, anywhere.
    Regex(CompiledPattern),
    /// Not [`DocumentCondition::Regex`].
    NotRegex(CompiledPattern),
}

/// A regular expression within [`Limits::max_regex_bytes`].
#[derive(Clone, Debug)]
pub struct CompiledPattern(Regex);

impl Filter {
    /// The conjunction of those given; `None` if none is.
    pub fn all(filters: impl IntoIterator<Item = Option<Filter>>) -> Option<Filter> {
        let mut given: Vec<Filter> = filters.into_iter().flatten().collect();
        match given.len() {
            0 | 1 => given.pop(),
            _ => Some(Filter::And(given)),
        }
    }

    /// Whether [`Filter::matches`] looks at the document, so that a caller has to load it.
    pub fn reads_documents(&self) -> bool {
        match self {
            Self::And(filters) | Self::Or(filters) => filters.iter().any(Filter::reads_documents),
            Self::Metadata { key, .. } => names_document(key),
            Self::Document(_) => true,
        }
    }

    /// Visits the key of every condition on metadata.
    pub fn each_key(&self, visit: &mut dyn FnMut(&str)) {
        match self {
            Self::And(filters) | Self::Or(filters) => {
                filters.iter().for_each(|filter| filter.each_key(visit));
            }
            Self::Metadata { key, .. } => visit(key),
            Self::Document(_) => {}
        }
    }

    /// Visits every leaf with its key (`#document` for conditions on the text) and the index it needs,
    /// in the order of the request, until `f` fails.
    pub fn for_each_leaf(&self, f: &mut dyn FnMut(&str, IndexKind) -> Result<()>) -> Result<()> {
        match self {
            Self::And(all) | Self::Or(all) => all.iter().try_for_each(|one| one.for_each_leaf(f)),
            Self::Metadata { key, condition } => f(key, condition.index_kind()),
            Self::Document(_) => f(DOCUMENT_KEY, IndexKind::FullText),
        }
    }
}

impl Condition {
    fn index_kind(&self) -> IndexKind {
        match self {
            Self::Eq(one) | Self::Ne(one) | Self::Contains(one) | Self::NotContains(one) => {
                one.view().index_kind()
            }
            Self::Compare { operand, .. } => ScalarRef::Number(*operand).index_kind(),
            Self::In(set) | Self::NotIn(set) => set.index_kind(),
        }
    }
}

fn names_document(key: &str) -> bool {
    key == STORED_DOCUMENT_KEY || key == DOCUMENT_KEY
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::error::Error;
    use crate::model::metadata::Metadata;

    pub(super) const LIMITS: Limits = Limits {
        max_depth: 16,
        max_nodes: 1000,
        max_regex_bytes: 1 << 20,
    };

    pub(super) fn metadata_of(value: Value) -> Metadata {
        serde_json::from_value(value).unwrap()
    }

    pub(super) fn where_(value: Value) -> Filter {
        Filter::parse_where(&value, &LIMITS).unwrap().unwrap()
    }

    pub(super) fn where_document(value: Value) -> Filter {
        Filter::parse_where_document(&value, &LIMITS)
            .unwrap()
            .unwrap()
    }

    pub(super) fn is_found(value: Value, by: Value) -> bool {
        where_(json!({"k": by})).matches(&metadata_of(json!({"k": value})), None)
    }

    fn leaves(filter: &Filter) -> Vec<(String, IndexKind)> {
        let mut leaves = Vec::new();
        filter
            .for_each_leaf(&mut |key, index_kind| {
                leaves.push((key.to_owned(), index_kind));
                Ok(())
            })
            .unwrap();
        leaves
    }

    #[test]
    fn leaves_carry_what_the_schema_decides_on() {
        let filter = where_(json!({"$and": [
            {"b": true}, {"i": {"$ne": 1}}, {"f": {"$gt": 1.0}}, {"s": {"$contains": "x"}},
            {"$or": [{"i": {"$in": [1, 2]}}, {"f": {"$nin": [2.5, 1]}}]},
            {"#document": "x"}, {"#document": {"$not_regex": "x"}}, {"chroma:document": "x"},
        ]}));
        let expected = [
            ("b", IndexKind::Bool),
            ("i", IndexKind::Int),
            ("f", IndexKind::Float),
            ("s", IndexKind::Str),
            ("i", IndexKind::Int),
            ("f", IndexKind::Float),
            ("#document", IndexKind::Str),
            ("#document", IndexKind::FullText),
            ("chroma:document", IndexKind::Str),
        ];
        assert_eq!(
            leaves(&filter),
            expected.map(|(key, t)| (key.to_owned(), t))
        );
        let stopped = filter.for_each_leaf(&mut |_, _| Err(Error::invalid("stop")));
        assert_eq!(stopped.unwrap_err().message(), "stop");
    }

    /// `schema.int_off_*` of the recorded answers: the operand's type decides, under `$or` as well.
    #[test]
    fn a_disabled_index_is_seen_on_every_leaf() {
        let refused =
            |clause: Value| leaves(&where_(clause)).contains(&("age".into(), IndexKind::Int));
        assert!(refused(json!({"age": 3})));
        assert!(refused(json!({"$or": [{"x": 1}, {"age": {"$gt": 1}}]})));
        assert!(refused(json!({"age": {"$in": [1]}})));
        assert!(!refused(json!({"age": 3.0})));
        let full_text = [("#document".to_owned(), IndexKind::FullText)];
        assert_eq!(
            leaves(&where_(json!({"#document": {"$contains": "h"}}))),
            full_text
        );
        assert_eq!(leaves(&where_document(json!({"$regex": "h"}))), full_text);
    }

    #[test]
    fn only_filters_on_documents_read_them() {
        assert!(where_document(json!({"$or": [{"$contains": "x"}]})).reads_documents());
        assert!(where_(json!({"#document": {"$regex": "x"}})).reads_documents());
        assert!(where_(json!({"$and": [{"i": 1}, {"chroma:document": "x"}]})).reads_documents());
        assert!(!where_(json!({"$and": [{"i": 1}, {"#id": "x"}]})).reads_documents());
    }
}
