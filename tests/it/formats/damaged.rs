//! Kept fixtures with damage of every kind: each is refused or named, and nothing else with it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use vectorkeep::config::Config;
use vectorkeep::engine::{Durability, StoredCheckpoint};

use super::{Fixture, assert_holds};
use crate::harness::{Harm, Service, eventually, files_below, harm, numbered, open_engine, text};

type Damage = fn(&Path);

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

fn cut(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

fn empty(file: &Path) {
    fs::write(file, b"").unwrap();
}

/// The problem of what is damaged.
fn assert_corrupt(problem: &Value, named: &str, context: &str) {
    assert!(
        text(&problem["type"]).ends_with("/backup-corrupt"),
        "{context}: {problem}"
    );
    assert!(
        problem.to_string().contains(named),
        "{context}: {named} is not named: {problem}"
    );
}

/// The hash that a pack, or a part of a manifest, is named by.
fn hash_of(file: &Path) -> &str {
    let name = file.file_name().unwrap().to_str().unwrap();
    name.split('.').next().unwrap()
}

/// Packs and parts of the manifest that a backup needs.
fn needed(repository: &Path, backup: &str) -> Vec<PathBuf> {
    let mut texts =
        vec![fs::read_to_string(repository.join(format!("backups/{backup}.json"))).unwrap()];
    let files = files_below(&repository.join("packs"));
    for file in &files {
        if texts[0].contains(hash_of(file)) && file.extension().unwrap() == "zst" {
            let part = zstd::decode_all(&*fs::read(file).unwrap()).unwrap();
            texts.push(String::from_utf8(part).unwrap());
        }
    }
    let is_needed = |file: &PathBuf| texts.iter().any(|text| text.contains(hash_of(file)));
    files.into_iter().filter(is_needed).collect()
}

async fn problem(service: &Service, path: &str, body: Value) -> Value {
    service.post(path, body).await.problem(422)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_pack_of_a_kept_repository_is_named() {
    for fixture in Fixture::all() {
        let service = fixture.served().await;
        let expected = fixture.expected();
        for kept in expected["backups"].as_array().unwrap() {
            let backup = text(&kept["backup"]["id"]);
            let packs = needed(&service.repository_dir(), &backup);
            assert!(!packs.is_empty());
            let damages: [(&str, Damage); 4] = [
                ("flipped", flip),
                ("cut", cut),
                ("gone", remove),
                ("empty", empty),
            ];
            for (pack, (what, damage)) in packs.iter().zip(damages.iter().cycle()) {
                let sound = fs::read(pack).unwrap();
                let hash = hash_of(pack);
                let context = format!("{backup}, {hash} {what}");
                damage(pack);
                let verify = format!("/backups/{backup}/verify?wait=true");
                assert_corrupt(&problem(&service, &verify, json!({})).await, hash, &context);
                let asked = json!({"backup": backup, "on_conflict": "rename"});
                assert_corrupt(
                    &problem(&service, "/restore?wait=true", asked).await,
                    hash,
                    &context,
                );
                fs::write(pack, sound).unwrap();
            }
            let verify = format!("/backups/{backup}/verify?wait=true");
            service.post(&verify, json!({})).await.expect(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_of_a_kept_repository_is_named_and_the_others_are_there() {
    for fixture in Fixture::all() {
        let service = fixture.served().await;
        let expected = fixture.expected();
        let ids: Vec<String> = expected["backups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|kept| text(&kept["backup"]["id"]))
            .collect();
        let newer = |file: &Path| {
            // With its right hash, as a later program would write it.
            let text = fs::read_to_string(file).unwrap();
            let envelope: Value = serde_json::from_str(&text).unwrap();
            let mut manifest = envelope["manifest"].clone();
            manifest["format"] = json!(1_000);
            let manifest = manifest.to_string();
            let hash = blake3::hash(manifest.as_bytes()).to_hex();
            fs::write(
                file,
                format!("{{\"manifest\":{manifest},\"blake3\":\"{hash}\"}}"),
            )
            .unwrap();
        };
        let damages: [(&str, Damage); 4] = [
            ("flipped", flip),
            ("cut", cut),
            ("empty", empty),
            ("newer", newer),
        ];
        for (backup, (what, damage)) in ids
            .iter()
            .flat_map(|id| damages.iter().map(move |damage| (id, damage)))
        {
            let context = format!("{backup} {what}");
            let file = service
                .repository_dir()
                .join(format!("backups/{backup}.json"));
            let sound = fs::read(&file).unwrap();
            damage(&file);
            let found = service
                .get(&format!("/backups/{backup}"))
                .await
                .problem(422);
            assert!(
                found.to_string().contains(backup.as_str()),
                "{context}: {found}"
            );
            if *what == "newer" {
                assert!(
                    text(&found["detail"]).contains("1000"),
                    "{context}: {found}"
                );
            } else {
                assert_corrupt(&found, backup, &context);
            }
            for other in ids.iter().filter(|other| *other != backup) {
                service.get(&format!("/backups/{other}")).await.expect(200);
                service
                    .post(&format!("/backups/{other}/verify?wait=true"), json!({}))
                    .await
                    .expect(200);
            }
            fs::write(&file, sound).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_beside_a_kept_backup_may_be_damaged_and_it_restores() {
    for fixture in Fixture::all() {
        for beside in ["annotations", "verifications", "garbage.json"] {
            let damage = |_: &Path, repository: &Path| {
                let place = repository.join(beside);
                let files = if place.is_dir() {
                    files_below(&place)
                } else {
                    vec![place]
                };
                assert!(!files.is_empty(), "the fixture has no {beside}");
                files.iter().for_each(|file| cut(file));
            };
            let service = fixture.try_served(damage, |_| ()).await.unwrap();
            let listed = service.get("/backups").await.ok(200);
            for backup in listed["backups"].as_array().unwrap() {
                let id = text(&backup["id"]);
                // What may have been a pin counts as one.
                assert_eq!(backup["pinned"], true, "{beside}: {backup}");
                service
                    .post(&format!("/backups/{id}/verify?wait=true"), json!({}))
                    .await
                    .expect(200);
            }
            let asked = json!({"backup": "latest", "on_conflict": "replace"});
            service.post("/restore?wait=true", asked).await.expect(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_repository_of_a_newer_format_or_without_header_is_left_alone() {
    for fixture in Fixture::all() {
        let newer = |_: &Path, repository: &Path| {
            let file = repository.join("repository.json");
            let mut header: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            header["format"] = json!(1_000);
            fs::write(file, header.to_string()).unwrap();
        };
        let service = fixture.try_served(newer, |_| ()).await.unwrap();
        let before = files_below(&service.repository_dir());
        let answer = service.get("/backups").await;
        assert!(
            answer.status >= 500 && answer.text().contains("1000"),
            "{}",
            answer.text()
        );
        assert_eq!(files_below(&service.repository_dir()), before);
    }
}

/// Whatever the store's files look like: the start is refused, or the damage is reported, or all is as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_kept_store_is_refused_or_serves_the_truth() {
    let whole: [(&str, Damage); 3] = [("cut", cut), ("empty", empty), ("gone", remove)];
    for fixture in Fixture::all() {
        let expected = fixture.expected();
        for (what, damage) in whole {
            let damage = |data_dir: &Path, _: &Path| damage(&database(data_dir));
            let refused = fixture.try_served(damage, |_| ()).await.map(drop);
            let error = refused.expect_err("a store that lost writes opened");
            let message = error.message();
            assert!(
                message.contains("accept_data_loss") || message.contains("damaged"),
                "{what}: {error}"
            );
        }
        let newer = |data_dir: &Path, _: &Path| {
            let file = data_dir.join("vectorkeep.json");
            let mut watermark: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            watermark["format"] = json!(1_000);
            fs::write(file, watermark.to_string()).unwrap();
        };
        let error = fixture
            .try_served(newer, |_| ())
            .await
            .map(drop)
            .unwrap_err();
        assert!(error.message().contains("1000"), "{error}");
        for part in 1..12 {
            let damage = |data_dir: &Path, _: &Path| flip_used(&database(data_dir), part, 12);
            match fixture.try_served(damage, |_| ()).await {
                Err(error) => assert!(
                    error.message().contains("damaged")
                        || error.message().contains("accept_data_loss"),
                    "{part}: {error}"
                ),
                Ok(service) => assert_true(&service, &expected, part).await,
            }
        }
    }
}

fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("store/db")
}

/// Changes one bit of the bytes in use, that many parts in.
fn flip_used(file: &Path, part: usize, parts: usize) {
    let mut bytes = fs::read(file).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    bytes[used[used.len() * part / parts]] ^= 0x04;
    fs::write(file, bytes).unwrap();
}

/// What is answered is what was stored.
async fn assert_true(service: &Service, expected: &Value, part: usize) {
    for kept in expected["collections"].as_array().unwrap() {
        let id = text(&kept["definition"]["id"]);
        let path = format!("{}/collections/{id}/get", text(&kept["namespace"]));
        let include = ["embeddings", "documents", "metadatas", "uris"];
        let answer = service.post(&path, json!({ "include": include })).await;
        if answer.status == 200 {
            assert_holds(
                &answer.json(),
                &kept["records"],
                &format!("part {part}, {id}"),
            );
        } else {
            assert!(
                answer.status >= 500 || answer.status == 404,
                "{part}: {}",
                answer.text()
            );
        }
    }
}

/// One checkpoint that could not be read stopped the start, and the sweep of all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_cannot_be_read_is_set_aside_and_others_go_on() {
    let named = |name: &str, payload: &str| StoredCheckpoint {
        key: name.to_owned(),
        staged: None,
        payload: payload.as_bytes().to_vec(),
    };
    for fixture in Fixture::all() {
        let leave = |data_dir: &Path, _: &Path| {
            let engine = open_engine(data_dir, Durability::Always, 10);
            for checkpoint in [
                named("flipped", "{}"),
                named("undecodable", "{\"key\":"),
                named("newer", "{\"format\":1000}"),
            ] {
                engine.put_checkpoint(&checkpoint).unwrap();
            }
            engine.close().unwrap();
            drop(engine);
            let flipped = |key: &[u8], _: &[u8]| (key == b"pflipped").then_some(Harm::Flip);
            assert_eq!(harm(data_dir, "catalog", flipped), 1);
        };
        let soon = |config: &mut Config| {
            config.migration.checkpoint_kept_ms = 1;
            config.repository.sweep_interval_ms = 10;
        };
        let mut service = fixture.try_served(leave, soon).await.unwrap();
        // The one that is whole is given up when its time has come.
        eventually("the other checkpoint to be given up", async || {
            let left = service.app().engine().checkpoints().unwrap();
            let keys: Vec<_> = left.into_iter().map(|found| found.key).collect();
            (keys == ["newer", "undecodable"]).then_some(())
        })
        .await;
        let fresh = service.create("fresh").await;
        fresh.add(&numbered("f", 10)).await;
        let body = json!({"source": {"collection": "fresh"}, "target": {"collection": "copied"}});
        service.post("/migrate?wait=true", body).await.expect(200);
        service.restart().await;
        assert_eq!(service.open("copied").await.count().await, 10);
    }
}
