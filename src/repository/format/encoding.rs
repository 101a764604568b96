//! Manifests as bytes. A file is `{"manifest": {…}, "blake3": "<hash of the manifest's bytes as they stand>"}`.
//!
//! A manifest of few collections holds them itself: format 1. One of many has `totals` and `parts` in their place, format 2:
//! a part is `{"tenants": […], "collections": […]}`, compressed with zstd, named by the hash of its stored bytes. Which part a
//! collection belongs to follows from its id alone, so a part whose collections did not change is the same in the next backup.

use std::collections::BTreeMap;
use std::io::Read as _;

use bytes::Bytes;
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::manifest::{
    Manifest, ManifestCollection, ManifestTenant, PartReference, Summary, Totals,
};
use super::{PARTED_FORMAT, REPOSITORY_FORMAT};
use crate::error::{Error, Result};

/// Collections, and databases, that a manifest holds itself.
const MOST_INLINE: usize = 16;
/// Collections that a part has about, at least half as many.
const PER_PART: usize = 64;
/// zstd level of parts: of a collection's 2 KB nearly all are the same as its neighbours'.
const PART_LEVEL: i32 = 3;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    manifest: Box<RawValue>,
    blake3: String,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// Format 1, and what both have in common; `C` is what is made of the collections, `T` of the tenants.
#[derive(Serialize, Deserialize)]
struct Whole<S, T, C> {
    #[serde(flatten)]
    summary: S,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenants: Option<T>,
    collections: C,
}

/// Format 2.
#[derive(Serialize, Deserialize)]
struct Parted<S> {
    #[serde(flatten)]
    summary: S,
    totals: Totals,
    parts: Vec<PartReference>,
}

/// What stands in a part.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::repository) struct Part {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::repository) tenants: Vec<ManifestTenant>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::repository) collections: Vec<ManifestCollection>,
}

/// Why a manifest cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::repository) enum Undecodable {
    /// It is not as it was written.
    Damaged(String),
    /// Another program reads this version of the format.
    Version(u32),
}

fn damaged(error: impl ToString) -> Undecodable {
    Undecodable::Damaged(error.to_string())
}

impl Part {
    fn encode(&self) -> Result<(PartReference, Bytes, u64)> {
        let fail = |error: std::io::Error| {
            Error::internal("a part of a manifest cannot be packed").because(error)
        };
        let text = json_bytes(self);
        let bytes = zstd::bulk::compress(&text, PART_LEVEL).map_err(fail)?;
        let reference = PartReference {
            hash: blake3::hash(&bytes).to_hex().to_string(),
            size_bytes: bytes.len() as u64,
        };
        Ok((reference, bytes.into(), text.len() as u64))
    }

    /// A part whose hash was compared, and how many bytes it has unpacked; at most so many.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::repository) fn decode(
        bytes: &[u8],
        most: u64,
    ) -> std::result::Result<(Self, u64), String> {
        let mut text = Vec::new();
        let unpacking = zstd::stream::read::Decoder::new(bytes)
            .map(|unpacked| unpacked.take(most.saturating_add(1)));
        unpacking
            .and_then(|mut unpacked| unpacked.read_to_end(&mut text))
            .map_err(|error| error.to_string())?;
        let length = text.len() as u64;
        if length > most {
            return Err(format!(
                "with its manifest it has more than {most} bytes unpacked (repository.max_manifest_bytes)"
            ));
        }
        let part = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        Ok((part, length))
    }
}

