//! The demo tells the truth: it succeeds on healthy storage and fails, saying why, on damage.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vectorkeep::demo::{DemoArguments, Step, run_with};

/// Runs the demo in `directory`; returns whether it succeeded, and what it printed.
async fn demo(directory: &Path, after: impl FnMut(Step, &Path)) -> (bool, String) {
    let arguments = DemoArguments {
        data_dir: directory.to_owned(),
        records: None,
    };
    let mut out = Vec::new();
    let outcome = run_with(&arguments, &mut out, after).await;
    (outcome.is_ok(), String::from_utf8(out).unwrap())
}

fn packs(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut due = vec![directory.join("backups/packs")];
    while let Some(directory) = due.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                due.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn succeeds_twice_in_the_same_directory() {
    let directory = TempDir::new().unwrap();
    for _ in 0..2 {
        let mut steps = Vec::new();
        let (ok, out) = demo(directory.path(), |step, _| steps.push(step)).await;
        assert!(ok, "{out}");
        let expected = [
            Step::Persist,
            Step::Backup,
            Step::Restore,
            Step::Migrate,
            Step::Check,
        ];
        assert_eq!(steps, expected);
        for line in [
            "=== Persistent Deployment Exercise ===",
            "[OK] Backup contains 50 documents",
            "[OK] Restored 50 documents from backup",
            "[OK] Migrated 50 documents from 'source' to 'target'",
            "Collection: [OK] 50 documents, no orphans",
            "[OK] Persistent deployment configured successfully!",
        ] {
            assert!(
                out.lines().any(|found| found == line),
                "{line:?} is missing in\n{out}"
            );
        }
        assert!(!out.contains("[FAIL]"), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_flipped_in_the_backup_fails_it() {
    let directory = TempDir::new().unwrap();
    let (ok, out) = demo(directory.path(), |step, directory| {
        if step == Step::Backup {
            let packs = packs(directory);
            let pack = packs.first().expect("the backup has a pack");
            let mut bytes = fs::read(pack).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(pack, bytes).unwrap();
        }
    })
    .await;
    assert!(!ok, "{out}");
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("[FAIL]") && last.contains("pack") && last.contains("damaged"),
        "{out}"
    );
    assert!(!out.contains("[OK] Restored 50"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_its_own_is_left_alone() {
    let directory = TempDir::new().unwrap();
    let precious = directory.path().join("precious.txt");
    fs::write(&precious, "keep").unwrap();
    let (ok, out) = demo(directory.path(), |_, _| {}).await;
    assert!(!ok);
    assert!(
        out.contains("[FAIL]") && out.contains("was not made by a demo"),
        "{out}"
    );
    assert_eq!(fs::read_to_string(precious).unwrap(), "keep");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_fails_it() {
    // A path below a file cannot be made, whoever asks; permissions do not stop every user.
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let (ok, out) = demo(&file.join("below"), |_, _| {}).await;
    assert!(!ok);
    assert!(
        out.contains("[FAIL]") && out.contains("cannot be used"),
        "{out}"
    );
}
