//! Who may do what: keys, of which only hashes are kept, their roles, and what they are limited to.
//!
//! A key is 256 random bits, so one pass of BLAKE3 hides it: there is nothing to guess that a slow hash would
//! protect. Whoever presents one is compared with all keys in constant time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::settings;

/// What a key allows; each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads data, health and metrics.
    Reader,
    /// Writes data.
    Writer,
    /// Backs up, exports, restores, migrates, compacts.
    Operator,
    /// Drops everything, sees who has keys.
    Admin,
}

impl Role {
    /// The role of this name.
    ///
    /// # Errors
    /// `InvalidArgument` for any other.
    pub fn parse(text: &str) -> Result<Self> {
        let all = [Self::Reader, Self::Writer, Self::Operator, Self::Admin];
        all.into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| {
                Error::invalid(format!(
                    "{text:?} is no role: reader, writer, operator or admin"
                ))
            })
    }

    /// Its name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// The part of the data that a key is limited to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The tenant.
    pub tenant: String,
    /// Its databases; all of them without.
    pub databases: Option<BTreeSet<String>>,
}

impl Scope {
    /// Whether this database is in it; without a database, whether the tenant is.
    pub fn holds(&self, tenant: &str, database: Option<&str>) -> bool {
        self.tenant == tenant
            && match (&self.databases, database) {
                (Some(databases), Some(database)) => databases.contains(database),
                (None, _) | (_, None) => true,
            }
    }
}

/// A key as it is written down.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// Who has it; stands in the log.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// `blake3:` and 64 hexadecimal digits.
    pub hash: String,
    /// The tenant that it is limited to.
    pub tenant: Option<String>,
    /// The databases of that tenant that it is limited to.
    pub databases: Option<BTreeSet<String>>,
}

/// A file of keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    #[serde(default)]
    keys: Vec<KeyConfig>,
}

/// Where keys come from.
#[derive(Clone, Debug, Default)]
pub struct KeySources {
    /// Those in the configuration.
    pub keys: Vec<KeyConfig>,
    /// A file with more, read again from time to time.
    pub file: Option<PathBuf>,
    /// At most so many.
    pub max_keys: usize,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The key's name.
    pub name: Arc<str>,
    /// What it allows.
    pub role: Role,
    /// What it is limited to.
    pub scope: Option<Arc<Scope>>,
}

impl Caller {
    /// Whoever asks where no keys are configured.
    pub fn anonymous() -> Self {
        Self {
            name: Arc::from("anonymous"),
            role: Role::Admin,
            scope: None,
        }
    }
}

struct Key {
    hash: blake3::Hash,
    caller: Caller,
}

/// The keys in force.
pub struct Access {
    sources: KeySources,
    keys: ArcSwap<Vec<Key>>,
    /// Why the file of keys could not be read again: the keys of before stay.
    stale: Mutex<Option<String>>,
}

const HASH_PREFIX: &str = "blake3:";
const KEY_PREFIX: &str = "vk_";
const KEY_BYTES: usize = 32;

impl Access {
    /// Reads the keys.
    ///
    /// # Errors
    /// `InvalidArgument` that names the key which is wrong, and never its hash.
    pub fn open(sources: KeySources) -> Result<Self> {
        let keys = read(&sources)?;
        Ok(Self {
            sources,
            keys: ArcSwap::from_pointee(keys),
            stale: Mutex::new(None),
        })
    }

    /// Whether callers need a key. A file of keys that is configured and empty locks everyone out: no keys is
    /// said by configuring none.
    pub fn is_required(&self) -> bool {
        self.sources.is_configured()
    }

    /// Who presents this; `None` for no key of ours.
    pub fn caller(&self, presented: &[u8]) -> Option<Caller> {
        let hash = blake3::hash(presented);
        let keys = self.keys.load();
        let mut found = None;
        // All of them, whichever it is: blake3 compares hashes in constant time.
        for key in keys.iter() {
            if key.hash == hash {
                found = Some(&key.caller);
            }
        }
        found.cloned()
    }

    /// All callers that have a key, by name.
    pub fn callers(&self) -> Vec<Caller> {
        let keys = self.keys.load();
        let by_name: BTreeMap<_, _> = keys
            .iter()
            .map(|key| (Arc::clone(&key.caller.name), key.caller.clone()))
            .collect();
        by_name.into_values().collect()
    }

