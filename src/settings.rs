//! Reading settings: from TOML and from environment variables into typed values. What is wrong is said with the
//! names that lead to it. Which settings there are, and which values are allowed, is in `config` and `access`.
//!
//! The name of a setting says its kind. One that ends in `_ms` may be a string with a unit of time, one in `_bytes` a
//! string with a unit of size, and a path may begin with `~/`. An environment variable is text, so text is also taken
//! where a number or a boolean is wanted, and a number where text is.

mod units;

use std::fmt;

use figment::Figment;
use figment::providers::{Format as _, Toml};
use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer as _, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Number, Value};

/// What is wrong with a setting.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The innermost name first.
    path: Vec<String>,
    what: String,
    /// What stood there; it may be a secret.
    found: Option<String>,
}

impl Fault {
    fn new(what: impl fmt::Display) -> Self {
        // A message of several lines says where and what in its first and last.
        let what = what.to_string();
        let mut lines = what.lines().filter(|line| !line.contains('|'));
        let first = lines.next().unwrap_or_default();
        Self {
            path: Vec::new(),
            what: match lines.next_back() {
                Some(last) => format!("{first}: {last}"),
                None => first.to_owned(),
            },
            found: None,
        }
    }

    fn found(mut self, found: impl fmt::Display) -> Self {
        self.found = Some(found.to_string());
        self
    }

    fn below(mut self, name: impl Into<String>) -> Self {
        self.path.push(name.into());
        self
    }

    /// The names that lead to the setting, outermost first; none where all of it is wrong.
    pub(crate) fn path(&self) -> Vec<&str> {
        self.path.iter().rev().map(String::as_str).collect()
    }

