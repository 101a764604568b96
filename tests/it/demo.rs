//! The demo tells the truth: it succeeds on healthy storage and fails, saying why, on damage.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vectorkeep::demo::{DemoArguments, Step, run_with};

/// Runs the demo in `directory`; returns whether it succeeded, and what it printed.
async fn demo(directory: &Path, after: impl FnMut(Step, &Path)) -> (bool, String) {
    demo_with(&arguments(directory), after).await
}

fn arguments(directory: &Path) -> DemoArguments {
    DemoArguments {
        data_dir: directory.to_owned(),
        records: None,
        damage_backup: false,
    }
}

async fn demo_with(arguments: &DemoArguments, after: impl FnMut(Step, &Path)) -> (bool, String) {
    let mut out = Vec::new();
    let outcome = run_with(arguments, &mut out, after).await;
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
            Step::Increment,
            Step::Verify,
            Step::Restore,
            Step::Migrate,
            Step::Check,
        ];
        assert_eq!(steps, expected);
        for line in [
            "=== Persistent Deployment Exercise ===",
            "[OK] Backup contains 50 documents",
            "[OK] Changed 3 documents: 1 updated, 1 added, 1 deleted",
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
        for beginning in [
            "[OK] Created incremental backup: backup_",
            "[OK] Verified: 50 documents in 3 packs, ",
            "[OK] Drill: 50 documents restored aside and compared, ",
            "[OK] Deleted document ",
            "[OK] Migrated 50 documents to another instance and 50 back: all digests ",
            "[OK] Looked at 3 collections: 150 records and 150 ids read, ",
            "[OK] Of 50 records of dimension 384: all finite, ",
            "=== Summary ===",
            "incremental backup ",
            "everything ",
        ] {
            assert!(
                out.lines().any(|found| found.starts_with(beginning)),
                "{beginning:?} is missing in\n{out}"
            );
        }
        assert!(!out.contains("[FAIL]"), "{out}");
        let data = directory.path().join("data").display().to_string();
        let backups = directory.path().join("backups").display().to_string();
        let next = format!(
            "  serve it     VECTORKEEP__STORAGE__DATA_DIR={data} VECTORKEEP__REPOSITORY__URL={backups} vectorkeep serve"
        );
        assert!(out.lines().any(|line| line == next), "{out}");
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
async fn it_fails_when_it_is_told_to_damage_its_backup() {
    let directory = TempDir::new().unwrap();
    let mut arguments = arguments(directory.path());
    arguments.damage_backup = true;
    let (ok, out) = demo_with(&arguments, |_, _| {}).await;
    assert!(!ok, "{out}");
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("[FAIL]") && last.contains("pack") && last.contains("damaged"),
        "{out}"
    );
    assert!(out.contains("[OK] Flipped one bit of "), "{out}");
}

/// The data goes missing below the running service: nothing that it remembers may pass for the data.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_gone_fails_it() {
    let directory = TempDir::new().unwrap();
    let (ok, out) = demo(directory.path(), |step, directory| {
        if step == Step::Increment {
            fs::remove_dir_all(directory.join("backups/packs")).unwrap();
        }
    })
    .await;
    assert!(!ok, "{out}");
    assert!(out.lines().last().unwrap().starts_with("[FAIL]"), "{out}");
    assert!(!out.contains("[OK] Verified"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_records_are_refused() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("few.jsonl");
    let line = r#"{"id": "a", "embedding": [1.0], "document": "d", "metadata": {}}"#;
    fs::write(&file, format!("{line}\n")).unwrap();
    let mut arguments = arguments(&directory.path().join("demo"));
    arguments.records = Some(file);
    let (ok, out) = demo_with(&arguments, |_, _| {}).await;
    assert!(!ok && out.contains("the demo needs 20"), "{out}");
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
