//! Health: true numbers, the right statuses, and damage on the disk that is never served as data.

mod confined;
mod damage;
#[cfg(debug_assertions)]
mod hangs;
mod inspection;
mod overview;

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use vectorkeep::config::Config;

use crate::harness::{
    Answer, DEFAULT_NAMESPACE, Service, assert_members, digest, eventually, numbered, text,
    wordnet_50,
};

/// The body of a health answer, its form checked.
fn report(answer: Answer, code: u16, status: &str) -> Value {
    let answer = answer.expect(code);
    assert_eq!(
        answer.header("content-type"),
        Some("application/health+json"),
        "{}",
        answer.request
    );
    let body = answer.json();
    assert_eq!(body["status"], status, "{body}");
    assert_members(&body, &["status", "version", "uptime_ms", "checks"]);
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    assert!(body["uptime_ms"].is_u64());
    let checks = body["checks"].as_object().unwrap();
    assert!(!checks.is_empty(), "it looked at nothing: {body}");
    for (name, observations) in checks {
        assert!(!observations.as_array().unwrap().is_empty(), "{name}");
        for observation in observations.as_array().unwrap() {
            assert_members(
                observation,
                &["status", "observed_value", "observed_unit", "time"],
            );
            let status = text(&observation["status"]);
            assert!(["pass", "warn", "fail"].contains(&&*status));
            assert!(
                status == "pass" || !text(&observation["output"]).is_empty(),
                "{name}: {observation}"
            );
            let time: chrono::DateTime<chrono::Utc> = text(&observation["time"]).parse().unwrap();
            assert!(time <= chrono::Utc::now());
        }
    }
    let worst = ["fail", "warn", "pass"].into_iter().find(|wanted| {
        checks.values().any(|list| {
            list.as_array()
                .unwrap()
                .iter()
                .any(|check| check["status"] == *wanted)
        })
    });
    assert_eq!(worst, Some(status), "the worst status wins: {body}");
    body
}

