//! Backups that were made by hand, with right hashes: what no write would let in, no restore does.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use vectorkeep::model::collection::CollectionDefinition;
use vectorkeep::model::metadata::Metadata;
use vectorkeep::model::record::Record;
use vectorkeep::repository::pack::{PackRow, encode_records};

use super::{restore, visible, with_backup};
use crate::harness::{Service, files_below, numbered, text};

fn manifest_path(service: &Service, backup: &str) -> PathBuf {
    let name = format!("backups/{backup}.json");
    service.repository_dir().join(name)
}

/// Changes the collection "words" of a manifest, which has its right hash again.
fn change(path: &PathBuf, sound: &[u8], change: impl Fn(&mut Value)) {
    let mut envelope: Value = serde_json::from_slice(sound).unwrap();
    let collections = envelope["manifest"]["collections"].as_array_mut().unwrap();
    let words = collections.iter_mut().find(|c| c["name"] == "words");
    change(words.unwrap());
    let manifest = envelope["manifest"].to_string();
    let hash = blake3::hash(manifest.as_bytes()).to_hex();
    let text = format!("{{\"manifest\":{manifest},\"blake3\":\"{hash}\"}}");
    fs::write(path, text).unwrap();
}

/// The definition with another dimension, and its hash.
fn of_dimension(words: &mut Value, dimension: Value) {
    words["definition"]["dimension"] = dimension;
    let definition: CollectionDefinition =
        serde_json::from_value(words["definition"].clone()).unwrap();
    words["definition_hash"] = definition.hash().into();
}

/// Whatever is asked of the backup: it is damaged, that is said, and nothing changes.
async fn assert_refused(service: &Service, backup: &str, what: &str, named: &str) {
    let before = visible(service).await;
    let verified = service
        .post(&format!("/backups/{backup}/verify?wait=true"), json!({}))
        .await
        .problem(422);
    let asked = json!({"backup": backup, "on_conflict": "replace"});
    let restored = restore(service, asked).await.problem(422);
    let drilled = service
        .post("/drills?wait=true", json!({"backup": backup}))
        .await
        .problem(422);
    for problem in [verified, restored, drilled] {
        let kind = text(&problem["type"]);
        assert!(kind.ends_with("/backup-corrupt"), "{what}: {problem}");
        assert!(
            problem.to_string().contains(named) && problem.to_string().contains("words"),
            "{what}: {named:?} is not named: {problem}"
        );
    }
    assert_eq!(visible(service).await, before, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_does_not_fit_its_packs_is_damaged() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change, &str); 6] = [
        (
            "another dimension",
            |words| of_dimension(words, json!(3)),
            "384 dimensions",
        ),
        (
            "no dimension",
            |words| of_dimension(words, Value::Null),
            "384 dimensions",
        ),
        (
            "the last ordinal there is",
            |words| words["next_ordinal"] = json!(u64::MAX),
            "18446744073709551615",
        ),
        (
            "ordinals that are used already",
            |words| words["next_ordinal"] = json!(1),
            "only those below 1",
        ),
        (
            "a pack of fewer ordinals",
            |words| words["layers"][0]["packs"][0]["last_ordinal"] = json!(3),
            "does not hold by the manifest",
        ),
        (
            "more records",
            |words| words["records"] = json!(1_000_000),
            "1000000",
        ),
    ];
    let (mut service, words, _, backup) = with_backup().await;
    let path = manifest_path(&service, &backup);
    let sound = fs::read(&path).unwrap();
    for (what, made, named) in changes {
        change(&path, &sound, made);
        assert_refused(&service, &backup, what, named).await;
    }
    // A restore that let the first one in stopped every write of everybody, after the next start.
    service.restart().await;
    words.at(&service).add(&[of_words("more", 0.5)]).await;
    service.create("other").await.add(&numbered("o", 3)).await;
}

/// A pack of such records, at ordinals from 0 on, stored under its right name.
fn put_pack(service: &Service, records: &[Record]) -> (String, usize) {
    let rows: Vec<PackRow> = records
        .iter()
        .zip(0..)
        .map(|(record, ordinal)| PackRow {
            ordinal,
            sequence: 1,
            canonical: record.canonical(),
        })
        .collect();
    let pack = encode_records(&rows, 384, 3).unwrap();
    (store(service, &pack), pack.len())
}

/// Stores a pack under its right name.
fn store(service: &Service, pack: &[u8]) -> String {
    let hash = blake3::hash(pack).to_hex().to_string();
    let directory = service
        .repository_dir()
        .join(format!("packs/{}", &hash[..2]));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(format!("{hash}.arrow")), pack).unwrap();
    hash
}

fn of_words(id: &str, component: f32) -> Record {
    Record {
        id: id.to_owned(),
        embedding: vec![component; 384],
        document: None,
        uri: None,
        metadata: Metadata::new(),
    }
}

/// Makes a pack all that the collection is.
fn only(words: &mut Value, pack: &(String, usize), records: &[Record]) {
    let last = records.len() - 1;
    let reference = json!({"hash": pack.0, "size_bytes": pack.1, "records": records.len(),
        "first_ordinal": 0, "last_ordinal": last});
    words["layers"] = json!([{"packs": [reference], "tombstones": []}]);
    words["records"] = json!(records.len());
    words["digest"] = json!(crate::harness::digest(records));
}