    /// Reads the file of keys again; when that fails, the keys of before stay in force.
    ///
    /// # Errors
    /// As [`Access::open`].
    pub fn reload(&self) -> Result<()> {
        if self.sources.file.is_none() {
            return Ok(());
        }
        match read(&self.sources) {
            Ok(keys) => {
                self.keys.store(Arc::new(keys));
                *self.stale.lock() = None;
                Ok(())
            }
            Err(error) => {
                *self.stale.lock() = Some(error.message().to_owned());
                Err(error)
            }
        }
    }

    /// Why the keys in force are not those of the file, if so.
    pub fn stale(&self) -> Option<String> {
        self.stale.lock().clone()
    }
}

impl KeySources {
    /// Whether there are any.
    pub fn is_configured(&self) -> bool {
        !self.keys.is_empty() || self.file.is_some()
    }
}

fn read(sources: &KeySources) -> Result<Vec<Key>> {
    let mut written = sources.keys.clone();
    if let Some(file) = &sources.file {
        written.extend(read_file(file)?);
    }
    if written.len() > sources.max_keys {
        return Err(Error::invalid(format!(
            "there are {} keys, and access.max_keys is {}",
            written.len(),
            sources.max_keys
        )));
    }
    let mut names = BTreeSet::new();
    let mut keys: Vec<Key> = Vec::with_capacity(written.len());
    for config in written {
        let bad = |what: &str| Error::invalid(format!("access: key {:?}: {what}", config.name));
        if config.name.is_empty() || config.name.chars().any(char::is_control) {
            return Err(bad("a name is one line of text"));
        }
        if !names.insert(config.name.clone()) {
            return Err(bad("there are two keys of this name"));
        }
        let hash = parse_hash(&config.hash)
            .ok_or_else(|| bad("hash must be blake3: and 64 hexadecimal digits"))?;
        if keys.iter().any(|key| key.hash == hash) {
            return Err(bad("another key has the same hash"));
        }
        let scope = scope(config.role, config.tenant, config.databases).map_err(bad)?;
        keys.push(Key {
            hash,
            caller: Caller {
                name: Arc::from(config.name),
                role: config.role,
                scope: scope.map(Arc::new),
            },
        });
    }
    Ok(keys)
}

fn read_file(file: &Path) -> Result<Vec<KeyConfig>> {
    let bad = |what: String| {
        let file = file.display();
        Error::invalid(format!("access.keys_file {file}: {what}"))
    };
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    // What stands there is not shown: it may be a secret.
    let parsed: Result<KeysFile, _> = settings::parse(&text).and_then(settings::read);
    parsed
        .map(|parsed| parsed.keys)
        .map_err(|fault| bad(fault.to_string()))
}

fn parse_hash(text: &str) -> Option<blake3::Hash> {
    blake3::Hash::from_hex(text.strip_prefix(HASH_PREFIX)?).ok()
}

fn scope(
    role: Role,
    tenant: Option<String>,
    databases: Option<BTreeSet<String>>,
) -> Result<Option<Scope>, &'static str> {
    let Some(tenant) = tenant else {
        return match databases {
            Some(_) => Err("databases need their tenant"),
            None => Ok(None),
        };
    };
    if role > Role::Writer {
        return Err(
            "an operator or admin works on the whole store: only reader and writer can be limited to a tenant",
        );
    }
    if databases.as_ref().is_some_and(BTreeSet::is_empty) {
        return Err("databases is empty: the key would reach nothing");
    }
    Ok(Some(Scope { tenant, databases }))
}

/// A key that was made, and how it is written down.
pub struct NewKey {
    /// What its holder presents; shown once.
    pub secret: String,
    /// The table for the file of keys.
    pub entry: String,
}

