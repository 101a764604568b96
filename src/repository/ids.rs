//! Ids of backups: given once, also after what had one was deleted.
//!
//! Who commits a backup claims its id first, create-only, below `ids/`. A claim stays when the backup goes; a collection, while
//! nobody else can claim, takes the claims into `ids.json`, which says how far ids were given. After it, an id of a later second is
//! new by its second, one of the same second by its suffix, and one of an earlier second, which a clock that was set back asks for,
//! by a suffix above all that were ever given.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{MANIFESTS, Repository, id_of};
use crate::error::{Error, Result};
use crate::model::stored::{self, Stored, Unreadable};

const CLAIMS: &str = "ids";
const GIVEN: &str = "ids.json";
/// `backup_YYYY-MM-DD_HH-MM-SS`
const SECOND_BYTES: usize = 26;
/// Claims that a sweep leaves alone where there is nothing else to collect.
const MANY_CLAIMS: usize = 256;
/// Ids of one second that are tried.
const MAX_ATTEMPTS: u64 = 10_000;

/// How far ids were given. The first of a second has the suffix 1, which is not written.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Given {
    /// The latest second.
    second: String,
    /// The highest suffix in it.
    suffix: u64,
    /// The highest suffix in any.
    highest: u64,
}

impl Stored for Given {
    const NAME: &'static str = GIVEN;
}

impl Given {
    /// Takes an id in; what is none is passed over.
    fn note(&mut self, id: &str) {
        let Some((second, suffix)) = split(id) else {
            return;
        };
        if *second > *self.second {
            second.clone_into(&mut self.second);
            self.suffix = suffix;
        } else if *second == *self.second {
            self.suffix = self.suffix.max(suffix);
        }
        self.highest = self.highest.max(suffix);
    }

    /// The lowest suffix of a second that was certainly not given.
    fn free(&self, second: &str) -> u64 {
        match second.cmp(self.second.as_str()) {
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Equal => self.suffix + 1,
            std::cmp::Ordering::Less => self.highest.max(1) + 1,
        }
    }
}

/// The second of an id, and its suffix.
fn split(id: &str) -> Option<(&str, u64)> {
    let (second, rest) = id.split_at_checked(SECOND_BYTES)?;
    if rest.is_empty() {
        return Some((second, 1));
    }
    let suffix = rest.strip_prefix('-')?.parse().ok()?;
    Some((second, suffix))
}

impl Repository {
    /// Claims an id of a second; nobody gets it again.
    ///
    /// # Errors
    /// `StorageFault`.
    pub(super) fn claim_id(&self, second: &str) -> Result<String> {
        let first = self.given()?.free(second);
        for suffix in first..first.saturating_add(MAX_ATTEMPTS) {
            let id = match suffix {
                1 => second.to_owned(),
                suffix => format!("{second}-{suffix}"),
            };
            if self
                .backend
                .put_new(&format!("{CLAIMS}/{id}"), Bytes::new())?
            {
                return Ok(id);
            }
        }
        Err(Error::internal("no free backup id was found"))
    }

    fn given(&self) -> Result<Given> {
        let Some(bytes) = self.backend.get(GIVEN)? else {
            return Ok(Given::default());
        };
        match stored::decode(&bytes) {
            Ok(given) => return Ok(given),
            Err(Unreadable::Newer(error)) => return Err(error),
            Err(Unreadable::Damaged(_)) => {}
        }
        tracing::warn!(
            "{GIVEN} cannot be read; ids go on after those of the backups that are there"
        );
        let mut given = Given::default();
        for manifest in self.backend.list(MANIFESTS)? {
            if let Some(id) = id_of(manifest.name()) {
                given.note(id);
            }
        }
        Ok(given)
    }

    /// Whether there are so many claims that they should be taken in.
    pub(super) fn has_many_claims(&self) -> Result<bool> {
        Ok(self.backend.list(CLAIMS)?.len() > MANY_CLAIMS)
    }

    /// Takes the claims in. Only while nobody else can claim an id: under the exclusive lock.
    pub(super) fn settle_ids(&self) -> Result<()> {
        let claims = self.backend.list(CLAIMS)?;
        if claims.is_empty() {
            return Ok(());
        }
        let mut given = self.given()?;
        claims.iter().for_each(|claim| given.note(claim.name()));
        let bytes = stored::encode(&given);
        self.backend.put_for_removal(GIVEN, bytes.into())?;
        for claim in claims {
            self.backend.delete(&claim.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_free_was_never_given() {
        let mut given = Given::default();
        let second = |n: u32| format!("backup_2026-11-23_10-30-{n:02}");
        assert_eq!(given.free(&second(5)), 1);
        given.note(&second(5));
        given.note(&format!("{}-2", second(5)));
        assert_eq!(given.free(&second(5)), 3);
        // An earlier second: perhaps all suffixes up to the highest were given in it.
        assert_eq!(given.free(&second(4)), 3);
        given.note(&format!("{}-3", second(4)));
        assert_eq!((given.free(&second(5)), given.free(&second(4))), (3, 4));
        assert_eq!(given.free(&second(6)), 1);
        given.note(&second(6));
        assert_eq!((given.free(&second(6)), given.free(&second(5))), (2, 4));
        given.note("nothing of ours");
        given.note("backup_2026-11-23_10-30-07-x");
        assert_eq!(given.free(&second(7)), 1);
    }
}
