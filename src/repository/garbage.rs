//! Collecting packs that no backup refers to, in two phases: what is found unreferenced is noted, and
//! removed only when the grace period has passed and it still is. Both happen under the exclusive lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::backend::Listed;
use super::format::{PACK_SUFFIX, PART_SUFFIX, Summary};
use super::lock::RepositoryLock;
use super::{ANNOTATIONS, DAMAGED, PACKS, Repository, VERIFICATIONS, id_of};
use crate::error::{Error, Kind, Result};
use crate::model::stored::{self, Stored, Unreadable};

const GARBAGE: &str = "garbage.json";
/// Packs that are removed between two looks at the lock.
const CONFIRMED_EVERY: usize = 32;

/// What a collection did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Bytes that are gone.
    pub freed_bytes: u64,
    /// Bytes that nothing needs, removed once the grace period is over.
    pub pending_bytes: u64,
}

/// Since when a pack is known to be unreferenced, by its hash.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Noted {
    unreferenced_since: BTreeMap<String, DateTime<Utc>>,
}

impl Stored for Noted {
    const NAME: &'static str = "garbage.json";
}

/// What there is to collect.
struct Survey {
    due: Vec<Listed>,
    waiting: Noted,
    noted: Option<Noted>,
    collected: Collected,
}

impl Repository {
    /// Whether collecting would change anything.
    ///
    /// # Errors
    /// As [`Repository::collect`].
    pub fn has_garbage(&self, grace: Duration, now: DateTime<Utc>) -> Result<bool> {
        let backups = self.all_readable()?;
        let needed = self.needed_by_all(&backups)?;
        let survey = self.survey(&needed, &BTreeSet::new(), grace, now)?;
        let changes = !survey.due.is_empty() || survey.waiting != survey.noted.unwrap_or_default();
        Ok(changes || self.has_many_claims()?)
    }

    /// Removes what has been unreferenced for the grace period, notes what newly is, and removes what
    /// stood beside backups that are gone. For packs of backups that were removed just now (`freed`) the grace
    /// period begins now, whatever was noted of them before they were needed again.
    ///
    /// # Errors
    /// `BackupCorrupt` when a manifest cannot be read: what it refers to is not known, so nothing is
    /// removed. `Conflict` when the lock was lost. `StorageFault`.
    pub fn collect(
        &self,
        lock: &RepositoryLock,
        freed: &BTreeSet<String>,
        grace: Duration,
        now: DateTime<Utc>,
    ) -> Result<Collected> {
        let backups = self.all_readable()?;
        let needed = self.needed_by_all(&backups)?;
        let survey = self.survey(&needed, freed, grace, now)?;
        for (index, pack) in survey.due.iter().enumerate() {
            // One who lost the lock in the middle must not go on.
            if index % CONFIRMED_EVERY == 0 {
                lock.confirm()?;
            }
            self.backend.delete(&pack.path)?;
        }
        lock.confirm()?;
        self.backend.remove_unfinished(self.locks.stale)?;
        if survey.noted.is_some() || !survey.waiting.unreferenced_since.is_empty() {
            let bytes = stored::encode(&survey.waiting);
            self.backend.put_for_removal(GARBAGE, bytes.into())?;
        }
        self.remove_orphans(&backups, &needed)?;
        self.settle_ids()?;
        self.backend.keep_reserve();
        Ok(survey.collected)
    }

    /// What [`Repository::collect`] would do if these backups were gone as well; nothing is changed.
    ///
    /// # Errors
    /// `BackupCorrupt`, `StorageFault`.
    pub fn would_collect(
        &self,
        without: &BTreeSet<String>,
        grace: Duration,
        now: DateTime<Utc>,
    ) -> Result<Collected> {
        let (going, staying): (Vec<_>, Vec<_>) = self
            .all_readable()?
            .into_iter()
            .partition(|backup| without.contains(&backup.id));
        let (freed, needed) = (self.needed_by_all(&going)?, self.needed_by_all(&staying)?);
        Ok(self.survey(&needed, &freed, grace, now)?.collected)
    }