/// Which of the two is found depended on the order in which they were written.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_at_two_ordinals_is_damage() {
    let (service, .., backup) = with_backup().await;
    let path = manifest_path(&service, &backup);
    let sound = fs::read(&path).unwrap();
    // In one pack, and in a second one.
    for apart in [false, true] {
        let mut records: Vec<Record> = (0..20)
            .map(|number| of_words(&format!("w{number}"), number as f32))
            .collect();
        records[17].id = "w3".to_owned();
        let (first, second) = records.split_at(if apart { 10 } else { 20 });
        let pack = put_pack(&service, first);
        change(&path, &sound, |words| {
            only(words, &pack, first);
            if apart {
                let rows: Vec<PackRow> = second
                    .iter()
                    .zip(10..)
                    .map(|(record, ordinal)| PackRow {
                        ordinal,
                        sequence: 2,
                        canonical: record.canonical(),
                    })
                    .collect();
                let bytes = encode_records(&rows, 384, 3).unwrap();
                let layer = json!({"packs": [{"hash": store(&service, &bytes), "size_bytes": bytes.len(),
                    "records": 10, "first_ordinal": 10, "last_ordinal": 19}], "tombstones": []});
                words["layers"].as_array_mut().unwrap().push(layer);
            }
            words["records"] = json!(20);
            words["next_ordinal"] = json!(20);
            words["digest"] = json!(crate::harness::digest(&records));
        });
        let what = if apart { "in two packs" } else { "in one pack" };
        assert_refused(&service, &backup, what, "w3").await;
        assert_refused(&service, &backup, what, "ordinals 3 and 17").await;
        if !apart {
            assert_refused(&service, &backup, what, &pack.0).await;
        }
    }
}

/// Damaged without being opened: what it leads to may wait for ever, or have no end.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_in_the_place_of_a_pack_or_a_manifest_is_damage() {
    let (service, words, _, backup) = with_backup().await;
    let manifest = manifest_path(&service, &backup);
    let packs = files_below(&service.repository_dir().join("packs"));
    let replace = |path: &PathBuf, what: &str| match what {
        "a FIFO" => {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        }
        "a directory" => fs::create_dir(path).unwrap(),
        "a device" => std::os::unix::fs::symlink("/dev/zero", path).unwrap(),
        other => panic!("{other}"),
    };
    for what in ["a FIFO", "a directory", "a device"] {
        for file in [&packs[0], &manifest] {
            let sound = fs::read(file).unwrap();
            fs::remove_file(file).unwrap();
            replace(file, what);
            let started = std::time::Instant::now();
            for (path, body) in [
                (format!("/backups/{backup}/verify?wait=true"), json!({})),
                (
                    "/restore?wait=true".to_owned(),
                    json!({"backup": backup, "on_conflict": "replace"}),
                ),
            ] {
                let answer = service.post(&path, body).await;
                // Where a directory stands there is no object of that name.
                let is_gone = what == "a directory" && answer.status == 404;
                assert!(answer.status == 422 || is_gone, "{what}: {}", answer.text());
            }
            service.get("/backups").await.expect(200);
            assert!(started.elapsed().as_secs() < 20, "{what} held it up");
            if what == "a directory" {
                fs::remove_dir(file).unwrap();
            } else {
                fs::remove_file(file).unwrap();
            }
            fs::write(file, sound).unwrap();
        }
    }
    service
        .post(&format!("/backups/{backup}/verify?wait=true"), json!({}))
        .await
        .expect(200);
    words.add(&[of_words("more", 0.5)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_more_memory_than_it_may_is_refused_before_it_is_unpacked() {
    let (mut service, .., backup) = with_backup().await;
    let path = manifest_path(&service, &backup);
    let sound = fs::read(&path).unwrap();
    // 23 MB of zeros in a few KB.
    let long: Vec<Record> = (0..15_000)
        .map(|number| of_words(&format!("w{number}"), 0.0))
        .collect();
    let pack = put_pack(&service, &long);
    change(&path, &sound, |words| {
        only(words, &pack, &long);
        words["next_ordinal"] = json!(long.len());
    });
    service.config.jobs.memory_bytes = 16 << 20;
    service.restart().await;
    assert_refused(&service, &backup, "a bomb", "jobs.memory_bytes").await;
    assert_refused(&service, &backup, "a bomb", &pack.0).await;

    // A thousand layers, each of which fits by itself.
    let few: Vec<Record> = long[..2_000].to_vec();
    let pack = put_pack(&service, &few);
    change(&path, &sound, |words| {
        only(words, &pack, &few);
        words["next_ordinal"] = json!(few.len());
        let layer = words["layers"][0].clone();
        words["layers"] = json!(vec![layer; 1_000]);
    });
    let verify = format!("/backups/{backup}/verify?wait=true");
    let problem = service.post(&verify, json!({})).await.problem(422);
    let detail = text(&problem["detail"]);
    assert!(detail.contains("jobs.memory_bytes"), "{detail}");

    // A manifest as long as its writer likes.
    let mut long = sound.clone();
    long.resize(3 << 20, b' ');
    fs::write(&path, long).unwrap();
    service.config.repository.max_manifest_bytes = 1 << 20;
    service.restart().await;
    let problem = service
        .get(&format!("/backups/{backup}"))
        .await
        .problem(422);
    assert!(problem.to_string().contains(&backup), "{problem}");
    service.get("/backups").await.expect(200);
    fs::write(&path, sound).unwrap();
    service.post(&verify, json!({})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_no_write_lets_in_are_damage() {
    let (service, .., backup) = with_backup().await;
    let path = manifest_path(&service, &backup);
    let sound = fs::read(&path).unwrap();
    for (what, id, component) in [
        ("an empty id", "", 0.5),
        ("NaN", "nan", f32::NAN),
        ("infinity", "inf", f32::INFINITY),
    ] {
        let records = [of_words(id, component)];
        let pack = put_pack(&service, &records);
        change(&path, &sound, |words| only(words, &pack, &records));
        assert_refused(&service, &backup, what, &pack.0).await;
    }
}
