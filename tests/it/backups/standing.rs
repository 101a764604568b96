//! What is known of a backup is shown everywhere at once: lists, health, metrics, plans, retention.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Service, eventually, files_below, numbered, strings, text};

/// Three backups; the pack that was in all of them from the beginning.
async fn sharing(service: &Service) -> (Vec<String>, PathBuf) {
    let words = service.create("words").await;
    words.add(&numbered("w", 300)).await;
    let mut ids = vec![text(&service.backup(json!({})).await["id"])];
    let [shared] = files_below(&service.repository_dir().join("packs"))
        .try_into()
        .unwrap();
    service.create("more").await.add(&numbered("m", 40)).await;
    for round in 0..2 {
        words.upsert(&numbered(&format!("new-{round}"), 20)).await;
        ids.push(text(&service.backup(json!({})).await["id"]));
    }
    (ids, shared)
}

fn flip(pack: &PathBuf) {
    let mut bytes = fs::read(pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(pack, bytes).unwrap();
}

async fn verify(service: &Service, id: &str, status: u16) {
    let path = format!("/backups/{id}/verify?wait=true");
    service.post(&path, json!({})).await.expect(status);
}

async fn listed(service: &Service) -> Vec<Value> {
    let page = service.get("/backups").await.ok(200);
    page["backups"].as_array().unwrap().clone()
}

async fn damage_check(service: &Service, status: &str) -> Value {
    eventually("what is known of the backups", async || {
        let mut health = service.get("/health").await.json();
        let check = health["checks"]["backups:damaged"][0].take();
        (check["status"] == status).then_some(check)
    })
    .await
}

/// Seen before: one flipped bit in a pack that half of all backups need, found by a verification of one of them, and
/// health passed, the lists said "drill ok", and a dry run promised what the restore refused.
#[tokio::test(flavor = "multi_thread")]
async fn damage_that_was_found_in_one_backup_is_known_of_all_that_need_the_pack() {
    let service = Service::start().await;
    let (ids, shared) = sharing(&service).await;
    for one in listed(&service).await {
        assert_eq!(one["restorable"], "unknown");
    }
    let drill = json!({"backup": ids[2]});
    service.post("/drills?wait=true", drill).await.expect(200);
    assert_eq!(listed(&service).await[0]["restorable"], "verified");
    assert_eq!(damage_check(&service, "pass").await["observed_value"], 0);

    flip(&shared);
    verify(&service, &ids[0], 422).await;
    let hash = shared.file_stem().unwrap().to_str().unwrap();
    for one in listed(&service).await {
        let id = text(&one["id"]);
        assert_eq!(one["restorable"], "damaged", "{id}");
        assert_eq!(one["damaged_packs"], 1, "{id}");
        let of =
            json!([{"tenant": "default_tenant", "database": "default_database", "name": "words"}]);
        assert_eq!(one["damaged_collections"], of, "{id}");
        let same = service.get(&format!("/backups/{id}")).await.ok(200);
        assert_eq!(same, one);
    }
    let check = damage_check(&service, "fail").await;
    assert_eq!(check["observed_value"], 3);
    let output = text(&check["output"]);
    for said in [hash, &ids[0], &ids[2], "full backup"] {
        assert!(output.contains(said), "{said} is not in: {output}");
    }
    // No restart mends it.
    let health = service.get("/health").await.ok(200);
    assert_eq!(health["status"], "fail");
    let metrics = service.get("/metrics").await.text();
    for line in [
        "vectorkeep_backups{restorable=\"damaged\"} 3\n",
        "vectorkeep_backups{restorable=\"verified\"} 0\n",
        "vectorkeep_damaged_packs 1\n",
        "vectorkeep_newest_backup_age_seconds{restorable=\"damaged\"} ",
        "vectorkeep_repository_bytes ",
    ] {
        assert!(metrics.contains(line), "{line:?} is not in {metrics}");
    }
    assert!(!metrics.contains("vectorkeep_newest_verified_backup_age_seconds "));

    // The plan refuses what the restore would refuse, and only that.
    for dry_run in [true, false] {
        let whole = json!({"backup": ids[2], "dry_run": dry_run, "on_conflict": "rename"});
        let refused = service.post("/restore?wait=true", whole).await.problem(422);
        assert_eq!(refused["type"], "/problems/backup-corrupt");
        assert_eq!(
            (&refused["pack"], &refused["backup"]),
            (&json!(hash), &json!(ids[2]))
        );
        let part = json!({"backup": ids[2], "collections": [{"name": "more"}], "dry_run": dry_run, "on_conflict": "rename"});
        service.post("/restore?wait=true", part).await.expect(200);
    }

    // The cure that health names: a full backup, and what stays damaged goes.
    let whole = text(&service.backup(json!({"kind": "full"})).await["id"]);
    verify(&service, &whole, 200).await;
    for id in &ids {
        let path = format!("/backups/{id}");
        service.send("DELETE", &path, None).await.expect(200);
    }
    damage_check(&service, "pass").await;
    // What the service still has as it was is stored again, for all that need it.
    let packs = files_below(&service.repository_dir().join("packs"));
    packs.iter().for_each(flip);
    verify(&service, &whole, 422).await;
    damage_check(&service, "fail").await;
    service.backup(json!({"kind": "full"})).await;
    verify(&service, &whole, 200).await;
    damage_check(&service, "pass").await;
    assert_eq!(listed(&service).await[1]["restorable"], "verified");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_refuses_a_backup_whose_pack_is_missing() {
    let service = Service::start().await;
    let (ids, shared) = sharing(&service).await;
    fs::remove_file(&shared).unwrap();
    let dry = json!({"backup": ids[1], "dry_run": true, "on_conflict": "rename"});
    let refused = service.post("/restore", dry).await.problem(422);
    let hash = shared.file_stem().unwrap().to_str().unwrap();
    assert_eq!(refused["pack"], hash, "{refused}");
    assert!(
        text(&refused["collection"]).ends_with("/words"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_spends_no_place_on_a_damaged_backup() {
    let service = Service::with(|config| config.repository.grace_ms = 0).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 50)).await;
    let whole = text(&service.backup(json!({})).await["id"]);
    let known = files_below(&service.repository_dir().join("packs"));
    words.upsert(&numbered("new", 20)).await;
    let damaged = text(&service.backup(json!({})).await["id"]);
    let new = files_below(&service.repository_dir().join("packs"));
    flip(new.iter().find(|pack| !known.contains(pack)).unwrap());
    verify(&service, &damaged, 422).await;
    let prune = json!({"keep_last": 1});
    let outcome = service
        .post("/backups/prune?wait=true", prune.clone())
        .await
        .ok(200);
    // It is newer than all that is whole: perhaps the only trace of what it holds.
    let kept = outcome["result"]["kept"].as_array().unwrap();
    let reasons = |id: &str| {
        let kept = kept.iter().find(|kept| kept["id"] == *id).unwrap();
        strings(&kept["reasons"])
    };
    assert_eq!(reasons(&damaged), ["damaged_and_none_newer_is_whole"]);
    assert_eq!(reasons(&whole), ["keep_last"]);

    words.upsert(&numbered("newer", 20)).await;
    let newest = text(&service.backup(json!({"kind": "full"})).await["id"]);
    let outcome = service
        .post("/backups/prune?wait=true", prune)
        .await
        .ok(200);
    let mut gone = strings(&outcome["result"]["deleted"]);
    gone.sort();
    assert_eq!(gone, [whole, damaged]);
    assert_eq!(text(&listed(&service).await[0]["id"]), newest);
}
