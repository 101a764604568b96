//! Lines of a store's backups. A store's sequence only grows, unless the store itself is set back: its directory is replaced by
//! an older copy. Then it is behind its own backups, and what is made of it from then on is of a new line.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Repository;
use crate::error::Result;
use crate::model::stored::{self, Stored, Unreadable};

const STORES: &str = "stores";

/// How far the backups of a store are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Line {
    /// How often the store was found behind its own backups.
    pub line: u64,
    /// The highest sequence of its backups since.
    pub sequence: u64,
}

impl Stored for Line {
    const NAME: &'static str = "the line of a store's backups";
}

impl Repository {
    /// The line that a backup of a store is of, which is at a sequence now or was a moment ago. To be asked before the backup's moment:
    /// only then is no backup of the same line further.
    ///
    /// # Errors
    /// `StorageFault`.
    pub fn line_of(&self, store: Uuid, sequence: u64) -> Result<u64> {
        let known = self.known_line(store)?;
        if known.sequence > sequence {
            tracing::warn!(
                store.sequence = sequence,
                backups.sequence = known.sequence,
                "the store is behind its own backups: it was set back; its backups are of a new line from now on"
            );
            return Ok(known.line + 1);
        }
        Ok(known.line)
    }

    /// Notes how far a backup that is about to be committed is.
    pub(super) fn note_line(&self, store: Uuid, reached: Line) -> Result<()> {
        // Backups of one store may end in another order than that of their moments.
        let _one_at_a_time = self.annotating.lock();
        if store.is_nil() || self.known_line(store)? >= reached {
            return Ok(());
        }
        self.backend
            .put(&path(store), stored::encode(&reached).into())
    }

    /// What was noted; of a repository where nothing was yet, what its manifests say.
    fn known_line(&self, store: Uuid) -> Result<Line> {
        let noted = self.backend.get_or_garbled(&path(store))?;
        match noted.map(|bytes| stored::decode(&bytes)) {
            Some(Ok(line)) => return Ok(line),
            Some(Err(Unreadable::Newer(error))) => return Err(error),
            Some(Err(Unreadable::Damaged(_))) | None => {}
        }
        let (backups, _) = self.backups()?;
        let of_store = backups.iter().filter(|backup| backup.store_id == store);
        let lines = of_store.map(|backup| Line {
            line: backup.line,
            sequence: backup.sequence,
        });
        Ok(lines.max().unwrap_or_default())
    }
}

fn path(store: Uuid) -> String {
    format!("{STORES}/{store}.json")
}
