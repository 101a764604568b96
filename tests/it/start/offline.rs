//! A repository without a service.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::{BINARY, DAMAGED, FAILED, Process, USAGE};
use crate::harness::{files_below, numbered, text};

/// The machine that held the store may be gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_listed_and_verified_without_a_service_and_nothing_is_written() {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[]).await;
    let words = process.http.create("words").await;
    words.add(&numbered("w", 120)).await;
    let first = text(&process.http.backup(json!({})).await["id"]);
    words.add(&numbered("more", 10)).await;
    let second = text(&process.http.backup(json!({})).await["id"]);
    process.stop().await;
    fs::remove_dir_all(home.path().join("data")).unwrap();
    let repository = home.path().join("repository");
    let run = |arguments: &[&str]| {
        let output = Command::new(BINARY)
            .arg("backups")
            .args(arguments)
            .arg("--repository")
            .arg(&repository)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said.into_owned())
    };
    let before = files_below(&repository);
    let (code, listed) = run(&["list"]);
    assert_eq!(code, Some(0), "{listed}");
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 2, "{listed}");
    for (line, id, kind, records) in [
        (lines[0], &second, "incremental", "130 records"),
        (lines[1], &first, "full", "120 records"),
    ] {
        assert!(line.starts_with(id.as_str()), "{line}");
        assert!(
            line.contains(kind) && line.contains(records) && line.contains("never"),
            "{line}"
        );
    }
    for (arguments, id, records) in [
        (vec!["verify"], &second, 130),
        (
            vec!["verify", "--backup", &first, "--level", "records"],
            &first,
            120,
        ),
        (
            vec!["verify", "--backup", &first, "--level", "checksums"],
            &first,
            0,
        ),
    ] {
        let (code, said) = run(&arguments);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains(&format!("{id}: sound")), "{said}");
        assert!(said.contains(&format!(" {records} records")), "{said}");
    }
    assert_eq!(files_below(&repository), before);
    let (code, listed) = run(&["list", "--json"]);
    assert_eq!(code, Some(0), "{listed}");
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["backups"][0]["id"], json!(second));
    assert_eq!(listed["backups"][1]["records"], 120);
    assert_eq!(listed["damaged"], json!({}));
    let (code, verified) = run(&["verify", "--json"]);
    assert_eq!(code, Some(0), "{verified}");
    let verified: Value = serde_json::from_str(&verified).unwrap();
    assert_eq!(verified["backup"], json!(second));
    assert_eq!(
        (&verified["ok"], &verified["checked_records"]),
        (&json!(true), &json!(130))
    );
    for (arguments, expected) in [
        (
            vec!["verify", "--backup", "backup_2001-01-01_00-00-00"],
            FAILED,
        ),
        (vec!["verify", "--level", "deep"], USAGE),
        (vec!["verify", "--levle", "records"], USAGE),
    ] {
        assert_eq!(run(&arguments).0, Some(expected), "{arguments:?}");
    }

    let pack = before
        .iter()
        .find(|file| file.extension().is_some_and(|e| e == "arrow"))
        .unwrap();
    let mut bytes = fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(pack, bytes).unwrap();
    let (code, said) = run(&["verify", "--backup", &second]);
    assert_eq!(code, Some(DAMAGED), "{said}");
    assert!(
        said.contains(pack.file_stem().unwrap().to_str().unwrap()),
        "{said}"
    );
    let (code, verified) = run(&["verify", "--json"]);
    assert_eq!(code, Some(DAMAGED), "{verified}");
    let verified: Value = serde_json::from_str(&verified).unwrap();
    assert_eq!(verified["ok"], false);

    // A manifest that cannot be read is in the list, and in the exit status.
    fs::write(repository.join(format!("backups/{first}.json")), "{").unwrap();
    let (code, listed) = run(&["list"]);
    assert_eq!(code, Some(DAMAGED), "{listed}");
    assert!(listed.contains(&format!("{first}  DAMAGED: ")), "{listed}");

    // Where there is no repository, none is made.
    fs::remove_dir_all(&repository).unwrap();
    let (code, said) = run(&["list"]);
    assert_eq!(code, Some(FAILED), "{said}");
    assert!(!repository.exists());
}
