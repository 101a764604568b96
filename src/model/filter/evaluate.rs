//! Whether a record satisfies a filter.

use super::scalar::ScalarRef;
use super::{CompareOp, Condition, DocumentCondition, Filter, Scalar, names_document};
use crate::model::metadata::{Metadata, MetadataValue};

impl Filter {
    /// Whether the record of this metadata and document satisfies the filter.
    pub fn matches(&self, metadata: &Metadata, document: Option<&str>) -> bool {
        match self {
            Self::And(filters) => filters.iter().all(|f| f.matches(metadata, document)),
            Self::Or(filters) => filters.iter().any(|f| f.matches(metadata, document)),
            Self::Metadata { key, condition } if names_document(key) => {
                condition.holds(document.map(ScalarRef::Str), None)
            }
            Self::Metadata { key, condition } => {
                let value = metadata.get(key);
                condition.holds(value.and_then(ScalarRef::of_stored), value)
            }
            Self::Document(condition) => condition.holds(document),
        }
    }
}

impl Condition {
    /// `scalar` is the value if it is one; `value` is whatever is stored, for its lists.
    fn holds(&self, scalar: Option<ScalarRef<'_>>, value: Option<&MetadataValue>) -> bool {
        match self {
            Self::Eq(operand) => scalar == Some(operand.view()),
            Self::Ne(operand) => scalar != Some(operand.view()),
            Self::Compare { op, operand } => match (scalar, op) {
                (Some(ScalarRef::Number(number)), CompareOp::Gt) => number > *operand,
                (Some(ScalarRef::Number(number)), CompareOp::Gte) => number >= *operand,
                (Some(ScalarRef::Number(number)), CompareOp::Lt) => number < *operand,
                (Some(ScalarRef::Number(number)), CompareOp::Lte) => number <= *operand,
                _ => false,
            },
            Self::In(set) => scalar.is_some_and(|scalar| set.contains(scalar)),
            Self::NotIn(set) => !scalar.is_some_and(|scalar| set.contains(scalar)),
            Self::Contains(element) => value.is_some_and(|value| list_contains(value, element)),
            Self::NotContains(element) => !value.is_some_and(|value| list_contains(value, element)),
        }
    }
}

fn list_contains(value: &MetadataValue, element: &Scalar) -> bool {
    match (value, element) {
        (MetadataValue::BoolList(list), Scalar::Bool(element)) => list.contains(element),
        (MetadataValue::IntList(list), Scalar::Int(element)) => list.contains(element),
        (MetadataValue::FloatList(list), Scalar::Float(element)) => list.contains(element),
        (MetadataValue::StrList(list), Scalar::Str(element)) => list.contains(element),
        _ => false,
    }
}

impl DocumentCondition {
    fn holds(&self, document: Option<&str>) -> bool {
        match self {
            Self::Contains(text) => document.is_some_and(|d| d.contains(text)),
            Self::NotContains(text) => !document.is_some_and(|d| d.contains(text)),
            Self::Regex(pattern) => document.is_some_and(|d| pattern.0.is_match(d)),
            Self::NotRegex(pattern) => !document.is_some_and(|d| pattern.0.is_match(d)),
        }
    }
}