impl Manifest {
    /// Divides a manifest of many collections into parts, which its summary then names; none where it holds them itself. Also
    /// returned: how many bytes the parts have unpacked.
    ///
    /// # Errors
    /// `Internal` when packing fails.
    pub(in crate::repository) fn divide(&mut self) -> Result<(Vec<(PartReference, Bytes)>, u64)> {
        let databases: usize = self
            .tenants
            .iter()
            .map(|tenant| tenant.databases.len().max(1))
            .sum();
        if self.collections.len() <= MOST_INLINE && databases <= MOST_INLINE {
            return Ok((Vec::new(), 0));
        }
        let mut parts = Vec::new();
        if !self.tenants.is_empty() {
            parts.push(Part {
                tenants: self.tenants.clone(),
                ..Part::default()
            });
        }
        let buckets = self
            .collections
            .len()
            .div_ceil(PER_PART)
            .next_power_of_two();
        let mut divided: BTreeMap<usize, Vec<&ManifestCollection>> = BTreeMap::new();
        for collection in &self.collections {
            let bucket = divided
                .entry(bucket_of(collection.id, buckets))
                .or_default();
            bucket.push(collection);
        }
        for (_, mut collections) in divided {
            collections.sort_unstable_by_key(|collection| collection.id);
            parts.push(Part {
                collections: collections.into_iter().cloned().collect(),
                ..Part::default()
            });
        }
        let (mut encoded, mut unpacked) = (Vec::new(), 0);
        for part in parts {
            let (reference, bytes, length) = part.encode()?;
            encoded.push((reference, bytes));
            unpacked += length;
        }
        self.summary.format = PARTED_FORMAT;
        self.summary.parts = encoded
            .iter()
            .map(|(reference, _)| reference.clone())
            .collect();
        Ok((encoded, unpacked))
    }

    /// The bytes of the manifest itself.
    pub(in crate::repository) fn encode(&self) -> Vec<u8> {
        let text = if self.parts.is_empty() {
            serde_json::to_string(&Whole {
                summary: &self.summary,
                tenants: Some(&self.tenants).filter(|tenants| !tenants.is_empty()),
                collections: &self.collections,
            })
        } else {
            serde_json::to_string(&Parted {
                summary: &self.summary,
                totals: self.totals,
                parts: self.parts.clone(),
            })
        };
        let manifest = RawValue::from_string(text.expect("a manifest has string keys only"))
            .expect("serde_json writes valid JSON");
        let blake3 = blake3::hash(manifest.get().as_bytes()).to_hex().to_string();
        json_bytes(&Envelope { manifest, blake3 })
    }

    /// A manifest from its bytes; where it has parts, without the collections and tenants that stand there.
    pub(in crate::repository) fn decode(bytes: &[u8]) -> std::result::Result<Self, Undecodable> {
        let (text, format) = unsealed(bytes)?;
        if format == PARTED_FORMAT {
            return parted(&text).map(Self::without_collections);
        }
        let whole: Whole<Summary, Vec<ManifestTenant>, Vec<ManifestCollection>> =
            serde_json::from_str(text.get()).map_err(damaged)?;
        let manifest = Self {
            summary: whole.summary,
            tenants: whole.tenants.unwrap_or_default(),
            collections: whole.collections,
        };
        manifest.summed().ok_or_else(too_much)
    }

    /// With what stands in its parts.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(in crate::repository) fn with_parts(
        mut self,
        parts: Vec<Part>,
    ) -> std::result::Result<Self, String> {
        let said = self.totals;
        for part in parts {
            self.tenants.extend(part.tenants);
            self.collections.extend(part.collections);
        }
        self.collections
            .sort_unstable_by_key(|collection| collection.id);
        let summed = self.summed().filter(|manifest| manifest.totals == said);
        summed.ok_or_else(|| "its parts hold other collections than it says".to_owned())
    }

    fn summed(mut self) -> Option<Self> {
        let mut totals = Totals::default();
        for collection in &self.collections {
            totals.add(&collection.totals())?;
        }
        self.summary.totals = totals;
        Some(self)
    }
}

impl Summary {
    /// The summary of a manifest from its bytes; what stands there of collections is summed up and forgotten.
    pub(in crate::repository) fn decode(bytes: &[u8]) -> std::result::Result<Self, Undecodable> {
        let (text, format) = unsealed(bytes)?;
        if format == PARTED_FORMAT {
            return parted(&text);
        }
        let whole: Whole<Self, IgnoredAny, Summed> =
            serde_json::from_str(text.get()).map_err(damaged)?;
        Ok(Self {
            totals: whole.collections.0,
            ..whole.summary
        })
    }
}