/// What was observed per collection, by its name.
fn by_collection(report: &Value, check: &str) -> BTreeMap<String, Value> {
    let observations = report["checks"][check].as_array().unwrap();
    observations
        .iter()
        .map(|o| {
            (
                text(&o["observed_value"]["collection"]),
                o["observed_value"].clone(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_service_passes_and_its_numbers_are_true() {
    let service = Service::start().await;
    let words = service.create("words").await;
    words.add(&wordnet_50()).await;
    words.delete(json!({"where": {"pos": "adverb"}})).await;
    service.create("small").await.add(&numbered("s", 7)).await;
    service.create("empty").await;
    let records = words.records().await;

    let overview = report(service.get("/health").await, 200, "pass");
    let observed = |name: &str| &overview["checks"][name][0]["observed_value"];
    assert_eq!(
        (
            observed("collections:count"),
            observed("collections:records")
        ),
        (&json!(3), &json!(records.len() + 7))
    );
    let room = rustix::fs::statvfs(service.data_dir()).unwrap();
    let free = observed("storage:disk_free").as_u64().unwrap() as f64;
    let expected = (room.f_bavail * room.f_frsize) as f64;
    assert!(
        (free / expected - 1.0).abs() < 0.1,
        "{free} bytes free, {expected} expected"
    );
    for path in ["/health/live", "/health/ready"] {
        let answer = service.get(path).await.expect(200);
        assert_eq!(
            answer.header("content-type"),
            Some("application/health+json")
        );
        assert_eq!(answer.json()["status"], "pass");
    }

    let storage = report(service.get("/health/storage").await, 200, "pass");
    for name in [
        "storage:disk_free",
        "storage:write_latency",
        "storage:used",
        "repository:reachable",
    ] {
        assert_eq!(storage["checks"][name][0]["status"], "pass", "{name}");
    }
    assert!(
        storage["checks"]["storage:used"][0]["observed_value"]
            .as_u64()
            .unwrap()
            > 0
    );

    let collections = report(service.get("/health/collections").await, 200, "pass");
    let found = by_collection(&collections, "collections:integrity");
    assert_eq!(found.len(), 3);
    let observed = &found["default_tenant/default_database/words"];
    for member in ["count", "checked_records", "checked_ids"] {
        assert_eq!(observed[member], records.len(), "{member}");
    }
    let canonical: usize = records.iter().map(|record| record.canonical().len()).sum();
    assert!(observed["checked_bytes"].as_u64().unwrap() >= canonical as u64);
    assert_eq!(
        (&observed["orphans"], &observed["damaged"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(
        (&observed["digest"], &observed["recomputed_digest"]),
        (&json!(digest(&records)), &json!(digest(&records)))
    );
    let one = report(service.get("/health/collections/small").await, 200, "pass");
    let found = by_collection(&one, "collections:integrity");
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["default_tenant/default_database/small"]
    );
    assert_eq!(
        found["default_tenant/default_database/small"]["checked_records"],
        7
    );

    for (query, checked) in [
        ("", records.len()),
        ("&sample=7", 7),
        ("&sample=1", 1),
        ("&sample=100000", records.len()),
    ] {
        let path = format!("/health/embeddings?collection=words{query}");
        let found = by_collection(
            &report(service.get(&path).await, 200, "pass"),
            "embeddings:sample",
        );
        let observed = &found["default_tenant/default_database/words"];
        assert_eq!(
            (&observed["checked_records"], &observed["dimension"]),
            (&json!(checked), &json!(384)),
            "{path}"
        );
        assert!(observed["self_queries"].as_u64().unwrap() >= 1);
        assert!((observed["max_norm"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    }
    let all = report(service.get("/health/embeddings").await, 200, "pass");
    assert_eq!(by_collection(&all, "embeddings:sample").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_collections_and_empty_samples_are_refused() {
    let service = Service::start().await;
    service.create("words").await;
    for (path, status) in [
        ("/health/collections/nobody", 404),
        ("/health/collections/words?database=nowhere", 404),
        ("/health/embeddings?collection=nobody", 404),
        ("/health/embeddings?collection=words&tenant=nobody", 404),
        ("/health/nothing", 404),
        ("/health/embeddings?sample=0", 422),
        ("/health/embeddings?sample=-1", 422),
        ("/health/embeddings?smaple=5", 422),
        ("/health/collections/words?tenat=x", 422),
    ] {
        service.get(path).await.problem(status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn low_room_warns_and_no_room_fails_only_where_it_is_asked_for() {
    for (adjust, status, code) in [
        (
            (|config: &mut Config| config.health.disk_warn_bytes = u64::MAX / 2) as fn(&mut Config),
            "warn",
            200,
        ),
        (
            |config| {
                (config.health.disk_fail_bytes, config.health.disk_warn_bytes) =
                    (u64::MAX / 2, u64::MAX / 2)
            },
            "fail",
            503,
        ),
    ] {
        let service = Service::with(adjust).await;
        let storage = report(service.get("/health/storage").await, code, status);
        assert_eq!(storage["checks"]["storage:disk_free"][0]["status"], status);
        // No restart makes room: a liveness probe must not ask for one.
        report(service.get("/health").await, 200, status);
        service.get("/health/live").await.expect(200);
        service.get("/health/ready").await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named() {
    let service = Service::start().await;
    let zeros = service.create("zeros").await;
    zeros.add(&numbered("s", 5)).await;
    zeros
        .post(
            "add",
            json!({"ids": ["the-zero", "twin"], "embeddings": [vec![0; 8], vec![0; 8]]}),
        )
        .await
        .expect(201);
    let found = report(service.get("/health/embeddings").await, 200, "warn");
    let check = &found["checks"]["embeddings:sample"][0];
    assert!(text(&check["output"]).contains("the-zero"), "{check}");
    assert_eq!(
        (
            &check["observed_value"]["zero_norm"],
            &check["observed_value"]["duplicates"]
        ),
        (&json!(2), &json!(1))
    );

    fs::rename(service.repository_dir(), service.scratch("away")).unwrap();
    let storage = report(service.get("/health/storage").await, 503, "fail");
    assert_eq!(
        storage["checks"]["repository:reachable"][0]["status"],
        "fail"
    );
    assert_eq!(
        storage["checks"]["storage:write_latency"][0]["status"],
        "pass"
    );
    fs::rename(service.scratch("away"), service.repository_dir()).unwrap();
    report(service.get("/health/storage").await, 200, "pass");

    service.get("/health/ready").await.expect(200);
    service.app().start_draining();
    service.get("/health/ready").await.expect(503);
    service.get("/health/live").await.expect(200);
}

/// A check that takes longer than the bound is answered at once, and its result kept for the next caller.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_check_warns_that_it_runs_and_shows_the_last_result() {
    let service = Service::with(|config| config.health.deep_timeout_ms = 0).await;
    service.create("words").await.add(&wordnet_50()).await;
    // A check that is done before it is waited for passes: a fast machine needs several attempts.
    let found = eventually("a running check with an earlier result", async || {
        let answer = service.get("/health/collections").await;
        let status = text(&answer.json()["status"]);
        let report = report(answer, 200, &status);
        let checks = report["checks"].as_object().unwrap();
        let running = checks.values().any(|list| list[0]["output"] == "running");
        assert_eq!(status, if running { "warn" } else { "pass" });
        (running && checks.contains_key("collections:integrity")).then_some(report)
    })
    .await;
    let observed = &found["checks"]["collections:integrity"][0]["observed_value"];
    assert_eq!(observed["checked_records"], 50);
}

/// Liveness must not depend on any collection.
#[tokio::test(flavor = "multi_thread")]
async fn probes_answer_while_nothing_is_there_and_after_a_reset() {
    let service = Service::start().await;
    for _ in 0..2 {
        for path in [
            "/health",
            "/health/storage",
            "/health/collections",
            "/health/embeddings",
        ] {
            report(service.get(path).await, 200, "pass");
        }
        service.create("words").await;
        service.post("/api/v2/reset", json!(null)).await.expect(200);
    }
    assert_eq!(
        service
            .get(&format!("{DEFAULT_NAMESPACE}/collections"))
            .await
            .ok(200),
        json!([])
    );
}