/// Makes a key.
///
/// # Errors
/// `InvalidArgument` for a name, role and scope that do not go together; `Internal` when the system has no
/// random numbers.
pub fn new_key(
    name: &str,
    role: Role,
    tenant: Option<String>,
    databases: Option<BTreeSet<String>>,
) -> Result<NewKey> {
    let mut random = [0; KEY_BYTES];
    getrandom::fill(&mut random).map_err(|error| {
        Error::internal("there are no random numbers").because(error.to_string())
    })?;
    let secret = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
    let hash = format!("{HASH_PREFIX}{}", blake3::hash(secret.as_bytes()));
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let mut entry = format!(
        "[[keys]]\nname = {}\nrole = \"{}\"\nhash = \"{hash}\"\n",
        quoted(name),
        role.as_str()
    );
    if let Some(tenant) = &tenant {
        entry.push_str(&format!("tenant = {}\n", quoted(tenant)));
    }
    if let Some(databases) = &databases {
        let list: Vec<String> = databases.iter().map(|name| quoted(name)).collect();
        entry.push_str(&format!("databases = [{}]\n", list.join(", ")));
    }
    // What is given out can be read back.
    let config = KeyConfig {
        name: name.to_owned(),
        role,
        hash,
        tenant,
        databases,
    };
    read(&KeySources {
        keys: vec![config],
        file: None,
        max_keys: 1,
    })?;
    Ok(NewKey { secret, entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Result<KeySources> {
        let parsed: KeysFile = settings::read(settings::parse(text).unwrap()).unwrap();
        Ok(KeySources {
            keys: parsed.keys,
            file: None,
            max_keys: 10,
        })
    }

    #[test]
    fn a_made_key_is_found_by_its_secret_alone() {
        let databases = Some(BTreeSet::from(["a \"b\"".to_owned(), "c".to_owned()]));
        let tenant = Some("acme".to_owned());
        let one = new_key("one", Role::Writer, tenant, databases.clone()).unwrap();
        let two = new_key("two", Role::Admin, None, None).unwrap();
        assert_ne!(one.secret, two.secret);
        assert!(one.secret.len() >= 43 && !one.entry.contains(&one.secret));
        let access =
            Access::open(sources(&format!("{}\n{}", one.entry, two.entry)).unwrap()).unwrap();
        let caller = access.caller(one.secret.as_bytes()).unwrap();
        assert_eq!((&*caller.name, caller.role), ("one", Role::Writer));
        assert_eq!(caller.scope.unwrap().databases, databases);
        assert_eq!(
            access.caller(two.secret.as_bytes()).unwrap().role,
            Role::Admin
        );
        for wrong in ["", "vk_", &one.secret[1..], &format!("{} ", one.secret)] {
            assert_eq!(access.caller(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_named_and_no_hash_is_shown() {
        let hash = format!("blake3:{}", "ab".repeat(32));
        let key = |rest: &str| format!("[[keys]]\nname = \"k\"\nhash = \"{hash}\"\n{rest}\n");
        for (text, named) in [
            (
                key("role = \"operator\"\ntenant = \"t\""),
                "only reader and writer",
            ),
            (
                key("role = \"reader\"\ndatabases = [\"d\"]"),
                "need their tenant",
            ),
            (
                key("role = \"reader\"\ntenant = \"t\"\ndatabases = []"),
                "reach nothing",
            ),
            (
                format!("{0}{0}", key("role = \"reader\"")),
                "two keys of this name",
            ),
            (
                "[[keys]]\nname = \"k\"\nrole = \"reader\"\nhash = \"plain\"".to_owned(),
                "hash",
            ),
            (
                format!("[[keys]]\nname = \"\"\nrole = \"reader\"\nhash = \"{hash}\""),
                "one line",
            ),
        ] {
            let error = Access::open(sources(&text).unwrap()).err().unwrap();
            assert!(error.message().contains(named), "{error}");
            assert!(!error.message().contains("abab"), "{error}");
        }
    }

    #[test]
    fn a_scope_holds_its_databases() {
        let scope = |databases: Option<&[&str]>| Scope {
            tenant: "acme".to_owned(),
            databases: databases.map(|names| names.iter().map(ToString::to_string).collect()),
        };
        for (databases, tenant, database, holds) in [
            (None, "acme", Some("any"), true),
            (None, "acme", None, true),
            (None, "other", Some("any"), false),
            (Some(&["a"][..]), "acme", Some("a"), true),
            (Some(&["a"][..]), "acme", Some("b"), false),
            (Some(&["a"][..]), "acme", None, true),
            (Some(&["a"][..]), "other", Some("a"), false),
        ] {
            assert_eq!(
                scope(databases).holds(tenant, database),
                holds,
                "{databases:?} {tenant} {database:?}"
            );
        }
    }
}
