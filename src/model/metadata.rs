//! Typed metadata of records and collections, and its JSON form.
//!
//! JSON keeps the types: a float is always written with a point or an exponent, an integer never.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Metadata by key, keys in byte order. Empty stands for "none".
pub type Metadata = BTreeMap<String, MetadataValue>;

/// One typed value. Floats are finite (JSON cannot say otherwise); lists are never empty.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataValue {
    /// `true` or `false`.
    Bool(bool),
    /// A signed 64-bit integer.
    Int(i64),
    /// A 64-bit float.
    Float(f64),
    /// A string.
    Str(String),
    /// A list of booleans.
    BoolList(Vec<bool>),
    /// A list of integers.
    IntList(Vec<i64>),
    /// A list of floats.
    FloatList(Vec<f64>),
    /// A list of strings.
    StrList(Vec<String>),
}

/// Whether a key may stand in metadata: `#` and `$` begin names of the protocol.
pub fn is_key(key: &str) -> bool {
    !key.is_empty() && !key.starts_with(['#', '$'])
}

impl Serialize for MetadataValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(v) => v.serialize(serializer),
            Self::Int(v) => v.serialize(serializer),
            Self::Float(v) => v.serialize(serializer),
            Self::Str(v) => v.serialize(serializer),
            Self::BoolList(v) => v.serialize(serializer),
            Self::IntList(v) => v.serialize(serializer),
            Self::FloatList(v) => v.serialize(serializer),
            Self::StrList(v) => v.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MetadataValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match MetadataInput::deserialize(deserializer)? {
            MetadataInput::Value(value) => Ok(value),
            _ => Err(de::Error::custom(
                "expected a string, number, boolean or non-empty list of one of them",
            )),
        }
    }
}

/// What a client may send in the place of a metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataInput {
    /// `null`: on update and upsert it removes the key.
    Null,
    /// `[]`: accepted, has no type and is not stored.
    EmptyList,
    /// `{"#type":"sparse_vector",…}`: part of the protocol, not offered.
    SparseVector,
    /// A value.
    Value(MetadataValue),
}

impl<'de> Deserialize<'de> for MetadataInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

const UNTAGGED: &str = "data did not match any variant of untagged enum MetadataValue";

impl<'de> Visitor<'de> for InputVisitor {
    type Value = MetadataInput;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, number, boolean or list of one of them")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(MetadataInput::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
        Ok(MetadataInput::Value(MetadataValue::Bool(v)))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
        Ok(MetadataInput::Value(MetadataValue::Int(v)))
    }

    /// Integers beyond i64 become floats, as Chroma's server does.
    fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
        Ok(MetadataInput::Value(i64::try_from(v).map_or(
            MetadataValue::Float(v as f64),
            MetadataValue::Int,
        )))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
        Ok(MetadataInput::Value(MetadataValue::Float(v)))
    }

    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(MetadataInput::Value(MetadataValue::Str(v.to_owned())))
    }

    fn visit_string<E>(self, v: String) -> Result<Self::Value, E> {
        Ok(MetadataInput::Value(MetadataValue::Str(v)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = ListBuilder::Empty;
        while let Some(element) = seq.next_element::<MetadataInput>()? {
            list = list
                .push(element)
                .ok_or_else(|| de::Error::custom(UNTAGGED))?;
        }
        Ok(list.finish())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut sparse = false;
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value::<serde_json::Value>()?;
            sparse |= key == "#type" && value == "sparse_vector";
        }
        if sparse {
            Ok(MetadataInput::SparseVector)
        } else {
            Err(de::Error::custom(UNTAGGED))
        }
    }
}

/// A list under construction: one type for all elements, except that integers join floats.
enum ListBuilder {
    Empty,
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Str(Vec<String>),
}

impl ListBuilder {
    fn push(self, element: MetadataInput) -> Option<Self> {
        let MetadataInput::Value(value) = element else {
            return None;
        };
        Some(match (self, value) {
            (Self::Empty, MetadataValue::Bool(v)) => Self::Bool(vec![v]),
            (Self::Empty, MetadataValue::Int(v)) => Self::Int(vec![v]),
            (Self::Empty, MetadataValue::Float(v)) => Self::Float(vec![v]),
            (Self::Empty, MetadataValue::Str(v)) => Self::Str(vec![v]),
            (Self::Bool(mut list), MetadataValue::Bool(v)) => {
                list.push(v);
                Self::Bool(list)
            }
            (Self::Int(mut list), MetadataValue::Int(v)) => {
                list.push(v);
                Self::Int(list)
            }
            (Self::Int(list), MetadataValue::Float(v)) => {
                let mut floats: Vec<f64> = list.into_iter().map(|i| i as f64).collect();
                floats.push(v);
                Self::Float(floats)
            }
            (Self::Float(mut list), MetadataValue::Float(v)) => {
                list.push(v);
                Self::Float(list)
            }
            (Self::Float(mut list), MetadataValue::Int(v)) => {
                list.push(v as f64);
                Self::Float(list)
            }
            (Self::Str(mut list), MetadataValue::Str(v)) => {
                list.push(v);
                Self::Str(list)
            }
            _ => return None,
        })
    }

    fn finish(self) -> MetadataInput {
        MetadataInput::Value(match self {
            Self::Empty => return MetadataInput::EmptyList,
            Self::Bool(list) => MetadataValue::BoolList(list),
            Self::Int(list) => MetadataValue::IntList(list),
            Self::Float(list) => MetadataValue::FloatList(list),
            Self::Str(list) => MetadataValue::StrList(list),
        })
    }
}
