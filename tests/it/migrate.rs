//! Migrating from one name to another: every policy, honest numbers, writes going on meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use vectorkeep::model::record::Record;

use crate::harness::{
    Collection, DEFAULT_NAMESPACE, Http, Service, assert_members, digest, numbered, text,
    wordnet_50,
};

const RESULT: [&str; 16] = [
    "source",
    "target",
    "action",
    "read",
    "inserted",
    "updated",
    "unchanged",
    "skipped",
    "failed",
    "bytes",
    "duration_ms",
    "records_per_second",
    "source_digest",
    "target_digest",
    "verified",
    "differences",
];

/// The result of a migration that succeeds, its members checked.
async fn migrated(http: &Http, body: Value) -> Value {
    let answer = http.post("/migrate?wait=true", body).await.expect(200);
    let mut job = answer.json();
    assert_eq!(
        (&job["kind"], &job["state"], &job["problem"]),
        (&json!("migration"), &json!("succeeded"), &Value::Null)
    );
    assert_eq!(
        answer.header("location").unwrap(),
        format!("/jobs/{}", text(&job["id"]))
    );
    let result = job["result"].take();
    assert_members(&result, &RESULT);
    assert_eq!(result["verified"], true);
    assert_eq!(result["source_digest"], result["target_digest"]);
    assert_eq!(result["differences"], json!([]));
    assert_eq!(
        (&result["failed"], &result["skipped"]),
        (&json!(0), &json!(0))
    );
    result
}

fn from_to(source: &str, target: &str, policy: &str) -> Value {
    json!({"source": {"collection": source}, "target": {"collection": target}, "on_conflict": policy})
}

