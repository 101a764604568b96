//! What is done before sled opens a store that something happened to: nothing, or a copy first.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use super::files::{DATA_FILE, SEGMENT_BYTES, data_file_bytes, snapshots, unusable};
use super::segments::{self, Forecast};
use crate::error::{Error, Result};

/// The copy of a store as it was before recovery, below the data directory.
const ASIDE: &str = "before-recovery";

/// A copy of a store's directory as it was before recovery.
#[derive(Debug)]
pub(super) struct Aside(PathBuf);

impl Aside {
    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Copies the files of `directory`; where the file system can, without taking room. An older copy stays, and this one
    /// gets a number.
    fn take(data_dir: &Path, directory: &Path) -> Result<Self> {
        let to = (1_u32..)
            .map(|number| data_dir.join(format!("{ASIDE}-{number}")))
            .find(|path| !path.exists())
            .unwrap_or_else(|| data_dir.join(ASIDE));
        let copy = || -> std::io::Result<()> {
            fs::create_dir(&to)?;
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    fs::copy(entry.path(), to.join(entry.file_name()))?;
                }
            }
            Ok(())
        };
        match copy() {
            Ok(()) => Ok(Self(to)),
            Err(error) => {
                let _ = fs::remove_dir_all(&to);
                Err(unusable(&to, &error))
            }
        }
    }

    /// Puts it in the place of `directory`, in one step, and removes what was there.
    fn put_back(self, directory: &Path) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            fs::File::open(entry?.path())?.sync_all()?;
        }
        fs::File::open(&self.0)?.sync_all()?;
        rustix::fs::renameat_with(CWD, self.0.as_path(), CWD, directory, RenameFlags::EXCHANGE)?;
        fs::remove_dir_all(&self.0)
    }

    /// Removes it: nothing was lost.
    pub(super) fn discard(self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "a copy that is not needed stays");
        }
    }
}

/// Looks at the store in `directory`, from which something was once synced, before sled opens it: its data file had
/// `once_bytes` then (0: not known). A copy where recovery would blank something, or begins with less than there was: it
/// stays unless what was synced turns out to be there. (sled shortens its file by itself when its end is free, so a
/// shorter one alone is no loss yet.)
///
/// # Errors
/// `StorageFault` where recovery would find nothing, and nothing was touched; where something acknowledged is or may be
/// missing and no copy can be made.
pub(super) fn prepare(
    data_dir: &Path,
    directory: &Path,
    once_bytes: u64,
    accept_data_loss: bool,
) -> Result<Option<Aside>> {
    let newest = snapshots(directory)?
        .iter()
        .filter_map(|path| lsn(path))
        .max();
    let file = directory.join(DATA_FILE);
    let forecast = segments::forecast(&file, SEGMENT_BYTES as u64, newest.unwrap_or(0))
        .map_err(|error| unusable(&file, &error))?;
    let bytes = data_file_bytes(directory);
    let (found, needs_copy) = match forecast {
        Forecast::Lost(what) if !accept_data_loss => {
            return Err(Error::storage(format!(
                "{}: the log has lost its end ({what}), and opening it would erase the rest; nothing was touched. Bring \
                 the file back as it was, or restore a backup into an empty storage.data_dir; to go on with what is \
                 left, set storage.accept_data_loss = true: the file is copied first",
                file.display()
            )));
        }
        Forecast::Lost(what) => (what, true),
        _ if bytes < once_bytes => {
            let what =
                format!("the file has {bytes} bytes, and had {once_bytes} when it was last synced");
            (what, true)
        }
        // After a kill this is nothing: what follows a tear was never acknowledged.
        Forecast::Torn { blanked } => (
            format!("segments behind a gap would be blanked: {blanked}"),
            false,
        ),
        Forecast::Whole => return Ok(None),
    };
    match Aside::take(data_dir, directory) {
        Ok(aside) => {
            tracing::warn!(found, copy = %aside.path().display(), "the store's log is not as it was; copied before recovery");
            Ok(Some(aside))
        }
        Err(error) if needs_copy => Err(error),
        Err(error) => {
            tracing::warn!(found, %error, "the store's log is torn; it could not be copied before recovery");
            Ok(None)
        }
    }
}

/// The error of a start that was refused after a copy was made: what recovery did to `directory` is undone.
pub(super) fn undone(error: Error, aside: Option<Aside>, directory: &Path) -> Error {
    let Some(aside) = aside else {
        return error;
    };
    let copy = aside.path().display().to_string();
    let what = match aside.put_back(directory) {
        Ok(()) => "The store is as it was before this start".to_owned(),
        Err(failed) => {
            tracing::warn!(%failed, copy, "the copy could not be put in the place of what recovery left");
            format!("The store as it was before this start is in {copy}")
        }
    };
    Error::new(error.kind(), format!("{}. {what}", error.message()))
}

