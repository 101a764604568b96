//! The directories of the store and of the repository, as they lie on this machine.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::repository::directory_of;

/// What an embedded Chroma keeps in its directory.
const CHROMA_DATABASE: &str = "chroma.sqlite3";

/// Checks that each place is a directory or can become one, that neither holds the other, and that neither is a
/// Chroma's.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn check(data_dir: &Path, repository_url: &str) -> Result<()> {
    let store = check_directory("storage.data_dir", data_dir)?;
    let Some(repository) = directory_of(repository_url)? else {
        return Ok(());
    };
    let repository = check_directory("repository.url", &repository)?;
    let (store_text, repository_text) = (store.display(), repository.display());
    if repository == store {
        return Err(Error::invalid(format!(
            "repository.url and storage.data_dir are the same directory, {store_text}: give backups one of their own, on \
             another disk if there is one"
        )));
    }
    if repository.starts_with(&store) {
        return Err(Error::invalid(format!(
            "repository.url {repository_text} is inside storage.data_dir {store_text}, where the store may remove what \
             is not its own: give backups a directory outside of it"
        )));
    }
    if store.starts_with(&repository) {
        return Err(Error::invalid(format!(
            "storage.data_dir {store_text} is inside repository.url {repository_text}: give the store a directory \
             outside of the repository"
        )));
    }
    Ok(())
}

/// The directory's real path, as far as it is there.
fn check_directory(setting: &str, directory: &Path) -> Result<PathBuf> {
    let real = real_path(directory).map_err(|error| {
        let directory = directory.display();
        Error::invalid(format!("{setting} {directory} cannot be used: {error}"))
    })?;
    let there = real.ancestors().find(|part| part.exists());
    if let Some(there) = there.filter(|there| !there.is_dir()) {
        return Err(Error::invalid(format!(
            "{setting} must be a directory, and {} is a file",
            there.display()
        )));
    }
    if real.join(CHROMA_DATABASE).exists() {
        let directory = real.display();
        return Err(Error::invalid(format!(
            "{setting} {directory} is a Chroma's directory (it holds {CHROMA_DATABASE}): give vectorkeep one of its own. \
             To take its collections over, serve it with `chroma run --path {directory}`, name that in [environments.NAME] \
             with kind = \"chroma\", and POST /migrate"
        )));
    }
    Ok(real)
}

/// The path without links and dots; what is not there yet is taken as it is written.
fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut missing = Vec::new();
    let mut there = path.as_path();
    loop {
        match there.canonicalize() {
            Ok(real) => {
                let mut real = real;
                for part in missing.iter().rev() {
                    match part {
                        std::path::Component::ParentDir => {
                            real.pop();
                        }
                        part => real.push(part),
                    }
                }
                return Ok(real);
            }
            Err(error) => {
                let (Some(parent), Some(last)) = (there.parent(), there.components().next_back())
                else {
                    return Err(error);
                };
                missing.push(last);
                there = parent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(data_dir: &Path, repository: &Path) -> String {
        let refused = check(data_dir, &repository.display().to_string());
        refused.unwrap_err().message().to_owned()
    }

    #[test]
    fn store_and_repository_lie_side_by_side() {
        let home = tempfile::tempdir().unwrap();
        let (data, backups) = (home.path().join("data"), home.path().join("backups"));
        let allowed = |data: &Path, url: &str| check(data, url).unwrap();
        allowed(&data, &backups.display().to_string());
        allowed(&data, &home.path().join("data-2").display().to_string());
        allowed(&data, "s3://bucket/data");
        allowed(&data, "memory://");
        for (data, backups) in [
            (data.clone(), data.join("backups")),
            (data.clone(), data.join("../data/backups")),
            (backups.join("store"), backups.clone()),
            (data.clone(), data.clone()),
        ] {
            let message = refusal(&data, &backups);
            assert!(
                message.contains("storage.data_dir") && message.contains("repository.url"),
                "{message}"
            );
        }
        // What a link leads to counts.
        std::fs::create_dir(&data).unwrap();
        let link = home.path().join("link");
        std::os::unix::fs::symlink(&data, &link).unwrap();
        assert!(refusal(&data, &link.join("deep")).contains("is inside storage.data_dir"));
    }

    #[test]
    fn a_file_and_a_chromas_directory_are_no_places_for_it() {
        let home = tempfile::tempdir().unwrap();
        let (data, file) = (home.path().join("data"), home.path().join("file"));
        std::fs::write(&file, "x").unwrap();
        assert!(refusal(&data, &file).contains("repository.url must be a directory"));
        assert!(refusal(&data, &file.join("below")).contains("file is a file"));
        assert!(refusal(&file, &data).contains("storage.data_dir must be a directory"));
        let chroma = home.path().join("chroma");
        std::fs::create_dir(&chroma).unwrap();
        std::fs::write(chroma.join(CHROMA_DATABASE), "").unwrap();
        let message = refusal(&chroma, &data);
        assert!(
            message.contains("chroma run --path") && message.contains("POST /migrate"),
            "{message}"
        );
        assert!(refusal(&data, &chroma).contains("repository.url"));
    }
}
