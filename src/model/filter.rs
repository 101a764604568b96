//! Chroma's `where` and `where_document` filters: from JSON to a typed tree, and the question whether
//! a record satisfies it.
//!
//! It knows nothing of schemas (a caller refuses filters on disabled indexes with
//! [`Filter::for_each_leaf`]), of ids, of storage and of query planning. The grammar and the texts of
//! the errors are those of Chroma's server; comparing integers with floats is exact, which Chroma's is
//! not (it truncates the float, so that its int 2 equals 2.5).

use std::cmp::Ordering;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::model::metadata::{Metadata, MetadataValue};
use crate::model::schema::IndexKind;

/// The key under which a `where` clause searches the text of documents.
const DOCUMENT_KEY: &str = "#document";

/// The key under which Chroma stores the document among the metadata, so that there `$eq`, `$ne`, `$in`
/// and `$nin` see the document as a string.
const STORED_DOCUMENT_KEY: &str = "chroma:document";

/// Patterns in one clause, each of which holds some MiB of lazily built automata while it searches.
const MAX_PATTERNS: usize = 64;

/// Bounds on what a filter may cost; exceeding one is an invalid argument.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Levels of the tree, a lone condition being 1. Parsing, evaluating and dropping a filter recurse
    /// this deep, so it has to fit the stack.
    pub max_depth: usize,
    /// Conditions and `$and`/`$or` together. The values of an `$in` do not count.
    pub max_nodes: usize,
    /// Compiled size of one regular expression, in bytes.
    pub max_regex_bytes: usize,
}

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

/// A single value to compare with.
#[derive(Clone, Debug)]
pub enum Scalar {
    /// A boolean, equal to no number.
    Bool(bool),
    /// A signed 64-bit integer.
    Int(i64),
    /// A 64-bit float.
    Float(f64),
    /// A string, compared byte by byte.
    Str(String),
}

/// A number of either type. Comparison is exact: neither side is rounded to the other's type.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// A signed 64-bit integer.
    Int(i64),
    /// A 64-bit float.
    Float(f64),
}