/// What a snapshot reaches to: its name says it.
fn lsn(snapshot: &Path) -> Option<i64> {
    let name = snapshot.file_name()?.to_str()?.strip_prefix("snap.")?;
    i64::from_str_radix(name, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::super::{Batch, OpenOptions, Store, Tree};
    use super::*;

    const VALUES: u64 = 12;

    fn options(home: &Path, accept_data_loss: bool) -> OpenOptions {
        OpenOptions {
            data_dir: home.join("data"),
            cache_bytes: 1 << 20,
            accept_data_loss,
            min_free_bytes: 0,
            sync_timeout: std::time::Duration::from_secs(60),
        }
    }

    fn key(number: u64) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    /// Some segments of values that do not compress, all of them synced.
    fn filled() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&options(home.path(), false)).unwrap();
        for number in 1..=VALUES {
            let mut value = vec![0; 1 << 20];
            blake3::Hasher::new()
                .update(&key(number))
                .finalize_xof()
                .fill(&mut value);
            let mut batch = Batch::default();
            batch.put(Tree::Records, key(number), value);
            let sequence = store.committed() + 1;
            store.commit(batch, sequence).unwrap();
        }
        store.close().unwrap();
        home
    }

    /// Such a store and its log. A first start after writes makes a snapshot; a power cut comes before one.
    fn filled_without_snapshot() -> (tempfile::TempDir, std::path::PathBuf) {
        let home = filled();
        let directory = home.path().join("data/store");
        for snapshot in snapshots(&directory).unwrap() {
            fs::remove_file(snapshot).unwrap();
        }
        (home, directory.join(DATA_FILE))
    }

    /// The place of the segment that holds the greatest number that a header calls stable.
    fn stable_segment(file: &Path) -> u64 {
        let bytes = fs::read(file).unwrap();
        let number = |at: usize| {
            let bytes: [u8; 8] = bytes[at..at + 8].try_into().unwrap();
            i64::from_le_bytes(bytes) ^ i64::MAX
        };
        let places = || (0..bytes.len()).step_by(SEGMENT_BYTES);
        let sound = |at: &usize| {
            let crc = u32::from_le_bytes(bytes[*at..*at + 4].try_into().unwrap());
            crc ^ u32::MAX == crc32fast::hash(&bytes[*at + 4..*at + 20])
        };
        let segment = SEGMENT_BYTES as i64;
        let stable = places().filter(sound).map(|at| number(at + 12)).max();
        let begin = stable.unwrap() / segment * segment;
        let place = places().filter(sound).find(|at| number(at + 4) == begin);
        place.unwrap() as u64
    }

    /// The way in which a power cut cost a whole store: the refused start erased what was still there.
    #[test]
    fn a_log_that_lost_its_end_is_refused_untouched_and_copied_before_a_loss_is_accepted() {
        let (home, file) = filled_without_snapshot();
        let log = fs::File::options().write(true).open(&file).unwrap();
        log.write_all_at(&[0; 64], stable_segment(&file)).unwrap();
        drop(log);
        let before = fs::read(&file).unwrap();
        for _ in 0..2 {
            let refused = Store::open(&options(home.path(), false)).map(drop);
            let message = refused.unwrap_err().message().to_owned();
            assert!(message.contains("nothing was touched"), "{message}");
            assert!(fs::read(&file).unwrap() == before, "the file was changed");
        }
        let store = Store::open(&options(home.path(), true)).unwrap();
        // The sequence never goes down; the identity is written anew behind it.
        assert_eq!(store.committed(), VALUES + 2);
        drop(store);
        let copy = home.path().join(format!("data/{ASIDE}-1")).join(DATA_FILE);
        assert!(fs::read(copy).unwrap() == before, "the copy is another");
    }

    /// Without a gap sled takes what is left for all there ever was, and shortens it further before it can be refused.
    #[test]
    fn a_log_that_was_cut_between_two_segments_is_refused_as_it_was_and_a_loss_is_accepted_with_a_copy_or_not()
     {
        let (home, file) = filled_without_snapshot();
        let log = fs::File::options().write(true).open(&file).unwrap();
        log.set_len(3 * SEGMENT_BYTES as u64).unwrap();
        drop(log);
        let before = fs::read(&file).unwrap();
        for _ in 0..3 {
            let refused = Store::open(&options(home.path(), false)).map(drop);
            let message = refused.unwrap_err().message().to_owned();
            // How far the headers got with what is synced is a matter of time: so it is seen before sled opens the file, or
            // sled finds less than there was, or fails.
            let untouched = ["as it was before this start", "nothing was touched"];
            assert!(
                untouched.iter().any(|said| message.contains(said)),
                "{message}"
            );
            assert!(fs::read(&file).unwrap() == before, "the file was changed");
            // Starts that are tried again and again do not fill the disk.
            assert!(!home.path().join(format!("data/{ASIDE}-1")).exists());
        }
        match Store::open(&options(home.path(), true)) {
            Ok(store) => {
                assert!(store.committed() > VALUES);
                drop(store);
                let copy = home.path().join(format!("data/{ASIDE}-1")).join(DATA_FILE);
                assert!(fs::read(copy).unwrap() == before, "the copy is another");
            }
            Err(error) => assert!(fs::read(&file).unwrap() == before, "{error}"),
        }
    }

    #[test]
    fn damaged_settings_of_sled_are_set_aside_and_the_store_is_whole() {
        let home = filled();
        let settings = home.path().join("data/store/conf");
        let mut bytes = fs::read(&settings).unwrap();
        let sound = bytes.clone();
        bytes[3] ^= 1;
        fs::write(&settings, &bytes).unwrap();
        let store = Store::open(&options(home.path(), false)).unwrap();
        for number in 1..=VALUES {
            assert!(store.get(Tree::Records, &key(number)).unwrap().is_some());
        }
        store.close().unwrap();
        assert_eq!(fs::read(&settings).unwrap(), sound);
        let aside = home.path().join("data/store/aside.conf");
        assert_eq!(fs::read(aside).unwrap(), bytes);
    }
}