fn parted(text: &RawValue) -> std::result::Result<Summary, Undecodable> {
    let parted: Parted<Summary> = serde_json::from_str(text.get()).map_err(damaged)?;
    if parted.parts.is_empty() {
        return Err(damaged("it has no parts"));
    }
    Ok(Summary {
        totals: parted.totals,
        parts: parted.parts,
        ..parted.summary
    })
}

/// The manifest in a file that is as it was written, and its format.
fn unsealed(bytes: &[u8]) -> std::result::Result<(Box<RawValue>, u32), Undecodable> {
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(damaged)?;
    let text = envelope.manifest;
    if blake3::hash(text.get().as_bytes()).to_hex().as_str() != envelope.blake3 {
        return Err(damaged("its bytes do not have the hash that stands in it"));
    }
    let Version { format } = serde_json::from_str(text.get()).map_err(damaged)?;
    match format {
        REPOSITORY_FORMAT | PARTED_FORMAT => Ok((text, format)),
        other => Err(Undecodable::Version(other)),
    }
}

fn too_much() -> Undecodable {
    damaged("it counts more than there can be")
}

/// The part that a collection belongs to, whatever others there are; `buckets` is a power of two.
fn bucket_of(collection: Uuid, buckets: usize) -> usize {
    let hash = blake3::hash(collection.as_bytes());
    let [first, second, third, fourth, ..] = *hash.as_bytes();
    u32::from_le_bytes([first, second, third, fourth]) as usize & (buckets - 1)
}

fn json_bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what is stored has string keys only")
}

/// The sums over a list of collections, none of which is kept.
struct Summed(Totals);

impl<'de> Deserialize<'de> for Summed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_seq(Adding)
    }
}

struct Adding;

impl<'de> Visitor<'de> for Adding {
    type Value = Summed;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a list of collections")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Summed, A::Error> {
        let mut totals = Totals::default();
        while let Some(collection) = list.next_element::<Counted>()? {
            let one = collection.totals();
            one.and_then(|one| totals.add(&one))
                .ok_or_else(|| serde::de::Error::custom("it counts more than there can be"))?;
        }
        Ok(Summed(totals))
    }
}

/// What counts of a collection.
#[derive(Deserialize)]
struct Counted {
    records: u64,
    raw_bytes: u64,
    layers: Vec<CountedLayer>,
}

#[derive(Deserialize)]
struct CountedLayer {
    packs: Vec<CountedPack>,
    tombstones: Vec<CountedPack>,
}

#[derive(Deserialize)]
struct CountedPack {
    size_bytes: u64,
}

