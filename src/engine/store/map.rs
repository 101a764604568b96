//! What the store stands on: trees of ordered keys that change in transactions. Keys and values are opaque here;
//! framing, checksums, syncs that are shared, and what follows a failure are the store's, whatever the map is.

use std::ops::Bound;
use std::path::Path;

use sled::IVec;

use super::batch::Write;

/// Entries in key order.
pub(super) type Entries = Box<dyn Iterator<Item = sled::Result<(IVec, IVec)>> + Send>;

/// An ordered map in trees, by their numbers.
pub(super) trait Map: Send + Sync {
    /// A value.
    fn get(&self, tree: u8, key: &[u8]) -> sled::Result<Option<IVec>>;

    /// The entries between two keys. What is written meanwhile may be among them or not.
    fn range(&self, tree: u8, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Entries;

    /// One transaction: all of it or nothing, and visible at once. Returns in how many chunks each value lay before.
    fn commit(&self, writes: &[Write]) -> sled::Result<Vec<u32>>;

    /// Puts and removes (`None`) entries one by one, in a copy that nobody reads yet.
    fn fill(&self, tree: u8, entries: &[(IVec, Option<IVec>)]) -> sled::Result<()>;

    /// Returns when everything that was committed before survives a power cut.
    fn sync(&self) -> sled::Result<()>;

    /// As [`Map::sync`], with what names it in the data directory: needed once for a new one.
    fn sync_all(&self, data_dir: &Path) -> sled::Result<()>;

    /// Bytes on the disk.
    fn size(&self) -> sled::Result<u64>;
}

/// An open map.
pub(super) struct Files {
    pub(super) map: Box<dyn Map>,
    /// Its directory's name below the data directory.
    pub(super) name: String,
}