    fn survey(
        &self,
        needed: &BTreeSet<String>,
        freed: &BTreeSet<String>,
        grace: Duration,
        now: DateTime<Utc>,
    ) -> Result<Survey> {
        let mut survey = Survey {
            due: Vec::new(),
            waiting: Noted::default(),
            noted: self.noted()?,
            collected: Collected::default(),
        };
        for pack in self.backend.list(PACKS)? {
            // What is no pack by its name is none of ours.
            let Some(hash) = hash_of(&pack).filter(|hash| !needed.contains(*hash)) else {
                continue;
            };
            let noted = survey.noted.as_ref().filter(|_| !freed.contains(hash));
            let noted = noted.and_then(|noted| noted.unreferenced_since.get(hash));
            let since = noted.copied().unwrap_or(now);
            if is_due(since, grace, now) {
                survey.collected.freed_bytes += pack.size;
                survey.due.push(pack);
            } else {
                survey.collected.pending_bytes += pack.size;
                let waiting = &mut survey.waiting.unreferenced_since;
                waiting.insert(hash.to_owned(), since);
            }
        }
        Ok(survey)
    }

    /// All backups.
    ///
    /// # Errors
    /// `BackupCorrupt` when a manifest cannot be read.
    pub fn all_readable(&self) -> Result<Vec<Summary>> {
        let (backups, damaged) = self.backups()?;
        match damaged.into_iter().next() {
            None => Ok(backups),
            Some((_, error)) if error.kind() == Kind::Unprocessable => Err(error),
            Some((id, error)) => Err(not_known(&id, &error)),
        }
    }

    /// What was noted last; `None`: nothing yet.
    fn noted(&self) -> Result<Option<Noted>> {
        let bytes = self.backend.get_or_garbled(GARBAGE)?;
        bytes
            .map(|bytes| match stored::decode(&bytes) {
                Ok(noted) => Ok(noted),
                // Without it the grace period begins anew.
                Err(Unreadable::Damaged(error)) => {
                    tracing::warn!(?error, "garbage.json cannot be read");
                    Ok(Noted::default())
                }
                Err(Unreadable::Newer(error)) => Err(error),
            })
            .transpose()
    }

    /// What a crash left after a manifest was removed, and marks on packs that are gone.
    fn remove_orphans(&self, backups: &[Summary], needed: &BTreeSet<String>) -> Result<()> {
        let ids: BTreeSet<&str> = backups.iter().map(|backup| backup.id.as_str()).collect();
        for directory in [VERIFICATIONS, ANNOTATIONS] {
            for beside in self.backend.list(directory)? {
                if id_of(beside.name()).is_some_and(|id| !ids.contains(id)) {
                    self.backend.delete(&beside.path)?;
                }
            }
        }
        for mark in self.backend.list(DAMAGED)? {
            if !needed.contains(mark.name()) {
                self.backend.delete(&mark.path)?;
            }
        }
        Ok(())
    }
}

/// The hash that a pack is named by.
fn hash_of(pack: &Listed) -> Option<&str> {
    let name = pack.name();
    let hash = name
        .strip_suffix(PACK_SUFFIX)
        .or_else(|| name.strip_suffix(PART_SUFFIX))?;
    let digits = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let place = format!("{PACKS}/{}/{}", hash.get(..2)?, pack.name());
    (digits && place == pack.path).then_some(hash)
}

fn is_due(since: DateTime<Utc>, grace: Duration, now: DateTime<Utc>) -> bool {
    // A clock that went back makes it wait, no more.
    (now - since).to_std().is_ok_and(|waited| waited >= grace)
}

/// As long as a manifest cannot be read, what it needs is not known.
pub(super) fn not_known(backup: &str, error: &Error) -> Error {
    Error::backup_corrupt(format!(
        "{}; as long as it stands, nobody knows what it needs: delete {backup}, or bring its manifest back",
        error.message()
    ))
    .with("backup", backup)
}