impl Counted {
    fn totals(&self) -> Option<Totals> {
        let layers = self.layers.iter();
        let packs = layers.flat_map(|layer| layer.packs.iter().chain(&layer.tombstones));
        let stored_bytes = packs
            .map(|pack| pack.size_bytes)
            .try_fold(0, u64::checked_add)?;
        Some(Totals {
            collections: 1,
            records: self.records,
            raw_bytes: self.raw_bytes,
            stored_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{collection, manifest};
    use super::super::{LayerReference, PackReference};
    use super::*;
    use crate::model::names::CollectionName;

    fn pack(number: u64) -> PackReference {
        PackReference {
            hash: blake3::hash(&number.to_le_bytes()).to_hex().to_string(),
            size_bytes: 100 + number,
            records: 1,
            first_ordinal: 0,
            last_ordinal: 0,
        }
    }

    fn with_collections(count: u64) -> Manifest {
        let collections = (0..count).map(|number| {
            let mut one = collection();
            one.id = Uuid::from_u128(u128::from(number) << 7);
            one.name =
                CollectionName::new("default_tenant", "default_database", format!("c{number}"));
            one.records = number;
            one.layers = vec![LayerReference {
                packs: vec![pack(number)],
                tombstones: vec![pack(number + count)],
            }];
            one
        });
        let tenants = vec![ManifestTenant {
            name: "default_tenant".to_owned(),
            resource_name: None,
            databases: vec!["default_database".to_owned()],
        }];
        Manifest::new(manifest().into_summary(), tenants, collections.collect())
    }

    /// What a reader of the stored bytes gets.
    fn read_back(file: &[u8], parts: &[(PartReference, Bytes)]) -> Manifest {
        let read = Manifest::decode(file).unwrap();
        let names: Vec<&PartReference> = parts.iter().map(|(part, _)| part).collect();
        assert_eq!(read.parts.iter().collect::<Vec<_>>(), names);
        let decoded = parts
            .iter()
            .map(|(_, bytes)| Part::decode(bytes, 1 << 24).unwrap().0);
        read.with_parts(decoded.collect()).unwrap()
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_whatever_it_is_divided_into() {
        for count in [0, 1, 16, 17, 64, 65, 700] {
            let mut original = with_collections(count);
            let (parts, _) = original.divide().unwrap();
            assert_eq!(parts.is_empty(), count <= 16, "{count} collections");
            let file = original.encode();
            let read = if parts.is_empty() {
                Manifest::decode(&file).unwrap()
            } else {
                read_back(&file, &parts)
            };
            assert_eq!(read, original, "{count} collections");
            let sum = count * count.saturating_sub(1) / 2;
            assert_eq!((read.totals.collections, read.totals.records), (count, sum));
            // A listing reads the same of it, and keeps no collection.
            assert_eq!(Summary::decode(&file).unwrap(), original.into_summary());
        }
    }

    /// Applications make one collection per file.
    #[test]
    fn a_change_of_one_collection_of_many_changes_one_part() {
        let mut before = with_collections(2_000);
        let (parts, _) = before.divide().unwrap();
        let mut after = with_collections(2_000);
        after.collections[77].records += 1;
        let (changed, _) = after.divide().unwrap();
        let same = parts
            .iter()
            .filter(|(part, _)| changed.iter().any(|(other, _)| other == part));
        assert_eq!(
            (same.count(), changed.len()),
            (parts.len() - 1, parts.len())
        );
        // The manifest itself says nothing of a single collection.
        assert!(after.encode().len() < 8_192, "{}", after.encode().len());
    }

    #[test]
    fn parts_that_are_not_those_of_the_manifest_are_seen() {
        let mut original = with_collections(100);
        let (parts, _) = original.divide().unwrap();
        let decode = |(_, bytes): &(PartReference, Bytes)| Part::decode(bytes, 1 << 24).unwrap().0;
        let read = Manifest::decode(&original.encode()).unwrap();
        let without_one = parts.iter().skip(2).chain(parts.first()).map(decode);
        assert!(read.clone().with_parts(without_one.collect()).is_err());
        let one_twice = parts.iter().chain(parts.last()).map(decode);
        assert!(read.with_parts(one_twice.collect()).is_err());
    }

    #[test]
    fn a_part_that_would_unpack_to_more_than_it_may_is_refused() {
        let text = vec![b' '; 1 << 22];
        let bomb = zstd::bulk::compress(&text, 19).unwrap();
        assert!(bomb.len() < 1_024, "{}", bomb.len());
        let refused = Part::decode(&bomb, 1 << 16).err().unwrap();
        assert!(
            refused.contains("repository.max_manifest_bytes"),
            "{refused}"
        );
        assert!(Part::decode(b"no zstd", 1 << 16).is_err());
    }

    #[test]
    fn a_manifest_that_counts_beyond_what_there_can_be_is_damaged() {
        let mut hostile = with_collections(2);
        hostile.collections[0].records = u64::MAX;
        hostile.collections[1].records = 1;
        let file = hostile.encode();
        assert!(matches!(
            Manifest::decode(&file),
            Err(Undecodable::Damaged(_))
        ));
        assert!(matches!(
            Summary::decode(&file),
            Err(Undecodable::Damaged(_))
        ));
    }
}
