//! The repository was there, and is gone: renamed, emptied, or no longer mounted.

use std::fs;

use serde_json::json;

use crate::harness::{Service, eventually, files_below, numbered, text};

/// Seen before: 200 and an empty list, "no backup yet", health passed, and pruning made the directory anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_gone_is_an_error_and_is_not_made_anew() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    words.add(&numbered("w", 20)).await;
    let made = text(&service.backup(json!({})).await["id"]);
    let (there, elsewhere) = (service.repository_dir(), service.scratch("elsewhere"));
    for emptied in [false, true] {
        fs::rename(&there, &elsewhere).unwrap();
        if emptied {
            fs::create_dir(&there).unwrap();
        }
        for restarted in [false, true] {
            for (method, path, body) in [
                ("GET", "/backups", None),
                ("POST", "/backups?wait=true", Some(json!({}))),
                (
                    "POST",
                    "/backups/prune?wait=true",
                    Some(json!({"keep_last": 1})),
                ),
                (
                    "POST",
                    "/restore?wait=true",
                    Some(json!({"backup": "latest"})),
                ),
            ] {
                let answer = service.send(method, path, body.as_ref()).await;
                let what = format!(
                    "{path}, emptied {emptied}, restarted {restarted}: {}",
                    answer.text()
                );
                assert_eq!(answer.status, 503, "{what}");
                let problem = answer.problem(503);
                assert_eq!(problem["type"], "/problems/repository-unusable", "{what}");
                let detail = text(&problem["detail"]);
                assert!(
                    detail.contains("is gone") && detail.contains("begin_new"),
                    "{what}"
                );
            }
            assert!(
                there.exists() == emptied && (!emptied || files_below(&there).is_empty()),
                "something was made"
            );
            // Data is served all the same, and health says what is wrong.
            words.at(&service).upsert(&numbered("more", 3)).await;
            eventually("health does not pass", async || {
                let health = service.get("/health").await.ok(200);
                let seen = ["repository:readable", "repository:open"]
                    .iter()
                    .any(|name| health["checks"][name][0]["status"] == "warn");
                (health["status"] != "pass" && seen).then_some(())
            })
            .await;
            let storage = service.get("/health/storage").await;
            assert_eq!(
                storage.json()["checks"]["repository:reachable"][0]["status"],
                "fail"
            );
            if !restarted {
                service.restart().await;
            }
        }
        if emptied {
            fs::remove_dir(&there).unwrap();
        }
        fs::rename(&elsewhere, &there).unwrap();
        let latest = eventually("the repository", async || {
            let answer = service.get("/backups/latest").await;
            (answer.status == 200).then(|| answer.json())
        })
        .await;
        assert_eq!(text(&latest["id"]), made);
    }

    // Asked for, a new one is begun, and health says that it is another one until a backup is in it.
    fs::rename(&there, &elsewhere).unwrap();
    service.config.repository.begin_new = true;
    service.restart().await;
    assert_eq!(service.get("/backups").await.ok(200)["backups"], json!([]));
    let check = eventually("another repository", async || {
        let health = service.get("/health").await.ok(200);
        let check = health["checks"]["repository:same"][0].clone();
        (check["status"] == "warn").then_some(check)
    })
    .await;
    assert!(text(&check["output"]).contains("make a backup"), "{check}");
    service.backup(json!({})).await;
    eventually("the same repository", async || {
        let health = service.get("/health").await.ok(200);
        health["checks"]["repository:same"].is_null().then_some(())
    })
    .await;
}
