//! What reads a backup keeps collections away: the packs that it needs stay until it is done.

use std::fs;

use serde_json::json;

use crate::harness::{Service, eventually, numbered, text};

#[tokio::test(flavor = "multi_thread")]
async fn restores_verifications_and_drills_wait_for_a_collection_and_keep_the_next_away() {
    let service = Service::with(|config| config.repository.grace_ms = 0).await;
    let words = service.create("words").await;
    words.add(&numbered("w", 30)).await;
    let id = text(&service.backup(json!({})).await["id"]);
    let lock = service
        .repository_dir()
        .join("locks/exclusive-another-service");
    let verify = format!("/backups/{id}/verify");
    for (path, body) in [
        (verify.as_str(), json!({})),
        ("/drills", json!({"backup": id})),
        ("/restore", json!({"backup": id, "on_conflict": "rename"})),
    ] {
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        fs::write(&lock, b"").unwrap();
        let job = text(&service.post(path, body).await.ok(202)["id"]);
        eventually("the job to wait for the lock", async || {
            let job = service.get(&format!("/jobs/{job}")).await.ok(200);
            (job["state"] == "running" && job["phase"] == "lock").then_some(())
        })
        .await;
        fs::remove_file(&lock).unwrap();
        let job = service.finished(&job).await;
        assert_eq!(job["state"], "succeeded", "{path}: {job}");
    }
    // It was given back: deleting collects at once.
    let gone = service
        .send("DELETE", &format!("/backups/{id}"), None)
        .await
        .ok(200);
    assert_eq!(gone["pending_bytes"], 0, "{gone}");
}
