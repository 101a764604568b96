//! How a request names a backup.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

const LATEST: &str = "latest";
const BEFORE: &str = "before:";

/// A backup by its id, or by the moment it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selector {
    /// This one, whatever is known of it.
    Id(String),
    /// The newest restorable one.
    #[default]
    Latest,
    /// The newest restorable one whose moment is not after this.
    Before(DateTime<Utc>),
}

impl Selector {
    /// What a text of a path or a body says: `latest`, `before:` with an RFC 3339 time, or an id.
    ///
    /// # Errors
    /// `Unprocessable` for a time that is none.
    pub fn parse(text: &str) -> Result<Self> {
        if text == LATEST {
            return Ok(Self::Latest);
        }
        let Some(time) = text.strip_prefix(BEFORE) else {
            return Ok(Self::Id(text.to_owned()));
        };
        DateTime::parse_from_rfc3339(time)
            .map(|time| Self::Before(time.to_utc()))
            .map_err(|error| {
                Error::unprocessable(format!(
                    "backup {text:?}: after \"before:\" an RFC 3339 time is wanted, such as \
                     2026-11-23T10:30:00Z ({error})"
                ))
            })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => f.write_str(id),
            Self::Latest => f.write_str(LATEST),
            Self::Before(time) => {
                let time = time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
                write!(f, "{BEFORE}{time}")
            }
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| serde::de::Error::custom(error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_reads_back_as_it_is_written() {
        for text in [
            "latest",
            "before:2026-11-23T10:30:00Z",
            "before:2026-11-23T10:30:00.250Z",
            "backup_2026-11-23_10-30-00",
            "nobody",
        ] {
            assert_eq!(Selector::parse(text).unwrap().to_string(), text);
        }
        let offset = Selector::parse("before:2026-11-23T12:30:00+02:00").unwrap();
        assert_eq!(offset.to_string(), "before:2026-11-23T10:30:00Z");
    }

    #[test]
    fn a_time_that_is_none_is_refused_and_no_id() {
        for bad in [
            "before:",
            "before:noon",
            "before:2026-11-23",
            "before:2026-11-23 10:30",
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }
}
