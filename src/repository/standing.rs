//! What is known of backups at this moment, wherever they are shown: proved sound, known to be damaged, or neither.
//!
//! Known is what verifications and drills found: their reports beside the manifests, and the marks on packs, which count
//! for every backup that needs the pack.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::format::{Manifest, ManifestCollection, Summary, Verification, VerificationLevel};
use super::parts::KnownParts;
use super::{PACKS, Repository, VERIFICATIONS, beside, id_of, is_future};
use crate::error::{Error, Kind, Result};
use crate::model::names::CollectionName;

/// Whether a backup can be restored, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restorable {
    /// Every record was read, or a drill restored it, and nothing is known against it since.
    Verified,
    /// Nothing is known against it.
    Unknown,
    /// A verification failed, or a pack that it needs is known to be damaged or missing.
    Damaged,
}

impl Restorable {
    /// All of them, from good to bad.
    pub const ALL: [Self; 3] = [Self::Verified, Self::Unknown, Self::Damaged];

    /// As it is shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Unknown => "unknown",
            Self::Damaged => "damaged",
        }
    }
}

/// What is known of one backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Whether it can be restored.
    pub restorable: Restorable,
    /// Hashes of packs that it needs and that are known to be damaged.
    pub damaged_packs: BTreeSet<String>,
    /// Collections that need one of them.
    pub damaged_collections: Vec<CollectionName>,
    /// Its newest verification.
    pub verification: Option<Verification>,
}

impl Standing {
    /// Of a backup that was made just now.
    pub fn unknown() -> Self {
        Self {
            restorable: Restorable::Unknown,
            damaged_packs: BTreeSet::new(),
            damaged_collections: Vec::new(),
            verification: None,
        }
    }

    /// Whether a look at its bytes, of this depth at least, found it sound, and nothing is known against it since.
    pub fn is_sound(&self, level: VerificationLevel) -> bool {
        let deep = |found: &Verification| found.ok && found.level >= level;
        self.restorable != Restorable::Damaged && self.verification.as_ref().is_some_and(deep)
    }
}

/// What is known of several backups, read once.
#[derive(Debug, Default)]
pub struct Standings {
    damaged_packs: BTreeSet<String>,
    verifications: BTreeMap<String, Verification>,
}

impl Standings {
    /// What is known of one of them.
    pub fn of(&self, manifest: &Manifest) -> Standing {
        self.judge(manifest, &manifest.collections)
    }

    /// Whether what is known of a backup may depend on its packs: most repositories have no damaged one.
    fn needs_packs(&self) -> bool {
        !self.damaged_packs.is_empty()
    }

    fn judge(&self, backup: &Summary, collections: &[ManifestCollection]) -> Standing {
        let verification = self.verifications.get(&backup.id).cloned();
        let parts = backup.parts.iter().map(|part| &part.hash);
        let mut standing = Standing {
            verification,
            damaged_packs: parts
                .filter(|hash| self.damaged_packs.contains(*hash))
                .cloned()
                .collect(),
            ..Standing::unknown()
        };
        if self.needs_packs() {
            for collection in collections {
                let damaged: BTreeSet<String> = collection
                    .packs()
                    .filter(|pack| self.damaged_packs.contains(&pack.hash))
                    .map(|pack| pack.hash.clone())
                    .collect();
                if !damaged.is_empty() {
                    standing.damaged_packs.extend(damaged);
                    standing.damaged_collections.push(collection.name.clone());
                }
            }
        }
        let failed = standing
            .verification
            .as_ref()
            .is_some_and(|found| !found.ok);
        if failed || !standing.damaged_packs.is_empty() {
            standing.restorable = Restorable::Damaged;
        } else if standing.is_sound(VerificationLevel::Records) && !backup.is_empty() {
            standing.restorable = Restorable::Verified;
        }
        standing
    }
}

/// A backup that a verification of its records, or a drill, found sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBackup {
    /// The backup.
    pub id: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When that was found.
    pub verified_at: DateTime<Utc>,
}

/// What watchers want to know of all backups.
#[derive(Clone, Debug, Default)]
pub struct BackupsSeen {
    /// The id of the newest one that is not known to be damaged.
    pub newest: Option<String>,
    /// The newest one that is known to be sound.
    pub verified: Option<VerifiedBackup>,
    /// How many there are, and the moment of the newest of them that is not dated in the future.
    pub by_standing: BTreeMap<Restorable, (u64, Option<DateTime<Utc>>)>,
    /// Backups that are known to be damaged, newest first; those whose manifest cannot be read are among them.
    pub damaged: Vec<String>,
    /// Packs that are known to be damaged, by hash.
    pub damaged_packs: BTreeSet<String>,
    /// Stored bytes of all packs.
    pub packs_bytes: u64,
    /// The repository that the store's newest backup went to, where it is another one than this.
    pub other_repository: Option<Uuid>,
}

