//! Damage to a backup: nothing changes, and the answer says where it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{assert_equal, restore, restored, visible, with_backup};
use crate::harness::{Answer, Http, assert_members, files_below, text};

/// Changes one byte near the middle.
fn flip(path: &PathBuf) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

type Damage = fn(&PathBuf);

/// The problem of a job that failed, wherever the answer carries it.
fn problem_in(answer: &Answer) -> Value {
    let body = answer.json();
    if body["type"].is_string() {
        body
    } else {
        body["problem"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_changes_nothing_and_says_where_it_is_damaged() {
    let (mut service, words, records, backup) = with_backup().await;
    words.delete(json!({"where": {"pos": "noun"}})).await;
    let before = visible(&service).await;
    let packs = files_below(&service.repository_dir().join("packs"));
    assert!(
        packs.len() >= 2,
        "a pack per collection at least: {packs:?}"
    );
    let damages: [(&str, Damage); 4] = [
        ("flipped", flip),
        ("removed", |pack| fs::remove_file(pack).unwrap()),
        ("cut short", |pack| {
            fs::File::options()
                .write(true)
                .open(pack)
                .unwrap()
                .set_len(100)
                .unwrap()
        }),
        ("emptied", |pack| fs::write(pack, b"").unwrap()),
    ];
    for pack in &packs {
        let sound = fs::read(pack).unwrap();
        let hash = pack.file_stem().unwrap().to_string_lossy().into_owned();
        for (what, damage) in damages {
            damage(pack);
            for policy in ["rename", "replace"] {
                let answer =
                    restore(&service, json!({"backup": backup, "on_conflict": policy})).await;
                let context = format!("{what} {hash}, {policy}: {}", answer.text());
                assert_eq!(answer.status, 422, "{context}");
                let problem = problem_in(&answer);
                assert!(
                    text(&problem["type"]).ends_with("/backup-corrupt"),
                    "{context}"
                );
                assert_eq!(problem["pack"], hash, "{context}");
                let named = text(&problem["collection"]);
                assert!(
                    named.ends_with("words") || named.ends_with("small"),
                    "{context}"
                );
                assert_eq!(visible(&service).await, before, "{context}");
            }
            let jobs = service.get("/jobs?kind=restore&limit=1").await.ok(200);
            assert_eq!(jobs["jobs"][0]["state"], "failed");
            // No reader takes a damaged export for whole.
            let export =
                Http::try_send(service.request("GET", &format!("/backups/{backup}/export"))).await;
            if let Ok(export) = export {
                let whole = serde_json::from_slice::<Value>(&export.bytes).is_ok();
                assert!(
                    export.status != 200 || !whole,
                    "{what} {hash}: the export passes for whole"
                );
            }
            fs::write(pack, &sound).unwrap();
        }
    }
    let live = before
        .iter()
        .map(|(id, ..)| id.clone())
        .collect::<BTreeSet<_>>();
    service.holds_only(&live).await;
    // Mended, it restores.
    restored(
        &service,
        json!({"backup": backup, "on_conflict": "replace"}),
    )
    .await;
    assert_equal(&service.open("words").await, &records).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_manifest_restores_nothing() {
    let (service, _, records, backup) = with_backup().await;
    let before = visible(&service).await;
    let manifest = service
        .repository_dir()
        .join(format!("backups/{backup}.json"));
    let sound = fs::read(&manifest).unwrap();
    let step = (sound.len() / 40).max(1);
    for at in (0..sound.len()).step_by(step) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1;
        fs::write(&manifest, damaged).unwrap();
        let problem = restore(
            &service,
            json!({"backup": backup, "on_conflict": "replace"}),
        )
        .await
        .problem(422);
        assert!(
            text(&problem["type"]).ends_with("/backup-corrupt"),
            "byte {at}: {problem}"
        );
        assert!(
            problem.to_string().contains(&backup),
            "byte {at}: {problem}"
        );
        service
            .get(&format!("/backups/{backup}"))
            .await
            .problem(422);
        service
            .get(&format!("/backups/{backup}/export"))
            .await
            .problem(422);
    }
    assert_eq!(visible(&service).await, before);
    fs::write(&manifest, &sound).unwrap();
    restored(
        &service,
        json!({"backup": backup, "on_conflict": "replace"}),
    )
    .await;
    assert_equal(&service.open("words").await, &records).await;
}

/// "A failed job answers with its problem": the body is a problem like every other error.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_failed_while_it_was_waited_for_answers_with_its_problem() {
    let (service, .., backup) = with_backup().await;
    flip(&files_below(&service.repository_dir().join("packs"))[0]);
    let answer = restore(
        &service,
        json!({"backup": backup, "on_conflict": "replace"}),
    )
    .await;
    let problem = answer.problem(422);
    assert!(text(&problem["type"]).ends_with("/backup-corrupt"));
    assert_members(&problem, &["pack", "collection"]);
}
