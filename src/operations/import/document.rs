//! The document as one JSON object: parsed as it is read, record by record.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::source::{REFUSED, Source, unreadable};
use super::{GivenCollection, GivenRecord, Import, ImportedRecords, Stop};
use crate::error::{Error, Result};
use crate::model::object::Object;

/// Reads the whole document.
pub(super) fn read(import: &mut Import<'_>, source: Source) -> Result<()> {
    import.offset.advance();
    let mut deserializer = serde_json::Deserializer::from_reader(source);
    let read = Document(import)
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end());
    match read {
        Ok(()) => Ok(()),
        Err(error) => Err(match import.failure.take() {
            Some(failure) => failure,
            None if error.io_error_kind().is_some_and(|kind| kind != REFUSED) => unreadable(error),
            None => import.refused(error.to_string()),
        }),
    }
}

/// Keeps an error that the parser cannot carry and stops it.
fn stop<E: de::Error>(import: &mut Import<'_>, error: Error) -> E {
    let stopped = E::custom("refused");
    import.failure = Some(error);
    stopped
}

/// Refuses a member that stands twice.
fn once<E: de::Error>(seen: &mut BTreeSet<String>, member: &str) -> Result<(), E> {
    if seen.insert(member.to_owned()) {
        return Ok(());
    }
    Err(E::custom(format_args!("member {member:?} stands twice")))
}

/// The value of a member; what is wrong with it is said with its name.
fn value<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    member: &str,
    map: &mut A,
) -> Result<T, A::Error> {
    map.next_value()
        .map_err(|error| de::Error::custom(format_args!("{member:?}: {error}")))
}

struct Document<'i, 'a>(&'i mut Import<'a>);

impl<'de> DeserializeSeed<'de> for Document<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an export: an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(import) = self;
        let (mut format, mut version, mut collections) = (None::<String>, None::<u32>, false);
        let mut seen = BTreeSet::new();
        while let Some(member) = map.next_key::<String>()? {
            once(&mut seen, &member)?;
            match member.as_str() {
                "format" => format = Some(value(&member, &mut map)?),
                "version" => version = Some(value(&member, &mut map)?),
                "backup" => {
                    let backup: super::lines::GivenBackup = value(&member, &mut map)?;
                    import.labels = backup.labels.unwrap_or_default();
                }
                "collections" => {
                    collections = true;
                    map.next_value_seed(Collections(import))?;
                }
                _ => {
                    return Err(de::Error::custom(format_args!("unknown member {member:?}")));
                }
            }
        }
        Import::check_format(format.as_deref(), version).map_err(|error| stop(import, error))?;
        if !collections {
            return Err(de::Error::missing_field("collections"));
        }
        Ok(())
    }
}

struct Collections<'i, 'a>(&'i mut Import<'a>);

impl<'de> DeserializeSeed<'de> for Collections<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Collections<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of collections")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Self(import) = self;
        while seq.next_element_seed(Collection(import))?.is_some() {
            import.offset.advance();
        }
        Ok(())
    }
}

struct Collection<'i, 'a>(&'i mut Import<'a>);

impl<'de> DeserializeSeed<'de> for Collection<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Collection<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a collection: an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(import) = self;
        let mut given = GivenCollection::default();
        let (mut records, mut seen) = (None, BTreeSet::new());
        while let Some(member) = map.next_key::<String>()? {
            import.offset.advance();
            once(&mut seen, &member)?;
            match member.as_str() {
                "tenant" => given.tenant = value(&member, &mut map)?,
                "database" => given.database = value(&member, &mut map)?,
                "name" => given.name = value(&member, &mut map)?,
                "metadata" => given.metadata = value(&member, &mut map)?,
                "configuration" => given.configuration = value(&member, &mut map)?,
                "schema" => given.schema = value(&member, &mut map)?,
                "dimension" => given.dimension = value(&member, &mut map)?,
                "digest" => given.digest = value(&member, &mut map)?,
                "records" => {
                    records = Some(map.next_value_seed(Records(import, given.dimension))?);
                }
                _ => {
                    return Err(de::Error::custom(format_args!("unknown member {member:?}")));
                }
            }
        }
        let records = records.ok_or_else(|| de::Error::missing_field("records"))?;
        import
            .collection(given, records)
            .map_err(|error| stop(import, error))
    }
}

struct Records<'i, 'a>(&'i mut Import<'a>, Option<u32>);

impl<'de> DeserializeSeed<'de> for Records<'_, '_> {
    type Value = ImportedRecords;

    fn deserialize<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<ImportedRecords, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Records<'_, '_> {
    type Value = ImportedRecords;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<ImportedRecords, A::Error> {
        let Self(import, dimension) = self;
        let taken = import.records(dimension, || {
            let given = seq.next_element::<Object<GivenRecord>>()?;
            Ok(given.map(|Object(given)| given))
        });
        match taken {
            Ok(imported) => {
                // What follows the last record is read to its end.
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(imported)
            }
            Err(Stop::Source(error)) => Err(error),
            Err(Stop::Own(error)) => Err(stop(import, error)),
        }
    }
}