impl Repository {
    /// What is known of these backups: one listing of marks, one of reports, and the reports that are there.
    ///
    /// # Errors
    /// `StorageFault` or `RemoteUnavailable` when the repository cannot be asked.
    pub fn standings<'a>(
        &self,
        backups: impl IntoIterator<Item = &'a Summary>,
    ) -> Result<Standings> {
        let listed = self.backend.list(VERIFICATIONS)?;
        let there: BTreeSet<&str> = listed
            .iter()
            .filter_map(|found| id_of(found.name()))
            .collect();
        let ids: Vec<&str> = backups
            .into_iter()
            .map(|manifest| manifest.id.as_str())
            .filter(|id| there.contains(id))
            .collect();
        let most = self.backend.max_object_bytes();
        let paths = ids
            .iter()
            .map(|id| (beside(VERIFICATIONS, id), most))
            .collect();
        let read = self.backend.get_many(paths);
        let mut verifications = BTreeMap::new();
        for (id, read) in ids.into_iter().zip(read) {
            let found = match read {
                Err(error) if error.kind() == Kind::BackupCorrupt => {
                    tracing::warn!(backup = id, %error, "a verification cannot be read");
                    None
                }
                found => found?,
            };
            if let Some(found) = found.and_then(|bytes| super::reports::decode(id, &bytes)) {
                verifications.insert(id.to_owned(), found);
            }
        }
        Ok(Standings {
            verifications,
            damaged_packs: self.damaged_packs()?,
        })
    }

    /// What is known of one backup.
    ///
    /// # Errors
    /// As [`Repository::standings`].
    pub fn standing(&self, manifest: &Manifest) -> Result<Standing> {
        Ok(self.standings([&**manifest])?.of(manifest))
    }

    /// What is known of these backups, in their order. Their collections are read only where a pack is damaged.
    ///
    /// # Errors
    /// As [`Repository::standings`].
    pub fn judged(&self, backups: Vec<Summary>) -> Result<Vec<(Summary, Standing)>> {
        let standings = self.standings(&backups)?;
        let mut known = KnownParts::default();
        let judged = backups.into_iter().map(|backup| {
            let standing = if standings.needs_packs() {
                match self.complete(&backup, &mut known) {
                    Ok(manifest) => standings.of(&manifest),
                    // It can be restored no more than what has a damaged pack.
                    Err(error) if matches!(error.kind(), Kind::BackupCorrupt | Kind::NotFound) => {
                        tracing::warn!(backup = backup.id, %error, "its collections cannot be read");
                        Standing {
                            restorable: Restorable::Damaged,
                            ..standings.judge(&backup, &[])
                        }
                    }
                    Err(error) => return Err(error),
                }
            } else {
                standings.judge(&backup, &[])
            };
            Ok((backup, standing))
        });
        judged.collect()
    }

    /// All backups in numbers, the newest ones, and what is damaged.
    ///
    /// # Errors
    /// As [`Repository::standings`].
    pub fn backups_seen(&self) -> Result<BackupsSeen> {
        let (backups, unreadable) = self.backups()?;
        let packs = self.backend.list(PACKS)?;
        let mut seen = BackupsSeen {
            damaged: unreadable.into_keys().rev().collect(),
            damaged_packs: self.damaged_packs()?,
            packs_bytes: packs.iter().map(|pack| pack.size).sum(),
            ..BackupsSeen::default()
        };
        let now = Utc::now();
        for (backup, standing) in self.judged(backups)? {
            let made = backup.created_at;
            // A clock that was ahead must not make what is old look new.
            let counts = !is_future(made, now);
            let (count, newest) = seen.by_standing.entry(standing.restorable).or_default();
            *count += 1;
            *newest = (*newest).max(Some(made).filter(|_| counts));
            match standing.restorable {
                Restorable::Damaged => seen.damaged.push(backup.id),
                restorable if counts => {
                    seen.newest.get_or_insert_with(|| backup.id.clone());
                    if let (Restorable::Verified, Some(found)) = (restorable, standing.verification)
                    {
                        seen.verified.get_or_insert(VerifiedBackup {
                            id: backup.id,
                            created_at: made,
                            verified_at: found.at,
                        });
                    }
                }
                _ => {}
            }
        }
        Ok(seen)
    }

    /// Refuses what cannot be restored, as far as that shows without reading everything: each pack has to be there
    /// in its size, and one that is marked as damaged is read.
    ///
    /// # Errors
    /// `BackupCorrupt` that names backup, collection and pack; `StorageFault` or `RemoteUnavailable`.
    pub fn refuse_damaged<'a>(
        &self,
        backup: &str,
        collections: impl IntoIterator<Item = &'a ManifestCollection>,
    ) -> Result<()> {
        let marked = self.damaged_packs()?;
        let collections: Vec<&ManifestCollection> = collections.into_iter().collect();
        let packs = collections.iter().flat_map(|collection| collection.packs());
        let absent = self.absent_packs(packs)?;
        for collection in collections {
            for pack in collection.packs() {
                let found = if marked.contains(&pack.hash) {
                    self.pack(pack).map(|_| ())
                } else if !absent.contains(&pack.hash) {
                    Ok(())
                } else {
                    let how = "is missing or has another size";
                    Err(super::parts::hash_damaged("pack", &pack.hash, how))
                };
                found.map_err(|error| match error.kind() {
                    Kind::BackupCorrupt => Error::backup_corrupt(format!(
                        "{} of {backup} cannot be restored: {}",
                        collection.name,
                        error.message()
                    ))
                    .with("backup", backup)
                    .with("collection", collection.name.to_string())
                    .with("pack", pack.hash.clone()),
                    _ => error,
                })?;
            }
        }
        Ok(())
    }
}
