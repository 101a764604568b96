//! Names of tenants, databases and collections, and the rules Chroma's protocol has for them.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Chroma's default tenant; it always exists.
pub const DEFAULT_TENANT: &str = "default_tenant";
/// Chroma's default database in [`DEFAULT_TENANT`]; it always exists, under the nil UUID.
pub const DEFAULT_DATABASE: &str = "default_database";

const MAX_NAME_BYTES: usize = 512;

/// Where a collection is found: names are unique within a database of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CollectionName {
    /// The tenant.
    pub tenant: String,
    /// The database within the tenant.
    pub database: String,
    /// The collection within the database.
    pub name: String,
}

impl CollectionName {
    /// A qualified name; not checked.
    pub fn new(
        tenant: impl Into<String>,
        database: impl Into<String>,
        name: impl Into<String>,
    ) -> Self {
        Self {
            tenant: tenant.into(),
            database: database.into(),
            name: name.into(),
        }
    }

    /// A qualified name in Chroma's default tenant and database where none are given; not checked.
    pub fn with_defaults(tenant: Option<&str>, database: Option<&str>, name: &str) -> Self {
        Self::new(
            tenant.unwrap_or(DEFAULT_TENANT),
            database.unwrap_or(DEFAULT_DATABASE),
            name,
        )
    }
}

impl fmt::Display for CollectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tenant, self.database, self.name)
    }
}

/// Checks a collection or database name.
///
/// # Errors
/// `InvalidArgument` with Chroma's text: 3 to 512 characters of `[a-zA-Z0-9._-]`, starting and ending
/// with a letter or digit, no `..`, not an IP address; one `+` may join two such names.
pub fn check_name(name: &str) -> Result<()> {
    if name.len() > MAX_NAME_BYTES {
        return Err(malformed(name));
    }
    let mut halves = name.split('+');
    match (halves.next(), halves.next(), halves.next()) {
        (Some(first), second, None) => {
            check_part(first)?;
            second.map_or(Ok(()), check_part)
        }
        _ => Err(Error::invalid(
            "Expected a name to contain at most one topology:  Got two `+` characters.",
        )),
    }
}

fn check_part(name: &str) -> Result<()> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.len() < 3
        || !edge(name.chars().next())
        || !edge(name.chars().next_back())
        || !name.chars().all(inner)
    {
        return Err(malformed(name));
    }
    if name.contains("..") {
        return Err(Error::invalid(format!(
            "Expected a name that does not contains two consecutive periods (..). Got {name}"
        )));
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(Error::invalid(format!(
            "Expected a name that is not a valid ip address. Got {name}"
        )));
    }
    Ok(())
}

fn malformed(name: &str) -> Error {
    Error::invalid(format!(
        "Expected a name containing 3-512 characters from [a-zA-Z0-9._-], starting and ending with a \
         character in [a-zA-Z0-9]. Got: {name}"
    ))
}

/// Checks a tenant name: at least three characters, no other rule.
///
/// # Errors
/// `InvalidArgument` with Chroma's text.
pub fn check_tenant_name(name: &str) -> Result<()> {
    if name.chars().count() < 3 {
        return Err(Error::invalid(format!(
            "Validation error: name: Validation error: length [{{\"value\": String({name:?}), \"min\": \
             Number(3)}}]"
        )));
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(Error::invalid(format!(
            "Validation error: name: a tenant name may have at most {MAX_NAME_BYTES} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses_what_chroma_does() {
        for good in ["abc", "a_c", "a.b", "1.2.3", "A.B-c_d9", "topo+coll"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(513);
        for bad in [
            "ab",
            "-abc",
            "abc-",
            "a..b",
            "192.168.1.1",
            "a b",
            "ünïcode",
            "abc/def",
            "",
            "a+b",
            "ab+cde",
            "a+b+c",
            "abc+def+ghi",
            long.as_str(),
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_name(&"a".repeat(512)).is_ok());
    }
}
