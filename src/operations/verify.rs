//! Verifying a backup without restoring it: how deep is asked for, and what was looked at is said.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::proof::Proof;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::repository::Repository;
use crate::repository::format::{
    Manifest, ManifestCollection, PackReference, Verification, VerificationLevel,
};
use crate::repository::reader::CollectionReader;

/// Problems that are named; beyond it they are only counted, in the last line.
const MAX_PROBLEMS: usize = 100;

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerificationOutcome {
    /// Which backup.
    pub backup: String,
    /// How deep it looked.
    pub level: VerificationLevel,
    /// Whether everything is as the manifest says.
    pub ok: bool,
    /// Packs looked at.
    pub checked_packs: u64,
    /// Records read and hashed.
    pub checked_records: u64,
    /// Stored bytes read, the manifest's among them.
    pub checked_bytes: u64,
    /// What is wrong, and where.
    pub problems: Vec<String>,
    /// Whether the backup holds no record: then nothing was checked, and nothing is damaged.
    #[serde(skip)]
    nothing: bool,
    /// Packs that are damaged or missing.
    #[serde(skip)]
    damaged: BTreeSet<String>,
}

impl VerificationOutcome {
    /// Nothing looked at yet.
    pub(super) fn new(backup: &str, level: VerificationLevel) -> Self {
        Self {
            backup: backup.to_owned(),
            level,
            ok: false,
            checked_packs: 0,
            checked_records: 0,
            checked_bytes: 0,
            problems: Vec::new(),
            nothing: false,
            damaged: BTreeSet::new(),
        }
    }

    pub(super) fn note(&mut self, problem: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else if self.problems.len() == MAX_PROBLEMS {
            self.problems.push("and more".to_owned());
        }
    }

