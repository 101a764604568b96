//! The places that settings come from, one over the other.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::BASELINE;
use crate::error::{Error, Result};
use crate::settings::{self, Fault};

/// What variables of settings begin with; section and key follow, with this between them.
const PREFIX: &str = "VECTORKEEP__";
const SEPARATOR: &str = "__";

enum Source {
    Baseline,
    File(PathBuf),
    Variables,
}

/// Settings whose values are not looked at yet. Later layers go over earlier ones.
pub(super) struct Layers(Vec<(Source, Value)>);

impl Layers {
    pub(super) fn baseline() -> Result<Self> {
        let baseline = settings::parse(BASELINE);
        let baseline = baseline.map_err(|fault| Error::internal(fault.to_string()))?;
        Ok(Self(vec![(Source::Baseline, baseline)]))
    }

    pub(super) fn add_file(&mut self, file: &Path, toml: &str) -> Result<()> {
        let values = settings::parse(toml).map_err(|fault| {
            Error::invalid(format!("configuration file {}: {fault}", file.display()))
        })?;
        self.0.push((Source::File(file.to_owned()), values));
        Ok(())
    }

    /// Takes up the variables that name settings.
    pub(super) fn add_variables(&mut self, variables: impl Iterator<Item = (String, String)>) {
        let mut values = Value::Object(Map::new());
        for (name, text) in variables {
            let Some((prefix, path)) = name.split_at_checked(PREFIX.len()) else {
                continue;
            };
            if !prefix.eq_ignore_ascii_case(PREFIX) {
                continue;
            }
            let path = path.to_ascii_lowercase();
            let value = path
                .rsplit(SEPARATOR)
                .fold(settings::parse_variable(&text), |value, name| {
                    Value::Object(Map::from_iter([(name.to_owned(), value)]))
                });
            settings::lay_over(&mut values, value);
        }
        self.0.push((Source::Variables, values));
    }

    /// What they say together.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T> {
        let mut whole = Value::Null;
        for (_, values) in &self.0 {
            settings::lay_over(&mut whole, values.clone());
        }
        settings::read(whole).map_err(|fault| self.explain(&fault))
    }

    fn explain(&self, fault: &Fault) -> Error {
        let path = fault.path();
        let key = path.join(".");
        // A key may be a secret, and so may be what stands beside one.
        let shows = path.first() != Some(&"access");
        let text = fault.text(shows);
        Error::invalid(match self.source(&path) {
            _ if key.is_empty() => format!("configuration: {text}"),
            Some(source) => format!("configuration {key} ({source}): {text}"),
            None => format!("configuration {key}: {text}"),
        })
    }

    /// Where a setting got its value: the file or the variable.
    fn source(&self, path: &[&str]) -> Option<String> {
        let (source, _) = self.0.iter().rev().find(|(_, values)| {
            let mut found = Some(values);
            for name in path {
                found = found.and_then(|value| match value {
                    Value::Array(elements) => elements.get(name.parse::<usize>().ok()?),
                    value => value.get(*name),
                });
            }
            found.is_some()
        })?;
        match source {
            Source::Baseline => None,
            Source::File(file) => Some(file.display().to_string()),
            Source::Variables => {
                // A list comes from one variable.
                let names = path
                    .iter()
                    .take_while(|name| name.parse::<usize>().is_err());
                let names: Vec<String> = names.map(|name| name.to_ascii_uppercase()).collect();
                Some(format!("{PREFIX}{}", names.join(SEPARATOR)))
            }
        }
    }
}