/// The values of an `$in` or `$nin`, sorted because such lists get long and every record is looked up in
/// them; and the type of the first as sent, which decides for all.
#[derive(Clone, Debug)]
pub struct ScalarSet(Vec<Scalar>, IndexKind);

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
    /// Reads a `where` clause; `None` for JSON null.
    /// Errors: invalid argument for a malformed clause, a bad pattern or an exceeded limit.
    pub fn parse_where(value: &Value, limits: &Limits) -> Result<Option<Filter>> {
        Parser::parse(false, limits, value)
    }

    /// Reads a `where_document` clause; `None` for JSON null. Errors as [`Filter::parse_where`].
    pub fn parse_where_document(value: &Value, limits: &Limits) -> Result<Option<Filter>> {
        Parser::parse(true, limits, value)
    }

    /// The conjunction of those given; `None` if none is.
    pub fn all(filters: impl IntoIterator<Item = Option<Filter>>) -> Option<Filter> {
        let mut given: Vec<Filter> = filters.into_iter().flatten().collect();
        match given.len() {
            0 | 1 => given.pop(),
            _ => Some(Filter::And(given)),
        }
    }

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

    /// Whether [`Filter::matches`] looks at the document, so that a caller has to load it.
    pub fn reads_documents(&self) -> bool {
        match self {
            Self::And(filters) | Self::Or(filters) => filters.iter().any(Filter::reads_documents),
            Self::Metadata { key, .. } => names_document(key),
            Self::Document(_) => true,
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

fn names_document(key: &str) -> bool {
    key == STORED_DOCUMENT_KEY || key == DOCUMENT_KEY
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

    fn index_kind(&self) -> IndexKind {
        match self {
            Self::Eq(one) | Self::Ne(one) | Self::Contains(one) | Self::NotContains(one) => {
                one.view().index_kind()
            }
            Self::Compare { operand, .. } => ScalarRef::Number(*operand).index_kind(),
            Self::In(set) | Self::NotIn(set) => set.1,
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

impl Scalar {
    fn view(&self) -> ScalarRef<'_> {
        match self {
            Self::Bool(v) => ScalarRef::Bool(*v),
            Self::Int(v) => ScalarRef::Number(Number::Int(*v)),
            Self::Float(v) => ScalarRef::Number(Number::Float(*v)),
            Self::Str(v) => ScalarRef::Str(v),
        }
    }

    /// Total among operands: JSON has no NaN.
    fn order(&self, other: ScalarRef<'_>) -> Ordering {
        self.view().partial_cmp(&other).unwrap_or(Ordering::Less)
    }
}

impl ScalarSet {
    /// Not empty, and of one type, except that integers may follow when a float is the first.
    fn parse(value: &Value) -> Option<Self> {
        let mut scalars: Vec<_> = value
            .as_array()?
            .iter()
            .map(scalar)
            .collect::<Option<_>>()?;
        let mut types = scalars.iter().map(|s| s.view().index_kind());
        let first = types.next()?;
        if !types.all(|t| t == first || (first, t) == (IndexKind::Float, IndexKind::Int)) {
            return None;
        }
        scalars.sort_by(|a, b| a.order(b.view()));
        Some(Self(scalars, first))
    }

    /// The values, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Scalar> {
        self.0.iter()
    }

    fn contains(&self, wanted: ScalarRef<'_>) -> bool {
        self.0.binary_search_by(|s| s.order(wanted)).is_ok()
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

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    /// Of an integer and a float the whole parts decide, then the fraction. Neither conversion to i128
    /// rounds, and floats beyond it saturate, which keeps them beyond every i64. `None` for NaN.
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (*self, *other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Int(a), Self::Float(b)) => match i128::from(a).cmp(&(b.trunc() as i128)) {
                Ordering::Equal => 0.0.partial_cmp(&b.fract()),
                unequal => (!b.is_nan()).then_some(unequal),
            },
            (Self::Float(_), Self::Int(_)) => other.partial_cmp(self).map(Ordering::reverse),
        }
    }
}

/// A borrowed scalar, stored or operand, in which both numeric types are one. The derived order puts
/// the kinds after one another, so values of different kinds are comparable and never equal.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum ScalarRef<'a> {
    Bool(bool),
    Number(Number),
    Str(&'a str),
}

impl<'a> ScalarRef<'a> {
    /// `None` for a list.
    fn of_stored(value: &'a MetadataValue) -> Option<Self> {
        match value {
            MetadataValue::Bool(v) => Some(Self::Bool(*v)),
            MetadataValue::Int(v) => Some(Self::Number(Number::Int(*v))),
            MetadataValue::Float(v) => Some(Self::Number(Number::Float(*v))),
            MetadataValue::Str(v) => Some(Self::Str(v)),
            _ => None,
        }
    }

    fn index_kind(self) -> IndexKind {
        match self {
            Self::Bool(_) => IndexKind::Bool,
            Self::Number(Number::Int(_)) => IndexKind::Int,
            Self::Number(Number::Float(_)) => IndexKind::Float,
            Self::Str(_) => IndexKind::Str,
        }
    }
}

/// Reads one clause; counts what the limits bound.
struct Parser<'a> {
    /// The clause is a `where_document`.
    on_documents: bool,
    limits: &'a Limits,
    nodes: usize,
    patterns: usize,
}

impl Parser<'_> {
    fn parse(on_documents: bool, limits: &Limits, value: &Value) -> Result<Option<Filter>> {
        if value.is_null() {
            return Ok(None);
        }
        let mut parser = Parser {
            on_documents,
            limits,
            nodes: 0,
            patterns: 0,
        };
        parser.node(value, 1).map(Some)
    }

    fn node(&mut self, value: &Value, depth: usize) -> Result<Filter> {
        self.nodes += 1;
        if depth > self.limits.max_depth || self.nodes > self.limits.max_nodes {
            return Err(self.too_large());
        }
        let (key, operand) = self.only_member(value)?;
        match key {
            "$and" => self.children(operand, depth).map(Filter::And),
            "$or" => self.children(operand, depth).map(Filter::Or),
            _ if self.on_documents => self.document_leaf(key, operand),
            _ => self.metadata_leaf(key, operand),
        }
    }

    fn children(&mut self, operand: &Value, depth: usize) -> Result<Vec<Filter>> {
        let children = operand.as_array().ok_or_else(|| self.malformed())?;
        children.iter().map(|c| self.node(c, depth + 1)).collect()
    }

    fn metadata_leaf(&mut self, key: &str, operand: &Value) -> Result<Filter> {
        let (operator, operand) = match operand {
            Value::Object(_) => self.only_member(operand)?,
            _ => ("$eq", operand),
        };
        let condition = match operator {
            _ if key.starts_with('$') => None,
            "$contains" | "$not_contains" | "$regex" | "$not_regex" if key == DOCUMENT_KEY => {
                return self.document_leaf(operator, operand);
            }
            _ => condition(operator, operand),
        };
        Ok(Filter::Metadata {
            key: key.to_owned(),
            condition: condition.ok_or_else(|| self.malformed())?,
        })
    }

    fn document_leaf(&mut self, operator: &str, operand: &Value) -> Result<Filter> {
        let text = operand.as_str().ok_or_else(|| self.malformed())?;
        Ok(Filter::Document(match operator {
            "$contains" => DocumentCondition::Contains(text.to_owned()),
            "$not_contains" => DocumentCondition::NotContains(text.to_owned()),
            "$regex" => DocumentCondition::Regex(self.pattern(text)?),
            "$not_regex" => DocumentCondition::NotRegex(self.pattern(text)?),
            _ => return Err(self.malformed()),
        }))
    }

    fn pattern(&mut self, text: &str) -> Result<CompiledPattern> {
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(self.too_large());
        }
        let max_bytes = self.limits.max_regex_bytes;
        // The syntax tree takes 100 to 3,000 bytes per byte of text, and only what is compiled from it is
        // held to the limit. Compiled, plain text takes 32.
        let built = if text.len() > max_bytes / 32 {
            Err(regex::Error::CompiledTooBig(max_bytes))
        } else {
            RegexBuilder::new(text).size_limit(max_bytes).build()
        };
        built.map(CompiledPattern).map_err(|error| match error {
            // Chroma's spelling.
            regex::Error::Syntax(_) => Error::invalid(format!("Regex syntax errror: {error}")),
            _ => Error::invalid(format!("{error} (query.max_regex_bytes)")),
        })
    }

    fn only_member<'v>(&self, value: &'v Value) -> Result<(&'v str, &'v Value)> {
        let object = value.as_object().filter(|members| members.len() == 1);
        match object.and_then(|members| members.iter().next()) {
            Some((key, value)) => Ok((key, value)),
            None => Err(self.malformed()),
        }
    }

    /// Chroma's one text for whatever is malformed.
    fn malformed(&self) -> Error {
        let document = if self.on_documents { " document" } else { "" };
        Error::invalid(format!("Invalid where{document} clause"))
    }

    fn too_large(&self) -> Error {
        Error::invalid(format!(
            "The filter is too large: at most {} levels (query.max_filter_depth), {} conditions \
             (query.max_filter_nodes) and {MAX_PATTERNS} regular \
             expressions are allowed",
            self.limits.max_depth, self.limits.max_nodes
        ))
    }
}