    /// Damage is noted, with what it is of; what keeps from looking is an error.
    pub(super) fn judge<T>(&mut self, of: &str, outcome: Result<T>) -> Result<Option<T>> {
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == Kind::BackupCorrupt => {
                self.note(format!("{of}: {}", error.message()));
                let members = error.members().iter();
                let packs = members.filter(|(name, _)| *name == "pack");
                self.damaged
                    .extend(packs.filter_map(|(_, pack)| pack.as_str().map(str::to_owned)));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Verifies a backup and keeps the result beside it.
///
/// # Errors
/// `NotFound`, `Canceled`, `StorageFault`. Damage is an outcome, no error.
pub fn execute(
    repository: &Repository,
    id: &str,
    level: VerificationLevel,
    at: DateTime<Utc>,
    progress: &Progress,
) -> Result<VerificationOutcome> {
    progress.stage("lock");
    let _lock = repository.lock_to_read(progress)?;
    let outcome = check(repository, id, level, progress)?;
    keep(repository, id, &outcome, at)?;
    Ok(outcome)
}

/// Keeps what was found beside the backup.
///
/// # Errors
/// `NotFound` when it was deleted meanwhile, `StorageFault`.
pub(super) fn keep(
    repository: &Repository,
    id: &str,
    outcome: &VerificationOutcome,
    at: DateTime<Utc>,
) -> Result<()> {
    let level = outcome.level;
    // Deleted meanwhile, it may have lost its packs on the way: that is no damage.
    let manifest = match repository.backup(id) {
        Err(error) if error.kind() == Kind::NotFound => return Err(error),
        found => found.ok(),
    };
    // That packs are there in their sizes does not make marks of deeper looks wrong.
    let looked_at = match level {
        VerificationLevel::Manifest => None,
        VerificationLevel::Checksums | VerificationLevel::Records => manifest,
        // It stops at the first damage of a collection: what comes after was not looked at.
        VerificationLevel::Drill => manifest.filter(|_| outcome.ok),
    };
    let looked_at = looked_at.iter().flat_map(Manifest::needed);
    repository.mark_damaged(looked_at, &outcome.damaged)?;
    // Neither sound nor damaged.
    if outcome.nothing {
        return repository.remove_verification(id);
    }
    // That it looked well from afar does not replace what was seen from near.
    let earlier = repository.verification(id)?;
    if outcome.ok && earlier.is_some_and(|earlier| earlier.level > level) {
        return Ok(());
    }
    repository.put_verification(
        id,
        &Verification {
            level,
            at,
            ok: outcome.ok,
            checked_records: outcome.checked_records,
            checked_bytes: outcome.checked_bytes,
        },
    )
}

/// Verifies a backup; nothing is written.
///
/// # Errors
/// As [`execute`].
pub fn check(
    repository: &Repository,
    id: &str,
    level: VerificationLevel,
    progress: &Progress,
) -> Result<VerificationOutcome> {
    let mut outcome = VerificationOutcome::new(id, level);
    if let Some(manifest) = outcome.judge(id, repository.backup(id))? {
        // Its parts were read and hashed with it.
        let parts = manifest.parts.iter();
        outcome.checked_bytes = parts.fold(repository.manifest_bytes(id)?, |sum, part| {
            sum.saturating_add(part.size_bytes)
        });
        match level {
            VerificationLevel::Manifest => check_presence(repository, &manifest, &mut outcome)?,
            VerificationLevel::Checksums => {
                check_bytes(repository, &manifest, progress, &mut outcome)?;
            }
            VerificationLevel::Drill => {
                return Err(Error::unprocessable(
                    "a drill is no verification: POST /drills restores the backup aside",
                ));
            }
            VerificationLevel::Records => {
                progress.phase("verify", manifest.totals.records);
                for collection in &manifest.collections {
                    check_records(repository, collection, progress, &mut outcome)?;
                }
            }
        }
        outcome.nothing = manifest.is_empty() && outcome.problems.is_empty();
    }
    outcome.ok = outcome.problems.is_empty() && !outcome.nothing && outcome.checked_bytes > 0;
    if outcome.nothing {
        outcome.note("it holds no record: nothing was checked".to_owned());
    }
    Ok(outcome)
}

/// Every pack once, however many collections refer to it.
pub(super) fn distinct_packs(manifest: &Manifest) -> impl Iterator<Item = &PackReference> {
    let mut seen = BTreeSet::new();
    manifest.packs().filter(move |pack| seen.insert(&pack.hash))
}

/// The collections that refer to a pack.
fn needed_by(manifest: &Manifest, pack: &PackReference) -> String {
    let needs = |collection: &&ManifestCollection| collection.packs().any(|p| p.hash == pack.hash);
    let names = manifest.collections.iter().filter(needs);
    let names: Vec<String> = names
        .map(|collection| collection.name.to_string())
        .collect();
    names.join(", ")
}

fn check_presence(
    repository: &Repository,
    manifest: &Manifest,
    outcome: &mut VerificationOutcome,
) -> Result<()> {
    let absent = repository.absent_packs(manifest.packs())?;
    for reference in distinct_packs(manifest) {
        outcome.checked_packs += 1;
        if absent.contains(&reference.hash) {
            outcome.note(format!(
                "{}: pack {} is missing or has another size",
                needed_by(manifest, reference),
                reference.hash
            ));
            outcome.damaged.insert(reference.hash.clone());
        }
    }
    Ok(())
}

fn check_bytes(
    repository: &Repository,
    manifest: &Manifest,
    progress: &Progress,
    outcome: &mut VerificationOutcome,
) -> Result<()> {
    let total = distinct_packs(manifest).map(|pack| pack.records).sum();
    progress.phase("verify", total);
    for reference in distinct_packs(manifest) {
        progress.check()?;
        outcome.checked_packs += 1;
        if let Some(bytes) =
            outcome.judge(&needed_by(manifest, reference), repository.pack(reference))?
        {
            outcome.checked_bytes += bytes.len() as u64;
        }
        progress.advance(reference.records, reference.size_bytes);
    }
    Ok(())
}

/// Reads what a restore would: every record is hashed, then count, digest and definition are compared.
fn check_records(
    repository: &Repository,
    collection: &ManifestCollection,
    progress: &Progress,
    outcome: &mut VerificationOutcome,
) -> Result<()> {
    if collection.definition.stored_hash() != collection.definition_hash {
        outcome.note(format!(
            "the definition of {} is not the one that was hashed",
            collection.name
        ));
    }
    let name = collection.name.to_string();
    let opened = CollectionReader::open(repository, collection);
    let Some(mut reader) = outcome.judge(&name, opened)? else {
        return Ok(());
    };
    let mut proof = Proof::of(repository, collection);
    let mut whole = true;
    for record in reader.by_ref() {
        progress.check()?;
        match outcome.judge(&name, record)? {
            Some(record) => {
                proof.add(&record)?;
                progress.advance(1, 0);
            }
            None => whole = false,
        }
    }
    let statistics = reader.statistics();
    outcome.checked_packs += statistics.packs;
    outcome.checked_bytes += statistics.bytes;
    outcome.checked_records += proof.records();
    if whole {
        outcome.judge(&name, proof.finish())?;
    }
    Ok(())
}

/// The error of a backup that is not as its manifest says, or that holds nothing; it carries what was found.
pub fn failure(id: &str, outcome: &VerificationOutcome) -> Error {
    let first = outcome
        .problems
        .first()
        .map_or("nothing was checked", String::as_str);
    let error = if outcome.nothing {
        Error::unprocessable(format!("the backup {id} is not verified: {first}"))
    } else {
        Error::backup_corrupt(format!("the backup {id} is damaged: {first}"))
    };
    error.with("backup", id)
}