/// A source with deletions, late insertions and every kind of definition.
async fn with_source() -> (Service, Collection, Vec<Record>) {
    let service = Service::start().await;
    let body = json!({"name": "source", "metadata": {"a": 1, "b": "x"},
        "configuration": {"hnsw": {"space": "ip", "ef_search": 55}, "embedding_function": {"type": "known", "name": "n", "config": {"k": [1]}}}});
    let source = service.create_in(DEFAULT_NAMESPACE, body).await;
    source.add(&wordnet_50()).await;
    source.delete(json!({"where": {"pos": "adverb"}})).await;
    source.upsert(&wordnet_50()).await;
    let records = source.records().await;
    assert_eq!(records.len(), 50);
    (service, source, records)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_copies_everything_and_counts_it() {
    let (mut service, source, records) = with_source().await;
    let before = (source.dump().await, source.definition().await);
    let result = migrated(
        &service,
        json!({"source": {"collection": "source"}, "target": {"collection": "target"}}),
    )
    .await;
    let end = |name: &str| json!({"environment": "local", "tenant": "default_tenant", "database": "default_database", "collection": name});
    assert_eq!(
        (&result["source"], &result["target"], &result["action"]),
        (&end("source"), &end("target"), &json!("created"))
    );
    assert_eq!(
        (
            &result["read"],
            &result["inserted"],
            &result["updated"],
            &result["unchanged"]
        ),
        (&json!(50), &json!(50), &json!(0), &json!(0))
    );
    assert_eq!(result["target_digest"], digest(&records));
    let canonical: usize = records.iter().map(|record| record.canonical().len()).sum();
    assert_eq!(result["bytes"], canonical);
    assert!(result["duration_ms"].is_u64() && result["records_per_second"].is_number());

    for _ in 0..2 {
        let target = service.open("target").await;
        let mut definition = target.definition().await;
        definition["name"] = json!("source");
        assert_eq!(
            (target.dump().await, definition),
            before,
            "ids, order, values and definition"
        );
        assert_ne!(target.id, source.id);
        let source = source.at(&service);
        assert_eq!(
            (source.dump().await, source.definition().await),
            before,
            "the source is as it was"
        );
        assert_eq!(service.open("source").await.id, source.id);
        service.restart().await;
    }
    // Both go on for themselves.
    service
        .open("target")
        .await
        .delete(json!({"where": {"pos": "noun"}}))
        .await;
    assert_eq!(source.at(&service).records().await, records);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_target_is_refused_avoided_or_replaced() {
    let (mut service, source, records) = with_source().await;
    let target = service.create("target").await;
    target.add(&numbered("t", 7)).await;
    let untouched = target.dump().await;

    for body in [
        from_to("source", "target", "fail"),
        json!({"source": {"collection": "source"}, "target": {"collection": "target"}}),
    ] {
        let problem = service.post("/migrate?wait=true", body).await.problem(409);
        assert!(text(&problem["type"]).ends_with("/name-conflict"));
        assert!(text(&problem["detail"]).contains("target"));
    }
    assert_eq!(
        service.names().await,
        ["source", "target"].map(str::to_owned).into()
    );

    let result = migrated(&service, from_to("source", "target", "rename")).await;
    let other = text(&result["target"]["collection"]);
    assert_eq!(result["action"], "renamed");
    assert!(
        other.starts_with("target-") && other.ends_with("-1"),
        "{other}"
    );
    assert_eq!(service.open(&other).await.records().await, records);
    assert_eq!(target.dump().await, untouched);

    let result = migrated(&service, from_to("source", "target", "replace")).await;
    assert_eq!(
        (&result["action"], &result["target"]["collection"]),
        (&json!("replaced"), &json!("target"))
    );
    let new = service.open("target").await;
    assert_ne!(new.id, target.id);
    target.post("get", json!({})).await.expect(404);
    assert_eq!(new.records().await, records);
    assert_eq!(source.records().await, records);
    let live = [source.id.clone(), new.id, service.open(&other).await.id].into();
    service.holds_only(&live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_databases_and_empty_collections_migrate_as_well() {
    let (service, _, records) = with_source().await;
    let body = json!({"source": {"environment": "local", "tenant": "default_tenant", "database": "default_database", "collection": "source"},
        "target": {"tenant": "elsewhere", "database": "its-database", "collection": "source"}});
    migrated(&service, body).await;
    let namespace = "/api/v2/tenants/elsewhere/databases/its-database";
    assert_eq!(
        service.open_in(namespace, "source").await.records().await,
        records
    );
    service.create("empty").await;
    let result = migrated(&service, from_to("empty", "empty-copy", "fail")).await;
    assert_eq!(
        (&result["read"], &result["target_digest"]),
        (&json!(0), &json!("00".repeat(32)))
    );
    assert_eq!(service.open("empty-copy").await.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_migrations_are_refused_and_change_nothing() {
    let (service, source, records) = with_source().await;
    let before = service.names().await;
    let ok = json!({"source": {"collection": "source"}, "target": {"collection": "target"}});
    let with = |path: &str, value: Value| {
        let mut body = ok.clone();
        *body.pointer_mut(path).unwrap() = value;
        body
    };
    let plus = |name: &str, value: Value| {
        let mut body = ok.clone();
        body[name] = value;
        body
    };
    for (body, status, named) in [
        (
            with(
                "/source",
                json!({"environment": "production", "collection": "source"}),
            ),
            404,
            "production",
        ),
        (
            with(
                "/target",
                json!({"environment": "production", "collection": "target"}),
            ),
            404,
            "production",
        ),
        (
            with("/source", json!({"collection": "nobody"})),
            404,
            "nobody",
        ),
        (
            with(
                "/source",
                json!({"database": "nowhere", "collection": "source"}),
            ),
            404,
            "source",
        ),
        (
            with("/target", json!({"collection": "source"})),
            422,
            "same",
        ),
        (with("/target", json!({"collection": "a b"})), 422, "a b"),
        (with("/target", json!({"colection": "x"})), 422, "colection"),
        (
            with(
                "/target",
                json!({"url": "http://example.com", "collection": "x"}),
            ),
            422,
            "url",
        ),
        (with("/source", json!({})), 422, "collection"),
        (plus("on_conflit", json!("replace")), 422, "on_conflit"),
        (plus("on_conflict", json!("overwrite")), 422, "overwrite"),
        (plus("merge_winner", json!("source")), 422, "merge_winner"),
        (plus("merge_winner", json!("backup")), 422, "merge_winner"),
        (plus("batch_size", json!(0)), 422, "batch_size"),
        (plus("batch_size", json!(1_000_000)), 422, "batch_size"),
        (plus("verify", json!("no")), 422, "verify"),
        (plus("dry_run", json!(1)), 422, "dry_run"),
        (json!({"source": {"collection": "source"}}), 422, "target"),
    ] {
        let shown = body.to_string();
        let problem = service
            .post("/migrate?wait=true", body)
            .await
            .problem(status);
        let detail = text(&problem["detail"]);
        assert!(detail.contains(named), "{shown}: {detail}");
    }
    assert_eq!(service.names().await, before);
    assert_eq!(source.records().await, records);
    let jobs = service.get("/jobs").await.ok(200);
    assert_eq!(jobs["jobs"], json!([]), "what is refused at once is no job");
}

/// Writers change, delete and insert again while the source is copied, several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_meanwhile_are_in_or_not_and_the_digest_says_which() {
    let service = Service::with(|config| {
        config.storage.max_tombstones = 1;
        config.repository.max_last_round = 2;
        config.repository.max_rounds = 30;
    })
    .await;
    let source = service.create("source").await;
    for batch in numbered("r", 6_000).chunks(1_500) {
        source.add(batch).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2_usize)
        .map(|writer| {
            let (source, stop) = (source.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mine: Vec<_> = numbered("r", 6_000)
                    .into_iter()
                    .skip(writer)
                    .step_by(2)
                    .collect();
                let mut writes = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut record = mine[writes * 7 % mine.len()].clone();
                    record.document = Some(format!("version {writes} of {writer}"));
                    if writes % 2 == 0 {
                        source.delete(json!({"ids": [record.id]})).await;
                        source.add(std::slice::from_ref(&record)).await;
                    } else {
                        source.upsert(std::slice::from_ref(&record)).await;
                    }
                    writes += 1;
                }
                writes
            })
        })
        .collect();
    let mut targets = Vec::new();
    for round in 0..5 {
        let name = format!("target-{round}");
        targets.push((
            name.clone(),
            migrated(&service, from_to("source", &name, "fail")).await,
        ));
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        assert!(
            writer.await.unwrap() > 5,
            "too few writes went on meanwhile"
        );
    }
    // All that ever stood under an id: the original and the versions of its writer.
    let originals: BTreeMap<_, _> = numbered("r", 6_000)
        .into_iter()
        .map(|record| (record.id.clone(), record))
        .collect();
    let mut caught_up = 0;
    for (name, result) in &targets {
        let found = service.open(name).await.records().await;
        assert_eq!(result["target_digest"], digest(&found), "{name}");
        assert_eq!(result["inserted"], found.len());
        assert!(result["read"].as_u64().unwrap() >= found.len() as u64);
        let ids: BTreeMap<_, _> = found.iter().map(|record| (&record.id, record)).collect();
        assert_eq!(ids.len(), found.len(), "{name} holds an id twice");
        // Two writers have at most one record each on the way between its deletion and its return.
        assert!(
            (5_998..=6_000).contains(&found.len()),
            "{name}: {}",
            found.len()
        );
        for record in &found {
            let original = &originals[&record.id];
            assert_eq!(
                (&record.embedding, &record.metadata),
                (&original.embedding, &original.metadata)
            );
            let document = record.document.as_ref().unwrap();
            assert!(
                document.starts_with("version ") || record.document == original.document,
                "{document}"
            );
        }
        caught_up += found
            .iter()
            .filter(|record| record.document.as_ref().unwrap().starts_with("version "))
            .count();
    }
    assert!(caught_up > 0, "no write was ever in a target");
    // At rest the last copy is the source.
    let result = migrated(&service, from_to("source", "target-0", "replace")).await;
    let records = source.records().await;
    assert_eq!(result["source_digest"], digest(&records));
    assert_eq!(service.open("target-0").await.records().await, records);
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_are_listed_without_secrets() {
    let service = Service::start().await;
    let environments = service.get("/environments").await.ok(200);
    let environments = environments.as_array().unwrap();
    for environment in environments {
        assert_members(
            environment,
            &["name", "kind", "url", "reachable", "version"],
        );
    }
    let local = environments
        .iter()
        .find(|environment| environment["name"] == "local")
        .unwrap();
    assert_eq!(
        (&local["kind"], &local["reachable"]),
        (&json!("local"), &json!(true))
    );
}
