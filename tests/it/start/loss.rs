//! A store whose files are gone, cut short or half written is never taken for an empty or a whole one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::Process;
use crate::harness::{copy_directory, files_below, numbered, parse_record, wordnet_50};

/// A directory that was filled, stopped, started and filled again, and stopped; what it holds.
async fn stopped_with_data() -> (TempDir, Vec<u8>) {
    let home = tempfile::tempdir().unwrap();
    let process = Process::start(home.path(), &[]).await;
    process
        .http
        .create("words")
        .await
        .add(&wordnet_50()[..30])
        .await;
    process.stop().await;
    let process = Process::start(home.path(), &[]).await;
    let words = process.http.open("words").await;
    words.add(&wordnet_50()).await;
    words.delete(json!({"where": {"pos": "adverb"}})).await;
    let dump = words.dump().await.to_vec();
    process.stop().await;
    (home, dump)
}

async fn assert_serves(process: Process, dump: &[u8], context: &str) {
    let words = process.http.open("words").await;
    assert!(words.dump().await == dump, "{context}: other data");
    process.http.get("/health/collections").await.expect(200);
    words
        .add(&[parse_record(
            &json!({"id": "more", "embedding": vec![0.5; 384]}),
        )])
        .await;
    words.delete(json!({"ids": ["more"]})).await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_not_taken_for_an_empty_one() {
    type Loss = fn(&Path);
    let losses: [(&str, Loss); 3] = [
        ("missing", |db| fs::remove_file(db).unwrap()),
        ("emptied", |db| fs::write(db, b"").unwrap()),
        ("directory missing", |db| {
            fs::remove_dir_all(db.parent().unwrap()).unwrap()
        }),
    ];
    for (what, loss) in losses {
        let (home, _) = stopped_with_data().await;
        loss(&home.path().join("data/store/db"));
        for attempt in 0..2 {
            let Err((status, message)) = Process::try_start(home.path(), &[]).await else {
                panic!("{what}, attempt {attempt}: it starts");
            };
            assert_eq!(status.code(), Some(1), "{what}: {message}");
            let last = message.trim_end().lines().last().unwrap();
            assert!(
                last.contains("accept_data_loss"),
                "{what}, attempt {attempt}: {message}"
            );
        }
        let accepted = [("VECTORKEEP__STORAGE__ACCEPT_DATA_LOSS", "true")];
        let process = Process::start(home.path(), &accepted).await;
        process.http.get("/health/collections").await.expect(200);
        let name = format!("after-{}", what.replace(' ', "-"));
        process
            .http
            .create(&name)
            .await
            .add(&numbered("n", 5))
            .await;
        process.stop().await;
        // Once accepted, it starts without the setting and keeps what came after.
        let process = Process::start(home.path(), &[]).await;
        assert_eq!(
            process.http.open(&name).await.records().await,
            numbered("n", 5),
            "{what}"
        );
        process.stop().await;
    }
}

/// sled rolls a truncated file back without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_cut_short_is_never_taken_for_whole() {
    let (sound, dump) = stopped_with_data().await;
    let length = fs::metadata(sound.path().join("data/store/db"))
        .unwrap()
        .len();
    let mut refused = 0;
    for tenths in (1..10).rev() {
        let home = tempfile::tempdir().unwrap();
        copy_directory(&sound.path().join("data"), &home.path().join("data"));
        let db = File::options()
            .write(true)
            .open(home.path().join("data/store/db"))
            .unwrap();
        db.set_len(length * tenths / 10).unwrap();
        let context = format!("cut to {tenths}/10");
        match Process::try_start(home.path(), &[]).await {
            Ok(process) => assert_serves(process, &dump, &context).await,
            Err((status, message)) => {
                refused += 1;
                assert_eq!(status.code(), Some(1), "{context}: {message}");
                let last = message.trim_end().lines().last().unwrap();
                assert!(last.contains("accept_data_loss"), "{context}: {message}");
                let accepted = [("VECTORKEEP__STORAGE__ACCEPT_DATA_LOSS", "true")];
                let process = Process::start(home.path(), &accepted).await;
                process.http.get("/health/collections").await.expect(200);
                process.stop().await;
            }
        }
    }
    assert!(refused > 0, "no cut was noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_snapshot_does_not_prevent_the_start() {
    let (home, dump) = stopped_with_data().await;
    let store = home.path().join("data/store");
    for (name, content) in [
        ("snap.00000000000000AB.generating", &b"half"[..]),
        ("snap.0000000000000001.generating", b""),
    ] {
        fs::write(store.join(name), content).unwrap();
    }
    let process = Process::start(home.path(), &[]).await;
    assert!(
        !files_below(&store)
            .iter()
            .any(|file| file.extension().is_some_and(|end| end == "generating"))
    );
    assert_serves(process, &dump, "half-written snapshot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_set_aside_and_everything_is_there() {
    for damage in ["garbage", "flipped", "emptied", "cut"] {
        let (home, dump) = stopped_with_data().await;
        let store = home.path().join("data/store");
        let is_snapshot = |file: &&PathBuf| {
            file.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("snap.")
        };
        let snapshots: Vec<_> = files_below(&store)
            .iter()
            .filter(is_snapshot)
            .cloned()
            .collect();
        assert!(
            !snapshots.is_empty(),
            "there is no snapshot to damage: {:?}",
            files_below(&store)
        );
        for file in &snapshots {
            let mut bytes = fs::read(file).unwrap();
            match damage {
                "garbage" => bytes.fill(0x5a),
                "flipped" => {
                    let middle = bytes.len() / 2;
                    bytes[middle] ^= 0x01;
                }
                "emptied" => bytes.clear(),
                _ => bytes.truncate(bytes.len() / 2),
            }
            fs::write(file, bytes).unwrap();
        }
        let process = Process::start(home.path(), &[]).await;
        assert_serves(process, &dump, damage).await;
        // And again, from what the start before left.
        let process = Process::start(home.path(), &[]).await;
        assert_serves(process, &dump, damage).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_format_is_refused_by_its_version_and_left_alone() {
    let (home, dump) = stopped_with_data().await;
    let pointer = home.path().join("data/vectorkeep.json");
    let text = fs::read_to_string(&pointer).unwrap();
    let mut newer: serde_json::Value = serde_json::from_str(&text).unwrap();
    newer["format"] = json!(99);
    fs::write(&pointer, newer.to_string()).unwrap();
    let Err((status, message)) = Process::try_start(home.path(), &[]).await else {
        panic!("it starts");
    };
    assert_eq!(status.code(), Some(1), "{message}");
    assert!(message.contains("version 99"), "{message}");
    fs::write(&pointer, text).unwrap();
    let process = Process::start(home.path(), &[]).await;
    assert_serves(process, &dump, "put back").await;
}