    /// What is wrong, in one line. `shows`: also what stood there.
    pub(crate) fn text(&self, shows: bool) -> String {
        match &self.found {
            Some(found) if shows => format!("{}, not {found}", self.what),
            _ => self.what.clone(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path().join(".") {
            path if path.is_empty() => f.write_str(&self.what),
            path => write!(f, "{path}: {}", self.what),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format_args!("it must be {expected}")).found(found)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Self {
        let what = format!("it must be one of {}", expected.join(", "));
        Self::new(what).found(Unexpected::Str(found))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let expected = expected.join(", ");
        Self::new(format_args!(
            "there is no such setting; there are {expected}"
        ))
        .below(field)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("it is missing").below(field)
    }
}

/// Reads a value whose type was not known until now.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Fault> {
    T::deserialize(Setting(value))
}

/// Reads TOML, of which nothing is known yet.
///
/// # Errors
/// Where it is no TOML, and why; the line is not shown: it may hold a secret.
pub(crate) fn parse(toml: &str) -> Result<Value, Fault> {
    Figment::from(Toml::string(toml))
        .extract()
        .map_err(|error: figment::Error| match &error.kind {
            figment::error::Kind::Message(text) => Fault::new(text),
            other => Fault::new(other),
        })
}

/// Reads the text of an environment variable: what begins as a list, a table or a quoted string does is one, and
/// everything else is text as it stands.
pub(crate) fn parse_variable(text: &str) -> Value {
    let text = text.trim();
    if !text.starts_with(['[', '{', '"', '\'']) {
        return Value::String(text.to_owned());
    }
    let parsed = parse(&format!("value = {text}")).ok();
    parsed
        .and_then(|mut parsed| parsed.as_object_mut()?.remove("value"))
        // Strings in a list need no quotes here.
        .or_else(|| {
            let parsed: figment::value::Value = text.parse().ok()?;
            serde_json::to_value(parsed).ok()
        })
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Lays a table over another: tables are merged, everything else takes the place of what was there.
pub(crate) fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                lay_over(below.entry(name).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

struct Setting(Value);

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Other("a number"),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

impl Setting {
    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.0 {
            Value::String(text) => match text.replace('_', "").parse::<Number>() {
                Ok(number) => Setting(Value::Number(number)).deserialize_any(visitor),
                Err(_) => Err(de::Error::invalid_type(Unexpected::Str(text), &visitor)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(value) => visitor.visit_string(value.to_string()),
            other => Setting(other).deserialize_any(visitor),
        }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.number(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Setting {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, value) => visitor.visit_f64(value.unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(elements) => visitor.visit_seq(Elements {
                rest: elements.into_iter(),
                index: 0,
            }),
            Value::Object(members) => visitor.visit_map(Members {
                rest: members.into_iter(),
                current: None,
            }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0.as_str() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_f32 deserialize_f64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.0 {
            Value::String(text) => {
                let word: StringDeserializer<Fault> = text.into_deserializer();
                visitor.visit_enum(word)
            }
            other => Err(de::Error::invalid_type(unexpected(&other), &visitor)),
        }
    }

    forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Elements {
    rest: std::vec::IntoIter<Value>,
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Elements {
    type Error = Fault;

    fn next_element_seed<S: de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(element) = self.rest.next() else {
            return Ok(None);
        };
        let index = self.index;
        self.index += 1;
        let read = seed.deserialize(Setting(element));
        read.map(Some)
            .map_err(|fault| fault.below(index.to_string()))
    }
}

struct Members {
    rest: <Map<String, Value> as IntoIterator>::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Members {
    type Error = Fault;

    fn next_key_seed<S: de::DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else {
            return Ok(None);
        };
        let name: StringDeserializer<Fault> = name.clone().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: de::DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let (name, value) = self.current.take().unwrap_or_default();
        let read = units::resolve(&name, value).and_then(|value| seed.deserialize(Setting(value)));
        read.map_err(|fault| fault.below(name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        text: String,
        number: u16,
        ratio: f64,
        flag: bool,
        wait_ms: u64,
        room_bytes: usize,
        maybe: Option<String>,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }

    fn sample(changes: Value) -> Result<Sample, Fault> {
        let mut value = json!({"text": "t", "number": 1, "ratio": 0.5, "flag": false, "wait_ms": 1, "room_bytes": 1});
        lay_over(&mut value, changes);
        read(value)
    }

    #[test]
    fn text_of_a_variable_becomes_what_the_setting_is() {
        let variable = |text: &str| parse_variable(text);
        let read = sample(json!({
            "text": variable("007"), "number": variable("1_000"), "ratio": variable("2"), "flag": variable("true"),
            "wait_ms": variable("24h"), "room_bytes": variable("64MB"), "maybe": variable("1.50"),
            "labels": variable("{year = 2026, \"on\" = true}"),
        }));
        let labels = [("year", "2026"), ("on", "true")];
        let expected = Sample {
            text: "007".to_owned(),
            number: 1_000,
            ratio: 2.0,
            flag: true,
            wait_ms: 86_400_000,
            room_bytes: 64_000_000,
            maybe: Some("1.50".to_owned()),
            labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        };
        assert_eq!(read.unwrap(), expected);
        for (text, value) in [
            ("[1, 2]", json!([1, 2])),
            ("[http://a, b]", json!(["http://a", "b"])),
            ("[::1]:8000", json!("[::1]:8000")),
            ("\"quoted\"", json!("quoted")),
            (" plain ", json!("plain")),
        ] {
            assert_eq!(parse_variable(text), value, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_names_that_lead_to_it() {
        for (changes, path, what) in [
            (json!({"numbr": 5}), "numbr", "there are text, number"),
            (json!({"number": -1}), "number", "u16, not integer `-1`"),
            (json!({"number": "x"}), "number", "u16, not string \"x\""),
            (json!({"wait_ms": "5 parsecs"}), "wait_ms", "\"24h\""),
            (json!({"room_bytes": "5M"}), "room_bytes", "\"64MB\""),
            (json!({"labels": {"a": []}}), "labels.a", "a string"),
        ] {
            let fault = sample(changes).unwrap_err();
            assert_eq!(fault.path().join("."), path, "{fault:?}");
            assert!(fault.text(true).contains(what), "{}", fault.text(true));
        }
        let secret = sample(json!({"number": "a-secret"})).unwrap_err();
        assert!(!secret.text(false).contains("a-secret"));
    }
}