fn condition(operator: &str, operand: &Value) -> Option<Condition> {
    let compare = |op| match scalar(operand)?.view() {
        ScalarRef::Number(operand) => Some(Condition::Compare { op, operand }),
        _ => None,
    };
    match operator {
        "$eq" => scalar(operand).map(Condition::Eq),
        "$ne" => scalar(operand).map(Condition::Ne),
        "$gt" => compare(CompareOp::Gt),
        "$gte" => compare(CompareOp::Gte),
        "$lt" => compare(CompareOp::Lt),
        "$lte" => compare(CompareOp::Lte),
        "$in" => ScalarSet::parse(operand).map(Condition::In),
        "$nin" => ScalarSet::parse(operand).map(Condition::NotIn),
        "$contains" => scalar(operand).map(Condition::Contains),
        "$not_contains" => scalar(operand).map(Condition::NotContains),
        _ => None,
    }
}

fn scalar(value: &Value) -> Option<Scalar> {
    match value {
        Value::Bool(v) => Some(Scalar::Bool(*v)),
        Value::String(v) => Some(Scalar::Str(v.clone())),
        Value::Number(v) if v.is_f64() => v.as_f64().map(Scalar::Float),
        // Chroma refuses integers beyond i64.
        Value::Number(v) => v.as_i64().map(Scalar::Int),
        _ => None,
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "tests"
)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde_json::json;

    const LIMITS: Limits = Limits {
        max_depth: 16,
        max_nodes: 1000,
        max_regex_bytes: 1 << 20,
    };

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

    fn metadata_of(value: Value) -> Metadata {
        serde_json::from_value(value).unwrap()
    }

    fn where_(value: Value) -> Filter {
        Filter::parse_where(&value, &LIMITS).unwrap().unwrap()
    }

    fn where_document(value: Value) -> Filter {
        Filter::parse_where_document(&value, &LIMITS)
            .unwrap()
            .unwrap()
    }

    fn matching(filter: Option<&Filter>) -> Vec<&'static str> {
        records()
            .iter()
            .filter(|r| filter.is_none_or(|f| f.matches(&r.metadata, r.document)))
            .map(|r| r.id)
            .collect()
    }

    fn is_found(value: Value, by: Value) -> bool {
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

    /// Chroma truncates the float: there, each of these is the other way round.
    #[test]
    fn an_integer_is_not_compared_with_a_truncated_float() {
        assert!(!is_found(json!(2), json!(2.5)));
        assert!(!is_found(json!(2), json!({"$in": [2.5]})));
        assert!(!is_found(json!(2), json!({"$gte": 2.5})));
        assert!(is_found(json!(2), json!({"$lt": 2.5})));
        assert!(is_found(json!(2), json!({"$ne": 2.5})));
        assert!(is_found(json!(2), json!({"$nin": [2.5]})));
        assert!(is_found(json!(-2), json!({"$gt": -2.5})));
        assert!(is_found(json!(-3), json!({"$lt": -2.5})));
        assert!(is_found(json!(0), json!(-0.0)));
    }

    /// The float decides nothing beyond its own exact value: an i128 holds every float tried here.
    #[test]
    fn integers_and_floats_compare_by_exact_value() {
        let two_pow_53 = 1i64 << 53;
        let ints = [
            i64::MIN,
            i64::MIN + 1,
            -two_pow_53 - 1,
            -two_pow_53,
            -1,
            0,
            1,
            two_pow_53 - 1,
            two_pow_53,
            two_pow_53 + 1,
            i64::MAX - 512,
            i64::MAX - 1,
            i64::MAX,
        ];
        for a in ints {
            for b in ints {
                let float = b as f64;
                let exact = i128::from(a).cmp(&(float as i128));
                let (int, float) = (Number::Int(a), Number::Float(float));
                assert_eq!(int.partial_cmp(&float), Some(exact), "{a} {float:?}");
                assert_eq!(float.partial_cmp(&int), Some(exact.reverse()));
                assert_eq!(int == float, exact.is_eq());
            }
        }
        for (float, ordering) in [
            (f64::MAX, Some(Ordering::Less)),
            (f64::INFINITY, Some(Ordering::Less)),
            (f64::MIN, Some(Ordering::Greater)),
            (f64::NEG_INFINITY, Some(Ordering::Greater)),
            (f64::NAN, None),
        ] {
            for int in ints {
                assert_eq!(
                    Number::Int(int).partial_cmp(&Number::Float(float)),
                    ordering
                );
            }
        }
        assert!(!is_found(json!(two_pow_53 + 1), json!(two_pow_53 as f64)));
        assert!(is_found(json!(two_pow_53 as f64), json!(two_pow_53)));
        assert!(is_found(json!(i64::MAX), json!({"$lt": i64::MAX as f64})));
    }

    #[test]
    fn booleans_are_not_numbers() {
        for (value, by) in [(json!(true), json!(1)), (json!(1), json!(true))] {
            assert!(!is_found(value.clone(), by.clone()));
            assert!(!is_found(value.clone(), json!({"$in": [by]})));
            assert!(is_found(value, json!({"$ne": by})));
        }
        assert!(!is_found(json!(true), json!({"$gte": 0})));
    }

    #[test]
    fn a_long_in_finds_exactly_its_values() {
        let odd: Vec<i64> = (0..500).map(|i| (i * 7919 % 500) * 2 + 1).collect();
        let filter = where_(json!({"k": {"$in": odd}}));
        let negated = where_(json!({"k": {"$nin": odd}}));
        for i in -1..1002 {
            let expected = i > 0 && i % 2 == 1 && i < 1000;
            for value in [json!(i), json!(i as f64)] {
                let metadata = metadata_of(json!({"k": value}));
                assert_eq!(filter.matches(&metadata, None), expected, "{i}");
                assert_eq!(negated.matches(&metadata, None), !expected, "{i}");
            }
        }
        assert!(is_found(json!("b"), json!({"$in": ["c", "a", "b"]})));
        assert!(is_found(json!(false), json!({"$in": [true, false, true]})));
    }

    #[test]
    fn chroma_document_is_the_document_as_a_string() {
        let found =
            |condition: Value| matching(Some(&where_(json!({"chroma:document": condition}))));
        assert_eq!(found(json!({"$in": ["quick QUICK"]})), ["i5"]);
        assert_eq!(
            found(json!({"$ne": "quick QUICK"})),
            ["i1", "i2", "i3", "i4", "i6"]
        );
        assert!(found(json!({"$contains": "quick"})).is_empty());
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

    /// An `$and` in an `$and` …, `depth` levels with the leaf.
    fn nested(depth: usize, leaf: Value) -> Value {
        (1..depth).fold(leaf, |inner, _| {
            // Not by `json!`, which would copy what is inside at every level.
            let member = ("$and".to_owned(), Value::Array(vec![inner]));
            Value::Object(std::iter::once(member).collect())
        })
    }

    fn refusal(parsed: Result<Option<Filter>>) -> String {
        let error = parsed.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        error.message().to_owned()
    }

    #[test]
    fn depth_is_bounded() {
        let clause = |depth| Filter::parse_where(&nested(depth, json!({"i": 1})), &LIMITS);
        assert!(clause(LIMITS.max_depth).is_ok());
        let message = refusal(clause(LIMITS.max_depth + 1));
        assert!(message.contains("at most 16 levels"), "{message}");
        // Far deeper than what a parser without the bound has stack for; leaked, because dropping a
        // `Value` recurses as well.
        let deep = Box::leak(Box::new(nested(1_000_000, json!({"$contains": "x"}))));
        refusal(Filter::parse_where_document(deep, &LIMITS));
        refusal(Filter::parse_where(deep, &LIMITS));
    }

    #[test]
    fn conditions_are_bounded() {
        let clause = |leaves: usize| json!({"$or": vec![json!({"i": 1}); leaves]});
        assert!(Filter::parse_where(&clause(LIMITS.max_nodes - 1), &LIMITS).is_ok());
        let message = refusal(Filter::parse_where(&clause(LIMITS.max_nodes), &LIMITS));
        assert!(message.contains("1000 conditions"), "{message}");
    }

    #[test]
    fn regular_expressions_are_bounded() {
        let parse =
            |pattern: &str| Filter::parse_where_document(&json!({"$regex": pattern}), &LIMITS);
        assert!(parse(r"\w{20}").is_ok());
        assert!(parse(&"a".repeat(LIMITS.max_regex_bytes / 40)).is_ok());
        let too_large =
            "Compiled regex exceeds size limit of 1048576 bytes. (query.max_regex_bytes)";
        assert_eq!(refusal(parse(r"(\w{100}){100}")), too_large);
        assert_eq!(
            refusal(parse(&"(".repeat(LIMITS.max_regex_bytes / 32 + 1))),
            too_large
        );
        // The same bound holds where a `where` clause searches documents.
        let clause = json!({"#document": {"$not_regex": r"(\w{100}){100}"}});
        assert_eq!(refusal(Filter::parse_where(&clause, &LIMITS)), too_large);

        let many = |n: usize| json!({"$or": vec![json!({"$regex": "a"}); n]});
        assert!(Filter::parse_where_document(&many(MAX_PATTERNS), &LIMITS).is_ok());
        let message = refusal(Filter::parse_where_document(
            &many(MAX_PATTERNS + 1),
            &LIMITS,
        ));
        assert!(message.contains("64 regular expressions"), "{message}");
    }
}
