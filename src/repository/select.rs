//! What a selector names.

use chrono::Utc;

use super::Repository;
use super::format::Manifest;
use super::order::is_future;
use super::parts::KnownParts;
use super::standing::Restorable;
use crate::error::{Error, Kind, Result};
use crate::model::selector::Selector;

/// A backup that a selector names.
#[derive(Debug)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its manifest where it was read on the way; one that is named by its id was not looked for yet.
    pub manifest: Option<Manifest>,
}

impl Repository {
    /// The backup that a selector names: the only place where `latest` and `before:` are understood.
    ///
    /// # Errors
    /// `NotFound` where no backup can be restored; an id is taken as it is, whether there is such a backup or not.
    pub fn named(&self, selector: &Selector) -> Result<Named> {
        if let Selector::Id(id) = selector {
            return Ok(Named {
                id: id.clone(),
                manifest: None,
            });
        }
        let manifest = self.newest_restorable(selector)?;
        Ok(Named {
            id: manifest.id.clone(),
            manifest: Some(manifest),
        })
    }

    /// The id that a selector names.
    ///
    /// # Errors
    /// As [`Repository::named`].
    pub fn select(&self, selector: &Selector) -> Result<String> {
        Ok(self.named(selector)?.id)
    }

    /// The backup that a selector names.
    ///
    /// # Errors
    /// As [`Repository::named`] and [`Repository::backup`].
    pub fn selected(&self, selector: &Selector) -> Result<Manifest> {
        let Named { id, manifest } = self.named(selector)?;
        manifest.map_or_else(|| self.backup(&id), Ok)
    }

    /// The newest backup of which no damage is known and that is not dated in the future, by the moment that a selector
    /// gives. Manifests that cannot be read are passed over.
    ///
    /// # Errors
    /// `NotFound` when there is none; it says how many were passed over.
    fn newest_restorable(&self, selector: &Selector) -> Result<Manifest> {
        let (backups, unreadable) = self.backups()?;
        let now = Utc::now();
        let mut passed_over = unreadable.len();
        let mut known = KnownParts::default();
        for backup in backups {
            match selector {
                Selector::Before(time) if backup.created_at > *time => continue,
                _ => {}
            }
            if !is_future(backup.created_at, now) {
                match self.complete(&backup, &mut known) {
                    Ok(manifest) if self.standing(&manifest)?.restorable != Restorable::Damaged => {
                        return Ok(manifest);
                    }
                    Err(error) if !matches!(error.kind(), Kind::BackupCorrupt | Kind::NotFound) => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
            passed_over += 1;
        }
        let what = match (selector, passed_over) {
            (Selector::Before(time), _) => {
                format!("there is no restorable backup of {time} or before")
            }
            (_, 0) => "there is no backup yet".to_owned(),
            _ => "there is no restorable backup".to_owned(),
        };
        Err(Error::not_found(match passed_over {
            0 => what,
            passed => format!("{what}; {passed} are damaged or dated in the future"),
        }))
    }
}
