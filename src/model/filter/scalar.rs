//! The values that filters compare with, and what equal and less mean between them: kinds are apart, and
//! numbers compare by exact value whatever their type.

use std::cmp::Ordering;

use crate::model::metadata::MetadataValue;
use crate::model::schema::IndexKind;

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

impl Scalar {
    pub(super) fn view(&self) -> ScalarRef<'_> {
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
    pub(super) fn new(mut scalars: Vec<Scalar>) -> Option<Self> {
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

    /// The type of the first as sent.
    pub(super) fn index_kind(&self) -> IndexKind {
        self.1
    }

    pub(super) fn contains(&self, wanted: ScalarRef<'_>) -> bool {
        self.0.binary_search_by(|s| s.order(wanted)).is_ok()
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
pub(super) enum ScalarRef<'a> {
    Bool(bool),
    Number(Number),
    Str(&'a str),
}

impl<'a> ScalarRef<'a> {
    /// `None` for a list.
    pub(super) fn of_stored(value: &'a MetadataValue) -> Option<Self> {
        match value {
            MetadataValue::Bool(v) => Some(Self::Bool(*v)),
            MetadataValue::Int(v) => Some(Self::Number(Number::Int(*v))),
            MetadataValue::Float(v) => Some(Self::Number(Number::Float(*v))),
            MetadataValue::Str(v) => Some(Self::Str(v)),
            _ => None,
        }
    }

    pub(super) fn index_kind(self) -> IndexKind {
        match self {
            Self::Bool(_) => IndexKind::Bool,
            Self::Number(Number::Int(_)) => IndexKind::Int,
            Self::Number(Number::Float(_)) => IndexKind::Float,
            Self::Str(_) => IndexKind::Str,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::filter::tests::{is_found, metadata_of, where_};

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
}
