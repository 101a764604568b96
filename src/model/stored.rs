//! Versions of what is stored as JSON. Each value says in its member `format` which version of its own format it has; what
//! was written before there was that member has version 1.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

/// What is stored as a JSON object, by itself.
pub trait Stored: Serialize + DeserializeOwned {
    /// What it is, for people.
    const NAME: &'static str;
    /// The version that is written. It grows when an older program would read a value wrongly, not when a member joins that
    /// has a default.
    const FORMAT: u32 = 1;
}

/// Why a stored value cannot be used.
#[derive(Debug)]
pub enum Unreadable {
    /// It is not as it was written.
    Damaged(Error),
    /// A later program wrote it.
    Newer(Error),
}

impl From<Unreadable> for Error {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Damaged(error) | Unreadable::Newer(error) => error,
        }
    }
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    format: u32,
    #[serde(flatten)]
    value: &'a T,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default = "first")]
    format: u32,
}

fn first() -> u32 {
    1
}

/// The bytes to store.
///
/// # Panics
/// Where a type has a map with keys that are no strings, which no stored type has.
pub fn encode<T: Stored>(value: &T) -> Vec<u8> {
    let versioned = Versioned {
        format: T::FORMAT,
        value,
    };
    serde_json::to_vec(&versioned).expect("stored types have string keys only")
}

/// The value to store within another one, such as a job's result in its record.
///
/// # Panics
/// As for [`encode`].
pub fn to_value<T: Stored>(value: &T) -> serde_json::Value {
    let versioned = Versioned {
        format: T::FORMAT,
        value,
    };
    serde_json::to_value(versioned).expect("stored types have string keys only")
}

/// Reads what was stored within another value.
///
/// # Errors
/// As for [`decode`].
pub fn from_value<T: Stored>(value: &serde_json::Value) -> Result<T, Unreadable> {
    check_version::<T>(&Version::deserialize(value).map_err(damaged::<T>)?)?;
    T::deserialize(value).map_err(damaged::<T>)
}

fn damaged<T: Stored>(error: serde_json::Error) -> Unreadable {
    let text = format!("{} cannot be decoded", T::NAME);
    Unreadable::Damaged(Error::storage(text).because(error))
}

fn check_version<T: Stored>(version: &Version) -> Result<(), Unreadable> {
    let format = version.format;
    if format > T::FORMAT {
        let text = format!(
            "{} has format version {format}; this program reads version {}. Go on with the program that wrote it",
            T::NAME,
            T::FORMAT
        );
        return Err(Unreadable::Newer(Error::new(Kind::Unprocessable, text)));
    }
    Ok(())
}

/// Reads what was stored.
///
/// # Errors
/// [`Unreadable`]: the error in it is a `StorageFault` for damage, `Unprocessable` for a newer version.
pub fn decode<T: Stored>(bytes: &[u8]) -> Result<T, Unreadable> {
    check_version::<T>(&serde_json::from_slice(bytes).map_err(damaged::<T>)?)?;
    serde_json::from_slice(bytes).map_err(damaged::<T>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
        number: u64,
    }

    impl Stored for Note {
        const NAME: &'static str = "a note";
        const FORMAT: u32 = 2;
    }

    #[test]
    fn a_value_without_version_is_of_the_first_and_a_newer_one_is_refused() {
        let note = Note {
            text: "x".to_owned(),
            number: u64::MAX,
        };
        let bytes = encode(&note);
        assert!(bytes.starts_with(br#"{"format":2,"#));
        assert_eq!(decode::<Note>(&bytes).unwrap(), note);
        let value = to_value(&note);
        assert_eq!(
            value,
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        );
        assert_eq!(from_value::<Note>(&value).unwrap(), note);
        let old = br#"{"text":"x","number":18446744073709551615}"#;
        assert_eq!(decode::<Note>(old).unwrap(), note);
        let newer = br#"{"format":3,"shape":[]}"#;
        let newer_value: serde_json::Value = serde_json::from_slice(newer).unwrap();
        for read in [decode::<Note>(newer), from_value::<Note>(&newer_value)] {
            match read {
                Err(Unreadable::Newer(error)) => {
                    assert_eq!(error.kind(), Kind::Unprocessable);
                    assert!(error.message().contains("a note has format version 3"));
                }
                other => panic!("{other:?}"),
            }
        }
        for damaged in [&b""[..], b"{", br#"{"text":"x"}"#, br#"{"format":"2"}"#] {
            assert!(matches!(
                decode::<Note>(damaged),
                Err(Unreadable::Damaged(_))
            ));
        }
    }
}
