//! `Idempotency-Key`: a request that is sent twice is done once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::listed;
use crate::harness::{Answer, Http, Service, numbered, text};

/// Posts with an `Idempotency-Key`.
async fn post_keyed(http: &Http, path: &str, key: &str, body: Value) -> Answer {
    let request = http.request("POST", path).header("idempotency-key", key);
    Http::try_send(request.json(&body)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_and_body_are_the_same_job_and_another_body_is_refused() {
    let mut service = Service::start().await;
    service.create("words").await.add(&numbered("w", 5)).await;
    let first = post_keyed(&service, "/backups?wait=true", "nightly", json!({}))
        .await
        .ok(201);
    // Only once, whether it is waited for or not, and after a restart.
    for restart in [false, true] {
        if restart {
            service.restart().await;
        }
        let again = post_keyed(&service, "/backups?wait=true", "nightly", json!({})).await;
        assert_eq!(again.ok(201), first);
        let shown = post_keyed(&service, "/backups", "nightly", json!({})).await;
        assert_eq!(shown.ok(202), first);
    }
    for (path, body) in [
        ("/backups", json!({"kind": "full"})),
        (
            "/restore",
            json!({"backup": "latest", "on_conflict": "rename"}),
        ),
        ("/compactions", json!({})),
    ] {
        let problem = post_keyed(&service, path, "nightly", body)
            .await
            .problem(422);
        assert_eq!(problem["job_id"], first["id"]);
    }
    // What was possible the first time need not be the second time: the target exists by then.
    let migrate = json!({"source": {"collection": "words"}, "target": {"collection": "copy"}});
    let first = post_keyed(&service, "/migrate?wait=true", "once", migrate.clone()).await;
    let again = post_keyed(&service, "/migrate?wait=true", "once", migrate.clone()).await;
    assert_eq!(again.ok(200), first.ok(200));
    service.post("/migrate", migrate).await.problem(409);
    // A failure is an end like any other.
    let broken = json!({"backup": "backup_1", "on_conflict": "rename"});
    post_keyed(&service, "/restore", "broken", broken)
        .await
        .problem(404);
    for bad in ["", "with blank", &"x".repeat(256)] {
        let problem = post_keyed(&service, "/backups", bad, json!({})).await;
        assert!(text(&problem.problem(422)["detail"]).contains("Idempotency-Key"));
    }
    assert_eq!(listed(&service, "").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once_with_one_key_make_one_backup() {
    let service = Service::start().await;
    service.create("words").await.add(&numbered("w", 50)).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let http = Http::clone(&service);
        calls.spawn(async move {
            let answer = post_keyed(&http, "/backups?wait=true", "k", json!({})).await;
            text(&answer.ok(201)["id"])
        });
    }
    let ids: BTreeSet<String> = calls.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let backups = service.get("/backups").await.ok(200);
    assert_eq!(backups["backups"].as_array().unwrap().len(), 1);
}
