//! Kept fixtures as they are.

use serde_json::{Value, json};
use vectorkeep::engine::Staging;

use super::write::shown;
use super::{Fixture, assert_holds};
use crate::harness::{eventually, text};

/// It opens, shows what it showed when it was written, verifies, restores, and can be written to.
pub(super) async fn assert_kept(fixture: &Fixture) {
    let expected = fixture.expected();
    let mut service = fixture.served().await;
    assert_holds(&shown(&service).await, &expected, "");
    let health = service.get("/health").await;
    assert_eq!(health.status, 200, "{}", health.text());
    let inspected = service.get("/health/collections").await.ok(200);
    assert_eq!(inspected["status"], "pass", "{inspected}");

    let backups = expected["backups"].as_array().unwrap();
    assert!(backups.len() >= 2, "a full and an incremental one");
    for kept in backups {
        let backup = text(&kept["backup"]["id"]);
        for level in ["manifest", "checksums", "records"] {
            let path = format!("/backups/{backup}/verify?wait=true");
            let job = service.post(&path, json!({ "level": level })).await.ok(200);
            assert_eq!(job["result"]["ok"], true, "{job}");
        }
        // Into a database of its own, so that nothing is in the way.
        let collections = kept["backup"]["collections"].as_array().unwrap();
        let to = json!({"tenant": "restored", "database": backup.replace("backup_", "of-")});
        let selected: Vec<Value> = collections
            .iter()
            .filter(|kept| kept["tenant"] == "default_tenant")
            .map(|kept| json!({"name": kept["name"], "to": to}))
            .collect();
        let asked = json!({"backup": backup, "collections": selected});
        let job = service.post("/restore?wait=true", asked).await.ok(200);
        let restored = job["result"]["collections"].as_array().unwrap();
        assert_eq!(restored.len(), selected.len());
        for restored in restored {
            let of = |kept: &&Value| {
                kept["name"] == restored["name"] && kept["tenant"] == "default_tenant"
            };
            let kept = collections.iter().find(of).unwrap();
            assert_eq!(restored["digest"], kept["digest"], "{restored}");
            assert_eq!(restored["verified"], true);
        }
    }
    assert_goes_on(fixture).await;
    // What was restored is whole after the next start as well.
    service.restart().await;
    let inspected = service.get("/health/collections").await.ok(200);
    assert_eq!(inspected["status"], "pass", "{inspected}");
}

/// A next backup starts from what the store remembers, and the migration that broke off is known.
async fn assert_goes_on(fixture: &Fixture) {
    let mut service = fixture.served().await;
    let asked = json!({"collections": [{"name": "cosine"}]});
    let incremental = service.backup(asked).await;
    assert_eq!(
        incremental["kind"], "incremental",
        "the markers are unknown"
    );
    let checkpoints = service.app().engine().checkpoints().unwrap();
    let staged: Vec<_> = checkpoints
        .iter()
        .filter_map(|found| found.staged)
        .collect();
    assert_eq!((checkpoints.len(), staged.len()), (1, 1));
    assert!(
        service
            .app()
            .engine()
            .is_staged(staged[0], Staging::ToPublish)
    );
    // It can be read: when nobody goes on with it, it is given up.
    service.config.migration.checkpoint_kept_ms = 1;
    service.config.repository.sweep_interval_ms = 10;
    service.restart().await;
    eventually("the migration to be given up", async || {
        let engine = service.app().engine();
        let is_gone = !engine.is_staged(staged[0], Staging::ToConsult);
        (engine.checkpoints().unwrap().is_empty() && is_gone).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kept_store_and_repository_opens_verifies_and_restores() {
    for fixture in Fixture::all() {
        assert_kept(&fixture).await;
    }
}
