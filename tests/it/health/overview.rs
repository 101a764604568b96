//! What `/health` shows of work in the background, and how deep checks share their results.

use serde_json::{Value, json};
use vectorkeep::health::check_storage;

use super::{by_collection, report};
use crate::harness::{Service, eventually, files_below, numbered, text, wordnet_50};

/// The first observation of a check in the overview.
async fn observed(service: &Service, name: &str) -> Value {
    service.get("/health").await.json()["checks"][name][0].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_newest_verified_backup_is_held_against_the_objective() {
    const NAME: &str = "backups:last_verified_age";
    let mut service = Service::with(|config| config.health.backup_objective_ms = 3_600_000).await;
    let words = service.create("words").await;
    // Nothing is there that a backup could lose.
    eventually("the repository was read", async || {
        let age = observed(&service, NAME).await;
        let output = text(&age["output"]);
        output.contains("no backup was verified").then_some(())
    })
    .await;
    report(service.get("/health").await, 200, "pass");
    words.add(&wordnet_50()).await;
    let overview = report(service.get("/health").await, 200, "warn");
    assert_eq!(overview["checks"][NAME][0]["observed_value"], json!(null));

    let backup = text(&service.backup(json!({})).await["id"]);
    let path = format!("/backups/{backup}/verify?wait=true");
    // That its packs are there says nothing of what is in them.
    let job = service.post(&path, json!({"level": "manifest"})).await;
    job.expect(200);
    assert_eq!(
        observed(&service, NAME).await["observed_value"],
        json!(null)
    );
    service.post(&path, json!({})).await.expect(200);
    let fresh = async |service: &Service| {
        eventually("the verified backup", async || {
            let age = observed(service, NAME).await;
            (age["status"] == "pass").then_some(age)
        })
        .await
    };
    let age = fresh(&service).await;
    assert!(age["observed_value"].as_u64().unwrap() < 3_600, "{age}");
    assert!(text(&age["output"]).contains(&backup), "{age}");
    let known = service.app().last_verified_backup().unwrap();
    assert_eq!(known.id, backup);
    assert!(known.created_at <= known.verified_at);
    report(service.get("/health").await, 200, "pass");

    // Known again after a restart, and too old for a stricter objective.
    service.restart().await;
    fresh(&service).await;
    service.config.health.backup_objective_ms = 1;
    service.restart().await;
    let age = eventually("too old", async || {
        let age = observed(&service, NAME).await;
        text(&age["output"]).contains(&backup).then_some(age)
    })
    .await;
    assert_eq!(age["status"], "warn", "{age}");

    // Deleted, it counts no more.
    let path = format!("/backups/{backup}");
    service.send("DELETE", &path, None).await.expect(200);
    eventually("no verified backup", async || {
        let age = observed(&service, NAME).await;
        age["observed_value"].is_null().then_some(())
    })
    .await;
    assert_eq!(service.app().last_verified_backup(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_checked_from_time_to_time_and_the_overview_shows_it() {
    let mut service = Service::with(|config| config.health.scrub_interval_ms = 20).await;
    service.create("words").await.add(&wordnet_50()).await;
    let first = eventually("a scrub", async || {
        let found = observed(&service, "collections:integrity").await;
        (!found.is_null()).then_some(found)
    })
    .await;
    assert_eq!(first["status"], "pass", "{first}");
    assert_eq!(first["observed_value"]["check"], "collections");
    assert!(first["observed_value"]["age_ms"].is_u64());
    let time =
        |found: &Value| -> chrono::DateTime<chrono::Utc> { text(&found["time"]).parse().unwrap() };
    eventually("the next scrub", async || {
        let found = observed(&service, "collections:integrity").await;
        (time(&found) > time(&first)).then_some(())
    })
    .await;
    // None where it is switched off.
    service.config.health.scrub_interval_ms = 0;
    service.restart().await;
    report(service.get("/health/storage").await, 200, "pass");
    let overview = report(service.get("/health").await, 200, "pass");
    let checks = overview["checks"].as_object().unwrap();
    assert!(!checks.contains_key("collections:integrity"));
    assert!(checks.contains_key("storage:last_check"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_looked_at_in_the_background() {
    let service = Service::with(|config| config.health.monitor_interval_ms = 20).await;
    let overview = report(service.get("/health").await, 200, "pass");
    let first = overview["checks"]["storage:disk_free"][0].clone();
    let total = &overview["checks"]["storage:disk_total"][0]["observed_value"];
    let used = &overview["checks"]["storage:disk_used"][0]["observed_value"];
    assert!(used.as_u64().unwrap() <= total.as_u64().unwrap());
    eventually("another look", async || {
        let again = observed(&service, "storage:disk_free").await;
        (again["time"] != first["time"]).then_some(())
    })
    .await;
    // A failed check of the storage is made again by itself.
    let (repository, away) = (service.repository_dir(), service.scratch("away"));
    std::fs::rename(&repository, &away).unwrap();
    report(service.get("/health/storage").await, 503, "fail");
    report(service.get("/health").await, 200, "fail");
    std::fs::rename(&away, &repository).unwrap();
    eventually("the recovery", async || {
        let health = service.get("/health").await.ok(200);
        (health["status"] == "pass").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_answered_again_for_as_long_as_it_is_fresh_and_never_for_another_question() {
    let mut service = Service::with(|config| config.health.deep_max_age_ms = 3_600_000).await;
    let words = service.create("words").await;
    words.add(&numbered("r", 40)).await;
    let asked = [
        "/health/storage",
        "/health/collections",
        "/health/collections/words",
        "/health/embeddings",
        "/health/embeddings?sample=7",
        "/health/embeddings?sample=all",
        "/health/embeddings?sample=7&collection=words",
    ];
    let mut answers = Vec::new();
    for path in asked {
        let first = report(service.get(path).await, 200, "pass");
        let second = report(service.get(path).await, 200, "pass");
        assert_eq!(first["checks"], second["checks"], "{path}: with its times");
        answers.push(first["checks"].clone());
    }
    for (at, answer) in answers.iter().enumerate() {
        assert!(
            !answers[..at].contains(answer),
            "{} shares a result",
            asked[at]
        );
    }
    // What was written since is looked at, however fresh the result.
    words.add(&numbered("new", 2)).await;
    for (check, path) in [
        ("collections:integrity", "/health/collections"),
        ("collections:integrity", "/health/collections/words"),
        ("embeddings:sample", "/health/embeddings?sample=all"),
    ] {
        let found = report(service.get(path).await, 200, "pass");
        let checked = &found["checks"][check][0]["observed_value"]["checked_records"];
        assert_eq!(checked, 42, "{path}");
    }
    service.config.health.deep_max_age_ms = 0;
    service.restart().await;
    for path in asked {
        let first = report(service.get(path).await, 200, "pass");
        let second = report(service.get(path).await, 200, "pass");
        assert_ne!(first["checks"], second["checks"], "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_embedding_is_looked_at_where_that_is_asked_for() {
    let mut service = Service::start().await;
    let words = service.create("words").await;
    let mut records = numbered("r", 1_500);
    for (number, record) in records.iter_mut().enumerate() {
        record.embedding[0] = number as f32;
    }
    words.add(&records).await;
    let check = async |service: &Service, query: &str| -> Value {
        let path = format!("/health/embeddings?collection=words&{query}");
        let found = report(service.get(&path).await, 200, "pass");
        by_collection(&found, "embeddings:sample")["default_tenant/default_database/words"].clone()
    };
    let norms = records.iter().map(|record| {
        let squares = record.embedding.iter().map(|x| f64::from(*x).powi(2));
        squares.sum::<f64>().sqrt()
    });
    let mean = norms.sum::<f64>() / 1_500.0;
    let all = check(&service, "sample=all").await;
    for member in ["checked_records", "records", "compared_for_duplicates"] {
        assert_eq!(all[member], 1_500, "{member}");
    }
    assert_eq!(all["duplicates"], 0);
    assert!((all["mean_norm"].as_f64().unwrap() - mean).abs() < 1e-6 * mean);
    assert!(all["self_queries"].as_u64().unwrap() >= 20);
    for sample in [1, 9, 10, 11, 255, 1_000, 1_499] {
        let some = check(&service, &format!("sample={sample}")).await;
        assert_eq!(some["checked_records"], sample);
        assert_eq!(
            some["duplicates"], 0,
            "no record is looked at twice: {sample}"
        );
    }
    for bad in ["everything", "0", "-1", "1.5", ""] {
        let path = format!("/health/embeddings?sample={bad}");
        service.get(&path).await.problem(422);
    }
    words
        .post(
            "add",
            json!({"ids": ["twin"], "embeddings": [records[3].embedding]}),
        )
        .await
        .expect(201);
    assert_eq!(check(&service, "sample=all").await["duplicates"], 1);
    service.config.health.max_duplicate_entries = 100;
    service.restart().await;
    let bounded = check(&service, "sample=all").await;
    assert_eq!(
        (
            &bounded["checked_records"],
            &bounded["compared_for_duplicates"]
        ),
        (&json!(1_501), &json!(100))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_the_disk_at_the_same_time_do_not_meet_and_leave_nothing() {
    let service = Service::start().await;
    std::fs::write(
        service.data_dir().join("health-probe-left.tmp"),
        b"of a crash",
    )
    .unwrap();
    let probes: Vec<_> = (0..8)
        .map(|_| {
            let app = service.app().clone();
            tokio::task::spawn_blocking(move || {
                check_storage(app.engine(), app.repository(), &app.config().health)
            })
        })
        .collect();
    for probe in probes {
        let found = probe.await.unwrap();
        assert_eq!(
            found.status(),
            vectorkeep::health::Status::Pass,
            "{found:?}"
        );
        for name in [
            "storage:permissions",
            "storage:write_latency",
            "repository:disk_free",
        ] {
            assert!(found.checks.contains_key(name), "{name}");
        }
    }
    let left = |service: &Service| {
        let files = files_below(service.data_dir());
        let probes = files
            .iter()
            .filter(|file| file.to_string_lossy().contains("health-probe"));
        probes.count()
    };
    assert_eq!(left(&service), 1);
    let mut service = service;
    service.restart().await;
    assert_eq!(left(&service), 0);
}
