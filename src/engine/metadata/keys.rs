//! Metadata values as keys, in the order that makes ranges of numbers runs.

use std::ops::Bound;

use crate::model::filter::{CompareOp, Number, Scalar};
use crate::model::metadata::MetadataValue;

/// A scalar as a key: kinds after one another, numbers by value. Integral floats that an i64 can hold are
/// integers here, so that equal numbers are one key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ValueKey {
    Bool(bool),
    Number(NumberKey),
    Str(Box<str>),
}

impl ValueKey {
    fn number(number: Number) -> Self {
        Self::Number(NumberKey::new(number))
    }

    pub(super) fn of(scalar: &Scalar) -> Self {
        match scalar {
            Scalar::Bool(value) => Self::Bool(*value),
            Scalar::Int(value) => Self::number(Number::Int(*value)),
            Scalar::Float(value) => Self::number(Number::Float(*value)),
            Scalar::Str(value) => Self::Str(value.as_str().into()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NumberKey(Number);

impl NumberKey {
    fn new(number: Number) -> Self {
        match number {
            // Both bounds are exact in f64; the upper one is the first value that is too large.
            Number::Float(float)
                if float.fract() == 0.0
                    && (i64::MIN as f64..-(i64::MIN as f64)).contains(&float) =>
            {
                Self(Number::Int(float as i64))
            }
            number => Self(number),
        }
    }
}

impl PartialEq for NumberKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for NumberKey {}

impl PartialOrd for NumberKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NumberKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Total: JSON has no NaN.
        self.0
            .partial_cmp(&other.0)
            .unwrap_or(std::cmp::Ordering::Equal)
    }
}

/// A list's element as a key, by exact type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ElementKey {
    Bool(bool),
    Int(i64),
    /// Bits; -0.0 as 0.0, which it equals.
    Float(u64),
    Str(Box<str>),
}

impl ElementKey {
    fn float(value: f64) -> Self {
        Self::Float((value + 0.0).to_bits())
    }

    pub(super) fn of(scalar: &Scalar) -> Self {
        match scalar {
            Scalar::Bool(value) => Self::Bool(*value),
            Scalar::Int(value) => Self::Int(*value),
            Scalar::Float(value) => Self::float(*value),
            Scalar::Str(value) => Self::Str(value.as_str().into()),
        }
    }
}

/// Where a metadata value stands.
pub(super) enum Entries {
    Value(ValueKey),
    Elements(Vec<ElementKey>),
}

impl Entries {
    pub(super) fn of(value: &MetadataValue) -> Self {
        match value {
            MetadataValue::Bool(value) => Self::Value(ValueKey::Bool(*value)),
            MetadataValue::Int(value) => Self::Value(ValueKey::number(Number::Int(*value))),
            MetadataValue::Float(value) => Self::Value(ValueKey::number(Number::Float(*value))),
            MetadataValue::Str(value) => Self::Value(ValueKey::Str(value.as_str().into())),
            MetadataValue::BoolList(list) => {
                Self::Elements(list.iter().map(|v| ElementKey::Bool(*v)).collect())
            }
            MetadataValue::IntList(list) => {
                Self::Elements(list.iter().map(|v| ElementKey::Int(*v)).collect())
            }
            MetadataValue::FloatList(list) => {
                Self::Elements(list.iter().map(|v| ElementKey::float(*v)).collect())
            }
            MetadataValue::StrList(list) => Self::Elements(
                list.iter()
                    .map(|v| ElementKey::Str(v.as_str().into()))
                    .collect(),
            ),
        }
    }
}

/// The run of number keys in this relation to the operand.
pub(super) fn range(op: CompareOp, operand: Number) -> (Bound<ValueKey>, Bound<ValueKey>) {
    // Numbers stand between the booleans and the strings.
    let before_numbers = Bound::Excluded(ValueKey::Bool(true));
    let after_numbers = Bound::Excluded(ValueKey::Str("".into()));
    let operand = ValueKey::number(operand);
    match op {
        CompareOp::Gt => (Bound::Excluded(operand), after_numbers),
        CompareOp::Gte => (Bound::Included(operand), after_numbers),
        CompareOp::Lt => (before_numbers, Bound::Excluded(operand)),
        CompareOp::Lte => (before_numbers, Bound::Included(operand)),
    }
}
